//! Statements that make, change and tend managed tables.
//!
//! `INSERT`, `UPDATE`, `DELETE` and `MERGE` are read by sqlparser; the words around a table's columns, and statements
//! that other databases do not have, are read here.

use datafusion::sql::sqlparser::ast::{
    AlterTableOperation, ColumnDef, Delete, Expr, Ident, Insert, Merge, ObjectName, Query, Statement as SqlStatement,
    TableConstraint, Truncate, Update,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{CopyInto, CopyTo, Failure, StatementKind, StatementParser, VersionClause};
use crate::error::PlanError;

/// One statement about a managed table.
#[derive(Debug, Clone)]
pub enum TableStatement {
    Create(Box<CreateTable>),
    Insert(Box<Insert>),
    Update(Box<Update>),
    Delete(Box<Delete>),
    Merge(Box<Merge>),
    Truncate(Vec<ObjectName>),
    /// `DESCRIBE HISTORY t`.
    History(ObjectName),
    /// `RESTORE [TABLE] t TO VERSION AS OF n | TIMESTAMP AS OF 't'`.
    Restore {
        table: ObjectName,
        to: VersionClause,
    },
    /// `OPTIMIZE [TABLE] t [ZORDER BY (a, b)]`.
    Optimize {
        table: ObjectName,
        z_order: Vec<Ident>,
        /// Not asked for by anybody: it ends when somebody wants to change the table.
        gives_way: bool,
    },
    /// `VACUUM [TABLE] t [RETAIN n HOURS] [DRY RUN]`.
    Vacuum {
        table: ObjectName,
        retain_hours: Option<u64>,
        dry_run: bool,
    },
    CopyTo(Box<CopyTo>),
    CopyInto(Box<CopyInto>),
    /// `UNDROP TABLE t`.
    Undrop(ObjectName),
    /// `VACUUM DROP TABLE [FROM d] [RETAIN n HOURS] [DRY RUN]`.
    VacuumDropped {
        database: Option<Ident>,
        retain_hours: Option<u64>,
        dry_run: bool,
    },
    Alter {
        table: ObjectName,
        operations: Vec<AlterTableOperation>,
    },
    /// `ANALYZE [LOCAL | NO_WRITE_TO_BINLOG] TABLE t, …`.
    Analyze(Vec<ObjectName>),
}

#[derive(Debug, Clone)]
pub struct CreateTable {
    pub name: ObjectName,
    pub or_replace: bool,
    pub if_not_exists: bool,
    /// Empty takes those of the query.
    pub columns: Vec<ColumnDef>,
    pub constraints: Vec<TableConstraint>,
    pub partition_by: Vec<Ident>,
    pub cluster_by: Vec<Ident>,
    pub comment: Option<String>,
    /// `AS SELECT …`.
    pub query: Option<Box<Query>>,
    /// What the query's columns are called.
    pub names: Vec<super::OutputName>,
    /// `LIKE t` or, with its rows, `CLONE t`.
    pub source: Option<Source>,
}

#[derive(Debug, Clone)]
pub enum Source {
    Like(ObjectName),
    Clone(ObjectName),
}

impl StatementParser<'_> {
    /// `CREATE [OR REPLACE] TABLE …`; the words up to TABLE are still to be read.
    pub(super) fn parse_create_table(&mut self) -> Result<StatementKind, Failure> {
        self.sql.expect_keyword_is(Keyword::CREATE)?;
        let or_replace = self.sql.parse_keywords(&[Keyword::OR, Keyword::REPLACE]);
        self.sql.expect_keyword_is(Keyword::TABLE)?;
        let if_not_exists = self.sql.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
        let name = self.sql.parse_object_name(false)?;
        let mut create = CreateTable {
            name,
            or_replace,
            if_not_exists,
            columns: vec![],
            constraints: vec![],
            partition_by: vec![],
            cluster_by: vec![],
            comment: None,
            query: None,
            names: vec![],
            source: None,
        };
        if self.sql.parse_keyword(Keyword::LIKE) {
            create.source = Some(Source::Like(self.sql.parse_object_name(false)?));
        } else if self.sql.parse_keyword(Keyword::CLONE) {
            create.source = Some(Source::Clone(self.sql.parse_object_name(false)?));
        } else if self.sql.peek_token_ref().token == Token::LParen && !self.starts_query_in_brackets() {
            (create.columns, create.constraints) = self.sql.parse_columns()?;
        }
        while self.parse_table_option(&mut create)? {}
        let has_as = self.sql.parse_keyword(Keyword::AS);
        if has_as || self.starts_query_here() {
            let query = self.parse_query()?;
            create.query = Some(query.query);
            create.names = query.names;
        }
        for column in &mut create.columns {
            self.settle(column)?;
        }
        self.settle(&mut create.constraints)?;
        Ok(StatementKind::Table(Box::new(TableStatement::Create(Box::new(create)))))
    }

    /// `(SELECT …)` after a table's name is its query, not its columns.
    fn starts_query_in_brackets(&self) -> bool {
        let mut n = 1;
        while self.sql.peek_nth_token_ref(n).token == Token::LParen {
            n += 1;
        }
        is_query_word(&self.sql.peek_nth_token_ref(n).token)
    }

    fn starts_query_here(&self) -> bool {
        let token = &self.sql.peek_token_ref().token;
        is_query_word(token) || (*token == Token::LParen && self.starts_query_in_brackets())
    }

    /// One clause behind the columns. MySQL's own that say nothing here are read over.
    fn parse_table_option(&mut self, create: &mut CreateTable) -> Result<bool, Failure> {
        let _ = self.sql.consume_token(&Token::Comma);
        if self.sql.parse_keywords(&[Keyword::PARTITIONED, Keyword::BY])
            || self.sql.parse_keywords(&[Keyword::PARTITION, Keyword::BY])
        {
            create.partition_by = self.parse_names()?;
        } else if self.sql.parse_keywords(&[Keyword::CLUSTER, Keyword::BY]) {
            create.cluster_by = self.parse_names()?;
        } else if self.sql.parse_keyword(Keyword::COMMENT) {
            let _ = self.sql.consume_token(&Token::Eq);
            create.comment = Some(self.sql.parse_literal_string()?);
        } else if self.sql.parse_keywords(&[Keyword::STORED, Keyword::AS]) || self.sql.parse_keyword(Keyword::USING) {
            self.parse_delta()?;
        } else if self.sql.parse_keyword(Keyword::ENGINE) {
            let _ = self.sql.consume_token(&Token::Eq);
            // Dumps name engines of MySQL's; a table here is what a table here is.
            self.sql.parse_identifier()?;
        } else if let Some(word) = self.parse_ignored_option() {
            let _ = self.sql.consume_token(&Token::Eq);
            match self.sql.next_token().token {
                Token::Word(_) | Token::Number(..) | Token::SingleQuotedString(_) => {}
                _ => return Ok(self.sql.expected(&format!("a value of {word}"), self.sql.peek_token())?),
            }
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// `AUTO_INCREMENT = 5`, `DEFAULT CHARSET = utf8mb4` and their like.
    fn parse_ignored_option(&mut self) -> Option<&'static str> {
        let is_default = self.sql.parse_keyword(Keyword::DEFAULT);
        if self.sql.parse_keywords(&[Keyword::CHARACTER, Keyword::SET]) || self.sql.parse_keyword(Keyword::CHARSET) {
            return Some("CHARSET");
        }
        if self.sql.parse_keyword(Keyword::COLLATE) {
            return Some("COLLATE");
        }
        if !is_default && self.sql.parse_keyword(Keyword::AUTO_INCREMENT) {
            return Some("AUTO_INCREMENT");
        }
        let row_format = |parser: &Parser| matches!(&parser.peek_token_ref().token, Token::Word(it) if it.value.eq_ignore_ascii_case("row_format"));
        if !is_default && row_format(&self.sql) {
            self.sql.advance_token();
            return Some("ROW_FORMAT");
        }
        None
    }

    fn parse_delta(&mut self) -> Result<(), Failure> {
        let token = self.sql.next_token();
        match &token.token {
            Token::Word(word) if word.value.eq_ignore_ascii_case("delta") => Ok(()),
            _ => {
                let text = "a managed table of another format than DELTA; CREATE EXTERNAL TABLE reads others";
                Err(PlanError::Unsupported(text.to_owned()).into())
            }
        }
    }

    /// `(a, b)` or `a, b`.
    pub(super) fn parse_names(&mut self) -> Result<Vec<Ident>, Failure> {
        let in_brackets = self.sql.consume_token(&Token::LParen);
        let names = self.sql.parse_comma_separated(|it| it.parse_identifier())?;
        if in_brackets {
            self.sql.expect_token(&Token::RParen)?;
        }
        Ok(names)
    }

    /// A statement that begins with a word of ours; `None` leaves everything unread.
    pub(super) fn parse_table_care(&mut self) -> Result<Option<TableStatement>, Failure> {
        let Token::Word(word) = &self.sql.peek_token_ref().token else { return Ok(None) };
        if word.quote_style.is_some() {
            return Ok(None);
        }
        let first = word.value.to_ascii_uppercase();
        match first.as_str() {
            "ANALYZE" | "OPTIMIZE" | "VACUUM" | "RESTORE" | "UNDROP" => self.sql.advance_token(),
            _ => return Ok(None),
        }
        if first == "ANALYZE" {
            return self.parse_analyze().map(Some);
        }
        if first == "VACUUM" && self.sql.parse_keywords(&[Keyword::DROP, Keyword::TABLE]) {
            let has_database = self.sql.parse_keyword(Keyword::FROM);
            let database = has_database.then(|| self.sql.parse_identifier()).transpose()?;
            let (retain_hours, dry_run) = self.parse_retention()?;
            return Ok(Some(TableStatement::VacuumDropped { database, retain_hours, dry_run }));
        }
        let _ = self.sql.parse_keyword(Keyword::TABLE);
        let table = self.sql.parse_object_name(false)?;
        Ok(Some(match first.as_str() {
            "OPTIMIZE" => {
                let mut z_order = vec![];
                if self.consume_word("ZORDER") {
                    self.sql.expect_keyword_is(Keyword::BY)?;
                    z_order = self.parse_names()?;
                }
                TableStatement::Optimize { table, z_order, gives_way: false }
            }
            "VACUUM" => {
                let (retain_hours, dry_run) = self.parse_retention()?;
                TableStatement::Vacuum { table, retain_hours, dry_run }
            }
            "RESTORE" => TableStatement::Restore { table, to: self.parse_version()? },
            _ => TableStatement::Undrop(table),
        }))
    }

    /// What follows `ANALYZE`.
    fn parse_analyze(&mut self) -> Result<TableStatement, Failure> {
        if !self.consume_word("LOCAL") {
            // There is no log of changes that it could be left out of.
            self.consume_word("NO_WRITE_TO_BINLOG");
        }
        self.sql.expect_keyword_is(Keyword::TABLE)?;
        let tables = self.sql.parse_comma_separated(|it| it.parse_object_name(false))?;
        if self.is_word(0, &["UPDATE", "DROP"]) && self.is_word(1, &["HISTOGRAM"]) {
            let text = "a histogram of ANALYZE TABLE: its statistics are bounds, NULLs and different values";
            return Err(PlanError::Unsupported(text.to_owned()).into());
        }
        Ok(TableStatement::Analyze(tables))
    }

    /// `[RETAIN n HOURS] [DRY RUN]`.
    fn parse_retention(&mut self) -> Result<(Option<u64>, bool), Failure> {
        let mut retain_hours = None;
        if self.consume_word("RETAIN") {
            retain_hours = Some(self.sql.parse_literal_uint()?);
            if !self.consume_word("HOURS") {
                self.expect_word("HOUR")?;
            }
        }
        let dry_run = self.consume_word("DRY");
        if dry_run {
            self.expect_word("RUN")?;
        }
        Ok((retain_hours, dry_run))
    }

    /// `TO VERSION AS OF 3` or `TO TIMESTAMP AS OF '2026-01-01'`, which became one name before parsing.
    fn parse_version(&mut self) -> Result<VersionClause, Failure> {
        let token = self.sql.next_token();
        let clause = match &token.token {
            Token::Word(word) => match VersionClause::split(&word.value) {
                (to, Some(clause)) if to.eq_ignore_ascii_case("to") => Some(clause),
                _ => None,
            },
            _ => None,
        };
        match clause {
            Some(clause) => Ok(clause),
            None => Ok(self.sql.expected("TO VERSION AS OF a number or TO TIMESTAMP AS OF a time", token)?),
        }
    }

    pub(super) fn consume_word(&mut self, expected: &str) -> bool {
        let found =
            matches!(&self.sql.peek_token_ref().token, Token::Word(word) if word.value.eq_ignore_ascii_case(expected));
        if found {
            self.sql.advance_token();
        }
        found
    }

    pub(super) fn expect_word(&mut self, expected: &str) -> Result<(), Failure> {
        match self.consume_word(expected) {
            true => Ok(()),
            false => Ok(self.sql.expected(expected, self.sql.peek_token())?),
        }
    }

    /// A statement of sqlparser's as one about a managed table, if it is one.
    pub(super) fn table_statement(&self, statement: SqlStatement) -> Result<StatementKind, Failure> {
        let mut statement = statement;
        let is_ours = matches!(
            statement,
            SqlStatement::Insert(_)
                | SqlStatement::Update(_)
                | SqlStatement::Delete(_)
                | SqlStatement::Merge(_)
                | SqlStatement::Truncate(_)
                | SqlStatement::AlterTable(_)
        );
        if is_ours {
            self.settle(&mut statement)?;
        }
        Ok(StatementKind::Table(Box::new(match statement {
            SqlStatement::Insert(insert) => TableStatement::Insert(Box::new(insert)),
            SqlStatement::Update(update) => TableStatement::Update(Box::new(update)),
            SqlStatement::Delete(delete) => TableStatement::Delete(Box::new(delete)),
            SqlStatement::Merge(merge) => TableStatement::Merge(Box::new(merge)),
            SqlStatement::Truncate(Truncate { table_names, .. }) => {
                TableStatement::Truncate(table_names.into_iter().map(|it| it.name).collect())
            }
            SqlStatement::AlterTable(alter) => {
                TableStatement::Alter { table: alter.name, operations: alter.operations }
            }
            other => return Ok(StatementKind::Other(Box::new(other))),
        })))
    }
}

fn is_query_word(token: &Token) -> bool {
    match token {
        Token::Word(word) if word.quote_style.is_none() => {
            matches!(word.keyword, Keyword::SELECT | Keyword::WITH | Keyword::VALUES | Keyword::TABLE)
        }
        _ => false,
    }
}

/// `DEFAULT` as a value: a word that the parser takes for a column.
pub fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(it) if it.quote_style.is_none() && it.value.eq_ignore_ascii_case("default"))
}

