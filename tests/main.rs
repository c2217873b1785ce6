//! The binary `meptr`, driven as a user would.

#[path = "support/weights.rs"]
mod weights_support;

mod weights_convert;
mod weights_hub;
