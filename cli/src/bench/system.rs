//! A system that is measured: how it is asked, and which processes it runs in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::child::Peer;
use super::processes::{Process, cpu_times, used};
use crate::client::Client;
use crate::error::CliError;
use crate::tpch::Answer;

/// How long a system gets, after its answer is out, to tidy up what the query left; this counts as the query's too.
const TIDY_UP: Duration = Duration::from_millis(30);

pub struct System {
    /// Heads its columns.
    pub name: String,
    /// What it is and how it is set up.
    pub description: String,
    /// Not the client.
    pub processes: Vec<Process>,
    asked: Asked,
}

enum Asked {
    Server(Client),
    Peer(Box<Peer>),
}

/// One run of a query.
pub struct Run {
    pub answer: Answer,
    /// From sending the statement to having its answer as text.
    pub wall: Duration,
    /// On processors, in all of the system's processes.
    pub cpu: Duration,
}

/// How a server of ours ran a query.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution {
    pub stages: u64,
    pub tasks: u64,
    /// Bytes that tasks and the coordinator read from tasks.
    pub bytes_by_link: BTreeMap<String, u64>,
    pub spilled_bytes: u64,
    /// Why it ran in one process.
    pub reason: Option<String>,
}

impl System {
    pub fn server(name: &str, description: String, processes: Vec<Process>, client: Client) -> Self {
        Self { name: name.to_owned(), description, processes, asked: Asked::Server(client) }
    }

    pub fn peer(name: &str, peer: Peer) -> Self {
        let processes = vec![Process { name: name.to_owned(), id: peer.id() }];
        let description = peer.ready.clone();
        Self { name: name.to_owned(), description, processes, asked: Asked::Peer(Box::new(peer)) }
    }

    /// Runs a query once; `Ok(Err(_))` is a refusal of the system, whose later queries may still work.
    pub async fn run(&mut self, what: &str, sql: &str) -> Result<Result<Run, String>, CliError> {
        let before = cpu_times(&self.processes)?;
        let (answer, wall) = match self.ask(what, sql).await? {
            Ok(answer) => answer,
            Err(refusal) => return Ok(Err(refusal)),
        };
        tokio::time::sleep(TIDY_UP).await;
        let cpu = used(&before, &cpu_times(&self.processes)?);
        Ok(Ok(Run { answer, wall, cpu }))
    }

    async fn ask(&mut self, what: &str, sql: &str) -> Result<Result<(Answer, Duration), String>, CliError> {
        match &mut self.asked {
            Asked::Peer(peer) => peer.ask(sql).await,
            Asked::Server(client) => {
                let start = Instant::now();
                let answer = client.ask(&format!("{what} on {}", self.name), sql).await;
                let time = start.elapsed();
                match answer {
                    Ok(answer) => Ok(Ok((answer, time))),
                    Err(CliError::Statement { source: mysql_async::Error::Server(error), .. }) => {
                        Ok(Err(error.to_string()))
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// How the query is spread and what it moves, by running it once more; `None` of other systems than ours, and where
    /// the run fails.
    pub async fn distribution(&mut self, what: &str, sql: &str) -> Result<Option<Distribution>, CliError> {
        if !matches!(self.asked, Asked::Server(_)) {
            return Ok(None);
        }
        let explained = self.ask(what, &format!("EXPLAIN ANALYZE FORMAT=JSON {sql}")).await?;
        let Ok((answer, _)) = explained else { return Ok(None) };
        let lines = answer.rows.iter().filter_map(|row| row.first()?.as_deref());
        let text = lines.collect::<Vec<_>>().join("\n");
        Ok(serde_json::from_str(&text).ok().map(|explained| Distribution::read(&explained)))
    }

    /// Says good-bye, or ends the process that was started for it.
    pub async fn close(self) {
        match self.asked {
            Asked::Server(client) => client.close().await,
            Asked::Peer(peer) => peer.stop().await,
        }
    }
}

impl Distribution {
    /// From what `EXPLAIN ANALYZE FORMAT=JSON` shows.
    fn read(explained: &Value) -> Self {
        let mut all = Self { reason: explained["reason"].as_str().map(str::to_owned), ..Self::default() };
        for stage in explained["stages"].as_array().into_iter().flatten() {
            all.stages += 1;
            all.tasks += stage["tasks"].as_u64().unwrap_or(0);
            all.add(&stage["actual"]);
        }
        all.add_coordinators(&explained["plan"]);
        explained["subqueries"].as_array().into_iter().flatten().for_each(|plan| all.add_coordinators(plan));
        all
    }

    /// The operators that run on the coordinator: those of stages are in the stages' sums.
    fn add_coordinators(&mut self, node: &Value) {
        if node["stage"].is_null() {
            self.add(&node["actual"]);
        }
        node["children"].as_array().into_iter().flatten().for_each(|child| self.add_coordinators(child));
    }

    fn add(&mut self, actual: &Value) {
        self.spilled_bytes += actual["spilled_bytes"].as_u64().unwrap_or(0);
        for (link, bytes) in actual["read_bytes"].as_object().into_iter().flatten() {
            *self.bytes_by_link.entry(link.clone()).or_default() += bytes.as_u64().unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn stages_and_the_coordinator_are_summed() {
        let explained = json!({
            "plan": {
                "actual": { "spilled_bytes": 1, "read_bytes": {} },
                "children": [{
                    "actual": { "spilled_bytes": 0, "read_bytes": { "tcp": 10 } },
                    "children": [{ "stage": 2, "actual": { "read_bytes": { "tcp": 999 } }, "children": [] }],
                }],
            },
            "subqueries": [{ "actual": { "read_bytes": { "local": 5 } }, "children": [] }],
            "stages": [
                { "tasks": 2, "actual": { "spilled_bytes": 7, "read_bytes": { "local": 1, "tcp": 100 } } },
                { "tasks": 3 },
            ],
        });
        let expected = Distribution {
            stages: 2,
            tasks: 5,
            bytes_by_link: BTreeMap::from([("local".to_owned(), 6), ("tcp".to_owned(), 110)]),
            spilled_bytes: 8,
            reason: None,
        };
        assert_eq!(Distribution::read(&explained), expected);
    }

    #[test]
    fn a_plan_of_one_process_says_why() {
        let explained = json!({ "plan": { "children": [] }, "stages": [], "reason": "it reads little" });
        let read = Distribution::read(&explained);
        assert_eq!((read.tasks, read.reason.as_deref()), (0, Some("it reads little")));
    }
}
