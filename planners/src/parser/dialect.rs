//! MySQL's dialect as our sessions read it: sqlparser's, with what it lacks or gets wrong mended.
//!
//! It passes itself off as [`MySqlDialect`], since sqlparser asks for that type by name in places.

use std::any::TypeId;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Statement};
use datafusion::sql::sqlparser::dialect::{Dialect, MySqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

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

impl Dialect for MySqlSessionDialect {
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
