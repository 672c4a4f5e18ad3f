//! `GRANT` and `REVOKE`. Nobody gives what he has not got.

use std::collections::BTreeMap;

use sheaf_common::ErrorCode;
use sheaf_planners::parser::{GrantTarget, PrivilegeItem, UserRef};

use super::{may_touch, name_of, names_of, note};
use crate::access::{AccessError, AccountName, Accounts, Grants, Level, Privilege, Privileges, Rights, check};
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::session::Session;

type Done = Result<(), QueryError>;

/// What a `REVOKE` passes over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Rights that were never granted.
    pub if_exists: bool,
    /// Users that are not there.
    pub ignores_unknown: bool,
}

/// On what privileges are given, with its names settled.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Global,
    Database(String),
    Table(String, String),
    Connection(String),
}

/// What a statement gives or takes.
#[derive(Debug)]
struct Given {
    place: Place,
    privileges: Privileges,
    /// Privileges on single columns.
    columns: BTreeMap<String, Privileges>,
}

impl Given {
    fn read(items: &[PrivilegeItem], place: Place) -> Result<Self, AccessError> {
        let level = match place {
            Place::Global => Level::Global,
            Place::Database(_) => Level::Database,
            // Has no privileges but its own.
            Place::Table(..) | Place::Connection(_) => Level::Table,
        };
        let mut given = Self { place, privileges: Privileges::NONE, columns: BTreeMap::new() };
        if matches!(given.place, Place::Connection(_)) {
            let is_use = |it: &PrivilegeItem| {
                it.columns.is_empty() && matches!(it.name.as_str(), "USAGE" | "ALL" | "ALL PRIVILEGES")
            };
            return if items.len() == 1 && items.iter().all(is_use) {
                Ok(given)
            } else {
                Err(AccessError::IllegalGrant)
            };
        }
        for item in items {
            if matches!(item.name.as_str(), "ALL" | "ALL PRIVILEGES") {
                if items.len() > 1 || !item.columns.is_empty() {
                    return Err(AccessError::IllegalGrant);
                }
                given.privileges = Privileges::all_of(level);
                continue;
            }
            if item.name == "USAGE" {
                continue;
            }
            let Some(privilege) = Privilege::of_name(&item.name) else {
                let what = format!("the privilege {}", item.name);
                return Err(AccessError::Unsupported { what });
            };
            if !item.columns.is_empty() {
                if level != Level::Table || privilege.level() != Level::Column {
                    return Err(AccessError::WrongUsage { left: "COLUMN GRANT", right: "NON-COLUMN PRIVILEGES" });
                }
                for column in &item.columns {
                    let on = given.columns.entry(column.value.to_lowercase()).or_default();
                    *on = on.with(privilege);
                }
                continue;
            }
            if privilege.level() > level {
                return Err(match level {
                    Level::Database => AccessError::WrongUsage { left: "DB GRANT", right: "GLOBAL PRIVILEGES" },
                    _ => AccessError::IllegalGrant,
                });
            }
            given.privileges = given.privileges.with(privilege);
        }
        Ok(given)
    }

    /// Errs unless these rights hold all that is given, and that to grant it.
    fn check(&self, rights: &Rights, accounts: &Accounts) -> Result<(), AccessError> {
        match &self.place {
            Place::Global => {
                let has = rights.global();
                match has.has(Privilege::GrantOption) && has.contains(self.privileges) {
                    true => Ok(()),
                    false => Err(AccessError::Grant { who: rights.who().clone() }),
                }
            }
            Place::Database(pattern) => {
                // A pattern may mean more databases than one has rights on: it is held against grants on that very pattern.
                let has = match accounts_rights(rights, accounts, pattern) {
                    Some(on_pattern) => on_pattern | rights.global(),
                    None => rights.on_database(pattern),
                };
                match has.has(Privilege::GrantOption) && has.contains(self.privileges) {
                    true => Ok(()),
                    false => Err(rights.denied_database(pattern)),
                }
            }
            Place::Connection(connection) => rights.need_to_grant_connection(connection),
            Place::Table(database, table) => {
                let has = rights.on_table(database, table);
                if !has.has(Privilege::GrantOption) {
                    return Err(rights.denied_table("GRANT", table));
                }
                let missing = self.privileges - has;
                if !missing.is_empty() {
                    return Err(rights.denied_table(&missing.names(), table));
                }
                for (column, privileges) in &self.columns {
                    let missing = *privileges - rights.on_column(database, table, column);
                    if !missing.is_empty() {
                        return Err(rights.denied_column(&missing.names(), column, table));
                    }
                }
                Ok(())
            }
        }
    }

