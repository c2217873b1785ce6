//! Resolution of a name to files on this machine, and the download of the missing ones.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use super::api::Api;
use super::cache::{RepositoryCache, RepositoryId, files_below, is_commit};
use super::catalog::{Catalog, Part, PartFile, Source};
use super::digest::{self, Kind};
use super::download::{Download, DownloadProgress};
use super::environment::Environment;
use super::http::{FileHead, Http, Remote};
use super::pins::{PinnedFile, Pins};
use super::progress::{Event, Progress};
use super::retry::RetryPolicy;
use super::{Error, Result};

/// Settings of a look-up or download.
#[derive(Debug, Clone)]
pub struct Options {
    /// Hub, cache, token, and whether the network may be used.
    pub environment: Environment,
    /// Ask the Hub what a branch is now, and do not keep to the commit of the first download.
    pub refresh: bool,
    /// Time limits and retries.
    pub retry: RetryPolicy,
}

impl Options {
    /// Options with the usual retries, in the given environment.
    pub fn new(environment: Environment) -> Self {
        Self { environment, refresh: false, retry: RetryPolicy::default() }
    }
}

/// A file of a part, on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    /// Name of the part.
    pub part: String,
    /// `owner/name`, unless the part is a folder of this machine.
    pub repository: Option<String>,
    /// The commit of the repository.
    pub commit: Option<String>,
    /// Path inside the repository or folder, with `/` between names.
    pub path: String,
    /// Path on this machine.
    pub local: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Known for what this program fetched, and for large files that others fetched.
    pub sha256: Option<String>,
}

/// Parts of a name, with the files that are here and those to fetch.
#[derive(Debug)]
pub struct Plan {
    parts: Vec<PlannedPart>,
}

/// A part of a [`Plan`].
#[derive(Debug)]
pub struct PlannedPart {
    /// Entry of the catalogue.
    pub part: Part,
    /// The commit its files are of; none for a folder of this machine.
    pub commit: Option<String>,
    /// Files of the part.
    pub files: Vec<PlannedFile>,
}

/// A file of a [`PlannedPart`].
#[derive(Debug)]
pub struct PlannedFile {
    /// Inside the repository or folder.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Path, if the file is here.
    pub local: Option<PathBuf>,
    /// Entity tag and size from the Hub, if it was asked.
    head: Option<FileHead>,
    promised_sha256: Option<String>,
}

/// Fetches the missing files of a name; returns the paths of all its files.
///
/// # Errors
/// See [`plan`] and [`Plan::fetch`].
pub fn resolve(
    catalog: &Catalog,
    name: &str,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<LocalFile>> {
    plan(catalog, name, options, progress)?.fetch(options, progress)
}

/// Finds out what a name needs, what of it is here, and how large the rest is.
///
/// Makes no connection when all is here (unless [`Options::refresh`]), and never when offline.
///
/// # Errors
/// [`Error::UnknownName`]; [`Error::OfflineMissing`] with everything that is missing when offline;
/// otherwise whatever keeps us from asking the Hub.
pub fn plan(
    catalog: &Catalog,
    name: &str,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Plan> {
    let is_offline = options.environment.offline;
    let mut hub = None;
    let mut missing = Vec::new();
    let mut parts = Vec::new();
    for part in catalog.select(name)? {
        let found = lookup(&part, options)?;
        if is_offline {
            missing.extend(found.missing(&part));
        }
        if is_offline || (found.is_complete && !options.refresh) {
            parts.push(found.into_planned(part)?);
            continue;
        }
        let hub = match &mut hub {
            Some(hub) => hub,
            none => none.insert(Hub::new(options, progress)?),
        };
        parts.push(hub.ask(part, found.commit)?);
    }
    if !missing.is_empty() {
        return Err(Error::OfflineMissing { missing, command: catalog.command(name) });
    }
    Ok(Plan { parts })
}

impl Plan {
    /// Parts, in the catalogue's order.
    pub fn parts(&self) -> &[PlannedPart] {
        &self.parts
    }

    /// Number and bytes of the files that have to be fetched.
    pub fn missing(&self) -> (usize, u64) {
        let files = self.parts.iter().flat_map(|part| &part.files);
        let sizes = files.filter(|file| file.local.is_none()).map(|file| file.size);
        sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes.saturating_add(size)))
    }

    /// Takes one file out, to be fetched and read before anything is decided about the rest; nothing
    /// when no part has a file of this path.
    pub fn take(&mut self, path: &str) -> Option<Self> {
        self.parts.iter_mut().find_map(|planned| {
            let place = planned.files.iter().position(|file| file.path == path)?;
            let file = planned.files.remove(place);
            // With its files listed, the part is not taken for a whole repository.
            let part = Part { files: vec![any_file(path.to_owned())], ..planned.part.clone() };
            let taken = PlannedPart { part, commit: planned.commit.clone(), files: vec![file] };
            Some(Self { parts: vec![taken] })
        })
    }

    /// Fetches the missing files; returns the paths of all files.
    ///
    /// # Errors
    /// Whatever goes wrong first; what was fetched until then stays and need not be fetched again.
    pub fn fetch(self, options: &Options, progress: &dyn Progress) -> Result<Vec<LocalFile>> {
        let (files, bytes) = self.missing();
        let totals = DownloadProgress { reporter: progress, all: bytes, finished: Cell::new(0) };
        let mut http = None;
        if files > 0 {
            progress.report(&Event::Started { files, bytes });
            http = Some(Http::new(&options.environment, &options.retry)?);
        }
        let mut found = Vec::new();
        for part in self.parts {
            found.extend(part.fetch(http.as_ref(), options, &totals)?);
        }
        Ok(found)
    }
}

