//! Progress of a video, reported to the caller.

use std::path::Path;

/// Receives progress, in the thread that predicts.
pub trait Progress {
    /// Receives the current step. `done` is its finished share, 0 to 1, if known.
    fn step(&self, name: &str, done: Option<f64>);

    /// Receives a remark about the results of a video.
    fn note(&self, _video: &Path, _note: &str) {}
}

/// Ignores all progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Progress for Unwatched {
    fn step(&self, _: &str, _: Option<f64>) {}
}
