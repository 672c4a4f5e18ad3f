//! `sheaf bench tpch`: which systems are started, and in which order they are asked.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sheaf_common::config::ByteSize;
use sheaf_server::machine;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::child::Peer;
use super::processes::{Process, peak_rss_bytes};
use super::report::{Outcome, QueryReport, Report, SystemReport};
use super::samples::Samples;
use super::system::System;
use crate::cluster::byte_size;
use crate::error::CliError;
use crate::local_cluster::{LocalCluster, LocalClusterOptions, core_share, memory_share};
use crate::progress::{Progress, bytes, count};
use crate::signals;
use crate::tables::positive_scale;
use crate::tpch::files::{Folder, TableFiles, open};
use crate::tpch::{Answer, QUERIES, Query};

#[derive(Debug, Args)]
pub struct TpchBenchArgs {
    /// TPC-H's scale factor: 1 is about 1 GB of raw data.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = positive_scale)]
    scale: f64,
    /// Numbers of queries, such as 1,3 [default: all 22].
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=22))]
    queries: Vec<u8>,
    /// Measured runs of each query on each system, after one that is not measured.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Workers of a SheafDB cluster; several numbers measure several clusters.
    #[arg(long, value_name = "N,…", default_value = "2", value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: Vec<u16>,
    /// Threads that run queries, in each node of a cluster [default: this machine's cores divided among the workers].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    cores: Option<u16>,
    /// Memory of queries, in each SheafDB process, such as 512MiB [default: a share of this machine's memory].
    #[arg(long, value_name = "SIZE", value_parser = byte_size)]
    memory: Option<ByteSize>,
    /// Systems to compare with; the first is the one that ratios are relative to.
    #[arg(
        long,
        value_name = "PEER,…",
        value_delimiter = ',',
        default_value = "datafusion,datafusion-no-filters,duckdb"
    )]
    peers: Vec<PeerKind>,
    /// One more system: a shell command that speaks the protocol of tests/bench/peers; repeat it for several.
    #[arg(long, value_name = "NAME=COMMAND", value_parser = name_and_text)]
    peer_command: Vec<(String, String)>,
    /// A setting of every SheafDB session; repeat it for several.
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_text)]
    set: Vec<(String, String)>,
    /// Measure each cluster also by a session with this setting; repeat it for several.
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_text)]
    also_with: Vec<(String, String)>,
    /// Parquet files for each of the larger tables.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    files: u16,
    /// Where to write everything that was measured, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The folder of tables, data and logs, kept afterwards [default: a temporary folder, removed afterwards].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A Python that has the package duckdb [default: that of tests/python/setup.sh].
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
}

/// Systems that `sheaf bench` knows how to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PeerKind {
    /// The DataFusion in this binary, in one process.
    Datafusion,
    /// The same without the filters that joins, top-k and aggregates hand to scans while they run.
    DatafusionNoFilters,
    /// DuckDB, from Python.
    Duckdb,
}

pub fn name_and_text(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, text)) if !name.is_empty() && !text.is_empty() => Ok((name.to_owned(), text.to_owned())),
        _ => Err("expected a name, '=' and a text".to_owned()),
    }
}

const DUCKDB: &str = include_str!("duckdb_peer.py");

pub fn run(args: TpchBenchArgs) -> Result<(), CliError> {
    signals::block_on(async move |stop| {
        // Before minutes of work whose results would have nowhere to go.
        let json = args.json.clone().map(|path| match File::create(&path) {
            Ok(file) => Ok((path, file)),
            Err(source) => Err(CliError::Folder { path, source }),
        });
        let json = json.transpose()?;
        let folder = Folder::open(args.dir.clone(), "sheaf-bench-")?;
        let report = bench(&args, folder.path(), stop).await?;
        print!("{}", report.text());
        if let Some((path, mut file)) = json {
            let written = writeln!(file, "{:#}", report.json());
            written.map_err(|source| CliError::Folder { path, source })?;
        }
        let wrong = report.not_right();
        if wrong.is_empty() {
            return Ok(());
        }
        let n_all = report.queries.len() * report.systems.len();
        Err(CliError::Wrong { n_wrong: wrong.len(), n_all, names: wrong.join(", ") })
    })
}

