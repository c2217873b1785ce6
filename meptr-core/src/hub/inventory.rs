//! Inventory of the cache: lists, verifies and removes weights.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::cache::{RepositoryCache, RepositoryId};
use super::catalog::{Catalog, Part, Source};
use super::digest::{self, Kind};
use super::pins::Pins;
use super::plan::{LocalFile, Options, local_files, lookup};
use super::progress::{Event, Progress};
use super::{Error, Result};

/// A part, and what of it is on this machine.
#[derive(Debug)]
pub struct LocalPart {
    /// Entry of the catalogue; made for the occasion for a repository that was fetched by its own name.
    pub part: Part,
    /// Share of it on this machine.
    pub presence: Presence,
    /// The files that are here.
    pub files: Vec<LocalFile>,
}

/// Share of a part that is on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// No file.
    Absent,
    /// Some of its files, or files of which nobody knows whether they are all.
    Partial,
    /// All files.
    Complete,
}

/// Result of [`verify`] for one file.
#[derive(Debug)]
pub struct Finding {
    /// `owner/name/path`, or a path below a folder.
    pub file: String,
    /// Path, if the file is here.
    pub local: Option<PathBuf>,
    /// State of the file.
    pub verdict: Verdict,
}

/// Whether a file is what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its hash is the one it should have.
    Intact,
    /// It is here, but no expected hash is known.
    Unknown,
    /// It is not here.
    Missing,
    /// It has another hash.
    Damaged {
        /// The hash it should have.
        expected: String,
        /// The hash it has.
        found: String,
    },
}

/// Files and bytes that [`remove`] deleted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Files.
    pub files: usize,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Lists the parts of the catalogue, then the repositories that were fetched by their own names.
///
/// # Errors
/// When the cache cannot be read.
pub fn list_local(catalog: &Catalog, options: &Options) -> Result<Vec<LocalPart>> {
    let mut parts = catalog.parts().to_vec();
    for part in fetched_by_name(catalog, &options.environment.cache)? {
        if !parts.iter().any(|known| known.source == part.source) {
            parts.push(part);
        }
    }
    parts.into_iter().map(|part| local_part(part, options)).collect()
}

/// The parts of a name, and what of them is on this machine; nobody is asked.
///
/// # Errors
/// [`Error::UnknownName`], and when the cache cannot be read.
pub fn find_local(catalog: &Catalog, name: &str, options: &Options) -> Result<Vec<LocalPart>> {
    catalog.select(name)?.into_iter().map(|part| local_part(part, options)).collect()
}

/// Reads every file of a name from disk and compares its hash with what the Hub and the catalogue
/// said; large files that another program fetched have theirs in the name of their blob.
///
/// # Errors
/// [`Error::UnknownName`], and when a file cannot be read.
pub fn verify(
    catalog: &Catalog,
    name: &str,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for part in catalog.select(name)? {
        let found = lookup_of_any_size(&part, options)?;
        for (path, local) in found.files {
            let file = match &part.source {
                Source::Hub { repository, .. } => format!("{repository}/{path}"),
                Source::Folder(_) => path.clone(),
            };
            let expected = expected_hashes(&part, found.commit.as_deref(), &path, options)?;
            let verdict = match &local {
                None => Verdict::Missing,
                Some(_) if expected.is_empty() => Verdict::Unknown,
                Some(local) => {
                    progress.report(&Event::Checking { file: &file });
                    compare(local, &expected)?
                }
            };
            findings.push(Finding { file, local, verdict });
        }
    }
    Ok(findings)
}

/// Takes the files of a name out of the cache, for the Python library as well.
///
/// A blob goes when no snapshot of its repository links to it any more. Folders of this machine
/// that are no cache are left alone.
///
/// # Errors
/// [`Error::UnknownName`], and when a file cannot be deleted.
pub fn remove(catalog: &Catalog, name: &str, options: &Options) -> Result<Removed> {
    let mut removed = Removed::default();
    for part in catalog.select(name)? {
        let Source::Hub { repository, revision } = &part.source else { continue };
        let found = lookup_of_any_size(&part, options)?;
        let Some(commit) = found.commit else { continue };
        let cache = RepositoryCache::new(&options.environment.cache, repository);
        if !cache.folder.is_dir() {
            continue;
        }
        let paths: BTreeSet<String> = found.files.into_iter().map(|(path, _)| path).collect();
        for path in &paths {
            remove_file(&cache, &commit, path, &mut removed)?;
        }
        Pins::change(&cache, options.retry.lock_timeout, |pins| {
            if let Some(pinned) = pins.commits.get_mut(&commit) {
                pinned.files.retain(|path, _| !paths.contains(path));
                pinned.whole = false;
            }
            pins.commits.retain(|_, pinned| !pinned.files.is_empty());
            if !pins.commits.contains_key(&commit) {
                pins.revisions.remove(revision);
            }
        })?;
        if files_of_any_snapshot(&cache).is_empty() {
            cache.remove()?;
        } else if cache.snapshot_files(&commit).is_empty() {
            cache.forget(revision, &commit)?;
        }
    }
    Ok(removed)
}

