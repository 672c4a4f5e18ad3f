//! TPC-H as Parquet files, made without going through a query.
//!
//! Layout: `<dir>/<table>.parquet` if a table is one file, else `<dir>/<table>/part-<i>.parquet` with rows in order
//! of the key over the files. A file has its name only once it is whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::properties::WriterProperties;
use futures::{StreamExt, TryStreamExt};
use sheaf_common::{Classify, ErrorCode};
use sheaf_planners::generator::TpchTable;
use sheaf_planners::generator::tpch::prepare_text;
use tokio::sync::mpsc;

/// Rows of a batch; also what a writer is behind its generator by, a few times over.
const BATCH_ROWS: usize = 8192;
const BATCHES_IN_FLIGHT: usize = 8;
/// Parts of one file that are generated ahead.
const PARTS_IN_FLIGHT: usize = 2;

/// What to write.
#[derive(Debug, Clone)]
pub struct TpchFiles {
    pub scale: f64,
    /// Made if it is not there; must not hold any of the tables yet.
    pub dir: PathBuf,
    /// Tables of too few rows get fewer.
    pub files_per_table: usize,
    pub row_group_rows: usize,
    /// Files that are written at the same time.
    pub threads: usize,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub table: TpchTable,
    pub path: PathBuf,
    pub rows: u64,
    pub bytes: u64,
    pub row_groups: usize,
}

/// Why files were not written.
#[derive(Debug, thiserror::Error)]
pub enum TpchFilesError {
    /// The caller's options make no sense.
    #[error("TPC-H files cannot have {what}")]
    Invalid { what: String },
    /// Written files would get mixed up with what is there.
    #[error("{path:?} exists already")]
    Exists { path: PathBuf },
    #[error("could not write {path:?}")]
    Io { path: PathBuf, source: io::Error },
    #[error("could not write {path:?}")]
    Parquet { path: PathBuf, source: ParquetError },
    /// A bug in a generator.
    #[error("could not generate table {table}")]
    Generate { table: TpchTable, source: ArrowError },
    /// The process is shutting down.
    #[error("writing {path:?} was interrupted")]
    Interrupted { path: PathBuf },
}

impl Classify for TpchFilesError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid { .. } => ErrorCode::InvalidArgument,
            Self::Exists { .. } => ErrorCode::TableExists,
            Self::Io { .. } | Self::Parquet { .. } => ErrorCode::FileUnreadable,
            Self::Generate { .. } => ErrorCode::Internal,
            Self::Interrupted { .. } => ErrorCode::Cancelled,
        }
    }
}

/// One file to be.
struct FileJob {
    table: TpchTable,
    path: PathBuf,
    /// Parts of the table that it holds.
    parts: std::ops::Range<u64>,
}

/// Writes all eight tables. `progress` is told of each file when it is complete.
///
/// Memory: a few batches and a row group for each of `threads` files. On an error or a drop the file at hand is
/// removed; complete ones stay.
pub async fn write_tpch(
    request: &TpchFiles,
    mut progress: impl FnMut(&Written),
) -> Result<Vec<Written>, TpchFilesError> {
    let jobs = plan(request)?;
    make_dir(&request.dir)?;
    // Once, before the files' tasks would all wait for it.
    SpawnedTask::spawn_blocking(prepare_text)
        .await
        .map_err(|_| TpchFilesError::Interrupted { path: request.dir.clone() })?;
    let mut writing = futures::stream::iter(jobs)
        .map(|job| write_file(job, request.scale, request.row_group_rows))
        .buffer_unordered(request.threads.max(1));
    let mut written = vec![];
    while let Some(file) = writing.try_next().await? {
        progress(&file);
        written.push(file);
    }
    written.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(written)
}

/// Which files there will be, the largest tables first. Errs before anything is touched.
fn plan(request: &TpchFiles) -> Result<Vec<FileJob>, TpchFilesError> {
    let invalid = |what: String| Err(TpchFilesError::Invalid { what });
    if !TpchTable::SCALES.contains(&request.scale) {
        let (min, max) = (TpchTable::SCALES.start(), TpchTable::SCALES.end());
        return invalid(format!("scale {}: it has to be between {min} and {max}", request.scale));
    }
    if request.files_per_table == 0 || request.row_group_rows == 0 {
        return invalid("no files per table or no rows per row group".to_owned());
    }
    let mut jobs = vec![];
    for table in TpchTable::ALL {
        let (file, folder) = (request.dir.join(format!("{table}.parquet")), request.dir.join(table.name()));
        if let Some(path) = [&file, &folder].into_iter().find(|path| path.exists()) {
            return Err(TpchFilesError::Exists { path: path.clone() });
        }
        let parts = table.parts(request.scale);
        let files = (request.files_per_table as u64).min(parts);
        for index in 0..files {
            // By what was asked for: a small table of one file is a folder where large ones are.
            let path = match request.files_per_table {
                1 => file.clone(),
                _ => folder.join(format!("part-{index}.parquet")),
            };
            jobs.push(FileJob { table, path, parts: index * parts / files..(index + 1) * parts / files });
        }
    }
    jobs.sort_by_key(|job| std::cmp::Reverse(job.parts.end - job.parts.start));
    Ok(jobs)
}

