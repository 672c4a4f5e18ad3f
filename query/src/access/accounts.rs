//! All accounts of a server, and what statements do to them. Plain data: nothing is written or locked here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::account::{Account, Verifier};
use super::error::AccessError;
use super::grants::Grants;
use super::names::AccountName;
use super::privileges::{Level, Privilege, Privileges};

type Result<T> = std::result::Result<T, AccessError>;

/// A copy shares the accounts that do not change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Of what they were read from; 0 if there never were any.
    version: u64,
    by_name: BTreeMap<AccountName, Arc<Account>>,
}

impl Accounts {
    pub fn new(version: u64, by_name: BTreeMap<AccountName, Arc<Account>>) -> Self {
        Self { version, by_name }
    }

    /// Another one whenever something changed; 0 if there never were any.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether nobody ever made one.
    pub fn is_fresh(&self) -> bool {
        self.version == 0
    }

    /// Whoever is called root, may log in and needs no password for it.
    pub fn open_roots(&self) -> Vec<AccountName> {
        let is_open = |(name, it): &(&AccountName, &Arc<Account>)| {
            name.user == "root" && !it.is_locked && !it.is_role && !it.verifier.has_password()
        };
        self.by_name.iter().filter(is_open).map(|it| it.0.clone()).collect()
    }

    /// Whether an account, with the roles that are on when it logs in, manages connections: who does comes in also when
    /// nobody else does.
    pub fn manages_connections(&self, name: &AccountName) -> bool {
        let Some(account) = self.by_name.get(name) else { return false };
        let manages = |it: &Account| it.grants.global.has_any(&[Privilege::ConnectionAdmin, Privilege::Super]);
        let roles = self.closure(&account.default_roles);
        manages(account) || roles.iter().filter_map(|it| self.by_name.get(it)).any(|it| manages(it))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&AccountName, &Arc<Account>)> {
        self.by_name.iter()
    }

    pub fn get(&self, name: &AccountName) -> Option<&Arc<Account>> {
        self.by_name.get(name)
    }

    /// The account that somebody of this name who connects from there logs in as, roles left out.
    pub fn of_login(&self, user: &str, peer: IpAddr) -> Option<(&AccountName, &Arc<Account>)> {
        let fitting = self.by_name.iter().filter(|(name, account)| !account.is_role && name.fits(user, peer));
        fitting.min_by(|(a, _), (b, _)| a.precedence(b))
    }