impl PlannedPart {
    fn fetch(
        self,
        http: Option<&Http>,
        options: &Options,
        progress: &DownloadProgress<'_>,
    ) -> Result<Vec<LocalFile>> {
        let (Source::Hub { repository, revision }, Some(commit)) =
            (&self.part.source, &self.commit)
        else {
            let part = &self.part;
            let files = self.files.iter().filter_map(|file| file.local_of(part));
            return files.collect();
        };
        let cache = RepositoryCache::new(&options.environment.cache, repository);
        let mut pinned = Vec::new();
        let mut has_fetched = false;
        for file in &self.files {
            let Some(head) = &file.head else { continue };
            if let (None, Some(http)) = (&file.local, http) {
                let download = Download {
                    http,
                    cache: &cache,
                    remote: Remote { repository, commit, path: &file.path },
                    head,
                    promised_sha256: file.promised_sha256.as_deref(),
                    retry: &options.retry,
                    progress,
                };
                pinned.push((file.path.clone(), download.run()?));
                has_fetched = true;
            } else if let Some(local) = &file.local {
                let sha256 = digest::known_or_read(&head.tag, local)?;
                pinned.push((file.path.clone(), PinnedFile { size: head.size, sha256 }));
            }
        }
        if !pinned.is_empty() {
            match self.note(&cache, revision, commit, pinned, options) {
                Err(Error::ReadOnlyCache { .. }) if !has_fetched => {} // it was all here before
                noted => noted?,
            }
        }
        local_files(&self.part, &cache, repository, commit, self.files.iter().map(|f| &*f.path))
    }

    /// Stores the commit of the revision and the hashes of its files.
    fn note(
        &self,
        cache: &RepositoryCache,
        revision: &str,
        commit: &str,
        files: Vec<(String, PinnedFile)>,
        options: &Options,
    ) -> Result<()> {
        if !is_commit(revision) {
            cache.write_ref(revision, commit)?;
        }
        Pins::change(cache, options.retry.lock_timeout, |pins| {
            if !is_commit(revision) {
                pins.revisions.insert(revision.to_owned(), commit.to_owned());
            }
            let pinned = pins.commits.entry(commit.to_owned()).or_default();
            pinned.whole |= self.part.files.is_empty();
            pinned.files.extend(files);
        })
    }
}

impl PlannedFile {
    /// A file of a folder, which must be the one that the list promises.
    fn local_of(&self, part: &Part) -> Option<Result<LocalFile>> {
        let local = self.local.clone()?;
        let checked = self.promised_sha256.as_ref().map_or(Ok(()), |expected| {
            let found = digest::of_file(&local)?.sha256;
            if found == *expected {
                return Ok(());
            }
            let (file, kind) = (local.display().to_string(), "sha256");
            let (promised_by, expected) = ("the list of weights", expected.clone());
            Err(Error::WrongHash { file, kind, promised_by, expected, found })
        });
        Some(checked.map(|()| LocalFile {
            part: part.name.clone(),
            repository: None,
            commit: None,
            path: self.path.clone(),
            local,
            size: self.size,
            sha256: self.promised_sha256.clone(),
        }))
    }
}

/// Files of a part on this machine.
pub(super) struct Found {
    pub(super) commit: Option<String>,
    pub(super) files: Vec<(PartFile, Option<PathBuf>)>,
    pub(super) is_complete: bool,
}

/// Looks a part up on this machine, without the network.
pub(super) fn lookup(part: &Part, options: &Options) -> Result<Found> {
    match &part.source {
        Source::Folder(folder) => Ok(lookup_in_folder(part, folder)),
        Source::Hub { repository, revision } => {
            let cache = RepositoryCache::new(&options.environment.cache, repository);
            lookup_in_cache(part, &cache, revision)
        }
    }
}

