//! Sources of weights: checked files, or a seeded generator.
//!
//! Every model has one constructor, `load(config, vb)`, which asks a `VarBuilder` for each tensor
//! by name and shape. The backend of the `VarBuilder` decides the rest: [`load_file`] reads a
//! safetensors file and accounts for every tensor in it ([`load_frozen`] keeps matrices in the
//! mapped file), [`generate`] generates values from a seed, [`Trainable`] creates variables for
//! training.
//!
//! A model that knows two spellings of a name asks `vb.contains_tensor` for the newer one first
//! and falls back to the older, so that generated weights always have the older names.

mod file;
mod frozen;
mod generate;
mod load_errors;
mod map;
mod source;
mod trainable;

pub(crate) use file::save_checked;
pub use file::{load_file, load_frozen, save_file};
pub use frozen::{FrozenBuilder, Matrix, Numbers};
pub use generate::{generate, generated_tensor};
pub use load_errors::{COLLECTED, LoadErrors};
pub use map::MappedFile;
pub use trainable::Trainable;
