//! What accounts may do, by every way to a table, and what they are told.

use super::*;
use crate::access::Access;

impl Server {
    /// A session of an account that is there, as if its user had logged in from this machine.
    pub(super) fn session_as(&self, connection_id: u64, user: &str) -> Arc<Session> {
        let accounts = self.engine.access().accounts();
        let account = accounts.of_login(user, std::net::Ipv4Addr::LOCALHOST.into());
        let account = account.unwrap_or_else(|| panic!("no account for {user}")).0.clone();
        self.engine.session(SessionInit {
            connection_id,
            user: user.into(),
            client_host: "127.0.0.1".into(),
            identity: Identity::Account(account),
            tls: None,
            database: None,
            dialect: SqlDialect::MySql { ansi_quotes: false },
        })
    }

    /// Two databases of generated tables, an external table, and accounts of all kinds.
    pub(super) async fn with_accounts() -> (Self, Arc<Session>) {
        let server = server().await;
        std::fs::write(server.folder.path().join("files/t.csv"), "a,b\n1,x\n2,y\n").unwrap();
        let root = server.session_as(1, "root");
        for sql in [
            "CREATE DATABASE tp ENGINE = TPCH(scale = 0.001)",
            "CREATE DATABASE other",
            "CREATE EXTERNAL TABLE `default`.t STORED AS CSV LOCATION 't.csv' OPTIONS ('format.has_header' 'true')",
            "CREATE USER reader, writer@localhost, columns, nobody, manager, killer",
            "GRANT SELECT ON tp.* TO reader",
            "GRANT CREATE, DROP, FILE ON *.* TO writer@localhost",
            "GRANT SELECT (n_name, n_nationkey) ON tp.nation TO columns",
            "GRANT CREATE USER ON *.* TO manager",
            "GRANT CONNECTION_ADMIN ON *.* TO killer",
            "CREATE ROLE r, s",
            "GRANT SELECT ON `default`.t TO r",
            "GRANT r TO s",
        ] {
            rows(&root, sql).await;
        }
        (server, root)
    }
}

