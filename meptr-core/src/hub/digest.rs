//! Hashes of files as the Hub states them.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::{Error, Result};
use crate::digest::{hex, read_through};

/// Kind of an entity tag, which states the content of a file and names its blob in the cache.
///
/// Large files (Git LFS, Xet) have the SHA-256 of their bytes as entity tag, small ones Git's object
/// id, `sha1("blob {length}\0" + bytes)`. A mirror may have tags of its own, which say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sha256,
    Git,
    Opaque,
}

impl Kind {
    pub(super) fn of(tag: &str) -> Self {
        let is_hex = tag.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match tag.len() {
            64 if is_hex => Self::Sha256,
            40 if is_hex => Self::Git,
            _ => Self::Opaque,
        }
    }
}

/// Both hashes of one file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Digests {
    pub(super) size: u64,
    pub(super) sha256: String,
    pub(super) git: String,
}

impl Digests {
    /// Compares with an entity tag of the Hub.
    pub(super) fn check(&self, tag: &str, file: &str) -> Result<()> {
        let (kind, found) = match Kind::of(tag) {
            Kind::Sha256 => ("sha256", &self.sha256),
            Kind::Git => ("git object id", &self.git),
            Kind::Opaque => return Ok(()),
        };
        if found == tag {
            return Ok(());
        }
        let (expected, found) = (tag.to_owned(), found.clone());
        Err(Error::WrongHash {
            file: file.to_owned(),
            kind,
            promised_by: "the Hub",
            expected,
            found,
        })
    }
}

/// Reads a file once, in constant memory, and hashes it.
pub(super) fn of_file(path: &Path) -> Result<Digests> {
    let error = Error::at(path);
    let stated = path.metadata().map_err(&error)?.len();
    let (mut sha256, mut git) = (Sha256::new(), sha1::Sha1::new());
    git.update(format!("blob {stated}\0"));
    let read = read_through(path, |bytes| {
        sha256.update(bytes);
        git.update(bytes);
    });
    let size = read.map_err(&error)?;
    Ok(Digests { size, sha256: hex(&sha256.finalize()), git: hex(&git.finalize()) })
}

/// The SHA-256 of a file that has this entity tag, reading the file only where the tag is not it.
pub(super) fn known_or_read(tag: &str, path: &Path) -> Result<String> {
    match Kind::of(tag) {
        Kind::Sha256 => Ok(tag.to_owned()),
        Kind::Git | Kind::Opaque => Ok(of_file(path)?.sha256),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference: `printf 'hello\n' | sha256sum` and `printf 'hello\n' | git hash-object --stdin`.
    #[test]
    fn hashes_equal_those_of_the_usual_tools() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello");
        std::fs::write(&path, "hello\n").unwrap();
        let digests = of_file(&path).unwrap();
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let expected = Digests { size: 6, sha256: sha256.into(), git: git.into() };
        assert_eq!(digests, expected);
        for tag in [git, sha256, "5f3-abc"] {
            assert!(digests.check(tag, "hello").is_ok());
        }
        for tag in [&git.replace('c', "d"), &sha256.replace('5', "6")] {
            assert!(matches!(digests.check(tag, "hello"), Err(Error::WrongHash { .. })));
        }
    }
}
