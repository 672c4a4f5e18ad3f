//! A worker's side of membership: it joins, sends heartbeats, and says good-bye.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use sheaf_common::config::HostPort;
use sheaf_common::{ErrorCode, WireError};
use sheaf_flight::{FlightClient, WorkerAddress};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::links::Coordinators;
use super::messages::{
    ClusterMessage, CoordinatorMessage, HEARTBEAT, HeartbeatRequest, JOIN, JoinRequest, LEAVE, LeaveRequest,
};
use super::places::Places;
use super::{MembershipError, Node, NodeMessage};

/// How a worker asks its coordinator: one Flight action, one answer, with a deadline.
#[async_trait]
pub trait ControlLink: Send + Sync {
    async fn call(&self, action: &'static str, body: Bytes) -> Result<Bytes, WireError>;
}

/// The link that the other nodes are reached by as well.
pub struct FlightLink {
    pub client: Arc<FlightClient>,
    pub coordinator: WorkerAddress,
}

/// A coordinator that has not answered by then is asked again.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

#[async_trait]
impl ControlLink for FlightLink {
    async fn call(&self, action: &'static str, body: Bytes) -> Result<Bytes, WireError> {
        call_coordinator(&self.client, &self.coordinator, action, body).await
    }
}

async fn call_coordinator(
    client: &FlightClient,
    coordinator: &WorkerAddress,
    action: &str,
    body: Bytes,
) -> Result<Bytes, WireError> {
    client.call(coordinator, action, body, CALL_TIMEOUT).await.map_err(|mut error| {
        // To the links between nodes every other end is a worker; here it is the coordinator, which is named apart.
        if let Some((_, cause)) = error.message.split_once(" is lost: ") {
            error.message = cause.to_owned();
        }
        error
    })
}

/// The link to one of several coordinators: the one that answered last, or else whichever does.
pub struct SeedLink {
    client: Arc<FlightClient>,
    places: Arc<Places>,
    answered: Mutex<Option<HostPort>>,
}

impl SeedLink {
    pub fn new(client: Arc<FlightClient>, places: Arc<Places>) -> Self {
        Self { client, places, answered: Mutex::default() }
    }
}

#[async_trait]
impl ControlLink for SeedLink {
    /// Tries all in turn. Errs with what may pass, if one of them said such a thing.
    async fn call(&self, action: &'static str, body: Bytes) -> Result<Bytes, WireError> {
        let last = self.answered.lock().clone();
        let mut places = self.places.look_up().await;
        // First the one that knows this worker.
        places.sort_by_key(|place| Some(place) != last.as_ref());
        let mut failure: Option<WireError> = None;
        let n_places = places.len();
        for place in places {
            let (host, port) = (place.host.clone(), place.port);
            let coordinator = WorkerAddress { node: String::new(), host, port };
            match call_coordinator(&self.client, &coordinator, action, body.clone()).await {
                Ok(answer) => {
                    *self.answered.lock() = Some(place);
                    return Ok(answer);
                }
                Err(mut error) => {
                    if n_places > 1 {
                        error.message = format!("{place}: {}", error.message);
                    }
                    if failure.as_ref().is_none_or(is_final) {
                        failure = Some(error);
                    }
                }
            }
        }
        let none = || WireError::new(ErrorCode::WorkerLost, format!("{} has no addresses", self.places)).retryable();
        Err(failure.unwrap_or_else(none))
    }
}

/// How a worker joins.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// The coordinator's address, for messages.
    pub coordinator: String,
    /// After so long without success the worker gives up.
    pub timeout: Duration,
    pub heartbeat_interval: Duration,
}

/// The pause between two tries to join.
const RETRY: Duration = Duration::from_millis(250);
/// What goes on unchanged is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(3);
/// Good-bye is a courtesy: a coordinator that does not listen finds out by itself.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// A worker's link to its coordinator.
pub struct MemberClient {
    link: Box<dyn ControlLink>,
    own: Node,
    options: JoinOptions,
    joined: AtomicBool,
    /// Cancelled when this worker takes no more queries.
    drain: CancellationToken,
    /// The coordinator's name, once it has answered.
    coordinator: Mutex<Option<String>>,
    /// Which coordinators there are, as any of them last said.
    coordinators: Arc<watch::Sender<Coordinators>>,
}

