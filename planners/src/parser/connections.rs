//! `CREATE CONNECTION` and `DROP CONNECTION`: options of object stores, their keys above all, kept under a name.

use std::fmt;

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

#[derive(Clone, PartialEq, Eq)]
pub enum ConnectionStatement {
    Create {
        name: String,
        /// In order. Hold secrets.
        options: Vec<(String, String)>,
        if_not_exists: bool,
        or_replace: bool,
    },
    Drop {
        name: String,
        if_exists: bool,
    },
}

/// Without the options' values.
impl fmt::Debug for ConnectionStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { name, options, .. } => {
                let names: Vec<&String> = options.iter().map(|it| &it.0).collect();
                f.debug_struct("Create").field("name", name).field("options", &names).finish_non_exhaustive()
            }
            Self::Drop { name, if_exists } => {
                f.debug_struct("Drop").field("name", name).field("if_exists", if_exists).finish()
            }
        }
    }
}

/// Whether the statement at hand, of which `CREATE` or `DROP` comes next, is one of these.
pub(super) fn is_next(sql: &Parser<'_>) -> bool {
    let is_word = |n: usize, word: &str| {
        matches!(&sql.peek_nth_token_ref(n).token,
            Token::Word(it) if it.quote_style.is_none() && it.value.eq_ignore_ascii_case(word))
    };
    is_word(1, "CONNECTION") || is_word(1, "OR") && is_word(2, "REPLACE") && is_word(3, "CONNECTION")
}

/// Reads one of these.
pub(super) fn parse(sql: &mut Parser<'_>) -> Result<ConnectionStatement, ParserError> {
    if sql.parse_keyword(Keyword::DROP) {
        sql.advance_token();
        let if_exists = sql.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
        return Ok(ConnectionStatement::Drop { name: name(sql)?, if_exists });
    }
    sql.expect_keyword(Keyword::CREATE)?;
    let or_replace = sql.parse_keywords(&[Keyword::OR, Keyword::REPLACE]);
    sql.advance_token();
    let if_not_exists = !or_replace && sql.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = name(sql)?;
    sql.expect_keyword(Keyword::OPTIONS)?;
    sql.expect_token(&Token::LParen)?;
    let options = sql.parse_comma_separated(option)?;
    sql.expect_token(&Token::RParen)?;
    Ok(ConnectionStatement::Create { name, options, if_not_exists, or_replace })
}

fn name(sql: &mut Parser<'_>) -> Result<String, ParserError> {
    Ok(sql.parse_identifier()?.value)
}

/// `'s3.region' 'here'`, as in `CREATE EXTERNAL TABLE`; the name may be a word or words with dots, and a `=` may stand in
/// between.
fn option(sql: &mut Parser<'_>) -> Result<(String, String), ParserError> {
    let token = sql.next_token();
    let name = match token.token {
        Token::SingleQuotedString(name) | Token::DoubleQuotedString(name) => name,
        Token::Word(word) => {
            let mut name = word.value;
            while sql.consume_token(&Token::Period) {
                name = format!("{name}.{}", sql.parse_identifier()?.value);
            }
            name
        }
        _ => return sql.expected("the name of an option", token),
    };
    let _ = sql.consume_token(&Token::Eq);
    let token = sql.next_token();
    let value = match token.token {
        Token::SingleQuotedString(value) | Token::DoubleQuotedString(value) => value,
        Token::Number(value, _) => value,
        Token::Word(word) => word.value,
        _ => return sql.expected("the value of an option", token),
    };
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::super::{SqlDialect, StatementKind, parse};
    use super::*;

    fn read(sql: &str) -> (String, ConnectionStatement) {
        let mut statements = parse(sql, SqlDialect::MySql { ansi_quotes: false }).unwrap();
        let statement = statements.remove(0);
        let StatementKind::Connection(connection) = statement.kind else { panic!("{sql}: {:?}", statement.kind) };
        (statement.text.to_string(), connection)
    }

    #[test]
    fn connections_are_read_and_their_secrets_not_shown() {
        let sql = "CREATE CONNECTION `my lake` OPTIONS ('s3.region' 'here', s3.secret_access_key = 'hu''sh')";
        let (shown, statement) = read(sql);
        let options =
            vec![("s3.region".to_owned(), "here".to_owned()), ("s3.secret_access_key".to_owned(), "hu'sh".to_owned())];
        let name = "my lake".to_owned();
        assert!(!format!("{statement:?}").contains("hu'sh"));
        assert_eq!(statement, ConnectionStatement::Create { name, options, if_not_exists: false, or_replace: false });
        assert_eq!(shown, "CREATE CONNECTION `my lake` OPTIONS ('s3.region' 'here', s3.secret_access_key = '***')");
        for (sql, expected) in [
            ("create connection if not exists c options (a 1)", (true, false)),
            ("create or replace connection c options ('a' '1')", (false, true)),
        ] {
            let ConnectionStatement::Create { name, options, if_not_exists, or_replace } = read(sql).1 else {
                panic!("{sql}")
            };
            assert_eq!((name.as_str(), (if_not_exists, or_replace)), ("c", expected), "{sql}");
            assert_eq!(options, [("a".to_owned(), "1".to_owned())], "{sql}");
        }
        let drop = |if_exists| ConnectionStatement::Drop { name: "c".to_owned(), if_exists };
        assert_eq!((read("DROP CONNECTION c").1, read("DROP CONNECTION IF EXISTS c;").1), (drop(false), drop(true)));
    }

    #[test]
    fn what_is_no_connection_is_refused() {
        for sql in [
            "CREATE CONNECTION c",
            "CREATE CONNECTION c OPTIONS ()",
            "CREATE CONNECTION c OPTIONS ('a')",
            "CREATE OR REPLACE CONNECTION IF NOT EXISTS c OPTIONS ('a' 'b')",
            "CREATE CONNECTION c OPTIONS ('a' 'b') x",
            "DROP CONNECTION",
        ] {
            assert!(parse(sql, SqlDialect::MySql { ansi_quotes: false }).is_err(), "{sql}");
        }
    }
}
