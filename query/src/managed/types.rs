//! Which type a managed table keeps a column in: what Delta Lake has, and what the rest becomes.
//!
//! | declared or selected | kept as | in Delta |
//! |---|---|---|
//! | BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, FLOAT, DOUBLE, DATE | the same | `boolean` to `date` |
//! | TINYINT, SMALLINT, INT UNSIGNED | the next larger signed integer | `short`, `integer`, `long` |
//! | BIGINT UNSIGNED | DECIMAL(20, 0) | `decimal(20,0)` |
//! | DECIMAL(p, s), p up to 38 | the same | `decimal(p,s)` |
//! | CHAR, VARCHAR(n), TEXT | text; the length is not kept | `string` |
//! | BINARY, BLOB | bytes | `binary` |
//! | DATETIME, TIMESTAMP | microseconds | `timestamp_ntz` |
//! | TIMESTAMP WITH TIME ZONE | microseconds, as an instant | `timestamp` |
//! | lists, structs, maps | the same, their parts by this table | `array`, `struct`, `map` |
//! | dictionaries | their values | |
//! | TIME, INTERVAL, NULL, DECIMAL over 38 digits, negative scales | refused | |

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};

/// The most digits of a decimal in Delta Lake.
const DECIMAL_DIGITS_MAX: u8 = 38;

/// The type that a column of `given` is kept and read in.
///
/// Errs with what is to be used instead, where Delta Lake has nothing that holds all its values.
pub fn kept_type(given: &DataType) -> Result<DataType, String> {
    use DataType::*;
    Ok(match given {
        Utf8 | LargeUtf8 | Utf8View => Utf8View,
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => BinaryView,
        Dictionary(_, values) => kept_type(values)?,
        RunEndEncoded(_, values) => kept_type(values.data_type())?,
        nested => part_type(nested)?,
    })
}

/// The same for a part of a nested type, where texts have no views.
fn part_type(given: &DataType) -> Result<DataType, String> {
    use DataType::*;
    let refused = |why: &str| Err(format!("type {given} has no counterpart in Delta Lake: {why}"));
    Ok(match given {
        Boolean | Int8 | Int16 | Int32 | Int64 | Float32 | Float64 | Date32 => given.clone(),
        UInt8 => Int16,
        UInt16 => Int32,
        UInt32 => Int64,
        UInt64 => Decimal128(20, 0),
        Float16 => Float32,
        Utf8 | LargeUtf8 | Utf8View => Utf8,
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => Binary,
        Date64 => Date32,
        Timestamp(_, None) => Timestamp(TimeUnit::Microsecond, None),
        Timestamp(_, Some(_)) => Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Decimal32(digits, scale) | Decimal64(digits, scale) | Decimal128(digits, scale) | Decimal256(digits, scale) => {
            match u8::try_from(*scale) {
                Err(_) => return refused("use a scale that is not negative"),
                Ok(_) if *digits > DECIMAL_DIGITS_MAX => return refused("use at most 38 digits, or DOUBLE"),
                Ok(_) => Decimal128(*digits, *scale),
            }
        }
        Dictionary(_, values) => part_type(values)?,
        RunEndEncoded(_, values) => part_type(values.data_type())?,
        List(item) | LargeList(item) | FixedSizeList(item, _) | ListView(item) | LargeListView(item) => {
            List(part(item, "element")?)
        }
        Struct(fields) => {
            let kept = fields.iter().map(|it| part(it, it.name())).collect::<Result<Vec<_>, String>>()?;
            Struct(kept.into())
        }
        Map(entries, sorted) => match entries.data_type() {
            Struct(pair) if pair.len() == 2 => {
                let pair = vec![part(&pair[0], "key")?, part(&pair[1], "value")?];
                Map(Arc::new(Field::new("key_value", Struct(pair.into()), false)), *sorted)
            }
            _ => return refused("its entries are no pairs"),
        },
        Null => return refused("give it a type, such as CAST(NULL AS INT)"),
        Time32(_) | Time64(_) => return refused("keep it as text or as a number of seconds"),
        Interval(_) | Duration(_) => return refused("keep it as a number of days or seconds"),
        Union(..) => return refused("choose one of its types"),
    })
}

fn part(field: &FieldRef, name: &str) -> Result<FieldRef, String> {
    Ok(Arc::new(Field::new(name, part_type(field.data_type())?, field.is_nullable())))
}

