//! Predictions against labels: all scores of all models, and the published ones beside them.

use std::collections::HashMap;
use std::path::Path;

use meptr_core::bundle::TrainingStatus;
use meptr_core::{Emotion, PersonalityTrait};
use serde::Serialize;

use super::models::ModelScores;
use crate::data::Clip;
use crate::metrics::{
    EmotionChance, EmotionIntervals, PersonalityChance, PersonalityIntervals, RESAMPLES,
    emotion_intervals, emotion_scores, personality_intervals, personality_scores,
};
use crate::run::files::write_whole;
use crate::select::CorpusScores;
use crate::stage::Stage;
use crate::{Error, Result};

/// Scores of the models of a bundle on a split.
#[derive(Debug, Clone, Serialize)]
pub struct EvaluationReport {
    /// [`EvaluationReport::SCHEMA`]; fields are only ever added under one version.
    pub schema: &'static str,
    /// Name of the bundle.
    pub weights: String,
    /// Training status of the weights.
    pub status: TrainingStatus,
    /// Name of the corpus.
    pub corpus: String,
    /// Name of the split.
    pub split: &'static str,
    /// Table of the labels, if not the corpus's own.
    pub truth: Option<String>,
    /// Clips with features.
    pub clips: usize,
    /// Clips of the split without features.
    pub left_out: usize,
    /// Stages in order; modalities in order.
    pub models: Vec<ModelReport>,
    /// Resamples of the clips behind each interval.
    pub resamples: usize,
    /// Notes for reading the scores.
    pub notes: &'static [&'static str],
    /// Scores that the authors report, on other corpora.
    pub published: &'static [PublishedScores],
}

impl EvaluationReport {
    /// The format this program writes.
    pub const SCHEMA: &'static str = "meptr-evaluation/2";

    /// [`EvaluationReport::resamples`].
    pub const RESAMPLES: usize = RESAMPLES;

    /// [`EvaluationReport::notes`].
    pub const NOTES: &'static [&'static str] = &[
        "mUAR and mF1 are over the emotions that some clips show and others do not; `reference` is \
         the mean over all six, in which one that no clip shows counts as 1 if it is never \
         predicted either, else as half the share of clips it is not predicted for",
        "Neutral has no column in the reference's metric: mUAR and mF1 are of the six other \
         emotions, and a clip counts as neutral where none of them is shown",
        "a prediction of the strongest emotion is right when it is one of the strongest labels; \
         chance is the most frequent one for all clips",
        "chance of mACC is the accuracy of each trait's median in this split",
    ];
}

/// Scores of one model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelReport {
    /// The stage that trained it.
    pub stage: Stage,
    /// `body` to `text`, or `fusion`.
    pub model: &'static str,
    /// Clips it said something about.
    pub clips: usize,
    /// Scores; a task without labels has none.
    #[serde(flatten)]
    pub scores: CorpusScores,
    /// Scores of answers that do not look at the clip.
    pub chance: ChanceLevels,
    /// 95 % bootstrap intervals of the scores, by clip.
    pub intervals: ScoreIntervals,
}

/// Chance levels of a model's scores, on the clips that it was scored on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ChanceLevels {
    /// Of the emotions; none without labels.
    pub emotion: Option<EmotionChance>,
    /// Of the traits; none without labels.
    pub personality: Option<PersonalityChance>,
}

/// Intervals of a model's scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ScoreIntervals {
    /// Of the emotions; none with fewer than two clips, or without a score.
    pub emotion: Option<EmotionIntervals>,
    /// Of the traits; none likewise.
    pub personality: Option<PersonalityIntervals>,
}

/// Scores that the authors report, in per cent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PublishedScores {
    /// Models that the scores are of.
    pub models: &'static str,
    /// Balanced accuracy of the emotions (there called mWACC) on CMU-MOSEI's test split.
    pub muar: f64,
    /// F1 of the emotions, likewise.
    pub mf1: Option<f64>,
    /// Accuracy of the traits on First Impressions v2's test split.
    pub macc: f64,
    /// Flattened concordance of the traits, likewise.
    pub ccc: Option<f64>,
}

