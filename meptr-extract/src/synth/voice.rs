//! Synthetic voices: glottal pulses through formants, syllable by syllable.

use meptr_core::Emotion;
use meptr_core::rng::RandomStream;

use super::between;
use super::plan::Cue;
use crate::decode::SAMPLE_RATE_HZ;

/// Standard deviation of a room's noise, on the scale of samples. It is the reference for loudness,
/// since the audio backbone normalises the level of a clip.
const ROOM_NOISE: f32 = 0.006;
/// Amplitude of an ordinary voice.
const USUAL_LEVEL: f32 = 0.05;
/// Seconds before the first syllable.
const SILENCE_SECONDS: f32 = 0.12;

/// First three formants of /a e i o u/ and a neutral vowel, Hz.
const VOWELS: [[f32; 3]; 6] = [
    [730.0, 1090.0, 2440.0],
    [530.0, 1840.0, 2480.0],
    [300.0, 2290.0, 3010.0],
    [570.0, 840.0, 2410.0],
    [320.0, 870.0, 2240.0],
    [500.0, 1500.0, 2500.0],
];

/// Properties of a voice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Voice {
    /// Pitch at rest, Hz.
    pitch_hz: f32,
    /// Range of the pitch within a phrase, as a share of it.
    melody: f32,
    level: f32,
    syllables_per_second: f32,
    /// Depth of a shake at 7 Hz, as a share of the pitch.
    tremor: f32,
    /// Jitter of the periods, as a share.
    roughness: f32,
    /// Share of breath noise.
    breath: f32,
    /// Share of high tones: 0 dull, 1 shrill.
    brightness: f32,
    /// Factor of the formants: above 1 with lips spread, below with lips rounded.
    tract: f32,
    /// Length of the silence after a phrase.
    pause_seconds: f32,
}

impl Voice {
    /// Voice of a cue: its emotion by its strength; an extravert is loud and quick, an
    /// open person has more melody, an agreeable one a softer tone, a stable one no tremor.
    pub(super) fn of_cue(cue: &Cue, random: &mut RandomStream) -> Self {
        let rows: [[f32; 10]; Emotion::COUNT] = [
            // pitch, melody, decibels, syllables, tremor, roughness, breath, brightness, tract, pause
            [1.00, 0.08, 0.0, 4.0, 0.00, 0.010, 0.05, 0.40, 1.00, 0.8],
            [1.20, 0.20, 10.0, 5.2, 0.00, 0.060, 0.05, 1.00, 1.10, 0.3],
            [0.70, 0.12, -1.0, 3.0, 0.00, 0.160, 0.15, 0.65, 0.84, 1.0],
            [1.65, 0.10, -4.0, 6.5, 0.10, 0.020, 0.65, 0.55, 1.05, 0.6],
            [1.45, 0.40, 6.0, 5.0, 0.00, 0.010, 0.05, 0.70, 1.28, 0.5],
            [0.80, 0.05, -10.0, 2.2, 0.02, 0.020, 0.25, 0.08, 0.88, 2.2],
            [2.10, 0.60, 4.0, 3.2, 0.00, 0.010, 0.25, 0.80, 1.12, 1.6],
        ];
        let (rest, full) = (rows[0], rows[cue.emotion as usize]);
        let mix = |index: usize| between(rest[index], full[index], cue.strength);
        let [open, _, extravert, agreeable, stable] = cue.own;
        let speaker_hz = 110.0 * 1.4_f32.powf(random.uniform() as f32);
        Self {
            pitch_hz: mix(0) * speaker_hz,
            melody: (mix(1) + 0.04 * open).clamp(0.0, 0.8),
            level: USUAL_LEVEL * 10_f32.powf((mix(2) + 3.5 * extravert) / 20.0),
            syllables_per_second: (mix(3) + 0.4 * extravert).clamp(1.8, 8.0),
            tremor: (mix(4) - 0.025 * stable).clamp(0.0, 0.2),
            roughness: (mix(5) - 0.015 * stable).clamp(0.0, 0.2),
            breath: mix(6),
            brightness: (mix(7) - 0.10 * agreeable).clamp(0.05, 1.0),
            tract: mix(8),
            pause_seconds: 0.2 * mix(9),
        }
    }

