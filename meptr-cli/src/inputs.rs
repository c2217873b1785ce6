//! Outputs that must not take the place of what a run reads.

use std::path::Path;

/// Refuses to write over a file that the run reads, whatever names the two go by.
///
/// # Errors
/// When `output` is one of `inputs`; a file that is not there is none.
pub fn must_not_be(
    output: &Path,
    inputs: impl IntoIterator<Item = impl AsRef<Path>>,
) -> anyhow::Result<()> {
    let Some(place) = place_of(output) else { return Ok(()) };
    for input in inputs {
        let (input, output) = (input.as_ref(), output.display());
        anyhow::ensure!(
            place_of(input).as_ref() != Some(&place),
            "`{output}` would be written over, but it is `{}`, which this run reads",
            input.display()
        );
    }
    Ok(())
}

/// What two names of one file have in common; nothing when it is not there.
#[cfg(unix)]
fn place_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = path.metadata().ok()?;
    Some((found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn place_of(path: &Path) -> Option<std::path::PathBuf> {
    path.canonicalize().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_of_several_names_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(must_not_be(&at("new"), [at("new")]).is_ok());
        for name in ["a", "b"] {
            std::fs::write(at(name), "").unwrap();
        }
        assert!(must_not_be(&at("a"), [at("b"), at("gone")]).is_ok());
        assert!(must_not_be(&at("./a"), [at("b"), at("a")]).is_err());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("a", at("link")).unwrap();
            std::fs::hard_link(at("a"), at("second")).unwrap();
            for name in ["link", "second"] {
                assert!(must_not_be(&at(name), [at("a")]).is_err(), "{name}");
            }
        }
    }
}
