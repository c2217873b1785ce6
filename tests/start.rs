//! What happens before the first video is opened.
//!
//! FFmpeg's libraries are loaded on demand on Linux with the GNU C library on x86-64; elsewhere, and
//! with a function that `decode::libraries` does not list, the program is linked to them.
#![cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]

use anyhow::Result;
use ffmpeg_next::ffi::LIBAVCODEC_VERSION_MAJOR;

use crate::support::{Folder, film, meptr};

#[test]
fn help_loads_no_library_of_ffmpeg() -> Result<()> {
    for arguments in [&["--help"][..], &["--version"], &["predict", "--help"]] {
        let done = meptr(arguments).with("LD_DEBUG", "libs").ends_with(0)?;
        assert!(done.err.contains("libc.so"), "the loader says what it does: {}", done.err);
        for library in ["libav", "libsw"] {
            assert!(!done.err.contains(library), "{arguments:?}: {}", done.err);
        }
    }
    Ok(())
}

#[test]
fn a_missing_library_is_named_with_its_package() -> Result<()> {
    let folder = Folder::new()?;
    folder.clip("a.mkv", &film(2))?;
    folder.file(&format!("libavcodec.so.{LIBAVCODEC_VERSION_MAJOR}"), "")?;
    let run = meptr(["predict", "a.mkv"]).within(folder.path());
    let done = run.with("LD_LIBRARY_PATH", folder.path()).ends_with(2)?;
    let package = format!("package libavcodec{LIBAVCODEC_VERSION_MAJOR}");
    assert!(done.err.contains(&package), "{}", done.err);
    Ok(())
}
