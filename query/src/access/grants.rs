//! What one account or role was granted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::names::{AccountName, is_like};
use super::privileges::{Level, Privilege, Privileges};

/// Invariant: no entry is empty. The right to grant is among the privileges of each level.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    pub global: Privileges,
    /// By name or pattern.
    pub databases: BTreeMap<String, Privileges>,
    /// By database and table.
    pub tables: BTreeMap<String, BTreeMap<String, TableGrant>>,
    /// The stored connections that may be used, by name, and whether that may be granted on.
    pub connections: BTreeMap<String, bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableGrant {
    pub privileges: Privileges,
    /// By column, in small letters.
    pub columns: BTreeMap<String, Privileges>,
}

impl TableGrant {
    pub fn is_empty(&self) -> bool {
        self.privileges.is_empty() && self.columns.is_empty()
    }

    /// Privileges on any column.
    pub fn on_columns(&self) -> Privileges {
        self.columns.values().fold(Privileges::NONE, |all, it| all | *it)
    }

    pub fn on_column(&self, column: &str) -> Privileges {
        self.columns.get(&column.to_lowercase()).copied().unwrap_or_default()
    }
}

impl Grants {
    pub fn is_empty(&self) -> bool {
        self.global.is_empty() && self.databases.is_empty() && self.tables.is_empty() && self.connections.is_empty()
    }

    /// On the level of a database: of its name, or else of the pattern that fits and says most.
    pub fn on_database(&self, database: &str) -> Privileges {
        if let Some(exact) = self.databases.get(database) {
            return *exact;
        }
        let wildcard = |pattern: &str| pattern.find(['%', '_']).unwrap_or(usize::MAX);
        let fitting = self.databases.iter().filter(|(pattern, _)| is_like(pattern, database));
        fitting.max_by_key(|(pattern, _)| wildcard(pattern)).map(|(_, it)| *it).unwrap_or_default()
    }

    /// On the level of a table.
    pub fn on_table(&self, database: &str, table: &str) -> Option<&TableGrant> {
        self.tables.get(database)?.get(table)
    }

    /// Whether anything of a database may be used, be it one column.
    pub fn touches_database(&self, database: &str) -> bool {
        !self.on_database(database).is_empty() || self.tables.contains_key(database)
    }

    pub fn grant_global(&mut self, privileges: Privileges) {
        self.global |= privileges;
    }

    pub fn grant_database(&mut self, pattern: &str, privileges: Privileges) {
        if !privileges.is_empty() {
            *self.databases.entry(pattern.to_owned()).or_default() |= privileges;
        }
    }

    /// `columns` are those that some of the privileges are limited to.
    pub fn grant_table(
        &mut self,
        database: &str,
        table: &str,
        privileges: Privileges,
        columns: &BTreeMap<String, Privileges>,
    ) {
        let tables = self.tables.entry(database.to_owned()).or_default();
        let grant = tables.entry(table.to_owned()).or_default();
        grant.privileges |= privileges;
        for (column, privileges) in columns {
            *grant.columns.entry(column.to_lowercase()).or_default() |= *privileges;
        }
        self.tidy();
    }

    pub fn grant_connection(&mut self, connection: &str, with_grant_option: bool) {
        *self.connections.entry(connection.to_owned()).or_default() |= with_grant_option;
    }

    /// Whether there was a grant on it.
    pub fn revoke_connection(&mut self, connection: &str) -> bool {
        self.connections.remove(connection).is_some()
    }

    pub fn revoke_global(&mut self, privileges: Privileges) {
        self.global = self.global - privileges;
    }

    /// Whether there was a grant on exactly this.
    pub fn revoke_database(&mut self, pattern: &str, privileges: Privileges) -> bool {
        let Some(granted) = self.databases.get_mut(pattern) else { return false };
        *granted = *granted - privileges;
        self.tidy();
        true
    }

