//! Links: what survives them, which one is taken, and what comes of peers that do not keep to the protocol.

use std::sync::atomic::AtomicU64;

use arrow::buffer::NullBuffer;
use arrow::record_batch::RecordBatchOptions;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::messages::PROTOCOL_VERSION;

/// A way for rows to go, all that a session can choose.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    pub link: Link,
    compression: ExchangeCompression,
    /// Over a socket of its own.
    direct: bool,
}

const COMPRESSIONS: [ExchangeCompression; 3] =
    [ExchangeCompression::Off, ExchangeCompression::Lz4, ExchangeCompression::Zstd];

pub fn ways() -> Vec<Way> {
    let tcp = |direct| COMPRESSIONS.map(|compression| Way { link: Link::Tcp, compression, direct });
    let uds = COMPRESSIONS.map(|compression| Way { link: Link::Uds, compression, direct: true });
    [tcp(true), tcp(false), uds].concat()
}

impl Way {
    pub fn fetch(self, cluster: &Cluster, sequence: u64) -> FetchStream {
        let source = TaskAddress { task: task(sequence), worker: cluster.address.clone() };
        let link = if self.link == Link::Uds { ExchangeLink::Uds } else { ExchangeLink::Tcp };
        let options = FetchOptions { wait: WAIT, link, compression: self.compression };
        let client = if self.direct { Arc::clone(&cluster.client) } else { indirect() };
        client.fetch(source, 0, options)
    }
}

/// Has no links: rows go over HTTP/2.
#[derive(Debug)]
struct Indirect(PooledChannels);

#[async_trait]
impl ChannelResolver for Indirect {
    async fn resolve(&self, worker: &WorkerAddress) -> Result<WorkerChannel, WireError> {
        self.0.resolve(worker).await
    }
}

fn indirect() -> Arc<FlightClient> {
    let channels = Indirect(PooledChannels::new(tokio::runtime::Handle::current()));
    Arc::new(FlightClient::new(Arc::new(channels), None))
}

