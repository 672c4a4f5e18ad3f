//! SQL text to statements: sqlparser and DataFusion's parser where they read a statement, ours where they do not.
//!
//! Parsing, and whatever walks or drops what comes out of it, may recurse deeply: [`on_big_stack`] makes room.

mod accounts;
pub mod ast;
mod cluster;
mod connections;
mod copy;
mod dialect;
pub mod load;
mod names;
mod prepare;
mod secrets;
mod set;
mod shape;
mod show;
mod source;
pub mod table;
mod versions;
pub mod view;

use std::sync::Arc;

use datafusion::sql::parser::{CreateExternalTable, DFParserBuilder, Statement as DFStatement};
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, ObjectType, Query, Statement as SqlStatement, VisitMut};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Whitespace};

pub use accounts::{
    AccountStatement, Credential, GrantTarget, Password, PrivilegeItem, RoleChoice, UserOptions, UserRef, UserSpec,
};
pub use cluster::AlterCluster;
pub use connections::ConnectionStatement;
pub use copy::{CopyInto, CopyTo};
pub use load::LoadData;
pub use names::{OutputName, renamed};
pub use prepare::{PrepareSource, TextPrepared};
pub use secrets::is_secret_name;
pub use set::{Assignment, AssignmentTarget, VariableScope};
pub use show::{NothingToShow, Show, ShowFilter};
pub use versions::VersionClause;

use crate::error::PlanError;
use accounts::AccountParser;
use shape::Misshapen;
use source::Source;
pub use table::TableStatement;
pub use view::ViewStatement;

/// How a session's text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlDialect {
    /// MySQL: backticks quote names; `"text"` is a string unless `ansi_quotes`.
    MySql { ansi_quotes: bool },
    /// What Flight SQL and HTTP clients speak.
    Ansi,
}

impl SqlDialect {
    pub fn is_mysql(self) -> bool {
        matches!(self, Self::MySql { .. })
    }
}

/// One statement and the text that it came from, without secrets.
#[derive(Debug, Clone)]
pub struct Statement {
    pub text: Arc<str>,
    pub kind: StatementKind,
    /// How many values it needs. Each `?` is `$1`, `$2`, … in the tree.
    pub n_parameters: usize,
}

impl Statement {
    /// Whether it loads a file that the client has.
    pub fn wants_clients_file(&self) -> bool {
        matches!(&self.kind, StatementKind::Load(load) if load.is_local)
    }
}

/// What a statement asks for; one interpreter each.
#[derive(Debug, Clone)]
pub enum StatementKind {
    Query(Box<QueryStatement>),
    Explain(Box<ExplainStatement>),
    CreateDatabase(CreateDatabase),
    DropDatabase {
        name: Ident,
        if_exists: bool,
    },
    CreateExternalTable(Box<CreateExternalTable>),
    DropTable {
        names: Vec<ObjectName>,
        if_exists: bool,
    },
    /// Makes, changes or tends a managed table.
    Table(Box<TableStatement>),
    View(Box<ViewStatement>),
    Load(Box<LoadData>),
    Use(Ident),
    Set(Vec<Assignment>),
    Show(Show),
    /// `DESCRIBE t [column or pattern]`.
    Describe {
        table: ObjectName,
        column: Option<String>,
    },
    Kill {
        connection_id: u64,
        query_only: bool,
    },
    Transaction(Transaction),
    /// Prepared statements in text.
    Prepared(TextPrepared),
    /// Users, roles and rights.
    Account(Box<AccountStatement>),
    /// Stored options of object stores.
    Connection(ConnectionStatement),
    /// `FLUSH`: there is nothing to flush, but not everybody may ask for it.
    Flush,
    AlterCluster(AlterCluster),
    /// Accepted for the sake of clients, with nothing to do: `LOCK TABLES`, `ALTER TABLE t DISABLE KEYS`.
    Nothing,
    /// Read, but not (yet) ours to run.
    Other(Box<SqlStatement>),
}

/// A query and what its columns are called.
#[derive(Debug, Clone)]
pub struct QueryStatement {
    pub query: Box<Query>,
    pub names: Vec<OutputName>,
    /// Equal items got names of the parser's in the tree, which no client should see.
    pub has_equal_items: bool,
}

