//! `sheaf demo`: a cluster on this machine answers TPC-H, and every answer is compared with a single process's.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::cluster::mysql_command;
use crate::error::CliError;
use crate::local_cluster::{LocalCluster, LocalClusterOptions, core_share, memory_share};
use crate::progress::{Progress, bytes, count, seconds};
use crate::signals;
use crate::tables::positive_scale;
use crate::tpch::files::{DATABASE, Folder, TableFiles, open};
use crate::tpch::{QUERIES, Query};

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// TPC-H's scale factor: 1 is about 1 GB of raw data.
    #[arg(long, value_name = "FACTOR", default_value_t = 0.1, value_parser = positive_scale)]
    scale: f64,
    /// How many workers to start.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Threads that run queries, in each worker [default: this machine's cores divided among the workers].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    cores: Option<u16>,
    /// Parquet files for each of the larger tables.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    files: u16,
    /// Leave the cluster running afterwards, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// The folder of tables, data and logs, kept afterwards [default: a temporary folder, removed afterwards].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The query whose plan is shown.
const EXPLAINED: usize = 3;

pub fn run(args: DemoArgs) -> Result<(), CliError> {
    signals::block_on(async move |stop| {
        let folder = Folder::open(args.dir.clone(), "sheaf-demo-")?;
        demo(&args, folder.path(), stop).await
    })
}

async fn demo(args: &DemoArgs, dir: &Path, stop: CancellationToken) -> Result<(), CliError> {
    let tables = TableFiles::in_folder(dir, args.scale, usize::from(args.files));
    tokio::select! {
        written = tables.write() => written?,
        () = stop.cancelled() => return Err(CliError::Interrupted),
    }

    let n_workers = usize::from(args.workers);
    let options = |name: &str, n_workers: usize, cores: usize| LocalClusterOptions {
        dir: dir.join(name),
        n_coordinators: 1,
        n_workers,
        cores,
        // The coordinator, the workers, and the single process that they are compared with.
        memory_bytes: memory_share(usize::from(args.workers) + 2),
        mysql_port: 0,
        allow_roots: vec![tables.dir.clone()],
        log: "info".to_owned(),
    };
    let cores = args.cores.map_or_else(|| core_share(n_workers), usize::from);
    eprintln!(
        "starting one coordinator and {}, each with {}, and one process to compare with",
        count(n_workers, "worker"),
        count(cores, "core")
    );
    let start = async {
        let cluster = LocalCluster::start(options("cluster", n_workers, cores), |step| eprintln!("  {step}")).await?;
        let single = LocalCluster::start(options("single", 0, core_share(1)), |step| eprintln!("  {step}")).await;
        match single {
            Ok(single) => Ok((cluster, single)),
            Err(error) => {
                cluster.stop().await;
                Err(error)
            }
        }
    };
    let (mut cluster, mut single) = tokio::select! {
        started = start => started?,
        () = stop.cancelled() => return Err(CliError::Interrupted),
    };

    let (cluster_port, single_port) = (cluster.mysql_port(), single.mysql_port());
    let mut asked = tokio::select! {
        asked = ask_all(cluster_port, single_port, &tables) => asked,
        error = cluster.first_end() => Err(error.into()),
        error = single.first_end() => Err(error.into()),
        () = stop.cancelled() => Err(CliError::Interrupted),
    };
    single.stop().await;
    if args.keep && !stop.is_cancelled() && !matches!(asked, Err(CliError::LocalCluster(_))) {
        println!("\nthe cluster stays up, its tables are in database {DATABASE}, its logs in {}", dir.display());
        println!("connect with: {}", mysql_command(&[cluster_port]));
        println!("stop it with Ctrl-C");
        tokio::select! {
            error = cluster.first_end() => asked = asked.and(Err(error.into())),
            () = stop.cancelled() => {}
        }
    }
    cluster.stop().await;
    asked
}

/// Everything is distributed, however small: the demo's tables fit into one process.
const DISTRIBUTE: [&str; 2] = ["SET min_distribute_bytes = 0", "SET bytes_per_task = 0"];
/// Nothing is distributed.
const KEEP_LOCAL: [&str; 1] = ["SET min_distribute_bytes = 18446744073709551615"];

