//! FFmpeg's libraries, loaded when the first video is opened.
//!
//! On Debian they bring some hundred others, and loading all of them takes longer than everything
//! else that `meptr --help` does. On Linux with the GNU C library and x86-64, the program therefore
//! defines the functions itself, each a jump to where the library's function is once it is loaded.
//! The linker then finds the libraries unused and leaves them out. Elsewhere they are linked as
//! usual, and [`load`] has nothing to do.

#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod functions;
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod on_demand;

use crate::Result;

/// Loads FFmpeg's libraries unless they are there; some 40 ms. Whoever opens or writes a video calls
/// this by itself; calling it earlier on another thread hides the time.
///
/// # Errors
/// When a library is missing or broken.
pub fn load_ffmpeg() -> Result<()> {
    #[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
    on_demand::load()?;
    Ok(())
}
