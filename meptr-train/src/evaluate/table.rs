//! An evaluation for reading.

use std::fmt;

use meptr_core::bundle::TrainingStatus;
use meptr_core::{Emotion, PersonalityTrait};

use super::report::{EvaluationReport, ModelReport};
use crate::metrics::{EmotionScores, Interval, Occurrence, PersonalityScores, StrongestScores};

impl fmt::Display for EvaluationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, corpus, split, clips, left_out, .. } = self;
        writeln!(
            f,
            "bundle `{weights}`, scored on the {split} split of {corpus}: {clips} clips, {left_out} without features"
        )?;
        if let Some(truth) = &self.truth {
            writeln!(f, "labels from {truth}")?;
        }
        writeln!(
            f,
            "\n  {:<8}{:<8}{:>7}{:>8}{:>10}{:>8}{:>8}{:>10}{:>7}",
            "stage", "model", "mUAR", "mF1", "accuracy", "mACC", "CCC", "mean CCC", "clips"
        )?;
        self.models.iter().try_for_each(|model| summary(f, model))?;
        if let Some(last) = self.models.last() {
            details(f, last, self.resamples)?;
        }
        writeln!(f)?;
        self.notes.iter().try_for_each(|note| writeln!(f, "- {note}"))?;
        published(f, self)?;
        match self.status {
            TrainingStatus::Untrained => {
                writeln!(f, "The weights are UNTRAINED: scores mean nothing.")
            }
            TrainingStatus::Demonstration => writeln!(
                f,
                "The weights are a DEMONSTRATION: scores say nothing about real people."
            ),
            TrainingStatus::Trained => Ok(()),
        }
    }
}