#[tokio::test]
async fn every_way_to_a_table_asks_for_the_right() {
    let (server, _root) = Server::with_accounts().await;
    for (user, sql, code) in [
        ("reader", "SELECT count(*) FROM tp.nation", 0),
        ("reader", "EXPLAIN SELECT count(*) FROM tp.nation", 0),
        ("reader", "DESCRIBE tp.nation", 0),
        ("reader", "SHOW CREATE TABLE tp.nation", 0),
        ("reader", "USE tp", 0),
        ("reader", "SELECT * FROM information_schema.tables", 0),
        ("reader", "SELECT * FROM system.one", 0),
        ("reader", "SELECT sum(number) FROM numbers(3)", 0),
        ("reader", "WITH t AS (SELECT 1 AS a) SELECT a FROM t", 0),
        ("reader", "SELECT count(*) FROM `default`.t", 1142),
        ("reader", "SELECT 1 FROM tp.nation WHERE EXISTS (SELECT 1 FROM `default`.t)", 1142),
        ("reader", "SELECT (SELECT max(a) FROM `default`.t)", 1142),
        ("reader", "WITH c AS (SELECT * FROM `default`.t) SELECT 1", 1142),
        ("reader", "EXPLAIN SELECT count(*) FROM `default`.t", 1142),
        ("reader", "EXPLAIN ANALYZE SELECT count(*) FROM `default`.t", 1142),
        ("reader", "TABLE `default`.t", 1142),
        ("reader", "SET @x = (SELECT max(a) FROM `default`.t)", 1142),
        ("reader", "DESCRIBE `default`.t", 1142),
        ("reader", "SHOW COLUMNS FROM t FROM `default`", 1142),
        ("reader", "SHOW INDEX FROM `default`.t", 1142),
        ("reader", "SHOW CREATE TABLE `default`.t", 1142),
        ("reader", "SHOW TABLES FROM other", 1044),
        ("reader", "SHOW CREATE DATABASE other", 1044),
        ("reader", "USE other", 1044),
        ("reader", "USE missing", 1044),
        // Whether it is there is not told either.
        ("reader", "SELECT * FROM `default`.missing", 1142),
        ("reader", "SELECT * FROM missing.t", 1044),
        ("reader", "SELECT * FROM tp.missing", 1146),
        ("reader", "SELECT * FROM 't.csv'", 1227),
        ("reader", "SELECT * FROM 'missing.csv'", 1227),
        ("reader", "SELECT * FROM read_csv('t.csv')", 1227),
        ("reader", "CREATE DATABASE x", 1044),
        ("reader", "DROP DATABASE tp", 1044),
        ("reader", "DROP TABLE `default`.t", 1142),
        ("reader", "CREATE EXTERNAL TABLE `default`.u STORED AS CSV LOCATION 't.csv'", 1142),
        ("reader", "SET GLOBAL max_execution_time = 5", 1227),
        ("reader", "SET max_execution_time = 50000", 0),
        ("reader", "FLUSH PRIVILEGES", 1227),
        ("reader", "CREATE USER x", 1227),
        ("reader", "DROP USER nobody", 1227),
        ("reader", "RENAME USER nobody TO x", 1227),
        ("reader", "ALTER USER nobody IDENTIFIED BY 'x'", 1227),
        ("reader", "SET PASSWORD FOR nobody = 'x'", 1227),
        ("reader", "CREATE ROLE x", 1227),
        ("reader", "GRANT r TO reader", 1227),
        ("reader", "GRANT SELECT ON tp.* TO nobody", 1044),
        ("reader", "GRANT SELECT ON tp.nation TO nobody", 1142),
        ("reader", "GRANT SELECT ON *.* TO nobody", 1045),
        ("reader", "SHOW GRANTS FOR root@localhost", 1044),
        ("reader", "SHOW GRANTS", 0),
        ("reader", "SHOW CREATE USER root@localhost", 1044),
        ("reader", "SHOW CREATE USER CURRENT_USER()", 0),
        ("reader", "SET ROLE r", 3530),
        ("reader", "SET PASSWORD = 'mine'", 0),
        ("reader", "ALTER USER USER() IDENTIFIED BY 'mine'", 0),
        ("reader", "ALTER USER USER() ACCOUNT LOCK", 1227),
        ("writer", "CREATE DATABASE x", 0),
        ("writer", "DROP DATABASE x", 0),
        ("writer", "SELECT count(*) FROM 't.csv'", 0),
        ("writer", "SELECT count(*) FROM `default`.t", 1142),
        ("columns", "SELECT n_name FROM tp.nation", 0),
        ("columns", "SELECT N_NAME FROM tp.nation AS n WHERE n.n_nationkey = 1", 0),
        ("columns", "SELECT count(*) FROM tp.nation", 0),
        ("columns", "SELECT a.n_name FROM tp.nation a JOIN tp.nation b USING (n_nationkey)", 0),
        ("columns", "SELECT * FROM tp.nation", 1143),
        ("columns", "SELECT n_comment FROM tp.nation", 1143),
        ("columns", "SELECT n_name FROM tp.nation WHERE n_regionkey = 1", 1143),
        ("columns", "SELECT n_name FROM tp.nation ORDER BY n_comment", 1143),
        ("columns", "SELECT n_name FROM tp.nation GROUP BY n_name HAVING max(n_comment) > 'a'", 1143),
        ("columns", "SELECT x.n_name FROM (SELECT * FROM tp.nation) x", 1143),
        ("columns", "SELECT (SELECT max(n_comment) FROM tp.nation)", 1143),
        (
            "columns",
            "SELECT 1 FROM tp.nation a WHERE EXISTS (SELECT 1 FROM numbers(3) WHERE a.n_regionkey = number)",
            1143,
        ),
        ("columns", "SELECT 1 FROM tp.nation JOIN tp.nation b USING (n_regionkey)", 1143),
        ("columns", "EXPLAIN SELECT n_comment FROM tp.nation", 1143),
        ("columns", "SELECT r_name FROM tp.region", 1142),
        ("columns", "SHOW CREATE TABLE tp.nation", 1142),
        ("nobody", "SELECT 1", 0),
        ("nobody", "SHOW VARIABLES LIKE 'version'", 0),
        ("nobody", "SELECT * FROM tp.nation", 1142),
    ] {
        let session = server.session_as(2, user);
        let said = match ask(&session, sql).await {
            Ok(_) => 0,
            Err(error) => error.code().numbers().mysql,
        };
        assert_eq!(said, code, "{user}: {sql}");
    }
    let nobody = server.session_as(2, "nobody");
    let (_, message) = fails(&nobody, "SELECT * FROM tp.nation").await;
    assert_eq!(message, "SELECT command denied to user 'nobody'@'127.0.0.1' for table 'nation'");
    let columns = server.session_as(2, "columns");
    let (_, message) = fails(&columns, "SELECT n_comment FROM tp.nation").await;
    assert_eq!(message, "SELECT command denied to user 'columns'@'127.0.0.1' for column 'n_comment' in table 'nation'");
}

