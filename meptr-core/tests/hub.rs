//! The download and cache layer against a Hub look-alike on this machine; see `hub/look_alike.rs`.
//!
//! Every connection goes to 127.0.0.1, every file is some hundred kilobytes at most.

#![cfg(unix)] // links, users and modes as they are there
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail like tests")]

#[path = "hub/caching.rs"]
mod caching;
#[path = "hub/faults.rs"]
mod faults;
#[path = "hub/look_alike.rs"]
mod look_alike;
#[path = "hub/processes.rs"]
mod processes;
#[path = "hub/pulling.rs"]
mod pulling;
#[path = "hub/setting.rs"]
mod setting;
