//! Telling the caller how far a video is.

use std::path::Path;

/// Receives the step under way. Called from the thread that predicts.
pub trait Progress {
    /// A step has begun or moved on. `done` is its finished share, 0 to 1, where that is known.
    fn step(&self, name: &str, done: Option<f64>);

    /// There is something to know about the results of this video.
    fn note(&self, _video: &Path, _note: &str) {}
}

/// Nobody is watching.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Progress for Unwatched {
    fn step(&self, _: &str, _: Option<f64>) {}
}
