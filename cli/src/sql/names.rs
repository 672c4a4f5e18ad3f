//! What the shell completes: keywords, functions, databases, tables and columns, and the order in which they are offered.

use std::collections::HashSet;

use super::backend::Names;
use super::text::{Token, TokenKind, tokens};

/// Words of SQL that the shell colours and completes. Not all that the parser reserves: `name` and `value` are columns
/// more often than keywords.
pub const KEYWORDS: &[&str] = &[
    "ALL",
    "ALTER",
    "ANALYZE",
    "AND",
    "ANTI",
    "ANY",
    "ARRAY",
    "AS",
    "ASC",
    "AVRO",
    "BEGIN",
    "BETWEEN",
    "BIGINT",
    "BINARY",
    "BOOLEAN",
    "BY",
    "CASE",
    "CAST",
    "CHAR",
    "CLUSTER",
    "COLUMNS",
    "COMMIT",
    "COPY",
    "CREATE",
    "CROSS",
    "CSV",
    "CUBE",
    "CURRENT",
    "DATABASE",
    "DATABASES",
    "DATE",
    "DECIMAL",
    "DEFAULT",
    "DELETE",
    "DELTA",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "DOUBLE",
    "DRAIN",
    "DROP",
    "ELSE",
    "END",
    "ENGINE",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "EXTERNAL",
    "EXTRACT",
    "FALSE",
    "FILTER",
    "FIRST",
    "FLOAT",
    "FOLLOWING",
    "FOR",
    "FORMAT",
    "FROM",
    "FULL",
    "FUNCTIONS",
    "GLOBAL",
    "GRANT",
    "GRANTS",
    "GRAPH",
    "GROUP",
    "GROUPING",
    "HAVING",
    "IF",
    "IN",
    "INNER",
    "INSERT",
    "INT",
    "INTEGER",
    "INTERSECT",
    "INTERVAL",
    "INTO",
    "IS",
    "JOIN",
    "JSON",
    "KEY",
    "KILL",
    "LAST",
    "LATERAL",
    "LEFT",
    "LIKE",
    "LIMIT",
    "LOCATION",
    "LOGICAL",
    "MERGE",
    "NATURAL",
    "NODE",
    "NOT",
    "NULL",
    "NULLS",
    "OFFSET",
    "ON",
    "OPTIMIZE",
    "OPTIONS",
    "OR",
    "ORDER",
    "OUTER",
    "OVER",
    "PARQUET",
    "PARTITION",
    "PARTITIONED",
    "PRECEDING",
    "PRIMARY",
    "PROCESSLIST",
    "QUERY",
    "RANGE",
    "RECURSIVE",
    "REFRESH",
    "RENAME",
    "REPLACE",
    "REVOKE",
    "RIGHT",
    "ROLLBACK",
    "ROLLUP",
    "ROW",
    "ROWS",
    "SELECT",
    "SEMI",
    "SESSION",
    "SET",
    "SETS",
    "SETTINGS",
    "SHOW",
    "SMALLINT",
    "STATUS",
    "STORED",
    "STRUCT",
    "TABLE",
    "TABLES",
    "TEXT",
    "THEN",
    "THROUGH",
    "TIME",
    "TIMESTAMP",
    "TINYINT",
    "TO",
    "TRUE",
    "TRUNCATE",
    "UNBOUNDED",
    "UNION",
    "UNNEST",
    "UNSIGNED",
    "UPDATE",
    "USE",
    "USER",
    "USING",
    "VACUUM",
    "VALUES",
    "VARCHAR",
    "VARIABLES",
    "VIEW",
    "WARNINGS",
    "WHEN",
    "WHERE",
    "WINDOW",
    "WITH",
    "WITHIN",
];

pub fn is_keyword(word: &str) -> bool {
    KEYWORDS.binary_search_by(|it| (*it).cmp(word.to_ascii_uppercase().as_str())).is_ok()
}

/// What may stand at the cursor, and where the word begins that it replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    pub start: usize,
    pub words: Vec<String>,
}

