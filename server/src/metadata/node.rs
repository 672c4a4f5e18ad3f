//! A replica at work: a thread with a clock, a disk and a transport.
//!
//! A thread of its own, not a task: it waits for the disk.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use raft::eraftpb::Message;
use tokio::sync::{oneshot, watch};

use super::command::{Applied, Change, MemberChange};
use super::disk::Identity;
use super::error::{MetadataError, Result};
use super::replica::{Done, Options, Replica, Status};
use super::state::State;
use super::store::Store;
use super::store::sled_store::panic_text;
use super::transport::Transport;

/// The unit of a replica's time. A leader that is silent for 10 to 20 of them is replaced.
pub const TICK: Duration = Duration::from_millis(25);
/// What may wait for the thread, and what it takes on before it flushes.
const INBOX: usize = 4096;
/// How much longer than asked for an answer may take because the thread waits for the disk.
const GRACE: Duration = Duration::from_secs(2);

type Answer<T> = oneshot::Sender<Result<T>>;

enum Input {
    Message(Message),
    Unreachable(u64),
    SnapshotSent { replica: u64, arrived: bool },
    Command { changes: Vec<Change>, member: Option<MemberChange>, ticks: u64, answer: Answer<Applied> },
    Read { ticks: u64, answer: Answer<()> },
    Status { answer: oneshot::Sender<Status> },
    Stop { ticks: u64 },
}

/// Where a transport brings what it got from others.
#[derive(Clone)]
pub struct Peers(SyncSender<Input>);

impl Peers {
    /// A message came. Dropped when more wait than the node can take.
    pub fn deliver(&self, message: Message) {
        self.tell(Input::Message(message));
    }

    /// A message could not be delivered to a replica.
    pub fn unreachable(&self, replica: u64) {
        self.tell(Input::Unreachable(replica));
    }

    /// A snapshot has arrived at a replica, or has not.
    pub fn snapshot_sent(&self, replica: u64, arrived: bool) {
        self.tell(Input::SnapshotSent { replica, arrived });
    }

    fn tell(&self, input: Input) {
        if let Err(TrySendError::Full(_)) = self.0.try_send(input) {
            tracing::warn!("metadata cannot keep up, dropped a message of another coordinator");
        }
    }
}

/// This node's copy of the metadata. Dropping it stops it at once; [`MetadataNode::stop`] hands the leader's office
/// over first.
pub struct MetadataNode {
    identity: Identity,
    inbox: SyncSender<Input>,
    state: Arc<RwLock<State>>,
    /// As [`Replica::is_alone`].
    is_alone: Arc<AtomicBool>,
    /// Why the thread ended, once it has.
    ended: watch::Receiver<Option<String>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl MetadataNode {
    /// Opens what a store has and starts to take part in its group. `transport` is told where to bring messages.
    ///
    /// Errs when the store is empty, damaged, or too new.
    pub fn start<T: Transport>(
        store: Box<dyn Store>,
        options: Options,
        transport: impl FnOnce(Identity, Peers) -> T,
    ) -> Result<Self> {
        let place = store.place();
        let replica = Replica::open(store, options)?.ok_or_else(|| MetadataError::empty(place))?;
        Self::run(replica, transport)
    }

    /// Takes part in the group with a copy that is open.
    ///
    /// Errs when the system gives no thread.
    pub fn run<T: Transport>(replica: Replica, transport: impl FnOnce(Identity, Peers) -> T) -> Result<Self> {
        let identity = replica.identity();
        let (inbox, inputs) = sync_channel(INBOX);
        let transport = transport(identity, Peers(inbox.clone()));
        let (state, is_alone) = (replica.state(), replica.is_alone());
        let (tell_end, ended) = watch::channel(None);
        let run = move || {
            let worker = Worker::new(replica, inputs, transport);
            // Raft gives up by a panic when what it promised is not there any more.
            let why = match catch_unwind(AssertUnwindSafe(|| worker.run())) {
                Ok(Ok(why)) => why.to_owned(),
                Ok(Err(error)) => crate::error::chain(&error),
                Err(panic) => panic_text(panic.as_ref()),
            };
            tracing::info!(replica = identity.replica, why, "metadata stopped");
            tell_end.send_replace(Some(why));
        };
        let thread = std::thread::Builder::new().name("sheaf-metadata".to_owned()).spawn(run);
        let thread =
            thread.map_err(|error| MetadataError::Stopped { reason: format!("cannot start its thread: {error}") })?;
        Ok(Self { identity, inbox, state, is_alone, ended, thread: Mutex::new(Some(thread)) })
    }

    /// Where messages of other replicas are brought.
    pub fn peers(&self) -> Peers {
        Peers(self.inbox.clone())
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    fn stopped(&self) -> MetadataError {
        let reason = self.ended.borrow().clone();
        MetadataError::Stopped { reason: reason.unwrap_or_else(|| "it is stopping".to_owned()) }
    }

    async fn ask<T>(
        &self,
        what: &'static str,
        timeout: Duration,
        input: impl FnOnce(oneshot::Sender<T>) -> Input,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.inbox.try_send(input(answer)).map_err(|error| match error {
            TrySendError::Full(_) => MetadataError::Busy { what },
            TrySendError::Disconnected(_) => self.stopped(),
        })?;
        match tokio::time::timeout(timeout + GRACE, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(self.stopped()),
            Err(_) => Err(MetadataError::TimedOut { what, waited: timeout + GRACE }),
        }
    }

    /// Carries out a command: all its changes or none. When it returns, a majority has it on disk and this node shows
    /// it.
    ///
    /// Errs with `Refused` when the state does not allow it, and with `TimedOut` when no majority confirmed it in time:
    /// then it may still take effect.
    pub async fn change(&self, changes: Vec<Change>, timeout: Duration) -> Result<Applied> {
        self.change_members(changes, None, timeout).await
    }

    /// As [`MetadataNode::change`], with a change of the group's members in the same command.
    ///
    /// A node that was removed may be stopped for good once this has returned on another that has a vote. Until then
    /// it goes on and votes (its [`MetadataNode::status`] has the role `removed`): the others may need that.
    pub async fn change_members(
        &self,
        changes: Vec<Change>,
        member: Option<MemberChange>,
        timeout: Duration,
    ) -> Result<Applied> {
        let ticks = ticks(timeout);
        self.ask("the command", timeout, |answer| Input::Command { changes, member, ticks, answer }).await?
    }

    /// Looks at a state that has all that any coordinator acknowledged before this call. Alone in its group it takes no time.
    pub async fn read<T>(&self, timeout: Duration, look: impl FnOnce(&State) -> T) -> Result<T> {
        if self.is_alone.load(Ordering::Acquire) && self.ended.borrow().is_none() {
            return Ok(look(&self.state.read()));
        }
        let ticks = ticks(timeout);
        self.ask("the read", timeout, |answer| Input::Read { ticks, answer }).await??;
        Ok(look(&self.state.read()))
    }

    /// Looks at the state as this node has it, which may be behind.
    pub fn read_local<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read())
    }

