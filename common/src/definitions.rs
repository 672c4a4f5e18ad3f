//! What a cluster agrees on: databases, tables, views, users, roles, grants, global settings, stored connections and
//! nodes, and the changes of them.
//!
//! Each object has a name, a definition and a version. Definitions are texts of whoever stores them: nobody here looks
//! into them. Start at [`Object`], then [`Change`]; [`Definitions`] is what changes amount to.
//!
//! Names are exact: "the only table that differs in case" is looked up by whoever asks, because tables of upper and
//! lower case differ between versions of a compiler and all copies must decide alike. For the same reason clocks are
//! read by whoever asks, and stand in definitions. A field that this version does not know makes a change unreadable,
//! because it may change what the change does.

mod state;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use state::{Definitions, Record, Written};

use crate::{Classify, ErrorCode};

/// Longest name of anything. The catalog allows less for what SQL names.
const NAME_BYTES_MAX: usize = 1024;

/// A thing with a name. Tables and views share one space of names, users and roles another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Object {
    Database {
        name: String,
    },
    Table {
        database: String,
        name: String,
    },
    View {
        database: String,
        name: String,
    },
    User {
        name: String,
    },
    Role {
        name: String,
    },
    /// A right that a user or a role has.
    Grant {
        grantee: String,
        right: Right,
    },
    /// A global setting.
    Setting {
        name: String,
    },
    /// A stored connection to another server.
    Connection {
        name: String,
    },
    Node {
        name: String,
    },
}

/// What a grant gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Right {
    /// `SELECT` on everything, on a database, or on a table; the objects need not exist, as in MySQL.
    Privilege { privilege: String, database: Option<String>, table: Option<String> },
    /// All that a role may do. Any user can be granted like a role, as in MySQL.
    Role { name: String },
    /// The use of a stored connection.
    Connection { name: String },
}

impl Object {
    pub fn database(name: impl Into<String>) -> Self {
        Self::Database { name: name.into() }
    }

    pub fn table(database: impl Into<String>, name: impl Into<String>) -> Self {
        Self::Table { database: database.into(), name: name.into() }
    }

    pub fn view(database: impl Into<String>, name: impl Into<String>) -> Self {
        Self::View { database: database.into(), name: name.into() }
    }

    pub fn user(name: impl Into<String>) -> Self {
        Self::User { name: name.into() }
    }

    pub fn role(name: impl Into<String>) -> Self {
        Self::Role { name: name.into() }
    }

    pub fn grant(grantee: impl Into<String>, right: Right) -> Self {
        Self::Grant { grantee: grantee.into(), right }
    }

    pub fn setting(name: impl Into<String>) -> Self {
        Self::Setting { name: name.into() }
    }

    pub fn connection(name: impl Into<String>) -> Self {
        Self::Connection { name: name.into() }
    }

    pub fn node(name: impl Into<String>) -> Self {
        Self::Node { name: name.into() }
    }

    fn names(&self) -> Vec<&str> {
        match self {
            Self::Database { name }
            | Self::User { name }
            | Self::Role { name }
            | Self::Setting { name }
            | Self::Connection { name }
            | Self::Node { name } => vec![name],
            Self::Table { database, name } | Self::View { database, name } => vec![database, name],
            Self::Grant { grantee, right: Right::Role { name } | Right::Connection { name } } => vec![grantee, name],
            Self::Grant { grantee, right: Right::Privilege { privilege, database, table } } => {
                [Some(grantee), Some(privilege), database.as_ref(), table.as_ref()]
                    .into_iter()
                    .flatten()
                    .map(String::as_str)
                    .collect()
            }
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database { name } => write!(f, "database '{name}'"),
            Self::Table { database, name } => write!(f, "table '{database}.{name}'"),
            Self::View { database, name } => write!(f, "view '{database}.{name}'"),
            Self::User { name } => write!(f, "user '{name}'"),
            Self::Role { name } => write!(f, "role '{name}'"),
            Self::Grant { grantee, right: Right::Role { name } } => write!(f, "grant of role '{name}' to '{grantee}'"),
            Self::Grant { grantee, right: Right::Connection { name } } => {
                write!(f, "grant of connection '{name}' to '{grantee}'")
            }
            Self::Grant { grantee, right: Right::Privilege { privilege, database, table } } => {
                let place = |name: &Option<String>| name.clone().unwrap_or_else(|| "*".to_owned());
                write!(f, "grant of {privilege} on {}.{} to '{grantee}'", place(database), place(table))
            }
            Self::Setting { name } => write!(f, "global setting '{name}'"),
            Self::Connection { name } => write!(f, "connection '{name}'"),
            Self::Node { name } => write!(f, "node '{name}'"),
        }
    }
}

