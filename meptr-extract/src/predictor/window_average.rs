//! Average of the windows of a video.

use meptr_core::prediction::{ModalityReport, Scope, Scores};
use meptr_core::{Emotion, Modality, PerModality, PersonalityTrait};

use super::scoring::FusedScores;
use crate::windows::{TimeWindow, mean_by_duration};

/// Mean of the windows' probabilities, logits and trait scores, weighted by their duration; the
/// decision rule is applied to the mean. `None` when there is no window.
pub(super) fn window_average(rows: &[Scores]) -> Option<Scores> {
    let rows: Vec<&Scores> = rows.iter().filter(|row| row.scope == Scope::Window).collect();
    let windows: Vec<TimeWindow> = rows
        .iter()
        .map(|row| TimeWindow { start_seconds: row.t_start, end_seconds: row.t_end })
        .collect();
    let (first, last) = (windows.first()?, windows.last()?);
    let logits: [f32; Emotion::COUNT] = std::array::from_fn(|class| {
        mean_by_duration(&windows, rows.iter().map(|row| row.emotions[class].logit))
    });
    let probabilities: [f32; Emotion::COUNT] = std::array::from_fn(|class| {
        mean_by_duration(&windows, rows.iter().map(|row| row.emotions[class].probability))
    });
    let traits: [f32; PersonalityTrait::COUNT] = std::array::from_fn(|one| {
        mean_by_duration(&windows, rows.iter().map(|row| row.traits[one].score))
    });
    let FusedScores { emotions, shown, traits } =
        FusedScores::new(&logits, &probabilities, &traits);
    Some(Scores {
        scope: Scope::Summary,
        person: None,
        t_start: first.start_seconds,
        t_end: last.end_seconds,
        emotions,
        shown,
        traits,
        modalities: PerModality::from_fn(|modality| modality_report(&rows, modality)),
        frames: Vec::new(),
    })
}

/// Number of windows in which a modality was used, and the length of its sequences together.
fn modality_report(rows: &[&Scores], modality: Modality) -> ModalityReport {
    let used = rows.iter().filter(|row| row.modalities[modality].available);
    let (count, inputs) = used
        .fold((0, 0), |(count, inputs), row| (count + 1, inputs + row.modalities[modality].inputs));
    let reason = match count {
        0 => rows.iter().find_map(|row| row.modalities[modality].reason.clone()),
        count => Some(format!("in {count} of {} windows", rows.len())),
    };
    ModalityReport { available: count > 0, reason, inputs, ..ModalityReport::default() }
}
