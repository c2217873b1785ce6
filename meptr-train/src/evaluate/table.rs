//! An evaluation for reading.

use std::fmt;

use meptr_core::PersonalityTrait;
use meptr_core::bundle::TrainingStatus;

use super::report::{EvaluationReport, ModelReport};

impl fmt::Display for EvaluationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, corpus, split, clips, left_out, .. } = self;
        writeln!(f, "{weights} on {corpus} {split}: {clips} clips, {left_out} without features")?;
        if let Some(truth) = &self.truth {
            writeln!(f, "labels from {truth}")?;
        }
        writeln!(
            f,
            "\n  {:<8}{:<8}{:>7}{:>7}{:>7}{:>7}{:>9}{:>7}",
            "stage", "model", "mUAR", "mF1", "mACC", "CCC", "mean CCC", "clips"
        )?;
        self.models.iter().try_for_each(|model| summary(f, model))?;
        if let Some(last) = self.models.last() {
            details(f, last)?;
        }
        writeln!(f, "\npublished, in per cent, on CMU-MOSEI and First Impressions v2:\n")?;
        for one in self.published {
            let percent = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.1}"));
            let [muar, macc] = [one.muar, one.macc].map(|value| format!("{value:.2}"));
            writeln!(
                f,
                "  {:<28} mUAR {muar:>6} mF1 {:>5} mACC {macc:>6} CCC {:>5}",
                one.models,
                percent(one.mf1),
                percent(one.ccc)
            )?;
        }
        writeln!(f, "\nScores on other corpora than these two cannot be compared with them.")?;
        match self.standing {
            TrainingStatus::Untrained => writeln!(f, "The weights are UNTRAINED: scores mean nothing."),
            TrainingStatus::Demonstration => writeln!(
                f,
                "The weights are a DEMONSTRATION: scores say nothing about real people."
            ),
            TrainingStatus::Trained => Ok(()),
        }
    }
}

fn summary(f: &mut fmt::Formatter<'_>, model: &ModelReport) -> fmt::Result {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
    let (emotion, personality) = (model.scores.emotion, model.scores.personality);
    writeln!(
        f,
        "  {:<8}{:<8}{:>8}{:>8}{:>8}{:>8}{:>9}{:>7}",
        model.stage.name(),
        model.model,
        number(emotion.map(|one| one.muar)),
        number(emotion.map(|one| one.mf1)),
        number(personality.map(|one| one.macc)),
        number(personality.map(|one| one.ccc)),
        number(personality.map(|one| one.mean_trait_ccc)),
        model.clips
    )
}

fn details(f: &mut fmt::Formatter<'_>, model: &ModelReport) -> fmt::Result {
    let title = format!("{} {}", model.stage.name(), model.model);
    if let Some(emotion) = &model.scores.emotion {
        writeln!(
            f,
            "\n  {title:<18}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}",
            "UAR", "F1", "hits", "misses", "false", "rest"
        )?;
        for class in &emotion.classes {
            let counts = class.confusion;
            writeln!(
                f,
                "  {:<18}{:>8.4}{:>8.4}{:>8}{:>8}{:>8}{:>8}",
                class.class.name(),
                class.uar,
                class.f1,
                counts.true_positive,
                counts.false_negative,
                counts.false_positive,
                counts.true_negative
            )?;
        }
    }
    if let Some(personality) = &model.scores.personality {
        writeln!(f, "\n  {title:<18}{:>8}{:>8}", "ACC", "CCC")?;
        let values = personality.trait_acc.iter().zip(&personality.trait_ccc);
        for (one, (acc, ccc)) in PersonalityTrait::ALL.into_iter().zip(values) {
            writeln!(f, "  {:<18}{acc:>8.4}{ccc:>8.4}", one.name())?;
        }
    }
    Ok(())
}
