//! What the statements of this process count as they run, for `/metrics`.

use std::time::Duration;

use metrics::{counter, describe_counter};

use crate::coordinator::Counts;
use crate::tables::data_cache;

const STARTED: &str = "sheaf_query_started_total";
const FINISHED: &str = "sheaf_query_finished_total";
const FAILED: &str = "sheaf_query_failed_total";
const ROWS: &str = "sheaf_query_rows_total";
const TASKS: &str = "sheaf_query_tasks_total";
const QUEUED: &str = "sheaf_query_queued_total";
const QUEUED_TIME: &str = "sheaf_query_queued_milliseconds_total";
const RUN_AGAIN: &str = "sheaf_query_run_again_total";
const EXCHANGE: &str = "sheaf_exchange_read_bytes_total";
const RESTARTS: &str = "sheaf_query_restarts_total";
const SPECULATED: &str = "sheaf_query_speculative_attempts_total";
const OVERTAKEN: &str = "sheaf_query_overtaken_tasks_total";

/// Gives every counter its words, and a zero to begin with.
pub fn describe() {
    describe_counter!(STARTED, "statements that began to run");
    describe_counter!(FINISHED, "statements that came to their end");
    describe_counter!(FAILED, "statements that ended with an error, unreadable ones included");
    describe_counter!(ROWS, "rows that clients read");
    describe_counter!(TASKS, "tasks of distributed queries that came to their end");
    describe_counter!(EXCHANGE, "bytes that tasks of such queries read from other tasks");
    describe_counter!(QUEUED, "queries that had to wait for room on the workers");
    describe_counter!(QUEUED_TIME, "how long they waited, together");
    describe_counter!(RUN_AGAIN, "queries that were refused memory and run again to need less");
    describe_counter!(
        RESTARTS,
        "times that queries ran something again after a failure or a loss, and came to their end"
    );
    describe_counter!(
        SPECULATED,
        "second attempts at tasks that ran far beyond their siblings, of queries that came to their end"
    );
    describe_counter!(OVERTAKEN, "tasks of such queries of which the second attempt was complete first");
    for name in [STARTED, FINISHED, FAILED, ROWS, TASKS, EXCHANGE, QUEUED, QUEUED_TIME, RUN_AGAIN, RESTARTS] {
        counter!(name).absolute(0);
    }
    for name in [SPECULATED, OVERTAKEN] {
        counter!(name).absolute(0);
    }
    data_cache::describe();
}

pub(crate) fn started() {
    counter!(STARTED).increment(1);
}

pub(crate) fn finished() {
    counter!(FINISHED).increment(1);
}

pub(crate) fn failed() {
    counter!(FAILED).increment(1);
}

/// A query waited to be let in.
pub(crate) fn queued(waited: Duration) {
    counter!(QUEUED).increment(1);
    counter!(QUEUED_TIME).increment(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
}

/// A query was refused memory and is run again.
pub(crate) fn run_again() {
    counter!(RUN_AGAIN).increment(1);
}

/// The last row of a query was read.
pub(crate) fn read(n_rows: u64, counts: Option<Counts>) {
    finished();
    counter!(ROWS).increment(n_rows);
    if let Some(counts) = counts {
        counter!(TASKS).increment(counts.tasks);
        counter!(EXCHANGE).increment(counts.exchange_bytes);
        counter!(RESTARTS).increment(counts.restarts);
        counter!(SPECULATED).increment(counts.speculated);
        counter!(OVERTAKEN).increment(counts.overtaken);
    }
}
