//! Frames of rows back to batches, whose arrays stand in the frame's own memory.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryViewArray, StringViewArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow::ipc::{MessageHeader, root_as_message};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

/// Before the metadata of each message: a marker of four bytes and the metadata's length.
const PREFIX_BYTES: usize = 8;

/// The state of one stream.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    schemas: Option<Schemas>,
    dictionaries: HashMap<i64, ArrayRef>,
}

/// The schema of the batches that follow.
#[derive(Debug)]
struct Schemas {
    batch: SchemaRef,
    /// What arrow's reader is told: views of texts are bytes to it. It would look at each text on its own.
    reader: SchemaRef,
}

impl Schemas {
    fn new(batch: Schema) -> Self {
        let reader = batch.fields().iter().map(|field| match field.data_type() {
            DataType::Utf8View => Arc::new(field.as_ref().clone().with_data_type(DataType::BinaryView)),
            _ => FieldRef::clone(field),
        });
        let reader = Schema::new(reader.collect::<Vec<_>>());
        Self { batch: Arc::new(batch), reader: Arc::new(reader) }
    }

    /// Turns what the reader gave into what was sent. Errs when a text is none.
    fn restore(&self, batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let columns = self.batch.fields().iter().zip(batch.columns()).map(|(field, column)| match field.data_type() {
            DataType::Utf8View => texts(column.as_binary_view()).map(|texts| Arc::new(texts) as ArrayRef),
            _ => Ok(ArrayRef::clone(column)),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.batch), columns.collect::<Result<_, _>>()?, &options)
    }
}

/// The bytes as texts. One look at all of them together finds that most are ASCII; only others are looked at one by one.
///
/// Errs when one of them is not UTF-8.
fn texts(bytes: &BinaryViewArray) -> Result<StringViewArray, ArrowError> {
    if is_ascii(bytes) {
        // SAFETY: every byte that a view can reach, in itself or in a buffer, is ASCII, and so is UTF-8.
        return Ok(unsafe { bytes.clone().to_string_view_unchecked() });
    }
    bytes.clone().to_string_view()
}

fn is_ascii(bytes: &BinaryViewArray) -> bool {
    /// A view of up to so many bytes holds them itself, above its length of four bytes.
    const INLINE_BYTES_MAX: u32 = 12;
    const TOP_BITS: u128 = 0x8080_8080_8080_8080_8080_8080_0000_0000;
    let inlined = bytes.views().iter().fold(0, |all, view| {
        let is_inlined = *view as u32 <= INLINE_BYTES_MAX;
        all | if is_inlined { *view } else { 0 }
    });
    inlined & TOP_BITS == 0 && bytes.data_buffers().iter().all(|buffer| buffer.is_ascii())
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
                    self.schemas = Some(Schemas::new(fb_to_schema(schema)));
                    self.dictionaries.clear();
                }
                MessageHeader::DictionaryBatch => {
                    let batch = message.header_as_dictionary_batch().ok_or_else(|| missing("dictionary"))?;
                    let schemas = self.schemas.as_ref().ok_or_else(|| missing("schema"))?;
                    read_dictionary(&data, batch, &schemas.batch, &mut self.dictionaries, &version)?;
                }
                MessageHeader::RecordBatch => {
                    let batch = message.header_as_record_batch().ok_or_else(|| missing("batch"))?;
                    let schemas = self.schemas.as_ref().ok_or_else(|| missing("schema"))?;
                    let schema = Arc::clone(&schemas.reader);
                    let decoder = RecordBatchDecoder::try_new(&data, batch, schema, &self.dictionaries, &version)?;
                    batches.push(schemas.restore(decoder.read_record_batch()?)?);
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

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;
    use arrow::ipc::writer::StreamEncoder;

    use super::*;

    fn encode(column: ArrayRef) -> Vec<u8> {
        let batch = RecordBatch::try_from_iter([("a", column)]).unwrap();
        let pieces = StreamEncoder::try_new(batch.schema_ref()).unwrap().encode(&batch).unwrap();
        pieces.iter().flat_map(|piece| piece.as_slice().to_vec()).collect()
    }

    fn decode(body: &[u8]) -> Result<Vec<RecordBatch>, ArrowError> {
        Decoder::default().decode(&Buffer::from(body))
    }

    const TEXTS: [&str; 5] =
        ["", "short", "kürzer", "a text that is too long to be inlined", "ein Text, der für eine View zu lang ist"];

    #[test]
    fn texts_of_any_length_and_alphabet_are_read() {
        for n in 1..=TEXTS.len() {
            let views: ArrayRef = Arc::new(StringViewArray::from_iter_values(&TEXTS[..n]));
            assert_eq!(decode(&encode(ArrayRef::clone(&views))).unwrap()[0].column(0), &views);
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for wrong in TEXTS.into_iter().filter(|text| !text.is_empty()) {
            let columns: [ArrayRef; 2] = [
                Arc::new(StringViewArray::from_iter_values([wrong])),
                Arc::new(StringArray::from_iter_values([wrong])),
            ];
            for column in columns {
                let mut body = encode(column);
                let needle = wrong.as_bytes();
                let at = body.windows(needle.len()).rposition(|window| window == needle).expect("the text is there");
                // Beyond the first four bytes, which a long view repeats.
                body[at + needle.len() - 1] = 0xff;
                let error = decode(&body).unwrap_err().to_string();
                assert!(error.to_lowercase().contains("utf"), "{wrong}: {error}");
            }
        }
    }
}
