//! Whole groups of replicas in one thread: simulated time, network and disks, all from one seed, so that what failed
//! once fails again.
//!
//! The network loses, delays, doubles and reorders. Disks lose and spoil what was not flushed. Processes die at any
//! write. Members come and go. Afterwards the history of what clients saw is checked against a model that replays the
//! log on its own: whether commands took effect once, at one place in the log, between question and answer, and
//! whether reads saw just that.

mod history;
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use raft::eraftpb::Message;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};

use super::command::{Change, IfExists, MemberChange, Object};
use super::disk::Identity;
use super::error::MetadataError;
use super::replica::{Done, Options, Replica, Status};
use super::store::memory::{FailPoint, MemoryDisk};
use super::transport::{decode, encode};
use history::{History, Seen};

/// How long clients wait, in ticks.
const TIMEOUT_TICKS: u64 = 80;
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

struct Node {
    disk: MemoryDisk,
    replica: Option<Replica>,
}

struct World {
    random: StdRng,
    now: u64,
    nodes: BTreeMap<u64, Node>,
    /// By time of arrival, then by number.
    wire: BTreeMap<(u64, u64), (u64, u64, Vec<u8>)>,
    n_sent: u64,
    n_clients: u64,
    /// From, to.
    cut_links: BTreeSet<(u64, u64)>,
    loss: f64,
    /// Replicas that a command removed, or was about to remove.
    leaving: BTreeSet<u64>,
    /// By replica and token.
    open_calls: BTreeMap<(u64, u64), u64>,
    history: History,
    n_values: u64,
    n_faults: u64,
}

