//! Managed tables through a session: what is written is read, and what is refused changes nothing.

use super::*;

async fn affected(session: &Arc<Session>, sql: &str) -> u64 {
    let mut last = 0;
    for statement in session.statements(sql).unwrap() {
        match session.run(statement).await.unwrap_or_else(|error| panic!("{sql}: {error}")) {
            Answer::Done { affected_rows, .. } => last = affected_rows,
            Answer::Rows(_) => panic!("{sql}: rows"),
        }
    }
    last
}

async fn session_of(server: &Server) -> Arc<Session> {
    let session = server.session(1);
    ask(&session, "USE `default`").await.unwrap();
    session
}

/// Files of data below a folder.
fn data_files(server: &Server) -> usize {
    let mut n_files = 0;
    let mut folders = vec![server.folder.path().join("tables")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => n_files += usize::from(path.extension().is_some_and(|it| it == "parquet")),
            }
        }
    }
    n_files
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_in_and_come_out() {
    let server = server().await;
    let s = &session_of(&server).await;
    ask(s, "CREATE TABLE t (id INT NOT NULL, name VARCHAR(20) DEFAULT 'none', x DOUBLE, u BIGINT UNSIGNED)")
        .await
        .unwrap();
    assert_eq!(rows(s, "SELECT count(*) FROM t").await, ["0"]);
    assert_eq!(affected(s, "INSERT INTO t VALUES (1, 'a', 1.5, 18446744073709551615), (2, DEFAULT, NULL, 0)").await, 2);
    assert_eq!(affected(s, "INSERT INTO t (ID) VALUES (3)").await, 1);
    assert_eq!(affected(s, "INSERT INTO t SET id = 4, x = 2").await, 1);
    assert_eq!(affected(s, "INSERT INTO t (x, id) SELECT number, number + 10 FROM numbers(3)").await, 3);
    let expected = ["1|a|1.5|18446744073709551615", "2|none|NULL|0", "3|none|NULL|NULL", "4|none|2.0|NULL"];
    assert_eq!(rows(s, "SELECT * FROM t WHERE id < 10 ORDER BY id").await, expected);
    assert_eq!(rows(s, "SELECT sum(x), count(*) FROM t WHERE id >= 10").await, ["3.0|3"]);
    // One line each, newest first.
    let history = rows(s, "DESCRIBE HISTORY t").await;
    assert_eq!(history.len(), 5, "{history:?}");
    assert!(history[0].starts_with("4|") && history[0].contains("|ann|WRITE|"), "{history:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_the_rows() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("files")).unwrap();
    let kept = options(folder.path());
    for round in 1..=2u64 {
        let engine = Engine::new(kept.clone()).await.unwrap();
        let server = Server { engine, folder: tempfile::tempdir().unwrap() };
        let s = &session_of(&server).await;
        if round == 1 {
            ask(s, "CREATE TABLE t AS SELECT number AS n FROM numbers(1000)").await.unwrap();
        }
        affected(s, "INSERT INTO t VALUES (5000)").await;
        assert_eq!(rows(s, "SELECT count(*) FROM t").await, [(1000 + round).to_string()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_table_cannot_hold_is_refused() {
    let server = server().await;
    let s = &session_of(&server).await;
    ask(s, "CREATE TABLE t (id INT NOT NULL, k INT, CONSTRAINT small CHECK (K < 10))").await.unwrap();
    affected(s, "INSERT INTO t VALUES (1, 1), (2, NULL)").await;
    for (sql, code) in [
        ("INSERT INTO t VALUES (NULL, 1)", 1048),
        ("INSERT INTO t (k) VALUES (1)", 1048),
        ("INSERT INTO t VALUES (1, 10)", 3819),
        ("INSERT INTO t SELECT number, number FROM numbers(11)", 3819),
        ("UPDATE t SET k = 99", 3819),
        ("UPDATE t SET id = NULL", 1048),
        ("INSERT INTO t VALUES (1)", 1136),
        ("INSERT INTO t (id, nope) VALUES (1, 1)", 1054),
        ("INSERT INTO t (id, ID) VALUES (1, 1)", 1210),
        ("INSERT INTO nothing VALUES (1)", 1146),
        ("CREATE TABLE t (a INT)", 1050),
        ("CREATE TABLE z (a TIME)", 1210),
        ("CREATE TABLE z (a INT, A INT)", 1210),
        ("CREATE TABLE z AS SELECT NULL AS a", 1210),
        ("CREATE TABLE z (a INT) PARTITIONED BY (b)", 1210),
        ("REPLACE INTO t VALUES (1, 1)", 1235),
        ("DELETE FROM t LIMIT 1", 1235),
    ] {
        let (found, text) = fails(s, sql).await;
        assert_eq!(found, code, "{sql}: {text}");
    }
    assert_eq!(rows(s, "SELECT * FROM t ORDER BY id").await, ["1|1", "2|NULL"]);
    assert!(fails(s, "SELECT * FROM z").await.0 == 1146);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_changed_and_deleted() {
    let server = server().await;
    let s = &session_of(&server).await;
    ask(s, "CREATE TABLE t AS SELECT number AS id, number % 10 AS k, concat('n', number) AS s FROM numbers(1000)")
        .await
        .unwrap();
    affected(s, "INSERT INTO t VALUES (5000, 3, 'x'), (5001, NULL, NULL)").await;
    assert_eq!(affected(s, "DELETE FROM t WHERE k = 3").await, 101);
    assert_eq!(rows(s, "SELECT count(*), sum(k) FROM t").await, ["901|4200"]);
    // MySQL counts the rows that are different afterwards.
    assert_eq!(affected(s, "UPDATE t AS x SET k = 7, s = concat(s, '!') WHERE x.id < 20 AND k IS NOT NULL").await, 18);
    assert_eq!(affected(s, "UPDATE t SET k = 7 WHERE id < 20").await, 0);
    assert_eq!(rows(s, "SELECT count(*) FROM t WHERE k = 7 AND id < 20 AND s LIKE '%!'").await, ["18"]);
    assert_eq!(
        affected(s, "DELETE FROM t WHERE id IN (SELECT id FROM t WHERE id >= 100) OR id = (SELECT min(id) FROM t)")
            .await,
        812
    );
    assert_eq!(rows(s, "SELECT count(*), min(id), max(id) FROM t").await, ["89|1|99"]);
    assert_eq!(affected(s, "UPDATE t SET s = 'seen' WHERE id IN (SELECT id + 1 FROM t WHERE id < 5) AND 1").await, 2);
    assert_eq!(rows(s, "SELECT count(*) FROM t WHERE s = 'seen'").await, ["2"]);
    assert_eq!(affected(s, "UPDATE t SET k = DEFAULT WHERE id = 1").await, 1);
    assert_eq!(rows(s, "SELECT k FROM t WHERE id = 1").await, ["NULL"]);
    assert_eq!(affected(s, "DELETE FROM t").await, 89);
    assert_eq!(rows(s, "SELECT count(*) FROM t").await, ["0"]);
    assert_eq!(affected(s, "INSERT INTO t VALUES (1, 1, 'a')").await, 1);
    affected(s, "TRUNCATE TABLE t").await;
    assert_eq!(rows(s, "SELECT count(*) FROM t").await, ["0"]);
    assert_eq!(affected(s, "INSERT OVERWRITE t SELECT 9, 9, 'z'").await, 1);
    assert_eq!(affected(s, "INSERT OVERWRITE t SELECT 8, 8, 'y'").await, 1);
    assert_eq!(rows(s, "SELECT * FROM t").await, ["8|8|y"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_folders() {
    let server = server().await;
    let s = &session_of(&server).await;
    ask(s, "CREATE TABLE t (day DATE, k VARCHAR(9), n BIGINT) PARTITIONED BY (day, k) CLUSTER BY (n)").await.unwrap();
    ask(
        s,
        "INSERT INTO t SELECT DATE_ADD('2026-01-01', INTERVAL number % 2 DAY), \
         CASE number % 3 WHEN 0 THEN 'a/b' WHEN 1 THEN '100%' END, number FROM numbers(60)",
    )
    .await
    .unwrap();
    assert_eq!(data_files(&server), 6);
    affected(s, "INSERT INTO t VALUES ('2026-01-01', 'a/b', 1000), (NULL, 'c', 1001)").await;
    let expected = ["NULL|c|1|1001", "2026-01-01|NULL|10|290", "2026-01-01|100%|10|310", "2026-01-01|a/b|11|1270"];
    let sql = "SELECT day, k, count(*), sum(n) FROM t GROUP BY day, k ORDER BY day, k LIMIT 4";
    assert_eq!(rows(s, sql).await, expected);
    assert_eq!(rows(s, "SELECT count(*) FROM t WHERE k = 'a/b' AND day > '2026-01-01'").await, ["10"]);
    assert_eq!(affected(s, "DELETE FROM t WHERE k = '100%'").await, 20);
    assert_eq!(rows(s, "SELECT count(*) FROM t WHERE k IS NULL OR k <> 'c'").await, ["41"]);
    assert_eq!(fails(s, "INSERT INTO t VALUES (NULL, '', 1)").await.0, 1210);
    // Days since 1970 to one, digits of a date to another: neither is guessed.
    let (code, message) = fails(s, "INSERT INTO t VALUES (20260101, 'a', 1)").await;
    assert!(message.contains("column 'day'"), "{code} {message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_tended() {
    let server = server().await;
    let s = &session_of(&server).await;
    ask(s, "CREATE TABLE t (id BIGINT)").await.unwrap();
    for id in 0..5 {
        affected(s, &format!("INSERT INTO t VALUES ({id})")).await;
    }
    let report = rows(s, "OPTIMIZE t").await;
    assert!(report[0].starts_with("5|1|"), "{report:?}");
    assert_eq!(rows(s, "OPTIMIZE t").await, ["0|0|0|0"]);
    assert_eq!(rows(s, "SELECT count(*), sum(id) FROM t").await, ["5|10"]);
    affected(s, "DELETE FROM t WHERE id > 2").await;
    ask(s, "RESTORE TABLE t TO VERSION AS OF 5").await.unwrap();
    assert_eq!(rows(s, "SELECT sum(id) FROM t").await, ["10"]);
    assert_eq!(fails(s, "RESTORE t TO VERSION AS OF 99").await.0, 1210);
    // Nothing is as old as the default wants; with no retention only what the newest version reads stays.
    assert_eq!(affected(s, "VACUUM t").await, 0);
    assert!(!rows(s, "VACUUM t RETAIN 0 HOURS DRY RUN").await.is_empty());
    affected(s, "VACUUM t RETAIN 0 HOURS").await;
    assert_eq!(rows(s, "SELECT sum(id), count(*) FROM t").await, ["10|5"]);
    assert_eq!(fails(s, "RESTORE t TO VERSION AS OF 6").await.0, 1210);
    ask(s, "CREATE TABLE c CLONE t").await.unwrap();
    ask(s, "CREATE TABLE l LIKE t").await.unwrap();
    affected(s, "DELETE FROM t").await;
    assert_eq!(rows(s, "SELECT (SELECT count(*) FROM c), (SELECT count(*) FROM l)").await, ["5|0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_come_go_and_change_their_names() {
    let server = server().await;
    let s = &session_of(&server).await;
    ask(s, "CREATE TABLE t (a INT, b VARCHAR(9)) COMMENT 'it''s'").await.unwrap();
    affected(s, "INSERT INTO t VALUES (1, 'x')").await;
    ask(s, "ALTER TABLE t ADD COLUMN c DOUBLE, ADD COLUMN d DATETIME").await.unwrap();
    affected(s, "INSERT INTO t VALUES (2, 'y', 1.5, '2026-01-01 12:00:00')").await;
    assert_eq!(rows(s, "SELECT a, b, c, d FROM t ORDER BY a").await, ["1|x|NULL|NULL", "2|y|1.5|2026-01-01T12:00:00"]);
    ask(s, "ALTER TABLE t ADD COLUMN e INT NOT NULL DEFAULT 7").await.unwrap();
    ask(s, "ALTER TABLE t RENAME COLUMN b TO name").await.unwrap();
    ask(s, "ALTER TABLE t DROP COLUMN c").await.unwrap();
    assert_eq!(rows(s, "SELECT a, name, e FROM t ORDER BY a").await, ["1|x|7", "2|y|7"]);
    assert_eq!(fails(s, "SELECT b FROM t").await.0, 1054);
    assert_eq!(fails(s, "ALTER TABLE t DROP COLUMN zz").await.0, 1054);
    assert_eq!(fails(s, "ALTER TABLE t ADD COLUMN A INT").await.0, 1210);
    let columns = rows(s, "SHOW COLUMNS FROM t").await;
    assert_eq!(columns.len(), 4, "{columns:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn inserts_of_many_clients_go_together() {
    let server = server().await;
    let s = &session_of(&server).await;
    ask(s, "CREATE TABLE t (id BIGINT NOT NULL)").await.unwrap();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..32u64 {
        let session = server.session(100 + client);
        clients.spawn(async move {
            ask(&session, "USE `default`").await.unwrap();
            for n in 0..10 {
                affected(&session, &format!("INSERT INTO t VALUES ({})", client * 10 + n)).await;
            }
        });
    }
    clients.join_all().await;
    assert_eq!(rows(s, "SELECT count(*), count(DISTINCT id), sum(id) FROM t").await, ["320|320|51040"]);
    let n_commits = rows(s, "DESCRIBE HISTORY t").await.len();
    assert!(n_commits < 200, "{n_commits} commits for 320 inserts");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_source_are_merged() {
    let server = server().await;
    let s = &session_of(&server).await;
    let reset = async || {
        ask(s, "CREATE OR REPLACE TABLE t (id INT NOT NULL, v VARCHAR(9) DEFAULT 'none', n INT, CONSTRAINT c CHECK (n < 100))")
            .await
            .unwrap();
        affected(s, "INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)").await;
        affected(s, "INSERT INTO t VALUES (3, 'c', 3), (4, 'd', NULL), (4, 'd', NULL)").await;
    };
    let all = async || rows(s, "SELECT id, v, n FROM t ORDER BY id, v, n").await;
    ask(s, "CREATE TABLE s AS SELECT number + 2 AS id, concat('n', number) AS v, CAST(number * 10 AS INT) AS n FROM numbers(4)")
        .await
        .unwrap();
    reset().await;
    let upsert = "MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET v = s.v, N = t.n + s.n \
                  WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, s.v)";
    assert_eq!(affected(s, upsert).await, 5);
    assert_eq!(all().await, ["1|a|1", "2|n0|2", "3|n1|13", "4|n2|NULL", "4|n2|NULL", "5|n3|NULL"]);
    // In order, the first that fits; a row that none takes stays as it is.
    reset().await;
    let sql = "MERGE INTO `default`.t AS x USING (SELECT id, n FROM s) AS y ON x.ID = y.id \
               WHEN MATCHED AND y.n = 0 THEN DELETE WHEN MATCHED AND x.id = 3 THEN UPDATE SET v = DEFAULT, n = NULL \
               WHEN NOT MATCHED BY TARGET AND y.n < 0 THEN INSERT VALUES (0, 'never', 0) \
               WHEN NOT MATCHED BY SOURCE AND x.id = 1 THEN UPDATE SET v = 'alone' \
               WHEN NOT MATCHED BY SOURCE THEN DELETE";
    assert_eq!(affected(s, sql).await, 3);
    assert_eq!(all().await, ["1|alone|1", "3|none|NULL", "4|d|NULL", "4|d|NULL"]);
    // Two rows of the source match, one of them changes: no error. Files that nothing changes stay.
    reset().await;
    let files = data_files(&server);
    let two = "MERGE INTO t USING (SELECT 1 AS id, 7 AS n UNION ALL SELECT 1, 8) AS s ON t.id = s.id";
    assert_eq!(affected(s, &format!("{two} WHEN MATCHED AND s.n = 8 THEN UPDATE SET n = s.n")).await, 1);
    assert_eq!(data_files(&server), files + 1);
    assert_eq!(all().await[..2], ["1|a|8", "2|b|2"]);
    let (code, text) = fails(s, &format!("{two} WHEN MATCHED THEN UPDATE SET n = s.n")).await;
    assert_eq!(code, 1242, "{text}");
    // Nothing in common, and no key at all.
    assert_eq!(
        affected(s, "MERGE INTO t USING s ON false WHEN NOT MATCHED THEN INSERT (id) VALUES (id + 100)").await,
        4
    );
    assert_eq!(
        affected(s, "MERGE INTO t USING s ON t.id < 100 AND s.n = 30 WHEN NOT MATCHED BY SOURCE THEN DELETE").await,
        4
    );
    assert_eq!(
        affected(s, "MERGE INTO t USING (SELECT 1 AS id WHERE false) AS s ON t.id = s.id WHEN MATCHED THEN DELETE")
            .await,
        0
    );
    assert_eq!(rows(s, "SELECT count(*) FROM t").await, ["5"]);
    assert_eq!(affected(s, "MERGE INTO t USING t AS o ON t.id = o.id AND o.id < 3 WHEN MATCHED THEN DELETE").await, 2);
    assert_eq!(all().await, ["3|c|3", "4|d|NULL", "4|d|NULL"]);
    assert_eq!(
        affected(
            s,
            "MERGE INTO t USING (SELECT 9 AS id, 'r' AS v, 9 AS n) AS r ON t.id = r.id WHEN NOT MATCHED THEN INSERT VALUES (r.id, r.v, r.n)"
        )
        .await,
        1
    );
    for (sql, code) in [
        ("MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET n = 1000", 3819),
        ("MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET id = NULL", 1048),
        ("MERGE INTO t USING s ON t.id = s.id WHEN NOT MATCHED THEN INSERT (v) VALUES ('x')", 1048),
        ("MERGE INTO t USING s ON t.id = s.id WHEN NOT MATCHED THEN INSERT (id, v) VALUES (1)", 1136),
        ("MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET nope = 1", 1054),
        ("MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET n = 1, N = 2", 1210),
        ("MERGE INTO t USING s ON id = 1 WHEN MATCHED THEN DELETE", 1052),
        ("MERGE INTO t USING s ON t.id = s.id", 1210),
        ("MERGE INTO t USING (SELECT rand() AS id) AS s ON t.id = s.id WHEN MATCHED THEN DELETE", 1210),
        ("MERGE INTO t USING s ON t.id = s.id AND t.n IN (SELECT n FROM s) WHEN MATCHED THEN DELETE", 1235),
        ("MERGE INTO nothing USING s ON true WHEN MATCHED THEN DELETE", 1146),
        ("MERGE INTO t USING nothing ON true WHEN MATCHED THEN DELETE", 1146),
    ] {
        let (found, text) = fails(s, sql).await;
        assert_eq!(found, code, "{sql}: {text}");
    }
    assert_eq!(all().await, ["3|c|3", "4|d|NULL", "4|d|NULL", "9|r|9"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_reads_the_files_that_can_match() {
    let server = server().await;
    let s = &session_of(&server).await;
    ask(s, "CREATE TABLE t (id BIGINT, v INT)").await.unwrap();
    for part in 0..3 {
        affected(s, &format!("INSERT INTO t SELECT number + {part}000, 0 FROM numbers(1000)")).await;
    }
    let sql = "MERGE INTO t USING (SELECT 1500 AS id, 1 AS v UNION ALL SELECT 1600, 2) AS s ON t.id = s.id \
               WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v)";
    // The other files can be gone: they are not opened.
    let files = rows(s, "SHOW PARTITIONS FROM t WHERE id < 1000").await;
    let paths: Vec<&str> = files.iter().map(|it| it.split('|').next().unwrap()).collect();
    assert!(!paths.is_empty());
    let aside = |path: &str| format!("{path}.aside");
    paths.iter().for_each(|it| std::fs::rename(it, aside(it)).unwrap());
    assert_eq!(affected(s, sql).await, 2);
    paths.iter().for_each(|it| std::fs::rename(aside(it), it).unwrap());
    assert_eq!(rows(s, "SELECT count(*), sum(v) FROM t").await, ["3000|3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_copied_to_files() {
    let server = server().await;
    let s = &session_of(&server).await;
    let files = server.folder.path().join("files");
    ask(s, "CREATE TABLE t AS SELECT number AS id, concat('n', number) AS s, number % 3 AS k FROM numbers(1000)")
        .await
        .unwrap();
    for (format, read) in [("PARQUET", "read_parquet"), ("CSV", "read_csv"), ("JSON", "read_json")] {
        let sql = format!("COPY (SELECT id, s AS `a b` FROM t WHERE id < 500) TO 'out/{format}/' STORED AS {format}");
        let report = rows(s, &sql).await;
        assert!(report[0].starts_with("1|500|") || report[0].contains("|500|"), "{report:?}");
        let sum = rows(s, &format!("SELECT count(*), sum(id), max(`a b`) FROM {read}('out/{format}/')")).await;
        assert_eq!(sum, ["500|124750|n99"], "{format}");
        let (code, text) = fails(s, &sql).await;
        assert!(code == 1210 && text.contains("'mode'"), "{code} {text}");
    }
    ask(s, "COPY t TO 'one.arrow'").await.unwrap();
    assert_eq!(rows(s, "SELECT count(*), sum(k) FROM 'one.arrow'").await, ["1000|999"]);
    ask(s, "COPY (SELECT * FROM t WHERE false) TO 'none.csv'").await.unwrap();
    assert_eq!(std::fs::read_to_string(files.join("none.csv")).unwrap(), "id,s,k\n");
    ask(s, "COPY (SELECT 1 AS a, NULL AS b) TO 'null.csv' OPTIONS (header false, delimiter ';', null_value '\\\\N')")
        .await
        .unwrap();
    assert_eq!(std::fs::read_to_string(files.join("null.csv")).unwrap(), "1;\\N\n");
    ask(s, "COPY t TO 'parts' STORED AS PARQUET PARTITIONED BY (k) OPTIONS (compression snappy)").await.unwrap();
    assert_eq!(
        rows(s, "SELECT k, count(*) FROM read_parquet('parts') GROUP BY k ORDER BY k").await,
        ["0|334", "1|333", "2|333"]
    );
    ask(s, "COPY t TO 'parts' STORED AS PARQUET PARTITIONED BY (k) OPTIONS (mode append)").await.unwrap();
    assert_eq!(rows(s, "SELECT count(*) FROM read_parquet('parts')").await, ["2000"]);
    ask(s, "COPY (SELECT 7 AS id, 8 AS k) TO 'parts' STORED AS PARQUET PARTITIONED BY (k) OPTIONS (mode overwrite)")
        .await
        .unwrap();
    assert_eq!(rows(s, "SELECT id, k FROM read_parquet('parts')").await, ["7|8"]);
    for (sql, code) in [
        ("COPY t TO '../out' STORED AS CSV", 1142),
        ("COPY t TO '/nowhere/out' STORED AS CSV", 1142),
        ("COPY t TO 'x*' STORED AS CSV", 1210),
        ("COPY t TO 'x'", 1210),
        ("COPY t TO 'x' STORED AS XML", 1235),
        ("COPY t TO 'x' STORED AS CSV OPTIONS (compression gzip)", 1210),
        ("COPY t TO 'x' STORED AS PARQUET OPTIONS (compression tar)", 1210),
        ("COPY t TO 'x.csv' PARTITIONED BY (k)", 1210),
        ("COPY t TO 'x' STORED AS CSV PARTITIONED BY (nope)", 1054),
        ("COPY (SELECT 1 AS a, 2 AS a) TO 'x.csv'", 1210),
        ("COPY (SELECT make_array(1) AS a) TO 'x.csv'", 1235),
        ("COPY (SELECT CAST(s AS INT) FROM t) TO 'x' STORED AS CSV", 1366),
        ("COPY nothing TO 'x.csv'", 1146),
    ] {
        let (found, text) = fails(s, sql).await;
        assert_eq!(found, code, "{sql}: {text}");
    }
    let is_staging = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("_sheaf");
    let left = |name: &str| {
        let found = files.join(name).read_dir().into_iter().flatten().flatten();
        found.filter(|it| is_staging(&it.file_name())).count()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while left("") + left("x") + left("out/CSV") > 0 {
        assert!(Instant::now() < deadline, "what was written in between is left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_loaded_once() {
    let server = server().await;
    let s = &session_of(&server).await;
    let files = server.folder.path().join("files");
    let write = |name: &str, text: &str| std::fs::write(files.join(name), text).unwrap();
    ask(s, "CREATE TABLE t (id INT NOT NULL, day DATE, x DECIMAL(9, 2) DEFAULT 7, CONSTRAINT c CHECK (id < 100))")
        .await
        .unwrap();
    write("a 1.csv", "id,day,x\n1,2026-01-01,1.5\n2,,2.25\n");
    write("b.csv", "DAY,Id\n2026-01-02,3\n");
    let report = async |sql: &str| -> Vec<String> {
        let found = rows(s, sql).await;
        let short = |row: &String| {
            let (file, rest) = row.split_once('|').unwrap();
            format!("{}|{rest}", file.rsplit('/').next().unwrap())
        };
        found.iter().map(short).collect()
    };
    assert_eq!(report("COPY INTO t FROM '*.csv'").await, ["a 1.csv|LOADED|2|0|NULL", "b.csv|LOADED|1|0|NULL"]);
    let all = async || rows(s, "SELECT id, day, x FROM t ORDER BY id").await;
    assert_eq!(all().await, ["1|2026-01-01|1.50", "2|NULL|2.25", "3|2026-01-02|7.00"]);
    write("c.csv", "id\n4\n");
    assert_eq!(
        report("COPY INTO t FROM '*.csv'").await,
        ["a 1.csv|SKIPPED|0|0|NULL", "b.csv|SKIPPED|0|0|NULL", "c.csv|LOADED|1|0|NULL"]
    );
    assert_eq!(report("COPY INTO t FROM 'b.csv' OPTIONS (force true)").await, ["b.csv|LOADED|1|0|NULL"]);
    assert_eq!(rows(s, "SELECT count(*) FROM t").await, ["5"]);
    // A restart, or another server, knows what was loaded: it stands in the table.
    affected(s, "INSERT INTO t (id) VALUES (50)").await;
    assert_eq!(report("COPY INTO t FROM 'c.csv'").await, ["c.csv|SKIPPED|0|0|NULL"]);
    // Rows that do not fit.
    write("bad.csv", "id,day\n10,2026-01-10\nx,2026-01-11\n12,never\n,2026-01-12\n500,2026-01-13\n14,\n");
    let (code, text) = fails(s, "COPY INTO t FROM 'bad.csv'").await;
    assert!(code == 1366 && text.contains("bad.csv") && text.contains("column 'id': 'x' is no INT"), "{code} {text}");
    assert_eq!(fails(s, "COPY INTO t FROM 'bad.csv' OPTIONS (on_error continue, error_limit 3)").await.0, 1210);
    assert_eq!(rows(s, "SELECT count(*) FROM t").await, ["6"]);
    let loaded = report("COPY INTO t FROM 'bad.csv' OPTIONS (on_error continue, error_limit 4)").await;
    assert_eq!(loaded, ["bad.csv|PARTIALLY_LOADED|2|4|column 'id': 'x' is no INT"]);
    assert_eq!(rows(s, "SELECT id FROM t WHERE id BETWEEN 10 AND 20 ORDER BY id").await, ["10", "14"]);
    // Files that are none.
    ask(s, "COPY (SELECT number AS id FROM numbers(5)) TO 'p/1.parquet'").await.unwrap();
    write("p/2.parquet", "not parquet at all");
    std::fs::write(files.join("p/3.parquet"), &std::fs::read(files.join("p/1.parquet")).unwrap()[..200]).unwrap();
    let (code, text) = fails(s, "COPY INTO t FROM 'p/'  FILE_FORMAT = PARQUET").await;
    assert!(code == 1017 && text.contains("p/2.parquet"), "{code} {text}");
    let found = report("COPY INTO t FROM 'p/*' FILE_FORMAT = PARQUET OPTIONS (on_error continue)").await;
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[0], "1.parquet|LOADED|5|0|NULL");
    assert!(found[1].contains("FAILED|0|0|") || found[2].contains("FAILED|0|0|"), "{found:?}");
    // By position, and columns of other types.
    write("d.csv", "60;2026-03-01\n");
    let by_position = "COPY INTO t (id, day) FROM 'd.csv' OPTIONS (header false, delimiter ';')";
    assert_eq!(report(by_position).await, ["d.csv|LOADED|1|0|NULL"]);
    write("e.json", "{\"id\": 70, \"x\": 1.25}\n{\"id\": 71, \"day\": \"2026-05-05\"}\n");
    assert_eq!(report("COPY INTO t FROM 'e.json'").await, ["e.json|LOADED|2|0|NULL"]);
    assert_eq!(
        rows(s, "SELECT id, day, x FROM t WHERE id >= 60 ORDER BY id").await,
        ["60|2026-03-01|7.00", "70|NULL|1.25", "71|2026-05-05|NULL"]
    );
    write("more.csv", "id,other\n1,2\n");
    for (sql, code) in [
        ("COPY INTO t FROM 'more.csv'", 1054),
        ("COPY INTO t (id) FROM 'more.csv'", 1136),
        ("COPY INTO t FROM 'none.csv'", 1017),
        ("COPY INTO t FROM '/etc/passwd' FILE_FORMAT = CSV", 1142),
        ("COPY INTO t FROM 'x'", 1210),
        ("COPY INTO t FROM 'more.csv' OPTIONS (nonsense 1)", 1210),
        ("COPY INTO t FROM 'b.csv' OPTIONS (error_limit 1)", 1210),
        ("COPY INTO nothing FROM 'b.csv'", 1146),
    ] {
        let (found, text) = fails(s, sql).await;
        assert_eq!(found, code, "{sql}: {text}");
    }
    assert_eq!(rows(s, "SELECT count(*) FROM t").await, ["16"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_tables_can_be_brought_back() {
    let server = server().await;
    let s = &session_of(&server).await;
    ask(s, "CREATE TABLE t AS SELECT number AS n FROM numbers(10)").await.unwrap();
    ask(s, "DROP TABLE t").await.unwrap();
    assert_eq!(fails(s, "SELECT * FROM t").await.0, 1146);
    ask(s, "CREATE TABLE t (other INT)").await.unwrap();
    assert_eq!(fails(s, "UNDROP TABLE t").await.0, 1050);
    ask(s, "DROP TABLE t").await.unwrap();
    // The last one first, then the one before.
    ask(s, "UNDROP TABLE T").await.unwrap();
    assert_eq!(rows(s, "SELECT count(other) FROM t").await, ["0"]);
    ask(s, "DROP TABLE t").await.unwrap();
    let dry = rows(s, "VACUUM DROP TABLE RETAIN 0 HOURS DRY RUN").await;
    assert_eq!(dry.len(), 2, "{dry:?}");
    assert_eq!(affected(s, "VACUUM DROP TABLE").await, 0, "nothing is as old as the retention wants");
    ask(s, "UNDROP TABLE t").await.unwrap();
    assert!(affected(s, "VACUUM DROP TABLE FROM `default` RETAIN 0 HOURS").await >= 2);
    assert_eq!(data_files(&server), 0, "the table of ten rows is gone, the other has none");
    assert_eq!(rows(s, "SELECT count(*) FROM t").await, ["0"]);
    ask(s, "DROP TABLE t").await.unwrap();
    ask(s, "CREATE DATABASE d; CREATE TABLE d.x AS SELECT 1 AS a; DROP DATABASE d").await.unwrap();
    assert_eq!(fails(s, "UNDROP TABLE d.x").await.0, 1049);
    ask(s, "CREATE DATABASE d; UNDROP TABLE d.x").await.unwrap();
    assert_eq!(rows(s, "SELECT a FROM d.x").await, ["1"]);
    assert_eq!(fails(s, "UNDROP TABLE d.y").await.0, 1146);
    ask(s, "CREATE OR REPLACE TABLE d.x AS SELECT 2 AS a").await.unwrap();
    assert_eq!(rows(s, "VACUUM DROP TABLE FROM d RETAIN 0 HOURS DRY RUN").await.len(), 1, "what was replaced");
    assert_eq!(rows(s, "SELECT a FROM d.x").await, ["2"]);
}
