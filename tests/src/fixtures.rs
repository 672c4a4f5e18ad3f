//! The input files of the suites, made at test time from formulas: the same bytes on every machine.
//!
//! Four inputs of one schema stand for the cases that every operator is asked about: `facts` has NULLs in each column,
//! `empty` has no row, `one` has one, and in `skewed` nine rows of ten have the same key. Each exists as Parquet (several
//! files of several row groups), CSV, newline-delimited JSON and as a hive-partitioned folder. `dims` is what they are
//! joined with, and `types` has a column of every type.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array, DictionaryArray,
    FixedSizeBinaryArray, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, ListArray,
    StringArray, StructArray, TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, i256};
use arrow::record_batch::RecordBatch;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;

/// 2024-01-01, in days since 1970.
const DAY_2024: i32 = 19_723;
const MICROS_PER_DAY: i64 = 86_400_000_000;
const MICROS_PER_MINUTE: i64 = 60_000_000;

/// One row of the four case inputs.
#[derive(Debug, Clone, Default)]
struct Row {
    id: i64,
    k: Option<i64>,
    g: Option<String>,
    v: Option<i32>,
    d: Option<f64>,
    /// In hundredths.
    amt: Option<i128>,
    day: Option<i32>,
    /// In microseconds.
    ts: Option<i64>,
    ok: Option<bool>,
    /// The hive partition; not a column of the files.
    p: i64,
}

fn letter(n: i64) -> String {
    char::from(b'a' + u8::try_from(n).expect("a letter's number is small")).to_string()
}

fn facts() -> Vec<Row> {
    let row = |i: i64| {
        let unless = |n: i64| i % n != 0;
        Row {
            id: i,
            k: unless(11).then_some(i % 10),
            g: unless(7).then(|| letter(i % 5)),
            v: unless(13).then_some((i * 37 % 101 - 50) as i32),
            d: unless(17).then_some(i as f64 / 4.0),
            amt: unless(19).then_some(i128::from(i * 7919 % 100_000)),
            day: unless(23).then_some(DAY_2024 + (i % 60) as i32),
            ts: unless(29).then_some(i64::from(DAY_2024) * MICROS_PER_DAY + i * 61 * MICROS_PER_MINUTE),
            ok: unless(5).then_some(i % 3 == 0),
            p: i % 3,
        }
    };
    (0..240).map(row).collect()
}

fn skewed() -> Vec<Row> {
    let march = DAY_2024 + 60;
    let row = |i: i64| {
        let rare = i % 10 == 0;
        Row {
            id: i,
            k: Some(if rare { i / 10 % 7 + 2 } else { 1 }),
            g: Some(if rare { letter(i / 10 % 4) } else { "x".to_owned() }),
            v: Some((i % 50) as i32),
            d: Some(i as f64 / 2.0),
            amt: Some(i128::from(i * 125)),
            day: Some(march + (i % 30) as i32),
            ts: Some(i64::from(march) * MICROS_PER_DAY + (12 * 60 + i) * MICROS_PER_MINUTE),
            ok: Some(i % 2 == 0),
            p: if rare { i / 10 % 3 } else { 9 },
        }
    };
    (0..300).map(row).collect()
}

fn one() -> Vec<Row> {
    let leap_day = DAY_2024 + 59;
    vec![Row {
        id: 7,
        k: Some(3),
        g: Some("c".to_owned()),
        v: Some(-5),
        d: Some(1.5),
        amt: Some(1234),
        day: Some(leap_day),
        ts: Some(i64::from(leap_day) * MICROS_PER_DAY + 45_296_789_000),
        ok: Some(true),
        p: 1,
    }]
}

