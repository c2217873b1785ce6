//! Scores of the windows of a video: of each modality, then fused.

use std::collections::BTreeMap;

use candle::Tensor;
use meptr_core::prediction::{self, ChosenFrame, ModalityReport, Scope, Scores, SourceCount};
use meptr_core::{Modality, PerModality};

use super::person_selection::{PersonSelection, shows};
use super::scoring::{FusedScores, HeadScores, Scorer, ensure_finite, row};
use crate::detect::{CropSource, Person};
use crate::pipeline::{
    AudioChunkFeatures, FeatureSink, StepTimings, VisualFeatures, VisualWindow, fallback,
};
use crate::windows::TimeWindow;
use crate::{Error, Result};

/// Accumulates the scores of the modalities, window by window, and fuses them.
pub(super) struct ScoreAccumulator<'a> {
    scorer: &'a Scorer,
    persons: PersonSelection,
    windows: BTreeMap<usize, WindowScores>,
}

/// Scores of one window so far.
#[derive(Default)]
struct WindowScores {
    frames: Vec<ChosenFrame>,
    modalities: PerModality<ModalityScores>,
    /// Length in steps, and scores, of each chunk of sound.
    audio_chunks: Vec<(f64, HeadScores)>,
    /// Reason of the first chunk of sound without features.
    unusable_sound: Option<&'static str>,
    /// Persons who get scores of their own.
    persons: Vec<PersonScores>,
}

/// Body and face of one person in a window; the other modalities are common to all.
struct PersonScores {
    id: u32,
    body: ModalityScores,
    face: ModalityScores,
}

/// One modality of one window.
#[derive(Clone, Default)]
struct ModalityScores {
    /// Output of the cross-task model; `None` when the modality is absent.
    scores: Option<HeadScores>,
    report: ModalityReport,
}

impl ModalityScores {
    fn absent(reason: impl Into<String>) -> Self {
        let report = ModalityReport { reason: Some(reason.into()), ..ModalityReport::default() };
        Self { scores: None, report }
    }

    fn present(modality: Modality, scores: HeadScores, inputs: usize) -> Result<Self> {
        let values = || -> candle::Result<_> {
            Ok((row(&scores.emotion_logits)?, row(&scores.trait_scores)?))
        };
        let (emotion_logits, trait_scores) =
            values().map_err(Error::doing("reading the scores of a modality"))?;
        ensure_finite(
            &format!("{modality} model"),
            emotion_logits.into_iter().chain(trait_scores),
        )?;
        let report = ModalityReport {
            available: true,
            inputs,
            emotion_logits: Some(emotion_logits),
            trait_scores: Some(trait_scores),
            ..ModalityReport::default()
        };
        Ok(Self { scores: Some(scores), report })
    }
}

impl<'a> ScoreAccumulator<'a> {
    pub(super) fn new(scorer: &'a Scorer, persons: PersonSelection) -> Self {
        Self { scorer, persons, windows: BTreeMap::new() }
    }

    /// Fuses every window that has any modality, and each person of it who gets scores of their own.
    /// `windows` are their times. Rows of windows come first.
    pub(super) fn fuse(
        &mut self,
        scope: Scope,
        windows: &[TimeWindow],
        timings: &mut StepTimings,
    ) -> Result<Vec<Scores>> {
        let mut rows = Vec::new();
        let mut person_rows = Vec::new();
        for (number, time) in windows.iter().enumerate() {
            let window = self.windows.remove(&number).unwrap_or_default();
            let modalities = window.modalities()?;
            let (scorer, frames) = (self.scorer, window.frames);
            let fused = timings.time("fusion", || FusedModalities::of(&modalities, scorer))?;
            let Some(fused) = fused else { continue };
            rows.push(fused.row(scope, None, *time, frames.clone()));
            for PersonScores { id, body, face } in window.persons {
                let modalities = PerModality { body, face, ..modalities.clone() };
                let fused = timings.time("fusion", || FusedModalities::of(&modalities, scorer))?;
                person_rows.extend(
                    fused.map(|one| one.row(Scope::Person, Some(id), *time, frames.clone())),
                );
            }
        }
        rows.extend(person_rows);
        Ok(rows)
    }

    /// All persons of the video.
    pub(super) fn persons(self) -> Vec<prediction::PersonReport> {
        self.persons.persons()
    }

    /// Scores of some crops of a visual modality, given by their indices.
    fn score_crops(
        &self,
        modality: Modality,
        visual: &VisualFeatures,
        crops: &[usize],
        timings: &mut StepTimings,
    ) -> Result<ModalityScores> {
        let Some(features) = visual.select(crops)? else {
            return Ok(ModalityScores::absent(fallback::missing_crops(modality)));
        };
        let scores = timings.time("heads", || self.scorer.head(modality, &features))?;
        let mut scored = ModalityScores::present(modality, scores, steps_of(&features)?)?;
        let sources: Vec<CropSource> =
            crops.iter().map(|index| visual.crops[*index].source).collect();
        scored.report.sources = counts(&sources);
        scored.report.reason = visual.fallbacks.explain(modality, &sources);
        Ok(scored)
    }

    /// Scores of the crops of a modality that show a person, or of all when there is none to choose.
    fn score_person(
        &self,
        modality: Modality,
        person: Option<&Person>,
        visual: &VisualFeatures,
        timings: &mut StepTimings,
    ) -> Result<ModalityScores> {
        let crops: Vec<usize> = visual
            .crop_indices(modality)
            .filter(|crop| person.is_none_or(|person| shows(person, visual, *crop)))
            .collect();
        self.score_crops(modality, visual, &crops, timings)
    }
}

