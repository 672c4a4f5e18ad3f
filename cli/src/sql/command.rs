//! The commands that the shell does by itself: those of the mysql client and of psql that people have in their fingers.

/// What a line asks of the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Help,
    Quit,
    /// Lists tables, or describes one.
    Describe(Option<String>),
    Databases,
    Functions(Option<String>),
    Use(String),
    Source(String),
    Status,
    Timing,
    Expanded,
    /// The form of answers; without a name it is shown.
    Format(Option<String>),
    /// Answers go to the file; without a name to the terminal again.
    Output(Option<String>),
    Tee(String),
    NoTee,
    Pager(Option<String>),
    NoPager,
    Progress,
    Warnings(bool),
    Reconnect,
    Edit,
    System(String),
}

/// A line of the help: what is typed, and what it does.
pub const HELP: &[(&str, &str)] = &[
    ("\\?  help", "this list"),
    ("\\q  quit, exit", "leave, as Ctrl-D does"),
    ("\\d [TABLE]", "list tables, or describe one"),
    ("\\l", "list databases"),
    ("\\df [PATTERN]", "list functions, such as \\df date%"),
    ("\\u  use DATABASE", "change the database"),
    ("\\.  source FILE", "run the statements of a file"),
    ("\\g, \\G", "end a statement as ; does; \\G gives a line for each column"),
    ("\\c", "behind a statement: forget it"),
    ("\\e  edit", "edit the last statement, or the one before \\e, in $EDITOR"),
    ("\\s  status", "tell of the connection and the server"),
    ("\\timing", "show how long statements take, or do not"),
    ("\\x", "give every answer with a line for each column, or do not"),
    ("\\f [FORMAT]", "table, vertical, tsv, raw, csv, json, jsonl, markdown or parquet"),
    ("\\o [FILE]", "write answers to a file, or to the terminal again"),
    ("\\T  tee FILE", "write answers also to a file"),
    ("\\t  notee", "do not any more"),
    ("\\P  pager [COMMAND]", "show what is longer than the screen through a pager"),
    ("\\n  nopager", "do not"),
    ("\\progress", "show the progress of running statements, or do not"),
    ("\\W  warnings, \\w  nowarning", "show warnings after each statement, or do not"),
    ("\\r  connect", "connect anew"),
    ("\\!  system COMMAND", "run a command of the system"),
];

/// Why a line that looks like a command is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable(pub String);

/// Reads the line that begins `text`, if it is a command: a backslash and a letter, or one of the words above that no
/// statement begins with. `Ok(None)` for SQL.
pub fn command(line: &str) -> Result<Option<Command>, Unreadable> {
    let line = line.trim();
    let (word, rest) = match line.strip_prefix('\\') {
        Some(name) => {
            // `\!ls` and `\.file` need no space.
            let end = match name.chars().next() {
                Some(c) if !c.is_alphanumeric() => c.len_utf8(),
                _ => name.find(|c: char| !c.is_alphanumeric()).unwrap_or(name.len()),
            };
            (format!("\\{}", &name[..end]), name[end..].trim())
        }
        None => {
            let end = line.find(|c: char| !c.is_ascii_alphabetic() && c != '?').unwrap_or(line.len());
            let rest = &line[end..];
            if !rest.is_empty() && !rest.starts_with([' ', '\t', ';']) {
                return Ok(None);
            }
            (line[..end].to_ascii_lowercase(), rest.trim())
        }
    };
    let argument = rest.strip_suffix(';').unwrap_or(rest).trim();
    let optional = || (!argument.is_empty()).then(|| unquoted(argument));
    let needed = |what: &str| match optional() {
        Some(argument) => Ok(argument),
        None => Err(Unreadable(format!("{word} needs {what}"))),
    };
    Ok(Some(match word.as_str() {
        "\\?" | "\\h" | "\\help" | "help" | "?" => Command::Help,
        "\\q" | "\\quit" | "quit" | "exit" => Command::Quit,
        "\\d" | "\\dt" => Command::Describe(optional()),
        "\\l" | "\\list" => Command::Databases,
        "\\df" => Command::Functions(optional()),
        "\\u" | "\\use" | "use" => Command::Use(needed("a database")?),
        "\\." | "\\i" | "\\source" | "source" => Command::Source(needed("a file")?),
        "\\s" | "\\status" | "status" => Command::Status,
        "\\timing" => Command::Timing,
        "\\x" => Command::Expanded,
        "\\f" | "\\format" => Command::Format(optional()),
        "\\o" => Command::Output(optional()),
        "\\T" | "\\tee" | "tee" => Command::Tee(needed("a file")?),
        "\\t" | "\\notee" | "notee" => Command::NoTee,
        "\\P" | "\\pager" | "pager" => Command::Pager(optional()),
        "\\n" | "\\nopager" | "nopager" => Command::NoPager,
        "\\progress" => Command::Progress,
        "\\W" | "\\warnings" | "warnings" => Command::Warnings(true),
        "\\w" | "\\nowarning" | "nowarning" => Command::Warnings(false),
        "\\r" | "\\connect" | "connect" => Command::Reconnect,
        "\\e" | "\\edit" | "edit" => Command::Edit,
        "\\!" | "\\system" | "system" => Command::System(needed("a command")?),
        // What ends a statement ends an empty one too.
        "\\g" | "\\G" | "\\c" => return Ok(None),
        other if other.starts_with('\\') => {
            return Err(Unreadable(format!("unknown command {other}; \\? lists all")));
        }
        _ => return Ok(None),
    }))
}