/// What the coordinator last said.
struct Answered {
    view: u64,
    lost_after: Duration,
}

impl MemberClient {
    /// `coordinators` is told of those that the coordinator names; `drain` is cancelled when this worker takes no more
    /// queries, and the coordinator is told at once.
    pub fn new(
        link: Box<dyn ControlLink>,
        own: Node,
        options: JoinOptions,
        coordinators: Arc<watch::Sender<Coordinators>>,
        drain: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            link,
            own,
            options,
            joined: AtomicBool::new(false),
            coordinator: Mutex::default(),
            coordinators,
            drain,
        })
    }

    /// The coordinator's name, once it has answered.
    pub fn coordinator(&self) -> Option<String> {
        self.coordinator.lock().clone()
    }

    /// Whether the coordinator counts this worker as one of its own, as far as this worker knows.
    pub fn is_joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }

    /// Joins the coordinator, trying again until [`JoinOptions::timeout`], then keeps the membership alive until
    /// `stop`, and leaves. `ready` is called after the first join.
    ///
    /// Errs when the first join did not succeed in time or was refused for good. A coordinator that goes away later is
    /// waited for without end: it may be started again.
    pub async fn run(&self, stop: CancellationToken, ready: impl FnOnce()) -> Result<(), MembershipError> {
        let first = tokio::select! {
            first = self.join(Some(self.options.timeout)) => first?,
            () = stop.cancelled() => return Ok(()),
        };
        ready();
        let beats = self.beat(first);
        tokio::select! {
            result = beats => result?,
            () = stop.cancelled() => {}
        }
        self.leave().await;
        Ok(())
    }

    async fn join(&self, timeout: Option<Duration>) -> Result<Answered, MembershipError> {
        let body = Bytes::from(JoinRequest { node: NodeMessage::from(&self.own) }.encode_to_vec());
        let coordinator = &self.options.coordinator;
        let start = Instant::now();
        let mut logged: Option<Instant> = None;
        loop {
            let failure = match self.call(JOIN, body.clone()).await {
                Ok(answer) => {
                    info!(%coordinator, name = %answer.coordinator, nodes = answer.members.len(), "joined the cluster");
                    self.joined.store(true, Ordering::Relaxed);
                    return Ok(answered(&answer));
                }
                Err(error) => error,
            };
            if is_final(&failure) {
                return Err(MembershipError::Refused { coordinator: coordinator.clone(), message: failure.message });
            }
            let waited = start.elapsed();
            if timeout.is_some_and(|timeout| waited + RETRY >= timeout) {
                let message = failure.message;
                let waited_s = timeout.unwrap_or(waited).as_secs();
                return Err(MembershipError::JoinTimeout { coordinator: coordinator.clone(), waited_s, message });
            }
            if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
                logged = Some(Instant::now());
                let waited_s = waited.as_secs();
                warn!(%coordinator, waited_s, error = %failure.message, "cannot join yet, trying again");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Sends heartbeats without end, joining again where the coordinator asks for it.
    async fn beat(&self, first: Answered) -> Result<(), MembershipError> {
        let coordinator = &self.options.coordinator;
        let mut last = first;
        let mut logged: Option<Instant> = None;
        loop {
            // However seldom this worker was told to beat, the coordinator's patience decides.
            let interval = self.options.heartbeat_interval.min(last.lost_after / 4).max(Duration::from_millis(10));
            let draining = self.drain.is_cancelled();
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = self.drain.cancelled(), if !draining => {}
            }
            let request = HeartbeatRequest {
                name: self.own.name.clone(),
                incarnation: self.own.incarnation,
                view: last.view,
                draining: self.drain.is_cancelled(),
            };
            match self.call(HEARTBEAT, Bytes::from(request.encode_to_vec())).await {
                Ok(answer) if answer.known => {
                    if !self.joined.swap(true, Ordering::Relaxed) {
                        info!(%coordinator, "coordinator answers again");
                    }
                    if answer.view != last.view {
                        let live = answer.members.iter().filter(|member| member.live).count();
                        info!(view = answer.view, live, "the cluster changed");
                    }
                    last = answered(&answer);
                    logged = None;
                }
                Ok(_) => {
                    warn!(%coordinator, "coordinator does not count on this worker, joining again");
                    self.joined.store(false, Ordering::Relaxed);
                    last = self.join(None).await?;
                }
                Err(failure) if is_final(&failure) => {
                    return Err(MembershipError::Refused {
                        coordinator: coordinator.clone(),
                        message: failure.message,
                    });
                }
                Err(failure) => {
                    self.joined.store(false, Ordering::Relaxed);
                    if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
                        logged = Some(Instant::now());
                        warn!(%coordinator, error = %failure.message, "coordinator does not answer");
                    }
                }
            }
        }
    }

    async fn leave(&self) {
        let request = LeaveRequest { name: self.own.name.clone(), incarnation: self.own.incarnation };
        let call = self.link.call(LEAVE, Bytes::from(request.encode_to_vec()));
        match tokio::time::timeout(LEAVE_TIMEOUT, call).await {
            Ok(Ok(_)) => info!(coordinator = %self.options.coordinator, "left the cluster"),
            Ok(Err(error)) => info!(error = %error.message, "left without telling the coordinator"),
            Err(_) => info!("left without an answer of the coordinator"),
        }
        self.joined.store(false, Ordering::Relaxed);
    }

    async fn call(&self, action: &'static str, body: Bytes) -> Result<ClusterMessage, WireError> {
        let answer = self.link.call(action, body).await?;
        let answer = ClusterMessage::decode(answer).map_err(|error| {
            WireError::new(ErrorCode::InvalidArgument, format!("answer to {action} cannot be read: {error}"))
        })?;
        *self.coordinator.lock() = Some(answer.coordinator.clone());
        // None are named where nothing changed.
        if !answer.coordinators.is_empty() {
            let place = |it: &CoordinatorMessage| {
                Some((it.name.clone(), HostPort::new(&it.host, u16::try_from(it.port).ok()?)))
            };
            let named: Coordinators = answer.coordinators.iter().filter_map(place).collect();
            self.coordinators.send_if_modified(|known| {
                let is_news = *known != named;
                *known = named;
                is_news
            });
        }
        Ok(answer)
    }
}

