//! TensorBoard's event files, as far as curves of numbers need them.
//!
//! A file is a sequence of records (`u64` length, masked CRC-32C of the length, the bytes, masked
//! CRC-32C of the bytes, all little-endian), each a protocol buffer `Event` of
//! <https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/util/event.proto>. The
//! crates that write them bring a compiler for protocol buffers, for these few fields.

/// Bytes of a file in the making.
#[derive(Debug, Clone, Default)]
pub struct Events(Vec<u8>);

impl Events {
    /// The head of a file, written at `time` (seconds since 1970).
    pub fn head(time: f64) -> Self {
        let mut events = Self::default();
        let mut event = Message::default();
        event.double(1, time);
        event.bytes(3, b"brain.Event:2");
        events.record(&event.0);
        events
    }

    /// Adds numbers of one step, each under a name in which `/` makes groups.
    pub fn scalars<'a>(
        &mut self,
        time: f64,
        step: u64,
        scalars: impl IntoIterator<Item = (&'a str, f64)>,
    ) {
        let mut summary = Message::default();
        for (name, value) in scalars {
            let mut one = Message::default();
            one.bytes(1, name.as_bytes());
            one.float(2, value as f32);
            summary.bytes(1, &one.0);
        }
        let mut event = Message::default();
        event.double(1, time);
        event.number(2, step);
        event.bytes(5, &summary.0);
        self.record(&event.0);
    }

    /// Bytes to write or append.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn record(&mut self, data: &[u8]) {
        let length = (data.len() as u64).to_le_bytes();
        self.0.extend(length);
        self.0.extend(masked(crc32c(&length)).to_le_bytes());
        self.0.extend(data);
        self.0.extend(masked(crc32c(data)).to_le_bytes());
    }
}

/// A protocol buffer: each field is a number and a wire type, then its value.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7F) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }
}

/// CRC-32 with the polynomial of Castagnoli, bit by bit: an epoch has a few kilobytes.
fn crc32c(bytes: &[u8]) -> u32 {
    const REVERSED_POLYNOMIAL: u32 = 0x82F6_3B78;
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (REVERSED_POLYNOMIAL * (crc & 1)))
    });
    !crc
}

/// Masked CRC, as TFRecord files store it.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference: RFC 3720, section B.4.
    #[test]
    fn checksums_are_castagnoli_s() {
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    /// Reference: TensorBoard 2.21's `RecordWriter`, given the same events.
    #[test]
    fn a_file_is_as_tensorboard_writes_it() {
        let mut events = Events::head(1.5);
        events.scalars(2.5, 300, [("loss", 0.25), ("dev/muar", 1.0)]);
        let hex: String = events.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("events.hex").trim());
    }
}
