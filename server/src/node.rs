//! One node: put together from its configuration, run until it is told to stop, taken down in order.
//!
//! Two groups of threads: two that serve connections of other nodes, heartbeats and HTTP and never compute, so that they
//! answer however busy the node is; and as many as the node has cores, with large stacks, for queries and for the clients
//! that ask them.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use sheaf_common::config::{HostPort, Role, ServerConfig};
use sheaf_common::telemetry::Metrics;
use sheaf_common::{Classify, ErrorCode, WireError};
use sheaf_flight::admission::SLOTS_PER_CORE;
use sheaf_flight::service::unknown;
use sheaf_flight::{
    ClusterSecret, ClusterTls, ClusterTlsFiles, FlightClient, LinkSocket, NodeActions, NodeService, PooledChannels,
    WorkerAddress, WorkerOptions, WorkerState,
};
use sheaf_query::access;
use sheaf_query::catalog;
use sheaf_query::compaction;
use sheaf_query::definitions::{self, DefinitionStore, MemoryDefinitions};
use sheaf_query::replication::{NotReplicated, Replication};
use sheaf_query::system::{NodeRow, ReplicaRow};
use sheaf_query::task::StageTaskRunner;
use sheaf_query::{Engine, EngineOptions};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::data_dir::{DataDir, NodeFile};
use crate::error::ServerError;
use crate::http::{self, Cluster, ClusterNode, ClusterReplica, Health, HttpSource};
use crate::machine;
use crate::membership::{
    BUILD, Control, Coordinators, LOOKUP_TIMEOUT, LinkOptions, MemberLinks, MembershipActions, Node, Places, Registry,
    SessionActions, VERSION, discover_workers, watch_workers,
};
use crate::metadata::group::{Group, GroupActions, GroupOptions, Own, coordinators};
use crate::metrics::{self, Figures};
use crate::mysql::{MySqlOptions, MySqlServer};
use crate::stop;
use crate::tls;

/// What a node needs besides its configuration.
pub struct RunOptions {
    pub metrics: Metrics,
    /// Also stop when standard input ends.
    pub stop_with_stdin: bool,
}

const IO_THREADS: usize = 2;
/// Plans are walked by recursion: thousands of nested expressions must fit.
const COMPUTE_STACK_BYTES: usize = 16 << 20;
/// Connections that other nodes hold open are not waited for longer than this.
const LINKS_END: Duration = Duration::from_millis(500);
/// A leader that stops hands its office over within this.
const METADATA_END: Duration = Duration::from_secs(1);
/// How often a coordinator looks whether there are others now.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs a node until SIGTERM, SIGINT, or the end of standard input where that was asked for. `ready` is told once
/// everything answers: for a worker, once it has joined.
///
/// Errs when the node cannot start, or when it loses what it cannot work without.
pub fn run(config: ServerConfig, options: RunOptions, ready: impl FnOnce(&NodeFile)) -> Result<(), ServerError> {
    config.validate()?;
    sheaf_common::build::announce(config.test_build_id.as_deref().unwrap_or(BUILD));
    let data_dir = DataDir::open(&config.data_dir)?;
    let ports = Ports::bind(&config)?;
    let cores = if config.cores == 0 { machine::cores() } else { config.cores };
    let io = Builder::new_multi_thread().worker_threads(IO_THREADS).thread_name("sheaf-io").enable_all().build();
    let io = io.map_err(ServerError::Threads)?;
    let compute = Builder::new_multi_thread()
        .worker_threads(cores)
        .thread_name("sheaf-query")
        .thread_stack_size(COMPUTE_STACK_BYTES)
        .enable_all()
        .build()
        .map_err(ServerError::Threads)?;
    let result = io.block_on(serve(&config, options, &data_dir, ports, cores, compute.handle().clone(), ready));
    // What still runs there was cancelled: a poll that takes long must not hold the process.
    end(compute);
    end(io);
    result
}

