//! `meptr weights pull`: downloads weights from the Hub.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use indicatif::DecimalBytes;
use meptr_core::Bundle;
use meptr_core::bundle::Manifest;
use meptr_core::files::read_small;
use meptr_core::hub::{self, Catalog, LocalFile, Options, Plan, PlannedPart, Source};

use super::hub::{HubArgs, asked, licence_of, root_of};
use super::install::{HEADS_ARE_MISSING, install_from_catalog};
use super::progress::DownloadBars;
use crate::{Finish, output};

/// Download weights from the Hugging Face Hub; files in the cache are not downloaded again
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Name from `meptr weights list`, or OWNER/REPO(@REVISION) [default: the first bundle listed]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Accept the licences that are shown; needed where nobody can be asked
    #[arg(long, visible_alias = "yes")]
    accept_licenses: bool,
    /// Resolve branches again, instead of using the commit of the first download
    #[arg(long)]
    refresh: bool,
    /// Make no connection; print the folders, or the names of missing files
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// Lists missing files with their licences, asks, fetches them, and prints their folders.
///
/// # Errors
/// When a licence is not accepted, or something cannot be fetched.
pub fn run(args: &PullArgs, quiet: bool) -> anyhow::Result<Finish> {
    let catalog = args.hub.catalog()?;
    let mut options = args.hub.options()?;
    options.environment.offline |= args.offline;
    options.refresh = args.refresh;
    let first = catalog.bundles().first().map(|bundle| bundle.name.as_str());
    let name =
        args.name.as_deref().or(first).context("name what to pull: the list has no bundle")?;
    let pulled = pull(&args.hub, name, &options, (args.accept_licenses, quiet))?;
    report(&pulled, name, &catalog)
}

/// Files of a pull, and the bundle that they make.
pub struct Pulled {
    pub files: Vec<LocalFile>,
    /// Folder of the bundle, if the files make one.
    pub bundle: Option<PathBuf>,
    /// Whether it is the default bundle from now on.
    is_default: bool,
}

/// Fetches a name. A bundle, or one made of its parts, becomes the default bundle.
///
/// # Errors
/// When a licence is not accepted, something cannot be fetched, or the parts make no bundle.
pub fn pull(
    hub: &HubArgs,
    name: &str,
    options: &Options,
    (accepts, quiet): (bool, bool),
) -> anyhow::Result<Pulled> {
    let catalog = hub.catalog()?;
    let bars = DownloadBars::new(quiet);
    let explained = |error| hub.explained(error, name);
    let mut plan = hub::plan(&catalog, name, options, &bars).map_err(explained)?;
    bars.clear();
    let is_listed = catalog.bundle(name).is_some(); // then the list knows the licences
    let (mut files, manifest) =
        if is_listed { (Vec::new(), None) } else { fetch_manifest(&mut plan, options)? };
    if plan.missing().0 > 0 {
        settle_terms((hub, name), &plan, manifest.as_ref(), (accepts, &bars))?;
    }
    files.extend(plan.fetch(options, &bars)?);
    bars.clear();
    let assembly = catalog.bundle(name).and_then(|bundle| bundle.assembly.as_ref());
    let (bundle, is_default) = match (assembly, files.first()) {
        (Some(assembly), _) => (Some(install_from_catalog(hub, name, assembly, &files)?), true),
        (None, Some(first)) if manifest.is_some() => {
            let folder = root_of(first);
            Bundle::open(&folder)?; // every file is the one that the bundle was made of
            (Some(folder), first.repository.is_some() && note_default(hub, name))
        }
        _ => (None, false),
    };
    Ok(Pulled { files, bundle, is_default })
}

/// Makes a bundle the default one. Ignores a cache that cannot be written.
fn note_default(hub: &HubArgs, name: &str) -> bool {
    hub.bundles().is_ok_and(|bundles| bundles.set_default(name).is_ok())
}

