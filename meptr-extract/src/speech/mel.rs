//! Log-mel spectrograms, the input of Whisper.

use candle::{D, DType, Device, Result, Tensor};

use super::config::{HOP_SAMPLES, SAMPLE_RATE_HZ};

const FFT_SAMPLES: usize = 400;
const FREQUENCIES: usize = FFT_SAMPLES / 2 + 1;
/// Frames computed at once; limits the memory for long audio.
const CHUNK_FRAMES: usize = 3000;

/// Computes log-mel spectrograms of 16 kHz audio.
///
/// Frames of 400 samples, 160 apart and centred on their time, reflected at the ends, under a
/// periodic Hann window; power spectrum; Slaney's mel bands from 0 to 8000 Hz, each of unit area;
/// `log10`, no lower than 1e-10; then `(max(x, loudest - 8) + 4) / 4` with the loudest value of the
/// clip. Computed in f64; equal to transformers' `WhisperFeatureExtractor`.
#[derive(Debug, Clone)]
pub struct LogMel {
    transform: Tensor, // (400, 402), f64: windowed cosines, then windowed sines
    filters: Tensor,   // (bands, 201), f64
}

impl LogMel {
    /// Tables for this number of mel bands: 80, or 128 from large-v3 on.
    ///
    /// # Errors
    /// When there is no memory for the tables.
    pub fn new(bands: usize) -> Result<Self> {
        let filters = mel_filters(bands).concat();
        Ok(Self {
            transform: windowed_transform()?,
            filters: Tensor::from_vec(filters, (bands, FREQUENCIES), &Device::Cpu)?,
        })
    }

    /// Prepares a clip, which is as long as its samples or as one window, whichever is longer.
    ///
    /// Samples that are not finite count as 0.
    ///
    /// # Errors
    /// When the computation fails for lack of memory.
    pub fn clip<'a>(&'a self, samples: &'a [f32], window_samples: usize) -> Result<ClipMel<'a>> {
        let length = samples.len().max(window_samples).max(FFT_SAMPLES);
        let mut clip = ClipMel { log_mel: self, samples, length, loudest: f64::NEG_INFINITY };
        for first in (0..clip.frames()).step_by(CHUNK_FRAMES) {
            let count = CHUNK_FRAMES.min(clip.frames() - first);
            let loudest = clip.logarithms(first, count)?.flatten_all()?.max(0)?.to_scalar()?;
            clip.loudest = clip.loudest.max(loudest);
        }
        Ok(clip)
    }
}

/// Spectrogram of one clip, computed on demand.
#[derive(Debug)]
pub struct ClipMel<'a> {
    log_mel: &'a LogMel,
    samples: &'a [f32],
    length: usize,
    loudest: f64,
}

impl ClipMel<'_> {
    /// Complete frames in the clip.
    pub fn frames(&self) -> usize {
        self.length / HOP_SAMPLES
    }

    /// `count` frames from `first` on; those past the end of the clip are 0.
    ///
    /// - returns `(bands, count)`, f32, on the CPU
    ///
    /// # Errors
    /// When the computation fails for lack of memory.
    pub fn window(&self, first: usize, count: usize) -> Result<Tensor> {
        let inside = count.min(self.frames().saturating_sub(first));
        let bands = self.log_mel.filters.dim(0)?;
        if inside == 0 {
            return Tensor::zeros((bands, count), DType::F32, &Device::Cpu);
        }
        let logarithms = self.logarithms(first, inside)?.maximum(self.loudest - 8.0)?;
        let normalised = ((logarithms + 4.0)? / 4.0)?.to_dtype(DType::F32)?;
        normalised.pad_with_zeros(D::Minus1, 0, count - inside)
    }

    /// Decimal logarithms of the mel powers, `(bands, count)`, f64.
    fn logarithms(&self, first: usize, count: usize) -> Result<Tensor> {
        let frames: Vec<f64> = (first..first + count)
            .flat_map(|frame| {
                let start = (frame * HOP_SAMPLES) as isize - (FFT_SAMPLES / 2) as isize;
                (0..FFT_SAMPLES as isize).map(move |offset| self.sample(start + offset))
            })
            .collect();
        let frames = Tensor::from_vec(frames, (count, FFT_SAMPLES), &Device::Cpu)?;
        let squares = frames.matmul(&self.log_mel.transform)?.sqr()?;
        let real = squares.narrow(1, 0, FREQUENCIES)?;
        let powers = (real + squares.narrow(1, FREQUENCIES, FREQUENCIES)?)?;
        let mel = self.log_mel.filters.matmul(&powers.t()?)?;
        mel.maximum(1e-10)?.log()? / std::f64::consts::LN_10
    }

    /// Sample at `index`, reflected at both ends.
    fn sample(&self, index: isize) -> f64 {
        let index = index.unsigned_abs();
        let index = if index < self.length { index } else { 2 * (self.length - 1) - index };
        let sample = self.samples.get(index).copied().unwrap_or(0.0);
        if sample.is_finite() { f64::from(sample) } else { 0.0 }
    }
}

/// Discrete Fourier transform of a frame under the Hann window, as one matrix. At 400 samples, a matrix
/// multiplication is fast enough.
fn windowed_transform() -> Result<Tensor> {
    let turn = std::f64::consts::TAU / FFT_SAMPLES as f64;
    let values: Vec<f64> = (0..FFT_SAMPLES)
        .flat_map(|sample| {
            let hann = 0.5 - 0.5 * (turn * sample as f64).cos();
            let angle = move |frequency| turn * (sample * frequency % FFT_SAMPLES) as f64;
            let cosines = (0..FREQUENCIES).map(move |frequency| hann * angle(frequency).cos());
            cosines.chain((0..FREQUENCIES).map(move |frequency| hann * angle(frequency).sin()))
        })
        .collect();
    Tensor::from_vec(values, (FFT_SAMPLES, 2 * FREQUENCIES), &Device::Cpu)
}