#[derive(Debug, Clone)]
pub struct ExplainStatement {
    pub query: QueryStatement,
    pub analyze: bool,
    pub format: ExplainFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExplainFormat {
    Text,
    Json,
    Graph,
    /// The optimized logical plan, as text.
    Logical,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateDatabase {
    pub name: Ident,
    pub if_not_exists: bool,
    pub engine: Option<DatabaseEngine>,
}

/// `ENGINE = TPCH(scale = 1)`: a name and its options, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseEngine {
    pub name: String,
    pub options: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    Begin,
    Commit,
    Rollback,
    Savepoint,
}

/// A syntax error at a place, with the text that stands there, as MySQL words it.
fn error_at(source: &Source, at: Location, message: &str) -> PlanError {
    let message = format!("syntax error: {message}, near '{}'", source.near(at));
    PlanError::Syntax { message, line: at.line, column: at.column }
}

/// What the deepest statement that is not refused needs. Virtual, so that what is not touched costs nothing.
pub const BIG_STACK_BYTES: usize = 512 << 20;
const BIG_STACK_RED_ZONE_BYTES: usize = 128 << 20;
/// Levels that sqlparser may recurse; each takes some KiB of the big stack.
const PARSER_RECURSION_MAX: usize = 8000;

/// Runs `work` with room for recursion as deep as any statement that is not refused.
pub fn on_big_stack<R>(work: impl FnOnce() -> R) -> R {
    stacker::maybe_grow(BIG_STACK_RED_ZONE_BYTES, BIG_STACK_BYTES, work)
}

/// All statements of a text, in order; empty if it holds nothing but comments.
///
/// Errs at the first statement that cannot be read, with its position; nothing of the text has been run then.
pub fn parse(sql: &str, dialect: SqlDialect) -> Result<Vec<Statement>, PlanError> {
    on_big_stack(|| {
        let source = Source::new(sql);
        match dialect {
            SqlDialect::MySql { ansi_quotes } => {
                parse_with(&source, &dialect::MySqlSessionDialect { ansi_quotes }, true)
            }
            SqlDialect::Ansi => parse_with(&source, &GenericDialect {}, false),
        }
    })
}

fn parse_with(source: &Source, dialect: &dyn Dialect, is_mysql: bool) -> Result<Vec<Statement>, PlanError> {
    let tokens = source::tokens(source, dialect, is_mysql)?;
    source::split(tokens).into_iter().map(|tokens| parse_statement(source, tokens, dialect)).collect()
}

fn parse_statement(source: &Source, tokens: Vec<TokenWithSpan>, dialect: &dyn Dialect) -> Result<Statement, PlanError> {
    let tokens = versions::fold(tokens);
    let n_parameters = tokens.iter().filter_map(parameter_number).max().unwrap_or(0);
    let is_text = |it: &&TokenWithSpan| {
        it.token != Token::EOF
            && !matches!(it.token, Token::Whitespace(Whitespace::Space | Whitespace::Newline | Whitespace::Tab))
    };
    let start = tokens.iter().find(is_text).map_or(0, |it| source.offset(it.span.start));
    let end = tokens.iter().rfind(is_text).map_or(start, |it| source.offset(it.span.end));
    let mut parser = StatementParser {
        sql: Parser::new(dialect).with_tokens_with_locations(tokens.clone()).with_recursion_limit(PARSER_RECURSION_MAX),
        tokens: &tokens,
        dialect,
        source,
        secrets: vec![],
    };
    let parsed = parser.parse().and_then(|kind| {
        // Whatever is left is what the client got wrong.
        match parser.sql.peek_token_ref() {
            TokenWithSpan { token: Token::EOF, .. } => Ok(kind),
            found => parser.sql.expected("end of statement", found.clone()).map_err(Into::into),
        }
    });
    match parsed {
        Ok(kind) => {
            let text = match parser.secrets.is_empty() {
                true => secrets::shown(source, &tokens, start..end),
                false => parser.shown(start, end),
            };
            Ok(Statement { text: Arc::from(text), kind, n_parameters })
        }
        Err(error) => Err(parser.located(error)),
    }
}

/// The number of a parameter, from 1.
fn parameter_number(token: &TokenWithSpan) -> Option<usize> {
    match &token.token {
        Token::Placeholder(name) => name.strip_prefix('$')?.parse().ok(),
        _ => None,
    }
}

/// Reads one statement; `tokens` are the same that `sql` walks over.
struct StatementParser<'a> {
    sql: Parser<'a>,
    tokens: &'a [TokenWithSpan],
    dialect: &'a dyn Dialect,
    source: &'a Source<'a>,
    /// Where passwords stand, in order.
    secrets: Vec<Span>,
}