async fn bench(args: &TpchBenchArgs, dir: &Path, stop: CancellationToken) -> Result<Report, CliError> {
    let tables = TableFiles::in_folder(dir, args.scale, usize::from(args.files));
    let conditions = conditions(args);
    warn_of_noise();
    let mut started = Started::default();
    let measured = tokio::select! {
        measured = async {
            tables.write().await?;
            started.start(args, dir, &tables).await?;
            measure(args, &mut started.systems).await
        } => measured,
        () = stop.cancelled() => Err(CliError::Interrupted),
    };
    let measured = match measured {
        Ok(queries) => started.reports().map(|systems| (queries, systems)),
        // A connection that broke says less than the node that ended.
        Err(error) => Err(started.cause(error).await),
    };
    started.stop().await;
    let (queries, systems) = measured?;
    Ok(Report { conditions, systems, queries })
}

/// Everything that runs while the benchmark does. Dropping it kills all processes.
#[derive(Default)]
struct Started {
    systems: Vec<System>,
    clusters: Vec<LocalCluster>,
}

impl Started {
    async fn start(&mut self, args: &TpchBenchArgs, dir: &Path, tables: &TableFiles) -> Result<(), CliError> {
        let cores = machine::cores();
        for &kind in &args.peers {
            let name = kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            let Some(command) = command(kind, args)? else { continue };
            self.start_peer(&name, command, dir, tables, cores, 1).await?;
        }
        let n_workers = usize::from(args.workers.first().copied().unwrap_or(1));
        for (name, text) in &args.peer_command {
            let mut command = Command::new("sh");
            command.args(["-c", text]);
            self.start_peer(name, command, dir, tables, cores_of_worker(args, n_workers), n_workers).await?;
        }
        self.start_servers("sheaf", 0, cores, args, dir, tables).await?;
        for n_workers in args.workers.iter().map(|&n| usize::from(n)) {
            let cores = cores_of_worker(args, n_workers);
            self.start_servers(&format!("sheaf-{n_workers}x{cores}"), n_workers, cores, args, dir, tables).await?;
        }
        Ok(())
    }

    async fn start_peer(
        &mut self,
        name: &str,
        mut command: Command,
        dir: &Path,
        tables: &TableFiles,
        cores: usize,
        n_workers: usize,
    ) -> Result<(), CliError> {
        command
            .env("BENCH_TABLES", &tables.dir)
            .env("BENCH_CORES", cores.to_string())
            .env("BENCH_WORKERS", n_workers.to_string());
        let peer = Peer::start(name, command, dir.join(format!("{name}.log"))).await?;
        eprintln!("  {name} is ready: {}", peer.ready);
        self.systems.push(System::peer(name, peer));
        Ok(())
    }

    /// A cluster, or with no worker one process, and its sessions: one, and one more for each setting of `--also-with`.
    async fn start_servers(
        &mut self,
        name: &str,
        n_workers: usize,
        cores: usize,
        args: &TpchBenchArgs,
        dir: &Path,
        tables: &TableFiles,
    ) -> Result<(), CliError> {
        let memory_bytes = args.memory.map_or_else(|| memory_share(n_workers + 1), |size| size.0);
        let options = LocalClusterOptions {
            dir: dir.join(name),
            n_coordinators: 1,
            n_workers,
            cores,
            memory_bytes,
            mysql_port: 0,
            allow_roots: vec![tables.dir.clone()],
            log: "warn".to_owned(),
        };
        let cluster = LocalCluster::start(options, |_| {}).await?;
        let port = cluster.mysql_port();
        let processes: Vec<Process> =
            cluster.processes().map(|(name, id)| Process { name: name.to_owned(), id }).collect();
        self.clusters.push(cluster);
        let mut description = match n_workers {
            0 => format!("SheafDB {}, one process of {}", env!("CARGO_PKG_VERSION"), count(cores, "core")),
            _ => format!(
                "SheafDB {}, a coordinator and {}, processes each, of {} each",
                env!("CARGO_PKG_VERSION"),
                count(n_workers, "worker"),
                count(cores, "core")
            ),
        };
        description.push_str(&format!(", {} for queries in each process", bytes(memory_bytes)));
        let also_with = if n_workers == 0 { &[] } else { args.also_with.as_slice() };
        for also in std::iter::once(None).chain(also_with.iter().map(Some)) {
            let settings: Vec<String> =
                args.set.iter().chain(also).map(|(setting, value)| format!("SET {setting} = {value}")).collect();
            let (mut name, mut description) = (name.to_owned(), description.clone());
            if let Some((setting, value)) = also {
                name.push_str(&format!("/{setting}={value}"));
            }
            for statement in &settings {
                description.push_str(&format!(", {statement}"));
            }
            let client = open(&name, port, tables, &settings).await?;
            eprintln!("  {name} is ready: {description}");
            self.systems.push(System::server(&name, description, processes.clone(), client));
        }
        Ok(())
    }

