//! Choice of the weights of a command, and the first download.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use indicatif::DecimalBytes;
use meptr_core::hub::{Bundle, LocalPart, Presence, find_local};

use super::hub::{Ask, DEMO, HubArgs, can_ask, licence_of};
use super::install::HEADS_ARE_MISSING;
use super::list::size_of;
use super::pull::pull;
use crate::demo;

const INSTEAD: &str = "`--weights demo` predicts with the demo weights instead";

/// Download of weights that are not on this machine.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Getting weights")]
pub struct FirstUseArgs {
    /// Fetch weights that are missing, and accept the licences that are shown
    #[arg(long, visible_alias = "yes", conflicts_with = "offline")]
    accept_licenses: bool,
    /// Make no connection
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    hub: HubArgs,
}

impl FirstUseArgs {
    /// Folder of the bundle to use: the named one, else the one obtained last, else one that the
    /// user agrees to fetch, else the demo weights, with a message on how to get others.
    ///
    /// # Errors
    /// When the named bundle is not on this machine and cannot or must not be fetched, or fetching
    /// fails.
    pub fn bundle(
        &self,
        named: Option<&Path>,
        quiet: bool,
        ask: Ask<'_>,
    ) -> anyhow::Result<PathBuf> {
        match named {
            Some(name) if name.exists() => Ok(name.to_owned()),
            Some(name) => self.named(name, quiet),
            None => self.usual(quiet, ask),
        }
    }

    /// Folder of a bundle given by name.
    fn named(&self, name: &Path, quiet: bool) -> anyhow::Result<PathBuf> {
        let not_there = || format!("there is no folder `{}`", name.display());
        let name = name.to_str().with_context(not_there)?;
        if let Some(folder) = self.hub.bundle(name)? {
            return Ok(folder);
        }
        let catalog = self.hub.catalog()?;
        let parts = find_local(&catalog, name, &self.hub.options()?).with_context(not_there)?;
        let is_here = parts.iter().all(|part| part.presence == Presence::Complete);
        let is_repository = name.contains('/') && !is_here;
        let is_assembled = catalog.bundle(name).is_some_and(|bundle| bundle.assembly.is_some());
        anyhow::ensure!(
            is_repository || is_assembled,
            "`{name}` is no bundle that predicts; `meptr weights assemble --help` says how to make \
             one of it"
        );
        let may_fetch = is_here || self.is_offline()? || self.accept_licenses || can_ask();
        anyhow::ensure!(
            may_fetch, // offline, the failure lists what is missing
            "`{name}` is neither a folder nor a bundle on this machine; `{}` shows its size and \
             licences and gets it",
            self.hub.command("pull", name)
        );
        let folder = self.fetched(name, self.accept_licenses, quiet)?;
        folder.with_context(|| format!("`{name}` was pulled, but it is no bundle"))
    }

    /// Folder of the bundle to use when none is named.
    fn usual(&self, quiet: bool, ask: Ask<'_>) -> anyhow::Result<PathBuf> {
        let default = match self.hub.bundles() {
            Ok(bundles) => bundles.default_name(),
            Err(error) => {
                tracing::warn!("using the demo weights: {error:#}");
                return demo::folder();
            }
        };
        if let Some(folder) = default.map(|name| self.hub.bundle(&name)).transpose()?.flatten() {
            return Ok(folder);
        }
        let catalog = self.hub.catalog()?;
        let Some(bundle) = catalog.bundles().first() else { return demo::folder() };
        let offer = Offer::of(&self.hub, bundle)?;
        let name = &bundle.name;
        match self.consent(&offer, quiet, ask)? {
            Some(true) => {
                let fetched = self.fetched(name, true, quiet);
                fetched.context(INSTEAD)?.with_context(|| format!("{HEADS_ARE_MISSING}; {INSTEAD}"))
            }
            Some(false) => demo::folder(),
            None => {
                tracing::warn!("{}", offer.hint(&self.hub.command("pull", name)));
                demo::folder()
            }
        }
    }

