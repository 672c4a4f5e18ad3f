//! The inside of a cluster: nodes that prove that they belong, find each other, and are replaced by another build, all
//! as real processes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use sheaf_common::settings::Settings;
use sheaf_common::{QueryId, StageId, TaskId};
use sheaf_flight::messages::{QueryRequest, TaskAddress, action};
use sheaf_flight::{ClusterTls, ClusterTlsFiles, FetchOptions, FlightClient, PooledChannels, WorkerAddress};
use sheaf_tests::cluster::DISTRIBUTE;
use sheaf_tests::coordinators::node_name;
use sheaf_tests::{Client, Coordinators, Failure, Table, alone, binary};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(120);
/// Reads over every link there is: a shuffle of both sides, then a gather.
const JOIN: &str = "SELECT count(*), sum(a.number) FROM numbers(200000) a JOIN \
                    (SELECT number * 2 AS even FROM numbers(100000)) b ON a.number = b.even";
const JOINED: [&str; 2] = ["100000", "9999900000"];

async fn run(client: &mut Client, sql: &str) -> Table {
    client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn connect_distributed(cluster: &Coordinators, index: usize) -> Client {
    let mut client = cluster.connect(index).await;
    for statement in DISTRIBUTE.into_iter().chain(["SET exchange_link = 'tcp'"]) {
        run(&mut client, statement).await;
    }
    client
}

async fn explain(client: &mut Client, sql: &str) -> String {
    run(client, &format!("EXPLAIN {sql}")).await.rows.concat().join("\n")
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An authority and what it signed, as files.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let pem = params.self_signed(&key).expect("it signs itself").pem();
        Self { params, key, pem }
    }

    /// Files of a node in a new folder, which trusts `trusted`.
    fn issue(&self, dir: &Path, trusted: &Authority) -> ClusterTlsFiles {
        let params = CertificateParams::new(vec!["node".to_owned()]).expect("it is a name");
        let key = KeyPair::generate().expect("a key can be made");
        let signed = params.signed_by(&key, &Issuer::new(self.params.clone(), &self.key)).expect("it can sign");
        std::fs::create_dir_all(dir).expect("a folder can be made");
        let file = |name: &str, text: &str| -> PathBuf {
            std::fs::write(dir.join(name), text).expect("a file can be written");
            dir.join(name)
        };
        ClusterTlsFiles {
            certificate: file("cert.pem", &signed.pem()),
            key: file("key.pem", &key.serialize_pem()),
            authority: file("ca.pem", &trusted.pem),
        }
    }
}

fn flags(files: &ClusterTlsFiles) -> Vec<String> {
    let flag = |name: &str, path: &Path| [format!("--cluster-tls-{name}"), path.display().to_string()];
    [flag("cert", &files.certificate), flag("key", &files.key), flag("ca", &files.authority)].concat()
}

/// Somebody who calls nodes, with or without a certificate.
fn caller(files: Option<ClusterTlsFiles>) -> Arc<FlightClient> {
    let tls = files.map(|files| ClusterTls::open(files).expect("the files are whole"));
    Arc::new(FlightClient::new(Arc::new(PooledChannels::new(Handle::current()).with_tls(tls)), None))
}

