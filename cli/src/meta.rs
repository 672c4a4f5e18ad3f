//! `sheaf meta`: the metadata of a node that is stopped.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;
use sheaf_common::definitions::{Object, Record};
use sheaf_planners::parser::is_secret_name;
use sheaf_server::data_dir::DataDir;
use sheaf_server::metadata::backup::{self, Summary};

use crate::error::CliError;

#[derive(Debug, Subcommand)]
pub enum MetaCommand {
    /// Read all metadata of a stopped node and verify every checksum.
    Check(Folder),
    /// Print the objects of a stopped node, or of an exported file, one a line: version, object, definition.
    ///
    /// Secrets, such as the verifiers of passwords and the keys of stored connections, are printed as stars.
    Inspect(InspectArgs),
    /// Write the metadata of a stopped node into a file that people can read, with a checksum.
    ///
    /// In a cluster of several coordinators any one will do: stop it, export, and start it again. The file has the
    /// verifiers of passwords and the keys of stored connections, and only its owner may read it.
    Export(ExportArgs),
    /// Begin a new cluster in an empty data folder, with the metadata of an exported file.
    ///
    /// Start the node of that folder first and without --join, then let the others join it with empty folders.
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub struct Folder {
    /// The node's data folder.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct InspectArgs {
    /// The node's data folder.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A file that was exported.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    folder: Folder,
    /// The file to write; it must not be there yet.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    #[command(flatten)]
    folder: Folder,
    /// A file that was exported.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

impl Folder {
    /// The folder, locked against a server, and the place of the metadata in it.
    fn open(&self) -> Result<(DataDir, PathBuf), CliError> {
        // Opening makes what is missing: a mistyped folder must not become one.
        if !self.data_dir.is_dir() {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(CliError::Folder { path: self.data_dir.clone(), source });
        }
        let dir = DataDir::open(&self.data_dir)?;
        let metadata = dir.path().join("metadata");
        Ok((dir, metadata))
    }
}

pub fn run(command: MetaCommand) -> Result<(), CliError> {
    match command {
        MetaCommand::Check(folder) => {
            let (_lock, dir) = folder.open()?;
            print(&backup::check(&dir)?);
            println!("all checksums match");
        }
        MetaCommand::Inspect(InspectArgs { data_dir: Some(data_dir), .. }) => {
            let (_lock, dir) = Folder { data_dir }.open()?;
            let summary = backup::check(&dir)?;
            summary.definitions.objects().for_each(|(object, record)| print_object(object, record));
        }
        MetaCommand::Inspect(InspectArgs { file, .. }) => {
            let export = backup::read(&file.unwrap_or_default())?;
            export.objects.iter().for_each(|(object, record)| print_object(object, record));
        }
        MetaCommand::Export(args) => {
            let (_lock, dir) = args.folder.open()?;
            let summary = backup::export(&dir, &args.file)?;
            let n_objects = summary.definitions.objects().count();
            println!("{n_objects} objects as of log index {} are in {}", summary.applied, args.file.display());
        }
        MetaCommand::Import(args) => {
            std::fs::create_dir_all(&args.folder.data_dir)
                .map_err(|source| CliError::Folder { path: args.folder.data_dir.clone(), source })?;
            let (_lock, dir) = args.folder.open()?;
            let n_objects = backup::import(&args.file, &dir)?;
            println!("{} begins a new cluster with {n_objects} objects", args.folder.data_dir.display());
        }
    }
    Ok(())
}

fn print(summary: &Summary) {
    let Summary { identity, voters, learners, term, log, commit, applied, definitions } = summary;
    println!("cluster       {:016x}", identity.cluster);
    println!("replica       {}, voters {voters:?}, learners {learners:?}", identity.replica);
    println!("log           after {} up to {}, term {term}, committed {commit}", log.0, log.1);
    println!("applied       {applied}");
    println!("objects       {}", definitions.objects().count());
}

fn print_object(object: &Object, record: &Record) {
    println!("{}\t{object}\t{}", record.version, without_secrets(&record.definition));
}

/// A definition as it may be shown. One that is no JSON is none of ours: nothing is known of what it holds.
fn without_secrets(definition: &str) -> String {
    match serde_json::from_str::<Value>(definition) {
        Ok(mut value) => {
            hide_secrets(&mut value);
            value.to_string()
        }
        Err(_) if definition.is_empty() => String::new(),
        Err(_) => format!("({} bytes)", definition.len()),
    }
}

fn hide_secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "verifier" || is_secret_name(name) => *text = "***".to_owned(),
                    value => hide_secrets(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(hide_secrets),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_stars() {
        for (definition, shown) in [
            (
                r#"{"verifier":{"plugin":"mysql_native_password","verifier":"*24"},"comment":"c"}"#,
                r#"{"comment":"c","verifier":{"plugin":"mysql_native_password","verifier":"***"}}"#,
            ),
            (
                r#"{"name":"lake","options":{"s3.region":"here","s3.secret_access_key":"hush"}}"#,
                r#"{"name":"lake","options":{"s3.region":"here","s3.secret_access_key":"***"}}"#,
            ),
            (r#"[{"sas_key":"hush"},"x",1,null]"#, r#"[{"sas_key":"***"},"x",1,null]"#),
            (r#""on""#, r#""on""#),
            ("", ""),
            ("hush", "(4 bytes)"),
        ] {
            let without = without_secrets(definition);
            // Whether fields keep their order is the JSON library's to say.
            match serde_json::from_str::<Value>(shown) {
                Ok(expected) => assert_eq!(serde_json::from_str::<Value>(&without).unwrap(), expected),
                Err(_) => assert_eq!(without, shown),
            }
        }
    }
}