/// A column of one of many types, with NULLs, that may be a slice out of the middle of a longer one.
fn column(random: &mut StdRng, rows: usize) -> ArrayRef {
    // First: what is drawn later depends on the number of rows.
    let kind = random.random_range(0..14);
    let (before, after) = (random.random_range(0..9), random.random_range(0..9));
    let all = before + rows + after;
    let share = [0.0, 0.3, 1.0][random.random_range(0..3)];
    let valid: Vec<bool> = (0..all).map(|_| !random.random_bool(share)).collect();
    let nulls = NullBuffer::from(valid.clone());
    let numbers: Vec<i64> = (0..all).map(|_| random.random()).collect();
    let text = |n: i64| "ü".repeat(n.rem_euclid(20) as usize);
    let texts = || numbers.iter().zip(&valid).map(|(n, valid)| valid.then(|| text(*n)));
    let ints = || Arc::new(Int64Array::new(numbers.clone().into(), Some(nulls.clone()))) as ArrayRef;
    let lists = |random: &mut StdRng| {
        let lengths: Vec<usize> = (0..all).map(|_| random.random_range(0..4)).collect();
        let total: usize = lengths.iter().sum();
        (arrow::buffer::OffsetBuffer::<i32>::from_lengths(lengths), total)
    };
    let array: ArrayRef = match kind {
        0 => ints(),
        1 => Arc::new(BooleanArray::new(valid.clone().into(), Some(nulls))),
        2 => Arc::new(texts().collect::<StringArray>()),
        3 => Arc::new(texts().collect::<LargeStringArray>()),
        4 => Arc::new(texts().collect::<StringViewArray>()),
        5 => Arc::new(texts().collect::<BinaryViewArray>()),
        6 => {
            let values = numbers.iter().map(|n| i128::from(*n)).collect::<Vec<_>>();
            let decimals = Decimal128Array::new(values.into(), Some(nulls));
            Arc::new(decimals.with_precision_and_scale(38, 10).unwrap())
        }
        7 => {
            let texts: Vec<Option<String>> = texts().collect();
            Arc::new(texts.iter().map(Option::as_deref).collect::<DictionaryArray<Int32Type>>())
        }
        8 => {
            let (offsets, total) = lists(random);
            let values = numbers.iter().cycle().take(total.max(1)).copied();
            let values = Int64Array::from_iter_values(values).slice(0, total);
            Arc::new(ListArray::new(item(), offsets, Arc::new(values), Some(nulls)))
        }
        9 => {
            let fields = vec![
                (item(), ints()),
                (
                    Arc::new(Field::new("t", DataType::Utf8View, true)),
                    Arc::new(texts().collect::<StringViewArray>()) as ArrayRef,
                ),
            ];
            let (fields, arrays): (Vec<FieldRef>, Vec<ArrayRef>) = fields.into_iter().unzip();
            Arc::new(StructArray::new(fields.into(), arrays, Some(nulls)))
        }
        10 => {
            let (offsets, total) = lists(random);
            let keys = Arc::new(StringArray::from_iter_values((0..total).map(|n| n.to_string()))) as ArrayRef;
            let values = Arc::new(Int64Array::from_iter_values((0..total).map(|n| n as i64))) as ArrayRef;
            let fields = Fields::from(vec![
                Field::new("keys", DataType::Utf8, false),
                Field::new("values", DataType::Int64, true),
            ]);
            let entries = StructArray::new(fields.clone(), vec![keys, values], None);
            let field = Arc::new(Field::new("entries", DataType::Struct(fields), false));
            Arc::new(MapArray::new(field, offsets, entries, Some(nulls), false))
        }
        11 => Arc::new(NullArray::new(all)),
        12 => {
            let values = Int64Array::from_iter_values(numbers.iter().flat_map(|n| [*n, 1]));
            Arc::new(FixedSizeListArray::new(item(), 2, Arc::new(values), Some(nulls)))
        }
        _ => Arc::new(Float64Array::from_iter_values(numbers.iter().map(|n| *n as f64))),
    };
    array.slice(before, rows)
}

/// Batches of one schema, some of them empty, and sometimes without any column.
fn batches(random: &mut StdRng) -> Vec<RecordBatch> {
    let n_columns = random.random_range(0..6);
    let kinds: Vec<u64> = (0..n_columns).map(|_| random.random()).collect();
    let n_batches = random.random_range(0..5);
    let mut schema: Option<SchemaRef> = None;
    (0..n_batches)
        .map(|_| {
            let rows = [0, 1, 7, 64, 1000][random.random_range(0..5)];
            let columns: Vec<ArrayRef> = kinds
                .iter()
                .map(|kind| {
                    // The seed decides the type: the same in every batch.
                    column(&mut StdRng::seed_from_u64(*kind), rows)
                })
                .collect();
            let schema = schema.get_or_insert_with(|| {
                let fields = columns.iter().enumerate();
                let fields = fields.map(|(n, it)| Field::new(format!("c{n}"), it.data_type().clone(), true));
                Arc::new(Schema::new(fields.collect::<Vec<_>>()))
            });
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).unwrap()
        })
        .collect()
}

const SEEDS: u64 = 60;

#[tokio::test]
async fn batches_of_any_kind_survive_every_way() {
    for seed in 0..SEEDS {
        let sent = batches(&mut StdRng::seed_from_u64(seed));
        let cluster = Cluster::sending(sent.clone()).await;
        for (sequence, way) in (1..).zip(ways()) {
            let events = cluster.submit(request(sequence, 1)).await.unwrap();
            let received = all_over(way.link, way.fetch(&cluster, sequence)).await;
            assert_eq!(received.as_ref(), Ok(&sent), "seed {seed}, {way:?}");
            drop(events);
        }
        cluster.assert_idle().await;
    }
}

