//! What one session may do at one moment: its account's grants and those of the roles that are on.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::account::Account;
use super::accounts::Accounts;
use super::error::AccessError;
use super::grants::TableGrant;
use super::names::AccountName;
use super::privileges::{Privilege, Privileges};
use super::{Access, Identity};
use crate::system;

type Result<T> = std::result::Result<T, AccessError>;

/// Databases whose tables everybody may read; what rows one sees of them is another matter.
fn is_open(database: &str) -> bool {
    system::DATABASES.iter().any(|it| it.eq_ignore_ascii_case(database))
}

/// Built once for a statement and never changed; the checks err with what the client is told.
#[derive(Debug, Clone)]
pub struct Rights {
    /// None may do everything.
    account: Option<AccountName>,
    /// Whom errors name: the user with the host that it came from.
    who: AccountName,
    /// The account and its roles that are on.
    sources: Vec<Arc<Account>>,
    global: Privileges,
}

impl Rights {
    /// Of who may do everything.
    pub fn all() -> Self {
        let who = AccountName::new("", "");
        Self { account: None, who, sources: vec![], global: Privilege::ALL.iter().copied().collect() }
    }

    /// Of an account with these roles on. One that is gone may do nothing.
    pub fn of(accounts: &Accounts, account: &AccountName, who: AccountName, roles: &BTreeSet<AccountName>) -> Self {
        let mut sources: Vec<Arc<Account>> = accounts.get(account).cloned().into_iter().collect();
        if !sources.is_empty() {
            sources.extend(accounts.closure(roles).iter().filter_map(|it| accounts.get(it).cloned()));
        }
        let global = sources.iter().fold(Privileges::NONE, |all, it| all | it.grants.global);
        Self { account: Some(account.clone()), who, sources, global }
    }

    /// None for who embeds the engine.
    pub fn account(&self) -> Option<&AccountName> {
        self.account.as_ref()
    }

    /// Whom errors name.
    pub fn who(&self) -> &AccountName {
        &self.who
    }

    pub fn global(&self) -> Privileges {
        self.global
    }

    /// On a database, from its own level and that of the server.
    pub fn on_database(&self, database: &str) -> Privileges {
        let own = self.sources.iter().fold(self.global, |all, it| all | it.grants.on_database(database));
        if is_open(database) { own.with(Privilege::Select) } else { own }
    }

    /// On a table, from its own level and those above.
    pub fn on_table(&self, database: &str, table: &str) -> Privileges {
        let grants = self.sources.iter().filter_map(|it| it.grants.on_table(database, table));
        grants.fold(self.on_database(database), |all, it| all | it.privileges)
    }

    /// On a column, from its own level and those above.
    pub fn on_column(&self, database: &str, table: &str, column: &str) -> Privileges {
        let grants = self.sources.iter().filter_map(|it| it.grants.on_table(database, table));
        grants.fold(self.on_table(database, table), |all, it| all | it.on_column(column))
    }

    /// On at least one column, or on the table.
    pub fn on_any_column(&self, database: &str, table: &str) -> Privileges {
        let grants = self.sources.iter().filter_map(|it| it.grants.on_table(database, table));
        grants.fold(self.on_table(database, table), |all, it| all | it.on_columns())
    }

    /// Whether it may be the current database and is shown in lists.
    pub fn sees_database(&self, database: &str) -> bool {
        is_open(database)
            || self.global.has(Privilege::ShowDatabases)
            || !self.on_database(database).is_global_only()
            || self.sources.iter().any(|it| it.grants.touches_database(database))
    }

    pub fn sees_table(&self, database: &str, table: &str) -> bool {
        self.tables_seen(database)(table)
    }