fn batch(rows: &[Row]) -> RecordBatch {
    fn column<A: FromIterator<T> + arrow::array::Array + 'static, T>(
        rows: &[Row],
        cell: impl Fn(&Row) -> T,
    ) -> ArrayRef {
        Arc::new(rows.iter().map(cell).collect::<A>())
    }
    let amt: Decimal128Array = rows.iter().map(|row| row.amt).collect();
    let amt = amt.with_precision_and_scale(12, 2).expect("12 digits hold every amount");
    RecordBatch::try_from_iter_with_nullable([
        ("id", column::<Int64Array, _>(rows, |row| Some(row.id)), true),
        ("k", column::<Int64Array, _>(rows, |row| row.k), true),
        ("g", column::<StringArray, _>(rows, |row| row.g.clone()), true),
        ("v", column::<Int32Array, _>(rows, |row| row.v), true),
        ("d", column::<Float64Array, _>(rows, |row| row.d), true),
        ("amt", Arc::new(amt) as ArrayRef, true),
        ("day", column::<Date32Array, _>(rows, |row| row.day), true),
        ("ts", column::<TimestampMicrosecondArray, _>(rows, |row| row.ts), true),
        ("ok", column::<BooleanArray, _>(rows, |row| row.ok), true),
    ])
    .expect("all columns have a row each")
}

fn dims() -> RecordBatch {
    let indexes = 0..24_i64;
    let k: Int64Array = indexes.clone().map(|i| (i % 4 != 3).then_some(i % 13)).collect();
    let name: StringArray = indexes.clone().map(|i| Some(format!("n{i}"))).collect();
    let w: Int32Array = indexes.clone().map(|i| (i % 6 != 5).then_some(i as i32 * 10)).collect();
    let region: Int32Array = indexes.map(|i| Some(i as i32 % 3)).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("k", Arc::new(k) as ArrayRef, true),
        ("name", Arc::new(name), true),
        ("w", Arc::new(w), true),
        ("region", Arc::new(region), true),
    ])
    .expect("all columns have a row each")
}

