//! `sheaf bench tpch` as a whole: what it asks, what it finds, what it writes. How long things take is not looked at.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use sheaf_tests::{Cluster, ClusterSpec, alone, binary};

const DEADLINE: Duration = Duration::from_secs(180);
/// Says that nothing matches, whatever it is asked.
const LIAR: &str =
    r#"liar=echo '{"ready":"a liar"}'; while read line; do echo '{"kinds":["decimal"],"rows":[]}'; done"#;
/// Refuses, as a peer does that cannot run a query.
const REFUSER: &str = r#"refuser=echo '{"ready":"a refuser"}'; while read line; do echo '{"error":"not today"}'; done"#;
/// Ends when it is asked.
const QUITTER: &str = r#"quitter=echo '{"ready":"a quitter"}'; read line; echo 'had enough' >&2"#;

/// Over tables of a few thousand rows in `dir`, everything distributed.
fn bench(dir: &Path, more: &[&str]) -> Output {
    let json = dir.join("found.json");
    Command::new(binary::sheaf())
        .args([
            "bench",
            "tpch",
            "--scale",
            "0.01",
            "--queries",
            "6,12",
            "--runs",
            "2",
            "--workers",
            "2",
            "--files",
            "2",
        ])
        .args([
            "--peers",
            "datafusion",
            "--set",
            "min_distribute_bytes=0",
            "--set",
            "bytes_per_task=0",
            "--memory",
            "256MiB",
        ])
        .args(["--also-with", "max_threads=1"])
        .arg("--dir")
        .arg(dir)
        .arg("--json")
        .arg(json)
        .args(more)
        .output()
        .expect("the binary was built")
}

fn found(dir: &Path) -> Value {
    let text = std::fs::read_to_string(dir.join("found.json")).expect("the JSON was asked for");
    serde_json::from_str(&text).expect("the JSON is JSON")
}

#[test]
fn the_benchmark_measures_systems_and_checks_their_answers() {
    alone(DEADLINE, async {
        let dir = tempfile::tempdir().expect("a folder can be made");

        let output = bench(dir.path(), &[]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        let json = found(dir.path());
        let names: Vec<&str> =
            json["systems"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert_eq!(names[..2], ["datafusion", "sheaf"]);
        assert!(names[2].starts_with("sheaf-2x") && names[3] == format!("{}/max_threads=1", names[2]), "{names:?}");
        for (number, query) in [6, 12].iter().zip(json["queries"].as_array().unwrap()) {
            assert_eq!(query["query"], json!(number));
            for name in &names {
                let outcome = &query["systems"][name];
                for what in ["wall", "cpu"] {
                    let runs = outcome[what]["runs_ms"].as_array().unwrap_or_else(|| panic!("{name}: {outcome}"));
                    assert!(runs.len() == 2 && runs.iter().all(|ms| ms.as_f64() > Some(0.0)), "{name}: {outcome}");
                }
            }
            let spread = &query["systems"][names[2]];
            assert!(spread["tasks"].as_u64() > Some(1), "{spread}");
            assert_eq!(query["systems"]["sheaf"]["tasks"], json!(0));
        }
        let exchanged = &json["systems"][2]["exchanged_bytes"];
        assert!(exchanged["uds"].as_u64().or(exchanged["tcp"].as_u64()) > Some(0), "{}", json["systems"][2]);
        let processes = json["systems"][2]["processes"].as_array().unwrap();
        assert!(processes.len() == 3 && processes.iter().all(|it| it["peak_rss_bytes"].as_u64() > Some(1 << 20)));
        assert!(said.contains("q12") && said.contains("peak RSS"), "{said}");

        let output = bench(dir.path(), &["--peer-command", LIAR, "--peer-command", REFUSER]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("WRONG: q6 on liar: 0 rows, not 1"), "{said}");
        assert!(said.contains("FAILED: q12 on refuser: not today"), "{said}");
        let json = found(dir.path());
        assert_eq!(json["queries"][0]["systems"]["refuser"], json!({ "failed": "not today" }));
        assert!(json["queries"][0]["systems"]["sheaf"]["wall"]["runs_ms"].is_array(), "the others are measured");

        let output = bench(dir.path(), &["--peer-command", QUITTER]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("quitter") && said.contains("had enough"), "{said}");
    });
}

#[test]
fn many_clients_ask_a_running_server() {
    alone(DEADLINE, async {
        let cluster = Cluster::start(ClusterSpec::workers(2).cores(1)).await;
        let port = cluster.mysql_port().to_string();
        let dir = tempfile::tempdir().expect("a folder can be made");
        let (first, second) = (dir.path().join("first.json"), dir.path().join("second.json"));
        let load = |json: &Path, more: &[&str]| {
            let mut command = Command::new(binary::sheaf());
            command.args([
                "bench",
                "load",
                "--port",
                &port,
                "--concurrency",
                "3",
                "--duration",
                "1s",
                "--warmup",
                "200ms",
            ]);
            command.args(["-e", "SELECT sum(number) FROM numbers(1000)", "--set", "min_distribute_bytes=0", "--json"]);
            command.arg(json).args(more).output().expect("the binary was built")
        };
        let read = |json: &Path| -> Value {
            serde_json::from_slice(&std::fs::read(json).expect("the JSON was asked for")).expect("the JSON is JSON")
        };

        let output = load(&first, &[]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("3 clients on 127.0.0.1:") && said.contains("p99"), "{said}");
        let found = read(&first);
        let n_answers = found["all"]["answers"].as_u64().expect("answers are counted");
        assert!(n_answers > 0 && found["statements"][0]["answers"] == n_answers, "{found}");
        let time = |name: &str| found["all"][name].as_f64().expect("times are measured");
        assert!(
            time("p50_ms") > 0.0 && time("p50_ms") <= time("p99_ms") && time("p99_ms") <= time("max_ms"),
            "{found}"
        );

        // A statement that fails is counted, told, and fails the run; the two results can be compared all the same.
        let earlier = first.to_str().expect("the path is Unicode");
        let output = load(&second, &["-e", "SELECT nothing", "--compare", earlier]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("× ERROR 1054: ") && said.contains("geometric mean of 4 ratios"), "{said}");
        assert!(read(&second)["all"]["errors"].as_object().is_some_and(|it| it.len() == 1));
        let mut compare = Command::new(binary::sheaf());
        let output = compare.args(["bench", "compare"]).args([&first, &second]).output().expect("the binary was built");
        assert!(String::from_utf8_lossy(&output.stdout).contains("s1 p50"), "{output:?}");
    });
}
