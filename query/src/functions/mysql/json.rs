//! The chapter of JSON functions.
//!
//! A JSON value is a text whose field says so by Arrow's extension `arrow.json`: that tells a JSON value from a text
//! where both may stand. Objects are written as MySQL has them, keys by length and then by their bytes.

use std::cmp::Ordering;
use std::fmt::Write;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};
use datafusion::error::{DataFusionError, Result};
use serde_json::{Map, Number, Value};
use sheaf_common::ErrorCode;

use super::columns::{Call, Texts};
use super::json_path::{Leg, Path};
use super::{Chapter, Definition, MANY, Returns, external, numerals};

const JSON: Chapter = Chapter::Json;
const EXTENSION: (&str, &str) = ("ARROW:extension:name", "arrow.json");
/// MySQL's own limit.
const DEPTH_MAX: usize = 100;

pub(super) const FUNCTIONS: &[Definition] = &[
    Definition::new(JSON, "json_array", 0..=MANY, Returns::Text, |c| {
        documents_of(c, |d, row| {
            let cells = (0..d.c.n_arguments()).map(|idx| d.value(idx, row)).collect::<Option<Vec<_>>>()?;
            Some(Value::Array(cells))
        })
    }),
    Definition::new(JSON, "json_array_append", 3..=MANY, Returns::Text, |c| {
        changed(c, |document, legs, value| {
            if let Some(place) = find_mut(document, legs) {
                match place {
                    Value::Array(cells) => cells.push(value),
                    other => *other = Value::Array(vec![other.take(), value]),
                }
            }
        })
    }),
    Definition::new(JSON, "json_array_insert", 3..=MANY, Returns::Text, |c| {
        changed(c, |document, legs, value| {
            let Some((Leg::Cell(place), legs)) = legs.split_last() else { return };
            if let Some(Value::Array(cells)) = find_mut(document, legs) {
                let at = place.in_array(cells.len()).unwrap_or(0).min(cells.len());
                cells.insert(at, value);
            }
        })
    }),
    Definition::new(JSON, "json_contains", 2..=3, Returns::Bool, |c| {
        let mut d = Documents::new(c)?;
        let array = c.bools_of(|row| {
            let (document, part) = (d.document(0, row)?, d.document(1, row)?);
            if c.n_arguments() < 3 {
                return Some(contains(&document, &part));
            }
            let path = d.path(2, row)?;
            path.find(&document).first().map(|it| contains(it, &part))
        })?;
        d.finish(array)
    }),
    Definition::new(JSON, "json_contains_path", 3..=MANY, Returns::Bool, |c| {
        let mut d = Documents::new(c)?;
        let array = c.bools_of(|row| {
            let document = d.document(0, row)?;
            let wants_all = d.texts[1].get(row)?.eq_ignore_ascii_case("all");
            let mut found = vec![];
            for idx in 2..c.n_arguments() {
                found.push(!d.path(idx, row)?.find(&document).is_empty());
            }
            Some(if wants_all { found.iter().all(|it| *it) } else { found.iter().any(|it| *it) })
        })?;
        d.finish(array)
    }),
    Definition::new(JSON, "json_depth", 1..=1, Returns::Int, |c| {
        let mut d = Documents::new(c)?;
        let array = c.ints_of(|row| Some(depth(&d.document(0, row)?) as i64))?;
        d.finish(array)
    }),
    Definition::new(JSON, "json_extract", 2..=MANY, Returns::Text, |c| {
        documents_of(c, |d, row| {
            let document = d.document(0, row)?;
            let mut found = vec![];
            let mut is_plural = d.c.n_arguments() > 2;
            for idx in 1..d.c.n_arguments() {
                let path = d.path(idx, row)?;
                is_plural |= path.is_plural();
                found.extend(path.find(&document).into_iter().cloned());
            }
            match (is_plural, found.is_empty()) {
                (_, true) => None,
                (true, false) => Some(Value::Array(found)),
                (false, false) => found.pop(),
            }
        })
    }),
    Definition::new(JSON, "json_insert", 3..=MANY, Returns::Text, |c| {
        changed(c, |document, legs, value| put(document, legs, value, false, true))
    }),
    Definition::new(JSON, "json_keys", 1..=2, Returns::Text, |c| {
        documents_of(c, |d, row| {
            let document = d.document(0, row)?;
            let place = match d.c.n_arguments() {
                1 => &document,
                _ => d.path(1, row)?.find(&document).first().copied()?,
            };
            let Value::Object(map) = place else { return None };
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_by(|a, b| key_order(a, b));
            Some(Value::Array(keys.into_iter().map(|it| Value::from(it.as_str())).collect()))
        })
    }),
    Definition::new(JSON, "json_length", 1..=2, Returns::Int, |c| {
        let mut d = Documents::new(c)?;
        let array = c.ints_of(|row| {
            let document = d.document(0, row)?;
            let place = match c.n_arguments() {
                1 => &document,
                _ => d.path(1, row)?.find(&document).first().copied()?,
            };
            Some(match place {
                Value::Array(cells) => cells.len() as i64,
                Value::Object(map) => map.len() as i64,
                _ => 1,
            })
        })?;
        d.finish(array)
    }),
    Definition::new(JSON, "json_merge", 2..=MANY, Returns::Text, |c| merged(c, merge_preserve)),
    Definition::new(JSON, "json_merge_patch", 2..=MANY, Returns::Text, |c| merged(c, merge_patch)),
    Definition::new(JSON, "json_merge_preserve", 2..=MANY, Returns::Text, |c| merged(c, merge_preserve)),
    Definition::new(JSON, "json_object", 0..=MANY, Returns::Text, |c| {
        documents_of(c, |d, row| {
            if d.c.n_arguments() % 2 == 1 {
                return d.fail(ErrorCode::ParameterCount, "JSON_OBJECT takes pairs of keys and values".to_owned());
            }
            let mut map = Map::new();
            for idx in (0..d.c.n_arguments()).step_by(2) {
                let Some(key) = d.texts[idx].get(row).map(str::to_owned) else {
                    return d.fail(
                        ErrorCode::InvalidJsonKey,
                        "JSON documents may not contain NULL member names".to_owned(),
                    );
                };
                map.insert(key, d.value(idx + 1, row)?);
            }
            Some(Value::Object(map))
        })
    }),
    Definition::new(JSON, "json_overlaps", 2..=2, Returns::Bool, |c| {
        let mut d = Documents::new(c)?;
        let array = c.bools_of(|row| Some(overlaps(&d.document(0, row)?, &d.document(1, row)?)))?;
        d.finish(array)
    }),
    Definition::new(JSON, "json_pretty", 1..=1, Returns::Text, |c| {
        let mut d = Documents::new(c)?;
        let array = c.texts_of(|row| {
            let mut out = String::new();
            put_pretty(&mut out, &d.document(0, row)?, 0);
            Some(out)
        })?;
        d.finish(array)
    }),
    Definition::new(JSON, "json_quote", 1..=1, Returns::Text, |c| {
        let text = c.text(0)?;
        c.texts_of(|row| Some(Value::from(text.get(row)?).to_string()))
    }),
    Definition::new(JSON, "json_remove", 2..=MANY, Returns::Text, |c| {
        documents_of(c, |d, row| {
            let mut document = d.document(0, row)?;
            for idx in 1..d.c.n_arguments() {
                let path = d.plain_path(idx, row)?;
                let Some((last, legs)) = path.legs.split_last() else {
                    return d.fail(
                        ErrorCode::InvalidJsonPath,
                        "the path expression '$' is not allowed in this context".to_owned(),
                    );
                };
                match (find_mut(&mut document, legs), last) {
                    (Some(Value::Object(map)), Leg::Key(key)) => {
                        map.remove(key);
                    }
                    (Some(Value::Array(cells)), Leg::Cell(place)) => {
                        if let Some(at) = place.in_array(cells.len()).filter(|at| *at < cells.len()) {
                            cells.remove(at);
                        }
                    }
                    _ => {}
                }
            }
            Some(document)
        })
    }),
    Definition::new(JSON, "json_replace", 3..=MANY, Returns::Text, |c| {
        changed(c, |document, legs, value| put(document, legs, value, true, false))
    }),
    Definition::new(JSON, "json_search", 3..=MANY, Returns::Text, |c| {
        documents_of(c, |d, row| {
            let document = d.document(0, row)?;
            let wants_all = d.texts[1].get(row)?.eq_ignore_ascii_case("all");
            let pattern = d.texts[2].get(row)?.to_owned();
            let escape = match d.c.n_arguments() > 3 {
                true => d.texts[3].get(row).and_then(|it| it.chars().next()).unwrap_or('\\'),
                false => '\\',
            };
            let mut found = vec![];
            search(&document, &like(&pattern, Some(escape))?, &mut "$".to_owned(), &mut found);
            if d.c.n_arguments() > 4 {
                let mut prefixes = vec![];
                for idx in 4..d.c.n_arguments() {
                    prefixes.push(d.texts[idx].get(row)?.to_owned());
                }
                found.retain(|it| prefixes.iter().any(|prefix| it.starts_with(prefix.as_str())));
            }
            let mut found: Vec<Value> = found.into_iter().map(Value::from).collect();
            match (wants_all, found.len()) {
                (_, 0) => None,
                (true, 2..) => Some(Value::Array(found)),
                _ => Some(found.swap_remove(0)),
            }
        })
    }),
    Definition::new(JSON, "json_set", 3..=MANY, Returns::Text, |c| {
        changed(c, |document, legs, value| put(document, legs, value, true, true))
    }),
    Definition::new(JSON, "json_storage_size", 1..=1, Returns::Int, |c| {
        let mut d = Documents::new(c)?;
        let array = c.ints_of(|row| i64::try_from(written(&d.document(0, row)?).len()).ok())?;
        d.finish(array)
    }),
    Definition::new(JSON, "json_type", 1..=1, Returns::Text, |c| {
        let mut d = Documents::new(c)?;
        let array = c.texts_of(|row| Some(type_name(&d.document(0, row)?).to_owned()))?;
        d.finish(array)
    }),
    Definition::new(JSON, "json_unquote", 1..=1, Returns::Text, |c| {
        let text = c.text(0)?;
        c.texts_of(|row| {
            let text = text.get(row)?;
            match text.starts_with('"') && text.ends_with('"') && text.len() > 1 {
                true => Some(serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_owned())),
                false => Some(text.to_owned()),
            }
        })
    }),
    Definition::new(JSON, "json_valid", 1..=1, Returns::Bool, |c| {
        let text = c.text(0)?;
        let can_be = matches!(c.data_type(0), DataType::Utf8 | DataType::Null);
        c.bools_of(|row| Some(can_be && parse(text.get(row)?).is_ok()))
    }),
    Definition::new(JSON, "json_value", 2..=2, Returns::Text, |c| {
        let mut d = Documents::new(c)?;
        let array = c.texts_of(|row| {
            let document = d.document(0, row)?;
            let path = d.plain_path(1, row)?;
            match path.find(&document).first()? {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                other => Some(written(other)),
            }
        })?;
        d.finish(array)
    }),
    Definition::new(JSON, "member_of", 2..=2, Returns::Bool, |c| {
        let mut d = Documents::new(c)?;
        let array = c.bools_of(|row| {
            if c.is_null(0, row) {
                return None;
            }
            let (value, document) = (d.value(0, row)?, d.document(1, row)?);
            Some(match &document {
                Value::Array(cells) => cells.iter().any(|it| equal(it, &value)),
                other => equal(other, &value),
            })
        })?;
        d.finish(array)
    }),
    // CAST AS JSON: a text is read, all else becomes a value.
    Definition::new(JSON, "op.cast_json", 1..=1, Returns::Text, |c| {
        documents_of(c, |d, row| {
            if d.c.is_null(0, row) {
                return None;
            }
            if *d.c.data_type(0) == DataType::Utf8 { d.document(0, row) } else { d.value(0, row) }
        })
    }),
    // A value as the element that an aggregate puts into an array.
    Definition::new(JSON, "op.json_element", 1..=1, Returns::Text, |c| {
        let mut d = Documents::new(c)?;
        let array = c.texts_of(|row| Some(written(&d.value(0, row)?)))?;
        d.finish(array)
    }),
    // A key and a value as the member that an aggregate puts into an object.
    Definition::new(JSON, "op.json_member", 2..=2, Returns::Text, |c| {
        let mut d = Documents::new(c)?;
        let array = c.texts_of(|row| {
            let Some(key) = d.texts[0].get(row).map(str::to_owned) else {
                return d
                    .fail(ErrorCode::InvalidJsonKey, "JSON documents may not contain NULL member names".to_owned());
            };
            Some(format!("{}: {}", Value::from(key), written(&d.value(1, row)?)))
        })?;
        d.finish(array)
    }),
    // What such an aggregate comes to: the elements joined by commas, between brackets.
    Definition::new(JSON, "op.json_joined", 2..=2, Returns::Text, |c| {
        documents_of(c, |d, row| {
            let (joined, brackets) = (d.texts[0].get(row)?, d.texts[1].get(row)?);
            let text = format!("{}{joined}{}", brackets.get(..1)?, brackets.get(1..)?);
            match parse(&text) {
                Ok(document) => Some(document),
                Err(why) => d.fail(ErrorCode::Internal, why),
            }
        })
    }),
];

