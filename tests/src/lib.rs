//! The harness of everything that needs a running server: real `sheaf` processes on free ports, stock MySQL clients
//! against them, input files, and the sqllogictest driver.
//!
//! Knows nothing of how a query runs: it sees what a user sees, the command line, the ports and the files. Start at
//! [`Cluster::start`]; a test body runs inside [`alone`], which gives it the machine and a deadline.

pub mod binary;
pub mod client;
pub mod cluster;
pub mod coordinators;
pub mod fixtures;
pub mod network;
pub mod suite;
pub mod terminal;
#[cfg(target_os = "linux")]
pub mod wires;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use client::{Client, Failure, Table};
pub use cluster::{Cluster, ClusterSpec, Node};
pub use coordinators::Coordinators;
pub use network::Network;

/// One cluster at a time: tests that measure time or memory must not share the cores with another's processes.
static MACHINE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

/// Runs one test's body on a runtime of its own, with the machine to itself.
///
/// Panics when the body takes longer than `deadline`, the wait for the machine and for an up-to-date server not counted:
/// no test hangs.
pub fn alone<F: Future>(deadline: Duration, body: F) -> F::Output {
    let _machine = MACHINE.lock();
    // Whoever comes first waits for the compiler here, which takes minutes where the target folder is cold.
    binary::sheaf();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs only threads");
    runtime.block_on(async {
        match tokio::time::timeout(patience(deadline), body).await {
            Ok(output) => output,
            Err(_) => panic!("the test did not end within {:?}", patience(deadline)),
        }
    })
}

/// Whether everything is asked for, on a machine of its own, instead of CI's short form.
pub fn is_full() -> bool {
    std::env::var_os("SHEAF_FULL").is_some()
}

/// How long a test waits for what is promised within `promised`: no longer in the full form, five times as long
/// elsewhere, since the load of others can hold up anything there for seconds.
pub fn patience(promised: Duration) -> Duration {
    if is_full() { promised } else { 5 * promised }
}

/// The workspace's root folder.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the package stands in a folder of the workspace").to_owned()
}

/// A number from the environment, or `default` where it is not set.
///
/// Panics on a text that is no number: a mistyped seed must not look like a passed test.
pub fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, it is {text:?}")),
        Err(_) => default,
    }
}

/// A line nobody overlooks, for what could not be tested on this machine.
pub fn skip(what: &str, why: &str) {
    eprintln!("\n******** SKIPPED: {what}: {why} ********\n");
}
