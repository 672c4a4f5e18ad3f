//! `LOAD DATA [LOCAL] INFILE`.

use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{Failure, StatementKind, StatementParser, ast};

#[derive(Debug, Clone)]
pub struct LoadData {
    pub file: String,
    /// The client has the file.
    pub is_local: bool,
    /// `IGNORE`: what does not fit is made to, with a warning.
    pub ignores_errors: bool,
    /// `REPLACE`, which changes nothing where there are no keys.
    pub replaces: bool,
    pub table: ObjectName,
    pub charset: Option<String>,
    pub format: LineFormat,
    pub lines_skipped: u64,
    /// Empty is all of the table's.
    pub columns: Vec<LoadColumn>,
    pub assignments: Vec<(Ident, Expr)>,
}

/// Where a field of a line goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadColumn {
    Column(Ident),
    /// `@name`, in small letters.
    Variable(String),
}

/// How fields and lines are told apart. MySQL's defaults are tabs, newlines and backslashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineFormat {
    pub field_end: String,
    pub enclosure: Option<u8>,
    pub escape: Option<u8>,
    pub line_start: String,
    pub line_end: String,
}

impl Default for LineFormat {
    fn default() -> Self {
        Self {
            field_end: "\t".to_owned(),
            enclosure: None,
            escape: Some(b'\\'),
            line_start: String::new(),
            line_end: "\n".to_owned(),
        }
    }
}

impl StatementParser<'_> {
    /// What follows `LOAD DATA`.
    pub(super) fn parse_load(&mut self) -> Result<StatementKind, Failure> {
        self.sql.expect_keyword_is(Keyword::LOAD)?;
        self.sql.expect_keyword_is(Keyword::DATA)?;
        let _ = self.consume_word("LOW_PRIORITY") || self.consume_word("CONCURRENT");
        let is_local = self.consume_word("LOCAL");
        self.expect_word("INFILE")?;
        let file = ast::parse_text(&mut self.sql)?;
        let replaces = self.consume_word("REPLACE");
        let ignores_errors = !replaces && self.consume_word("IGNORE");
        self.sql.expect_keyword_is(Keyword::INTO)?;
        self.sql.expect_keyword_is(Keyword::TABLE)?;
        let table = self.sql.parse_object_name(false)?;
        let mut charset = None;
        if self.sql.parse_keywords(&[Keyword::CHARACTER, Keyword::SET]) || self.consume_word("CHARSET") {
            charset = Some(match self.sql.next_token().token {
                Token::Word(word) => word.value,
                Token::SingleQuotedString(name) | Token::DoubleQuotedString(name) => name,
                _ => return Ok(self.sql.expected("a character set", self.sql.peek_token())?),
            });
        }
        let format = self.parse_line_format()?;
        let mut lines_skipped = 0;
        if self.consume_word("IGNORE") {
            lines_skipped = self.sql.parse_literal_uint()?;
            if !self.consume_word("LINES") {
                self.expect_word("ROWS")?;
            }
        }
        let mut columns = vec![];
        if self.sql.consume_token(&Token::LParen) && !self.sql.consume_token(&Token::RParen) {
            columns =
                self.sql.parse_comma_separated(|it| it.parse_identifier())?.into_iter().map(load_column).collect();
            self.sql.expect_token(&Token::RParen)?;
        }
        let mut assignments = vec![];
        if self.sql.parse_keyword(Keyword::SET) {
            loop {
                let column = self.sql.parse_identifier()?;
                self.sql.expect_token(&Token::Eq)?;
                let mut value = self.sql.parse_expr()?;
                self.settle(&mut value)?;
                assignments.push((column, value));
                if !self.sql.consume_token(&Token::Comma) {
                    break;
                }
            }
        }
        Ok(StatementKind::Load(Box::new(LoadData {
            file,
            is_local,
            ignores_errors,
            replaces,
            table,
            charset,
            format,
            lines_skipped,
            columns,
            assignments,
        })))
    }

    fn parse_line_format(&mut self) -> Result<LineFormat, Failure> {
        let mut format = LineFormat::default();
        if self.consume_word("FIELDS") || self.consume_word("COLUMNS") {
            loop {
                if self.consume_word("TERMINATED") {
                    format.field_end = self.parse_by()?;
                } else if self.consume_word("ENCLOSED") {
                    format.enclosure = self.parse_by_byte()?;
                } else if self.consume_word("OPTIONALLY") {
                    // How a field was written is seen when it is read.
                    self.expect_word("ENCLOSED")?;
                    format.enclosure = self.parse_by_byte()?;
                } else if self.consume_word("ESCAPED") {
                    format.escape = self.parse_by_byte()?;
                } else {
                    break;
                }
            }
        }
        if self.consume_word("LINES") {
            loop {
                if self.consume_word("STARTING") {
                    format.line_start = self.parse_by()?;
                } else if self.consume_word("TERMINATED") {
                    format.line_end = self.parse_by()?;
                } else {
                    break;
                }
            }
        }
        Ok(format)
    }

    fn parse_by(&mut self) -> Result<String, Failure> {
        self.sql.expect_keyword_is(Keyword::BY)?;
        Ok(ast::parse_text(&mut self.sql)?)
    }

    /// None for an empty text.
    fn parse_by_byte(&mut self) -> Result<Option<u8>, Failure> {
        let token = self.sql.peek_nth_token(1);
        let text = self.parse_by()?;
        match text.as_bytes() {
            [] => Ok(None),
            [byte] => Ok(Some(*byte)),
            _ => Ok(self.sql.expected("one character", token)?),
        }
    }
}

