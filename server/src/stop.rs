//! When a node stops: on a signal, when its standard input ends if asked to, and by force if that takes too long.

use std::io::Read;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::ServerError;

/// What a shell shows for a process that ended by SIGINT.
const INTERRUPTED: i32 = 130;
/// The end by force comes so much later than the deadline of everything that ends in order.
const GRACE: Duration = Duration::from_secs(3);

/// Listens for SIGTERM and SIGINT. The first SIGTERM cancels `drain`, SIGINT cancels `stop`, and a second signal stops
/// what drains and ends what stops at once.
///
/// Needs a Tokio runtime around it, whose threads must not be those that queries keep busy.
pub fn watch_signals(stop: CancellationToken, drain: CancellationToken) -> Result<(), ServerError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServerError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServerError::Signals)?;
    async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    }
    tokio::spawn(async move {
        let signal = next(&mut terminate, &mut interrupt).await;
        if signal == "SIGTERM" && !drain.is_cancelled() {
            info!(signal, "draining");
            drain.cancel();
            // Who stops by itself meanwhile goes by the second signal as if there had been no first.
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                signal = next(&mut terminate, &mut interrupt) => info!(signal, "stopping"),
            }
        } else {
            info!(signal, "stopping");
        }
        stop.cancel();
        let signal = next(&mut terminate, &mut interrupt).await;
        warn!(signal, "stopping at once");
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

/// Cancels `stop` when standard input ends: whoever holds its other end is gone.
pub fn watch_stdin(stop: CancellationToken) {
    // A thread of its own, which nobody waits for: a read of standard input cannot be cancelled.
    let watch = move || {
        let mut buffer = [0; 64];
        let mut stdin = std::io::stdin().lock();
        while stdin.read(&mut buffer).is_ok_and(|n_bytes| n_bytes > 0) {}
        info!("standard input ended, stopping");
        stop.cancel();
    };
    if let Err(error) = std::thread::Builder::new().name("sheaf-stdin".to_owned()).spawn(watch) {
        warn!(%error, "standard input is not watched");
    }
}

/// Ends the process if it is still there when all deadlines of an orderly stop have passed.
pub fn force_after(timeout: Duration) {
    let force = move || {
        std::thread::sleep(timeout + GRACE);
        tracing::error!("still running after the deadline to stop, ending by force");
        std::process::exit(1);
    };
    if let Err(error) = std::thread::Builder::new().name("sheaf-force-stop".to_owned()).spawn(force) {
        warn!(%error, "nothing ends this process if it cannot stop");
    }
}
