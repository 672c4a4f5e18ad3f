//! One copy of the log and the state, and how it agrees with the others.
//!
//! No threads, no clock, no sockets: time comes in as [`Replica::tick`], messages as [`Replica::step`], and
//! [`Replica::advance`] does what came of them, in the order that Raft's safety rests on:
//!
//! 1. a leader's messages go out, while it still writes;
//! 2. entries and votes are written in one batch and flushed;
//! 3. only then go the messages that promise them to others;
//! 4. what a majority has is applied, in one batch with its index, the group's members and what must be remembered.
//!    That batch is not flushed, unless members changed: it goes to disk with the next one that is, and after a crash
//!    the log gives it again.
//!
//! All that came in between two calls of `advance` shares one flush.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot,
};
use raft::{RawNode, ReadState, SnapshotStatus, StateRole};

use super::command::{Applied, COMMAND_BYTES_MAX, Change, MemberChange, Object, Refusal, Request, RequestId};
use super::disk::{Disk, DiskBatch, Identity, Loaded, Position};
use super::error::{MetadataError, Result};
use super::frame;
use super::log::Log;
use super::state::{Record, State};
use super::store::Store;

/// A learner that is at most so far behind gets its vote.
const PROMOTION_ENTRIES: u64 = 100;
/// Log entries in one message, and in one batch that is applied.
const BATCH_BYTES: u64 = 1 << 20;
/// Proposals that wait for a majority; beyond, new ones are refused for now.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
const SNAPSHOT_KEY: &[u8] = b"snapshot";

/// How a replica behaves; times are in ticks.
#[derive(Debug, Clone)]
pub struct Options {
    /// Silence of the leader before an election, drawn anew each time.
    pub election_ticks: Range<usize>,
    pub heartbeat_ticks: usize,
    /// The log is cut when it is longer or larger than this.
    pub log_entries_max: usize,
    pub log_bytes_max: usize,
    /// So many of the last entries stay when it is, for those who are only a little behind.
    pub log_entries_kept: u64,
    /// Names this start of this replica. Must never come again.
    pub client: u64,
}

impl Options {
    pub fn new(client: u64) -> Self {
        Self {
            election_ticks: 10..20,
            heartbeat_ticks: 2,
            log_entries_max: 10_000,
            log_bytes_max: 64 << 20,
            log_entries_kept: 1_000,
            client,
        }
    }
}

/// Something that was asked for and has come to its end.
#[derive(Debug)]
pub enum Done {
    Command {
        token: u64,
        result: Result<Applied>,
    },
    /// The state now has everything that was acknowledged before the read was asked for.
    Read {
        token: u64,
        result: Result<()>,
    },
}

/// How a replica stands in its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub replica: u64,
    /// `leader`, `follower`, `candidate`, `learner`, `removed`.
    pub role: &'static str,
    /// 0 is none.
    pub leader: u64,
    pub term: u64,
    pub commit: u64,
    pub applied: u64,
    pub last: u64,
    /// The log starts after this index.
    pub cut: u64,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    /// Ticks since the last message of each other replica.
    pub heard_ticks: BTreeMap<u64, u64>,
}

struct PendingCommand {
    request: Request,
    /// When to send it again. The answer may have been lost, and so may the question.
    retry_at: u64,
    deadline: u64,
    timeout_ticks: u64,
}

struct PendingRead {
    /// When to ask again; `None` was not asked for yet.
    retry_at: Option<u64>,
    /// What the state must have, once a leader said so.
    index: Option<u64>,
    deadline: u64,
    timeout_ticks: u64,
}

