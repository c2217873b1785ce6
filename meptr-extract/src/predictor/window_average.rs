//! One row for a video that was predicted in windows.

use meptr_core::prediction::{ModalityReport, Scope, Scores};
use meptr_core::{Emotion, PerModality, PersonalityTrait};

use super::scoring::FusedScores;

/// The mean of the windows' probabilities, logits and scores, weighted by their length; the
/// decision rule is applied to the mean. `None` when there is no window.
pub(super) fn summary(rows: &[Scores]) -> Option<Scores> {
    let windows: Vec<&Scores> = rows.iter().filter(|row| row.scope == Scope::Window).collect();
    let lengths: Vec<f64> = windows.iter().map(|window| window.t_end - window.t_start).collect();
    let total: f64 = lengths.iter().sum();
    let (first, last) = (windows.first()?, windows.last()?);
    let mean = |value: &dyn Fn(&Scores) -> f32| -> f32 {
        let weighted = windows.iter().zip(&lengths);
        (weighted.map(|(window, length)| f64::from(value(window)) * length).sum::<f64>() / total)
            as f32
    };
    let logits: [f32; Emotion::COUNT] =
        std::array::from_fn(|class| mean(&|window| window.emotions[class].logit));
    let probabilities: [f32; Emotion::COUNT] =
        std::array::from_fn(|class| mean(&|window| window.emotions[class].probability));
    let traits: [f32; PersonalityTrait::COUNT] =
        std::array::from_fn(|one| mean(&|window| window.traits[one].score));
    let FusedScores { emotions, decided, traits } =
        FusedScores::new(&logits, &probabilities, &traits);
    Some(Scores {
        scope: Scope::Summary,
        person: None,
        t_start: first.t_start,
        t_end: last.t_end,
        emotions,
        decided,
        traits,
        modalities: PerModality::from_fn(|modality| {
            let with = windows.iter().filter(|window| window.modalities[modality].available);
            let (count, inputs) = with.fold((0, 0), |(count, inputs), window| {
                (count + 1, inputs + window.modalities[modality].inputs)
            });
            let why = windows.iter().find_map(|window| window.modalities[modality].reason.clone());
            ModalityReport {
                available: count > 0,
                reason: match count {
                    0 => why,
                    count => Some(format!("in {count} of {} windows", windows.len())),
                },
                inputs,
                ..ModalityReport::default()
            }
        }),
        frames: Vec::new(),
    })
}