    /// Whether there was a grant on exactly this. A privilege that is revoked from the table goes from its columns too.
    pub fn revoke_table(
        &mut self,
        database: &str,
        table: &str,
        privileges: Privileges,
        columns: &BTreeMap<String, Privileges>,
    ) -> bool {
        let Some(grant) = self.tables.get_mut(database).and_then(|it| it.get_mut(table)) else { return false };
        grant.privileges = grant.privileges - privileges;
        for granted in grant.columns.values_mut() {
            *granted = *granted - privileges;
        }
        for (column, privileges) in columns {
            if let Some(granted) = grant.columns.get_mut(&column.to_lowercase()) {
                *granted = *granted - *privileges;
            }
        }
        self.tidy();
        true
    }

    fn tidy(&mut self) {
        self.databases.retain(|_, it| !it.is_empty());
        for tables in self.tables.values_mut() {
            for grant in tables.values_mut() {
                grant.columns.retain(|_, it| !it.is_empty());
            }
            tables.retain(|_, it| !it.is_empty());
        }
        self.tables.retain(|_, it| !it.is_empty());
    }

    /// The lines of `SHOW GRANTS` but for roles.
    pub fn lines(&self, to: &AccountName) -> Vec<String> {
        let to = to.in_backticks();
        let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
        let line = |privileges: String, on: String, granted: Privileges| {
            let option = if granted.has(Privilege::GrantOption) { " WITH GRANT OPTION" } else { "" };
            format!("GRANT {privileges} ON {on} TO {to}{option}")
        };
        let (dynamic, fixed): (Privileges, Privileges) = {
            let of = |is_dynamic: bool| self.global.iter().filter(move |it| it.is_dynamic() == is_dynamic).collect();
            (of(true), of(false))
        };
        let mut lines = vec![line(names_of(fixed, None), "*.*".to_owned(), self.global)];
        if !dynamic.is_empty() {
            // MySQL writes these without a space after the comma.
            let names = dynamic.names().replace(", ", ",");
            lines.push(line(names, "*.*".to_owned(), self.global));
        }
        for (database, granted) in &self.databases {
            let on = format!("{}.*", quoted(database));
            lines.push(line(names_of(*granted, Some(Level::Database)), on, *granted));
        }
        for (database, tables) in &self.tables {
            for (table, grant) in tables {
                let on = format!("{}.{}", quoted(database), quoted(table));
                lines.push(line(table_names(grant), on, grant.privileges));
            }
        }
        for (connection, with_grant_option) in &self.connections {
            let option = if *with_grant_option { Privilege::GrantOption.into() } else { Privileges::NONE };
            lines.push(line("USAGE".to_owned(), format!("CONNECTION {}", quoted(connection)), option));
        }
        lines
    }
}

/// `USAGE` for none, `ALL PRIVILEGES` for all of a level where MySQL writes so.
fn names_of(granted: Privileges, level: Option<Level>) -> String {
    let granted = granted.without(Privilege::GrantOption);
    match level {
        _ if granted.is_empty() => "USAGE".to_owned(),
        Some(level) if granted == Privileges::all_of(level) => "ALL PRIVILEGES".to_owned(),
        _ => granted.names(),
    }
}

