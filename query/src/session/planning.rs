//! Planning apart from everything else: on a thread of its own, with a stack for the deepest statement.
//!
//! Planning is computation without a pause, seconds of it for a statement of thousands of terms. On the threads that
//! carry rows it would hold up other sessions; here it does not even hold up the `KILL` of its own.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use sheaf_common::{ErrorCode, WireError};
use sheaf_flight::error::from_panic;
use sheaf_planners::parser::BIG_STACK_BYTES;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::error::QueryError;

/// Runs `work` on a thread of its own; what it spawns runs on the caller's runtime.
///
/// Dropping this future does not end the thread: cancel the token, and it ends where it next waits. A panic of `work`
/// is an error.
pub(super) async fn apart<T: Send + 'static>(
    cancel: CancellationToken,
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
    let thread = std::thread::Builder::new().name("sheaf-plan".to_owned()).stack_size(BIG_STACK_BYTES);
    let started = thread.spawn(move || {
        // Nobody may listen any more; then the outcome is dropped, which ends what it began.
        let _ = sender.send(runtime.block_on(plan));
    });
    if let Err(error) = started {
        let text = format!("no thread for another statement: {error}");
        return Err(WireError::new(ErrorCode::Busy, text).retryable().into());
    }
    receiver.await.unwrap_or(Err(QueryError::Interrupted))
}