/// Shows the licences and asks for acceptance.
fn settle_terms(
    (hub, name): (&HubArgs, &str),
    plan: &Plan,
    manifest: Option<&Manifest>,
    (accepts, bars): (bool, &DownloadBars),
) -> anyhow::Result<()> {
    let (files, bytes) = plan.missing();
    let size = DecimalBytes(bytes);
    let terms = terms(plan, manifest);
    if accepts {
        bars.say(&format!("{}\nfetching {files} files, {size}", terms.join("\n")));
        return Ok(());
    }
    eprintln!("{}", terms.join("\n")); // also when quiet: a question or a refusal follows
    match asked(&format!("Fetch {files} files, {size}, under these licences?"))? {
        Some(true) => Ok(()),
        Some(false) => anyhow::bail!("nothing was fetched: the licences were not accepted"),
        None => anyhow::bail!(
            "`{name}` has {size} to fetch, under the licences above; if you accept them: `{} \
             --accept-licenses`",
            hub.command("pull", name)
        ),
    }
}

/// Fetches and reads the manifest of a bundle ahead of the plan, for its licences.
fn fetch_manifest(
    plan: &mut Plan,
    options: &Options,
) -> anyhow::Result<(Vec<LocalFile>, Option<Manifest>)> {
    let Some(first) = plan.take(Manifest::FILE) else { return Ok((Vec::new(), None)) };
    let files = first.fetch(options, &hub::Silent)?;
    let manifest = files.first().and_then(|file| read_small(&file.local).ok());
    // Other programs also have files of this name.
    let manifest = manifest.and_then(|text| serde_json::from_slice(&text).ok());
    Ok((files, manifest))
}

/// Lists each part with its licence.
fn terms(plan: &Plan, manifest: Option<&Manifest>) -> Vec<String> {
    let in_bundle = manifest.map(|manifest| {
        let origins = manifest.origins().into_iter().map(|(part, origin)| {
            let mark = if origin.is_non_commercial() { " (NON-COMMERCIAL USE ONLY)" } else { "" };
            format!("  {part:<14} {}{mark}  {}", origin.licence, origin.name)
        });
        std::iter::once(format!("bundle `{}`: {}", manifest.name, manifest.about))
            .chain(origins)
            .collect()
    });
    in_bundle.unwrap_or_else(|| {
        let missing = |part: &&PlannedPart| part.files.iter().any(|file| file.local.is_none());
        plan.parts().iter().filter(missing).map(terms_of_part).collect()
    })
}

fn terms_of_part(planned: &PlannedPart) -> String {
    let part = &planned.part;
    let missing = planned.files.iter().filter(|file| file.local.is_none());
    let size = DecimalBytes(missing.map(|file| file.size).sum());
    let from = match &part.source {
        Source::Hub { repository, .. } => format!(" ({repository})"),
        Source::Folder(_) => String::new(),
    };
    format!("  {:<14} {size}  {}  {}{from}", part.name, licence_of(part), part.title)
}

/// Lists each part with its folder, then the next step.
fn report(pulled: &Pulled, name: &str, catalog: &Catalog) -> anyhow::Result<Finish> {
    let mut parts: Vec<(&str, u64, PathBuf)> = Vec::new();
    for file in &pulled.files {
        match parts.iter_mut().find(|(name, ..)| *name == file.part) {
            Some((_, bytes, _)) => *bytes += file.size,
            None => parts.push((&file.part, file.size, root_of(file))),
        }
    }
    for (name, bytes, folder) in &parts {
        let size = DecimalBytes(*bytes).to_string();
        output::line(format_args!("{name:<14} {size:>10}  {}", folder.display()))?;
    }
    match &pulled.bundle {
        Some(folder) => {
            output::line(format_args!(
                "{name} is a bundle that predicts, in {}",
                folder.display()
            ))?;
            output::line(format_args!("use it with: meptr predict --weights {name} VIDEO"))?;
            if pulled.is_default {
                output::line(format_args!("or, as it is now the default: meptr predict VIDEO"))?;
            }
        }
        None if catalog.bundle(name).is_some() => {
            output::line(format_args!("what is still missing: {HEADS_ARE_MISSING}"))?;
        }
        None => {}
    }
    Ok(Finish::Complete)
}
