//! The MySQL protocol, packet by packet: a server in this process over an engine of its own, and clients that send what no
//! well-behaved client sends.

mod raw;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row, Value};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use raw::{
    DEPRECATE_EOF, MULTI_STATEMENTS, PLAIN, PLUGIN_AUTH, Raw, SESSION_TRACK, Said, execution, first_text, frame,
    handshake, said,
};
use sheaf_flight::{FlightClient, InProcessChannels};
use sheaf_planners::StaticWorkers;
use sheaf_query::access::Verifier;
use sheaf_query::definitions::{MemoryDefinitions, TIMEOUT};
use sheaf_query::replication::NotReplicated;
use sheaf_query::{Engine, EngineOptions, Identity};
use sheaf_server::mysql::{Accounts, Candidate, MySqlOptions, MySqlServer};
use sheaf_tests::{alone, patience};
use tokio::io::AsyncWriteExt;

const DEADLINE: Duration = Duration::from_secs(120);
/// Takes until somebody ends it.
const ENDLESS: &str = "SELECT count(*) FROM numbers(1000000000000) WHERE number % 7 = 3";
/// Many rows, none of which is hard to make.
const LARGE: &str = "SELECT number, concat('row ', number) FROM numbers(10000000)";

/// A client that is gone, or killed, is forgotten within this.
fn forgotten_within() -> Duration {
    patience(Duration::from_secs(2))
}