/// One copy of the metadata. After an error it must be dropped, and opened again from what is on disk.
pub struct Replica {
    identity: Identity,
    raw: RawNode<Log>,
    disk: Disk,
    /// Shared with readers. Written only here, and only while a batch is applied.
    state: Arc<RwLock<State>>,
    /// Whether this copy leads a group of which it is the only voter, and has applied all that was decided. Then nothing can
    /// be acknowledged that `state` does not have: others have no part in a decision before this copy has applied that they
    /// are voters, and said yes to them.
    is_alone: Arc<AtomicBool>,
    options: Options,
    now: u64,
    sequence: u64,
    commands: BTreeMap<u64, PendingCommand>,
    reads: BTreeMap<u64, PendingRead>,
    /// Reads by the question that was sent for them. Each question is asked once: Raft takes no context twice.
    questions: BTreeMap<u64, Vec<u64>>,
    heard: BTreeMap<u64, u64>,
    done: Vec<Done>,
    /// Index and command of all that this copy applied since it was opened, for checks.
    #[cfg(test)]
    pub applied_entries: Vec<(u64, Option<Request>)>,
}

impl Replica {
    /// Makes the first copies of a new cluster: every one of `voters` starts from this same beginning.
    ///
    /// Errs when the store holds something already.
    pub fn create(store: Box<dyn Store>, identity: Identity, voters: &[u64]) -> Result<()> {
        let mut disk = Disk::new(store);
        if disk.load()?.is_some() {
            return Err(broken(identity.replica, "the folder has metadata already"));
        }
        let cut = Position { index: 1, term: 1 };
        let members = ConfState { voters: voters.to_vec(), ..ConfState::default() };
        let hard_state = HardState { term: 1, commit: 1, ..HardState::default() };
        // Not from index 0: who joins later must get the members by snapshot, they are in no log entry.
        let state = State::new(cut.index, BTreeMap::new(), BTreeMap::new());
        Self::write_beginning(&mut disk, identity, state, cut, &members, &hard_state)
    }

    /// Makes the only copy of a new cluster that has objects from the start, as of log index `applied`; its log goes on
    /// after that.
    ///
    /// Errs when the store holds something already.
    pub fn create_from(
        store: Box<dyn Store>,
        identity: Identity,
        applied: u64,
        objects: BTreeMap<Object, Arc<Record>>,
    ) -> Result<()> {
        let mut disk = Disk::new(store);
        if disk.load()?.is_some() {
            return Err(broken(identity.replica, "the folder has metadata already"));
        }
        let cut = Position { index: applied.max(1), term: 1 };
        let members = ConfState { voters: vec![identity.replica], ..ConfState::default() };
        let hard_state = HardState { term: 1, commit: cut.index, ..HardState::default() };
        let state = State::new(cut.index, objects, BTreeMap::new());
        Self::write_beginning(&mut disk, identity, state, cut, &members, &hard_state)
    }

    /// Makes a copy that waits to be added to a group that exists.
    pub fn create_joining(store: Box<dyn Store>, identity: Identity) -> Result<()> {
        let mut disk = Disk::new(store);
        if disk.load()?.is_some() {
            return Err(broken(identity.replica, "the folder has metadata already"));
        }
        let (cut, members, hard_state) = (Position::default(), ConfState::default(), HardState::default());
        Self::write_beginning(&mut disk, identity, State::default(), cut, &members, &hard_state)
    }

    fn write_beginning(
        disk: &mut Disk,
        identity: Identity,
        state: State,
        cut: Position,
        members: &ConfState,
        hard_state: &HardState,
    ) -> Result<()> {
        let mut batch = DiskBatch::default();
        batch.identity(identity);
        batch.hard_state(hard_state);
        batch.conf_state(members);
        #[allow(clippy::reversed_empty_ranges, reason = "there is no log yet")]
        batch.restore(&State::default(), 1..=0, &state, cut);
        disk.write(batch, true)
    }

