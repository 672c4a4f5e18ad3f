//! Nodes with real threads and clocks, over a network in memory.

use std::collections::BTreeSet;

use super::super::command::{IfExists, Object, Refusal};
use super::super::store::memory::MemoryDisk;
use super::super::store::sled_store::{RewriteOptions, SledStore};
use super::super::transport::{Alone, decode, encode};
use super::*;

/// Longer than anything takes, however busy the machine.
const WAIT: Duration = Duration::from_secs(60);

/// Nodes that reach one another, but for those that are cut off.
#[derive(Clone, Default)]
struct Network(Arc<Mutex<Reachable>>);

/// All nodes, and those that are cut off.
type Reachable = (BTreeMap<u64, Peers>, BTreeSet<u64>);

struct Link(Network, u64);

impl Transport for Link {
    fn send(&self, message: Message) {
        let network = self.0.0.lock();
        let (to, is_snapshot) = (message.to, message.has_snapshot());
        let cut_off = network.1.contains(&to) || network.1.contains(&self.1);
        let receiver = network.0.get(&to).filter(|_| !cut_off);
        if let Some(receiver) = receiver {
            receiver.deliver(decode(&encode(&message)).unwrap());
        }
        if let (true, Some(sender)) = (is_snapshot, network.0.get(&self.1)) {
            sender.snapshot_sent(to, receiver.is_some());
        }
    }
}

impl Network {
    fn start(&self, store: Box<dyn Store>, client: u64) -> MetadataNode {
        self.start_with(store, Options::new(client))
    }

    fn start_with(&self, store: Box<dyn Store>, options: Options) -> MetadataNode {
        MetadataNode::start(store, options, |identity, peers| {
            self.0.lock().0.insert(identity.replica, peers);
            Link(self.clone(), identity.replica)
        })
        .unwrap()
    }
}

fn identity(replica: u64) -> Identity {
    Identity { cluster: 1, replica }
}

fn set(name: &str, value: &str) -> Vec<Change> {
    vec![Change::create(Object::setting(name), value, IfExists::Replace)]
}

async fn get(node: &MetadataNode, name: &str) -> Option<String> {
    get_within(WAIT, node, name).await.unwrap()
}

async fn get_within(wait: Duration, node: &MetadataNode, name: &str) -> Result<Option<String>> {
    let object = Object::setting(name);
    node.read(wait, |state| state.definitions().get(&object).map(|record| record.definition.clone())).await
}

