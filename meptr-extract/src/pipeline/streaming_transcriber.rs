//! Words from speech, where no others came with the video.

use super::audio_encoder::Cutter;
use super::timings::Steps;
use super::transcript_source::{WordSource, Words};
use crate::Result;
use crate::decode::{Cue, FramePlan, SAMPLE_RATE_HZ, Transcript};
use crate::speech::{TranscribeConfig, Whisper, no_voice};

/// Transcribes sound as it comes, in pieces of some minutes.
///
/// A phrase across the seam of two pieces is heard in two halves.
pub(super) struct Listener<'a> {
    whisper: &'a Whisper,
    cutter: Cutter,
    /// Seconds before the next piece.
    start_seconds: Option<f64>,
    language: Option<String>,
    cues: Vec<Cue>,
}

impl<'a> Listener<'a> {
    pub(super) fn new(whisper: &'a Whisper) -> Self {
        let cutter = Cutter::new(&FramePlan::Whole);
        Self { whisper, cutter, start_seconds: None, language: None, cues: Vec::new() }
    }

    /// Takes the next stretch of sound.
    pub(super) fn take(
        &mut self,
        start_seconds: f64,
        samples: &[f32],
        steps: &mut Steps,
    ) -> Result<()> {
        self.start_seconds.get_or_insert(start_seconds);
        for cut in self.cutter.push(start_seconds, samples) {
            self.transcribe(&cut.samples, steps)?;
        }
        Ok(())
    }

    /// What was said, if anything was.
    pub(super) fn finish(mut self, steps: &mut Steps) -> Result<Option<Words>> {
        for cut in self.cutter.finish() {
            self.transcribe(&cut.samples, steps)?;
        }
        let transcript = Transcript::from_cues(self.cues);
        let words = Words { source: WordSource::Whisper, transcript, language: self.language };
        Ok((!words.transcript.text.is_empty()).then_some(words))
    }

    fn transcribe(&mut self, samples: &[f32], steps: &mut Steps) -> Result<()> {
        let start = self.start_seconds.unwrap_or_default();
        self.start_seconds = Some(start + samples.len() as f64 / f64::from(SAMPLE_RATE_HZ));
        if no_voice(samples).is_some() {
            return Ok(());
        }
        // What was heard first decides the language of the rest.
        let config =
            TranscribeConfig { language: self.language.clone(), ..TranscribeConfig::default() };
        let heard = steps.time("whisper", || self.whisper.transcribe(samples, &config))?;
        self.language = self.language.take().or(heard.language);
        self.cues.extend(heard.segments.into_iter().map(|segment| Cue {
            start_seconds: start + segment.start_seconds,
            end_seconds: start + segment.end_seconds,
            text: segment.text.trim().to_owned(),
        }));
        Ok(())
    }
}
