//! Weights from the Hugging Face Hub: fetched once, checked, kept in the cache that the Python
//! library uses, and from then on read without a network.
//!
//! A [`Catalog`] says which weights there are. [`plan`] looks up a name in it and in the cache and
//! asks the Hub for what is missing, so that a caller can show sizes and licences before anything
//! is fetched; [`Plan::fetch`] fetches. [`resolve`] does both. [`list_local`], [`find_local`],
//! [`verify`] and [`remove`] manage the files in the cache.
//!
//! Guarantees:
//!
//! - A file has its final name only when all its bytes are on disk and their hash is the one that
//!   the Hub states (SHA-256 of large files, Git's object id of small ones), and the one of the
//!   catalogue where it states one.
//! - A branch is resolved to a commit once; later runs keep to it (`meptr-pins.json` beside the
//!   blobs) until [`Options::refresh`]. With everything here, no connection is made.
//! - An interrupted download goes on where it stopped. Failures that may pass are tried again, in
//!   growing intervals or when the server says, and not without end ([`RetryPolicy`]).
//! - The token goes to the endpoint alone, by its scheme, host and port, wherever redirects lead.
//! - Two processes that need the same file do the work once; the second waits and says so.
//!
//! ```no_run
//! use meptr_core::hub::{Catalog, Environment, Event, Options, resolve};
//!
//! let options = Options::new(Environment::from_process()?);
//! let files = resolve(&Catalog::built_in(), "clip", &options, &|event: &Event| {
//!     if let Event::Finished { file, .. } = event {
//!         eprintln!("{file} is here");
//!     }
//! })?;
//! for file in files {
//!     eprintln!("{} {}", file.path, file.local.display());
//! }
//! # Ok::<(), meptr_core::hub::Error>(())
//! ```
//!
//! Calls block. Inside an asynchronous runtime they belong on a thread of their own.

mod api;
mod bundles;
mod cache;
mod catalog;
mod client;
mod digest;
mod download;
mod environment;
mod error;
mod http;
mod inventory;
mod lock;
mod pins;
mod plan;
mod progress;
mod proxy;
mod retry;

pub use bundles::Bundles;
pub use cache::RepositoryId;
pub use catalog::{Assembly, Bundle, Catalog, Part, PartFile, Source};
pub use environment::{Environment, Token, parse_endpoint};
pub use error::{Error, Result};
pub use inventory::{
    Finding, LocalPart, Presence, Removed, Verdict, find_local, list_local, remove, verify,
};
pub use plan::{LocalFile, Options, Plan, PlannedFile, PlannedPart, plan, resolve};
pub use progress::{Event, Progress, Silent};
pub use retry::RetryPolicy;