#[derive(Debug)]
enum Failure {
    Parser(ParserError),
    Plan(PlanError),
}

impl From<ParserError> for Failure {
    fn from(error: ParserError) -> Self {
        Self::Parser(error)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Self::Plan(error)
    }
}

impl<'a> StatementParser<'a> {
    /// The statement's text without its passwords: process lists and logs show it.
    fn shown(&self, start: usize, end: usize) -> String {
        let mut shown = String::with_capacity(end - start);
        let mut at = start;
        for secret in &self.secrets {
            shown.push_str(self.source.slice(at..self.source.offset(secret.start)));
            shown.push_str("<secret>");
            at = self.source.offset(secret.end);
        }
        shown.push_str(self.source.slice(at..end));
        shown
    }

    fn accounts(&mut self) -> AccountParser<'_, 'a> {
        AccountParser { parser: &mut self.sql, secrets: &mut self.secrets }
    }

    /// Whether the `n`-th token from here is one of these words, unquoted.
    fn is_word(&self, n: usize, words: &[&str]) -> bool {
        match &self.sql.peek_nth_token_ref(n).token {
            Token::Word(word) if word.quote_style.is_none() => {
                words.iter().any(|it| word.value.eq_ignore_ascii_case(it))
            }
            _ => false,
        }
    }

    fn account(
        &mut self,
        read: impl FnOnce(&mut AccountParser) -> Result<AccountStatement, Failure>,
    ) -> Result<StatementKind, Failure> {
        self.sql.advance_token();
        Ok(StatementKind::Account(Box::new(read(&mut self.accounts())?)))
    }

