//! Preprocessing of audio for Wav2Vec2.

use std::path::Path;

use candle::{Device, Tensor};
use serde::Deserialize;

use crate::backbones::checkpoint_folder::{read_json, unusable};
use crate::{Error, Result};

/// Preprocesses 16 kHz audio by the `preprocessor_config.json` of a Wav2Vec2 checkpoint.
///
/// With `do_normalize`, `(x - mean) / sqrt(variance + 1e-7)` over the clip, the variance being the
/// population's; the sums run in f64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wav2Vec2Preprocessor {
    normalises: bool,
}

#[derive(Deserialize)]
#[serde(default)]
struct Wav2Vec2PreprocessorConfig {
    feature_size: usize,
    sampling_rate: usize,
    do_normalize: bool,
}

impl Default for Wav2Vec2PreprocessorConfig {
    fn default() -> Self {
        Self { feature_size: 1, sampling_rate: 16000, do_normalize: true }
    }
}

impl Wav2Vec2Preprocessor {
    /// Reads `preprocessor_config.json` of a folder.
    ///
    /// # Errors
    /// When the file is missing or broken, or asks for more than one channel or a sample rate
    /// other than 16 kHz.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("preprocessor_config.json");
        let what = "audio preprocessor configuration";
        let config: Wav2Vec2PreprocessorConfig = read_json(&path, what)?;
        if config.feature_size != 1 || config.sampling_rate != 16000 {
            let why = format!(
                "`feature_size` {} and `sampling_rate` {} are not 1 and 16000",
                config.feature_size, config.sampling_rate
            );
            return Err(unusable(&path, what, why));
        }
        Ok(Self { normalises: config.do_normalize })
    }

    /// Preprocessor with or without normalisation.
    pub fn new(normalises: bool) -> Self {
        Self { normalises }
    }

    /// Makes the network's input of one clip.
    ///
    /// - `samples`: mono, 16 kHz; any length, the network itself needs at least
    ///   [`Wav2Vec2Config::receptive_field`](crate::backbones::Wav2Vec2Config::receptive_field)
    /// - returns `(1, samples)`, f32
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn prepare(&self, samples: &[f32], device: &Device) -> Result<Tensor> {
        let values = if self.normalises { normalised(samples) } else { samples.to_vec() };
        Tensor::from_vec(values, (1, samples.len()), device)
            .map_err(Error::doing("copying the audio to the device"))
    }
}

fn normalised(samples: &[f32]) -> Vec<f32> {
    let count = samples.len().max(1) as f64;
    let mean = samples.iter().map(|sample| f64::from(*sample)).sum::<f64>() / count;
    let squares: f64 = samples.iter().map(|sample| (f64::from(*sample) - mean).powi(2)).sum();
    let scale = 1.0 / (squares / count + 1e-7).sqrt();
    samples.iter().map(|sample| ((f64::from(*sample) - mean) * scale) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_has_mean_0_and_variance_1() {
        let loud: Vec<f32> = (0..999).map(|i| 0.25 + (i as f32 * 0.1).sin()).collect();
        let found = normalised(&loud);
        let mean = found.iter().sum::<f32>() / 999.0;
        let variance = found.iter().map(|x| x * x).sum::<f32>() / 999.0;
        assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4, "{mean} {variance}");
    }

    #[test]
    fn silence_and_nothing_stay_finite() {
        assert_eq!(normalised(&[0.0; 5]), [0.0; 5]);
        assert_eq!(normalised(&[0.5; 5]), [0.0; 5]);
        assert!(normalised(&[]).is_empty());
    }

    #[test]
    fn the_configuration_decides() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Wav2Vec2Preprocessor::open(folder.path()), Err(Error::Read { .. })));
        let write = |text| std::fs::write(folder.path().join("preprocessor_config.json"), text);
        write(r#"{"do_normalize": false, "padding_value": 0.0}"#).unwrap();
        assert_eq!(
            Wav2Vec2Preprocessor::open(folder.path()).unwrap(),
            Wav2Vec2Preprocessor::new(false)
        );
        write(r#"{"sampling_rate": 8000}"#).unwrap();
        let error = Wav2Vec2Preprocessor::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("8000"), "{error}");
    }
}
