//! What can go wrong in training.

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure of a training run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor computation failed.
    #[error("failed while {doing}")]
    Compute {
        /// What was being computed.
        doing: String,
        /// Why.
        source: candle::Error,
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

impl Error {
    /// For `map_err`: says what Candle was computing when it failed.
    pub fn doing(what: impl Into<String>) -> impl FnOnce(candle::Error) -> Self {
        let doing = what.into();
        move |source| Self::Compute { doing, source }
    }
}