    fn parse(&mut self) -> Result<StatementKind, Failure> {
        let first = self.sql.peek_token().token;
        let keyword = match &first {
            Token::Word(word) if word.quote_style.is_none() => word.keyword,
            _ => Keyword::NoKeyword,
        };
        match keyword {
            Keyword::EXPLAIN | Keyword::DESCRIBE | Keyword::DESC => {
                self.sql.advance_token();
                self.parse_explain()
            }
            Keyword::SHOW => {
                self.sql.advance_token();
                Ok(StatementKind::Show(show::parse(&mut self.sql)?))
            }
            Keyword::SET => {
                self.sql.advance_token();
                if let Some(account) = self.accounts().set()? {
                    return Ok(StatementKind::Account(Box::new(account)));
                }
                let mut assignments = set::parse(&mut self.sql)?;
                for assignment in &mut assignments {
                    self.settle(&mut assignment.value)?;
                }
                Ok(StatementKind::Set(assignments))
            }
            Keyword::USE => {
                self.sql.advance_token();
                Ok(StatementKind::Use(self.sql.parse_identifier()?))
            }
            Keyword::KILL => {
                self.sql.advance_token();
                let kind = self.sql.parse_one_of_keywords(&[Keyword::CONNECTION, Keyword::QUERY]);
                let connection_id = self.sql.parse_literal_uint()?;
                Ok(StatementKind::Kill { connection_id, query_only: kind == Some(Keyword::QUERY) })
            }
            Keyword::CREATE if self.is_word(1, &["USER", "ROLE"]) => self.account(|it| it.create()),
            Keyword::CREATE | Keyword::DROP if connections::is_next(&self.sql) => {
                Ok(StatementKind::Connection(connections::parse(&mut self.sql)?))
            }
            Keyword::ALTER if cluster::is_next(&self.sql) => {
                self.sql.advance_token();
                self.sql.advance_token();
                Ok(StatementKind::AlterCluster(cluster::parse(&mut self.sql)?))
            }
            Keyword::CREATE if self.is_view(1) || (self.is_word(1, &["OR"]) && self.is_view(3)) => self.parse_view(),
            Keyword::CREATE => self.parse_create(),
            Keyword::ALTER if self.is_view(1) => self.parse_view(),
            Keyword::ALTER if self.switches_keys()? => Ok(StatementKind::Nothing),
            Keyword::LOCK if self.is_word(1, &["TABLE", "TABLES"]) => self.parse_locks(),
            Keyword::UNLOCK if self.is_word(1, &["TABLE", "TABLES"]) => {
                self.sql.advance_token();
                self.sql.advance_token();
                Ok(StatementKind::Nothing)
            }
            Keyword::ALTER if self.is_word(1, &["USER"]) => self.account(|it| it.alter()),
            Keyword::DROP if self.is_word(1, &["USER", "ROLE"]) => self.account(|it| it.drop()),
            Keyword::PREPARE | Keyword::EXECUTE | Keyword::DEALLOCATE => self.parse_prepared(keyword),
            Keyword::DROP if self.is_word(1, &["PREPARE"]) => self.parse_prepared(keyword),
            Keyword::DROP => self.parse_drop(),
            Keyword::RENAME if self.is_word(1, &["USER"]) => self.account(|it| it.rename()),
            Keyword::GRANT => self.account(|it| it.grant()),
            Keyword::REVOKE => self.account(|it| it.revoke()),
            Keyword::FLUSH => {
                match self.sql.parse_statement()? {
                    // A lock that is not held must not be promised.
                    SqlStatement::Flush { read_lock: false, export: false, .. } => Ok(StatementKind::Flush),
                    other => Ok(StatementKind::Other(Box::new(other))),
                }
            }
            Keyword::BEGIN
            | Keyword::START
            | Keyword::COMMIT
            | Keyword::ROLLBACK
            | Keyword::SAVEPOINT
            | Keyword::RELEASE => self.parse_transaction(keyword),
            Keyword::SELECT | Keyword::WITH | Keyword::VALUES | Keyword::TABLE | Keyword::FROM => {
                Ok(StatementKind::Query(Box::new(self.parse_query()?)))
            }
            Keyword::LOAD if self.is_load_data() => self.parse_load(),
            Keyword::COPY => Ok(StatementKind::Table(Box::new(self.parse_copy()?))),
            _ if first == Token::LParen => Ok(StatementKind::Query(Box::new(self.parse_query()?))),
            _ => {
                if let Some(statement) = self.parse_table_care()? {
                    return Ok(StatementKind::Table(Box::new(statement)));
                }
                let other = self.sql.parse_statement()?;
                self.table_statement(other)
            }
        }
    }

    /// `LOCK TABLES [db.]t [[AS] alias] READ [LOCAL] | [LOW_PRIORITY] WRITE, …`, whose names the dialect's own parser knows no
    /// database of.
    fn parse_locks(&mut self) -> Result<StatementKind, Failure> {
        self.sql.advance_token();
        self.sql.advance_token();
        loop {
            self.sql.parse_object_name(false)?;
            self.sql.parse_optional_alias(&[Keyword::READ, Keyword::WRITE, Keyword::LOW_PRIORITY])?;
            if self.sql.parse_keyword(Keyword::READ) {
                let _ = self.sql.parse_keyword(Keyword::LOCAL);
            } else {
                let _ = self.sql.parse_keyword(Keyword::LOW_PRIORITY);
                self.sql.expect_keyword(Keyword::WRITE)?;
            }
            if !self.sql.consume_token(&Token::Comma) {
                return Ok(StatementKind::Nothing);
            }
        }
    }

    /// `ALTER TABLE t DISABLE | ENABLE KEYS`, which every dump says around its rows: there are no keys. Takes it if it is one.
    fn switches_keys(&mut self) -> Result<bool, Failure> {
        let taken = self.sql.maybe_parse(|sql| {
            sql.expect_keywords(&[Keyword::ALTER, Keyword::TABLE])?;
            sql.parse_object_name(false)?;
            sql.expect_one_of_keywords(&[Keyword::DISABLE, Keyword::ENABLE])?;
            match sql.next_token() {
                token if matches!(&token.token, Token::Word(word) if word.value.eq_ignore_ascii_case("KEYS")) => Ok(()),
                other => sql.expected("KEYS", other),
            }
        })?;
        Ok(taken.is_some())
    }

