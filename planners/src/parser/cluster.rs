//! `ALTER CLUSTER …`: what is done with the nodes themselves.

use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// A change of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlterCluster {
    /// `DRAIN NODE 'name'`: it takes no more queries, finishes those that it has, and leaves.
    DrainNode { node: String },
    /// `REMOVE NODE 'name'`: a coordinator that keeps the metadata no more, and ends.
    RemoveNode { node: String },
}

/// What follows `ALTER CLUSTER`.
pub(super) fn parse(sql: &mut Parser<'_>) -> Result<AlterCluster, ParserError> {
    let verb = sql.next_token();
    match &verb.token {
        Token::Word(word) if word.value.eq_ignore_ascii_case("DRAIN") => {
            expect_word(sql, "NODE")?;
            Ok(AlterCluster::DrainNode { node: node(sql)? })
        }
        Token::Word(word) if word.value.eq_ignore_ascii_case("REMOVE") => {
            expect_word(sql, "NODE")?;
            Ok(AlterCluster::RemoveNode { node: node(sql)? })
        }
        _ => sql.expected("DRAIN or REMOVE", verb),
    }
}

/// Whether the statement at hand, of which `ALTER` comes next, is one of these.
pub(super) fn is_next(sql: &Parser<'_>) -> bool {
    matches!(&sql.peek_nth_token_ref(1).token, Token::Word(word) if word.value.eq_ignore_ascii_case("CLUSTER"))
}

fn expect_word(sql: &mut Parser<'_>, expected: &str) -> Result<(), ParserError> {
    let token = sql.next_token();
    match &token.token {
        Token::Word(word) if word.value.eq_ignore_ascii_case(expected) => Ok(()),
        _ => sql.expected(expected, token),
    }
}

/// A node's name, as a string or as it stands.
fn node(sql: &mut Parser<'_>) -> Result<String, ParserError> {
    let token = sql.next_token();
    match token.token {
        Token::SingleQuotedString(name) | Token::DoubleQuotedString(name) => Ok(name),
        Token::Word(word) => Ok(word.value),
        _ => sql.expected("the name of a node", token),
    }
}
