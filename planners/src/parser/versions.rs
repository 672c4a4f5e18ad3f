//! `t VERSION AS OF 3` and `t TIMESTAMP AS OF '2024-01-01'`: sqlparser reads them in no dialect of ours.
//!
//! The clause becomes part of the table's name before parsing, and [`VersionClause::split`] takes it off again when
//! the name is looked up. Positions stay true, since the name's token begins where it did and ends behind the clause.

use std::fmt;

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

const VERSION: &str = " VERSION AS OF ";
const TIMESTAMP: &str = " TIMESTAMP AS OF ";

/// Which state of a table a FROM clause asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionClause {
    Version(u64),
    /// As it was written; what it means depends on the session's time zone.
    Timestamp(String),
}

impl VersionClause {
    /// A name as the parser left it: the table's own, and the clause behind it if there was one.
    pub fn split(name: &str) -> (&str, Option<Self>) {
        if let Some((table, version)) = name.rsplit_once(VERSION)
            && let Ok(version) = version.parse()
        {
            return (table, Some(Self::Version(version)));
        }
        match name.rsplit_once(TIMESTAMP) {
            Some((table, text)) => (table, Some(Self::Timestamp(text.to_owned()))),
            None => (name, None),
        }
    }
}

impl fmt::Display for VersionClause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "{VERSION}{version}"),
            Self::Timestamp(text) => write!(f, "{TIMESTAMP}{text}"),
        }
    }
}

/// Moves each clause into the name before it. The tokens of the clause go.
pub(super) fn fold(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is_of = |at: usize| is_word(&tokens, at, "OF");
    // Nearly every statement ends here.
    if !(0..tokens.len()).any(is_of) {
        return tokens;
    }
    let text: Vec<usize> = (0..tokens.len()).filter(|&at| !matches!(tokens[at].token, Token::Whitespace(_))).collect();
    let mut folded = tokens.clone();
    let mut dropped = vec![false; tokens.len()];
    for window in text.windows(5) {
        let &[name, kind, word_as, word_of, value] = window else { continue };
        if !is_word(&tokens, word_as, "AS") || !is_word(&tokens, word_of, "OF") {
            continue;
        }
        let clause = match &tokens[value].token {
            Token::Number(text, _) if is_word(&tokens, kind, "VERSION") => {
                text.parse().ok().map(VersionClause::Version)
            }
            Token::SingleQuotedString(text) | Token::DoubleQuotedString(text)
                if is_word(&tokens, kind, "TIMESTAMP") =>
            {
                Some(VersionClause::Timestamp(text.clone()))
            }
            _ => None,
        };
        let named = match &tokens[name].token {
            // Quoted, since no other name may hold blanks.
            Token::Word(Word { value, quote_style, .. }) => Some((value, quote_style.unwrap_or('`'))),
            Token::SingleQuotedString(value) => Some((value, '`')),
            _ => None,
        };
        let (Some(clause), Some((table, quote))) = (clause, named) else { continue };
        folded[name].token = Token::make_word(&format!("{table}{clause}"), Some(quote));
        // A statement's text ends where its last token does.
        folded[name].span.end = tokens[value].span.end;
        dropped[kind..=value].fill(true);
    }
    let mut dropped = dropped.into_iter();
    folded.retain(|_| !dropped.next().unwrap_or(false));
    folded
}

fn is_word(tokens: &[TokenWithSpan], at: usize, text: &str) -> bool {
    matches!(&tokens[at].token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::super::{SqlDialect, StatementKind, parse};
    use super::*;

    fn query(sql: &str, dialect: SqlDialect) -> String {
        match &parse(sql, dialect).unwrap()[0].kind {
            StatementKind::Query(query) => query.query.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn clauses_become_part_of_the_name() {
        let mysql = SqlDialect::MySql { ansi_quotes: false };
        for dialect in [mysql, SqlDialect::Ansi] {
            assert_eq!(query("SELECT a FROM t VERSION AS OF 3 x", dialect), "SELECT a FROM `t VERSION AS OF 3` x");
            assert_eq!(
                query("SELECT a FROM d.t /* c */ timestamp as of '2024-01-01' WHERE a = 1", dialect),
                "SELECT a FROM d.`t TIMESTAMP AS OF 2024-01-01` WHERE a = 1"
            );
            assert_eq!(query("SELECT a version FROM t version", dialect), "SELECT a AS version FROM t version");
        }
        for wrong in ["SELECT a FROM t VERSION AS OF", "SELECT a FROM t VERSION AS OF 'x'", "SELECT a FROM t AS OF 3"] {
            assert!(parse(wrong, mysql).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_statement_s_text_has_its_clause() {
        for sql in ["SELECT a FROM t VERSION AS OF 3", "SELECT a FROM t TIMESTAMP AS OF '2024-01-01'"] {
            assert_eq!(*parse(sql, SqlDialect::Ansi).unwrap()[0].text, *sql);
        }
    }

    #[test]
    fn names_are_taken_apart_again() {
        assert_eq!(VersionClause::split("t VERSION AS OF 3"), ("t", Some(VersionClause::Version(3))));
        let at = VersionClause::Timestamp("2024-01-01 00:00:00".to_owned());
        assert_eq!(VersionClause::split(&format!("a b{at}")), ("a b", Some(at)));
        assert_eq!(VersionClause::split("t"), ("t", None));
        assert_eq!(VersionClause::split("t VERSION AS OF x"), ("t VERSION AS OF x", None));
    }
}
