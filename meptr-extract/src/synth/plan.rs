//! Causal model of a synthetic clip.
//!
//! ```text
//! emotion, intensity ──► emotion labels
//!        │    └────────► traits ◄──── five causes of their own, noise
//!        ▼                                │
//! what each modality shows (its own draw: true, neutral or a look-alike; own causes with noise)
//! ```
//!
//! So emotions and traits share a cause, each modality shows a part of both, and no modality all.

use meptr_core::rng::{RandomStream, SeedStreams};
use meptr_core::{Emotion, Modality, PerModality, PersonalityTrait};

/// Share of emotional clips that show a second emotion.
const SECOND_EMOTION_SHARE: f64 = 0.25;
/// Probability that a modality shows the second emotion of a clip instead of its main one.
const SECOND_SHOWN_SHARE: f64 = 0.3;
/// Probability that a modality without the true emotion shows none.
const NEUTRAL_WHEN_UNTRUE: f64 = 0.5;
/// Change of a trait per standard deviation of its own cause.
const OWN_EFFECT: f32 = 0.11;
/// Standard deviation of the noise of a trait.
const TRAIT_NOISE: f32 = 0.03;
/// Standard deviation of a cause as a modality shows it, for a cause of standard deviation 1.
const SHOWN_NOISE: f32 = 0.5;
/// Own causes beyond this many standard deviations are cut off.
const MAX_CAUSE: f32 = 2.0;

/// Probability that a modality shows the true emotion.
fn reliability(modality: Modality) -> f64 {
    match modality {
        Modality::Face => 0.75,
        Modality::Body | Modality::Scene => 0.65,
        Modality::Audio => 0.75,
        Modality::Text => 0.7,
    }
}

/// Change of each trait by an emotion of full intensity, in the order of [`PersonalityTrait::ALL`];
/// signs as in the paper's findings: sadness low on extraversion and stability, happiness high on
/// extraversion and agreeableness, anger low on agreeableness.
fn trait_effects(emotion: Emotion) -> [f32; PersonalityTrait::COUNT] {
    match emotion {
        Emotion::Neutral => [-0.02, 0.08, -0.04, 0.0, 0.10],
        Emotion::Anger => [-0.04, -0.06, 0.10, -0.26, -0.14],
        Emotion::Disgust => [-0.12, 0.06, -0.08, -0.18, -0.02],
        Emotion::Fear => [-0.04, -0.10, -0.16, 0.04, -0.26],
        Emotion::Happiness => [0.10, 0.04, 0.24, 0.20, 0.18],
        Emotion::Sadness => [-0.08, -0.10, -0.26, -0.02, -0.22],
        Emotion::Surprise => [0.22, -0.10, 0.12, 0.06, -0.04],
    }
}

/// Emotion that a misleading modality shows instead of the true one.
fn look_alike(emotion: Emotion) -> Emotion {
    match emotion {
        Emotion::Neutral => Emotion::Sadness,
        Emotion::Anger => Emotion::Disgust,
        Emotion::Disgust => Emotion::Anger,
        Emotion::Fear => Emotion::Surprise,
        Emotion::Happiness => Emotion::Surprise,
        Emotion::Sadness => Emotion::Neutral,
        Emotion::Surprise => Emotion::Fear,
    }
}

/// Cue of one modality.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cue {
    /// The emotion it shows, true or not.
    pub emotion: Emotion,
    /// Clarity, 0 to 1.
    pub strength: f32,
    /// The traits' own causes as it shows them, about normal with mean 0, in the order of
    /// [`PersonalityTrait::ALL`].
    pub own: [f32; PersonalityTrait::COUNT],
}

/// Labels and cues of a clip.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Intensity of each emotion, 0 to 3 in thirds (CMU-MOSEI's scale); see [`Plan::shares`].
    pub intensities: [f32; Emotion::COUNT],
    /// Trait scores, 0 to 1.
    pub traits: [f32; PersonalityTrait::COUNT],
    /// Cues of the modalities.
    pub cues: PerModality<Cue>,
}

impl Plan {
    /// Draws the plan of a clip, from streams named after it alone: no other clip changes it.
    pub fn draw(streams: &SeedStreams, clip: &str) -> Self {
        let mut causes = streams.stream(&format!("{clip}/causes"));
        let main = Emotion::ALL[causes.below(Emotion::COUNT)];
        let intensity = causes.uniform() as f32;
        let second = second_emotion(&mut causes, main);
        let mut intensities = [0.0; Emotion::COUNT];
        intensities[main as usize] = in_thirds(1.0 + 2.0 * intensity);
        if let Some(second) = second {
            intensities[second as usize] =
                in_thirds(1.0 / 3.0 + 2.0 / 3.0 * causes.uniform() as f32);
        }
        let own = [(); PersonalityTrait::COUNT]
            .map(|()| (causes.normal() as f32).clamp(-MAX_CAUSE, MAX_CAUSE));
        let traits = traits_of(&intensities, &own, &mut causes);
        let cues = PerModality::from_fn(|modality| {
            let mut random = streams.stream(&format!("{clip}/shown by {modality}"));
            let felt = match second {
                Some(second) if random.uniform() < SECOND_SHOWN_SHARE => second,
                _ => main,
            };
            let clearness = 0.6 + 0.4 * intensity;
            show(felt, clearness, &own, reliability(modality), &mut random)
        });
        Self { intensities, traits, cues }
    }