    /// Tells of each table of a database whether it is seen: by a right on the database, the table or one of its columns.
    /// What holds for all of them is looked up once, since there may be many.
    pub fn tables_seen<'a>(&'a self, database: &str) -> impl Fn(&str) -> bool + use<'a> {
        let sees_all = !self.on_database(database).is_global_only();
        let granted: Vec<_> = self.sources.iter().filter_map(|it| it.grants.tables.get(database)).collect();
        let says = |grant: &TableGrant| !(grant.privileges | grant.on_columns()).is_global_only();
        move |table| sees_all || granted.iter().filter_map(|it| it.get(table)).any(says)
    }

    pub fn sees_column(&self, database: &str, table: &str, column: &str) -> bool {
        !self.on_column(database, table, column).is_global_only()
    }

    /// Errs unless one of these holds on the whole server.
    pub fn need(&self, any_of: &[Privilege]) -> Result<()> {
        match self.global.has_any(any_of) {
            true => Ok(()),
            false => Err(AccessError::Privilege {
                privileges: any_of.iter().map(|it| it.name()).collect::<Vec<_>>().join(" or "),
            }),
        }
    }

    pub fn need_on_database(&self, privilege: Privilege, database: &str) -> Result<()> {
        match self.on_database(database).has(privilege) {
            true => Ok(()),
            false => Err(self.denied_database(database)),
        }
    }

    pub fn need_on_table(&self, privilege: Privilege, database: &str, table: &str) -> Result<()> {
        match self.on_table(database, table).has(privilege) {
            true => Ok(()),
            false => Err(self.denied_table(privilege.name(), table)),
        }
    }

    /// Errs unless the database may be made the current one.
    pub fn need_use(&self, database: &str) -> Result<()> {
        match self.sees_database(database) && (is_open(database) || self.may_enter(database)) {
            true => Ok(()),
            false => Err(self.denied_database(database)),
        }
    }

    /// To see a name in a list is less than to go there.
    fn may_enter(&self, database: &str) -> bool {
        !self.on_database(database).is_global_only()
            || self.sources.iter().any(|it| it.grants.touches_database(database))
    }

    /// Whether a stored connection may be used: by who may make one, and by who was granted it.
    pub fn may_use_connection(&self, connection: &str) -> bool {
        self.global.has(Privilege::Super)
            || self.sources.iter().any(|it| it.grants.connections.contains_key(connection))
    }

    /// Errs unless the use of a stored connection may be granted on.
    pub fn need_to_grant_connection(&self, connection: &str) -> Result<()> {
        let has_all = self.global.contains(Privileges::from(Privilege::Super).with(Privilege::GrantOption));
        match has_all || self.sources.iter().any(|it| it.grants.connections.get(connection) == Some(&true)) {
            true => Ok(()),
            false => Err(self.denied_connection("GRANT", connection)),
        }
    }

    /// Errs unless a stored connection may be used.
    pub fn need_connection(&self, connection: &str) -> Result<()> {
        match self.may_use_connection(connection) {
            true => Ok(()),
            false => Err(self.denied_connection("USAGE", connection)),
        }
    }

    fn denied_connection(&self, command: &'static str, connection: &str) -> AccessError {
        AccessError::Connection { command, who: self.who.clone(), connection: connection.to_owned() }
    }

    pub fn denied_database(&self, database: &str) -> AccessError {
        AccessError::Database { who: self.who.clone(), database: database.to_owned() }
    }

    pub fn denied_table(&self, command: &str, table: &str) -> AccessError {
        AccessError::Table { command: command.to_owned(), who: self.who.clone(), table: table.to_owned() }
    }

    pub fn denied_column(&self, command: &str, column: &str, table: &str) -> AccessError {
        AccessError::Column {
            command: command.to_owned(),
            who: self.who.clone(),
            column: column.to_owned(),
            table: table.to_owned(),
        }
    }

    /// Whether a role may be granted on, as one that was granted so or by who may grant all.
    pub fn may_grant_role(&self, role: &AccountName) -> bool {
        self.global.has_any(&[Privilege::RoleAdmin, Privilege::Super])
            || self.sources.iter().any(|it| it.roles.get(role) == Some(&true))
    }
}

/// What the rights of one session's statements are made of.
#[derive(Debug)]
pub(crate) struct RightsSource {
    access: Arc<Access>,
    identity: Identity,
    /// Whom errors name.
    who: AccountName,
    /// What they were made of last: made again only when that changed.
    made: Mutex<Option<Made>>,
}

