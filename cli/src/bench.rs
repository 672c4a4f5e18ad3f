//! `sheaf bench`: numbers that anyone can measure again.

mod cpu;
mod exchange;

use clap::Subcommand;

use crate::error::CliError;

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
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
        BenchCommand::Exchange(args) => exchange::run(args),
        BenchCommand::ExchangeProducer(args) => exchange::run_producer(&args),
    }
}
