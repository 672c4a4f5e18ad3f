//! Views beyond what one session sees: through a dump, by whose rights, on every plan, after a restart.

use std::process::Stdio;
use std::time::Duration;

use sheaf_tests::cluster::DISTRIBUTE;
use sheaf_tests::{Cluster, ClusterSpec, alone, skip};

use crate::clients::found;
use crate::load::{command, succeed};

const DEADLINE: Duration = Duration::from_secs(180);

/// Over the inputs of the suites, one or more for each operator.
const QUERIES: [&str; 40] = [
    "SELECT * FROM facts",
    "SELECT id, k, g FROM facts WHERE k = 3",
    "SELECT DISTINCT k FROM facts",
    "SELECT k, count(*) AS n, sum(v) AS v, avg(d) AS d, min(day) AS day FROM facts GROUP BY k",
    "SELECT g, k, count(DISTINCT v) AS n FROM facts GROUP BY g, k HAVING count(*) > 2",
    "SELECT k, g, count(*) AS n FROM facts GROUP BY k, g WITH ROLLUP",
    "SELECT count(*) AS n, max(amt) AS m FROM empty",
    "SELECT * FROM one",
    "SELECT f.id, d.k AS dk FROM facts f JOIN dims d ON f.k = d.k",
    "SELECT f.id, d.k AS dk FROM facts f LEFT JOIN dims d ON f.k = d.k AND d.k < 5",
    "SELECT f.id, d.k AS dk FROM facts f RIGHT JOIN dims d USING (k)",
    "SELECT a.id AS a, b.id AS b FROM one a CROSS JOIN facts b",
    "SELECT a.id AS a, b.id AS b FROM facts a JOIN facts b ON a.id < b.id AND b.id < 5",
    "SELECT id FROM facts WHERE k IN (SELECT k FROM dims WHERE k > 4)",
    "SELECT id FROM facts f WHERE NOT EXISTS (SELECT 1 FROM dims d WHERE d.k = f.k)",
    "SELECT id, (SELECT max(k) FROM dims) AS m FROM facts WHERE id < 20",
    "SELECT id, (SELECT count(*) FROM skewed s WHERE s.k = f.k) AS n FROM facts f WHERE id < 30",
    "SELECT id FROM facts UNION SELECT id FROM skewed",
    "SELECT k FROM facts UNION ALL SELECT k FROM one UNION ALL SELECT k FROM empty",
    "SELECT k FROM facts INTERSECT SELECT k FROM dims",
    "SELECT k FROM facts EXCEPT SELECT k FROM dims",
    "SELECT id, v FROM facts ORDER BY v DESC, id LIMIT 7",
    "SELECT id FROM skewed ORDER BY id LIMIT 5 OFFSET 10",
    "SELECT id, row_number() OVER (PARTITION BY k ORDER BY id) AS n FROM facts",
    "SELECT id, sum(v) OVER (ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS s FROM facts",
    "WITH w AS (SELECT k, count(*) AS n FROM skewed GROUP BY k) SELECT * FROM w WHERE n > 3",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 9) SELECT n FROM r",
    "SELECT number AS n, number % 3 AS m FROM numbers(100)",
    "SELECT CASE WHEN v < 0 THEN 'less' WHEN v IS NULL THEN 'none' ELSE 'more' END AS c, id FROM facts",
    "SELECT concat(g, '-', k) AS c, upper(g) AS u, length(g) AS l FROM facts",
    "SELECT id / 4 AS q, id DIV 4 AS d, id % 4 AS m, amt * 2 AS a FROM facts",
    "SELECT date_format(ts, '%Y-%m') AS month, year(day) AS y, date_add(day, INTERVAL 1 MONTH) AS later FROM facts",
    "SELECT ok, NOT ok AS no, ok AND k > 3 AS both_of FROM facts",
    "SELECT coalesce(k, -1) AS k, ifnull(g, 'x') AS g, nullif(v, 5) AS v FROM facts",
    "SELECT g, group_concat(id ORDER BY id SEPARATOR ',') AS ids FROM facts WHERE id < 50 GROUP BY g",
    "SELECT CAST(id AS CHAR) AS c, CAST(d AS SIGNED) AS s, CAST(amt AS DECIMAL(20,4)) AS a FROM facts",
    "SELECT * FROM types",
    "SELECT x.k, x.n FROM (SELECT k, count(*) AS n FROM facts GROUP BY k) x JOIN dims ON dims.k = x.k",
    "VALUES ROW(1, 'a'), ROW(2, NULL)",
    "SELECT 'it''s' AS a, 'back\\\\slash' AS b, 1.50 AS c, NULL AS d, DATE '2024-02-29' AS e",
];