    /// Mono samples at 16 kHz, -1 to 1, lasting `seconds`.
    pub(super) fn speak(&self, seconds: f32, random: &mut RandomStream) -> Vec<f32> {
        let rate = SAMPLE_RATE_HZ as f32;
        let count = (seconds * rate).round() as usize;
        let mut samples: Vec<f32> =
            (0..count).map(|_| ROOM_NOISE * random.normal() as f32).collect();
        let mut source = Source::default();
        let mut start = (SILENCE_SECONDS * rate) as usize;
        let mut in_phrase = 0;
        while start < count {
            let length = 0.75 + 0.5 * random.uniform() as f32;
            let length = (rate * length / self.syllables_per_second) as usize;
            let end = (start + length).min(count);
            let rise = self.melody * (1.6 * in_phrase as f32).sin() + 0.03 * random.normal() as f32;
            let vowel = VOWELS[random.below(VOWELS.len())];
            let syllable = Syllable { pitch_hz: self.pitch_hz * (1.0 + rise), vowel };
            self.pronounce(&syllable, start, &mut samples[start..end], &mut source, random);
            start = end;
            in_phrase += 1;
            if in_phrase > 3 && random.uniform() < 0.35 {
                in_phrase = 0;
                start += (rate * self.pause_seconds) as usize;
            }
        }
        for sample in &mut samples {
            *sample = sample.clamp(-0.99, 0.99);
        }
        samples
    }

    fn pronounce(
        &self,
        syllable: &Syllable,
        start: usize,
        samples: &mut [f32],
        source: &mut Source,
        random: &mut RandomStream,
    ) {
        let rate = SAMPLE_RATE_HZ as f32;
        let mut formants = [0, 1, 2].map(|index| {
            Resonator::new(self.tract * syllable.vowel[index], 70.0 + 40.0 * index as f32)
        });
        let gains = [1.0, 0.3 + 0.5 * self.brightness, 0.1 + 0.7 * self.brightness];
        let length = samples.len() as f32;
        for (index, sample) in samples.iter_mut().enumerate() {
            let share = index as f32 / length;
            let shake = (std::f32::consts::TAU * 7.0 * (start + index) as f32 / rate).sin();
            let pitch = syllable.pitch_hz * (1.0 + self.tremor * shake - 0.06 * share);
            let pulse = source.next(pitch / rate, self.roughness, random);
            let noise = 2.0 * random.uniform() as f32 - 1.0;
            let excitation = (1.0 - self.breath) * pulse + 0.6 * self.breath * noise;
            let dull = source.smooth(excitation, 0.25 + 0.7 * self.brightness);
            let sung = formants.iter_mut().zip(gains).map(|(one, gain)| gain * one.next(dull));
            let envelope =
                (std::f32::consts::PI * share).sin().powf(0.6) * (1.0 + 3.0 * self.tremor * shake);
            *sample += self.level * envelope * sung.sum::<f32>();
        }
    }
}

/// One vowel at one pitch.
struct Syllable {
    pitch_hz: f32,
    vowel: [f32; 3],
}

/// Source of glottal pulses, one per period.
#[derive(Debug, Default)]
struct Source {
    /// Elapsed share of the period.
    phase: f32,
    /// Length of this period relative to the average.
    stretch: f32,
    smoothed: f32,
}

impl Source {
    /// Computes the next value of the pulse, which rises slowly and falls fast, as the air flow
    /// through the vocal folds does; mean about 0.
    fn next(&mut self, step: f32, roughness: f32, random: &mut RandomStream) -> f32 {
        self.phase += step / (1.0 + self.stretch);
        if self.phase >= 1.0 {
            self.phase -= 1.0;
            self.stretch = (roughness * random.normal() as f32).clamp(-0.5, 0.5);
        }
        let open = self.phase / 0.6;
        let flow =
            if open < 1.0 { open * open * (3.0 - 2.0 * open) * (1.0 - open.powi(4)) } else { 0.0 };
        2.0 * flow - 0.6
    }