/// The functions whose results are JSON values rather than texts.
pub(super) fn gives_json(name: &str) -> bool {
    matches!(
        name,
        "json_array"
            | "json_array_append"
            | "json_array_insert"
            | "json_extract"
            | "json_insert"
            | "json_keys"
            | "json_merge"
            | "json_merge_patch"
            | "json_merge_preserve"
            | "json_object"
            | "json_remove"
            | "json_replace"
            | "json_search"
            | "json_set"
            | "op.cast_json"
            | "op.json_joined"
    )
}

pub(super) fn marked(field: Field) -> Field {
    field.with_metadata([(EXTENSION.0.to_owned(), EXTENSION.1.to_owned())].into())
}

pub(crate) fn is_json(field: &Field) -> bool {
    field.metadata().get(EXTENSION.0).is_some_and(|it| it == EXTENSION.1)
}

/// The arguments of a call as JSON. The first error that a row meets ends the call.
struct Documents<'a> {
    c: &'a Call<'a>,
    texts: Vec<Texts>,
    failed: Option<DataFusionError>,
    /// The last path that was read, by its text.
    last_path: Option<(String, Path)>,
}

impl<'a> Documents<'a> {
    fn new(c: &'a Call<'a>) -> Result<Self> {
        let texts = (0..c.n_arguments()).map(|idx| c.text(idx)).collect::<Result<Vec<_>>>()?;
        Ok(Self { c, texts, failed: None, last_path: None })
    }

