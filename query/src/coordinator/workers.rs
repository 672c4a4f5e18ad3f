//! The workers of one query, numbered for its machine.

use sheaf_flight::WorkerAddress;
use sheaf_planners::reschedule::Worker;

use super::machine::WorkerKey;

/// Every worker that the query ever knew. One that was lost and comes back, even as the same process, is another one:
/// nothing that it had is counted on any more.
#[derive(Debug, Default)]
pub(super) struct Workers {
    /// By [`WorkerKey`].
    known: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    worker: Worker,
    is_gone: bool,
}

impl Workers {
    /// The number of a worker, and whether it is a new one.
    pub fn add(&mut self, worker: &Worker) -> (WorkerKey, bool) {
        let known = self.known.iter().position(|it| !it.is_gone && it.worker.id == worker.id);
        let index = known.unwrap_or(self.known.len());
        if known.is_none() {
            self.known.push(Known { worker: worker.clone(), is_gone: false });
        }
        (WorkerKey(index as u32), known.is_none())
    }

    /// The worker of a number; only numbers that [`Self::add`] gave have one.
    pub fn get(&self, key: WorkerKey) -> &Worker {
        &self.known[key.0 as usize].worker
    }

    /// Those that are not lost.
    pub fn live(&self) -> impl Iterator<Item = (WorkerKey, &Worker)> {
        let numbered = self.known.iter().enumerate().filter(|(_, it)| !it.is_gone);
        numbered.map(|(index, it)| (WorkerKey(index as u32), &it.worker))
    }

    pub fn is_live(&self, key: WorkerKey) -> bool {
        !self.known[key.0 as usize].is_gone
    }

    pub fn lose(&mut self, key: WorkerKey) {
        self.known[key.0 as usize].is_gone = true;
    }
}

pub(super) fn address(worker: &Worker) -> WorkerAddress {
    WorkerAddress { node: worker.id.clone(), host: worker.host.clone(), port: worker.port }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_is_another_one() {
        let worker = Worker { id: "w#1".into(), name: "w".into(), host: "h".into(), port: 1, cores: 1 };
        let mut workers = Workers::default();
        assert_eq!(workers.add(&worker), (WorkerKey(0), true));
        assert_eq!(workers.add(&worker), (WorkerKey(0), false));
        workers.lose(WorkerKey(0));
        assert_eq!(workers.add(&worker), (WorkerKey(1), true));
        assert_eq!((workers.is_live(WorkerKey(0)), workers.live().count()), (false, 1));
    }
}
