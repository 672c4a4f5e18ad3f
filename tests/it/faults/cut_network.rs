//! Two workers that cannot reach one another, and a coordinator that reaches both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sheaf_tests::wires::Wires;
use sheaf_tests::{Client, Cluster, ClusterSpec, alone, skip};

use super::{DEADLINE, SUMS, assert_clean, expected_sums, recovered, run, session, spec, start};

/// A session whose rows go over the network, which is what is cut: a Unix socket does not notice.
async fn networked(cluster: &Cluster, faults: &str) -> Client {
    let mut client = session(cluster, faults).await;
    run(&mut client, "SET exchange_link = 'tcp'").await;
    client
}

async fn lost_workers(client: &mut Client) -> usize {
    run(client, "SELECT name FROM system.nodes WHERE state = 'lost'").await.rows.len()
}

#[test]
fn a_cut_between_two_workers_is_gone_around() {
    let network = match Wires::new(3) {
        Ok(network) => Arc::new(network),
        Err(error) => return skip("a cut between two workers", &error),
    };
    // In a thread of its own, which stays where the coordinator is.
    let test = std::thread::spawn(move || {
        network.enter().expect("the namespace was just made");
        alone(DEADLINE, async {
            let cluster = Cluster::start(ClusterSpec { wires: Some(Arc::clone(&network)), ..spec() }).await;
            let mut client = session(&cluster, "").await;
            let expected = expected_sums();
            assert_eq!(run(&mut networked(&cluster, "").await, SUMS).await.rows, expected);
            // While the last stage waits for the scans, over connections that are there; then from the start.
            for is_late in [true, false] {
                let faults = if is_late { "slow=3000@1.*.0" } else { "" };
                let what = format!("a cut, {faults:?}");
                let started = Instant::now();
                if !is_late {
                    network.cut(0, 1);
                }
                let query = start(networked(&cluster, faults).await, SUMS);
                if is_late {
                    super::wait_for_tasks(&mut client, "all run", |it| it.len() == 6).await;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    network.cut(0, 1);
                }
                let (table, n_restarts) = recovered(query, &what).await;
                eprintln!("{what}: {n_restarts} restarts, {:?}", started.elapsed());
                assert_eq!(table.rows, expected, "{what}");
                assert!(n_restarts >= 1, "{what}: the cut struck nothing");
                assert_eq!(lost_workers(&mut client).await, 0, "{what}: nobody is lost");
                assert_clean(&mut client, &what).await;
                network.mend(0, 1);
            }
            assert_eq!(run(&mut networked(&cluster, "").await, SUMS).await.rows, expected);
        });
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}
