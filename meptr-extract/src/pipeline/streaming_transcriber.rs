//! Speech recognition while the sound is decoded.

use super::audio_chunks::AudioChunker;
use super::timings::StepTimings;
use super::transcript_source::{SourcedTranscript, TranscriptSource};
use crate::Result;
use crate::decode::{Cue, SAMPLE_RATE_HZ, Transcript};
use crate::speech::{TranscribeConfig, Whisper, check_voice};
use crate::windows::WindowPlan;

/// Transcribes sound while it is decoded, in chunks of some minutes.
///
/// A phrase across the border of two chunks is transcribed in two halves.
pub(super) struct StreamingTranscriber<'a> {
    whisper: &'a Whisper,
    chunker: AudioChunker,
    /// Start of the next chunk in seconds.
    start_seconds: Option<f64>,
    language: Option<String>,
    cues: Vec<Cue>,
}

impl<'a> StreamingTranscriber<'a> {
    pub(super) fn new(whisper: &'a Whisper) -> Self {
        let chunker = AudioChunker::new(&WindowPlan::Whole);
        Self { whisper, chunker, start_seconds: None, language: None, cues: Vec::new() }
    }

    /// Adds the next samples of the sound.
    pub(super) fn push(
        &mut self,
        start_seconds: f64,
        samples: &[f32],
        timings: &mut StepTimings,
    ) -> Result<()> {
        self.start_seconds.get_or_insert(start_seconds);
        for chunk in self.chunker.push(start_seconds, samples) {
            self.transcribe(&chunk.samples, timings)?;
        }
        Ok(())
    }

    /// Transcript of all sound, if it holds words.
    pub(super) fn finish(mut self, timings: &mut StepTimings) -> Result<Option<SourcedTranscript>> {
        for chunk in self.chunker.finish() {
            self.transcribe(&chunk.samples, timings)?;
        }
        let transcript = Transcript::from_cues(self.cues);
        let (source, language) = (TranscriptSource::Whisper, self.language);
        Ok(SourcedTranscript { source, transcript, language }.if_any_words())
    }

    fn transcribe(&mut self, samples: &[f32], timings: &mut StepTimings) -> Result<()> {
        let start = self.start_seconds.unwrap_or_default();
        self.start_seconds = Some(start + samples.len() as f64 / f64::from(SAMPLE_RATE_HZ));
        if check_voice(samples).is_err() {
            return Ok(());
        }
        // The first chunk with speech decides the language of the others.
        let config =
            TranscribeConfig { language: self.language.clone(), ..TranscribeConfig::default() };
        let result = timings.time("whisper", || self.whisper.transcribe(samples, &config))?;
        self.language = self.language.take().or(result.language);
        self.cues.extend(result.segments.into_iter().map(|segment| Cue {
            start_seconds: start + segment.start_seconds,
            end_seconds: start + segment.end_seconds,
            text: segment.text.trim().to_owned(),
        }));
        Ok(())
    }
}
