//! The session of a user: runs statements and the shell's own commands, one after another.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::Signal;
use tokio::sync::watch;

use super::backend::{Backend, Control, Outcome, Snapshot, SqlError};
use super::command::{Command, HELP, command};
use super::format::Format;
use super::output::{AnswerSink, Destination, Screen};
use super::text::{self, End, TokenKind};
use super::{progress, terminal};
use crate::progress::{Progress, count, seconds};

/// How the shell shows what it gets.
#[derive(Debug, Clone)]
pub struct Look {
    pub format: Format,
    pub has_header: bool,
    /// A person types: say how statements ended.
    pub is_interactive: bool,
    pub has_timing: bool,
    pub has_warnings: bool,
    pub has_progress: bool,
    pub pager: Option<String>,
    /// Go on after a failed statement of a script.
    pub force: bool,
}

/// Why a text was not run to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Quit,
    /// A statement failed, and was told.
    Failed,
    /// There is no connection any more.
    Lost,
    /// Ctrl-C.
    Interrupted,
    /// Nobody reads what is written.
    Closed,
}

impl Stop {
    /// The exit status of a script that stopped so.
    pub fn exit_code(self) -> u8 {
        match self {
            Stop::Quit | Stop::Closed => 0,
            Stop::Failed => 1,
            Stop::Lost => 3,
            Stop::Interrupted => 130,
        }
    }
}

pub struct Shell {
    runtime: Rc<Runtime>,
    backend: Backend,
    interrupts: Signal,
    pub look: Look,
    out: Destination,
    tee: Option<File>,
    database: Option<String>,
    progress: Rc<RefCell<Progress>>,
    /// The statement that was run last, for the editor.
    last: String,
    /// What `\e` made, to be looked over at the next prompt.
    pub edited: Option<String>,
    /// Names of tables or columns may have changed.
    pub names_changed: bool,
    n_sources: usize,
}

/// A statement that is done within it shows no progress.
const FIRST_LOOK: Duration = Duration::from_millis(400);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const REDRAW: Duration = Duration::from_millis(100);
/// Files that name one another.
const SOURCES_MAX: usize = 16;

impl Shell {
    pub fn new(
        runtime: Rc<Runtime>,
        backend: Backend,
        interrupts: Signal,
        look: Look,
        database: Option<String>,
    ) -> Self {
        let progress = Rc::new(RefCell::new(Progress::new()));
        let out = Destination::plain();
        let mut shell = Self {
            runtime,
            backend,
            interrupts,
            look,
            out,
            tee: None,
            database,
            progress,
            last: String::new(),
            edited: None,
            names_changed: false,
            n_sources: 0,
        };
        shell.write_to(None);
        shell
    }

    /// Answers go to a destination, or to where they went at the start.
    pub fn write_to(&mut self, destination: Option<Destination>) {
        self.out = destination.unwrap_or_else(|| match self.look.is_interactive {
            true => Destination::Screen(Screen::new(None, Rc::clone(&self.progress), Rc::default())),
            false => Destination::plain(),
        });
    }

    pub fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    pub fn control(&self) -> Control {
        self.backend.control()
    }

    pub fn description(&self) -> String {
        self.backend.description()
    }

    pub fn close(self) {
        let Self { runtime, backend, mut out, .. } = self;
        let _ = out.finish();
        runtime.block_on(backend.close());
    }

    /// Runs all statements and commands of a text.
    pub fn run_text(&mut self, text: &str, is_script: bool) -> Result<(), Stop> {
        let mut at = 0;
        let mut failed = false;
        loop {
            at += text[at..].len() - text[at..].trim_start().len();
            let line_end = text[at..].find('\n').map_or(text.len(), |end| at + end);
            let line = &text[at..line_end];
            if line.is_empty() {
                break;
            }
            // A word's command ends where a statement would; a backslash's takes the line.
            let end = if line.starts_with('\\') { line.len() } else { first_semicolon(line) };
            let outcome = match command(&line[..end]) {
                Ok(Some(command)) => {
                    at += end;
                    self.run_command(command)
                }
                Err(error) => {
                    at += end;
                    eprintln!("{}", error.0);
                    Err(Stop::Failed)
                }
                Ok(None) => {
                    let Some(statement) = text::statement(text, at) else { break };
                    at = statement.next;
                    let line = is_script.then(|| 1 + text[..statement.start].matches('\n').count());
                    match statement.end {
                        End::Clear => Ok(()),
                        End::Edit => self.edit(statement.text),
                        _ if statement.text.is_empty() => Ok(()),
                        end => self.statement(statement.text, end == End::Vertical, line),
                    }
                }
            };
            match outcome {
                Ok(()) => {}
                Err(Stop::Failed) if self.look.force => failed = true,
                Err(stop) => return Err(stop),
            }
        }
        if failed { Err(Stop::Failed) } else { Ok(()) }
    }

