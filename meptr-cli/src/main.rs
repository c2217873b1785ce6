//! `meptr`: apparent emotions and personality traits of the persons in a video.
//!
//! - `commands`: one file per command, its flags and what it does
//! - `report`: renderers of predictions: table, JSON, JSON lines, CSV
//! - `inputs`: videos named on the command line
//! - `output`: standard output for results, standard error for everything else
//! - `progress`: bars for videos and for training
//! - `workers`: several videos at a time, on one or several devices
//! - `interrupt`: Ctrl-C and SIGTERM
//! - `demo`: demo bundle, embedded in the program

#![expect(
    unreachable_pub,
    reason = "a program has no public interface: `pub` means used by another module"
)]

mod commands;
mod demo;
mod inputs;
mod interrupt;
mod output;
mod progress;
mod report;
mod workers;

use std::num::NonZero;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Emotions and personality traits of the people in a video.
///
/// Results go to standard output, everything else to standard error. Exit codes: 0 all done,
/// 1 some inputs failed, 2 could not start.
#[derive(Debug, Parser)]
#[command(name = "meptr", version)]
struct Cli {
    /// Show no progress and no warnings, only errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Processor threads to use [default: all]
    #[arg(long, value_name = "N", global = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Predict(Box<commands::predict::PredictArgs>),
    Extract(commands::extract::ExtractArgs),
    Synth(commands::synth::SynthArgs),
    Train(Box<commands::train::TrainArgs>),
    Evaluate(commands::evaluate::EvaluateArgs),
    Search(Box<commands::search::SearchArgs>),
    #[command(subcommand)]
    Weights(commands::weights::WeightsCommand),
}

/// Outcome of a run that could start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    /// All results are there.
    Complete,
    /// Some inputs gave no result.
    SomeFailed,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    set_threads(cli.threads);
    output::start_log(cli.quiet);
    match run(&cli) {
        Ok(Finish::Complete) => ExitCode::SUCCESS,
        Ok(Finish::SomeFailed) => ExitCode::from(1),
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Finish> {
    match &cli.command {
        Command::Predict(args) => commands::predict::run(args, cli.quiet),
        Command::Extract(args) => commands::extract::run(args, cli.quiet),
        Command::Synth(args) => commands::synth::run(args, cli.quiet),
        Command::Train(args) => commands::train::run(args, cli.quiet),
        Command::Evaluate(args) => commands::evaluate::run(args, cli.quiet),
        Command::Search(args) => commands::search::run(args, cli.quiet),
        Command::Weights(command) => commands::weights::run(command, cli.quiet),
    }
}

/// Sets the environment variables from which Rayon and Candle read their number of threads: to the
/// argument, else unchanged if set, else to the cores that this process may use.
///
/// Without a number, Candle counts the cores in `/proc/cpuinfo` at every matrix multiplication.
fn set_threads(asked: Option<u16>) {
    for name in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
        let threads = match asked {
            Some(threads) => usize::from(threads),
            None if std::env::var_os(name).is_some() => continue,
            None => std::thread::available_parallelism().map_or(1, NonZero::get),
        };
        #[expect(
            unsafe_code,
            reason = "Candle reads its number of threads only from the environment"
        )]
        // SAFETY: called at the start of `main`; parsing of arguments starts no thread, so no other
        // thread reads the environment.
        unsafe {
            std::env::set_var(name, threads.to_string());
        }
    }
}
