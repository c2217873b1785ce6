//! What can go wrong with weights and computations.

use std::path::PathBuf;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure of a weight file, a bundle or a computation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
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
    /// A JSON file does not have the fields it must have.
    #[error("`{}` is not a valid {what}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What it should have been.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A weight file does not hold exactly the tensors the model needs.
    #[error("`{}` does not fit the model: {}", path.display(), .problems.join("; "))]
    UnfitWeights {
        /// The file.
        path: PathBuf,
        /// Every missing, superfluous or misshapen tensor.
        problems: Vec<String>,
    },
    /// A bundle's manifest contradicts itself, its files or this program.
    #[error("the bundle `{}` cannot be used: {}", path.display(), .problems.join("; "))]
    UnfitBundle {
        /// The bundle's folder.
        path: PathBuf,
        /// Everything found wrong.
        problems: Vec<String>,
    },
    /// A PyTorch checkpoint cannot be read or converted.
    #[error("cannot convert `{}`", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Why.
        source: crate::convert::CheckpointError,
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
