//! Transcript files: `.srt`, `.vtt` and plain text, in the encodings people have them in.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::source;
use crate::windows::TimeWindow;
use crate::{Error, Result};

/// Text with the time at which it is said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cue {
    /// Seconds since time zero of the file.
    pub start_seconds: f64,
    /// Seconds since time zero of the file, not before the start.
    pub end_seconds: f64,
    /// Plain text on one line, not empty.
    pub text: String,
}

/// Text of what is said, with times where they are known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// Everything said, one space between cues.
    pub text: String,
    /// Timed text in the order of the file; empty for plain text.
    pub cues: Vec<Cue>,
    /// Malformed cues of the file, which were left out.
    pub skipped: usize,
}

impl Transcript {
    /// Transcript of timed text.
    pub fn from_cues(cues: Vec<Cue>) -> Self {
        let texts: Vec<&str> = cues.iter().map(|cue| cue.text.as_str()).collect();
        Self { text: texts.join(" "), cues, skipped: 0 }
    }

    /// Text of the cues that overlap a time window.
    pub fn text_in(&self, window: &TimeWindow) -> String {
        let overlaps = |cue: &&Cue| window.overlaps(cue.start_seconds, cue.end_seconds);
        let texts: Vec<&str> =
            self.cues.iter().filter(overlaps).map(|cue| cue.text.as_str()).collect();
        texts.join(" ")
    }
}

/// Reads a transcript: SubRip or WebVTT, recognised by the content of the file, else plain text.
///
/// UTF-8 and UTF-16 are recognised, with or without a byte order mark; anything else is read as
/// Latin-1, in which every byte has a meaning. In a file called `.srt` or `.vtt`, text that is no cue
/// is left out.
///
/// # Errors
/// When the file cannot be read, is longer than `limits.max_transcript_bytes`, or holds no text.
pub fn read_transcript(path: &Path, limits: &Limits) -> Result<Transcript> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(read)?;
    if !metadata.is_file() {
        let kind = "is not a regular file";
        return Err(read(std::io::Error::new(std::io::ErrorKind::InvalidInput, kind)));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(read)?;
    file.take(limits.max_transcript_bytes + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > limits.max_transcript_bytes {
        let limit = limits.max_transcript_bytes;
        let what = format!("it is a transcript of more than {limit} bytes; give a shorter one");
        return Err(source::over_limit(path, what));
    }
    let text = decode_text(&bytes);
    if is_binary(&text) {
        return Err(source::decode_error(path, "it is no text that could be a transcript"));
    }
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    Ok(parse(&text, ending == "srt" || ending == "vtt"))
}

/// Whether the file is no text: it holds zeros, or more than one in a hundred characters are control
/// characters or invalid UTF-16.
fn is_binary(text: &str) -> bool {
    let is_odd = |one: &char| {
        one.is_ascii_control() && !one.is_ascii_whitespace() || *one == char::REPLACEMENT_CHARACTER
    };
    let odd = text.chars().filter(is_odd).count();
    text.contains('\0') || odd * 100 > text.chars().count()
}

/// Decodes text of unknown encoding.
fn decode_text(bytes: &[u8]) -> String {
    let utf16 = |bytes: &[u8], of: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| of([pair[0], pair[1]]));
        char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    match bytes {
        [0xEF, 0xBB, 0xBF, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0, first, ..] if *first != 0 => utf16(bytes, u16::from_be_bytes),
        [first, 0, ..] if *first != 0 => utf16(bytes, u16::from_le_bytes),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
        },
    }
}

/// Parses a transcript; `has_cues` says that it is subtitles even if all of them are malformed.
fn parse(text: &str, has_cues: bool) -> Transcript {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let is_vtt = text.starts_with("WEBVTT");
    if !has_cues && !is_vtt && !text.lines().any(|line| parse_times(line).is_some()) {
        return Transcript { text: one_line(&text), ..Transcript::default() };
    }
    let (mut cues, mut skipped) = (Vec::new(), 0);
    let blocks = text.split("\n\n").map(str::trim).filter(|block| !block.is_empty());
    for block in blocks {
        if is_vtt
            && ["WEBVTT", "NOTE", "STYLE", "REGION"].iter().any(|head| block.starts_with(head))
        {
            continue;
        }
        match parse_cue(block) {
            Some(cue) => cues.extend(Some(cue).filter(|cue| !cue.text.is_empty())),
            None => skipped += 1,
        }
    }
    Transcript { skipped, ..Transcript::from_cues(cues) }
}

