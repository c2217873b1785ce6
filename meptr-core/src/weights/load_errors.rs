//! Errors of several weight files, reported together.

use crate::{Error, Result};

/// Invariant for `expect`: after a successful [`LoadErrors::finish`], every collected part is there.
pub const COLLECTED: &str = "a part that did not open is an error of `finish`";

/// Errors so far of weight files that do not fit their configuration.
#[derive(Debug, Default)]
pub struct LoadErrors(Vec<Error>);

impl LoadErrors {
    /// The part that was opened; `None` when its files do not fit, which [`LoadErrors::finish`] reports.
    ///
    /// # Errors
    /// Any other failure, at once.
    pub fn collect<T>(&mut self, opened: Result<T>) -> Result<Option<T>> {
        match opened {
            Ok(part) => Ok(Some(part)),
            Err(Error::UnfitFiles(several)) => {
                self.0.extend(several);
                Ok(None)
            }
            Err(one @ Error::UnfitWeights { .. }) => {
                self.0.push(one);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Ends the collection.
    ///
    /// # Errors
    /// All errors that were collected, in one.
    pub fn finish(mut self) -> Result<()> {
        match self.0.len() {
            0 => Ok(()),
            1 => Err(self.0.remove(0)),
            _ => Err(Error::UnfitFiles(self.0)),
        }
    }
}
