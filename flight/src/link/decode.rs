//! Frames of rows back to batches, whose arrays stand in the frame's own memory.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow::ipc::{MessageHeader, root_as_message};
use arrow::record_batch::RecordBatch;

/// Before the metadata of each message: a marker of four bytes and the metadata's length.
const PREFIX_BYTES: usize = 8;

/// The state of one stream.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// Of the batches that follow.
    schema: Option<SchemaRef>,
    dictionaries: HashMap<i64, ArrayRef>,
}

impl Decoder {
    /// The batches of one frame.
    ///
    /// Errs when the bytes are not what a worker of this version sends; nothing more can be decoded then.
    pub fn decode(&mut self, body: &Buffer) -> Result<Vec<RecordBatch>, ArrowError> {
        // Arrow's reader checks most that it is given, but answers some nonsense with a panic.
        let decoded = catch_unwind(AssertUnwindSafe(|| self.decode_messages(body)));
        decoded.unwrap_or_else(|panic| Err(ArrowError::IpcError(crate::error::from_panic(panic.as_ref()).message)))
    }

    // arrow's own `StreamDecoder` keeps a message without a body back until more bytes come.
    fn decode_messages(&mut self, body: &Buffer) -> Result<Vec<RecordBatch>, ArrowError> {
        let mut batches = Vec::new();
        let mut rest = body.clone();
        while !rest.is_empty() {
            let prefix = take(&mut rest, PREFIX_BYTES)?;
            let len = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]);
            let metadata = take(&mut rest, len as usize)?;
            let message = root_as_message(&metadata)
                .map_err(|error| ArrowError::IpcError(format!("the metadata of a message is damaged: {error}")))?;
            let length = usize::try_from(message.bodyLength()).map_err(|_| missing("length"))?;
            let data = take(&mut rest, length)?;
            let version = message.version();
            match message.header_type() {
                MessageHeader::Schema => {
                    let schema = message.header_as_schema().ok_or_else(|| missing("schema"))?;
                    self.schema = Some(Arc::new(fb_to_schema(schema)));
                    self.dictionaries.clear();
                }
                MessageHeader::DictionaryBatch => {
                    let batch = message.header_as_dictionary_batch().ok_or_else(|| missing("dictionary"))?;
                    let schema = self.schema.as_ref().ok_or_else(|| missing("schema"))?;
                    read_dictionary(&data, batch, schema, &mut self.dictionaries, &version)?;
                }
                MessageHeader::RecordBatch => {
                    let batch = message.header_as_record_batch().ok_or_else(|| missing("batch"))?;
                    let schema = self.schema.clone().ok_or_else(|| missing("schema"))?;
                    let decoder = RecordBatchDecoder::try_new(&data, batch, schema, &self.dictionaries, &version)?;
                    batches.push(decoder.read_record_batch()?);
                }
                other => return Err(ArrowError::IpcError(format!("a message of the kind {other:?}"))),
            }
        }
        Ok(batches)
    }
}

fn missing(what: &str) -> ArrowError {
    ArrowError::IpcError(format!("a message came without its {what}"))
}

/// The next `len` bytes, in the same memory.
fn take(rest: &mut Buffer, len: usize) -> Result<Buffer, ArrowError> {
    if rest.len() < len {
        return Err(ArrowError::IpcError(format!("{len} bytes were announced, {} came", rest.len())));
    }
    let taken = rest.slice_with_length(0, len);
    rest.advance(len);
    Ok(taken)
}
