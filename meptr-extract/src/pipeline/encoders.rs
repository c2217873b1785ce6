//! Encoders of all modalities, and speech recognition.

use meptr_core::bundle::{Bundle, FolderPart};

use super::audio_encoder::AudioEncoder;
use super::compute_target::{ComputeTarget, join_on_cpu};
use super::text_encoder::TextEncoder;
use super::visual_encoder::VisualEncoder;
use crate::Result;
use crate::load_errors::{COLLECTED, LoadErrors};
use crate::speech::Whisper;

/// Frozen models of a bundle: detectors, backbones and Whisper.
#[derive(Debug)]
pub(super) struct Encoders {
    pub(super) visual: VisualEncoder,
    pub(super) audio: AudioEncoder,
    pub(super) text: TextEncoder,
    /// `None` when the bundle has none or it is not used.
    pub(super) whisper: Option<Whisper>,
}

impl Encoders {
    /// Loads the models; Whisper only if `transcribes`.
    ///
    /// # Errors
    /// When a part cannot be read or does not fit its configuration.
    pub(super) fn open(bundle: &Bundle, target: &ComputeTarget, transcribes: bool) -> Result<Self> {
        let transcriber = bundle.manifest().parts.transcriber.as_ref().filter(|_| transcribes);
        let open_whisper = |part: &FolderPart| {
            let folder = bundle.path(&part.folder);
            Whisper::open(&folder, &target.device, target.precision)
        };
        let ((visual, text), (audio, whisper)) = join_on_cpu(
            &target.device,
            || (VisualEncoder::open(bundle, target), TextEncoder::open(bundle, target)),
            || {
                let whisper = transcriber.map(open_whisper).transpose();
                (AudioEncoder::open(bundle, target), whisper)
            },
        );
        let mut errors = LoadErrors::default();
        let whisper = errors.collect(whisper)?;
        let visual = errors.collect(visual)?;
        let (audio, text) = (errors.collect(audio)?, errors.collect(text)?);
        errors.finish()?;
        Ok(Self {
            visual: visual.expect(COLLECTED),
            audio: audio.expect(COLLECTED),
            text: text.expect(COLLECTED),
            whisper: whisper.expect(COLLECTED),
        })
    }
}
