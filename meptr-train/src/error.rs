//! Errors of training.

use std::path::PathBuf;

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure of a training run.
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
    /// A file could not be written: the disk is full, or the folder is not ours to write to.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of a run folder is damaged, or is something else.
    #[error("`{}` {why}", path.display())]
    NotOfARun {
        /// The file.
        path: PathBuf,
        /// Reason.
        why: String,
    },
    /// A configuration file is not TOML, or a key in it is missing or of the wrong type.
    #[error("`{}` is not a valid configuration", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Place and reason.
        source: Box<toml::de::Error>,
    },
    /// A corpus or a configuration makes no sense.
    #[error("`{}` cannot be used:{}", path.display(), list(problems))]
    Unfit {
        /// The file that describes it.
        path: PathBuf,
        /// Everything found wrong.
        problems: Vec<String>,
    },
    /// Another process writes to a folder.
    #[error(
        "another process is writing to `{}`; wait until it has ended, or name another folder",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A training cannot start on its data.
    #[error("the training cannot start:{}", list(problems))]
    UnfitData {
        /// Everything found wrong.
        problems: Vec<String>,
    },
    /// A batch names a row that is not there.
    #[error("there is no row {row}")]
    NoSuchRow {
        /// The row.
        row: usize,
    },
    /// A checkpoint holds something else.
    #[error("`{name}` is no part of the state of a training")]
    NotAState {
        /// Name of the tensor that does not belong there.
        name: String,
    },
    /// Weights, or a feature store.
    #[error(transparent)]
    Core(Box<meptr_core::Error>),
    /// A tensor computation failed.
    #[error("failed while {doing}")]
    Compute {
        /// Computation that failed.
        doing: String,
        /// Why.
        source: candle::Error,
    },
    /// No epoch of a training had a dev score that is a number.
    #[error("no epoch of {model} has a dev score that is a number; try a lower learning rate")]
    NothingLearned {
        /// The model.
        model: String,
    },
    /// No step of an epoch had a loss to descend, and none before it has led anywhere.
    #[error(
        "no step of epoch {epoch} has a loss that is a number: these settings leave nothing to learn \
         from this data, or the learning rate is too high"
    )]
    NoLoss {
        /// Number of the epoch, from 1.
        epoch: usize,
    },
    /// Something failed that has to do with one model.
    #[error("{model}")]
    OfModel {
        /// The model.
        model: String,
        /// Underlying error.
        source: Box<Self>,
    },
    /// The dev split lacks the labels that the selection metric needs.
    #[error("no dev corpus ({corpora}) has the labels that selection by `{metric}` needs")]
    NothingToSelectBy {
        /// Name of the metric.
        metric: &'static str,
        /// Names of the dev corpora.
        corpora: String,
    },
}

impl From<meptr_core::Error> for Error {
    fn from(error: meptr_core::Error) -> Self {
        Self::Core(Box::new(error))
    }
}

impl Error {
    /// Has a training come to nothing, which it may not with other settings?
    pub fn is_nothing_learned(&self) -> bool {
        match self {
            Self::NothingLearned { .. } | Self::NoLoss { .. } => true,
            Self::OfModel { source, .. } => source.is_nothing_learned(),
            _ => false,
        }
    }

    /// For `map_err`: says what Candle was computing when it failed.
    pub fn doing(what: impl Into<String>) -> impl FnOnce(candle::Error) -> Self {
        let doing = what.into();
        move |source| Self::Compute { doing, source }
    }
}

fn list(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\n  - {problem}")).collect()
}
