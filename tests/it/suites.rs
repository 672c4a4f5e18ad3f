//! `tests/suites/*.slt`, the same files on one process and on a cluster where everything is distributed;
//! `tests/suites/distributed/*.slt` on the cluster only.
//!
//! `SHEAF_SUITE=join` runs the files whose names contain that text. `UPDATE=1` writes what one process answers into the
//! files instead of comparing: read the difference like code.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sheaf_tests::cluster::DISTRIBUTE;
use sheaf_tests::suite::{self, Suite};
use sheaf_tests::{Cluster, ClusterSpec, alone};

const DEADLINE: Duration = Duration::from_secs(240);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("suites")
}

fn chosen(dir: &Path) -> Vec<PathBuf> {
    let filter = std::env::var("SHEAF_SUITE").unwrap_or_default();
    let name = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(&filter));
    suite::files(dir).into_iter().filter(name).collect()
}

/// Runs all files of a folder; the number of records. Panics with every wrong record.
async fn run(cluster: &Cluster, label: &str, dir: &Path, init: &[&str]) -> usize {
    let variables = [("FIXTURES", cluster.dir().join("fixtures").display().to_string())];
    let suite = Suite { port: cluster.mysql_port(), database: "suite", init, variables: &variables, label };
    let (mut n_records, mut failures) = (0, Vec::new());
    for file in chosen(dir) {
        if std::env::var_os("UPDATE").is_some() {
            suite.update(&file).await;
            continue;
        }
        match suite.run(&file).await {
            Ok(n) => n_records += n,
            Err(wrong) => failures.extend(wrong),
        }
    }
    let n_wrong = failures.len();
    assert!(failures.is_empty(), "{n_wrong} wrong records on {label}:\n\n{}", failures.join("\n\n"));
    n_records
}

fn everything_ran(n_records: usize) {
    let all = std::env::var_os("SHEAF_SUITE").is_none() && std::env::var_os("UPDATE").is_none();
    assert!(!all || n_records >= 300, "only {n_records} records ran");
}

#[test]
fn suites_on_one_process() {
    let n_records = alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::default()).await;
        run(&cluster, "one", &folder(), &[]).await
    });
    everything_ran(n_records);
}

#[test]
fn suites_on_three_workers() {
    if std::env::var_os("UPDATE").is_some() {
        return;
    }
    let n_records = alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(3)).await;
        run(&cluster, "cluster", &folder(), &DISTRIBUTE).await
    });
    everything_ran(n_records);
}

#[test]
fn stage_plans_on_three_workers() {
    alone(DEADLINE, async {
        let cluster = Cluster::start_with_fixtures(ClusterSpec::workers(3)).await;
        run(&cluster, "cluster", &folder().join("distributed"), &DISTRIBUTE).await
    });
}
