//! `sheaf completions` and `sheaf man`: what shells and `man` want to know of the command line, made from itself.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::error::CliError;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell to write them for.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for each command into this folder, instead of the page of `sheaf` to standard output.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

const NAME: &str = "sheaf";

pub fn completions(args: &CompletionsArgs, mut command: Command) -> Result<(), CliError> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, NAME, &mut text);
    print(&text)
}

pub fn man(args: &ManArgs, mut command: Command) -> Result<(), CliError> {
    command.build();
    match &args.dir {
        None => print(&page(&command)?),
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(|source| CliError::Folder { path: dir.clone(), source })?;
            pages(&command, NAME, dir)
        }
    }
}

fn page(command: &Command) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    Man::new(command.clone()).render(&mut text).map_err(CliError::Output)?;
    Ok(text)
}

fn pages(command: &Command, name: &str, dir: &Path) -> Result<(), CliError> {
    let path = dir.join(format!("{name}.1"));
    let text = page(&command.clone().name(name.to_owned()))?;
    std::fs::write(&path, text).map_err(|source| CliError::Folder { path, source })?;
    for inner in command.get_subcommands().filter(|it| !it.is_hide_set() && it.get_name() != "help") {
        pages(inner, &format!("{name}-{}", inner.get_name()), dir)?;
    }
    Ok(())
}

fn print(text: &[u8]) -> Result<(), CliError> {
    match io::stdout().write_all(text) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(CliError::Output),
    }
}