    /// MySQL's `LOAD DATA [LOCAL] INFILE`, which the parser takes for a statement of Hive's.
    fn is_load_data(&self) -> bool {
        matches!(&self.sql.peek_nth_token_ref(1).token, Token::Word(word) if word.keyword == Keyword::DATA)
    }

    fn parse_prepared(&mut self, keyword: Keyword) -> Result<StatementKind, Failure> {
        self.sql.advance_token();
        Ok(StatementKind::Prepared(prepare::parse(&mut self.sql, keyword)?))
    }

    fn parse_query(&mut self) -> Result<QueryStatement, Failure> {
        let mut query = self.sql.parse_query()?;
        let names = names::output_names(&query, self.tokens, self.source);
        let has_equal_items = names::part_equal_items(&mut query);
        self.settle(&mut query)?;
        Ok(QueryStatement { query, names, has_equal_items })
    }

    fn settle(&self, tree: &mut impl VisitMut) -> Result<(), PlanError> {
        shape::settle(tree).map_err(|misshapen| match misshapen {
            Misshapen::TooDeep(what) => too_deep(what),
            Misshapen::NoName { word, at } => {
                error_at(self.source, at, &format!("expected: the name of a table, found: {word}"))
            }
        })
    }

    /// `EXPLAIN [ANALYZE] [LOGICAL] [FORMAT = f] query`, or a table's columns.
    fn parse_explain(&mut self) -> Result<StatementKind, Failure> {
        let mut analyze = false;
        let mut format = None;
        let mut says_explain = false;
        loop {
            let next = self.sql.peek_token_ref().clone();
            let Token::Word(word) = &next.token else { break };
            match word.value.to_ascii_uppercase().as_str() {
                "ANALYZE" | "ANALYSE" => analyze = true,
                "EXTENDED" | "PARTITIONS" | "VERBOSE" => {}
                "LOGICAL" if self.starts_query(1) => format = Some(ExplainFormat::Logical),
                "FORMAT" => {
                    self.sql.advance_token();
                    let _ = self.sql.consume_token(&Token::Eq);
                    let token = self.sql.next_token();
                    let name = match &token.token {
                        Token::Word(word) => word.value.clone(),
                        Token::SingleQuotedString(name) | Token::DoubleQuotedString(name) => name.clone(),
                        _ => return Ok(self.sql.expected("a format", token)?),
                    };
                    format = Some(match name.to_ascii_uppercase().as_str() {
                        "TEXT" | "TREE" | "TRADITIONAL" | "INDENT" => ExplainFormat::Text,
                        "JSON" => ExplainFormat::Json,
                        "GRAPH" | "GRAPHVIZ" | "DOT" => ExplainFormat::Graph,
                        "LOGICAL" => ExplainFormat::Logical,
                        _ => return Ok(self.sql.expected("TEXT, JSON, GRAPH or LOGICAL", token)?),
                    });
                    says_explain = true;
                    continue;
                }
                _ => break,
            }
            says_explain = true;
            self.sql.advance_token();
        }
        if says_explain || self.starts_query(0) {
            if !self.starts_query(0) {
                return Ok(self.sql.expected("a query", self.sql.peek_token())?);
            }
            let query = self.parse_query()?;
            let format = format.unwrap_or(ExplainFormat::Text);
            return Ok(StatementKind::Explain(Box::new(ExplainStatement { query, analyze, format })));
        }
        if matches!(&self.sql.peek_token_ref().token, Token::Word(word) if word.value.eq_ignore_ascii_case("history"))
            && matches!(self.sql.peek_nth_token_ref(1).token, Token::Word(_))
        {
            self.sql.advance_token();
            let table = self.sql.parse_object_name(false)?;
            return Ok(StatementKind::Table(Box::new(TableStatement::History(table))));
        }
        let _ = self.sql.parse_keyword(Keyword::TABLE);
        let table = self.sql.parse_object_name(false)?;
        let column = match self.sql.peek_token_ref().token {
            Token::EOF => None,
            _ => Some(self.sql.parse_identifier()?.value),
        };
        Ok(StatementKind::Describe { table, column })
    }

