//! CSV: a row for the whole video, each window and each person; a failed video also has a row.

use std::io::Write;

use meptr_core::prediction::{Scope, Scores};
use meptr_core::{Emotion, Modality, PersonalityTrait, VideoPrediction};

use super::{Failure, Renderer};

/// Renderer of rows; the heading is written before the first.
pub struct Rows {
    sink: Box<dyn Write>,
    has_heading: bool,
}

impl Rows {
    pub fn new(sink: Box<dyn Write>) -> Self {
        Self { sink, has_heading: false }
    }

    fn row(&mut self, fields: Vec<String>) -> anyhow::Result<()> {
        // One write per row, so that a run stopped at any time leaves no partial row.
        let mut lines = csv::Writer::from_writer(Vec::new());
        if !std::mem::replace(&mut self.has_heading, true) {
            lines.write_record(heading())?;
        }
        lines.write_record(fields)?;
        self.sink.write_all(&lines.into_inner()?)?;
        Ok(self.sink.flush()?)
    }
}

fn heading() -> Vec<String> {
    let mut names: Vec<String> =
        ["video", "scope", "person", "t_start", "t_end"].map(str::to_owned).to_vec();
    names.extend(Emotion::ALL.map(|emotion| emotion.name().to_owned()));
    names.extend(PersonalityTrait::ALL.map(|one| one.name().to_owned()));
    names.extend(["shown", "missing_modalities", "weights", "error"].map(str::to_owned));
    names
}

fn row_of(prediction: &VideoPrediction, scores: &Scores) -> Vec<String> {
    let scope = match scores.scope {
        Scope::Video => "video",
        Scope::Window => "window",
        Scope::Summary => "summary",
        Scope::Person => "person",
    };
    let missing = Modality::ALL.into_iter().filter(|one| !scores.modalities[*one].available);
    let mut fields = vec![
        prediction.video.clone(),
        scope.to_owned(),
        scores.person.map(|id| id.to_string()).unwrap_or_default(),
        format!("{:.3}", scores.t_start),
        format!("{:.3}", scores.t_end),
    ];
    fields.extend(scores.emotions.iter().map(|one| one.probability.to_string()));
    fields.extend(scores.traits.iter().map(|one| one.score.to_string()));
    fields.push(joined(scores.shown.iter().map(|emotion| emotion.name())));
    fields.push(joined(missing.map(Modality::name)));
    fields.push(prediction.weights.name.clone());
    fields.push(String::new());
    fields
}

fn joined<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(" ")
}

impl Renderer for Rows {
    fn prediction(&mut self, prediction: &VideoPrediction) -> anyhow::Result<()> {
        let mut rows = prediction.predictions.iter();
        rows.try_for_each(|scores| self.row(row_of(prediction, scores)))
    }

    fn failure(&mut self, failure: &Failure) -> anyhow::Result<()> {
        let mut fields = vec![String::new(); heading().len()];
        fields[0].clone_from(&failure.video);
        *fields.last_mut().expect("the heading has names") = failure.error.clone();
        self.row(fields)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.sink.flush()?)
    }
}
