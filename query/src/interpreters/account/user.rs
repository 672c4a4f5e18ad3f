//! `CREATE`, `ALTER`, `DROP` and `RENAME USER`, roles, passwords, and what `SHOW` tells of an account.

use std::collections::BTreeSet;

use sheaf_common::ErrorCode;
use sheaf_planners::parser::{Credential, Password, RoleChoice, UserOptions, UserRef, UserSpec};

use super::{may_touch, name_of, names_of, note};
use crate::access::{AccessError, Account, AccountName, Privilege, Verifier};
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::interpreters::rows::Rows;
use crate::session::Session;

type Done = Result<(), QueryError>;

/// The verifier of a new password; none where nothing is said of one.
fn verifier(credential: &Credential) -> Result<Option<Verifier>, AccessError> {
    Ok(match credential {
        Credential::None => None,
        Credential::Password { plugin, password, .. } => {
            Some(Verifier::of_password(plugin.as_deref(), password.expose())?)
        }
        Credential::Verifier { plugin, verifier: None } => Some(Verifier::of_plugin(plugin)?),
        Credential::Verifier { plugin, verifier: Some(text) } => Some(Verifier::of_text(plugin, text.expose())?),
    })
}

fn apply(options: &UserOptions, account: &mut Account) {
    account.is_locked = options.is_locked.unwrap_or(account.is_locked);
    account.requires_tls = options.requires_tls.unwrap_or(account.requires_tls);
    if let Some(comment) = &options.comment {
        account.comment = Some(comment.clone()).filter(|it| !it.is_empty());
    }
}

pub(super) async fn create(
    session: &Session,
    context: &QueryContext,
    if_not_exists: bool,
    users: Vec<UserSpec>,
    default_roles: &[UserRef],
    options: &UserOptions,
) -> Done {
    context.rights.need(&[Privilege::CreateUser])?;
    let default_roles: BTreeSet<AccountName> = names_of(context, default_roles)?.into_iter().collect();
    for role in &default_roles {
        if !context.rights.may_grant_role(role) {
            context.rights.need(&[Privilege::RoleAdmin, Privilege::Super])?;
        }
    }
    let mut accounts = vec![];
    for UserSpec { user, credential } in &users {
        let verifier = verifier(credential)?.unwrap_or(Verifier::CachingSha2(None));
        let mut account = Account::user(verifier);
        account.default_roles.clone_from(&default_roles);
        apply(options, &mut account);
        accounts.push((name_of(context, user)?, account));
    }
    let there =
        session.engine().access().change(|it| it.create("CREATE USER", accounts.clone(), if_not_exists)).await?;
    note(session, &there, ErrorCode::AccountExists, "already exists.");
    Ok(())
}

pub(super) async fn create_roles(
    session: &Session,
    context: &QueryContext,
    if_not_exists: bool,
    roles: &[UserRef],
) -> Done {
    context.rights.need(&[Privilege::CreateUser, Privilege::CreateRole])?;
    let roles: Vec<_> = names_of(context, roles)?.into_iter().map(|name| (name, Account::role())).collect();
    let there = session.engine().access().change(|it| it.create("CREATE ROLE", roles.clone(), if_not_exists)).await?;
    note(session, &there, ErrorCode::AccountExists, "already exists.");
    Ok(())
}

pub(super) async fn drop(
    session: &Session,
    context: &QueryContext,
    operation: &'static str,
    if_exists: bool,
    users: &[UserRef],
) -> Done {
    match operation {
        "DROP ROLE" => context.rights.need(&[Privilege::CreateUser, Privilege::DropRole])?,
        _ => context.rights.need(&[Privilege::CreateUser])?,
    }
    let names = names_of(context, users)?;
    let missing = session.engine().access().change(|accounts| {
        names.iter().try_for_each(|name| may_touch(context, accounts, name))?;
        accounts.drop(operation, &names, if_exists)
    });
    note(session, &missing.await?, ErrorCode::AccountMissing, "does not exist.");
    Ok(())
}

