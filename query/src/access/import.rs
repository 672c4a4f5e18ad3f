//! The accounts file of earlier versions, `accounts.json`, brought into the definitions that took its place.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tracing::{info, warn};

use super::Access;
use super::account::Account;
use super::accounts::Accounts;
use super::error::AccessError;
use super::names::AccountName;
use crate::earlier_file::{self, Unreadable};

const FILE_NAME: &str = "accounts.json";
/// What the file is called once it has been taken over.
const IMPORTED_NAME: &str = "accounts.json.imported";
const FORMAT: &str = "sheafdb accounts";
const VERSION: u64 = 1;

#[derive(Deserialize)]
struct Body {
    accounts: BTreeMap<AccountName, Account>,
}

/// As [`Access::begin`]; where there are no accounts yet, those of an earlier version's file in the data folder are the
/// first ones, in one command, and the file is then called `accounts.json.imported`. Where there are some already, the
/// file is left alone.
///
/// Errs when the file is damaged or of a newer version, which leaves it as it is, and when the store fails.
pub async fn begin(
    access: &Access,
    data_dir: &Path,
    root_password: Option<&str>,
    wait: Duration,
) -> Result<bool, AccessError> {
    let path = data_dir.join(FILE_NAME);
    let failed = |source| AccessError::File { path: path.clone(), source };
    let old = match fs::read(&path) {
        Ok(bytes) => Some(parse(&path, &bytes)?),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(source) => return Err(failed(source)),
    };
    if let Some(old) = old {
        if access.first(|| old.clone(), wait).await? {
            let imported = data_dir.join(IMPORTED_NAME);
            fs::rename(&path, &imported).map_err(failed)?;
            let n_accounts = old.iter().count();
            info!(n_accounts, path = %imported.display(), "took over the accounts file of an earlier version");
        } else {
            // Another coordinator's came first, or its renaming failed.
            let known = access.accounts();
            let missing: Vec<String> =
                old.iter().filter(|(name, _)| known.get(name).is_none()).map(|(name, _)| name.to_string()).collect();
            let missing = missing.join(", ");
            warn!(path = %path.display(), missing, "left the accounts file of an earlier version alone: the cluster has accounts already");
        }
    }
    access.begin(root_password, wait).await
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Accounts, AccessError> {
    let body: Body = earlier_file::read(bytes, FORMAT, VERSION).map_err(|unreadable| {
        let reason = match unreadable {
            Unreadable::Damaged(reason) => reason,
            Unreadable::Newer(found) => format!("it has version {found}, this server knows up to {VERSION}"),
        };
        AccessError::Damaged { path: path.to_owned(), reason }
    })?;
    let accounts = body.accounts.into_iter().map(|(name, account)| (name, Arc::new(account)));
    Ok(Accounts::new(0, accounts.collect()))
}

#[cfg(test)]
mod tests {
    use super::super::Verifier;
    use super::*;
    use crate::definitions::{DefinitionStore, MemoryDefinitions, TIMEOUT};

    const OLD: &str = r#"{"format": "sheafdb accounts", "version": 1, "accounts": {
        "root@localhost": {"verifier": {"plugin": "caching_sha2_password"}, "grants": {"global": ["SELECT", "SUPER"]}},
        "u@%": {"verifier": {"plugin": "mysql_native_password", "verifier": "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"},
            "grants": {"tables": {"d": {"t": {"privileges": ["INSERT"], "columns": {"a": ["SELECT"]}}}}},
            "roles": {"r@%": true}, "default_roles": ["r@%"]},
        "r@%": {"verifier": {"plugin": "caching_sha2_password"}, "is_locked": true, "is_role": true,
            "grants": {"databases": {"d": ["UPDATE"]}}}}}"#;

    fn access() -> (Access, Arc<MemoryDefinitions>) {
        let store = Arc::new(MemoryDefinitions::new().unwrap());
        (Access::new(Arc::clone(&store) as _), store)
    }

    fn names(access: &Access) -> Vec<String> {
        access.accounts().iter().map(|it| it.0.plain()).collect()
    }

    #[tokio::test]
    async fn an_old_file_is_taken_over_once_and_in_one_command() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        fs::write(&path, OLD).unwrap();
        let (access, store) = access();
        let before = store.local().version();
        assert!(begin(&access, dir.path(), None, TIMEOUT).await.unwrap(), "its root has no password");
        assert_eq!(store.local().version(), before + 1);
        assert!(!path.exists() && dir.path().join(IMPORTED_NAME).exists());
        let accounts = access.accounts();
        assert_eq!(names(&access), ["r@%", "root@localhost", "u@%"]);
        let user = accounts.get(&AccountName::new("u", "%")).unwrap();
        assert_eq!(user.verifier, Verifier::native("password"));
        let lines = user.grant_lines(&AccountName::new("u", "%"), std::iter::empty());
        assert_eq!(
            lines[1..],
            ["GRANT SELECT (`a`), INSERT ON `d`.`t` TO `u`@`%`", "GRANT `r`@`%` TO `u`@`%` WITH ADMIN OPTION"]
        );
        assert!(accounts.get(&AccountName::new("r", "%")).unwrap().is_role);
        // The file of another coordinator finds accounts, and stays where it is.
        fs::write(&path, OLD.replace("u@%", "v@%")).unwrap();
        assert!(!begin(&access, dir.path(), Some("pass"), TIMEOUT).await.unwrap(), "root has a password now");
        assert_eq!(names(&access), ["r@%", "root@localhost", "u@%"]);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn no_accounts_are_something_else_than_none_yet() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), r#"{"format": "sheafdb accounts", "version": 1, "accounts": {}}"#)
            .unwrap();
        let (access, _) = access();
        assert!(!begin(&access, dir.path(), Some("pass"), TIMEOUT).await.unwrap());
        assert!(names(&access).is_empty() && !access.accounts().is_fresh());
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (access, _) = access();
        for (text, reason) in [
            (r#"{"format": "sheafdb accounts", "version": 2, "accounts": "changed"}"#, "version 2"),
            (r#"{"format": "x", "version": 1}"#, "its format"),
            (
                r#"{"format": "sheafdb accounts", "version": 1, "accounts": {"u@%": {"verifier": {"plugin": "no"}}}}"#,
                "no",
            ),
            ("", "EOF"),
        ] {
            fs::write(dir.path().join(FILE_NAME), text).unwrap();
            let error = begin(&access, dir.path(), None, TIMEOUT).await.unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(FILE_NAME), "{error}");
            assert_eq!(fs::read_to_string(dir.path().join(FILE_NAME)).unwrap(), text);
        }
        assert!(access.accounts().is_fresh());
    }
}
