//! `SET`: any number of assignments, of any expressions, to variables of any kind.

use datafusion::sql::sqlparser::ast::{Expr, Ident, Value};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, Word};

/// Where a system variable is read or set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariableScope {
    /// Not said: the session's value.
    Default,
    Session,
    Global,
}

/// What a `SET` writes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssignmentTarget {
    /// A system variable or a setting, dots included: `datafusion.execution.batch_size`.
    Variable { scope: VariableScope, name: String },
    /// `@name`, in lower case.
    User(String),
    /// `NAMES`, `CHARACTER SET`: several variables at once.
    Names { collation: Option<String> },
    /// One property of `SET [SESSION] TRANSACTION`: `transaction_isolation` or `transaction_read_only`.
    Transaction { scope: VariableScope, name: &'static str },
}

/// One `target = value`. A bare word such as `ON` or `utf8mb4` is a string; `DEFAULT` is the identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub target: AssignmentTarget,
    pub value: Expr,
}

/// Reads what follows `SET`.
pub(super) fn parse(parser: &mut Parser) -> Result<Vec<Assignment>, ParserError> {
    let mut assignments = vec![];
    loop {
        parse_one(parser, &mut assignments)?;
        if !parser.consume_token(&Token::Comma) {
            return Ok(assignments);
        }
    }
}

fn parse_one(parser: &mut Parser, assignments: &mut Vec<Assignment>) -> Result<(), ParserError> {
    let scope = match parser.parse_one_of_keywords(&[Keyword::GLOBAL, Keyword::SESSION, Keyword::LOCAL]) {
        Some(Keyword::GLOBAL) => VariableScope::Global,
        Some(_) => VariableScope::Session,
        None => parse_persist(parser),
    };
    if parser.parse_keyword(Keyword::TRANSACTION) {
        return parse_transaction(parser, scope, assignments);
    }
    if parser.peek_keyword(Keyword::NAMES) && !is_assignment(parser, 1) {
        parser.advance_token();
        let value = parse_word_value(parser)?;
        let collation =
            if parser.parse_keyword(Keyword::COLLATE) { Some(parser.parse_identifier()?.value) } else { None };
        assignments.push(Assignment { target: AssignmentTarget::Names { collation }, value });
        return Ok(());
    }
    if parser.parse_keywords(&[Keyword::CHARACTER, Keyword::SET])
        || (parser.peek_keyword(Keyword::CHARSET)
            && !is_assignment(parser, 1)
            && parser.parse_keyword(Keyword::CHARSET))
    {
        let value = parse_word_value(parser)?;
        assignments.push(Assignment { target: AssignmentTarget::Names { collation: None }, value });
        return Ok(());
    }
    if parser.parse_keywords(&[Keyword::TIME, Keyword::ZONE]) {
        let _ = parser.consume_token(&Token::Eq) || parser.parse_keyword(Keyword::TO);
        let target = AssignmentTarget::Variable { scope, name: "time_zone".into() };
        assignments.push(Assignment { target, value: parse_word_value(parser)? });
        return Ok(());
    }
    let mut parts = vec![parser.parse_identifier()?];
    while parser.consume_token(&Token::Period) {
        parts.push(parser.parse_identifier()?);
    }
    let target = target(scope, &parts);
    if !(parser.consume_token(&Token::Eq)
        || parser.consume_token(&Token::Assignment)
        || parser.parse_keyword(Keyword::TO))
    {
        return parser.expected_ref("= or :=", parser.peek_token_ref());
    }
    assignments.push(Assignment { target, value: parse_word_value(parser)? });
    Ok(())
}

/// `PERSIST` sets the global value and would write it down; nothing here is written down yet.
fn parse_persist(parser: &mut Parser) -> VariableScope {
    match &parser.peek_token_ref().token {
        Token::Word(Word { value, quote_style: None, .. })
            if (value.eq_ignore_ascii_case("persist") || value.eq_ignore_ascii_case("persist_only"))
                && !is_assignment(parser, 1) =>
        {
            parser.advance_token();
            VariableScope::Global
        }
        _ => VariableScope::Default,
    }
}

/// Whether the `n`-th token from here assigns to what stands before it.
fn is_assignment(parser: &Parser, n: usize) -> bool {
    matches!(parser.peek_nth_token_ref(n).token, Token::Eq | Token::Assignment | Token::Period)
}