    fn smooth(&mut self, value: f32, share: f32) -> f32 {
        self.smoothed += share * (value - self.smoothed);
        self.smoothed
    }
}

/// Resonator of one frequency: a pair of complex poles, gain about 1 at its peak.
struct Resonator {
    first: f32,
    second: f32,
    gain: f32,
    past: [f32; 2],
}

impl Resonator {
    fn new(frequency_hz: f32, width_hz: f32) -> Self {
        let rate = SAMPLE_RATE_HZ as f32;
        let radius = (-std::f32::consts::PI * width_hz / rate).exp();
        let angle = std::f32::consts::TAU * frequency_hz / rate;
        Self {
            first: 2.0 * radius * angle.cos(),
            second: -radius * radius,
            gain: 2.0 * (1.0 - radius) * angle.sin().max(0.05) * 4.0,
            past: [0.0; 2],
        }
    }

    fn next(&mut self, value: f32) -> f32 {
        let out = self.gain * value + self.first * self.past[0] + self.second * self.past[1];
        self.past = [out, self.past[0]];
        out
    }
}

/// Loudness of each of `frames` equal parts of a sound, relative to the loudest: 0 to 1.
pub(super) fn loudness(samples: &[f32], frames: usize) -> Vec<f32> {
    let level = |frame: usize| {
        let part = &samples[frame * samples.len() / frames..(frame + 1) * samples.len() / frames];
        (part.iter().map(|sample| sample * sample).sum::<f32>() / part.len().max(1) as f32).sqrt()
    };
    let levels: Vec<f32> = (0..frames).map(level).collect();
    let loudest = levels.iter().fold(f32::MIN_POSITIVE, |loudest, level| loudest.max(*level));
    levels.iter().map(|level| level / loudest).collect()
}

#[cfg(test)]
mod tests {
    use meptr_core::rng::SeedStreams;

    use super::*;

    fn speech(emotion: Emotion, extravert: f32) -> Vec<f32> {
        let cue = Cue { emotion, strength: 1.0, own: [0.0, 0.0, extravert, 0.0, 0.0] };
        let mut random = SeedStreams::new(1).stream("voice");
        Voice::of_cue(&cue, &mut random).speak(2.0, &mut random)
    }

    fn level(samples: &[f32]) -> f32 {
        (samples.iter().map(|sample| sample * sample).sum::<f32>() / samples.len() as f32).sqrt()
    }

    #[test]
    fn anger_and_extraverts_are_loud_and_sadness_is_not() {
        let usual = level(&speech(Emotion::Neutral, 0.0));
        assert!(level(&speech(Emotion::Anger, 0.0)) > 1.5 * usual);
        assert!(level(&speech(Emotion::Sadness, 0.0)) < 0.7 * usual);
        assert!(level(&speech(Emotion::Neutral, 2.0)) > 1.5 * usual);
    }

    #[test]
    fn speech_is_as_long_as_asked_and_never_too_loud() {
        for emotion in Emotion::ALL {
            let samples = speech(emotion, 2.0);
            assert_eq!(samples.len(), 32_000);
            assert!(samples.iter().all(|sample| sample.abs() < 1.0));
            let clipped = samples.iter().filter(|sample| sample.abs() > 0.98).count();
            assert!(clipped < 320, "{}: {clipped}", emotion.name());
        }
    }

    #[test]
    fn loudness_follows_the_sound() {
        assert_eq!(loudness(&[0.0, 0.0, 0.5, -0.5], 2), [0.0, 1.0]);
        assert_eq!(loudness(&[0.0; 4], 2), [0.0, 0.0]);
    }
}