pub(super) async fn rename(session: &Session, context: &QueryContext, pairs: &[(UserRef, UserRef)]) -> Done {
    context.rights.need(&[Privilege::CreateUser])?;
    let pair = |(from, to): &(UserRef, UserRef)| Ok::<_, AccessError>((name_of(context, from)?, name_of(context, to)?));
    let pairs = pairs.iter().map(pair).collect::<Result<Vec<_>, AccessError>>()?;
    let renamed = session.engine().access().change(|accounts| {
        pairs.iter().try_for_each(|(from, _)| may_touch(context, accounts, from))?;
        accounts.rename(&pairs)
    });
    Ok(renamed.await?)
}

pub(super) async fn alter(
    session: &Session,
    context: &QueryContext,
    if_exists: bool,
    users: Vec<UserSpec>,
    options: &UserOptions,
) -> Done {
    let mut changes = vec![];
    for UserSpec { user, credential } in &users {
        let replaces = match credential {
            Credential::Password { replaces, .. } => replaces.clone(),
            _ => None,
        };
        changes.push((name_of(context, user)?, verifier(credential)?, replaces));
    }
    // Everybody may change the own password, and nothing else of the own account.
    let own = context.rights.account();
    let is_own = changes.iter().all(|(name, verifier, _)| Some(name) == own && verifier.is_some());
    if !is_own || *options != UserOptions::default() {
        context.rights.need(&[Privilege::CreateUser])?;
    }
    let missing = session.engine().access().change(|accounts| {
        let there = |name: &AccountName| accounts.get(name).is_some();
        let missing: Vec<AccountName> = changes.iter().map(|it| &it.0).filter(|it| !there(it)).cloned().collect();
        if !missing.is_empty() && !if_exists {
            let names = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            return Err(AccessError::Operation { operation: "ALTER USER", names });
        }
        for (name, verifier, replaces) in &changes {
            if missing.contains(name) {
                continue;
            }
            if Some(name) != own {
                may_touch(context, accounts, name)?;
            }
            check_replaced(accounts.get(name), replaces.as_ref())?;
            accounts.alter(name, AccessError::NoSuchUser, |account| {
                if let Some(verifier) = verifier {
                    account.verifier = verifier.clone();
                }
                apply(options, account);
            })?;
        }
        Ok(missing)
    });
    note(session, &missing.await?, ErrorCode::AccountMissing, "does not exist.");
    Ok(())
}

/// `REPLACE 'old'`: errs if that is not the password.
fn check_replaced(account: Option<&std::sync::Arc<Account>>, replaces: Option<&Password>) -> Result<(), AccessError> {
    let (Some(account), Some(replaced)) = (account, replaces) else { return Ok(()) };
    match Verifier::of_password(Some(account.verifier.plugin()), replaced.expose())? == account.verifier {
        true => Ok(()),
        false => Err(AccessError::WrongCurrentPassword),
    }
}

pub(super) async fn set_password(
    session: &Session,
    context: &QueryContext,
    user: &UserRef,
    password: &Password,
    replaces: Option<&Password>,
) -> Done {
    let name = name_of(context, user)?;
    let is_own = Some(&name) == context.rights.account();
    if !is_own {
        context.rights.need(&[Privilege::CreateUser])?;
    }
    let set = session.engine().access().change(|accounts| {
        if !is_own {
            may_touch(context, accounts, &name)?;
        }
        let Some(account) = accounts.get(&name) else { return Err(AccessError::NoSuchUser) };
        check_replaced(Some(account), replaces)?;
        let verifier = Verifier::of_password(Some(account.verifier.plugin()), password.expose())?;
        accounts.alter(&name, AccessError::NoSuchUser, |account| account.verifier = verifier)
    });
    Ok(set.await?)
}

