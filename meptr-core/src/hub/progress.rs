//! Progress events of downloads.

use std::path::Path;
use std::time::Duration;

use super::Error;

/// Something that happened, in the order in which it happens.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The Hub is asked which files and how large; once per repository.
    Asking {
        /// `owner/name`.
        repository: &'a str,
    },
    /// The number and size of the files to fetch are known; once.
    Started {
        /// Number of files.
        files: usize,
        /// Bytes of all of them.
        bytes: u64,
    },
    /// Bytes of one file are here; the first of a file has what was left by an earlier run.
    Bytes {
        /// `owner/name/path`.
        file: &'a str,
        /// Bytes of this file that are here.
        done: u64,
        /// Bytes of this file.
        size: u64,
        /// Bytes of all files that are here.
        all_done: u64,
        /// Bytes of all files.
        all: u64,
    },
    /// Another process fetches this file; once per wait.
    Waiting {
        /// `owner/name/path`.
        file: &'a str,
        /// The lock that the other process holds.
        lock: &'a Path,
    },
    /// An attempt failed, the next one follows.
    Retrying {
        /// Delay before the next attempt.
        wait: Duration,
        /// Error of the failed attempt.
        reason: &'a Error,
    },
    /// A file is complete and gets hashed.
    Checking {
        /// `owner/name/path`.
        file: &'a str,
    },
    /// A file is in the cache under its final name.
    Finished {
        /// `owner/name/path`.
        file: &'a str,
        /// Path in the cache.
        path: &'a Path,
    },
}

/// Receiver of progress events; closures that take an [`Event`] are one.
pub trait Progress {
    /// Handles an event. It is called from the thread that downloads, which continues afterwards.
    fn report(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>)> Progress for F {
    fn report(&self, event: &Event<'_>) {
        self(event);
    }
}

/// Ignores all events.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _: &Event<'_>) {}
}