    /// Runs one statement and tells how it ended. `line` is where it stands in a script.
    fn statement(&mut self, sql: &str, is_vertical: bool, line: Option<usize>) -> Result<(), Stop> {
        sql.clone_into(&mut self.last);
        let format = if is_vertical { Format::Vertical } else { self.look.format };
        let started = Instant::now();
        let result = self.execute(sql, format);
        let took = started.elapsed();
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(Failure::Interrupted) => return Err(Stop::Interrupted),
            Err(Failure::Error(error)) if error.is_closed_pipe() => {
                // A pager that was left is no failure; a pipe that was closed ends a script.
                return if self.look.is_interactive { Ok(()) } else { Err(Stop::Closed) };
            }
            Err(Failure::Error(error)) => return Err(self.tell(&error, line)),
        };
        if changes_names(sql) {
            self.names_changed = true;
        }
        if let Some(database) = used_database(sql) {
            self.note_database(database);
        }
        if self.look.is_interactive {
            println!("{}", self.summary(&outcome, took));
        } else if self.look.has_timing {
            eprintln!("{}", seconds(took));
        }
        if outcome.warnings > 0 && self.look.has_warnings {
            self.show("SHOW WARNINGS")?;
        }
        Ok(())
    }

    fn summary(&self, outcome: &Outcome, took: Duration) -> String {
        let plural = |n: u64, noun: &str| count(usize::try_from(n).unwrap_or(usize::MAX), noun);
        let mut parts = vec![match (outcome.has_rows, outcome.affected_rows) {
            (true, _) => plural(outcome.n_rows, "row"),
            (false, 0) => "OK".to_owned(),
            (false, n) => format!("OK, {} affected", plural(n, "row")),
        }];
        if !outcome.info.is_empty() {
            parts.push(outcome.info.clone());
        }
        if outcome.warnings > 0 {
            parts.push(plural(u64::from(outcome.warnings), "warning"));
        }
        let parts = parts.join(", ");
        if self.look.has_timing { format!("{parts} ({})", seconds(took)) } else { parts }
    }

    /// Says why a statement failed. A lost connection is made anew for a person, and ends a script.
    fn tell(&mut self, error: &SqlError, line: Option<usize>) -> Stop {
        let words = sheaf_server::error::chain(error);
        let words = match (line, words.split_once("): ")) {
            (Some(line), Some((number, message))) if words.starts_with("ERROR ") => {
                format!("{number}) at line {line}: {message}")
            }
            (Some(line), _) => format!("ERROR at line {line}: {words}"),
            (None, _) => words,
        };
        let _ = self.out.finish();
        if terminal::has_colours() && io::stderr().is_terminal() {
            eprintln!("\x1b[31m{words}\x1b[0m");
        } else {
            eprintln!("{words}");
        }
        if !error.is_lost() {
            return Stop::Failed;
        }
        if !self.look.is_interactive {
            return Stop::Lost;
        }
        self.reconnect()
    }

    fn reconnect(&mut self) -> Stop {
        let runtime = Rc::clone(&self.runtime);
        match runtime.block_on(self.backend.reconnect()) {
            Ok(()) => {
                eprintln!("connected again to {}; settings are those of a new session", self.backend.description())
            }
            Err(error) => eprintln!("{error}; \\r tries again"),
        }
        Stop::Failed
    }

    /// Runs a statement to its end or until Ctrl-C, its rows on their way out, its progress shown.
    fn execute(&mut self, sql: &str, format: Format) -> Result<Outcome, Failure> {
        let is_shown = Rc::new(Cell::new(false));
        if let Destination::Screen(screen) = &mut self.out {
            // The window may have another size by now. Files of bytes are not for a screen.
            if format == Format::Parquet {
                return Err(io::Error::other("a terminal cannot show Parquet; \\o FILE writes it to a file").into());
            }
            *screen = Screen::new(self.look.pager.clone(), Rc::clone(&self.progress), Rc::clone(&is_shown));
        }
        let runtime = Rc::clone(&self.runtime);
        let (control, progress) = (self.backend.control(), Rc::clone(&self.progress));
        let n_rows = Rc::new(Cell::new(0));
        let is_direct = matches!(self.out, Destination::Plain(_)) && io::stdout().is_terminal();
        let before = is_direct.then(|| {
            let (is_shown, progress) = (Rc::clone(&is_shown), Rc::clone(&progress));
            let before = move || {
                is_shown.set(true);
                progress.borrow_mut().clear();
            };
            Box::new(before) as Box<dyn Fn()>
        });
        let mut sink = AnswerSink {
            before,
            writer: format.writer(self.look.has_header),
            out: &mut self.out,
            tee: self.tee.as_mut(),
            n_rows: Rc::clone(&n_rows),
            has_begun: false,
            text: Vec::new(),
        };
        let (backend, interrupts, has_progress) = (&mut self.backend, &mut self.interrupts, self.look.has_progress);
        let mut n_interrupts = 0;
        let result = runtime.block_on(async {
            while pending(interrupts).await {}
            let snapshots = has_progress.then(|| watch_progress(control.clone()));
            let started = Instant::now();
            let mut work = pin!(backend.run(sql, &mut sink));
            let mut redraw = tokio::time::interval(REDRAW);
            loop {
                tokio::select! {
                    biased;
                    _ = interrupts.recv() => {
                        n_interrupts += 1;
                        if n_interrupts > 1 {
                            break None;
                        }
                        progress.borrow_mut().done("cancelling; Ctrl-C again gives up the connection");
                        if let Err(error) = control.cancel().await {
                            eprintln!("{error}");
                        }
                    }
                    result = &mut work => break Some(result),
                    _ = redraw.tick() => {
                        let elapsed = started.elapsed();
                        if let Some(snapshots) = &snapshots && elapsed > FIRST_LOOK && n_interrupts == 0 && !is_shown.get() {
                            let width = terminal::size().map_or(80, |(columns, _)| columns);
                            let snapshot = *snapshots.borrow();
                            progress.borrow_mut().now(&progress::line(snapshot.as_ref(), n_rows.get(), elapsed, width));
                        }
                    }
                }
            }
        });
        let result = match result {
            Some(Ok(outcome)) => sink.end().map(|()| outcome).map_err(SqlError::from),
            Some(Err(error)) => Err(error),
            None => Err(SqlError::Lost("given up".to_owned())),
        };
        progress.borrow_mut().clear();
        drop(sink);
        let finished = self.out.finish();
        if matches!(result, Err(SqlError::Output(_))) {
            // The statement may go on: nobody wants the rest of it.
            runtime.block_on(async {
                let _ = control.cancel().await;
                self.backend.recover().await
            })?;
        }
        match result {
            Ok(outcome) => finished.map(|()| outcome).map_err(|error| SqlError::from(error).into()),
            Err(_) if n_interrupts > 0 && !self.look.is_interactive => Err(Failure::Interrupted),
            Err(error) => Err(error.into()),
        }
    }

    /// Runs a statement of the shell's own and shows its answer.
    fn show(&mut self, sql: &str) -> Result<(), Stop> {
        match self.execute(sql, if self.look.is_interactive { Format::Table } else { self.look.format }) {
            Ok(_) => Ok(()),
            Err(Failure::Interrupted) => Err(Stop::Interrupted),
            Err(Failure::Error(error)) if error.is_closed_pipe() => Ok(()),
            Err(Failure::Error(error)) => Err(self.tell(&error, None)),
        }
    }

    fn run_command(&mut self, command: Command) -> Result<(), Stop> {
        let on_off = |is_on: bool| if is_on { "on" } else { "off" };
        match command {
            Command::Help => {
                let mut text = String::new();
                for (usage, what) in HELP {
                    text.push_str(&format!("  {usage:<28}   {what}\n"));
                }
                print!("{text}");
            }
            Command::Quit => return Err(Stop::Quit),
            Command::Describe(None) => self.show("SHOW TABLES")?,
            Command::Describe(Some(table)) => self.show(&format!("DESCRIBE {}", quoted_path(&table)))?,
            Command::Databases => self.show("SHOW DATABASES")?,
            Command::Functions(pattern) => {
                let pattern = pattern.unwrap_or_else(|| "%".to_owned()).replace('\\', "\\\\").replace('\'', "''");
                self.show(&format!(
                    "SELECT name, kind, syntax FROM system.functions WHERE name LIKE '{pattern}' ORDER BY name"
                ))?;
            }
            Command::Use(database) => self.statement(&format!("USE {}", quoted(&database)), false, None)?,
            Command::Source(path) => self.source(Path::new(&path))?,
            Command::Status => self.status()?,
            Command::Timing => {
                self.look.has_timing = !self.look.has_timing;
                println!("timing is {}", on_off(self.look.has_timing));
            }
            Command::Expanded => {
                let is_on = self.look.format != Format::Vertical;
                self.look.format = if is_on { Format::Vertical } else { Format::Table };
                println!("a line for each column is {}", on_off(is_on));
            }
            Command::Format(None) => println!("the format is {}", self.look.format.name()),
            Command::Format(Some(name)) => match <Format as clap::ValueEnum>::from_str(&name, true) {
                Ok(format) => self.look.format = format,
                Err(_) => return Err(self.refuse(&format!("unknown format {name:?}; \\? lists all"))),
            },
            Command::Output(None) => {
                if let Err(error) = self.out.finish() {
                    return Err(self.refuse(&format!("cannot write the answers: {error}")));
                }
                self.write_to(None);
            }
            Command::Output(Some(path)) => match Destination::file(Path::new(&path)) {
                Ok(file) => self.write_to(Some(file)),
                Err(error) => return Err(self.refuse(&format!("cannot write {path}: {error}"))),
            },
            Command::Tee(path) => match File::options().create(true).append(true).open(&path) {
                Ok(file) => self.tee = Some(file),
                Err(error) => return Err(self.refuse(&format!("cannot write {path}: {error}"))),
            },
            Command::NoTee => self.tee = None,
            Command::Pager(pager) => self.look.pager = pager.or_else(super::output::default_pager),
            Command::NoPager => self.look.pager = None,
            Command::Progress => {
                self.look.has_progress = !self.look.has_progress;
                println!("progress is {}", on_off(self.look.has_progress));
            }
            Command::Warnings(is_on) => self.look.has_warnings = is_on,
            Command::Reconnect => {
                self.reconnect();
            }
            Command::Edit => {
                let last = self.last.clone();
                self.edit(&last)?;
            }
            Command::System(line) => {
                let status = std::process::Command::new("sh").args(["-c", &line]).status();
                match status {
                    Ok(status) if status.success() => {}
                    Ok(status) => return Err(self.refuse(&format!("the command ended with {status}"))),
                    Err(error) => return Err(self.refuse(&format!("cannot start sh: {error}"))),
                }
            }
        }
        Ok(())
    }

    fn refuse(&self, words: &str) -> Stop {
        eprintln!("{words}");
        Stop::Failed
    }

    /// Runs a file. An error in it ends it.
    pub fn source(&mut self, path: &Path) -> Result<(), Stop> {
        if self.n_sources == SOURCES_MAX {
            return Err(self.refuse(&format!("{} files source one another; not going deeper", SOURCES_MAX)));
        }
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| self.refuse(&format!("cannot read {}: {error}", path.display())))?;
        self.n_sources += 1;
        let outcome = self.run_text(&text, true);
        self.n_sources -= 1;
        outcome
    }

    fn status(&mut self) -> Result<(), Stop> {
        println!("connected to   {}", self.backend.description());
        println!("database       {}", self.database.as_deref().unwrap_or("none"));
        println!("format         {}", self.look.format.name());
        println!("pager          {}", self.look.pager.as_deref().unwrap_or("none"));
        self.show("SELECT version() AS version, connection_id() AS connection")?;
        self.show("SHOW STATUS LIKE 'Ssl%'")?;
        self.show("SELECT name, role, state, cores, tasks FROM system.nodes ORDER BY name")
    }

    /// Has the user change a text in an editor; it waits at the next prompt then.
    fn edit(&mut self, text: &str) -> Result<(), Stop> {
        if !self.look.is_interactive {
            return Err(self.refuse("a script cannot be edited while it runs"));
        }
        match edited(text) {
            Ok(text) => {
                self.edited = Some(text);
                Ok(())
            }
            Err(error) => Err(self.refuse(&format!("cannot edit the statement: {error}"))),
        }
    }

    fn note_database(&mut self, database: String) {
        if let Backend::Server(server) = &mut self.backend {
            server.note_database(Some(database.clone()));
        }
        self.database = Some(database);
    }
}

