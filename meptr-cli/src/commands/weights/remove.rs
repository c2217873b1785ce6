//! `meptr weights remove`: deletes weights from the cache.

use clap::Args;
use indicatif::DecimalBytes;
use meptr_core::hub::{Error, Presence, Removed, find_local, remove};

use super::hub::{HubArgs, asked};
use crate::{Finish, output};

/// Delete weights from the cache, which the Python library shares
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Name from `meptr weights list`, or OWNER/REPO(@REVISION)
    #[arg(value_name = "NAME")]
    name: String,
    /// Delete without asking
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// Lists the files, asks, and deletes them.
///
/// # Errors
/// When the user did not agree, or a file cannot be deleted.
pub fn run(args: &RemoveArgs, quiet: bool) -> anyhow::Result<Finish> {
    let catalog = args.hub.catalog()?;
    let options = args.hub.options()?;
    let name = &args.name;
    let bundles = args.hub.bundles()?;
    let bundle = bundles.find(name);
    let parts = match find_local(&catalog, name, &options) {
        Err(Error::UnknownName { .. }) if bundle.is_some() => Vec::new(),
        parts => parts?,
    };
    let here = parts.iter().filter(|part| part.presence != Presence::Absent);
    let files: Vec<_> = here.flat_map(|part| &part.files).collect();
    if !args.yes && (bundle.is_some() || !files.is_empty()) {
        let size = DecimalBytes(files.iter().map(|file| file.size).sum());
        if !quiet {
            bundle.iter().for_each(|folder| eprintln!("  {}", folder.display()));
            files.iter().for_each(|file| eprintln!("  {}", file.local.display()));
        }
        match asked(&format!("Delete {} files, {size}?", files.len()))? {
            Some(true) => {}
            Some(false) => anyhow::bail!("nothing was deleted"),
            None => anyhow::bail!(
                "nothing was deleted: {} files, {size}, would be; `{} --yes` deletes them",
                files.len(),
                args.hub.command("remove", name)
            ),
        }
    }
    bundles.remove(name)?;
    let removed = match parts.is_empty() {
        true => Removed::default(),
        false => remove(&catalog, name, &options)?,
    };
    if let Some(folder) = bundle {
        output::line(format_args!("deleted the bundle {}", folder.display()))?;
    }
    let size = DecimalBytes(removed.bytes);
    output::line(format_args!("deleted {} files of {name}, {size}", removed.files))?;
    Ok(Finish::Complete)
}