    fn fail<T>(&mut self, code: ErrorCode, text: String) -> Option<T> {
        self.failed.get_or_insert_with(|| external(sheaf_common::WireError::new(code, text)));
        None
    }

    fn finish(self, array: ArrayRef) -> Result<ArrayRef> {
        self.failed.map_or(Ok(array), Err)
    }

    /// The document that an argument's text holds.
    fn document(&mut self, idx: usize, row: usize) -> Option<Value> {
        let text = self.texts[idx].get(row)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(why) => self.fail(ErrorCode::InvalidJson, format!("invalid JSON text in argument {}: {why}", idx + 1)),
        }
    }

    fn path(&mut self, idx: usize, row: usize) -> Option<Path> {
        let text = self.texts[idx].get(row)?;
        if let Some((known, path)) = &self.last_path
            && known == text
        {
            return Some(path.clone());
        }
        match Path::parse(text) {
            Ok(path) => {
                self.last_path = Some((text.to_owned(), path.clone()));
                Some(path)
            }
            Err(at) => {
                let text =
                    format!("invalid JSON path expression '{text}', the error is around character position {}", at + 1);
                self.fail(ErrorCode::InvalidJsonPath, text)
            }
        }
    }

    /// A path that means one value at most.
    fn plain_path(&mut self, idx: usize, row: usize) -> Option<Path> {
        let path = self.path(idx, row)?;
        if path.is_plural() {
            let text = "a path expression may not contain *, ** or a range in this situation".to_owned();
            return self.fail(ErrorCode::PluralJsonPath, text);
        }
        Some(path)
    }

    /// An argument's value as JSON: a JSON value as it is, a text as a string.
    fn value(&mut self, idx: usize, row: usize) -> Option<Value> {
        if self.c.is_null(idx, row) {
            return Some(Value::Null);
        }
        if is_json(self.c.field(idx)) {
            return self.document(idx, row);
        }
        let text = self.texts[idx].get(row)?;
        Some(match self.c.data_type(idx) {
            DataType::Boolean => Value::Bool(text == "1"),
            it if it.is_numeric() => number_of(text),
            // A date and time always has its microseconds.
            DataType::Timestamp(..) | DataType::Duration(_) | DataType::Time32(_) | DataType::Time64(_)
                if !text.contains('.') =>
            {
                Value::String(format!("{text}.000000"))
            }
            _ => Value::from(text),
        })
    }
}

