//! The text of one client's message: tokens with true positions, cut into statements.

use std::borrow::Cow;
use std::ops::Range;

use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Whitespace};

use super::error_at;
use crate::error::PlanError;

/// The server version that `/*!NNNNN …*/` comments are compared with: what we announce is 8.4.
const MYSQL_VERSION_ID: u32 = 80_400;

/// A text and where each of its lines and characters begins, since the tokenizer counts characters.
pub(super) struct Source<'a> {
    text: &'a str,
    /// Invariant: index of the first character of each line, ascending, never empty.
    line_starts: Vec<usize>,
    /// Byte offset of each character; absent where every character is one byte.
    offsets: Option<Vec<usize>>,
}

impl<'a> Source<'a> {
    pub fn new(text: &'a str) -> Self {
        let newlines = text.chars().enumerate().filter(|(_, c)| *c == '\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(newlines).collect();
        let offsets = (!text.is_ascii()).then(|| text.char_indices().map(|(at, _)| at).collect());
        Self { text, line_starts, offsets }
    }

    /// Byte offset of a position of the tokenizer, which counts from 1; the end of the text for what lies behind it.
    pub fn offset(&self, at: Location) -> usize {
        let line = (at.line as usize).saturating_sub(1).min(self.line_starts.len() - 1);
        let char_index = self.line_starts[line] + (at.column as usize).saturating_sub(1);
        match &self.offsets {
            Some(offsets) => offsets.get(char_index).copied().unwrap_or(self.text.len()),
            None => char_index.min(self.text.len()),
        }
    }

    pub fn slice(&self, range: Range<usize>) -> &'a str {
        self.text.get(range).unwrap_or_default()
    }

    /// What stands at and behind a position, as MySQL quotes it: at most 80 characters.
    pub fn near(&self, at: Location) -> String {
        self.slice(self.offset(at)..self.text.len()).trim_end().chars().take(80).collect()
    }

    /// The text as it is executed: without the marks of version comments. Each byte has its place.
    pub fn executed(&self, dialect: &dyn Dialect) -> Result<Cow<'a, str>, PlanError> {
        let tokens = tokenize(self.text, self, dialect)?;
        Ok(open_version_comments(self, &tokens).map_or(Cow::Borrowed(self.text), Cow::Owned))
    }

    pub fn end(&self) -> Location {
        let line = self.line_starts.len();
        let n_chars = self.offsets.as_ref().map_or(self.text.len(), Vec::len);
        Location::new(line as u64, (n_chars - self.line_starts[line - 1] + 1) as u64)
    }
}

/// Splits a text into tokens.
///
/// The contents of version comments are executed as MySQL does it: their marks are blanked out, the text between
/// them keeps its place. Anonymous parameters become `$1`, `$2`, … within each statement.
pub(super) fn tokens(
    source: &Source,
    dialect: &dyn Dialect,
    open_comments: bool,
) -> Result<Vec<TokenWithSpan>, PlanError> {
    let tokens = tokenize(source.text, source, dialect)?;
    let opened = if open_comments { open_version_comments(source, &tokens) } else { None };
    let mut tokens = match opened {
        Some(text) => tokenize(&text, source, dialect)?,
        None => tokens,
    };
    let mut n_parameters = 0;
    for TokenWithSpan { token, .. } in &mut tokens {
        match token {
            Token::SemiColon => n_parameters = 0,
            Token::Placeholder(name) if name == "?" => {
                n_parameters += 1;
                *name = format!("${n_parameters}");
            }
            Token::Question => {
                n_parameters += 1;
                *token = Token::Placeholder(format!("${n_parameters}"));
            }
            _ => {}
        }
    }
    Ok(tokens)
}

fn tokenize(text: &str, source: &Source, dialect: &dyn Dialect) -> Result<Vec<TokenWithSpan>, PlanError> {
    Tokenizer::new(dialect, text).tokenize_with_location().map_err(|error| {
        let at = if error.location.line == 0 { source.end() } else { error.location };
        error_at(source, at, &error.message)
    })
}

/// The text with the marks of its version comments made blank; none when there are none to open.
fn open_version_comments(source: &Source, tokens: &[TokenWithSpan]) -> Option<String> {
    let mut opened: Option<String> = None;
    for token in tokens {
        let Token::Whitespace(Whitespace::MultiLineComment(comment)) = &token.token else { continue };
        let Some(body) = comment.strip_prefix('!') else { continue };
        let n_digits = body.bytes().take_while(u8::is_ascii_digit).count().min(6);
        // Five digits name a version of MySQL, six one from 8.0 on with two for each part.
        let n_digits = if n_digits < 5 { 0 } else { n_digits };
        if body[..n_digits].parse::<u32>().is_ok_and(|version| version > MYSQL_VERSION_ID) {
            continue;
        }
        let text = opened.get_or_insert_with(|| source.text.to_owned());
        let (start, end) = (source.offset(token.span.start), source.offset(token.span.end));
        let n_open = "/*!".len() + n_digits;
        text.replace_range(start..start + n_open, &" ".repeat(n_open));
        text.replace_range(end - 2..end, "  ");
    }
    opened
}

/// Cuts at semicolons. Statements of which nothing but comments is left are dropped.
pub(super) fn split(tokens: Vec<TokenWithSpan>) -> Vec<Vec<TokenWithSpan>> {
    let mut statements = vec![vec![]];
    for token in tokens {
        if token.token == Token::SemiColon {
            statements.push(vec![]);
        } else {
            statements.last_mut().expect("never empty").push(token);
        }
    }
    statements.retain(|tokens| tokens.iter().any(|it| !matches!(it.token, Token::Whitespace(_) | Token::EOF)));
    statements
}
