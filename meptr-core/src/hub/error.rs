//! Errors between the Hub and the local cache.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Result with this module's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure of a download, of the cache or of a catalogue.
///
/// Messages never contain the token, nor the query of an address (CDN addresses are signed).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The Hub has no such repository, revision or file.
    #[error("the Hub has no {what}")]
    NotFound {
        /// The repository, revision or file.
        what: String,
    },
    /// The name is neither in the catalogue, nor `OWNER/REPO`, nor a folder.
    #[error(
        "`{name}` is neither a known name, nor OWNER/REPO[@REVISION], nor a folder; known are {}",
        .known.join(", ")
    )]
    UnknownName {
        /// The name.
        name: String,
        /// Bundles and parts of the catalogue.
        known: Vec<String>,
    },
    /// The Hub does not let this user, or nobody in particular, read the repository.
    #[error(
        "the Hub refuses access to {repository} ({}): it does not exist, or is private; {}",
        if *.has_token { "with the token in use" } else { "without a token" },
        if *.has_token { "check that the token may read it" } else { "if it is private, set HF_TOKEN" }
    )]
    Unauthorised {
        /// `owner/name`.
        repository: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The repository's terms must be accepted first.
    #[error(
        "{repository} asks you to accept its terms: do so at {page}, then set HF_TOKEN to a token \
         of that account and try again"
    )]
    Gated {
        /// `owner/name`.
        repository: String,
        /// Address of the terms.
        page: String,
    },
    /// Too many requests, for longer than we are willing to wait.
    #[error(
        "{host} limits the rate of requests{}; a token (HF_TOKEN) raises the limit",
        .retry_after.map(|wait| format!(", try again in {} s", wait.as_secs())).unwrap_or_default()
    )]
    RateLimited {
        /// The host that said so.
        host: String,
        /// Delay that it asked for.
        retry_after: Option<Duration>,
    },
    /// No connection, or one that broke, too often.
    #[error("the network failed while {doing}")]
    Network {
        /// The request.
        doing: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server answered with an error of its own.
    #[error("{host} answered with status {status} while {doing}")]
    Server {
        /// The host.
        host: String,
        /// HTTP status.
        status: u16,
        /// The request.
        doing: String,
    },
    /// The server answered, but not as the Hub does.
    #[error("{host} does not answer like a Hub: {problem}")]
    Protocol {
        /// The host.
        host: String,
        /// Missing or unexpected content.
        problem: String,
    },
    /// A web address that cannot or must not be used.
    #[error("cannot use the address `{address}`: {problem}")]
    BadAddress {
        /// The address, without its query.
        address: String,
        /// The cause.
        problem: String,
    },
    /// The bytes are not the ones the Hub or the catalogue promises.
    #[error(
        "`{file}` is damaged or was replaced: its {kind} is {found}, {promised_by} says {expected}"
    )]
    WrongHash {
        /// `owner/name/path` or a local path.
        file: String,
        /// `sha256`, or `git object id` for small files.
        kind: &'static str,
        /// Who promised the hash.
        promised_by: &'static str,
        /// The promised hash.
        expected: String,
        /// The hash of the bytes.
        found: String,
    },
    /// The number of bytes is not the one the Hub or the catalogue promises.
    #[error("`{file}` has {found} bytes, {promised_by} says {expected}")]
    WrongSize {
        /// `owner/name/path`.
        file: String,
        /// Who promised the size.
        promised_by: &'static str,
        /// The promised size.
        expected: u64,
        /// The size found.
        found: u64,
    },
    /// No room for a file.
    #[error(
        "no room to write `{}`; free some space, or choose another cache with --cache-dir or HF_HOME",
        path.display()
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The cache cannot be written.
    #[error(
        "cannot write `{}`: the cache is read-only; choose another with --cache-dir or HF_HOME",
        path.display()
    )]
    ReadOnlyCache {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Any other trouble with a local file.
    #[error("cannot use `{}`", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Another process holds the lock and makes no progress.
    #[error(
        "another process holds `{}` and has made no progress for {} s; end it and try again",
        path.display(), waited.as_secs()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Time without progress of the other process.
        waited: Duration,
    },
    /// Offline, and not everything is here.
    #[error("offline, and these files are missing: {}; with a network, run `{command}`", .missing.join(", "))]
    OfflineMissing {
        /// `owner/name/path` of each missing file.
        missing: Vec<String>,
        /// The command that gets them.
        command: String,
    },
    /// A catalogue or a manifest contradicts itself.
    #[error("`{origin}` is not a valid list of weights: {}", .problems.join("; "))]
    BadCatalog {
        /// The file.
        origin: String,
        /// All problems found.
        problems: Vec<String>,
    },
    /// A JSON file does not have the fields it must have.
    #[error("`{}` is not a valid {what}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Kind of file that was expected.
        what: &'static str,
        /// The cause.
        source: serde_json::Error,
    },
    /// An environment variable that cannot be used.
    #[error("the environment variable {name} {problem}")]
    BadVariable {
        /// Its name.
        name: &'static str,
        /// The problem, without the value.
        problem: &'static str,
    },
}

impl Error {
    /// Turns a failure to read or write `path` into a kind that the user can act on; for `map_err`.
    pub(super) fn at(path: &Path) -> impl Fn(std::io::Error) -> Self + use<> {
        use std::io::ErrorKind::{
            FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
        };
        let path = path.to_owned();
        move |source| {
            let path = path.clone();
            match source.kind() {
                StorageFull | QuotaExceeded | FileTooLarge => Self::DiskFull { path, source },
                PermissionDenied | ReadOnlyFilesystem => Self::ReadOnlyCache { path, source },
                _ => Self::File { path, source },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn failures_of_the_system_become_kinds_a_user_can_act_on() {
        let kind = |code| Error::at(Path::new("x"))(std::io::Error::from_raw_os_error(code));
        for full in [28, 122, 27] {
            assert!(matches!(kind(full), Error::DiskFull { .. }), "ENOSPC, EDQUOT, EFBIG: {full}");
        }
        for read_only in [13, 30] {
            assert!(matches!(kind(read_only), Error::ReadOnlyCache { .. }), "EACCES, EROFS");
        }
        assert!(matches!(kind(2), Error::File { .. }));
    }
}
