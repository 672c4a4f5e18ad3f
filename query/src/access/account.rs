//! One account: what is kept of its password, its attributes, its rights and roles.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::error::AccessError;
use super::grants::Grants;
use super::names::AccountName;

/// A user, or a role: a user that nobody logs in as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    pub verifier: Verifier,
    #[serde(default)]
    pub is_locked: bool,
    /// `REQUIRE SSL`.
    #[serde(default)]
    pub requires_tls: bool,
    /// Made by `CREATE ROLE`.
    #[serde(default)]
    pub is_role: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(default)]
    pub grants: Grants,
    /// The roles that it was granted, by name, and whether it may grant them on.
    #[serde(default)]
    pub roles: BTreeMap<AccountName, bool>,
    /// Those that are on when it logs in.
    #[serde(default)]
    pub default_roles: BTreeSet<AccountName>,
}

impl Account {
    pub fn user(verifier: Verifier) -> Self {
        Self {
            verifier,
            is_locked: false,
            requires_tls: false,
            is_role: false,
            comment: None,
            grants: Grants::default(),
            roles: BTreeMap::new(),
            default_roles: BTreeSet::new(),
        }
    }

    /// As MySQL makes a role: nobody can log in as it.
    pub fn role() -> Self {
        Self { is_locked: true, is_role: true, ..Self::user(Verifier::CachingSha2(None)) }
    }

    /// `SHOW GRANTS` for it, with what these roles add.
    pub fn grant_lines<'a>(&'a self, name: &AccountName, using: impl Iterator<Item = &'a Self>) -> Vec<String> {
        let mut all = self.grants.clone();
        for role in using {
            all.grant_global(role.grants.global);
            for (pattern, privileges) in &role.grants.databases {
                all.grant_database(pattern, *privileges);
            }
            for (database, tables) in &role.grants.tables {
                for (table, grant) in tables {
                    all.grant_table(database, table, grant.privileges, &grant.columns);
                }
            }
            for (connection, with_grant_option) in &role.grants.connections {
                all.grant_connection(connection, *with_grant_option);
            }
        }
        let mut lines = all.lines(name);
        for with_admin_option in [false, true] {
            let roles: Vec<String> =
                self.roles.iter().filter(|it| *it.1 == with_admin_option).map(|it| it.0.in_backticks()).collect();
            if !roles.is_empty() {
                let option = if with_admin_option { " WITH ADMIN OPTION" } else { "" };
                lines.push(format!("GRANT {} TO {}{option}", roles.join(","), name.in_backticks()));
            }
        }
        lines
    }

    /// The statement that makes it, as `SHOW CREATE USER` writes it. `verifier` stands for the one that is kept.
    pub fn create_statement(&self, name: &AccountName, shows_verifier: bool) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
        let mut text = format!("CREATE USER {} IDENTIFIED WITH '{}'", name.in_backticks(), self.verifier.plugin());
        if let Some(kept) = self.verifier.text() {
            let kept = if shows_verifier { quoted(&kept) } else { "<secret>".to_owned() };
            text.push_str(&format!(" AS {kept}"));
        }
        if !self.default_roles.is_empty() {
            let roles: Vec<String> = self.default_roles.iter().map(AccountName::in_backticks).collect();
            text.push_str(&format!(" DEFAULT ROLE {}", roles.join(",")));
        }
        let (tls, lock) =
            (if self.requires_tls { "SSL" } else { "NONE" }, if self.is_locked { "LOCK" } else { "UNLOCK" });
        text.push_str(&format!(
            " REQUIRE {tls} PASSWORD EXPIRE DEFAULT ACCOUNT {lock} PASSWORD HISTORY DEFAULT PASSWORD REUSE INTERVAL \
             DEFAULT PASSWORD REQUIRE CURRENT DEFAULT"
        ));
        if let Some(comment) = &self.comment {
            text.push_str(&format!(" COMMENT {}", quoted(comment)));
        }
        text
    }
}

/// What is kept of a password to check it; none where the account has no password.
#[derive(Clone, PartialEq, Eq)]
pub enum Verifier {
    /// SHA-1 of the SHA-1 of the password.
    Native(Option<[u8; 20]>),
    /// SHA-256 of the SHA-256 of the password.
    CachingSha2(Option<[u8; 32]>),
}

const NATIVE: &str = "mysql_native_password";
const CACHING_SHA2: &str = "caching_sha2_password";

impl Verifier {
    pub fn native(password: &str) -> Self {
        Self::Native(Some(Sha1::digest(Sha1::digest(password)).into()))
    }

    pub fn caching_sha2(password: &str) -> Self {
        Self::CachingSha2(Some(Sha256::digest(Sha256::digest(password)).into()))
    }

    /// Of a password by a plugin; the default one if none is named. An empty password is none.
    pub fn of_password(plugin: Option<&str>, password: &str) -> Result<Self, AccessError> {
        let without = Self::of_plugin(plugin.unwrap_or(CACHING_SHA2))?;
        Ok(match without {
            without if password.is_empty() => without,
            Self::Native(_) => Self::native(password),
            Self::CachingSha2(_) => Self::caching_sha2(password),
        })
    }

