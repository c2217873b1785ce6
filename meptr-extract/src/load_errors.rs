//! Errors of several weight files, reported together, among this crate's errors.

pub(crate) use meptr_core::weights::COLLECTED;

use crate::{Error, Result};

/// [`meptr_core::weights::LoadErrors`] for the results of this crate.
#[derive(Debug, Default)]
pub(crate) struct LoadErrors(meptr_core::weights::LoadErrors);

impl LoadErrors {
    /// The part that was opened; `None` when its files do not fit, which [`LoadErrors::finish`] reports.
    ///
    /// # Errors
    /// Any other failure, at once.
    pub(crate) fn collect<T>(&mut self, opened: Result<T>) -> Result<Option<T>> {
        match opened {
            Ok(part) => Ok(Some(part)),
            Err(Error::Core(error)) => Ok(self.0.collect(Err(error))?),
            Err(other) => Err(other),
        }
    }

    /// Ends the collection.
    ///
    /// # Errors
    /// All errors that were collected, in one.
    pub(crate) fn finish(self) -> Result<()> {
        Ok(self.0.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unfit(name: &str) -> Error {
        let (path, problems) = (name.into(), vec!["`a` is missing".to_owned()]);
        meptr_core::Error::UnfitWeights { path, problems }.into()
    }

    #[test]
    fn all_files_that_do_not_fit_are_in_one_error() {
        let mut inner = LoadErrors::default();
        assert_eq!(inner.collect(Ok(1)).unwrap(), Some(1));
        assert_eq!(inner.collect::<u8>(Err(unfit("x"))).unwrap(), None);
        inner.collect::<u8>(Err(unfit("y"))).unwrap();
        let mut outer = LoadErrors::default();
        outer.collect(inner.finish()).unwrap();
        outer.collect::<u8>(Err(unfit("z"))).unwrap();
        let text = outer.finish().unwrap_err().to_string();
        for name in ["`x`", "`y`", "`z`"] {
            assert!(text.contains(name), "{text}");
        }
        assert!(LoadErrors::default().finish().is_ok());
        let gone = Error::MissingPart { part: "clip".to_owned() };
        assert!(LoadErrors::default().collect::<u8>(Err(gone)).is_err(), "other failures end it");
    }
}
