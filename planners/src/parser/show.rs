//! `SHOW`, in all the forms that MySQL's clients use.

use datafusion::sql::sqlparser::ast::{Expr, ObjectName};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, Word};

use super::accounts::{AccountParser, UserRef};

/// What to show. `database` is none where the session's own is meant.
#[derive(Debug, Clone)]
pub enum Show {
    Databases {
        filter: Option<ShowFilter>,
    },
    Tables {
        full: bool,
        database: Option<String>,
        filter: Option<ShowFilter>,
    },
    Columns {
        full: bool,
        table: ObjectName,
        database: Option<String>,
        filter: Option<ShowFilter>,
    },
    CreateTable {
        table: ObjectName,
    },
    CreateView {
        view: ObjectName,
    },
    CreateDatabase {
        name: String,
    },
    Variables {
        global: bool,
        filter: Option<ShowFilter>,
    },
    Status {
        filter: Option<ShowFilter>,
    },
    Warnings {
        limit: Option<(u64, u64)>,
    },
    Errors {
        limit: Option<(u64, u64)>,
    },
    /// `SHOW COUNT(*) WARNINGS` or `ERRORS`.
    Count {
        errors: bool,
    },
    Processlist {
        full: bool,
    },
    Engines,
    Charset {
        filter: Option<ShowFilter>,
    },
    Collation {
        filter: Option<ShowFilter>,
    },
    Plugins,
    Grants {
        of: UserRef,
        using: Vec<UserRef>,
    },
    CreateUser {
        user: UserRef,
    },
    TableStatus {
        database: Option<String>,
        filter: Option<ShowFilter>,
    },
    Index {
        table: ObjectName,
        database: Option<String>,
    },
    /// The files of a table that a query with this WHERE would read.
    Partitions {
        table: ObjectName,
        database: Option<String>,
        filter: Option<Box<Expr>>,
    },
    /// What ANALYZE TABLE found out.
    Stats {
        table: ObjectName,
        filter: Option<ShowFilter>,
    },
    /// Stored connections.
    Connections {
        filter: Option<ShowFilter>,
    },
    /// The nodes, and how they stand.
    Cluster,
    Settings {
        filter: Option<ShowFilter>,
    },
    Functions {
        filter: Option<ShowFilter>,
    },
    /// Kinds of which there is never any here: answered with their columns and no row.
    None(NothingToShow),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NothingToShow {
    Triggers,
    Events,
    Routines,
    Privileges,
    OpenTables,
    Replicas,
    BinaryLogStatus,
}

#[derive(Debug, Clone)]
pub enum ShowFilter {
    /// MySQL's pattern: `%`, `_`, backslash; case does not count.
    Like(String),
    /// Over the columns of what is shown.
    Where(Box<Expr>),
}

/// Reads what follows `SHOW`.
pub(super) fn parse(parser: &mut Parser) -> Result<Show, ParserError> {
    let mut full = false;
    let mut global = false;
    loop {
        let word = peek_word(parser, 0);
        match word.as_str() {
            "FULL" => full = true,
            "GLOBAL" => global = true,
            "SESSION" | "LOCAL" | "EXTENDED" | "ALL" | "STORAGE" => {}
            _ => break,
        }
        parser.advance_token();
    }
    let start = parser.peek_token();
    let word = peek_word(parser, 0);
    if !word.is_empty() {
        parser.advance_token();
    }
    match word.as_str() {
        "DATABASES" | "SCHEMAS" => Ok(Show::Databases { filter: parse_filter(parser)? }),
        "TABLES" => Ok(Show::Tables { full, database: parse_in(parser)?, filter: parse_filter(parser)? }),
        "COLUMNS" | "FIELDS" => {
            let (table, database) = parse_table(parser)?;
            Ok(Show::Columns { full, table, database, filter: parse_filter(parser)? })
        }
        "INDEX" | "INDEXES" | "KEYS" => {
            let (table, database) = parse_table(parser)?;
            parse_filter(parser)?;
            Ok(Show::Index { table, database })
        }
        "PARTITIONS" => {
            let (table, database) = parse_table(parser)?;
            let filter = match parser.parse_keyword(Keyword::WHERE) {
                true => Some(Box::new(parser.parse_expr()?)),
                false => None,
            };
            Ok(Show::Partitions { table, database, filter })
        }
        "STATS" => {
            parser.expect_one_of_keywords(&[Keyword::FOR, Keyword::FROM])?;
            Ok(Show::Stats { table: parser.parse_object_name(false)?, filter: parse_filter(parser)? })
        }
        "CREATE" => parse_create(parser),
        "VARIABLES" => Ok(Show::Variables { global, filter: parse_filter(parser)? }),
        "STATUS" => Ok(Show::Status { filter: parse_filter(parser)? }),
        "SETTINGS" => Ok(Show::Settings { filter: parse_filter(parser)? }),
        "FUNCTIONS" => Ok(Show::Functions { filter: parse_filter(parser)? }),
        "WARNINGS" => Ok(Show::Warnings { limit: parse_limit(parser)? }),
        "ERRORS" => Ok(Show::Errors { limit: parse_limit(parser)? }),
        "COUNT" => {
            parser.expect_token(&Token::LParen)?;
            parser.expect_token(&Token::Mul)?;
            parser.expect_token(&Token::RParen)?;
            let token = parser.next_token();
            match &token.token {
                Token::Word(word) if word.value.eq_ignore_ascii_case("warnings") => Ok(Show::Count { errors: false }),
                Token::Word(word) if word.value.eq_ignore_ascii_case("errors") => Ok(Show::Count { errors: true }),
                _ => parser.expected("WARNINGS or ERRORS", token),
            }
        }
        "PROCESSLIST" => Ok(Show::Processlist { full }),
        "CLUSTER" => Ok(Show::Cluster),
        "CONNECTIONS" => Ok(Show::Connections { filter: parse_filter(parser)? }),
        "ENGINES" => Ok(Show::Engines),
        "CHARSET" => Ok(Show::Charset { filter: parse_filter(parser)? }),
        "CHARACTER" => {
            parser.expect_keyword(Keyword::SET)?;
            Ok(Show::Charset { filter: parse_filter(parser)? })
        }
        "COLLATION" => Ok(Show::Collation { filter: parse_filter(parser)? }),
        "PLUGINS" => Ok(Show::Plugins),
        "GRANTS" => {
            let (of, using) = AccountParser { parser, secrets: &mut vec![] }.grants_of()?;
            Ok(Show::Grants { of, using })
        }
        "TABLE" => {
            expect_word(parser, "STATUS")?;
            Ok(Show::TableStatus { database: parse_in(parser)?, filter: parse_filter(parser)? })
        }
        "TRIGGERS" | "EVENTS" | "PRIVILEGES" | "PROCEDURE" | "FUNCTION" | "OPEN" | "MASTER" | "REPLICA" | "SLAVE"
        | "BINARY" => {
            let kind = match word.as_str() {
                "TRIGGERS" => NothingToShow::Triggers,
                "EVENTS" => NothingToShow::Events,
                "PRIVILEGES" => NothingToShow::Privileges,
                "PROCEDURE" | "FUNCTION" => NothingToShow::Routines,
                "OPEN" => NothingToShow::OpenTables,
                "REPLICA" | "SLAVE" => NothingToShow::Replicas,
                _ => NothingToShow::BinaryLogStatus,
            };
            skip_rest(parser);
            Ok(Show::None(kind))
        }
        _ => parser.expected("what to show, such as DATABASES, TABLES or VARIABLES", start),
    }
}

/// The `n`-th word from here in capitals; empty if it is something else.
fn peek_word(parser: &Parser, n: usize) -> String {
    match &parser.peek_nth_token_ref(n).token {
        Token::Word(Word { value, quote_style: None, .. }) => value.to_ascii_uppercase(),
        _ => String::new(),
    }
}

fn expect_word(parser: &mut Parser, expected: &str) -> Result<(), ParserError> {
    if peek_word(parser, 0) == expected {
        parser.advance_token();
        return Ok(());
    }
    parser.expected_ref(expected, parser.peek_token_ref())
}

fn skip_rest(parser: &mut Parser) {
    while parser.peek_token_ref().token != Token::EOF {
        parser.advance_token();
    }
}

fn parse_in(parser: &mut Parser) -> Result<Option<String>, ParserError> {
    match parser.parse_one_of_keywords(&[Keyword::FROM, Keyword::IN]) {
        Some(_) => Ok(Some(parser.parse_identifier()?.value)),
        None => Ok(None),
    }
}

fn parse_table(parser: &mut Parser) -> Result<(ObjectName, Option<String>), ParserError> {
    parser.expect_one_of_keywords(&[Keyword::FROM, Keyword::IN])?;
    Ok((parser.parse_object_name(false)?, parse_in(parser)?))
}

fn parse_create(parser: &mut Parser) -> Result<Show, ParserError> {
    if peek_word(parser, 0) == "USER" {
        parser.advance_token();
        let user = AccountParser { parser, secrets: &mut vec![] }.user()?;
        return Ok(Show::CreateUser { user });
    }
    let kind = parser.expect_one_of_keywords(&[Keyword::TABLE, Keyword::VIEW, Keyword::DATABASE, Keyword::SCHEMA])?;
    match kind {
        Keyword::TABLE => return Ok(Show::CreateTable { table: parser.parse_object_name(false)? }),
        Keyword::VIEW => return Ok(Show::CreateView { view: parser.parse_object_name(false)? }),
        _ => {}
    }
    let _ = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    Ok(Show::CreateDatabase { name: parser.parse_identifier()?.value })
}

fn parse_filter(parser: &mut Parser) -> Result<Option<ShowFilter>, ParserError> {
    if parser.parse_keyword(Keyword::LIKE) {
        return Ok(Some(ShowFilter::Like(parser.parse_literal_string()?)));
    }
    if parser.parse_keyword(Keyword::WHERE) {
        return Ok(Some(ShowFilter::Where(Box::new(parser.parse_expr()?))));
    }
    Ok(None)
}

/// `LIMIT [offset,] count`, as (offset, count).
fn parse_limit(parser: &mut Parser) -> Result<Option<(u64, u64)>, ParserError> {
    if !parser.parse_keyword(Keyword::LIMIT) {
        return Ok(None);
    }
    let first = parser.parse_literal_uint()?;
    if parser.consume_token(&Token::Comma) {
        return Ok(Some((first, parser.parse_literal_uint()?)));
    }
    if parser.parse_keyword(Keyword::OFFSET) {
        return Ok(Some((parser.parse_literal_uint()?, first)));
    }
    Ok(Some((0, first)))
}
