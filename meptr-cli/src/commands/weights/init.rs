//! `meptr weights init`: a bundle of seeded random weights.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::DecimalBytes;
use meptr_extract::bundle_builder::{Preset, init_bundle};

use crate::{Finish, output};

/// Write a bundle of seeded random weights
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Folder to write; must not exist or be empty
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Sizes of the models
    #[arg(long, value_enum)]
    preset: PresetArg,
    /// Seed of all weights
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PresetArg {
    /// Small, a few megabytes, for trying out and for tests
    Demo,
    /// The published sizes, about 1.5 GB, for measuring speed
    Full,
}

/// Writes the bundle.
///
/// # Errors
/// When the folder is not empty or cannot be written.
pub fn run(args: &InitArgs) -> anyhow::Result<Finish> {
    let preset = match args.preset {
        PresetArg::Demo => Preset::Demo,
        PresetArg::Full => Preset::Full,
    };
    let bundle = init_bundle(&args.folder, preset, args.seed)
        .with_context(|| format!("cannot make a bundle in `{}`", args.folder.display()))?;
    let (name, bytes) = (&bundle.manifest().name, DecimalBytes(bundle.manifest().bytes()));
    let folder = args.folder.display();
    output::line(format_args!("{folder}: {name}, {bytes}"))?;
    Ok(Finish::Complete)
}
