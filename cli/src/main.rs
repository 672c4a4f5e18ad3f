//! The binary `sheaf`: one command line, one command a module.
//!
//! Does not know: how anything works. It reads what was typed, runs a command, prints the chain of errors when that
//! fails, and exits with 0, with 1 for a failure, or with 2 for a command line that cannot be read; `sheaf sql` has more.

mod allocator;
mod bench;
mod client;
mod cluster;
mod demo;
mod error;
mod health;
mod local_cluster;
mod manual;
mod meta;
mod progress;
mod server;
mod signals;
mod sql;
mod tables;
mod tpch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use sheaf_server::error::chain;

use crate::error::CliError;

/// SheafDB: a distributed SQL database in one binary.
///
/// `sheaf server` is a whole database in one process, for any MySQL client. More processes make a cluster of it:
/// `sheaf cluster up` starts one on this machine, `sheaf demo` shows one at work.
#[derive(Parser)]
#[command(name = "sheaf", version, propagate_version = true, max_term_width = 120)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node: a whole database by default, or a coordinator or worker of a cluster.
    ///
    /// Every option can also be set by the environment variable that its line names, or by its name with underscores
    /// in the TOML file of --config. A flag outranks the environment, which outranks the file, which outranks the
    /// default. When the node is ready, one line of JSON with its addresses goes to standard output, and the same
    /// into node.json in the data folder; logs go to standard error. SIGTERM and SIGINT stop it.
    Server(server::ServerArgs),
    /// Ask a server: a shell for people, and a client for scripts.
    ///
    /// On a terminal it edits lines, completes names, shows the progress of running statements, and cancels them on
    /// Ctrl-C. Else it runs the statements of -e, --file or standard input and writes plain answers. With --local it
    /// needs no server. The exit status is 0 when all went well, 1 when a statement failed, 2 for a command line that
    /// cannot be read, 3 when there is no connection, and 130 after Ctrl-C.
    Sql(Box<sql::SqlArgs>),
    /// Run clusters on this machine.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Check, show, export and import the metadata of a stopped node.
    #[command(subcommand)]
    Meta(meta::MetaCommand),
    /// Write sample data.
    #[command(subcommand)]
    Tables(tables::TablesCommand),
    /// Measure what this machine does.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Show the whole thing at work: a cluster on this machine answers the 22 queries of TPC-H.
    ///
    /// Starts one coordinator and some workers as processes of their own, writes the TPC-H tables as Parquet files,
    /// runs the 22 queries through the MySQL port, and compares every answer with the one of a single process.
    /// The exit status is 0 only if all are equal.
    Demo(demo::DemoArgs),
    /// Ask a node whether it is ready: the exit status is 0 if it is.
    Health(health::HealthArgs),
    /// Write what a shell completes commands and options by, such as: sheaf completions bash.
    Completions(manual::CompletionsArgs),
    /// Write the manual page.
    Man(manual::ManArgs),
}

impl Command {
    fn run(self) -> Result<(), CliError> {
        match self {
            Command::Server(args) => server::run(args),
            Command::Sql(args) => sql::run(*args),
            Command::Cluster(command) => cluster::run(command),
            Command::Meta(command) => meta::run(command),
            Command::Tables(command) => tables::run(command),
            Command::Bench(command) => bench::run(command),
            Command::Demo(args) => demo::run(args),
            Command::Health(args) => health::run(&args),
            Command::Completions(args) => manual::completions(&args, CommandLine::command()),
            Command::Man(args) => manual::man(&args, CommandLine::command()),
        }
    }
}

/// Reads a command line. Errs with what clap says of it.
fn parse(arguments: impl Iterator<Item = OsString>) -> Result<CommandLine, clap::Error> {
    let mut command = CommandLine::command();
    let matches = command.try_get_matches_from_mut(client::attached_passwords(arguments))?;
    if let Some(("sql", matches)) = matches.subcommand() {
        sql::check(matches).map_err(|error| error.format(&mut command))?;
    }
    CommandLine::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn main() -> ExitCode {
    match parse(std::env::args_os()).unwrap_or_else(|error| error.exit()).command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::Told { code }) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_says_what_it_does() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} says nothing", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {} says nothing", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        let mut command = CommandLine::command();
        command.build();
        command.get_subcommands().filter(|it| it.get_name() != "help").for_each(check);
    }
}
