//! `meptr synth`: two small synthetic corpora to try training on.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use clap::Args;
use meptr_extract::Progress;
use meptr_extract::synth::corpora::{Corpora, MIN_VIDEOS};

use crate::progress::Bars;
use crate::{Finish, interrupt, output};

/// Generate two small corpora of synthetic videos, to try out training
///
/// One corpus has emotion labels, the other has trait labels. The missing labels of each are in
/// `hidden/`, for evaluation only. People are drawn and voices are synthetic, so nothing learned
/// from them applies to real people.
#[derive(Debug, Args)]
pub struct SynthArgs {
    /// Folder to write to; created if needed, must be empty
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Videos of each corpus, at least 5, about 3 s each
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = videos)]
    videos: usize,
    /// Seed; equal seeds give equal files
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
}

fn videos(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(videos) if (MIN_VIDEOS..=99_999).contains(&videos) => Ok(videos),
        _ => Err(format!("give a number from {MIN_VIDEOS} to 99999")),
    }
}

/// Writes the corpora.
///
/// # Errors
/// When the folder is not empty or cannot be written, or FFmpeg lacks an encoder.
pub fn run(args: &SynthArgs, quiet: bool) -> anyhow::Result<Finish> {
    let folder = &args.folder;
    must_be_empty(folder)?;
    let stop = interrupt::flag()?;
    let bars = Bars::new(2 * args.videos, quiet);
    let corpora = Corpora { videos: args.videos, seed: args.seed };
    let is_complete = write(&corpora, folder, &stop, &bars)?;
    drop(bars);
    let shown = folder.display();
    if !is_complete {
        tracing::warn!("stopped; `{shown}` holds videos without tables: delete it to start again");
        return Ok(Finish::SomeFailed);
    }
    let (videos, seed) = (args.videos, args.seed);
    output::line(format_args!(
        "{videos} videos with emotions, {videos} with traits, seed {seed}: \
         `{shown}/emotions.toml`, `{shown}/traits.toml`"
    ))?;
    Ok(Finish::Complete)
}

fn write(corpora: &Corpora, folder: &Path, stop: &AtomicBool, bars: &Bars) -> anyhow::Result<bool> {
    let written = corpora.write(folder, stop, |clip| {
        bars.start(clip.name.as_ref());
        bars.step("written", Some(1.0));
        bars.end();
    });
    written.context("cannot make the corpora")
}

fn must_be_empty(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder `{shown}`"))?;
    let mut entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read the folder `{shown}`"))?;
    if entries.next().is_some() {
        bail!("`{shown}` is not empty; give a new folder, or delete what is in it");
    }
    Ok(())
}
