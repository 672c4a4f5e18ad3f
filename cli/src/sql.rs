//! `sheaf sql`: a shell for people, and a client for scripts.

mod backend;
mod cells;
mod command;
mod editor;
mod format;
mod names;
mod output;
mod progress;
mod shell;
mod terminal;
mod text;

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::rc::Rc;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use sheaf_common::config::ByteSize;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

pub use self::backend::SqlError;
use self::backend::{Backend, Local, LocalOptions, Server, Target};
use self::editor::{Fetch, Input, SqlEditor};
use self::format::Format;
use self::output::Destination;
use self::shell::{Look, Shell, Stop};
use crate::client::{IDS, LoginArgs};
use crate::cluster::byte_size;
use crate::error::CliError;
use crate::local_cluster::memory_share;

#[derive(Debug, Args)]
pub struct SqlArgs {
    /// The database to begin with.
    #[arg(value_name = "DATABASE")]
    database: Option<String>,
    #[command(flatten)]
    login: LoginArgs,
    /// Run these statements and leave; repeat it for several.
    #[arg(long, short, value_name = "SQL")]
    execute: Vec<String>,
    /// Run the statements of this file and leave; repeat it for several.
    #[arg(long, short, value_name = "FILE", conflicts_with = "execute")]
    file: Vec<PathBuf>,
    /// The form of answers [default: table for people, tsv for scripts].
    #[arg(long, value_name = "FORMAT", value_enum)]
    format: Option<Format>,
    /// The same as --format raw: values as they are, without a backslash before tabs and line ends.
    #[arg(long, short, conflicts_with = "format")]
    raw: bool,
    /// Write answers to this file.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Leave out the names of columns.
    #[arg(long, short = 'N')]
    no_header: bool,
    /// Go on after a statement that failed; the exit status is 1 all the same.
    #[arg(long)]
    force: bool,
    /// Show no progress of running statements.
    #[arg(long)]
    no_progress: bool,
    /// Show answers that are longer than the screen without a pager.
    #[arg(long)]
    no_pager: bool,
    /// Begin the session with SET NAME = VALUE; repeat it for several.
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment)]
    set: Vec<String>,
    /// Run an engine in this process, on the files of this machine, without a server.
    #[arg(long)]
    local: bool,
    /// With --local: the folder of databases and tables [default: none is kept].
    #[arg(long, value_name = "DIR", requires = "local")]
    data_dir: Option<PathBuf>,
    /// With --local: memory of queries, such as 2GiB [default: a share of this machine's memory].
    #[arg(long, value_name = "SIZE", value_parser = byte_size, requires = "local")]
    memory: Option<ByteSize>,
}

/// Refuses `--local` together with a server's options. Those of the environment are for the other times.
pub fn check(matches: &ArgMatches) -> Result<(), clap::Error> {
    let is_typed = |id: &&&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    match IDS.iter().find(is_typed) {
        Some(id) if matches.get_flag("local") => {
            let flag = id.replace('_', "-");
            let message = format!("the argument '--local' cannot be used with '--{flag}', which is about a server");
            Err(clap::Error::raw(ErrorKind::ArgumentConflict, message))
        }
        _ => Ok(()),
    }
}

fn assignment(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() && !value.trim().is_empty() => {
            Ok(format!("SET {name} = {value}"))
        }
        _ => Err("expected a name, '=' and a value".to_owned()),
    }
}

/// Plans are walked by recursion: thousands of nested expressions must fit.
const COMPUTE_STACK_BYTES: usize = 16 << 20;
/// An answer may stand in a pager for as long, in seconds; the server gives a client one minute else.
const PAGER_TIMEOUT: &str = "SET net_write_timeout = 28800";

