//! `sheaf tables`: sample data as files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Subcommand};
use sheaf_query::tables::tpch_files::{self, TpchFiles};

use crate::error::CliError;
use crate::progress::{Progress, bytes, seconds};
use crate::signals;
use crate::tpch::TABLES;

#[derive(Debug, Subcommand)]
pub enum TablesCommand {
    /// Write the eight tables of TPC-H as Parquet files.
    ///
    /// A table is one file DIR/TABLE.parquet, or with --files a folder DIR/TABLE of several.
    Tpch(TpchArgs),
}

#[derive(Debug, Args)]
pub struct TpchArgs {
    /// TPC-H's scale factor: 1 is about 1 GB of raw data.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = positive_scale)]
    scale: f64,
    /// The folder to write into; made where it is missing.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Files for each table; small tables get fewer.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    files: u16,
}

/// A scale factor as typed. Which ones can be generated is for the generator to say.
pub fn positive_scale(text: &str) -> Result<f64, String> {
    let scale = text.parse::<f64>().ok().filter(|scale| scale.is_finite() && *scale > 0.0);
    scale.ok_or_else(|| "expected a number greater than 0".to_owned())
}

/// Small enough that the demo's tables have several, large enough for good compression.
const ROW_GROUP_ROWS: usize = 1 << 17;

pub fn run(command: TablesCommand) -> Result<(), CliError> {
    let TablesCommand::Tpch(args) = command;
    signals::block_on(async move |stop| {
        tokio::select! {
            written = write_tpch(&args.dir, args.scale, usize::from(args.files)) => written,
            () = stop.cancelled() => Err(CliError::Interrupted),
        }
    })
}

/// Writes TPC-H into a folder that holds none of its tables yet, and says so.
pub async fn write_tpch(dir: &Path, scale: f64, files_per_table: usize) -> Result<(), CliError> {
    let start = Instant::now();
    let mut progress = Progress::new();
    progress.now("writing TPC-H …");
    let threads = sheaf_server::machine::cores();
    let request = TpchFiles { scale, dir: dir.to_owned(), files_per_table, row_group_rows: ROW_GROUP_ROWS, threads };
    let mut n_files = 0;
    let written = tpch_files::write_tpch(&request, |file| {
        n_files += 1;
        progress.now(&format!("writing TPC-H: {n_files} files, the last is {}", file.path.display()));
    })
    .await;
    let written = written.map_err(|source| CliError::Tables { path: dir.to_owned(), source })?;
    let n_rows: u64 = written.iter().map(|file| file.rows).sum();
    let n_bytes: u64 = written.iter().map(|file| file.bytes).sum();
    progress.done(&format!(
        "wrote TPC-H at scale {scale} to {}: {} tables, {} files, {n_rows} rows, {} in {}",
        dir.display(),
        TABLES.len(),
        written.len(),
        bytes(n_bytes),
        seconds(start.elapsed())
    ));
    Ok(())
}

/// Where [`write_tpch`] put a table, as `CREATE EXTERNAL TABLE` takes it.
pub fn location(dir: &Path, table: &str, files_per_table: usize) -> String {
    match files_per_table {
        1 => dir.join(format!("{table}.parquet")).display().to_string(),
        _ => format!("{}/", dir.join(table).display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_numbers() {
        assert_eq!(positive_scale("0.01"), Ok(0.01));
        for wrong in ["", "0", "-1", "inf", "nan", "big"] {
            assert!(positive_scale(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn locations_follow_the_layout() {
        assert_eq!(location(Path::new("/d"), "part", 1), "/d/part.parquet");
        assert_eq!(location(Path::new("/d"), "part", 2), "/d/part/");
    }
}
