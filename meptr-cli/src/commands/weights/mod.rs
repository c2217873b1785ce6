//! `meptr weights`: download, assembly, verification and publication of weights.

mod assemble;
mod convert;
mod first_use;
mod hub;
mod init;
mod install;
mod list;
mod progress;
mod publish;
mod pull;
mod remove;
mod show;
mod verify;

use clap::Subcommand;

pub use first_use::FirstUseArgs;
pub use hub::asked;

use crate::Finish;

/// Download, assemble, verify and publish weights
#[derive(Debug, Subcommand)]
pub enum WeightsCommand {
    Pull(pull::PullArgs),
    List(list::ListArgs),
    Verify(verify::VerifyArgs),
    Path(show::PathArgs),
    Remove(remove::RemoveArgs),
    Show(show::ShowArgs),
    Convert(convert::ConvertArgs),
    Assemble(Box<assemble::AssembleArgs>),
    Publish(publish::PublishArgs),
    Init(init::InitArgs),
}

/// Runs a `meptr weights` command.
///
/// # Errors
/// When the command fails.
pub fn run(command: &WeightsCommand, quiet: bool) -> anyhow::Result<Finish> {
    match command {
        WeightsCommand::Pull(args) => pull::run(args, quiet),
        WeightsCommand::List(args) => list::run(args),
        WeightsCommand::Verify(args) => verify::run(args, quiet),
        WeightsCommand::Path(args) => show::run_path(args),
        WeightsCommand::Remove(args) => remove::run(args, quiet),
        WeightsCommand::Show(args) => show::run(args),
        WeightsCommand::Convert(args) => convert::run(args),
        WeightsCommand::Assemble(args) => assemble::run(args),
        WeightsCommand::Publish(args) => publish::run(args),
        WeightsCommand::Init(args) => init::run(args),
    }
}
