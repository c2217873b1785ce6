//! Commits and hashes of the fetched files of a repository: its local lock file.
//!
//! A branch such as `main` moves; the first download notes the commit it was then, and later runs
//! keep to that commit until the caller asks for the newest. The file lies beside the blobs as
//! `meptr-pins.json`, where other users of the cache ignore it:
//!
//! ```json
//! {"schema": 1,
//!  "revisions": {"main": "COMMIT"},
//!  "commits": {"COMMIT": {"whole": false, "files": {"PATH": {"size": 7, "sha256": "..."}}}}}
//! ```

use std::collections::BTreeMap;
use std::io::ErrorKind::{NotADirectory, NotFound};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cache::{RepositoryCache, is_commit, write_atomically};
use super::lock::Lock;
use super::{Error, Result};
use crate::files::read_small;
use crate::paths::stays_inside;

const SCHEMA: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pins {
    schema: u32,
    /// Commit per revision.
    pub(super) revisions: BTreeMap<String, String>,
    /// Files of each commit.
    pub(super) commits: BTreeMap<String, PinnedCommit>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PinnedCommit {
    /// Whether `files` is all that a download of the whole repository takes.
    pub(super) whole: bool,
    pub(super) files: BTreeMap<String, PinnedFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PinnedFile {
    pub(super) size: u64,
    pub(super) sha256: String,
}

impl Default for Pins {
    fn default() -> Self {
        Self { schema: SCHEMA, revisions: BTreeMap::new(), commits: BTreeMap::new() }
    }
}

impl Pins {
    /// Reads the pins of a repository; none when there is no such file.
    pub(super) fn read(cache: &RepositoryCache) -> Result<Self> {
        let path = path(cache);
        let text = match read_small(&path) {
            Ok(text) => text,
            Err(source) if matches!(source.kind(), NotFound | NotADirectory) => {
                return Ok(Self::default());
            }
            Err(source) => return Err(Error::at(&path)(source)),
        };
        let what = "list of pinned files";
        let pins: Self = serde_json::from_slice(&text).map_err(|source| Error::Json {
            path: path.clone(),
            what,
            source,
        })?;
        let are_inside = pins.commits.iter().all(|(commit, pinned)| {
            is_commit(commit) && pinned.files.keys().all(|file| stays_inside(file))
        });
        if pins.schema != SCHEMA || !are_inside || !pins.revisions.values().all(|c| is_commit(c)) {
            let problems = vec!["it has another schema, or names outside its folder".to_owned()];
            return Err(Error::BadCatalog { origin: path.display().to_string(), problems });
        }
        Ok(pins)
    }

    /// Changes the pins of a repository while no other process does.
    pub(super) fn change(
        cache: &RepositoryCache,
        timeout: Duration,
        change: impl FnOnce(&mut Self),
    ) -> Result<()> {
        let lock = cache.lock("meptr-pins");
        let _held = Lock::acquire(&lock, timeout, || (), || 0)?;
        let mut pins = Self::read(cache)?;
        change(&mut pins);
        let text = serde_json::to_vec_pretty(&pins).expect("maps of text and numbers are JSON");
        write_atomically(&path(cache), &text)
    }

    /// Size and hash of a file.
    pub(super) fn file(&self, commit: &str, path: &str) -> Option<&PinnedFile> {
        self.commits.get(commit)?.files.get(path)
    }
}

fn path(cache: &RepositoryCache) -> PathBuf {
    cache.folder.join("meptr-pins.json")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::cache::RepositoryId;
    use super::*;

    #[test]
    fn pins_survive_and_foreign_ones_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let id = RepositoryId::parse("ann/model").unwrap();
        let cache = RepositoryCache::new(folder.path(), &id);
        assert!(Pins::read(&cache).unwrap().revisions.is_empty());

        let commit = "0123456789abcdef0123456789abcdef01234567";
        let file = PinnedFile { size: 7, sha256: "ab".repeat(32) };
        let timeout = Duration::from_secs(1);
        Pins::change(&cache, timeout, |pins| {
            pins.revisions.insert("main".into(), commit.into());
            let pinned = pins.commits.entry(commit.into()).or_default();
            pinned.files.insert("config.json".into(), file.clone());
        })
        .unwrap();
        let pins = Pins::read(&cache).unwrap();
        assert_eq!(pins.file(commit, "config.json"), Some(&file));
        assert_eq!(pins.revisions["main"], commit);

        let text = fs::read_to_string(path(&cache)).unwrap();
        for (good, bad) in [("\"schema\": 1", "\"schema\": 2"), ("config.json", "../config.json")] {
            fs::write(path(&cache), text.replace(good, bad)).unwrap();
            assert!(matches!(Pins::read(&cache), Err(Error::BadCatalog { .. })), "{bad}");
        }
        fs::write(path(&cache), "{").unwrap();
        assert!(matches!(Pins::read(&cache), Err(Error::Json { .. })));
    }
}
