//! Lines of a file as rows of a table: what `LOAD DATA` reads.
//!
//! [`lines`] takes lines and fields apart, [`values`] makes columns of them, [`upload`] is how a front end brings the
//! client's file. Memory: one batch, and as much of the file as the longest line takes.

mod lines;
pub mod upload;
mod values;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use parking_lot::Mutex;
use sheaf_common::{ErrorCode, WireError};
use tokio::io::AsyncReadExt;

pub(crate) use lines::Lines;
use lines::Record;
use upload::Parts;
pub(crate) use values::{Charset, Outcome, Rows, Target};

/// Bytes of a file of this machine that are read at once.
const READ_BYTES: usize = 256 << 10;

/// Where the bytes come from.
pub(crate) enum Source {
    File(PathBuf),
    Client(Parts),
}

/// The rows of one load as a table that can be read once.
pub(crate) struct LoadedRows {
    schema: SchemaRef,
    outcome: Arc<Mutex<Outcome>>,
    /// Gone once it is read.
    loading: Mutex<Option<Loading>>,
}

pub(crate) struct Loading {
    pub source: Option<Source>,
    pub lines: Lines,
    pub lines_skipped: u64,
    pub rows: Rows,
}

impl LoadedRows {
    /// The source is still to be given: see [`LoadedRows::begin`].
    pub fn new(loading: Loading) -> Self {
        let (schema, outcome) = (loading.rows.schema(), loading.rows.outcome());
        Self { schema, outcome, loading: Mutex::new(Some(loading)) }
    }

    /// Says where the lines come from, before anybody reads them.
    pub fn begin(&self, source: Source) {
        if let Some(loading) = self.loading.lock().as_mut() {
            loading.source = Some(source);
        }
    }

    /// What there is to say of the rows, once they are read.
    pub fn outcome(&self) -> Outcome {
        self.outcome.lock().clone()
    }
}

impl fmt::Debug for LoadedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedRows").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PartitionStream for LoadedRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let loading = self.loading.lock().take();
        let batches = futures::stream::try_unfold(loading.map(Open::new), |open| async move {
            let Some(mut open) = open else {
                let error = WireError::new(ErrorCode::Internal, "the lines of a load are there only once");
                return Err(DataFusionError::External(Box::new(error)));
            };
            let batch = open.next().await.map_err(|error| DataFusionError::External(Box::new(error)))?;
            Ok(batch.map(|batch| (batch, Some(open))))
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), Box::pin(batches)))
    }
}

/// A load that has begun.
struct Open {
    loading: Loading,
    file: Option<tokio::fs::File>,
    record: Record,
    is_over: bool,
}

impl Open {
    fn new(loading: Loading) -> Self {
        Self { loading, file: None, record: Record::default(), is_over: false }
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>, WireError> {
        loop {
            while self.loading.lines.next(&mut self.record)? {
                if self.loading.lines_skipped > 0 {
                    self.loading.lines_skipped -= 1;
                    continue;
                }
                self.loading.rows.push(&self.record)?;
                if self.loading.rows.is_full() {
                    return self.loading.rows.batch();
                }
            }
            if self.is_over {
                return self.loading.rows.batch();
            }
            match self.read().await? {
                Some(bytes) => self.loading.lines.push(&bytes),
                None => {
                    self.is_over = true;
                    self.loading.lines.end();
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Vec<u8>>, WireError> {
        match &mut self.loading.source {
            None => Ok(None),
            Some(Source::Client(parts)) => parts.next().await,
            Some(Source::File(path)) => {
                let failed = |error: std::io::Error| {
                    WireError::new(
                        ErrorCode::FileUnreadable,
                        format!("error reading file '{}': {error}", path.display()),
                    )
                };
                let file = match &mut self.file {
                    Some(file) => file,
                    None => self.file.insert(tokio::fs::File::open(&*path).await.map_err(failed)?),
                };
                let mut bytes = vec![0; READ_BYTES];
                let n_bytes = file.read(&mut bytes).await.map_err(failed)?;
                bytes.truncate(n_bytes);
                Ok((n_bytes > 0).then_some(bytes))
            }
        }
    }
}
