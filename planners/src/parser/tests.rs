//! What the parser makes of a client's text.

use datafusion::sql::sqlparser::ast::Expr;

use super::*;

const MYSQL: SqlDialect = SqlDialect::MySql { ansi_quotes: false };

fn one(sql: &str) -> StatementKind {
    let mut statements = parse(sql, MYSQL).unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(statements.len(), 1, "{sql}");
    statements.remove(0).kind
}

/// The column names of a query; `*` for a wildcard.
fn names(sql: &str) -> Vec<String> {
    let StatementKind::Query(query) = one(sql) else { panic!("{sql} is no query") };
    let name = |it: &OutputName| match it {
        OutputName::Column(name) => name.clone(),
        OutputName::Wildcard => "*".to_owned(),
    };
    query.names.iter().map(name).collect()
}

fn error(sql: &str) -> String {
    parse(sql, MYSQL).expect_err(sql).to_string()
}

#[test]
fn columns_are_named_by_their_text() {
    assert_eq!(
        names("select 1+1,  count( * ) , Foo, t.Bar, x AS `The X`, 'abc', (1)"),
        ["1+1", "count( * )", "Foo", "Bar", "The X", "abc", "(1)"]
    );
    assert_eq!(names("select @@version_comment limit 1"), ["@@version_comment"]);
    assert_eq!(names("select @@session.auto_increment_increment AS a, @@global.x"), ["a", "@@global.x"]);
    assert_eq!(names("SELECT SQL_NO_CACHE DISTINCT t.*, if(a,b,c) FROM t"), ["*", "if(a,b,c)"]);
    assert_eq!(
        names("with c as (select 2 as y) (select\n max(y) m, 'é' || 'b'\n from c) union all select 1, 2"),
        ["m", "'é' || 'b'"]
    );
    assert_eq!(names("select (select max(a) from b) from c"), ["(select max(a) from b)"]);
    assert_eq!(names("values (1)"), [""; 0]);
}

#[test]
fn equal_items_get_their_own_aliases() {
    let StatementKind::Query(query) = one("select 1, 1, a from t") else { panic!() };
    assert_eq!(query.query.to_string(), "SELECT 1, 1 AS `1 #2`, a FROM t");
    assert_eq!(query.names.len(), 3);
}

#[test]
fn texts_split_into_statements() {
    let statements = parse("select 1; -- nothing\n; /* nor here */ select ';' ;", MYSQL).unwrap();
    let texts: Vec<&str> = statements.iter().map(|it| it.text.as_ref()).collect();
    assert_eq!(texts, ["select 1", "/* nor here */ select ';'"]);
    assert!(parse(" -- only a comment", MYSQL).unwrap().is_empty());
}

#[test]
fn version_comments_are_run_and_others_are_not() {
    let StatementKind::Set(set) = one("/*!40101 SET NAMES utf8mb4 */") else { panic!() };
    assert_eq!(set[0].target, AssignmentTarget::Names { collation: None });
    assert_eq!(names("select /*! 1, */ 2"), ["1", "2"]);
    assert_eq!(names("select /*!999999 1, */ /*M!100100 3, */ 2"), ["2"]);
}

