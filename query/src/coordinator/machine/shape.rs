//! What is frozen when a query starts: its stages, what they read, how many tasks they have, and its limits.

use std::collections::BTreeSet;

use sheaf_common::{QueryId, StageId};

/// One run of one worker. A worker that comes back is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerKey(pub u32);

/// The stages below one root. Every attempt of a task gets the same: its number of siblings, its splits and the
/// partitions of its output never change, on however few workers are left.
#[derive(Debug, Clone)]
pub struct QueryShape {
    pub query: QueryId,
    /// Producers before consumers.
    pub stages: Vec<StageShape>,
    /// The stages that the root reads; it reads all of their tasks.
    pub root: Vec<StageId>,
}

#[derive(Debug, Clone)]
pub struct StageShape {
    pub stage: StageId,
    /// Whether every attempt at a task puts the same rows into each of its partitions.
    pub is_determinate: bool,
    /// Whether its tasks do more than put out rows, as writers do: then no two attempts run at a time.
    pub has_effects: bool,
    pub inputs: Vec<InputShape>,
    /// Where the first attempt of each task runs, by task index.
    pub workers: Vec<WorkerKey>,
}

/// How the tasks of one stage read another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputShape {
    pub stage: StageId,
    /// Each producer has one reader among the consumers, `producer % consumers`; else every consumer reads from all.
    pub is_dealt: bool,
}

/// Why a shape describes no query. Our bug, never the client's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    #[error("stage {0} stands twice in its query")]
    Twice(StageId),
    #[error("stage {reader} reads stage {stage}, which does not come before it")]
    Order { reader: StageId, stage: StageId },
    #[error("the root reads stage {0}, which is not there")]
    Root(StageId),
    #[error("stage {0} has no task")]
    NoTask(StageId),
}

impl QueryShape {
    /// Errs when a stage reads one that does not come before it, or has no task.
    pub(super) fn check(&self) -> Result<(), ShapeError> {
        let mut seen = BTreeSet::new();
        for stage in &self.stages {
            if let Some(input) = stage.inputs.iter().find(|input| !seen.contains(&input.stage)) {
                return Err(ShapeError::Order { reader: stage.stage, stage: input.stage });
            }
            if stage.workers.is_empty() {
                return Err(ShapeError::NoTask(stage.stage));
            }
            if !seen.insert(stage.stage) {
                return Err(ShapeError::Twice(stage.stage));
            }
        }
        match self.root.iter().find(|stage| !seen.contains(stage)) {
            Some(stage) => Err(ShapeError::Root(*stage)),
            None => Ok(()),
        }
    }
}

/// How often what may be run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Attempts of one task, the first included, whatever ended them.
    pub task_attempts_max: u32,
    /// Times that tasks of one stage are run again for the sake of others: since what they read was replaced, or what
    /// they put out is lost.
    pub stage_restarts_max: u32,
    /// Times that anything of the query is run again. What one event leads to counts once.
    pub query_restarts_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { task_attempts_max: 4, stage_restarts_max: 3, query_restarts_max: 10 }
    }
}