    /// Opens what [`Replica::create`] made; `None` if nothing did.
    pub fn open(store: Box<dyn Store>, options: Options) -> Result<Option<Self>> {
        let mut disk = Disk::new(store);
        let Some(loaded) = disk.load()? else { return Ok(None) };
        // A process that died may have left more than it flushed. From now on others are told of it.
        disk.write(DiskBatch::default(), true)?;
        let Loaded { identity, hard_state, conf_state, cut, entries, state } = loaded;
        let config = raft::Config {
            id: identity.replica,
            election_tick: options.election_ticks.start,
            min_election_tick: options.election_ticks.start,
            max_election_tick: options.election_ticks.end,
            heartbeat_tick: options.heartbeat_ticks,
            applied: state.applied(),
            max_size_per_msg: BATCH_BYTES,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: BATCH_BYTES,
            ..raft::Config::default()
        };
        let log = Log::new(hard_state, conf_state, cut, entries);
        let logger = slog::Logger::root(ToTracing, slog::o!());
        let raw = RawNode::new(&config, log, &logger).map_err(|error| broken(identity.replica, &error.to_string()))?;
        let mut replica = Self {
            identity,
            raw,
            disk,
            state: Arc::new(RwLock::new(state)),
            is_alone: Arc::default(),
            options,
            now: 0,
            sequence: 0,
            commands: BTreeMap::new(),
            reads: BTreeMap::new(),
            questions: BTreeMap::new(),
            heard: BTreeMap::new(),
            done: vec![],
            #[cfg(test)]
            applied_entries: vec![],
        };
        // Alone it has nobody to wait for.
        if replica.raw.store().conf_state.voters == [identity.replica] {
            let _ = replica.raw.campaign();
        }
        Ok(Some(replica))
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The state, as far as this copy has it. Ask [`Replica::read`] first for one that is up to date.
    pub fn state(&self) -> Arc<RwLock<State>> {
        Arc::clone(&self.state)
    }

    /// Whether the group has decided to go on without this replica. It may be stopped for good once another voter has
    /// applied that, as one has that answers the command: until then its vote can be what the others need to learn it.
    pub fn is_removed(&self) -> bool {
        // A joining copy knows no members yet.
        let members = &self.raw.store().conf_state;
        let me = self.identity.replica;
        !members.voters.is_empty() && !members.voters.contains(&me) && !members.learners.contains(&me)
    }

    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let log = self.raw.store();
        let role = match raft.state {
            StateRole::Leader => "leader",
            StateRole::Candidate | StateRole::PreCandidate => "candidate",
            StateRole::Follower if self.is_removed() => "removed",
            StateRole::Follower if log.conf_state.voters.contains(&self.identity.replica) => "follower",
            StateRole::Follower => "learner",
        };
        Status {
            replica: self.identity.replica,
            role,
            leader: raft.leader_id,
            term: raft.term,
            commit: raft.raft_log.committed,
            applied: self.state.read().applied(),
            last: raft.raft_log.last_index(),
            cut: log.cut().index,
            voters: log.conf_state.voters.clone(),
            learners: log.conf_state.learners.clone(),
            heard_ticks: self.heard.iter().map(|(replica, at)| (*replica, self.now - at)).collect(),
        }
    }

