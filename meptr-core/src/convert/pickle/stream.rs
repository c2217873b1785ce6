//! The bytes of a pickle, read from front to back.

use crate::convert::error::{CheckpointError, Result};

/// Bytes that have not been read yet.
pub(super) struct Stream<'a> {
    rest: &'a [u8],
}

impl<'a> Stream<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let split = usize::try_from(length).ok().and_then(|at| self.rest.split_at_checked(at));
        let Some((head, rest)) = split else {
            return Err(CheckpointError::damaged("the pickle ends too early"));
        };
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N as u64)?;
        Ok(bytes.try_into().expect("`take` gives as many bytes as asked for"))
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Up to the next line feed, as text; the line feed is dropped.
    pub(super) fn line(&mut self) -> Result<&'a str> {
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let Some(end) = end else {
            return Err(CheckpointError::damaged("a line of the pickle has no end"));
        };
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        std::str::from_utf8(line).map_err(|_| not_text())
    }

    pub(super) fn utf8(&mut self, length: u64) -> Result<String> {
        let bytes = self.take(length)?;
        // Python writes lone surrogates too, which are no text here; they stand in no name we use.
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}

/// A whole number, little-endian two's complement; `None` above 16 bytes.
pub(super) fn long(bytes: &[u8]) -> Option<i128> {
    let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xFF } else { 0 };
    let mut wide = [sign; 16];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i128::from_le_bytes(wide))
}

/// A number in decimal digits, as protocol 0 writes it.
pub(super) fn decimal<T: std::str::FromStr>(line: &str) -> Result<T> {
    line.parse().map_err(|_| CheckpointError::damaged("a number of the pickle is not one"))
}

/// The content of a quoted string of protocol 0. Escapes stay as they are: names have none.
pub(super) fn unquoted(line: &str) -> Result<&str> {
    let inner = |quote| line.strip_prefix(quote)?.strip_suffix(quote);
    inner('\'').or_else(|| inner('"')).ok_or_else(not_text)
}

fn not_text() -> CheckpointError {
    CheckpointError::damaged("a text of the pickle is none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longs_are_little_endian_with_a_sign() {
        assert_eq!(long(&[]), Some(0));
        assert_eq!(long(&[0xFF]), Some(-1));
        assert_eq!(long(&[0xFF, 0]), Some(255));
        assert_eq!(long(&[0, 0x80]), Some(-32768));
        assert_eq!(long(&[1; 17]), None);
    }
}
