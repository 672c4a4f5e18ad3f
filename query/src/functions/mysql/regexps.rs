//! The chapter of regular expressions. Letters match whatever their case unless the match type has `c`, as under
//! MySQL's default collation. Patterns are those of the crate `regex`: without back references and look-around.

use arrow::array::ArrayRef;
use datafusion::error::Result;
use regex::{Regex, RegexBuilder};
use sheaf_common::ErrorCode;

use super::columns::{Call, TEXT_BYTES_MAX, Texts};
use super::{Chapter, Definition, Returns, refused};

const REGEXP: Chapter = Chapter::RegularExpression;
/// What a compiled pattern may take.
const PATTERN_BYTES_MAX: usize = 4 << 20;

pub(super) const FUNCTIONS: &[Definition] = &[
    Definition::new(REGEXP, "regexp_instr", 2..=6, Returns::Int, instr),
    Definition::new(REGEXP, "regexp_like", 2..=3, Returns::Bool, |c| {
        let text = c.text(0)?;
        let mut patterns = Patterns::new(c, 2)?;
        let mut failed = None;
        let array = c.bools_of(|row| {
            let text = text.get(row)?;
            Some(patterns.of(row, &mut failed)?.is_match(text))
        })?;
        failed.map_or(Ok(array), Err)
    }),
    // text, pattern, escape: LIKE with another escape than the backslash, which the engine does not have.
    Definition::new(REGEXP, "op.like", 3..=3, Returns::Bool, |c| {
        let (text, pattern, escape) = (c.text(0)?, c.text(1)?, c.text(2)?);
        let mut last: Option<(String, Regex)> = None;
        c.bools_of(|row| {
            let (text, pattern, escape) = (text.get(row)?, pattern.get(row)?, escape.get(row)?);
            let key = format!("{escape}/{pattern}");
            if last.as_ref().is_none_or(|(it, _)| *it != key) {
                last = Some((key, super::json::like(pattern, escape.chars().next())?));
            }
            last.as_ref().map(|(_, regex)| regex.is_match(text))
        })
    }),
    Definition::new(REGEXP, "regexp_replace", 3..=6, Returns::Text, replace),
    Definition::new(REGEXP, "regexp_substr", 2..=5, Returns::Text, substr),
];

/// The pattern of each row; compiled again only where it changes.
struct Patterns {
    pattern: Texts,
    match_type: Texts,
    has_match_type: bool,
    last: Option<(String, Regex)>,
}

impl Patterns {
    /// `match_type_at` is the argument that says how to match, if the call has it.
    fn new(c: &Call, match_type_at: usize) -> Result<Self> {
        Ok(Self {
            pattern: c.text(1)?,
            match_type: c.text(match_type_at)?,
            has_match_type: c.n_arguments() > match_type_at,
            last: None,
        })
    }

    /// None if the pattern is NULL or wrong; then `failed` says why.
    fn of(&mut self, row: usize, failed: &mut Option<datafusion::error::DataFusionError>) -> Option<&Regex> {
        let pattern = self.pattern.get(row)?;
        let match_type = if self.has_match_type { self.match_type.get(row)? } else { "" };
        let key = format!("{match_type}/{pattern}");
        if self.last.as_ref().is_none_or(|(it, _)| *it != key) {
            match compile(pattern, match_type) {
                Ok(regex) => self.last = Some((key, regex)),
                Err(error) => {
                    failed.get_or_insert(error);
                    return None;
                }
            }
        }
        self.last.as_ref().map(|(_, regex)| regex)
    }
}

fn compile(pattern: &str, match_type: &str) -> Result<Regex> {
    let mut builder = RegexBuilder::new(pattern);
    builder.case_insensitive(true).size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
    for letter in match_type.chars() {
        match letter {
            'c' => builder.case_insensitive(false),
            'i' => builder.case_insensitive(true),
            'm' => builder.multi_line(true),
            'n' => builder.dot_matches_new_line(true),
            'u' => builder.crlf(false),
            _ => {
                return refused(
                    ErrorCode::InvalidArgument,
                    format!("incorrect match type '{match_type}' of a regular expression"),
                );
            }
        };
    }
    match builder.build() {
        Ok(regex) => Ok(regex),
        Err(error) => {
            refused(ErrorCode::InvalidRegex, format!("regular expression '{pattern}' cannot be read: {error}"))
        }
    }
}

/// Where a character of a position from 1 begins; none outside of the text and its end.
fn start_at(text: &str, position: i64) -> Option<usize> {
    let idx = usize::try_from(position.checked_sub(1)?).ok()?;
    text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(idx)
}

fn position_of(text: &str, at: usize) -> i64 {
    text[..at].chars().count() as i64 + 1
}