    /// Whether the `n`-th token from here begins a query.
    fn starts_query(&self, n: usize) -> bool {
        match &self.sql.peek_nth_token_ref(n).token {
            Token::LParen => true,
            Token::Word(word) if word.quote_style.is_none() => {
                let follows = &self.sql.peek_nth_token_ref(n + 1).token;
                match word.keyword {
                    Keyword::SELECT | Keyword::WITH | Keyword::VALUES => true,
                    Keyword::TABLE => matches!(follows, Token::Word(_)) && n > 0,
                    _ => false,
                }
            }
            _ => false,
        }
    }

    fn parse_create(&mut self) -> Result<StatementKind, Failure> {
        let word = |token: &TokenWithSpan| match &token.token {
            Token::Word(word) => word.value.to_ascii_uppercase(),
            _ => String::new(),
        };
        let mut kind = 1;
        if word(self.sql.peek_nth_token_ref(1)) == "OR" {
            kind = 3;
        }
        match word(self.sql.peek_nth_token_ref(kind)).as_str() {
            "DATABASE" | "SCHEMA" if kind == 1 => {
                self.sql.advance_token();
                self.sql.advance_token();
                Ok(StatementKind::CreateDatabase(self.parse_create_database()?))
            }
            "EXTERNAL" | "UNBOUNDED" => self.parse_create_external_table(),
            "TABLE" => self.parse_create_table(),
            _ => Ok(StatementKind::Other(Box::new(self.sql.parse_statement()?))),
        }
    }

    /// What follows `CREATE DATABASE`. MySQL's character set and collation are read and have no effect.
    fn parse_create_database(&mut self) -> Result<CreateDatabase, ParserError> {
        let if_not_exists = self.sql.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
        let name = self.sql.parse_identifier()?;
        let mut engine = None;
        loop {
            let _ = self.sql.parse_keyword(Keyword::DEFAULT);
            if self.sql.parse_keyword(Keyword::ENGINE) {
                let _ = self.sql.consume_token(&Token::Eq);
                engine = Some(self.parse_engine()?);
            } else if self.sql.parse_keywords(&[Keyword::CHARACTER, Keyword::SET])
                || self.sql.parse_one_of_keywords(&[Keyword::CHARSET, Keyword::COLLATE, Keyword::COMMENT]).is_some()
            {
                let _ = self.sql.consume_token(&Token::Eq);
                self.sql.parse_identifier()?;
            } else {
                return Ok(CreateDatabase { name, if_not_exists, engine });
            }
        }
    }

    fn parse_engine(&mut self) -> Result<DatabaseEngine, ParserError> {
        let name = self.sql.parse_identifier()?.value;
        let mut options = vec![];
        if self.sql.consume_token(&Token::LParen) && !self.sql.consume_token(&Token::RParen) {
            loop {
                let key = self.sql.parse_identifier()?.value;
                self.sql.expect_token(&Token::Eq)?;
                let token = self.sql.next_token();
                let value = match token.token {
                    Token::Number(text, _) => text,
                    Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => text,
                    Token::Word(word) => word.value,
                    _ => return self.sql.expected("a value", token),
                };
                options.push((key, value));
                if !self.sql.consume_token(&Token::Comma) {
                    break;
                }
            }
            self.sql.expect_token(&Token::RParen)?;
        }
        Ok(DatabaseEngine { name, options })
    }

    /// DataFusion's syntax, by its own parser over the same tokens.
    fn parse_create_external_table(&mut self) -> Result<StatementKind, Failure> {
        let parsed = DFParserBuilder::new(self.tokens.to_vec())
            .with_dialect(self.dialect)
            .with_recursion_limit(PARSER_RECURSION_MAX)
            .build()
            .and_then(|mut parser| parser.parse_statement());
        match parsed {
            Ok(DFStatement::CreateExternalTable(table)) => {
                // It reads up to the end of the statement; so that the caller finds it there.
                while self.sql.peek_token_ref().token != Token::EOF {
                    self.sql.advance_token();
                }
                Ok(StatementKind::CreateExternalTable(Box::new(table)))
            }
            Ok(_) => Ok(self.sql.expected("EXTERNAL TABLE", self.sql.peek_nth_token(1))?),
            Err(error) => Err(Failure::Parser(ParserError::ParserError(parser_message(&error)))),
        }
    }