    /// Without a password.
    pub fn of_plugin(plugin: &str) -> Result<Self, AccessError> {
        match plugin.to_ascii_lowercase().as_str() {
            NATIVE => Ok(Self::Native(None)),
            CACHING_SHA2 => Ok(Self::CachingSha2(None)),
            _ => Err(AccessError::UnknownPlugin { plugin: plugin.to_owned() }),
        }
    }

    /// From what `text` gave: a star and hexadecimal digits, MySQL's own form for its native plugin.
    pub fn of_text(plugin: &str, text: &str) -> Result<Self, AccessError> {
        let without = Self::of_plugin(plugin)?;
        if text.is_empty() {
            return Ok(without);
        }
        let wrong = || AccessError::WrongHash { plugin: without.plugin() };
        let bytes = text.strip_prefix('*').and_then(unhex).ok_or_else(wrong)?;
        match without {
            Self::Native(_) => bytes.try_into().map(|it| Self::Native(Some(it))).map_err(|_| wrong()),
            Self::CachingSha2(_) => bytes.try_into().map(|it| Self::CachingSha2(Some(it))).map_err(|_| wrong()),
        }
    }

    pub fn plugin(&self) -> &'static str {
        match self {
            Self::Native(_) => NATIVE,
            Self::CachingSha2(_) => CACHING_SHA2,
        }
    }

    /// None where there is no password.
    pub fn text(&self) -> Option<String> {
        let hash: &[u8] = match self {
            Self::Native(hash) => hash.as_ref()?,
            Self::CachingSha2(hash) => hash.as_ref()?,
        };
        Some(format!("*{}", hash.iter().map(|byte| format!("{byte:02X}")).collect::<String>()))
    }

    pub fn has_password(&self) -> bool {
        !matches!(self, Self::Native(None) | Self::CachingSha2(None))
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|it| u8::from_str_radix(it, 16).ok());
    if digits.len().is_multiple_of(2) { pairs.map(byte).collect() } else { None }
}

/// Says which kind it is, never what of.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.plugin(), if self.has_password() { ".." } else { "no password" })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifierText {
    plugin: String,
    #[serde(default)]
    verifier: String,
}

impl Serialize for Verifier {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        VerifierText { plugin: self.plugin().to_owned(), verifier: self.text().unwrap_or_default() }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Verifier {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = VerifierText::deserialize(deserializer)?;
        Self::of_text(&text.plugin, &text.verifier).map_err(serde::de::Error::custom)
    }
}

impl Serialize for AccountName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.plain())
    }
}

impl<'de> Deserialize<'de> for AccountName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse_plain(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no name of an account")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_native_verifier_is_what_mysql_keeps() {
        // What MySQL 5.7 documents as the value of PASSWORD('password').
        const KEPT: &str = "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19";
        assert_eq!(Verifier::native("password").text().as_deref(), Some(KEPT));
        assert_eq!(Verifier::of_text(NATIVE, KEPT).unwrap(), Verifier::native("password"));
        assert!(Verifier::of_text(CACHING_SHA2, KEPT).is_err());
        assert!(Verifier::of_text(NATIVE, "*24").is_err());
        assert!(Verifier::of_text("sha256_password", KEPT).is_err());
    }

    #[test]
    fn accounts_are_kept_whole() {
        let mut account = Account::user(Verifier::caching_sha2("x"));
        account.roles.insert(AccountName::new("r", "%"), true);
        account.default_roles.insert(AccountName::new("r", "%"));
        account.comment = Some("it's".into());
        let text = serde_json::to_string(&account).unwrap();
        assert_eq!(serde_json::from_str::<Account>(&text).unwrap(), account, "{text}");
        assert!(!format!("{account:?}").contains(&account.verifier.text().unwrap()[1..]));
    }

    #[test]
    fn the_statement_that_makes_an_account() {
        let name = AccountName::new("u", "%");
        let mut account = Account::user(Verifier::of_password(None, "").unwrap());
        account.requires_tls = true;
        assert_eq!(
            account.create_statement(&name, true),
            "CREATE USER `u`@`%` IDENTIFIED WITH 'caching_sha2_password' REQUIRE SSL PASSWORD EXPIRE DEFAULT ACCOUNT \
             UNLOCK PASSWORD HISTORY DEFAULT PASSWORD REUSE INTERVAL DEFAULT PASSWORD REQUIRE CURRENT DEFAULT"
        );
        account.verifier = Verifier::native("password");
        let text = account.create_statement(&name, true);
        assert!(text.contains(" AS '*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19' REQUIRE"), "{text}");
        assert!(account.create_statement(&name, false).contains(" AS <secret> "));
    }

    #[test]
    fn roles_are_told_after_rights() {
        let name = AccountName::new("u", "%");
        let mut account = Account::user(Verifier::CachingSha2(None));
        for (role, admin) in [("b", false), ("a", false), ("c", true)] {
            account.roles.insert(AccountName::new(role, "%"), admin);
        }
        let mut role = Account::role();
        role.grants.grant_database("d", super::super::Privilege::Select.into());
        assert_eq!(
            account.grant_lines(&name, [&role].into_iter()),
            [
                "GRANT USAGE ON *.* TO `u`@`%`",
                "GRANT SELECT ON `d`.* TO `u`@`%`",
                "GRANT `a`@`%`,`b`@`%` TO `u`@`%`",
                "GRANT `c`@`%` TO `u`@`%` WITH ADMIN OPTION",
            ]
        );
    }
}