    fn reports(&self) -> Result<Vec<SystemReport>, CliError> {
        let report = |system: &System| {
            let peaks = peak_rss_bytes(&system.processes)?;
            let peak_rss_bytes = peaks.into_iter().map(|(process, n_bytes)| (process.name, n_bytes)).collect();
            Ok(SystemReport { name: system.name.clone(), description: system.description.clone(), peak_rss_bytes })
        };
        self.systems.iter().map(report).collect()
    }

    /// Why a node ended, if one has, or else the error.
    async fn cause(&mut self, error: CliError) -> CliError {
        const LOOK: Duration = Duration::from_millis(500);
        for cluster in &mut self.clusters {
            if let Ok(ended) = tokio::time::timeout(LOOK, cluster.first_end()).await {
                return ended.into();
            }
        }
        error
    }

    async fn stop(self) {
        for system in self.systems {
            system.close().await;
        }
        for cluster in self.clusters {
            cluster.stop().await;
        }
    }
}

fn cores_of_worker(args: &TpchBenchArgs, n_workers: usize) -> usize {
    args.cores.map_or_else(|| core_share(n_workers), usize::from)
}

/// How to start a peer; `None`, and a line that nobody overlooks, where the machine does not have it.
fn command(kind: PeerKind, args: &TpchBenchArgs) -> Result<Option<Command>, CliError> {
    if kind == PeerKind::Duckdb {
        let python = args.python.clone().or_else(venv_python);
        return Ok(match python.filter(|python| python.exists()) {
            Some(python) => {
                let mut command = Command::new(python);
                command.args(["-c", DUCKDB]);
                Some(command)
            }
            None => {
                eprintln!("\n******** SKIPPED: duckdb: no Python that has it; run tests/python/setup.sh ********\n");
                None
            }
        });
    }
    let binary = std::env::current_exe();
    let binary = binary.map_err(|source| CliError::PeerStart { peer: "datafusion".to_owned(), source })?;
    let mut command = Command::new(binary);
    command.args(["bench", "datafusion-peer"]);
    if kind == PeerKind::DatafusionNoFilters {
        // Sets the switches of the three kinds as well.
        command.args(["--set", "datafusion.optimizer.enable_dynamic_filter_pushdown=false"]);
    }
    Ok(Some(command))
}

/// Where `tests/python/setup.sh` puts it.
fn venv_python() -> Option<PathBuf> {
    let venv = match std::env::var_os("SHEAF_VENV") {
        Some(venv) => PathBuf::from(venv),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".cache/sheafdb/venv"),
    };
    Some(venv.join("bin/python"))
}

async fn measure(args: &TpchBenchArgs, systems: &mut [System]) -> Result<Vec<QueryReport>, CliError> {
    let is_asked =
        |query: &&Query| args.queries.is_empty() || args.queries.iter().any(|&n| usize::from(n) == query.number);
    let queries: Vec<&Query> = QUERIES.iter().filter(is_asked).collect();
    let mut progress = Progress::new();
    let mut reports = Vec::new();
    for (n, query) in queries.iter().enumerate() {
        progress.now(&format!("query {} of {}: q{} …", n + 1, queries.len(), query.number));
        let report = measure_query(query, usize::from(args.runs), systems).await?;
        progress.done(&progress_line(&report, systems));
        reports.push(report);
    }
    Ok(reports)
}

fn progress_line(report: &QueryReport, systems: &[System]) -> String {
    let cell = |(system, outcome): (&System, &Outcome)| match outcome {
        Outcome::Right { wall, .. } => format!("{} {:.0} ms", system.name, wall.median()),
        Outcome::Wrong(_) => format!("{} WRONG", system.name),
        Outcome::Failed(_) => format!("{} FAILED", system.name),
    };
    let cells: Vec<String> = systems.iter().zip(&report.outcomes).map(cell).collect();
    format!("q{}: {}", report.number, cells.join(", "))
}

/// The runs of one query on one system so far.
enum Measured {
    Right { wall: Samples, cpu: Samples, n_rows: usize },
    Not(Outcome),
}