/// A name or path without the quotes around it.
fn unquoted(text: &str) -> String {
    let quotes = ['\'', '"', '`'];
    let inner = quotes.iter().find_map(|&quote| text.strip_prefix(quote)?.strip_suffix(quote));
    inner.filter(|inner| !inner.is_empty()).unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Command> {
        command(line).unwrap_or_else(|error| panic!("{line}: {}", error.0))
    }

    #[test]
    fn commands_as_they_are_typed() {
        assert_eq!(read("\\q"), Some(Command::Quit));
        assert_eq!(read("EXIT;"), Some(Command::Quit));
        assert_eq!(read("\\d"), Some(Command::Describe(None)));
        assert_eq!(read("\\d tpch.lineitem;"), Some(Command::Describe(Some("tpch.lineitem".to_owned()))));
        assert_eq!(read("source /tmp/my file.sql"), Some(Command::Source("/tmp/my file.sql".to_owned())));
        assert_eq!(read("\\./a.sql"), Some(Command::Source("/a.sql".to_owned())));
        assert_eq!(read("\\!ls -l"), Some(Command::System("ls -l".to_owned())));
        assert_eq!(read("use `my db`;"), Some(Command::Use("my db".to_owned())));
        assert_eq!(read("\\T out"), Some(Command::Tee("out".to_owned())));
        assert_eq!(read("\\t"), Some(Command::NoTee));
        assert_eq!(read("?"), Some(Command::Help));
    }

    #[test]
    fn statements_are_no_commands() {
        for sql in ["SELECT 1", "sourced", "use_me", "help_me()", "\\g", "\\G", "", "(SELECT 1)", "-- use x"] {
            assert_eq!(read(sql), None, "{sql}");
        }
    }

    #[test]
    fn what_is_missing_is_told() {
        assert_eq!(command("source"), Err(Unreadable("source needs a file".to_owned())));
        assert_eq!(command("\\y"), Err(Unreadable("unknown command \\y; \\? lists all".to_owned())));
    }

    #[test]
    fn all_commands_of_the_help_are_known() {
        for (usage, _) in HELP {
            for name in usage.replace("  ", ", ").split(", ") {
                let name = name.split([' ', '[']).next().unwrap_or_default();
                let known = command(&format!("{name} x"));
                assert!(
                    !matches!(known, Ok(None)) && known.is_ok() || ["\\g", "\\G", "\\c"].contains(&name),
                    "{name}: {known:?}"
                );
            }
        }
    }
}