#[derive(Debug)]
struct Made {
    version: u64,
    roles: BTreeSet<AccountName>,
    rights: Arc<Rights>,
}

impl RightsSource {
    pub fn new(access: Arc<Access>, identity: Identity, who: AccountName) -> Self {
        Self { access, identity, who, made: Mutex::new(None) }
    }

    /// On whose behalf the session acts.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What may be done now with these roles on, and the accounts that say so.
    pub fn now(&self, roles: &BTreeSet<AccountName>) -> (Arc<Rights>, Arc<Accounts>) {
        let accounts = self.access.accounts();
        let mut made = self.made.lock();
        if let Some(made) = made.as_ref().filter(|it| it.version == accounts.version() && it.roles == *roles) {
            return (Arc::clone(&made.rights), accounts);
        }
        let rights = Arc::new(match &self.identity {
            Identity::Embedder => Rights::all(),
            Identity::Account(account) => Rights::of(&accounts, account, self.who.clone(), roles),
        });
        *made = Some(Made { version: accounts.version(), roles: roles.clone(), rights: Arc::clone(&rights) });
        (rights, accounts)
    }
}

/// The rights of one statement, as part of its DataFusion configuration: what plans and scans can ask. A configuration
/// without them belongs to who embeds the engine.
///
/// They are settled when they are first asked for, which is after the statement has waited for what was acknowledged
/// before it: a right that was taken on another coordinator a moment ago is gone.
#[derive(Debug)]
pub(crate) struct SessionRights {
    source: Arc<RightsSource>,
    /// Those that were on when the statement began.
    roles: BTreeSet<AccountName>,
    settled: OnceLock<(Arc<Rights>, Arc<Accounts>)>,
}

impl SessionRights {
    pub fn new(source: Arc<RightsSource>, roles: BTreeSet<AccountName>) -> Self {
        Self { source, roles, settled: OnceLock::new() }
    }

    /// Those of another, by the same accounts: what a view is read by.
    pub fn of_definer(&self, rights: Rights) -> Self {
        let settled = OnceLock::from((Arc::new(rights), Arc::clone(self.accounts())));
        Self { source: Arc::clone(&self.source), roles: BTreeSet::new(), settled }
    }

    fn settled(&self) -> &(Arc<Rights>, Arc<Accounts>) {
        self.settled.get_or_init(|| self.source.now(&self.roles))
    }

    pub fn rights(&self) -> &Arc<Rights> {
        &self.settled().0
    }

    /// The accounts that say so.
    pub fn accounts(&self) -> &Arc<Accounts> {
        &self.settled().1
    }
}

impl Deref for SessionRights {
    type Target = Rights;