/// The scores of the paper.
pub const PUBLISHED: &[PublishedScores] = &[
    PublishedScores {
        models: "all modalities, one task",
        muar: 70.26,
        mf1: None,
        macc: 92.88,
        ccc: None,
    },
    PublishedScores {
        models: "all modalities, both tasks",
        muar: 64.26,
        mf1: None,
        macc: 92.00,
        ccc: None,
    },
    PublishedScores {
        models: "text, both tasks",
        muar: 64.8,
        mf1: Some(59.2),
        macc: 88.9,
        ccc: Some(29.9),
    },
];

/// Scores a model against the labels of the clips, or those of `truth` for the clips it names.
pub fn score(model: &ModelScores, clips: &[Clip], truth: Option<&[Clip]>) -> ModelReport {
    let by_name: Option<HashMap<&str, &Clip>> =
        truth.map(|rows| rows.iter().map(|clip| (clip.name.as_str(), clip)).collect());
    let (mut logits, mut emotions) = (Vec::new(), Vec::new());
    let (mut traits, mut personalities) = (Vec::new(), Vec::new());
    for (clip, said) in clips.iter().zip(&model.clips) {
        let labels = by_name.as_ref().map_or(Some(clip), |rows| rows.get(&*clip.name).copied());
        let (Some(labels), Some(said)) = (labels, said) else { continue };
        logits.push(said.emotion_logits);
        emotions.push(labels.emotion.unwrap_or([f32::NAN; Emotion::COUNT]));
        traits.push(said.traits);
        personalities.push(labels.personality.unwrap_or([f32::NAN; PersonalityTrait::COUNT]));
    }
    let scores = CorpusScores {
        emotion: emotion_scores(&logits, &emotions),
        personality: personality_scores(&traits, &personalities),
    };
    ModelReport {
        stage: model.stage,
        model: model.model,
        clips: model.clips.iter().flatten().count(),
        scores,
        chance: ChanceLevels {
            emotion: scores.emotion.as_ref().map(EmotionChance::of),
            personality: PersonalityChance::of(&personalities),
        },
        intervals: ScoreIntervals {
            emotion: emotion_intervals(&logits, &emotions),
            personality: personality_intervals(&traits, &personalities),
        },
    }
}

