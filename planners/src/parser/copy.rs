//! `COPY (query) | t TO 'path' …` and `COPY INTO t FROM 'path' …`.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::table::TableStatement;
use super::{Failure, QueryStatement, StatementParser, ast, is_secret_name};

/// Writes rows into files that are no table of ours.
#[derive(Debug, Clone)]
pub struct CopyTo {
    pub query: QueryStatement,
    pub location: String,
    /// None goes by the location's name.
    pub format: Option<String>,
    pub partition_by: Vec<Ident>,
    /// By their names in small letters.
    pub options: BTreeMap<String, String>,
}

/// Reads files into a table, each once.
#[derive(Debug, Clone)]
pub struct CopyInto {
    pub table: ObjectName,
    /// Those of the files' columns, in their order; empty goes by their names.
    pub columns: Vec<ObjectName>,
    pub location: String,
    pub format: Option<String>,
    pub options: BTreeMap<String, String>,
}

impl StatementParser<'_> {
    /// The word COPY is still to be read.
    pub(super) fn parse_copy(&mut self) -> Result<TableStatement, Failure> {
        self.sql.expect_keyword_is(Keyword::COPY)?;
        if self.sql.parse_keyword(Keyword::INTO) {
            return Ok(TableStatement::CopyInto(Box::new(self.parse_copy_into()?)));
        }
        let query = match self.sql.peek_token_ref().token {
            Token::LParen => {
                self.sql.advance_token();
                let query = self.parse_query()?;
                self.sql.expect_token(&Token::RParen)?;
                query
            }
            _ => {
                let table = self.sql.parse_object_name(false)?;
                self.all_rows_of(table)?
            }
        };
        self.sql.expect_keyword_is(Keyword::TO)?;
        let location = ast::parse_text(&mut self.sql)?;
        let (mut format, mut partition_by, mut options) = (None, vec![], BTreeMap::new());
        loop {
            if self.parse_format(&mut format)? || self.parse_copy_options(&mut options)? {
                continue;
            }
            match self.sql.parse_keywords(&[Keyword::PARTITIONED, Keyword::BY]) {
                true => partition_by = self.parse_names()?,
                false => {
                    return Ok(TableStatement::CopyTo(Box::new(CopyTo {
                        query,
                        location,
                        format,
                        partition_by,
                        options,
                    })));
                }
            }
        }
    }

    fn parse_copy_into(&mut self) -> Result<CopyInto, Failure> {
        let table = self.sql.parse_object_name(false)?;
        let mut columns = vec![];
        if self.sql.consume_token(&Token::LParen) {
            columns = self.sql.parse_comma_separated(|it| it.parse_object_name(false))?;
            self.sql.expect_token(&Token::RParen)?;
        }
        self.sql.expect_keyword_is(Keyword::FROM)?;
        let location = ast::parse_text(&mut self.sql)?;
        let (mut format, mut options) = (None, BTreeMap::new());
        while self.parse_format(&mut format)? || self.parse_copy_options(&mut options)? {}
        Ok(CopyInto { table, columns, location, format, options })
    }

    /// `SELECT * FROM t`.
    fn all_rows_of(&self, table: ObjectName) -> Result<QueryStatement, Failure> {
        use datafusion::sql::sqlparser::ast::{SetExpr, TableFactor};
        use datafusion::sql::sqlparser::parser::Parser;
        let mut query = Parser::new(self.dialect).try_with_sql("SELECT * FROM t")?.parse_query()?;
        if let SetExpr::Select(select) = query.body.as_mut() {
            for from in &mut select.from {
                if let TableFactor::Table { name, .. } = &mut from.relation {
                    *name = table.clone();
                }
            }
        }
        Ok(QueryStatement { query, names: vec![super::OutputName::Wildcard], has_equal_items: false })
    }

    /// `STORED AS name`, `FILE_FORMAT = name`.
    fn parse_format(&mut self, format: &mut Option<String>) -> Result<bool, Failure> {
        if self.consume_word("FILE_FORMAT") {
            let _ = self.sql.consume_token(&Token::Eq);
        } else if !self.sql.parse_keywords(&[Keyword::STORED, Keyword::AS]) {
            return Ok(false);
        }
        if format.is_some() {
            return Ok(self.sql.expected("one format", self.sql.peek_token())?);
        }
        *format = Some(self.sql.parse_identifier()?.value);
        Ok(true)
    }

    /// `OPTIONS ('name' 'value', name = value, …)`.
    fn parse_copy_options(&mut self, options: &mut BTreeMap<String, String>) -> Result<bool, Failure> {
        if !self.consume_word("OPTIONS") {
            return Ok(false);
        }
        self.sql.expect_token(&Token::LParen)?;
        loop {
            let name = self.parse_option_name()?;
            let _ = self.sql.consume_token(&Token::Eq);
            let token = self.sql.next_token();
            let value = match token.token {
                Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) | Token::Number(text, _) => text,
                // What is shown of the statement leaves out texts alone.
                Token::Word(word) if !is_secret_name(&name) => word.value,
                _ => return Ok(self.sql.expected("the value of an option in quotes", token)?),
            };
            if options.insert(name, value).is_some() {
                return Ok(self.sql.expected("each option once", self.sql.peek_token())?);
            }
            if !self.sql.consume_token(&Token::Comma) {
                break;
            }
        }
        self.sql.expect_token(&Token::RParen)?;
        Ok(true)
    }

    fn parse_option_name(&mut self) -> Result<String, Failure> {
        let mut name = String::new();
        loop {
            let token = self.sql.next_token();
            match token.token {
                Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => name += &text,
                Token::Word(word) => name += &word.value,
                _ => return Ok(self.sql.expected("the name of an option", token)?),
            }
            if !self.sql.consume_token(&Token::Period) {
                return Ok(name.to_ascii_lowercase());
            }
            name.push('.');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SqlDialect, StatementKind, parse};
    use super::*;

    fn copy(sql: &str) -> TableStatement {
        let mut statements =
            parse(sql, SqlDialect::MySql { ansi_quotes: false }).unwrap_or_else(|it| panic!("{sql}: {it}"));
        match statements.pop().map(|it| it.kind) {
            Some(StatementKind::Table(statement)) => *statement,
            other => panic!("{sql}: {other:?}"),
        }
    }

    #[test]
    fn rows_go_to_files() {
        let sql = "COPY (SELECT a, b FROM t WHERE a > 1) TO '/x/y' STORED AS CSV PARTITIONED BY (b) \
                   OPTIONS ('header' 'false', s3.region = here, delimiter ';')";
        let TableStatement::CopyTo(to) = copy(sql) else { panic!() };
        assert_eq!((to.location.as_str(), to.format.as_deref(), to.partition_by.len()), ("/x/y", Some("CSV"), 1));
        assert_eq!(to.options["s3.region"], "here");
        let TableStatement::CopyTo(to) = copy("copy d.t to 'x.parquet'") else { panic!() };
        assert_eq!(to.query.query.to_string(), "SELECT * FROM d.t");
        assert!(to.format.is_none());
    }

    #[test]
    fn files_go_into_tables() {
        let sql = "COPY INTO d.t (a, b) FROM 's3://b/*.csv' FILE_FORMAT = CSV OPTIONS (on_error 'continue', 's3.secret' 'hush')";
        let TableStatement::CopyInto(into) = copy(sql) else { panic!() };
        assert_eq!((into.table.to_string().as_str(), into.columns.len()), ("d.t", 2));
        assert_eq!(into.options["on_error"], "continue");
        let text = parse(sql, SqlDialect::Ansi).unwrap()[0].text.to_string();
        assert!(!text.contains("hush"), "{text}");
        for sql in
            ["COPY t", "COPY INTO t", "COPY INTO t FROM x", "COPY t TO 'x' STORED", "COPY t TO 'x' OPTIONS (a 1, a 2)"]
        {
            assert!(parse(sql, SqlDialect::MySql { ansi_quotes: false }).is_err(), "{sql}");
        }
    }
}
