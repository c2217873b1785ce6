//! Scores predictions against labels, with chance levels and a bootstrap interval.
//!
//! For programs that bring predictions of their own and want scores that compare with those of
//! `meptr evaluate`. From the root of the repository:
//!
//! ```sh
//! cargo run --release -p meptr-train --example score_labels
//! ```

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use anyhow::{Context, Result};
use meptr_core::{Emotion, PersonalityTrait};
use meptr_train::metrics::{
    EmotionChance, PersonalityChance, emotion_intervals, emotion_scores, personality_scores,
};

/// Emotion labels of four clips: shares in the order of [`Emotion::ALL`], sum 1. A clip without
/// labels would be a row of NaN.
const LABELS: [[f32; Emotion::COUNT]; 4] = [
    [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], // neutral
    [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0], // happiness
    [0.0, 0.5, 0.0, 0.0, 0.0, 0.5, 0.0], // anger and sadness
    [0.0, 0.0, 0.0, 0.0, 0.7, 0.0, 0.3], // happiness and surprise
];

/// Outputs of a model for the same clips, before the softmax.
const LOGITS: [[f32; Emotion::COUNT]; 4] = [
    [4.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.5],
    [0.5, 2.0, 0.0, 0.0, 0.0, 0.5, 0.0],
    [2.5, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0],
];

/// Trait labels of two clips, 0 to 1 in the order of [`PersonalityTrait::ALL`].
const TRAITS: [[f32; PersonalityTrait::COUNT]; 2] =
    [[0.4, 0.5, 0.3, 0.6, 0.5], [0.7, 0.6, 0.6, 0.4, 0.6]];

/// Trait scores of a model for the same clips.
const TRAIT_SCORES: [[f32; PersonalityTrait::COUNT]; 2] =
    [[0.45, 0.5, 0.4, 0.55, 0.5], [0.6, 0.6, 0.5, 0.45, 0.55]];

fn main() -> Result<()> {
    let scores = emotion_scores(&LOGITS, &LABELS).context("no clip has emotion labels")?;
    let chance = EmotionChance::of(&scores);
    println!("mUAR {:.3} (chance {:.3}), mF1 {:.3}", scores.muar, chance.muar, scores.mf1);
    let accuracy = scores.strongest.accuracy;
    println!("accuracy of the strongest emotion {accuracy:.3} (chance {:.3})", chance.accuracy);

    // Emotions that no clip shows, or every clip, are left out of the means.
    for class in &scores.classes {
        println!("  {:10} UAR {:.3}, {:?}", class.class.name(), class.uar, class.occurrence);
    }

    // 95 % of 1000 resamples of the clips. Of four clips it is wide.
    if let Some([low, high]) = emotion_intervals(&LOGITS, &LABELS).and_then(|all| all.muar) {
        println!("mUAR, 95 % interval {low:.3} to {high:.3}");
    }

    let traits = personality_scores(&TRAIT_SCORES, &TRAITS).context("no clip has trait labels")?;
    let chance = PersonalityChance::of(&TRAITS).context("no clip has trait labels")?;
    println!("mACC {:.3} (chance {:.3}), CCC {:.3}", traits.macc, chance.macc, traits.ccc);
    Ok(())
}
