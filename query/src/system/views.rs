//! `information_schema.VIEWS`.

use sheaf_common::WireError;

use super::cells::{Row, row};
use super::own::all_tables;
use crate::access::{Privilege, Rights};
use crate::catalog::CATALOG;
use crate::catalog::provider::Tables;

/// What a view is made of is told to those only who may show it; without rights, to all.
pub(super) fn rows(tables: &Tables, rights: Option<&Rights>) -> Result<Vec<Row>, WireError> {
    let views = all_tables(tables)?.into_iter().filter_map(|it| it.view.map(|view| (it.database, view)));
    Ok(views
        .map(|(database, view)| {
            let may_show = |it: &Rights| it.on_table(&database, &view.name).has(Privilege::ShowView);
            let query = if rights.is_none_or(may_show) { view.query.clone() } else { String::new() };
            row![
                CATALOG,
                database,
                view.name.clone(),
                query,
                "NONE",
                "NO",
                view.definer.clone(),
                view.security.name(),
                "utf8mb4",
                "utf8mb4_0900_ai_ci",
            ]
        })
        .collect())
}
