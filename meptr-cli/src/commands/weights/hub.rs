//! Shared by the commands that use the Hub and its cache.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use meptr_core::bundle::Manifest;
use meptr_core::hub::{
    Bundles, Catalog, Environment, Error, LocalFile, LocalPart, Options, Part, Presence, Source,
    find_local,
};

use crate::demo;

/// Name of the weights embedded in the program.
pub const DEMO: &str = "demo";

/// Source of weights and the cache for them.
#[derive(Debug, Clone, Default, Args)]
pub struct HubArgs {
    /// Folder of the cache [default: HF_HUB_CACHE, else hub below HF_HOME]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// List of weights to use instead of the built-in one
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
}

impl HubArgs {
    pub fn catalog(&self) -> anyhow::Result<Catalog> {
        Ok(match &self.manifest {
            Some(file) => Catalog::read(file)?,
            None => Catalog::built_in(),
        })
    }

    pub fn options(&self) -> anyhow::Result<Options> {
        let mut environment = Environment::from_process()?;
        if let Some(folder) = &self.cache_dir {
            environment.cache.clone_from(folder);
        }
        Ok(Options::new(environment))
    }

    /// Bundles assembled beside the cache in use.
    pub fn bundles(&self) -> anyhow::Result<Bundles> {
        Ok(Bundles::new(&self.options()?.environment))
    }

    /// Folder of a bundle on this machine: one that was assembled, a pulled `OWNER/REPO` that is a
    /// bundle, or the embedded one.
    pub fn bundle(&self, name: &str) -> anyhow::Result<Option<PathBuf>> {
        if name == DEMO {
            return demo::folder().map(Some);
        }
        if let Some(folder) = self.bundles()?.find(name) {
            return Ok(Some(folder));
        }
        let parts = match find_local(&self.catalog()?, name, &self.options()?) {
            Err(Error::UnknownName { .. }) => return Ok(None),
            parts => parts?,
        };
        let is_whole = parts.iter().all(|part| part.presence == Presence::Complete);
        let folders = parts.iter().filter(|_| is_whole).filter_map(folder_of);
        Ok(folders.into_iter().find(|folder| folder.join(Manifest::FILE).is_file()))
    }

    /// Folder of a bundle, given by its path or its name.
    ///
    /// # Errors
    /// When neither a bundle at this path nor one of this name is on this machine.
    pub fn bundle_at(&self, place: &Path) -> anyhow::Result<PathBuf> {
        if place.exists() {
            return Ok(place.to_owned());
        }
        let named = place.to_str().map(|name| self.bundle(name)).transpose()?.flatten();
        named.with_context(|| {
            let place = place.display();
            format!("there is no folder `{place}`, and no bundle of this name on this machine")
        })
    }

    /// Command line of `meptr weights` with the list and cache of this run.
    pub fn command(&self, command: &str, name: &str) -> String {
        let mut line = format!("meptr weights {command}");
        let given = [("--manifest", &self.manifest), ("--cache-dir", &self.cache_dir)];
        for (option, value) in given {
            if let Some(value) = value {
                line.push_str(&format!(" {option} {}", quoted(&value.to_string_lossy())));
            }
        }
        format!("{line} {}", quoted(name))
    }

    /// Parts of a name, all of which must be on this machine.
    ///
    /// # Errors
    /// When parts are missing; the message names them all, and the command that fetches them.
    pub fn complete_parts(&self, name: &str) -> anyhow::Result<Vec<LocalPart>> {
        let parts = find_local(&self.catalog()?, name, &self.options()?)?;
        let absent = |part: &&LocalPart| part.presence != Presence::Complete;
        let absent: Vec<&str> = parts.iter().filter(absent).map(|p| p.part.name.as_str()).collect();
        anyhow::ensure!(
            absent.is_empty(),
            "{} is not on this machine, or not all of it; `{}` gets it",
            absent.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            self.command("pull", name)
        );
        Ok(parts)
    }

    /// Replaces the command in an error about missing files by one with the options of this run.
    pub fn explained(&self, error: Error, name: &str) -> Error {
        match error {
            Error::OfflineMissing { missing, .. } => {
                Error::OfflineMissing { missing, command: self.command("pull", name) }
            }
            other => other,
        }
    }
}

/// Quotes a word for a shell.
pub fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.@:=,+".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Root folder of a part, from one of its files.
pub fn root_of(file: &LocalFile) -> PathBuf {
    let depth = file.path.split('/').count();
    file.local.ancestors().nth(depth).unwrap_or(&file.local).to_owned()
}

/// Folder of a part that is on this machine.
pub fn folder_of(part: &LocalPart) -> Option<PathBuf> {
    match &part.part.source {
        Source::Folder(folder) => Some(folder.clone()),
        Source::Hub { .. } => part.files.first().map(root_of),
    }
}

/// Licence of a part, marked if it excludes commercial use.
pub fn licence_of(part: &Part) -> String {
    let mark = if part.non_commercial { " (NON-COMMERCIAL USE ONLY)" } else { "" };
    format!("{}{mark}", part.licence)
}

/// Whether a user at a terminal can answer questions.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Function that asks a yes-or-no question; `None` when nobody can be asked.
pub type Ask<'a> = &'a dyn Fn(&str) -> anyhow::Result<Option<bool>>;

/// Asks on the terminal; returns `None` when there is none.
///
/// # Errors
/// When the answer cannot be read.
pub fn asked(question: &str) -> anyhow::Result<Option<bool>> {
    if !can_ask() {
        return Ok(None);
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("reading the answer")?;
    Ok(Some(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_pasted() {
        let hub =
            HubArgs { cache_dir: Some("/my cache".into()), manifest: Some("it's.json".into()) };
        let expected =
            r"meptr weights pull --manifest 'it'\''s.json' --cache-dir '/my cache' ann/model@main";
        assert_eq!(hub.command("pull", "ann/model@main"), expected);
        assert_eq!(HubArgs::default().command("remove", "clip"), "meptr weights remove clip");
    }
}