fn target(scope: VariableScope, parts: &[Ident]) -> AssignmentTarget {
    let is_bare = |it: &Ident| it.quote_style.is_none();
    let first = &parts[0];
    let rest = || parts[1..].iter().map(|it| it.value.to_lowercase()).collect::<Vec<_>>().join(".");
    if is_bare(first)
        && let Some(name) = first.value.strip_prefix("@@")
    {
        return match name.to_lowercase().as_str() {
            "global" | "persist" | "persist_only" => {
                AssignmentTarget::Variable { scope: VariableScope::Global, name: rest() }
            }
            "session" | "local" => AssignmentTarget::Variable { scope: VariableScope::Session, name: rest() },
            name if parts.len() == 1 => AssignmentTarget::Variable { scope, name: name.to_owned() },
            name => AssignmentTarget::Variable { scope, name: format!("{name}.{}", rest()) },
        };
    }
    if is_bare(first)
        && let Some(name) = first.value.strip_prefix('@')
    {
        return AssignmentTarget::User(name.to_lowercase());
    }
    let name = parts.iter().map(|it| it.value.to_lowercase()).collect::<Vec<_>>().join(".");
    AssignmentTarget::Variable { scope, name }
}

/// A value: an expression, or one word such as `ON`, `DEFAULT`, `utf8mb4`, which MySQL takes for its own text.
fn parse_word_value(parser: &mut Parser) -> Result<Expr, ParserError> {
    let ends = |token: &Token| matches!(token, Token::EOF | Token::Comma | Token::SemiColon);
    let follows = &parser.peek_nth_token_ref(1).token;
    let collates = matches!(follows, Token::Word(word) if word.keyword == Keyword::COLLATE);
    if let Token::Word(word) = &parser.peek_token_ref().token
        && (ends(follows) || collates)
        && !word.value.starts_with('@')
        && !matches!(word.keyword, Keyword::NULL | Keyword::TRUE | Keyword::FALSE)
        && !word.keyword.is_function_without_parentheses()
    {
        let word = word.clone();
        parser.advance_token();
        return Ok(if word.keyword == Keyword::DEFAULT && word.quote_style.is_none() {
            Expr::Identifier(Ident::new("DEFAULT"))
        } else {
            text(word.value)
        });
    }
    parser.parse_expr()
}

trait FunctionWithoutParentheses {
    fn is_function_without_parentheses(&self) -> bool;
}

impl FunctionWithoutParentheses for Keyword {
    fn is_function_without_parentheses(&self) -> bool {
        matches!(
            self,
            Keyword::CURRENT_USER | Keyword::CURRENT_DATE | Keyword::CURRENT_TIME | Keyword::CURRENT_TIMESTAMP
        )
    }
}

fn text(value: impl Into<String>) -> Expr {
    Expr::Value(Value::SingleQuotedString(value.into()).into())
}

fn parse_transaction(
    parser: &mut Parser,
    scope: VariableScope,
    assignments: &mut Vec<Assignment>,
) -> Result<(), ParserError> {
    loop {
        let (name, value) = if parser.parse_keywords(&[Keyword::ISOLATION, Keyword::LEVEL]) {
            let level = if parser.parse_keywords(&[Keyword::READ, Keyword::UNCOMMITTED]) {
                "READ-UNCOMMITTED"
            } else if parser.parse_keywords(&[Keyword::READ, Keyword::COMMITTED]) {
                "READ-COMMITTED"
            } else if parser.parse_keywords(&[Keyword::REPEATABLE, Keyword::READ]) {
                "REPEATABLE-READ"
            } else if parser.parse_keyword(Keyword::SERIALIZABLE) {
                "SERIALIZABLE"
            } else {
                return parser.expected_ref("an isolation level", parser.peek_token_ref());
            };
            ("transaction_isolation", text(level))
        } else if parser.parse_keywords(&[Keyword::READ, Keyword::ONLY]) {
            ("transaction_read_only", text("ON"))
        } else if parser.parse_keywords(&[Keyword::READ, Keyword::WRITE]) {
            ("transaction_read_only", text("OFF"))
        } else {
            return parser.expected_ref("ISOLATION LEVEL, READ ONLY or READ WRITE", parser.peek_token_ref());
        };
        assignments.push(Assignment { target: AssignmentTarget::Transaction { scope, name }, value });
        if !parser.consume_token(&Token::Comma) {
            return Ok(());
        }
    }
}
