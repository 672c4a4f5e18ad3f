//! The peer's end of the benchmark: statements on standard input, answers on standard output, one line of JSON each.
//!
//! The first line that a peer writes is `{"ready": "<what it is and how it is set up>"}`. To each `{"sql": "…"}` it
//! answers `{"kinds": ["exact" | "decimal" | "float", …], "rows": [["text" | null, …], …]}`, or `{"error": "…"}`. It
//! ends when its input ends. Used by peers outside this workspace too, so that all of them make text of their rows by
//! the same code; hence it uses nothing of ours.

use std::io::{self, BufRead, Write};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::{DataFusionError, Result};
use serde_json::{Value, json};

/// Answers statements until the input ends. `ask` gives all rows of one.
///
/// Errs when the input is no statement or the output cannot be written.
pub fn serve(ready: &str, mut ask: impl FnMut(&str) -> Result<(SchemaRef, Vec<RecordBatch>)>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut write = |line: String| {
        out.write_all(line.as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()
    };
    write(json!({ "ready": ready }).to_string())?;
    for line in io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let sql = request["sql"].as_str().ok_or_else(|| io::Error::other("a request without \"sql\""))?;
        let answer = ask(sql).and_then(|(schema, batches)| answer(&schema, &batches));
        write(answer.unwrap_or_else(|error| json!({ "error": error.strip_backtrace() }).to_string()))?;
    }
    Ok(())
}

/// Rows as the client gets them. Written straight into the text: its time is measured as the peer's.
fn answer(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<String> {
    let options = FormatOptions::new().with_display_error(false);
    let kinds: Vec<&str> = schema.fields().iter().map(|field| kind(field.data_type())).collect();
    let mut out = format!("{{\"kinds\":{},\"rows\":[", json!(kinds)).into_bytes();
    let mut cell = String::new();
    let mut is_first = true;
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
        let columns: Vec<ArrayFormatter<'_>> = columns.collect::<std::result::Result<_, _>>()?;
        for row in 0..batch.num_rows() {
            out.extend_from_slice(if is_first { b"[" } else { b",[" });
            is_first = false;
            for (n, formatter) in columns.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                if batch.column(n).is_null(row) {
                    out.extend_from_slice(b"null");
                    continue;
                }
                cell.clear();
                formatter.value(row).write(&mut cell)?;
                serde_json::to_writer(&mut out, &cell).map_err(|error| DataFusionError::External(Box::new(error)))?;
            }
            out.push(b']');
        }
    }
    out.extend_from_slice(b"]}");
    String::from_utf8(out).map_err(|error| DataFusionError::External(Box::new(error)))
}

fn kind(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => "float",
        data_type if data_type.is_decimal() => "decimal",
        _ => "exact",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray};

    use super::*;

    #[test]
    fn cells_are_text_as_a_client_has_it() {
        let decimals = Decimal128Array::from(vec![Some(-105), None]).with_precision_and_scale(15, 2).unwrap();
        let columns: [(&str, ArrayRef); 5] = [
            ("i", Arc::new(Int64Array::from(vec![Some(7), None]))),
            ("d", Arc::new(decimals)),
            ("f", Arc::new(Float64Array::from(vec![Some(0.5), None]))),
            ("t", Arc::new(StringArray::from(vec![Some("a\"b"), None]))),
            ("day", Arc::new(Date32Array::from(vec![Some(9131), None]))),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)));
        let batch = batch.unwrap();
        let answer = answer(&batch.schema(), &[batch.clone(), batch.clone()]).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["kinds"], json!(["exact", "decimal", "float", "exact", "exact"]));
        assert_eq!(answer["rows"][0], json!(["7", "-1.05", "0.5", "a\"b", "1995-01-01"]));
        assert_eq!(answer["rows"][1], json!([null, null, null, null, null]));
        assert_eq!(answer["rows"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn an_answer_without_rows_has_its_columns() {
        let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
        assert_eq!(answer(&batch.schema(), &[]).unwrap(), r#"{"kinds":["exact"],"rows":[]}"#);
    }
}
