//! Products with the vectors of the CPU: AVX-512, AVX2, or what every CPU of the kind has.
//!
//! Some outputs at a time are laid out for the vectors (`pack`), multiplied with all rows
//! (`kernel`) and finished while they are in the cache.

mod attention;
mod kernel;
mod multiply;
mod pack;

pub(super) use attention::attend;
pub(super) use multiply::multiply;