    /// Asks for a command, from whichever replica: Raft passes it on to the leader. Comes back as [`Done::Command`]
    /// once this replica has applied it, so that its own next read sees it.
    ///
    /// Errs when it is larger than a command may be.
    pub fn submit(&mut self, changes: Vec<Change>, member: Option<MemberChange>, timeout_ticks: u64) -> Result<u64> {
        self.sequence += 1;
        let id = RequestId { client: self.options.client, sequence: self.sequence };
        let request = Request { id, since: self.state.read().applied(), changes, member };
        let bytes = encode(&request).len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(MetadataError::TooLarge { bytes, max: COMMAND_BYTES_MAX });
        }
        let deadline = self.now + timeout_ticks;
        self.commands.insert(self.sequence, PendingCommand { request, retry_at: 0, deadline, timeout_ticks });
        self.propose(self.sequence);
        Ok(self.sequence)
    }

    /// Asks to be told when the state has everything that was acknowledged until now, on whichever replica.
    pub fn read(&mut self, timeout_ticks: u64) -> u64 {
        self.sequence += 1;
        let read = PendingRead { retry_at: None, index: None, deadline: self.now + timeout_ticks, timeout_ticks };
        self.reads.insert(self.sequence, read);
        self.sequence
    }

    /// True while [`Replica::state`] has everything that was acknowledged, whoever asks: none but this copy can acknowledge.
    pub fn is_alone(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_alone)
    }

    /// What names a command in the log.
    pub fn request_id(&self, token: u64) -> RequestId {
        RequestId { client: self.options.client, sequence: token }
    }

    fn propose(&mut self, token: u64) {
        let Some(command) = self.commands.get(&token) else { return };
        let (bytes, member) = (encode(&command.request), command.request.member.map(conf_change));
        let proposed = match member {
            None => self.raw.propose(vec![], bytes),
            Some(change) if self.admit(&change) => self.raw.propose_conf_change(bytes, change),
            Some(_) => Err(raft::Error::ProposalDropped),
        };
        let command = self.commands.get_mut(&token).expect("looked up above");
        // Refused at once means that there is no leader now, or one that gives its office to another.
        let wait = if proposed.is_ok() { self.options.election_ticks.end } else { self.options.heartbeat_ticks };
        command.retry_at = self.now + wait as u64;
    }

    /// Time goes on by one tick.
    pub fn tick(&mut self) {
        self.now += 1;
        self.raw.tick();
        let (now, timeout) = (self.now, |ticks| MetadataError::TimedOut { what: "", waited: tick_time(ticks) });
        let late: Vec<_> = self.commands.iter().filter(|(_, it)| it.deadline <= now).map(|(token, _)| *token).collect();
        for token in late {
            let ticks = self.commands.remove(&token).map_or(0, |it| it.timeout_ticks);
            let result = Err(named(timeout(ticks), "the command"));
            self.done.push(Done::Command { token, result });
        }
        let late: Vec<_> = self.reads.iter().filter(|(_, it)| it.deadline <= now).map(|(token, _)| *token).collect();
        for token in late {
            let ticks = self.reads.remove(&token).map_or(0, |it| it.timeout_ticks);
            self.done.push(Done::Read { token, result: Err(named(timeout(ticks), "the read")) });
        }
        let again: Vec<_> =
            self.commands.iter().filter(|(_, it)| it.retry_at <= now).map(|(token, _)| *token).collect();
        again.into_iter().for_each(|token| self.propose(token));
        let reads = &self.reads;
        self.questions
            .retain(|_, tokens| tokens.iter().any(|token| reads.get(token).is_some_and(|it| it.index.is_none())));
        if self.now.is_multiple_of(self.options.election_ticks.start as u64) {
            self.promote();
        }
    }

    /// A leader gives learners that have caught up their vote, one at a time.
    fn promote(&mut self) {
        let pending = self.commands.values().any(|it| it.request.member.is_some());
        let learners = self.raw.store().conf_state.learners.clone();
        if !self.is_leader() || pending {
            return;
        }
        let ready = learners.into_iter().find(|replica| self.has_caught_up(*replica));
        if let Some(replica) = ready {
            let ticks = 4 * self.options.election_ticks.end as u64;
            // It is small, and if it fails, the next round tries again.
            let _ = self.submit(vec![], Some(MemberChange::Promote { replica }), ticks);
        }
    }

    /// A message of another replica came.
    ///
    /// What cannot be is dropped, as the network might have done.
    pub fn step(&mut self, mut message: Message) {
        let (from, kind) = (message.from, message.get_msg_type());
        if message.to != self.identity.replica || from == 0 || from == self.identity.replica {
            tracing::warn!(from, to = message.to, "dropped a message that is not for this replica");
            return;
        }
        if kind == MessageType::MsgSnapshot {
            // Checked before Raft sees it: afterwards there is no way back.
            if let Err(reason) = read_snapshot(message.get_snapshot()) {
                tracing::warn!(from, reason, "dropped a damaged snapshot");
                return;
            }
        }
        if kind == MessageType::MsgPropose && self.is_leader() {
            for entry in message.get_entries() {
                let change = match entry.get_entry_type() {
                    EntryType::EntryNormal => continue,
                    EntryType::EntryConfChange => parse_conf_change(entry),
                    EntryType::EntryConfChangeV2 => Err("it is of a kind that no replica sends".to_owned()),
                };
                match change {
                    Ok(change) if self.admit(&change) => {}
                    Ok(_) => return,
                    Err(reason) => {
                        tracing::warn!(from, reason, "dropped a change of members");
                        return;
                    }
                }
            }
        }
        if kind == MessageType::MsgReadIndex {
            let [question] = &mut **message.mut_entries() else {
                tracing::warn!(from, "dropped a question that is none");
                return;
            };
            if self.is_leader() {
                // The network may bring it twice. Under one name, a confirmation of the first would count for the
                // second, and for all that was asked in between.
                self.sequence += 1;
                question.data = [&question.data[..], &self.sequence.to_be_bytes()].concat().into();
            }
        }
        self.heard.insert(from, self.now);
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(from, %error, "message without effect");
        }
    }

    /// A message could not be delivered.
    pub fn unreachable(&mut self, replica: u64) {
        self.raw.report_unreachable(replica);
    }

    /// A snapshot that was sent has arrived, or has not. Must be told for each.
    pub fn snapshot_sent(&mut self, replica: u64, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(replica, status);
    }

    /// Whether this is the leader and somebody else could be.
    pub fn leads_others(&self) -> bool {
        self.is_leader() && self.raw.store().conf_state.voters.iter().any(|it| *it != self.identity.replica)
    }

    /// Gives the leader's office to the voter that has the most, if this is the leader and there is one. Called again, it
    /// does so again where Raft has given up on it, which it does after an election timeout.
    pub fn hand_over(&mut self) -> bool {
        if self.is_leader() && self.raw.raft.lead_transferee.is_some() {
            return true;
        }
        let voters = &self.raw.store().conf_state.voters;
        let others = self.raw.raft.prs().iter().filter(|(id, _)| voters.contains(id) && self.is_heard(**id));
        let best = others.max_by_key(|(id, it)| (it.matched, **id)).map(|(id, _)| *id);
        match best {
            Some(replica) if self.is_leader() => {
                self.raw.transfer_leader(replica);
                true
            }
            _ => false,
        }
    }

    /// Whether another replica sent something within the last election timeout. Raft keeps a flag for this as well, but
    /// clears it once in each.
    fn is_heard(&self, replica: u64) -> bool {
        self.heard.get(&replica).is_some_and(|at| at + self.options.election_ticks.start as u64 > self.now)
    }

    fn has_caught_up(&self, replica: u64) -> bool {
        let (cut, last) = (self.raw.store().cut().index, self.raw.raft.raft_log.last_index());
        // In a short log one that has nothing at all is not far behind either.
        let is_close = |matched| matched >= cut && matched + PROMOTION_ENTRIES >= last;
        self.is_heard(replica) && self.raw.raft.prs().get(replica).is_some_and(|it| is_close(it.matched))
    }

    /// Whether a leader takes a change of members now. The asker asks again if not.
    fn admit(&mut self, change: &ConfChange) -> bool {
        if !self.is_leader() {
            return true;
        }
        match change.get_change_type() {
            ConfChangeType::AddNode => self.has_caught_up(change.node_id),
            ConfChangeType::AddLearnerNode => true,
            // The one that counts the votes cannot leave; the next leader removes it.
            ConfChangeType::RemoveNode if change.node_id == self.identity.replica => !self.hand_over(),
            ConfChangeType::RemoveNode => true,
        }
    }

    /// Does what the calls before lead to; `send` gets messages for others.
    ///
    /// Errs when the disk fails or something does not fit together. Then nothing more may be sent.
    pub fn advance(&mut self, send: &mut dyn FnMut(Message)) -> Result<Vec<Done>> {
        self.ask_for_reads();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            ready.take_messages().into_iter().for_each(&mut *send);
            let mut batch = DiskBatch::default();
            if !ready.snapshot().is_empty() {
                self.restore(&mut batch, ready.snapshot().clone())?;
            }
            let entries = ready.take_entries();
            batch.append(&entries, self.raw.store().last());
            self.raw.mut_store().append(entries);
            if let Some(hard_state) = ready.hs() {
                batch.hard_state(hard_state);
                self.raw.mut_store().hard_state = hard_state.clone();
            }
            self.disk.write(batch, ready.must_sync())?;
            ready.take_persisted_messages().into_iter().for_each(&mut *send);
            self.apply(ready.take_committed_entries())?;
            self.leave_office(send);
            self.answer_reads(ready.take_read_states());
            let mut light = self.raw.advance_append(ready);
            if let Some(commit) = light.commit_index() {
                self.raw.mut_store().hard_state.commit = commit;
            }
            light.take_messages().into_iter().for_each(&mut *send);
            self.apply(light.take_committed_entries())?;
            self.leave_office(send);
            let applied = self.state.read().applied();
            self.raw.advance_apply_to(applied);
            self.finish_reads(applied);
        }
        let is_decided =
            self.raw.raft.commit_to_current_term() && self.state.read().applied() == self.raw.raft.raft_log.committed;
        let is_alone = self.is_leader() && self.raw.store().conf_state.voters == [self.identity.replica] && is_decided;
        self.is_alone.store(is_alone, Ordering::Release);
        self.cut_log()?;
        self.offer_snapshot();
        Ok(std::mem::take(&mut self.done))
    }

    /// Does a little of what keeps the disk in order, as often as there is time.
    ///
    /// Errs when the disk fails.
    pub fn tend(&mut self) -> Result<()> {
        self.disk.tend()
    }

    /// Brings to disk what the log would give again, so that the next to open the store has less to do, and who only looks
    /// at it finds all.
    pub fn close(&mut self) -> Result<()> {
        self.disk.write(DiskBatch::default(), true)
    }

    /// A leader that has applied its own removal is a follower from now on: Raft would go on to look for it in its list
    /// of members, and panic. Rare, since a leader that is to remove itself lets another lead first; but a removal that
    /// an earlier leader began is carried out by the next.
    fn leave_office(&mut self, send: &mut dyn FnMut(Message)) {
        if self.is_leader() && self.is_removed() {
            // What it said as leader is still true, and Raft lets only leaders send before the next write.
            std::mem::take(&mut self.raw.raft.msgs).into_iter().for_each(send);
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
    }

    fn ask_for_reads(&mut self) {
        let (now, again) = (self.now, self.now + self.options.election_ticks.start as u64);
        let due = |it: &PendingRead| it.index.is_none() && it.retry_at.is_none_or(|at| at <= now);
        let tokens: Vec<_> = self.reads.iter().filter(|(_, it)| due(it)).map(|(token, _)| *token).collect();
        if tokens.is_empty() {
            return;
        }
        for token in &tokens {
            if let Some(read) = self.reads.get_mut(token) {
                read.retry_at = Some(again);
            }
        }
        self.sequence += 1;
        let question = [self.asker().as_slice(), &self.sequence.to_be_bytes()].concat();
        self.questions.insert(self.sequence, tokens);
        self.raw.read_index(question);
    }

    /// How all questions of this start of this replica begin.
    fn asker(&self) -> Vec<u8> {
        [self.identity.replica, self.options.client].into_iter().flat_map(u64::to_be_bytes).collect()
    }

    fn answer_reads(&mut self, states: Vec<ReadState>) {
        let asker = self.asker();
        for state in states {
            // One from before a restart has a number of now, and is out of date. A leader puts something at the end.
            let number = state.request_ctx.strip_prefix(asker.as_slice()).and_then(|rest| rest.first_chunk());
            let Some(question) = number.map(|bytes| u64::from_be_bytes(*bytes)) else { continue };
            for token in self.questions.remove(&question).unwrap_or_default() {
                if let Some(read) = self.reads.get_mut(&token) {
                    read.index.get_or_insert(state.index);
                }
            }
        }
    }

    fn finish_reads(&mut self, applied: u64) {
        let finished = |it: &PendingRead| it.index.is_some_and(|index| index <= applied);
        let tokens: Vec<_> = self.reads.iter().filter(|(_, it)| finished(it)).map(|(token, _)| *token).collect();
        for token in tokens {
            self.reads.remove(&token);
            self.done.push(Done::Read { token, result: Ok(()) });
        }
    }

    /// Carries out entries that a majority has.
    fn apply(&mut self, entries: Vec<Entry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut batch = DiskBatch::default();
        let mut has_new_members = false;
        let mut n_commands = 0;
        let mut state = self.state.write();
        for entry in entries {
            let index = entry.index;
            let unknown = |reason: String| MetadataError::UnknownCommand { index, reason };
            let (change, bytes) = match entry.get_entry_type() {
                EntryType::EntryNormal => (None, &entry.data),
                EntryType::EntryConfChange => (Some(parse_conf_change(&entry).map_err(unknown)?), &entry.context),
                EntryType::EntryConfChangeV2 => return Err(unknown("a change of several members".to_owned())),
            };
            if bytes.is_empty() {
                // A new leader's first entry.
                state.commit(index, &Default::default());
                batch.applied(index, &Default::default());
                #[cfg(test)]
                self.applied_entries.push((index, None));
                continue;
            }
            let request: Request = serde_json::from_slice(bytes).map_err(|error| unknown(error.to_string()))?;
            let (mut outcome, mut delta) = state.prepare(index, &request);
            let is_new = delta.remembered.contains_key(&index);
            if let (Some(change), true, true) = (change, is_new, outcome.is_ok()) {
                let members = &self.raw.store().conf_state;
                let changed = check_members(members, &change)
                    .and_then(|()| self.raw.apply_conf_change(&change).map_err(|error| error.to_string()));
                match changed {
                    Ok(members) => {
                        batch.conf_state(&members);
                        self.raw.mut_store().conf_state = members;
                        has_new_members = true;
                    }
                    Err(reason) => (outcome, delta) = state.refuse(index, request.id, Refusal::Invalid { reason }),
                }
            }
            state.commit(index, &delta);
            batch.applied(index, &delta);
            n_commands += 1;
            #[cfg(test)]
            self.applied_entries.push((index, Some(request.clone())));
            if request.id.client == self.options.client && self.commands.remove(&request.id.sequence).is_some() {
                let result = outcome.map_err(MetadataError::Refused);
                self.done.push(Done::Command { token: request.id.sequence, result });
            }
        }
        drop(state);
        crate::metrics::metadata_applied(n_commands);
        // Who was removed may be gone for good after the answer: a crash must not bring back the members of before, who
        // would need its vote.
        self.disk.write(batch, has_new_members)
    }

    /// Takes a leader's state in the place of its own.
    fn restore(&mut self, batch: &mut DiskBatch, snapshot: Snapshot) -> Result<()> {
        let after = read_snapshot(&snapshot).map_err(|reason| broken(self.identity.replica, &reason))?;
        let metadata = snapshot.get_metadata();
        let cut = Position { index: metadata.index, term: metadata.term };
        let log = self.raw.mut_store();
        let mut state = self.state.write();
        batch.restore(&state, log.cut().index + 1..=log.last(), &after, cut);
        batch.conf_state(metadata.get_conf_state());
        log.restart(cut, metadata.get_conf_state().clone());
        *state = after;
        Ok(())
    }

    /// Bounds the log. The state is on disk by itself, and what is cut off was written after it.
    fn cut_log(&mut self) -> Result<()> {
        let log = self.raw.store();
        if log.n_entries() <= self.options.log_entries_max && log.bytes() <= self.options.log_bytes_max {
            return Ok(());
        }
        let kept = self.options.log_entries_kept.min(log.n_entries() as u64 / 2);
        let index = self.state.read().applied().min(log.last() - kept);
        let before = log.cut();
        let Some(cut) = log.position(index).filter(|cut| cut.index > before.index) else { return Ok(()) };
        let mut batch = DiskBatch::default();
        batch.cut(before, cut);
        self.disk.write(batch, false)?;
        self.raw.mut_store().cut_off(cut);
        Ok(())
    }

    fn offer_snapshot(&mut self) {
        if !self.raw.store().wants_snapshot() {
            return;
        }
        let (applied, image) = {
            let state = self.state.read();
            (state.applied(), state.image())
        };
        let log = self.raw.mut_store();
        let Some(position) = log.position(applied) else { return };
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = position.index;
        metadata.term = position.term;
        metadata.set_conf_state(log.conf_state.clone());
        snapshot.data = frame::wrap(SNAPSHOT_KEY, &image).into();
        log.offer(snapshot);
    }
}