fn lookup_in_folder(part: &Part, folder: &Path) -> Found {
    let wanted = match part.files.as_slice() {
        [] => files_below(folder).into_iter().map(any_file).collect(),
        files => files.to_vec(),
    };
    let present = |path: &str| Some(folder.join(path)).filter(|path| path.is_file());
    let files: Vec<_> = wanted
        .into_iter()
        .map(|file| {
            let local = present(&file.path);
            (file, local)
        })
        .collect();
    let is_complete = !files.is_empty() && files.iter().all(|(_, local)| local.is_some());
    Found { commit: None, files, is_complete }
}

fn lookup_in_cache(part: &Part, cache: &RepositoryCache, revision: &str) -> Result<Found> {
    let pins = Pins::read(cache)?;
    let commit = Some(revision.to_owned())
        .filter(|revision| is_commit(revision))
        .or_else(|| pins.revisions.get(revision).cloned())
        .or_else(|| cache.read_ref(revision));
    let Some(commit) = commit else {
        let files = part.files.iter().map(|file| (file.clone(), None)).collect();
        return Ok(Found { commit: None, files, is_complete: false });
    };
    let pinned = pins.commits.get(&commit);
    let is_listed = !part.files.is_empty() || pinned.is_some_and(|pinned| pinned.whole);
    let wanted = match (part.files.as_slice(), pinned.filter(|pinned| pinned.whole)) {
        ([], Some(pinned)) => pinned.files.keys().cloned().map(any_file).collect(),
        ([], None) => cache.snapshot_files(&commit).into_iter().map(any_file).collect(),
        (files, _) => files.to_vec(),
    };
    let files: Vec<_> = wanted
        .into_iter()
        .map(|file| {
            let size = pins.file(&commit, &file.path).map(|pinned| pinned.size).or(file.size);
            let local = cache.present(&commit, &file.path).filter(|local| has_size(local, size));
            let tag = cache.tag(&commit, &file.path);
            let local = local.filter(|_| is_promised(tag.as_deref(), file.sha256.as_deref()));
            (file, local)
        })
        .collect();
    let is_here = !files.is_empty() && files.iter().all(|(_, local)| local.is_some());
    Ok(Found { commit: Some(commit), files, is_complete: is_listed && is_here })
}

fn any_file(path: String) -> PartFile {
    PartFile { path, size: None, sha256: None }
}

/// Whether an entity tag does not contradict the SHA-256 of the catalogue.
fn is_promised(tag: Option<&str>, sha256: Option<&str>) -> bool {
    match (tag, sha256) {
        (Some(tag), Some(sha256)) => Kind::of(tag) != Kind::Sha256 || tag == sha256,
        _ => true,
    }
}

fn has_size(path: &Path, size: Option<u64>) -> bool {
    size.is_none_or(|size| path.metadata().is_ok_and(|found| found.len() == size))
}

impl Found {
    /// Names of what is missing; the part itself when not even its files are known.
    fn missing(&self, part: &Part) -> Vec<String> {
        let Source::Hub { repository: place, .. } = &part.source else {
            return Vec::new(); // no network would help
        };
        if self.files.is_empty() {
            return vec![format!("everything of {place}")];
        }
        let missing = self.files.iter().filter(|(_, local)| local.is_none());
        missing.map(|(file, _)| format!("{place}/{}", file.path)).collect()
    }

    fn into_planned(self, part: Part) -> Result<PlannedPart> {
        if let (Source::Folder(folder), false) = (&part.source, self.is_complete) {
            let what = format!("complete `{}` in `{}`", part.name, folder.display());
            return Err(Error::NotFound { what });
        }
        let files = self.files.into_iter().map(|(file, local)| {
            let size = local.as_ref().and_then(|local| local.metadata().ok());
            let size = size.map_or(0, |found| found.len());
            if let (Some(local), Some(expected)) = (&local, file.size.filter(|it| *it != size)) {
                let (file, promised_by) = (local.display().to_string(), "the list of weights");
                return Err(Error::WrongSize { file, promised_by, expected, found: size });
            }
            let (path, promised_sha256) = (file.path, file.sha256);
            Ok(PlannedFile { path, size, local, head: None, promised_sha256 })
        });
        Ok(PlannedPart { commit: self.commit, files: files.collect::<Result<_>>()?, part })
    }
}

