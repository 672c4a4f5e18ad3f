//! `sheaf server`: one node, until it is told to stop.

use std::io::Write;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use sheaf_common::config::{Arity, Key, ServerConfig, Sources, flag_name, variable_name};
use sheaf_common::telemetry;
use sheaf_server::{NodeFile, node};

use crate::allocator;
use crate::error::CliError;

/// The flags of a node, as typed. They are made from the configuration's keys, so that none can be forgotten.
#[derive(Debug, Clone, Default)]
pub struct ServerArgs {
    flags: Vec<(String, Vec<String>)>,
    config: Option<PathBuf>,
    print_config: bool,
    stop_with_stdin: bool,
}

const PRINT_CONFIG: &str = "print_config";
const CONFIG: &str = "config";
const STOP_WITH_STDIN: &str = "stop_with_stdin";

fn argument(key: &Key) -> Arg {
    let mut help = format!("{} [env: {}]", key.description, variable_name(key.name));
    if !key.default.is_empty() {
        help.push_str(&format!(" [default: {}]", key.default));
    }
    let flag = flag_name(key.name).trim_start_matches('-').to_owned();
    let argument = Arg::new(key.name).long(flag).value_name(key.placeholder).help(help);
    let argument = match key.name {
        "advertise_address" => argument.alias("advertise-host"),
        _ => argument,
    };
    match key.arity {
        Arity::One => argument.action(ArgAction::Set),
        Arity::Many | Arity::List => argument.action(ArgAction::Append),
        Arity::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
    }
}

impl Args for ServerArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new(CONFIG)
            .long("config")
            .value_name("FILE")
            .env("SHEAF_CONFIG")
            .hide_env(true)
            .value_parser(clap::value_parser!(PathBuf))
            .help("A TOML file of these options, under their names with underscores [env: SHEAF_CONFIG]");
        let print_config = Arg::new(PRINT_CONFIG)
            .long("print-config")
            .action(ArgAction::SetTrue)
            .help("Print the value of each option and where it came from, as a file for --config, and start nothing");
        // For those who start nodes and must not leave any behind, whatever becomes of them.
        let stop_with_stdin = Arg::new(STOP_WITH_STDIN)
            .long("stop-with-stdin")
            .action(ArgAction::SetTrue)
            .hide(true)
            .help("Stop when standard input ends");
        command.args([config, print_config]).args(ServerConfig::keys().iter().map(argument)).arg(stop_with_stdin)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServerArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = ServerConfig::keys().into_iter().filter_map(|key| {
            let texts = matches.get_many::<String>(key.name)?;
            Some((key.name.to_owned(), texts.cloned().collect()))
        });
        Ok(Self {
            flags: flags.collect(),
            config: matches.get_one::<PathBuf>(CONFIG).cloned(),
            print_config: matches.get_flag(PRINT_CONFIG),
            stop_with_stdin: matches.get_flag(STOP_WITH_STDIN),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl ServerArgs {
    fn load(&self) -> Result<(ServerConfig, Sources), CliError> {
        // A variable whose text is not Unicode cannot be one of ours.
        let environment =
            std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
        let environment = environment.filter(|(name, _)| name != "SHEAF_CONFIG");
        Ok(ServerConfig::load_with_sources(&self.flags, environment, self.config.as_deref())?)
    }
}

pub fn run(args: ServerArgs) -> Result<(), CliError> {
    let (config, sources) = args.load()?;
    if args.print_config {
        print!("{}", config.to_toml(&sources, args.config.as_deref()));
        return Ok(());
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    allocator::give_back(if config.cores == 0 { cores } else { config.cores });
    telemetry::init_logs(&config.log, config.log_format)?;
    let metrics = telemetry::init_metrics()?;
    let options = node::RunOptions { metrics, stop_with_stdin: args.stop_with_stdin };
    node::run(config, options, print_ready)?;
    Ok(())
}

/// One line for whoever started the node. Nobody may be reading it: that is no reason to stop.
fn print_ready(node: &NodeFile) {
    if let Ok(line) = serde_json::to_string(node) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sheaf_common::config::{HostPort, Role};

    fn parse(arguments: &[&str]) -> Result<ServerArgs, clap::Error> {
        let command = ServerArgs::augment_args(Command::new("server").no_binary_name(true));
        ServerArgs::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }

    #[test]
    fn flags_reach_the_configuration() {
        let args = parse(&[
            "--role",
            "worker",
            "--join",
            "c:9090",
            "--http-listen=127.0.0.1:0",
            "--allow-root",
            "/a",
            "--allow-root",
            "/b",
            "--insecure",
            "--advertise-host",
            "w1",
        ]);
        let config = ServerConfig::load(&args.unwrap().flags, [], None).unwrap();
        assert_eq!(config.role, Role::Worker);
        assert_eq!(config.join, [HostPort::new("c", 9090)]);
        assert_eq!(config.http_listen, HostPort::new("127.0.0.1", 0));
        assert_eq!(config.allow_root, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(config.advertise_address.unwrap().host, "w1");
        assert!(config.insecure);
    }

    #[test]
    fn an_unknown_flag_is_named_with_its_nearest() {
        let error = parse(&["--mysql-listn", "127.0.0.1:1"]).unwrap_err().to_string();
        assert!(error.contains("--mysql-listn") && error.contains("'--mysql-listen'"), "{error}");
    }
}
