//! A coordinator's list of the cluster's nodes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use sheaf_common::config::Role;
use sheaf_planners::reschedule::{Worker, WorkerResolver};
use tokio::sync::watch;
use tracing::{info, warn};

use super::links::Coordinators;
use super::messages::{ClusterMessage, CoordinatorMessage, MemberMessage};
use super::{MembershipError, Node, NodeMessage};

/// What the coordinator believes of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberState {
    Live,
    /// Finishes what it has and takes nothing new; then it leaves.
    Draining,
    /// Heartbeats stayed away, or its links broke; why stands in `reason`.
    Lost {
        reason: String,
    },
    /// It said good-bye.
    Left,
}

/// One node as the coordinator knows it.
#[derive(Debug, Clone)]
pub struct Member {
    pub node: Node,
    pub state: MemberState,
    /// Since the last sign of life; zero for the coordinator itself.
    pub silent_for: Duration,
}

struct Entry {
    node: Node,
    state: MemberState,
    heard: Instant,
}

impl Entry {
    /// Whether signs of life are expected of it.
    fn is_there(&self) -> bool {
        matches!(self.state, MemberState::Live | MemberState::Draining)
    }
}

/// Nodes that are gone stay listed for so long, for those who look what happened.
const GONE_KEPT: Duration = Duration::from_secs(600);
/// A name changes hands when its owner has missed this part of the time after which it would be lost.
const NAME_HELD_DIVISOR: u32 = 3;

/// The nodes of the cluster, the coordinator itself among them.
pub struct Registry {
    own: Node,
    role: Role,
    lost_after: Duration,
    /// Guards the other nodes, by name. Never held over an await.
    entries: Mutex<BTreeMap<String, Entry>>,
    /// By name. Never held over an await.
    coordinators: Mutex<Coordinators>,
    /// Goes up with every change of who is live, or coordinator.
    view: watch::Sender<u64>,
}

impl Registry {
    /// A cluster of this node alone.
    pub fn new(own: Node, role: Role, lost_after: Duration) -> Self {
        Self {
            own,
            role,
            lost_after,
            entries: Mutex::default(),
            coordinators: Mutex::default(),
            view: watch::Sender::new(1),
        }
    }

    /// The node whose registry this is.
    pub fn own(&self) -> &Node {
        &self.own
    }

    /// Says which coordinators the cluster has, this one among them; workers are told.
    pub fn set_coordinators(&self, coordinators: Coordinators) {
        let mut known = self.coordinators.lock();
        if *known != coordinators {
            *known = coordinators;
            drop(known);
            self.changed();
        }
    }

    /// The coordinators of the cluster, this one among them.
    pub fn coordinators(&self) -> Coordinators {
        self.coordinators.lock().clone()
    }

