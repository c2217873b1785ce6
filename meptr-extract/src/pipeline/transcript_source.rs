//! Sources of the transcript of a video: the caller, files, subtitles, speech recognition.

use std::path::{Path, PathBuf};

use super::fallback::SIDECAR_EXTENSIONS;
use crate::Result;
use crate::decode::{Cue, Limits, MediaInfo, Transcript, read_transcript};

/// Transcript that the caller asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TranscriptChoice {
    /// The first that there is of several sources, see [`fallback`](super::fallback).
    #[default]
    Find,
    /// This text.
    Text(String),
    /// This `.txt`, `.srt` or `.vtt` file.
    File(PathBuf),
}

/// Source of a transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TranscriptSource {
    /// The caller gave the text.
    Argument,
    /// The caller named a file.
    File,
    /// A file beside the video, with the same name.
    Sidecar,
    /// A subtitle stream of the video.
    Subtitles,
    /// Speech recognition.
    Whisper,
}

impl TranscriptSource {
    /// Name in the result.
    pub fn name(self) -> &'static str {
        match self {
            Self::Argument => "argument",
            Self::File => "file",
            Self::Sidecar => "sidecar",
            Self::Subtitles => "subtitles",
            Self::Whisper => "whisper",
        }
    }
}

/// Transcript of a video and its source.
#[derive(Debug, Clone, PartialEq)]
pub struct SourcedTranscript {
    /// Source.
    pub source: TranscriptSource,
    /// Text and times.
    pub transcript: Transcript,
    /// Language code, if known.
    pub language: Option<String>,
}

impl SourcedTranscript {
    /// A transcript of unknown language.
    pub(super) fn of(source: TranscriptSource, transcript: Transcript) -> Self {
        Self { source, transcript, language: None }
    }

    /// The transcript, unless it holds no words.
    pub(super) fn if_any_words(self) -> Option<Self> {
        (!self.transcript.text.is_empty()).then_some(self)
    }
}

