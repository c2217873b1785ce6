//! One file per subcommand: its arguments and what it does.

pub mod evaluate;
mod experiment;
pub mod extract;
pub mod predict;
pub mod search;
pub mod synth;
pub mod train;
pub mod weights;
