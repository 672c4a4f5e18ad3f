//! A cluster in the background: the same command as in the foreground, in a session of its own.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::mysql_command;
use super::state::{running, wait_until_gone};
use crate::error::CliError;
use crate::local_cluster::tail;

/// Every node has a minute of its own to be ready, and coordinators may come one after another.
const UP_PATIENCE: Duration = Duration::from_secs(600);
/// Nodes are killed after ten seconds.
const DOWN_PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// Starts this very command again without `--detach`, and waits until its cluster is up.
pub fn up(dir: &Path) -> Result<(), CliError> {
    if let Ok(cluster) = running(dir) {
        println!(
            "the cluster of process {} runs already; connect with: {}",
            cluster.pid,
            mysql_command(&cluster.mysql_ports)
        );
        return Err(CliError::ClusterRuns { dir: dir.to_owned() });
    }
    let log = dir.join("cluster.log");
    let refused = |source: io::Error| CliError::Folder { path: log.clone(), source };
    std::fs::create_dir_all(dir).map_err(refused)?;
    let out = File::create(&log).map_err(refused)?;
    let mut command = Command::new(std::env::current_exe().map_err(refused)?);
    let is_detach = |it: &std::ffi::OsString| it == "--detach" || it == "-d";
    command.args(std::env::args_os().skip(1).filter(|it| !is_detach(it)));
    command.stdin(Stdio::null()).stdout(out.try_clone().map_err(refused)?).stderr(out);
    // SAFETY: setsid takes no pointers and is safe between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::setsid() {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let mut child = command.spawn().map_err(refused)?;
    let deadline = Instant::now() + UP_PATIENCE;
    loop {
        if let Ok(cluster) = running(dir)
            && cluster.pid == child.id()
        {
            println!("the cluster is up: {}; data and logs in {}", cluster.nodes.join(", "), dir.display());
            println!("connect with: {}", mysql_command(&cluster.mysql_ports));
            println!("stop it with: sheaf cluster down --data-dir {}", dir.display());
            return Ok(());
        }
        let ended = matches!(child.try_wait(), Ok(Some(_)) | Err(_));
        if ended || Instant::now() >= deadline {
            // Its nodes end with it.
            let _ = child.kill();
            let _ = child.wait();
            return Err(CliError::NotUp { tail: tail(&log), log });
        }
        std::thread::sleep(POLL);
    }
}

/// Stops a cluster and waits for its end.
pub fn down(dir: &Path) -> Result<(), CliError> {
    let pid = running(dir)?.pid;
    let id = libc::pid_t::try_from(pid).map_err(|_| CliError::NoCluster { dir: dir.to_owned() })?;
    // SAFETY: kill takes no pointers. The process holds the folder's lock, so the id is still its own.
    unsafe { libc::kill(id, libc::SIGTERM) };
    if !wait_until_gone(dir, DOWN_PATIENCE) {
        return Err(CliError::NotDown { pid, patience_s: DOWN_PATIENCE.as_secs() });
    }
    println!("stopped, nothing is left running");
    Ok(())
}
