//! The download and cache layer against a Hub on this machine; see `tests/support/fake_hub.rs`.
//!
//! Every connection goes to 127.0.0.1, every file is some hundred kilobytes at most.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail like tests")]

mod caching;
#[path = "../../tests/support/fake_hub.rs"]
mod fake_hub;
mod faults;
mod fixture;
mod processes;
mod pulling;
