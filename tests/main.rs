//! The binary `meptr`, driven as a user would, on clips that the tests write.

mod bad_input;
mod devices;
mod extract;
mod predict;
mod stopping;
mod support;
mod weights;
mod weights_convert;
mod weights_hub;
#[path = "support/weights.rs"]
mod weights_support;
