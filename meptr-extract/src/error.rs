//! Errors of videos, transcripts and weight bundles.

use std::path::PathBuf;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure of one video, one transcript or one weight bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened or read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// FFmpeg cannot decode the file.
    #[error("`{}` cannot be decoded: {what}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// The failure, and its remedy if one is known.
        what: String,
        /// FFmpeg's error, if it gave one.
        source: Option<ffmpeg_next::Error>,
    },
    /// FFmpeg cannot write a video file.
    #[error(
        "FFmpeg cannot make a file of the kind {what}; it needs its encoders mpeg4, aac and flac"
    )]
    Encode {
        /// Kind of file.
        what: &'static str,
        /// FFmpeg's error.
        source: ffmpeg_next::Error,
    },
    /// The file exceeds a limit.
    #[error("`{}` is over the limit: {what}", path.display())]
    OverLimit {
        /// The file.
        path: PathBuf,
        /// The limit, its value, and how to raise it.
        what: String,
    },
    /// The file decodes, but has no input for any modality.
    #[error("`{}` holds nothing to predict from: no picture, no sound that can be heard, no words", path.display())]
    NothingToPredict {
        /// The file.
        path: PathBuf,
    },
    /// A configuration or tokenizer file of a backbone is not usable.
    #[error("`{}` is not a usable {what}: {why}", path.display())]
    BackboneFile {
        /// The file.
        path: PathBuf,
        /// Kind of file that it should be.
        what: &'static str,
        /// The defect.
        why: String,
    },
    /// A part of a new bundle has no source.
    #[error("a bundle needs a part `{part}`, and nothing gives it")]
    MissingPart {
        /// The part.
        part: String,
    },
    /// Error of weights or of a bundle.
    #[error(transparent)]
    Core(#[from] meptr_core::Error),
    /// A model gave NaN or infinity.
    #[error("the {what} gives NaN or infinity; check the weights")]
    NotFinite {
        /// The model.
        what: String,
    },
    /// A tensor computation failed.
    #[error("failed while {doing}")]
    Compute {
        /// The computation.
        doing: String,
        /// Cause.
        source: candle::Error,
    },
}

impl Error {
    /// For `map_err`: names the computation in which Candle failed.
    pub fn doing(what: impl Into<String>) -> impl FnOnce(candle::Error) -> Self {
        let doing = what.into();
        move |source| Self::Compute { doing, source }
    }
}