/// A type as Delta Lake's schemas have it: a word, or an object for what is nested.
pub fn delta_type(kept: &DataType) -> serde_json::Value {
    use serde_json::json;
    match kept {
        DataType::Boolean => json!("boolean"),
        DataType::Int8 => json!("byte"),
        DataType::Int16 => json!("short"),
        DataType::Int32 => json!("integer"),
        DataType::Int64 => json!("long"),
        DataType::Float32 => json!("float"),
        DataType::Float64 => json!("double"),
        DataType::Date32 => json!("date"),
        DataType::Timestamp(_, None) => json!("timestamp_ntz"),
        DataType::Timestamp(_, Some(_)) => json!("timestamp"),
        DataType::Decimal128(digits, scale) => json!(format!("decimal({digits},{scale})")),
        DataType::Binary | DataType::BinaryView => json!("binary"),
        DataType::List(item) => json!({
            "type": "array", "elementType": delta_type(item.data_type()), "containsNull": item.is_nullable(),
        }),
        DataType::Struct(fields) => {
            let fields: Vec<_> = fields.iter().map(|it| delta_field(it, None)).collect();
            json!({"type": "struct", "fields": fields})
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => json!({
                "type": "map", "keyType": delta_type(pair[0].data_type()),
                "valueType": delta_type(pair[1].data_type()), "valueContainsNull": pair[1].is_nullable(),
            }),
            _ => json!("string"),
        },
        // `kept_type` gives no others.
        _ => json!("string"),
    }
}

/// A column as Delta Lake's schemas have it.
pub fn delta_field(field: &Field, comment: Option<&str>) -> serde_json::Value {
    let mut metadata = serde_json::Map::new();
    if let Some(comment) = comment {
        metadata.insert("comment".to_owned(), comment.into());
    }
    serde_json::json!({
        "name": field.name(), "type": delta_type(field.data_type()), "nullable": field.is_nullable(),
        "metadata": metadata,
    })
}

/// Whether a type, or a part of it, is a timestamp without a time zone: a table that has one needs a feature for it.
pub fn has_local_timestamp(kept: &DataType) -> bool {
    match kept {
        DataType::Timestamp(_, None) => true,
        DataType::List(item) | DataType::Map(item, _) => has_local_timestamp(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|it| has_local_timestamp(it.data_type())),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::IntervalUnit;

    use super::*;

    #[test]
    fn what_delta_lacks_is_mapped_or_refused() {
        use DataType::*;
        for (given, kept) in [
            (UInt8, Int16),
            (UInt16, Int32),
            (UInt32, Int64),
            (UInt64, Decimal128(20, 0)),
            (Timestamp(TimeUnit::Nanosecond, None), Timestamp(TimeUnit::Microsecond, None)),
            (Timestamp(TimeUnit::Second, Some("+02:00".into())), Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
            (Dictionary(Box::new(Int32), Box::new(Utf8)), Utf8View),
            (Decimal256(38, 2), Decimal128(38, 2)),
            (LargeBinary, BinaryView),
            (List(Arc::new(Field::new("item", Utf8View, true))), List(Arc::new(Field::new("element", Utf8, true)))),
        ] {
            assert_eq!(kept_type(&given).unwrap(), kept, "{given}");
            // What is kept is kept as it is.
            assert_eq!(kept_type(&kept).unwrap(), kept, "{given}");
        }
        for given in [
            Null,
            Time64(TimeUnit::Microsecond),
            Interval(IntervalUnit::DayTime),
            Duration(TimeUnit::Second),
            Decimal256(39, 0),
            Decimal128(5, -2),
        ] {
            let error = kept_type(&given).unwrap_err();
            assert!(error.contains(&given.to_string()), "{error}");
        }
    }

    #[test]
    fn nested_types_have_deltas_words() {
        let pair = vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int32, true)];
        let entries = Field::new("entries", DataType::Struct(pair.into()), false);
        let map = kept_type(&DataType::Map(Arc::new(entries), false)).unwrap();
        let expected =
            serde_json::json!({"type": "map", "keyType": "string", "valueType": "integer", "valueContainsNull": true});
        assert_eq!(delta_type(&map), expected);
        assert!(has_local_timestamp(&DataType::List(Arc::new(Field::new(
            "element",
            DataType::Timestamp(TimeUnit::Microsecond, None),
            true
        )))));
    }
}