/// One column of every type, four rows: the smallest, the largest, a usual value, NULL.
fn types() -> RecordBatch {
    let text = |cells: [Option<&str>; 4]| Arc::new(StringArray::from(cells.to_vec())) as ArrayRef;
    let stamps = [Some(-1_000_001), Some(1_709_210_096_789_000), Some(0), None];
    let dictionary: DictionaryArray<Int32Type> = [Some("red"), Some("blue"), Some("red"), None].into_iter().collect();
    let list = ListArray::from_iter_primitive::<arrow::datatypes::Int64Type, _, _>([
        Some(vec![]),
        Some(vec![Some(1), None, Some(3)]),
        Some(vec![Some(7)]),
        None,
    ]);
    let point = StructArray::from(vec![
        (
            Arc::new(Field::new("x", DataType::Int32, true)),
            Arc::new(Int32Array::from(vec![Some(1), Some(-2), None, Some(4)])) as ArrayRef,
        ),
        (Arc::new(Field::new("y", DataType::Utf8, true)), text([Some("a"), None, Some("c"), Some("d")])),
    ]);
    let small = Decimal128Array::from(vec![Some(-99_999), Some(99_999), Some(150), None])
        .with_precision_and_scale(5, 2)
        .expect("5 digits");
    let wide = Decimal128Array::from(vec![Some(-(10_i128.pow(38) - 1)), Some(10_i128.pow(38) - 1), Some(15), None])
        .with_precision_and_scale(38, 10)
        .expect("38 digits");
    let huge = Decimal256Array::from(vec![
        Some(i256::from_i128(-1)),
        Some(i256::from_i128(10_i128.pow(38)).wrapping_mul(i256::from_i128(1000))),
        Some(i256::from_i128(5)),
        None,
    ])
    .with_precision_and_scale(50, 3)
    .expect("50 digits");
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(
        [Some(*b"\x00\x01"), Some(*b"\xff\xfe"), Some(*b"ab"), None].into_iter(),
        2,
    )
    .expect("two bytes each");
    RecordBatch::try_from_iter_with_nullable([
        ("row_id", Arc::new(Int32Array::from(vec![1, 2, 3, 4])) as ArrayRef, true),
        ("i8", Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(i8::MAX), Some(1), None])), true),
        ("i16", Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), Some(1), None])), true),
        ("i32", Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), Some(1), None])), true),
        ("i64", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), Some(1), None])), true),
        ("u8", Arc::new(UInt8Array::from(vec![Some(0), Some(u8::MAX), Some(1), None])), true),
        ("u16", Arc::new(UInt16Array::from(vec![Some(0), Some(u16::MAX), Some(1), None])), true),
        ("u32", Arc::new(UInt32Array::from(vec![Some(0), Some(u32::MAX), Some(1), None])), true),
        ("u64", Arc::new(UInt64Array::from(vec![Some(0), Some(u64::MAX), Some(1), None])), true),
        ("f32", Arc::new(Float32Array::from(vec![Some(f32::NAN), Some(1.5), Some(-0.25), None])), true),
        ("f64", Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(1e100), Some(-0.1), None])), true),
        ("dec_small", Arc::new(small), true),
        ("dec_wide", Arc::new(wide), true),
        ("dec_huge", Arc::new(huge), true),
        ("txt", text([Some(""), Some("Grüße, 世界 🎉"), Some("it's"), None]), true),
        ("bin", Arc::new(BinaryArray::from_opt_vec(vec![Some(b""), Some(b"\x00\xff\x7f"), Some(b"abc"), None])), true),
        ("fixed", Arc::new(fixed), true),
        ("flag", Arc::new(BooleanArray::from(vec![Some(false), Some(true), Some(true), None])), true),
        ("day", Arc::new(Date32Array::from(vec![Some(-1), Some(DAY_2024 + 59), Some(0), None])), true),
        ("ts", Arc::new(TimestampMicrosecondArray::from(stamps.to_vec())), true),
        ("tsz", Arc::new(TimestampMicrosecondArray::from(stamps.to_vec()).with_timezone("UTC")), true),
        ("tsb", Arc::new(TimestampMicrosecondArray::from(stamps.to_vec()).with_timezone("Europe/Berlin")), true),
        ("color", Arc::new(dictionary), true),
        ("list", Arc::new(list), true),
        ("point", Arc::new(point), true),
    ])
    .expect("all columns have four rows")
}

/// Writes one Parquet file with row groups of at most `rows_per_group` rows.
///
/// Panics when the disk refuses: a test cannot go on without its input.
pub fn write_parquet(path: &Path, batch: &RecordBatch, rows_per_group: usize) {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows_per_group)).build();
    let file = create(path);
    let mut writer =
        ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("the schema has a parquet form");
    writer.write(batch).expect("the batch has the writer's schema");
    writer.close().expect("the footer can be written");
}

fn write_csv(path: &Path, batch: &RecordBatch) {
    let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(create(path));
    writer.write(batch).expect("all types have a csv form");
}

fn write_json(path: &Path, batch: &RecordBatch) {
    let mut writer = arrow::json::LineDelimitedWriter::new(create(path));
    writer.write(batch).expect("all types have a json form");
    writer.finish().expect("the end can be written");
}

fn create(path: &Path) -> File {
    let folder = path.parent().expect("a file stands in a folder");
    fs::create_dir_all(folder).unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    File::create(path).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()))
}