    pub async fn status(&self) -> Result<Status> {
        self.ask("the status", Duration::ZERO, |answer| Input::Status { answer }).await
    }

    /// Waits until it has stopped, for whatever reason, and gives the reason.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "its thread ended".to_owned(),
        }
    }

    /// Stops within about `timeout`. A leader first hands its office to another, so that nobody waits for an election.
    pub async fn stop(&self, timeout: Duration) {
        // Full or gone: dropping this ends it as well.
        let _ = self.inbox.try_send(Input::Stop { ticks: ticks(timeout) });
        let Some(thread) = self.thread.lock().take() else { return };
        let joined = tokio::task::spawn_blocking(move || thread.join());
        if tokio::time::timeout(timeout + GRACE, joined).await.is_err() {
            tracing::warn!("metadata did not stop in time, it waits for its disk");
        }
    }
}

impl Drop for MetadataNode {
    fn drop(&mut self) {
        // Transports hold the inbox too, so that its end would not be seen.
        let _ = self.inbox.try_send(Input::Stop { ticks: 0 });
    }
}

fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX).max(1)
}

struct Worker<T> {
    replica: Replica,
    inputs: Receiver<Input>,
    transport: T,
    commands: BTreeMap<u64, Answer<Applied>>,
    reads: BTreeMap<u64, Answer<()>>,
    /// Ticks to go until it ends whether or not somebody took over.
    stopping: Option<u64>,
}

impl<T: Transport> Worker<T> {
    fn new(replica: Replica, inputs: Receiver<Input>, transport: T) -> Self {
        Self { replica, inputs, transport, commands: BTreeMap::new(), reads: BTreeMap::new(), stopping: None }
    }

    /// Runs until it is stopped, and says why.
    fn run(mut self) -> Result<&'static str> {
        let mut next_tick = Instant::now() + TICK;
        loop {
            self.advance()?;
            if self.stopping.is_some_and(|ticks| ticks == 0 || !self.replica.is_leader()) {
                self.replica.close()?;
                return Ok("it was stopped");
            }
            self.replica.tend()?;
            match self.inputs.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(input) => self.handle(input),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok("nobody needs it any more"),
            }
            // All that waits shares the next flush.
            for _ in 0..INBOX {
                let Ok(input) = self.inputs.try_recv() else { break };
                self.handle(input);
            }
            let now = Instant::now();
            if now >= next_tick {
                // Ticks that were slept through are not made up for: a node that was frozen first hears what it missed.
                next_tick = now + TICK;
                self.replica.tick();
                if let Some(ticks) = &mut self.stopping {
                    *ticks = ticks.saturating_sub(1);
                    self.replica.hand_over();
                }
            }
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Message(message) => self.replica.step(message),
            Input::Unreachable(replica) => self.replica.unreachable(replica),
            Input::SnapshotSent { replica, arrived } => self.replica.snapshot_sent(replica, arrived),
            Input::Command { changes, member, ticks, answer } => match self.replica.submit(changes, member, ticks) {
                Ok(token) => drop(self.commands.insert(token, answer)),
                Err(error) => drop(answer.send(Err(error))),
            },
            Input::Read { ticks, answer } => {
                let token = self.replica.read(ticks);
                self.reads.insert(token, answer);
            }
            Input::Status { answer } => drop(answer.send(self.replica.status())),
            Input::Stop { ticks } => {
                self.replica.hand_over();
                self.stopping = Some(if self.replica.leads_others() { ticks } else { 0 });
            }
        }
    }

    fn advance(&mut self) -> Result<()> {
        let transport = &self.transport;
        for done in self.replica.advance(&mut |message| transport.send(message))? {
            // Whoever asked may have gone.
            match done {
                Done::Command { token, result } => {
                    if let Some(answer) = self.commands.remove(&token) {
                        let _ = answer.send(result);
                    }
                }
                Done::Read { token, result } => {
                    if let Some(answer) = self.reads.remove(&token) {
                        let _ = answer.send(result);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