/// One round over all systems is not measured: it warms caches and gives the answer that the others are compared with.
/// Each further round begins with another system, so that none always follows the same one.
async fn measure_query(query: &Query, n_runs: usize, systems: &mut [System]) -> Result<QueryReport, CliError> {
    let what = format!("q{}", query.number);
    let mut measured: Vec<Measured> = systems
        .iter()
        .map(|_| Measured::Right { wall: Samples::default(), cpu: Samples::default(), n_rows: 0 })
        .collect();
    let mut expected: Option<Answer> = None;
    for round in 0..=n_runs {
        for turn in 0..systems.len() {
            // The first system gives the expected answer.
            let n = if round == 0 { turn } else { (turn + round) % systems.len() };
            let Measured::Right { wall, cpu, n_rows } = &mut measured[n] else { continue };
            let run = match systems[n].run(&what, query.sql).await? {
                Ok(run) => run,
                Err(refusal) => {
                    measured[n] = Measured::Not(Outcome::Failed(refusal));
                    continue;
                }
            };
            match expected.as_ref().and_then(|expected| query.difference(expected, &run.answer)) {
                Some(difference) => measured[n] = Measured::Not(Outcome::Wrong(difference)),
                None if round > 0 => {
                    wall.0.push(milliseconds(run.wall));
                    cpu.0.push(milliseconds(run.cpu));
                    *n_rows = run.answer.rows.len();
                }
                None => {
                    expected.get_or_insert(run.answer);
                }
            }
        }
    }
    let mut outcomes = Vec::new();
    for (system, measured) in systems.iter_mut().zip(measured) {
        outcomes.push(match measured {
            Measured::Not(outcome) => outcome,
            Measured::Right { wall, cpu, n_rows } => {
                let distribution = system.distribution(&what, query.sql).await?;
                Outcome::Right { wall, cpu, n_rows, distribution }
            }
        });
    }
    Ok(QueryReport { number: query.number, outcomes })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What is measured, and where.
fn conditions(args: &TpchBenchArgs) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    json!({
        "benchmark": "tpch",
        "scale": args.scale,
        "files_per_table": args.files,
        "runs": args.runs,
        "workers": args.workers,
        "cores_per_worker": args.workers.iter().map(|&n| cores_of_worker(args, usize::from(n))).collect::<Vec<_>>(),
        "sheafdb": env!("CARGO_PKG_VERSION"),
        "datafusion": datafusion::DATAFUSION_VERSION,
        "optimized": !cfg!(debug_assertions),
        "machine": {
            "cores": machine::cores(),
            "memory_bytes": machine::memory_bytes(),
            "cpu": cpu.map_or("", |(_, model)| model.trim()),
            "kernel": read("/proc/sys/kernel/osrelease").trim(),
            "load_before": load(),
        },
        "pinned": false,
    })
}

/// Processes that ran or wanted to, on average over the last minute.
fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// What makes numbers worthless is said, not forbidden.
fn warn_of_noise() {
    eprintln!(
        "this machine has {}; nothing is pinned to them, the client of all systems runs on them too and is not counted",
        count(machine::cores(), "core")
    );
    if let Some(load) = load().filter(|&load| load > 0.3) {
        eprintln!("\n******** NOT QUIET: the load of this machine is {load} already; the times will vary ********\n");
    }
    if cfg!(debug_assertions) {
        eprintln!("\n******** NOT OPTIMIZED: this is a debug build; the times say nothing ********\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: TpchBenchArgs,
    }

    fn parse(arguments: &[&str]) -> Result<TpchBenchArgs, clap::Error> {
        let line = ["bench"].iter().chain(arguments);
        <CommandLine as clap::Parser>::try_parse_from(line).map(|line| line.args)
    }

    #[test]
    fn lists_are_read() {
        let args =
            parse(&["--queries", "1,3", "--workers", "2,4", "--peers", "duckdb", "--also-with", "a='b=c'"]).unwrap();
        assert_eq!((args.queries, args.workers, args.peers), (vec![1, 3], vec![2, 4], vec![PeerKind::Duckdb]));
        assert_eq!(args.also_with, [("a".to_owned(), "'b=c'".to_owned())]);
        for wrong in [["--queries", "23"], ["--peers", "spark"], ["--set", "x"], ["--runs", "0"]] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_baseline_comes_first_by_default() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.peers, [PeerKind::Datafusion, PeerKind::DatafusionNoFilters, PeerKind::Duckdb]);
    }
}