fn end(runtime: Runtime) {
    runtime.shutdown_background();
}

/// The ports, taken before anything else is started.
struct Ports {
    mysql: Option<StdListener>,
    flight: StdListener,
    http: StdListener,
}

impl Ports {
    fn bind(config: &ServerConfig) -> Result<Self, ServerError> {
        let mysql = config.role.takes_statements();
        let mysql = mysql.then(|| listen("MySQL clients", &config.mysql_listen, "--mysql-listen")).transpose()?;
        let flight = listen("other nodes", &config.flight_listen, "--flight-listen")?;
        let http = listen("HTTP", &config.http_listen, "--http-listen")?;
        Ok(Self { mysql, flight, http })
    }
}

fn listen(what: &'static str, address: &HostPort, flag: &'static str) -> Result<StdListener, ServerError> {
    let bound = StdListener::bind((address.host.as_str(), address.port));
    let listener = bound.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    listener.map_err(|source| ServerError::Listen { what, address: address.clone(), flag, source })
}

/// A listener in the hands of the runtime around the call.
fn adopt(listener: StdListener) -> Result<TcpListener, ServerError> {
    TcpListener::from_std(listener).map_err(ServerError::Threads)
}

fn address_of(listener: &StdListener) -> Result<SocketAddr, ServerError> {
    listener.local_addr().map_err(ServerError::Threads)
}

/// The Flight address that other nodes are told.
async fn advertised(config: &ServerConfig, seeds: &Places, flight_port: u16) -> HostPort {
    if let Some(advertise) = &config.advertise_address {
        return HostPort::new(&advertise.host, advertise.port.unwrap_or(flight_port));
    }
    if !config.flight_listen.is_unspecified() {
        return HostPort::new(&config.flight_listen.host, flight_port);
    }
    // Every interface is listened on: the one that leads to the coordinator is the one that the cluster shares.
    for seed in seeds.look_up().await {
        if let Ok(Ok(ip)) = tokio::time::timeout(LOOKUP_TIMEOUT, local_ip_towards(&seed)).await {
            return HostPort::new(ip, flight_port);
        }
    }
    HostPort::new(machine::host_name(), flight_port)
}

/// The address of this machine on the way to another. Nothing is sent.
async fn local_ip_towards(other: &HostPort) -> io::Result<String> {
    let target = tokio::net::lookup_host((other.host.as_str(), other.port)).await?.next();
    let target = target.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address"))?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(socket.local_addr()?.ip().to_string())
}

/// A node that runs.
struct Running {
    own: Node,
    role: Role,
    /// Whether it was told whom to join.
    joins: bool,
    registry: Arc<Registry>,
    /// None on a node that runs no tasks.
    links: Option<Arc<MemberLinks>>,
    /// None on a worker.
    group: Option<Arc<Group>>,
    /// Whether this node does what it is there for.
    is_ready: AtomicBool,
    engine: Arc<Engine>,
    worker: Option<Arc<WorkerState>>,
    metrics: Metrics,
    started: Instant,
    stopping: AtomicBool,
}

