//! Segments on disk: written by the worker's spill thread, read back by whoever reads the partition.
//!
//! A segment is an Arrow IPC stream of its own, schema and dictionaries included, so that it is read without the ones
//! before it. Files come from DataFusion's disk manager, which counts them, holds them to its limit and puts them into
//! the node's spill folder; a file is removed when the last segment in it was dropped.

use std::io::{self, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arrow::buffer::MutableBuffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::record_batch::RecordBatch;
use datafusion::execution::DiskManager;
use datafusion::execution::memory_pool::human_readable_size;
use datafusion::execution::spill_file::{SpillFile, SpillWriter};
use parking_lot::Mutex;
use sheaf_common::error::Classify;
use sheaf_common::{ErrorCode, WireError};

use super::buffer::Segment;

/// None: processors are what queries are short of. Measured on 2026-11-20 on two shared cores with 453 MB of rows like
/// `lineitem` and a file in the page cache (`what_compression_saves_and_costs`, three runs): uncompressed, 3.6 GB/s are
/// written and 4.7 read, 0.5 s of CPU a GB there and back; with LZ4 1.0 and 2.4 GB/s, 1.4 s a GB, for files of 37 %.
/// LZ4 would be faster where the disk itself moves less than about 1 GB/s and the page cache is full.
const COMPRESSION: Option<CompressionType> = None;

/// Bytes after which an exchange begins another file, so that those of a long stream do not wait for its end.
const FILE_BYTES: u64 = 64 << 20;

/// What a stream takes besides its rows, roughly.
const STREAM_BYTES: u64 = 4 << 10;

/// How long a disk that failed is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// Why a segment could not be written to disk or read back. The operator's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SpillError {
    #[error("this worker has no folder to spill to")]
    NoFolder,
    #[error("spill files may take {} (--spill-limit), and that is reached", human_readable_size(*.limit as usize))]
    Limit { limit: u64 },
    #[error("the disk of spill folder {folder:?} is full: free some of it, or set --data-dir to another disk")]
    Full { folder: PathBuf },
    #[error("spill folder {folder:?} is missing: start the node again, and let nobody remove what is in --data-dir")]
    Missing { folder: PathBuf },
    #[error("cannot {what} spill folder {folder:?}: {detail}")]
    Io { what: &'static str, folder: PathBuf, detail: String },
    #[error("cannot make rows a spill file or a spill file rows: {detail}")]
    Format { detail: String },
}

impl Classify for SpillError {
    fn code(&self) -> ErrorCode {
        match self {
            SpillError::NoFolder => ErrorCode::MemoryRefused,
            SpillError::Limit { .. } | SpillError::Full { .. } => ErrorCode::DiskFull,
            SpillError::Missing { .. } | SpillError::Io { .. } => ErrorCode::SpillFailed,
            SpillError::Format { .. } => ErrorCode::Internal,
        }
    }

    fn is_retryable(&self) -> bool {
        !matches!(self, SpillError::Format { .. })
    }
}

impl SpillError {
    pub fn to_wire(&self, text: String) -> WireError {
        let error = WireError::new(self.code(), text);
        if self.is_retryable() { error.retryable() } else { error }
    }
}

/// Where a worker spills to.
#[derive(Debug)]
pub(super) struct SpillDisk {
    manager: Arc<DiskManager>,
    /// What went wrong last, and when.
    failure: Mutex<Option<(Instant, SpillError)>>,
}

impl SpillDisk {
    pub fn new(manager: Arc<DiskManager>) -> Self {
        Self { manager, failure: Mutex::default() }
    }

    /// Errs when a write of `bytes`, after those of `in_flight`, is not going to succeed.
    pub fn check(&self, in_flight: usize, bytes: usize) -> Result<(), SpillError> {
        let limit = self.manager.max_temp_directory_size();
        // A file has more in it than rows.
        let planned = (in_flight + bytes) as u64 / 8 * 9 + STREAM_BYTES;
        if self.manager.used_disk_space().saturating_add(planned) > limit {
            return Err(SpillError::Limit { limit });
        }
        let mut failure = self.failure.lock();
        match failure.take_if(|(at, _)| at.elapsed() >= RETRY_AFTER) {
            Some(_) => Ok(()),
            None => failure.as_ref().map_or(Ok(()), |(_, error)| Err(error.clone())),
        }
    }

    pub fn set_failed(&self, error: SpillError) {
        *self.failure.lock() = Some((Instant::now(), error));
    }

    pub fn create(&self) -> Result<OpenFile, SpillError> {
        let failed = |error| from_datafusion("create a file in", self.folder(), &error);
        let file = self.manager.create_tmp_file("exchange").map_err(failed)?;
        let writer = file.open_writer().map_err(failed)?;
        let writer = BufWriter::with_capacity(WRITE_BYTES, Counted { writer, bytes: 0 });
        Ok(OpenFile { writer, file, folder: self.folder(), limit: self.manager.max_temp_directory_size() })
    }

    fn folder(&self) -> PathBuf {
        self.manager.temp_dir_paths().into_iter().next().unwrap_or_default()
    }
}

/// A file that segments are appended to.
pub(super) struct OpenFile {
    // Before the file: what it writes is counted until the file is dropped.
    writer: BufWriter<Counted>,
    file: Arc<dyn SpillFile>,
    folder: PathBuf,
    limit: u64,
}

/// Counts what went to the file.
struct Counted {
    writer: Box<dyn SpillWriter>,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl OpenFile {
    pub fn bytes(&self) -> u64 {
        self.writer.get_ref().bytes
    }

    pub fn is_full(&self) -> bool {
        self.bytes() >= FILE_BYTES
    }

    /// Appends a batch. After an error the file must not be written to again.
    pub fn append(&mut self, segment: &Segment) -> Result<Stored, SpillError> {
        let offset = self.writer.get_ref().bytes;
        encode(&segment.batch, &mut self.writer, COMPRESSION).map_err(|error| self.failed(error))?;
        self.writer.flush().map_err(|error| from_io("write to", self.folder.clone(), self.limit, &error))?;
        Ok(Stored {
            file: Arc::clone(&self.file),
            offset,
            bytes_on_disk: self.writer.get_ref().bytes - offset,
            bytes: segment.bytes,
            schema: segment.batch.schema(),
            loaded: Mutex::default(),
        })
    }

    fn failed(&self, error: arrow::error::ArrowError) -> SpillError {
        match error {
            arrow::error::ArrowError::IoError(_, error) => from_io("write to", self.folder.clone(), self.limit, &error),
            other => SpillError::Format { detail: other.to_string() },
        }
    }
}

fn encode(
    batch: &RecordBatch,
    writer: &mut impl Write,
    compression: Option<CompressionType>,
) -> Result<(), arrow::error::ArrowError> {
    let options = IpcWriteOptions::default().try_with_compression(compression)?;
    let mut stream = StreamWriter::try_new_with_options(writer, batch.schema_ref(), options)?;
    stream.write(batch)?;
    stream.finish()
}

fn decode(bytes: MutableBuffer) -> Result<RecordBatch, SpillError> {
    let failed = |detail: String| SpillError::Format { detail };
    let batch = StreamDecoder::new().decode(&mut bytes.into()).map_err(|error| failed(error.to_string()))?;
    batch.ok_or_else(|| failed("a stream without rows".to_owned()))
}

fn from_datafusion(what: &'static str, folder: PathBuf, error: &datafusion::error::DataFusionError) -> SpillError {
    match error {
        datafusion::error::DataFusionError::IoError(error) => from_io(what, folder, 0, error),
        other => SpillError::Io { what, folder, detail: other.strip_backtrace() },
    }
}

fn from_io(what: &'static str, folder: PathBuf, limit: u64, error: &io::Error) -> SpillError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => SpillError::Full { folder },
        ErrorKind::NotFound => SpillError::Missing { folder },
        // The disk manager has no kind of its own for it.
        ErrorKind::Other if error.to_string().contains("max_temp_directory_size") => SpillError::Limit { limit },
        _ => SpillError::Io { what, folder, detail: error.to_string() },
    }
}

/// A segment on disk. Dropping it gives up its place.
pub(super) struct Stored {
    file: Arc<dyn SpillFile>,
    offset: u64,
    pub bytes_on_disk: u64,
    /// What it takes in memory.
    pub bytes: usize,
    schema: SchemaRef,
    /// As long as one of several readers has it, the others need not read it again.
    loaded: Mutex<Weak<Segment>>,
}

impl Stored {
    /// The segment, if some reader has it in hand.
    pub fn loaded(&self) -> Option<Arc<Segment>> {
        self.loaded.lock().upgrade()
    }

    /// Reads it back. Blocks.
    pub fn load(&self) -> Result<Arc<Segment>, SpillError> {
        let path = self.file.path().ok_or_else(|| SpillError::Format { detail: "a file without path".to_owned() })?;
        let folder = || path.parent().map(PathBuf::from).unwrap_or_default();
        let mut bytes = MutableBuffer::from_len_zeroed(self.bytes_on_disk as usize);
        let read = std::fs::File::open(path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.read_exact(&mut bytes)
        });
        read.map_err(|error| from_io("read from", folder(), 0, &error))?;
        let batch = decode(bytes)?;
        debug_assert_eq!(batch.schema_ref(), &self.schema, "rows come back under another schema");
        // The same instance for all batches of the exchange: comparing them costs nothing then.
        let batch = batch.clone().with_schema(SchemaRef::clone(&self.schema)).unwrap_or(batch);
        let segment = Arc::new(Segment::new(batch, self.bytes));
        *self.loaded.lock() = Arc::downgrade(&segment);
        Ok(segment)
    }
}

#[cfg(test)]
mod tests;