pub(super) async fn set_default_roles(
    session: &Session,
    context: &QueryContext,
    roles: &RoleChoice,
    to: &[UserRef],
    if_exists: bool,
) -> Done {
    let names = names_of(context, to)?;
    let is_own = |name: &AccountName| Some(name) == context.rights.account();
    if !names.iter().all(is_own) {
        context.rights.need(&[Privilege::CreateUser])?;
    }
    let chosen = match roles {
        RoleChoice::Roles(roles) => Some(names_of(context, roles)?),
        RoleChoice::None => Some(vec![]),
        RoleChoice::All => None,
        RoleChoice::Default | RoleChoice::AllExcept(_) => {
            return Err(QueryError::unsupported("DEFAULT or ALL EXCEPT as default roles"));
        }
    };
    let set = session.engine().access().change(|accounts| {
        for name in &names {
            let Some(account) = accounts.get(name) else {
                if if_exists {
                    continue;
                }
                return Err(AccessError::UnknownRole { name: name.clone() });
            };
            if !is_own(name) {
                may_touch(context, accounts, name)?;
            }
            let chosen = chosen.clone().unwrap_or_else(|| account.roles.keys().cloned().collect());
            if let Some(role) = chosen.iter().find(|it| !account.roles.contains_key(it)) {
                return Err(AccessError::RoleNotGranted { role: role.clone(), to: name.clone() });
            }
            accounts.alter(name, AccessError::NoSuchUser, |it| it.default_roles = chosen.into_iter().collect())?;
        }
        Ok(())
    });
    Ok(set.await?)
}

/// Whoever reads MySQL's own tables may see all accounts.
fn need_to_see(context: &QueryContext, name: &AccountName) -> Result<(), AccessError> {
    match Some(name) == context.rights.account() {
        true => Ok(()),
        false => context.rights.need_on_database(Privilege::Select, "mysql"),
    }
}

/// `SHOW GRANTS`.
pub(in crate::interpreters) fn grants(
    session: &Session,
    context: &QueryContext,
    of: &UserRef,
    using: &[UserRef],
) -> Result<Rows, QueryError> {
    let accounts = session.engine().access().accounts();
    if *of == UserRef::Current && context.rights.account().is_none() {
        let mut rows = Rows::new(&["Grants"]);
        rows.push(vec![Some("GRANT ALL PRIVILEGES ON *.*".to_owned())]);
        return Ok(rows);
    }
    let name = name_of(context, of)?;
    // One's own roles may be looked at as well.
    let own_role = context
        .rights
        .account()
        .and_then(|own| accounts.get(own))
        .is_some_and(|own| accounts.closure(own.roles.keys()).contains(&name));
    if !own_role {
        need_to_see(context, &name)?;
    }
    let account = accounts.get(&name).ok_or_else(|| AccessError::NoSuchGrant { who: name.clone() })?;
    let mut roles: BTreeSet<AccountName> = names_of(context, using)?.into_iter().collect();
    if let Some(role) = roles.iter().find(|it| !account.roles.contains_key(it)) {
        return Err(AccessError::RoleNotGranted { role: role.clone(), to: name.clone() }.into());
    }
    // Of oneself, what is in force is told.
    if Some(&name) == context.rights.account() && using.is_empty() {
        roles = session.with_state(|state| state.roles.clone());
    }
    let roles = accounts.closure(&roles);
    let mut rows = Rows::new(&[&format!("Grants for {}", name.plain())]);
    for line in account.grant_lines(&name, roles.iter().filter_map(|it| accounts.get(it)).map(AsRef::as_ref)) {
        rows.push(vec![Some(line)]);
    }
    Ok(rows)
}

/// `SHOW CREATE USER`.
pub(in crate::interpreters) fn create_statement(
    session: &Session,
    context: &QueryContext,
    user: &UserRef,
) -> Result<Rows, QueryError> {
    let name = name_of(context, user)?;
    need_to_see(context, &name)?;
    let accounts = session.engine().access().accounts();
    let account = accounts
        .get(&name)
        .ok_or_else(|| AccessError::Operation { operation: "SHOW CREATE USER", names: name.to_string() })?;
    let shows_verifier = context.rights.on_database("mysql").has(Privilege::Select);
    let mut rows = Rows::new(&[&format!("CREATE USER for {}", name.plain())]);
    rows.push(vec![Some(account.create_statement(&name, shows_verifier))]);
    Ok(rows)
}
