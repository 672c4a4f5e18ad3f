//! Accounts as the definitions that coordinators agree on: one object for each user, role and grant, and one more that
//! every change of any of them writes.
//!
//! That one, the mark, makes changes of accounts happen one after another: a change names the version that it was
//! decided on. Its version is that of all accounts, so that nothing is read again while other things change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sheaf_common::definitions::{Change, Definitions, IfExists, Object, Record, Right};
use tracing::warn;

use super::account::{Account, Verifier};
use super::accounts::Accounts;
use super::names::AccountName;
use super::privileges::{Privilege, Privileges};

/// Of how accounts are kept.
const FORMAT: u64 = 1;

/// What every change of accounts writes.
pub(super) fn mark() -> Object {
    Object::setting("accounts")
}

#[derive(Serialize)]
struct MarkDef {
    format: u64,
}

/// An account without its grants, which are objects of their own.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountDef {
    verifier: Verifier,
    #[serde(default, skip_serializing_if = "is_false")]
    is_locked: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    requires_tls: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    default_roles: BTreeSet<AccountName>,
}

/// What a grant says beside what it gives to whom.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GrantDef {
    /// Of a privilege on a table: columns that it is granted on.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    columns: BTreeSet<String>,
    /// Whether it is granted on those alone and not on the table.
    #[serde(skip_serializing_if = "is_false")]
    only_columns: bool,
    /// Of a role and of a connection: whether it may be granted on.
    #[serde(skip_serializing_if = "is_false")]
    with_grant_option: bool,
}

fn is_false(it: &bool) -> bool {
    !it
}

fn text(definition: &impl Serialize) -> String {
    serde_json::to_string(definition).expect("our own types are JSON")
}

/// All accounts. What a newer version wrote and this one cannot read gives no right and lets nobody in.
pub(super) fn read(definitions: &Definitions) -> Accounts {
    let Some(mark) = definitions.get(&mark()) else { return Accounts::default() };
    let users = definitions.users().map(|(name, record)| (name, record, false));
    let roles = definitions.roles().map(|(name, record)| (name, record, true));
    let all = users.chain(roles).filter_map(|(name, record, is_role)| {
        let account = account(definitions, name, record, is_role);
        let known = account.and_then(|it| match AccountName::parse_plain(name) {
            Some(name) => Ok((name, Arc::new(it))),
            None => Err("it has no host".to_owned()),
        });
        known.inspect_err(|reason| warn!(account = name, reason, "left out an account that cannot be read")).ok()
    });
    Accounts::new(mark.version, all.collect())
}

fn account(definitions: &Definitions, name: &str, record: &Record, is_role: bool) -> Result<Account, String> {
    let def = record.parsed::<AccountDef>()?;
    let mut account = Account {
        is_locked: def.is_locked,
        requires_tls: def.requires_tls,
        is_role,
        comment: def.comment.clone(),
        default_roles: def.default_roles.clone(),
        ..Account::user(def.verifier.clone())
    };
    for (right, record) in definitions.grants_of(name) {
        if let Err(reason) = add(&mut account, right, record) {
            warn!(account = name, ?right, reason, "left out a grant that cannot be read");
        }
    }
    Ok(account)
}

fn add(account: &mut Account, right: &Right, record: &Record) -> Result<(), String> {
    let def = record.parsed::<GrantDef>()?;
    match right {
        Right::Role { name } => {
            let name = AccountName::parse_plain(name).ok_or("its role has no host")?;
            account.roles.insert(name, def.with_grant_option);
        }
        Right::Connection { name } => account.grants.grant_connection(name, def.with_grant_option),
        Right::Privilege { privilege, database, table } => {
            let privilege = Privilege::of_name(privilege).ok_or("the privilege is not known")?;
            let (given, grants) = (Privileges::from(privilege), &mut account.grants);
            match (database, table) {
                (None, _) => grants.grant_global(given),
                (Some(database), None) => grants.grant_database(database, given),
                (Some(database), Some(table)) => {
                    let columns = def.columns.iter().map(|it| (it.clone(), given)).collect();
                    let on_table = if def.only_columns { Privileges::NONE } else { given };
                    grants.grant_table(database, table, on_table, &columns);
                }
            }
        }
    }
    Ok(())
}

