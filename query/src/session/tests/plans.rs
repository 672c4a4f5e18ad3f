//! Kept plans: a statement that is run again gives what it would give if it were planned anew.

use super::super::quick;
use super::*;

fn is_kept(session: &Session, sql: &str, values: &[ScalarValue]) -> bool {
    session.kept_plan(sql, values).is_some()
}

/// Whether the next run reads rows that are in memory.
fn is_quick(session: &Session, sql: &str, values: &[ScalarValue]) -> bool {
    let kept = session.kept_plan(sql, values);
    kept.is_some_and(|(kept, _)| matches!(&*kept.quick.lock(), quick::Slot::Ready(_)))
}

async fn session_of(server: &Server) -> Arc<Session> {
    let session = server.session(1);
    ask(
        &session,
        "USE `default`; CREATE TABLE t (id BIGINT, name VARCHAR(20)); INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    )
    .await
    .unwrap();
    session
}

async fn executed(session: &Arc<Session>, prepared: &Prepared, values: Vec<ScalarValue>) -> Vec<String> {
    rows_of(session.run_prepared(prepared, values).await.unwrap()).await.unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_see_what_was_written_and_defined_since() {
    let server = server().await;
    let s = &session_of(&server).await;
    let sql = "SELECT count(*), max(name) FROM t";
    assert_eq!(rows(s, sql).await, ["2|b"]);
    assert!(is_kept(s, sql, &[]));
    rows(s, "INSERT INTO t VALUES (3, 'c')").await;
    assert_eq!(rows(s, sql).await, ["3|c"]);
    rows(s, "DELETE FROM t WHERE id > 1").await;
    assert_eq!(rows(s, sql).await, ["1|a"]);
    let all = "SELECT * FROM t";
    assert_eq!((rows(s, all).await, rows(s, all).await), (vec!["1|a".to_owned()], vec!["1|a".to_owned()]));
    rows(s, "ALTER TABLE t ADD COLUMN more INT").await;
    assert_eq!(rows(s, all).await, ["1|a|NULL"]);
    rows(s, "DROP TABLE t; CREATE TABLE t (id VARCHAR(3), name BIGINT); INSERT INTO t VALUES ('x', 7)").await;
    assert_eq!((rows(s, sql).await, rows(s, all).await), (vec!["1|7".to_owned()], vec!["x|7".to_owned()]));
    rows(s, "DROP TABLE t").await;
    assert_eq!(fails(s, sql).await.0, 1146);
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_hold_only_for_their_session_as_it_was() {
    let server = server().await;
    let s = &session_of(&server).await;
    rows(s, "CREATE DATABASE d; CREATE TABLE d.t (id BIGINT, name VARCHAR(20)); INSERT INTO d.t VALUES (9, 'z')").await;
    let sql = "SELECT name FROM t ORDER BY name DESC";
    assert_eq!((rows(s, sql).await, rows(s, sql).await.len()), (vec!["b".to_owned(), "a".to_owned()], 2));
    rows(s, "USE d").await;
    assert_eq!(rows(s, sql).await, ["z"]);
    rows(s, "USE `default`; SET sql_select_limit = 1").await;
    assert_eq!(rows(s, sql).await, ["b"]);
    rows(s, "SET sql_select_limit = DEFAULT").await;
    assert_eq!(rows(s, sql).await.len(), 2);
    let joined = "SELECT 'a' || 'b'";
    assert_eq!((rows(s, joined).await, rows(s, joined).await), (vec!["ab".to_owned()], vec!["ab".to_owned()]));
    rows(s, "SET sql_mode = ''").await;
    assert_ne!(rows(s, joined).await, ["ab"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_asks_the_session_the_clock_or_chance_is_not_kept() {
    let server = server().await;
    let s = &session_of(&server).await;
    for sql in [
        "SELECT @a",
        "SELECT @@time_zone",
        "SELECT database()",
        "SELECT now(6)",
        "SELECT rand()",
        "SELECT uuid()",
        "SELECT id FROM t WHERE id = @a",
        "SELECT id FROM t WHERE id < row_count()",
        "SELECT * FROM numbers(3)",
        "SELECT name FROM system.nodes",
        "SELECT 1 / 0",
    ] {
        rows(s, sql).await;
        assert!(!is_kept(s, sql, &[]), "{sql}");
    }
    for value in [1, 2] {
        rows(s, &format!("SET @a = {value}")).await;
        assert_eq!(rows(s, "SELECT id FROM t WHERE id = @a").await, [value.to_string()]);
    }
    for _ in 0..3 {
        rows(s, "SELECT 1 / 0").await;
        assert_eq!(s.warning_count(), 1);
    }
    let divided = "SELECT id / (id - 1) FROM t";
    for _ in 0..3 {
        rows(s, divided).await;
        assert_eq!(s.warning_count(), 1, "counted as it is run");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_take_the_places_of_their_marks() {
    let server = server().await;
    let s = &session_of(&server).await;
    let sql = "SELECT name, id + ? FROM t WHERE id = ?";
    let prepared = s.prepare(sql).await.unwrap();
    for _ in 0..2 {
        for (id, expected) in [(1i64, "a|11"), (2, "b|12")] {
            let values = vec![ScalarValue::from(10i64), ScalarValue::from(id)];
            assert_eq!(executed(s, &prepared, values).await, [expected]);
        }
        assert!(executed(s, &prepared, vec![ScalarValue::from(10i64), ScalarValue::Null]).await.is_empty());
        // A text means another comparison.
        let values = vec![ScalarValue::from(10i64), ScalarValue::from("2")];
        assert_eq!(executed(s, &prepared, values).await, ["b|12"]);
    }
    let by_key = s.prepare("SELECT name FROM t WHERE id = ?").await.unwrap();
    assert_eq!(executed(s, &by_key, vec![ScalarValue::from(1i64)]).await, ["a"]);
    assert!(is_kept(s, by_key.text(), &[ScalarValue::from(2i64)]));
    rows(s, "INSERT INTO t VALUES (3, 'c')").await;
    assert_eq!(executed(s, &by_key, vec![ScalarValue::from(3i64)]).await, ["c"]);
    let limited = s.prepare("SELECT id FROM t ORDER BY id LIMIT ?").await.unwrap();
    for n in [1usize, 3, 2] {
        assert_eq!(executed(s, &limited, vec![ScalarValue::from(n as i64)]).await.len(), n);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_is_gone() {
    let (server, root) = Server::with_accounts().await;
    let reader = server.session_as(2, "reader");
    let sql = "SELECT count(*) FROM tp.nation";
    assert_eq!((rows(&reader, sql).await, rows(&reader, sql).await), (vec!["25".to_owned()], vec!["25".to_owned()]));
    assert!(is_kept(&reader, sql, &[]));
    rows(&root, "REVOKE SELECT ON tp.* FROM reader").await;
    assert_eq!(fails(&reader, sql).await.0, 1142);
    rows(&root, "GRANT SELECT ON tp.* TO reader").await;
    assert_eq!(rows(&reader, sql).await, ["25"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_small_tables_are_found_in_memory() {
    let server = server().await;
    let s = &session_of(&server).await;
    let sql = "SELECT name, id * ? AS n FROM t WHERE id = ? LIMIT 5";
    let prepared = s.prepare(sql).await.unwrap();
    let values = |n: i64, id: i64| vec![ScalarValue::from(n), ScalarValue::from(id)];
    for n in 1..=3 {
        assert_eq!(executed(s, &prepared, values(n, 2)).await, [format!("b|{}", 2 * n)]);
    }
    assert!(is_quick(s, sql, &values(1, 1)));
    for (n, id, expected) in [(5, 1, &["a|5"][..]), (7, 2, &["b|14"]), (7, 3, &[])] {
        assert_eq!(executed(s, &prepared, values(n, id)).await, expected);
    }
    let mut held = vec![];
    for id in [1, 2] {
        held.push(s.run_prepared(&prepared, values(10, id)).await.unwrap());
    }
    let mut read = vec![];
    for answer in held {
        read.extend(rows_of(answer).await.unwrap().1);
    }
    assert_eq!(read, ["a|10", "b|20"], "two runs at once have values of their own");

    rows(s, "INSERT INTO t VALUES (3, 'c')").await;
    assert_eq!(executed(s, &prepared, values(1, 3)).await, ["c|3"], "what was written since is seen");
    rows(s, "UPDATE t SET name = 'd' WHERE id = 3").await;
    for _ in 0..4 {
        assert_eq!(executed(s, &prepared, values(1, 3)).await, ["d|3"]);
    }
    assert!(is_quick(s, sql, &values(1, 1)));
    let other = server.session(2);
    rows(&other, "DELETE FROM `default`.t WHERE id = 3").await;
    assert!(executed(s, &prepared, values(1, 3)).await.is_empty());
    rows(&other, "DROP TABLE `default`.t; CREATE TABLE `default`.t (id BIGINT, name VARCHAR(20))").await;
    assert!(executed(s, &prepared, values(1, 1)).await.is_empty());

    s.rest();
    assert!(!is_kept(s, sql, &values(1, 1)), "who idles keeps nothing");
    assert!(executed(s, &prepared, values(1, 1)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_in_memory_warn_and_tell_of_themselves_at_each_run() {
    let server = server().await;
    let s = &session_of(&server).await;
    let constant = "SELECT 1 AS one, 'x' AS x";
    let divided = "SELECT 6 DIV (id - 1) AS q FROM t ORDER BY 1";
    let unordered = "SELECT 6 DIV (id - 1) AS q FROM t WHERE id > 0";
    for _ in 0..4 {
        assert_eq!(rows(s, constant).await, ["1|x"]);
        rows(s, unordered).await;
        assert_eq!(s.warning_count(), 1);
        assert_eq!(rows(s, "SELECT found_rows(), row_count()").await, ["2|-1"]);
        rows(s, divided).await;
    }
    assert!(is_quick(s, constant, &[]) && is_quick(s, unordered, &[]));
    assert!(!is_quick(s, divided, &[]), "what gathers rows waits to be let in");
    let of_constant =
        server.engine.log().entries().into_iter().filter(|it| it.statement == constant).collect::<Vec<_>>();
    assert!(of_constant.len() == 4 && of_constant.iter().all(|it| it.rows == 1 && it.error.is_none()));
    rows(s, "SET min_distribute_bytes = 0").await;
    for _ in 0..3 {
        assert_eq!(rows(s, constant).await, ["1|x"]);
    }
    assert!(!is_quick(s, constant, &[]), "everything is to be distributed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cast_cuts_off_is_warned_of() {
    let server = server().await;
    let s = &session_of(&server).await;
    for (expression, expected) in [
        ("CAST('12x' AS SIGNED)", Some("Truncated incorrect INTEGER value: '12x'")),
        ("CAST('' AS UNSIGNED)", Some("Truncated incorrect INTEGER value: ''")),
        ("CAST('12.5' AS SIGNED)", Some("Truncated incorrect INTEGER value: '12.5'")),
        ("CAST('abc' AS DECIMAL(10, 2))", Some("Truncated incorrect DECIMAL value: 'abc'")),
        ("CAST('1e3x' AS DOUBLE)", Some("Truncated incorrect DOUBLE value: '1e3x'")),
        ("CAST('abc' AS DATE)", Some("Incorrect datetime value: 'abc'")),
        ("CONVERT('2024-13-01', DATETIME)", Some("Incorrect datetime value: '2024-13-01'")),
        ("CAST('abc' AS TIME)", Some("Truncated incorrect time value: 'abc'")),
        ("CAST(' -12 ' AS SIGNED)", None),
        ("CAST('1.5e3' AS DOUBLE)", None),
        ("CAST('2024-02-29 10:11' AS DATETIME)", None),
        ("CAST(NULL AS SIGNED)", None),
        ("CAST(12.5 AS SIGNED)", None),
    ] {
        for _ in 0..2 {
            rows(s, &format!("SELECT {expression}")).await;
            assert_eq!(s.warning_count(), u16::from(expected.is_some()), "{expression}");
            let warnings = rows(s, "SHOW WARNINGS").await;
            let expected: Vec<String> = expected.iter().map(|it| format!("Warning|1292|{it}")).collect();
            assert_eq!(warnings, expected, "{expression}");
        }
    }
    let many =
        "SELECT count(*) FROM (SELECT CAST(concat(number, 'x') AS SIGNED) AS n FROM numbers(100)) AS t WHERE n >= 0";
    assert_eq!(rows(s, many).await, ["100"]);
    assert_eq!(s.warning_count(), 100);
    assert_eq!(rows(s, "SHOW WARNINGS").await.len(), 64);
}
