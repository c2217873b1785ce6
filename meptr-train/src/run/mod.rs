//! Files that a training writes.
//!
//! ```text
//! RUN/config.toml              the configuration in force
//! RUN/.lock                    held by the process that writes
//! RUN/STAGE/MODEL/
//!   log.jsonl                  one line per epoch
//!   events.out.tfevents.meptr  the same for TensorBoard: `tensorboard --logdir RUN`
//!   curves.svg  confusion.svg  loss_weights.svg
//!   last.safetensors           checkpoint: everything needed to go on
//!   best.safetensors           weights of the best epoch
//! RUN/bundle/                  after stage 3: what `meptr predict --weights` takes
//! ```
//!
//! The log is what counts: events and pictures follow from it. It is written before the checkpoint,
//! so a run that was killed between the two has a line too many, which resuming takes away.

pub mod checkpoint;
pub mod events;
pub mod files;
mod folder;
mod plots;
mod scalars;

pub use folder::{Journal, ModelFolder};
