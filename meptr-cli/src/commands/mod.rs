//! One file per subcommand: its arguments and what it does.

pub mod extract;
pub mod predict;
pub mod synth;
pub mod weights;
