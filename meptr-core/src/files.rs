//! Files that are there whole or not at all.

use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Writes a file under another name, sees to it that it is on the disk, and renames it.
///
/// The other name is fixed, so that what a killed process left is written over: two processes must
/// not write one file at the same time.
///
/// # Errors
/// When the folder is not there or the disk does not take it; the file that was there, if any, then
/// stays.
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".part");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&partial); // it may not exist; the first error is the one to tell
    })
}
