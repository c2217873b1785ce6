//! Opening a bundle: every listed file is there and is the one that was listed.

use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::manifest::{FileEntry, Manifest};
use crate::digest::{hex, read_through};
use crate::{Error, Result};

/// A bundle whose files are known to be complete and unaltered.
#[derive(Debug, Clone)]
pub struct Bundle {
    folder: PathBuf,
    manifest: Manifest,
}

impl Bundle {
    /// Reads the manifest of `folder` and hashes every file it lists.
    ///
    /// # Errors
    /// [`Error::UnfitBundle`] lists everything that is missing, altered or contradictory;
    /// the others say that there is no readable manifest.
    pub fn open(folder: &Path) -> Result<Self> {
        let manifest = Manifest::read(folder)?;
        let mut problems = manifest.problems();
        if problems.is_empty() {
            let altered = manifest.files.par_iter().filter_map(|(name, entry)| {
                problem_of_file(&folder.join(name), entry).map(|why| format!("`{name}` {why}"))
            });
            problems = altered.collect();
        }
        if problems.is_empty() {
            Ok(Self { folder: folder.to_owned(), manifest })
        } else {
            Err(Error::UnfitBundle { path: folder.to_owned(), problems })
        }
    }

    /// Manifest of the bundle.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Path of a file or folder that the manifest names.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn problem_of_file(path: &Path, entry: &FileEntry) -> Option<String> {
    let bytes = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Some("is not a file".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some("is missing".into()),
        Err(error) => return Some(format!("cannot be read ({error})")),
    };
    if bytes != entry.bytes {
        return Some(format!("has {bytes} bytes instead of {}", entry.bytes));
    }
    match sha256_of(path) {
        Ok(found) if found == entry.sha256 => None,
        Ok(found) => Some(format!("was altered: its SHA-256 is {found}")),
        Err(error) => Some(format!("cannot be read ({error})")),
    }
}

/// SHA-256 of a file's content, as 64 hexadecimal digits in lower case.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256_of(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    read_through(path, |bytes| hash.update(bytes))?;
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of(&path).unwrap(), expected);
    }

    #[test]
    fn altered_files_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let problem = |bytes, sha256: &str| {
            problem_of_file(&path, &FileEntry { bytes, sha256: sha256.to_owned() })
        };
        assert_eq!(problem(3, "").as_deref(), Some("is missing"));
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(problem(4, "").as_deref(), Some("has 3 bytes instead of 4"));
        assert!(problem(3, "00").unwrap().starts_with("was altered"));
        assert_eq!(problem(3, &sha256_of(&path).unwrap()), None);
    }
}
