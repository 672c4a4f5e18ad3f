//! Why something about rights was refused, in MySQL's words and with its numbers.

use std::path::PathBuf;

use sheaf_common::{Classify, ErrorCode};

use super::names::AccountName;

#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("access denied for user {who} to database '{database}'")]
    Database { who: AccountName, database: String },
    #[error("{command} command denied to user {who} for table '{table}'")]
    Table { command: String, who: AccountName, table: String },
    #[error("{command} command denied to user {who} for column '{column}' in table '{table}'")]
    Column { command: String, who: AccountName, column: String, table: String },
    #[error("{command} command denied to user {who} for connection '{connection}'")]
    Connection { command: &'static str, who: AccountName, connection: String },
    #[error("there is no such grant defined for user '{}' on host '{}' on connection '{connection}'", who.user, who.host)]
    NoSuchConnectionGrant { who: AccountName, connection: String },
    /// Something of the whole server.
    #[error("access denied; you need (at least one of) the {privileges} privilege(s) for this operation")]
    Privilege { privileges: String },
    /// A grant on the whole server by somebody who may not.
    #[error("access denied for user {who} (using password: YES)")]
    Grant { who: AccountName },
    #[error("you are not owner of thread {id}")]
    NotOwner { id: u64 },
    /// Users or roles that are there already, or are not.
    #[error("operation {operation} failed for {names}")]
    Operation { operation: &'static str, names: String },
    #[error("you are not allowed to create a user with GRANT")]
    GrantToUnknown,
    #[error("there is no such grant defined for user '{}' on host '{}'", who.user, who.host)]
    NoSuchGrant { who: AccountName },
    #[error("there is no such grant defined for user '{}' on host '{}' on table '{table}'", who.user, who.host)]
    NoSuchTableGrant { who: AccountName, table: String },
    #[error("illegal GRANT/REVOKE command; please consult the manual to see which privileges can be used")]
    IllegalGrant,
    #[error("incorrect usage of {left} and {right}")]
    WrongUsage { left: &'static str, right: &'static str },
    #[error("can't find any matching row in the user table")]
    NoSuchUser,
    #[error("unknown authorization ID {}", name.in_backticks())]
    UnknownRole { name: AccountName },
    #[error("{} is not granted to {}", role.in_backticks(), to.in_backticks())]
    RoleNotGranted { role: AccountName, to: AccountName },
    #[error("user account {} is directly or indirectly granted to the role {}", account.in_backticks(), role.in_backticks())]
    RoleCycle { role: AccountName, account: AccountName },
    #[error("plugin '{plugin}' is not loaded: passwords are checked by caching_sha2_password or mysql_native_password")]
    UnknownPlugin { plugin: String },
    #[error("the password hash doesn't have the expected format: for {plugin} a star and hexadecimal digits")]
    WrongHash { plugin: &'static str },
    /// The password that was to be replaced is another one.
    #[error("incorrect current password: specify the correct password which has to be replaced")]
    WrongCurrentPassword,
    /// Something that we read but do not do.
    #[error("{what} is not supported")]
    Unsupported { what: String },
    #[error("no database selected")]
    NoDatabaseSelected,
    /// The operator's to mend.
    #[error("could not read or write the accounts in {}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("the accounts in {} cannot be read: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    /// Other coordinators changed accounts again and again in between. The same statement may work later.
    #[error("accounts were changed by other statements at the same time: try again")]
    Contended,
    /// What came along was decided on something that another statement changed in between. Decide again.
    #[error("what the statement is about was changed by another statement at the same time: try again")]
    Outdated,
    /// The cluster's metadata did not take the change.
    #[error("{message}")]
    Store { code: ErrorCode, message: String, retryable: bool },
}

impl Classify for AccessError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Database { .. } => ErrorCode::DatabaseAccessDenied,
            Self::Table { .. } | Self::Connection { .. } => ErrorCode::AccessDenied,
            Self::Column { .. } => ErrorCode::ColumnAccessDenied,
            Self::Privilege { .. } => ErrorCode::PrivilegeNeeded,
            Self::Grant { .. } => ErrorCode::LoginDenied,
            Self::NotOwner { .. } => ErrorCode::KillDenied,
            Self::Operation { .. } => ErrorCode::AccountOperation,
            Self::GrantToUnknown => ErrorCode::GrantToUnknown,
            Self::NoSuchGrant { .. } | Self::NoSuchConnectionGrant { .. } => ErrorCode::NoSuchGrant,
            Self::NoSuchTableGrant { .. } => ErrorCode::NoSuchTableGrant,
            Self::IllegalGrant => ErrorCode::IllegalGrant,
            Self::WrongUsage { .. } => ErrorCode::WrongUsage,
            Self::NoSuchUser => ErrorCode::NoSuchUser,
            Self::UnknownRole { .. } => ErrorCode::UnknownRole,
            Self::RoleNotGranted { .. } => ErrorCode::RoleNotGranted,
            Self::RoleCycle { .. } => ErrorCode::RoleCycle,
            Self::UnknownPlugin { .. } => ErrorCode::UnknownPlugin,
            Self::WrongHash { .. } => ErrorCode::WrongPasswordHash,
            Self::WrongCurrentPassword => ErrorCode::WrongCurrentPassword,
            Self::Unsupported { .. } => ErrorCode::Unsupported,
            Self::NoDatabaseSelected => ErrorCode::NoDatabaseSelected,
            Self::File { .. } | Self::Damaged { .. } => ErrorCode::FileUnreadable,
            Self::Contended | Self::Outdated => ErrorCode::Busy,
            Self::Store { code, .. } => *code,
        }
    }

    fn is_retryable(&self) -> bool {
        match self {
            Self::Store { retryable, .. } => *retryable,
            Self::File { .. } | Self::Contended | Self::Outdated => true,
            _ => false,
        }
    }
}
