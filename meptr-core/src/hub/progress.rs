//! What a caller can watch while files come in.

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
    /// What will be fetched is known; once.
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
    /// A try failed, the next one follows.
    Retrying {
        /// How long from now.
        wait: Duration,
        /// What failed.
        reason: &'a Error,
    },
    /// All bytes of a file are here and get hashed.
    Checking {
        /// `owner/name/path`.
        file: &'a str,
    },
    /// A file is in the cache under its final name.
    Finished {
        /// `owner/name/path`.
        file: &'a str,
        /// Where.
        path: &'a Path,
    },
}

/// Watches; any closure that takes an [`Event`] can.
pub trait Progress {
    /// Called from the thread that does the work, which goes on when this returns.
    fn report(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>)> Progress for F {
    fn report(&self, event: &Event<'_>) {
        self(event);
    }
}

/// Watches nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _: &Event<'_>) {}
}