/// Triangular filters on Slaney's mel scale between 0 and 8000 Hz, each of unit area over frequency;
/// `bands` rows of 201 weights.
///
/// Slaney 1998, "Auditory Toolbox": linear below 1000 Hz, logarithmic above.
pub fn mel_filters(bands: usize) -> Vec<Vec<f64>> {
    let nyquist_hz = SAMPLE_RATE_HZ as f64 / 2.0;
    let highest = hertz_to_mel(nyquist_hz);
    let corners: Vec<f64> = (0..bands + 2)
        .map(|corner| mel_to_hertz(highest * corner as f64 / (bands + 1) as f64))
        .collect();
    corners
        .windows(3)
        .map(|corners| {
            let [low, peak, high] = [corners[0], corners[1], corners[2]];
            let weight = |frequency: usize| {
                let hertz = nyquist_hz * frequency as f64 / (FREQUENCIES - 1) as f64;
                let rising = (hertz - low) / (peak - low);
                let falling = (high - hertz) / (high - peak);
                rising.min(falling).max(0.0) * 2.0 / (high - low)
            };
            (0..FREQUENCIES).map(weight).collect()
        })
        .collect()
}

const LINEAR_HZ_PER_MEL: f64 = 200.0 / 3.0;
const FIRST_LOGARITHMIC_HZ: f64 = 1000.0;
const FIRST_LOGARITHMIC_MEL: f64 = FIRST_LOGARITHMIC_HZ / LINEAR_HZ_PER_MEL;
/// Above 1000 Hz, this many mels multiply the frequency by 6.4.
const MELS_PER_FACTOR: f64 = 27.0;

fn hertz_to_mel(hertz: f64) -> f64 {
    if hertz < FIRST_LOGARITHMIC_HZ {
        return hertz / LINEAR_HZ_PER_MEL;
    }
    FIRST_LOGARITHMIC_MEL + (hertz / FIRST_LOGARITHMIC_HZ).ln() * MELS_PER_FACTOR / 6.4f64.ln()
}

fn mel_to_hertz(mel: f64) -> f64 {
    if mel < FIRST_LOGARITHMIC_MEL {
        return mel * LINEAR_HZ_PER_MEL;
    }
    let mels = mel - FIRST_LOGARITHMIC_MEL;
    FIRST_LOGARITHMIC_HZ * (mels * 6.4f64.ln() / MELS_PER_FACTOR).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(count: usize) -> Vec<f32> {
        (0..count).map(|index| 0.1 * (index as f32 * 0.3).sin()).collect()
    }

    #[test]
    fn every_filter_has_unit_area_and_hertz_and_mels_convert_back() {
        for bands in [80, 128] {
            let step_hz = 8000.0 / 200.0;
            let areas = mel_filters(bands).into_iter().map(|filter| {
                let inner: f64 = filter.iter().sum();
                inner * step_hz
            });
            // The low triangles are narrower than the 40 Hz grid that samples them.
            assert!(areas.skip(2 * bands / 3).all(|area| (area - 1.0).abs() < 0.05));
        }
        for hertz in [0.0, 440.0, 1000.0, 7999.0] {
            assert!((mel_to_hertz(hertz_to_mel(hertz)) - hertz).abs() < 1e-9);
        }
    }

    #[test]
    fn a_short_clip_is_padded_with_silence_to_one_window() {
        let log_mel = LogMel::new(80).unwrap();
        let samples = tone(5000);
        let padded: Vec<f32> = samples.iter().copied().chain(vec![0.0; 11_000]).collect();
        let short = log_mel.clip(&samples, 16_000).unwrap();
        let long = log_mel.clip(&padded, 16_000).unwrap();
        assert_eq!(short.frames(), 100);
        let values = |clip: &ClipMel| clip.window(0, 100).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(values(&short), values(&long));
    }

    #[test]
    fn a_window_is_the_same_frames_wherever_it_starts_and_0_past_the_end() {
        let log_mel = LogMel::new(80).unwrap();
        let samples = tone(40_100);
        let clip = log_mel.clip(&samples, 16_000).unwrap();
        assert_eq!(clip.frames(), 250);
        let whole = clip.window(0, 250).unwrap().to_vec2::<f32>().unwrap();
        let late = clip.window(200, 100).unwrap().to_vec2::<f32>().unwrap();
        for (whole, late) in whole.iter().zip(&late) {
            assert_eq!(whole[200..], late[..50]);
            assert!(late[50..].iter().all(|value| *value == 0.0));
        }
        assert_eq!(clip.window(250, 3).unwrap().to_vec2::<f32>().unwrap()[0], [0.0; 3]);
    }

    #[test]
    fn nothing_and_broken_samples_are_silence() {
        let log_mel = LogMel::new(80).unwrap();
        let broken = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        for samples in [&[][..], &broken] {
            let clip = log_mel.clip(samples, 1600).unwrap();
            let values = clip.window(0, 10).unwrap().flatten_all().unwrap().to_vec1::<f32>();
            assert!(values.unwrap().iter().all(|value| *value == -1.5));
        }
    }
}
