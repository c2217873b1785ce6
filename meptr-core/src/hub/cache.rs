//! The folder layout of the Hub cache, shared with the Python library and the `hf-hub` crate.
//!
//! ```text
//! models--OWNER--NAME/blobs/TAG                    the bytes; TAG is the Hub's entity tag
//! models--OWNER--NAME/blobs/TAG.incomplete         what an interrupted download left
//! models--OWNER--NAME/refs/REVISION                the commit that a branch was when last asked
//! models--OWNER--NAME/snapshots/COMMIT/PATH        link to ../../blobs/TAG; a copy on Windows
//! models--OWNER--NAME/meptr-pins.json              ours: see `pins.rs`
//! .locks/models--OWNER--NAME/TAG.lock              one writer per blob
//! ```

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Error, Result};
use crate::files::{AtomicFile, read_small_text};

/// `OWNER/NAME` of a model repository on the Hub.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepositoryId {
    owner: String,
    name: String,
}

impl RepositoryId {
    /// Reads `OWNER/NAME`; nothing when it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (owner, name) = text.split_once('/')?;
        (is_hub_name(owner) && is_hub_name(name))
            .then(|| Self { owner: owner.to_owned(), name: name.to_owned() })
    }

    /// The part before the slash.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The part after the slash.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.owner, self.name)
    }
}

/// The Hub's own rule: letters, digits, `-`, `_`, `.`, and neither `--` nor `..` anywhere.
fn is_hub_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=96).contains(&text.len())
        && text.bytes().all(is_plain)
        && !text.contains("--")
        && !text.contains("..")
        && !text.starts_with(['.', '-'])
}

/// Whether a text is a full commit hash, which never changes its meaning.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether an entity tag can be a file name.
pub(super) fn is_tag(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=128).contains(&text.len()) && text.bytes().all(is_plain) && !text.starts_with('.')
}

/// The part of the cache that belongs to one repository.
#[derive(Debug)]
pub(super) struct RepositoryCache {
    pub(super) folder: PathBuf,
    locks: PathBuf,
}

