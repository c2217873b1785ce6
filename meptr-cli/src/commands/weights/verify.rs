//! `meptr weights verify`: compares the files on disk with their hashes.

use std::path::Path;

use clap::Args;
use meptr_core::Bundle;
use meptr_core::bundle::Manifest;
use meptr_core::hub::{Finding, Presence, Verdict, list_local, verify};

use super::hub::{DEMO, HubArgs};
use super::progress::DownloadBars;
use crate::{Finish, demo, output};

/// Verify the hashes of weights; the exit code is 1 when a file is damaged or missing
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Name from `meptr weights list`, OWNER/REPO, `demo`, or the folder of a bundle [default: all
    /// weights on this machine]
    #[arg(value_name = "NAME|DIR")]
    name: Option<String>,
    #[command(flatten)]
    hub: HubArgs,
}

/// Verifies one name, one bundle, or everything.
///
/// # Errors
/// When a file cannot be read.
pub fn run(args: &VerifyArgs, quiet: bool) -> anyhow::Result<Finish> {
    if let Some(name) = &args.name
        && Path::new(name).join(Manifest::FILE).is_file()
    {
        return verify_bundle(Path::new(name));
    }
    if args.name.as_deref() == Some(DEMO) {
        return verify_bundle(&demo::folder()?);
    }
    let bundles = args.hub.bundles()?;
    if let Some(folder) = args.name.as_ref().and_then(|name| bundles.find(name)) {
        return verify_bundle(&folder);
    }
    let catalog = args.hub.catalog()?;
    let options = args.hub.options()?;
    let names = match &args.name {
        Some(name) => vec![name.clone()],
        None => {
            let parts = list_local(&catalog, &options)?.into_iter();
            let here = parts.filter(|part| part.presence != Presence::Absent);
            here.map(|part| part.part.name).collect()
        }
    };
    let bars = DownloadBars::new(quiet);
    let mut finish = Finish::Complete;
    for name in bundles.names().iter().filter(|_| args.name.is_none()) {
        if let (Some(folder), Finish::Complete) = (bundles.find(name), finish) {
            finish = verify_bundle(&folder)?;
        }
    }
    for name in names {
        let findings = verify(&catalog, &name, &options, &bars)?;
        bars.clear();
        let mut is_whole = !findings.is_empty();
        for finding in &findings {
            output::line(format_args!("{}", described(finding)))?;
            is_whole &= matches!(finding.verdict, Verdict::Intact | Verdict::Unknown);
        }
        if !is_whole {
            finish = Finish::SomeFailed;
            let (remove, pull) =
                (args.hub.command("remove", &name), args.hub.command("pull", &name));
            tracing::error!("`{name}` is damaged or incomplete; run `{remove}`, then `{pull}`");
        }
    }
    Ok(finish)
}

fn verify_bundle(folder: &Path) -> anyhow::Result<Finish> {
    match Bundle::open(folder) {
        Ok(bundle) => {
            let count = bundle.manifest().files.len();
            output::line(format_args!("intact   {} ({count} files)", folder.display()))?;
            Ok(Finish::Complete)
        }
        Err(meptr_core::Error::UnfitBundle { problems, .. }) => {
            for problem in problems {
                output::line(format_args!("damaged  {}: {problem}", folder.display()))?;
            }
            Ok(Finish::SomeFailed)
        }
        Err(other) => Err(other.into()),
    }
}

fn described(finding: &Finding) -> String {
    let file = &finding.file;
    match &finding.verdict {
        Verdict::Intact => format!("intact   {file}"),
        Verdict::Unknown => format!("unknown  {file}: its expected hash is not known"),
        Verdict::Missing => format!("missing  {file}"),
        Verdict::Damaged { expected, found } => {
            format!("damaged  {file}: its hash is {found}, it should be {expected}")
        }
    }
}
