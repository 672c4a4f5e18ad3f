//! The binary `sheaf`: one command line, one command a module.
//!
//! Does not know: how anything works. It reads what was typed, runs a command, prints the chain of errors when that
//! fails, and exits with 0, with 1 for a failure, or with 2 for a command line that cannot be read.

mod bench;
mod client;
mod cluster;
mod demo;
mod error;
mod local_cluster;
mod progress;
mod server;
mod signals;
mod tables;
mod tpch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
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
    /// Run clusters on this machine.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
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
}

impl Command {
    fn run(self) -> Result<(), CliError> {
        match self {
            Command::Server(args) => server::run(args),
            Command::Cluster(command) => cluster::run(command),
            Command::Tables(command) => tables::run(command),
            Command::Bench(command) => bench::run(command),
            Command::Demo(args) => demo::run(args),
        }
    }
}

fn main() -> ExitCode {
    match CommandLine::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

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
