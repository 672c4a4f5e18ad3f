//! Tables over files that are written here.

use std::fs;
use std::path::Path;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::prelude::{SessionConfig, SessionContext, col, lit};

use super::super::Roots;
use super::super::roots::tests::sandbox;
use super::super::sources::tests::sources;
use super::*;

fn session() -> SessionContext {
    let runtime = RuntimeEnvBuilder::new().with_cache_manager(super::super::cache_config(0)).build_arc().unwrap();
    SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(2), runtime)
}

fn write_parquet(path: &Path, values: &[i64]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(values.to_vec()))]);
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), schema, None).unwrap();
    writer.write(&batch.unwrap()).unwrap();
    writer.close().unwrap();
}

async fn table(session: &SessionContext, roots: &Roots, path: &str) -> std::result::Result<FilesTable, TableError> {
    open_path(&session.state(), &sources(session, roots), path).await
}

/// The first column of a query over table `t`, as whole numbers.
async fn numbers(session: &SessionContext, sql: &str) -> Result<Vec<i64>> {
    let batches = session.sql(sql).await?.collect().await?;
    Ok(batches.iter().flat_map(|it| it.column(0).as_primitive::<Int64Type>().values().to_vec()).collect())
}

#[tokio::test]
async fn sees_what_others_write() {
    let (folder, roots) = sandbox();
    let root = folder.path().join("root");
    write_parquet(&root.join("t/1.parquet"), &[1, 2]);
    let session = session();
    session.register_table("t", Arc::new(table(&session, &roots, "t").await.unwrap())).unwrap();
    assert_eq!(numbers(&session, "select count(*) from t").await.unwrap(), [2]);
    write_parquet(&root.join("t/2.parquet"), &[3]);
    assert_eq!(numbers(&session, "select count(*) from t").await.unwrap(), [3]);
    // Of the same size as before: only the time tells.
    write_parquet(&root.join("t/2.parquet"), &[7]);
    assert_eq!(numbers(&session, "select max(a) from t").await.unwrap(), [7]);
    fs::remove_dir_all(root.join("t")).unwrap();
    let error = numbers(&session, "select count(*) from t").await.unwrap_err().to_string();
    assert!(error.contains("/t' does not exist"), "{error}");
    fs::create_dir(root.join("t")).unwrap();
    assert_eq!(numbers(&session, "select count(*) from t").await.unwrap(), [0]);
}

#[tokio::test]
async fn names_the_file_that_it_cannot_read() {
    let (folder, roots) = sandbox();
    let root = folder.path().join("root");
    write_parquet(&root.join("t/1.parquet"), &[1, 2]);
    let session = session();
    session.register_table("t", Arc::new(table(&session, &roots, "t").await.unwrap())).unwrap();
    fs::write(root.join("t/2.parquet"), "this is no Parquet file").unwrap();
    let error = numbers(&session, "select a from t").await.unwrap_err().to_string();
    assert!(error.contains("cannot read file") && error.contains("t/2.parquet"), "{error}");
    let error = table(&session, &roots, "t").await.unwrap_err().to_string();
    assert!(error.contains("t/2.parquet"), "{error}");
    fs::write(root.join("t/2.parquet"), "").unwrap();
    assert!(numbers(&session, "select a from t").await.is_err());
}

#[tokio::test]
async fn a_query_keeps_to_what_it_saw() {
    let (folder, roots) = sandbox();
    let root = folder.path().join("root");
    write_parquet(&root.join("t/1.parquet"), &[1, 2]);
    let session = session();
    let table = table(&session, &roots, "t").await.unwrap();
    let mut query = session.state();
    query.config_mut().set_extension(Arc::new(Listings::default()));
    let files = async |state: &datafusion::execution::SessionState| {
        let scan = table.scan(state, None, &[], None).await.unwrap();
        let (_, config) = sheaf_planners::leaf::file_scan(&scan).unwrap();
        let sizes = config.file_groups.iter().flat_map(|group| group.iter()).map(|it| it.object_meta.size);
        sizes.collect::<Vec<u64>>()
    };
    let before = files(&query).await;
    assert_eq!(before.len(), 1);
    write_parquet(&root.join("t/1.parquet"), &(0..1000).collect::<Vec<_>>());
    write_parquet(&root.join("t/2.parquet"), &[3]);
    assert_eq!(files(&query).await, before);
    assert_eq!(files(&session.state()).await.len(), 2, "the next query sees it");
}