fn make_dir(dir: &Path) -> Result<(), TpchFilesError> {
    fs::create_dir_all(dir).map_err(|source| TpchFilesError::Io { path: dir.to_owned(), source })
}

async fn write_file(job: FileJob, scale: f64, row_group_rows: usize) -> Result<Written, TpchFilesError> {
    let FileJob { table, path, parts } = job;
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    let interrupted = || TpchFilesError::Interrupted { path: path.clone() };
    let (sender, receiver) = mpsc::channel(BATCHES_IN_FLIGHT);
    let file = FileWriter { table, path: path.clone(), row_group_rows };
    let writer = SpawnedTask::spawn_blocking(move || file.run(receiver));
    let mut generated = futures::stream::iter(parts)
        .map(|part| {
            SpawnedTask::spawn_blocking(move || {
                table.batches(scale, part, BATCH_ROWS, true).collect::<Result<Vec<_>, _>>()
            })
        })
        .buffered(PARTS_IN_FLIGHT);
    'all: while let Some(batches) = generated.next().await {
        let batches = batches.map_err(|_| interrupted())?;
        for batch in batches.map_err(|source| TpchFilesError::Generate { table, source })? {
            // The writer ends early only with an error, which it returns.
            if sender.send(Some(batch)).await.is_err() {
                break 'all;
            }
        }
    }
    // Whether or not the writer is still there to hear it.
    let _ = sender.send(None).await;
    writer.await.map_err(|_| interrupted())?
}

/// The blocking half of one file.
struct FileWriter {
    table: TpchTable,
    path: PathBuf,
    row_group_rows: usize,
}

impl FileWriter {
    /// Writes batches until `None`, the end. A channel that closes before it means that the caller has gone.
    fn run(self, batches: mpsc::Receiver<Option<RecordBatch>>) -> Result<Written, TpchFilesError> {
        let partial = self.path.with_extension("parquet.partial");
        let written = self.write(&partial, batches);
        if written.is_err() {
            // What it is about is the first error.
            let _ = fs::remove_file(&partial);
        }
        written
    }

    fn write(
        &self,
        partial: &Path,
        mut batches: mpsc::Receiver<Option<RecordBatch>>,
    ) -> Result<Written, TpchFilesError> {
        let io = |source| TpchFilesError::Io { path: self.path.clone(), source };
        let parquet = |source| TpchFilesError::Parquet { path: self.path.clone(), source };
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(self.row_group_rows))
            .build();
        let file = File::create(partial).map_err(io)?;
        let mut writer = ArrowWriter::try_new(file, self.table.schema(), Some(properties)).map_err(parquet)?;
        loop {
            match batches.blocking_recv() {
                Some(Some(batch)) => writer.write(&batch).map_err(parquet)?,
                Some(None) => break,
                None => return Err(TpchFilesError::Interrupted { path: self.path.clone() }),
            }
        }
        let footer = writer.finish().map_err(parquet)?;
        // The writer is spent: what it wrote to is reached through it.
        let file = writer.inner();
        file.sync_all().map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        fs::rename(partial, &self.path).map_err(io)?;
        let rows = u64::try_from(footer.file_metadata().num_rows()).unwrap_or(0);
        Ok(Written { table: self.table, path: self.path.clone(), rows, bytes, row_groups: footer.num_row_groups() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(dir: &Path, files_per_table: usize) -> TpchFiles {
        TpchFiles { scale: 0.02, dir: dir.to_owned(), files_per_table, row_group_rows: 20_000, threads: 2 }
    }

    #[tokio::test]
    async fn writes_every_table_in_the_promised_layout() {
        let dir = tempfile::tempdir().unwrap();
        let one = dir.path().join("one");
        let mut told = 0;
        let written = write_tpch(&request(&one, 1), |_| told += 1).await.unwrap();
        assert_eq!((written.len(), told), (8, 8));
        let of = |written: &[Written], table| {
            written.iter().filter(|file| file.table == table).map(|file| file.rows).collect::<Vec<_>>()
        };
        assert_eq!(of(&written, TpchTable::Orders), [30_000]);
        assert_eq!(written.iter().find(|file| file.table == TpchTable::Orders).unwrap().row_groups, 2);
        assert!(one.join("orders.parquet").exists());

        let many = dir.path().join("many");
        let written = write_tpch(&request(&many, 3), |_| ()).await.unwrap();
        assert_eq!(of(&written, TpchTable::Orders).len(), 3);
        assert_eq!(of(&written, TpchTable::Orders).iter().sum::<u64>(), 30_000);
        assert!(many.join("region/part-0.parquet").exists() && !many.join("region/part-1.parquet").exists());
        let partial =
            |dir: &Path| fs::read_dir(dir).unwrap().any(|it| it.unwrap().path().to_string_lossy().ends_with("partial"));
        assert!(!partial(&one) && !partial(&many.join("orders")));
    }

    #[tokio::test]
    async fn never_mixes_with_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("region")).unwrap();
        let error = write_tpch(&request(dir.path(), 1), |_| ()).await.unwrap_err();
        assert!(matches!(error, TpchFilesError::Exists { .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let wrong = TpchFiles { scale: 0.0, ..request(dir.path(), 1) };
        assert!(matches!(write_tpch(&wrong, |_| ()).await, Err(TpchFilesError::Invalid { .. })));
    }
}