/// After these a table is named.
const BEFORE_TABLE: &[&str] =
    &["FROM", "JOIN", "INTO", "TABLE", "UPDATE", "DESCRIBE", "DESC", "TRUNCATE", "OPTIMIZE", "VACUUM"];
const BEFORE_DATABASE: &[&str] = &["USE", "DATABASE", "SCHEMA"];

/// What fits at the end of `text`, the most likely first.
pub fn candidates(text: &str, names: &Names, database: Option<&str>) -> Candidates {
    let mut tokens = tokens(text);
    if tokens.last().is_some_and(|it| !it.is_closed || it.kind == TokenKind::Comment && it.end == text.len()) {
        // Within a string or a comment.
        return Candidates { start: text.len(), words: Vec::new() };
    }
    tokens.retain(|it| !matches!(it.kind, TokenKind::Space | TokenKind::Comment));
    let is_name = |it: &Token| matches!(it.kind, TokenKind::Word | TokenKind::QuotedName);
    let at_end = |it: &Token| it.end == text.len();
    let word = tokens.last().filter(|it| it.kind == TokenKind::Word && at_end(it));
    let start = word.map_or(text.len(), |it| it.start);
    let typed = &text[start..];
    let before = &tokens[..tokens.len() - usize::from(word.is_some())];

    let mut words = Vec::new();
    let mut offer = |found: &mut dyn Iterator<Item = &str>| words.extend(found.map(str::to_owned));
    let tables_of = |database: &str, offer: &mut dyn FnMut(&mut dyn Iterator<Item = &str>)| {
        let mut of = names.columns.iter().filter(|it| it[0].eq_ignore_ascii_case(database)).map(|it| it[1].as_str());
        offer(&mut of);
    };
    // `owner.` before the word: a table's columns, or a database's tables.
    if let [.., owner, dot] = before
        && is_name(owner)
        && &text[dot.start..dot.end] == "."
    {
        let owner = name_of(text, owner);
        let aliased = sources(text, &tokens).into_iter().find(|(_, alias)| alias.eq_ignore_ascii_case(&owner));
        let table = aliased.map_or(owner.clone(), |(table, _)| table);
        let mut columns = names.columns.iter().filter(|it| it[1].eq_ignore_ascii_case(&table)).map(|it| it[2].as_str());
        offer(&mut columns);
        tables_of(&owner, &mut offer);
    } else {
        let last = before.last().map(|it| text[it.start..it.end].to_ascii_uppercase()).unwrap_or_default();
        if BEFORE_DATABASE.contains(&last.as_str()) {
            offer(&mut names.databases.iter().map(String::as_str));
        } else if BEFORE_TABLE.contains(&last.as_str()) {
            tables_of(database.unwrap_or_default(), &mut offer);
            offer(&mut names.databases.iter().map(String::as_str));
        } else {
            let used: Vec<String> = sources(text, &tokens).into_iter().map(|(table, _)| table).collect();
            // Before FROM is typed, any table of the database may be meant.
            let here = |it: &[String; 3]| database.is_some_and(|name| it[0].eq_ignore_ascii_case(name));
            let is_used = |it: &[String; 3]| used.iter().any(|table| it[1].eq_ignore_ascii_case(table));
            let fits = |it: &&[String; 3]| if used.is_empty() { here(it) } else { is_used(it) };
            offer(&mut names.columns.iter().filter(fits).map(|it| it[2].as_str()));
            offer(&mut KEYWORDS.iter().copied());
            offer(&mut names.functions.iter().map(String::as_str));
            tables_of(database.unwrap_or_default(), &mut offer);
            offer(&mut names.databases.iter().map(String::as_str));
        }
    }

    let mut seen = HashSet::new();
    let fits = |word: &String| {
        word.len() > typed.len() && word.get(..typed.len()).is_some_and(|it| it.eq_ignore_ascii_case(typed))
    };
    words.retain(|word| fits(word) && seen.insert(word.to_ascii_lowercase()));
    // Keywords follow what was typed so far.
    let is_lower = typed.chars().next().is_some_and(char::is_lowercase);
    for word in words.iter_mut().filter(|word| is_lower && is_keyword(word)) {
        word.make_ascii_lowercase();
    }
    Candidates { start, words }
}