#[tokio::test]
async fn what_a_scan_surely_reads_is_known_before_it_is_planned() {
    let (folder, roots) = sandbox();
    let root = folder.path().join("root");
    write_parquet(&root.join("t/k=1/1.parquet"), &[1, 2]);
    write_parquet(&root.join("t/k=2/1.parquet"), &[3]);
    let bytes = ["t/k=1/1.parquet", "t/k=2/1.parquet"].map(|it| fs::metadata(root.join(it)).unwrap().len());
    let session = session();
    session.register_table("t", Arc::new(table(&session, &roots, "t").await.unwrap())).unwrap();
    for (sql, enough, expected) in [
        ("select a from t", u64::MAX, bytes[0] + bytes[1]),
        ("select a from t", 1, bytes[0]),
        ("select a from t where a > 1", u64::MAX, bytes[0] + bytes[1]),
        // Of these, only a part of the files may be read.
        ("select a from t where k = '1'", u64::MAX, 0),
        ("select a from t limit 1", u64::MAX, 0),
    ] {
        let state = session.state();
        let plan = state.optimize(&state.create_logical_plan(sql).await.unwrap()).unwrap();
        let mut scans = vec![];
        plan.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                scans.push(scan.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        let provider = source_as_provider(&scans[0].source).unwrap();
        let table = provider.downcast_ref::<FilesTable>().unwrap();
        assert_eq!(table.bytes_for_sure(&state, &scans[0], enough).await, expected, "{sql}, {enough}");
    }
}

#[tokio::test]
async fn folders_give_columns() {
    let (folder, roots) = sandbox();
    let root = folder.path().join("root");
    write_parquet(&root.join("t/k=x/1.parquet"), &[1, 2]);
    write_parquet(&root.join("t/k=y/1.parquet"), &[3]);
    write_parquet(&root.join(format!("t/k={NULL_PARTITION}/1.parquet")), &[4]);
    let session = session();
    session.register_table("t", Arc::new(table(&session, &roots, "t").await.unwrap())).unwrap();
    let check = async |sql: &str| numbers(&session, sql).await.unwrap();
    assert_eq!(check("select a from t where k = 'x' order by a").await, [1, 2]);
    assert_eq!(check("select a from t where k is null").await, [4]);
    assert_eq!(check("select count(*) from t where k <> 'x'").await, [1]);
    assert_eq!(check("select count(distinct k) from t").await, [2]);
    assert_eq!(check("select count(k) from t").await, [3]);
}

#[tokio::test]
async fn options_reach_the_reader() {
    let (folder, roots) = sandbox();
    let root = folder.path().join("root");
    fs::write(root.join("a.csv"), "1;x\n2;y\n").unwrap();
    let session = session();
    let sources = sources(&session, &roots);
    let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let request = |options| FilesRequest { locations: vec!["a.csv".to_owned()], options, ..Default::default() };
    let options = HashMap::from([option("HEADER", "false"), option("format.delimiter", ";")]);
    let def = define(&session.state(), &sources, request(options)).await.unwrap();
    assert_eq!(def.columns.len(), 2);
    let read_back: FilesDef = serde_json::from_str(&serde_json::to_string(&def).unwrap()).unwrap();
    assert_eq!(read_back, def);
    let reference = TableReference::bare("t");
    session.register_table("t", Arc::new(FilesTable::new(reference, read_back, Arc::clone(&sources)))).unwrap();
    assert_eq!(numbers(&session, "select column_1 from t").await.unwrap(), [1, 2]);
    let wrong = define(&session.state(), &sources, request(HashMap::from([option("no_such", "1")]))).await;
    assert!(matches!(wrong, Err(TableError::Invalid { .. })), "{wrong:?}");
}

#[tokio::test]
async fn an_empty_folder_needs_columns() {
    let (folder, roots) = sandbox();
    fs::create_dir(folder.path().join("root/t")).unwrap();
    let session = session();
    let sources = sources(&session, &roots);
    let request =
        FilesRequest { format: Some(FileKind::Parquet), locations: vec!["t".to_owned()], ..FilesRequest::default() };
    let refused = define(&session.state(), &sources, request.clone()).await;
    assert!(matches!(refused, Err(TableError::NoFiles { .. })), "{refused:?}");
    let columns = Some(Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)])));
    let def = define(&session.state(), &sources, FilesRequest { columns, ..request }).await.unwrap();
    session.register_table("t", Arc::new(FilesTable::new("t".into(), def, sources))).unwrap();
    assert_eq!(numbers(&session, "select count(*) from t").await.unwrap(), [0]);
}

