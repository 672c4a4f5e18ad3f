//! The states of an attempt and of a query, and every step between them.
//!
//! What stands in no row of a table changes nothing: messages come late, twice and in any order, and whatever is said
//! of an attempt that is over is no news.

/// Where one attempt stands, as far as the coordinator knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptState {
    /// Sent to its worker, which did not answer yet.
    Submitted,
    /// Its worker has it. Consumers may be reading what it put out so far.
    Running,
    /// It wrote its last row, and its worker holds all of its output.
    Complete,
    /// Nobody needs its output any more, or it is lost; whoever finished with it stands.
    Spent,
    /// It ended with an error.
    Failed,
    /// Its worker was lost while it ran.
    Lost,
    /// What it did is worth nothing: it read from an attempt that another one replaced.
    Aborted,
}

/// What befalls an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptSignal {
    Accept,
    Finish,
    Fail,
    /// Its worker is gone.
    Lose,
    /// Its rows must not be used any more.
    Abort,
    /// Its rows are not needed any more.
    Release,
}

const ATTEMPT_STEPS: [(AttemptState, AttemptSignal, AttemptState); 15] = {
    use AttemptSignal::*;
    use AttemptState::*;
    [
        (Submitted, Accept, Running),
        // The answer to the submit may be overtaken by what the task has to say.
        (Submitted, Finish, Complete),
        (Submitted, Fail, Failed),
        (Submitted, Lose, Lost),
        (Submitted, Abort, Aborted),
        (Submitted, Release, Spent),
        (Running, Finish, Complete),
        (Running, Fail, Failed),
        (Running, Lose, Lost),
        (Running, Abort, Aborted),
        (Running, Release, Spent),
        (Complete, Lose, Spent),
        (Complete, Abort, Aborted),
        (Complete, Release, Spent),
        (Spent, Abort, Aborted),
    ]
};

impl AttemptState {
    pub(super) fn next(self, signal: AttemptSignal) -> Option<AttemptState> {
        ATTEMPT_STEPS.iter().find(|(from, on, _)| (*from, *on) == (self, signal)).map(|(_, _, to)| *to)
    }

    /// Whether it may still put out rows.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Submitted | Self::Running)
    }

    /// Whether a consumer that starts now can read all of its output, from the first row.
    pub fn is_readable(self) -> bool {
        self.is_live() || self == Self::Complete
    }

    /// Whether it came to a good end, or to one that nobody minds.
    pub fn is_done(self) -> bool {
        matches!(self, Self::Complete | Self::Spent)
    }
}

/// Where a query stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryState {
    /// The root does not read: its producers have no place yet.
    Waiting,
    /// The root reads, and holds its rows back: whatever is lost can be made good.
    Holding,
    /// Rows went to the client: the root cannot begin again.
    Streaming,
    Succeeded,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QuerySignal {
    RootStarted,
    RootStopped,
    RowsOut,
    RootFinished,
    Fail,
}

const QUERY_STEPS: [(QueryState, QuerySignal, QueryState); 8] = {
    use QuerySignal::*;
    use QueryState::*;
    [
        (Waiting, RootStarted, Holding),
        (Waiting, Fail, Failed),
        (Holding, RootStopped, Waiting),
        (Holding, RowsOut, Streaming),
        (Holding, RootFinished, Succeeded),
        (Holding, Fail, Failed),
        (Streaming, RootFinished, Succeeded),
        (Streaming, Fail, Failed),
    ]
};

impl QueryState {
    pub(super) fn next(self, signal: QuerySignal) -> Option<QueryState> {
        QUERY_STEPS.iter().find(|(from, on, _)| (*from, *on) == (self, signal)).map(|(_, _, to)| *to)
    }

    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_state_has_two_ways_on_one_signal() {
        for (i, (from, on, _)) in ATTEMPT_STEPS.iter().enumerate() {
            assert!(ATTEMPT_STEPS[..i].iter().all(|(f, o, _)| (f, o) != (from, on)), "{from:?} on {on:?}");
        }
        for (i, (from, on, _)) in QUERY_STEPS.iter().enumerate() {
            assert!(QUERY_STEPS[..i].iter().all(|(f, o, _)| (f, o) != (from, on)), "{from:?} on {on:?}");
        }
    }

    #[test]
    fn an_attempt_that_ended_never_runs_again() {
        use AttemptState::*;
        for (from, on, to) in ATTEMPT_STEPS {
            assert!(from.is_live() || !to.is_live(), "{from:?} on {on:?}");
            assert!(to != Complete || from.is_live(), "{from:?} on {on:?}");
        }
        for over in [QueryState::Succeeded, QueryState::Failed] {
            assert!(QUERY_STEPS.iter().all(|(from, _, _)| *from != over));
        }
    }
}