/// Asks a node for what a stranger wants: to read a stage's output, to run a plan, to join, to take part in the group.
/// Says which of them were answered by the node itself.
async fn answered(caller: &Arc<FlightClient>, port: u16) -> Vec<&'static str> {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let node = WorkerAddress { node: String::new(), host: "127.0.0.1".to_owned(), port };
    let mut answered = vec![];
    let cancel = sheaf_flight::messages::Message::encode(&QueryRequest { query: QueryId(1) }).expect("it is small");
    let actions = [
        action::SUBMIT_TASKS,
        action::OFFER_LINKS,
        action::WORKER_INFO,
        "sheaf.v1.Join",
        "sheaf.v1.JoinGroup",
        "sheaf.v1.Raft",
        "sheaf.v1.Standing",
        action::CANCEL_QUERY,
    ];
    for name in actions {
        let error = caller.call(&node, name, cancel.clone(), TIMEOUT).await.err();
        // Whoever is not let in gets no answer of the node's own.
        if error.is_none_or(|error| error.code != sheaf_common::ErrorCode::WorkerLost) {
            answered.push(name);
        }
    }
    let task = TaskId { query: QueryId(1), stage: StageId(0), task: 0, attempt: 0 };
    let options = FetchOptions { wait: Duration::from_millis(100), ..FetchOptions::of(&Settings::default()) };
    let mut rows = caller.fetch(TaskAddress { task, worker: node }, 0, options);
    match tokio::time::timeout(TIMEOUT, rows.next()).await {
        Ok(Some(Err(error))) if error.code == sheaf_common::ErrorCode::WorkerLost => {}
        _ => answered.push("fetch"),
    }
    answered
}

#[test]
fn with_certificates_only_those_who_have_one_belong() {
    alone(DEADLINE, async {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
        let files = ours.issue(&dir.path().join("node"), &ours);
        // One that has its certificate from others, and trusts us as we do.
        let foreign = theirs.issue(&dir.path().join("stranger"), &ours);
        let cluster = Coordinators::start_with(2, 2, flags(&files), None);

        // Metadata, plans and rows go as ever.
        run(&mut cluster.connect(0).await, "CREATE DATABASE here").await;
        for index in 0..2 {
            let mut client = connect_distributed(&cluster, index).await;
            run(&mut client, "USE here").await;
            assert_eq!(run(&mut client, JOIN).await.rows, [JOINED]);
            let analyzed = run(&mut client, &format!("EXPLAIN ANALYZE {JOIN}")).await.rows.concat().join("\n");
            assert!(analyzed.contains("tcp") && analyzed.contains("worker-1"), "{analyzed}");
        }

        // Who shows no certificate of the authority is let in nowhere.
        let ports: Vec<u16> = [cluster.node(0).ports().flight, cluster.workers[0].ports().flight].into();
        for port in &ports {
            for stranger in [None, Some(foreign.clone())] {
                let found = answered(&caller(stranger), *port).await;
                assert!(found.is_empty(), "a stranger is answered: {found:?}");
            }
            let found = answered(&caller(Some(files.clone())), *port).await;
            assert!(found.contains(&action::OFFER_LINKS), "a node is answered, found {found:?}");
        }
        for node in [cluster.node(0), &cluster.workers[0]] {
            let log = node.log();
            let refused = log.lines().filter(|line| line.contains("refused a stranger")).count();
            assert!(refused > 0 && log.contains("no certificate of the cluster's authority"), "{log}");
        }
        for (name, flags) in [("plain", vec![]), ("foreign", flags(&foreign))] {
            for role in ["worker", "coordinator"] {
                let mut stranger = Command::new(binary::sheaf());
                stranger.args(["server", "--data-dir"]).arg(dir.path().join(name)).current_dir(dir.path());
                for listen in ["--flight-listen", "--http-listen", "--mysql-listen"] {
                    stranger.args([listen, "127.0.0.1:0"]);
                }
                stranger
                    .args(["--role", role, "--join-timeout", "3s", "--join"])
                    .arg(format!("127.0.0.1:{}", ports[0]));
                let output = stranger.args(&flags).output().expect("it can be started");
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(!output.status.success(), "{name} {role}: {errors}");
                assert!(!dir.path().join(name).join("node.json").exists(), "{name} {role} took part");
            }
        }
        let mut client = cluster.connect(0).await;
        let nodes = run(&mut client, "SELECT count(*) FROM system.nodes").await;
        assert_eq!(nodes.cell(), "4", "only ours");
    });
}