struct Server {
    engine: Arc<Engine>,
    mysql: MySqlServer,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut MySqlOptions)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let engine = Engine::new(EngineOptions {
            node_name: "here".into(),
            table_root: folder.path().join("tables").display().to_string(),
            data_dir: folder.path().join("data"),
            base_dir: folder.path().to_owned(),
            allow_roots: vec![folder.path().to_owned()],
            cores: 2,
            memory_bytes: 256 << 20,
            task_slots: 64,
            test_functions: false,
            spill_bytes_max: 1 << 30,
            cache_dir: std::path::PathBuf::new(),
            cache_bytes_max: 0,
            coordinator_no: 5,
            workers: Arc::new(StaticWorkers::default()),
            cluster: Arc::new(sheaf_query::cluster::NoCluster),
            client: Arc::new(FlightClient::new(Arc::new(InProcessChannels::default()), None)),
            definitions: Arc::new(MemoryDefinitions::new().expect("the default database")),
            replication: Arc::new(NotReplicated),
        });
        let engine = engine.await.expect("an engine over an empty folder");
        engine.access().begin(None, TIMEOUT).await.expect("root");
        let mut options = MySqlOptions::new("127.0.0.1:0".parse().expect("an address"));
        options.coordinator_no = 5;
        change(&mut options);
        let mysql = MySqlServer::start(engine.clone(), options).await.expect("a free port");
        Self { engine, mysql, _folder: folder }
    }

    fn port(&self) -> u16 {
        self.mysql.address().port()
    }

    async fn raw(&self, capabilities: u32) -> Raw {
        Raw::connect(self.port(), capabilities, None).await
    }

    async fn client(&self) -> Conn {
        let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(self.port()).user(Some("root"));
        Conn::new(opts.prefer_socket(Some(false))).await.expect("a stock client connects")
    }

    /// Waits until as many sessions run a statement, and says how long it took.
    async fn until_running(&self, expected: usize) -> Duration {
        let start = Instant::now();
        loop {
            let rows = self.engine.processes();
            if rows.iter().filter(|row| row.statement.is_some()).count() == expected {
                return start.elapsed();
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{expected} statements expected, there are {rows:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until as many sessions are there, and says how long it took.
    async fn until_sessions(&self, expected: usize) -> Duration {
        let start = Instant::now();
        while self.engine.processes().len() != expected {
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", self.engine.processes());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        start.elapsed()
    }
}

/// Runs a test's body against a server of its own.
fn serve<F: Future>(body: impl FnOnce(Server) -> F) {
    alone(DEADLINE, async {
        body(Server::start().await).await;
    });
}

fn error_code(said: Said) -> (u16, String) {
    match said {
        Said::Error { code, state, .. } => (code, state),
        ok => panic!("an error expected, got {ok:?}"),
    }
}

#[test]
fn greeting_says_who_and_what() {
    serve(|server| async move {
        let (raw, greeting) = Raw::greeted(server.port()).await;
        let version_end = 1 + greeting[1..].iter().position(|byte| *byte == 0).expect("a version");
        let version = String::from_utf8_lossy(&greeting[1..version_end]).into_owned();
        assert!(version.starts_with("8.4.0-sheafdb-"), "{version}");
        let id = u32::from_le_bytes(greeting[version_end + 1..version_end + 5].try_into().expect("four bytes"));
        assert_eq!(id >> 20, 5, "the coordinator's number");
        let salt = &greeting[version_end + 5..version_end + 13];
        assert!(salt.iter().all(|byte| (0x21..0x7F).contains(byte)), "{salt:?}");
        drop(raw);
        let mut first = server.raw(PLAIN).await;
        assert_eq!(first.texts("SELECT connection_id() >> 20").await, ["5"]);
    });
}

#[test]
fn both_ends_of_rows_are_written() {
    serve(|server| async move {
        for capabilities in [PLAIN, PLAIN | DEPRECATE_EOF] {
            let mut raw = server.raw(capabilities).await;
            let result = raw.query("SELECT number FROM numbers(3) ORDER BY 1").await;
            let rows: Vec<String> = result.rows.iter().map(|row| first_text(row)).collect();
            assert_eq!(rows, ["0", "1", "2"]);
            assert_eq!(result.status & 2, 2, "autocommit");
            assert!(raw.query("SELECT number FROM numbers(3) WHERE number > 5").await.rows.is_empty());
        }
    });
}

#[test]
fn several_statements_in_one_text() {
    serve(|server| async move {
        for capabilities in [PLAIN, PLAIN | DEPRECATE_EOF] {
            let mut raw = server.raw(capabilities).await;
            assert_eq!(raw.query("SELECT 1; SELECT 2").await.error.expect("not asked for").0, 1064);

            let mut raw = server.raw(capabilities | MULTI_STATEMENTS).await;
            let first = raw.query("SELECT 1; SET @x = 1; SELECT 2").await;
            assert!(first.has_more() && first.rows.len() == 1);
            let second = raw.result().await;
            assert!(second.has_more() && second.columns.is_empty());
            let third = raw.result().await;
            assert!(!third.has_more());
            assert_eq!(first_text(&third.rows[0]), "2");

            let first = raw.query("SELECT 1; SELECT * FROM system.no_such; SELECT 3").await;
            assert!(first.has_more());
            assert_eq!(raw.result().await.error.expect("no such table").0, 1146);
            assert_eq!(raw.texts("SELECT 'on'").await, ["on"], "nothing of the third is left over");

            // Taken back, and given again.
            assert!(matches!(raw.ask(&[0x1B, 1, 0]).await, Said::Ok { .. }));
            assert_eq!(raw.query("SELECT 1; SELECT 2").await.error.expect("switched off").0, 1064);
            assert!(matches!(raw.ask(&[0x1B, 0, 0]).await, Said::Ok { .. }));
            assert!(raw.query("SELECT 1; SELECT 2").await.has_more());
            raw.result().await;
        }
    });
}

#[test]
fn commands_beside_queries() {
    serve(|server| async move {
        let mut raw = server.raw(PLAIN).await;
        assert!(matches!(raw.ask(&[0x0E]).await, Said::Ok { .. }), "ping");
        assert!(matches!(raw.ask(b"\x02system").await, Said::Ok { .. }), "init db");
        assert_eq!(raw.texts("SELECT database()").await, ["system"]);
        assert_eq!(error_code(raw.ask(b"\x02no_such").await), (1049, "42000".into()));
        assert_eq!(raw.texts("SELECT database()").await, ["system"]);

        raw.command(b"\x09").await;
        let statistics = raw.packet().await.expect("a line");
        assert!(statistics.starts_with(b"Uptime: "), "{statistics:?}");

        raw.command(b"\x04one\0").await;
        let column = raw.packet().await.expect("the only column");
        assert!(column.windows(5).any(|it| it == b"dummy"), "{column:?}");
        assert_eq!(raw.packet().await.expect("the end").first(), Some(&0xFE));
        assert_eq!(error_code(raw.ask(b"\x04no_such\0").await).0, 1146);
        raw.command(b"\x04one\0x%").await;
        assert_eq!(raw.packet().await.expect("no column is like that").first(), Some(&0xFE));

        for unknown in [&[0x08][..], &[0x0D], &[0x12, 0, 0], &[0x77], &[]] {
            assert_eq!(error_code(raw.ask(unknown).await), (1047, "08S01".into()), "{unknown:?}");
        }
        assert_eq!(error_code(raw.ask(b"\x03\xff\xfe").await).0, 1300, "not UTF-8");
        assert_eq!(error_code(raw.ask(b"\x03").await).0, 1065, "empty");
        assert_eq!(error_code(raw.ask(b"\x03  -- nothing").await).0, 1065, "a comment");
        assert_eq!(raw.texts("SELECT 'on'").await, ["on"]);
        raw.command(&[0x01]).await;
        assert!(raw.is_closed().await, "quit");
        server.until_sessions(0).await;
    });
}

#[test]
fn reset_and_change_of_user() {
    serve(|server| async move {
        let mut raw = Raw::connect(server.port(), PLAIN, Some("system")).await;
        let id = raw.texts("SELECT connection_id()").await;
        for statement in ["CREATE USER eve, bob", "GRANT SELECT ON `default`.* TO eve"] {
            assert!(matches!(raw.ask(&[b"\x03", statement.as_bytes()].concat()).await, Said::Ok { .. }), "{statement}");
        }
        let (statement, ..) = raw.prepare("SELECT 1").await.expect("it can be prepared");
        raw.query("SET @@autocommit = 0").await;
        assert!(matches!(raw.ask(&[0x1F]).await, Said::Ok { status: 2, .. }), "autocommit is back");
        assert_eq!(error_code(raw.ask(&execution(statement, &[])).await).0, 1243, "statements are gone");
        assert_eq!(raw.texts("SELECT database()").await, ["system"]);

        assert!(matches!(raw.ask(b"\x11eve\0\0default\0\x2d\0caching_sha2_password\0").await, Said::Ok { .. }));
        assert_eq!(raw.texts("SELECT concat(database(), ' ', substring_index(user(), '@', 1))").await, ["default eve"]);
        assert_eq!(raw.texts("SELECT connection_id()").await, id);
        assert_eq!(server.engine.processes().len(), 1);

        // A client that proves itself by a plugin that is not ours is asked to use one.
        raw.command(b"\x11bob\0\x02ab\0\x2d\0mysql_clear_password\0").await;
        let switch = raw.packet().await.expect("a switch");
        assert!(switch.starts_with(b"\xfecaching_sha2_password\0") && switch.len() == 1 + 22 + 21, "{switch:?}");
        raw.send(&[]).await;
        assert!(matches!(said(&raw.packet().await.expect("an answer")), Said::Ok { .. }));
        assert_eq!(error_code(raw.ask(b"\x11bob").await).0, 1835);
        assert_eq!(raw.texts("SELECT substring_index(user(), '@', 1)").await, ["bob"]);
    });
}

#[test]
fn prepared_statements_packet_by_packet() {
    serve(|server| async move {
        for capabilities in [PLAIN, PLAIN | DEPRECATE_EOF] {
            let mut raw = server.raw(capabilities).await;
            let (id, n_parameters, n_columns) = raw.prepare("SELECT ?, ?").await.expect("it can be prepared");
            assert_eq!((n_parameters, n_columns), (2, 2));
            let long = |value: i64| value.to_le_bytes();
            let first = raw.execute(id, &[&[0, 1, 8, 0, 8, 0][..], &long(-5), &long(7)].concat()).await;
            assert_eq!(first.rows, [[&[0, 0][..], &long(-5), &long(7)].concat()]);
            // Types are said once; what is bound again afterwards goes by them.
            let second = raw.execute(id, &[&[0, 0][..], &long(1), &long(2)].concat()).await;
            assert_eq!(second.rows, [[&[0, 0][..], &long(1), &long(2)].concat()]);
            let third = raw.execute(id, &[&[0b10, 0][..], &long(3)].concat()).await;
            assert_eq!(third.rows, [[&[0, 0b1000][..], &long(3)].concat()]);
            // Too short: refused, and the connection goes on.
            assert_eq!(error_code(raw.ask(&execution(id, &[0])).await).0, 1210);

            // Long data, forgotten by a reset, kept for one execution otherwise.
            let (text, ..) = raw.prepare("SELECT concat(?, '!')").await.expect("it can be prepared");
            let data = |bytes: &[u8]| [&[0x18][..], &text.to_le_bytes(), &[0, 0], bytes].concat();
            raw.command(&data(b"lost")).await;
            assert!(matches!(raw.ask(&[&[0x1A][..], &text.to_le_bytes()].concat()).await, Said::Ok { .. }));
            raw.command(&data(b"lo")).await;
            raw.command(&data(b"ng")).await;
            let result = raw.execute(text, &[0, 1, 253, 0]).await;
            assert_eq!(result.error, None);
            assert_eq!(result.rows, [b"\0\0\x05long!"]);
            let result = raw.execute(text, b"\0\x01\xfd\0\x02ok").await;
            assert_eq!(result.rows, [b"\0\0\x03ok!"]);

            // Closed: no reply, and unknown from then on.
            raw.command(&[&[0x19][..], &id.to_le_bytes()].concat()).await;
            assert_eq!(error_code(raw.ask(&execution(id, &[])).await).0, 1243);
            assert_eq!(error_code(raw.ask(&[&[0x1C][..], &id.to_le_bytes(), &[1, 0, 0, 0]].concat()).await).0, 1243);
            assert_eq!(error_code(raw.ask(&[&[0x1C][..], &text.to_le_bytes(), &[1, 0, 0, 0]].concat()).await).0, 1421);
            assert_eq!(raw.prepare("SELECT * FROM system.no_such").await, Err(1146));
            assert_eq!(raw.prepare("SELEC ?").await, Err(1064));
            let (set, _, n_columns) = raw.prepare("SET @x = 1").await.expect("it can be prepared");
            assert_eq!(n_columns, 0);
            assert_eq!(raw.execute(set, &[]).await.error, None);
        }
    });
}

#[test]
fn parameters_of_a_stock_client() {
    serve(|server| async move {
        let mut client = server.client().await;
        let values = vec![
            Value::Int(i64::MIN),
            Value::UInt(u64::MAX),
            Value::Double(0.1),
            Value::Bytes("naïve".into()),
            Value::NULL,
            Value::Date(2024, 2, 29, 23, 59, 58, 7),
            Value::Time(false, 0, 23, 0, 1, 6),
        ];
        let row: Option<Row> = client.exec_first("SELECT ?, ?, ?, ?, ?, ?, ?", values.clone()).await.expect("a row");
        assert_eq!(row.expect("one row").unwrap(), values);
        let length: Option<String> =
            client.exec_first("SELECT ?", (Value::Time(true, 1, 6, 0, 1, 0),)).await.expect("a row");
        assert_eq!(length.as_deref(), Some("-30:00:01"));
        let rows: Vec<u64> = client
            .exec("SELECT number FROM numbers(10) WHERE number > ? ORDER BY number LIMIT ?", (3, 2))
            .await
            .expect("rows");
        assert_eq!(rows, [4, 5]);
        // The same statement again, from the client's cache of prepared ones.
        let rows: Vec<u64> = client
            .exec("SELECT number FROM numbers(10) WHERE number > ? ORDER BY number LIMIT ?", (6, 9))
            .await
            .expect("rows");
        assert_eq!(rows, [7, 8, 9]);
        client.disconnect().await.expect("it leaves in order");
    });
}

#[test]
fn an_error_after_rows_is_an_error() {
    // Late, so that rows are on their way whichever thread reads the end of the numbers.
    const SQL: &str = "SELECT CAST(CASE WHEN number < 3999999 THEN '1' ELSE 'x' END AS BIGINT) FROM numbers(4000000)";
    serve(|server| async move {
        let mut raw = server.raw(PLAIN | DEPRECATE_EOF).await;
        let result = raw.query(SQL).await;
        assert!(!result.columns.is_empty() && !result.rows.is_empty(), "rows came first");
        assert_eq!(result.error.expect("and then the error").0, 1366);
        assert_eq!(raw.texts("SELECT 'on'").await, ["on"]);
        // A value that the binary protocol has no form for; the rows before it were sent.
        let dates = "SELECT arrow_cast(arrow_cast(number * -800000, 'Int32'), 'Date32') FROM numbers(2)";
        if let Ok((id, ..)) = raw.prepare(dates).await {
            let result = raw.execute(id, &[]).await;
            assert_eq!(result.error.map(|(code, _)| code), Some(1690));
            assert_eq!(raw.texts("SELECT 'on'").await, ["on"]);
        }
    });
}

#[test]
fn commands_sent_ahead_are_all_answered() {
    serve(|server| async move {
        let mut raw = server.raw(PLAIN).await;
        let commands = [
            frame(0, b"\x03SELECT count(*) FROM numbers(3000000) WHERE number % 2 = 0"),
            frame(0, b"\x03SELECT 2"),
            frame(0, b"\x0e"),
            frame(0, b"\x03SELECT 3"),
        ];
        raw.socket.write_all(&commands.concat()).await.expect("the server reads");
        let mut answers = Vec::new();
        for is_ping in [false, false, true, false] {
            raw.sequence = 1;
            let result = raw.result().await;
            assert_eq!(is_ping, result.rows.is_empty());
            answers.extend(result.rows.iter().map(|row| first_text(row)));
        }
        assert_eq!(answers, ["1500000", "2", "3"]);
    });
}

#[test]
fn a_client_that_hangs_up_ends_its_statement() {
    serve(|server| async move {
        for ahead in [&b""[..], b"\x0e"] {
            let mut raw = server.raw(PLAIN).await;
            raw.command(&[b"\x03", ENDLESS.as_bytes()].concat()).await;
            server.until_running(1).await;
            if !ahead.is_empty() {
                raw.command(ahead).await;
            }
            drop(raw);
            let took = server.until_sessions(0).await;
            assert!(took < forgotten_within(), "{took:?}");
        }
        // A reset instead of an orderly end.
        let mut raw = server.raw(PLAIN).await;
        raw.command(&[b"\x03", ENDLESS.as_bytes()].concat()).await;
        server.until_running(1).await;
        raw.socket.set_zero_linger().expect("an option of every socket");
        drop(raw);
        let took = server.until_sessions(0).await;
        assert!(took < forgotten_within(), "{took:?}");
    });
}

#[test]
fn kill_ends_statements_and_connections() {
    serve(|server| async move {
        let mut killer = server.raw(PLAIN).await;
        let mut victim = server.raw(PLAIN).await;
        let id = victim.texts("SELECT connection_id()").await.remove(0);

        victim.command(&[b"\x03", ENDLESS.as_bytes()].concat()).await;
        server.until_running(1).await;
        assert_eq!(killer.query(&format!("KILL QUERY {id}")).await.error, None);
        let start = Instant::now();
        assert_eq!(victim.result().await.error.expect("it was killed").0, 1317);
        assert!(start.elapsed() < forgotten_within());
        assert_eq!(victim.texts("SELECT 'on'").await, ["on"]);

        victim.command(b"\x03SELECT SLEEP(3600)").await;
        server.until_running(1).await;
        assert_eq!(killer.query(&format!("KILL QUERY {id}")).await.error, None);
        let start = Instant::now();
        assert_eq!(victim.result().await.error.expect("it was killed").0, 1317);
        assert!(start.elapsed() < forgotten_within());

        victim.command(&[b"\x03", ENDLESS.as_bytes()].concat()).await;
        server.until_running(1).await;
        let number: u32 = id.parse().expect("a number");
        assert!(matches!(killer.ask(&[&[0x0C][..], &number.to_le_bytes()].concat()).await, Said::Ok { .. }));
        assert!(victim.is_closed().await);
        assert!(server.until_sessions(1).await < forgotten_within());

        // An idle one is told at its next command, or finds itself closed.
        let mut idle = server.raw(PLAIN).await;
        let id = idle.texts("SELECT connection_id()").await.remove(0);
        assert_eq!(killer.query(&format!("KILL {id}")).await.error, None);
        idle.sequence = 1;
        assert_eq!(error_code(said(&idle.packet().await.expect("a word"))).0, 1317);
        assert!(idle.is_closed().await);
        assert_eq!(error_code(killer.ask(format!("\x03KILL {id}").as_bytes()).await).0, 1094);
    });
}

#[test]
fn a_client_that_does_not_read_holds_the_query_back() {
    serve(|server| async move {
        let mut killer = server.raw(PLAIN).await;
        let mut slow = server.raw(PLAIN | DEPRECATE_EOF).await;
        let id = slow.texts("SELECT connection_id()").await.remove(0);
        slow.command(&[b"\x03", LARGE.as_bytes()].concat()).await;
        server.until_running(1).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.until_running(1).await;
        // It is let go of though nobody reads; the client learns of it after what was sent.
        assert_eq!(killer.query(&format!("KILL QUERY {id}")).await.error, None);
        assert!(server.until_running(0).await < forgotten_within());
        let result = slow.result().await;
        assert_eq!(result.error.expect("it was killed").0, 1317);
        assert!(result.rows.len() < 10_000_000, "not all rows were waiting for the client");
        assert_eq!(slow.texts("SELECT 'on'").await, ["on"]);

        // So is its deadline kept.
        assert_eq!(slow.query("SET max_execution_time = 700").await.error, None);
        slow.command(&[b"\x03", LARGE.as_bytes()].concat()).await;
        server.until_running(1).await;
        assert!(server.until_running(0).await < Duration::from_millis(700) + forgotten_within());
        assert_eq!(slow.result().await.error.expect("its time was over").0, 3024);
        assert_eq!(slow.query("SET max_execution_time = 0").await.error, None);

        assert_eq!(slow.query("SET net_write_timeout = 1").await.error, None);
        slow.command(&[b"\x03", LARGE.as_bytes()].concat()).await;
        server.until_running(1).await;
        let took = server.until_sessions(1).await;
        assert!(took < Duration::from_secs(1) + forgotten_within(), "{took:?}");
    });
}

#[test]
fn an_idle_client_is_sent_away() {
    serve(|server| async move {
        let mut raw = server.raw(PLAIN).await;
        assert_eq!(raw.query("SET wait_timeout = 1").await.error, None);
        raw.sequence = 1;
        assert_eq!(error_code(said(&raw.packet().await.expect("a word"))).0, 4031);
        assert!(raw.is_closed().await);
        server.until_sessions(0).await;
    });
}

#[test]
fn too_many_connections() {
    alone(DEADLINE, async {
        let server = Server::start_with(|options| options.max_connections = 2).await;
        let (first, _second) = (server.raw(PLAIN).await, server.raw(PLAIN).await);
        let (_, refusal) = Raw::greeted(server.port()).await;
        let expected = Said::Error { code: 1040, state: String::new(), message: "too many connections".into() };
        assert_eq!(said(&refusal), expected);
        drop(first);
        server.until_sessions(1).await;
        let start = Instant::now();
        // The id is free a moment after the session.
        while Raw::greeted(server.port()).await.1[0] == 0xFF {
            assert!(start.elapsed() < forgotten_within());
        }
    });
}

#[test]
fn bytes_that_are_not_the_protocol_end_only_their_connection() {
    alone(DEADLINE, async {
        let server = Server::start_with(|options| {
            options.login_timeout = Duration::from_secs(1);
            options.max_allowed_packet = 1 << 20;
        })
        .await;
        let mut witness = server.raw(PLAIN).await;

        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xFF; 64], &frame(1, &[]), &frame(1, b"\xff")] {
            let (mut raw, _) = Raw::greeted(server.port()).await;
            raw.socket.write_all(garbage).await.expect("the server reads");
            assert!(raw.is_closed().await, "{garbage:?}");
        }
        // Nothing at all, and a login that is far too long.
        let (mut silent, _) = Raw::greeted(server.port()).await;
        assert_eq!(error_code(said(&silent.packet().await.expect("a word"))).0, 1159);
        assert!(silent.is_closed().await);
        let (mut long, _) = Raw::greeted(server.port()).await;
        long.socket.write_all(&[0xFF, 0xFF, 0xFE, 1]).await.expect("the server reads");
        long.sequence = 2;
        assert_eq!(error_code(said(&long.packet().await.expect("a word"))).0, 1153);
        assert!(long.is_closed().await);
        // TLS, which was not offered.
        let (mut tls, _) = Raw::greeted(server.port()).await;
        tls.send(&handshake("root", PLAIN | 1 << 11, None)[..32]).await;
        let refused = said(&tls.packet().await.expect("a word"));
        assert!(matches!(&refused, Said::Error { code: 1835, message, .. } if message.contains("TLS")), "{refused:?}");
        assert!(tls.is_closed().await);

        let mut large = server.raw(PLAIN).await;
        assert_eq!(large.texts(&format!("SELECT length('{}')", "x".repeat(1_000_000))).await, ["1000000"]);
        large.command(&vec![3; (1 << 20) + 1][..]).await;
        assert_eq!(error_code(said(&large.packet().await.expect("a word"))).0, 1153);

        // Parameters of a type that there is none of: nothing is lost but the execution.
        let mut wrong = server.raw(PLAIN).await;
        let (id, ..) = wrong.prepare("SELECT ?").await.expect("it can be prepared");
        assert_eq!(error_code(wrong.ask(&execution(id, &[0, 1, 0x77, 0, 1])).await).0, 1210);
        assert_eq!(wrong.texts("SELECT 'on'").await, ["on"]);
        // A command that does not begin an exchange.
        wrong.sequence = 7;
        wrong.send(b"\x0e").await;
        assert_eq!(error_code(said(&wrong.packet().await.expect("a word"))).0, 1156);
        assert!(wrong.is_closed().await);

        assert_eq!(witness.texts("SELECT 'still here'").await, ["still here"]);
        drop(witness);
        server.until_sessions(0).await;
    });
}

#[test]
fn an_interactive_client_idles_as_long_as_it_may() {
    const INTERACTIVE: u32 = 1 << 10;
    serve(|server| async move {
        let mut raw = server.raw(PLAIN).await;
        raw.query("SET GLOBAL interactive_timeout = 7").await;
        for (capabilities, expected) in [(PLAIN, "28800"), (PLAIN | INTERACTIVE, "7")] {
            let mut raw = server.raw(capabilities).await;
            assert_eq!(raw.texts("SELECT @@wait_timeout").await, [expected]);
        }
        assert_eq!(raw.texts("SELECT @@max_connections").await, ["1000"]);
    });
}

/// One account for each kind of verifier.
#[derive(Debug)]
struct TestAccounts;

#[async_trait::async_trait]
impl Accounts for TestAccounts {
    async fn candidate(&self, user: &str, peer: IpAddr) -> Option<Candidate> {
        assert!(peer.is_loopback(), "{peer}");
        let verifier = match user {
            "old" => Verifier::native("pass of old"),
            "new" => Verifier::caching_sha2("pass of new"),
            "open" => Verifier::CachingSha2(None),
            _ => return None,
        };
        Some(Candidate {
            identity: Identity::Embedder,
            verifier,
            is_locked: false,
            requires_tls: false,
            is_offline: false,
        })
    }
}

#[test]
fn passwords_of_a_stock_client() {
    alone(DEADLINE, async {
        let server = Server::start_with(|options| options.accounts = Some(Arc::new(TestAccounts))).await;
        let client = |user: &'static str, password: &'static str| {
            let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(server.port()).prefer_socket(false);
            Conn::new(opts.user(Some(user)).pass(Some(password).filter(|it| !it.is_empty())))
        };
        for (user, password) in [("old", "pass of old"), ("new", "pass of new"), ("open", "")] {
            let mut conn = client(user, password).await.unwrap_or_else(|error| panic!("{user}: {error}"));
            let me: Option<String> = conn.query_first("SELECT substring_index(user(), '@', 1)").await.expect("a row");
            assert_eq!(me.as_deref(), Some(user));
            // The other accounts, within the connection.
            for (other, password) in [("new", "pass of new"), ("old", "pass of old")] {
                let opts = mysql_async::ChangeUserOpts::new();
                let opts = opts.with_user(Some(other.into())).with_pass(Some(password.into()));
                conn.change_user(opts).await.unwrap_or_else(|error| panic!("{user} to {other}: {error}"));
                let me: Option<String> =
                    conn.query_first("SELECT substring_index(user(), '@', 1)").await.expect("a row");
                assert_eq!(me.as_deref(), Some(other));
            }
            let wrong = mysql_async::ChangeUserOpts::new().with_user(Some("new".into())).with_pass(Some("no".into()));
            let refused = conn.change_user(wrong).await.expect_err("a wrong password");
            assert!(refused.to_string().contains("1045"), "{refused}");
            assert!(conn.ping().await.is_err(), "who fails to become another is nobody");
        }
        for (user, password, with) in
            [("old", "no", "YES"), ("new", "no", "YES"), ("open", "no", "YES"), ("new", "", "NO"), ("eve", "no", "YES")]
        {
            let refused = client(user, password).await.expect_err("wrong").to_string();
            let expected = format!("'{user}'@'127.0.0.1' (using password: {with})");
            assert!(refused.contains("1045") && refused.contains(&expected), "{user}: {refused}");
        }
        let (program, python) = (crate::clients::found(&["mariadb", "mysql"]), crate::clients::python());
        let connectors = [
            "import pymysql; pymysql.connect(host='127.0.0.1', port=PORT, user='USER', password='PASSWORD')",
            "import mysql.connector as c; c.connect(host='127.0.0.1', port=PORT, user='USER', password='PASSWORD', \
             ssl_disabled=True)",
        ];
        for (user, password) in [("old", "pass of old"), ("new", "pass of new")] {
            let port = server.port().to_string();
            for (password, is_right) in [(password, true), ("wrong", false)] {
                let mut commands = Vec::new();
                if let Some(program) = program {
                    let mut command = tokio::process::Command::new(program);
                    command.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--port", &port]);
                    command.args(["--user", user, &format!("--password={password}"), "--execute=SELECT 1"]);
                    commands.push(command);
                }
                for script in python.iter().flat_map(|_| connectors) {
                    let script = script.replace("PORT", &port).replace("USER", user).replace("PASSWORD", password);
                    let mut command = tokio::process::Command::new(python.expect("it has scripts"));
                    command.args(["-c", &script]);
                    commands.push(command);
                }
                for mut command in commands {
                    let output = command.output().await.expect("it runs");
                    let said = String::from_utf8_lossy(&output.stderr);
                    assert_eq!(output.status.success(), is_right, "{command:?}: {said}");
                    assert!(is_right || said.contains("1045"), "{command:?}: {said}");
                }
            }
        }
        // A client from before plugins, which cannot be asked to use a newer one.
        for (user, code) in [("new", 1251), ("old", 1045)] {
            let (mut raw, _) = Raw::greeted(server.port()).await;
            raw.send(&handshake(user, PLAIN & !PLUGIN_AUTH, None)).await;
            assert_eq!(error_code(said(&raw.packet().await.expect("a word"))).0, code, "{user}");
            assert!(raw.is_closed().await);
        }
        server.until_sessions(0).await;
    });
}

#[test]
fn what_changed_in_the_session_is_told_to_those_who_ask() {
    serve(|server| async move {
        let ends = |packet: &[u8], told: &[u8]| packet[4] & 0x40 != 0 && packet.ends_with(told);
        let mut raw = server.raw(PLAIN | SESSION_TRACK | DEPRECATE_EOF).await;
        for (command, told) in [
            (&b"\x03USE system"[..], &b"\x09\x01\x07\x06system"[..]),
            (b"\x02default", b"\x0a\x01\x08\x07default"),
            (b"\x03SET autocommit = 0", b"\x11\x00\x0f\x0aautocommit\x03OFF"),
            (b"\x03SET time_zone = '+02:00'", b"\x13\x00\x11\x09time_zone\x06+02:00"),
        ] {
            raw.command(command).await;
            let reply = raw.packet().await.expect("OK");
            assert!(reply[0] == 0 && ends(&reply, told), "{command:?}: {reply:?}");
        }
        for command in [&b"\x03SET @x = 1"[..], b"\x03SET sql_mode = 'ANSI_QUOTES'", b"\x02default", b"\x0e"] {
            raw.command(command).await;
            let reply = raw.packet().await.expect("OK");
            assert!(reply[0] == 0 && reply.len() == 7 && reply[4] & 0x40 == 0, "{command:?}: {reply:?}");
        }
        assert_eq!(
            raw.query("SET session_track_system_variables = 'SQL_MODE', session_track_schema = 0").await.error,
            None
        );
        raw.command(b"\x03SET sql_mode = '', autocommit = 1").await;
        assert!(ends(&raw.packet().await.expect("OK"), b"\x0c\x00\x0a\x08sql_mode\x00"));
        raw.command(b"\x03USE system").await;
        assert_eq!(raw.packet().await.expect("OK").len(), 7, "no longer asked for");

        let mut deaf = server.raw(PLAIN).await;
        deaf.command(b"\x03USE system").await;
        assert_eq!(deaf.packet().await.expect("OK").len(), 7);
    });
}

#[test]
fn warnings_are_counted_in_every_end() {
    serve(|server| async move {
        for capabilities in [PLAIN, PLAIN | DEPRECATE_EOF] {
            let mut raw = server.raw(capabilities).await;
            assert_eq!(raw.query("SELECT 1 / number FROM numbers(1)").await.warnings, 1);
            assert_eq!(raw.query("SHOW WARNINGS").await.rows.len(), 1);
            let (id, ..) = raw.prepare("SELECT 1 / (number % 2) FROM numbers(6)").await.expect("it can be prepared");
            assert_eq!(raw.execute(id, &[]).await.warnings, 3);
            assert_eq!(raw.query("SELECT 1").await.warnings, 0);
        }
    });
}

#[test]
fn cursors_give_rows_bit_by_bit() {
    const AUTOCOMMIT: u16 = 2;
    const CURSOR_EXISTS: u16 = 64;
    const LAST_ROW_SENT: u16 = 128;
    serve(|server| async move {
        for capabilities in [PLAIN, PLAIN | DEPRECATE_EOF] {
            let mut raw = server.raw(capabilities).await;
            let (id, ..) = raw.prepare("SELECT number FROM numbers(5) ORDER BY 1").await.expect("it can be prepared");
            assert_eq!(raw.open_cursor(id).await, AUTOCOMMIT | CURSOR_EXISTS);
            let mut rows = Vec::new();
            for (n_rows, n_got, status) in [(2, 2, CURSOR_EXISTS), (2, 2, CURSOR_EXISTS), (2, 1, LAST_ROW_SENT)] {
                let fetched = raw.fetch(id, n_rows).await;
                assert_eq!((fetched.rows.len(), fetched.status), (n_got, AUTOCOMMIT | status));
                rows.extend(fetched.rows.iter().map(|row| row[2]));
                // Other statements run between.
                assert_eq!(raw.texts("SELECT 'on'").await, ["on"]);
            }
            assert_eq!(rows, [0, 1, 2, 3, 4]);
            assert_eq!(raw.fetch(id, 1).await.error.expect("closed by its last row").0, 1421);

            // Closed by a reset, by another execution, and with its statement.
            raw.open_cursor(id).await;
            assert!(matches!(raw.ask(&[&[0x1A][..], &id.to_le_bytes()].concat()).await, Said::Ok { .. }));
            assert_eq!(raw.fetch(id, 1).await.error.expect("closed").0, 1421);
            raw.open_cursor(id).await;
            assert_eq!(raw.execute(id, &[]).await.rows.len(), 5);
            assert_eq!(raw.fetch(id, 1).await.error.expect("closed").0, 1421);
            raw.open_cursor(id).await;
            raw.command(&[&[0x19][..], &id.to_le_bytes()].concat()).await;
            assert_eq!(raw.fetch(id, 1).await.error.expect("gone").0, 1243);
            server.until_running(0).await;

            // What answers without rows has no cursor.
            let (set, ..) = raw.prepare("SET @x = 1").await.expect("it can be prepared");
            assert!(matches!(
                raw.ask(&[&[0x17][..], &set.to_le_bytes(), &[1, 1, 0, 0, 0]].concat()).await,
                Said::Ok { status: 2, .. }
            ));
        }
    });
}

#[test]
fn an_open_cursor_holds_its_query_and_lets_go_of_it_when_told() {
    serve(|server| async move {
        let mut killer = server.raw(PLAIN).await;
        let mut raw = server.raw(PLAIN | DEPRECATE_EOF).await;
        let id = raw.texts("SELECT connection_id()").await.remove(0);
        let (large, ..) = raw.prepare(LARGE).await.expect("it can be prepared");
        raw.open_cursor(large).await;
        assert_eq!(raw.fetch(large, 100_000).await.rows.len(), 100_000);
        server.until_running(1).await;
        assert_eq!(killer.query(&format!("KILL QUERY {id}")).await.error, None);
        assert!(server.until_running(0).await < forgotten_within(), "though nobody fetches");
        assert_eq!(raw.fetch(large, 1).await.error.expect("it was killed").0, 1317);
        assert_eq!(raw.fetch(large, 1).await.error.expect("and is gone").0, 1421);

        assert_eq!(raw.query("SET max_execution_time = 500").await.error, None);
        raw.open_cursor(large).await;
        server.until_running(1).await;
        assert!(server.until_running(0).await < Duration::from_millis(500) + forgotten_within());
        assert_eq!(raw.fetch(large, 1).await.error.expect("its time was over").0, 3024);

        assert_eq!(raw.query("SET max_execution_time = 0").await.error, None);
        raw.open_cursor(large).await;
        server.until_running(1).await;
        assert!(matches!(raw.ask(&[0x1F]).await, Said::Ok { .. }), "reset");
        assert!(server.until_running(0).await < forgotten_within());
    });
}

/// Random bytes, and packets that are nearly right, before and after the login.
#[test]
fn random_packets_leave_nothing_behind() {
    const ROUNDS: u64 = 300;
    alone(DEADLINE, async {
        let server = Server::start_with(|options| options.login_timeout = Duration::from_secs(5)).await;
        let mut witness = server.raw(PLAIN).await;
        for seed in 0..ROUNDS {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut raw =
                if rng.random_bool(0.3) { Raw::greeted(server.port()).await.0 } else { server.raw(PLAIN).await };
            for _ in 0..rng.random_range(1..8) {
                let mut payload: Vec<u8> = (0..rng.random_range(0..40)).map(|_| rng.random()).collect();
                if let Some(code) = payload.first_mut() {
                    *code = rng.random_range(0..0x21);
                    // The witness is not to be killed.
                    if *code == 0x0C {
                        *code = 0x0E;
                    }
                }
                let sequence = if rng.random_bool(0.9) { 0 } else { rng.random() };
                let mut bytes = frame(sequence, &payload);
                if rng.random_bool(0.1) {
                    bytes = payload;
                }
                // It may be closed by now.
                let _ = raw.socket.write_all(&bytes).await;
            }
            drop(raw);
            if seed % 50 == 0 {
                assert_eq!(witness.texts("SELECT 'still here'").await, ["still here"], "seed {seed}");
            }
        }
        server.until_sessions(1).await;
        assert_eq!(witness.texts("SELECT 'still here'").await, ["still here"]);
    });
}

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    serve(|server| async move {
        for round in 0..10_000 {
            match round % 4 {
                0 => drop(tokio::net::TcpStream::connect(("127.0.0.1", server.port())).await.expect("it listens")),
                1 => drop(Raw::greeted(server.port()).await),
                2 => drop(server.raw(PLAIN).await),
                _ => server.raw(PLAIN).await.command(&[0x01]).await,
            }
        }
        server.until_sessions(0).await;
        assert_eq!(server.raw(PLAIN).await.texts("SELECT 'on'").await, ["on"]);
    });
}

#[test]
fn packets_of_more_than_sixteen_mebibytes() {
    serve(|server| async move {
        let mut client = server.client().await;
        let text = "x".repeat(17_000_000);
        let length: Option<u64> = client.query_first(format!("SELECT length('{text}')")).await.expect("a row");
        assert_eq!(length, Some(17_000_000));
        let long: Option<String> = client.query_first("SELECT repeat('y', 17000000)").await.expect("a row");
        assert_eq!(long.map(|text| text.len()), Some(17_000_000));
        let long: Option<String> = client.exec_first("SELECT concat(?, 'z')", (text,)).await.expect("a row");
        assert_eq!(long.map(|text| text.len()), Some(17_000_001));
    });
}

#[test]
fn stopping_lets_statements_end_within_the_grace() {
    alone(DEADLINE, async {
        let server = Server::start().await;
        let mut idle = server.raw(PLAIN).await;
        let mut busy = server.raw(PLAIN).await;
        busy.command(b"\x03SELECT count(*) FROM numbers(30000000) WHERE number % 2 = 0").await;
        server.until_running(1).await;
        let Server { mysql, .. } = server;
        let port = mysql.address().port();
        let told = async {
            idle.sequence = 1;
            assert_eq!(error_code(said(&idle.packet().await.expect("a word"))).0, 1053);
            let result = busy.result().await;
            assert_eq!(result.rows.iter().map(|row| first_text(row)).collect::<Vec<_>>(), ["15000000"]);
            busy.sequence = 1;
            assert_eq!(error_code(said(&busy.packet().await.expect("a word"))).0, 1053);
        };
        tokio::join!(mysql.stop(Duration::from_secs(60)), told);
        assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err(), "nobody listens");

        let server = Server::start().await;
        let mut endless = server.raw(PLAIN).await;
        endless.command(&[b"\x03", ENDLESS.as_bytes()].concat()).await;
        server.until_running(1).await;
        let Server { mysql, engine, .. } = server;
        let start = Instant::now();
        mysql.stop(Duration::from_millis(200)).await;
        assert!(start.elapsed() < forgotten_within());
        assert!(endless.is_closed().await);
        assert!(engine.processes().is_empty(), "{:?}", engine.processes());
    });
}