#[tokio::test]
async fn nulls_may_come_where_the_first_batch_had_none() {
    let column = |values: Vec<Option<i64>>, nullable| {
        let schema = Schema::new(vec![Field::new("a", DataType::Int64, nullable)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(values))]).unwrap()
    };
    let sent = vec![column(vec![Some(1)], false), column(vec![None], true), column(vec![Some(2)], false)];
    let cluster = Cluster::sending(sent.clone()).await;
    for (sequence, way) in (1..).zip(ways().into_iter().filter(|way| way.direct)) {
        let _events = cluster.submit(request(sequence, 1)).await.unwrap();
        assert_eq!(all_over(way.link, way.fetch(&cluster, sequence)).await, Ok(sent.clone()), "{way:?}");
    }
}

/// Pushes a batch of 8192 equal numbers.
async fn one_batch(exchange: Arc<Exchange>) -> Result<(), WireError> {
    let array: ArrayRef = Arc::new(Int64Array::from(vec![7; 8192]));
    exchange.push(0, RecordBatch::try_from_iter([("a", array)]).unwrap()).await?;
    Ok(())
}

#[tokio::test]
async fn only_what_goes_over_tcp_is_packed() {
    let cluster = Cluster::start(None, one_batch).await;
    for (sequence, way) in (1..).zip(ways()) {
        let _events = cluster.submit(request(sequence, 1)).await.unwrap();
        let received = way.fetch(&cluster, sequence).next().await.unwrap().unwrap();
        let is_packed = received.bytes < 8192 * 8;
        let packs = way.compression != ExchangeCompression::Off && way.link == Link::Tcp;
        assert_eq!(is_packed, packs, "{way:?}: {} bytes", received.bytes);
    }
}

#[tokio::test]
async fn the_link_is_the_best_that_there_is() {
    let cluster = Cluster::start(None, one_batch).await;
    let auto = FetchOptions { link: ExchangeLink::Auto, ..options(WAIT) };
    let _events = cluster.submit(request(1, 4)).await.unwrap();
    let source = TaskAddress { task: task(1), worker: cluster.address.clone() };
    let first = |client: Arc<FlightClient>, options| {
        let mut rows = client.fetch(source.clone(), 0, options);
        async move { rows.next().await.unwrap().map(|received| received.link) }
    };
    assert_eq!(first(Arc::clone(&cluster.client), auto).await, Ok(Link::Uds));

    let channels = PooledChannels::new(tokio::runtime::Handle::current());
    channels.set_local(&cluster.worker);
    let here = Arc::new(FlightClient::new(Arc::new(channels), None));
    assert_eq!(first(Arc::clone(&here), auto).await, Ok(Link::Local));
    // A worker of this process can be forced onto a socket.
    assert_eq!(first(here, FetchOptions { link: ExchangeLink::Uds, ..auto }).await, Ok(Link::Uds));

    // A socket that is gone, or cannot be seen from another container.
    std::fs::remove_file(cluster._dir.path().join("flight.sock")).unwrap();
    assert_eq!(first(client(None), auto).await, Ok(Link::Tcp));
}

#[tokio::test]
async fn a_link_that_cannot_be_had_is_an_error() {
    let cluster = Cluster::start(None, one_batch).await;
    std::fs::remove_file(cluster._dir.path().join("flight.sock")).unwrap();
    let source = TaskAddress { task: task(1), worker: cluster.address.clone() };
    for (client, link) in
        [(client(None), ExchangeLink::Local), (client(None), ExchangeLink::Uds), (indirect(), ExchangeLink::Uds)]
    {
        let error = all(client.fetch(source.clone(), 0, FetchOptions { link, ..options(WAIT) })).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unsupported, "{error}");
        assert!(error.message.ends_with("SET exchange_link = 'auto'"), "{error}");
    }
}