    /// Whether missing files may be fetched; `None` when nobody can be asked, or nothing can be
    /// fetched.
    fn consent(&self, offer: &Offer, quiet: bool, ask: Ask<'_>) -> anyhow::Result<Option<bool>> {
        let is_here = offer.missing.is_empty();
        if self.accept_licenses || (is_here && offer.is_enough) {
            return Ok(Some(true)); // licences were accepted when the files were fetched
        }
        if is_here || quiet || self.is_offline()? {
            return Ok(None);
        }
        ask(&offer.question())
    }

    /// Fetches a name; its folder when it is a bundle.
    fn fetched(&self, name: &str, accepts: bool, quiet: bool) -> anyhow::Result<Option<PathBuf>> {
        let mut options = self.hub.options()?;
        options.environment.offline |= self.offline;
        Ok(pull(&self.hub, name, &options, (accepts, quiet))?.bundle)
    }

    fn is_offline(&self) -> anyhow::Result<bool> {
        Ok(self.offline || self.hub.options()?.environment.offline)
    }
}

/// Weights that can be fetched for a first prediction.
struct Offer {
    missing: Vec<LocalPart>,
    bytes: u64,
    /// Whether they then make a complete bundle.
    is_enough: bool,
}

impl Offer {
    fn of(hub: &HubArgs, bundle: &Bundle) -> anyhow::Result<Self> {
        let mut missing = find_local(&hub.catalog()?, &bundle.name, &hub.options()?)?;
        missing.retain(|part| part.presence != Presence::Complete);
        let bytes = |part: &LocalPart| -> u64 {
            let is_here = |path: &str| part.files.iter().any(|file| file.path == path);
            let files = part.part.files.iter().filter(|file| !is_here(&file.path));
            files.filter_map(|file| file.size).sum()
        };
        let bytes = missing.iter().map(bytes).sum();
        Ok(Self { missing, bytes, is_enough: bundle.assembly.is_some() })
    }

    /// Size of the download. Files without a listed size (small ones, and those of a list without
    /// sizes) are not counted: the Hub was not asked yet.
    fn size(&self) -> String {
        match self.bytes {
            0 => "an unknown number of bytes (the list does not say)".to_owned(),
            bytes => format!("about {}", DecimalBytes(bytes)),
        }
    }

    fn restricted(&self) -> String {
        let restricted = self.missing.iter().filter(|part| part.part.non_commercial);
        let names: Vec<_> = restricted.map(|part| format!("`{}`", part.part.name)).collect();
        match names.as_slice() {
            [] => String::new(),
            names => format!("; not for commercial use: {}", names.join(", ")),
        }
    }

    /// Question to a user at a terminal.
    fn question(&self) -> String {
        let mut lines =
            vec!["No trained weights are on this machine. What can be fetched:".to_owned()];
        lines.extend(self.missing.iter().map(|local| {
            let part = &local.part;
            let (size, licence) = (size_of(local), licence_of(part));
            format!("  {:<14} {size:>9}  {licence}  {}", part.name, part.title)
        }));
        lines.push(format!("In all {}{}.", self.size(), self.restricted()));
        if !self.is_enough {
            lines.push(format!("This is not enough: {HEADS_ARE_MISSING}."));
        }
        lines.push("Fetch it under these licences? (no: go on with the demo weights)".to_owned());
        lines.join("\n")
    }

