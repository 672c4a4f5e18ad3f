//! How queries are let in, how they end, and how workers leave: with real processes.

mod admission;
mod drain;
mod endings;
mod memory;

use std::time::{Duration, Instant};

use sheaf_tests::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One figure of a node's `/metrics`, summed over its labels; 0 where it has none.
pub(crate) async fn metric(node: &Node, name: &str) -> f64 {
    let ask = async {
        let mut socket = TcpStream::connect(("127.0.0.1", node.ports().http)).await?;
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), ask).await.expect("metrics are answered");
    let answer = answer.unwrap_or_else(|error| panic!("{}: no metrics: {error}", node.name()));
    let lines = answer.lines().filter(|line| line.split([' ', '{']).next() == Some(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// What a node holds of queries: tasks, leases, buffers, reservations, files, slots.
const HELD: [&str; 6] = [
    "sheaf_worker_tasks",
    "sheaf_worker_queries",
    "sheaf_exchange_buffered_bytes",
    "sheaf_memory_reserved_bytes",
    "sheaf_spill_used_bytes",
    "sheaf_worker_slots_taken",
];

/// Waits until a node holds nothing of any query; says after how long.
pub(crate) async fn until_nothing_is_held(node: &Node, deadline: Duration) -> Duration {
    let started = Instant::now();
    loop {
        let mut held = vec![];
        for name in HELD {
            let value = metric(node, name).await;
            if value != 0.0 {
                held.push((name, value));
            }
        }
        if held.is_empty() {
            return started.elapsed();
        }
        assert!(started.elapsed() < deadline, "{} still holds {held:?} after {deadline:?}", node.name());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