fn instr(c: &Call) -> Result<ArrayRef> {
    let (text, from, nth, wants_end) = (c.text(0)?, c.int(2)?, c.int(3)?, c.int(4)?);
    let n_arguments = c.n_arguments();
    let mut patterns = Patterns::new(c, 5)?;
    let mut failed = None;
    let array = c.ints_of(|row| {
        let text = text.get(row)?;
        let from = if n_arguments > 2 { from.get(row)? } else { 1 };
        let nth = if n_arguments > 3 { nth.get(row)?.max(1) } else { 1 };
        let wants_end = n_arguments > 4 && wants_end.get(row)? == 1;
        let regex = patterns.of(row, &mut failed)?;
        let Some(start) = start_at(text, from) else { return Some(0) };
        let found = matches_from(regex, text, start).nth(usize::try_from(nth - 1).ok()?);
        Some(found.map_or(0, |it| position_of(text, if wants_end { it.end() } else { it.start() })))
    })?;
    failed.map_or(Ok(array), Err)
}

fn substr(c: &Call) -> Result<ArrayRef> {
    let (text, from, nth) = (c.text(0)?, c.int(2)?, c.int(3)?);
    let n_arguments = c.n_arguments();
    let mut patterns = Patterns::new(c, 4)?;
    let mut failed = None;
    let array = c.texts_of(|row| {
        let text = text.get(row)?;
        let from = if n_arguments > 2 { from.get(row)? } else { 1 };
        let nth = if n_arguments > 3 { nth.get(row)?.max(1) } else { 1 };
        let regex = patterns.of(row, &mut failed)?;
        let start = start_at(text, from)?;
        let found = matches_from(regex, text, start).nth(usize::try_from(nth - 1).ok()?)?;
        Some(found.as_str().to_owned())
    })?;
    failed.map_or(Ok(array), Err)
}

/// The matches behind a place; what stands before it still counts as context.
fn matches_from<'r, 't>(
    regex: &'r Regex,
    text: &'t str,
    start: usize,
) -> impl Iterator<Item = regex::Match<'t>> + use<'r, 't> {
    let mut at = start;
    std::iter::from_fn(move || {
        let found = (at <= text.len()).then(|| regex.find_at(text, at)).flatten()?;
        // An empty match moves on by a character.
        at = match found.is_empty() {
            true => found.end() + text[found.end()..].chars().next().map_or(1, char::len_utf8),
            false => found.end(),
        };
        Some(found)
    })
}

fn replace(c: &Call) -> Result<ArrayRef> {
    let (text, new, from, nth) = (c.text(0)?, c.text(2)?, c.int(3)?, c.int(4)?);
    let n_arguments = c.n_arguments();
    let mut patterns = Patterns::new(c, 5)?;
    let mut failed = None;
    let array = c.texts_of(|row| {
        let (text, new) = (text.get(row)?, new.get(row)?);
        let from = if n_arguments > 3 { from.get(row)? } else { 1 };
        let nth = if n_arguments > 4 { nth.get(row)? } else { 0 };
        let regex = patterns.of(row, &mut failed)?;
        let start = start_at(text, from)?;
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        for (idx, found) in matches_from(regex, text, start).enumerate() {
            if nth > 0 && idx as i64 + 1 != nth {
                continue;
            }
            out.push_str(&text[at..found.start()]);
            match regex.captures_at(text, found.start()) {
                Some(groups) => put_replacement(&mut out, new, &groups),
                None => out.push_str(new),
            }
            at = found.end();
            if out.len() > TEXT_BYTES_MAX {
                return None;
            }
        }
        out.push_str(&text[at..]);
        Some(out)
    })?;
    failed.map_or(Ok(array), Err)
}

/// `$1` is what the first group matched, `\$` a dollar.
fn put_replacement(out: &mut String, new: &str, groups: &regex::Captures) {
    let mut letters = new.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => out.extend(letters.next()),
            '$' if letters.peek().is_some_and(char::is_ascii_digit) => {
                let number = letters.next().and_then(|it| it.to_digit(10)).unwrap_or(0);
                out.push_str(groups.get(number as usize).map_or("", |it| it.as_str()));
            }
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_go_on_behind_empty_ones() {
        let starts = |pattern: &str, text: &str, start: usize| -> Vec<usize> {
            matches_from(&compile(pattern, "").unwrap(), text, start).map(|it| it.start()).collect()
        };
        assert_eq!(starts("b*", "abé", 0), [0, 1, 2, 4]);
        assert_eq!(starts("A", "banana", 2), [3, 5]);
        assert_eq!(
            [start_at("äb", 2), start_at("äb", 3), start_at("äb", 4), start_at("a", 0)],
            [Some(2), Some(3), None, None]
        );
    }

    #[test]
    fn patterns_are_refused_with_words() {
        assert!(compile("(", "").unwrap_err().to_string().contains("regular expression '('"));
        assert!(compile("a", "z").is_err());
        assert!(compile("(a{1000}){1000}", "").is_err());
    }
}
