//! Who may do what: accounts, roles, their rights, and what each statement needs of them.
//!
//! The model is plain data ([`Accounts`]): statements change a copy of it, [`Access`] has the difference agreed on by all
//! coordinators, in one command. A statement is held against the [`Rights`] of its session as they were when it first
//! asked for them. Does not know how a client proves who it is; it keeps the verifiers for those who ask.

mod account;
mod accounts;
pub(crate) mod check;
mod columns;
mod error;
mod grants;
pub mod import;
mod kept;
mod names;
mod privileges;
mod rights;
mod visible;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use sheaf_common::Classify;
use sheaf_common::definitions::{Change, Object, Refusal};

pub use account::{Account, Verifier};
pub use accounts::Accounts;
pub(crate) use columns::{Restricted, check_columns};
pub use error::AccessError;
pub use grants::{Grants, TableGrant};
pub use names::AccountName;
pub use privileges::{Level, Privilege, Privileges};
pub use rights::Rights;
pub(crate) use rights::{RightsSource, SessionRights};
pub(crate) use visible::retain_visible;

use crate::definitions::{DefinitionError, DefinitionStore, TIMEOUT};

/// How often a change is decided anew when other coordinators were faster.
const TRIES_MAX: usize = 16;

/// On whose behalf a session acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Whoever embeds the engine: there is nothing that it may not do.
    Embedder,
    /// An account that somebody logged in by.
    Account(AccountName),
}

/// The accounts of a server, or of a cluster.
#[derive(Debug)]
pub struct Access {
    store: Arc<dyn DefinitionStore>,
    /// What every change of accounts writes.
    mark: Object,
    /// As they were read last. Replaced as a whole.
    known: RwLock<Arc<Accounts>>,
    /// One change of this process at a time, from reading what there is until it is agreed on.
    changing: tokio::sync::Mutex<()>,
}

impl Access {
    pub fn new(store: Arc<dyn DefinitionStore>) -> Self {
        Self { store, mark: kept::mark(), known: RwLock::default(), changing: tokio::sync::Mutex::default() }
    }

    /// Makes `first` the accounts where nobody ever made one; whether it did.
    pub(crate) async fn first(&self, first: impl Fn() -> Accounts, wait: Duration) -> Result<bool, AccessError> {
        if !self.accounts().is_fresh() {
            return Ok(false);
        }
        self.catch_up(wait).await?;
        let make = |accounts: &mut Accounts| {
            let is_fresh = accounts.is_fresh();
            if is_fresh {
                *accounts = first();
            }
            Ok(is_fresh)
        };
        self.change_within(wait, vec![], make).await
    }

    /// Makes root where nobody ever made an account: of this machine, or of all with this password. Gives the password
    /// to a root that has none. Returns whether there is a root without a password still, as far as this process knows.
    ///
    /// Errs when something is to be changed and is not agreed on within the time.
    pub async fn begin(&self, root_password: Option<&str>, wait: Duration) -> Result<bool, AccessError> {
        let verifier = Verifier::of_password(None, root_password.unwrap_or_default())?;
        let host = if verifier.has_password() { "%" } else { "localhost" };
        self.first(|| Accounts::with_root(host, verifier.clone()), wait).await?;
        if !self.has_open_root() || !verifier.has_password() {
            return Ok(self.has_open_root());
        }
        let close = |accounts: &mut Accounts| {
            accounts.open_roots().iter().try_for_each(|name| {
                accounts.alter(name, AccessError::NoSuchUser, |root| root.verifier = verifier.clone())
            })
        };
        self.change_within(wait, vec![], close).await?;
        Ok(false)
    }

    /// Whether there is a root without a password that can log in, as far as this process knows.
    pub fn has_open_root(&self) -> bool {
        !self.accounts().open_roots().is_empty()
    }

    /// The accounts as this process knows them: as they are once [`Access::catch_up`] has returned.
    pub fn accounts(&self) -> Arc<Accounts> {
        let definitions = self.store.local();
        let version = definitions.get(&self.mark).map_or(0, |mark| mark.version);
        {
            let known = self.known.read();
            if known.version() == version {
                return Arc::clone(&known);
            }
        }
        let read = Arc::new(kept::read(&definitions));
        *self.known.write() = Arc::clone(&read);
        read
    }

    /// Waits until this process has all that was acknowledged before the call, by whichever coordinator.
    ///
    /// Errs when that takes longer, as it does without a majority of coordinators.
    pub async fn catch_up(&self, wait: Duration) -> Result<(), AccessError> {
        self.store.read(wait).await.map(|_| ()).map_err(of_store)
    }

    /// Changes the accounts: all of what `change` does is agreed on and in force on every coordinator when this returns,
    /// or nothing of it. It is called again, on the accounts as they are then, when another coordinator was faster.
    pub async fn change<R>(
        &self,
        change: impl FnMut(&mut Accounts) -> Result<R, AccessError>,
    ) -> Result<R, AccessError> {
        self.change_within(TIMEOUT, vec![], change).await
    }

    /// The same, with changes of other things in the same command, which come last.
    ///
    /// Errs with `Outdated` when those expect a version that is not there any more.
    pub(crate) async fn change_along<R>(
        &self,
        others: Vec<Change>,
        change: impl FnMut(&mut Accounts) -> Result<R, AccessError>,
    ) -> Result<R, AccessError> {
        self.change_within(TIMEOUT, others, change).await
    }