#[test]
fn strings_and_names_are_quoted_as_the_session_says() {
    assert_eq!(names(r#"select "a""#).len(), 1);
    let query = |dialect| match parse(r#"select "a", `b` from t"#, dialect).unwrap().remove(0).kind {
        StatementKind::Query(query) => query.query.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(query(SqlDialect::MySql { ansi_quotes: true }), r#"SELECT "a", `b` FROM t"#);
    let StatementKind::Query(statement) = one(r#"select "a" from t"#) else { panic!() };
    assert!(statement.query.to_string().contains(r#""a""#));
    let ansi = parse(r#"select "a" from t where b = ?"#, SqlDialect::Ansi).unwrap().remove(0);
    assert_eq!(ansi.n_parameters, 1);
}

#[test]
fn word_operators_end_where_their_rank_ends() {
    let StatementKind::Query(query) = one("select 7 div 2 + 1, 7 mod 2 = 1, mod(7, 2), a && b or c") else { panic!() };
    let datafusion::sql::sqlparser::ast::SetExpr::Select(select) = query.query.body.as_ref() else { panic!() };
    let shape = |idx: usize| match &select.projection[idx] {
        datafusion::sql::sqlparser::ast::SelectItem::UnnamedExpr(Expr::BinaryOp { op, .. }) => op.to_string(),
        other => format!("{other}"),
    };
    assert_eq!([shape(0), shape(1), shape(2), shape(3)], ["+", "=", "mod(7, 2)", "OR"]);
}

#[test]
fn parameters_are_numbered_within_their_statement() {
    let statements = parse("select ? limit ?; select ?", MYSQL).unwrap();
    assert_eq!(statements.iter().map(|it| it.n_parameters).collect::<Vec<_>>(), [2, 1]);
    assert!(matches!(&statements[0].kind, StatementKind::Query(it) if it.query.to_string() == "SELECT $1 LIMIT $2"));
}

#[test]
fn sets_of_every_kind() {
    let StatementKind::Set(set) =
        one("set autocommit=1, @@session.sql_mode = concat(@@sql_mode,',X'), global time_zone = SYSTEM, @A := 1+1, \
         names utf8mb4 collate utf8mb4_bin, datafusion.execution.batch_size = 10, character_set_results = NULL")
    else {
        panic!()
    };
    let variable = |scope, name: &str| AssignmentTarget::Variable { scope, name: name.into() };
    let targets: Vec<_> = set.iter().map(|it| it.target.clone()).collect();
    assert_eq!(
        targets,
        [
            variable(VariableScope::Default, "autocommit"),
            variable(VariableScope::Session, "sql_mode"),
            variable(VariableScope::Global, "time_zone"),
            AssignmentTarget::User("a".into()),
            AssignmentTarget::Names { collation: Some("utf8mb4_bin".into()) },
            variable(VariableScope::Default, "datafusion.execution.batch_size"),
            variable(VariableScope::Default, "character_set_results"),
        ]
    );
    assert_eq!(set[2].value.to_string(), "'SYSTEM'");
    let StatementKind::Set(set) = one("SET SESSION TRANSACTION READ ONLY, ISOLATION LEVEL READ COMMITTED") else {
        panic!()
    };
    assert_eq!(set.len(), 2);
    let StatementKind::Set(set) =
        one("SET sql_mode=(SELECT CONCAT(@@sql_mode, ',A')),time_zone='+00:00',NAMES utf8mb4")
    else {
        panic!()
    };
    assert_eq!(set.len(), 3);
}

#[test]
fn statements_of_ours() {
    assert!(matches!(
        one("create database if not exists x engine = TPCH(scale = 1, parts='a')"),
        StatementKind::CreateDatabase(CreateDatabase { if_not_exists: true, engine: Some(engine), .. })
            if engine.name == "TPCH" && engine.options == [("scale".to_owned(), "1".to_owned()), ("parts".to_owned(), "a".to_owned())]
    ));
    assert!(matches!(one("drop schema if exists x"), StatementKind::DropDatabase { if_exists: true, .. }));
    assert!(matches!(one("drop table a, b.c"), StatementKind::DropTable { names, .. } if names.len() == 2));
    assert!(matches!(
        one("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/a/*.parquet'"),
        StatementKind::CreateExternalTable(table) if table.file_type == "PARQUET"
    ));
    assert!(matches!(one("kill query 7"), StatementKind::Kill { connection_id: 7, query_only: true }));
    assert!(matches!(one("desc db.t"), StatementKind::Describe { column: None, .. }));
    assert!(matches!(
        one("start transaction with consistent snapshot"),
        StatementKind::Transaction(Transaction::Begin)
    ));
    assert!(matches!(one("start transaction read only"), StatementKind::Transaction(Transaction::Begin)));
    assert!(matches!(one("rollback"), StatementKind::Transaction(Transaction::Rollback)));
    let explained = |sql: &str| match one(sql) {
        StatementKind::Explain(explain) => (explain.analyze, explain.format),
        other => panic!("{sql}: {other:?}"),
    };
    assert_eq!(explained("explain select 1"), (false, ExplainFormat::Text));
    assert_eq!(explained("explain analyze format=json (select 1)"), (true, ExplainFormat::Json));
    assert_eq!(
        explained("explain format = 'graph' with a as (select 1) select * from a"),
        (false, ExplainFormat::Graph)
    );
    assert_eq!(explained("explain logical select 1"), (false, ExplainFormat::Logical));
}

#[test]
fn shows() {
    for sql in [
        "show databases like 'a%'",
        "show schemas",
        "show full tables from `db` like 'x'",
        "show tables in db where Tables_in_db = 'a'",
        "show full columns from t from db like '%'",
        "show fields in db.t",
        "show create table db.t",
        "show create database x",
        "show session variables where Variable_name in ('a', 'b') or Value = 1",
        "show global status like 'x'",
        "show warnings limit 1, 2",
        "show count(*) warnings",
        "show full processlist",
        "show storage engines",
        "show character set",
        "show collation where `Default` = 'Yes'",
        "show plugins",
        "show grants for current_user() using a",
        "show table status from db like 'x'",
        "show keys from t",
        "show settings",
        "show procedure status where Db = 'x'",
        "show master status",
    ] {
        assert!(matches!(one(sql), StatementKind::Show(_)), "{sql}");
    }
}

#[test]
fn errors_say_where() {
    assert_eq!(
        error("select a,\n  b from where x"),
        "syntax error: expected: the name of a table, found: where, near 'where x' at line 2, column 10"
    );
    let at_end = error("select 1 +");
    assert!(at_end.ends_with("near '' at line 1, column 11"), "{at_end}");
    let unclosed = error("select 'abc");
    assert!(unclosed.contains("at line 1, column 8"), "{unclosed}");
    assert!(error("select 1 2").contains("near '2'"));
    assert!(error("frobnicate").contains("near 'frobnicate' at line 1, column 1"));
    assert!(error("create external table t stored as parquet").contains("LOCATION"));
}

#[test]
fn deep_texts_are_read_or_refused() {
    let ors = vec!["a = 1"; 10_000].join(" or ");
    let StatementKind::Query(query) = one(&format!("select * from t where {ors}")) else { panic!() };
    // Balanced, it can be dropped and shown on an ordinary stack.
    assert_eq!(query.query.to_string().matches("a = 1").count(), 10_000);
    let nested = format!("{}select 1{}", "select * from (".repeat(200), ") t".repeat(200));
    one(&nested);
    let too_deep = format!("{}select 1{}", "select * from (".repeat(3000), ") t".repeat(3000));
    assert!(error(&too_deep).contains("nested too deeply"));
    assert!(error(&format!("select {}1{}", "(".repeat(20_000), ")".repeat(20_000))).contains("nested too deeply"));
    assert!(error(&format!("select {}", vec!["1"; 20_000].join("+"))).contains("nested too deeply"));
    one(&format!("select {}1{}", "(select ".repeat(16), ")".repeat(16)));
    assert!(error(&format!("select {}1{}", "(select ".repeat(200), ")".repeat(200))).contains("nested too deeply"));
    one(&format!("select {}1{}", "abs(".repeat(200), ")".repeat(200)));
    assert!(error(&format!("select {}1{}", "abs(".repeat(900), ")".repeat(900))).contains("nested too deeply"));
    let StatementKind::Query(query) = one(&vec!["select 1"; 1000].join(" union all ")) else { panic!() };
    on_big_stack(move || drop(query));
    let columns: Vec<String> = (0..5000).map(|it| format!("{it} as c{it}")).collect();
    assert_eq!(names(&format!("select {}", columns.join(", "))).len(), 5000);
}

#[test]
fn clusters_are_altered() {
    for sql in ["ALTER CLUSTER DRAIN NODE 'w 1'", "alter cluster drain node `w 1`", "alter cluster drain node \"w 1\";"]
    {
        let StatementKind::AlterCluster(change) = one(sql) else { panic!("{sql}") };
        assert_eq!(change, AlterCluster::DrainNode { node: "w 1".into() });
    }
    assert!(error("alter cluster explode").contains("expected: DRAIN"), "{}", error("alter cluster explode"));
    assert!(error("alter cluster drain node 7").contains("the name of a node"));
    assert!(!matches!(one("alter table t add column c int"), StatementKind::AlterCluster(_)));
}
