//! Sessions over an engine without workers: what clients say, and what they get.

mod access;
mod connections;
mod cut_off;
mod plans;

use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use futures::TryStreamExt;
use sheaf_flight::{FlightClient, InProcessChannels};
use sheaf_planners::StaticWorkers;

use super::*;
use crate::definitions::MemoryDefinitions;
use crate::engine::EngineOptions;
use crate::replication::NotReplicated;

mod managed;

struct Server {
    engine: Arc<Engine>,
    folder: tempfile::TempDir,
}

fn options(folder: &std::path::Path) -> EngineOptions {
    let files = folder.join("files");
    EngineOptions {
        node_name: "here".into(),
        data_dir: folder.join("data"),
        table_root: folder.join("tables").display().to_string(),
        base_dir: files.clone(),
        allow_roots: vec![files],
        cores: 2,
        memory_bytes: 256 << 20,
        task_slots: 64,
        test_functions: true,
        spill_bytes_max: 1 << 30,
        cache_dir: std::path::PathBuf::new(),
        cache_bytes_max: 0,
        coordinator_no: 1,
        workers: Arc::new(StaticWorkers::default()),
        cluster: Arc::new(crate::cluster::NoCluster),
        client: Arc::new(FlightClient::new(Arc::new(InProcessChannels::default()), None)),
        definitions: Arc::new(MemoryDefinitions::new().unwrap()),
        replication: Arc::new(NotReplicated),
    }
}

async fn server() -> Server {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("files")).unwrap();
    let engine = Engine::new(options(folder.path())).await.unwrap();
    engine.access().begin(None, TIMEOUT).await.unwrap();
    Server { engine, folder }
}

#[tokio::test]
async fn what_a_dead_process_spilled_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let stale = folder.path().join("data/tmp/datafusion-abc");
    std::fs::create_dir_all(&stale).unwrap();
    std::fs::write(stale.join(".tmpdef"), "rows").unwrap();
    std::fs::create_dir(folder.path().join("files")).unwrap();
    let engine = Engine::new(options(folder.path())).await.unwrap();
    assert!(!stale.exists());
    let disk = &engine.runtime().disk_manager;
    assert!(disk.temp_dir_paths()[0].starts_with(folder.path().join("data/tmp")));
    assert_eq!(disk.max_temp_directory_size(), 1 << 30);
}

impl Server {
    fn session(&self, connection_id: u64) -> Arc<Session> {
        self.engine.session(SessionInit {
            connection_id,
            user: "ann".into(),
            client_host: "localhost".into(),
            identity: Identity::Embedder,
            tls: None,
            database: None,
            dialect: SqlDialect::MySql { ansi_quotes: false },
        })
    }
}

async fn rows_of(answer: Answer) -> Result<(Vec<String>, Vec<String>), QueryError> {
    let Answer::Rows(rows) = answer else { return Ok((vec![], vec![])) };
    let names = rows.schema.fields().iter().map(|it| it.name().clone()).collect();
    let batches: Vec<RecordBatch> = rows.stream.try_collect().await?;
    let mut lines = vec![];
    for batch in batches {
        for row in 0..batch.num_rows() {
            // An array of the type Null holds no bitmap: only its logical nulls tell.
            let is_null = |column: &arrow::array::ArrayRef| column.logical_nulls().is_some_and(|it| it.is_null(row));
            let cell = |column: &arrow::array::ArrayRef| match is_null(column) {
                true => "NULL".to_owned(),
                false => array_value_to_string(column, row).unwrap(),
            };
            lines.push(batch.columns().iter().map(cell).collect::<Vec<_>>().join("|"));
        }
    }
    Ok((names, lines))
}

async fn ask(session: &Arc<Session>, sql: &str) -> Result<(Vec<String>, Vec<String>), QueryError> {
    let mut last = Answer::done();
    for statement in session.statements(sql)? {
        last = session.run(statement).await?;
    }
    rows_of(last).await
}