/// The privileges on a table, each with the columns that it is limited to: ``SELECT, INSERT (`a`, `b`)``.
fn table_names(grant: &TableGrant) -> String {
    if grant.columns.is_empty() {
        return names_of(grant.privileges, Some(Level::Table));
    }
    let on_columns = grant.on_columns();
    let mut parts = vec![];
    for privilege in Privilege::ALL.iter().copied().filter(|it| *it != Privilege::GrantOption) {
        if grant.privileges.has(privilege) {
            parts.push(privilege.name().to_owned());
        } else if on_columns.has(privilege) {
            let columns = grant.columns.iter().filter(|(_, it)| it.has(privilege));
            let columns: Vec<String> = columns.map(|(name, _)| format!("`{}`", name.replace('`', "``"))).collect();
            parts.push(format!("{} ({})", privilege.name(), columns.join(", ")));
        }
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(privileges: &[Privilege]) -> Privileges {
        privileges.iter().copied().collect()
    }

    #[test]
    fn a_database_is_meant_by_its_name_or_by_the_pattern_that_says_most() {
        let mut grants = Grants::default();
        grants.grant_database("%", set(&[Privilege::Drop]));
        grants.grant_database("sales%", set(&[Privilege::Select]));
        grants.grant_database("sales\\_eu", set(&[Privilege::Insert]));
        grants.grant_database("sales_us", set(&[Privilege::Update]));
        for (database, expected) in [
            ("other", "DROP"),
            ("sales", "SELECT"),
            ("sales_eu", "INSERT"),
            ("salesxus", "UPDATE"),
            ("sales_us", "UPDATE"),
        ] {
            assert_eq!(grants.on_database(database).names(), expected, "{database}");
        }
    }

    #[test]
    fn lines_are_mysqls() {
        let to = AccountName::new("u", "localhost");
        let mut grants = Grants::default();
        assert_eq!(grants.lines(&to), ["GRANT USAGE ON *.* TO `u`@`localhost`"]);
        grants.grant_global(set(&[Privilege::Process, Privilege::RoleAdmin, Privilege::SystemUser]));
        grants.grant_database("d`b", Privileges::all_of(Level::Database).with(Privilege::GrantOption));
        grants.grant_database("e", set(&[Privilege::Select, Privilege::ShowView]));
        grants.grant_table("e", "t", Privileges::all_of(Level::Table), &BTreeMap::new());
        let columns = BTreeMap::from([("A".to_owned(), set(&[Privilege::Select, Privilege::Insert]))]);
        grants.grant_table("e", "u", set(&[Privilege::Select, Privilege::Delete]), &columns);
        let columns =
            BTreeMap::from([("b".to_owned(), set(&[Privilege::Select])), ("a".to_owned(), set(&[Privilege::Select]))]);
        grants.grant_table("e", "v", Privileges::NONE, &columns);
        grants.grant_connection("lake", false);
        grants.grant_connection("a`b", true);
        grants.grant_connection("a`b", false);
        assert_eq!(
            grants.lines(&to),
            [
                "GRANT PROCESS ON *.* TO `u`@`localhost`",
                "GRANT ROLE_ADMIN,SYSTEM_USER ON *.* TO `u`@`localhost`",
                "GRANT ALL PRIVILEGES ON `d``b`.* TO `u`@`localhost` WITH GRANT OPTION",
                "GRANT SELECT, SHOW VIEW ON `e`.* TO `u`@`localhost`",
                "GRANT ALL PRIVILEGES ON `e`.`t` TO `u`@`localhost`",
                "GRANT SELECT, INSERT (`a`), DELETE ON `e`.`u` TO `u`@`localhost`",
                "GRANT SELECT (`a`, `b`) ON `e`.`v` TO `u`@`localhost`",
                "GRANT USAGE ON CONNECTION `a``b` TO `u`@`localhost` WITH GRANT OPTION",
                "GRANT USAGE ON CONNECTION `lake` TO `u`@`localhost`",
            ]
        );
    }

    #[test]
    fn what_is_revoked_leaves_nothing_behind() {
        let mut grants = Grants::default();
        let columns = BTreeMap::from([("a".to_owned(), set(&[Privilege::Select, Privilege::Insert]))]);
        grants.grant_database("d", set(&[Privilege::Select]));
        grants.grant_table("d", "t", set(&[Privilege::Update]), &columns);
        assert!(!grants.revoke_database("e", set(&[Privilege::Select])));
        assert!(!grants.revoke_table("d", "x", set(&[Privilege::Select]), &BTreeMap::new()));
        assert!(grants.revoke_database("d", set(&[Privilege::Select])));
        assert!(grants.touches_database("d"));
        assert!(grants.revoke_table("d", "t", set(&[Privilege::Select]), &BTreeMap::new()));
        assert_eq!(grants.on_table("d", "t").unwrap().on_column("A").names(), "INSERT");
        assert!(grants.revoke_table("d", "t", set(&[Privilege::Update]), &columns));
        assert!(grants.is_empty(), "{grants:?}");
    }
}