#[tokio::test]
async fn a_prepared_statement_asks_each_time() {
    let (server, root) = Server::with_accounts().await;
    let session = server.session_as(2, "reader");
    let prepared = session.prepare("SELECT count(*) FROM tp.nation WHERE n_nationkey < ?").await.unwrap();
    let run = async || match session.run_prepared(&prepared, vec![ScalarValue::Int64(Some(9))]).await {
        Ok(answer) => rows_of(answer).await.map(|it| it.1),
        Err(error) => Err(error),
    };
    assert_eq!(run().await.unwrap(), ["9"]);
    rows(&root, "REVOKE SELECT ON tp.* FROM reader").await;
    assert_eq!(run().await.unwrap_err().code().numbers().mysql, 1142);
    let error = session.prepare("SELECT 1 FROM tp.nation").await.unwrap_err();
    assert_eq!(error.code().numbers().mysql, 1142);
    rows(&root, "GRANT SELECT ON tp.* TO reader").await;
    assert_eq!(run().await.unwrap(), ["9"]);
    // A user who is gone may nothing, also in a session that lasts.
    rows(&root, "DROP USER reader").await;
    assert_eq!(run().await.unwrap_err().code().numbers().mysql, 1142);
}

#[tokio::test]
async fn lists_show_what_one_may_see() {
    let (server, root) = Server::with_accounts().await;
    let reader = server.session_as(2, "reader");
    assert_eq!(rows(&reader, "SHOW DATABASES").await, ["information_schema", "system", "tp"]);
    let schemata = "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA ORDER BY 1";
    assert_eq!(rows(&reader, schemata).await, ["information_schema", "system", "tp"]);
    let tables = "SELECT count(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'default'";
    assert_eq!(rows(&reader, tables).await, ["0"]);
    assert_eq!(rows(&reader, "SELECT count(*) FROM system.tables WHERE database = 'tp'").await, ["8"]);
    assert_eq!(rows(&reader, "SHOW PROCESSLIST").await.len(), 1, "its own session");
    assert_eq!(rows(&reader, "SELECT `user` FROM system.processes").await, ["reader"]);
    let own = "SELECT GRANTEE, TABLE_SCHEMA, PRIVILEGE_TYPE, IS_GRANTABLE FROM information_schema.SCHEMA_PRIVILEGES";
    assert_eq!(rows(&reader, own).await, ["'reader'@'%'|tp|SELECT|NO"]);
    let users = "SELECT DISTINCT GRANTEE FROM information_schema.USER_PRIVILEGES";
    assert_eq!(rows(&reader, users).await, ["'reader'@'%'"]);
    assert!(rows(&root, users).await.len() > 5);
    let columns = server.session_as(3, "columns");
    let granted = "SELECT COLUMN_NAME, PRIVILEGE_TYPE FROM information_schema.COLUMN_PRIVILEGES ORDER BY 1";
    assert_eq!(rows(&columns, granted).await, ["n_name|SELECT", "n_nationkey|SELECT"]);
    let described: Vec<String> = rows(&columns, "SHOW COLUMNS FROM tp.nation").await;
    assert_eq!(described.len(), 2, "{described:?}");
    let seen = "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = 'tp' ORDER BY 1";
    assert_eq!(rows(&columns, seen).await, ["n_name", "n_nationkey"]);
    assert_eq!(rows(&columns, "SHOW TABLES FROM tp").await, ["nation"]);
}

