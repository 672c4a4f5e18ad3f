//! Rows to disk and back, and what goes wrong on the way.

use arrow::array::*;
use arrow::compute::cast;
use arrow::datatypes::*;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn disk(folder: &std::path::Path, limit: u64) -> SpillDisk {
    let mode = DiskManagerMode::Directories(vec![folder.to_owned()]);
    let manager = DiskManagerBuilder::default().with_mode(mode).with_max_temp_directory_size(limit).build().unwrap();
    SpillDisk::new(Arc::new(manager))
}

fn check(batch: RecordBatch) {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path(), 1 << 30);
    let mut file = disk.create().unwrap();
    let before = Segment::new(batch.slice(0, 0), 128);
    let segment = Segment::new(batch.clone(), 1000);
    let stored = [file.append(&before).unwrap(), file.append(&segment).unwrap(), file.append(&before).unwrap()];
    drop(file);
    let loaded = stored[1].load().unwrap();
    assert_eq!((&loaded.batch, loaded.bytes), (&batch, 1000));
    assert!(Arc::ptr_eq(loaded.batch.schema_ref(), batch.schema_ref()));
    assert!(Arc::ptr_eq(&stored[1].loaded().unwrap(), &loaded), "another reader need not read it again");
    drop(loaded);
    assert!(stored[1].loaded().is_none());
    assert_eq!(stored[2].load().unwrap().batch.num_rows(), 0);
    assert_eq!(disk.manager.used_disk_space(), stored.iter().map(|it| it.bytes_on_disk).sum::<u64>());
    drop(stored);
    assert_eq!(disk.manager.used_disk_space(), 0);
    let left: Vec<_> = disk.manager.temp_dir_paths().iter().flat_map(|it| std::fs::read_dir(it).unwrap()).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn check_column(array: impl Array + 'static) {
    let array: ArrayRef = Arc::new(array);
    let field = Field::new("a", array.data_type().clone(), true);
    let field = field.with_metadata([("k".to_owned(), "v".to_owned())].into());
    let metadata = [("m".to_owned(), "w".to_owned())].into();
    let schema = Arc::new(Schema::new_with_metadata(vec![field], metadata));
    let whole = RecordBatch::try_new(schema, vec![array]).unwrap();
    check(whole.slice(1, whole.num_rows() - 2));
    check(whole);
}

#[test]
fn every_kind_of_column_comes_back() {
    let texts = || (0..50).map(|i| (i % 7 != 0).then(|| format!("a text that is too long to be inlined {}", i % 5)));
    check_column(Int64Array::from_iter((0..50).map(|i| (i % 3 != 0).then_some(i))));
    check_column(BooleanArray::from_iter((0..50).map(|i| Some(i % 3 == 0))));
    check_column(StringArray::from_iter(texts()));
    check_column(StringViewArray::from_iter(texts()));
    check_column(BinaryViewArray::from_iter(texts().map(|it| it.map(String::into_bytes))));
    check_column(Decimal128Array::from_iter_values(0..50).with_precision_and_scale(20, 3).unwrap());
    check_column(TimestampNanosecondArray::from_iter_values(0..50).with_timezone("Asia/Tokyo"));
    check_column(NullArray::new(50));
    let dictionary: ArrayRef = Arc::new(StringArray::from_iter(texts()));
    let dictionary =
        cast(&dictionary, &DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8))).unwrap();
    check_column(dictionary.as_dictionary::<Int8Type>().clone());
    let lists = (0..50).map(|i| (i % 4 != 0).then(|| (0..i % 5).map(Some).collect::<Vec<_>>()));
    check_column(LargeListArray::from_iter_primitive::<Int32Type, _, _>(lists));
    let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..50));
    check_column(StructArray::from(vec![(Arc::new(Field::new("n", DataType::Int32, true)), numbers)]));
}

#[test]
fn rows_without_columns_come_back() {
    let column: ArrayRef = Arc::new(Int32Array::from_iter_values(0..9));
    check(RecordBatch::try_from_iter([("a", column)]).unwrap().project(&[]).unwrap());
}

fn numbers() -> Segment {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..4096));
    Segment::new(RecordBatch::try_from_iter([("a", column)]).unwrap(), 8 * 4096)
}

#[test]
fn a_full_disk_is_named_before_and_after() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path(), 98_500);
    assert_eq!(disk.check(0, 50_000), Ok(()));
    let error = disk.check(50_000, 50_000).unwrap_err();
    assert_eq!(error, SpillError::Limit { limit: 98_500 });
    assert_eq!(error.to_string(), "spill files may take 96.2 KB (--spill-limit), and that is reached");
    let mut file = disk.create().unwrap();
    let mut stored: Vec<Stored> = vec![];
    let error = loop {
        match file.append(&numbers()) {
            Ok(one) => stored.push(one),
            Err(error) => break error,
        }
    };
    assert_eq!((stored.len(), error.code()), (2, ErrorCode::DiskFull), "{error}");
    assert_eq!(stored[1].load().unwrap().batch, numbers().batch, "what was written before is whole");
    drop((file, stored));
    assert_eq!(disk.manager.used_disk_space(), 0);
}

