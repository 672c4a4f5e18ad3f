//! Batches as Flight messages and back.
//!
//! The IPC writer is used directly: arrow-flight's own encoder drops batches without rows, cuts those that it finds
//! large, and describes a `LargeList` as a `List`. A stream is one schema message, the batches with the dictionaries
//! that they need, and the end mark; a stream of no batch is the end mark alone.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, FieldRef, Schema, SchemaRef, StringViewType};
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow_flight::FlightData;
use datafusion::error::DataFusionError;
use sheaf_common::settings::ExchangeCompression;
use sheaf_common::{ErrorCode, WireError};

/// What the last message of a whole stream says.
const END: &[u8] = b"end";

/// What every segment costs, however empty it is.
const SEGMENT_BYTES_MIN: usize = 128;

/// View arrays whose strings fill less than this part of their buffers are copied before they are kept or sent.
const VIEW_WASTE_MAX: usize = 2;

/// The mark without which a stream was cut.
pub fn end_mark() -> FlightData {
    FlightData::new().with_app_metadata(END)
}

pub fn is_end_mark(data: &FlightData) -> bool {
    data.app_metadata.as_ref() == END
}

/// Bytes that reading a message cost the link.
pub fn wire_bytes(data: &FlightData) -> usize {
    data.data_header.len() + data.data_body.len()
}

/// Encodes the batches of one stream, in order.
pub struct Encoder {
    generator: IpcDataGenerator,
    options: IpcWriteOptions,
    /// The dictionaries that the other side knows.
    tracker: DictionaryTracker,
    context: IpcWriteContext,
}

impl Encoder {
    /// An encoder, and the message to send first.
    ///
    /// Errs when this build cannot compress that way.
    pub fn new(schema: &Schema, compression: ExchangeCompression) -> Result<(Self, FlightData), WireError> {
        let generator = IpcDataGenerator::default();
        let options = ipc_options(compression)?;
        let mut tracker = DictionaryTracker::new(false);
        let message = generator.schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &options);
        Ok((Self { generator, options, tracker, context: IpcWriteContext::default() }, message.into()))
    }

    /// The messages of one batch: the dictionaries that changed, then its rows.
    pub fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<FlightData>, WireError> {
        let encoded = self.generator.encode(batch, &mut self.tracker, &self.options, &mut self.context);
        let (dictionaries, rows) = encoded.map_err(from_arrow)?;
        Ok(dictionaries.into_iter().chain([rows]).map(Into::into).collect())
    }
}

/// How rows are written, whatever carries them.
pub(crate) fn ipc_options(compression: ExchangeCompression) -> Result<IpcWriteOptions, WireError> {
    let codec = match compression {
        ExchangeCompression::Off => None,
        ExchangeCompression::Lz4 => Some(CompressionType::LZ4_FRAME),
        ExchangeCompression::Zstd => Some(CompressionType::ZSTD),
    };
    IpcWriteOptions::default().try_with_compression(codec).map_err(from_arrow)
}

/// The messages of one batch with all its dictionaries, so that they serve any stream of its schema.
pub fn encode_alone(batch: &RecordBatch) -> Result<Vec<FlightData>, WireError> {
    Encoder::new(batch.schema_ref(), ExchangeCompression::Off)?.0.encode(batch)
}

/// The same rows under the schema that the plan promised: names, nullability and metadata may differ, types not.
///
/// DataFusion's plans do not keep every promise: CASE may put out a column of the type Null in place of any other, and
/// a column without NULLs may have some. One process never looks; so the first gets the type that was planned, and
/// the second keeps its NULLs.
pub fn with_schema(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, WireError> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let n_rows = batch.num_rows();
    let mut columns = batch.columns().to_vec();
    let mut schema = SchemaRef::clone(schema);
    for (idx, field) in SchemaRef::clone(&schema).fields().iter().enumerate().take(columns.len()) {
        let column = &mut columns[idx];
        if column.data_type() == &DataType::Null && field.data_type() != &DataType::Null {
            *column = new_null_array(field.data_type(), n_rows);
        }
        if !field.is_nullable() && column.null_count() > 0 {
            schema = nullable(&schema, idx);
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
    RecordBatch::try_new_with_options(schema, columns, &options).map_err(|error| {
        WireError::new(ErrorCode::Internal, format!("a task has rows of another shape than planned: {error}"))
    })
}

fn nullable(schema: &Schema, idx: usize) -> SchemaRef {
    let mut fields: Vec<FieldRef> = schema.fields().to_vec();
    fields[idx] = Arc::new(fields[idx].as_ref().clone().with_nullable(true));
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Bytes that a batch's rows take, without what else is in the buffers that they are slices of.
pub fn batch_bytes(batch: &RecordBatch) -> usize {
    let columns: usize = batch.columns().iter().map(column_bytes).sum();
    columns.max(SEGMENT_BYTES_MIN)
}

fn column_bytes(column: &ArrayRef) -> usize {
    let buffers = match column.data_type() {
        DataType::Utf8View => view_buffer_bytes::<StringViewType>(column),
        DataType::BinaryView => view_buffer_bytes::<BinaryViewType>(column),
        _ => 0,
    };
    let slice = column.to_data().get_slice_memory_size();
    buffers + slice.unwrap_or_else(|_| column.get_array_memory_size())
}

fn view_buffer_bytes<T: ByteViewType>(column: &ArrayRef) -> usize {
    column.as_byte_view::<T>().data_buffers().iter().map(|buffer| buffer.len()).sum()
}

/// The batch without the parts of view buffers that none of its rows uses. A filter or a gather shares all buffers
/// of its input with each of its outputs; kept or sent as they are, the same bytes would count many times.
pub fn compact(batch: RecordBatch) -> Result<RecordBatch, WireError> {
    let is_view = |column: &ArrayRef| matches!(column.data_type(), DataType::Utf8View | DataType::BinaryView);
    if !batch.columns().iter().any(is_view) {
        return Ok(batch);
    }
    let columns = batch.columns().iter().map(|column| match column.data_type() {
        DataType::Utf8View => compact_views::<StringViewType>(column),
        DataType::BinaryView => compact_views::<BinaryViewType>(column),
        _ => ArrayRef::clone(column),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns.collect(), &options).map_err(from_arrow)
}

fn compact_views<T: ByteViewType>(column: &ArrayRef) -> ArrayRef {
    let views = column.as_byte_view::<T>();
    let held: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
    if held > VIEW_WASTE_MAX * views.total_buffer_bytes_used() { Arc::new(views.gc()) } else { ArrayRef::clone(column) }
}

pub(crate) fn from_arrow(error: ArrowError) -> WireError {
    sheaf_planners::error::to_wire(&DataFusionError::from(error))
}
