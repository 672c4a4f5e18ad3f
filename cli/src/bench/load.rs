//! `sheaf bench load`: many clients ask a running server at once, for a while.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use sheaf_common::config::ConfigValue;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::report::{LoadReport, StatementReport};
use crate::client::{Client, LoginArgs};
use crate::error::CliError;
use crate::progress::{Progress, count};
use crate::signals;
use crate::tpch::QUERIES;

pub mod report;

#[derive(Debug, Args)]
pub struct LoadArgs {
    #[command(flatten)]
    login: LoginArgs,
    /// The database of the statements.
    #[arg(long, short = 'D', value_name = "NAME")]
    database: Option<String>,
    /// Numbers of TPC-H's queries, such as 1,3; their tables stand in --database.
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=22))]
    queries: Vec<u8>,
    /// A statement to ask; repeat it for several.
    #[arg(long, short = 'e', value_name = "SQL")]
    statement: Vec<String>,
    /// Prepare each statement once on each connection and execute it from then on.
    #[arg(long)]
    prepared: bool,
    /// Each ? of a prepared statement is a number from 0 below this, another each time.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// Clients at a time.
    #[arg(long, short, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    concurrency: u16,
    /// How long to measure.
    #[arg(long, short, value_name = "TIME", default_value = "30s", value_parser = time)]
    duration: Duration,
    /// How long to ask before anything is measured.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = time)]
    warmup: Duration,
    /// Where each client begins its order of statements.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Begin each session with SET NAME = VALUE; repeat it for several.
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::tpch::name_and_text)]
    set: Vec<(String, String)>,
    /// Where to write everything that was measured, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A JSON file of an earlier run to compare with.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
}

fn time(text: &str) -> Result<Duration, String> {
    Duration::parse(text).ok_or_else(|| format!("expected {}", Duration::EXPECTED))
}

/// One of the statements that are asked.
#[derive(Debug, Clone)]
struct Statement {
    name: String,
    sql: String,
}

/// How they are asked.
#[derive(Clone, Copy)]
struct How {
    prepared: bool,
    keys: u32,
}

/// What one client found.
#[derive(Default)]
struct Found {
    /// By statement.
    latencies: Vec<Vec<Duration>>,
    /// By statement, in the server's words.
    errors: Vec<Vec<String>>,
}

pub fn run(args: LoadArgs) -> Result<(), CliError> {
    // Before a run whose results would have nowhere to go.
    let earlier = args.compare.as_deref().map(super::compare::read).transpose()?;
    let json = args.json.clone().map(super::compare::create).transpose()?;
    signals::block_on(async move |stop| {
        let report = measure(&args, stop).await?;
        print!("{}", report.text());
        let found = report.json();
        if let Some(file) = json {
            super::compare::write(file, &found)?;
        }
        if let Some(earlier) = earlier {
            print!("{}", super::compare::text(&earlier, &found)?);
        }
        match report.n_errors() {
            0 => Ok(()),
            n_errors => Err(CliError::StatementsFailed { n_errors, n_all: report.n_statements() + n_errors }),
        }
    })
}

fn statements(args: &LoadArgs) -> Result<Vec<Statement>, CliError> {
    let given = args.statement.iter().zip(1..).map(|(sql, n)| Statement { name: format!("s{n}"), sql: sql.clone() });
    let all = args.queries.is_empty() && args.statement.is_empty();
    let wanted = QUERIES.iter().filter(|it| all || args.queries.iter().any(|&n| usize::from(n) == it.number));
    let queries = wanted.map(|it| Statement { name: format!("q{}", it.number), sql: it.sql.to_owned() });
    Ok(given.chain(queries).collect())
}

