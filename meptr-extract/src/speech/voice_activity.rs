//! Detection of clips without a voice, before any model runs.

use serde::{Deserialize, Serialize};

use super::config::SAMPLE_RATE_HZ;

/// Peak below which a clip has no voice: -60 dB of full scale, below the
/// noise floor of a phone's microphone.
pub const MIN_PEAK: f32 = 1e-3;
/// Root mean square that some 100 ms of a clip with a voice must reach: -66 dB of full scale. A quiet
/// voice passes; a few clicks in silence do not.
pub const MIN_RMS: f32 = 5e-4;

const FRAME_SAMPLES: usize = SAMPLE_RATE_HZ / 10;

/// Reason why a clip cannot hold a voice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum NoVoice {
    /// There are no samples, or none is finite.
    NoAudio,
    /// The audio is silent.
    Silent {
        /// Largest deviation from the mean, 0 to 2; full scale is 1.
        peak: f32,
        /// Root mean square of the loudest 100 ms, 0 to 2.
        rms: f32,
    },
}

impl std::fmt::Display for NoVoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoAudio => f.write_str("there is no audio"),
            Self::Silent { .. } => f.write_str("the audio is silent"),
        }
    }
}

/// Checks whether 16 kHz mono audio can hold a voice.
///
/// A cheap test of loudness ([`MIN_PEAK`], [`MIN_RMS`]) after subtraction of the mean. Noise and music
/// pass; the model's no-speech probability distinguishes them from speech.
///
/// # Errors
/// When the audio is empty or silent.
pub fn check_voice(samples: &[f32]) -> Result<(), NoVoice> {
    let finite = || samples.iter().copied().filter(|sample| sample.is_finite()).map(f64::from);
    let count = finite().count();
    if count == 0 {
        return Err(NoVoice::NoAudio);
    }
    let mean = finite().sum::<f64>() / count as f64;
    let deviation = |sample: &f32| if sample.is_finite() { f64::from(*sample) - mean } else { 0.0 };
    let peak = samples.iter().map(|sample| deviation(sample).abs()).fold(0.0, f64::max) as f32;
    let rms = samples
        .chunks(FRAME_SAMPLES)
        .map(|frame| {
            let energy: f64 = frame.iter().map(|sample| deviation(sample).powi(2)).sum();
            (energy / FRAME_SAMPLES as f64).sqrt()
        })
        .fold(0.0, f64::max) as f32;
    match peak < MIN_PEAK || rms < MIN_RMS {
        true => Err(NoVoice::Silent { peak, rms }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(amplitude: f32, offset: f32) -> Vec<f32> {
        (0..16_000).map(|index| offset + amplitude * (index as f32 * 0.2).sin()).collect()
    }

    #[test]
    fn silence_in_its_many_forms_has_no_voice() {
        assert_eq!(check_voice(&[]), Err(NoVoice::NoAudio));
        assert_eq!(check_voice(&[f32::NAN; 100]), Err(NoVoice::NoAudio));
        let mut clicks = vec![0.0; 16_000];
        clicks[5000] = 0.01;
        for samples in [vec![0.0; 16_000], vec![0.25; 16_000], tone(5e-4, 0.0), clicks] {
            assert!(matches!(check_voice(&samples), Err(NoVoice::Silent { .. })));
        }
    }

    #[test]
    fn quiet_short_and_partly_broken_sound_may_be_a_voice() {
        let mut broken = tone(0.1, 0.0);
        broken[7] = f32::INFINITY;
        let late: Vec<f32> = [vec![0.0; 100_000], tone(0.01, 0.0)].concat();
        for samples in
            [tone(0.002, 0.0), tone(0.01, 0.5), broken, late, tone(0.5, 0.0)[..200].to_vec()]
        {
            assert_eq!(check_voice(&samples), Ok(()));
        }
    }

    #[test]
    fn reasons_are_words_and_json() {
        let silent = NoVoice::Silent { peak: 0.0, rms: 0.0 };
        assert_eq!(silent.to_string(), "the audio is silent");
        let json = serde_json::to_string(&silent).unwrap();
        assert_eq!(json, r#"{"reason":"silent","peak":0.0,"rms":0.0}"#);
    }
}
