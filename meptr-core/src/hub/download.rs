//! Download of one file into the cache: complete and checked, or not at all.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::cache::{RepositoryCache, create_parent};
use super::digest;
use super::http::{FileHead, Http, Remote};
use super::lock::Lock;
use super::pins::PinnedFile;
use super::progress::{Event, Progress};
use super::retry::{Failure, RetryPolicy};
use super::{Error, Result};

/// A download of one file.
pub(super) struct Download<'a> {
    pub(super) http: &'a Http,
    pub(super) cache: &'a RepositoryCache,
    pub(super) remote: Remote<'a>,
    /// Entity tag and size that the Hub states.
    pub(super) head: &'a FileHead,
    /// SHA-256 that the catalogue states.
    pub(super) promised_sha256: Option<&'a str>,
    pub(super) retry: &'a RetryPolicy,
    pub(super) progress: &'a DownloadProgress<'a>,
}

/// Bytes of all files of a download, for the report of progress.
pub(super) struct DownloadProgress<'a> {
    pub(super) reporter: &'a dyn Progress,
    pub(super) all: u64,
    pub(super) finished: Cell<u64>,
}

impl Download<'_> {
    /// Downloads the file into the cache, under its path in the snapshot.
    ///
    /// Bytes go to `blobs/TAG.incomplete`, from where an interrupted download, by us or by the
    /// Python library, goes on. Length and hashes are checked on what the disk holds; then follow
    /// `fsync`, the rename to `blobs/TAG`, and the link in the snapshot.
    pub(super) fn run(&self) -> Result<PinnedFile> {
        let FileHead { tag, size } = self.head;
        let name = self.remote.to_string();
        let blob = self.cache.blob(tag);
        let sha256 = match self.known_sha256(&blob)? {
            Some(sha256) => sha256,
            None => {
                let _held = self.lock(&name)?;
                match self.known_sha256(&blob)? {
                    Some(sha256) => sha256, // the process we waited for has fetched it
                    None => self.obtain(&name, &blob)?,
                }
            }
        };
        self.check_promise(&name, &sha256)?;
        let path = self.cache.link(self.remote.commit, self.remote.path, tag)?;
        self.progress.finished.set(self.progress.finished.get() + size);
        self.report_bytes(&name, *size, true);
        self.progress.reporter.report(&Event::Finished { file: &name, path: &path });
        Ok(PinnedFile { size: *size, sha256 })
    }

    /// SHA-256 of a blob that is complete in the cache.
    fn known_sha256(&self, blob: &Path) -> Result<Option<String>> {
        match fs::metadata(blob) {
            Ok(found) if found.len() == self.head.size => {}
            _ => return Ok(None),
        }
        digest::known_or_read(&self.head.tag, blob).map(Some)
    }

    fn lock(&self, name: &str) -> Result<Lock> {
        let incomplete = self.cache.incomplete(&self.head.tag);
        create_parent(&incomplete)?;
        let path = self.cache.lock(&self.head.tag);
        let waiting = || self.progress.reporter.report(&Event::Waiting { file: name, lock: &path });
        Lock::acquire(&path, self.retry.lock_timeout, waiting, || length(&incomplete))
    }

    fn obtain(&self, name: &str, blob: &Path) -> Result<String> {
        let incomplete = self.cache.incomplete(&self.head.tag);
        let left_by_others = length(&incomplete) > 0;
        let sha256 = match self.complete(name, &incomplete) {
            Err(Error::WrongHash { .. } | Error::WrongSize { .. }) if left_by_others => {
                self.complete(name, &incomplete)? // what was left was no good; it is gone now
            }
            result => result?,
        };
        let error = Error::at(blob);
        fs::rename(&incomplete, blob).map_err(&error)?;
        sync_folder(blob);
        Ok(sha256)
    }

    /// Fetches what is missing of the incomplete file and checks the whole.
    fn complete(&self, name: &str, incomplete: &Path) -> Result<String> {
        let result = self
            .retry
            .run(self.progress.reporter, || self.transfer(name, incomplete))
            .and_then(|()| self.check(name, incomplete));
        if let Err(Error::WrongHash { .. } | Error::WrongSize { .. }) = &result {
            fs::remove_file(incomplete).map_err(Error::at(incomplete))?;
        }
        result
    }

    fn transfer(&self, name: &str, incomplete: &Path) -> Result<(), Failure> {
        let size = self.head.size;
        let error = Error::at(incomplete);
        // No truncation and no append: see `Lock` for two writers without locks.
        let file = File::options().create(true).write(true).truncate(false).open(incomplete);
        let mut file = file.map_err(&error)?;
        if length(incomplete) > size {
            file.set_len(0).map_err(&error)?;
        }
        let offset = length(incomplete);
        self.report_bytes(name, offset, false);
        if offset < size || size == 0 {
            let mut body = self.http.open(self.remote, offset, size)?;
            file.seek(SeekFrom::Start(body.start)).map_err(&error)?;
            self.copy(name, &mut body.bytes, &mut file, body.start, incomplete)?;
        }
        file.sync_all().map_err(error)?;
        Ok(())
    }

    fn copy(
        &self,
        name: &str,
        body: &mut impl Read,
        file: &mut File,
        start: u64,
        incomplete: &Path,
    ) -> Result<(), Failure> {
        let mut buffer = vec![0; 1 << 16];
        let mut done = start;
        let size = self.head.size;
        let broken = |source: std::io::Error, done: u64| Failure::Temporary {
            error: Box::new(Error::Network {
                doing: format!("fetching {name}"),
                source: source.into(),
            }),
            retry_after: None,
            bytes: done - start,
        };
        while let read @ 1.. = body.read(&mut buffer).map_err(|source| broken(source, done))? {
            done += read as u64;
            if done > size {
                let (file, promised_by) = (name.to_owned(), "the Hub");
                return Err(
                    Error::WrongSize { file, promised_by, expected: size, found: done }.into()
                );
            }
            file.write_all(&buffer[..read]).map_err(Error::at(incomplete))?;
            self.report_bytes(name, done, false);
        }
        if done < size {
            return Err(broken(std::io::ErrorKind::UnexpectedEof.into(), done));
        }
        Ok(())
    }

    fn check(&self, name: &str, incomplete: &Path) -> Result<String> {
        self.progress.reporter.report(&Event::Checking { file: name });
        let found = digest::of_file(incomplete)?;
        if found.size != self.head.size {
            let (file, promised_by) = (name.to_owned(), "the Hub");
            let (expected, found) = (self.head.size, found.size);
            return Err(Error::WrongSize { file, promised_by, expected, found });
        }
        found.check(&self.head.tag, name)?;
        self.check_promise(name, &found.sha256)?;
        Ok(found.sha256)
    }

    fn check_promise(&self, name: &str, sha256: &str) -> Result<()> {
        match self.promised_sha256 {
            Some(promised) if promised != sha256 => Err(Error::WrongHash {
                file: name.to_owned(),
                kind: "sha256",
                promised_by: "the list of weights",
                expected: promised.to_owned(),
                found: sha256.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn report_bytes(&self, file: &str, done: u64, is_counted: bool) {
        let finished = self.progress.finished.get();
        let all_done = if is_counted { finished } else { finished + done };
        let (size, all) = (self.head.size, self.progress.all);
        self.progress.reporter.report(&Event::Bytes { file, done, size, all_done, all });
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

/// Syncs a folder, so that a rename survives a power failure.
fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
        let _ = folder.sync_all(); // some file systems cannot; the file itself is safe
    }
}