#[tokio::test]
async fn roles_are_on_when_they_are_set() {
    let (server, root) = Server::with_accounts().await;
    rows(&root, "GRANT s TO nobody").await;
    let session = server.session_as(2, "nobody");
    let count = "SELECT count(*) FROM `default`.t";
    assert_eq!(fails(&session, count).await.0, 1142);
    assert_eq!(rows(&session, "SELECT CURRENT_ROLE(), CURRENT_USER()").await, ["NONE|nobody@%"]);
    rows(&session, "SET ROLE ALL").await;
    assert_eq!(rows(&session, count).await, ["2"]);
    assert_eq!(rows(&session, "SELECT CURRENT_ROLE()").await, ["`s`@`%`"]);
    assert_eq!(
        rows(&session, "SHOW GRANTS").await,
        [
            "GRANT USAGE ON *.* TO `nobody`@`%`",
            "GRANT SELECT ON `default`.`t` TO `nobody`@`%`",
            "GRANT `s`@`%` TO `nobody`@`%`"
        ]
    );
    rows(&session, "SET ROLE NONE").await;
    assert_eq!(fails(&session, count).await.0, 1142);
    rows(&root, "SET DEFAULT ROLE s TO nobody").await;
    let next = server.session_as(3, "nobody");
    assert_eq!(rows(&next, count).await, ["2"]);
    rows(&root, "REVOKE r FROM s").await;
    assert_eq!(fails(&next, count).await.0, 1142);
    assert_eq!(fails(&root, "GRANT s TO r; GRANT r TO s").await.0, 4027);
}

#[tokio::test]
async fn nobody_gives_what_he_has_not_got() {
    let (server, root) = Server::with_accounts().await;
    rows(&root, "GRANT SELECT, INSERT ON tp.* TO reader WITH GRANT OPTION").await;
    let reader = server.session_as(2, "reader");
    rows(&reader, "GRANT SELECT ON tp.nation TO nobody").await;
    assert_eq!(rows(&server.session_as(3, "nobody"), "SELECT count(*) FROM tp.nation").await, ["25"]);
    for (sql, code) in [
        ("GRANT UPDATE ON tp.* TO nobody", 1044),
        ("GRANT ALL ON tp.* TO nobody", 1044),
        ("GRANT SELECT ON `%`.* TO nobody", 1044),
        ("GRANT SELECT ON `default`.t TO nobody", 1142),
        ("REVOKE SELECT ON *.* FROM root@localhost", 1045),
    ] {
        assert_eq!(fails(&reader, sql).await.0, code, "{sql}");
    }
    for (sql, code) in [
        ("GRANT SELECT ON tp.* TO stranger", 1410),
        ("GRANT PROCESS ON tp.* TO nobody", 1221),
        ("GRANT PROCESS ON tp.nation TO nobody", 1144),
        ("GRANT DELETE (a) ON tp.nation TO nobody", 1221),
        ("GRANT SELECT (missing) ON tp.nation TO nobody", 1054),
        ("GRANT SELECT ON tp.missing TO nobody", 1146),
        ("GRANT FLY ON *.* TO nobody", 1235),
        ("REVOKE SELECT ON other.* FROM nobody", 1141),
        ("REVOKE SELECT ON tp.region FROM nobody", 1147),
        ("REVOKE SELECT ON tp.* FROM stranger", 1141),
        ("GRANT stranger TO nobody", 3523),
        ("CREATE USER nobody", 1396),
        ("DROP USER stranger", 1396),
        ("CREATE USER x IDENTIFIED WITH sha256_password BY 'x'", 1524),
        ("CREATE USER x IDENTIFIED WITH mysql_native_password AS 'x'", 1827),
        ("ALTER USER nobody IDENTIFIED BY 'x' REPLACE 'y'", 3891),
    ] {
        assert_eq!(fails(&root, sql).await.0, code, "{sql}");
    }
    rows(&root, "CREATE USER IF NOT EXISTS nobody; ").await;
    assert_eq!(rows(&root, "CREATE USER IF NOT EXISTS nobody; SHOW WARNINGS").await[0].split('|').nth(1), Some("3163"));
    rows(&root, "REVOKE IF EXISTS SELECT ON other.* FROM nobody; DROP USER IF EXISTS stranger").await;
    rows(&root, "REVOKE ALL PRIVILEGES, GRANT OPTION FROM reader").await;
    assert_eq!(rows(&root, "SHOW GRANTS FOR reader").await, ["GRANT USAGE ON *.* TO `reader`@`%`"]);
}