#[tokio::test]
async fn text_formats_are_read_by_their_names() {
    let (folder, roots) = sandbox();
    let root = folder.path().join("root");
    fs::write(root.join("a.tsv"), "n\tm\n1\t2\n").unwrap();
    fs::write(root.join("a.jsonl"), "{\"n\": 5}\n{\"n\": 6}\n").unwrap();
    let session = session();
    for (path, expected) in [("a.tsv", vec![1]), ("a.jsonl", vec![5, 6])] {
        session.deregister_table("t").unwrap();
        session.register_table("t", Arc::new(table(&session, &roots, path).await.unwrap())).unwrap();
        assert_eq!(numbers(&session, "select n from t").await.unwrap(), expected);
    }
    assert!(matches!(table(&session, &roots, "none.csv").await, Err(TableError::FileNotFound { .. })));
}

#[tokio::test]
async fn files_that_a_filter_excludes_are_not_scanned() {
    let (folder, roots) = sandbox();
    let root = folder.path().join("root");
    write_parquet(&root.join("t/1.parquet"), &[1, 2]);
    write_parquet(&root.join("t/2.parquet"), &[3, 4]);
    let session = session();
    let table = table(&session, &roots, "t").await.unwrap();
    let files = async |filter: Expr| {
        let scan = table.scan(&session.state(), None, &[filter], None).await.unwrap();
        let config = sheaf_planners::leaf::file_scan(&scan).map(|(_, config)| config.clone());
        config.map_or(0, |it| it.file_groups.iter().map(FileGroup::len).sum::<usize>())
    };
    assert_eq!(files(col("a").gt(lit(2i64))).await, 1);
    assert_eq!(files(col("a").gt(lit(4i64))).await, 0);
    assert_eq!(files(col("a").is_null()).await, 0);
    assert_eq!(files(col("a").not_eq(lit(2i64))).await, 2);
}

#[tokio::test]
async fn arrow_files_are_read() {
    let (folder, roots) = sandbox();
    let root = folder.path().join("root");
    fs::create_dir(root.join("t")).unwrap();
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    let batch =
        |values: Vec<i64>| RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(values))]).unwrap();
    let create = |name: &str| fs::File::create(root.join(name)).unwrap();
    let mut writer = arrow::ipc::writer::FileWriter::try_new(create("t/1.arrow"), &schema).unwrap();
    writer.write(&batch(vec![1, 2])).unwrap();
    writer.finish().unwrap();
    let mut writer = arrow::ipc::writer::FileWriter::try_new(create("t/2.feather"), &schema).unwrap();
    writer.write(&batch(vec![3])).unwrap();
    writer.finish().unwrap();
    let session = session();
    session.register_table("t", Arc::new(table(&session, &roots, "t").await.unwrap())).unwrap();
    assert_eq!(numbers(&session, "select a from t where a > 1 order by a").await.unwrap(), [2, 3]);
    fs::write(root.join("t/3.arrow"), "").unwrap();
    let error = table(&session, &roots, "t").await.unwrap_err().to_string();
    assert!(error.contains("t/3.arrow"), "{error}");
}