    /// Message when nobody can be asked.
    fn hint(&self, command: &str) -> String {
        let mut text = format!(
            "no trained weights are on this machine: using the demo weights, whose \
             results mean nothing about people (`--weights {DEMO}` uses them without this hint)"
        );
        if !self.missing.is_empty() {
            let licences: Vec<_> = self
                .missing
                .iter()
                .map(|part| format!("{}: {}", part.part.name, licence_of(&part.part)))
                .collect();
            text.push_str(&format!(
                "\n  `{command} --accept-licenses` fetches {} under these licences: {}",
                self.size(),
                licences.join(", ")
            ));
        }
        if !self.is_enough {
            text.push_str(&format!("\n  To be added: {HEADS_ARE_MISSING}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use meptr_core::Modality;

    use super::*;

    /// A list of a bundle whose backbone is on the Hub, and nothing here of it.
    fn setting(assembly: &str) -> (tempfile::TempDir, FirstUseArgs) {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list.json");
        let text = format!(
            r#"{{ "schema": 1,
            "bundles": [ {{ "name": "all", "title": "", "parts": ["one", "two"] {assembly} }} ],
            "parts": [
              {{ "name": "one", "title": "One", "repository": "ann/one", "licence": "CC-BY-NC-4.0",
                "non_commercial": true, "files": [ {{ "path": "a", "size": 3000000 }} ] }},
              {{ "name": "two", "title": "Two", "repository": "ann/two", "licence": "MIT",
                "non_commercial": false, "files": [ {{ "path": "b", "size": 2000000 }} ] }} ] }}"#
        );
        std::fs::write(&list, text).unwrap();
        let hub = HubArgs { cache_dir: Some(folder.path().join("cache")), manifest: Some(list) };
        (folder, FirstUseArgs { hub, ..FirstUseArgs::default() })
    }

    fn asked_with(
        first: &FirstUseArgs,
        answer: Option<bool>,
    ) -> (Vec<String>, anyhow::Result<PathBuf>) {
        let questions: RefCell<Vec<String>> = RefCell::default();
        let ask = |question: &str| {
            questions.borrow_mut().push(question.to_owned());
            Ok(answer)
        };
        let folder = first.usual(false, &ask);
        (questions.into_inner(), folder)
    }

    #[test]
    fn on_a_terminal_the_offer_states_sizes_and_licences_and_no_means_the_demo() {
        let (_folder, first) = setting("");
        let (questions, folder) = asked_with(&first, Some(false));
        assert_eq!(folder.unwrap(), demo::folder().unwrap());
        let [question] = questions.as_slice() else { panic!("{questions:?}") };
        for expected in [
            "3.00 MB  CC-BY-NC-4.0 (NON-COMMERCIAL USE ONLY)  One",
            "2.00 MB  MIT  Two",
            "In all about 5.00 MB; not for commercial use: `one`.",
            "This is not enough: the heads and the fusion model",
            "(no: go on with the demo weights)",
        ] {
            assert!(question.contains(expected), "no {expected:?} in {question}");
        }
    }

    #[test]
    fn a_list_that_gives_a_whole_bundle_says_nothing_of_missing_heads() {
        let place = |modality: Modality| format!(r#""{modality}": "two/b""#);
        let heads = Modality::ALL.map(place).join(", ");
        let assembly = format!(
            r#", "assembly": {{ "status": "trained", "clip": "one", "bert": "one",
                 "wav2vec2": "one", "fusion": "two/b", "heads": {{ {heads} }} }}"#
        );
        let (_folder, first) = setting(&assembly);
        let (questions, _) = asked_with(&first, Some(false));
        assert!(questions.len() == 1 && !questions[0].contains("not enough"), "{questions:?}");
    }

    #[test]
    fn nobody_is_asked_who_cannot_answer_or_needs_nothing_from_the_network() {
        let (_folder, mut first) = setting("");
        assert!(first.usual(true, &|_| panic!("it is to be quiet")).is_ok());
        first.offline = true;
        assert!(first.usual(false, &|_| panic!("it is offline")).is_ok());
        let hint = Offer::of(&first.hub, first.hub.catalog().unwrap().bundle("all").unwrap());
        let hint = hint.unwrap().hint("meptr weights pull all");
        for expected in [
            "`meptr weights pull all --accept-licenses` fetches about 5.00 MB",
            "one: CC-BY-NC-4.0 (NON-COMMERCIAL USE ONLY), two: MIT",
            "not on the Hub",
        ] {
            assert!(hint.contains(expected), "no {expected:?} in {hint}");
        }
    }
}
