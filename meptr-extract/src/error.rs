//! What can go wrong with a video.

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
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is there but FFmpeg cannot make sense of it.
    #[error("`{}` cannot be decoded: {what}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// What failed, and what to do about it where that is known.
        what: String,
        /// FFmpeg's word for it, where it gave one.
        source: Option<ffmpeg_next::Error>,
    },
    /// FFmpeg cannot make a video file.
    #[error(
        "FFmpeg cannot make a file of the kind {what}; it needs its encoders mpeg4, aac and flac"
    )]
    Encode {
        /// Kind of file.
        what: &'static str,
        /// FFmpeg's word for it.
        source: ffmpeg_next::Error,
    },
    /// The file asks for more than the limits in force allow.
    #[error("`{}` is over the limit: {what}", path.display())]
    OverLimit {
        /// The file.
        path: PathBuf,
        /// Which limit, its value, and how to raise it.
        what: String,
    },
    /// The file decodes, but holds nothing to predict from.
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
        /// What it should have been.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A part of a bundle to be made was not named.
    #[error("a bundle needs a part `{part}`, and nothing gives it")]
    MissingPart {
        /// Which.
        part: String,
    },
    /// Weights or bundle.
    #[error(transparent)]
    Core(#[from] meptr_core::Error),
    /// A model gave what is no number.
    #[error("the {what} gives NaN or infinity; check the weights")]
    NotFinite {
        /// Which model.
        what: String,
    },
    /// A tensor computation failed.
    #[error("failed while {doing}")]
    Compute {
        /// What was being computed.
        doing: String,
        /// Why.
        source: candle::Error,
    },
}

impl Error {
    /// For `map_err`: says what Candle was computing when it failed.
    pub fn doing(what: impl Into<String>) -> impl FnOnce(candle::Error) -> Self {
        let doing = what.into();
        move |source| Self::Compute { doing, source }
    }
}