/// Writes what the models say about each clip: a row per model and clip.
///
/// # Errors
/// When the disk does not take the file.
pub fn write_csv(path: &Path, models: &[ModelScores], clips: &[Clip]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let write = || -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let mut header = vec!["stage", "model", "video_name"];
        header.extend(Emotion::ALL.map(Emotion::name));
        header.push("shown");
        header.extend(PersonalityTrait::ALL.map(PersonalityTrait::name));
        writer.write_record(header)?;
        for model in models {
            for (clip, said) in clips.iter().zip(&model.clips) {
                let Some(said) = said else { continue };
                let probabilities = said.probabilities()?;
                let shown = Emotion::decided(&probabilities).into_iter();
                let shown: Vec<&str> = shown.map(Emotion::name).collect();
                let mut row =
                    vec![model.stage.name().into(), model.model.into(), clip.name.clone()];
                row.extend(probabilities.map(|one| one.to_string()));
                row.push(shown.join(" "));
                row.extend(said.traits.map(|one| one.to_string()));
                writer.write_record(row)?;
            }
        }
        Ok(writer.into_inner()?)
    };
    let bytes = write().map_err(|error| Error::NotOfARun {
        path: path.to_owned(),
        why: format!("cannot be written: {error}"),
    })?;
    write_whole(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::super::models::ClipScores;
    use super::*;

    fn clip(name: &str, emotion: Option<[f32; 7]>, personality: Option<[f32; 5]>) -> Clip {
        Clip { name: name.to_owned(), text: None, emotion, personality }
    }

    fn model() -> ModelScores {
        let said = |class: usize| {
            let mut emotion_logits = [0.0; 7];
            emotion_logits[class] = 9.0;
            Some(ClipScores { emotion_logits, traits: [0.5; 5] })
        };
        ModelScores { stage: Stage::Stage2, model: "face", clips: vec![said(4), None, said(0)] }
    }

    #[test]
    fn labels_come_from_the_corpus_or_from_the_truth_by_name() {
        let happy = Some([0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        let clips = [clip("a", happy, None), clip("b", happy, None), clip("c", None, None)];
        let report = score(&model(), &clips, None);
        assert_eq!((report.clips, report.scores.emotion.unwrap().rows), (2, 1));
        assert_eq!(report.scores.emotion.unwrap().reference.muar, 1.0);
        assert!(report.scores.personality.is_none());
        let truth = [clip("c", None, Some([0.25; 5])), clip("a", None, Some([0.5; 5]))];
        let report = score(&model(), &clips, Some(&truth));
        assert!(report.scores.emotion.is_none());
        let personality = report.scores.personality.unwrap();
        assert_eq!((personality.rows, personality.macc), (2, 0.875));
        assert_eq!(score(&model(), &clips, Some(&[])).scores.personality, None);
    }

    /// Columns: neutral, anger, disgust, fear, happiness, sadness, surprise.
    #[test]
    fn scores_stand_beside_chance_and_intervals() {
        let shares = [[0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0], [0.25, 0.75, 0.0, 0.0, 0.0, 0.0, 0.0]];
        let clips = [clip("a", Some(shares[0]), Some([0.25; 5])), clip("b", None, None)];
        let clips = [clips, [clip("c", Some(shares[1]), Some([0.75; 5])), clip("d", None, None)]];
        let clips = clips.concat();
        let report = score(&model(), &clips[..3], None);
        let emotion = report.chance.emotion.unwrap();
        assert_eq!((emotion.muar, emotion.accuracy), (0.5, 0.5));
        assert_eq!(report.chance.personality.unwrap().macc, 0.75);
        assert_eq!(report.scores.emotion.unwrap().strongest.accuracy, 0.5); // happiness, neutral
        assert_eq!(report.intervals.emotion.unwrap().accuracy, Some([0.0, 1.0]));
        let personality = report.intervals.personality.unwrap();
        assert_eq!(personality.macc, Some([0.75, 0.75])); // 0.5 for both
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["emotion"]["strongest"]["confusion"][1][0], 1);
        assert_eq!(json["emotion"]["classes"][0]["occurrence"], "some_rows");
        assert_eq!(json["emotion"]["classes"][1]["occurrence"], "no_row");
        assert_eq!(json["intervals"]["emotion"]["accuracy"][1], 1.0);
    }

    #[test]
    fn a_model_that_says_no_numbers_has_no_scores() {
        let happy = Some([0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        let clips = [clip("a", happy, None), clip("b", happy, None), clip("c", happy, None)];
        let mut model = model();
        assert_eq!(model.not_finite(), 0);
        model.clips[2] = Some(ClipScores { emotion_logits: [f32::NAN; 7], traits: [0.5; 5] });
        assert_eq!(model.not_finite(), 1);
        assert!(score(&model, &clips, None).scores.emotion.unwrap().reference.muar.is_nan());
    }

    #[test]
    fn each_clip_has_a_row_for_each_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clips.csv");
        let clips = [clip("a", None, None), clip("b", None, None), clip("c,d", None, None)];
        write_csv(&path, &[model()], &clips).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("stage,model,video_name,Neutral,Anger"), "{text}");
        assert!(lines[0].ends_with(
            "Surprise,shown,Openness,Conscientiousness,Extraversion,Agreeableness,Non-Neuroticism"
        ));
        assert!(lines[1].starts_with("stage2,face,a,0.000123"), "{text}");
        assert!(lines[1].contains(",Happiness,0.5,") && lines[2].contains("\"c,d\""), "{text}");
        assert_eq!(lines.len(), 3);
    }
}
