//! What the statements of this process count as they run, for `/metrics`.

use metrics::{counter, describe_counter};

use crate::coordinator::Counts;

const STARTED: &str = "sheaf_query_started_total";
const FINISHED: &str = "sheaf_query_finished_total";
const FAILED: &str = "sheaf_query_failed_total";
const ROWS: &str = "sheaf_query_rows_total";
const TASKS: &str = "sheaf_query_tasks_total";
const EXCHANGE: &str = "sheaf_exchange_read_bytes_total";

/// Gives every counter its words, and a zero to begin with.
pub fn describe() {
    describe_counter!(STARTED, "statements that began to run");
    describe_counter!(FINISHED, "statements that came to their end");
    describe_counter!(FAILED, "statements that ended with an error, unreadable ones included");
    describe_counter!(ROWS, "rows that clients read");
    describe_counter!(TASKS, "tasks of distributed queries that came to their end");
    describe_counter!(EXCHANGE, "bytes that tasks of such queries read from other tasks");
    for name in [STARTED, FINISHED, FAILED, ROWS, TASKS, EXCHANGE] {
        counter!(name).absolute(0);
    }
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

/// The last row of a query was read.
pub(crate) fn read(n_rows: u64, counts: Option<Counts>) {
    finished();
    counter!(ROWS).increment(n_rows);
    if let Some(counts) = counts {
        counter!(TASKS).increment(counts.tasks);
        counter!(EXCHANGE).increment(counts.exchange_bytes);
    }
}