/// Transcript that is known before the video is opened; a file beside it without words is skipped.
///
/// Adds notes about files to `notes`.
///
/// # Errors
/// When a file that was named, or lies beside the video, cannot be read.
pub(super) fn known_transcript(
    video: &Path,
    choice: &TranscriptChoice,
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<Option<SourcedTranscript>> {
    match choice {
        TranscriptChoice::Text(text) => {
            let transcript = Transcript { text: text.clone(), ..Transcript::default() };
            Ok(Some(SourcedTranscript::of(TranscriptSource::Argument, transcript)))
        }
        TranscriptChoice::File(path) => {
            let transcript = read_file(path, limits, notes)?;
            Ok(Some(SourcedTranscript::of(TranscriptSource::File, transcript)))
        }
        TranscriptChoice::Find => {
            for path in sidecar_transcripts(video).filter(|path| path.is_file()) {
                let transcript = read_file(&path, limits, notes)?;
                if !transcript.text.is_empty() {
                    return Ok(Some(SourcedTranscript::of(TranscriptSource::Sidecar, transcript)));
                }
            }
            Ok(None)
        }
    }
}

/// Reads a transcript, and notes how many of its cues are malformed.
fn read_file(path: &Path, limits: &Limits, notes: &mut Vec<String>) -> Result<Transcript> {
    let transcript = read_transcript(path, limits)?;
    if transcript.skipped > 0 {
        let (path, skipped) = (path.display(), transcript.skipped);
        notes.push(format!("`{path}`: malformed cues, left out: {skipped}"));
    }
    Ok(transcript)
}

/// Paths of transcripts beside a video, in order of precedence.
pub fn sidecar_transcripts(video: &Path) -> impl Iterator<Item = PathBuf> {
    let paths = SIDECAR_EXTENSIONS.map(|extension| video.with_extension(extension));
    paths.into_iter().filter(move |path| path != video)
}

/// Transcript of the subtitles inside the video, if they hold words.
pub(super) fn embedded_transcript(cues: Vec<Cue>, media: &MediaInfo) -> Option<SourcedTranscript> {
    let transcript = Transcript::from_cues(cues);
    let stream = media.subtitles.first(); // the one that is read
    let language = stream.and_then(|stream| stream.language.clone()).filter(|tag| tag != "und");
    SourcedTranscript { language, ..SourcedTranscript::of(TranscriptSource::Subtitles, transcript) }
        .if_any_words()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::SubtitleInfo;

    fn known(video: &Path, choice: &TranscriptChoice) -> Option<(TranscriptSource, String)> {
        let words = known_transcript(video, choice, &Limits::default(), &mut Vec::new()).unwrap();
        words.map(|words| (words.source, words.transcript.text))
    }

    #[test]
    fn given_words_come_before_files_and_files_before_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let video = folder.path().join("clip.mp4");
        assert_eq!(known(&video, &TranscriptChoice::Find), None);
        std::fs::write(video.with_extension("vtt"), "WEBVTT\n\n00:01.000 --> 00:02.000\nHello")
            .unwrap();
        let found = known(&video, &TranscriptChoice::Find);
        assert_eq!(found, Some((TranscriptSource::Sidecar, "Hello".to_owned())));
        std::fs::write(video.with_extension("txt"), "Good day").unwrap();
        let found = known(&video, &TranscriptChoice::Find);
        assert_eq!(found, Some((TranscriptSource::Sidecar, "Good day".to_owned())));
        let found = known(&video, &TranscriptChoice::Text("Ha".to_owned()));
        assert_eq!(found, Some((TranscriptSource::Argument, "Ha".to_owned())));
    }

    #[test]
    fn a_named_file_that_is_not_there_is_an_error() {
        let choice = TranscriptChoice::File("gone.srt".into());
        let read = |choice| {
            known_transcript("a.mp4".as_ref(), choice, &Limits::default(), &mut Vec::new())
        };
        let error = read(&choice).unwrap_err();
        assert!(error.to_string().contains("gone.srt"), "{error}");
    }

    #[test]
    fn a_file_without_words_does_not_hide_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let video = folder.path().join("clip.mp4");
        std::fs::write(video.with_extension("txt"), "\n").unwrap();
        assert_eq!(known(&video, &TranscriptChoice::Find), None);
        std::fs::write(video.with_extension("srt"), "1\n00:00:xx -->\nHello").unwrap();
        let mut notes = Vec::new();
        let found =
            known_transcript(&video, &TranscriptChoice::Find, &Limits::default(), &mut notes)
                .unwrap();
        assert_eq!(found, None);
        assert!(notes[0].contains("clip.srt") && notes[0].ends_with(": 1"), "{notes:?}");
        std::fs::write(video.with_extension("vtt"), "WEBVTT\n\n00:01.000 --> 00:02.000\nHello")
            .unwrap();
        let found = known(&video, &TranscriptChoice::Find);
        assert_eq!(found, Some((TranscriptSource::Sidecar, "Hello".to_owned())));
    }

    #[test]
    fn subtitles_bring_the_language_of_their_stream() {
        let cue = Cue { start_seconds: 0.0, end_seconds: 1.0, text: "Guten Tag".to_owned() };
        let of = |language: Option<&str>| {
            let stream = SubtitleInfo {
                stream: 2,
                codec: "subrip".to_owned(),
                language: language.map(str::to_owned),
            };
            let media = MediaInfo {
                container: "matroska,webm".to_owned(),
                duration_seconds: None,
                start_seconds: 0.0,
                video: None,
                audio: None,
                subtitles: vec![stream],
            };
            embedded_transcript(vec![cue.clone()], &media).and_then(|words| words.language)
        };
        assert_eq!(of(Some("deu")).as_deref(), Some("deu"));
        assert_eq!((of(Some("und")), of(None)), (None, None));
    }
}
