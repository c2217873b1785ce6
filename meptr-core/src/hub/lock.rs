//! Lock of a file of the cache between processes.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Error, Result};

/// Held until it is dropped, or its process ends in whatever way.
///
/// It is `flock` on the file that the Python library locks as well. Some network file systems
/// (NFS without a lock service, Lustre without `-o flock`) have no such locks; there we go on
/// without: every process then writes the same bytes at the same places of the same file, and a
/// file gets its final name only after the bytes on disk were hashed, so at worst work is done
/// twice.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock as long as its holder makes progress.
    ///
    /// `waiting` is called once, if there is a wait at all; `sign_of_life` is any number that
    /// changes while the holder works.
    pub(super) fn acquire(
        path: &Path,
        timeout: Duration,
        waiting: impl FnOnce(),
        sign_of_life: impl Fn() -> u64,
    ) -> Result<Self> {
        let error = Error::at(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::at(folder))?;
        }
        let file = File::options().create(true).append(true).open(path).map_err(&error)?;
        let mut waiting = Some(waiting);
        let mut last_sign = (sign_of_life(), Instant::now());
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) if has_no_locks(&source) => {
                    return Ok(Self { _file: file });
                }
                Err(TryLockError::Error(source)) => return Err(error(source)),
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            let sign = sign_of_life();
            if sign != last_sign.0 {
                last_sign = (sign, Instant::now());
            }
            let waited = last_sign.1.elapsed();
            if waited > timeout {
                return Err(Error::Locked { path: path.to_owned(), waited });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn has_no_locks(error: &std::io::Error) -> bool {
    const NO_LOCKS_AVAILABLE: i32 = 37; // ENOLCK on Linux, which has no `ErrorKind`
    error.kind() == std::io::ErrorKind::Unsupported
        || (cfg!(target_os = "linux") && error.raw_os_error() == Some(NO_LOCKS_AVAILABLE))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_second_holder_waits_says_so_once_and_gives_up_without_a_sign_of_life() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/x.lock");
        let timeout = Duration::from_millis(120);
        let first = Lock::acquire(&path, timeout, || panic!("nobody holds it"), || 0).unwrap();
        let messages = Cell::new(0);
        let second = Lock::acquire(&path, timeout, || messages.set(messages.get() + 1), || 0);
        assert!(matches!(second, Err(Error::Locked { .. })));
        assert_eq!(messages.get(), 1);
        drop(first);
        Lock::acquire(&path, timeout, || panic!("nobody holds it"), || 0).unwrap();
    }

    #[test]
    fn a_holder_that_makes_progress_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let timeout = Duration::from_millis(120);
        let first = Lock::acquire(&path, timeout, || (), || 0).unwrap();
        let ticks = Cell::new(0);
        let release = Cell::new(Some(first));
        let growing = || {
            ticks.set(ticks.get() + 1);
            if ticks.get() == 8 {
                drop(release.take());
            }
            ticks.get()
        };
        Lock::acquire(&path, timeout, || (), growing).unwrap();
        assert!(ticks.get() >= 8, "waited longer than the timeout");
    }
}