/// Whether asking the same again cannot help: the secret or the version is wrong, or the other end is no coordinator.
fn is_final(error: &WireError) -> bool {
    matches!(
        error.code,
        ErrorCode::AccessDenied | ErrorCode::InvalidArgument | ErrorCode::Unsupported | ErrorCode::UnknownCommand
    )
}

fn answered(answer: &ClusterMessage) -> Answered {
    Answered { view: answer.view, lost_after: Duration::from_millis(answer.lost_after_ms) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::{MembershipActions, Registry, VERSION, watch_workers};
    use super::*;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use sheaf_common::config::Role;
    use sheaf_flight::worker::TaskStart;
    use sheaf_flight::{NodeActions, NodeService, PooledChannels, TaskReport, TaskRunner, WorkerOptions, WorkerState};
    use tokio::net::TcpListener;
    use tokio::runtime::Handle;
    use tokio::task::JoinSet;

    /// For workers that get no task.
    struct NoTasks;

    #[async_trait]
    impl TaskRunner for NoTasks {
        async fn run(&self, _: TaskStart) -> Result<TaskReport, WireError> {
            Err(WireError::new(ErrorCode::Internal, "no task was expected"))
        }
    }

    fn flight_client() -> Arc<FlightClient> {
        Arc::new(FlightClient::new(Arc::new(PooledChannels::new(Handle::current())), None))
    }

    /// A node's Flight port, served until it is dropped.
    struct Serving {
        node: Node,
        registry: Arc<Registry>,
        stop: CancellationToken,
        _tasks: JoinSet<()>,
    }

    static INCARNATIONS: Mutex<u64> = Mutex::new(0);

    async fn serving(name: &str, role: Role, version: &str, port: u16) -> Serving {
        // Whoever had the port before may need a moment to close it.
        let start = Instant::now();
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => break listener,
                Err(error) => assert!(start.elapsed() < PATIENCE, "port {port}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let incarnation = {
            let mut last = INCARNATIONS.lock();
            *last += 1;
            *last
        };
        let node = Node {
            name: name.to_owned(),
            incarnation,
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
            cores: 1,
            memory_bytes: 1,
            role: role.to_string(),
            version: version.to_owned(),
        };
        let registry = Arc::new(Registry::new(node.clone(), role, 10 * PATIENCE));
        let (client, stop) = (flight_client(), CancellationToken::new());
        let worker = WorkerState::new(WorkerOptions {
            address: super::super::actions::address(&node),
            name: name.to_owned(),
            cores: 1,
            env: Arc::new(RuntimeEnv::default()),
            runner: Arc::new(NoTasks),
            runtime: Handle::current(),
        });
        let actions: Arc<dyn NodeActions> =
            Arc::new(MembershipActions::new(registry.clone(), client.clone(), stop.clone(), CancellationToken::new()));
        let mut tasks = JoinSet::new();
        let service = NodeService::new(Some(worker), actions, None);
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(async move {
            service.serve(listener, stopped).await.unwrap();
        });
        tasks.spawn(watch_workers(registry.clone(), client));
        Serving { node, registry, stop, _tasks: tasks }
    }

    fn member(worker: &Node, port: u16, timeout: Duration) -> Arc<MemberClient> {
        let coordinator = WorkerAddress { node: String::new(), host: "127.0.0.1".to_owned(), port };
        let options = JoinOptions {
            coordinator: coordinator.to_string(),
            timeout,
            heartbeat_interval: Duration::from_millis(10),
        };
        let link = FlightLink { client: flight_client(), coordinator };
        MemberClient::new(Box::new(link), worker.clone(), options, Arc::default(), CancellationToken::new())
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn live(coordinator: &Serving) -> HashMap<String, u64> {
        coordinator.registry.live_workers().into_iter().map(|node| (node.name, node.incarnation)).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_worker_joins_outlives_its_coordinator_and_leaves() {
        let first = serving("c", Role::Coordinator, VERSION, 0).await;
        let port = first.node.port;
        let worker = serving("w", Role::Worker, VERSION, 0).await;
        let client = member(&worker.node, port, PATIENCE);
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (client, stop) = (client.clone(), stop.clone());
            async move { client.run(stop, || {}).await }
        });
        until("joined", || client.is_joined() && live(&first).contains_key("w")).await;

        first.registry.report_lost(&worker.node.id(), "said the test");
        until("joined again", || live(&first).contains_key("w")).await;

        drop(first);
        until("the coordinator is missed", || !client.is_joined()).await;
        let second = serving("c", Role::Coordinator, VERSION, port).await;
        until("joined the second", || live(&second).contains_key("w")).await;
        stop.cancel();
        running.await.unwrap().unwrap();
        until("left", || live(&second).is_empty()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_worker_that_is_gone_is_noticed_at_once() {
        let coordinator = serving("c", Role::Coordinator, VERSION, 0).await;
        let stops = serving("stops", Role::Worker, VERSION, 0).await;
        // Threads of its own, so that with them all its sockets are closed, as with a process. A listener's end would
        // leave the connections that it accepted.
        let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let dies = process.spawn(serving("dies", Role::Worker, VERSION, 0)).await.unwrap();
        for worker in [&dies, &stops] {
            member(&worker.node, coordinator.node.port, PATIENCE).join(None).await.unwrap();
        }
        assert_eq!(live(&coordinator).len(), 2);
        stops.stop.cancel();
        until("a stop is told", || live(&coordinator).len() == 1).await;
        process.shutdown_background();
        // Heartbeats would be waited for ten times as long.
        until("an end is seen", || live(&coordinator).is_empty()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_cannot_join_is_told_why() {
        let coordinator = serving("c", Role::Coordinator, VERSION, 0).await;
        let port = coordinator.node.port;
        let join = async |worker: &Node, port: u16| {
            let client = member(worker, port, Duration::from_millis(300));
            client.run(CancellationToken::new(), || {}).await.unwrap_err()
        };
        let old = serving("old", Role::Worker, "0.0.9", 0).await;
        let worker = serving("w", Role::Worker, VERSION, 0).await;
        let error = join(&worker.node, old.node.port).await;
        assert!(error.to_string().contains("node old is not a coordinator"), "{error}");

        let elsewhere = Node { port: old.node.port, ..worker.node.clone() };
        let error = join(&elsewhere, port).await;
        assert!(matches!(error, MembershipError::JoinTimeout { .. }), "{error}");
        assert!(error.to_string().contains("is its advertised address right"), "{error}");

        drop(coordinator);
        let error = join(&worker.node, port).await;
        assert!(matches!(error, MembershipError::JoinTimeout { .. }), "{error}");
        assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
    }
    #[tokio::test(flavor = "multi_thread")]
    async fn coordinators_are_tried_in_turn_and_names_followed() {
        let (first, second) =
            (serving("c1", Role::Coordinator, VERSION, 0).await, serving("c2", Role::Coordinator, VERSION, 0).await);
        let worker = serving("w", Role::Worker, VERSION, 0).await;
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        // Nobody, somebody who is no coordinator, and then two that are.
        let given = [nobody, worker.node.port, first.node.port, second.node.port];
        let places = Places::new(given.map(|port| HostPort::new("127.0.0.1", port)).to_vec());
        let options = JoinOptions {
            coordinator: places.to_string(),
            timeout: PATIENCE,
            heartbeat_interval: Duration::from_millis(10),
        };
        let link = SeedLink::new(flight_client(), Arc::new(places));
        let drain = CancellationToken::new();
        let client = MemberClient::new(Box::new(link), worker.node.clone(), options, Arc::default(), drain);
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (client, stop) = (client.clone(), stop.clone());
            async move { client.run(stop, || {}).await }
        });
        until("joined the first", || live(&first).contains_key("w")).await;
        assert!(live(&second).is_empty());
        drop(first);
        until("joined the second", || live(&second).contains_key("w")).await;
        stop.cancel();
        running.await.unwrap().unwrap();
        until("left", || live(&second).is_empty()).await;

        // A name of two addresses, of which one goes away.
        let names = Arc::new(super::super::places::tests::Fake::default());
        let ip = |last: u8| std::net::IpAddr::from([127, 0, 0, last]);
        names.0.lock().insert("coordinators", vec![ip(1), ip(9)]);
        let given = vec![HostPort::new("coordinators", second.node.port)];
        let link = SeedLink::new(flight_client(), Arc::new(Places::with_names(given, names)));
        let join = Bytes::from(JoinRequest { node: NodeMessage::from(&worker.node) }.encode_to_vec());
        link.call(JOIN, join).await.unwrap();
        assert!(live(&second).contains_key("w"));
        assert_eq!(link.answered.lock().as_ref().map(|it| it.host.clone()), Some("127.0.0.1".to_owned()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn workers_are_found_that_do_not_join() {
        let coordinator = serving("c", Role::Coordinator, VERSION, 0).await;
        let (first, second) =
            (serving("w1", Role::Worker, VERSION, 0).await, serving("w2", Role::Worker, VERSION, 0).await);
        let places = [&first, &second, &coordinator].map(|it| HostPort::new("127.0.0.1", it.node.port));
        let mut tasks = JoinSet::new();
        let places = Places::new(places.to_vec());
        tasks.spawn(super::super::discover_workers(coordinator.registry.clone(), flight_client(), places));
        until("both are found", || live(&coordinator).len() == 2).await;
        assert_eq!(live(&coordinator)["w1"], first.node.incarnation);
        second.stop.cancel();
        drop(second);
        until("one is gone", || live(&coordinator).len() == 1).await;
    }
}
