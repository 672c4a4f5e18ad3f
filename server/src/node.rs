//! One node: put together from its configuration, run until it is told to stop, taken down in order.
//!
//! Two groups of threads: two that serve connections of other nodes, heartbeats and HTTP and never compute, so that they
//! answer however busy the node is; and as many as the node has cores, with large stacks, for queries and for the clients
//! that ask them.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sheaf_common::config::{HostPort, Role, ServerConfig};
use sheaf_common::telemetry::Metrics;
use sheaf_common::{Classify, WireError};
use sheaf_flight::{
    ClusterSecret, FlightClient, LinkSocket, NodeService, PooledChannels, WorkerAddress, WorkerOptions, WorkerState,
};
use sheaf_query::task::StageTaskRunner;
use sheaf_query::{Engine, EngineOptions};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::data_dir::{DataDir, NodeFile};
use crate::error::ServerError;
use crate::http::{self, Health, HttpSource};
use crate::machine;
use crate::membership::{
    FlightLink, JoinOptions, MemberClient, MembershipActions, Node, Registry, VERSION, watch_workers,
};
use crate::metrics::{self, Figures};
use crate::mysql::{MySqlOptions, MySqlServer, OpenAccounts};
use crate::stop;

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

/// Runs a node until SIGTERM, SIGINT, or the end of standard input where that was asked for. `ready` is told once
/// everything answers: for a worker, once it has joined.
///
/// Errs when the node cannot start, or when it loses what it cannot work without.
pub fn run(config: ServerConfig, options: RunOptions, ready: impl FnOnce(&NodeFile)) -> Result<(), ServerError> {
    config.validate()?;
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
fn advertised(config: &ServerConfig, flight_port: u16) -> HostPort {
    if let Some(advertise) = &config.advertise_address {
        return HostPort::new(&advertise.host, advertise.port.unwrap_or(flight_port));
    }
    if !config.flight_listen.is_unspecified() {
        return HostPort::new(&config.flight_listen.host, flight_port);
    }
    // Every interface is listened on: the one that leads to the coordinator is the one that the cluster shares.
    let towards = config.join.as_ref().and_then(|coordinator| local_ip_towards(coordinator).ok());
    HostPort::new(towards.unwrap_or_else(machine::host_name), flight_port)
}

/// The address of this machine on the way to another. Nothing is sent.
fn local_ip_towards(other: &HostPort) -> io::Result<String> {
    let target = (other.host.as_str(), other.port).to_socket_addrs()?.next();
    let target = target.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address"))?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip().to_string())
}

/// A node that runs.
struct Running {
    own: Node,
    role: Role,
    registry: Arc<Registry>,
    member: Option<Arc<MemberClient>>,
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
    stop::watch_signals(stop.clone())?;
    if options.stop_with_stdin {
        stop::watch_stdin(stop.clone());
    }
    metrics::describe();

    let flight_port = address_of(&ports.flight)?.port();
    let HostPort { host, port } = advertised(config, flight_port);
    let default_name = || format!("{}:{flight_port}", machine::host_name());
    let own = Node {
        name: config.node_name.clone().unwrap_or_else(default_name),
        incarnation: rand::random_range(1..=u64::MAX),
        host,
        port,
        cores,
        memory_bytes: config.memory.resolve(machine::memory_bytes()),
        role: config.role.to_string(),
        version: VERSION.to_owned(),
    };
    let secret = config.secret.as_ref().map(|secret| ClusterSecret::new(secret.expose()));
    let running = Running::new(config, options.metrics, data_dir, own, secret.clone(), compute.clone()).await?;
    let running = Arc::new(running);

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
    let actions = Arc::new(MembershipActions::new(running.registry.clone(), client.clone(), stop.clone()));
    let mut service = NodeService::new(running.worker.clone(), actions, secret);
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
    upkeep.spawn(watch_workers(running.registry.clone(), client));
    let mysql = ports.mysql.map(|listener| start_mysql(config, &running.engine, listener, &compute)).transpose()?;

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
    let outcome = match &running.member {
        // The membership ends in order with the token: leaving is part of it.
        Some(member) => {
            let mut announced = Ok(());
            tokio::select! {
                ended = member.run(stop.clone(), || announced = announce()) => {
                    ended.map_err(ServerError::from).and(announced)
                }
                ended = first_end(&mut services) => Err(ended),
            }
        }
        None => match announce() {
            Ok(()) => tokio::select! {
                () = stop.cancelled() => Ok(()),
                ended = first_end(&mut services) => Err(ended),
            },
            Err(error) => Err(error),
        },
    };

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
    stop_links.cancel();
    let links = async { while services.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LINKS_END, links).await;
    info!("stopped");
    outcome
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

/// Clients are served where queries run: their rows are encoded there too, and the links to other nodes stay free.
fn start_mysql(
    config: &ServerConfig,
    engine: &Arc<Engine>,
    listener: StdListener,
    compute: &Handle,
) -> Result<MySqlServer, ServerError> {
    let address = address_of(&listener)?;
    engine.announce("port", address.port().to_string());
    let accounts = Arc::new(OpenAccounts { other_machines: config.insecure });
    let options = MySqlOptions { coordinator_no: config.coordinator_no, accounts, ..MySqlOptions::new(address) };
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
        secret: Option<ClusterSecret>,
        compute: Handle,
    ) -> Result<Self, ServerError> {
        let registry = Arc::new(Registry::new(own.clone(), config.role, config.worker_lost_after));
        let channels = Arc::new(PooledChannels::new(Handle::current()));
        let client = Arc::new(FlightClient::new(channels.clone(), secret));
        let base_dir =
            std::env::current_dir().map_err(|source| ServerError::DataDir { path: PathBuf::from("."), source })?;
        let roots = if config.allow_root.is_empty() { vec![base_dir.clone()] } else { config.allow_root.clone() };
        let engine = Engine::new(EngineOptions {
            node_name: own.name.clone(),
            data_dir: data_dir.path().to_owned(),
            base_dir,
            allow_roots: std::iter::once(data_dir.path().to_owned()).chain(roots).collect(),
            cores: own.cores,
            memory_bytes: usize::try_from(own.memory_bytes).unwrap_or(usize::MAX),
            spill_bytes_max: config.spill_limit.0,
            coordinator_no: config.coordinator_no,
            workers: registry.clone(),
            client: client.clone(),
        })
        .await
        .map_err(|error| ServerError::Engine(WireError::new(error.code(), error.to_string())))?;
        let worker = config.role.runs_tasks().then(|| {
            let worker = WorkerState::new(WorkerOptions {
                address: WorkerAddress { node: own.id(), host: own.host.clone(), port: own.port },
                name: own.name.clone(),
                cores: own.cores,
                env: engine.runtime().clone(),
                runner: Arc::new(StageTaskRunner::new(engine.base_state().clone(), client.clone())),
                runtime: compute,
            });
            channels.set_local(&worker);
            worker
        });
        let member = config.join.as_ref().map(|coordinator| {
            let options = JoinOptions {
                coordinator: coordinator.to_string(),
                timeout: config.join_timeout,
                heartbeat_interval: config.heartbeat_interval,
            };
            let HostPort { host, port } = coordinator.clone();
            let link = FlightLink { client, coordinator: WorkerAddress { node: String::new(), host, port } };
            MemberClient::new(Box::new(link), own.clone(), options)
        });
        Ok(Self {
            own,
            role: config.role,
            registry,
            member,
            engine,
            worker,
            metrics,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
        })
    }

    fn status(&self) -> &'static str {
        if self.stopping.load(Ordering::Relaxed) {
            "stopping"
        } else if self.member.as_ref().is_none_or(|member| member.is_joined()) {
            "ready"
        } else {
            "joining"
        }
    }

    fn workers_live(&self) -> usize {
        match &self.member {
            Some(member) => usize::from(member.is_joined()),
            None => self.registry.live_workers().len(),
        }
    }

    fn figures(&self) -> Figures {
        let processes = self.engine.processes();
        let worker = self.worker.as_ref().map(|worker| worker.info()).unwrap_or_default();
        let runtime = self.engine.runtime();
        Figures {
            workers_live: self.workers_live(),
            uptime_s: self.started.elapsed().as_secs(),
            connections: processes.len(),
            queries_running: processes.iter().filter(|process| process.query_id.is_some()).count(),
            tasks: worker.tasks,
            leases: worker.queries,
            exchange_bytes: worker.exchange_bytes,
            memory_reserved_bytes: runtime.memory_pool.reserved(),
            memory_limit_bytes: self.engine.options().memory_bytes,
            spill_bytes: runtime.disk_manager.used_disk_space(),
        }
    }
}

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

    #[test]
    fn others_are_told_an_address_that_they_can_reach() {
        let config = ServerConfig::default();
        assert_eq!(advertised(&config, 7), HostPort::new("127.0.0.1", 7));
        let everywhere = ServerConfig { flight_listen: HostPort::new("0.0.0.0", 0), ..config };
        assert_eq!(advertised(&everywhere, 7).host, machine::host_name());
        let joining = ServerConfig { join: Some(HostPort::new("127.0.0.1", 9)), ..everywhere.clone() };
        assert_eq!(advertised(&joining, 7), HostPort::new("127.0.0.1", 7));
        let named = Advertise { host: "db-1".to_owned(), port: Some(9) };
        let told = ServerConfig { advertise_address: Some(named), ..everywhere };
        assert_eq!(advertised(&told, 7), HostPort::new("db-1", 9));
    }
}
