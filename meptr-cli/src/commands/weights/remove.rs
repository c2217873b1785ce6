//! `meptr weights remove`: takes weights out of the cache.

use clap::Args;
use indicatif::DecimalBytes;
use meptr_core::hub::{Presence, find_local, remove};

use super::hub::{HubArgs, asked};
use crate::{Finish, output};

/// Delete weights from the cache, for the Python library as well
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Name from `meptr weights list`, or OWNER/REPO(@REVISION)
    #[arg(value_name = "NAME")]
    name: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// Says what goes, asks, and deletes it.
///
/// # Errors
/// When nobody agreed, or a file cannot be deleted.
pub fn run(args: &RemoveArgs, quiet: bool) -> anyhow::Result<Finish> {
    let catalog = args.hub.catalog()?;
    let options = args.hub.options()?;
    let name = &args.name;
    let parts = find_local(&catalog, name, &options)?;
    let here = parts.iter().filter(|part| part.presence != Presence::Absent);
    let files: Vec<_> = here.flat_map(|part| &part.files).collect();
    if !args.yes && !files.is_empty() {
        let size = DecimalBytes(files.iter().map(|file| file.size).sum());
        if !quiet {
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
    let removed = remove(&catalog, name, &options)?;
    let size = DecimalBytes(removed.bytes);
    output::line(format_args!("deleted {} files of {name}, {size}", removed.files))?;
    Ok(Finish::Complete)
}
