//! Opening several weight files, and reporting together all that do not fit.

use crate::{Error, Result};

/// What did not fit so far.
#[derive(Debug, Default)]
pub(crate) struct Unfit(Vec<meptr_core::Error>);

impl Unfit {
    /// The part that was opened; nothing when it does not fit, which [`Unfit::finish`] then reports.
    ///
    /// # Errors
    /// Any other failure, at once.
    pub(crate) fn note<T>(&mut self, opened: Result<T>) -> Result<Option<T>> {
        use meptr_core::Error::{UnfitFiles, UnfitWeights};
        match opened {
            Ok(part) => Ok(Some(part)),
            Err(Error::Core(UnfitFiles(several))) => {
                self.0.extend(several);
                Ok(None)
            }
            Err(Error::Core(one @ UnfitWeights { .. })) => {
                self.0.push(one);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// # Errors
    /// When something did not fit: all of it.
    pub(crate) fn finish(mut self) -> Result<()> {
        match self.0.len() {
            0 => Ok(()),
            1 => Err(self.0.remove(0).into()),
            _ => Err(meptr_core::Error::UnfitFiles(self.0).into()),
        }
    }
}

/// What to say of a part that was noted, after [`Unfit::finish`].
pub(crate) const NOTED: &str = "a part that did not open is an error of `finish`";

#[cfg(test)]
mod tests {
    use super::*;

    fn unfit(name: &str) -> Error {
        let (path, problems) = (name.into(), vec!["`a` is missing".to_owned()]);
        meptr_core::Error::UnfitWeights { path, problems }.into()
    }

    #[test]
    fn all_that_does_not_fit_comes_in_one_error() {
        let mut inner = Unfit::default();
        assert_eq!(inner.note(Ok(1)).unwrap(), Some(1));
        assert_eq!(inner.note::<u8>(Err(unfit("x"))).unwrap(), None);
        inner.note::<u8>(Err(unfit("y"))).unwrap();
        let mut outer = Unfit::default();
        outer.note(inner.finish()).unwrap();
        outer.note::<u8>(Err(unfit("z"))).unwrap();
        let text = outer.finish().unwrap_err().to_string();
        for name in ["`x`", "`y`", "`z`"] {
            assert!(text.contains(name), "{text}");
        }
        assert!(Unfit::default().finish().is_ok());
        let gone = Error::MissingPart { part: "clip".to_owned() };
        assert!(Unfit::default().note::<u8>(Err(gone)).is_err(), "other failures end it");
    }
}