/// A view's rows are its query's, however the cluster plans them.
#[test]
fn a_view_gives_what_its_query_gives() {
    alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(2)).await;
        let mut client = cluster.connect_to(Some("suite")).await;
        client.query("CREATE DATABASE v").await.expect("the name is free");
        for distribute in [false, true] {
            for (at, query) in QUERIES.iter().enumerate() {
                let create = format!("CREATE OR REPLACE VIEW v.q{at} AS {query}");
                client.query("USE suite").await.expect("the fixtures are there");
                client.query(&create).await.unwrap_or_else(|error| panic!("{create}: {error}"));
                let direct = client.query(query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
                // From another database: names in it are those of the first.
                client.query("USE v").await.expect("it was made above");
                let select = format!("SELECT * FROM q{at}");
                let through = client.query(&select).await.unwrap_or_else(|error| panic!("{query}: {error}"));
                assert_eq!(through.names(), direct.names(), "{query}");
                assert_eq!(through.sorted(), direct.sorted(), "{query}, distributed: {distribute}");
            }
            for setting in DISTRIBUTE {
                client.query(setting).await.unwrap_or_else(|error| panic!("{setting}: {error}"));
            }
        }
    });
}

/// Views are part of what a cluster agrees on.
#[test]
fn views_outlive_a_restart() {
    alone(DEADLINE, async {
        let mut cluster = Cluster::start(ClusterSpec::workers(1)).await;
        let mut client = cluster.connect().await;
        for sql in ["CREATE DATABASE d", "CREATE VIEW d.v (n) AS SELECT number * 2 FROM numbers(5)"] {
            client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        drop(client);
        cluster.restart_coordinator().await;
        let mut client = cluster.connect().await;
        assert_eq!(client.query("SELECT sum(n) FROM d.v").await.expect("it is still there").cell(), "20");
        client.query("DROP VIEW d.v").await.expect("it is still there");
        let gone = client.query("SELECT * FROM d.v").await.expect_err("it was dropped");
        assert_eq!(gone.code, Some(1146), "{gone}");
    });
}

/// What `mysqldump` writes of views makes them again.
#[test]
fn views_go_through_a_dump() {
    let (Some(dump), Some(program)) = (found(&["mariadb-dump", "mysqldump"]), found(&["mariadb", "mysql"])) else {
        return skip("a dump of views", "mysqldump or the command line is not installed");
    };
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::default()).await;
        let mut client = cluster.connect().await;
        for sql in [
            "CREATE DATABASE d",
            "CREATE TABLE d.t (a INT, b VARCHAR(9))",
            "INSERT INTO d.t VALUES (1, 'x'), (2, 'it''s')",
            // A dump writes views in the order of their names, whatever they are made of.
            "CREATE VIEW d.zz AS SELECT * FROM d.t WHERE a > 0",
            "CREATE VIEW d.aa AS SELECT b, count(*) FROM d.zz WHERE b <> 'back\\\\slash' GROUP BY b",
        ] {
            client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        let text = succeed(command(dump, &cluster, "root").args(["--skip-comments", "d"]));
        assert!(text.contains("VIEW `aa`") && text.contains("VIEW `zz`"), "{text}");
        client.query("DROP DATABASE d").await.expect("it is there");
        client.query("CREATE DATABASE d").await.expect("it is gone");
        let file = cluster.dir().join("dump.sql");
        std::fs::write(&file, text).expect("the cluster's folder can be written");
        let input = Stdio::from(std::fs::File::open(&file).expect("it was just written"));
        let restored = command(program, &cluster, "root").arg("d").stdin(input).output().expect("it is installed");
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        let rows = client.query("SELECT * FROM d.aa").await.expect("the view is there again").sorted();
        assert_eq!(rows, [["it's", "1"], ["x", "1"]]);
    });
}