#[test]
fn a_folder_that_is_gone_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path(), 1 << 30);
    let mut file = disk.create().unwrap();
    let stored = file.append(&numbers()).unwrap();
    std::fs::remove_dir_all(folder.path()).unwrap();
    let error = disk.create().err().unwrap();
    assert!(matches!(error, SpillError::Missing { .. }), "{error}");
    assert_eq!((error.code(), error.is_retryable()), (ErrorCode::SpillFailed, true));
    assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    let error = stored.load().err().unwrap();
    assert!(matches!(error, SpillError::Missing { .. }), "{error}");
    disk.set_failed(error.clone());
    assert_eq!(disk.check(0, 1), Err(error));
    std::thread::sleep(RETRY_AFTER);
    assert_eq!(disk.check(0, 1), Ok(()), "a disk that failed is tried again");
}

/// Rows like TPC-H's `lineitem`: keys, decimals, dates, flags and comments.
fn lineitem(rng: &mut StdRng, n: usize) -> RecordBatch {
    const WORDS: [&str; 12] = [
        "carefully",
        "final",
        "deposits",
        "sleep",
        "furiously",
        "regular",
        "requests",
        "haggle",
        "quickly",
        "ironic",
        "accounts",
        "among",
    ];
    let mut keys =
        |max: i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values((0..n).map(|_| rng.random_range(1..max)))) };
    let (order, part, supplier) = (keys(6_000_000), keys(200_000), keys(10_000));
    let mut decimals = |max: i128| -> ArrayRef {
        let values = Decimal128Array::from_iter_values((0..n).map(|_| rng.random_range(0..max)));
        Arc::new(values.with_precision_and_scale(15, 2).unwrap())
    };
    let (quantity, price, discount) = (decimals(5_000), decimals(10_000_000), decimals(11));
    let mut dates =
        || -> ArrayRef { Arc::new(Date32Array::from_iter_values((0..n).map(|_| rng.random_range(8_000..10_500)))) };
    let (ship, commit) = (dates(), dates());
    let flags: ArrayRef =
        Arc::new(StringViewArray::from_iter_values((0..n).map(|_| ["A", "N", "R"][rng.random_range(0..3)])));
    let comments = (0..n).map(|_| {
        let n_words = rng.random_range(2..6);
        (0..n_words).map(|_| WORDS[rng.random_range(0..WORDS.len())]).collect::<Vec<_>>().join(" ")
    });
    let comments: ArrayRef = Arc::new(StringViewArray::from_iter_values(comments));
    RecordBatch::try_from_iter([
        ("l_orderkey", order),
        ("l_partkey", part),
        ("l_suppkey", supplier),
        ("l_quantity", quantity),
        ("l_extendedprice", price),
        ("l_discount", discount),
        ("l_shipdate", ship),
        ("l_commitdate", commit),
        ("l_returnflag", flags),
        ("l_comment", comments),
    ])
    .unwrap()
}

/// Bytes in memory per byte in the file; prints what both ways cost. With `SHEAF_FULL=1` on enough rows to measure.
#[test]
fn what_compression_saves_and_costs() {
    let n_batches = if std::env::var_os("SHEAF_FULL").is_some() { 400 } else { 4 };
    let mut rng = StdRng::seed_from_u64(1);
    let batches: Vec<RecordBatch> = (0..n_batches).map(|_| lineitem(&mut rng, 8192)).collect();
    let bytes: usize = batches.iter().map(crate::encoding::batch_bytes).sum();
    let folder = tempfile::tempdir().unwrap();
    let mut sizes = vec![];
    for compression in [None, Some(CompressionType::LZ4_FRAME)] {
        let path = folder.path().join(format!("{compression:?}"));
        let mut writer = BufWriter::with_capacity(WRITE_BYTES, std::fs::File::create(&path).unwrap());
        let mut ends = vec![0];
        let started = Instant::now();
        for batch in &batches {
            encode(batch, &mut writer, compression).unwrap();
            writer.flush().unwrap();
            ends.push(writer.get_ref().metadata().unwrap().len());
        }
        let write = started.elapsed();
        let started = Instant::now();
        let mut file = std::fs::File::open(&path).unwrap();
        for (batch, ends) in batches.iter().zip(ends.windows(2)) {
            let mut bytes = MutableBuffer::from_len_zeroed((ends[1] - ends[0]) as usize);
            file.read_exact(&mut bytes).unwrap();
            assert_eq!(decode(bytes).unwrap().num_rows(), batch.num_rows());
        }
        let read = started.elapsed();
        let rate = |time: Duration| bytes as f64 / 1e9 / time.as_secs_f64();
        let size = ends[batches.len()];
        println!(
            "{compression:?}: {bytes} B in memory, {size} B in the file, write {:.2} GB/s, read {:.2} GB/s",
            rate(write),
            rate(read)
        );
        sizes.push(size);
    }
    assert!(sizes[0] < bytes as u64 / 100 * 105, "an uncompressed file holds little besides the rows: {sizes:?}");
    assert!(sizes[1] < sizes[0], "{sizes:?}");
}