async fn serve(
    config: &ServerConfig,
    options: RunOptions,
    data_dir: &DataDir,
    ports: Ports,
    cores: usize,
    compute: Handle,
    ready: impl FnOnce(&NodeFile),
) -> Result<(), ServerError> {
    let stop = CancellationToken::new();
    let drain = CancellationToken::new();
    stop::watch_signals(stop.clone(), drain.clone())?;
    if options.stop_with_stdin {
        stop::watch_stdin(stop.clone());
    }
    metrics::describe();

    let flight_port = address_of(&ports.flight)?.port();
    let seeds = Arc::new(Places::new(config.join.clone()));
    let HostPort { host, port } = advertised(config, &seeds, flight_port).await;
    let default_name = || format!("{}:{flight_port}", machine::host_name());
    let own = Node {
        name: config.node_name.clone().unwrap_or_else(default_name),
        incarnation: rand::random_range(1..=u64::MAX),
        host,
        port,
        cores,
        memory_bytes: config.memory.resolve(machine::memory_bytes()),
        role: config.role.to_string(),
        version: sheaf_common::build::id().to_owned(),
    };
    if config.role == Role::Worker && seeds.is_empty() {
        warn!("no --join: this worker waits for coordinators that were started with --workers");
    }
    let inside = Inside {
        secret: config.secret.as_ref().map(|secret| ClusterSecret::new(secret.expose())),
        tls: cluster_tls(config)?,
        seeds,
    };
    let running = Running::new(config, options.metrics, data_dir, own, &inside, compute.clone(), drain.clone()).await?;
    let running = Arc::new(running);
    let counting = Arc::downgrade(&running);
    running.engine.show_metrics(Box::new(move || counting.upgrade().map(|it| it.metrics()).unwrap_or_default()));

    let file = NodeFile {
        name: running.own.name.clone(),
        role: running.own.role.clone(),
        pid: std::process::id(),
        version: VERSION.to_owned(),
        mysql: ports.mysql.as_ref().map(address_of).transpose()?.map(|address| address.to_string()),
        flight: running.own.address(),
        http: address_of(&ports.http)?.to_string(),
    };

    // Links outlive queries: cancels and good-byes go over them.
    let stop_links = CancellationToken::new();
    let mut services = JoinSet::new();
    let client = running.engine.client().clone();
    let mut actions: Vec<Arc<dyn NodeActions>> = vec![
        Arc::new(MembershipActions::new(running.registry.clone(), client.clone(), stop.clone(), drain.clone())),
        Arc::new(SessionActions(running.engine.clone())),
    ];
    if let Some(group) = &running.group {
        actions.push(Arc::new(GroupActions(Arc::clone(group))));
    }
    let mut service =
        NodeService::new(running.worker.clone(), Arc::new(AllActions(actions)), inside.secret).with_tls(inside.tls);
    if running.worker.is_some() {
        // Without one, nodes of this host read over TCP.
        match LinkSocket::bind(data_dir.path()) {
            Ok(socket) => service = service.with_socket(socket),
            Err(error) => warn!(%error, data_dir = %data_dir.path().display(), "no Unix socket can be made"),
        }
    }
    let listener = adopt(ports.flight)?;
    let ended = stop_links.clone();
    services.spawn(async move {
        let result = service.serve(listener, ended.cancelled_owned()).await;
        ("the Flight service", result.map_err(|error| crate::error::chain(&error)))
    });
    let listener = adopt(ports.http)?;
    let (source, ended) = (running.clone(), stop_links.clone());
    services.spawn(async move {
        ("the HTTP service", http::serve(listener, source, ended).await.map_err(|error| error.to_string()))
    });
    // Ends when this function does.
    let mut upkeep = JoinSet::new();
    let (registry, every) = (running.registry.clone(), (config.worker_lost_after / 10).min(Duration::from_millis(250)));
    upkeep.spawn(async move {
        loop {
            tokio::time::sleep(every).await;
            registry.expire(Instant::now());
        }
    });
    if let Some(worker) = running.worker.clone().filter(|_| config.role == Role::Worker) {
        upkeep.spawn(leave_in_order(worker, drain.clone(), config.drain_timeout, stop.clone()));
    }
    upkeep.spawn(watch_workers(running.registry.clone(), client.clone()));
    if !config.workers.is_empty() {
        let places = Places::new(config.workers.clone());
        upkeep.spawn(discover_workers(running.registry.clone(), client, places));
    }
    if let Some(group) = running.group.clone() {
        upkeep.spawn({
            let group = Arc::clone(&group);
            async move { group.keep().await }
        });
        upkeep.spawn(follow_coordinators(running.clone()));
        let leads = {
            let group = Arc::clone(&group);
            move || {
                let group = Arc::clone(&group);
                async move { group.node().status().await.is_ok_and(|it| it.leader == it.replica) }
            }
        };
        upkeep.spawn_on(compaction::keep(running.engine.clone(), leads), &compute);
        tokio::select! {
            caught_up = group.caught_up(config.join_timeout) => caught_up?,
            () = stop.cancelled() => return Ok(()),
            () = drain.cancelled() => return Ok(()),
        }
        tokio::select! {
            begun = first_accounts(config, &running.engine) => begun?,
            () = stop.cancelled() => return Ok(()),
        }
    }
    let mut mysql = ports.mysql.map(|listener| start_mysql(config, &running.engine, listener, &compute)).transpose()?;

    let announce = || {
        let announced = data_dir.announce(&file);
        info!(
            node = %running.own.id(),
            role = %file.role,
            mysql = file.mysql.as_deref().unwrap_or("none"),
            flight = %file.flight,
            http = %file.http,
            cores,
            memory_bytes = running.own.memory_bytes,
            data_dir = %data_dir.path().display(),
            "ready"
        );
        ready(&file);
        announced
    };
    let mut announced = Ok(());
    let told = || {
        running.is_ready.store(true, Ordering::Relaxed);
        announced = announce();
        if announced.is_err() {
            stop.cancel();
        }
    };
    let member = async {
        match &running.links {
            // The membership ends in order with the token: leaving is part of it.
            Some(links) => links.run(stop.clone(), told).await.map_err(ServerError::from),
            None => {
                told();
                stop.cancelled().await;
                Ok(())
            }
        }
    };
    let outcome = tokio::select! {
        ended = member => ended,
        never = finish_statements(&running, mysql.as_mut(), &drain, config.drain_timeout, &stop) => match never {},
        ended = first_end(&mut services) => Err(ended),
        ended = metadata_end(&running, config.drain_timeout) => ended,
    };
    let outcome = outcome.and(announced);

    stop::force_after(config.stop_timeout);
    running.stopping.store(true, Ordering::Relaxed);
    for process in running.engine.processes() {
        // One that ended meanwhile is what is wanted.
        let _ = running.engine.kill(process.connection_id, false);
    }
    if let Some(mysql) = mysql {
        mysql.stop(config.stop_timeout).await;
    }
    if let Some(worker) = &running.worker {
        worker.cancel_all();
    }
    if let Some(group) = &running.group {
        group.node().stop(METADATA_END).await;
    }
    stop_links.cancel();
    let links = async { while services.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LINKS_END, links).await;
    info!("stopped");
    outcome
}

