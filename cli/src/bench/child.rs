//! A peer as a child process, asked over its pipes: see `peer.rs` for what is said.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::client::DEADLINE;
use crate::error::CliError;
use crate::local_cluster::{die_with_parent, tail};
use crate::tpch::{Answer, Kind};

/// A peer must be ready after so long: it may start processes of its own.
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// A peer whose input ended is killed after so long.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// One running peer. Dropping it kills the process, [`Peer::stop`] lets it end by itself.
pub struct Peer {
    name: String,
    log: PathBuf,
    child: Child,
    id: u32,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// What it is and how it is set up, in its own words.
    pub ready: String,
}

impl Peer {
    /// Starts a peer and waits until it is ready. What it writes to standard error goes to the file `log`.
    pub async fn start(name: &str, mut command: Command, log: PathBuf) -> Result<Self, CliError> {
        let failed = |source| CliError::PeerStart { peer: name.to_owned(), source };
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).map_err(failed)?)
            .kill_on_drop(true)
            // A Ctrl-C at the terminal is for the one who started it; and what it starts can be ended with it.
            .process_group(0);
        die_with_parent(&mut command);
        let mut child = command.spawn().map_err(failed)?;
        let pipe = || failed(io::Error::other("it has no pipe or has ended already"));
        let input = child.stdin.take().ok_or_else(pipe)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(pipe)?);
        let id = child.id().ok_or_else(pipe)?;
        let mut peer = Self { name: name.to_owned(), log, child, id, input, output, ready: String::new() };
        let line = peer.line(READY_DEADLINE).await?;
        match peer.parsed(&line)?["ready"].as_str() {
            Some(ready) => peer.ready = ready.to_owned(),
            None => return Err(peer.confused("it did not say that it is ready")),
        }
        Ok(peer)
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// Runs a statement and gives its whole answer and how long it took, or why the peer refused it.
    ///
    /// The clock stops when the answer's text is here, before it is read. Errs when the peer is gone, makes no sense or
    /// does not answer.
    pub async fn ask(&mut self, sql: &str) -> Result<Result<(Answer, Duration), String>, CliError> {
        let start = Instant::now();
        let request = format!("{}\n", json!({ "sql": sql }));
        if self.input.write_all(request.as_bytes()).await.is_err() || self.input.flush().await.is_err() {
            return Err(self.ended());
        }
        let reply = self.line(DEADLINE).await?;
        let time = start.elapsed();
        let reply = self.parsed(&reply)?;
        if let Some(error) = reply["error"].as_str() {
            return Ok(Err(error.to_owned()));
        }
        match read_answer(&reply) {
            Some(answer) => Ok(Ok((answer, time))),
            None => Err(self.confused("its answer has no rows and kinds as they should be")),
        }
    }

    async fn line(&mut self, deadline: Duration) -> Result<String, CliError> {
        let mut line = String::new();
        match tokio::time::timeout(deadline, self.output.read_line(&mut line)).await {
            Ok(Ok(1..)) => Ok(line),
            Ok(_) => Err(self.ended()),
            Err(_) => Err(CliError::Deadline { what: self.name.clone(), deadline_s: deadline.as_secs() }),
        }
    }

    fn parsed(&self, line: &str) -> Result<Value, CliError> {
        serde_json::from_str(line).map_err(|_| self.confused(&format!("{:?} is no JSON", line.trim_end())))
    }

    fn confused(&self, what: &str) -> CliError {
        let (peer, log, tail) = (self.name.clone(), self.log.clone(), tail(&self.log));
        CliError::PeerConfused { peer, what: what.to_owned(), log, tail }
    }

    fn ended(&self) -> CliError {
        self.confused("it ended or closed its output")
    }

    /// Ends the input, and with it the peer; one that does not end by itself is killed with all that it started.
    pub async fn stop(self) {
        let Self { mut child, id, input, output, .. } = self;
        drop((input, output));
        if tokio::time::timeout(STOP_DEADLINE, child.wait()).await.is_ok() {
            return;
        }
        if let Ok(group) = libc::pid_t::try_from(id) {
            // SAFETY: kill takes no pointers. The child was not waited for, so its number is still its own.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        let _ = tokio::time::timeout(STOP_DEADLINE, child.wait()).await;
    }
}

fn read_answer(reply: &Value) -> Option<Answer> {
    let kind = |kind: &Value| match kind.as_str()? {
        "exact" => Some(Kind::Exact),
        "decimal" => Some(Kind::Decimal),
        "float" => Some(Kind::Float),
        _ => None,
    };
    let kinds: Vec<Kind> = reply["kinds"].as_array()?.iter().map(kind).collect::<Option<_>>()?;
    let cell = |cell: &Value| match cell {
        Value::Null => Some(None),
        Value::String(text) => Some(Some(text.clone())),
        _ => None,
    };
    let row = |row: &Value| -> Option<Vec<Option<String>>> {
        let cells: Vec<_> = row.as_array()?.iter().map(cell).collect::<Option<_>>()?;
        (cells.len() == kinds.len()).then_some(cells)
    };
    let rows = reply["rows"].as_array()?.iter().map(row).collect::<Option<_>>()?;
    Some(Answer { kinds, rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let reply = json!({ "kinds": ["exact", "float"], "rows": [["a", "0.5"], [null, null]] });
        let answer = read_answer(&reply).unwrap();
        assert_eq!(answer.kinds, [Kind::Exact, Kind::Float]);
        assert_eq!(answer.rows, [[Some("a".to_owned()), Some("0.5".to_owned())], [None, None]]);
    }

    #[test]
    fn what_is_no_answer_is_not_read() {
        for reply in [
            json!({}),
            json!({ "kinds": ["exact"] }),
            json!({ "kinds": ["text"], "rows": [] }),
            json!({ "kinds": ["exact"], "rows": [["a", "b"]] }),
            json!({ "kinds": ["exact"], "rows": [[1]] }),
        ] {
            assert_eq!(read_answer(&reply), None, "{reply}");
        }
    }
}