#[cfg(test)]
mod tests {
    use super::super::{SqlDialect, parse};
    use super::*;

    fn table(sql: &str) -> TableStatement {
        let statements =
            parse(sql, SqlDialect::MySql { ansi_quotes: false }).unwrap_or_else(|it| panic!("{sql}: {it}"));
        match statements.into_iter().next().map(|it| it.kind) {
            Some(StatementKind::Table(statement)) => *statement,
            other => panic!("{sql}: {other:?}"),
        }
    }

    #[test]
    fn tables_are_created_in_many_words() {
        let sql = "CREATE TABLE IF NOT EXISTS d.`t 1` (a INT UNSIGNED NOT NULL DEFAULT 3 COMMENT 'x', b VARCHAR(9), \
                   CONSTRAINT c CHECK (a > 0)) ENGINE=InnoDB AUTO_INCREMENT=7 DEFAULT CHARSET=utf8mb4 \
                   COLLATE=utf8mb4_bin PARTITIONED BY (b) CLUSTER BY (a) COMMENT='it''s'";
        let TableStatement::Create(create) = table(sql) else { panic!() };
        assert_eq!((create.name.to_string().as_str(), create.if_not_exists), ("d.`t 1`", true));
        assert_eq!((create.columns.len(), create.constraints.len()), (2, 1));
        assert_eq!((create.partition_by[0].value.as_str(), create.cluster_by[0].value.as_str()), ("b", "a"));
        assert_eq!(create.comment.as_deref(), Some("it's"));
        for sql in ["CREATE TABLE t AS SELECT 1 AS a", "CREATE TABLE t SELECT 1 AS a", "CREATE TABLE t (SELECT 1 AS a)"]
        {
            let TableStatement::Create(create) = table(sql) else { panic!("{sql}") };
            assert!(create.query.is_some() && create.columns.is_empty(), "{sql}");
        }
        let TableStatement::Create(create) = table("CREATE OR REPLACE TABLE t CLONE s") else { panic!() };
        assert!(create.or_replace && matches!(create.source, Some(Source::Clone(_))));
    }