pub fn run(args: SqlArgs) -> Result<(), CliError> {
    let is_interactive =
        args.execute.is_empty() && args.file.is_empty() && io::stdin().is_terminal() && io::stdout().is_terminal();
    let default = match (args.raw, is_interactive) {
        (true, _) => Format::Raw,
        (false, true) => Format::Table,
        (false, false) => Format::Tsv,
    };
    let look = Look {
        format: args.format.unwrap_or(default),
        has_header: !args.no_header,
        is_interactive,
        has_timing: is_interactive,
        has_warnings: false,
        has_progress: !args.no_progress && io::stderr().is_terminal(),
        pager: if args.no_pager { None } else { output::default_pager() },
        force: args.force,
    };
    if look.format == Format::Parquet && args.output.is_none() && io::stdout().is_terminal() {
        return Err(CliError::Sql(SqlError::Output(io::Error::other(
            "a terminal cannot show Parquet; use --output FILE",
        ))));
    }
    let output = match &args.output {
        Some(path) => Some(Destination::file(path).map_err(|source| CliError::Folder { path: path.clone(), source })?),
        None => None,
    };
    let mut builder = if args.local { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime = builder.thread_stack_size(COMPUTE_STACK_BYTES).enable_all().build().map_err(CliError::Threads)?;
    let runtime = Rc::new(runtime);
    let (backend, interrupts) = runtime.block_on(async {
        let backend = connect(&args, is_interactive).await?;
        // From now on Ctrl-C ends statements; before, it ends the process.
        Ok::<_, CliError>((backend, signal(SignalKind::interrupt()).map_err(CliError::Signals)?))
    })?;
    let default = args.local.then(|| sheaf_query::catalog::DEFAULT_DATABASE.to_owned());
    let database = args.database.clone().or(default);
    let mut shell = Shell::new(Rc::clone(&runtime), backend, interrupts, look, database);
    if let Some(output) = output {
        shell.write_to(Some(output));
    }
    let stop = if is_interactive { talk(&mut shell, &runtime)? } else { script(&args, &mut shell) };
    shell.close();
    match stop.map_or(0, Stop::exit_code) {
        0 => Ok(()),
        code => Err(CliError::Told { code }),
    }
}

async fn connect(args: &SqlArgs, is_interactive: bool) -> Result<Backend, SqlError> {
    if args.local {
        let memory_bytes = args.memory.map_or_else(|| memory_share(1), |it| it.0);
        let options = LocalOptions { data_dir: args.data_dir.clone(), memory_bytes, database: args.database.clone() };
        let mut local = Local::start(options, tokio::runtime::Handle::current()).await?;
        for statement in &args.set {
            local.run(statement, &mut Nowhere).await?;
        }
        return Ok(Backend::Local(Box::new(local)));
    }
    let pager = is_interactive.then(|| PAGER_TIMEOUT.to_owned());
    let init = pager.into_iter().chain(args.set.iter().cloned()).collect();
    let target = Target { login: args.login.login(args.database.clone())?, init };
    Ok(Backend::Server(Box::new(Server::connect(target).await?)))
}

/// For statements whose rows nobody wants.
struct Nowhere;

impl backend::RowSink for Nowhere {
    fn begin(&mut self, _: Vec<cells::Column>) -> io::Result<()> {
        Ok(())
    }

    fn row(&mut self, _: &format::Cells<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// Runs what `-e`, `--file` or standard input says.
fn script(args: &SqlArgs, shell: &mut Shell) -> Option<Stop> {
    let mut run = || -> Result<(), Stop> {
        for text in &args.execute {
            shell.run_text(text, true)?;
        }
        for path in &args.file {
            shell.source(path)?;
        }
        if args.execute.is_empty() && args.file.is_empty() {
            let mut text = String::new();
            if let Err(error) = io::stdin().lock().read_to_string(&mut text) {
                eprintln!("cannot read standard input: {error}");
                return Err(Stop::Failed);
            }
            shell.run_text(&text, true)?;
        }
        Ok(())
    };
    run().err()
}

/// Reads what a person types until they leave.
fn talk(shell: &mut Shell, runtime: &Rc<Runtime>) -> Result<Option<Stop>, CliError> {
    println!("SheafDB {}, {}", env!("CARGO_PKG_VERSION"), shell.description());
    println!("\\? lists commands, Tab completes, Ctrl-C cancels a statement, Ctrl-D leaves");
    let (control, inner) = (shell.control(), Rc::clone(runtime));
    let fetch: Fetch = Rc::new(move || inner.block_on(control.names()));
    let mut editor = SqlEditor::new(fetch).map_err(|error| CliError::Terminal(Box::new(error)))?;
    loop {
        if let Some(helper) = editor.helper() {
            *helper.database.borrow_mut() = shell.database().map(str::to_owned);
            if std::mem::take(&mut shell.names_changed) {
                helper.forget_names();
            }
        }
        let prompt = shell.database().map_or_else(|| "sheaf> ".to_owned(), |it| format!("sheaf {it}> "));
        let initial = shell.edited.take().unwrap_or_default();
        match editor.read(&prompt, &initial).map_err(|error| CliError::Terminal(Box::new(error)))? {
            Input::Text(text) => match shell.run_text(&text, false) {
                Ok(()) | Err(Stop::Failed | Stop::Lost | Stop::Interrupted | Stop::Closed) => {}
                Err(Stop::Quit) => return Ok(None),
            },
            Input::Dropped => {}
            Input::End => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: SqlArgs,
    }

    fn parse(arguments: &[&str]) -> Result<SqlArgs, clap::Error> {
        let line = ["sql"].iter().chain(arguments);
        let matches = <CommandLine as clap::CommandFactory>::command().try_get_matches_from(line)?;
        check(&matches)?;
        <SqlArgs as clap::FromArgMatches>::from_arg_matches(&matches)
    }

    #[test]
    fn flags_of_the_mysql_client_work() {
        let args = parse(&["tpch", "--host", "db", "-P", "1", "-u", "ann", "-p", "-e", "SELECT 1", "-N"]).unwrap();
        assert_eq!((args.login.host.as_str(), args.login.port, args.login.user.as_str()), ("db", 1, "ann"));
        assert_eq!(args.login.password.as_deref(), Some(""), "to be asked for");
        assert_eq!((args.database.as_deref(), args.execute.len(), args.no_header), (Some("tpch"), 1, true));
        assert_eq!(parse(&["--set", "a=1"]).unwrap().set, ["SET a = 1"]);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for wrong in [
            ["--data-dir", "d"].as_slice(),
            &["-e", "SELECT 1", "-f", "a.sql"],
            &["--local", "--user", "ann"],
            &["--local", "--ssl-mode", "required"],
            &["--format", "xml"],
            &["--format", "csv", "--raw"],
            &["--set", "a"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