impl WindowScores {
    /// All modalities, with the sound, and with the reason why there are no frames.
    fn modalities(&self) -> Result<PerModality<ModalityScores>> {
        let mut modalities = self.modalities.clone();
        modalities.audio = self.audio()?;
        if self.frames.is_empty() {
            for modality in [Modality::Body, Modality::Face, Modality::Scene] {
                modalities[modality] = ModalityScores::absent(fallback::missing_input(modality));
            }
        }
        Ok(modalities)
    }

    /// Scores of the sound, the mean of its chunks weighted by length; or why there are none.
    fn audio(&self) -> Result<ModalityScores> {
        if self.audio_chunks.is_empty() {
            let missing = fallback::missing_input(Modality::Audio);
            return Ok(ModalityScores::absent(self.unusable_sound.unwrap_or(missing)));
        }
        let inputs = self.audio_chunks.iter().map(|(steps, _)| *steps as usize).sum();
        let scores = HeadScores::mean(&self.audio_chunks)
            .map_err(Error::doing("averaging the chunks of sound"))?;
        let mut audio = ModalityScores::present(Modality::Audio, scores, inputs)?;
        if self.audio_chunks.len() > 1 {
            let count = self.audio_chunks.len();
            audio.report.reason =
                Some(format!("encoded in {count} chunks, whose results are averaged"));
        }
        Ok(audio)
    }
}

/// Result of the fusion, and the part of each modality in it.
struct FusedModalities {
    scores: FusedScores,
    reports: PerModality<ModalityReport>,
}

impl FusedModalities {
    /// Fuses the modalities; `None` when all are absent.
    fn of(modalities: &PerModality<ModalityScores>, scorer: &Scorer) -> Result<Option<Self>> {
        let used = PerModality::from_fn(|modality| match scorer.uses(modality) {
            true => modalities[modality].clone(),
            false => ModalityScores::absent(fallback::NOT_FUSED),
        });
        let heads = PerModality::from_fn(|modality| used[modality].scores.clone());
        if heads.iter().all(|(_, head)| head.is_none()) {
            return Ok(None);
        }
        let reports = PerModality::from_fn(|modality| used[modality].report.clone());
        Ok(Some(Self { scores: scorer.fuse(&heads)?, reports }))
    }

    fn row(
        self,
        scope: Scope,
        person: Option<u32>,
        time: TimeWindow,
        frames: Vec<ChosenFrame>,
    ) -> Scores {
        Scores {
            scope,
            person,
            t_start: time.start_seconds,
            t_end: time.end_seconds,
            emotions: self.scores.emotions,
            shown: self.scores.shown,
            traits: self.scores.traits,
            modalities: self.reports,
            frames,
        }
    }
}

impl FeatureSink for ScoreAccumulator<'_> {
    fn visual(
        &mut self,
        window: usize,
        visual: VisualWindow,
        timings: &mut StepTimings,
    ) -> Result<()> {
        let VisualWindow { frames, features: Some(features) } = visual else { return Ok(()) };
        let persons = self.persons.add_window(window, &frames, &features);
        let (body, face) = match self.persons.chosen(&persons) {
            Ok(person) => (
                self.score_person(Modality::Body, person, &features, timings)?,
                self.score_person(Modality::Face, person, &features, timings)?,
            ),
            Err(reason) => (ModalityScores::absent(reason.clone()), ModalityScores::absent(reason)),
        };
        let scene = self.score_person(Modality::Scene, None, &features, timings)?;
        let mut own = Vec::new();
        for person in persons.iter().filter(|_| self.persons.per_person()) {
            own.push(PersonScores {
                id: person.id as u32,
                body: self.score_person(Modality::Body, Some(person), &features, timings)?,
                face: self.score_person(Modality::Face, Some(person), &features, timings)?,
            });
        }
        let window = self.windows.entry(window).or_default();
        window.modalities.body = body;
        window.modalities.face = face;
        window.modalities.scene = scene;
        window.persons = own;
        window.frames = frames;
        Ok(())
    }

    fn audio(
        &mut self,
        window: usize,
        chunk: AudioChunkFeatures,
        timings: &mut StepTimings,
    ) -> Result<()> {
        let window = self.windows.entry(window).or_default();
        match chunk.features {
            Ok(features) => {
                let scores =
                    timings.time("heads", || self.scorer.head(Modality::Audio, &features))?;
                window.audio_chunks.push((steps_of(&features)? as f64, scores));
            }
            Err(reason) => _ = window.unusable_sound.get_or_insert(reason),
        }
        Ok(())
    }

    fn text(
        &mut self,
        window: usize,
        features: std::result::Result<Tensor, String>,
        timings: &mut StepTimings,
    ) -> Result<()> {
        let text = match features {
            Ok(features) => {
                let scores =
                    timings.time("heads", || self.scorer.head(Modality::Text, &features))?;
                ModalityScores::present(Modality::Text, scores, steps_of(&features)?)?
            }
            Err(reason) => ModalityScores::absent(reason),
        };
        self.windows.entry(window).or_default().modalities.text = text;
        Ok(())
    }
}

/// Length of a sequence `(1, steps, width)`.
fn steps_of(features: &Tensor) -> Result<usize> {
    features.dim(1).map_err(Error::doing("reading the length of a sequence"))
}

fn counts(sources: &[CropSource]) -> Vec<SourceCount> {
    let mut counts = BTreeMap::new();
    sources.iter().for_each(|source| *counts.entry(*source).or_insert(0) += 1);
    let count = |(source, crops)| SourceCount { source: name(source).to_owned(), crops };
    counts.into_iter().map(count).collect()
}

/// Name of a source in the result.
fn name(source: CropSource) -> &'static str {
    match source {
        CropSource::Detected => "detected",
        CropSource::Body => "body",
        CropSource::Frame => "frame",
    }
}