/// Once told to drain: no more statements, then the end of those that there are and of what others run here, then the
/// node's. Nothing on a worker.
async fn finish_statements(
    running: &Running,
    mysql: Option<&mut MySqlServer>,
    drain: &CancellationToken,
    timeout: Duration,
    stop: &CancellationToken,
) -> Infallible {
    if let Some(mysql) = mysql {
        drain.cancelled().await;
        running.stopping.store(true, Ordering::Relaxed);
        let statements = running.figures().queries_running;
        info!(statements, timeout_ms = timeout.as_millis(), "finishing the statements that run");
        let end = async {
            mysql.drain().await;
            if let Some(worker) = &running.worker {
                worker.admission().drain();
                worker.drained().await;
            }
        };
        if tokio::time::timeout(timeout, end).await.is_err() {
            let statements = running.figures().queries_running;
            warn!(statements, "statements did not end within --drain-timeout, they are ended now");
        }
        stop.cancel();
    }
    std::future::pending().await
}

/// Once told to drain: no more queries, then the end of those that there are, then the node's.
async fn leave_in_order(
    worker: Arc<WorkerState>,
    drain: CancellationToken,
    timeout: Duration,
    stop: CancellationToken,
) {
    drain.cancelled().await;
    worker.admission().drain();
    let queries = worker.admission().figures().queries;
    info!(queries, timeout_ms = timeout.as_millis(), "draining");
    if tokio::time::timeout(timeout, worker.drained()).await.is_err() {
        let queries = worker.admission().figures().queries;
        warn!(queries, "queries did not end within --drain-timeout, they are ended now");
    }
    stop.cancel();
}