fn published(f: &mut fmt::Formatter<'_>, report: &EvaluationReport) -> fmt::Result {
    writeln!(f, "\npublished, in per cent, on CMU-MOSEI and First Impressions v2:\n")?;
    for one in report.published {
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
    writeln!(f, "\nScores on other corpora than these two cannot be compared with them.")
}

fn summary(f: &mut fmt::Formatter<'_>, model: &ModelReport) -> fmt::Result {
    let (emotion, personality) = (model.scores.emotion, model.scores.personality);
    writeln!(
        f,
        "  {:<8}{:<8}{:>7}{:>8}{:>10}{:>8}{:>8}{:>10}{:>7}",
        model.stage.name(),
        model.model,
        number(emotion.map(|one| one.muar)),
        number(emotion.map(|one| one.mf1)),
        number(emotion.map(|one| one.strongest.accuracy)),
        number(personality.map(|one| one.macc)),
        number(personality.map(|one| one.ccc)),
        number(personality.map(|one| one.mean_trait_ccc)),
        model.clips
    )
}

/// Four digits; a dash where there is no number.
fn number(value: Option<f64>) -> String {
    let value = value.filter(|value| !value.is_nan());
    value.map_or("-".to_owned(), |value| format!("{value:.4}"))
}

fn details(f: &mut fmt::Formatter<'_>, model: &ModelReport, resamples: usize) -> fmt::Result {
    let title = format!("{} {}", model.stage.name(), model.model);
    writeln!(
        f,
        "\n  {title:<18}{:>8}{:>20}{:>8}{:>11}",
        "score", "95 % interval", "chance", "reference"
    )?;
    for line in lines(model) {
        let interval = line.interval.map_or("-".to_owned(), |[low, high]| {
            format!("{low:.4} to {high:.4}") // of the resamples' scores
        });
        writeln!(
            f,
            "  {:<18}{:>8}{interval:>20}{:>8}{:>11}",
            line.name,
            number(Some(line.score)),
            number(line.chance),
            number(line.reference)
        )?;
    }
    writeln!(f, "  intervals: {resamples} bootstrap resamples of the clips")?;
    if let Some(emotion) = &model.scores.emotion {
        classes(f, &title, emotion)?;
        confusion(f, &emotion.strongest)?;
    }
    if let Some(personality) = &model.scores.personality {
        traits(f, &title, personality)?;
    }
    Ok(())
}

/// One score of a model.
struct Line {
    name: &'static str,
    score: f64,
    interval: Option<Interval>,
    chance: Option<f64>,
    reference: Option<f64>,
}

fn lines(model: &ModelReport) -> Vec<Line> {
    let (chance, intervals) = (&model.chance, &model.intervals);
    let mut lines = Vec::new();
    if let (Some(scores), Some(chance)) = (&model.scores.emotion, &chance.emotion) {
        let of = intervals.emotion.as_ref();
        lines.push(Line {
            name: "mUAR",
            score: scores.muar,
            interval: of.and_then(|of| of.muar),
            chance: Some(chance.muar),
            reference: Some(scores.reference.muar),
        });
        lines.push(Line {
            name: "mF1",
            score: scores.mf1,
            interval: of.and_then(|of| of.mf1),
            chance: None,
            reference: Some(scores.reference.mf1),
        });
        lines.push(Line {
            name: "accuracy",
            score: scores.strongest.accuracy,
            interval: of.and_then(|of| of.accuracy),
            chance: Some(chance.accuracy),
            reference: None,
        });
    }
    if let (Some(scores), Some(chance)) = (&model.scores.personality, &chance.personality) {
        let of = intervals.personality.as_ref();
        let rows = [
            ("mACC", scores.macc, of.and_then(|of| of.macc), chance.macc),
            ("CCC", scores.ccc, of.and_then(|of| of.ccc), chance.ccc),
            ("mean CCC", scores.mean_trait_ccc, of.and_then(|of| of.mean_trait_ccc), chance.ccc),
        ];
        lines.extend(rows.map(|(name, score, interval, chance)| Line {
            name,
            score,
            interval,
            chance: Some(chance),
            reference: None,
        }));
    }
    lines
}

fn classes(f: &mut fmt::Formatter<'_>, title: &str, emotion: &EmotionScores) -> fmt::Result {
    writeln!(
        f,
        "\n  {title:<18}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}",
        "UAR", "F1", "hits", "misses", "false", "rest"
    )?;
    for class in &emotion.classes {
        let (counts, is_scored) = (class.confusion, class.occurrence == Occurrence::SomeRows);
        let why = match class.occurrence {
            Occurrence::SomeRows => "",
            Occurrence::NoRow => "  no clip shows it: not in the means",
            Occurrence::EveryRow => "  every clip shows it: not in the means",
        };
        writeln!(
            f,
            "  {:<18}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{why}",
            class.class.name(),
            number(is_scored.then_some(class.uar)),
            number(is_scored.then_some(class.f1)),
            counts.true_positive,
            counts.false_negative,
            counts.false_positive,
            counts.true_negative
        )?;
    }
    Ok(())
}

/// Clips by strongest emotion, truth down and prediction across.
fn confusion(f: &mut fmt::Formatter<'_>, scores: &StrongestScores) -> fmt::Result {
    write!(f, "\n  {:<18}", "strongest: truth")?;
    Emotion::ALL.iter().try_for_each(|class| write!(f, "{:>10}", class.name()))?;
    writeln!(f, "  (predicted)")?;
    for (class, counts) in Emotion::ALL.iter().zip(&scores.confusion) {
        write!(f, "  {:<18}", class.name())?;
        counts.iter().try_for_each(|count| write!(f, "{count:>10}"))?;
        writeln!(f)?;
    }
    Ok(())
}

fn traits(f: &mut fmt::Formatter<'_>, title: &str, scores: &PersonalityScores) -> fmt::Result {
    writeln!(f, "\n  {title:<18}{:>8}{:>8}", "ACC", "CCC")?;
    let values = scores.trait_acc.iter().zip(&scores.trait_ccc);
    for (one, (acc, ccc)) in PersonalityTrait::ALL.into_iter().zip(values) {
        writeln!(f, "  {:<18}{acc:>8.4}{ccc:>8.4}", one.name())?;
    }
    Ok(())
}