/// The objects of one account, with their definitions.
fn objects(name: &AccountName, account: &Account) -> BTreeMap<Object, String> {
    let name = name.plain();
    let def = AccountDef {
        verifier: account.verifier.clone(),
        is_locked: account.is_locked,
        requires_tls: account.requires_tls,
        comment: account.comment.clone(),
        default_roles: account.default_roles.clone(),
    };
    let object = if account.is_role { Object::role(&name) } else { Object::user(&name) };
    let mut all = BTreeMap::from([(object, text(&def))]);
    let mut grant = |right: Right, def: GrantDef| all.insert(Object::grant(&name, right), text(&def));
    let privilege = |privilege: Privilege, database: Option<&String>, table: Option<&String>| Right::Privilege {
        privilege: privilege.name().to_owned(),
        database: database.cloned(),
        table: table.cloned(),
    };
    for it in account.grants.global.iter() {
        grant(privilege(it, None, None), GrantDef::default());
    }
    for (database, granted) in &account.grants.databases {
        for it in granted.iter() {
            grant(privilege(it, Some(database), None), GrantDef::default());
        }
    }
    for (database, tables) in &account.grants.tables {
        for (table, granted) in tables {
            for it in (granted.privileges | granted.on_columns()).iter() {
                let columns = granted.columns.iter().filter(|(_, on)| on.has(it)).map(|(column, _)| column.clone());
                let only_columns = !granted.privileges.has(it);
                let def = GrantDef { columns: columns.collect(), only_columns, with_grant_option: false };
                grant(privilege(it, Some(database), Some(table)), def);
            }
        }
    }
    let option = |with_grant_option: &bool| GrantDef { with_grant_option: *with_grant_option, ..GrantDef::default() };
    for (connection, may_grant) in &account.grants.connections {
        grant(Right::Connection { name: connection.clone() }, option(may_grant));
    }
    for (role, may_grant) in &account.roles {
        grant(Right::Role { name: role.plain() }, option(may_grant));
    }
    all
}

