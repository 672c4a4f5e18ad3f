//! Users, roles, and what they may do.

mod grant;
mod user;

use sheaf_common::ErrorCode;
use sheaf_planners::parser::{AccountStatement, RoleChoice, UserRef};

use crate::access::{AccessError, AccountName, Accounts, Privilege};
use crate::answer::Answer;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::session::Session;

pub(super) use user::{create_statement, grants};

pub(super) async fn run(
    session: &Session,
    context: &QueryContext,
    statement: AccountStatement,
) -> Result<Answer, QueryError> {
    use AccountStatement as S;
    match statement {
        S::CreateUser { if_not_exists, users, default_roles, options } => {
            user::create(session, context, if_not_exists, users, &default_roles, &options).await?;
        }
        S::AlterUser { if_exists, users, options } => user::alter(session, context, if_exists, users, &options).await?,
        S::DropUser { if_exists, users } => user::drop(session, context, "DROP USER", if_exists, &users).await?,
        S::RenameUser(pairs) => user::rename(session, context, &pairs).await?,
        S::SetPassword { user, password, replaces } => {
            user::set_password(session, context, &user, &password, replaces.as_ref()).await?;
        }
        S::CreateRole { if_not_exists, roles } => user::create_roles(session, context, if_not_exists, &roles).await?,
        S::DropRole { if_exists, roles } => user::drop(session, context, "DROP ROLE", if_exists, &roles).await?,
        S::Grant { privileges, on, to, with_grant_option } => {
            grant::grant(session, context, &privileges, &on, &to, with_grant_option).await?;
        }
        S::Revoke { privileges, on, from, if_exists, ignores_unknown } => {
            let manner = grant::Manner { if_exists, ignores_unknown };
            grant::revoke(session, context, &privileges, &on, &from, manner).await?;
        }
        S::RevokeAll { from, if_exists, ignores_unknown } => {
            grant::revoke_all(session, context, &from, grant::Manner { if_exists, ignores_unknown }).await?;
        }
        S::GrantRoles { roles, to, with_admin_option } => {
            grant::grant_roles(session, context, &roles, &to, with_admin_option).await?;
        }
        S::RevokeRoles { roles, from, if_exists, ignores_unknown } => {
            let manner = grant::Manner { if_exists, ignores_unknown };
            grant::revoke_roles(session, context, &roles, &from, manner).await?;
        }
        S::SetRole(choice) => set_role(session, context, &choice)?,
        S::SetDefaultRole { roles, to, if_exists } => {
            user::set_default_roles(session, context, &roles, &to, if_exists).await?;
        }
    }
    Ok(Answer::done())
}

/// Whom a statement means.
fn name_of(context: &QueryContext, user: &UserRef) -> Result<AccountName, AccessError> {
    match user {
        UserRef::Named { user, host } => Ok(AccountName::new(user, host)),
        UserRef::Current => context.rights.account().cloned().ok_or(AccessError::NoSuchUser),
    }
}

fn names_of(context: &QueryContext, users: &[UserRef]) -> Result<Vec<AccountName>, AccessError> {
    users.iter().map(|it| name_of(context, it)).collect()
}

/// Who may manage accounts may not thereby take over one with `SYSTEM_USER`: only its like may touch it.
fn may_touch(context: &QueryContext, accounts: &Accounts, name: &AccountName) -> Result<(), AccessError> {
    let is_system =
        |it: &AccountName| accounts.get(it).is_some_and(|account| account.grants.global.has(Privilege::SystemUser));
    let roles = accounts.get(name).map(|it| accounts.closure(it.roles.keys())).unwrap_or_default();
    match is_system(name) || roles.iter().any(is_system) {
        true => context.rights.need(&[Privilege::SystemUser]),
        false => Ok(()),
    }
}

/// Notes, as MySQL does, what `IF EXISTS` and `IF NOT EXISTS` passed over.
fn note(session: &Session, names: &[AccountName], code: ErrorCode, says: &str) {
    for name in names {
        session.note(code, format!("authorization ID {name} {says}"));
    }
}

fn set_role(session: &Session, context: &QueryContext, choice: &RoleChoice) -> Result<(), QueryError> {
    let Some(name) = context.rights.account() else {
        return Err(AccessError::NoSuchUser.into());
    };
    let accounts = session.engine().access().accounts();
    let account = accounts.get(name).ok_or(AccessError::NoSuchUser)?;
    let roles = match choice {
        RoleChoice::Default => account.default_roles.clone(),
        RoleChoice::None => Default::default(),
        RoleChoice::All => account.roles.keys().cloned().collect(),
        RoleChoice::AllExcept(roles) => {
            let except = names_of(context, roles)?;
            account.roles.keys().filter(|it| !except.contains(it)).cloned().collect()
        }
        RoleChoice::Roles(roles) => {
            let roles = names_of(context, roles)?;
            if let Some(role) = roles.iter().find(|it| !account.roles.contains_key(it)) {
                return Err(AccessError::RoleNotGranted { role: role.clone(), to: name.clone() }.into());
            }
            roles.into_iter().collect()
        }
    };
    session.with_state(|state| state.roles = roles);
    Ok(())
}
