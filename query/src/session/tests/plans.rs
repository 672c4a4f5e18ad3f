//! Kept plans: a statement that is run again gives what it would give if it were planned anew.

use super::*;

fn is_kept(session: &Session, sql: &str, values: &[ScalarValue]) -> bool {
    session.kept_plan(sql, values).is_some()
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