#[tokio::test]
async fn who_manages_accounts_does_not_become_root() {
    let (server, root) = Server::with_accounts().await;
    let manager = server.session_as(2, "manager");
    rows(&manager, "CREATE USER fresh IDENTIFIED BY 'x'; ALTER USER nobody ACCOUNT LOCK; DROP USER fresh").await;
    for sql in [
        "ALTER USER root@localhost IDENTIFIED BY 'mine'",
        "SET PASSWORD FOR root@localhost = 'mine'",
        "DROP USER root@localhost",
        "RENAME USER root@localhost TO fallen",
    ] {
        assert_eq!(fails(&manager, sql).await.0, 1227, "{sql}");
    }
    assert_eq!(fails(&manager, "GRANT SELECT ON *.* TO manager").await.0, 1045);
    // The same for connections.
    let killer = server.session_as(3, "killer");
    assert_eq!(fails(&killer, "KILL 1").await.0, 1227);
    assert_eq!(fails(&server.session_as(4, "nobody"), "KILL 2").await.0, 1095);
    assert!(!manager.killed().is_cancelled());
    rows(&killer, "KILL 2").await;
    assert!(manager.killed().is_cancelled() && !root.killed().is_cancelled());
}

#[tokio::test]
async fn passwords_show_nowhere() {
    let (server, root) = Server::with_accounts().await;
    rows(&root, "CREATE USER p IDENTIFIED BY 'hush hush'").await;
    let told = rows(&root, "SHOW CREATE USER p").await;
    assert!(told[0].starts_with("CREATE USER `p`@`%` IDENTIFIED WITH 'caching_sha2_password' AS '*"), "{told:?}");
    let own = rows(&server.session_as(2, "p"), "SHOW CREATE USER p").await;
    assert!(own[0].contains(" AS <secret> "), "{own:?}");
    let kept = server.engine.definitions().local();
    assert!(kept.objects().all(|(_, record)| !record.definition.contains("hush")));
    let statements = root.statements("SET PASSWORD FOR p = 'hush hush'").unwrap();
    assert_eq!(statements[0].text.as_ref(), "SET PASSWORD FOR p = <secret>");
}

#[tokio::test]
async fn a_root_without_a_password_gets_the_first_one_that_is_given() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("files")).unwrap();
    let options = options(folder.path());
    let engine = Engine::new(options.clone()).await.unwrap();
    let (access, root) = (engine.access(), AccountName::new("root", "localhost"));
    assert!(access.begin(None, TIMEOUT).await.unwrap() && access.has_open_root(), "root has no password");
    assert!(!access.begin(Some("first"), TIMEOUT).await.unwrap());
    let verifier = |access: &Access| access.accounts().get(&root).map(|it| it.verifier.clone());
    let first = verifier(access);
    // Another server over the same definitions.
    let engine = Engine::new(options).await.unwrap();
    assert!(!engine.access().begin(Some("another"), TIMEOUT).await.unwrap());
    assert_eq!(verifier(engine.access()), first, "only the first is given");
    // Who has a password from the beginning may come from everywhere.
    let access = Access::new(Arc::new(MemoryDefinitions::new().unwrap()));
    assert!(!access.begin(Some("first"), TIMEOUT).await.unwrap());
    assert_eq!(access.accounts().iter().map(|it| it.0.plain()).collect::<Vec<_>>(), ["root@%"]);
}

/// Two coordinators of one cluster, in a way: engines over the same definitions.
#[tokio::test]
async fn what_one_engine_changes_another_sees_at_once() {
    let (server, root) = Server::with_accounts().await;
    let other =
        Engine::new(EngineOptions { data_dir: server.folder.path().join("other"), ..server.engine.options().clone() });
    let other = Server { engine: other.await.unwrap(), folder: tempfile::tempdir().unwrap() };
    let reader = other.session_as(2, "reader");
    let count = "SELECT count(*) FROM tp.nation";
    assert_eq!(rows(&reader, count).await, ["25"]);
    rows(&root, "REVOKE SELECT ON tp.* FROM reader").await;
    assert_eq!(fails(&reader, count).await.0, 1142);
    let other_root = other.session_as(3, "root");
    rows(&other_root, "GRANT SELECT ON tp.* TO reader; CREATE USER there IDENTIFIED BY 'x'").await;
    assert_eq!(rows(&server.session_as(4, "reader"), count).await, ["25"]);
    assert_eq!(fails(&root, "CREATE USER there").await.0, 1396);
    rows(&root, "RENAME USER reader TO reads; DROP DATABASE tp").await;
    // As in MySQL, rights on what is dropped stay.
    assert_eq!(rows(&other_root, "SHOW GRANTS FOR reads").await[1], "GRANT SELECT ON `tp`.* TO `reads`@`%`");
    assert_eq!(fails(&reader, "SHOW TABLES").await.0, 1046);
}
