//! Limits on the resources that one file may use.

use serde::{Deserialize, Serialize};

/// Limits on one file, each checked before the memory that it guards is allocated.
///
/// The defaults accept any file of a camera, a phone or a conference recorder. Every field can be
/// raised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Pixels of one coded frame; 67 108 864 (8192 x 8192).
    pub max_pixels: u64,
    /// Frames that may be decoded, also the largest number in a header that is accepted;
    /// 10 000 000 (46 hours at 60 frames a second).
    pub max_frames: u64,
    /// Length in seconds, of sound as well as of video; 172 800 (two days).
    pub max_seconds: f64,
    /// Packets that may be unreadable or undecodable before the file counts as broken; 1000.
    pub max_corrupt_packets: u64,
    /// Audio channels; 64.
    pub max_audio_channels: u16,
    /// Audio samples per second; 768 000.
    pub max_audio_rate_hz: u32,
    /// Bytes of a transcript file; 16 777 216 (16 MiB).
    pub max_transcript_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pixels: 8192 * 8192,
            max_frames: 10_000_000,
            max_seconds: 172_800.0,
            max_corrupt_packets: 1000,
            max_audio_channels: 64,
            max_audio_rate_hz: 768_000,
            max_transcript_bytes: 16 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_over_the_defaults_and_unknown_ones_refused() {
        let raised: Limits = serde_json::from_str(r#"{ "max_pixels": 1 }"#).unwrap();
        assert_eq!(raised, Limits { max_pixels: 1, ..Limits::default() });
        assert!(serde_json::from_str::<Limits>(r#"{ "max_pixel": 1 }"#).is_err());
    }
}
