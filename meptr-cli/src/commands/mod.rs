//! Subcommands, one file each: arguments and `run`.

pub mod evaluate;
mod experiment;
pub mod extract;
pub mod predict;
pub mod search;
pub mod synth;
pub mod train;
pub mod weights;
