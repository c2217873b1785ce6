//! Synthetic corpora: video files of drawn people, whose emotions and traits are known.
//!
//! [`plan`] holds the causal model: an emotion and a person behind every clip, their effect on its
//! labels, and on each modality. The private files render it: `face`, `body`, `scene` (on a `canvas`, put
//! together by `film`), `voice`, `words`. `encode` writes the video file, [`corpora`] the folders and
//! tables.
//!
//! The purpose is to show that training works, not to look like people.

mod body;
mod canvas;
pub mod corpora;
mod encode;
mod face;
mod film;
pub mod plan;
mod scene;
mod voice;
mod words;

/// Linear interpolation: the value at `share` of the way from `from` to `to`.
fn between(from: f32, to: f32, share: f32) -> f32 {
    from + (to - from) * share
}
