//! Rows of mixed values, as virtual tables have them, and their way into a batch.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::array::{Float64Array, Int64Array, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::error::Result;

/// One value. Times are milliseconds since 1970 UTC.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Null,
    Text(String),
    Int(i64),
    UInt(u64),
    Float(f64),
    Time(i64),
}

pub(super) type Row = Vec<Cell>;

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&String> for Cell {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for Cell {
    fn from(value: u64) -> Self {
        Self::UInt(value)
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Cell::Null, Into::into)
    }
}

/// A row of anything that is a cell.
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($crate::system::cells::Cell::from($value)),*] };
}
pub(super) use row;

/// The columns of a virtual table.
pub(super) struct Shape {
    schema: SchemaRef,
}

impl Shape {
    /// Reads `NAME:kind` pairs; a kind is `s` text, `i` bigint, `u` unsigned bigint, `f` double, `t` time, and `?` allows NULL.
    ///
    /// Panics on any other: the texts are constants, and a test scans every table.
    pub fn parse(columns: &'static str) -> Self {
        let field = |column: &str| {
            let (name, kind) = column.split_once(':').expect("columns are pairs");
            let data_type = match kind.trim_end_matches('?') {
                "s" => DataType::Utf8,
                "i" => DataType::Int64,
                "u" => DataType::UInt64,
                "f" => DataType::Float64,
                "t" => DataType::Timestamp(TimeUnit::Microsecond, None),
                other => panic!("column {name} has no kind {other}"),
            };
            Field::new(name, data_type, kind.ends_with('?'))
        };
        Self { schema: Arc::new(Schema::new(columns.split_whitespace().map(field).collect::<Vec<_>>())) }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Errs when a row does not fit: a bug in the table.
    pub fn batch(&self, rows: Vec<Row>) -> Result<RecordBatch> {
        let n_rows = rows.len();
        let mut columns: Vec<Vec<Cell>> = self.schema.fields().iter().map(|_| Vec::with_capacity(n_rows)).collect();
        for row in rows {
            if row.len() != columns.len() {
                return datafusion::common::internal_err!("row of {} cells for {:?}", row.len(), self.schema);
            }
            columns.iter_mut().zip(row).for_each(|(column, cell)| column.push(cell));
        }
        let arrays = self.schema.fields().iter().zip(columns).map(|(field, cells)| array(field, cells));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), arrays.collect::<Result<Vec<_>>>()?)?)
    }
}

fn array(field: &Field, cells: Vec<Cell>) -> Result<ArrayRef> {
    macro_rules! of {
        ($array:ident, $($from:pat => $value:expr),+) => {{
            let values = cells.into_iter().map(|cell| match cell {
                Cell::Null => Ok(None),
                $($from => Ok(Some($value)),)+
                other => datafusion::common::internal_err!("{other:?} in column {}", field.name()),
            });
            Ok(Arc::new($array::from_iter(values.collect::<Result<Vec<_>>>()?)) as ArrayRef)
        }};
    }
    match field.data_type() {
        DataType::Int64 => of!(Int64Array, Cell::Int(value) => value),
        DataType::UInt64 => of!(UInt64Array, Cell::UInt(value) => value),
        DataType::Float64 => of!(Float64Array, Cell::Float(value) => value),
        DataType::Timestamp(..) => {
            of!(TimestampMicrosecondArray, Cell::Time(ms) => ms.saturating_mul(1000))
        }
        _ => of!(StringArray, Cell::Text(text) => text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        let shape = Shape::parse("a:s b:i? c:u d:t?");
        let batch = shape.batch(vec![row!["x", 1i64, 2u64, Cell::Time(3)], row!["y", Cell::Null, 5u64, Cell::Null]]);
        let batch = batch.unwrap();
        assert_eq!((batch.num_rows(), batch.column(1).null_count()), (2, 1));
        assert_eq!(shape.batch(vec![]).unwrap().num_rows(), 0);
        assert!(shape.batch(vec![row!["x"]]).is_err());
        assert!(shape.batch(vec![row![1i64, 1i64, 2u64, Cell::Null]]).is_err());
        assert!(shape.batch(vec![row![Cell::Null, 1i64, 2u64, Cell::Null]]).is_err());
    }
}
