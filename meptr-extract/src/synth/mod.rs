//! Synthetic corpora: real video files of drawn people, whose emotions and traits are known.
//!
//! [`plan`] says what causes what: an emotion and a person behind every clip, what they make of its
//! labels, and what each modality shows of them. The other files draw, sing and write that: [`face`],
//! [`body`], [`scene`] (all on a [`canvas`], put together by [`film`]), [`voice`], [`words`].
//! [`encode`] makes a video file of it and [`corpora`] the folders and tables.
//!
//! Made to see that training works, not to look like people.

pub mod body;
pub mod canvas;
pub mod corpora;
pub mod encode;
pub mod face;
pub mod film;
pub mod plan;
pub mod scene;
pub mod voice;
pub mod words;

/// The value at `share` of the way from `from` to `to`.
fn between(from: f32, to: f32, share: f32) -> f32 {
    from + (to - from) * share
}