impl RepositoryCache {
    pub(super) fn new(cache: &Path, id: &RepositoryId) -> Self {
        let name = format!("models--{}--{}", id.owner, id.name);
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    pub(super) fn blob(&self, tag: &str) -> PathBuf {
        self.folder.join("blobs").join(tag)
    }

    pub(super) fn incomplete(&self, tag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{tag}.incomplete"))
    }

    pub(super) fn lock(&self, tag: &str) -> PathBuf {
        self.locks.join(format!("{tag}.lock"))
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The commit that a revision was when it was last asked for.
    pub(super) fn read_ref(&self, revision: &str) -> Option<String> {
        let text = read_small_text(&self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if self.read_ref(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        write_atomically(&self.folder.join("refs").join(revision), commit.as_bytes())
    }

    /// Path of a file of a snapshot; `None` when its bytes are not in the cache.
    pub(super) fn present(&self, commit: &str, path: &str) -> Option<PathBuf> {
        Some(self.snapshot(commit).join(path)).filter(|pointer| pointer.is_file())
    }

    /// The entity tag of a file of a snapshot, read off its link; unknown where links are copies.
    pub(super) fn tag(&self, commit: &str, path: &str) -> Option<String> {
        let target = fs::read_link(self.snapshot(commit).join(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// Files of a snapshot, as paths of the repository.
    pub(super) fn snapshot_files(&self, commit: &str) -> Vec<String> {
        files_below(&self.snapshot(commit))
    }

    /// Makes a blob visible under its path in a snapshot.
    pub(super) fn link(&self, commit: &str, path: &str, tag: &str) -> Result<PathBuf> {
        let pointer = self.snapshot(commit).join(path);
        if self.tag(commit, path).as_deref() == Some(tag) {
            return Ok(pointer);
        }
        create_parent(&pointer)?;
        let temporary = beside(&pointer, "link");
        let error = Error::at(&pointer);
        self.point(&temporary, path, tag).map_err(&error)?;
        fs::rename(&temporary, &pointer).map_err(&error)?;
        Ok(pointer)
    }

    #[cfg(unix)]
    fn point(&self, pointer: &Path, path: &str, tag: &str) -> std::io::Result<()> {
        let up = "../".repeat(path.split('/').count() + 1);
        std::os::unix::fs::symlink(format!("{up}blobs/{tag}"), pointer)
    }

    #[cfg(not(unix))]
    fn point(&self, pointer: &Path, _: &str, tag: &str) -> std::io::Result<()> {
        let blob = self.blob(tag);
        fs::hard_link(&blob, pointer).or_else(|_| fs::copy(&blob, pointer).map(|_| ()))
    }

    /// Deletes everything of this repository, locks included.
    pub(super) fn remove(&self) -> Result<()> {
        gone(&self.folder, fs::remove_dir_all(&self.folder))?;
        gone(&self.locks, fs::remove_dir_all(&self.locks))
    }

    /// Deletes an empty snapshot, and the reference of a revision to it.
    pub(super) fn forget(&self, revision: &str, commit: &str) -> Result<()> {
        let snapshot = self.snapshot(commit);
        gone(&snapshot, fs::remove_dir_all(&snapshot))?;
        if self.read_ref(revision).as_deref() == Some(commit) {
            let path = self.folder.join("refs").join(revision);
            gone(&path, fs::remove_file(&path))?;
        }
        Ok(())
    }
}

/// Paths of all files below a folder, with `/` between names, sorted; empty without the folder.
pub(super) fn files_below(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(inner) = open.pop() {
        for entry in fs::read_dir(folder.join(&inner)).into_iter().flatten().flatten() {
            let path = inner.join(entry.file_name());
            if folder.join(&path).is_dir() {
                open.push(path);
            } else if let Some(text) = path.to_str()
                && folder.join(&path).is_file()
            {
                files.push(text.replace(std::path::MAIN_SEPARATOR, "/"));
            }
        }
    }
    files.sort();
    files
}

/// Writes a small file atomically.
pub(super) fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    create_parent(path)?;
    let file = AtomicFile::with_temporary_name(beside(path, "part"), path);
    fs::write(file.path(), content).and_then(|()| file.finish()).map_err(Error::at(path))
}

/// Treats an absent file as deleted.
fn gone(path: &Path, result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::at(path)(source))
        }
        _ => Ok(()),
    }
}

pub(super) fn create_parent(path: &Path) -> Result<()> {
    let folder = path.parent().expect("every path of the cache has a parent");
    fs::create_dir_all(folder).map_err(Error::at(folder))
}

/// A name in the same folder that no other process and no other call uses.
fn beside(path: &Path, extension: &str) -> PathBuf {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{call}.{extension}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_folder_are_refused() {
        for good in ["a/b", "openai/clip-vit-base-patch32", "BAAI/bge-small-en-v1.5", "a_b/c.d"] {
            assert!(RepositoryId::parse(good).is_some(), "{good}");
        }
        for bad in
            ["a", "a/", "/b", "a/b/c", "../b", "a/..", "a--b/c", "a b/c", ".a/b", "a/-b", "ä/b"]
        {
            assert!(RepositoryId::parse(bad).is_none(), "{bad}");
        }
        assert!(is_tag("5f3-abc") && !is_tag("../x") && !is_tag("") && !is_tag(".x"));
    }

    #[test]
    #[cfg(unix)]
    fn links_are_relative_and_reach_their_blob_from_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        let id = RepositoryId::parse("ann/model").unwrap();
        let cache = RepositoryCache::new(folder.path(), &id);
        fs::create_dir_all(cache.folder.join("blobs")).unwrap();
        fs::write(cache.blob("tag"), "content").unwrap();
        for path in ["a.json", "deep/er/b.json"] {
            let pointer = cache.link("c0ffee", path, "tag").unwrap();
            assert!(fs::read_link(&pointer).unwrap().is_relative());
            assert_eq!(fs::read_to_string(&pointer).unwrap(), "content");
            assert_eq!(cache.tag("c0ffee", path).as_deref(), Some("tag"));
            assert_eq!(cache.link("c0ffee", path, "tag").unwrap(), pointer);
        }
        assert_eq!(cache.snapshot_files("c0ffee"), ["a.json", "deep/er/b.json"]);
        fs::remove_file(cache.blob("tag")).unwrap();
        assert_eq!(cache.present("c0ffee", "a.json"), None, "a dangling link is no file");
    }
}
