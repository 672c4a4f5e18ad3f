//! A node that runs tasks is a member with every coordinator: each counts it as live by its own heartbeats, so that all
//! know the same workers and none has to ask another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sheaf_common::config::HostPort;
use sheaf_flight::{FlightClient, WorkerAddress};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::client::{ControlLink, FlightLink, JoinOptions, MemberClient, SeedLink};
use super::places::Places;
use super::{MembershipError, Node};

/// Coordinators by name, with their Flight addresses.
pub type Coordinators = BTreeMap<String, HostPort>;

/// Before a coordinator is asked again that refused.
const PAUSE: Duration = Duration::from_secs(1);

/// How a member's links are made.
#[derive(Clone)]
pub struct LinkOptions {
    pub own: Node,
    pub client: Arc<FlightClient>,
    pub heartbeat_interval: Duration,
    pub join_timeout: Duration,
    /// Cancelled when this node takes no more queries.
    pub drain: CancellationToken,
}

impl LinkOptions {
    fn client_of(&self, place: &HostPort, coordinators: Arc<watch::Sender<Coordinators>>) -> Arc<MemberClient> {
        let HostPort { host, port } = place.clone();
        let coordinator = WorkerAddress { node: String::new(), host, port };
        let link = FlightLink { client: Arc::clone(&self.client), coordinator };
        self.client_over(Box::new(link), place.to_string(), coordinators)
    }

    fn client_over(
        &self,
        link: Box<dyn ControlLink>,
        coordinator: String,
        coordinators: Arc<watch::Sender<Coordinators>>,
    ) -> Arc<MemberClient> {
        let (timeout, heartbeat_interval) = (self.join_timeout, self.heartbeat_interval);
        let options = JoinOptions { coordinator, timeout, heartbeat_interval };
        MemberClient::new(link, self.own.clone(), options, coordinators, self.drain.clone())
    }
}

/// A member's links to all coordinators.
pub struct MemberLinks {
    options: LinkOptions,
    /// To the coordinator that a worker was told to join, or one of them.
    seed: Option<Arc<MemberClient>>,
    /// Whether that is always the same; if not, it may go over to one that has a link already.
    seed_is_fixed: bool,
    /// What the last answer of any coordinator, or this coordinator itself, says that there are.
    coordinators: Arc<watch::Sender<Coordinators>>,
    /// To the others, by name.
    links: Mutex<BTreeMap<String, Link>>,
}

struct Link {
    place: HostPort,
    client: Arc<MemberClient>,
    stop: CancellationToken,
}

impl MemberLinks {
    /// Links of a node that joins one of `seeds`, or that is told of coordinators by [`MemberLinks::tell`].
    pub fn new(options: LinkOptions, seeds: Option<Arc<Places>>) -> Arc<Self> {
        let coordinators = Arc::new(watch::Sender::new(Coordinators::new()));
        let seed_is_fixed = seeds.as_ref().is_some_and(|it| it.is_fixed());
        let seed = seeds.map(|places| {
            let name = places.to_string();
            let link = SeedLink::new(Arc::clone(&options.client), places);
            options.client_over(Box::new(link), name, Arc::clone(&coordinators))
        });
        Arc::new(Self { options, seed, seed_is_fixed, coordinators, links: Mutex::default() })
    }

    /// Says which coordinators there are.
    pub fn tell(&self, coordinators: Coordinators) {
        self.coordinators.send_if_modified(|known| {
            let is_news = *known != coordinators;
            *known = coordinators;
            is_news
        });
    }

    /// How many coordinators count this node as one of their workers, as far as this node knows.
    pub fn n_joined(&self) -> usize {
        let others = self.links.lock().values().filter(|link| link.client.is_joined()).count();
        others + usize::from(self.seed.as_ref().is_some_and(|it| it.is_joined()))
    }

    /// Joins the coordinator that this node was told to join, and all that it names, until `stop`. `ready` is called
    /// after the first join; at once where there is none to wait for.
    ///
    /// Errs when the first join did not succeed in time or was refused for good.
    pub async fn run(&self, stop: CancellationToken, ready: impl FnOnce()) -> Result<(), MembershipError> {
        let Some(seed) = &self.seed else {
            ready();
            self.follow(&stop, None).await;
            return Ok(());
        };
        let by_seed = stop.child_token();
        let mut ready = Some(ready);
        let joined = async {
            loop {
                let told = || ready.take().into_iter().for_each(|ready| ready());
                match seed.run(by_seed.clone(), told).await {
                    Ok(()) => return Ok(()),
                    Err(error) if ready.is_some() => return Err(error),
                    // Others may go on counting on this node, and this one may change its mind.
                    Err(error) => pause(&error, &by_seed).await,
                }
            }
        };
        let others = self.follow(&stop, Some(&by_seed));
        tokio::pin!(joined, others);
        // Each ends by the token, and takes leave of its coordinators first.
        tokio::select! {
            ended = &mut joined => {
                if ended.is_ok() {
                    others.await;
                }
                ended
            }
            () = &mut others => joined.await,
        }
    }

    /// Makes a link to each coordinator that is named, and ends those to the others; `by_seed` ends the seed's.
    async fn follow(&self, stop: &CancellationToken, by_seed: Option<&CancellationToken>) {
        let mut named = self.coordinators.subscribe();
        let mut tasks = JoinSet::new();
        loop {
            let wanted = named.borrow_and_update().clone();
            self.relink(wanted, stop, by_seed, &mut tasks);
            tokio::select! {
                changed = named.changed() => if changed.is_err() { break },
                () = stop.cancelled() => break,
                Some(_) = tasks.join_next() => {}
            }
        }
        // Good-byes.
        while tasks.join_next().await.is_some() {}
    }

    fn relink(
        &self,
        wanted: Coordinators,
        stop: &CancellationToken,
        by_seed: Option<&CancellationToken>,
        tasks: &mut JoinSet<()>,
    ) {
        let mut links = self.links.lock();
        links.retain(|name, link| {
            let stays = wanted.get(name) == Some(&link.place);
            if !stays {
                link.stop.cancel();
            }
            stays
        });
        let seed = self.seed.as_ref().filter(|_| self.seed_is_fixed && by_seed.is_some_and(|it| !it.is_cancelled()));
        let seed = seed.and_then(|it| it.coordinator());
        if let (Some(seed), Some(by_seed)) = (&seed, by_seed)
            && !wanted.is_empty()
            && !wanted.contains_key(seed)
        {
            by_seed.cancel();
        }
        for (name, place) in wanted {
            if name == self.options.own.name || Some(&name) == seed.as_ref() || links.contains_key(&name) {
                continue;
            }
            let client = self.options.client_of(&place, Arc::clone(&self.coordinators));
            let link_stop = stop.child_token();
            tasks.spawn(keep(Arc::clone(&client), link_stop.clone()));
            links.insert(name, Link { place, client, stop: link_stop });
        }
    }
}

/// Keeps one link up, whatever its coordinator says.
async fn keep(client: Arc<MemberClient>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = client.run(stop.clone(), || {}).await {
            pause(&error, &stop).await;
        }
    }
}

async fn pause(error: &MembershipError, stop: &CancellationToken) {
    warn!(%error, "a coordinator does not take this node as a worker, trying again");
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(PAUSE) => {}
    }
}