/// The files of a part that are all in the cache.
pub(super) fn local_files<'a>(
    part: &Part,
    cache: &RepositoryCache,
    repository: &RepositoryId,
    commit: &str,
    paths: impl Iterator<Item = &'a str>,
) -> Result<Vec<LocalFile>> {
    let pins = Pins::read(cache)?;
    paths
        .map(|path| {
            let local = cache.snapshot(commit).join(path);
            let size = local.metadata().map_err(Error::at(&local))?.len();
            let pinned = pins.file(commit, path).map(|pinned| pinned.sha256.clone());
            let tag = || cache.tag(commit, path).filter(|tag| tag.len() == 64);
            Ok(LocalFile {
                part: part.name.clone(),
                repository: Some(repository.to_string()),
                commit: Some(commit.to_owned()),
                path: path.to_owned(),
                local,
                size,
                sha256: pinned.or_else(tag),
            })
        })
        .collect()
}

/// Connections to the Hub, opened for the first question.
struct Hub<'a> {
    api: Api,
    http: Http,
    options: &'a Options,
    progress: &'a dyn Progress,
}

impl<'a> Hub<'a> {
    fn new(options: &'a Options, progress: &'a dyn Progress) -> Result<Self> {
        let api = Api::new(&options.environment)?;
        let http = Http::new(&options.environment, &options.retry)?;
        Ok(Self { api, http, options, progress })
    }

    fn ask(&self, part: Part, known_commit: Option<String>) -> Result<PlannedPart> {
        let Source::Hub { repository, revision } = &part.source else {
            return lookup(&part, self.options)?.into_planned(part);
        };
        self.progress.report(&Event::Asking { repository: &repository.to_string() });
        let known_commit = known_commit.filter(|_| !self.options.refresh || is_commit(revision));
        let (commit, wanted) = match (known_commit, part.files.as_slice()) {
            (Some(commit), [_, ..]) => (commit, part.files.clone()),
            (known, listed) => {
                let asked = known.as_deref().unwrap_or(revision);
                let answer = self
                    .options
                    .retry
                    .run(self.progress, || self.api.revision(&self.http, repository, asked))?;
                let wanted = match listed {
                    [] => wanted_of(answer.files).into_iter().map(any_file).collect(),
                    listed => listed.to_vec(),
                };
                (answer.commit, wanted)
            }
        };
        let files = wanted.into_iter().map(|file| self.file(file, repository, &commit));
        let files = files.collect::<Result<_>>()?;
        Ok(PlannedPart { commit: Some(commit), files, part })
    }

    fn file(&self, file: PartFile, repository: &RepositoryId, commit: &str) -> Result<PlannedFile> {
        let remote = Remote { repository, commit, path: &file.path };
        let head = self.options.retry.run(self.progress, || self.http.head(remote))?;
        let promised_by = "the list of weights";
        if let Some(expected) = file.size.filter(|size| *size != head.size) {
            let (file, found) = (remote.to_string(), head.size);
            return Err(Error::WrongSize { file, promised_by, expected, found });
        }
        if let Some(expected) = file.sha256.clone()
            && !is_promised(Some(&head.tag), Some(&expected))
        {
            let (file, kind, found) = (remote.to_string(), "sha256", head.tag);
            return Err(Error::WrongHash { file, kind, promised_by, expected, found });
        }
        let cache = RepositoryCache::new(&self.options.environment.cache, repository);
        let local = cache.present(commit, &file.path);
        let local = local.filter(|local| has_size(local, Some(head.size)));
        let (path, promised_sha256) = (file.path, file.sha256);
        Ok(PlannedFile { path, size: head.size, local, head: Some(head), promised_sha256 })
    }
}

/// Selects the files of a repository that a bundle can use: tensors, configurations, texts; pickles
/// only where there are no safetensors.
fn wanted_of(files: Vec<String>) -> Vec<String> {
    let extension = |path: &str| path.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase());
    let has = |path: &str, ends: &[&str]| extension(path).is_some_and(|end| ends.contains(&&*end));
    let has_safetensors = files.iter().any(|path| has(path, &["safetensors"]));
    let is_wanted = |path: &str| {
        has(path, &["safetensors", "json", "toml", "txt", "md", "csv"])
            || path.starts_with("LICENSE")
            || (!has_safetensors && has(path, &["bin", "pt", "pth"]))
    };
    files.into_iter().filter(|path| is_wanted(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pickles_are_taken_only_where_there_are_no_safetensors() {
        let wanted = |paths: &[&str]| wanted_of(paths.iter().map(|p| (*p).to_owned()).collect());
        let all = [".gitattributes", "LICENSE", "a.json", "m.safetensors", "m.bin", "m.onnx"];
        assert_eq!(wanted(&all), ["LICENSE", "a.json", "m.safetensors"]);
        assert_eq!(wanted(&["x/heads.pt", "tf_model.h5"]), ["x/heads.pt"]);
    }
}
