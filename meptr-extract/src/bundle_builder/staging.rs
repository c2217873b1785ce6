//! Staging folder of a bundle: hidden beside its target, and renamed when it is complete.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use meptr_core::bundle::{FileEntry, Manifest, sha256_of};
use meptr_core::convert::{Storage, recast_file};
use meptr_core::files::write_whole;
use rayon::prelude::*;
use serde_json::Value;

use crate::{Error, Result};

/// Staging folder; deleted when it is dropped unfinished.
#[derive(Debug)]
pub(crate) struct Staging {
    target: PathBuf,
    folder: PathBuf,
    files: Vec<String>,
}

impl Staging {
    /// Starts a bundle for `target`, which must be empty or not exist.
    pub(crate) fn start(target: &Path) -> Result<Self> {
        let failed = |source| Error::Write { path: target.to_owned(), source };
        let target = std::path::absolute(target).map_err(failed)?;
        let holds_something = match std::fs::read_dir(&target) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(failed(error)),
        };
        if holds_something {
            return Err(failed(io::Error::other("the folder is not empty")));
        }
        let no_name = || failed(io::Error::other("this names no folder"));
        let name = target.file_name().ok_or_else(no_name)?.to_string_lossy();
        let folder = target.with_file_name(format!(".{name}.part-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(failed)?;
        Ok(Self { target, folder, files: Vec::new() })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Path of a new file of the bundle; creates the folders above it.
    pub(crate) fn new_file(&mut self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let parent = path.parent().expect("it lies in the bundle's folder");
        std::fs::create_dir_all(parent)
            .map_err(|source| Error::Write { path: parent.to_owned(), source })?;
        self.files.push(name.to_owned());
        Ok(path)
    }

    pub(crate) fn write(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.new_file(name)?;
        write_whole(&path, content).map_err(|source| Error::Write { path, source })
    }

    pub(crate) fn write_json(&mut self, name: &str, value: &Value) -> Result<()> {
        self.write(name, format!("{value:#}\n").as_bytes())
    }

    /// Adds a file. Weights are hard-linked where the file system can do that; small files are copied,
    /// because somebody may edit them.
    pub(crate) fn place(&mut self, source: &Path, name: &str) -> Result<()> {
        let target = self.new_file(name)?;
        // The Hub's cache holds links; a link to a link would break with the cache.
        let source = source
            .canonicalize()
            .map_err(|error| Error::Read { path: source.to_owned(), source: error })?;
        if name.ends_with(".safetensors") && std::fs::hard_link(&source, &target).is_ok() {
            return Ok(());
        }
        std::fs::copy(&source, &target)
            .map(drop)
            .map_err(|source| Error::Write { path: target, source })
    }

    /// Converts all weights but one file to another data type.
    pub(crate) fn recast(&self, storage: Storage, unchanged: &str) -> Result<()> {
        let is_converted = |name: &&String| name.ends_with(".safetensors") && *name != unchanged;
        for name in self.files.iter().filter(is_converted) {
            recast_file(&self.folder.join(name), storage)?;
        }
        Ok(())
    }

    /// Size and hash of everything placed and written.
    pub(crate) fn entries(&self) -> Result<BTreeMap<String, FileEntry>> {
        let entries = self.files.par_iter().map(|name| {
            let path = self.folder.join(name);
            let entry = || -> io::Result<FileEntry> {
                Ok(FileEntry { bytes: path.metadata()?.len(), sha256: sha256_of(&path)? })
            };
            let entry = entry().map_err(|source| Error::Read { path: path.clone(), source })?;
            Ok((name.clone(), entry))
        });
        entries.collect()
    }

    pub(crate) fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        let path = self.folder.join(Manifest::FILE);
        let json = serde_json::to_value(manifest).expect("a manifest is plain data");
        let text = format!("{json:#}\n");
        write_whole(&path, text.as_bytes()).map_err(|source| Error::Write { path, source })
    }

    /// Moves the bundle to its target.
    pub(crate) fn finish(self) -> Result<()> {
        let failed = |source| Error::Write { path: self.target.clone(), source };
        if self.target.exists() {
            std::fs::remove_dir(&self.target).map_err(failed)?; // empty, as `start` saw
        }
        std::fs::rename(&self.folder, &self.target).map_err(failed)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After `finish` there is nothing to delete; otherwise the first error is reported.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stays_of_an_unfinished_bundle_and_others_folders_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("bundle");
        let mut staging = Staging::start(&target).unwrap();
        staging.write("a/b.json", b"{}").unwrap();
        drop(staging);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("mine"), "").unwrap();
        assert!(Staging::start(&target).is_err());
    }

    #[test]
    #[cfg(unix)]
    fn files_of_a_cache_outlive_their_links() {
        let folder = tempfile::tempdir().unwrap();
        let (blob, link) = (folder.path().join("blob"), folder.path().join("link"));
        std::fs::write(&blob, "abc").unwrap();
        std::os::unix::fs::symlink("blob", &link).unwrap();
        let target = folder.path().join("bundle");
        let mut staging = Staging::start(&target).unwrap();
        staging.place(&link, "x.safetensors").unwrap();
        staging.place(&link, "deep/x.json").unwrap();
        assert_eq!(staging.entries().unwrap()["deep/x.json"].bytes, 3);
        staging.finish().unwrap();
        std::fs::remove_file(&blob).unwrap();
        for name in ["x.safetensors", "deep/x.json"] {
            assert_eq!(std::fs::read(target.join(name)).unwrap(), b"abc");
        }
    }
}
