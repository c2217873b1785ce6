//! The binary `meptr`, driven as a user would, on clips that the tests write.

mod bad_input;
mod devices;
mod extract;
mod first_use;
#[path = "support/hub.rs"]
mod hub_support;
mod predict;
mod start;
mod stopping;
mod support;
mod synth;
mod train;
mod train_limits;
mod weights;
mod weights_convert;
mod weights_hub;
mod weights_network;
#[path = "support/weights.rs"]
mod weights_support;
