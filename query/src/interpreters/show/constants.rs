//! What `SHOW` answers for things that are the same on every server of this version, or never there.

use sheaf_planners::parser::NothingToShow;

use super::columns_of;
use crate::access::{Level, Privilege};
use crate::interpreters::rows::Rows;
use crate::variables::character_sets;

fn filled(columns: &[&str], lines: &[&[&str]]) -> Rows {
    let mut rows = Rows::new(columns);
    for line in lines {
        rows.push(line.iter().map(|it| Some((*it).to_owned())).collect());
    }
    rows
}

pub(super) fn engines() -> Rows {
    let columns = ["Engine", "Support", "Comment", "Transactions", "XA", "Savepoints"];
    filled(
        &columns,
        &[
            &["SHEAF", "DEFAULT", "Tables over files in open formats", "NO", "NO", "NO"],
            &["TPCH", "YES", "Generated tables of the TPC-H benchmark", "NO", "NO", "NO"],
            &["SYSTEM", "YES", "Tables that show the server itself", "NO", "NO", "NO"],
        ],
    )
}

pub(super) fn charsets() -> Rows {
    let mut rows = Rows::new(&["Charset", "Description", "Default collation", "#Maxlen"]);
    for (name, collation, n_bytes) in character_sets() {
        let text = |it: &str| Some(it.to_owned());
        rows.push(vec![text(name), text(name), text(collation), Some(n_bytes.to_string())]);
    }
    rows
}

pub(super) fn collations() -> Rows {
    let columns = ["Collation", "Charset", "#Id", "Default", "Compiled", "#Sortlen", "Pad_attribute"];
    filled(
        &columns,
        &[
            &["ascii_general_ci", "ascii", "11", "Yes", "Yes", "1", "PAD SPACE"],
            &["binary", "binary", "63", "Yes", "Yes", "1", "NO PAD"],
            &["latin1_swedish_ci", "latin1", "8", "Yes", "Yes", "1", "PAD SPACE"],
            &["utf8mb3_general_ci", "utf8mb3", "33", "Yes", "Yes", "1", "PAD SPACE"],
            &["utf8mb4_0900_ai_ci", "utf8mb4", "255", "Yes", "Yes", "0", "NO PAD"],
            &["utf8mb4_bin", "utf8mb4", "46", "", "Yes", "1", "PAD SPACE"],
            &["utf8mb4_general_ci", "utf8mb4", "45", "", "Yes", "1", "PAD SPACE"],
            &["utf8mb4_unicode_ci", "utf8mb4", "224", "", "Yes", "8", "PAD SPACE"],
        ],
    )
}

pub(super) fn plugins() -> Rows {
    let columns = ["Name", "Status", "Type", "Library", "License"];
    let mut rows = Rows::new(&columns);
    for (name, kind) in [("mysql_native_password", "AUTHENTICATION"), ("SHEAF", "STORAGE ENGINE")] {
        let text = |it: &str| Some(it.to_owned());
        rows.push(vec![text(name), text("ACTIVE"), text(kind), None, text("Apache-2.0")]);
    }
    rows
}

pub(super) fn indexes() -> Rows {
    Rows::new(&[
        "Table",
        "#Non_unique",
        "Key_name",
        "#Seq_in_index",
        "Column_name",
        "Collation",
        "#Cardinality",
        "#Sub_part",
        "Packed",
        "Null",
        "Index_type",
        "Comment",
        "Index_comment",
        "Visible",
        "Expression",
    ])
}

/// All privileges that can be granted, and on what.
pub(super) fn privileges() -> Rows {
    let mut rows = Rows::new(columns_of(NothingToShow::Privileges));
    for privilege in Privilege::ALL {
        let context = match privilege.level() {
            Level::Global => "Server Admin",
            Level::Database => "Databases",
            Level::Table | Level::Column => "Databases,Tables",
        };
        // As MySQL writes them: the first letter large, dynamic ones as they are.
        let name = match privilege.is_dynamic() {
            true => privilege.name().to_owned(),
            false => privilege.name()[..1].to_owned() + &privilege.name()[1..].to_lowercase(),
        };
        rows.push(vec![Some(name), Some(context.to_owned()), Some(String::new())]);
    }
    rows
}

pub(super) fn nothing(kind: NothingToShow) -> Rows {
    Rows::new(columns_of(kind))
}
