//! `sheaf bench`: numbers that anyone can measure again.

mod child;
mod compare;
mod cpu;
mod datafusion_peer;
mod exchange;
mod load;
mod peer;
mod processes;
mod report;
mod samples;
mod system;
mod tpch;

use clap::Subcommand;

use crate::error::CliError;

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Run TPC-H on SheafDB and on its peers, side by side.
    ///
    /// Writes the tables as Parquet files, starts every system over the same files, and runs each query on each in turn,
    /// several times. Every answer is compared with the first system's. Prints medians and spreads of wall time and of
    /// the time on processors of all processes of a system, their ratios to the first system, memory, and the bytes that
    /// were exchanged between tasks. The exit status is 0 only if every answer was right.
    Tpch(tpch::TpchBenchArgs),
    /// Ask a running server with many clients at once.
    ///
    /// Each client has a connection of its own and asks all statements again and again, each time in another order.
    /// Prints how many were answered, how many a second, and within which times. The exit status is 0 only if none
    /// failed.
    Load(load::LoadArgs),
    /// Compare two JSON files that sheaf bench tpch or sheaf bench load wrote.
    Compare(compare::CompareArgs),
    /// DataFusion as a peer of `sheaf bench tpch`, which starts it: statements in, answers out.
    #[command(hide = true)]
    DatafusionPeer(datafusion_peer::DataFusionArgs),
    /// Measure how fast rows pass from task to task.
    ///
    /// Columns of TPC-H's lineitem, held in memory, go from producing to consuming tasks over one kind of link. Producers
    /// and consumers run in processes of their own, but for the link `local`. Processor time is that of both ends.
    Exchange(exchange::ExchangeArgs),
    /// The producing end of `sheaf bench exchange`, which starts it.
    #[command(hide = true)]
    ExchangeProducer(exchange::ProducerArgs),
}

pub fn run(command: BenchCommand) -> Result<(), CliError> {
    match command {
        BenchCommand::Tpch(args) => tpch::run(args),
        BenchCommand::Load(args) => load::run(args),
        BenchCommand::Compare(args) => compare::run(&args),
        BenchCommand::DatafusionPeer(args) => datafusion_peer::run(args),
        BenchCommand::Exchange(args) => exchange::run(args),
        BenchCommand::ExchangeProducer(args) => exchange::run_producer(&args),
    }
}
