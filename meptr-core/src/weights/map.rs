//! Files that are read where the system keeps them.

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::Mmap;

/// A file mapped into memory, read-only.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps a file that is not empty.
    pub(super) fn open(file: &File) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "mapping is what saves a copy of the weights")]
        // SAFETY: the map is read-only, and nothing of ours changes a file in place: weight files are
        // written under a temporary name and renamed. That no other program does is a contract with
        // the user, as for every mapped file: one that shortens it could end ours, one that writes to
        // it would change values during the computation.
        unsafe { Mmap::map(file) }.map(Self)
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether these bytes can be read as f32 where they lie.
    pub(super) fn holds_f32s(&self, bytes: Range<usize>) -> bool {
        cfg!(target_endian = "little")
            && bytemuck::try_cast_slice::<u8, f32>(&self.0[bytes]).is_ok()
    }

    /// The f32 values of a range of bytes.
    ///
    /// # Panics
    /// Unless [`Self::holds_f32s`].
    pub(super) fn f32s(&self, bytes: Range<usize>) -> &[f32] {
        bytemuck::cast_slice(&self.0[bytes])
    }

    /// Releases the pages that were read so far; on the next access they are read again, mostly
    /// from the system's cache.
    pub fn release(&self) {
        #[cfg(unix)]
        {
            #[expect(unsafe_code, reason = "the call is unsafe for maps that were written to")]
            // SAFETY: nothing writes to the map, so pages that come back hold what they held.
            let advised = unsafe { self.0.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            if let Err(error) = advised {
                tracing::debug!("mapped weights stay in memory: {error}");
            }
        }
    }
}
