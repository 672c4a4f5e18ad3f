//! What `sheaf cluster` asks a running cluster: how its nodes are, and to let one go.

use std::path::Path;
use std::time::{Duration, Instant};

use super::state::{ClusterFile, running};
use crate::client::Client;
use crate::error::CliError;
use crate::tpch::Answer;

const NODES: &str = "SELECT name, role, state, host, port, cores, tasks, memory_used, memory_limit, spill_bytes \
                     FROM system.nodes ORDER BY role, name";

/// A coordinator that answers, any will do.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

async fn connect(cluster: &ClusterFile) -> Result<Client, CliError> {
    let mut failed = None;
    for &port in &cluster.mysql_ports {
        failed = Some(match tokio::time::timeout(CONNECT_PATIENCE, Client::connect(port)).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) => error,
            Err(_) => {
                let what = format!("the coordinator on port {port}");
                CliError::Deadline { what, deadline_s: CONNECT_PATIENCE.as_secs() }
            }
        });
    }
    Err(failed.unwrap_or_else(|| CliError::NodesGone { nodes: cluster.nodes.join(", ") }))
}

/// Prints a line for each node, and one for what is to be known of the cluster.
pub async fn status(dir: &Path) -> Result<(), CliError> {
    let cluster = running(dir)?;
    let mut client = connect(&cluster).await?;
    let nodes = client.ask("the list of nodes", NODES).await?;
    client.close().await;
    let places: Vec<String> = cluster.mysql_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    println!("process {}, MySQL on {}", cluster.pid, places.join(", "));
    let header = ["name", "role", "state", "host", "port", "cores", "tasks", "memory used", "memory", "spilled"];
    print!("{}", aligned(&header, &nodes));
    let alive = |name: &String| nodes.rows.iter().any(|row| row[0].as_ref() == Some(name) && text(row, 2) == "alive");
    let gone: Vec<&str> = cluster.nodes.iter().filter(|name| !alive(name)).map(String::as_str).collect();
    if gone.is_empty() { Ok(()) } else { Err(CliError::NodesGone { nodes: gone.join(", ") }) }
}

/// Has a node take no more tasks and waits until it runs none.
pub async fn drain(dir: &Path, node: &str, patience: Duration) -> Result<(), CliError> {
    let cluster = running(dir)?;
    let mut client = connect(&cluster).await?;
    let quoted = node.replace('\'', "''");
    client.ask(&format!("draining {node}"), &format!("ALTER CLUSTER DRAIN NODE '{quoted}'")).await?;
    let deadline = Instant::now() + patience;
    let sql = format!("SELECT tasks FROM system.nodes WHERE name = '{quoted}' AND state <> 'lost'");
    loop {
        let left = client.ask("the node's tasks", &sql).await?;
        let tasks = left.rows.first().map_or("0", |row| text(row, 0));
        if tasks == "0" {
            println!("{node} is drained: it runs no task and gets no more");
            client.close().await;
            return Ok(());
        }
        if Instant::now() >= deadline {
            let tasks = tasks.to_owned();
            return Err(CliError::StillBusy { node: node.to_owned(), tasks, patience_s: patience.as_secs() });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn text(row: &[Option<String>], column: usize) -> &str {
    row.get(column).and_then(Option::as_deref).unwrap_or("")
}

/// Columns that are as wide as their widest cell, two spaces apart.
fn aligned(header: &[&str], answer: &Answer) -> String {
    let rows = std::iter::once(header.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
    let cells = answer.rows.iter().map(|row| (0..header.len()).map(|n| text(row, n).to_owned()).collect());
    let rows: Vec<Vec<String>> = rows.chain(cells).collect();
    let width = |n: usize| rows.iter().map(|row| row[n].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_one_another() {
        let row = |cells: [&str; 2]| cells.iter().map(|it| Some((*it).to_owned())).collect();
        let answer = Answer { kinds: vec![], rows: vec![row(["worker-1", "ok"]), row(["c", "lost"])] };
        assert_eq!(aligned(&["name", "state"], &answer), "name      state\nworker-1  ok\nc         lost\n");
    }
}