    /// These roles and all that were granted to them, one through another.
    pub fn closure<'a>(&self, roles: impl IntoIterator<Item = &'a AccountName>) -> BTreeSet<AccountName> {
        let mut all = BTreeSet::new();
        let mut open: Vec<AccountName> = roles.into_iter().cloned().collect();
        while let Some(role) = open.pop() {
            if let Some(account) = self.by_name.get(&role)
                && all.insert(role)
            {
                open.extend(account.roles.keys().cloned());
            }
        }
        all
    }

    /// Makes root with all rights: what a server begins with.
    pub fn with_root(host: &str, verifier: Verifier) -> Self {
        let mut root = Account::user(verifier);
        root.grants.grant_global(Privileges::all_of(Level::Global).with(Privilege::GrantOption));
        let by_name = BTreeMap::from([(AccountName::new("root", host), Arc::new(root))]);
        Self { version: 1, by_name }
    }

    /// Adds new accounts, all or none; those that are there already are left as they are where that is allowed, and
    /// returned.
    pub fn create(
        &mut self,
        operation: &'static str,
        accounts: Vec<(AccountName, Account)>,
        if_not_exists: bool,
    ) -> Result<Vec<AccountName>> {
        let there: Vec<AccountName> =
            accounts.iter().map(|it| &it.0).filter(|it| self.by_name.contains_key(it)).cloned().collect();
        let twice = accounts.iter().enumerate().find(|(n, it)| accounts[..*n].iter().any(|other| other.0 == it.0));
        if let Some((_, (name, _))) = twice {
            return Err(failed(operation, std::slice::from_ref(name)));
        }
        if !there.is_empty() && !if_not_exists {
            return Err(failed(operation, &there));
        }
        for (_, account) in &accounts {
            self.check_roles(account.default_roles.iter())?;
        }
        self.version += 1;
        for (name, mut account) in accounts {
            if !there.contains(&name) {
                // Default roles of a new user are granted to it as well.
                for role in &account.default_roles {
                    account.roles.entry(role.clone()).or_insert(false);
                }
                self.by_name.insert(name, Arc::new(account));
            }
        }
        Ok(there)
    }

    /// Takes accounts away, all or none, and their names out of all others; those that are not there are returned where
    /// that is allowed.
    pub fn drop(
        &mut self,
        operation: &'static str,
        names: &[AccountName],
        if_exists: bool,
    ) -> Result<Vec<AccountName>> {
        let missing: Vec<AccountName> = names.iter().filter(|it| !self.by_name.contains_key(it)).cloned().collect();
        if !missing.is_empty() && !if_exists {
            return Err(failed(operation, &missing));
        }
        self.version += 1;
        for name in names {
            self.by_name.remove(name);
        }
        self.forget_roles(names);
        Ok(missing)
    }

    fn forget_roles(&mut self, names: &[AccountName]) {
        for account in self.by_name.values_mut() {
            if names.iter().any(|it| account.roles.contains_key(it) || account.default_roles.contains(it)) {
                let account = Arc::make_mut(account);
                account.roles.retain(|it, _| !names.contains(it));
                account.default_roles.retain(|it| !names.contains(it));
            }
        }
    }

    /// Takes the right to a stored connection from everybody.
    pub fn forget_connection(&mut self, connection: &str) {
        for account in self.by_name.values_mut() {
            if account.grants.connections.contains_key(connection) {
                Arc::make_mut(account).grants.revoke_connection(connection);
            }
        }
        self.version += 1;
    }

    pub fn rename(&mut self, pairs: &[(AccountName, AccountName)]) -> Result<()> {
        for (from, to) in pairs {
            if self.by_name.contains_key(to) || !self.by_name.contains_key(from) {
                return Err(failed("RENAME USER", std::slice::from_ref(from)));
            }
            if let Some(account) = self.by_name.remove(from) {
                self.by_name.insert(to.clone(), account);
            }
            for account in self.by_name.values_mut() {
                if let Some(admin) = account.roles.get(from).copied() {
                    let account = Arc::make_mut(account);
                    account.roles.remove(from);
                    account.roles.insert(to.clone(), admin);
                    if account.default_roles.remove(from) {
                        account.default_roles.insert(to.clone());
                    }
                }
            }
        }
        self.version += 1;
        Ok(())
    }

    /// Changes one account.
    pub fn alter(&mut self, name: &AccountName, missing: AccessError, change: impl FnOnce(&mut Account)) -> Result<()> {
        let account = self.by_name.get_mut(name).ok_or(missing)?;
        change(Arc::make_mut(account));
        self.version += 1;
        Ok(())
    }

    /// Changes what accounts were granted. Errs on one that is not there, unless that is to be passed over.
    pub fn change_grants(
        &mut self,
        names: &[AccountName],
        missing: fn(&AccountName) -> Option<AccessError>,
        mut change: impl FnMut(&AccountName, &mut Grants) -> Result<()>,
    ) -> Result<Vec<AccountName>> {
        let mut passed_over = vec![];
        for name in names {
            match (self.by_name.get_mut(name), missing(name)) {
                (Some(account), _) => change(name, &mut Arc::make_mut(account).grants)?,
                (None, Some(error)) => return Err(error),
                (None, None) => passed_over.push(name.clone()),
            }
        }
        self.version += 1;
        Ok(passed_over)
    }

    /// Grants roles. Errs on unknown ones and where a role would come to have itself.
    pub fn grant_roles(&mut self, roles: &[AccountName], to: &[AccountName], with_admin_option: bool) -> Result<()> {
        self.check_roles(roles.iter().chain(to))?;
        for account in to {
            for role in roles {
                if role == account || self.closure([role]).contains(account) {
                    return Err(AccessError::RoleCycle { role: role.clone(), account: account.clone() });
                }
                if let Some(account) = self.by_name.get_mut(account) {
                    *Arc::make_mut(account).roles.entry(role.clone()).or_insert(false) |= with_admin_option;
                }
            }
        }
        self.version += 1;
        Ok(())
    }

    /// Revokes roles, default ones included.
    pub fn revoke_roles(&mut self, roles: &[AccountName], from: &[AccountName], if_exists: bool) -> Result<()> {
        if !if_exists {
            self.check_roles(roles.iter().chain(from))?;
        }
        for name in from {
            if let Some(account) = self.by_name.get_mut(name) {
                let account = Arc::make_mut(account);
                account.roles.retain(|it, _| !roles.contains(it));
                account.default_roles.retain(|it| !roles.contains(it));
            }
        }
        self.version += 1;
        Ok(())
    }

    pub fn check_roles<'a>(&self, mut roles: impl Iterator<Item = &'a AccountName>) -> Result<()> {
        match roles.find(|it| !self.by_name.contains_key(it)) {
            Some(unknown) => Err(AccessError::UnknownRole { name: unknown.clone() }),
            None => Ok(()),
        }
    }
}