/// Why a statement did not run to its end.
enum Failure {
    Interrupted,
    Error(SqlError),
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        Self::Error(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Error(error.into())
    }
}

/// Whether a Ctrl-C is left from before. Takes it.
async fn pending(interrupts: &mut Signal) -> bool {
    poll_fn(|context| std::task::Poll::Ready(interrupts.poll_recv(context).is_ready())).await
}

/// Looks at the running statement again and again, until the receiver is dropped.
fn watch_progress(control: Control) -> watch::Receiver<Option<Snapshot>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut wait = FIRST_LOOK;
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = sender.closed() => return,
            }
            wait = LOOK_EVERY;
            let snapshot = control.snapshot().await;
            // What was known stays when a look fails; a query that is over has nothing to show.
            if snapshot.is_some() && sender.send(snapshot).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Where a word's command ends in its line.
fn first_semicolon(line: &str) -> usize {
    text::tokens(line).iter().find(|it| it.kind == TokenKind::Semicolon).map_or(line.len(), |it| it.end)
}

/// The first words of a statement, in upper case.
fn first_words(sql: &str) -> impl Iterator<Item = String> {
    let tokens = text::tokens(sql).into_iter();
    let words = tokens.filter(|it| !matches!(it.kind, TokenKind::Space | TokenKind::Comment));
    words.map(|it| sql[it.start..it.end].to_ascii_uppercase())
}