impl World {
    fn new(seed: u64, voters: &[u64]) -> Self {
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            now: 0,
            nodes: BTreeMap::new(),
            wire: BTreeMap::new(),
            n_sent: 0,
            n_clients: 0,
            cut_links: BTreeSet::new(),
            loss: 0.0,
            leaving: BTreeSet::new(),
            open_calls: BTreeMap::new(),
            history: History::default(),
            n_values: 0,
            n_faults: 0,
        };
        for replica in voters {
            let disk = MemoryDisk::default();
            Replica::create(Box::new(disk.open()), Identity { cluster: 1, replica: *replica }, voters).unwrap();
            world.nodes.insert(*replica, Node { disk, replica: None });
            world.start(*replica);
        }
        world
    }

    /// A node that has nothing and waits to be added.
    fn add_empty(&mut self, replica: u64) {
        let disk = MemoryDisk::default();
        Replica::create_joining(Box::new(disk.open()), Identity { cluster: 1, replica }).unwrap();
        self.nodes.insert(replica, Node { disk, replica: None });
        self.start(replica);
    }

    fn start(&mut self, replica: u64) {
        self.n_clients += 1;
        let ticks = self.random.random_range(10..20);
        let options = Options {
            // Drawn here and not by Raft, which does not know our seed.
            election_ticks: ticks..ticks + 1,
            log_entries_max: 30,
            log_entries_kept: 10,
            ..Options::new(self.n_clients)
        };
        let node = self.nodes.get_mut(&replica).unwrap();
        assert!(node.replica.is_none());
        node.replica = Some(Replica::open(Box::new(node.disk.open()), options).unwrap().expect("it was created"));
    }

    /// The process ends; with `power`, the disk loses what was not flushed.
    fn kill(&mut self, replica: u64, power: bool) {
        let node = self.nodes.get_mut(&replica).unwrap();
        node.replica = None;
        if power {
            node.disk.crash(&mut self.random);
        }
        self.open_calls.retain(|(of, _), _| *of != replica);
    }

    /// A replica that was removed is stopped for good, and its disk thrown away.
    fn retire(&mut self, replica: u64) {
        self.kill(replica, false);
        self.nodes.remove(&replica);
    }

    /// Who may be stopped for good: it knows that it was removed, and so does another that has a vote.
    fn retirable(&self) -> Vec<u64> {
        let knows = |id| move |it: &Status| it.voters.contains(&it.replica) && !it.voters.contains(&id);
        let running = self.nodes.iter().filter_map(|(id, node)| Some((*id, node.replica.as_ref()?)));
        let removed = running.filter(|(_, replica)| replica.is_removed()).map(|(id, _)| id);
        removed.filter(|id| self.statuses().iter().any(knows(*id))).collect()
    }

    fn running(&self) -> Vec<u64> {
        self.nodes.iter().filter(|(_, node)| node.replica.is_some()).map(|(replica, _)| *replica).collect()
    }

    fn replica(&mut self, replica: u64) -> Option<&mut Replica> {
        self.nodes.get_mut(&replica)?.replica.as_mut()
    }

    fn leader(&self) -> Option<u64> {
        let leaders = self.nodes.iter().filter_map(|(id, node)| {
            let status = node.replica.as_ref()?.status();
            (status.role == "leader").then_some((status.term, *id))
        });
        leaders.max().map(|(_, id)| id)
    }

    fn send(&mut self, from: u64, message: &Message) {
        let is_lost = self.random.random_bool(self.loss) || self.cut_links.contains(&(from, message.to));
        let copies = if self.random.random_bool(0.02) { 2 } else { 1 };
        if is_lost {
            if let (true, Some(replica)) = (message.has_snapshot(), self.replica(from)) {
                replica.snapshot_sent(message.to, false);
            }
            return;
        }
        for _ in 0..copies {
            // Most are fast, some are overtaken by many.
            let delay = if self.random.random_bool(0.05) {
                self.random.random_range(2..30)
            } else {
                self.random.random_range(0..3)
            };
            self.n_sent += 1;
            self.wire.insert((self.now + delay, self.n_sent), (from, message.to, encode(message)));
        }
    }

    fn deliver(&mut self) {
        let later = self.wire.split_off(&(self.now + 1, 0));
        for (from, to, bytes) in std::mem::replace(&mut self.wire, later).into_values() {
            let message = decode(&bytes).unwrap();
            let is_snapshot = message.has_snapshot();
            let arrived = !self.cut_links.contains(&(from, to)) && self.nodes.contains_key(&to);
            let arrived = match self.replica(to) {
                Some(replica) if arrived => {
                    replica.step(message);
                    true
                }
                _ => false,
            };
            if let (true, Some(replica)) = (is_snapshot, self.replica(from)) {
                replica.snapshot_sent(to, arrived);
            }
            // Sometimes a node does all that has come at once, sometimes message for message.
            if self.random.random_bool(0.3) {
                self.advance(to);
            }
        }
    }

    fn advance(&mut self, id: u64) {
        let Some(replica) = self.replica(id) else { return };
        let mut messages = vec![];
        let result = replica.advance(&mut |message| messages.push(message));
        let entries = std::mem::take(&mut replica.applied_entries);
        let state = replica.state();
        // Sent before the disk failed, or entries applied: both happened.
        messages.iter().for_each(|message| self.send(id, message));
        self.history.applied(id, entries, &state.read());
        match result {
            Ok(done) => done.into_iter().for_each(|done| self.finish(id, done)),
            Err(error) => {
                assert!(matches!(error, MetadataError::Store { .. }), "replica {id}: {error}");
                let power = self.random.random_bool(0.5);
                self.kill(id, power);
            }
        }
    }

    fn finish(&mut self, id: u64, done: Done) {
        let (token, seen) = match done {
            Done::Command { token, result: Ok(applied) } => (token, Seen::Command { index: Some(applied.index) }),
            Done::Command { token, result: Err(MetadataError::Refused(_)) } => (token, Seen::Command { index: None }),
            Done::Read { token, result: Ok(()) } => {
                let state = self.replica(id).expect("it has just answered").state();
                let state = state.read();
                (token, Seen::Read { index: state.applied(), settings: history::settings(&state) })
            }
            Done::Command { token, result: Err(MetadataError::TimedOut { .. }) }
            | Done::Read { token, result: Err(MetadataError::TimedOut { .. }) } => (token, Seen::Nothing),
            Done::Command { result: Err(error), .. } | Done::Read { result: Err(error), .. } => panic!("{error}"),
        };
        // Replicas ask for promotions by themselves.
        if let Some(call) = self.open_calls.remove(&(id, token)) {
            self.history.finish(call, self.now, seen);
        }
    }

    fn call(&mut self, id: u64, changes: Vec<Change>, member: Option<MemberChange>) -> Option<u64> {
        let now = self.now;
        let client = self.replica(id)?;
        let token = client.submit(changes, member, TIMEOUT_TICKS).unwrap();
        let request = client.request_id(token);
        let call = self.history.command(now, request);
        self.open_calls.insert((id, token), call);
        Some(call)
    }

    fn call_read(&mut self, id: u64) -> Option<u64> {
        let now = self.now;
        let token = self.replica(id)?.read(TIMEOUT_TICKS);
        let call = self.history.read(now);
        self.open_calls.insert((id, token), call);
        Some(call)
    }

    /// A client does something, at any replica.
    fn client(&mut self) {
        let Some(id) = self.running().into_iter().choose(&mut self.random) else { return };
        let key = Object::setting(KEYS[self.random.random_range(0..KEYS.len())]);
        self.n_values += 1;
        let value = self.n_values.to_string();
        let version = {
            let state = self.replica(id).expect("it runs").state();
            let state = state.read();
            state.definitions().get(&key).map(|record| record.version)
        };
        let change = match self.random.random_range(0..6) {
            0 | 1 => {
                self.call_read(id);
                return;
            }
            2 => Change::create(key, value, IfExists::Replace),
            3 => Change::create(key, value, IfExists::Fail),
            // Often out of date.
            4 => Change::alter(key, value, version),
            _ => Change::drop(key),
        };
        // With a second change, so that half a command would show.
        let also = Change::create(Object::setting("last"), self.n_values.to_string(), IfExists::Replace);
        self.call(id, vec![change, also], None);
    }

    fn fault(&mut self) {
        self.n_faults += 1;
        let all: Vec<u64> = self.nodes.keys().copied().collect();
        let one = all[self.random.random_range(0..all.len())];
        match self.random.random_range(0..12) {
            0 => {
                self.cut_links.clear();
                self.loss = 0.0;
            }
            1 => self.loss = self.random.random_range(0.0..0.3),
            2 => self.cut_links.extend(all.iter().flat_map(|other| [(one, *other), (*other, one)])),
            // One direction only.
            3 => self.cut_links.extend(all.iter().map(|other| (one, *other))),
            4 => {
                let (left, right): (Vec<u64>, Vec<u64>) =
                    all.iter().copied().partition(|_| self.random.random_bool(0.5));
                self.cut_links.extend(left.iter().flat_map(|a| right.iter().flat_map(|b| [(*a, *b), (*b, *a)])));
            }
            5 | 6 => {
                let power = self.random.random_bool(0.5);
                self.kill(one, power);
            }
            7 => {
                for replica in all {
                    self.kill(replica, true);
                }
            }
            8 => {
                let point = FailPoint::ALL[self.random.random_range(0..4)];
                let after = self.random.random_range(0..6);
                self.nodes[&one].disk.fail_after(after, point);
            }
            9 => {
                if let Some(leader) = self.leader()
                    && let Some(replica) = self.replica(leader)
                {
                    replica.hand_over();
                }
            }
            10 => {
                let new = self.nodes.keys().chain(&self.leaving).max().map_or(1, |last| last + 1);
                if let (true, Some(asked)) = (all.len() < 5, self.running().into_iter().choose(&mut self.random)) {
                    self.add_empty(new);
                    self.call(asked, vec![], Some(MemberChange::AddLearner { replica: new }));
                }
            }
            11 => {
                if let Some(asked) = self.running().into_iter().choose(&mut self.random) {
                    self.leaving.insert(one);
                    self.call(asked, vec![], Some(MemberChange::Remove { replica: one }));
                }
            }
            _ => {}
        }
    }

    fn restart_some(&mut self, chance: f64) {
        let down: Vec<u64> = self.nodes.iter().filter(|(_, it)| it.replica.is_none()).map(|(id, _)| *id).collect();
        for replica in down {
            if self.random.random_bool(chance) {
                self.start(replica);
            }
        }
    }

    /// One unit of time.
    fn step(&mut self) {
        self.now += 1;
        for id in self.running() {
            // No two clocks run alike.
            if self.random.random_bool(0.95)
                && let Some(replica) = self.replica(id)
            {
                replica.tick();
            }
        }
        self.deliver();
        self.running().into_iter().for_each(|id| self.advance(id));
        for id in self.retirable() {
            if self.random.random_bool(0.1) {
                self.retire(id);
            }
        }
    }

    /// Heals everything, and waits until the group is whole and idle.
    fn settle(&mut self) {
        self.cut_links.clear();
        self.loss = 0.0;
        self.nodes.values().for_each(|node| node.disk.heal());
        let deadline = self.now + 1500;
        loop {
            self.restart_some(1.0);
            self.step();
            if self.open_calls.is_empty() && self.is_whole() {
                return;
            }
            assert!(self.now < deadline, "the group does not come to rest: {:#?}", self.statuses());
        }
    }

    fn statuses(&self) -> Vec<Status> {
        self.nodes.values().filter_map(|node| Some(node.replica.as_ref()?.status())).collect()
    }

    /// Whether all members have applied all there is. Who was removed need not know of it.
    fn is_whole(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let statuses = self.statuses();
        let leader = statuses.iter().find(|it| it.replica == leader).expect("it leads");
        let members =
            statuses.iter().filter(|it| leader.voters.contains(&it.replica) || leader.learners.contains(&it.replica));
        members.filter(|it| it.applied == leader.last).count() == leader.voters.len() + leader.learners.len()
            && leader.learners.is_empty()
    }

    /// Runs one schedule, and checks it.
    fn run(seed: u64, n_events: u64) -> Self {
        let voters: &[u64] = if seed.is_multiple_of(4) { &[1] } else { &[1, 2, 3] };
        let mut world = Self::new(seed, voters);
        for _ in 0..n_events {
            world.step();
            if world.random.random_bool(0.3) {
                world.client();
            }
            if world.random.random_bool(0.03) {
                world.fault();
            }
            world.restart_some(0.05);
        }
        world.settle();
        // Whatever happened, the group works.
        let id = world.leader().expect("it settled");
        let write = world.call(id, vec![Change::create(Object::setting("end"), "", IfExists::Replace)], None);
        world.settle();
        assert!(write.is_some_and(|call| world.history.took_effect(call)), "nothing can be changed any more");
        let members = world.statuses().into_iter().find(|it| it.replica == id).expect("it runs").voters;
        for id in members {
            let read = world.call_read(id);
            world.settle();
            assert!(read.is_some_and(|call| world.history.has_read(call)), "replica {id} cannot be read");
        }
        world.history.check();
        world
    }
}