#[tokio::test]
async fn a_socket_serves_one_stream_after_the_other() {
    let cluster = Cluster::start(None, one_batch).await;
    for sequence in 1..=20 {
        let _events = cluster.submit(request(sequence, 1)).await.unwrap();
        all(cluster.fetch(sequence, 0)).await.unwrap();
        assert_eq!(cluster.client.idle_links(), 1, "after stream {sequence}");
    }
}

#[test]
fn a_long_path_goes_elsewhere_and_only_the_owner_may_connect() {
    use std::os::unix::fs::PermissionsExt;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _runtime = runtime.enter();
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    for (dir, is_inside) in [(dir.path(), true), (&deep, false)] {
        // What an earlier process left there is in nobody's way.
        std::fs::write(dir.join("flight.sock"), "").unwrap();
        let socket = LinkSocket::bind(dir).unwrap();
        let path = socket.path().to_owned();
        assert_eq!(path.starts_with(dir), is_inside, "{}", path.display());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }
}

/// What a worker sends, byte for byte.
fn frame(kind: u8, version: u32, body: &[u8]) -> Vec<u8> {
    [&[0, b'S', b'X', kind], &version.to_le_bytes()[..], &(body.len() as u64).to_le_bytes()[..], body].concat()
}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const FETCH: u8 = 3;
const ROWS: u8 = 4;
const END: u8 = 5;
const FAILED: u8 = 6;

/// Everything that the other end says until it hangs up.
async fn rest(socket: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = vec![];
    // A reset is an end too.
    let _ = tokio::time::timeout(WAIT, socket.read_to_end(&mut bytes)).await.expect("an end within the deadline");
    bytes
}

#[tokio::test]
async fn whoever_does_not_keep_to_the_protocol_is_told_and_dropped() {
    let cluster = Cluster::start(Some("s3cret"), endless).await;
    let path = cluster._dir.path().join("flight.sock");
    let hello = |version, token: &[u8]| frame(HELLO, version, token);
    for (sent, words) in [
        (hello(PROTOCOL_VERSION, b"wrong"), "token of the link is wrong"),
        (hello(PROTOCOL_VERSION, b""), "token of the link is wrong"),
        (hello(PROTOCOL_VERSION + 1, b"any"), "protocol version"),
        (frame(FETCH, PROTOCOL_VERSION, b""), "token of the link is wrong"),
        (frame(99, PROTOCOL_VERSION, b""), "frame kind 99"),
        (b"\0and what is this?".to_vec(), "no frame"),
        ([&[0, b'S', b'X', HELLO][..], &PROTOCOL_VERSION.to_le_bytes(), &u64::MAX.to_le_bytes()].concat(), "more than"),
    ] {
        for over_tcp in [true, false] {
            let answer = if over_tcp {
                let mut socket = TcpStream::connect(("127.0.0.1", cluster.address.port)).await.unwrap();
                socket.write_all(&sent).await.unwrap();
                rest(&mut socket).await
            } else {
                let mut socket = UnixStream::connect(&path).await.unwrap();
                socket.write_all(&sent).await.unwrap();
                rest(&mut socket).await
            };
            assert_eq!(answer.get(3), Some(&FAILED), "{words}");
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(text.contains(words), "{text}");
        }
    }
    // Half a frame and gone, and nothing at all.
    for sent in [&hello(PROTOCOL_VERSION, b"token")[..9], b"\0", b""] {
        let mut socket = UnixStream::connect(&path).await.unwrap();
        socket.write_all(sent).await.unwrap();
        drop(socket);
    }
    cluster.client.worker_info(&cluster.address, WAIT).await.unwrap();
    cluster.assert_idle().await;
}