#[test]
fn any_of_several_coordinators_is_joined() {
    alone(DEADLINE, async {
        let mut cluster = Coordinators::start(3, 0);
        // The first of the list is gone for now; nobody ever was at the second.
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free").local_addr();
        let nobody = nobody.expect("it was bound").port();
        let flight = |index: usize| cluster.node(index).ports().flight;
        let seeds: Vec<String> =
            [flight(0), nobody, flight(1), flight(2)].iter().map(|port| format!("127.0.0.1:{port}")).collect();
        cluster.kill(0);
        cluster.flags = vec!["--join".to_owned(), seeds.join(",")];
        let worker = cluster.start_worker(0);
        cluster.workers.push(worker);
        let late = cluster.add();
        cluster.flags.clear();
        cluster.restart(0);
        for index in [0, 1, 2, late] {
            let mut client = connect_distributed(&cluster, index).await;
            until("all know all", async || {
                let alive = run(&mut client, "SELECT count(*) FROM system.nodes WHERE state = 'alive'").await;
                alive.cell() == "5"
            })
            .await;
            assert_eq!(run(&mut client, JOIN).await.rows, [JOINED]);
        }
    });
}

#[test]
fn a_coordinator_finds_workers_by_a_list() {
    alone(DEADLINE, async {
        let mut cluster = Coordinators::start(0, 2);
        let ports: Vec<u16> = cluster.workers.iter().map(|it| it.ports().flight).collect();
        // By name, too.
        cluster.flags = vec!["--workers".to_owned(), format!("127.0.0.1:{},localhost:{}", ports[0], ports[1])];
        cluster.add();
        let mut client = connect_distributed(&cluster, 0).await;
        let workers = "SELECT name FROM system.nodes WHERE role = 'worker' AND state = 'alive' ORDER BY name";
        until("both are found", async || run(&mut client, workers).await.rows.len() == 2).await;
        assert_eq!(run(&mut client, JOIN).await.rows, [JOINED]);
        cluster.workers.remove(0).kill();
        until("one is missed", async || run(&mut client, workers).await.rows == [["worker-1"]]).await;
        assert_eq!(run(&mut client, JOIN).await.rows, [JOINED]);
    });
}

/// Clients of one coordinator that ask without a pause, and what did not go well.
#[derive(Default)]
struct Load {
    n_queries: AtomicU64,
    n_statements: AtomicU64,
    created: Mutex<BTreeSet<String>>,
    /// That a server said while it was not about to stop.
    errors: Mutex<Vec<String>>,
    /// By coordinator: it is being replaced.
    away: [AtomicBool; 3],
    stop: AtomicBool,
}

impl Load {
    fn note(&self, index: usize, sql: &str, error: &Failure) {
        // Without a server there is no answer; the client connects again.
        if !self.away[index].load(Ordering::Relaxed) {
            self.errors.lock().push(format!("coordinator {index}: {sql}: {error}"));
        }
    }

