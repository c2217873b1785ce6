//! Errors of weights and computations.

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
        /// The cause.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A JSON file does not have the fields it must have.
    #[error("`{}` is not a valid {what}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Kind of file that was expected.
        what: &'static str,
        /// The cause.
        source: serde_json::Error,
    },
    /// A weight file does not hold exactly the tensors the model needs.
    #[error("`{}` does not fit the model: {}", path.display(), .problems.join("; "))]
    UnfitWeights {
        /// The file.
        path: PathBuf,
        /// Missing, superfluous or misshapen tensors.
        problems: Vec<String>,
    },
    /// Several weight files do not fit.
    #[error("{}", .0.iter().map(Self::to_string).collect::<Vec<_>>().join("; "))]
    UnfitFiles(
        /// An [`Error::UnfitWeights`] for each file.
        Vec<Self>,
    ),
    /// A bundle's manifest contradicts itself, its files or this program.
    #[error("the bundle `{}` cannot be used: {}", path.display(), .problems.join("; "))]
    UnfitBundle {
        /// The bundle's folder.
        path: PathBuf,
        /// All problems found.
        problems: Vec<String>,
    },
    /// A PyTorch checkpoint cannot be read or converted.
    #[error("cannot convert `{}`", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: crate::convert::CheckpointError,
    },
    /// A file of a feature store is damaged, contradicts itself, or is something else.
    #[error("`{}` does not hold features that can be used: {why}", path.display())]
    NotFeatures {
        /// The file.
        path: PathBuf,
        /// The problem.
        why: String,
    },
    /// A file of a feature store has the format of another version of this program.
    #[error(
        "`{}` has the format `{found}`, this program reads `{}`; extract the corpus again",
        path.display(),
        crate::store::VideoRecord::SCHEMA
    )]
    FeatureVersion {
        /// The file.
        path: PathBuf,
        /// The format that it states.
        found: String,
    },
    /// Another process writes to a feature store.
    #[error("another process is writing to the feature store `{}`; wait until it has ended", path.display())]
    StoreInUse {
        /// The store's folder.
        path: PathBuf,
    },
    /// The requested GPU is not available.
    #[error("cannot compute on cuda:{number}: {why}")]
    NoGpu {
        /// Its number.
        number: usize,
        /// The missing requirement.
        why: String,
    },
    /// A tensor computation failed.
    #[error("failed while {doing}")]
    Compute {
        /// The computation.
        doing: String,
        /// The cause.
        source: candle::Error,
    },
}

impl Error {
    /// Adds the computation that failed in Candle; for `map_err`.
    pub fn doing(what: impl Into<String>) -> impl FnOnce(candle::Error) -> Self {
        let doing = what.into();
        move |source| Self::Compute { doing, source }
    }
}
