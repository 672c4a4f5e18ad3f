//! Newtypes for what is counted across the cluster.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One execution of one statement. The upper 16 bits are the coordinator's number, the rest its counter, so that
/// two coordinators never give the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QueryId(pub u64);

impl QueryId {
    const COUNTER_BITS: u32 = 48;

    /// The id of the `sequence`-th statement of a coordinator.
    pub fn new(coordinator: u16, sequence: u64) -> Self {
        Self((u64::from(coordinator) << Self::COUNTER_BITS) | (sequence & ((1 << Self::COUNTER_BITS) - 1)))
    }

    /// The number of the coordinator that took the statement.
    pub fn coordinator(self) -> u16 {
        (self.0 >> Self::COUNTER_BITS) as u16
    }

    /// The statement's number at its coordinator: later ones have higher ones.
    pub fn sequence(self) -> u64 {
        self.0 & ((1 << Self::COUNTER_BITS) - 1)
    }
}

impl fmt::Display for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for QueryId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// A stage of one query, numbered from 1 in the order in which data flows; the root has the highest number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StageId(pub u32);

impl fmt::Display for StageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One attempt at one task: what owns an exchange buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskId {
    pub query: QueryId,
    pub stage: StageId,
    /// Index within the stage, from 0.
    pub task: u32,
    /// From 0.
    pub attempt: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.query, self.stage, self.task, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_two_coordinators_differ() {
        assert_ne!(QueryId::new(1, 7), QueryId::new(2, 7));
        assert_eq!(QueryId::new(3, 7).to_string().parse(), Ok(QueryId::new(3, 7)));
        assert_eq!((QueryId::new(u16::MAX, 7).coordinator(), QueryId::new(u16::MAX, 7).sequence()), (u16::MAX, 7));
    }
}
