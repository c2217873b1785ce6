//! Bundles that were put together on this machine, and which bundle is used when none is named.
//!
//! They lie in `meptr-bundles` inside the cache, where hard links to the files of the repositories
//! beside them cost no second copy. The name of the bundle that was got last stands in
//! `meptr-bundles/.default`: that of a folder there, or `OWNER/REPO(@REVISION)`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::cache::{create_parent, files_below, write_atomically};
use super::catalog::is_name;
use super::inventory::Removed;
use super::{Environment, Error, Result};
use crate::bundle::Manifest;
use crate::files::read_small_text;

/// Age after which no process works on a folder in the making any more: the largest bundle takes
/// minutes.
const LEFTOVER: Duration = Duration::from_secs(24 * 3600);

/// The bundles of one cache.
#[derive(Debug, Clone)]
pub struct Bundles {
    folder: PathBuf,
}

impl Bundles {
    /// Bundles of the cache in use.
    pub fn new(environment: &Environment) -> Self {
        Self { folder: environment.cache.join("meptr-bundles") }
    }

    /// Folder of a bundle of this name, whether it exists or not; `None` for an invalid name. Names
    /// have small letters, digits, `-` and `.`.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        is_name(name).then(|| self.folder.join(name))
    }

    /// The folder of a bundle that is here.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        self.path(name).filter(|folder| folder.join(Manifest::FILE).is_file())
    }

    /// The names of all bundles that are here, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| self.find(name).is_some()).collect();
        names.sort();
        names
    }

    /// Path of a new folder to make a bundle in before [`Bundles::install`]. Deletes leftovers of
    /// killed processes.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub fn staging_folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(format!(".{name}.new-{}", std::process::id()));
        create_parent(&folder)?;
        self.remove_leftovers(SystemTime::now());
        Ok(folder)
    }

    /// Deletes hidden folders without a change for a day.
    fn remove_leftovers(&self, now: SystemTime) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
            let is_old = |found: fs::Metadata| {
                found.is_dir()
                    && found
                        .modified()
                        .is_ok_and(|then| now.duration_since(then).is_ok_and(|age| age > LEFTOVER))
            };
            if is_hidden && entry.metadata().is_ok_and(is_old) {
                let _ = fs::remove_dir_all(entry.path()); // it only takes space
            }
        }
    }

    /// Renames a finished bundle to its final name, replacing an older one.
    ///
    /// # Errors
    /// When the cache cannot be written; `finished` is then deleted.
    pub fn install(&self, finished: &Path, name: &str) -> Result<PathBuf> {
        let place = self.folder.join(name);
        let older = self.folder.join(format!(".{name}.old-{}", std::process::id()));
        let had_older = fs::rename(&place, &older).is_ok();
        let installed = fs::rename(finished, &place);
        if had_older {
            let _ = fs::remove_dir_all(&older); // nobody finds it any more
        }
        if let Err(source) = installed {
            let _ = fs::remove_dir_all(finished); // the first error is the one to tell
            if self.find(name).is_none() {
                return Err(Error::at(&place)(source));
            } // else another process was as fast, with the same parts
        }
        Ok(place)
    }

    /// Deletes a bundle; the parts it was made of stay.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub fn remove(&self, name: &str) -> Result<Removed> {
        let mut removed = Removed::default();
        if let Some(folder) = self.find(name) {
            for file in files_below(&folder) {
                removed.files += 1;
                removed.bytes += folder.join(file).metadata().map_or(0, |found| found.len());
            }
            fs::remove_dir_all(&folder).map_err(Error::at(&folder))?;
        }
        if self.default_name().as_deref() == Some(name) {
            let path = self.default_file();
            fs::remove_file(&path).map_err(Error::at(&path))?;
        }
        Ok(removed)
    }

    /// The name of the bundle that is used when none is named.
    pub fn default_name(&self) -> Option<String> {
        let text = read_small_text(&self.default_file()).ok()?;
        Some(text.trim().to_owned()).filter(|name| !name.is_empty())
    }

    /// Notes which bundle is used when none is named.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub fn set_default(&self, name: &str) -> Result<()> {
        if self.default_name().as_deref() == Some(name) {
            return Ok(());
        }
        write_atomically(&self.default_file(), format!("{name}\n").as_bytes())
    }

    fn default_file(&self) -> PathBuf {
        self.folder.join(".default")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(folder: &Path, text: &str) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(Manifest::FILE), text).unwrap();
    }

    #[test]
    fn a_newer_bundle_takes_the_place_of_the_older() {
        let folder = tempfile::tempdir().unwrap();
        let bundles = Bundles { folder: folder.path().join("meptr-bundles") };
        assert_eq!((bundles.names(), bundles.default_name()), (Vec::new(), None));
        for text in ["old", "newer"] {
            let staging_folder = bundles.staging_folder("mine").unwrap();
            make(&staging_folder, text);
            assert!(!bundles.names().contains(&".mine".to_owned()));
            let place = bundles.install(&staging_folder, "mine").unwrap();
            assert_eq!(fs::read_to_string(place.join(Manifest::FILE)).unwrap(), text);
        }
        assert_eq!(bundles.names(), ["mine"]);
        assert_eq!(fs::read_dir(&bundles.folder).unwrap().count(), 1, "nothing else stays");
        make(&bundles.folder.join("..mine.new-1.part-1"), "of a killed process");
        bundles.remove_leftovers(SystemTime::now());
        assert_eq!(fs::read_dir(&bundles.folder).unwrap().count(), 2, "it may still be at work");
        bundles.remove_leftovers(SystemTime::now() + 2 * LEFTOVER);
        assert_eq!(fs::read_dir(&bundles.folder).unwrap().count(), 1);
        bundles.set_default("mine").unwrap();
        assert_eq!(bundles.default_name().as_deref(), Some("mine"));
        assert_eq!(bundles.remove("mine").unwrap(), Removed { files: 1, bytes: 5 });
        assert_eq!((bundles.names(), bundles.default_name()), (Vec::new(), None));
        assert!(bundles.path("../mine").is_none() && bundles.find("ann/model").is_none());
    }
}
