//! `PREPARE`, `EXECUTE` and `DEALLOCATE PREPARE`: prepared statements in text.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// Names are in small letters, since case does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextPrepared {
    Prepare {
        name: String,
        source: PrepareSource,
    },
    /// `using` are user variables, one for each parameter.
    Execute {
        name: String,
        using: Vec<String>,
    },
    Deallocate {
        name: String,
    },
}

/// Where the text of a statement comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrepareSource {
    Text(String),
    /// A user variable, in small letters.
    Variable(String),
}

/// Reads what follows `PREPARE`, `EXECUTE`, or `DEALLOCATE` and `DROP`.
pub(super) fn parse(parser: &mut Parser, keyword: Keyword) -> Result<TextPrepared, ParserError> {
    match keyword {
        Keyword::PREPARE => {
            let name = name(parser)?;
            parser.expect_keyword(Keyword::FROM)?;
            let token = parser.peek_token().token;
            let source = match token {
                Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => {
                    parser.advance_token();
                    PrepareSource::Text(text)
                }
                _ => PrepareSource::Variable(variable(parser)?),
            };
            Ok(TextPrepared::Prepare { name, source })
        }
        Keyword::EXECUTE => {
            let name = name(parser)?;
            let mut using = vec![];
            if parser.parse_keyword(Keyword::USING) {
                using.push(variable(parser)?);
                while parser.consume_token(&Token::Comma) {
                    using.push(variable(parser)?);
                }
            }
            Ok(TextPrepared::Execute { name, using })
        }
        _ => {
            parser.expect_keyword(Keyword::PREPARE)?;
            Ok(TextPrepared::Deallocate { name: name(parser)? })
        }
    }
}

fn name(parser: &mut Parser) -> Result<String, ParserError> {
    Ok(parser.parse_identifier()?.value.to_lowercase())
}

/// `@name`. To the tokenizer `@` is a letter.
fn variable(parser: &mut Parser) -> Result<String, ParserError> {
    let token = parser.next_token();
    let name = match &token.token {
        Token::Word(word) if word.quote_style.is_none() => word.value.strip_prefix('@').unwrap_or_default(),
        _ => "",
    };
    match name {
        "" => parser.expected("a user variable", token),
        name if name.starts_with('@') => parser.expected("a user variable", token),
        name => Ok(name.to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SqlDialect, StatementKind, parse};
    use super::*;

    #[test]
    fn statements() {
        let (name, text) = (|| "s".to_owned(), |text: &str| PrepareSource::Text(text.to_owned()));
        for (sql, expected) in [
            ("PREPARE S FROM 'SELECT ?'", TextPrepared::Prepare { name: name(), source: text("SELECT ?") }),
            ("prepare s from \"a; b\"", TextPrepared::Prepare { name: name(), source: text("a; b") }),
            (
                "PREPARE `s` FROM @Q",
                TextPrepared::Prepare { name: name(), source: PrepareSource::Variable("q".into()) },
            ),
            ("EXECUTE s", TextPrepared::Execute { name: name(), using: vec![] }),
            ("EXECUTE s USING @a, @B", TextPrepared::Execute { name: name(), using: vec!["a".into(), "b".into()] }),
            ("DEALLOCATE PREPARE s", TextPrepared::Deallocate { name: name() }),
            ("DROP PREPARE s", TextPrepared::Deallocate { name: name() }),
        ] {
            let statements =
                parse(sql, SqlDialect::MySql { ansi_quotes: false }).unwrap_or_else(|e| panic!("{sql}: {e}"));
            assert!(matches!(&statements[0].kind, StatementKind::Prepared(it) if *it == expected), "{sql}");
        }
        for sql in ["PREPARE s", "PREPARE s FROM SELECT 1", "EXECUTE s USING 1", "EXECUTE s USING @@x", "DEALLOCATE s"]
        {
            assert!(parse(sql, SqlDialect::MySql { ansi_quotes: false }).is_err(), "{sql}");
        }
    }
}