/// As MySQL lists those on which something failed.
pub(super) fn failed(operation: &'static str, names: &[AccountName]) -> AccessError {
    let names = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    AccessError::Operation { operation, names }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> AccountName {
        AccountName::parse_plain(text).unwrap()
    }

    fn accounts(users: &[&str], roles: &[&str]) -> Accounts {
        let mut all = Accounts::default();
        let users = users.iter().map(|it| (name(it), Account::user(Verifier::CachingSha2(None))));
        let roles = roles.iter().map(|it| (name(it), Account::role()));
        all.create("CREATE USER", users.chain(roles).collect(), false).unwrap();
        all
    }

    #[test]
    fn whom_a_login_means() {
        let all = accounts(&["u@%", "u@localhost", "u@10.%", "@10.0.0.1", "@%"], &["r@%"]);
        for (user, peer, expected) in [
            ("u", "127.0.0.1", "u@localhost"),
            ("u", "10.1.2.3", "u@10.%"),
            // The host counts first, as in MySQL: the nameless account takes it.
            ("u", "10.0.0.1", "@10.0.0.1"),
            ("u", "192.168.0.1", "u@%"),
            ("v", "192.168.0.1", "@%"),
            // A role is nobody to log in as.
            ("r", "192.168.0.1", "@%"),
        ] {
            let found = all.of_login(user, peer.parse().unwrap()).map(|it| it.0.plain());
            assert_eq!(found.as_deref(), Some(expected), "{user} {peer}");
        }
        assert!(accounts(&["u@10.%"], &[]).of_login("u", "127.0.0.1".parse().unwrap()).is_none());
    }

    #[test]
    fn all_or_none_are_created_and_dropped() {
        let mut all = accounts(&["a@%"], &[]);
        let new = |names: &[&str]| -> Vec<_> {
            names.iter().map(|it| (name(it), Account::user(Verifier::Native(None)))).collect()
        };
        let error = all.create("CREATE USER", new(&["b@%", "a@%"]), false).unwrap_err();
        assert_eq!(error.to_string(), "operation CREATE USER failed for 'a'@'%'");
        assert!(all.get(&name("b@%")).is_none());
        assert!(all.create("CREATE USER", new(&["b@%", "b@%"]), true).is_err());
        assert_eq!(all.create("CREATE USER", new(&["b@%", "a@%"]), true).unwrap(), [name("a@%")]);
        let error = all.drop("DROP USER", &[name("a@%"), name("x@%"), name("y@%")], false).unwrap_err();
        assert_eq!(error.to_string(), "operation DROP USER failed for 'x'@'%','y'@'%'");
        assert!(all.get(&name("a@%")).is_some());
        assert_eq!(all.drop("DROP USER", &[name("a@%"), name("x@%")], true).unwrap(), [name("x@%")]);
        assert!(all.get(&name("a@%")).is_none());
    }

    #[test]
    fn roles_are_granted_in_chains_and_never_in_circles() {
        let mut all = accounts(&["u@%"], &["a@%", "b@%", "c@%"]);
        all.grant_roles(&[name("a@%")], &[name("b@%")], false).unwrap();
        all.grant_roles(&[name("b@%")], &[name("c@%"), name("u@%")], true).unwrap();
        let through: Vec<String> = all.closure([&name("c@%")]).iter().map(AccountName::plain).collect();
        assert_eq!(through, ["a@%", "b@%", "c@%"]);
        for (role, to) in [("c@%", "a@%"), ("a@%", "a@%")] {
            let error = all.grant_roles(&[name(role)], &[name(to)], false).unwrap_err();
            assert!(matches!(error, AccessError::RoleCycle { .. }), "{error}");
        }
        assert!(matches!(
            all.grant_roles(&[name("x@%")], &[name("u@%")], false),
            Err(AccessError::UnknownRole { name }) if name.user == "x"
        ));
        all.drop("DROP ROLE", &[name("b@%")], false).unwrap();
        assert!(all.get(&name("u@%")).unwrap().roles.is_empty());
    }

    #[test]
    fn a_new_name_is_taken_over_everywhere() {
        let mut all = accounts(&["u@%"], &["r@%"]);
        all.grant_roles(&[name("r@%")], &[name("u@%")], true).unwrap();
        all.alter(&name("u@%"), AccessError::NoSuchUser, |it| {
            it.default_roles.insert(name("r@%"));
        })
        .unwrap();
        assert!(all.rename(&[(name("x@%"), name("y@%"))]).is_err());
        assert!(all.rename(&[(name("r@%"), name("u@%"))]).is_err());
        all.rename(&[(name("r@%"), name("s@%")), (name("u@%"), name("v@%"))]).unwrap();
        let account = all.get(&name("v@%")).unwrap();
        assert_eq!(account.roles, BTreeMap::from([(name("s@%"), true)]));
        assert!(account.default_roles.contains(&name("s@%")));
    }
}
