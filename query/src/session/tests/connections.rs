//! Stored connections: what opens a store without being shown to those who use it.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;

const OBJECT: &str = "a,b\n1,x\n2,y\n";

/// A server of S3's kind with one object, `t/a.csv` of `bucket`, for who signs with the key `who`.
struct Store {
    endpoint: String,
    /// The ids of the keys that requests were signed with.
    keys: Arc<Mutex<BTreeSet<String>>>,
    /// Ends with this.
    _server: JoinSet<()>,
}

impl Store {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let keys = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = Arc::clone(&keys);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut answers = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                answers.spawn(answer(stream, Arc::clone(&seen)));
            }
        });
        Self { endpoint, keys, _server: server }
    }

    /// What follows `CREATE` to make a connection to it.
    fn connection(&self, key: &str) -> String {
        format!(
            "CONNECTION lake OPTIONS ('s3.endpoint' '{}', 's3.region' 'here', 's3.access_key_id' '{key}', \
             's3.secret_access_key' 'hush hush')",
            self.endpoint
        )
    }

    fn shown(&self) -> String {
        format!(
            "lake|s3|'s3.access_key_id' '***', 's3.endpoint' '{}', 's3.region' 'here', 's3.secret_access_key' '***'",
            self.endpoint
        )
    }
}

/// Answers one request and hangs up.
async fn answer(stream: TcpStream, seen: Arc<Mutex<BTreeSet<String>>>) {
    let mut stream = BufReader::new(stream);
    let mut lines = vec![];
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let header = |name: &str| {
        let of = |line: &String| Some(line.split_once(": ").filter(|it| it.0.eq_ignore_ascii_case(name))?.1.to_owned());
        lines.iter().find_map(of)
    };
    let signature = header("authorization").unwrap_or_default();
    let key = signature.split("Credential=").nth(1).and_then(|it| it.split('/').next()).unwrap_or("").to_owned();
    seen.lock().insert(key.clone());
    let path = lines[0].split(' ').nth(1).unwrap_or("").to_owned();
    let range = header("range").and_then(|it| {
        let (start, end) = it.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse::<usize>().ok()?, end.parse::<usize>().map_or(OBJECT.len(), |it| (it + 1).min(OBJECT.len()))))
    });
    let object_headers = "ETag: \"e\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n";
    let (status, headers, body) = if key != "who" {
        ("403 Forbidden", String::new(), "<Error><Code>AccessDenied</Code></Error>".to_owned())
    } else if path.contains("list-type=2") {
        let listing = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>bucket</Name><Prefix>t/</Prefix>\
             <KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated><Contents><Key>t/a.csv</Key>\
             <LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag><Size>{}</Size></Contents>\
             </ListBucketResult>",
            OBJECT.len()
        );
        ("200 OK", "Content-Type: application/xml\r\n".to_owned(), listing)
    } else if let Some((start, end)) = range {
        let content_range = format!("{object_headers}Content-Range: bytes {start}-{}/{}\r\n", end - 1, OBJECT.len());
        ("206 Partial Content", content_range, OBJECT[start..end].to_owned())
    } else {
        ("200 OK", object_headers.to_owned(), OBJECT.to_owned())
    };
    let length = body.len();
    let body = if lines[0].starts_with("HEAD ") { "" } else { body.as_str() };
    let reply = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}");
    // A client that has gone needs no answer.
    let _ = stream.write_all(reply.as_bytes()).await;
}

impl Server {
    async fn login(&self, connection_id: u64, name: &str) -> Arc<Session> {
        rows(&self.session(99), &format!("CREATE USER IF NOT EXISTS {name}")).await;
        self.session_as(connection_id, name)
    }
}

const TABLE: &str = "CREATE EXTERNAL TABLE `default`.s STORED AS CSV LOCATION 's3://bucket/t/' \
                     OPTIONS ('connection' 'LAKE', 'format.has_header' 'true')";

