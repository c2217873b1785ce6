//! Integration tests of the crate, in one binary: each links Candle once.

mod fusion_training;
#[allow(dead_code, unreachable_pub, reason = "shared by the tests of several crates")]
#[path = "../../tests/support/golden.rs"]
mod golden;
mod golden_full_runs;
mod golden_losses;
mod golden_metrics;
mod golden_objectives;
mod golden_traces;
mod loss_gradients;
#[allow(unreachable_pub)]
mod made_up;
#[allow(unreachable_pub)]
mod reference;
mod single_task;
mod stages;