fn name_of(text: &str, token: &Token) -> String {
    text[token.start..token.end].trim_matches('`').to_owned()
}

/// The tables that the text names after FROM and JOIN, each with what it is called there.
fn sources(text: &str, tokens: &[Token]) -> Vec<(String, String)> {
    let upper =
        |n: usize| tokens.get(n).map(|it: &Token| text[it.start..it.end].to_ascii_uppercase()).unwrap_or_default();
    let name = |n: usize| {
        let token = tokens.get(n).filter(|it| matches!(it.kind, TokenKind::Word | TokenKind::QuotedName))?;
        Some(name_of(text, token)).filter(|it| token.kind == TokenKind::QuotedName || !is_keyword(it))
    };
    let mut found = Vec::new();
    let mut in_from = false;
    for n in 0..tokens.len() {
        let word = upper(n);
        match word.as_str() {
            "FROM" | "JOIN" | "UPDATE" | "INTO" => in_from = true,
            "," => {}
            "WHERE" | "GROUP" | "ORDER" | "HAVING" | "LIMIT" | "SELECT" | "ON" | "SET" => in_from = false,
            _ => continue,
        }
        if !in_from {
            continue;
        }
        let Some(mut table) = name(n + 1) else { continue };
        let mut next = n + 2;
        if upper(next) == "."
            && let Some(inner) = name(next + 1)
        {
            table = inner;
            next += 2;
        }
        next += usize::from(upper(next) == "AS");
        let alias = name(next).unwrap_or_else(|| table.clone());
        found.push((table, alias));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let column = |database: &str, table: &str, name: &str| [database.to_owned(), table.to_owned(), name.to_owned()];
        Names {
            databases: vec!["default".to_owned(), "tpch".to_owned()],
            columns: vec![
                column("tpch", "lineitem", "l_orderkey"),
                column("tpch", "lineitem", "l_tax"),
                column("tpch", "orders", "o_orderkey"),
                column("default", "trips", "distance"),
            ],
            functions: vec!["sum".to_owned(), "substr".to_owned()],
        }
    }

    fn at(text: &str) -> Vec<String> {
        candidates(text, &names(), Some("tpch")).words
    }

    #[test]
    fn keywords_are_sorted_for_the_search() {
        assert!(KEYWORDS.is_sorted());
        assert!(is_keyword("select") && is_keyword("WITH") && !is_keyword("selec"));
    }

    #[test]
    fn what_fits_where_the_cursor_is() {
        assert_eq!(at("SELECT * FROM li"), ["lineitem"]);
        assert_eq!(at("SELECT * FROM tpch."), ["lineitem", "orders"]);
        assert_eq!(at("SELECT * FROM default.tr"), ["trips"]);
        assert_eq!(at("USE t"), ["tpch"]);
        assert_eq!(at("sel"), ["select"]);
        assert_eq!(at("SEL"), ["SELECT"]);
        assert_eq!(at("SELECT * FROM lineitem l JOIN orders AS o ON l.l_o"), ["l_orderkey"]);
        assert_eq!(at("SELECT * FROM lineitem l JOIN orders AS o ON o."), ["o_orderkey"]);
        assert_eq!(at("SELECT * FROM lineitem WHERE l_"), ["l_orderkey", "l_tax"]);
        assert_eq!(at("SELECT sub"), ["substr"]);
        assert_eq!(at("SELECT l_t"), ["l_tax"]);
        assert!(at("SELECT 'fro").is_empty(), "nothing within a string");
        assert!(at("SELECT 1 -- fro").is_empty(), "nor in a comment");
    }

    #[test]
    fn the_word_is_replaced_from_its_start() {
        assert_eq!(candidates("SELECT l.ü, li", &names(), None).start, "SELECT l.ü, ".len());
        assert_eq!(candidates("", &names(), None).start, 0);
    }
}
