//! Words: where they come from, and BERT.

use std::path::{Path, PathBuf};

use candle::{Device, Tensor};
use meptr_core::bundle::Bundle;

use super::Place;
use crate::backbones::{Bert, BertTokenizer, FromCheckpoint};
use crate::decode::{Cue, Limits, MediaInfo, Transcript, read_transcript};
use crate::{Error, Result};

/// Where words come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TranscriptChoice {
    /// A file beside the video, else a subtitle stream inside it, else speech recognition.
    #[default]
    Find,
    /// These words.
    Text(String),
    /// This `.txt`, `.srt` or `.vtt` file.
    File(PathBuf),
}

/// Where the words of a video were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordSource {
    /// The caller gave them.
    Argument,
    /// The caller named a file.
    File,
    /// A file of the video's name beside it.
    Sidecar,
    /// A subtitle stream of the video.
    Subtitles,
    /// Speech recognition.
    Whisper,
}

impl WordSource {
    /// Name in results.
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

/// What is said in a video, and how that is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Words {
    /// How it is known.
    pub source: WordSource,
    /// What is said.
    pub transcript: Transcript,
    /// Language code, where it is known.
    pub language: Option<String>,
}

/// Words that are known before the video is opened; a file beside it that holds none does not count.
/// What is to know about files joins `notes`.
///
/// # Errors
/// When a file that was named, or lies beside the video, cannot be read.
pub(super) fn known_words(
    video: &Path,
    choice: &TranscriptChoice,
    limits: &Limits,
    notes: &mut Vec<String>,
) -> Result<Option<Words>> {
    let words = |source, transcript| Some(Words { source, transcript, language: None });
    let mut read = |path: &Path| -> Result<Transcript> {
        let transcript = read_transcript(path, limits)?;
        if transcript.skipped > 0 {
            let (path, skipped) = (path.display(), transcript.skipped);
            notes.push(format!("`{path}`: cues that make no sense, left out: {skipped}"));
        }
        Ok(transcript)
    };
    match choice {
        TranscriptChoice::Text(text) => {
            let transcript = Transcript { text: text.clone(), ..Transcript::default() };
            Ok(words(WordSource::Argument, transcript))
        }
        TranscriptChoice::File(path) => Ok(words(WordSource::File, read(path)?)),
        TranscriptChoice::Find => {
            for path in files_beside(video).filter(|path| path.is_file()) {
                let transcript = read(&path)?;
                if !transcript.text.is_empty() {
                    return Ok(words(WordSource::Sidecar, transcript));
                }
            }
            Ok(None)
        }
    }
}

/// Where a transcript is looked for beside a video, first what counts first.
pub fn files_beside(video: &Path) -> impl Iterator<Item = PathBuf> {
    let paths = ["txt", "srt", "vtt"].map(|ending| video.with_extension(ending));
    paths.into_iter().filter(move |path| path != video)
}

/// The subtitles inside the video.
pub(super) fn embedded(cues: Vec<Cue>, media: &MediaInfo) -> Option<Words> {
    let transcript = Transcript::from_cues(cues);
    let stream = media.subtitles.first(); // the one that is read
    let language = stream.and_then(|stream| stream.language.clone()).filter(|tag| tag != "und");
    let words = Words { source: WordSource::Subtitles, transcript, language };
    (!words.transcript.text.is_empty()).then_some(words)
}

/// BERT with its tokenizer.
#[derive(Debug)]
pub(super) struct WordReader {
    input: BertTokenizer,
    model: Bert,
    device: Device,
}

impl WordReader {
    pub(super) fn open(bundle: &Bundle, Place { device, precision }: &Place) -> Result<Self> {
        let folder = bundle.path(&bundle.manifest().parts.bert.folder);
        let model = Bert::open(&folder, device, *precision)?;
        let input = BertTokenizer::open(&folder, model.config().max_position_embeddings)?;
        Ok(Self { input, model, device: device.clone() })
    }

    /// The sequence of a text, `(1, tokens, width)`; `None` when it holds no word.
    pub(super) fn read(&self, text: &str) -> Result<Option<Tensor>> {
        let Some(ids) = self.input.tokens(text)? else { return Ok(None) };
        let length = ids.len();
        let run = || {
            let ids = Tensor::from_vec(ids, (1, length), &self.device)?;
            self.model.forward(&ids, &[length])
        };
        run().map(Some).map_err(Error::doing("running BERT"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::SubtitleInfo;

    fn known(video: &Path, choice: &TranscriptChoice) -> Option<(WordSource, String)> {
        let words = known_words(video, choice, &Limits::default(), &mut Vec::new()).unwrap();
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
        assert_eq!(found, Some((WordSource::Sidecar, "Hello".to_owned())));
        std::fs::write(video.with_extension("txt"), "Good day").unwrap();
        let found = known(&video, &TranscriptChoice::Find);
        assert_eq!(found, Some((WordSource::Sidecar, "Good day".to_owned())));
        let found = known(&video, &TranscriptChoice::Text("Ha".to_owned()));
        assert_eq!(found, Some((WordSource::Argument, "Ha".to_owned())));
    }

    #[test]
    fn a_named_file_that_is_not_there_is_an_error() {
        let choice = TranscriptChoice::File("gone.srt".into());
        let read =
            |choice| known_words("a.mp4".as_ref(), choice, &Limits::default(), &mut Vec::new());
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
            known_words(&video, &TranscriptChoice::Find, &Limits::default(), &mut notes).unwrap();
        assert_eq!(found, None);
        assert!(notes[0].contains("clip.srt") && notes[0].ends_with(": 1"), "{notes:?}");
        std::fs::write(video.with_extension("vtt"), "WEBVTT\n\n00:01.000 --> 00:02.000\nHello")
            .unwrap();
        let found = known(&video, &TranscriptChoice::Find);
        assert_eq!(found, Some((WordSource::Sidecar, "Hello".to_owned())));
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
            embedded(vec![cue.clone()], &media).and_then(|words| words.language)
        };
        assert_eq!(of(Some("deu")).as_deref(), Some("deu"));
        assert_eq!((of(Some("und")), of(None)), (None, None));
    }
}