/// Who may read a view needs no right on what it is made of, unless the view says so.
#[test]
fn views_are_read_by_their_definers_rights() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(2)).await;
        let mut root = cluster.connect().await;
        for sql in [
            "CREATE DATABASE d",
            "CREATE DATABASE e",
            "CREATE TABLE d.t (a INT, b INT)",
            "INSERT INTO d.t VALUES (1, 10), (2, 20)",
            "CREATE VIEW e.v AS SELECT a, b FROM d.t",
            "CREATE SQL SECURITY INVOKER VIEW e.i AS SELECT a FROM d.t",
            "CREATE USER ann, bob",
            "GRANT SELECT ON e.* TO ann",
            "GRANT SELECT (a) ON e.v TO bob",
            "GRANT SELECT (a) ON d.t TO bob",
            "GRANT CREATE VIEW ON e.* TO bob",
        ] {
            root.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        for (user, sql, expected) in [
            ("ann", "SELECT sum(b) FROM e.v", Ok("30")),
            ("ann", "SELECT a FROM d.t", Err(1142)),
            ("ann", "SELECT count(*) FROM e.i", Err(1356)),
            ("ann", "EXPLAIN SELECT a FROM e.v", Err(1345)),
            ("ann", "SHOW PARTITIONS FROM e.v", Err(1345)),
            ("ann", "SHOW CREATE VIEW e.v", Err(1142)),
            ("ann", "SHOW CREATE TABLE e.v", Err(1142)),
            ("ann", "SELECT view_definition FROM information_schema.views WHERE table_name = 'v'", Ok("")),
            ("ann", "CREATE VIEW e.w AS SELECT 1 AS x", Err(1142)),
            ("ann", "DROP VIEW e.v", Err(1142)),
            ("bob", "SELECT sum(a) FROM e.v", Ok("3")),
            ("bob", "SELECT sum(b) FROM e.v", Err(1143)),
            ("bob", "SELECT sum(x.b) FROM e.v AS x", Err(1143)),
            ("bob", "CREATE VIEW e.w AS SELECT b FROM d.t", Err(1143)),
            ("bob", "CREATE DEFINER = root@localhost VIEW e.w AS SELECT a FROM d.t", Err(1227)),
            ("bob", "CREATE OR REPLACE VIEW e.w AS SELECT a FROM d.t", Err(1142)),
            ("bob", "ALTER VIEW e.v AS SELECT a FROM d.t", Err(1142)),
        ] {
            let mut said = command("mariadb", &cluster, user);
            let Ok(output) = said.args(["--batch", "--skip-column-names", "-e", sql]).output() else {
                return skip("rights on views", "mariadb is not installed");
            };
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            match expected {
                Ok(cell) => assert_eq!(out.trim_end_matches('\n'), cell, "{user}: {sql}: {err}"),
                Err(code) => assert!(err.contains(&format!("ERROR {code} ")), "{user}: {sql}: {out}{err}"),
            }
        }
        // A view of somebody who loses a right is of no use to anybody.
        let mut bob = command("mariadb", &cluster, "bob");
        succeed(bob.args(["-e", "CREATE VIEW e.mine AS SELECT a FROM d.t"]));
        assert_eq!(root.query("SELECT sum(a) FROM e.mine").await.expect("bob may read").cell(), "3");
        root.query("REVOKE SELECT (a) ON d.t FROM bob").await.expect("he had it");
        let refused = root.query("SELECT sum(a) FROM e.mine").await.expect_err("bob may not read");
        assert_eq!(refused.code, Some(1356), "{refused}");
        root.query("DROP USER bob").await.expect("he was there");
        let refused = root.query("SELECT sum(a) FROM e.mine").await.expect_err("bob is gone");
        assert_eq!(refused.code, Some(1449), "{refused}");
    });
}
