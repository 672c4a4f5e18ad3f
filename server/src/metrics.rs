//! The figures of a node that are read when somebody asks for them, gauges at `/metrics`, and what it counts of its
//! metadata as it happens.
//!
//! What queries count stands in the crates where it happens.

use metrics::{counter, describe_counter, describe_gauge, gauge};

const WORKERS_LIVE: &str = "sheaf_cluster_workers_live";
const UPTIME: &str = "sheaf_node_uptime_seconds";
const CONNECTIONS: &str = "sheaf_mysql_connections";
const QUERIES_RUNNING: &str = "sheaf_query_running";
const QUERIES_QUEUED: &str = "sheaf_query_queued";
const QUERIES_WAITING: &str = "sheaf_worker_queries_waiting";
const SLOTS: &str = "sheaf_worker_slots_taken";
const MEMORY_PROMISED: &str = "sheaf_worker_memory_promised_bytes";
const TASKS: &str = "sheaf_worker_tasks";
const LEASES: &str = "sheaf_worker_queries";
const EXCHANGE: &str = "sheaf_exchange_buffered_bytes";
const MEMORY_RESERVED: &str = "sheaf_memory_reserved_bytes";
const MEMORY_LIMIT: &str = "sheaf_memory_limit_bytes";
const SPILL: &str = "sheaf_spill_used_bytes";
const METADATA_COMMANDS: &str = "sheaf_metadata_commands_total";
const METADATA_FLUSHES: &str = "sheaf_metadata_flushes_total";
const METADATA_REWRITES: &str = "sheaf_metadata_rewrites_total";

/// Gives every gauge its words.
pub fn describe() {
    sheaf_query::metrics::describe();
    describe_gauge!(WORKERS_LIVE, "workers that tasks are placed on; on a worker 1 while it is joined");
    describe_gauge!(UPTIME, "seconds since the node started");
    describe_gauge!(CONNECTIONS, "sessions of MySQL clients");
    describe_gauge!(QUERIES_RUNNING, "statements that run now");
    describe_gauge!(QUERIES_QUEUED, "queries of this coordinator that wait for room on the workers");
    describe_gauge!(QUERIES_WAITING, "queries of any coordinator that wait for room on this worker");
    describe_gauge!(SLOTS, "task slots that queries hold");
    describe_gauge!(MEMORY_PROMISED, "bytes that queries were let in with");
    describe_gauge!(TASKS, "tasks of which something is left, in whatever state");
    describe_gauge!(LEASES, "queries that have tasks here");
    describe_gauge!(EXCHANGE, "bytes that exchange buffers hold, in memory and on disk");
    describe_gauge!(MEMORY_RESERVED, "bytes that the memory pool has given out");
    describe_gauge!(MEMORY_LIMIT, "bytes that the memory pool has in all");
    describe_gauge!(SPILL, "bytes of spill files");
    describe_counter!(METADATA_COMMANDS, "commands of the metadata log that this coordinator applied");
    describe_counter!(METADATA_FLUSHES, "times that this coordinator waited for its disk to have the log");
    describe_counter!(METADATA_REWRITES, "times that this coordinator's store was rewritten to make it small");
    for name in [METADATA_COMMANDS, METADATA_FLUSHES, METADATA_REWRITES] {
        counter!(name).absolute(0);
    }
}

/// The metadata log was flushed to disk.
pub(crate) fn metadata_flushed() {
    counter!(METADATA_FLUSHES).increment(1);
}

/// The store was rewritten into a new folder.
pub(crate) fn metadata_rewritten() {
    counter!(METADATA_REWRITES).increment(1);
}

/// Commands of the metadata log were applied.
pub(crate) fn metadata_applied(n_commands: u64) {
    counter!(METADATA_COMMANDS).increment(n_commands);
}

/// How a node stands at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    pub workers_live: usize,
    pub uptime_s: u64,
    pub connections: usize,
    pub queries_running: usize,
    pub queries_queued: u64,
    pub queries_waiting: usize,
    pub slots_taken: u64,
    pub memory_promised_bytes: u64,
    pub tasks: u32,
    pub leases: u32,
    pub exchange_bytes: u64,
    pub memory_reserved_bytes: usize,
    pub memory_limit_bytes: usize,
    pub spill_bytes: u64,
}

impl Figures {
    /// Puts the figures where the next rendering finds them.
    pub fn publish(&self) {
        gauge!(WORKERS_LIVE).set(self.workers_live as f64);
        gauge!(UPTIME).set(self.uptime_s as f64);
        gauge!(CONNECTIONS).set(self.connections as f64);
        gauge!(QUERIES_RUNNING).set(self.queries_running as f64);
        gauge!(QUERIES_QUEUED).set(self.queries_queued as f64);
        gauge!(QUERIES_WAITING).set(self.queries_waiting as f64);
        gauge!(SLOTS).set(self.slots_taken as f64);
        gauge!(MEMORY_PROMISED).set(self.memory_promised_bytes as f64);
        gauge!(TASKS).set(self.tasks);
        gauge!(LEASES).set(self.leases);
        gauge!(EXCHANGE).set(self.exchange_bytes as f64);
        gauge!(MEMORY_RESERVED).set(self.memory_reserved_bytes as f64);
        gauge!(MEMORY_LIMIT).set(self.memory_limit_bytes as f64);
        gauge!(SPILL).set(self.spill_bytes as f64);
    }
}