    #[test]
    fn tables_are_tended() {
        let TableStatement::Optimize { z_order, .. } = table("OPTIMIZE TABLE t ZORDER BY (a, b)") else { panic!() };
        assert_eq!(z_order.len(), 2);
        let vacuum = table("vacuum t retain 0 hours dry run");
        assert!(matches!(vacuum, TableStatement::Vacuum { retain_hours: Some(0), dry_run: true, .. }), "{vacuum:?}");
        let TableStatement::Restore { to, .. } = table("RESTORE t TO VERSION AS OF 3") else { panic!() };
        assert_eq!(to, VersionClause::Version(3));
        let TableStatement::Restore { to, .. } = table("RESTORE TABLE t TO TIMESTAMP AS OF '2026-01-01'") else {
            panic!()
        };
        assert_eq!(to, VersionClause::Timestamp("2026-01-01".into()));
        assert!(matches!(table("DESCRIBE HISTORY d.t"), TableStatement::History(_)));
        assert!(matches!(table("UNDROP TABLE t"), TableStatement::Undrop(_)));
        let dropped = table("VACUUM DROP TABLE FROM d RETAIN 1 HOUR DRY RUN");
        assert!(matches!(
            dropped,
            TableStatement::VacuumDropped { database: Some(_), retain_hours: Some(1), dry_run: true }
        ));
        assert!(matches!(table("TRUNCATE TABLE t"), TableStatement::Truncate(_)));
        for sql in ["ANALYZE TABLE t, d.`u`", "analyze local table t, d.u", "ANALYZE NO_WRITE_TO_BINLOG TABLE t, d.u"] {
            let TableStatement::Analyze(tables) = table(sql) else { panic!("{sql}") };
            assert_eq!((tables.len(), tables[0].to_string().as_str()), (2, "t"), "{sql}");
        }
        for sql in [
            "OPTIMIZE t ZORDER a",
            "VACUUM t RETAIN 3",
            "RESTORE t TO 3",
            "CREATE TABLE t (a INT) STORED AS CSV",
            "ANALYZE t",
            "ANALYZE TABLE t UPDATE HISTOGRAM ON a",
        ] {
            assert!(parse(sql, SqlDialect::MySql { ansi_quotes: false }).is_err(), "{sql}");
        }
    }
}
