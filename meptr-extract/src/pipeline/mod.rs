//! From a video to the features of its modalities.
//!
//! One thread decodes; another runs detectors and encoders. Between them is a short queue, so that
//! memory does not grow with the length of the video. Features are passed to a [`FeatureSink`] as
//! soon as a window is complete.
//!
//! | step | file |
//! | --- | --- |
//! | order of the steps | `extractor`, `video_pass`, `decode_thread` |
//! | frames: detection, crops, CLIP | `frame_buffer`, `visual_encoder` |
//! | sound: chunks, Wav2Vec2 | `audio_chunks`, `audio_encoder` |
//! | words: source, Whisper, BERT | `transcript_source`, `streaming_transcriber`, `text_encoder` |
//! | missing inputs, for all modalities | [`fallback`] |
//! | time windows | [`crate::windows`] |

mod audio_chunks;
mod audio_encoder;
mod compute_target;
mod decode_thread;
mod encoders;
mod extractor;
pub mod fallback;
mod feature_collector;
mod feature_sink;
mod frame_buffer;
mod streaming_transcriber;
mod text_encoder;
mod timings;
mod transcript_source;
mod truncation;
mod video_pass;
mod visual_encoder;
mod visual_features;

pub use audio_chunks::MAX_CHUNK_SECONDS;
pub use audio_encoder::AudioChunkFeatures;
pub use compute_target::ComputeTarget;
pub(crate) use compute_target::join_on_cpu;
pub use extractor::{ExtractRequest, Extraction, Extractor};
pub use feature_collector::{VideoFeatures, VideoSources, collect_features, settings_digest};
pub use feature_sink::{FeatureSink, VisualWindow};
pub use timings::StepTimings;
pub use transcript_source::{
    SourcedTranscript, TranscriptChoice, TranscriptSource, sidecar_transcripts,
};
pub use visual_features::VisualFeatures;