    /// Tells when the set of live nodes changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.view.subscribe()
    }

    /// The live nodes that tasks may be placed on, ordered by name: those of this build.
    pub fn live_workers(&self) -> Vec<Node> {
        let own = self.role.runs_tasks().then(|| self.own.clone());
        own.into_iter().chain(self.live(|node| node.version == self.own.version)).collect()
    }

    /// The live nodes that get no tasks from here, since they run another build.
    pub fn of_other_builds(&self) -> Vec<Worker> {
        self.live(|node| node.version != self.own.version).into_iter().map(worker_of).collect()
    }

    fn live(&self, fits: impl Fn(&Node) -> bool) -> Vec<Node> {
        let entries = self.entries.lock();
        let live = entries.values().filter(|entry| entry.state == MemberState::Live && fits(&entry.node));
        live.map(|entry| entry.node.clone()).collect()
    }

    /// The workers that finish what they have.
    pub fn draining_workers(&self) -> Vec<Worker> {
        let entries = self.entries.lock();
        let draining = entries.values().filter(|entry| entry.state == MemberState::Draining);
        draining.map(|entry| worker_of(entry.node.clone())).collect()
    }

    /// The other nodes that are there, whether or not tasks may be placed on them.
    pub fn watched(&self) -> Vec<Node> {
        let entries = self.entries.lock();
        entries.values().filter(|entry| entry.is_there()).map(|entry| entry.node.clone()).collect()
    }

    /// Every node that is or lately was there, this one first.
    pub fn members(&self) -> Vec<Member> {
        let own = Member { node: self.own.clone(), state: MemberState::Live, silent_for: Duration::ZERO };
        let entries = self.entries.lock();
        let others = entries.values().map(|entry| Member {
            node: entry.node.clone(),
            state: entry.state.clone(),
            silent_for: entry.heard.elapsed(),
        });
        std::iter::once(own).chain(others).collect()
    }

    /// Whether a worker may join; says why not.
    pub fn admit(&self, node: &Node, now: Instant) -> Result<(), MembershipError> {
        if !self.role.takes_statements() {
            return Err(MembershipError::NotCoordinator { name: self.own.name.clone() });
        }
        let taken = |owner: &Node| MembershipError::NameTaken { name: owner.name.clone(), address: owner.address() };
        if node.name == self.own.name {
            return Err(taken(&self.own));
        }
        match self.entries.lock().get(&node.name) {
            // The same address cannot have two listeners: its owner before is gone.
            Some(owner)
                if owner.is_there()
                    && owner.node.incarnation != node.incarnation
                    && owner.node.address() != node.address()
                    && now.duration_since(owner.heard) < self.lost_after / NAME_HELD_DIVISOR =>
            {
                Err(taken(&owner.node))
            }
            _ => Ok(()),
        }
    }

    /// Adds a worker, or takes one back that was lost.
    pub fn join(&self, node: Node, now: Instant) -> Result<(), MembershipError> {
        self.admit(&node, now)?;
        let (build, is_same) = (&node.version, node.version == self.own.version);
        info!(worker = %node.id(), address = %node.address(), cores = node.cores, build, is_same, "worker joined");
        self.entries.lock().insert(node.name.clone(), Entry { node, state: MemberState::Live, heard: now });
        self.changed();
        Ok(())
    }

    /// Notes a sign of life. False when the worker has to join (again).
    pub fn heartbeat(&self, name: &str, incarnation: u64, draining: bool, now: Instant) -> bool {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(name).filter(|entry| entry.node.incarnation == incarnation && entry.is_there());
        let Some(entry) = entry else { return false };
        entry.heard = now;
        let begins_to_drain = draining && entry.state == MemberState::Live;
        if begins_to_drain {
            info!(worker = %entry.node.id(), "worker drains");
            entry.state = MemberState::Draining;
        }
        drop(entries);
        if begins_to_drain {
            self.changed();
        }
        true
    }

    /// Places nothing more on a worker that said that it drains.
    pub fn drain(&self, worker: &Node) {
        self.heartbeat(&worker.name, worker.incarnation, true, Instant::now());
    }

    /// The worker of a name that a statement gave, if it is there.
    pub fn worker(&self, name: &str) -> Option<Node> {
        self.watched().into_iter().find(|node| node.name == name)
    }

    /// Takes a worker's good-bye. One that is not known changes nothing.
    pub fn leave(&self, name: &str, incarnation: u64) {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(name).filter(|entry| entry.node.incarnation == incarnation) else { return };
        info!(worker = %entry.node.id(), "worker left");
        entry.state = MemberState::Left;
        drop(entries);
        self.changed();
    }

    /// Counts the worker of that [`Node::id`] as lost until it joins again. Returns whether it was live.
    pub fn report_lost(&self, node_id: &str, reason: &str) -> bool {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.values_mut().find(|entry| entry.is_there() && entry.node.id() == node_id) else {
            return false;
        };
        warn!(worker = node_id, reason, "worker lost");
        entry.state = MemberState::Lost { reason: reason.to_owned() };
        drop(entries);
        self.changed();
        true
    }

    /// Counts workers as lost that were silent for too long, and forgets those that are long gone.
    pub fn expire(&self, now: Instant) {
        let mut entries = self.entries.lock();
        let mut n_lost = 0;
        for entry in entries.values_mut() {
            let silent_for = now.duration_since(entry.heard);
            if entry.is_there() && silent_for >= self.lost_after {
                let reason = format!("no heartbeat for {:.1} s", silent_for.as_secs_f64());
                warn!(worker = %entry.node.id(), reason, "worker lost");
                entry.state = MemberState::Lost { reason };
                n_lost += 1;
            }
        }
        entries.retain(|_, entry| entry.is_there() || now.duration_since(entry.heard) < GONE_KEPT);
        drop(entries);
        if n_lost > 0 {
            self.changed();
        }
    }

    fn changed(&self) {
        self.view.send_modify(|view| *view += 1);
    }

    /// The cluster's state for a worker that has that of version `known_view`.
    pub(super) fn cluster(&self, known: bool, known_view: u64) -> ClusterMessage {
        let view = *self.view.borrow();
        let (members, coordinators) = match view == known_view {
            true => (Vec::new(), Coordinators::new()),
            false => (self.members(), self.coordinators()),
        };
        let coordinators = coordinators.into_iter();
        let members = members.iter().map(|member| MemberMessage {
            node: NodeMessage::from(&member.node),
            live: member.state == MemberState::Live,
        });
        ClusterMessage {
            known,
            coordinator: self.own.name.clone(),
            view,
            members: members.collect(),
            lost_after_ms: u64::try_from(self.lost_after.as_millis()).unwrap_or(u64::MAX),
            coordinators: coordinators
                .map(|(name, place)| CoordinatorMessage { name, host: place.host, port: u32::from(place.port) })
                .collect(),
        }
    }
}