fn local_part(part: Part, options: &Options) -> Result<LocalPart> {
    let found = lookup(&part, options)?;
    let present = found.files.iter().filter(|(_, local)| local.is_some());
    let present: Vec<_> = present.map(|(file, _)| file.path.clone()).collect();
    let presence = match (found.is_complete, present.is_empty()) {
        (true, _) => Presence::Complete,
        (false, true) => Presence::Absent,
        (false, false) => Presence::Partial,
    };
    let files = match (&part.source, &found.commit) {
        (Source::Hub { repository, .. }, Some(commit)) => {
            let cache = RepositoryCache::new(&options.environment.cache, repository);
            local_files(&part, &cache, repository, commit, present.iter().map(String::as_str))?
        }
        _ => Vec::new(),
    };
    Ok(LocalPart { part, presence, files })
}

fn fetched_by_name(catalog: &Catalog, cache: &Path) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut folders: Vec<_> = fs::read_dir(cache).into_iter().flatten().flatten().collect();
    folders.sort_by_key(fs::DirEntry::file_name);
    for folder in folders {
        let name = folder.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_prefix("models--")) else {
            continue;
        };
        let Some(id) = RepositoryId::parse(&id.replacen("--", "/", 1)) else { continue };
        let pins = Pins::read(&RepositoryCache::new(cache, &id))?;
        let whole = |commit: &String| pins.commits.get(commit).is_some_and(|pinned| pinned.whole);
        let by_revision = pins.revisions.iter().filter(|(_, commit)| whole(commit));
        let revisions: Vec<_> = by_revision.map(|(revision, _)| revision.clone()).collect();
        let by_commit = pins.commits.keys().filter(|commit| {
            whole(commit) && !pins.revisions.values().any(|known| known == *commit)
        });
        for revision in revisions.iter().chain(by_commit) {
            parts.extend(catalog.select(&format!("{id}@{revision}"))?);
        }
    }
    Ok(parts)
}

struct Paths {
    commit: Option<String>,
    files: Vec<(String, Option<PathBuf>)>,
}

/// Looks a part up as `lookup` does, counting files of a wrong size too: they can be removed.
fn lookup_of_any_size(part: &Part, options: &Options) -> Result<Paths> {
    let found = lookup(part, options)?;
    let at = |path: &str| match (&part.source, &found.commit) {
        (Source::Hub { repository, .. }, Some(commit)) => {
            RepositoryCache::new(&options.environment.cache, repository).present(commit, path)
        }
        (Source::Folder(folder), _) => Some(folder.join(path)).filter(|path| path.is_file()),
        (Source::Hub { .. }, None) => None,
    };
    let files = found.files.iter().map(|(file, _)| (file.path.clone(), at(&file.path))).collect();
    Ok(Paths { commit: found.commit, files })
}

/// Expected hashes of a file from all sources, as entity tags of either kind.
fn expected_hashes(
    part: &Part,
    commit: Option<&str>,
    path: &str,
    options: &Options,
) -> Result<BTreeSet<String>> {
    let listed = part.files.iter().filter(|file| file.path == path);
    let mut hashes: BTreeSet<_> = listed.filter_map(|file| file.sha256.clone()).collect();
    if let (Source::Hub { repository, .. }, Some(commit)) = (&part.source, commit) {
        let cache = RepositoryCache::new(&options.environment.cache, repository);
        let pins = Pins::read(&cache)?;
        hashes.extend(pins.file(commit, path).map(|pinned| pinned.sha256.clone()));
        hashes.extend(cache.tag(commit, path).filter(|tag| Kind::of(tag) != Kind::Opaque));
    }
    Ok(hashes)
}

fn compare(local: &Path, expected: &BTreeSet<String>) -> Result<Verdict> {
    let found = digest::of_file(local)?;
    for tag in expected {
        match found.check(tag, "") {
            Err(Error::WrongHash { expected, found, .. }) => {
                return Ok(Verdict::Damaged { expected, found });
            }
            other => other?,
        }
    }
    Ok(Verdict::Intact)
}

fn remove_file(
    cache: &RepositoryCache,
    commit: &str,
    path: &str,
    removed: &mut Removed,
) -> Result<()> {
    let pointer = cache.snapshot(commit).join(path);
    if pointer.symlink_metadata().is_err() {
        return Ok(());
    }
    let size = pointer.metadata().map_or(0, |found| found.len());
    let tag = cache.tag(commit, path);
    fs::remove_file(&pointer).map_err(Error::at(&pointer))?;
    removed.files += 1;
    let Some(tag) = tag else {
        removed.bytes += size; // a copy, not a link
        return Ok(());
    };
    let is_used =
        |(commit, path): &(String, String)| cache.tag(commit, path).as_ref() == Some(&tag);
    if !files_of_any_snapshot(cache).iter().any(is_used) {
        for blob in [cache.blob(&tag), cache.incomplete(&tag)] {
            let size = blob.metadata().map_or(0, |found| found.len());
            match fs::remove_file(&blob) {
                Ok(()) => removed.bytes += size,
                Err(source) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::at(&blob)(source)),
            }
        }
    }
    Ok(())
}

fn files_of_any_snapshot(cache: &RepositoryCache) -> Vec<(String, String)> {
    let commits = fs::read_dir(cache.folder.join("snapshots")).into_iter().flatten().flatten();
    commits
        .filter_map(|commit| commit.file_name().into_string().ok())
        .flat_map(|commit| {
            let files = cache.snapshot_files(&commit);
            files.into_iter().map(move |file| (commit.clone(), file))
        })
        .collect()
}