/// The error of a service that ended though nobody stopped the node.
async fn first_end(services: &mut JoinSet<(&'static str, Result<(), String>)>) -> ServerError {
    match services.join_next().await {
        Some(Ok((what, Err(message)))) => ServerError::Ended { what, message },
        Some(Ok((what, Ok(())))) => ServerError::Ended { what, message: "it stopped listening".to_owned() },
        Some(Err(error)) => ServerError::Ended { what: "a service", message: error.to_string() },
        None => std::future::pending().await,
    }
}

/// Sees to it that somebody can log in, and that not everybody can. A coordinator that finds accounts and has nothing to
/// change of them starts without asking the others.
async fn first_accounts(config: &ServerConfig, engine: &Engine) -> Result<(), ServerError> {
    let access = engine.access();
    let root_password = config.root_password.as_ref().map(|it| it.expose());
    let begun = access::import::begin(access, &engine.options().data_dir, root_password, config.join_timeout).await;
    if !begun.map_err(|error| ServerError::Accounts(wire(&error)))? {
        return Ok(());
    }
    if !config.mysql_listen.is_loopback() && !config.insecure {
        // Root may have got a password since this node last ran.
        let caught_up = access.catch_up(config.join_timeout).await;
        if caught_up.is_err() || access.has_open_root() {
            return Err(ServerError::OpenRoot { address: config.mysql_listen.clone() });
        }
        return Ok(());
    }
    let reach = if config.insecure { "every client that reaches the port" } else { "every client of this machine" };
    warn!("root has no password: {reach} can do everything; ALTER USER root@localhost IDENTIFIED BY '…' sets one");
    Ok(())
}

fn wire(error: &(impl Classify + std::error::Error)) -> WireError {
    WireError::new(error.code(), crate::error::chain(error))
}

/// Waits until the metadata end. When they failed, nothing can be looked up, and what the disk has is not known; a
/// coordinator that was removed has nothing left to do but to let the statements end that it runs.
async fn metadata_end(running: &Running, patience: Duration) -> Result<(), ServerError> {
    let Some(group) = &running.group else { return std::future::pending().await };
    tokio::select! {
        message = group.node().ended() => Err(ServerError::Ended { what: "the metadata", message }),
        () = group.removed().cancelled_owned() => {
            info!("this coordinator was removed from the cluster");
            let _ = tokio::time::timeout(patience, statements_end(&running.engine)).await;
            Ok(())
        }
    }
}

/// Waits until no statement has run for a moment, so that the last ones are answered: also the one that removed the node.
async fn statements_end(engine: &Engine) {
    const QUIET: u32 = 2;
    let mut quiet = 0;
    while quiet < QUIET {
        tokio::time::sleep(LOOK_EVERY).await;
        let runs = engine.processes().iter().any(|process| process.statement.is_some());
        quiet = if runs { 0 } else { quiet + 1 };
    }
}

/// How nodes prove to each other that they belong, and where others are.
struct Inside {
    secret: Option<ClusterSecret>,
    tls: Option<Arc<ClusterTls>>,
    seeds: Arc<Places>,
}

/// The node's certificates for other nodes, if it has some.
fn cluster_tls(config: &ServerConfig) -> Result<Option<Arc<ClusterTls>>, ServerError> {
    let (Some(certificate), Some(key), Some(authority)) =
        (&config.cluster_tls_cert, &config.cluster_tls_key, &config.cluster_tls_ca)
    else {
        return Ok(None);
    };
    let (certificate, key, authority) = (certificate.clone(), key.clone(), authority.clone());
    let tls = ClusterTls::open(ClusterTlsFiles { certificate, key, authority });
    tls.map(Some).map_err(ServerError::ClusterTls)
}

/// Opens this node's part in the group of coordinators: what the data folder has, or a new one.
async fn open_group(
    config: &ServerConfig,
    data_dir: &Path,
    own: &Node,
    client: &Arc<FlightClient>,
    seeds: &Arc<Places>,
) -> Result<Arc<Group>, ServerError> {
    let group = Group::open(GroupOptions {
        dir: data_dir.join("metadata"),
        join: Some(Arc::clone(seeds)).filter(|it| !it.is_empty()),
        join_timeout: config.join_timeout,
        own: Own {
            name: own.name.clone(),
            host: own.host.clone(),
            port: own.port,
            role: own.role.clone(),
            version: own.version.clone(),
            coordinator_no: config.coordinator_no,
        },
        client: Arc::clone(client),
        runtime: Handle::current(),
    })
    .await?;
    if seeds.is_empty() {
        let begun = catalog::import::begin(group.node().as_ref(), data_dir, definitions::TIMEOUT).await;
        begun.map_err(|error| ServerError::Import(wire(&error)))?;
    }
    Ok(group)
}

/// The actions of several parts of a node.
struct AllActions(Vec<Arc<dyn NodeActions>>);

#[async_trait]
impl NodeActions for AllActions {
    async fn act(&self, name: &str, body: Bytes) -> Result<Bytes, WireError> {
        for actions in &self.0 {
            match actions.act(name, body.clone()).await {
                Err(error) if error.code == ErrorCode::UnknownCommand => {}
                answered => return answered,
            }
        }
        Err(unknown(name))
    }
}

/// Tells the workers, and this node's own links if it is one, which coordinators there are; without end.
async fn follow_coordinators(running: Arc<Running>) {
    let Some(group) = &running.group else { return };
    let mut known = None;
    loop {
        let definitions = group.node().read_local(|state| Arc::clone(state.definitions()));
        if known != Some(definitions.version()) {
            known = Some(definitions.version());
            let seated = coordinators(&definitions).filter(|(_, it)| it.replica != 0);
            let all: Coordinators =
                seated.map(|(name, it)| (name.to_owned(), HostPort::new(&it.host, it.port))).collect();
            running.registry.set_coordinators(all.clone());
            if let (Some(links), true) = (&running.links, running.worker.is_some()) {
                links.tell(all);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Clients are served where queries run: their rows are encoded there too, and the links to other nodes stay free.
fn start_mysql(
    config: &ServerConfig,
    engine: &Arc<Engine>,
    listener: StdListener,
    compute: &Handle,
) -> Result<MySqlServer, ServerError> {
    let address = address_of(&listener)?;
    engine.announce("port", address.port().to_string());
    let files = match (&config.tls_cert, &config.tls_key) {
        (Some(certificate), Some(key)) => tls::Files { certificate: certificate.clone(), key: key.clone() },
        _ => tls::Files::of_data_dir(&engine.options().data_dir, &machine::host_name())?,
    };
    engine.announce("have_ssl", "YES");
    engine.announce("have_openssl", "YES");
    engine.announce("require_secure_transport", if config.require_secure_transport { "1" } else { "0" });
    let options = MySqlOptions {
        tls: Some(files.acceptor()?),
        coordinator_no: engine.options().coordinator_no,
        lets_open_root_in: config.insecure,
        max_connections: config.max_connections,
        ..MySqlOptions::new(address)
    };
    let _compute = compute.enter();
    let listener = adopt(listener)?;
    MySqlServer::serve(listener, engine.clone(), options).map_err(ServerError::Threads)
}

impl Running {
    async fn new(
        config: &ServerConfig,
        metrics: Metrics,
        data_dir: &DataDir,
        own: Node,
        inside: &Inside,
        compute: Handle,
        drain: CancellationToken,
    ) -> Result<Self, ServerError> {
        let registry = Arc::new(Registry::new(own.clone(), config.role, config.worker_lost_after));
        let channels = Arc::new(PooledChannels::new(Handle::current()).with_tls(inside.tls.clone()));
        let client = Arc::new(FlightClient::new(channels.clone(), inside.secret.clone()));
        let base_dir =
            std::env::current_dir().map_err(|source| ServerError::DataDir { path: PathBuf::from("."), source })?;
        let roots = if config.allow_root.is_empty() { vec![base_dir.clone()] } else { config.allow_root.clone() };
        let group = match config.role.takes_statements() {
            true => Some(open_group(config, data_dir.path(), &own, &client, &inside.seeds).await?),
            false => None,
        };
        let replication: Arc<dyn Replication> = match &group {
            Some(group) => Arc::clone(group) as _,
            None => Arc::new(NotReplicated),
        };
        // A worker is asked for nothing that is kept.
        let definitions: Arc<dyn DefinitionStore> = match &group {
            Some(group) => Arc::clone(group.node()) as _,
            None => Arc::new(MemoryDefinitions::new().map_err(|error| ServerError::Engine(wire(&error)))?),
        };
        let engine = Engine::new(EngineOptions {
            node_name: own.name.clone(),
            data_dir: data_dir.path().to_owned(),
            table_root: match &config.table_root {
                Some(root) => root.clone(),
                None => data_dir.path().join("tables").display().to_string(),
            },
            base_dir,
            allow_roots: std::iter::once(data_dir.path().to_owned()).chain(roots).collect(),
            cores: own.cores,
            memory_bytes: usize::try_from(own.memory_bytes).unwrap_or(usize::MAX),
            test_functions: config.test_functions,
            task_slots: if config.task_slots == 0 { own.cores * SLOTS_PER_CORE } else { config.task_slots },
            spill_bytes_max: config.spill_limit.0,
            cache_dir: config.cache_dir.clone().unwrap_or_else(|| data_dir.path().join("cache")),
            cache_bytes_max: config.cache_size.0,
            coordinator_no: group.as_ref().map_or(config.coordinator_no, |it| it.coordinator_no()),
            workers: registry.clone(),
            cluster: Arc::new(Control::new(registry.clone(), client.clone(), definitions.clone())),
            client: client.clone(),
            definitions,
            replication,
        })
        .await
        .map_err(|error| ServerError::Engine(wire(&error)))?;
        let worker = config.role.runs_tasks().then(|| {
            let options = WorkerOptions {
                address: WorkerAddress { node: own.id(), host: own.host.clone(), port: own.port },
                name: own.name.clone(),
                cores: own.cores,
                env: engine.runtime().clone(),
                runner: Arc::new(
                    StageTaskRunner::new(engine.base_state().clone(), client.clone(), own.cores)
                        .with_faults(config.allow_fault_injection),
                ),
                runtime: compute,
            };
            let worker = WorkerState::with_admission(options, engine.admission().clone());
            channels.set_local(&worker);
            worker
        });
        let links = worker.is_some().then(|| {
            let options = LinkOptions {
                own: own.clone(),
                client,
                heartbeat_interval: config.heartbeat_interval,
                join_timeout: config.join_timeout,
                drain,
            };
            // A coordinator knows the others from the metadata.
            let seeds = Some(&inside.seeds).filter(|it| !it.is_empty() && !config.role.takes_statements());
            MemberLinks::new(options, seeds.cloned())
        });
        Ok(Self {
            own,
            role: config.role,
            joins: !config.join.is_empty(),
            registry,
            links,
            group,
            engine,
            worker,
            metrics,
            started: Instant::now(),
            is_ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        })
    }

    fn status(&self) -> &'static str {
        if self.stopping.load(Ordering::Relaxed) {
            "stopping"
        } else if self.engine.admission().is_draining() {
            "draining"
        } else if match (&self.links, self.role) {
            (Some(links), Role::Worker) if self.joins => links.n_joined() > 0,
            _ => self.is_ready.load(Ordering::Relaxed),
        } {
            "ready"
        } else {
            "joining"
        }
    }

    fn workers_live(&self) -> usize {
        match (&self.links, self.role) {
            (Some(links), Role::Worker) => usize::from(links.n_joined() > 0),
            _ => self.registry.live_workers().len(),
        }
    }

    fn figures(&self) -> Figures {
        let processes = self.engine.processes();
        let worker = self.worker.as_ref().map(|worker| worker.info()).unwrap_or_default();
        let runtime = self.engine.runtime();
        let admission = self.engine.admission().figures();
        Figures {
            workers_live: self.workers_live(),
            uptime_s: self.started.elapsed().as_secs(),
            connections: processes.len(),
            queries_running: processes.iter().filter(|process| process.query_id.is_some()).count(),
            queries_waiting: admission.waiting,
            slots_taken: admission.slots_taken,
            memory_promised_bytes: admission.memory_taken,
            queries_queued: self.engine.queued().len(),
            tasks: worker.tasks,
            leases: worker.queries,
            exchange_bytes: worker.exchange_bytes,
            memory_reserved_bytes: runtime.memory_pool.reserved(),
            memory_limit_bytes: self.engine.options().memory_bytes,
            spill_bytes: runtime.disk_manager.used_disk_space(),
        }
    }
}

#[async_trait]
impl HttpSource for Running {
    fn health(&self) -> Health {
        Health {
            status: self.status(),
            node: self.own.name.clone(),
            role: self.role.to_string(),
            version: VERSION.to_owned(),
            workers: self.workers_live(),
            uptime_s: self.started.elapsed().as_secs(),
        }
    }

    async fn cluster(&self) -> Result<Cluster, WireError> {
        let system = &self.engine.tables().system;
        let (nodes, replicas) = tokio::join!(system.nodes(), system.replicas());
        let node = |it: NodeRow| ClusterNode {
            name: it.name,
            role: it.role,
            state: it.state,
            address: HostPort::new(&it.host, it.port).to_string(),
            cores: it.cores,
            version: it.version,
        };
        let replica = |it: ReplicaRow| ClusterReplica {
            node: it.node,
            role: it.role,
            term: it.term,
            commit_index: it.commit,
            applied_index: it.applied,
        };
        Ok(Cluster {
            nodes: nodes?.into_iter().map(node).collect(),
            replicas: replicas?.into_iter().map(replica).collect(),
        })
    }

    fn metrics(&self) -> String {
        self.figures().publish();
        self.metrics.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sheaf_common::config::Advertise;

    #[test]
    fn a_port_in_use_is_named_with_the_flag_that_changes_it() {
        let taken = StdListener::bind("127.0.0.1:0").unwrap();
        let address = HostPort::new("127.0.0.1", taken.local_addr().unwrap().port());
        let error = listen("HTTP", &address, "--http-listen").unwrap_err();
        let text = crate::error::chain(&error);
        assert!(text.starts_with(&format!("cannot listen for HTTP on {address}")), "{text}");
        assert!(text.contains("--http-listen") && text.to_lowercase().contains("in use"), "{text}");
    }

    #[tokio::test]
    async fn others_are_told_an_address_that_they_can_reach() {
        let told =
            async |config: &ServerConfig, port: u16| advertised(config, &Places::new(config.join.clone()), port).await;
        let config = ServerConfig::default();
        assert_eq!(told(&config, 7).await, HostPort::new("127.0.0.1", 7));
        let everywhere = ServerConfig { flight_listen: HostPort::new("0.0.0.0", 0), ..config };
        assert_eq!(told(&everywhere, 7).await.host, machine::host_name());
        let joining = ServerConfig { join: vec![HostPort::new("127.0.0.1", 9)], ..everywhere.clone() };
        assert_eq!(told(&joining, 7).await, HostPort::new("127.0.0.1", 7));
        let named = Advertise { host: "db-1".to_owned(), port: Some(9) };
        let elsewhere = ServerConfig { advertise_address: Some(named), ..everywhere };
        assert_eq!(told(&elsewhere, 7).await, HostPort::new("db-1", 9));
    }
}