/// Writes all inputs below `dir`.
pub fn write(dir: &Path) {
    for (name, rows) in [("facts", facts()), ("empty", vec![]), ("one", one()), ("skewed", skewed())] {
        // An empty table is two files without rows; the others are cut into at most eight files, unevenly.
        let files: Vec<&[Row]> = if rows.is_empty() { vec![&[], &[]] } else { rows.chunks(37).collect() };
        for (index, rows) in files.into_iter().enumerate() {
            let rows = batch(rows);
            write_parquet(&dir.join(name).join(format!("{index}.parquet")), &rows, 10);
            write_csv(&dir.join(format!("{name}_csv")).join(format!("{index}.csv")), &rows);
            write_json(&dir.join(format!("{name}_json")).join(format!("{index}.json")), &rows);
        }
        for p in [0, 1, 2, 9] {
            let part: Vec<Row> = rows.iter().filter(|row| row.p == p).cloned().collect();
            let folder = dir.join(format!("{name}_hive")).join(format!("p={p}"));
            if !part.is_empty() || rows.is_empty() {
                write_parquet(&folder.join("part.parquet"), &batch(&part), 25);
            }
        }
    }
    let dims = dims();
    write_parquet(&dir.join("dims").join("0.parquet"), &dims.slice(0, 10), 6);
    write_parquet(&dir.join("dims").join("1.parquet"), &dims.slice(10, 14), 6);
    write_parquet(&dir.join("no_dims").join("0.parquet"), &dims.slice(0, 0), 6);
    let types = types();
    write_parquet(&dir.join("types").join("0.parquet"), &types.slice(0, 2), 1);
    write_parquet(&dir.join("types").join("1.parquet"), &types.slice(2, 2), 1);
    fs::write(dir.join("corrupt.parquet"), b"PAR1 this is no parquet file PAR1").expect("the folder was just written");
    fs::write(dir.join("broken.csv"), "a,b\n1,2\nx\n").expect("the folder was just written");
    for (name, bytes) in LINES {
        let mut file = create(&dir.join("load").join(name));
        file.write_all(bytes).expect("the file was just made");
    }
}

/// Files for `LOAD DATA`.
const LINES: [(&str, &[u8]); 5] = [
    ("plain.tsv", b"1\tone\t1.50\t2024-01-02\n2\t\\N\t\\N\t\\N\n3\ttab\\tand\\\\\t0\t2024-12-31\n"),
    ("quoted.csv", b"name,x,id,price,y\r\n\"a, \"\"quoted\"\"\",x,10,1234,y\r\n\"\",x,11,1,y\r\nNULL,x,12,NULL,y\r\n"),
    ("wrong.tsv", b"1\ta\nx\tb\n3y\tc\n"),
    ("latin1.tsv", b"40\tZo\xeb \x80\n"),
    ("null.tsv", b"\\N\tx\n"),
];

/// The statements that make database `suite` and its tables over the files below `dir`.
pub fn statements(dir: &Path) -> Vec<String> {
    const COLUMNS: &str =
        "id BIGINT, k BIGINT, g VARCHAR, v INT, d DOUBLE, amt DECIMAL(12, 2), day DATE, ts TIMESTAMP, ok BOOLEAN";
    let at = |name: &str| format!("{}/", dir.join(name).display());
    let mut statements = vec!["CREATE DATABASE suite".to_owned(), "USE suite".to_owned()];
    for name in ["facts", "empty", "one", "skewed"] {
        statements.extend([
            format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{}'", at(name)),
            format!(
                "CREATE EXTERNAL TABLE {name}_csv ({COLUMNS}) STORED AS CSV LOCATION '{}' OPTIONS ('format.has_header' 'true')",
                at(&format!("{name}_csv"))
            ),
            format!(
                "CREATE EXTERNAL TABLE {name}_json ({COLUMNS}) STORED AS JSON LOCATION '{}'",
                at(&format!("{name}_json"))
            ),
            format!(
                "CREATE EXTERNAL TABLE {name}_hive ({COLUMNS}, p INT) STORED AS PARQUET PARTITIONED BY (p) LOCATION '{}'",
                at(&format!("{name}_hive"))
            ),
        ]);
    }
    for name in ["dims", "no_dims", "types"] {
        statements.push(format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{}'", at(name)));
    }
    statements
}

/// Copies the files directly inside a folder.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap_or_else(|error| panic!("cannot make {}: {error}", to.display()));
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("cannot list {}: {error}", from.display())) {
        let entry = entry.expect("the folder was just opened");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("both folders are there");
    }
}
