//! Integration tests of the crate, in one binary: each links Candle and FFmpeg.

mod backbones;
mod backbones_real;
#[cfg(feature = "comparisons")]
mod candle_transformers;
#[allow(dead_code, unreachable_pub, reason = "shared by the tests of several crates")]
#[path = "../../tests/support/clips.rs"]
mod clips;
mod consistency;
mod decode;
#[allow(dead_code, unreachable_pub, reason = "shared by the tests of several crates")]
#[path = "../../tests/support/golden.rs"]
mod golden;
mod golden_bodies;
mod golden_crops;
mod golden_decode;
mod golden_detect;
mod golden_e2e;
mod golden_motion;
mod golden_speech;
mod golden_tracker;
mod listening;
mod people;
mod precision;
mod preprocessing;
mod support;
