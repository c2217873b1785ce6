//! `meptr weights`: making and looking at weight bundles.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use meptr_core::Bundle;
use meptr_core::bundle::Standing;
use meptr_extract::init::{self, Preset};

use crate::Finish;
use crate::output;

/// Make and look at weight bundles
#[derive(Debug, Subcommand)]
pub enum WeightsCommand {
    Init(InitArgs),
    Show(ShowArgs),
}

/// Write a bundle of seeded random weights
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Folder to write; must not exist or be empty
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Sizes of the models
    #[arg(long, value_enum)]
    preset: PresetArg,
    /// Seed of every number in it
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PresetArg {
    /// Small, a few megabytes: for trying out and for tests
    Demo,
    /// The published sizes, about 1.5 GB: for measuring speed
    Full,
}

/// Show what a bundle holds, with sources, licences and hashes
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Folder of the bundle
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Runs a `meptr weights` command.
///
/// # Errors
/// When the bundle cannot be read or written.
pub fn run(command: &WeightsCommand) -> anyhow::Result<Finish> {
    match command {
        WeightsCommand::Init(args) => init_bundle(args),
        WeightsCommand::Show(args) => show(args),
    }
}

fn init_bundle(args: &InitArgs) -> anyhow::Result<Finish> {
    let preset = match args.preset {
        PresetArg::Demo => Preset::Demo,
        PresetArg::Full => Preset::Full,
    };
    let bundle = init::init_bundle(&args.folder, preset, args.seed)
        .with_context(|| format!("cannot make a bundle in `{}`", args.folder.display()))?;
    let bytes: u64 = bundle.manifest().files.values().map(|file| file.bytes).sum();
    let name = &bundle.manifest().name;
    output::line(format_args!("{}: {name}, {:.1} MB", args.folder.display(), bytes as f64 / 1e6))?;
    Ok(Finish::Complete)
}

fn show(args: &ShowArgs) -> anyhow::Result<Finish> {
    let bundle = Bundle::open(&args.folder)?;
    let manifest = bundle.manifest();
    let standing = match manifest.standing {
        Standing::Untrained => "untrained: results mean nothing",
        Standing::Demonstration => "demonstration: results mean nothing about people",
        Standing::Trained => "trained on recordings of people",
    };
    output::line(format_args!("{} ({standing})\n{}\n", manifest.name, manifest.about))?;
    for (part, origin) in manifest.origins() {
        output::line(format_args!(
            "{part:<14} {}\n{:<14} from {}; licence: {}",
            origin.name, "", origin.source, origin.licence
        ))?;
    }
    output::line(format_args!(""))?;
    for (name, file) in &manifest.files {
        output::line(format_args!("{}  {:>12}  {name}", file.sha256, file.bytes))?;
    }
    Ok(Finish::Complete)
}
