//! Planning apart from everything else: on a thread of its own, with a stack for the deepest statement.
//!
//! Planning is computation without a pause, seconds of it for a statement of thousands of terms. On the threads that
//! carry rows it would hold up other sessions; here it does not even hold up the `KILL` of its own. Threads that planned
//! short statements wait a while for the next one.

use std::any::Any;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, Sender, channel};
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use sheaf_common::{ErrorCode, WireError};
use sheaf_flight::error::from_panic;
use sheaf_planners::parser::BIG_STACK_BYTES;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::error::QueryError;

/// A longer statement gets a thread that ends with it: what it took of its stack is given back.
const SHORT_BYTES: usize = 1024;
const IDLE_THREADS_MAX: usize = 16;
const IDLE_TIME: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// The threads that wait. Invariant: each is here once, under a number of its own.
static IDLE: Mutex<Vec<(u64, Sender<Job>)>> = Mutex::new(vec![]);

/// Runs a job on a thread that waits, or else on a new one.
fn on_a_thread(mut job: Job, is_short: bool) -> io::Result<()> {
    while let Some((_, thread)) = is_short.then(|| IDLE.lock().pop()).flatten() {
        match thread.send(job) {
            Ok(()) => return Ok(()),
            // It waited long enough just now.
            Err(SendError(refused)) => job = refused,
        }
    }
    let thread = std::thread::Builder::new().name("sheaf-plan".to_owned()).stack_size(BIG_STACK_BYTES);
    thread.spawn(move || {
        job();
        while is_short && let Some(next) = next_job() {
            next();
        }
    })?;
    Ok(())
}

/// Waits for another job; none came, or enough others wait.
fn next_job() -> Option<Job> {
    let (sender, receiver): (_, Receiver<Job>) = channel();
    let number = {
        let mut idle = IDLE.lock();
        if idle.len() >= IDLE_THREADS_MAX {
            return None;
        }
        let number = idle.iter().map(|(number, _)| number + 1).max().unwrap_or_default();
        idle.push((number, sender));
        number
    };
    match receiver.recv_timeout(IDLE_TIME) {
        Ok(job) => Some(job),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => {
            let place = {
                let mut idle = IDLE.lock();
                let place = idle.iter().position(|(it, _)| *it == number);
                place.map(|place| idle.remove(place))
            };
            // Whoever took it off the list has a job for it.
            if place.is_some() { None } else { receiver.recv().ok() }
        }
    }
}

/// Runs `work`, about a statement of `n_bytes`, on a thread of its own; what it spawns runs on the caller's runtime.
///
/// Dropping this future does not end the thread: cancel the token, and it ends where it next waits. A panic of `work`
/// is an error.
pub(crate) async fn apart<T: Send + 'static>(
    cancel: CancellationToken,
    n_bytes: usize,
    work: impl Future<Output = Result<T, QueryError>> + Send + 'static,
) -> Result<T, QueryError> {
    let runtime = Handle::current();
    let (sender, receiver) = oneshot::channel();
    // A panic ends the statement, not the session: its state is behind locks that do not poison.
    let work = AssertUnwindSafe(work).catch_unwind();
    let panicked = |panic: Box<dyn Any + Send>| Err(QueryError::Wire(from_panic(panic.as_ref())));
    let plan = async move {
        tokio::select! {
            biased;
            () = cancel.cancelled_owned() => Err(QueryError::Interrupted),
            outcome = work => outcome.unwrap_or_else(panicked),
        }
    };
    // The work is made and dropped there as well: its trees are as deep as they are.
    let job = move || {
        // Nobody may listen any more; then the outcome is dropped, which ends what it began.
        let _ = sender.send(runtime.block_on(plan));
    };
    let started = on_a_thread(Box::new(job), n_bytes <= SHORT_BYTES);
    if let Err(error) = started {
        let text = format!("no thread for another statement: {error}");
        return Err(WireError::new(ErrorCode::Busy, text).retryable().into());
    }
    receiver.await.unwrap_or(Err(QueryError::Interrupted))
}