    fn add_to(&self, grants: &mut Grants) {
        match &self.place {
            Place::Global => grants.grant_global(self.privileges),
            Place::Database(pattern) => grants.grant_database(pattern, self.privileges),
            Place::Table(database, table) => grants.grant_table(database, table, self.privileges, &self.columns),
            Place::Connection(connection) => {
                grants.grant_connection(connection, self.privileges.has(Privilege::GrantOption));
            }
        }
    }

    /// Whether there was a grant on exactly this.
    fn take_from(&self, grants: &mut Grants) -> bool {
        match &self.place {
            Place::Global => {
                grants.revoke_global(self.privileges);
                true
            }
            Place::Database(pattern) => grants.revoke_database(pattern, self.privileges),
            Place::Table(database, table) => grants.revoke_table(database, table, self.privileges, &self.columns),
            Place::Connection(connection) => grants.revoke_connection(connection),
        }
    }

    fn no_such(&self, who: &AccountName) -> AccessError {
        match &self.place {
            Place::Table(_, table) => AccessError::NoSuchTableGrant { who: who.clone(), table: table.clone() },
            Place::Connection(connection) => {
                AccessError::NoSuchConnectionGrant { who: who.clone(), connection: connection.clone() }
            }
            _ => AccessError::NoSuchGrant { who: who.clone() },
        }
    }
}

/// What the granter's account has on a pattern itself; none where the text is no pattern.
fn accounts_rights(rights: &Rights, accounts: &Accounts, pattern: &str) -> Option<Privileges> {
    let is_pattern = pattern.replace("\\_", "").replace("\\%", "").contains(['%', '_']);
    let account = rights.account()?;
    is_pattern.then(|| {
        let granted = accounts.get(account).and_then(|it| it.grants.databases.get(pattern));
        granted.copied().unwrap_or_default()
    })
}

/// The names of a target as the catalog spells them. A table that is not there can be granted on only by who may create it.
fn place(session: &Session, target: &GrantTarget, needs_it: bool) -> Result<Place, QueryError> {
    let current = |database: &Option<String>| match database {
        Some(database) => Ok(check::database(session, database)),
        None => session.database().ok_or(QueryError::NoDatabaseSelected),
    };
    Ok(match target {
        GrantTarget::Global => Place::Global,
        GrantTarget::Database(database) => Place::Database(current(database)?),
        GrantTarget::Connection(connection) => {
            let found = session.engine().catalog().connection_name(connection);
            match found {
                Ok(name) => Place::Connection(name),
                Err(error) if needs_it => return Err(QueryError::from_classified(&error)),
                Err(_) => Place::Connection(connection.clone()),
            }
        }
        GrantTarget::Table { database, table } => {
            let database = current(database)?;
            match session.engine().catalog().table(&database, table) {
                Ok(found) => Place::Table(database, found.name),
                Err(_) if !needs_it => Place::Table(database, table.clone()),
                Err(_) => return Err(QueryError::TableNotFound { database, table: table.clone() }),
            }
        }
    })
}

pub(super) async fn grant(
    session: &Session,
    context: &QueryContext,
    items: &[PrivilegeItem],
    on: &GrantTarget,
    to: &[UserRef],
    with_grant_option: bool,
) -> Done {
    let creates = items.iter().any(|it| matches!(it.name.as_str(), "CREATE" | "ALL" | "ALL PRIVILEGES"));
    let mut given = Given::read(items, place(session, on, false)?)?;
    let names = names_of(context, to)?;
    given.check(&context.rights, &session.engine().access().accounts())?;
    // Only who may grant there is told what is there.
    if matches!(given.place, Place::Connection(_)) {
        place(session, on, true)?;
    }
    if let Place::Table(database, table) = &given.place {
        place(session, on, !creates)?;
        if let Ok(found) = session.engine().catalog().table(database, table) {
            let is_there =
                |column: &String| found.schema.fields().iter().any(|it| it.name().eq_ignore_ascii_case(column));
            if let Some(column) = given.columns.keys().find(|it| !is_there(it)) {
                let message = format!("unknown column '{column}' in '{table}'");
                return Err(sheaf_common::WireError::new(ErrorCode::ColumnNotFound, message).into());
            }
        }
    }
    if with_grant_option {
        given.privileges = given.privileges.with(Privilege::GrantOption);
    }
    let granted = session.engine().access().change(|accounts| {
        names.iter().try_for_each(|name| may_touch(context, accounts, name))?;
        accounts.change_grants(
            &names,
            |_| Some(AccessError::GrantToUnknown),
            |_, grants| {
                given.add_to(grants);
                Ok(())
            },
        )
    });
    granted.await?;
    Ok(())
}