async fn ask_all(cluster_port: u16, single_port: u16, tables: &TableFiles) -> Result<(), CliError> {
    let mut cluster = open("the cluster", cluster_port, tables, &DISTRIBUTE).await?;
    let mut single = open("the single process", single_port, tables, &KEEP_LOCAL).await?;
    let mut progress = Progress::new();

    let explained = &QUERIES[EXPLAINED - 1];
    let plan = cluster.ask("EXPLAIN", &format!("EXPLAIN {}", explained.sql)).await?;
    println!("\nthe plan of query {EXPLAINED}:");
    for line in plan.rows.iter().filter_map(|row| row.first()?.as_ref()) {
        println!("  {line}");
    }

    println!("\nquery      time  one process      rows  stages  tasks   exchanged  answer");
    let (mut time, mut single_time) = (Duration::ZERO, Duration::ZERO);
    let mut wrong = Vec::new();
    for query in &QUERIES {
        progress.now(&format!("query {} of {} …", query.number, QUERIES.len()));
        let outcome = ask(query, &mut cluster, &mut single).await;
        progress.clear();
        match outcome {
            Ok(outcome) => {
                time += outcome.time;
                single_time += outcome.single_time;
                println!("{}", outcome.line(query));
                if outcome.difference.is_some() {
                    wrong.push(query.number);
                }
            }
            // A server's refusal is this query's; anything else is the end of the connection, and of the demo.
            Err(CliError::Statement { what, source: mysql_async::Error::Server(error) }) => {
                println!("q{:<5} {what} failed: {error}", query.number);
                wrong.push(query.number);
            }
            Err(error) => return Err(error),
        }
    }
    cluster.close().await;
    single.close().await;
    let n_all = QUERIES.len();
    let n_right = n_all - wrong.len();
    println!(
        "\n{n_right} of {n_all} answers are those of one process; {} in all, {} in one process",
        seconds(time),
        seconds(single_time)
    );
    if wrong.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = wrong.iter().map(|number| format!("q{number}")).collect();
    Err(CliError::Wrong { n_wrong: wrong.len(), n_all, names: names.join(", ") })
}

/// What came of one query.
struct Outcome {
    time: Duration,
    single_time: Duration,
    n_rows: usize,
    /// As the server counted; `None` where it does not say.
    stages: Option<u64>,
    tasks: Option<u64>,
    exchange_bytes: Option<u64>,
    difference: Option<String>,
}

async fn ask(query: &Query, cluster: &mut Client, single: &mut Client) -> Result<Outcome, CliError> {
    let name = format!("q{}", query.number);
    let start = Instant::now();
    let answer = cluster.ask(&format!("{name} on the cluster"), query.sql).await?;
    let time = start.elapsed();
    let status = cluster.ask("SHOW STATUS", "SHOW STATUS LIKE 'Sheaf_last_query_%'").await?;
    let start = Instant::now();
    let expected = single.ask(&format!("{name} on the single process"), query.sql).await?;
    let single_time = start.elapsed();

    let counted = |variable: &str| {
        let row = status.rows.iter().find(|row| row[0].as_deref() == Some(variable))?;
        row.get(1)?.as_ref()?.parse().ok()
    };
    Ok(Outcome {
        time,
        single_time,
        n_rows: answer.rows.len(),
        stages: counted("Sheaf_last_query_stages"),
        tasks: counted("Sheaf_last_query_tasks"),
        exchange_bytes: counted("Sheaf_last_query_exchange_bytes"),
        difference: query.difference(&expected, &answer),
    })
}

impl Outcome {
    fn line(&self, query: &Query) -> String {
        let number = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        format!(
            "q{:<4} {:>9}  {:>11}  {:>8}  {:>6}  {:>5}  {:>10}  {}",
            query.number,
            seconds(self.time),
            seconds(self.single_time),
            self.n_rows,
            number(self.stages),
            number(self.tasks),
            self.exchange_bytes.map_or_else(|| "?".to_owned(), bytes),
            self.difference.as_ref().map_or_else(|| "right".to_owned(), |text| format!("WRONG: {text}")),
        )
    }
}