/// The time of a number of ticks, as [`super::node`] counts them.
fn tick_time(ticks: u64) -> std::time::Duration {
    super::node::TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

fn named(error: MetadataError, what: &'static str) -> MetadataError {
    match error {
        MetadataError::TimedOut { waited, .. } => MetadataError::TimedOut { what, waited },
        other => other,
    }
}

fn broken(replica: u64, reason: &str) -> MetadataError {
    MetadataError::Broken { replica, reason: reason.to_owned() }
}

fn encode(request: &Request) -> Vec<u8> {
    serde_json::to_vec(request).expect("our own types are JSON")
}

fn conf_change(change: MemberChange) -> ConfChange {
    let (kind, replica) = match change {
        MemberChange::AddLearner { replica } => (ConfChangeType::AddLearnerNode, replica),
        MemberChange::Promote { replica } => (ConfChangeType::AddNode, replica),
        MemberChange::Remove { replica } => (ConfChangeType::RemoveNode, replica),
    };
    let mut change = ConfChange { node_id: replica, ..ConfChange::default() };
    change.set_change_type(kind);
    change
}

fn parse_conf_change(entry: &Entry) -> std::result::Result<ConfChange, String> {
    let mut change = ConfChange::default();
    change.merge_from_bytes(&entry.data).map_err(|error| error.to_string())?;
    Ok(change)
}

/// Decided alike on every replica, since all have the same members at one index.
fn check_members(members: &ConfState, change: &ConfChange) -> std::result::Result<(), String> {
    let replica = change.node_id;
    let (voter, learner) = (members.voters.contains(&replica), members.learners.contains(&replica));
    match change.get_change_type() {
        _ if replica == 0 => Err("a replica cannot have the number 0".to_owned()),
        ConfChangeType::AddLearnerNode if voter || learner => Err(format!("replica {replica} is a member already")),
        ConfChangeType::AddNode if !learner => Err(format!("replica {replica} is not a learner")),
        ConfChangeType::RemoveNode if !voter && !learner => Err(format!("replica {replica} is not a member")),
        ConfChangeType::RemoveNode if members.voters == [replica] => {
            Err(format!("replica {replica} is the only one that has a vote"))
        }
        ConfChangeType::AddLearnerNode | ConfChangeType::AddNode | ConfChangeType::RemoveNode => Ok(()),
    }
}

fn read_snapshot(snapshot: &Snapshot) -> std::result::Result<State, String> {
    let state = State::of_image(frame::unwrap(SNAPSHOT_KEY, &snapshot.data)?)?;
    match (state.applied(), snapshot.get_metadata().index) {
        (applied, index) if applied == index => Ok(state),
        (applied, index) => Err(format!("it says index {index} and has the state of {applied}")),
    }
}

/// What Raft says, as debug logs.
struct ToTracing;

impl slog::Drain for ToTracing {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record<'_>, _values: &slog::OwnedKVList) -> std::result::Result<(), slog::Never> {
        match record.level() {
            slog::Level::Critical | slog::Level::Error => tracing::error!(target: "raft", "{}", record.msg()),
            _ => tracing::debug!(target: "raft", "{}", record.msg()),
        }
        Ok(())
    }
}
