//! Reading files through hashes.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::Path;

use crate::files::open_file;

/// Reads a file and passes its content to `take` in chunks, in constant memory.
///
/// Returns the number of bytes.
pub(crate) fn read_through(path: &Path, mut take: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut file = open_file(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok(total);
        }
        total += length as u64;
        take(&buffer[..length]);
    }
}

/// Bytes as hexadecimal digits in lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes any text");
        text
    })
}