/// The rows of the last statement of a text, columns joined by `|`.
async fn rows(session: &Arc<Session>, sql: &str) -> Vec<String> {
    ask(session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")).1
}

async fn names(session: &Arc<Session>, sql: &str) -> Vec<String> {
    ask(session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")).0
}

async fn fails(session: &Arc<Session>, sql: &str) -> (u16, String) {
    match ask(session, sql).await {
        Ok(answer) => panic!("{sql}: {answer:?}"),
        Err(error) => (error.code().numbers().mysql, error.to_string()),
    }
}

#[tokio::test]
async fn statements_are_prepared_in_text() {
    let server = server().await;
    let session = server.session(7);
    rows(&session, "PREPARE S FROM 'SELECT ? + ? AS `The Sum`'; SET @a = 3, @b = 4").await;
    assert_eq!(rows(&session, "EXECUTE s USING @a, @b").await, ["7"]);
    assert_eq!(names(&session, "EXECUTE s USING @a, @a").await, ["The Sum"]);
    rows(
        &session,
        "SET @q = CONCAT('SELECT number FROM numbers(', 5, ') WHERE number > ? LIMIT 1'); PREPARE t FROM @q",
    )
    .await;
    assert_eq!(rows(&session, "EXECUTE t USING @a").await, ["4"]);
    for (sql, code) in [
        ("EXECUTE s USING @a", 1210),
        ("EXECUTE none", 1243),
        ("DEALLOCATE PREPARE none", 1243),
        ("PREPARE u FROM 'SELEC 1'", 1064),
        ("PREPARE u FROM 'SELECT 1; SELECT 2'", 1235),
        ("PREPARE u FROM 'EXECUTE s'", 1295),
        ("PREPARE u FROM @never_set", 1064),
    ] {
        assert_eq!(fails(&session, sql).await.0, code, "{sql}");
    }
    // The name is free, whatever the new text is.
    fails(&session, "PREPARE s FROM 'no SQL'").await;
    assert_eq!(fails(&session, "EXECUTE s USING @a, @b").await.0, 1243);
    rows(&session, "DROP PREPARE t").await;
    assert_eq!(fails(&session, "EXECUTE t USING @a").await.0, 1243);
    assert_eq!(session.prepare("EXECUTE t").await.unwrap_err().code().numbers().mysql, 1295);
}

#[tokio::test]
async fn what_clients_ask_on_connect() {
    let server = server().await;
    let session = server.session(7);
    assert_eq!(names(&session, "select @@version_comment limit 1").await, ["@@version_comment"]);
    assert!(rows(&session, "select VERSION()").await[0].starts_with("8.4.0-sheafdb-"));
    assert_eq!(rows(&session, "select USER(), DATABASE(), connection_id()").await, ["ann@localhost|NULL|7"]);
    assert_eq!(
        rows(&session, "/* driver */ SELECT @@session.auto_increment_increment AS a, @@max_allowed_packet + 1 AS b")
            .await,
        ["1|67108865"]
    );
    rows(&session, "SET NAMES utf8mb4; SET autocommit=1, session_track_schema=1").await;
    rows(&session, "SET sql_mode=(SELECT CONCAT(@@sql_mode, ',NO_ENGINE_SUBSTITUTION')),time_zone='+00:00'").await;
    rows(&session, "/*!40101 SET SQL_NOTES=0 */").await;
    assert!(rows(&session, "select @@sql_mode").await[0].ends_with(",NO_ENGINE_SUBSTITUTION"));
    assert_eq!(rows(&session, "show variables like 'lower_case_table%'").await, ["lower_case_table_names|0"]);
    assert_eq!(
        rows(&session, "show variables where variable_name in ('autocommit', 'license') and value <> 'x'").await,
        ["autocommit|ON", "license|Apache-2.0"]
    );
    assert_eq!(rows(&session, "SELECT 1 FROM DUAL").await, ["1"]);
    assert_eq!(rows(&session, "SELECT LENGTH(REPEAT('x', 65536))").await, ["65536"]);
    assert!(rows(&session, "START TRANSACTION READ ONLY; COMMIT").await.is_empty());
    assert!(
        rows(&session, "SHOW FULL PROCESSLIST").await[0].starts_with("7|ann|localhost|NULL|Query|0|executing|SHOW")
    );
    for sql in ["show engines", "show charset", "show collation", "show plugins", "show grants for current_user()"] {
        assert!(!rows(&session, sql).await.is_empty(), "{sql}");
    }
    assert!(rows(&session, "show databases").await.contains(&"default".to_owned()));
}

#[tokio::test]
async fn variables_are_set_and_read_back() {
    let server = server().await;
    let session = server.session(1);
    assert_eq!(rows(&session, "set @a = 1 + 1, @B = concat('x', @a); select @A, @b, @c").await, ["2|x2|NULL"]);
    assert_eq!(rows(&session, "set min_distribute_bytes = 0; select @@min_distribute_bytes").await, ["0"]);
    assert_eq!(
        rows(&session, "set wait_timeout = 5; set wait_timeout = default; select @@wait_timeout").await,
        ["28800"]
    );
    rows(&session, "set global wait_timeout = 77").await;
    assert_eq!(rows(&session, "select @@wait_timeout, @@global.wait_timeout").await, ["28800|77"]);
    assert_eq!(rows(&server.session(2), "select @@wait_timeout").await, ["77"]);
    assert_eq!(fails(&session, "set no_such = 1").await.0, 1193);
    assert_eq!(fails(&session, "select @@no_such").await.0, 1193);
    assert_eq!(fails(&session, "set version = 1").await.0, 1238);
    assert_eq!(fails(&session, "set batch_size = 'many'").await.0, 1231);
    rows(&session, "set datafusion.execution.collect_statistics = false").await;
    assert_eq!(rows(&session, "select @@datafusion.execution.collect_statistics").await, ["false"]);
    assert_eq!(fails(&session, "set datafusion.catalog.default_catalog = 'x'").await.0, 1238);
    assert_eq!(fails(&session, "set datafusion.nothing = 'x'").await.0, 1193);
    rows(&session, "set innodb_anything = 1").await;
    assert_eq!((session.warning_count(), rows(&session, "show warnings").await.len()), (1, 1));
    assert_eq!(rows(&session, "select @@warning_count").await, ["1"]);
    rows(&session, "select 1").await;
    assert_eq!(session.warning_count(), 0);
}

#[tokio::test]
async fn columns_are_named_and_found_as_mysql_does_it() {
    let server = server().await;
    let session = server.session(1);
    assert_eq!(
        names(&session, "select 1+1, count( * ), Number AS `The N`, NUMBER from numbers(3) group by number").await,
        ["1+1", "count( * )", "The N", "NUMBER"]
    );
    assert_eq!(names(&session, "select *, NUMBER + 1 from numbers(1)").await, ["number", "NUMBER + 1"]);
    assert_eq!(
        rows(&session, "select Total from (select sum(number) as TOTAL from numbers(4)) T order by t.total").await,
        ["6"]
    );
    assert_eq!(rows(&session, "select 1, 1, 'a', 'a'").await, ["1|1|a|a"]);
    assert_eq!(names(&session, "select 1, 1").await, ["1", "1"]);
    assert_eq!(
        rows(&session, "select 7 div 2, 7 / 2, number, NUMBER from numbers(1) n order by n.number").await,
        ["3|3.5000|0|0"]
    );
    std::fs::write(server.folder.path().join("files/people.csv"), "UserID,name\n1,ann\n2,bob\n").unwrap();
    rows(&session, "use `default`; create external table People stored as csv location 'people.csv'").await;
    assert_eq!(
        names(&session, "select userid, PEOPLE.`USERID` from people where UserId > 1").await,
        ["userid", "USERID"]
    );
    assert_eq!(
        rows(&session, "select p.UserID from people as P join PEOPLE q using (userid) order by 1").await,
        ["1", "2"]
    );
    assert_eq!(names(&session, "select * from people").await, ["UserID", "name"]);
    assert_eq!(rows(&session, "select UserID from 'people.csv' where name = 'bob'").await, ["2"]);
    assert_eq!(rows(&session, "with C as (select userid as Id from people) select max(ID) from c").await, ["2"]);
}

#[tokio::test]
async fn tables_come_and_go() {
    let server = server().await;
    let session = server.session(1);
    assert_eq!(fails(&session, "select * from t").await, (1046, "no database selected".into()));
    assert_eq!(fails(&session, "select * from nowhere.t").await.0, 1049);
    assert_eq!(fails(&session, "use nowhere").await.0, 1049);
    rows(&session, "create database if not exists d; create database if not exists d; use D").await;
    assert_eq!(session.warning_count(), 0);
    assert_eq!(rows(&session, "select database()").await, ["d"]);
    assert_eq!(fails(&session, "select * from t").await, (1146, "table 'd.t' does not exist".into()));
    std::fs::write(server.folder.path().join("files/a.csv"), "x,y\n1,2.5\n").unwrap();
    rows(&session, "create external table t (X int not null, Y double) stored as csv location 'a.csv' options ('format.has_header' 'true')")
        .await;
    assert_eq!(rows(&session, "select * from T").await, ["1|2.5"]);
    assert_eq!(rows(&session, "show full tables").await, ["t|BASE TABLE"]);
    assert_eq!(rows(&session, "describe t").await.len(), 2);
    assert_eq!(rows(&session, "show columns from t like 'y'").await, ["Y|double|YES||NULL|"]);
    let created = rows(&session, "show create table t").await.remove(0);
    assert!(
        created.contains("\n  `X` int NOT NULL,\n  `Y` double DEFAULT NULL\n) ENGINE=CSV DEFAULT CHARSET=utf8mb4"),
        "{created}"
    );
    assert_eq!(fails(&session, "create external table t stored as csv location 'a.csv'").await.0, 1050);
    assert_eq!(fails(&session, "create external table u stored as csv location '/etc/passwd'").await.0, 1142);
    assert_eq!(fails(&session, "drop table u").await.0, 1051);
    rows(&session, "drop table if exists u").await;
    assert_eq!(session.warning_count(), 1);
    rows(&session, "drop database d").await;
    assert_eq!(session.database(), None);
}

#[tokio::test]
async fn a_division_by_zero_is_null_and_a_warning() {
    let server = server().await;
    let session = server.session(1);
    assert_eq!(rows(&session, "select 1/0, 1%0, 1.5/0, 5 div 0, mod(5, 0)").await, ["NULL|NULL|NULL|NULL|NULL"]);
    assert!(session.warning_count() >= 1);
    assert_eq!(rows(&session, "select sum(10 % number) from numbers(5)").await, ["3"]);
    assert_eq!(session.warning_count(), 1);
    assert_eq!(rows(&session, "show warnings").await, ["Warning|1365|division by 0"]);
    assert_eq!(rows(&session, "select 7 div 2, 7 / 2, -7 div 2, 7 mod 4, cast(7 as decimal(5,2)) / 2").await.len(), 1);
    let ansi = server.engine.session(SessionInit {
        connection_id: 9,
        user: "ann".into(),
        client_host: "localhost".into(),
        identity: Identity::Embedder,
        tls: None,
        database: None,
        dialect: SqlDialect::Ansi,
    });
    assert_eq!(fails(&ansi, "select 1/0").await.0, 1365);
}

#[tokio::test]
async fn errors_have_their_codes_and_the_session_goes_on() {
    let server = server().await;
    let session = server.session(1);
    for (sql, code) in [
        ("select nothing from numbers(1)", 1054),
        ("select nothing(1)", 1305),
        ("select * from nothing(1)", 1305),
        ("select 1 +", 1064),
        ("select cast(99 as decimal(38, 0)) * cast('99999999999999999999999999999999999999' as decimal(38, 0))", 1690),
        ("select number from numbers(1) group by 1 having", 1064),
        ("insert into t values (1)", 1046),
        ("kill 12345", 1094),
        ("set names klingon", 1210),
    ] {
        assert_eq!(fails(&session, sql).await.0, code, "{sql}: {}", fails(&session, sql).await.1);
        assert_eq!(rows(&session, "select 1").await, ["1"]);
    }
    assert_eq!(rows(&session, "show errors").await.len(), 0);
}

#[tokio::test]
async fn prepared_statements_tell_their_shape_and_run() {
    let server = server().await;
    let session = server.session(1);
    let prepared = session.prepare("select number, ? as A from numbers(10) where number = ? limit ?").await.unwrap();
    assert_eq!(prepared.parameters.len(), 3);
    assert_eq!(prepared.parameters[1], Some(DataType::UInt64));
    let columns = prepared.columns.as_ref().unwrap();
    assert_eq!(columns.fields().iter().map(|it| it.name().as_str()).collect::<Vec<_>>(), ["number", "A"]);
    for n in [3, 4] {
        let values = vec![ScalarValue::from("x"), ScalarValue::Int64(Some(n)), ScalarValue::Int64(Some(5))];
        let answer = session.run_prepared(&prepared, values).await.unwrap();
        assert_eq!(rows_of(answer).await.unwrap().1, [format!("{n}|x")]);
    }
    assert!(matches!(
        session.run_prepared(&prepared, vec![]).await,
        Err(QueryError::ParameterCount { expected: 3, given: 0 })
    ));
    assert!(session.prepare("set autocommit = ?").await.unwrap().columns.is_none());
    let shown = session.prepare("show databases").await.unwrap();
    assert_eq!(shown.columns.as_ref().unwrap().field(0).name(), "Database");
    assert_eq!(session.prepare("select * from none.t").await.unwrap_err().code().numbers().mysql, 1049);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_end_by_kill_and_by_deadline() {
    let server = server().await;
    let (session, other) = (server.session(1), server.session(2));
    let slow = "select count(*) from numbers(4000000000) a where sin(number) > 2";
    let running = {
        let session = Arc::clone(&session);
        tokio::spawn(async move { ask(&session, slow).await })
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !rows(&other, "show processlist").await[0].contains("Query") {
        assert!(Instant::now() < deadline, "it does not begin");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    rows(&other, "kill query 1").await;
    let error = tokio::time::timeout(Duration::from_secs(60), running).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code().numbers().mysql, 1317);
    rows(&session, "set max_execution_time = 200").await;
    assert_eq!(fails(&session, slow).await.0, 3024);
    assert_eq!(rows(&session, "select 1").await, ["1"]);
    rows(&other, "kill 1").await;
    assert!(session.killed().is_cancelled());
    session.close();
    assert_eq!(rows(&other, "show processlist").await.len(), 1);
}

#[tokio::test]
async fn mysql_functions() {
    let server = server().await;
    let session = server.session(1);
    for (sql, expected) in [
        ("select if(1 > 2, 'a', 'b'), ifnull(null, 'c'), isnull(null)", "b|c|true"),
        ("select concat('a', 1, 'b'), concat('a', null), lcase('AB'), locate('b', 'abc')", "a1b|NULL|ab|2"),
        (
            "select year('2024-03-05'), date_format('2024-03-05 10:11:12', '%Y/%m/%d %H:%i:%s')",
            "2024|2024/03/05 10:11:12",
        ),
        (
            "select date('2024-03-05 10:11:12') + interval 1 day, date_add('2024-03-05', interval 1 month)",
            "2024-03-06|2024-04-05",
        ),
        ("select group_concat(number order by number desc separator ';') from numbers(3)", "2;1;0"),
        ("select 'a' || 'b', 1 xor 1, !true, 'abc' rlike '^A'", "ab|false|false|true"),
        ("select dayofweek('2024-03-05'), weekday('2024-03-05')", "3|1"),
        ("select count(*) from (select number from numbers(5) order by number limit 1, 3) t", "3"),
        ("select null < 1, number from numbers(1) order by null", "NULL|0"),
    ] {
        assert_eq!(rows(&session, sql).await, [expected], "{sql}");
    }
    rows(&session, "set sql_mode = ''").await;
    assert_eq!(rows(&session, "select true || false").await, ["true"]);
}

#[tokio::test]
async fn nested_and_wide_statements() {
    let server = server().await;
    let session = server.session(1);
    let check = async |sql: String, expected: &str| match ask(&session, &sql).await {
        Ok((_, rows)) => assert_eq!(rows, [expected]),
        Err(error) => assert_eq!(error.code(), ErrorCode::PlanTooLarge, "{error}"),
    };
    let nested = format!("{}select 1 as a{}", "select * from (".repeat(200), ") t".repeat(200));
    check(nested, "1").await;
    let in_expression = format!("select {}1{}", "(select ".repeat(200), ")".repeat(200));
    assert_eq!(fails(&session, &in_expression).await.0, 1436);
    let ors = (0..10_000).map(|it| format!("number = {it}")).collect::<Vec<_>>().join(" or ");
    check(format!("select count(*) from numbers(100) where {ors}"), "100").await;
    let union = vec!["select 1 as a"; 1000].join(" union all ");
    check(format!("select sum(a) from ({union}) t"), "1000").await;
    let columns = (0..5000).map(|it| format!("number + {it}")).collect::<Vec<_>>().join(", ");
    assert_eq!(names(&session, &format!("select {columns} from numbers(1)")).await.len(), 5000);
}
