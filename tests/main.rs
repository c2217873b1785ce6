//! The binary `meptr`, driven as a user would, on clips that the tests write.

mod bad_input;
mod extract;
mod predict;
mod stopping;
mod support;
mod synth;
mod weights;
mod weights_convert;
mod weights_hub;
#[path = "support/weights.rs"]
mod weights_support;