    fn deref(&self) -> &Rights {
        self.rights()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::account::Verifier;
    use super::super::privileges::Level;
    use super::*;

    fn name(text: &str) -> AccountName {
        AccountName::parse_plain(text).unwrap()
    }

    fn set(privileges: &[Privilege]) -> Privileges {
        privileges.iter().copied().collect()
    }

    /// `u` may read `d.t`, write all of `e`, read one column of `f.t`; role `r` may read `g`.
    fn accounts() -> Accounts {
        let mut all = Accounts::default();
        let mut user = Account::user(Verifier::Native(None));
        user.grants.grant_table("d", "t", set(&[Privilege::Select]), &BTreeMap::new());
        user.grants.grant_database("e", set(&[Privilege::Insert]));
        let columns = BTreeMap::from([("a".to_owned(), set(&[Privilege::Select]))]);
        user.grants.grant_table("f", "t", Privileges::NONE, &columns);
        user.grants.grant_global(set(&[Privilege::Process]));
        let mut role = Account::role();
        role.grants.grant_database("g", set(&[Privilege::Select]));
        let new = vec![(name("u@%"), user), (name("r@%"), role), (name("s@%"), Account::role())];
        all.create("CREATE USER", new, false).unwrap();
        all.grant_roles(&[name("r@%")], &[name("s@%")], false).unwrap();
        all.grant_roles(&[name("s@%")], &[name("u@%")], true).unwrap();
        all
    }

    #[test]
    fn levels_add_up() {
        let accounts = accounts();
        let roles = BTreeSet::from([name("s@%")]);
        let (without, with) = (BTreeSet::new(), &roles);
        for (roles, privilege, database, table, expected) in [
            (&without, Privilege::Select, "d", "t", true),
            (&without, Privilege::Select, "D", "t", false),
            (&without, Privilege::Select, "d", "u", false),
            (&without, Privilege::Insert, "d", "t", false),
            (&without, Privilege::Insert, "e", "any", true),
            (&without, Privilege::Select, "f", "t", false),
            (&without, Privilege::Select, "g", "t", false),
            (with, Privilege::Select, "g", "t", true),
            (with, Privilege::Select, "d", "t", true),
            (&without, Privilege::Select, "information_schema", "TABLES", true),
            (&without, Privilege::Insert, "system", "one", false),
        ] {
            let rights = Rights::of(&accounts, &name("u@%"), name("u@10.0.0.1"), roles);
            let said = rights.need_on_table(privilege, database, table);
            assert_eq!(said.is_ok(), expected, "{privilege:?} {database}.{table}");
            if let Err(error) = said {
                let expected =
                    format!("{} command denied to user 'u'@'10.0.0.1' for table '{table}'", privilege.name());
                assert_eq!(error.to_string(), expected);
            }
        }
    }

    #[test]
    fn what_is_seen() {
        let accounts = accounts();
        let rights = Rights::of(&accounts, &name("u@%"), name("u@h"), &BTreeSet::new());
        for (database, expected) in
            [("d", true), ("e", true), ("f", true), ("g", false), ("system", true), ("other", false)]
        {
            assert_eq!(rights.sees_database(database), expected, "{database}");
            assert_eq!(rights.need_use(database).is_ok(), expected, "{database}");
        }
        assert!(rights.sees_table("f", "t") && rights.sees_table("e", "any") && !rights.sees_table("d", "u"));
        assert!(rights.sees_column("f", "t", "A") && !rights.sees_column("f", "t", "b"));
        let is_seen = rights.tables_seen("f");
        assert!(is_seen("t") && !is_seen("u"), "by a right on one of its columns");
        assert!(rights.tables_seen("system")("one") && !rights.tables_seen("g")("t"));
        // Who may list databases does not thereby go into them.
        let mut accounts = accounts;
        accounts
            .alter(&name("u@%"), AccessError::NoSuchUser, |it| it.grants.grant_global(Privilege::ShowDatabases.into()))
            .unwrap();
        let rights = Rights::of(&accounts, &name("u@%"), name("u@h"), &BTreeSet::new());
        assert!(rights.sees_database("other") && rights.need_use("other").is_err());
    }

    #[test]
    fn who_is_gone_may_nothing_and_the_embedder_everything() {
        let accounts = accounts();
        let gone = Rights::of(&accounts, &name("x@%"), name("x@h"), &BTreeSet::from([name("r@%")]));
        assert!(gone.need_on_table(Privilege::Select, "g", "t").is_err());
        let all = Rights::all();
        assert!(all.need_on_table(Privilege::Drop, "any", "t").is_ok() && all.need(&[Privilege::Super]).is_ok());
        assert_eq!(all.on_database("x") & Privileges::all_of(Level::Database), Privileges::all_of(Level::Database));
    }

    #[test]
    fn roles_are_granted_on_by_those_who_may() {
        let accounts = accounts();
        let rights = Rights::of(&accounts, &name("u@%"), name("u@h"), &BTreeSet::new());
        assert!(rights.may_grant_role(&name("s@%")) && !rights.may_grant_role(&name("r@%")));
        let error = rights.need(&[Privilege::RoleAdmin, Privilege::Super]).unwrap_err().to_string();
        assert!(error.contains("(at least one of) the ROLE_ADMIN or SUPER privilege(s)"), "{error}");
    }
}
