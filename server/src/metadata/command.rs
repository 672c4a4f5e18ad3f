//! What can be asked of the log, and what is answered.

use serde::{Deserialize, Serialize};

pub use sheaf_common::definitions::{Applied, Change, Effect, IfExists, Object, Refusal, Right};

/// Longest command, encoded. A table of 10,000 columns has about 1 MB.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;

/// A change of the group that keeps the log. One at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MemberChange {
    /// Gets the log, has no vote.
    AddLearner {
        replica: u64,
    },
    /// A learner that has caught up gets a vote.
    Promote {
        replica: u64,
    },
    Remove {
        replica: u64,
    },
}

/// Names one command of one asker for ever: a command that was sent twice is applied once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId {
    /// Drawn at each start of a node.
    pub client: u64,
    /// Counted by the client. Need not arrive in order.
    pub sequence: u64,
}

/// A command: all its changes take effect, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub id: RequestId,
    /// The last log index that the asker had applied when it first sent this. Past
    /// [`super::state::REMEMBERED_ENTRIES`] more the command is refused, since nobody would know it again.
    pub since: u64,
    pub changes: Vec<Change>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberChange>,
}

impl Request {
    /// What can be refused without looking at any state. Every copy of the state machine refuses it alike.
    pub fn check(&self) -> Result<(), Refusal> {
        Change::check(&self.changes)?;
        match self.changes.is_empty() && self.member.is_none() {
            true => Err(Refusal::Invalid { reason: "the command changes nothing".to_owned() }),
            false => Ok(()),
        }
    }
}

pub type Outcome = Result<Applied, Refusal>;
