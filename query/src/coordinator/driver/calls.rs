//! What the driver asks of workers.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::stream::{self, StreamExt};
use sheaf_common::{ErrorCode, TaskId, WireError};
use sheaf_flight::messages::{EndTasksRequest, RedirectRequest, TaskAddress};
use tracing::{debug, info};

use super::super::machine::{Candidate, Redirected, Submit, WorkerKey};
use super::super::workers::address;
use super::{Answer, Driver, Failure, Lease};

/// How long a worker may take to end tasks, or to hear that retention ends. If it does not, they end with the query.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a worker whose output could not be read may take to say that it lives.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// What nobody needs any more is released at such intervals: most queries end before the first.
const RELEASE_INTERVAL: Duration = Duration::from_millis(50);

impl Driver<'_> {
    /// One request a worker, all on their way at once.
    pub(super) fn submit(&mut self, submits: Vec<Submit>) {
        let mut by_worker: BTreeMap<WorkerKey, Vec<Submit>> = BTreeMap::new();
        for submit in submits {
            if submit.attempt.attempt > 0 {
                let (attempt, worker) = (submit.attempt, &self.workers.get(submit.worker).name);
                let is_speculative = self.machine.is_speculative(attempt);
                info!(query_id = %self.context.query, %attempt, worker, is_speculative, "a task runs again");
            }
            by_worker.entry(submit.worker).or_default().push(submit);
        }
        let timeout = Duration::from_millis(self.context.settings.task_start_timeout_ms.max(1));
        for (key, submits) in by_worker {
            let worker = self.workers.get(key);
            let request = self.tasks.request(worker, &submits, &self.workers);
            let (client, at) = (Arc::clone(&self.client), address(worker));
            let number = self.leases.len();
            let call = async move { client.submit(&at, request, timeout).await };
            let events = call.map(|submitted| match submitted {
                Ok(events) => events,
                Err(error) => stream::iter([Err(error)]).boxed(),
            });
            let (events, drop) = stream::abortable(events.flatten_stream());
            let said = events.map(Some).chain(stream::iter([None])).map(move |said| (number, said));
            self.said.push(said.boxed());
            let attempts: Vec<TaskId> = submits.iter().map(|it| it.attempt).collect();
            for attempt in &attempts {
                self.placed.insert(*attempt, number);
            }
            let (is_accepted, has_failed) = (false, false);
            self.leases.push(Lease { worker: key, attempts, is_accepted, has_failed, aborted: vec![], drop });
        }
    }

    /// Ends attempts whose rows must not be used.
    pub(super) fn abort(&mut self, attempts: Vec<TaskId>) {
        let mut by_worker: BTreeMap<WorkerKey, EndTasksRequest> = BTreeMap::new();
        for attempt in attempts {
            let Some(lease) = self.placed.get(&attempt).map(|number| &mut self.leases[*number]) else { continue };
            if lease.is_accepted {
                by_worker.entry(lease.worker).or_default().aborted.push(attempt);
            } else {
                // The order of two calls is not that of their arrival.
                lease.aborted.push(attempt);
            }
        }
        for (worker, request) in by_worker {
            self.end_tasks(worker, request);
        }
    }

    /// Ends attempts whose rows nobody needs any more, some time.
    pub(super) fn release(&mut self, attempt: TaskId) {
        self.released.push(attempt);
        if !std::mem::replace(&mut self.is_releasing, true) {
            self.after(RELEASE_INTERVAL, Answer::Release);
        }
    }

    pub(super) fn send_releases(&mut self) {
        self.is_releasing = false;
        let released = std::mem::take(&mut self.released);
        let is_accepted = |task: &TaskId| self.placed.get(task).is_some_and(|number| self.leases[*number].is_accepted);
        let (released, early): (Vec<TaskId>, Vec<TaskId>) = released.into_iter().partition(is_accepted);
        self.end_released(&released);
        for attempt in early {
            self.release(attempt);
        }
    }

    /// Lets the tasks that still run come to their end: the result is there.
    pub(super) fn end_unreported(&mut self) {
        let unreported = self.unreported();
        self.end_released(&unreported);
    }

    fn end_released(&mut self, attempts: &[TaskId]) {
        let mut by_worker: BTreeMap<WorkerKey, EndTasksRequest> = BTreeMap::new();
        for attempt in attempts {
            if let Some(number) = self.placed.get(attempt) {
                by_worker.entry(self.leases[*number].worker).or_default().released.push(*attempt);
            }
        }
        for (worker, request) in by_worker {
            self.end_tasks(worker, request);
        }
    }

    fn end_tasks(&mut self, key: WorkerKey, request: EndTasksRequest) {
        if !self.workers.is_live(key) {
            return;
        }
        let (client, at, query) = (Arc::clone(&self.client), address(self.workers.get(key)), self.context.query);
        let call = async move {
            if let Err(error) = client.end_tasks(&at, &request, TELL_TIMEOUT).await {
                debug!(query_id = %query, worker = %at, %error, "a worker was not told to end tasks");
            }
            Answer::Told
        };
        self.calls.push(call.boxed());
    }

    /// Tells workers that a loss cannot be mended any more: what their exchanges retain is of no use.
    pub(super) fn end_retention(&mut self, workers: HashSet<WorkerKey>) {
        for key in workers {
            let (client, at, query) = (Arc::clone(&self.client), address(self.workers.get(key)), self.context.query);
            let call = async move {
                if let Err(error) = client.end_retention(&at, query, TELL_TIMEOUT).await {
                    // It goes on holding more than it needs to, until the query ends.
                    debug!(query_id = %query, worker = %at, %error, "a worker was not told to end retention");
                }
                Answer::Told
            };
            self.calls.push(call.boxed());
        }
    }

    /// Looks at the clock again after a while, unless no task can have a second attempt.
    pub(super) fn look_for_stragglers_later(&mut self) {
        if let Some(stragglers) = &self.stragglers {
            self.after(stragglers.interval(), Answer::LookForStragglers);
        }
    }

    /// Asks about those that run far beyond their siblings whether anybody has read from them: only their workers know.
    pub(super) fn look_for_stragglers(&mut self) {
        self.look_for_stragglers_later();
        let Some(stragglers) = &self.stragglers else { return };
        let now = Instant::now();
        let mut found = self.machine.speculation_candidates();
        found.retain(|it| !self.asked.contains(&it.attempt) && stragglers.is_straggler(it, now));
        for Candidate { attempt, worker, .. } in found {
            self.asked.insert(attempt);
            let request = RedirectRequest { task: attempt, to: None };
            self.ask_redirect(worker, request, move |answer| Answer::IsUnread(attempt, matches!(answer, Ok(true))));
        }
    }

    /// Points the readers of one attempt at another.
    pub(super) fn redirect(&mut self, from: TaskId, worker: WorkerKey, to: TaskId, to_worker: WorkerKey) {
        let to = TaskAddress { task: to, worker: address(self.workers.get(to_worker)) };
        self.ask_redirect(worker, RedirectRequest { task: from, to: Some(to) }, move |answer| {
            let outcome = match answer {
                Ok(true) => Redirected::Done,
                Ok(false) => Redirected::Refused,
                Err(_) => Redirected::Unknown,
            };
            Answer::Redirected(from, outcome)
        });
    }

    fn ask_redirect(
        &mut self,
        key: WorkerKey,
        request: RedirectRequest,
        answer: impl FnOnce(Result<bool, WireError>) -> Answer + Send + 'static,
    ) {
        let worker = self.workers.get(key);
        let (client, at, query) = (Arc::clone(&self.client), address(worker), self.context.query);
        let name = worker.name.clone();
        let call = async move {
            let redirected = client.redirect(&at, &request, TELL_TIMEOUT).await;
            let (from, to) = (request.task, request.to.map(|it| it.task));
            match (&redirected, to) {
                (Ok(true), Some(to)) => info!(query_id = %query, %from, %to, "a task was overtaken"),
                (outcome, _) => {
                    debug!(query_id = %query, %from, worker = name, ?outcome, "whether a task can be overtaken")
                }
            }
            answer(redirected)
        };
        self.calls.push(call.boxed());
    }

    /// Asks a worker whether it lives, and is the one that is meant, before the failure is taken in.
    pub(super) fn probe(&mut self, key: WorkerKey, failure: Failure) {
        let (client, at) = (Arc::clone(&self.client), address(self.workers.get(key)));
        let call = async move {
            let lives = match client.worker_info(&at, PROBE_TIMEOUT).await {
                Ok(info) if info.node == at.node => Ok(()),
                Ok(info) => {
                    let text = format!("worker {} is lost: {} runs at its address", at.node, info.node);
                    Err(WireError::new(ErrorCode::WorkerLost, text).retryable())
                }
                Err(error) => Err(error),
            };
            Answer::Probed(key, lives, Box::new(failure))
        };
        self.calls.push(call.boxed());
    }

    pub(super) fn after(&mut self, wait: Duration, answer: Answer) {
        self.calls.push(tokio::time::sleep(wait).map(move |()| answer).boxed());
    }
}