/// Parses a block of lines: an optional number or name, the times, the text.
fn parse_cue(block: &str) -> Option<Cue> {
    let mut lines = block.lines();
    let (start_seconds, end_seconds) = lines.by_ref().take(2).find_map(parse_times)?;
    let text: Vec<&str> = lines.collect();
    Some(Cue { start_seconds, end_seconds, text: plain_text(&text.join("\n")) })
}

/// Parses `00:00:01,000 --> 00:00:02.500 settings`, hours optional; `None` when it ends before it
/// starts.
fn parse_times(line: &str) -> Option<(f64, f64)> {
    let (start, rest) = line.split_once("-->")?;
    let start = parse_time(start.trim())?;
    let end = parse_time(rest.split_whitespace().next()?)?;
    (start <= end).then_some((start, end))
}

fn parse_time(text: &str) -> Option<f64> {
    let text = text.replace(',', ".");
    let (clock, fraction) = text.split_once('.').unwrap_or((&text, "0"));
    let is_number = |part: &str| {
        (1..=6).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let parts: Vec<&str> = clock.split(':').collect();
    if !(2..=3).contains(&parts.len()) || !parts.iter().all(|part| is_number(part)) {
        return None;
    }
    if !is_number(fraction) {
        return None;
    }
    let whole: u64 = parts
        .iter()
        .try_fold(0, |total: u64, part| Some(total * 60 + part.parse::<u64>().ok()?))?;
    Some(whole as f64 + format!("0.{fraction}").parse::<f64>().ok()?)
}

/// Subtitle text without markup: `<tags>`, `{\overrides}`, `\N`, HTML entities; on one line.
pub(super) fn plain_text(text: &str) -> String {
    let text = text.replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ");
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(start) = rest.find(['<', '{']) {
        let (before, from) = rest.split_at(start);
        plain.push_str(before);
        match markup_length(from) {
            Some(length) => rest = &from[length..],
            None => {
                plain.push_str(&from[..1]);
                rest = &from[1..];
            }
        }
    }
    plain.push_str(rest);
    for (entity, character) in [
        ("&nbsp;", " "),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&lrm;", ""),
        ("&rlm;", ""),
        ("&amp;", "&"),
    ] {
        plain = plain.replace(entity, character);
    }
    one_line(&plain)
}

/// Length of the markup at the start of `text`, which begins with `<` or `{`; `None` when that is an
/// ordinary character.
fn markup_length(text: &str) -> Option<usize> {
    let (close, is_markup) = match text.as_bytes() {
        [b'{', b'\\', ..] => ('}', true),
        [b'<', next, ..] => ('>', next.is_ascii_alphanumeric() || *next == b'/'),
        _ => return None,
    };
    text.find(close).filter(|_| is_markup).map(|end| end + 1)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cue(start_seconds: f64, end_seconds: f64, text: &str) -> Cue {
        Cue { start_seconds, end_seconds, text: text.into() }
    }

    #[test]
    fn subrip_is_read_and_broken_cues_are_skipped() {
        let text = "1\r\n00:00:01,000 --> 00:00:02,500\r\n<i>Good</i>\r\nday\r\n\r\n\
                    2\r\nnonsense\r\nlost\r\n\r\n\
                    3\r\n00:00:09,000 --> 00:00:01,000\r\nbackwards\r\n\r\n\
                    01:00:00,5 --> 01:00:01,25\r\na < b & {c}";
        let found = parse(text, false);
        assert_eq!(found.cues, [cue(1.0, 2.5, "Good day"), cue(3600.5, 3601.25, "a < b & {c}")]);
        assert_eq!((found.skipped, found.text.as_str()), (2, "Good day a < b & {c}"));
    }

    #[test]
    fn webvtt_is_read_without_its_notes() {
        let text = "WEBVTT - title\n\nNOTE remark\n\nSTYLE\n::cue {}\n\n\
                    intro\n01:02.250 --> 01:03.000 align:start\n<v Ann>Hi &amp; <00:01.000>bye</v>\n";
        assert_eq!(parse(text, false).cues, [cue(62.25, 63.0, "Hi & bye")]);
        assert_eq!(parse("WEBVTT", true), Transcript::default());
    }

    #[test]
    fn other_text_is_taken_as_it_is() {
        let found = parse("I did not\n\nexpect <that>.\n", false);
        assert_eq!(found.text, "I did not expect <that>.");
        assert!(found.cues.is_empty());
    }

    #[test]
    fn cues_that_cannot_be_understood_are_no_words() {
        let backwards = "1\n00:00:05,000 --> 00:00:01,000\nhi\n\n2\n00:00:xx -->\nho\n";
        let found = parse(backwards, true);
        assert_eq!((found.text.as_str(), found.skipped), ("", 2));
    }

    #[test]
    fn what_is_no_text_is_refused() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("t.txt");
        let utf16 = "Grüße 你好".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let texts: [Vec<u8>; 4] =
            [Vec::new(), b"a\tb\r\n\x0c".to_vec(), b"Gr\xfc\xdfe".to_vec(), utf16];
        for bytes in texts {
            std::fs::write(&path, &bytes)?;
            read_transcript(&path, &Limits::default())?;
        }
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        let mp4 = b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2".to_vec();
        for bytes in [png, mp4, vec![1, 2, 3, 4], vec![0x41, 0, 0, 0xDC, 0, 0xDC]] {
            std::fs::write(&path, &bytes)?;
            let refused = read_transcript(&path, &Limits::default());
            assert!(matches!(refused, Err(Error::Decode { .. })), "{bytes:?}: {refused:?}");
        }
        Ok(())
    }

    #[test]
    fn encodings_are_told_apart() {
        let utf16 = |of: fn(u16) -> [u8; 2]| "é!".encode_utf16().flat_map(of).collect::<Vec<u8>>();
        let cases: [(Vec<u8>, &str); 6] = [
            (b"\xEF\xBB\xBF\xC3\xA9!".to_vec(), "é!"),
            (b"\xC3\xA9!".to_vec(), "é!"),
            (b"\xE9!".to_vec(), "é!"),
            ([vec![0xFF, 0xFE], utf16(u16::to_le_bytes)].concat(), "é!"),
            ([vec![0xFE, 0xFF], utf16(u16::to_be_bytes)].concat(), "é!"),
            (Vec::new(), ""),
        ];
        for (bytes, expected) in cases {
            assert_eq!(decode_text(&bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn text_of_a_window_is_that_of_overlapping_cues() {
        let window = |start_seconds, end_seconds| TimeWindow { start_seconds, end_seconds };
        let found =
            Transcript::from_cues(vec![cue(0.0, 1.0, "a"), cue(1.0, 2.0, "b"), cue(3.0, 4.0, "c")]);
        assert_eq!(found.text_in(&window(1.0, 3.0)), "b");
        assert_eq!(found.text_in(&window(0.5, 3.5)), "a b c");
    }

    #[test]
    fn files_over_the_limit_and_folders_are_refused() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("t.txt");
        std::fs::write(&path, "four")?;
        let limits = |max_transcript_bytes| Limits { max_transcript_bytes, ..Limits::default() };
        assert_eq!(read_transcript(&path, &limits(4))?.text, "four");
        assert!(matches!(read_transcript(&path, &limits(3)), Err(Error::OverLimit { .. })));
        assert!(matches!(read_transcript(folder.path(), &limits(3)), Err(Error::Read { .. })));
        Ok(())
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_some_transcript(bytes: Vec<u8>) {
            let cue = b"WEBVTT\n\n00:00.000 --> 00:01.000\n<{\\".as_slice();
            for has_cues in [false, true] {
                parse(&decode_text(&bytes), has_cues);
                parse(&decode_text(&[cue, &bytes].concat()), has_cues);
            }
        }
    }
}
