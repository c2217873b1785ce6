//! Embedded subtitle streams that hold text.

use ffmpeg_next as ffmpeg;

use ffmpeg::Packet;

use super::probe::SubtitleInfo;
use super::timestamps::TimeBase;
use super::transcript::{self, Cue};

/// Encoding of the text in the packets of a subtitle codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    /// The text itself, perhaps with markup: SubRip, WebVTT, plain text.
    Text,
    /// Two bytes of length, then the text: 3GPP timed text.
    MovText,
    /// Eight fields set apart by commas, then the text: SSA and ASS as Matroska stores them.
    Ass,
}

/// Embedded subtitle stream that is read.
///
/// Packets of these codecs are plain text, so they are read here rather than by FFmpeg's subtitle
/// decoders.
pub(super) struct SubtitleTrack {
    stream: usize,
    time_base: TimeBase,
    coding: Coding,
}

impl SubtitleTrack {
    /// Chooses the first text stream of the file.
    pub(super) fn choose(
        streams: &[SubtitleInfo],
        time_base: impl Fn(usize) -> TimeBase,
    ) -> Option<Self> {
        let chosen = streams.first()?;
        let coding = match chosen.codec.as_str() {
            "mov_text" => Coding::MovText,
            "ass" | "ssa" => Coding::Ass,
            _ => Coding::Text,
        };
        Some(Self { stream: chosen.stream, time_base: time_base(chosen.stream), coding })
    }

    /// Subtitle in a packet, if the packet belongs to this stream, has a time and holds text.
    pub(super) fn read(&self, packet: &Packet) -> Option<Cue> {
        let data = packet.data().filter(|_| packet.stream() == self.stream)?;
        let text = text_of(self.coding, data)?;
        let start = packet.pts()?;
        Some(Cue {
            start_seconds: self.time_base.seconds(start),
            end_seconds: self.time_base.seconds(start.saturating_add(packet.duration().max(0))),
            text,
        })
    }
}

fn text_of(coding: Coding, data: &[u8]) -> Option<String> {
    let text = match coding {
        Coding::Text => data,
        Coding::MovText => {
            let (length, rest) = data.split_first_chunk::<2>()?;
            rest.get(..usize::from(u16::from_be_bytes(*length)).min(rest.len()))?
        }
        Coding::Ass => data.splitn(9, |&byte| byte == b',').nth(8)?,
    };
    let text = transcript::plain_text(&String::from_utf8_lossy(text));
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_coding_gives_its_plain_text() {
        let cases: [(Coding, &[u8], Option<&str>); 7] = [
            (Coding::Text, b"<i>Good</i>\nday", Some("Good day")),
            (Coding::MovText, b"\0\x05Hello\0\0\0\x0cstyl", Some("Hello")),
            (Coding::MovText, b"\0\0", None),
            (Coding::MovText, b"\x01", None),
            (Coding::MovText, b"\xff\xffHi", Some("Hi")),
            (Coding::Ass, br"0,0,Default,,0,0,0,,{\i1}One,{\i0}\Ntwo", Some("One, two")),
            (Coding::Ass, b"0,0,Default", None),
        ];
        for (coding, data, expected) in cases {
            assert_eq!(text_of(coding, data).as_deref(), expected, "{data:?}");
        }
    }
}