fn number_of(text: &str) -> Value {
    if let Ok(value) = text.parse::<i64>() {
        return Value::from(value);
    }
    if let Ok(value) = text.parse::<u64>() {
        return Value::from(value);
    }
    Number::from_f64(numerals::float_of_text(text)).map_or(Value::Null, Value::Number)
}

fn documents_of(c: &Call, mut value: impl FnMut(&mut Documents, usize) -> Option<Value>) -> Result<ArrayRef> {
    let mut d = Documents::new(c)?;
    let array = c.texts_of(|row| Some(written(&value(&mut d, row)?)))?;
    d.finish(array)
}

/// Reads a document; errs with what is wrong.
fn parse(text: &str) -> std::result::Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if depth(&value) > DEPTH_MAX { Err(format!("it is deeper than {DEPTH_MAX} levels")) } else { Ok(value) }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(cells) => 1 + cells.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}

pub(super) fn key_order(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut members: Vec<_> = map.iter().collect();
    members.sort_by(|a, b| key_order(a.0, b.0));
    members
}

/// `{"a": 1, "bb": [1, 2]}`
fn written(value: &Value) -> String {
    let mut out = String::new();
    put_written(&mut out, value);
    out
}

fn put_written(out: &mut String, value: &Value) {
    match value {
        Value::Array(cells) => {
            out.push('[');
            for (idx, cell) in cells.iter().enumerate() {
                out.push_str(if idx > 0 { ", " } else { "" });
                put_written(out, cell);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (idx, (key, value)) in sorted(map).into_iter().enumerate() {
                let _ = write!(out, "{}{}: ", if idx > 0 { ", " } else { "" }, Value::from(key.as_str()));
                put_written(out, value);
            }
            out.push('}');
        }
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

fn put_pretty(out: &mut String, value: &Value, level: usize) {
    let line = |out: &mut String, level: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(level));
    };
    match value {
        Value::Array(cells) if !cells.is_empty() => {
            out.push('[');
            for (idx, cell) in cells.iter().enumerate() {
                out.push_str(if idx > 0 { "," } else { "" });
                line(out, level + 1);
                put_pretty(out, cell, level + 1);
            }
            line(out, level);
            out.push(']');
        }
        Value::Object(map) if !map.is_empty() => {
            out.push('{');
            for (idx, (key, value)) in sorted(map).into_iter().enumerate() {
                out.push_str(if idx > 0 { "," } else { "" });
                line(out, level + 1);
                let _ = write!(out, "{}: ", Value::from(key.as_str()));
                put_pretty(out, value, level + 1);
            }
            line(out, level);
            out.push('}');
        }
        other => put_written(out, other),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "NULL",
        Value::Bool(_) => "BOOLEAN",
        Value::Number(it) if it.is_f64() => "DOUBLE",
        Value::Number(it) if it.is_u64() && !it.is_i64() => "UNSIGNED INTEGER",
        Value::Number(_) => "INTEGER",
        Value::String(_) => "STRING",
        Value::Array(_) => "ARRAY",
        Value::Object(_) => "OBJECT",
    }
}

/// Numbers are equal by value, `1` and `1.0` too.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Array(cells), Value::Array(parts)) => {
            parts.iter().all(|part| cells.iter().any(|it| contains(it, part)))
        }
        (Value::Array(cells), part) => cells.iter().any(|it| contains(it, part)),
        (Value::Object(map), Value::Object(parts)) => {
            parts.iter().all(|(key, part)| map.get(key).is_some_and(|it| contains(it, part)))
        }
        _ => equal(whole, part),
    }
}