async fn wait_for(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !check().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alone_it_keeps_everything_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Box::new(SledStore::open(dir.path()).unwrap());
    Replica::create(open(), identity(1), &[1]).unwrap();
    assert!(Replica::create(open(), identity(2), &[2]).is_err(), "what is there stays");
    for round in 0..3_u64 {
        let node = MetadataNode::start(open(), Options::new(100 + round), |_, _| Alone).unwrap();
        for key in 0..20 {
            assert_eq!(
                get(&node, &format!("{key}")).await,
                (round > 0).then(|| format!("{}", round.saturating_sub(1)))
            );
            node.change(set(&format!("{key}"), &round.to_string()), WAIT).await.unwrap();
        }
        let refused = node.change(vec![Change::drop(Object::database("none"))], WAIT).await.unwrap_err();
        assert!(matches!(refused, MetadataError::Refused(Refusal::NotFound { .. })), "{refused}");
        assert_eq!(node.status().await.unwrap().role, "leader");
        node.stop(WAIT).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_come_together_share_a_flush() {
    let disk = MemoryDisk::default();
    Replica::create(Box::new(disk.open()), identity(1), &[1]).unwrap();
    let node = MetadataNode::start(Box::new(disk.open()), Options::new(5), |_, _| Alone).unwrap();
    node.change(set("first", ""), WAIT).await.unwrap();
    let before = disk.n_flushes();
    let all = (0..1000).map(|key| node.change(set(&key.to_string(), ""), WAIT));
    for result in futures::future::join_all(all).await {
        result.unwrap();
    }
    let flushes = disk.n_flushes() - before;
    assert!(flushes < 1000, "{flushes} flushes for 1000 commands");
    node.stop(WAIT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_grows_loses_its_leader_and_shrinks() {
    let network = Network::default();
    let disks: Vec<_> = (0..3).map(|_| MemoryDisk::default()).collect();
    Replica::create(Box::new(disks[0].open()), identity(1), &[1]).unwrap();
    let mut nodes = vec![network.start(Box::new(disks[0].open()), 11)];
    nodes[0].change(set("a", "1"), WAIT).await.unwrap();
    for replica in [2, 3] {
        let disk = &disks[replica as usize - 1];
        Replica::create_joining(Box::new(disk.open()), identity(replica)).unwrap();
        let node = network.start(Box::new(disk.open()), 10 + replica);
        let join = vec![Change::create(Object::node(replica.to_string()), "", IfExists::Replace)];
        nodes[0].change_members(join, Some(MemberChange::AddLearner { replica }), WAIT).await.unwrap();
        wait_for("a vote", async || node.status().await.unwrap().voters.contains(&replica)).await;
        nodes.push(node);
    }
    // Each sees at once what another did, and any takes commands.
    for (at, node) in nodes.iter().enumerate() {
        node.change(set("b", &at.to_string()), WAIT).await.unwrap();
        for other in &nodes {
            assert_eq!(get(other, "b").await, Some(at.to_string()));
        }
    }
    // Cut off from the others, a leader neither answers nor acknowledges.
    network.0.lock().1.insert(1);
    wait_for("another leader", async || {
        let status = nodes[1].status().await.unwrap();
        status.leader != 1 && status.leader != 0
    })
    .await;
    let short = Duration::from_millis(300);
    assert!(matches!(nodes[0].read(short, |_| ()).await, Err(MetadataError::TimedOut { .. })));
    nodes[1].change(set("b", "without 1"), WAIT).await.unwrap();
    assert_eq!(get(&nodes[2], "b").await, Some("without 1".to_owned()));
    network.0.lock().1.clear();
    assert_eq!(get(&nodes[0], "b").await, Some("without 1".to_owned()));
    // The leader itself is removed, by whoever is asked.
    let leader = nodes[0].status().await.unwrap().leader;
    let asked = nodes.iter().position(|node| node.identity().replica != leader).unwrap();
    let leave = Change::Drop {
        object: Object::node(leader.to_string()),
        if_missing_keep: true,
        cascade: false,
        expected: None,
    };
    nodes[asked].change_members(vec![leave], Some(MemberChange::Remove { replica: leader }), WAIT).await.unwrap();
    let status = nodes[asked].status().await.unwrap();
    assert_eq!((status.voters.len(), status.voters.contains(&leader)), (2, false));
    nodes[asked].change(set("b", "two"), WAIT).await.unwrap();
    for node in nodes {
        node.stop(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over() {
    let network = Network::default();
    let disks: Vec<_> = (0..3).map(|_| MemoryDisk::default()).collect();
    let mut nodes = BTreeMap::new();
    for (replica, disk) in (1..).zip(&disks) {
        Replica::create(Box::new(disk.open()), identity(replica), &[1, 2, 3]).unwrap();
        // Only the first ever stands for election by itself: the others would wait for longer than this test may.
        let election_ticks = if replica == 1 { 40..80 } else { 10_000..20_000 };
        let options = Options { election_ticks, ..Options::new(10 + replica) };
        nodes.insert(replica, network.start_with(Box::new(disk.open()), options));
    }
    wait_for("a leader", async || nodes[&1].status().await.unwrap().role == "leader").await;
    nodes[&2].change(set("a", "1"), WAIT).await.unwrap();
    let before = nodes[&1].status().await.unwrap();
    nodes.remove(&1).unwrap().stop(WAIT).await;
    // So if one of them leads, it was told to.
    wait_for("another leader", async || {
        let status = nodes[&2].status().await.unwrap();
        [2, 3].contains(&status.leader) && status.term > before.term
    })
    .await;
    // A new leader passes over questions until it has committed something itself, and these nodes ask again only after an
    // election's time, which is longer than this test.
    for node in nodes.values() {
        let value = async || get_within(Duration::from_secs(1), node, "a").await.ok();
        wait_for("the value", async || value().await == Some(Some("1".to_owned()))).await;
    }
    for node in nodes.into_values() {
        node.stop(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_disk_stops_the_node_with_its_reason() {
    use super::super::store::memory::FailPoint;
    let disk = MemoryDisk::default();
    Replica::create(Box::new(disk.open()), identity(1), &[1]).unwrap();
    let node = MetadataNode::start(Box::new(disk.open()), Options::new(5), |_, _| Alone).unwrap();
    node.change(set("a", "1"), WAIT).await.unwrap();
    disk.fail_after(0, FailPoint::BeforeFlush);
    assert!(matches!(node.change(set("a", "2"), WAIT).await, Err(MetadataError::Stopped { .. })));
    wait_for("the reason", async || {
        node.change(set("a", "3"), WAIT).await.unwrap_err().to_string().contains("fail point")
    })
    .await;
}

/// What the killed process does: commands of two changes each, and a line for each that was acknowledged. Its store is
/// rewritten all the time.
async fn work_until_killed(dir: &std::path::Path) {
    let always = RewriteOptions { file_bytes_min: 0, times_live: 0, keys_at_once: 20 };
    let open = || Box::new(SledStore::open_with(dir, always).unwrap());
    // The first process makes the cluster.
    let _ = Replica::create(open(), identity(1), &[1]);
    let client = u64::from(std::process::id());
    let node = MetadataNode::start(open(), Options::new(client), |_, _| Alone).unwrap();
    let first = get(&node, "a").await.map_or(0, |text| text.parse::<u64>().unwrap());
    for value in first + 1.. {
        let changes = [set("a", &value.to_string()), set("b", &value.to_string())].concat();
        node.change(changes, WAIT).await.unwrap();
        println!("acknowledged {value}");
    }
}

/// Over sled, with real processes. Runs itself as the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_keeps_what_it_acknowledged() {
    use std::io::BufRead;
    const FOLDER: &str = "SHEAF_TEST_KILLED_METADATA";
    if let Some(dir) = std::env::var_os(FOLDER) {
        return work_until_killed(dir.as_ref()).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let rounds: usize = std::env::var("SHEAF_KILLS").map_or(10, |text| text.parse().unwrap());
    let mut last = 0;
    for round in 0..rounds {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                "metadata::node::tests::killed_at_any_moment_it_keeps_what_it_acknowledged",
            ])
            .env(FOLDER, dir.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let number = |line: String| line.split_once("acknowledged ").and_then(|(_, number)| number.parse::<u64>().ok());
        let mut acknowledged = output.lines().map_while(std::result::Result::ok).filter_map(number);
        // Not after a time but after some work, so that there is always something to lose.
        let enough = acknowledged.by_ref().take(5 + round % 7).last();
        assert!(enough.is_some(), "the process did nothing in round {round}");
        tokio::time::sleep(Duration::from_micros(700 * (round as u64 % 9))).await;
        child.kill().unwrap();
        child.wait().unwrap();
        last = acknowledged.last().or(enough).unwrap_or(last);
        let node =
            MetadataNode::start(Box::new(SledStore::open(dir.path()).unwrap()), Options::new(round as u64), |_, _| {
                Alone
            });
        let node = node.unwrap();
        let (a, b) = (get(&node, "a").await.unwrap(), get(&node, "b").await.unwrap());
        assert_eq!(a, b, "half a command in round {round}");
        let found: u64 = a.parse().unwrap();
        assert!(found == last || found == last + 1, "round {round}: {last} was acknowledged, {found} is there");
        node.stop(WAIT).await;
    }
    assert!(dir.path().join("CURRENT").exists(), "no process was killed after a rewrite");
}
