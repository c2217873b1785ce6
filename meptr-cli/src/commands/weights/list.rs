//! `meptr weights list`: known weights, and their presence on this machine.

use clap::Args;
use indicatif::DecimalBytes;
use meptr_core::hub::{LocalPart, Presence, list_local};

use super::hub::{HubArgs, licence_of};
use crate::{Finish, output};

/// List the known weights, and those that are on this machine
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    hub: HubArgs,
}

/// Lists parts, then bundles.
///
/// # Errors
/// When the list or the cache cannot be read.
pub fn run(args: &ListArgs) -> anyhow::Result<Finish> {
    let catalog = args.hub.catalog()?;
    let options = args.hub.options()?;
    let parts = list_local(&catalog, &options)?;
    let width = parts.iter().map(|part| part.part.name.len()).max().unwrap_or(0).max(4);
    let columns = ["NAME", "HERE", "SIZE", "LICENCE", "WHAT"];
    let [name, here, size, licence, what] = columns;
    output::line(format_args!("{name:<width$}  {here:<6}  {size:>9}  {licence:<40}  {what}"))?;
    for part in &parts {
        let (name, licence, title) = (&part.part.name, licence_of(&part.part), &part.part.title);
        let (here, size) = (presence(part.presence), size_of(part));
        output::line(format_args!("{name:<width$}  {here:<6}  {size:>9}  {licence:<40}  {title}"))?;
    }
    output::line(format_args!(""))?;
    for bundle in catalog.bundles() {
        let parts = bundle.parts.join(" + ");
        output::line(format_args!("{:<width$}  {}: {parts}", bundle.name, bundle.title))?;
    }
    let (bundles, default) = (args.hub.bundles()?, args.hub.bundles()?.default_name());
    let default = default.unwrap_or_default();
    for name in bundles.names() {
        let mark = if name == default { ", used where none is named" } else { "" };
        output::line(format_args!("{name:<width$}  a bundle that predicts, here{mark}"))?;
    }
    if default.contains('/') {
        output::line(format_args!("{default:<width$}  is used when no bundle is named"))?;
    }
    output::line(format_args!("\nkept in {}", options.environment.cache.display()))?;
    Ok(Finish::Complete)
}

pub fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Complete => "yes",
        Presence::Partial => "partly",
        Presence::Absent => "no",
    }
}

/// Size of a part: the larger of its listed bytes and its bytes on this machine; `?` if both are 0.
pub fn size_of(part: &LocalPart) -> String {
    let listed: u64 = part.part.files.iter().filter_map(|file| file.size).sum();
    let here: u64 = part.files.iter().map(|file| file.size).sum();
    match listed.max(here) {
        0 => "?".to_owned(),
        bytes => DecimalBytes(bytes).to_string(),
    }
}