/// What leads from the accounts as they are kept to others, as one command, which is refused unless they still are what
/// they were; empty where nothing differs, unless `in_any_case`.
pub(super) fn changes(before: &Accounts, after: &Accounts, in_any_case: bool) -> Vec<Change> {
    let of_changed = |all: &Accounts, others: &Accounts| -> BTreeMap<Object, String> {
        let is_same =
            |name: &AccountName, account: &Arc<Account>| others.get(name).is_some_and(|it| Arc::ptr_eq(it, account));
        let changed = all.iter().filter(|(name, account)| !is_same(name, account));
        changed.flat_map(|(name, account)| objects(name, account)).collect()
    };
    let (old, new) = (of_changed(before, after), of_changed(after, before));
    // In the order of objects users and roles come before the grants that need them: they go after these.
    let gone = old.keys().rev().filter(|it| !new.contains_key(it));
    let gone =
        gone.map(|it| Change::Drop { object: it.clone(), if_missing_keep: true, cascade: false, expected: None });
    let written = new.iter().filter(|(object, definition)| old.get(object) != Some(definition));
    let written = written.map(|(object, definition)| Change::create(object.clone(), definition, IfExists::Replace));
    let changes: Vec<Change> = gone.chain(written).collect();
    if changes.is_empty() && !in_any_case {
        return vec![];
    }
    let definition = text(&MarkDef { format: FORMAT });
    let mark = match before.version() {
        0 => Change::create(mark(), definition, IfExists::Fail),
        version => Change::alter(mark(), definition, Some(version)),
    };
    std::iter::once(mark).chain(changes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> AccountName {
        AccountName::parse_plain(text).unwrap()
    }

    fn set(privileges: &[Privilege]) -> Privileges {
        privileges.iter().copied().collect()
    }

    /// Root, a user with a grant of each kind, and a role that it has.
    fn accounts() -> Accounts {
        let mut all = Accounts::with_root("localhost", Verifier::caching_sha2("x"));
        let mut user = Account::user(Verifier::native("y"));
        (user.is_locked, user.requires_tls, user.comment) = (true, true, Some("it's \"him\"".to_owned()));
        let columns = BTreeMap::from([
            ("a".to_owned(), set(&[Privilege::Select, Privilege::Insert])),
            ("b".to_owned(), set(&[Privilege::Insert])),
        ]);
        user.grants.grant_database("d\\_%", set(&[Privilege::Select, Privilege::GrantOption]));
        user.grants.grant_table("d", "t", set(&[Privilege::Select, Privilege::Delete]), &columns);
        all.create("CREATE USER", vec![(name("u@%"), user), (name("r@%"), Account::role())], false).unwrap();
        all.grant_roles(&[name("r@%")], &[name("u@%")], true).unwrap();
        all.alter(&name("u@%"), super::super::AccessError::NoSuchUser, |it| {
            it.default_roles.insert(name("r@%"));
        })
        .unwrap();
        all
    }

    fn plain(accounts: &Accounts) -> Vec<(String, Account)> {
        accounts.iter().map(|(name, it)| (name.plain(), it.as_ref().clone())).collect()
    }

    fn commit(definitions: &mut Definitions, index: u64, changes: &[Change]) {
        let (_, written) = definitions.prepare(index, changes).unwrap();
        definitions.commit(index, &written);
    }

    #[test]
    fn accounts_come_back_whole() {
        let (mut definitions, accounts) = (Definitions::default(), accounts());
        commit(&mut definitions, 1, &changes(&Accounts::default(), &accounts, false));
        let kept = read(&definitions);
        assert_eq!(plain(&kept), plain(&accounts));
        assert_eq!(kept.version(), 1);
        assert!(changes(&kept, &kept.clone(), false).is_empty());
    }

    #[test]
    fn only_what_differs_is_written() {
        let mut definitions = Definitions::default();
        commit(&mut definitions, 1, &changes(&Accounts::default(), &accounts(), false));
        let before = read(&definitions);
        let mut after = before.clone();
        after
            .change_grants(
                &[name("u@%")],
                |_| None,
                |_, it| {
                    it.revoke_table("d", "t", set(&[Privilege::Delete]), &BTreeMap::new());
                    it.grant_global(set(&[Privilege::Process]));
                    Ok(())
                },
            )
            .unwrap();
        let texts: Vec<String> = changes(&before, &after, false).iter().map(|it| it.object().to_string()).collect();
        let expected =
            ["global setting 'accounts'", "grant of DELETE on d.t to 'u@%'", "grant of PROCESS on *.* to 'u@%'"];
        assert_eq!(texts, expected);
        commit(&mut definitions, 2, &changes(&before, &after, false));
        assert_eq!(plain(&read(&definitions)), plain(&after));
        // Who decided on what was is refused.
        let late = changes(&before, &after, false);
        assert!(definitions.prepare(3, &late).is_err());
    }

    #[test]
    fn a_new_name_and_the_end_of_one_leave_nothing_behind() {
        let mut definitions = Definitions::default();
        commit(&mut definitions, 1, &changes(&Accounts::default(), &accounts(), false));
        let before = read(&definitions);
        let mut after = before.clone();
        after.rename(&[(name("u@%"), name("v@%")), (name("r@%"), name("s@%"))]).unwrap();
        commit(&mut definitions, 2, &changes(&before, &after, false));
        let renamed = read(&definitions);
        assert_eq!(plain(&renamed), plain(&after));
        let mut after = renamed.clone();
        after.drop("DROP USER", &[name("v@%"), name("s@%"), name("root@localhost")], false).unwrap();
        commit(&mut definitions, 3, &changes(&renamed, &after, false));
        assert_eq!(definitions.objects().map(|it| it.0.clone()).collect::<Vec<_>>(), [mark()]);
    }

    #[test]
    fn what_cannot_be_read_gives_nothing() {
        let mut definitions = Definitions::default();
        commit(&mut definitions, 1, &changes(&Accounts::default(), &accounts(), false));
        let grant = Right::Privilege { privilege: "FLY".to_owned(), database: None, table: None };
        let newer = [
            Change::create(Object::grant("u@%", grant), "{}", IfExists::Fail),
            Change::create(Object::user("n@%"), r#"{"verifier": {"plugin": "new"}}"#, IfExists::Fail),
            Change::create(
                Object::user("nobody"),
                r#"{"verifier": {"plugin": "caching_sha2_password"}}"#,
                IfExists::Fail,
            ),
        ];
        commit(&mut definitions, 2, &newer);
        assert_eq!(plain(&read(&definitions)), plain(&accounts()));
    }
}
