//! The tables of `information_schema` that tell who was granted what.

use super::cells::{Row, row};
use crate::access::{Accounts, Privilege, Privileges};
use crate::catalog::CATALOG;

/// The rows of one of these tables; none if it is another one.
pub(super) fn rows(table: &str, accounts: &Accounts) -> Option<Vec<Row>> {
    let mut rows = vec![];
    for (name, account) in accounts.iter() {
        let grantee = name.to_string();
        let grants = &account.grants;
        match table {
            "USER_PRIVILEGES" => {
                let global = grants.global;
                if global.without(Privilege::GrantOption).is_empty() {
                    rows.push(row![&grantee, CATALOG, "USAGE", grantable(global)]);
                }
                rows.extend(each(global).map(|it| row![&grantee, CATALOG, it, grantable(global)]));
            }
            "SCHEMA_PRIVILEGES" => {
                for (database, granted) in &grants.databases {
                    let row = |it| row![&grantee, CATALOG, database, it, grantable(*granted)];
                    rows.extend(each(*granted).map(row));
                }
            }
            "TABLE_PRIVILEGES" | "COLUMN_PRIVILEGES" => {
                for (database, tables) in &grants.tables {
                    for (table_name, grant) in tables {
                        let granted = grant.privileges;
                        if table == "TABLE_PRIVILEGES" {
                            let row = |it| row![&grantee, CATALOG, database, table_name, it, grantable(granted)];
                            rows.extend(each(granted).map(row));
                            continue;
                        }
                        for (column, on_column) in &grant.columns {
                            let row =
                                |it| row![&grantee, CATALOG, database, table_name, column, it, grantable(granted)];
                            rows.extend(each(*on_column).map(row));
                        }
                    }
                }
            }
            _ => return None,
        }
    }
    Some(rows)
}

/// The names of the privileges, that to grant left out: it stands in a column of its own.
fn each(granted: Privileges) -> impl Iterator<Item = &'static str> {
    granted.without(Privilege::GrantOption).iter().map(Privilege::name)
}

fn grantable(granted: Privileges) -> &'static str {
    if granted.has(Privilege::GrantOption) { "YES" } else { "NO" }
}