fn overlaps(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.iter().any(|a| b.iter().any(|b| equal(a, b))),
        (Value::Array(cells), other) | (other, Value::Array(cells)) => cells.iter().any(|it| equal(it, other)),
        (Value::Object(a), Value::Object(b)) => a.iter().any(|(key, a)| b.get(key).is_some_and(|b| equal(a, b))),
        _ => equal(a, b),
    }
}

fn find_mut<'v>(value: &'v mut Value, legs: &[Leg]) -> Option<&'v mut Value> {
    let Some((leg, rest)) = legs.split_first() else { return Some(value) };
    let next = match (leg, value) {
        (Leg::Key(key), Value::Object(map)) => map.get_mut(key)?,
        (Leg::Cell(place), Value::Array(cells)) => {
            let at = place.in_array(cells.len())?;
            cells.get_mut(at)?
        }
        (Leg::Cell(place), other) if !other.is_array() && place.in_array(1) == Some(0) => other,
        _ => return None,
    };
    find_mut(next, rest)
}

/// Puts a value at a place: in place of what is there, or where nothing is yet, or both.
fn put(document: &mut Value, legs: &[Leg], value: Value, replaces: bool, adds: bool) {
    if let Some(place) = find_mut(document, legs) {
        if replaces {
            *place = value;
        }
        return;
    }
    let Some((last, legs)) = legs.split_last().filter(|_| adds) else { return };
    match (last, find_mut(document, legs)) {
        (Leg::Key(key), Some(Value::Object(map))) => {
            map.insert(key.clone(), value);
        }
        (Leg::Cell(place), Some(Value::Array(cells))) => match place.in_array(cells.len()) {
            Some(_) => cells.push(value),
            None => cells.insert(0, value),
        },
        // A value becomes the first cell of an array.
        (Leg::Cell(_), Some(other)) if !other.is_object() || legs.is_empty() => {
            *other = Value::Array(vec![other.take(), value]);
        }
        (Leg::Cell(_), Some(other)) => *other = Value::Array(vec![other.take(), value]),
        _ => {}
    }
}

