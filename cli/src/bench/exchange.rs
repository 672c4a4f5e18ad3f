//! `sheaf bench exchange`: gigabytes of Arrow per processor second from task to task.

mod consumer;
mod producer;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use sheaf_common::settings::{ExchangeCompression, Settings};
use tokio::runtime::Runtime;

use super::cpu::Spread;
use crate::error::CliError;
use crate::progress::Progress;

pub use producer::{ProducerArgs, run_producer};

#[derive(Debug, Args)]
pub struct ExchangeArgs {
    /// GiB of Arrow, as it is in memory, that pass in each run.
    #[arg(long, value_name = "GIB", default_value_t = 1.0, value_parser = crate::tables::positive_scale)]
    gib: f64,
    /// Kinds of links to measure.
    #[arg(long, value_delimiter = ',', default_values_t = [LinkKind::Tcp, LinkKind::Uds, LinkKind::Local])]
    link: Vec<LinkKind>,
    /// Producing by consuming tasks: each consumer reads from every producer.
    #[arg(long, value_name = "NxM", value_delimiter = ',', default_values = ["1x1", "8x1", "1x8", "8x8"], value_parser = shape)]
    shape: Vec<Shape>,
    /// Let producers spread rows over the consumers by the hash of l_orderkey; otherwise whole batches go round.
    #[arg(long)]
    hash: bool,
    /// What packs rows that go over tcp or http2: off, lz4 or zstd.
    #[arg(long, default_value = "off", value_parser = compression)]
    compression: ExchangeCompression,
    /// Runs of each, after one that is not counted.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Also write what was measured, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How the tasks are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// Two processes, over the loopback's TCP.
    Tcp,
    /// Two processes, over a Unix socket.
    Uds,
    /// Two processes, over the calls' own HTTP/2: what streams fall back to.
    Http2,
    /// One process.
    Local,
}

impl std::fmt::Display for LinkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Uds => "uds",
            Self::Http2 => "http2",
            Self::Local => "local",
        })
    }
}

/// Tasks on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shape {
    pub producers: u32,
    pub consumers: u32,
}

const TASKS_MAX: u32 = 256;

fn shape(text: &str) -> Result<Shape, String> {
    let tasks = |text: &str| text.parse().ok().filter(|n| (1..=TASKS_MAX).contains(n));
    text.split_once('x')
        .and_then(|(producers, consumers)| Some(Shape { producers: tasks(producers)?, consumers: tasks(consumers)? }))
        .ok_or_else(|| format!("expected producers x consumers, each from 1 to {TASKS_MAX}, such as 8x1"))
}

fn compression(text: &str) -> Result<ExchangeCompression, String> {
    let mut settings = Settings::default();
    settings.set("exchange_compression", text).map_err(|error| error.to_string())?;
    Ok(settings.exchange_compression)
}

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub wall: Duration,
    /// Of producers and consumers together.
    pub cpu: Duration,
    /// On the link.
    pub wire_bytes: u64,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Measured {
    link: LinkKind,
    shape: Shape,
    hash: bool,
    /// Bytes of Arrow in memory that each run passed on.
    arrow_bytes: u64,
    /// Bytes on the link, of the last run.
    wire_bytes: u64,
    /// Gigabytes of Arrow per second of processor time, both ends counted.
    gb_per_cpu_s: Spread,
    /// Gigabytes of Arrow per second.
    gb_per_s: Spread,
    runs: usize,
}

pub fn run(args: ExchangeArgs) -> Result<(), CliError> {
    let runtime = runtime()?;
    let mut progress = Progress::new();
    let mut rows = Vec::new();
    for &link in &args.link {
        progress.now(&format!("{link}: generating {} GiB of lineitem …", args.gib));
        rows.extend(runtime.block_on(measure(&args, link, &mut progress))?);
    }
    progress.clear();
    runtime.shutdown_background();
    print(&rows);
    if let Some(path) = &args.json {
        let written = serde_json::to_vec_pretty(&rows).map_err(std::io::Error::from);
        let written = written.and_then(|json| std::fs::write(path, json));
        written.map_err(|source| CliError::Folder { path: path.clone(), source })?;
    }
    Ok(())
}

async fn measure(args: &ExchangeArgs, link: LinkKind, progress: &mut Progress) -> Result<Vec<Measured>, CliError> {
    let mut bench = consumer::Consumer::start(link, args.compression, args.gib, args.hash).await?;
    let arrow_bytes = bench.arrow_bytes();
    let mut rows = Vec::new();
    for &shape in &args.shape {
        let mut runs = Vec::new();
        for n in 0..=args.runs {
            progress.now(&format!("{link} {}x{}: run {n} of {}", shape.producers, shape.consumers, args.runs));
            let run = bench.run(shape).await?;
            if n > 0 {
                runs.push(run);
            }
        }
        let rate = |seconds: fn(&Run) -> Duration| {
            let gigabytes = arrow_bytes as f64 / 1e9;
            Spread::of(runs.iter().map(|run| gigabytes / seconds(run).as_secs_f64()).collect())
        };
        rows.push(Measured {
            link,
            shape,
            hash: args.hash,
            arrow_bytes,
            wire_bytes: runs.last().map_or(0, |run| run.wire_bytes),
            gb_per_cpu_s: rate(|run| run.cpu),
            gb_per_s: rate(|run| run.wall),
            runs: runs.len(),
        });
    }
    Ok(rows)
}

fn print(rows: &[Measured]) {
    println!("| link | tasks | rows go | Arrow GB | on the link GB | GB per CPU s (min–max) | GB/s (min–max) | runs |");
    println!("|---|---|---|---|---|---|---|---|");
    let spread = |it: &Spread| format!("{:.2} ({:.2}–{:.2})", it.median, it.min, it.max);
    for row in rows {
        println!(
            "| {} | {}→{} | {} | {:.2} | {:.2} | {} | {} | {} |",
            row.link,
            row.shape.producers,
            row.shape.consumers,
            if row.hash { "by hash" } else { "in whole batches" },
            row.arrow_bytes as f64 / 1e9,
            row.wire_bytes as f64 / 1e9,
            spread(&row.gb_per_cpu_s),
            spread(&row.gb_per_s),
            row.runs,
        );
    }
}

fn runtime() -> Result<Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(sheaf_server::machine::cores())
        .enable_all()
        .build()
        .map_err(CliError::Threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_two_numbers() {
        assert_eq!(shape("8x1"), Ok(Shape { producers: 8, consumers: 1 }));
        for wrong in ["", "8", "x", "0x1", "1x257", "1x1x1"] {
            assert!(shape(wrong).is_err(), "{wrong}");
        }
    }

    /// Within one process: a run fails when rows are missing.
    #[test]
    fn every_row_arrives() {
        let runtime = runtime().unwrap();
        for hash in [false, true] {
            runtime.block_on(async {
                let mut bench =
                    consumer::Consumer::start(LinkKind::Local, ExchangeCompression::Off, 0.002, hash).await.unwrap();
                assert!(bench.arrow_bytes() >= 2 << 20);
                let run = bench.run(Shape { producers: 2, consumers: 3 }).await.unwrap();
                assert!(run.wall > Duration::ZERO);
            });
        }
    }
}