#[tokio::test]
async fn a_table_reads_with_what_its_connection_says_now() {
    let (server, store) = (server().await, Store::start().await);
    let root = server.session_as(1, "root");
    rows(&root, &format!("CREATE {}", store.connection("who"))).await;
    rows(&root, TABLE).await;
    let sum = "SELECT sum(a), max(b) FROM `default`.s";
    assert_eq!(rows(&root, sum).await, ["3|y"]);
    assert_eq!(*store.keys.lock(), BTreeSet::from(["who".to_owned()]));
    let create = rows(&root, "SHOW CREATE TABLE `default`.s").await;
    assert!(create[0].contains("''connection'' ''lake''"), "{create:?}");
    rows(&root, &format!("CREATE OR REPLACE {}", store.connection("other"))).await;
    let (_, refused) = fails(&root, sum).await;
    assert!(refused.contains("s3://bucket") && !refused.contains("hush"), "{refused}");
    rows(&root, &format!("CREATE OR REPLACE {}", store.connection("who"))).await;
    assert_eq!(rows(&root, sum).await, ["3|y"]);
    // Who may read the table need not be allowed to use the connection.
    let reader = server.login(2, "reader").await;
    rows(&root, "GRANT SELECT ON `default`.s TO reader").await;
    assert_eq!(rows(&reader, sum).await, ["3|y"]);
    let (code, message) = fails(&root, "DROP CONNECTION lake").await;
    assert!(code == 1210 && message.contains("'default.s'"), "{code} {message}");
    for shown in ["EXPLAIN SELECT * FROM `default`.s", "SELECT statement FROM system.queries", "SHOW CONNECTIONS"] {
        let shown = rows(&root, shown).await;
        assert!(!shown.is_empty() && shown.iter().all(|it| !it.contains("hush")), "{shown:?}");
    }
    rows(&root, "DROP TABLE `default`.s; DROP CONNECTION lake").await;
}

#[tokio::test]
async fn connections_are_used_by_those_who_may() {
    let (server, store) = (server().await, Store::start().await);
    let root = server.session_as(1, "root");
    let (reader, nobody) = (server.login(2, "reader").await, server.login(3, "nobody").await);
    rows(&root, "GRANT CREATE, FILE ON *.* TO reader, nobody").await;
    let create = format!("CREATE {}", store.connection("who"));
    assert_eq!(fails(&reader, &create).await.0, 1227);
    assert_eq!(fails(&reader, "DROP CONNECTION lake").await.0, 1227);
    rows(&root, &create).await;
    assert_eq!(fails(&root, &create).await.0, 1476);
    assert_eq!(rows(&root, "SHOW CONNECTIONS").await, [store.shown()]);
    assert!(rows(&reader, "SHOW CONNECTIONS").await.is_empty());
    for sql in [
        TABLE.to_owned(),
        // Whether there is one is not told.
        TABLE.replace("LAKE", "missing"),
        "GRANT USAGE ON CONNECTION lake TO nobody".to_owned(),
    ] {
        assert_eq!(fails(&reader, &sql).await.0, 1142, "{sql}");
    }
    for (sql, code) in [
        (TABLE.replace("LAKE", "missing"), 1477),
        (TABLE.replace("'LAKE'", "'lake', 's3.endpoint' 'http://evil'"), 1210),
        ("GRANT USAGE ON CONNECTION missing TO nobody".to_owned(), 1477),
        ("GRANT SELECT ON CONNECTION lake TO nobody".to_owned(), 1144),
        ("REVOKE USAGE ON CONNECTION lake FROM nobody".to_owned(), 1141),
        ("DROP CONNECTION missing".to_owned(), 1477),
        ("CREATE CONNECTION x OPTIONS ('format.delimiter' ',')".to_owned(), 1210),
    ] {
        assert_eq!(fails(&root, &sql).await.0, code, "{sql}");
    }
    rows(&root, "GRANT USAGE ON CONNECTION Lake TO reader WITH GRANT OPTION").await;
    rows(&reader, "GRANT USAGE ON CONNECTION lake TO nobody").await;
    assert_eq!(rows(&nobody, "SHOW CONNECTIONS LIKE 'la%'").await, [store.shown()]);
    assert_eq!(fails(&nobody, "GRANT USAGE ON CONNECTION lake TO reader").await.0, 1142);
    let grants = rows(&reader, "SHOW GRANTS").await;
    let expected = "GRANT USAGE ON CONNECTION `lake` TO `reader`@`%` WITH GRANT OPTION";
    assert!(grants.iter().any(|it| it == expected), "{grants:?}");
    rows(&nobody, TABLE).await;
    rows(&root, "DROP TABLE `default`.s; DROP CONNECTION lake; DROP CONNECTION IF EXISTS lake").await;
    // The right to it went with it: one that is made anew is another.
    rows(&root, &create).await;
    assert!(rows(&nobody, "SHOW CONNECTIONS").await.is_empty());
    assert!(!rows(&reader, "SHOW GRANTS").await.iter().any(|it| it.contains("CONNECTION")));
}
