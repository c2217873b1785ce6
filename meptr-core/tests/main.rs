//! Integration tests of the crate, in one binary: each links Candle once.

mod checkpoints;
mod convert;
#[allow(dead_code, unreachable_pub, reason = "shared by the tests of several crates")]
#[path = "../../tests/support/golden.rs"]
mod golden;
mod golden_models;
mod gradients;
#[cfg(all(feature = "hub", unix))] // links, users and modes as they are there
mod hub;
