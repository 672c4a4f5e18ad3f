//! Tables whose logs are written here by hand, as the format's description has them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::prelude::{SessionConfig, SessionContext};
use serde_json::{Value, json};

use super::{DeltaTable, DeltaTables, StoreOptions};
use crate::catalog::provider::Tables;
use crate::catalog::provider::tests::{answer, session};

/// A table in the making.
struct Maker {
    folder: PathBuf,
    version: u64,
}

impl Maker {
    /// A table without files; `columns` are name and type.
    fn new(folder: PathBuf, columns: &[(&str, &str)], partitions: &[&str]) -> Self {
        let schema = columns.iter().map(|(name, of_type)| field(name, of_type)).collect();
        Self::with(folder, schema, partitions, json!({}), json!({"minReaderVersion": 1, "minWriterVersion": 2}))
    }

    fn with(folder: PathBuf, fields: Vec<Value>, partitions: &[&str], configuration: Value, protocol: Value) -> Self {
        fs::create_dir_all(folder.join("_delta_log")).unwrap();
        let mut maker = Self { folder, version: 0 };
        maker.commit(&[json!({"protocol": protocol}), meta(fields, partitions, configuration)]);
        maker
    }

    fn commit(&mut self, actions: &[Value]) {
        let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
        let path = self.folder.join(format!("_delta_log/{:020}.json", self.version));
        fs::write(path, lines.join("\n")).unwrap();
        self.version += 1;
    }

    /// Writes a file and says what adds it; `stats` is what the log has beside the number of rows.
    fn file(&self, name: &str, columns: Vec<(&str, ArrayRef)>, partitions: Value, stats: Value) -> Value {
        let batch =
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
                .unwrap();
        let path = self.folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(4)).build();
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let mut stats = stats;
        stats["numRecords"] = json!(batch.num_rows());
        json!({"add": {
            "path": name, "partitionValues": partitions, "size": fs::metadata(&path).unwrap().len(),
            "modificationTime": 1000, "dataChange": true, "stats": stats.to_string(),
        }})
    }

    /// A file of one column of whole numbers, with bounds.
    fn numbers(&self, name: &str, values: &[i64]) -> Value {
        let stats = json!({
            "minValues": {"a": values.iter().min()}, "maxValues": {"a": values.iter().max()}, "nullCount": {"a": 0},
        });
        self.file(name, vec![("a", int64(values))], json!({}), stats)
    }
}

fn field(name: &str, of_type: &str) -> Value {
    json!({"name": name, "type": of_type, "nullable": true, "metadata": {}})
}

fn meta(fields: Vec<Value>, partitions: &[&str], configuration: Value) -> Value {
    json!({"metaData": {
        "id": "3c1f2b6e-0000-4000-8000-000000000000", "format": {"provider": "parquet", "options": {}},
        "schemaString": json!({"type": "struct", "fields": fields}).to_string(),
        "partitionColumns": partitions, "configuration": configuration, "createdTime": 0,
    }})
}

fn remove(name: &str) -> Value {
    json!({"remove": {"path": name, "deletionTimestamp": 1, "dataChange": true}})
}

