//! Errors of checkpoints.

use std::fmt::Display;

/// Error of reading or converting a PyTorch file; [`Error::Checkpoint`](crate::Error::Checkpoint)
/// says which file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The pickle names code that no file of weights needs. It was not run; nothing ever is.
    #[error("its pickle calls for `{global}`, which weights have no use for: the file is refused")]
    ForbiddenGlobal {
        /// Module and name of the class or function.
        global: String,
    },
    /// The pickle holds a model as an object, not as a table of tensors.
    #[error(
        "it holds a whole model object (`{global}`) in place of a table of tensors; such files \
         are read in the mode for Ultralytics models only"
    )]
    ModelObject {
        /// The first class that was met.
        global: String,
    },
    /// The bytes contradict the format.
    #[error("it is damaged: {what}")]
    Damaged {
        /// The damage.
        what: String,
    },
    /// A legal file that is not read.
    #[error("it is of a kind that is not read: {what}")]
    Unsupported {
        /// Kind of the file.
        what: String,
    },
    /// More nesting, values or bytes than any checkpoint needs.
    #[error("it exceeds a limit against hostile files: {what}")]
    Limit {
        /// The limit.
        what: String,
    },
    /// The names or shapes of the tensors fit no model.
    #[error("its tensors fit no known model: {}", .problems.join("; "))]
    UnknownModel {
        /// Missing tensors and misfitting shapes.
        problems: Vec<String>,
    },
    /// A value is too large for the requested data type.
    #[error("`{tensor}` holds {value}, which {format} cannot hold")]
    Overflow {
        /// The tensor.
        tensor: String,
        /// The first such value.
        value: f64,
        /// The format.
        format: &'static str,
    },
    /// A value given for the configuration does not fit.
    #[error("`{key}` cannot be set: {problem}")]
    Override {
        /// Key in the configuration.
        key: String,
        /// The reason.
        problem: String,
    },
    /// Reading failed.
    #[error("reading failed")]
    Read(#[from] std::io::Error),
    /// A tensor could not be made.
    #[error("a tensor could not be made")]
    Tensor(#[from] candle::Error),
}

impl CheckpointError {
    pub(super) fn damaged(what: impl Display) -> Self {
        Self::Damaged { what: what.to_string() }
    }

    pub(super) fn unsupported(what: impl Display) -> Self {
        Self::Unsupported { what: what.to_string() }
    }

    pub(super) fn limit(what: impl Display) -> Self {
        Self::Limit { what: what.to_string() }
    }
}

pub(super) type Result<T, E = CheckpointError> = std::result::Result<T, E>;