async fn measure(args: &LoadArgs, stop: CancellationToken) -> Result<LoadReport, CliError> {
    let statements = statements(args)?;
    let login = args.login.login(args.database.clone())?;
    let settings: Vec<String> = args.set.iter().map(|(name, value)| format!("SET {name} = {value}")).collect();

    // All of them are there before the first asks.
    let mut clients = Vec::new();
    for _ in 0..args.concurrency {
        let mut client = Client::log_in(&login).await?;
        for setting in &settings {
            client.ask(setting, setting).await?;
        }
        clients.push(client);
    }
    eprintln!(
        "{} ask {} on {} for {} s after {} s",
        count(clients.len(), "client"),
        count(statements.len(), "statement"),
        login.address,
        args.duration.as_secs_f64(),
        args.warmup.as_secs_f64()
    );

    let begin = Instant::now() + args.warmup;
    let end = begin + args.duration;
    let mut asking = JoinSet::new();
    for (n, client) in clients.into_iter().enumerate() {
        let rng = StdRng::seed_from_u64(args.seed.wrapping_add(n as u64));
        let how = How { prepared: args.prepared, keys: args.keys };
        asking.spawn(ask(client, statements.clone(), how, rng, begin, end));
    }
    let mut found = Found { latencies: vec![vec![]; statements.len()], errors: vec![vec![]; statements.len()] };
    let mut progress = Progress::new();
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            one = asking.join_next() => match one {
                None => break,
                Some(Ok(one)) => found.add(one?),
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            },
            _ = tick.tick() => {
                let left = end.saturating_duration_since(Instant::now());
                progress.now(&format!("measuring, {:.0} s left", left.as_secs_f64()));
            }
            () = stop.cancelled() => return Err(CliError::Interrupted),
        }
    }
    drop(progress);
    // The last statements were answered behind the end: what is counted is a little longer than what was asked for.
    let measured = begin.elapsed();
    let reports = statements.iter().zip(found.latencies).zip(found.errors);
    let reports = reports.map(|((it, latencies), errors)| StatementReport::new(&it.name, latencies, errors));
    Ok(LoadReport {
        server: login.address.to_string(),
        concurrency: args.concurrency,
        measured,
        statements: reports.collect(),
    })
}

impl Found {
    fn add(&mut self, other: Found) {
        for (all, mut one) in self.latencies.iter_mut().zip(other.latencies) {
            all.append(&mut one);
        }
        for (all, mut one) in self.errors.iter_mut().zip(other.errors) {
            all.append(&mut one);
        }
    }
}

/// One client: asks all statements again and again, each time in another order. Errs when its connection is lost.
async fn ask(
    mut client: Client,
    statements: Vec<Statement>,
    how: How,
    mut rng: impl Rng,
    begin: Instant,
    end: Instant,
) -> Result<Found, CliError> {
    let mut found = Found { latencies: vec![vec![]; statements.len()], errors: vec![vec![]; statements.len()] };
    let mut prepared = vec![];
    if how.prepared {
        for statement in &statements {
            prepared.push(client.prepare(&statement.name, &statement.sql).await?);
        }
    }
    let mut order: Vec<usize> = (0..statements.len()).collect();
    'asking: loop {
        order.shuffle(&mut rng);
        for &n in &order {
            let started = Instant::now();
            if started >= end {
                break 'asking;
            }
            let statement = &statements[n];
            let answer = match prepared.get(n) {
                Some(prepared) => {
                    let keys = (0..prepared.num_params()).map(|_| rng.random_range(0..how.keys)).collect();
                    client.execute(&statement.name, prepared, keys).await
                }
                None => client.ask(&statement.name, &statement.sql).await.map(|_| ()),
            };
            let took = started.elapsed();
            match answer {
                // What began before does not count.
                Ok(_) if started < begin => {}
                Ok(_) => found.latencies[n].push(took),
                Err(CliError::Statement { source: mysql_async::Error::Server(error), .. }) => {
                    found.errors[n].push(format!("ERROR {}: {}", error.code, error.message));
                }
                Err(error) => return Err(error),
            }
        }
    }
    client.close().await;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: LoadArgs,
    }

    fn parse(arguments: &[&str]) -> LoadArgs {
        let line = ["load"].iter().chain(arguments);
        <CommandLine as clap::Parser>::try_parse_from(line).unwrap().args
    }

    fn names(arguments: &[&str]) -> Vec<String> {
        statements(&parse(arguments)).unwrap().into_iter().map(|it| it.name).collect()
    }

    #[test]
    fn what_is_asked_follows_the_options() {
        assert_eq!(names(&[]).len(), 22);
        assert_eq!(names(&["--queries", "6,1"]), ["q1", "q6"]);
        assert_eq!(names(&["-e", "SELECT 1", "-e", "SELECT 2"]), ["s1", "s2"]);
        assert_eq!(names(&["-e", "SELECT 1", "--queries", "3"]), ["s1", "q3"]);
        let args = parse(&["-d", "500ms", "-c", "3"]);
        assert_eq!((args.duration, args.concurrency), (Duration::from_millis(500), 3));
    }
}