    fn parse_drop(&mut self) -> Result<StatementKind, Failure> {
        let statement = self.sql.parse_statement()?;
        match statement {
            SqlStatement::Drop { object_type: ObjectType::Table, if_exists, names, .. } => {
                Ok(StatementKind::DropTable { names, if_exists })
            }
            SqlStatement::Drop { object_type: ObjectType::View, if_exists, names, .. } => {
                Ok(StatementKind::View(Box::new(ViewStatement::Drop { names, if_exists })))
            }
            SqlStatement::Drop {
                object_type: ObjectType::Schema | ObjectType::Database, if_exists, mut names, ..
            } if names.len() == 1 => {
                let mut name = names.remove(0);
                match name.0.pop().and_then(|it| it.as_ident().cloned()) {
                    Some(ident) if name.0.is_empty() => Ok(StatementKind::DropDatabase { name: ident, if_exists }),
                    _ => Ok(self.sql.expected("the name of a database", self.sql.peek_token())?),
                }
            }
            other => Ok(StatementKind::Other(Box::new(other))),
        }
    }

    /// Whatever follows the keyword is a mode that changes nothing while there is nothing to write.
    fn parse_transaction(&mut self, keyword: Keyword) -> Result<StatementKind, Failure> {
        let statement = self.sql.parse_statement();
        let transaction = match keyword {
            Keyword::BEGIN | Keyword::START => Transaction::Begin,
            Keyword::COMMIT => Transaction::Commit,
            Keyword::ROLLBACK => Transaction::Rollback,
            _ => Transaction::Savepoint,
        };
        match statement {
            Ok(_) => {
                // `START TRANSACTION WITH CONSISTENT SNAPSHOT`, which sqlparser does not know.
                for word in ["WITH", "CONSISTENT", "SNAPSHOT"] {
                    let Token::Word(next) = &self.sql.peek_token_ref().token else { break };
                    if next.value.eq_ignore_ascii_case(word) {
                        self.sql.advance_token();
                    }
                }
                Ok(StatementKind::Transaction(transaction))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// sqlparser says where in words; ours say it in fields, with the text that stands there.
    fn located(&self, failure: Failure) -> PlanError {
        let message = match failure {
            Failure::Plan(error) => return error,
            Failure::Parser(ParserError::RecursionLimitExceeded) => return too_deep("expressions"),
            Failure::Parser(ParserError::ParserError(message) | ParserError::TokenizerError(message)) => message,
        };
        let (text, position) = split_position(&message);
        let at = position.unwrap_or_else(|| self.sql.peek_token_ref().span.start);
        // Positions of what is missing at the end have no line.
        let at = if at.line == 0 { self.source.end() } else { at };
        let mut text = text.trim().to_owned();
        if let Some(first) = text.get(..1) {
            let lower = first.to_ascii_lowercase();
            text.replace_range(..1, &lower);
        }
        error_at(self.source, at, &text)
    }
}

/// The parser's own words, without DataFusion's frame around them.
fn parser_message(error: &datafusion::error::DataFusionError) -> String {
    match error {
        datafusion::error::DataFusionError::SQL(error, _) => match error.as_ref() {
            ParserError::ParserError(message) | ParserError::TokenizerError(message) => message.clone(),
            ParserError::RecursionLimitExceeded => "statement is nested too deeply".to_owned(),
        },
        datafusion::error::DataFusionError::Diagnostic(_, inner) => parser_message(inner),
        other => other.strip_backtrace(),
    }
}

/// Cuts ` at Line: 1, Column: 8` off a message.
fn split_position(message: &str) -> (&str, Option<Location>) {
    const MARK: &str = " at Line: ";
    let Some(mark) = message.rfind(MARK) else { return (message, None) };
    let numbers: Vec<u64> = message[mark + MARK.len()..]
        .split(|c: char| !c.is_ascii_digit())
        .filter(|it| !it.is_empty())
        .filter_map(|it| it.parse().ok())
        .collect();
    match numbers.as_slice() {
        [line, column, ..] => (&message[..mark], Some(Location::new(*line, *column))),
        _ => (&message[..mark], None),
    }
}

fn too_deep(what: &str) -> PlanError {
    PlanError::TooLarge(format!("its {what} are nested too deeply"))
}

#[cfg(test)]
mod tests;
