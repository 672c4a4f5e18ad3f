//! MySQL's dialect as our sessions read it: sqlparser's, with what it lacks or gets wrong mended.
//!
//! It passes itself off as [`MySqlDialect`], since sqlparser asks for that type by name in places.

use std::any::TypeId;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, DateTimeField, Expr, Ident, Interval, Statement,
};
use datafusion::sql::sqlparser::dialect::{Dialect, MySqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::ast::call;

#[derive(Debug)]
pub(super) struct MySqlSessionDialect {
    /// `"text"` is an identifier, as under `sql_mode = ANSI_QUOTES`.
    pub ansi_quotes: bool,
}

const BASE: MySqlDialect = MySqlDialect {};

impl MySqlSessionDialect {
    /// `DIV` and `MOD` between two operands: words to the tokenizer, so that it cannot tell them by itself.
    fn word_operator(parser: &Parser) -> Option<BinaryOperator> {
        match &parser.peek_token_ref().token {
            Token::Word(word) if word.quote_style.is_none() && word.keyword == Keyword::DIV => {
                Some(BinaryOperator::MyIntegerDivide)
            }
            Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("mod") => {
                Some(BinaryOperator::Modulo)
            }
            _ => None,
        }
    }
}

/// Units of intervals that sqlparser does not know.
const COMPOUND_UNITS: [&str; 11] = [
    "SECOND_MICROSECOND",
    "MINUTE_MICROSECOND",
    "MINUTE_SECOND",
    "HOUR_MICROSECOND",
    "HOUR_SECOND",
    "HOUR_MINUTE",
    "DAY_MICROSECOND",
    "DAY_SECOND",
    "DAY_MINUTE",
    "DAY_HOUR",
    "YEAR_MONTH",
];

const UNITS: [(Keyword, DateTimeField); 9] = [
    (Keyword::MICROSECOND, DateTimeField::Microsecond),
    (Keyword::SECOND, DateTimeField::Second),
    (Keyword::MINUTE, DateTimeField::Minute),
    (Keyword::HOUR, DateTimeField::Hour),
    (Keyword::DAY, DateTimeField::Day),
    (Keyword::WEEK, DateTimeField::Week(None)),
    (Keyword::MONTH, DateTimeField::Month),
    (Keyword::QUARTER, DateTimeField::Quarter),
    (Keyword::YEAR, DateTimeField::Year),
];

/// The unit of an interval, if one stands here.
fn parse_unit(parser: &mut Parser) -> Option<DateTimeField> {
    let Token::Word(word) = &parser.peek_token_ref().token else { return None };
    let unit = match UNITS.iter().find(|(keyword, _)| *keyword == word.keyword) {
        Some((_, unit)) => unit.clone(),
        None if COMPOUND_UNITS.iter().any(|it| it.eq_ignore_ascii_case(&word.value)) => {
            DateTimeField::Custom(Ident::new(word.value.clone()))
        }
        None => return None,
    };
    parser.advance_token();
    Some(unit)
}

/// `INTERVAL 1 + 1 DAY`, `INTERVAL '1:30' MINUTE_SECOND`, behind its first word. None, with nothing taken, for what has
/// no unit of MySQL's: sqlparser's own form or the function INTERVAL.
fn parse_interval(parser: &mut Parser) -> Option<Expr> {
    let parsed = parser.maybe_parse(|parser| {
        let value = parser.parse_expr()?;
        match parse_unit(parser) {
            Some(unit) => Ok((value, unit)),
            None => Err(ParserError::ParserError("no unit".to_owned())),
        }
    });
    let (value, unit) = parsed.ok().flatten()?;
    Some(Expr::Interval(Interval {
        value: Box::new(value),
        leading_field: Some(unit),
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    }))
}

/// `(a, b)` behind a function's name, with `USING charset` at the end if there is one.
fn parse_arguments(parser: &mut Parser) -> Result<Vec<Expr>, ParserError> {
    parser.expect_token(&Token::LParen)?;
    let arguments = parser.parse_comma_separated(Parser::parse_expr)?;
    if parser.parse_keyword(Keyword::USING) {
        parser.parse_object_name(false)?;
    }
    parser.expect_token(&Token::RParen)?;
    Ok(arguments)
}

impl Dialect for MySqlSessionDialect {
    /// What sqlparser reads otherwise, or not at all: intervals of several units and of expressions, the function
    /// INTERVAL, and `CHAR(65 USING utf8mb4)`.
    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        let Token::Word(word) = &parser.peek_token_ref().token else { return None };
        if word.quote_style.is_some() {
            return None;
        }
        let has_bracket = parser.peek_nth_token_ref(1).token == Token::LParen;
        match word.keyword {
            Keyword::INTERVAL => {
                let parsed = parser.maybe_parse(|parser| {
                    parser.advance_token();
                    match parse_interval(parser) {
                        Some(interval) => Ok(interval),
                        None if has_bracket => parse_arguments(parser).map(|it| call("interval", it)),
                        None => Err(ParserError::ParserError("not MySQL's".to_owned())),
                    }
                });
                parsed.transpose()
            }
            // As tight as a cast; the parser's own takes all that follows for its operand.
            Keyword::BINARY => {
                let parsed = parser.maybe_parse(|parser| {
                    parser.advance_token();
                    let expr = Box::new(parser.parse_subexpr(BASE.prec_value(Precedence::DoubleColon))?);
                    let data_type = DataType::Binary(None);
                    Ok(Expr::Cast { kind: CastKind::Cast, expr, data_type, array: false, format: None })
                });
                parsed.transpose()
            }
            Keyword::CHAR if has_bracket => {
                let parsed = parser.maybe_parse(|parser| {
                    parser.advance_token();
                    parse_arguments(parser).map(|it| call("char", it))
                });
                parsed.transpose()
            }
            _ => None,
        }
    }

    fn allow_extract_custom(&self) -> bool {
        true
    }

    fn dialect(&self) -> TypeId {
        BASE.dialect()
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '`' || (self.ansi_quotes && ch == '"')
    }

    /// The operand on the right ends at the next operator of the same rank; sqlparser's own `DIV` swallows all that
    /// follows, which makes `7 DIV 2 + 1` two.
    fn parse_infix(&self, parser: &mut Parser, left: &Expr, precedence: u8) -> Option<Result<Expr, ParserError>> {
        let op = Self::word_operator(parser)?;
        parser.advance_token();
        let right = parser.parse_subexpr(precedence);
        Some(right.map(|right| Expr::BinaryOp { left: Box::new(left.clone()), op, right: Box::new(right) }))
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        let precedence = match &parser.peek_token_ref().token {
            // `&&` is AND here, not PostgreSQL's overlap.
            Token::Overlap => Precedence::And,
            _ => {
                Self::word_operator(parser)?;
                Precedence::MulDivModOp
            }
        };
        Some(Ok(self.prec_value(precedence)))
    }

    // Version comments are opened before the tokenizer sees them, so that positions stay true.
    fn supports_multiline_comment_hints(&self) -> bool {
        false
    }

    // What the engine plans beyond MySQL: a MySQL session may ask for it too.
    fn supports_group_by_expr(&self) -> bool {
        true
    }
    fn supports_group_by_with_modifier(&self) -> bool {
        true
    }
    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }
    fn supports_window_function_null_treatment_arg(&self) -> bool {
        true
    }
    fn supports_select_wildcard_except(&self) -> bool {
        true
    }
    fn supports_bang_not_operator(&self) -> bool {
        true
    }

    // As MySQL's own dialect has it.
    fn is_identifier_start(&self, ch: char) -> bool {
        BASE.is_identifier_start(ch)
    }
    fn is_identifier_part(&self, ch: char) -> bool {
        BASE.is_identifier_part(ch)
    }
    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        BASE.identifier_quote_style(identifier)
    }
    fn supports_string_literal_backslash_escape(&self) -> bool {
        BASE.supports_string_literal_backslash_escape()
    }
    fn supports_string_literal_concatenation(&self) -> bool {
        BASE.supports_string_literal_concatenation()
    }
    fn ignores_wildcard_escapes(&self) -> bool {
        BASE.ignores_wildcard_escapes()
    }
    fn supports_numeric_prefix(&self) -> bool {
        BASE.supports_numeric_prefix()
    }
    fn supports_bitwise_shift_operators(&self) -> bool {
        BASE.supports_bitwise_shift_operators()
    }
    fn parse_statement(&self, parser: &mut Parser) -> Option<Result<Statement, ParserError>> {
        BASE.parse_statement(parser)
    }
    // `INTERVAL '1 day'` is not MySQL's, but the engine's and every example's.
    fn require_interval_qualifier(&self) -> bool {
        false
    }
    fn supports_limit_comma(&self) -> bool {
        BASE.supports_limit_comma()
    }
    fn supports_create_table_select(&self) -> bool {
        BASE.supports_create_table_select()
    }
    fn supports_insert_set(&self) -> bool {
        BASE.supports_insert_set()
    }
    fn supports_user_host_grantee(&self) -> bool {
        BASE.supports_user_host_grantee()
    }
    fn is_table_factor_alias(&self, explicit: bool, kw: &Keyword, parser: &mut Parser) -> bool {
        BASE.is_table_factor_alias(explicit, kw, parser)
    }
    fn supports_table_hints(&self) -> bool {
        BASE.supports_table_hints()
    }
    fn requires_single_line_comment_whitespace(&self) -> bool {
        BASE.requires_single_line_comment_whitespace()
    }
    fn supports_match_against(&self) -> bool {
        BASE.supports_match_against()
    }
    fn supports_select_modifiers(&self) -> bool {
        BASE.supports_select_modifiers()
    }
    fn supports_set_names(&self) -> bool {
        BASE.supports_set_names()
    }
    fn supports_comma_separated_set_assignments(&self) -> bool {
        BASE.supports_comma_separated_set_assignments()
    }
    fn supports_update_order_by(&self) -> bool {
        BASE.supports_update_order_by()
    }
    fn supports_data_type_signed_suffix(&self) -> bool {
        BASE.supports_data_type_signed_suffix()
    }
    fn supports_cross_join_constraint(&self) -> bool {
        BASE.supports_cross_join_constraint()
    }
    fn supports_double_ampersand_operator(&self) -> bool {
        BASE.supports_double_ampersand_operator()
    }
    fn supports_binary_kw_as_cast(&self) -> bool {
        BASE.supports_binary_kw_as_cast()
    }
    fn supports_comment_optimizer_hint(&self) -> bool {
        BASE.supports_comment_optimizer_hint()
    }
    fn supports_constraint_keyword_without_name(&self) -> bool {
        BASE.supports_constraint_keyword_without_name()
    }
    fn supports_key_column_option(&self) -> bool {
        BASE.supports_key_column_option()
    }
}
