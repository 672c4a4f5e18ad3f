//! The line editor: rustyline with SQL's colours, completion, and statements of several lines.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::{Hinter, HistoryHinter};
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{ColorMode, CompletionType, Config, Context, Editor, Helper};

use super::backend::Names;
use super::command::{HELP, command};
use super::names::{candidates, is_keyword};
use super::terminal;
use super::text::{TokenKind, is_complete, tokens};

const HISTORY_MAX: usize = 10_000;

/// Where names come from when the user first asks for them.
pub type Fetch = Rc<dyn Fn() -> Option<Names>>;

/// What the editor knows of the session.
pub struct SqlHelper {
    names: RefCell<Option<Names>>,
    fetch: Fetch,
    pub database: RefCell<Option<String>>,
    files: FilenameCompleter,
    history: HistoryHinter,
    has_colours: Cell<bool>,
}

impl SqlHelper {
    /// The next completion asks for the names anew.
    pub fn forget_names(&self) {
        *self.names.borrow_mut() = None;
    }
}

/// What the user typed.
pub enum Input {
    Text(String),
    /// Ctrl-C at the prompt: what was typed is not wanted.
    Dropped,
    /// Ctrl-D, or standard input ended.
    End,
}

pub struct SqlEditor {
    editor: Editor<SqlHelper, FileHistory>,
    /// `None` when nothing may be kept.
    history: Option<PathBuf>,
}

impl SqlEditor {
    /// Errs when the terminal cannot be used.
    pub fn new(fetch: Fetch) -> Result<Self, ReadlineError> {
        let has_colours = terminal::has_colours();
        let config = Config::builder()
            .max_history_size(HISTORY_MAX)?
            .history_ignore_dups(true)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .completion_prompt_limit(200)
            .color_mode(if has_colours { ColorMode::Enabled } else { ColorMode::Disabled })
            .auto_add_history(false)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(SqlHelper {
            names: RefCell::default(),
            fetch,
            database: RefCell::default(),
            files: FilenameCompleter::new(),
            history: HistoryHinter::new(),
            has_colours: Cell::new(has_colours),
        }));
        let history = history_file();
        if let Some(path) = &history {
            // A first start has none.
            let _ = editor.load_history(path);
        }
        Ok(Self { editor, history })
    }

    pub fn helper(&self) -> Option<&SqlHelper> {
        self.editor.helper()
    }

    /// Reads one command, or text that ends with a statement's end. `initial` is there to be edited.
    pub fn read(&mut self, prompt: &str, initial: &str) -> Result<Input, ReadlineError> {
        match self.editor.readline_with_initial(prompt, (initial, "")) {
            Ok(text) => {
                self.remember(&text);
                Ok(Input::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::Dropped),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(error) => Err(error),
        }
    }

    fn remember(&mut self, text: &str) {
        let text = text.trim_end();
        if text.is_empty() || is_secret(text) || !matches!(self.editor.add_history_entry(text), Ok(true)) {
            return;
        }
        if let Some(path) = &self.history {
            // A history that cannot be kept is no reason to stop.
            let _ = self.editor.append_history(path);
        }
    }
}

/// Statements whose text holds a password are not kept.
fn is_secret(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    ["IDENTIFIED", "PASSWORD", "SECRET", "CREDENTIAL"].iter().any(|word| text.contains(word))
}

/// `SHEAF_SQL_HISTORY`, where an empty text means none, or a file of the user's state.
fn history_file() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SHEAF_SQL_HISTORY") {
        return (!path.is_empty()).then(|| PathBuf::from(path));
    }
    let state = std::env::var_os("XDG_STATE_HOME").filter(|it| !it.is_empty()).map(PathBuf::from);
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    let folder = state.join("sheaf");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("sql_history"))
}

impl Helper for SqlHelper {}

impl Validator for SqlHelper {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        let text = context.input();
        let is_command = !matches!(command(text.lines().next().unwrap_or_default()), Ok(None));
        Ok(match is_command || is_complete(text) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Hinter for SqlHelper {
    type Hint = String;

    fn hint(&self, line: &str, position: usize, context: &Context<'_>) -> Option<String> {
        // Only what goes on in the same line: a hint of many lines pushes the prompt away.
        self.history.hint(line, position, context).filter(|hint| !hint.contains('\n'))
    }
}

impl Completer for SqlHelper {
    type Candidate = Pair;

    fn complete(&self, line: &str, position: usize, context: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let text = &line[..position];
        if let Some(typed) = text.strip_prefix('\\').filter(|it| !it.contains(char::is_whitespace)) {
            let usages =
                HELP.iter().filter_map(|(usage, _)| usage.split([' ', '[']).next()).map(|it| it.trim_end_matches(','));
            let fits = usages.filter(|it| it[1..].starts_with(typed));
            return Ok((0, fits.map(|it| Pair { display: it.to_owned(), replacement: it.to_owned() }).collect()));
        }
        let is_file_command = ["\\. ", "\\i ", "\\o ", "\\T ", "source ", "tee "].iter().any(|it| text.starts_with(it));
        let in_string = tokens(text).last().is_some_and(|it| it.kind == TokenKind::String && !it.is_closed);
        if is_file_command || in_string {
            return self.files.complete(line, position, context);
        }
        if self.names.borrow().is_none() {
            *self.names.borrow_mut() = (self.fetch)();
        }
        let (names, none) = (self.names.borrow(), Names::default());
        let found = candidates(text, names.as_ref().unwrap_or(&none), self.database.borrow().as_deref());
        let pair = |word: String| Pair { display: word.clone(), replacement: word };
        Ok((found.start, found.words.into_iter().map(pair).collect()))
    }
}

const RESET: &str = "\x1b[0m";

fn colour(kind: TokenKind, text: &str) -> Option<&'static str> {
    match kind {
        TokenKind::Word if is_keyword(text) => Some("\x1b[1;34m"),
        TokenKind::Number => Some("\x1b[36m"),
        TokenKind::String => Some("\x1b[32m"),
        TokenKind::QuotedName => Some("\x1b[33m"),
        TokenKind::Comment => Some("\x1b[2m"),
        TokenKind::Backslash(_) => Some("\x1b[35m"),
        _ => None,
    }
}

/// SQL with the colours of a terminal.
pub fn coloured(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for token in tokens(text) {
        let piece = &text[token.start..token.end];
        match colour(token.kind, piece) {
            Some(colour) => out.extend([colour, piece, RESET]),
            None => out.push_str(piece),
        }
    }
    out
}

impl Highlighter for SqlHelper {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        Cow::Owned(coloured(line))
    }

    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Owned(format!("\x1b[1m{prompt}{RESET}"))
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[2m{hint}{RESET}"))
    }

    fn highlight_char(&self, _: &str, _: usize, _: CmdKind) -> bool {
        self.has_colours.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_add_nothing_but_themselves() {
        let text = "SELECT 'ä;', `b`, 1.5 -- c\nFROM t\\G";
        let shown = coloured(text);
        assert!(shown.contains("\x1b[1;34mSELECT\x1b[0m") && shown.contains("\x1b[32m'ä;'\x1b[0m"), "{shown:?}");
        let mut plain = String::new();
        let mut rest = shown.as_str();
        while let Some(at) = rest.find('\x1b') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + rest[at..].find('m').unwrap() + 1..];
        }
        plain.push_str(rest);
        assert_eq!(plain, text);
    }

    #[test]
    fn passwords_are_not_remembered() {
        assert!(is_secret("CREATE USER a IDENTIFIED BY 'x';") && is_secret("set password = 'x';"));
        assert!(!is_secret("SELECT 1;"));
    }
}