/// Document, then pairs of a path and a value.
fn changed(c: &Call, change: fn(&mut Value, &[Leg], Value)) -> Result<ArrayRef> {
    documents_of(c, |d, row| {
        if d.c.n_arguments() % 2 == 0 {
            return d.fail(ErrorCode::ParameterCount, "paths and values have to come in pairs".to_owned());
        }
        let mut document = d.document(0, row)?;
        for idx in (1..d.c.n_arguments()).step_by(2) {
            let path = d.plain_path(idx, row)?;
            let value = d.value(idx + 1, row)?;
            change(&mut document, &path.legs, value);
        }
        Some(document)
    })
}

fn merged(c: &Call, merge: fn(Value, Value) -> Value) -> Result<ArrayRef> {
    documents_of(c, |d, row| {
        let mut merged = d.document(0, row)?;
        for idx in 1..d.c.n_arguments() {
            merged = merge(merged, d.document(idx, row)?);
        }
        Some(merged)
    })
}

/// RFC 7396.
fn merge_patch(document: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut map = match document {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(&key);
        } else {
            let old = map.remove(&key).unwrap_or(Value::Null);
            map.insert(key, merge_patch(old, value));
        }
    }
    Value::Object(map)
}

fn merge_preserve(a: Value, b: Value) -> Value {
    match (a, b) {
        (Value::Object(mut a), Value::Object(b)) => {
            for (key, value) in b {
                let value = match a.remove(&key) {
                    Some(old) => merge_preserve(old, value),
                    None => value,
                };
                a.insert(key, value);
            }
            Value::Object(a)
        }
        (a, b) => {
            let cells = |it| match it {
                Value::Array(cells) => cells,
                other => vec![other],
            };
            let mut all = cells(a);
            all.extend(cells(b));
            Value::Array(all)
        }
    }
}