fn worker_of(node: Node) -> Worker {
    Worker { id: node.id(), name: node.name, host: node.host, port: node.port, cores: node.cores }
}

impl WorkerResolver for Registry {
    fn workers(&self) -> Vec<Worker> {
        self.live_workers().into_iter().map(worker_of).collect()
    }

    fn report_lost(&self, worker_id: &str) {
        Registry::report_lost(self, worker_id, "a link to it broke");
    }

    fn lost(&self, worker_id: &str) -> Option<String> {
        if worker_id == self.own.id() {
            return None;
        }
        let entries = self.entries.lock();
        match entries.values().find(|entry| entry.node.id() == worker_id).map(|entry| &entry.state) {
            Some(MemberState::Live | MemberState::Draining) => None,
            Some(MemberState::Lost { reason }) => Some(reason.clone()),
            Some(MemberState::Left) => Some("it left the cluster".to_owned()),
            None => Some("it was started again, or is long gone".to_owned()),
        }
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        let views = self.watch();
        futures::stream::unfold(views, |mut views| async move { views.changed().await.ok().map(|()| ((), views)) })
            .boxed()
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("own", &self.own).field("view", &*self.view.borrow()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::VERSION;
    use super::*;

    const LOST_AFTER: Duration = Duration::from_secs(5);

    fn node(name: &str, incarnation: u64, port: u16) -> Node {
        Node {
            name: name.to_owned(),
            incarnation,
            host: "127.0.0.1".to_owned(),
            port,
            cores: 2,
            memory_bytes: 1 << 30,
            role: "worker".to_owned(),
            version: VERSION.to_owned(),
        }
    }

    fn registry(role: Role) -> Registry {
        Registry::new(node("c", 1, 1), role, LOST_AFTER)
    }

    fn live(registry: &Registry) -> Vec<String> {
        registry.live_workers().into_iter().map(|node| node.name).collect()
    }

    #[test]
    fn only_nodes_that_run_tasks_are_workers() {
        assert_eq!(live(&registry(Role::All)), ["c"]);
        assert!(live(&registry(Role::Coordinator)).is_empty());
        let cluster = registry(Role::Coordinator);
        cluster.join(node("w2", 3, 3), Instant::now()).unwrap();
        cluster.join(node("w1", 2, 2), Instant::now()).unwrap();
        assert_eq!(live(&cluster), ["w1", "w2"]);
        assert_eq!(cluster.members().len(), 3);
    }

    #[test]
    fn silence_loses_a_worker_until_it_joins_again() {
        let cluster = registry(Role::Coordinator);
        let start = Instant::now();
        cluster.join(node("w", 2, 2), start).unwrap();
        cluster.expire(start + LOST_AFTER - Duration::from_millis(1));
        assert_eq!(live(&cluster), ["w"]);
        cluster.expire(start + LOST_AFTER);
        assert!(live(&cluster).is_empty());
        assert!(matches!(cluster.members()[1].state, MemberState::Lost { .. }));
        assert!(!cluster.heartbeat("w", 2, false, start + LOST_AFTER), "who is lost has to join");
        cluster.join(node("w", 2, 2), start + LOST_AFTER).unwrap();
        assert!(cluster.heartbeat("w", 2, false, start + LOST_AFTER));
        assert_eq!(live(&cluster), ["w"]);
        assert!(!cluster.heartbeat("w", 3, false, start + LOST_AFTER), "another incarnation has to join");
        cluster.expire(start + 2 * LOST_AFTER);
        cluster.expire(start + 2 * LOST_AFTER + GONE_KEPT);
        assert_eq!(cluster.members().len(), 1, "what is long gone is forgotten");
    }

    #[test]
    fn a_reported_loss_is_of_one_incarnation() {
        let cluster = registry(Role::Coordinator);
        let worker = node("w", 2, 2);
        cluster.join(worker.clone(), Instant::now()).unwrap();
        assert!(!cluster.report_lost(&node("w", 9, 2).id(), "link broken"));
        assert_eq!(live(&cluster), ["w"]);
        let mut view = cluster.watch();
        view.mark_unchanged();
        assert!(cluster.report_lost(&worker.id(), "link broken"));
        assert!(view.has_changed().unwrap());
        assert!(live(&cluster).is_empty());
        assert!(!cluster.report_lost(&worker.id(), "link broken"), "lost already");
        assert_eq!(WorkerResolver::lost(&cluster, &worker.id()).as_deref(), Some("link broken"));
        cluster.join(node("w", 3, 2), Instant::now()).unwrap();
        assert!(WorkerResolver::lost(&cluster, &worker.id()).is_some(), "another incarnation is another worker");
        assert_eq!(WorkerResolver::lost(&cluster, &node("w", 3, 2).id()), None);
    }

    #[test]
    fn a_draining_worker_gets_no_tasks_and_is_there_until_it_leaves() {
        let cluster = registry(Role::Coordinator);
        let start = Instant::now();
        cluster.join(node("w", 2, 2), start).unwrap();
        let mut view = cluster.watch();
        view.mark_unchanged();
        assert!(cluster.heartbeat("w", 2, true, start));
        assert!(view.has_changed().unwrap() && live(&cluster).is_empty());
        assert_eq!(cluster.members()[1].state, MemberState::Draining);
        assert_eq!(cluster.worker("w"), Some(node("w", 2, 2)));
        assert!(cluster.heartbeat("w", 2, true, start + LOST_AFTER / 2), "it need not join again");
        cluster.expire(start + LOST_AFTER);
        assert_eq!(cluster.members()[1].state, MemberState::Draining, "it was heard");
        cluster.leave("w", 2);
        assert_eq!((cluster.worker("w"), &cluster.members()[1].state), (None, &MemberState::Left));
    }

    #[test]
    fn a_name_has_one_live_owner() {
        let cluster = registry(Role::Coordinator);
        let start = Instant::now();
        cluster.join(node("w", 2, 2), start).unwrap();
        let error = cluster.join(node("w", 3, 3), start).unwrap_err();
        assert_eq!(error.to_string(), "node name w belongs to the live worker at 127.0.0.1:2");
        assert!(cluster.join(node("c", 4, 4), start).is_err(), "the coordinator's own");
        cluster.join(node("w", 5, 2), start).expect("a restart on the same port");
        cluster.join(node("w", 6, 6), start + LOST_AFTER / 2).expect("a restart elsewhere, after some silence");
        assert_eq!(cluster.live_workers(), [node("w", 6, 6)]);
        cluster.leave("w", 5);
        assert_eq!(live(&cluster), ["w"], "an old incarnation's good-bye");
        cluster.leave("w", 6);
        assert!(live(&cluster).is_empty());
        assert!(!cluster.heartbeat("w", 6, false, start), "who left has to join");
    }

    #[test]
    fn workers_of_another_build_are_there_and_get_no_tasks() {
        let cluster = registry(Role::Coordinator);
        let old = Node { version: "0.0.9".to_owned(), ..node("old", 2, 2) };
        cluster.join(old.clone(), Instant::now()).unwrap();
        cluster.join(node("new", 3, 3), Instant::now()).unwrap();
        assert_eq!(live(&cluster), ["new"]);
        assert_eq!(WorkerResolver::workers(&cluster).len(), 1);
        assert_eq!(cluster.of_other_builds()[0].name, "old");
        assert_eq!(WorkerResolver::lost(&cluster, &old.id()), None);
        // It is started again as the same build.
        cluster.join(node("old", 4, 2), Instant::now()).unwrap();
        assert_eq!((live(&cluster).len(), cluster.of_other_builds().len()), (2, 0));
    }

    #[test]
    fn what_cannot_be_a_worker_is_refused() {
        let error = registry(Role::Worker).join(node("w", 2, 2), Instant::now()).unwrap_err();
        assert!(matches!(error, MembershipError::NotCoordinator { .. }), "{error}");
        assert!(Node::try_from(NodeMessage::from(&node("", 2, 2))).is_err());
        assert!(Node::try_from(NodeMessage::from(&node("w", 0, 2))).is_err());
    }

    #[test]
    fn members_are_sent_to_who_does_not_know_them() {
        let cluster = registry(Role::All);
        cluster.join(node("w", 2, 2), Instant::now()).unwrap();
        let state = cluster.cluster(true, 0);
        assert_eq!(state.members.iter().map(|member| member.node.name.as_str()).collect::<Vec<_>>(), ["c", "w"]);
        assert!(cluster.cluster(true, state.view).members.is_empty(), "nothing new");
        cluster.leave("w", 2);
        let left = cluster.cluster(true, state.view);
        assert!(!left.members[1].live && left.view > state.view);
    }
}