    /// Emotion labels: the intensities divided by their sum, so that they sum to 1.
    pub fn shares(&self) -> [f32; Emotion::COUNT] {
        let sum: f32 = self.intensities.iter().sum();
        self.intensities.map(|intensity| intensity / sum)
    }
}

fn second_emotion(random: &mut RandomStream, main: Emotion) -> Option<Emotion> {
    let has_second = random.uniform() < SECOND_EMOTION_SHARE;
    let second = Emotion::ALL[1 + random.below(Emotion::COUNT - 1)];
    (has_second && main != Emotion::Neutral && second != main).then_some(second)
}

fn in_thirds(value: f32) -> f32 {
    (value * 3.0).round() / 3.0
}

/// `0.5 + sum of the emotions' effects + own cause + noise`, an emotion of intensity 3 counting in full.
fn traits_of(
    intensities: &[f32; Emotion::COUNT],
    own: &[f32; PersonalityTrait::COUNT],
    random: &mut RandomStream,
) -> [f32; PersonalityTrait::COUNT] {
    std::array::from_fn(|index| {
        let effect = |emotion: Emotion| {
            let intensity = intensities[emotion as usize] / 3.0;
            let felt = if intensity > 0.0 { 0.4 + 0.6 * intensity } else { 0.0 };
            felt * trait_effects(emotion)[index]
        };
        let effects: f32 = Emotion::ALL.into_iter().map(effect).sum();
        let score = 0.5 + effects + OWN_EFFECT * own[index] + TRAIT_NOISE * random.normal() as f32;
        (score.clamp(0.0, 1.0) * 1000.0).round() / 1000.0
    })
}

fn show(
    felt: Emotion,
    clearness: f32,
    own: &[f32; PersonalityTrait::COUNT],
    reliability: f64,
    random: &mut RandomStream,
) -> Cue {
    let emotion = if random.uniform() < reliability {
        felt
    } else if random.uniform() < NEUTRAL_WHEN_UNTRUE && felt != Emotion::Neutral {
        Emotion::Neutral
    } else {
        look_alike(felt)
    };
    let strength = (clearness + 0.12 * random.normal() as f32).clamp(0.35, 1.0);
    Cue { emotion, strength, own: own.map(|cause| cause + SHOWN_NOISE * random.normal() as f32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans(count: usize) -> Vec<Plan> {
        let streams = SeedStreams::new(1);
        (0..count).map(|number| Plan::draw(&streams, &format!("clip-{number}"))).collect()
    }

    #[test]
    fn labels_are_in_range_and_every_emotion_occurs() {
        let plans = plans(500);
        for plan in &plans {
            assert!(plan.intensities.iter().all(|label| (0.0..=3.0).contains(label)));
            let sum: f32 = plan.shares().iter().sum();
            assert!((sum - 1.0).abs() < 1e-6, "{:?}", plan.shares());
            assert!(plan.traits.iter().all(|score| (0.0..=1.0).contains(score)));
            let shown = plan.intensities.iter().filter(|label| **label > 0.0).count();
            assert!((1..=2).contains(&shown), "{:?}", plan.intensities);
            assert!(plan.intensities[0] == 0.0 || shown == 1, "{:?}", plan.intensities);
        }
        for emotion in Emotion::ALL {
            let count =
                plans.iter().filter(|plan| plan.intensities[emotion as usize] > 0.0).count();
            assert!(count > 40, "{}: {count}", emotion.name());
        }
    }

    #[test]
    fn traits_follow_emotions_as_in_the_paper() {
        let plans = plans(2000);
        let mean = |emotion: Emotion, one: PersonalityTrait| {
            let with = plans.iter().filter(|plan| plan.intensities[emotion as usize] >= 1.0);
            let scores: Vec<f32> = with.map(|plan| plan.traits[one as usize]).collect();
            scores.iter().sum::<f32>() / scores.len() as f32
        };
        for one in [PersonalityTrait::Extraversion, PersonalityTrait::NonNeuroticism] {
            assert!(mean(Emotion::Happiness, one) > mean(Emotion::Sadness, one) + 0.2);
        }
        let kind = PersonalityTrait::Agreeableness;
        assert!(mean(Emotion::Happiness, kind) > mean(Emotion::Anger, kind) + 0.2);
    }

    #[test]
    fn no_modality_shows_everything() {
        let plans = plans(2000);
        for modality in Modality::ALL {
            let is_true =
                |plan: &&Plan| plan.intensities[plan.cues[modality].emotion as usize] >= 1.0;
            let share = plans.iter().filter(is_true).count() as f64 / plans.len() as f64;
            assert!((0.5..0.8).contains(&share), "{modality}: {share}");
        }
    }

    #[test]
    fn a_clip_does_not_depend_on_others() {
        let streams = SeedStreams::new(1);
        assert_eq!(Plan::draw(&streams, "clip-7"), plans(8)[7]);
        assert_ne!(Plan::draw(&streams, "clip-7"), Plan::draw(&SeedStreams::new(2), "clip-7"));
    }
}