fn int64(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn root(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("root").canonicalize().unwrap()
}

async fn open(session: &SessionContext, tables: &Arc<Tables>, text: &str) -> Result<DeltaTable, super::TableError> {
    super::open(&session.state(), &tables.sources, "t".into(), text, &StoreOptions::default()).await
}

/// A session of plain DataFusion in which `t` is a table.
fn with_table(session: &SessionContext, table: DeltaTable) -> SessionContext {
    let plain = SessionContext::new_with_config_rt(SessionConfig::new(), session.runtime_env());
    plain.register_table("t", Arc::new(table)).unwrap();
    plain
}

/// The rows of a query as text, one a line, values apart by a comma.
async fn rows(session: &SessionContext, sql: &str) -> Vec<String> {
    let text = answer(session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let cells = |line: &str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(",");
    text.lines().skip(3).filter(|it| it.starts_with('|')).map(cells).collect()
}

#[tokio::test]
async fn a_table_is_what_its_log_says() {
    let (folder, tables, session) = session();
    let mut maker = Maker::new(root(&folder).join("t"), &[("a", "long")], &[]);
    let actions = [maker.numbers("1.parquet", &[1, 2]), maker.numbers("2.parquet", &[3])];
    maker.commit(&actions);
    // Files that no version names are no part of the table.
    let _ = maker.numbers("left-over.parquet", &[100]);
    assert_eq!(rows(&session, "select sum(a), count(*) from delta_scan('t')").await, ["6,3"]);
    maker.commit(&[remove("1.parquet"), maker.numbers("3.parquet", &[10])]);
    assert_eq!(
        rows(&session, "select sum(a), count(*) from delta_scan('t')").await,
        ["13,2"],
        "seen by the next query"
    );
    for (version, expected) in [(0, ",0"), (1, "6,3"), (2, "13,2")] {
        let sql = format!("select sum(a), count(*) from delta_scan('t', {version})");
        assert_eq!(rows(&session, &sql).await, [expected]);
    }
    let error = answer(&session, "select * from delta_scan('t', 9)").await.unwrap_err().to_string();
    assert!(error.contains("has no version 9: its newest is 2"), "{error}");
    assert_eq!(open(&session, &tables, "t").await.unwrap().snapshot().version, 2);
}

#[tokio::test]
async fn a_table_that_was_made_anew_is_read_anew() {
    let (folder, _tables, session) = session();
    let folder = root(&folder).join("t");
    let sql = "select sum(a) from delta_scan('t')";
    let mut maker = Maker::new(folder.clone(), &[("a", "long")], &[]);
    maker.commit(&[maker.numbers("1.parquet", &[1, 2])]);
    assert_eq!(rows(&session, sql).await, ["3"]);
    fs::remove_dir_all(&folder).unwrap();
    assert!(answer(&session, sql).await.is_err());
    let mut maker = Maker::new(folder, &[("a", "long")], &[]);
    maker.commit(&[maker.numbers("x.parquet", &[5])]);
    maker.commit(&[maker.numbers("y.parquet", &[6])]);
    assert_eq!(rows(&session, sql).await, ["11"]);
}

#[tokio::test]
async fn times_lead_to_versions() {
    let (folder, tables, session) = session();
    let mut maker = Maker::new(root(&folder).join("t"), &[("a", "long")], &[]);
    for value in 1..4 {
        maker.commit(&[maker.numbers(&format!("{value}.parquet"), &[value])]);
    }
    for version in 0..4u64 {
        let log = maker.folder.join(format!("_delta_log/{version:020}.json"));
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000 * (version + 1));
        File::options().write(true).open(log).unwrap().set_modified(at).unwrap();
    }
    let table = open(&session, &tables, "t").await.unwrap();
    let at = async |seconds: i64| table.as_of(&super::AsOf::Timestamp(seconds * 1000)).await;
    for (seconds, version) in [(1000, 0), (1999, 0), (3000, 2), (3500, 2), (99_999, 3)] {
        assert_eq!(at(seconds).await.unwrap().snapshot().version, version, "{seconds}");
    }
    assert!(at(999).await.unwrap_err().to_string().contains("its log begins later"));
}

#[tokio::test]
async fn partitions_stand_in_the_log() {
    let (folder, tables, session) = session();
    let columns = [("p", "string"), ("a", "long"), ("d", "date")];
    let mut maker = Maker::new(root(&folder).join("t"), &columns, &["p", "d"]);
    let file = |name: &str, values: &[i64], p: Value, d: Value| {
        maker.file(name, vec![("a", int64(values))], json!({"p": p, "d": d}), json!({}))
    };
    let actions = [
        // A name that is escaped twice: once by who made the folder, once by the log.
        {
            let mut add = file("p=a%2Fb/1.parquet", &[1, 2], json!("a/b"), json!("2024-01-01"));
            add["add"]["path"] = json!("p=a%252Fb/1.parquet");
            add
        },
        file("2.parquet", &[3], json!(null), json!("2024-01-02")),
        file("3.parquet", &[4], json!(""), json!(null)),
    ];
    maker.commit(&actions);
    let session = with_table(&session, open(&session, &tables, "t").await.unwrap());
    assert_eq!(rows(&session, "select * from t where a = 2").await, ["a/b,2,2024-01-01"]);
    assert_eq!(rows(&session, "select a from t where p is null order by a").await, ["3", "4"]);
    assert_eq!(rows(&session, "select sum(a) from t where d > '2024-01-01'").await, ["3"]);
    assert_eq!(rows(&session, "select count(p), count(d), count(*), min(d) from t").await, ["2,3,4,2024-01-01"]);
    assert_eq!(rows(&session, "select d, sum(a) from t group by d order by d nulls last").await.len(), 3);
}

#[tokio::test]
async fn columns_come_and_widen() {
    let (folder, _tables, session) = session();
    let mut maker = Maker::new(root(&folder).join("t"), &[("a", "integer")], &[]);
    let narrow: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    let stats = json!({"minValues": {"a": 1}, "maxValues": {"a": 2}, "nullCount": {"a": 0}});
    maker.commit(&[maker.file("1.parquet", vec![("a", narrow)], json!({}), stats)]);
    assert_eq!(rows(&session, "select sum(a) from delta_scan('t')").await, ["3"]);
    let wider = vec![field("a", "long"), field("b", "double")];
    let both = vec![("b", Arc::new(Float64Array::from(vec![0.5])) as ArrayRef), ("a", int64(&[1 << 40]))];
    maker.commit(&[meta(wider, &[], json!({})), maker.file("2.parquet", both, json!({}), json!({}))]);
    let all = "select a, b from delta_scan('t') order by a";
    assert_eq!(rows(&session, all).await, ["1,", "2,", "1099511627776,0.5"]);
    assert_eq!(rows(&session, "select a from delta_scan('t') where b is null and a > 1").await, ["2"]);
    assert_eq!(rows(&session, "select a from delta_scan('t') where a > 2").await, ["1099511627776"]);
    assert_eq!(rows(&session, "select max(a), count(b) from delta_scan('t')").await, ["1099511627776,1"]);
}

#[tokio::test]
async fn columns_may_have_other_names_in_files() {
    let (folder, _tables, session) = session();
    let mapped = |name: &str, of_type: &str, physical: &str, id: i64| {
        let metadata = json!({"delta.columnMapping.physicalName": physical, "delta.columnMapping.id": id});
        json!({"name": name, "type": of_type, "nullable": true, "metadata": metadata})
    };
    // The names cross over: `a` was renamed to `b`, and a new `a` was added.
    let fields = vec![mapped("b", "long", "a", 1), mapped("a", "string", "col-2", 2), mapped("p", "long", "col-3", 3)];
    let protocol = json!({"minReaderVersion": 2, "minWriterVersion": 5});
    let configuration = json!({"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "3"});
    let mut maker = Maker::with(root(&folder).join("t"), fields, &["p"], configuration, protocol);
    let texts = Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef;
    let stats =
        json!({"minValues": {"a": 1, "col-2": "x"}, "maxValues": {"a": 2, "col-2": "y"}, "nullCount": {"a": 0}});
    let first = maker.file("1.parquet", vec![("a", int64(&[1, 2])), ("col-2", texts)], json!({"col-3": "7"}), stats);
    let stats = json!({"minValues": {"a": 3}, "maxValues": {"a": 3}, "nullCount": {"a": 0}});
    let second = maker.file("2.parquet", vec![("a", int64(&[3]))], json!({"col-3": null}), stats);
    maker.commit(&[first, second]);
    assert_eq!(rows(&session, "select * from delta_scan('t') order by b").await, ["1,x,7", "2,y,7", "3,,"]);
    assert_eq!(rows(&session, "select a from delta_scan('t') where b = 2").await, ["y"]);
    assert_eq!(rows(&session, "select b from delta_scan('t') where a = 'x' and p = 7").await, ["1"]);
    assert_eq!(rows(&session, "select p, max(b) from delta_scan('t') group by p order by p").await, ["7,2", ",3"]);
    assert_eq!(rows(&session, "select max(b), count(a) from delta_scan('t')").await, ["3,2"]);
}

/// A deletion vector as a file of its own: version, length, magic number, 64-bit Roaring bitmap, checksum.
fn deletion_vector(path: &Path, deleted: &[u16]) -> Value {
    let mut bitmap: Vec<u8> = vec![];
    bitmap.extend(1681511377u32.to_le_bytes());
    bitmap.extend(1u64.to_le_bytes());
    bitmap.extend(0u32.to_le_bytes());
    bitmap.extend(12346u32.to_le_bytes());
    bitmap.extend(1u32.to_le_bytes());
    bitmap.extend(0u16.to_le_bytes());
    bitmap.extend((deleted.len() as u16 - 1).to_le_bytes());
    bitmap.extend(16u32.to_le_bytes());
    bitmap.extend(deleted.iter().flat_map(|it| it.to_le_bytes()));
    let mut crc = !0u32;
    for byte in &bitmap {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    let mut bytes = vec![1u8];
    bytes.extend((bitmap.len() as u32).to_be_bytes());
    bytes.extend(&bitmap);
    bytes.extend((!crc).to_be_bytes());
    fs::write(path, bytes).unwrap();
    json!({
        "storageType": "p", "pathOrInlineDv": format!("file://{}", path.display()), "offset": 1,
        "sizeInBytes": bitmap.len(), "cardinality": deleted.len(),
    })
}

fn with_vectors(folder: PathBuf) -> Maker {
    let features = json!(["deletionVectors"]);
    let protocol =
        json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features});
    Maker::with(folder, vec![field("a", "long")], &[], json!({"delta.enableDeletionVectors": "true"}), protocol)
}

#[tokio::test]
async fn deleted_rows_are_not_read() {
    let (folder, _tables, session) = session();
    let mut maker = with_vectors(root(&folder).join("t"));
    // Three row groups: one keeps all, one loses some, one loses all.
    let mut add = maker.numbers("1.parquet", &(0..12).collect::<Vec<_>>());
    let first = deletion_vector(&maker.folder.join("1.dv"), &[4, 6, 8, 9, 10, 11]);
    add["add"]["deletionVector"] = first.clone();
    maker.commit(&[add, maker.numbers("2.parquet", &[100])]);
    let scan = "from delta_scan('t')";
    assert_eq!(rows(&session, &format!("select a {scan} order by a")).await, ["0", "1", "2", "3", "5", "7", "100"]);
    assert_eq!(rows(&session, &format!("select count(*), max(a), min(a) {scan} where a < 50")).await, ["6,7,0"]);
    assert_eq!(rows(&session, &format!("select count(*), max(a), min(a) {scan}")).await, ["7,100,0"]);
    assert!(rows(&session, &format!("select a {scan} where a >= 8 and a < 50 limit 3")).await.is_empty());
    assert_eq!(
        rows(&session, &format!("select a {scan} where a between 4 and 7 order by a limit 3")).await,
        ["5", "7"]
    );
    assert_eq!(rows(&session, &format!("select count(*) from (select a {scan} limit 6)")).await, ["6"]);
    // A second delete replaces the vector.
    let mut add = maker.numbers("1.parquet", &(0..12).collect::<Vec<_>>());
    add["add"]["deletionVector"] = deletion_vector(&maker.folder.join("2.dv"), &[0, 4, 6, 8, 9, 10, 11]);
    let mut replaced = remove("1.parquet");
    replaced["remove"]["deletionVector"] = first;
    maker.commit(&[replaced, add]);
    assert_eq!(rows(&session, &format!("select min(a), count(*) {scan}")).await, ["1,6"]);
}

#[tokio::test]
async fn damaged_vectors_are_errors() {
    let (folder, _tables, session) = session();
    type Spoil = fn(&Path, &mut Value);
    let cases: [(&str, Spoil); 4] = [
        ("Checksum", |path, _| {
            let mut bytes = fs::read(path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("the log says 1", |_, dv| dv["cardinality"] = json!(1)),
        ("outside", |path, dv| {
            let other = path.parent().unwrap().parent().unwrap().join("other.dv");
            fs::copy(path, &other).unwrap();
            dv["pathOrInlineDv"] = json!(format!("file://{}", other.display()));
        }),
        ("dv", |_, dv| *dv = json!({"storageType": "i", "pathOrInlineDv": "0", "sizeInBytes": 1, "cardinality": 1})),
    ];
    for (idx, (part, spoil)) in cases.into_iter().enumerate() {
        let mut maker = with_vectors(root(&folder).join(format!("t{idx}")));
        let path = maker.folder.join("1.dv");
        let mut add = maker.numbers("1.parquet", &[1, 2, 3]);
        let mut dv = deletion_vector(&path, &[0, 2]);
        spoil(&path, &mut dv);
        add["add"]["deletionVector"] = dv;
        maker.commit(&[add]);
        let error = answer(&session, &format!("select a from delta_scan('t{idx}')")).await.unwrap_err().to_string();
        assert!(error.contains("deleted rows of") && error.to_lowercase().contains(&part.to_lowercase()), "{error}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_said() {
    let (folder, tables, session) = session();
    let root = root(&folder);
    let features = json!(["deletionVectors", "someFeature", "variantType"]);
    let protocol =
        json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features});
    Maker::with(root.join("features"), vec![field("a", "long")], &[], json!({}), protocol);
    let by_id = json!({"delta.columnMapping.mode": "id"});
    let metadata = json!({"delta.columnMapping.physicalName": "x", "delta.columnMapping.id": 1});
    let mapped = json!({"name": "a", "type": "long", "nullable": true, "metadata": metadata});
    Maker::with(root.join("ids"), vec![mapped], &[], by_id, json!({"minReaderVersion": 2, "minWriterVersion": 5}));
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("file"), "").unwrap();
    Maker::new(root.join("damaged"), &[("a", "long")], &[]).commit(&[]);
    fs::write(root.join("damaged/_delta_log/00000000000000000001.json"), "{\"add\":").unwrap();
    let mut maker = Maker::new(root.join("clone"), &[("a", "long")], &[]);
    let mut add = maker.numbers("1.parquet", &[1]);
    add["add"]["path"] = json!("file:///etc/passwd");
    maker.commit(&[add]);
    for (text, part) in [
        ("features", "someFeature, variantType"),
        ("ids", "column mapping by id"),
        ("empty", "is not a Delta table"),
        ("file", "has to be a folder"),
        ("none", "does not exist"),
        ("/etc", "denied"),
        ("damaged", "log of Delta table"),
        ("clone", "outside the table's folder"),
    ] {
        let error = open(&session, &tables, text).await.unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[tokio::test]
async fn links_do_not_lead_out() {
    let (folder, tables, session) = session();
    let mut maker = Maker::new(root(&folder).join("t"), &[("a", "long")], &[]);
    let add = maker.numbers("1.parquet", &[1]);
    let outside = folder.path().join("secret.parquet");
    fs::rename(maker.folder.join("1.parquet"), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, maker.folder.join("1.parquet")).unwrap();
    maker.commit(&[add]);
    let error = open(&session, &tables, "t").await.unwrap_err();
    assert!(matches!(error, super::TableError::AccessDenied { .. }), "{error}");
}

#[tokio::test]
async fn files_that_a_filter_excludes_are_not_opened() {
    let (folder, tables, session) = session();
    let mut maker = Maker::new(root(&folder).join("t"), &[("a", "long")], &[]);
    maker.commit(&[maker.numbers("1.parquet", &[1, 2]), maker.numbers("2.parquet", &[3, 4])]);
    // Whoever opened it would fail.
    fs::remove_file(maker.folder.join("1.parquet")).unwrap();
    let session = with_table(&session, open(&session, &tables, "t").await.unwrap());
    assert_eq!(rows(&session, "select a from t where a > 2 order by a").await, ["3", "4"]);
    assert_eq!(rows(&session, "select count(*), min(a), max(a) from t").await, ["4,1,4"], "the log knows");
    let error = answer(&session, "select a from t").await.unwrap_err().to_string();
    assert!(error.contains("1.parquet"), "{error}");
}

#[tokio::test]
async fn versions_that_were_read_are_kept_and_bounded() {
    let (folder, tables, session) = session();
    let mut maker = Maker::new(root(&folder).join("t"), &[("a", "long")], &[]);
    maker.commit(&[maker.numbers("1.parquet", &[1])]);
    let deltas = DeltaTables::default();
    let location = tables.sources.delta(&session.state(), "t", &StoreOptions::default()).await.unwrap();
    let latest = async || deltas.latest(&location, std::time::Duration::ZERO).await.unwrap();
    let first = latest().await;
    assert!(Arc::ptr_eq(&first, &latest().await), "nothing was committed");
    maker.commit(&[maker.numbers("2.parquet", &[2])]);
    let second = latest().await;
    assert_eq!((second.version, second.files.len()), (2, 2));
    deltas.forget(&location);
    assert!(!Arc::ptr_eq(&second, &latest().await));
}

#[tokio::test]
async fn rows_tell_their_file() {
    let (folder, tables, session) = session();
    let mut maker = Maker::new(root(&folder).join("t"), &[("p", "string"), ("a", "long")], &["p"]);
    let file = |name: &str, values: &[i64]| maker.file(name, vec![("a", int64(values))], json!({"p": "x"}), json!({}));
    let actions = [file("1.parquet", &[1, 2]), file("2.parquet", &[3])];
    maker.commit(&actions);
    let table = open(&session, &tables, "t").await.unwrap().with_path_column("file");
    let session = with_table(&session, table);
    let sql = "select a, split_part(file, '/', -1), p from t where file like '%1.parquet' or a = 3 order by a";
    assert_eq!(rows(&session, sql).await, ["1,1.parquet,x", "2,1.parquet,x", "3,2.parquet,x"]);
    assert_eq!(rows(&session, "select count(distinct file) from t").await, ["2"]);
    assert_eq!(rows(&session, "select * from t where a = 3").await.len(), 1);
}