/// A LIKE pattern as a regular expression of the whole text.
pub(super) fn like(pattern: &str, escape: Option<char>) -> Option<regex::Regex> {
    let mut text = "(?s)^".to_owned();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            it if Some(it) == escape => text.push_str(&regex::escape(&letters.next().unwrap_or(it).to_string())),
            '%' => text.push_str(".*"),
            '_' => text.push('.'),
            other => text.push_str(&regex::escape(&other.to_string())),
        }
    }
    text.push('$');
    regex::Regex::new(&text).ok()
}

fn search(value: &Value, pattern: &regex::Regex, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match value {
        Value::String(text) if pattern.is_match(text) => found.push(path.clone()),
        Value::Array(cells) => {
            for (idx, cell) in cells.iter().enumerate() {
                let _ = write!(path, "[{idx}]");
                search(cell, pattern, path, found);
                path.truncate(length);
            }
        }
        Value::Object(map) => {
            for (key, value) in sorted(map) {
                let is_plain = !key.starts_with(|it: char| it.is_ascii_digit())
                    && !key.is_empty()
                    && key.chars().all(|it| it.is_alphanumeric() || it == '_' || it == '$');
                let _ = match is_plain {
                    true => write!(path, ".{key}"),
                    false => write!(path, ".{}", Value::from(key.as_str())),
                };
                search(value, pattern, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Value {
        parse(text).unwrap()
    }

    #[test]
    fn objects_are_written_by_the_length_of_their_keys() {
        assert_eq!(written(&json(r#"{"bb":1,"a":[1,"x",null],"b":{}}"#)), r#"{"a": [1, "x", null], "b": {}, "bb": 1}"#);
    }

    #[test]
    fn values_are_put_and_merged() {
        let put_at = |document: &str, path: &str, replaces, adds| {
            let mut document = json(document);
            put(&mut document, &Path::parse(path).unwrap().legs, Value::from(9), replaces, adds);
            written(&document)
        };
        assert_eq!(put_at(r#"{"a": 1}"#, "$.a", true, true), r#"{"a": 9}"#);
        assert_eq!(put_at(r#"{"a": 1}"#, "$.a", false, true), r#"{"a": 1}"#);
        assert_eq!(put_at(r#"{"a": 1}"#, "$.b", true, false), r#"{"a": 1}"#);
        assert_eq!(put_at("[1]", "$[7]", true, true), "[1, 9]");
        assert_eq!(put_at("1", "$[1]", true, true), "[1, 9]");
        assert_eq!(written(&merge_patch(json(r#"{"a":1,"b":2}"#), json(r#"{"a":3,"b":null}"#))), r#"{"a": 3}"#);
        assert_eq!(written(&merge_preserve(json("[1, 2]"), json("true"))), "[1, 2, true]");
    }

    #[test]
    fn parts_are_found() {
        assert!(contains(&json(r#"{"a": 1, "c": {"d": 4}}"#), &json(r#"{"c": {"d": 4.0}}"#)));
        assert!(!contains(&json("[1, 2]"), &json("[1, 3]")));
        assert!(overlaps(&json("[1, 2]"), &json("2")));
        let mut found = vec![];
        search(
            &json(r#"{"a b": ["xyz", {"c": "xy"}]}"#),
            &like("xy%", Some('\\')).unwrap(),
            &mut "$".to_owned(),
            &mut found,
        );
        assert_eq!(found, [r#"$."a b"[0]"#, r#"$."a b"[1].c"#]);
    }

    #[test]
    fn depth_is_bounded() {
        assert!(parse(&format!("{}{}", "[".repeat(101), "]".repeat(101))).is_err());
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
