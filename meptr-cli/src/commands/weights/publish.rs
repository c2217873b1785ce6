//! `meptr weights publish`: prepares a folder for upload to the Hub.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use indicatif::DecimalBytes;
use meptr_core::Bundle;
use meptr_core::bundle::{Manifest, ModelCardOptions, Origin, model_card};
use meptr_core::files::{read_small, write_whole};
use meptr_core::hub::RepositoryId;

use super::hub::{HubArgs, quoted};
use crate::{Finish, output};

/// Prepare a folder that can be uploaded as a Hub repository, with a model card
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// Bundle: a folder, or the name of one that was assembled or pulled; it is checked and not
    /// changed
    #[arg(value_name = "DIR|NAME")]
    bundle: PathBuf,
    /// Folder to write; must not exist or be empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the repository, for the commands in the card
    #[arg(long, value_name = "OWNER/NAME", value_parser = repository)]
    repository: Option<String>,
    /// Score, data and result, such as "mean CCC, test=0.31"; can be repeated
    #[arg(long = "score", value_name = "MEASURED=RESULT", value_parser = score)]
    scores: Vec<(String, String)>,
    #[command(flatten)]
    hub: HubArgs,
}

/// Git attributes: weight files are stored by Git LFS, as the Hub requires.
const GIT_ATTRIBUTES: &str = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n";

fn repository(text: &str) -> Result<String, String> {
    RepositoryId::parse(text).map(|id| id.to_string()).ok_or("give OWNER/NAME".to_owned())
}

fn score(text: &str) -> Result<(String, String), String> {
    let (measured, result) = text.rsplit_once('=').ok_or("give MEASURED=RESULT")?;
    Ok((measured.trim().to_owned(), result.trim().to_owned()))
}

/// Writes the folder.
///
/// # Errors
/// When the bundle is incomplete, a part has no licence, or the folder cannot be written.
pub fn run(args: &PublishArgs) -> anyhow::Result<Finish> {
    let bundle = Bundle::open(&args.hub.bundle_at(&args.bundle)?)?;
    let manifest = bundle.manifest();
    let origins = manifest.origins();
    let unlicensed = origins.iter().filter(|(_, origin)| origin.licence == Origin::NO_LICENCE);
    let unlicensed: Vec<&str> = unlicensed.map(|(part, _)| part.as_str()).collect();
    anyhow::ensure!(
        unlicensed.is_empty(),
        "these parts have no licence: {}; give one with `meptr weights assemble --licence`",
        unlicensed.join(", ")
    );
    let options =
        ModelCardOptions { repository: args.repository.clone(), scores: args.scores.clone() };
    write(&bundle, &args.out, &model_card(manifest, &options))
        .with_context(|| format!("cannot write `{}`", args.out.display()))?;

    for (part, origin) in origins.iter().filter(|(_, origin)| origin.is_non_commercial()) {
        tracing::warn!("{part} is for non-commercial use only ({})", origin.licence);
    }
    let bytes = DecimalBytes(manifest.bytes());
    let folder = args.out.display();
    output::line(format_args!("{folder}: {}, {bytes}; see its README.md", manifest.name))?;
    let repository = args.repository.as_deref().unwrap_or("OWNER/NAME");
    let folder = quoted(&args.out.to_string_lossy());
    output::line(format_args!("upload it with: hf upload {repository} {folder}"))?;
    Ok(Finish::Complete)
}

fn write(bundle: &Bundle, out: &Path, card: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(out)?;
    anyhow::ensure!(std::fs::read_dir(out)?.next().is_none(), "the folder is not empty");
    for name in bundle.manifest().files.keys() {
        let (source, target) = (bundle.path(name).canonicalize()?, out.join(name));
        std::fs::create_dir_all(target.parent().context("it lies in the folder")?)?;
        // Hard links save gigabytes, where the file system has them. Small files are copied, since
        // they may be edited.
        let is_large = name.ends_with(".safetensors");
        if !is_large || std::fs::hard_link(&source, &target).is_err() {
            std::fs::copy(&source, &target)?;
        }
    }
    write_whole(&out.join("README.md"), card.as_bytes())?;
    write_whole(&out.join(".gitattributes"), GIT_ATTRIBUTES.as_bytes())?;
    // Last: without it, the folder is no bundle.
    let manifest = read_small(&bundle.path(Manifest::FILE))?;
    Ok(write_whole(&out.join(Manifest::FILE), &manifest)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_may_have_an_equals_sign_in_what_was_measured() {
        let expected = ("mAcc (k=5), test".to_owned(), "0.91".to_owned());
        assert_eq!(score("mAcc (k=5), test = 0.91"), Ok(expected));
        assert!(repository("ann/model").is_ok() && repository("model").is_err());
    }
}
