//! What clients cost that are connected and ask nothing.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use sheaf_tests::{Cluster, ClusterSpec, alone, is_full, skip};

/// Of each connection, in the server: what is promised. What the allocator has at hand weighs more on few clients than on
/// many, so that the short form allows twice as much.
const BYTES_MAX: u64 = 64 << 10;

/// Clients that logged in, chose a database and asked and prepared something, as pools of connections do.
async fn idle(port: u16, n_clients: usize) -> Vec<Conn> {
    let mut clients = Vec::with_capacity(n_clients);
    for _ in 0..n_clients {
        let options = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port).user(Some("root"));
        let mut client = Conn::new(options.db_name(Some("default")).prefer_socket(false)).await.expect("there is room");
        client.query_drop("SET NAMES utf8mb4").await.expect("a statement without rows");
        let one: Option<i64> = client.query_first("SELECT 1").await.expect("a row");
        let two: Option<i64> = client.exec_first("SELECT 2", ()).await.expect("a row");
        assert_eq!((one, two), (Some(1), Some(2)));
        clients.push(client);
    }
    clients
}

/// 1,000 clients with `SHEAF_FULL=1`, 200 without.
#[test]
fn idle_clients_cost_little() {
    let n_clients = if is_full() { 1000 } else { 200 };
    alone(Duration::from_secs(180), async {
        let spec = ClusterSpec { flags: vec!["--max-connections", "1100"], ..ClusterSpec::workers(0) };
        let cluster = Cluster::start(spec).await;
        // What is made once, whoever comes first.
        let first = idle(cluster.mysql_port(), 50).await;
        let Some(before) = cluster.coordinator.memory("VmRSS") else {
            return skip("the memory of idle clients", "this system has no /proc");
        };
        let clients = idle(cluster.mysql_port(), n_clients).await;
        let after = cluster.coordinator.memory("VmRSS").expect("it was there a moment ago");
        let each = after.saturating_sub(before) / n_clients as u64;
        println!("{n_clients} idle clients: {:.1} KiB each", each as f64 / 1024.0);
        let allowed = if is_full() { BYTES_MAX } else { 2 * BYTES_MAX };
        assert!(each <= allowed, "{each} bytes each");
        drop((first, clients));
    });
}