    async fn change_within<R>(
        &self,
        wait: Duration,
        others: Vec<Change>,
        mut change: impl FnMut(&mut Accounts) -> Result<R, AccessError>,
    ) -> Result<R, AccessError> {
        let _one = self.changing.lock().await;
        for _ in 0..TRIES_MAX {
            let before = self.accounts();
            let mut after = Accounts::clone(&before);
            let result = change(&mut after)?;
            let in_any_case = before.is_fresh() || !others.is_empty();
            let mut changes = kept::changes(&before, &after, in_any_case);
            if changes.is_empty() {
                return Ok(result);
            }
            changes.extend(others.iter().cloned());
            match self.store.change(changes, wait).await {
                Ok(_) => return Ok(result),
                Err(DefinitionError::Refused(refusal)) if self.is_race(&refusal) => self.catch_up(wait).await?,
                Err(DefinitionError::Refused(Refusal::VersionChanged { object, .. }))
                    if others.iter().any(|change| *change.object() == object) =>
                {
                    return Err(AccessError::Outdated);
                }
                Err(error) => return Err(of_store(error)),
            }
        }
        Err(AccessError::Contended)
    }

    /// Whether another coordinator changed the accounts in between.
    fn is_race(&self, refusal: &Refusal) -> bool {
        match refusal {
            Refusal::VersionChanged { object, .. } | Refusal::Exists { object } => *object == self.mark,
            _ => false,
        }
    }
}

fn of_store(error: DefinitionError) -> AccessError {
    AccessError::Store { code: error.code(), retryable: error.is_retryable(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use sheaf_common::definitions::{Applied, Definitions};

    use super::*;
    use crate::definitions::MemoryDefinitions;

    /// One coordinator's view of a store, behind by what it has not been asked to read.
    #[derive(Debug)]
    struct Behind {
        store: Arc<MemoryDefinitions>,
        seen: RwLock<Arc<Definitions>>,
    }

    impl Behind {
        fn of(store: &Arc<MemoryDefinitions>) -> Access {
            Access::new(Arc::new(Self { store: Arc::clone(store), seen: RwLock::new(store.local()) }))
        }
    }

    #[async_trait]
    impl DefinitionStore for Behind {
        async fn change(&self, changes: Vec<Change>, timeout: Duration) -> Result<Applied, DefinitionError> {
            let applied = self.store.change(changes, timeout).await?;
            *self.seen.write() = self.store.local();
            Ok(applied)
        }

        async fn read(&self, _: Duration) -> Result<Arc<Definitions>, DefinitionError> {
            *self.seen.write() = self.store.local();
            Ok(self.local())
        }

        fn local(&self) -> Arc<Definitions> {
            Arc::clone(&self.seen.read())
        }
    }

    fn user(name: &str) -> Vec<(AccountName, Account)> {
        vec![(AccountName::new(name, "%"), Account::user(Verifier::native("x")))]
    }

    fn names(access: &Access) -> Vec<String> {
        access.accounts().iter().map(|it| it.0.plain()).collect()
    }

    #[tokio::test]
    async fn who_was_not_the_first_decides_again() {
        let store = Arc::new(MemoryDefinitions::new().unwrap());
        let (one, two) = (Behind::of(&store), Behind::of(&store));
        one.begin(None, TIMEOUT).await.unwrap();
        assert!(two.accounts().is_fresh(), "it has not looked yet");
        // Both begin a cluster: the second finds the accounts of the first.
        assert!(two.begin(None, TIMEOUT).await.unwrap());
        one.change(|accounts| accounts.create("CREATE USER", user("a"), false)).await.unwrap();
        assert_eq!(names(&two), ["root@localhost"]);
        let mut decided = 0;
        let created = two.change(|accounts| {
            decided += 1;
            accounts.create("CREATE USER", user("b"), false)
        });
        created.await.unwrap();
        assert_eq!((decided, names(&two)), (2, vec!["a@%".to_owned(), "b@%".to_owned(), "root@localhost".to_owned()]));
        // The same user on both: the second is told so.
        let error = one.change(|accounts| accounts.create("CREATE USER", user("b"), false)).await.unwrap_err();
        assert_eq!(error.to_string(), "operation CREATE USER failed for 'b'@'%'");
    }

    #[tokio::test]
    async fn what_changes_nothing_is_no_command() {
        let store = Arc::new(MemoryDefinitions::new().unwrap());
        let access = Access::new(Arc::clone(&store) as _);
        access.begin(None, TIMEOUT).await.unwrap();
        access.change(|accounts| accounts.create("CREATE USER", user("a"), false)).await.unwrap();
        let (version, accounts) = (store.local().version(), access.accounts());
        let there = access.change(|accounts| accounts.create("CREATE USER", user("a"), true)).await.unwrap();
        assert_eq!((there.len(), store.local().version()), (1, version));
        // What is read once is not read again while other things change.
        store
            .change(
                vec![Change::create(Object::database("d"), "{}", sheaf_common::definitions::IfExists::Fail)],
                TIMEOUT,
            )
            .await
            .unwrap();
        assert!(Arc::ptr_eq(&accounts, &access.accounts()));
    }
}