fn load_column(ident: Ident) -> LoadColumn {
    match ident.value.strip_prefix('@') {
        Some(name) if ident.quote_style.is_none() => LoadColumn::Variable(name.to_lowercase()),
        _ => LoadColumn::Column(ident),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SqlDialect, parse};
    use super::*;

    const MYSQL: SqlDialect = SqlDialect::MySql { ansi_quotes: false };

    fn load(sql: &str) -> LoadData {
        let statements = parse(sql, MYSQL).unwrap_or_else(|it| panic!("{sql}: {it}"));
        match statements.into_iter().next().map(|it| it.kind) {
            Some(StatementKind::Load(load)) => *load,
            other => panic!("{sql}: {other:?}"),
        }
    }

    #[test]
    fn every_clause_is_read() {
        let it = load(
            "LOAD DATA LOCAL INFILE '/tmp/a.csv' IGNORE INTO TABLE d.t CHARACTER SET latin1 FIELDS TERMINATED BY ';' \
             OPTIONALLY ENCLOSED BY '\"' ESCAPED BY '' LINES STARTING BY '>>' TERMINATED BY '\\r\\n' IGNORE 2 LINES \
             (a, @B, `@c`) SET d = @b + 1, e = DEFAULT",
        );
        assert_eq!((it.file.as_str(), it.is_local, it.ignores_errors, it.replaces), ("/tmp/a.csv", true, true, false));
        assert_eq!((it.table.to_string().as_str(), it.charset.as_deref()), ("d.t", Some("latin1")));
        let format = LineFormat {
            field_end: ";".into(),
            enclosure: Some(b'"'),
            escape: None,
            line_start: ">>".into(),
            line_end: "\r\n".into(),
        };
        assert_eq!((it.format, it.lines_skipped), (format, 2));
        assert!(matches!(&it.columns[0], LoadColumn::Column(ident) if ident.value == "a"));
        assert_eq!(it.columns[1], LoadColumn::Variable("b".into()));
        assert!(matches!(&it.columns[2], LoadColumn::Column(ident) if ident.value == "@c"));
        assert_eq!(it.assignments.len(), 2);
    }

    #[test]
    fn what_is_not_said_is_mysqls_default() {
        let it = load("load data infile 'x' into table t");
        assert_eq!((it.is_local, it.format, it.lines_skipped), (false, LineFormat::default(), 0));
        assert!(it.columns.is_empty() && it.assignments.is_empty());
        assert!(load("LOAD DATA LOW_PRIORITY INFILE 'x' REPLACE INTO TABLE t ()").replaces);
        for wrong in [
            "LOAD DATA INFILE x INTO TABLE t",
            "LOAD DATA INFILE 'x' INTO t",
            "LOAD DATA INFILE 'x' INTO TABLE t FIELDS ENCLOSED BY 'ab'",
            "LOAD DATA INFILE 'x' INTO TABLE t IGNORE LINES",
            "LOAD DATA INFILE 'x' INTO TABLE t SET a",
        ] {
            assert!(parse(wrong, MYSQL).is_err(), "{wrong}");
        }
    }
}