/// What to do where the name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfExists {
    Fail,
    /// IF NOT EXISTS.
    Keep,
    /// OR REPLACE; also how a global setting is set and a node that comes back is entered.
    Replace,
}

/// One step of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    Create {
        object: Object,
        /// A text of the asker's: kept and handed back, never looked into.
        definition: String,
        if_exists: IfExists,
        /// Of a database: its tables are what they are, nothing can be created in it.
        #[serde(default)]
        sealed: bool,
    },
    Alter {
        object: Object,
        definition: String,
        /// The version that was read: compare-and-set. `None` overwrites whatever is there.
        #[serde(default)]
        expected: Option<u64>,
    },
    Drop {
        object: Object,
        /// IF EXISTS.
        if_missing_keep: bool,
        /// With what is in it; grants go with those who have them, and those of a role or a connection with it, either
        /// way. Grants on a database or a table stay, as in MySQL.
        cascade: bool,
        #[serde(default)]
        expected: Option<u64>,
    },
}

impl Change {
    pub fn create(object: Object, definition: impl Into<String>, if_exists: IfExists) -> Self {
        Self::Create { object, definition: definition.into(), if_exists, sealed: false }
    }

    pub fn alter(object: Object, definition: impl Into<String>, expected: Option<u64>) -> Self {
        Self::Alter { object, definition: definition.into(), expected }
    }

    pub fn drop(object: Object) -> Self {
        Self::Drop { object, if_missing_keep: false, cascade: false, expected: None }
    }

    pub fn object(&self) -> &Object {
        match self {
            Self::Create { object, .. } | Self::Alter { object, .. } | Self::Drop { object, .. } => object,
        }
    }

    /// What can be refused without looking at any state. Every copy of the state refuses it alike.
    pub fn check(changes: &[Self]) -> Result<(), Refusal> {
        for name in changes.iter().flat_map(|change| change.object().names()) {
            let reason = match name {
                "" => "a name is empty",
                _ if name.len() > NAME_BYTES_MAX => "a name has more than 1024 bytes",
                _ if name.contains('\0') => "a name has a zero byte",
                _ => continue,
            };
            return Err(Refusal::Invalid { reason: reason.to_owned() });
        }
        Ok(())
    }
}

/// What one change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    Created,
    Replaced,
    Altered,
    /// With this many others that were in it.
    Dropped {
        others: u64,
    },
    /// IF NOT EXISTS found it, or IF EXISTS did not.
    Nothing,
}

/// A command that took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its place in the log, which is also the version of all that it created or altered.
    pub index: u64,
    /// One for each change.
    pub effects: Vec<Effect>,
}

/// A command that was decided on and changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    #[error("{object} does not exist")]
    NotFound { object: Object },
    #[error("{object} exists already")]
    Exists { object: Object },
    /// A DROP without CASCADE.
    #[error("{object} is not empty: it has {others} tables and views")]
    NotEmpty { object: Object, others: u64 },
    #[error("{object} cannot be changed")]
    Sealed { object: Object },
    /// Somebody else was faster. Read again, and decide again.
    #[error("{object} was changed by another statement: it has version {found}, version {expected} was expected")]
    VersionChanged { object: Object, expected: u64, found: u64 },
    #[error("role '{role}' would be granted to itself")]
    Cycle { role: String },
    /// It may have taken effect long ago.
    #[error(
        "the command waited too long and was not carried out now: see whether it took effect before sending it anew"
    )]
    Expired,
    #[error("the command is not valid: {reason}")]
    Invalid { reason: String },
}

impl Classify for Refusal {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound { object: Object::Database { .. } } => ErrorCode::DatabaseNotFound,
            Self::NotFound { object: Object::Table { .. } | Object::View { .. } } => ErrorCode::TableNotFound,
            Self::Exists { object: Object::Database { .. } } => ErrorCode::DatabaseExists,
            Self::Exists { object: Object::Table { .. } | Object::View { .. } } => ErrorCode::TableExists,
            Self::NotFound { object: Object::Connection { .. } } => ErrorCode::ConnectionNotFound,
            Self::Exists { object: Object::Connection { .. } } => ErrorCode::ConnectionExists,
            Self::Sealed { .. } => ErrorCode::AccessDenied,
            Self::VersionChanged { .. } | Self::Expired => ErrorCode::Busy,
            Self::NotFound { .. }
            | Self::Exists { .. }
            | Self::NotEmpty { .. }
            | Self::Cycle { .. }
            | Self::Invalid { .. } => ErrorCode::InvalidArgument,
        }
    }

    /// Never: whoever lost a race reads again and decides again.
    fn is_retryable(&self) -> bool {
        false
    }
}