fn changes_names(sql: &str) -> bool {
    first_words(sql)
        .next()
        .is_some_and(|it| ["CREATE", "DROP", "ALTER", "RENAME", "USE", "REFRESH"].contains(&it.as_str()))
}

/// The database that `USE` names.
fn used_database(sql: &str) -> Option<String> {
    let rest = sql.trim_start();
    let rest = rest.get(..4).filter(|it| it.eq_ignore_ascii_case("use ")).map(|_| rest[4..].trim())?;
    Some(rest.strip_prefix('`').and_then(|it| it.strip_suffix('`')).unwrap_or(rest).replace("``", "`"))
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// `a.b` as two names, what is quoted already as it is.
fn quoted_path(path: &str) -> String {
    if path.contains('`') {
        return path.to_owned();
    }
    path.split('.').map(quoted).collect::<Vec<_>>().join(".")
}

/// A text after the user has changed it in the editor of `VISUAL` or `EDITOR`.
fn edited(text: &str) -> io::Result<String> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|it| std::env::var(it).ok().filter(|it| !it.trim().is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    let file = tempfile::Builder::new().prefix("sheaf-").suffix(".sql").tempfile()?;
    file.as_file().write_all(format!("{text}\n").as_bytes())?;
    let path: PathBuf = file.path().to_owned();
    let status =
        std::process::Command::new("sh").args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(&path).status()?;
    if !status.success() {
        return Err(io::Error::other(format!("{editor} ended with {status}")));
    }
    Ok(std::fs::read_to_string(&path)?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_follows_use() {
        assert_eq!(used_database("use tpch"), Some("tpch".to_owned()));
        assert_eq!(used_database(" USE `my``db`"), Some("my`db".to_owned()));
        assert_eq!(used_database("useless"), None);
        assert_eq!(used_database("SELECT 1"), None);
    }

    #[test]
    fn names_are_quoted_part_by_part() {
        assert_eq!(quoted_path("tpch.lineitem"), "`tpch`.`lineitem`");
        assert_eq!(quoted_path("`a.b`"), "`a.b`");
    }

    #[test]
    fn statements_that_change_names_are_known() {
        assert!(changes_names("-- new\nCREATE TABLE t (a INT)") && changes_names("drop table t"));
        assert!(!changes_names("SELECT 'CREATE'"));
    }

    #[test]
    fn a_words_command_ends_at_the_semicolon() {
        assert_eq!(first_semicolon("use a; SELECT 1"), "use a;".len());
        assert_eq!(first_semicolon("source 'a;b'"), "source 'a;b'".len());
    }
}
