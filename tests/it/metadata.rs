//! Several coordinators that agree on databases and tables, as real processes that die, freeze, come and go.
//!
//! `SHEAF_FAULTS`, `SHEAF_KILLS`, `SHEAF_TABLES` and `SHEAF_COMMANDS` set how many; the full form is 200, 200, 10000 and
//! 1000000. Times are printed; the full form, on a machine of its own (`SHEAF_FULL=1`), also holds them to their bounds.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sheaf_tests::coordinators::node_name;
use sheaf_tests::{Client, Coordinators, Network, alone, binary, is_full, number_from_env};
use tokio::task::JoinSet;

use crate::lifecycle::metric;

const DEADLINE: Duration = Duration::from_secs(600);
/// From a fault to the next statement that a surviving coordinator carries out, at the 99th percentile.
const ACCEPTED: Duration = Duration::from_secs(2);
/// A statement that waits longer than this for a leader is asked again.
const TRY: Duration = Duration::from_secs(20);
/// However busy the machine is, what must come about does by then.
const PATIENCE: Duration = Duration::from_secs(120);

/// Clients that create databases without end, each at one coordinator.
struct Writers {
    /// What was acknowledged.
    created: Arc<Mutex<BTreeSet<String>>>,
    /// Statements that failed.
    failed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Writers {
    fn new() -> Self {
        Self { created: Arc::default(), failed: Arc::default(), stop: Arc::default(), tasks: JoinSet::new() }
    }

    /// One more client at the coordinator with this port.
    fn start(&mut self, port: u16) {
        let (created, failed, stop) = (Arc::clone(&self.created), Arc::clone(&self.failed), Arc::clone(&self.stop));
        let no = self.tasks.len();
        self.tasks.spawn(async move {
            let mut client = None;
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let Some(open) = &mut client else {
                    client = Client::connect(port, None).await.ok();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                let name = format!("w{no}_{n}");
                match open.query_within(TRY, &format!("CREATE DATABASE {name}")).await {
                    Ok(_) => drop(created.lock().insert(name)),
                    Err(error) => {
                        eprintln!("writer {no}: {name}: {error}");
                        failed.fetch_add(1, Ordering::Relaxed);
                        client = None;
                    }
                }
                // As fast as people, not as machines: the other tests share the cores.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }

    async fn end(&mut self) -> (BTreeSet<String>, u64) {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        (self.created.lock().clone(), self.failed.load(Ordering::Relaxed))
    }
}

async fn databases(client: &mut Client) -> BTreeSet<String> {
    let rows = client.query("SHOW DATABASES").await.expect("databases are shown").rows;
    rows.into_iter().filter_map(|row| row.into_iter().next()).collect()
}

/// Asserts that a coordinator has all that was acknowledged.
async fn has_all(cluster: &Coordinators, index: usize, created: &BTreeSet<String>) {
    let found = databases(&mut cluster.connect(index).await).await;
    let lost: Vec<_> = created.difference(&found).collect();
    assert!(lost.is_empty(), "coordinator {index} lost {} of {}: {lost:?}", lost.len(), created.len());
}

/// Waits until so many replicas have a vote and answer: one that is slow is shown as unreachable.
async fn has_voters(client: &mut Client, wanted: &str) {
    let start = Instant::now();
    loop {
        let count = "SELECT count(*) FROM system.raft WHERE role IN ('leader', 'follower')";
        let found = client.query(count).await.expect("the replicas are shown").cell().to_owned();
        if found == wanted {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{found} have a vote, not {wanted}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

#[test]
fn two_clients_on_two_coordinators_see_each_other_at_once() {
    alone(DEADLINE, async {
        let cluster = Coordinators::start(3, 1);
        let mut clients = Vec::new();
        for index in 0..3 {
            clients.push(cluster.connect(index).await);
        }
        for n in 0..30 {
            let (writer, reader) = (n % 3, (n + 1) % 3);
            clients[writer].query(&format!("CREATE DATABASE d{n}")).await.expect("any coordinator takes DDL");
            clients[reader].query(&format!("USE d{n}")).await.expect("it is there at once");
            clients[reader].query(&format!("DROP DATABASE d{n}")).await.expect("any coordinator drops it");
            let gone = clients[writer].query(&format!("USE d{n}")).await.expect_err("it is gone at once");
            assert_eq!(gone.code, Some(1049), "{gone}");
        }
        // All know the same nodes, and the same worker runs queries of each.
        for client in &mut clients {
            let start = Instant::now();
            loop {
                let nodes = client.query("SHOW CLUSTER").await.expect("the cluster is shown").rows;
                let raft = client.query("SELECT role FROM system.raft").await.expect("the replicas are shown").sorted();
                let are_alive = nodes.len() == 4 && nodes.iter().all(|row| row[2] == "alive");
                if are_alive && raft.concat() == ["follower", "follower", "leader"] {
                    break;
                }
                // One that is slow to answer is shown as lost.
                assert!(start.elapsed() < PATIENCE, "{nodes:?} {raft:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            client.query("SET min_distribute_bytes = 0").await.expect("a setting");
            let sum = client.query("SELECT sum(number) FROM numbers(100000)").await.expect("a worker answers");
            assert_eq!(sum.cell(), "4999950000");
        }
        let ids: BTreeSet<u32> = clients.iter().map(|client| client.id() >> 20).collect();
        assert_eq!(ids.len(), 3, "each coordinator has a number of its own");
    });
}

#[test]
fn leaders_die_freeze_and_are_cut_off_and_nothing_acknowledged_is_lost() {
    let n_faults = number_from_env("SHEAF_FAULTS", 12) as usize;
    let deadline = Duration::from_secs(300 + 20 * n_faults as u64);
    alone(deadline, async {
        let mut cluster = Coordinators::start_with(3, 2, vec![], Some(Network::default()));
        let mut writers = Writers::new();
        (0..3).for_each(|index| writers.start(cluster.mysql_port(index)));
        let mut times = Vec::new();
        for fault in 0..n_faults {
            let leader = cluster.leader().await;
            let survivor = cluster.running().into_iter().find(|it| *it != leader).expect("two survive");
            let mut client = cluster.connect(survivor).await;
            let mut reader = cluster.connect(survivor).await;
            // Nothing is to get around a cut.
            for setting in ["min_distribute_bytes = 0", "exchange_link = 'tcp'"] {
                reader.query(&format!("SET {setting}")).await.expect("a setting");
            }
            // Runs on the workers from before the fault until after it.
            let long = async { reader.query("SELECT count(*) FROM numbers(200000000) WHERE number % 7 = 3").await };
            let faulty = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                match fault % 3 {
                    0 => cluster.kill(leader),
                    1 => cluster.freeze(leader),
                    _ => cluster.cut_off(leader),
                }
                let start = Instant::now();
                let mut n = 0;
                while let Err(error) = client.query_within(TRY, &format!("CREATE DATABASE f{fault}_{n}")).await {
                    assert!(start.elapsed() < PATIENCE, "no statement was accepted: {error}");
                    n += 1;
                }
                times.push(start.elapsed());
                writers.created.lock().insert(format!("f{fault}_{n}"));
            };
            let (answered, ()) = tokio::join!(long, faulty);
            assert_eq!(answered.expect("a query whose coordinator lives is untouched").cell(), "28571429");
            match fault % 3 {
                0 => cluster.restart(leader),
                1 => cluster.thaw(leader),
                _ => cluster.mend(leader),
            }
            // Else the next fault could be one too many.
            has_voters(&mut client, "3").await;
        }
        let (created, failed) = writers.end().await;
        for index in 0..3 {
            has_all(&cluster, index, &created).await;
        }
        let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
        println!(
            "{n_faults} faults: the next statement after {p50:?} (p50), {p99:?} (p99); {} databases were created, {failed} \
             statements failed with their coordinator",
            created.len()
        );
        assert!(!is_full() || p99 <= ACCEPTED, "the next statement took {p99:?}: {times:?}");
    });
}

#[test]
fn all_killed_at_once_come_back_with_everything() {
    alone(DEADLINE, async {
        let mut cluster = Coordinators::start(3, 0);
        let mut created = BTreeSet::new();
        for round in 0..3_u64 {
            let mut writers = Writers::new();
            (0..3).for_each(|index| writers.start(cluster.mysql_port(index)));
            tokio::time::sleep(Duration::from_millis(700 + 100 * round)).await;
            (0..3).for_each(|index| cluster.kill(index));
            let (acknowledged, _) = writers.end().await;
            assert!(!acknowledged.is_empty(), "nothing was written");
            created.extend(acknowledged);
            cluster.restart_all();
            for index in 0..3 {
                has_all(&cluster, index, &created).await;
            }
            // The next round's names are the same.
            let mut client = cluster.connect(0).await;
            for name in databases(&mut client).await.into_iter().filter(|name| name.starts_with('w')) {
                client.query(&format!("DROP DATABASE {name}")).await.expect("it is there");
            }
            created.clear();
            client.query(&format!("CREATE DATABASE kept{round}")).await.expect("DDL");
            created.insert(format!("kept{round}"));
        }
    });
}

#[test]
fn one_that_is_killed_again_and_again_keeps_what_it_said() {
    let n_kills = number_from_env("SHEAF_KILLS", 12);
    alone(Duration::from_secs(300 + 10 * n_kills), async {
        let mut cluster = Coordinators::start(1, 0);
        let mut created = BTreeSet::new();
        for kill in 0..n_kills {
            let mut client = cluster.connect(0).await;
            let end = Instant::now() + Duration::from_millis(100 + 37 * (kill % 7));
            let mut n = 0;
            let killer = tokio::time::sleep_until(end.into());
            tokio::pin!(killer);
            loop {
                let name = format!("k{kill}_{n}");
                let sql = format!("CREATE DATABASE {name}");
                tokio::select! {
                    answered = client.query_within(TRY, &sql) => {
                        answered.expect("it runs");
                        created.insert(name);
                        n += 1;
                    }
                    () = &mut killer => break,
                }
            }
            cluster.kill(0);
            cluster.restart(0);
            let found = databases(&mut cluster.connect(0).await).await;
            assert!(created.is_subset(&found), "lost {:?}", created.difference(&found).collect::<Vec<_>>());
            // The statement that was under way is there wholly or not at all, and can be given again.
            let mut client = cluster.connect(0).await;
            client.query(&format!("CREATE DATABASE IF NOT EXISTS k{kill}_{n}")).await.expect("it is decided");
            created.insert(format!("k{kill}_{n}"));
        }
        println!("{n_kills} kills, {} databases", created.len());
    });
}

#[test]
fn a_group_grows_to_five_and_shrinks_to_one_under_load() {
    alone(DEADLINE, async {
        let mut cluster = Coordinators::start(1, 1);
        let mut writers = Writers::new();
        writers.start(cluster.mysql_port(0));
        while cluster.nodes.len() < 5 {
            cluster.add();
        }
        let mut client = cluster.connect(0).await;
        has_voters(&mut client, "5").await;
        while cluster.running().len() > 1 {
            // The leader if it can be; the first one stays.
            let leader = cluster.leader().await;
            let gone = if leader == 0 { cluster.running()[1] } else { leader };
            // Asked of itself every other time, it asks another.
            let asked = if gone % 2 == 0 { gone } else { 0 };
            let mut client = cluster.connect(asked).await;
            let removed = client.query(&format!("ALTER CLUSTER REMOVE NODE '{}'", node_name(gone))).await;
            removed.unwrap_or_else(|error| panic!("{} was not removed: {error}", node_name(gone)));
            cluster.ended(gone).await;
        }
        has_voters(&mut client, "1").await;
        let (created, failed) = writers.end().await;
        assert_eq!(failed, 0, "a statement failed at a coordinator that was there all the time");
        has_all(&cluster, 0, &created).await;
        let error = client.query("ALTER CLUSTER REMOVE NODE 'coordinator-0'").await.expect_err("it is the only one");
        assert!(error.message.contains("only coordinator"), "{error}");
        let error = client.query("ALTER CLUSTER REMOVE NODE 'nobody'").await.expect_err("there is none");
        assert!(error.message.contains("nobody"), "{error}");
        println!("{} databases were created meanwhile", created.len());
    });
}

#[test]
fn many_tables_open_fast_and_stay_small() {
    const CLIENTS: u64 = 8;
    let n_tables = number_from_env("SHEAF_TABLES", 2_000);
    alone(DEADLINE, async {
        let mut cluster = Coordinators::start(1, 0);
        std::fs::write(cluster.node(0).dir().join("t.csv"), "1,b,0.5,2026-01-01\n").expect("a file can be written");
        let (port, start) = (cluster.mysql_port(0), Instant::now());
        let mut tasks = JoinSet::new();
        for no in 0..CLIENTS {
            tasks.spawn(async move {
                let mut client = Client::connect(port, Some("default")).await.expect("it runs");
                for table in (no..n_tables).step_by(CLIENTS as usize) {
                    let columns = "(a BIGINT, b VARCHAR, c DOUBLE, d DATE)";
                    let sql = format!("CREATE EXTERNAL TABLE t{table} {columns} STORED AS CSV LOCATION 't.csv'");
                    client.query(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("all tables are created");
        }
        let created = start.elapsed();
        cluster.kill(0);
        let start = Instant::now();
        cluster.restart(0);
        let opened = start.elapsed();
        let mut client = cluster.connect(0).await;
        client.query("USE `default`").await.expect("the default database");
        let mut times = Vec::new();
        for _ in 0..5 {
            let start = Instant::now();
            let tables = client.query("SHOW TABLES").await.expect("tables are shown");
            times.push(start.elapsed());
            assert_eq!(tables.rows.len() as u64, n_tables);
        }
        let shown = percentile(&mut times, 50);
        let memory = cluster.node(0).memory("VmRSS").unwrap_or(0);
        println!(
            "{n_tables} tables: created in {created:?}, started in {opened:?}, SHOW TABLES {shown:?}, {} MiB resident",
            memory >> 20
        );
        assert!(memory <= 200 << 20, "{} MiB are resident", memory >> 20);
        assert!(!is_full() || opened <= Duration::from_secs(3), "the start took {opened:?}");
        assert!(!is_full() || shown <= Duration::from_millis(50), "SHOW TABLES took {shown:?}");
    });
}

#[test]
fn a_backup_begins_a_new_cluster() {
    alone(DEADLINE, async {
        let mut cluster = Coordinators::start(1, 0);
        let mut client = cluster.connect(0).await;
        client.query("CREATE DATABASE kept").await.expect("DDL");
        let dir = cluster.dir().to_owned();
        let file = dir.join("backup.txt");
        let meta = |command: &str, node: usize| {
            let mut meta = Command::new(binary::sheaf());
            meta.args(["meta", command, "--file"]).arg(&file);
            let output = meta.arg("--data-dir").arg(dir.join(node_name(node))).output();
            let output = output.expect("it can be started");
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (exported, errors) = meta("export", 0);
        assert!(!exported && errors.contains("in use"), "a server has it: {errors}");
        let mut stopped = cluster.nodes[0].take().expect("it ran");
        stopped.stop(Duration::from_secs(15));
        for (command, node) in [("export", 0), ("import", 1)] {
            let (done, errors) = meta(command, node);
            assert!(done, "{command}: {errors}");
        }
        let (imported, errors) = meta("import", 1);
        assert!(!imported && errors.contains("already"), "{errors}");
        // Nobody runs whom it could join: it begins with what was imported, and others join it.
        cluster.add();
        cluster.add();
        for index in [1, 2] {
            assert!(databases(&mut cluster.connect(index).await).await.contains("kept"));
        }
    });
}

/// What the coordinators counted: commands that they applied, and flushes.
async fn counted(cluster: &Coordinators) -> Vec<(f64, f64)> {
    let mut all = vec![];
    for index in cluster.running() {
        let node = cluster.node(index);
        let commands = metric(node, "sheaf_metadata_commands_total").await;
        all.push((commands, metric(node, "sheaf_metadata_flushes_total").await));
    }
    all
}

#[test]
fn ddl_costs_few_flushes() {
    const STATEMENTS: u32 = 100;
    alone(DEADLINE, async {
        let cluster = Coordinators::start(3, 0);
        let mut client = cluster.connect(cluster.leader().await).await;
        client.query("CREATE DATABASE first").await.expect("DDL");
        let before = counted(&cluster).await;
        let mut ddl = Vec::new();
        for n in 0..STATEMENTS {
            let start = Instant::now();
            client.query(&format!("CREATE DATABASE d{n}")).await.expect("DDL");
            ddl.push(start.elapsed());
        }
        // All have applied the last one; a flush more may be of a leader's election, or of a node that enters itself.
        let start = Instant::now();
        let per_command: Vec<f64> = loop {
            let after = counted(&cluster).await;
            let since = before.iter().zip(&after).map(|(before, after)| (after.0 - before.0, after.1 - before.1));
            let since: Vec<(f64, f64)> = since.collect();
            if since.iter().all(|it| it.0 >= f64::from(STATEMENTS)) {
                break since.into_iter().map(|(commands, flushes)| flushes / commands).collect();
            }
            assert!(start.elapsed() < PATIENCE, "they applied {since:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let mut file = File::create(cluster.dir().join("flushed")).expect("a file can be made");
        let mut flushes = Vec::new();
        for _ in 0..STATEMENTS {
            file.write_all(&[7; 4096]).expect("a file can be written");
            let start = Instant::now();
            file.sync_data().expect("a file can be flushed");
            flushes.push(start.elapsed());
        }
        let (ddl, flush) = (percentile(&mut ddl, 50), percentile(&mut flushes, 50));
        println!(
            "DDL on three replicas: p50 {ddl:?}; fdatasync of the same disk: p50 {flush:?}; flushes of each replica for a \
             command: {per_command:.2?}"
        );
        assert!(per_command.iter().all(|it| *it <= 2.0), "flushes for a command: {per_command:?}");
        assert!(!is_full() || ddl <= 4 * flush, "DDL takes {ddl:?}, a flush {flush:?}");
    });
}

/// A folder of metadata to which many commands came, and the server on it.
#[test]
fn many_commands_open_fast_and_stay_small() {
    use sheaf_common::definitions::{Change, IfExists, Object};
    use sheaf_server::metadata::MetadataNode;
    use sheaf_server::metadata::replica::Options;
    use sheaf_server::metadata::store::sled_store::{RewriteOptions, SledStore};
    use sheaf_server::metadata::transport::Alone;
    /// As many at a time: they share flushes.
    const AT_ONCE: u64 = 500;
    const SETTINGS: u64 = 1_000;
    const FULL: u64 = 1_000_000;
    let n_commands = number_from_env("SHEAF_COMMANDS", 20_000);
    alone(Duration::from_secs(1200), async {
        let mut cluster = Coordinators::start(1, 0);
        cluster.connect(0).await.query("CREATE DATABASE kept").await.expect("DDL");
        let mut stopped = cluster.nodes[0].take().expect("it ran");
        stopped.stop(PATIENCE);
        let folder = stopped.dir().join("metadata");
        let before = sheaf_tests::cluster::folder_bytes(&folder);
        let start = Instant::now();
        // Fewer commands make less garbage: then less of it is enough for a rewrite.
        let rewrite = match n_commands < FULL {
            true => RewriteOptions { file_bytes_min: 2 << 20, times_live: 2, ..RewriteOptions::default() },
            false => RewriteOptions::default(),
        };
        let store = Box::new(SledStore::open_with(&folder, rewrite).expect("nobody else has it"));
        let node = MetadataNode::start(store, Options::new(u64::MAX), |_, _| Alone).expect("it can be opened");
        for first in (0..n_commands).step_by(AT_ONCE as usize) {
            let change = |n: u64| {
                let name = format!("many.{}", n % SETTINGS);
                let change = Change::create(Object::setting(name), format!("value {n}"), IfExists::Replace);
                node.change(vec![change], PATIENCE)
            };
            let all = (first..n_commands.min(first + AT_ONCE)).map(change);
            for applied in futures::future::join_all(all).await {
                applied.expect("a command");
            }
        }
        let applied = start.elapsed();
        // While it rests, too.
        let start = Instant::now();
        let is_rewritten = || folder.join("CURRENT").exists();
        while !is_rewritten() {
            assert!(start.elapsed() < PATIENCE, "{n_commands} commands, and the store was never rewritten");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        node.stop(PATIENCE).await;
        drop(node);
        let bytes = sheaf_tests::cluster::folder_bytes(&folder);
        let start = Instant::now();
        cluster.restart(0);
        let opened = start.elapsed();
        let mut client = cluster.connect(0).await;
        assert!(databases(&mut client).await.contains("kept"));
        // What the last command of a setting said is there, whichever folder it was written to first.
        let mut stopped = cluster.nodes[0].take().expect("it ran");
        let memory = stopped.memory("VmRSS").unwrap_or(0);
        stopped.stop(PATIENCE);
        let found = sheaf_server::metadata::backup::check(&folder).expect("every value is whole").definitions;
        let settings = found.settings().filter_map(|(name, record)| Some((name.strip_prefix("many.")?, record)));
        let settings: Vec<(u64, &str)> =
            settings.map(|(no, record)| (no.parse().expect("a number"), record.definition.as_str())).collect();
        assert_eq!(settings.len() as u64, SETTINGS.min(n_commands));
        for (no, value) in settings {
            let last = (0..n_commands).rev().find(|n| n % SETTINGS == no).expect("it was set");
            assert_eq!(value, format!("value {last}"), "many.{no}");
        }
        println!(
            "{n_commands} commands: applied in {applied:?}, started in {opened:?}, {} MiB resident, {} MiB on disk ({} \
             before)",
            memory >> 20,
            bytes >> 20,
            before >> 20
        );
        // A command leaves 1 to 2 KiB in sled's log; what is alive has 300 bytes for each of the last 100,000 at most.
        let most = if n_commands < FULL { 24 << 20 } else { 250 << 20 };
        assert!(bytes <= most, "{} MiB are on disk", bytes >> 20);
        assert!(memory <= 200 << 20, "{} MiB are resident", memory >> 20);
        assert!(!is_full() || opened <= Duration::from_secs(3), "the start took {opened:?}");
    });
}

#[test]
fn a_stranger_gets_nothing() {
    alone(DEADLINE, async {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let server = |name: &str| {
            let mut command = Command::new(binary::sheaf());
            command.args(["server", "--data-dir"]).arg(dir.path().join(name)).current_dir(dir.path());
            for listen in ["--flight-listen", "--http-listen", "--mysql-listen"] {
                command.args([listen, "127.0.0.1:0"]);
            }
            command.args(["--role", "coordinator", "--join-timeout", "2s"]);
            command
        };
        let mut first = server("first");
        first.args(["--secret", "a long enough secret of ours"]);
        let mut first = sheaf_tests::cluster::spawn(first, &dir.path().join("first.log"));
        let file = dir.path().join("first/node.json");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !file.exists() {
            assert!(Instant::now() < deadline, "the first did not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let text = std::fs::read_to_string(&file).expect("its file");
        let node: serde_json::Value = serde_json::from_str(&text).expect("its file is JSON");
        let flight = node["flight"].as_str().expect("a Flight address");
        for secret in [None, Some("not the secret of this cluster")] {
            let mut stranger = server("stranger");
            stranger.args(["--join", flight]).args(secret.iter().flat_map(|it| ["--secret", *it]));
            let output = stranger.output().expect("it can be started");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && errors.contains("secret"), "{errors}");
            assert!(!dir.path().join("stranger/node.json").exists(), "it took part");
        }
        first.kill().and_then(|()| first.wait()).expect("it ran until now");
    });
}