pub(super) async fn revoke(
    session: &Session,
    context: &QueryContext,
    items: &[PrivilegeItem],
    on: &GrantTarget,
    from: &[UserRef],
    manner: Manner,
) -> Done {
    let given = Given::read(items, place(session, on, false)?)?;
    let names = names_of(context, from)?;
    given.check(&context.rights, &session.engine().access().accounts())?;
    let mut never_granted = vec![];
    let missing: fn(&AccountName) -> Option<AccessError> = match manner.ignores_unknown {
        true => |_| None,
        false => |name| Some(AccessError::NoSuchGrant { who: name.clone() }),
    };
    let revoked = session.engine().access().change(|accounts| {
        never_granted.clear();
        names.iter().try_for_each(|name| may_touch(context, accounts, name))?;
        accounts.change_grants(&names, missing, |name, grants| {
            if given.take_from(grants) {
                return Ok(());
            }
            if !manner.if_exists {
                return Err(given.no_such(name));
            }
            never_granted.push(given.no_such(name));
            Ok(())
        })
    });
    let passed_over = revoked.await?;
    for error in never_granted {
        session.warn(sheaf_common::Classify::code(&error), error.to_string());
    }
    note(session, &passed_over, ErrorCode::AccountMissing, "does not exist.");
    Ok(())
}

pub(super) async fn revoke_all(session: &Session, context: &QueryContext, from: &[UserRef], manner: Manner) -> Done {
    context.rights.need(&[Privilege::CreateUser])?;
    if context.rights.account().is_some() && !context.rights.global().has(Privilege::GrantOption) {
        return Err(AccessError::Grant { who: context.rights.who().clone() }.into());
    }
    let names = names_of(context, from)?;
    let missing: fn(&AccountName) -> Option<AccessError> = match manner.ignores_unknown || manner.if_exists {
        true => |_| None,
        false => |name| Some(AccessError::NoSuchGrant { who: name.clone() }),
    };
    let revoked = session.engine().access().change(|accounts| {
        names.iter().try_for_each(|name| may_touch(context, accounts, name))?;
        accounts.change_grants(&names, missing, |_, grants| {
            *grants = Grants::default();
            Ok(())
        })
    });
    note(session, &revoked.await?, ErrorCode::AccountMissing, "does not exist.");
    Ok(())
}

fn need_to_grant_roles(context: &QueryContext, roles: &[AccountName]) -> Result<(), AccessError> {
    match roles.iter().all(|role| context.rights.may_grant_role(role)) {
        true => Ok(()),
        false => context.rights.need(&[Privilege::RoleAdmin, Privilege::Super]),
    }
}

pub(super) async fn grant_roles(
    session: &Session,
    context: &QueryContext,
    roles: &[UserRef],
    to: &[UserRef],
    with_admin_option: bool,
) -> Done {
    let (roles, to) = (names_of(context, roles)?, names_of(context, to)?);
    need_to_grant_roles(context, &roles)?;
    let granted = session.engine().access().change(|accounts| {
        // A role with SYSTEM_USER makes a system user of whoever gets it.
        roles.iter().chain(&to).try_for_each(|name| may_touch(context, accounts, name))?;
        accounts.grant_roles(&roles, &to, with_admin_option)
    });
    Ok(granted.await?)
}

pub(super) async fn revoke_roles(
    session: &Session,
    context: &QueryContext,
    roles: &[UserRef],
    from: &[UserRef],
    manner: Manner,
) -> Done {
    let roles = roles.iter().map(|it| name_of(context, it)).collect::<Result<Vec<_>, _>>()?;
    let from = names_of(context, from)?;
    need_to_grant_roles(context, &roles)?;
    let revoked = session.engine().access().change(|accounts| {
        from.iter().try_for_each(|name| may_touch(context, accounts, name))?;
        accounts.revoke_roles(&roles, &from, manner.if_exists || manner.ignores_unknown)
    });
    Ok(revoked.await?)
}
