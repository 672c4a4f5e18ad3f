//! SQL text as the shell has to see it: where strings, names and comments are, and so where a statement ends.
//!
//! Reads MySQL's lexical rules. Does not know SQL: a statement is what stands before `;`, `\g` or `\G`.

/// What a token is, as far as colours and the ends of statements care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    Space,
    Comment,
    Word,
    Number,
    /// `'…'` or `"…"`.
    String,
    /// `` `…` ``.
    QuotedName,
    Semicolon,
    /// A backslash with the letter behind it, outside strings.
    Backslash(char),
    Symbol,
}

/// A piece of the text. Tokens follow one another without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    pub start: usize,
    pub end: usize,
    /// False for a string, name or comment that the text ends within.
    pub is_closed: bool,
}

/// All tokens of a text.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(token) = token(text, at) {
        at = token.end;
        tokens.push(token);
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || c == '@'
}

fn token(text: &str, start: usize) -> Option<Token> {
    let rest = &text[start..];
    let mut chars = rest.chars();
    let first = chars.next()?;
    let second = chars.next();
    let run = |fits: fn(char) -> bool| rest.find(|c| !fits(c)).unwrap_or(rest.len());
    let line = || rest.find('\n').unwrap_or(rest.len());
    let (kind, len, is_closed) = match (first, second) {
        _ if first.is_whitespace() => (TokenKind::Space, run(char::is_whitespace), true),
        ('#', _) => (TokenKind::Comment, line(), true),
        // `--1` is arithmetic; MySQL wants white space behind the dashes of a comment.
        ('-', Some('-')) if rest[2..].chars().next().is_none_or(char::is_whitespace) => {
            (TokenKind::Comment, line(), true)
        }
        ('/', Some('*')) => match rest[2..].find("*/") {
            Some(end) => (TokenKind::Comment, end + 4, true),
            None => (TokenKind::Comment, rest.len(), false),
        },
        ('\'' | '"', _) => {
            let (len, is_closed) = quoted(rest, first, true);
            (TokenKind::String, len, is_closed)
        }
        ('`', _) => {
            let (len, is_closed) = quoted(rest, first, false);
            (TokenKind::QuotedName, len, is_closed)
        }
        (';', _) => (TokenKind::Semicolon, 1, true),
        ('\\', Some(letter)) if !letter.is_whitespace() => (TokenKind::Backslash(letter), 1 + letter.len_utf8(), true),
        _ if first.is_ascii_digit() => {
            (TokenKind::Number, run(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_'), true)
        }
        _ if is_word(first) => (TokenKind::Word, run(is_word), true),
        _ => (TokenKind::Symbol, first.len_utf8(), true),
    };
    Some(Token { kind, start, end: start + len, is_closed })
}

/// The length of a quoted text that begins `rest`, and whether it ends there. A doubled quote stands for itself.
fn quoted(rest: &str, quote: char, has_escapes: bool) -> (usize, bool) {
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && has_escapes {
            chars.next();
        } else if c == quote {
            match chars.peek() {
                Some(&(_, next)) if next == quote => {
                    chars.next();
                }
                _ => return (at + 1, true),
            }
        }
    }
    (rest.len(), false)
}

/// What stands behind a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `;` or `\g`.
    Go,
    /// `\G`: the answer is wanted with a line for each column.
    Vertical,
    /// `\c`: the statement is not wanted.
    Clear,
    /// `\e`: the statement is wanted in an editor.
    Edit,
    /// The end of the text.
    Missing,
}

/// One statement of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement<'a> {
    /// Without what ends it and without the white space around it. Empty when there is nothing but comments.
    pub text: &'a str,
    pub end: End,
    /// Where the text goes on behind it.
    pub next: usize,
    /// Where `text` begins.
    pub start: usize,
}

/// The statement that begins at `from`. `None` where only white space is left.
pub fn statement(text: &str, from: usize) -> Option<Statement<'_>> {
    let mut at = from;
    let (mut start, mut has_code, mut is_open) = (None, false, false);
    while let Some(token) = token(text, at) {
        at = token.end;
        let end = match token.kind {
            TokenKind::Space => continue,
            TokenKind::Semicolon | TokenKind::Backslash('g') => Some(End::Go),
            TokenKind::Backslash('G') => Some(End::Vertical),
            TokenKind::Backslash('c') => Some(End::Clear),
            TokenKind::Backslash('e') => Some(End::Edit),
            _ => None,
        };
        let first = *start.get_or_insert(token.start);
        if let Some(end) = end {
            let text = if has_code { text[first..token.start].trim_end() } else { "" };
            return Some(Statement { text, end, next: token.end, start: first });
        }
        has_code |= token.kind != TokenKind::Comment;
        is_open = !token.is_closed;
    }
    let first = start?;
    // A comment that nobody closed is for the server to refuse.
    let body = if has_code || is_open { text[first..].trim_end() } else { "" };
    Some(Statement { text: body, end: End::Missing, next: text.len(), start: first })
}

/// Whether every statement of the text has its end.
pub fn is_complete(text: &str) -> bool {
    let mut at = 0;
    while let Some(statement) = statement(text, at) {
        if statement.end == End::Missing {
            return statement.text.is_empty();
        }
        at = statement.next;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(text: &str) -> Vec<(&str, End)> {
        let mut found = vec![];
        let mut at = 0;
        while let Some(it) = statement(text, at) {
            found.push((it.text, it.end));
            at = it.next;
        }
        found
    }

    #[test]
    fn statements_end_outside_of_strings_and_comments() {
        assert_eq!(
            statements("SELECT ';' , \"a;\\\"b\", `c;``d` -- x;\n, 1 /* ; */ # ;\n; SELECT 2\\G\nSELECT 3"),
            [
                ("SELECT ';' , \"a;\\\"b\", `c;``d` -- x;\n, 1 /* ; */ # ;", End::Go),
                ("SELECT 2", End::Vertical),
                ("SELECT 3", End::Missing),
            ]
        );
        assert_eq!(
            statements("SELECT 1--1; SELECT 'it''s'\\g"),
            [("SELECT 1--1", End::Go), ("SELECT 'it''s'", End::Go)]
        );
        assert_eq!(statements("oops \\c SELECT 1;"), [("oops", End::Clear), ("SELECT 1", End::Go)]);
        assert_eq!(statements("  \n"), []);
        assert_eq!(statements("-- nothing\n;"), [("", End::Go)]);
        assert_eq!(statements("-- nothing"), [("", End::Missing)]);
    }

    #[test]
    fn an_open_quote_is_not_complete() {
        for open in ["SELECT 'a;", "SELECT 1", "SELECT `a;", "SELECT /* ;", "SELECT 1; SELECT"] {
            assert!(!is_complete(open), "{open}");
        }
        for complete in ["", " \n", "SELECT 1;", "SELECT 1\\G", "SELECT 1; -- done", "SELECT 'ü;';"] {
            assert!(is_complete(complete), "{complete}");
        }
    }

    #[test]
    fn tokens_cover_the_text() {
        let text = "SELECT a.b, 1.5e3 FROM `t` WHERE x='ä\\'' -- ü\n\\d é \\";
        let tokens = tokens(text);
        let mut at = 0;
        for token in &tokens {
            assert_eq!(token.start, at);
            assert!(token.end > at);
            at = token.end;
        }
        assert_eq!(at, text.len());
        assert!(tokens.iter().any(|it| it.kind == TokenKind::Number && &text[it.start..it.end] == "1.5e3"));
    }
}
