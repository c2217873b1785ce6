//! `meptr weights show` and `path`: content and folder of a bundle or part.

use std::path::{Path, PathBuf};

use clap::Args;
use meptr_core::Bundle;
use meptr_core::bundle::TrainingStatus;
use meptr_core::hub::{LocalPart, Source, find_local};

use super::hub::{HubArgs, folder_of, licence_of};
use super::list::{presence, size_of};
use crate::{Finish, output};

/// Show the content of a bundle or part, with sources, licences and hashes
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Folder of a bundle, name from `meptr weights list`, OWNER/REPO, or `demo`
    #[arg(value_name = "DIR|NAME")]
    name: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
}

/// Print the folder of weights
#[derive(Debug, Args)]
pub struct PathArgs {
    /// Name from `meptr weights list`, OWNER/REPO(@REVISION), or `demo`
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    hub: HubArgs,
}

/// Shows a bundle, or the parts of a name.
///
/// # Errors
/// When the bundle cannot be opened, or the name is unknown.
pub fn run(args: &ShowArgs) -> anyhow::Result<Finish> {
    let name = args.name.to_string_lossy();
    if args.name.is_dir() {
        return show_bundle(&args.name);
    }
    if let Some(folder) = args.hub.bundle(&name)? {
        return show_bundle(&folder);
    }
    for part in find_local(&args.hub.catalog()?, &name, &args.hub.options()?)? {
        show_part(&part)?;
    }
    Ok(Finish::Complete)
}

/// Prints one folder per line.
///
/// # Errors
/// When files are missing; the message names the command that fetches them.
pub fn run_path(args: &PathArgs) -> anyhow::Result<Finish> {
    if let Some(folder) = args.hub.bundle(&args.name)? {
        output::line(format_args!("{}", folder.display()))?;
        return Ok(Finish::Complete);
    }
    for part in args.hub.complete_parts(&args.name)? {
        if let Some(folder) = folder_of(&part) {
            output::line(format_args!("{}", folder.display()))?;
        }
    }
    Ok(Finish::Complete)
}

fn show_bundle(folder: &Path) -> anyhow::Result<Finish> {
    let bundle = Bundle::open(folder)?;
    let manifest = bundle.manifest();
    let status = match manifest.status {
        TrainingStatus::Untrained => "untrained: results mean nothing",
        TrainingStatus::Demonstration => "demonstration: results mean nothing about people",
        TrainingStatus::Trained => "trained on recordings of people",
    };
    output::line(format_args!("{} ({status})\n{}\n", manifest.name, manifest.about))?;
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

fn show_part(local: &LocalPart) -> anyhow::Result<()> {
    let part = &local.part;
    let from = match &part.source {
        Source::Hub { repository, revision } => format!("{repository}@{revision}"),
        Source::Folder(folder) => folder.display().to_string(),
    };
    output::line(format_args!(
        "{} ({})\n  from {from}\n  licence: {}\n  here: {}, {}",
        part.name,
        part.title,
        licence_of(part),
        presence(local.presence),
        size_of(local)
    ))?;
    for file in &local.files {
        let sha256 = file.sha256.as_deref().unwrap_or("");
        output::line(format_args!("{sha256:<64}  {:>12}  {}", file.size, file.local.display()))?;
    }
    let listed = part.files.iter().filter(|file| local.files.iter().all(|f| f.path != file.path));
    for file in listed {
        let sha256 = file.sha256.as_deref().unwrap_or("");
        let size = file.size.map_or_else(|| "?".to_owned(), |size| size.to_string());
        output::line(format_args!("{sha256:<64}  {size:>12}  {} (not here)", file.path))?;
    }
    Ok(())
}
