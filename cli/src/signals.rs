//! Commands that start processes: run on the main thread, stopped by Ctrl-C or SIGTERM.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::CliError;

/// Runs a command until it ends. The first SIGINT or SIGTERM cancels the token that the command got, and the command is
/// expected to end by itself then; the second ends this process at once, and with it every node that it started.
///
/// Everything runs on this thread: the kernel ties the life of started nodes to the thread that started them.
pub fn block_on(command: impl AsyncFnOnce(CancellationToken) -> Result<(), CliError>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Threads)?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let watch = watch(stop.clone())?;
        tokio::select! {
            result = command(stop) => result,
            () = watch => Err(CliError::Interrupted),
        }
    })
}

fn watch(stop: CancellationToken) -> Result<impl Future<Output = ()>, CliError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::Signals)?;
    Ok(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            stop.cancel();
        }
    })
}