    async fn ask(self: Arc<Self>, index: usize, port: u16, writes: bool) {
        let mut client: Option<Client> = None;
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let Some(open) = &mut client else {
                client = Client::connect(port, None).await.ok();
                if let (Some(open), false) = (&mut client, writes) {
                    for statement in DISTRIBUTE {
                        let _ = open.query(statement).await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let name = format!("w{index}_{n}");
            let sql = if writes { format!("CREATE DATABASE {name}") } else { JOIN.to_owned() };
            match open.query(&sql).await {
                Ok(_) if writes => {
                    self.n_statements.fetch_add(1, Ordering::Relaxed);
                    self.created.lock().insert(name);
                }
                Ok(answer) => {
                    assert_eq!(answer.rows, [JOINED]);
                    self.n_queries.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    self.note(index, &sql, &error);
                    client = None;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Every node is replaced by another build, one after another, while clients ask all coordinators.
#[test]
fn a_rolling_upgrade_loses_nothing() {
    let build = |id: &str| ["--allow-fault-injection", "--test-build-id", id].map(str::to_owned).to_vec();
    alone(DEADLINE, async {
        let mut cluster = Coordinators::start_with(3, 2, build("0.1.0+old"), None);
        let load = Arc::new(Load::default());
        let mut clients = JoinSet::new();
        for index in 0..3 {
            for writes in [true, false] {
                clients.spawn(Arc::clone(&load).ask(index, cluster.mysql_port(index), writes));
            }
        }
        let states = async |cluster: &Coordinators, index: usize| {
            let mut client = cluster.connect(index).await;
            let sql = "SELECT state FROM system.nodes WHERE role = 'worker' ORDER BY name";
            run(&mut client, sql).await.rows.concat()
        };
        let settled = async |cluster: &Coordinators, index: usize, wanted: [&str; 2]| {
            until(&format!("coordinator {index} sees {wanted:?}"), async || states(cluster, index).await == wanted)
                .await;
        };
        settled(&cluster, 0, ["alive", "alive"]).await;
        cluster.flags = build("0.1.1+new");

        // The first worker: the others go on with the second, and say why the first gets nothing.
        cluster.replace_worker(0);
        for index in 0..3 {
            settled(&cluster, index, ["incompatible", "alive"]).await;
            let plan = explain(&mut connect_distributed(&cluster, index).await, JOIN).await;
            assert!(plan.contains("worker-1") && !plan.contains("worker-0"), "{plan}");
        }
        // A coordinator of the new build uses the worker of the new build.
        let replace = async |cluster: &mut Coordinators, index: usize| {
            load.away[index].store(true, Ordering::Relaxed);
            cluster.replace(index);
            // Sessions of before are gone; what comes now must go well.
            tokio::time::sleep(Duration::from_millis(200)).await;
            load.away[index].store(false, Ordering::Relaxed);
        };
        replace(&mut cluster, 0).await;
        settled(&cluster, 0, ["alive", "incompatible"]).await;
        let mut client = connect_distributed(&cluster, 0).await;
        let plan = explain(&mut client, JOIN).await;
        assert!(plan.contains("worker-0") && !plan.contains("worker-1"), "{plan}");
        assert_eq!(run(&mut client, JOIN).await.rows, [JOINED]);
        drop(client);
        // No worker of the old build is left: its coordinators run queries themselves.
        cluster.replace_worker(1);
        for index in [1, 2] {
            settled(&cluster, index, ["incompatible", "incompatible"]).await;
            let mut client = connect_distributed(&cluster, index).await;
            let plan = explain(&mut client, JOIN).await;
            assert!(plan.contains("no worker runs this build (0.1.0+old), 2 run another"), "{plan}");
            assert_eq!(run(&mut client, JOIN).await.rows, [JOINED]);
        }
        for index in [1, 2] {
            replace(&mut cluster, index).await;
        }
        for index in 0..3 {
            settled(&cluster, index, ["alive", "alive"]).await;
        }
        load.stop.store(true, Ordering::Relaxed);
        while let Some(client) = clients.join_next().await {
            client.expect("every answer was right");
        }
        let created = load.created.lock().clone();
        for index in 0..3 {
            let mut client = cluster.connect(index).await;
            let rows = run(&mut client, "SHOW DATABASES").await.rows;
            let found: BTreeSet<String> = rows.into_iter().flatten().collect();
            let lost: Vec<_> = created.difference(&found).collect();
            assert!(lost.is_empty(), "{} lost {lost:?}", node_name(index));
            // Each enters its own a moment after it is back.
            let builds = "SELECT DISTINCT version FROM system.nodes";
            until("all are new", async || run(&mut client, builds).await.rows == [["0.1.1+new"]]).await;
        }
        let (queries, statements) = (load.n_queries.load(Ordering::Relaxed), load.n_statements.load(Ordering::Relaxed));
        println!("{queries} queries and {statements} statements of DDL while five nodes were replaced");
        assert!(queries > 0 && statements > 0, "no load: {queries} queries, {statements} statements");
        let errors = load.errors.lock();
        assert!(errors.is_empty(), "{} failed: {errors:?}", errors.len());
    });
}
