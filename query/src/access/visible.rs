//! Which rows of the tables that show the server one may see: those about what one has some right on.

use super::names::AccountName;
use super::privileges::Privilege;
use super::rights::Rights;

/// What a row is about, as far as its columns tell.
#[derive(Debug, Default)]
struct About {
    database: Option<usize>,
    table: Option<usize>,
    column: Option<usize>,
    /// Whose session or query it is.
    user: Option<usize>,
    grantee: Option<usize>,
    query: Option<usize>,
}

impl About {
    fn of(columns: &[String], is_information_schema: bool, table: &str) -> Self {
        let at = |name: &str| columns.iter().position(|it| it == name);
        if is_information_schema {
            let schema = columns.iter().position(|it| it.ends_with("_SCHEMA") || it == "SCHEMA_NAME");
            return Self {
                database: at("TABLE_SCHEMA").or(schema),
                table: at("TABLE_NAME"),
                column: at("COLUMN_NAME"),
                user: if table == "PROCESSLIST" { at("USER") } else { None },
                grantee: at("GRANTEE"),
                query: None,
            };
        }
        let (database, name) = (at("database"), at("name"));
        match table {
            "databases" => Self { database: name, ..Self::default() },
            "tables" => Self { database, table: name, ..Self::default() },
            "columns" => Self { database, table: at("table"), column: name, ..Self::default() },
            // The current database of a session tells nothing that its own user may not see.
            _ => Self { user: at("user"), query: at("query_id"), ..Self::default() },
        }
    }
}

/// Drops the rows of a virtual table that these rights do not reach. `cell` gives a row's text at a column; `is_own_query`
/// tells the queries that the session's own user runs.
pub(crate) fn retain_visible<R>(
    rights: &Rights,
    (database, table): (&str, &str),
    columns: &[String],
    rows: &mut Vec<R>,
    cell: impl Fn(&R, usize) -> Option<String>,
    is_own_query: impl Fn(&str) -> bool,
) {
    let is_information_schema = database == "information_schema";
    let about = About::of(columns, is_information_schema, table);
    let sees_processes = rights.global().has(Privilege::Process);
    let sees_accounts = rights.on_database("mysql").has(Privilege::Select);
    let own = rights.account().map(AccountName::to_string);
    rows.retain(|row| {
        let text = |at: Option<usize>| at.and_then(|at| cell(row, at));
        if let Some(user) = text(about.user) {
            return sees_processes || user == rights.who().user;
        }
        if let Some(query) = text(about.query) {
            return sees_processes || is_own_query(&query);
        }
        if let Some(grantee) = text(about.grantee) {
            return sees_accounts || own.as_deref() == Some(grantee.as_str());
        }
        match (text(about.database), text(about.table), text(about.column)) {
            (Some(database), Some(table), Some(column)) => rights.sees_column(&database, &table, &column),
            (Some(database), Some(table), None) => rights.sees_table(&database, &table),
            (Some(database), None, _) => rights.sees_database(&database),
            (None, _, _) => true,
        }
    });
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::{Account, Accounts, Verifier};
    use super::*;

    fn visible(global: &[Privilege], table: (&str, &str), columns: &[&str], rows: &[&[&str]]) -> Vec<String> {
        let name = AccountName::new("u", "%");
        let mut user = Account::user(Verifier::Native(None));
        user.grants.grant_global(global.iter().copied().collect());
        let columns_of_t = BTreeMap::from([("a".to_owned(), Privilege::Select.into())]);
        user.grants.grant_table("d", "t", Default::default(), &columns_of_t);
        let mut accounts = Accounts::default();
        accounts.create("CREATE USER", vec![(name.clone(), user)], false).unwrap();
        let rights = Rights::of(&accounts, &name, AccountName::new("u", "10.0.0.1"), &BTreeSet::new());
        let columns: Vec<String> = columns.iter().map(|it| (*it).to_owned()).collect();
        let mut rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|it| (*it).to_owned()).collect()).collect();
        retain_visible(&rights, table, &columns, &mut rows, |row, at| row.get(at).cloned(), |query| query == "mine");
        rows.into_iter().map(|row| row.join(".")).collect()
    }

    #[test]
    fn rows_are_shown_to_those_they_concern() {
        let information = |table| ("information_schema", table);
        let columns = ["TABLE_SCHEMA", "TABLE_NAME", "COLUMN_NAME"];
        let rows: &[&[&str]] = &[&["d", "t", "a"], &["d", "t", "b"], &["e", "t", "a"], &["system", "one", "dummy"]];
        assert_eq!(visible(&[], information("COLUMNS"), &columns, rows), ["d.t.a", "system.one.dummy"]);
        assert_eq!(visible(&[Privilege::Select], information("COLUMNS"), &columns, rows).len(), 4);
        let rows: &[&[&str]] = &[&["d"], &["e"]];
        assert_eq!(visible(&[], information("SCHEMATA"), &["SCHEMA_NAME"], rows), ["d"]);
        assert_eq!(visible(&[Privilege::ShowDatabases], information("SCHEMATA"), &["SCHEMA_NAME"], rows), ["d", "e"]);
        let rows: &[&[&str]] = &[&["u", "d"], &["root", "e"]];
        assert_eq!(visible(&[], information("PROCESSLIST"), &["USER", "DB"], rows), ["u.d"]);
        assert_eq!(visible(&[Privilege::Process], ("system", "queries"), &["user", "database"], rows).len(), 2);
        assert_eq!(visible(&[], ("system", "queries"), &["user", "database"], rows), ["u.d"]);
        let rows: &[&[&str]] = &[&["mine"], &["theirs"]];
        assert_eq!(visible(&[], ("system", "tasks"), &["query_id"], rows), ["mine"]);
        let rows: &[&[&str]] = &[&["'u'@'%'"], &["'root'@'localhost'"]];
        assert_eq!(visible(&[], information("USER_PRIVILEGES"), &["GRANTEE"], rows), ["'u'@'%'"]);
        assert_eq!(visible(&[], ("system", "one"), &["dummy"], &[&["0"]]), ["0"]);
    }
}