/// A worker of whom only the offer is real: it greets, takes the request, says what it is told to, and hangs up.
async fn against(answer: Vec<u8>) -> Result<Vec<RecordBatch>, WireError> {
    let cluster = Cluster::start(None, endless).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let real = cluster.address.port;
    let mut servers = JoinSet::new();
    servers.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            connections.spawn(async move {
                let mut first = [0];
                near.peek(&mut first).await.unwrap();
                if first[0] == 0 {
                    let mut hello = vec![0; 16 + 32];
                    near.read_exact(&mut hello).await.unwrap();
                    near.write_all(&frame(WELCOME, PROTOCOL_VERSION, b"")).await.unwrap();
                    let mut fetch = vec![0; 16];
                    near.read_exact(&mut fetch).await.unwrap();
                    assert_eq!(fetch[3], FETCH);
                    let mut ticket = vec![0; u64::from_le_bytes(fetch[8..].try_into().unwrap()) as usize];
                    near.read_exact(&mut ticket).await.unwrap();
                    near.write_all(&answer).await.unwrap();
                } else {
                    let mut far = TcpStream::connect(("127.0.0.1", real)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    let worker = WorkerAddress { port, ..cluster.address.clone() };
    all(client(None).fetch(TaskAddress { task: task(1), worker }, 0, options(WAIT))).await
}

/// The body of a frame of rows: one batch of one column.
fn rows() -> Vec<u8> {
    let array: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let batch = RecordBatch::try_from_iter([("a", array)]).unwrap();
    let mut encoder = arrow::ipc::writer::StreamEncoder::try_new(batch.schema_ref()).unwrap();
    encoder.encode(&batch).unwrap().iter().flat_map(|piece| piece.as_slice().to_vec()).collect()
}

#[tokio::test]
async fn a_worker_that_hangs_up_is_lost_wherever_it_was() {
    let whole = [frame(ROWS, PROTOCOL_VERSION, &rows()), frame(END, PROTOCOL_VERSION, b"")].concat();
    assert_eq!(against(whole.clone()).await.unwrap().len(), 1);
    // Not at all, within a header, after it, within a body, before the end mark, within it.
    let n_rows = whole.len() - 16;
    for n in [0, 7, 16, 16 + 40, n_rows, n_rows + 15] {
        let error = against(whole[..n].to_vec()).await.unwrap_err();
        assert_eq!((error.code, error.retryable), (ErrorCode::WorkerLost, true), "after {n} bytes: {error}");
    }
}

#[tokio::test]
async fn garbage_is_an_error_and_no_panic() {
    let error = WireError::new(ErrorCode::DivisionByZero, "divide by zero");
    let told = against(frame(FAILED, PROTOCOL_VERSION, &serde_json::to_vec(&error).unwrap())).await.unwrap_err();
    assert_eq!((told.code, told.message, told.retryable), (error.code, error.message, false));
    assert!(told.origin.is_some(), "the producer is named");
    for (answer, words) in [
        (b"HTTP/1.1 400 Bad Request".to_vec(), "no frame"),
        (frame(ROWS, PROTOCOL_VERSION + 1, b""), "protocol version"),
        (frame(HELLO, PROTOCOL_VERSION, b""), "in place of rows"),
        (frame(FAILED, PROTOCOL_VERSION, b"no JSON"), "could not be read"),
        (frame(ROWS, PROTOCOL_VERSION, b"no rows at all"), "could not be read"),
    ] {
        let error = against(answer).await.unwrap_err();
        assert_eq!((error.code, error.retryable), (ErrorCode::Internal, true), "{error}");
        assert!(error.message.contains(words), "{error}");
    }
}

#[test]
fn damaged_rows_are_errors_or_other_rows_but_never_a_panic() {
    static DECODED: AtomicU64 = AtomicU64::new(0);
    let whole = rows();
    for seed in 0..2000 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut damaged = whole.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..damaged.len());
            damaged[at] = random.random();
        }
        damaged.truncate(random.random_range(1..=damaged.len()));
        if crate::link::decode_frame(&damaged).is_ok() {
            DECODED.fetch_add(1, Ordering::Relaxed);
        }
    }
    assert!(DECODED.load(Ordering::Relaxed) < 2000, "no damage was noticed");
}
