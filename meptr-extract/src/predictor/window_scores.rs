//! Collects what each modality says about each window, and fuses it.

use std::collections::BTreeMap;

use candle::Tensor;
use meptr_core::prediction::{self, ChosenFrame, ModalityReport, Scope, Scores, SourceCount};
use meptr_core::{Modality, PerModality};

use super::person_selection::Cast;
use super::scoring::{FusedScores, HeadScores, Scorer, ensure_finite, row};
use crate::decode::TimeWindow;
use crate::detect::{CropSource, Person};
use crate::pipeline::{FeatureSink, Pictures, Seen, SoundPiece, Steps, why_nothing};
use crate::{Error, Result};

/// Scores of a video in the making.
pub(super) struct Board<'a> {
    scorer: &'a Scorer,
    /// Whether there is a face detector, and whether there is a body detector.
    detectors: [bool; 2],
    /// Who was seen.
    cast: Cast,
    windows: BTreeMap<usize, Window>,
}

#[derive(Default)]
struct Window {
    frames: Vec<ChosenFrame>,
    parts: PerModality<Part>,
    pieces: Vec<(f64, HeadScores)>,
    /// Why the first piece of sound without features has none.
    no_sound: Option<&'static str>,
    /// Those who get scores of their own.
    people: Vec<PersonParts>,
}

/// What belongs to one person in a window; the rest is everybody's.
struct PersonParts {
    id: u32,
    body: Part,
    face: Part,
}

/// One modality of one window.
#[derive(Clone, Default)]
struct Part {
    scores: Option<HeadScores>,
    report: ModalityReport,
}

impl Part {
    fn missing(reason: impl Into<String>) -> Self {
        let report = ModalityReport { reason: Some(reason.into()), ..ModalityReport::default() };
        Self { scores: None, report }
    }

    fn present(modality: Modality, scores: HeadScores, inputs: usize) -> Result<Self> {
        let read = Error::doing("reading the scores of a modality");
        let values = || -> candle::Result<_> {
            Ok((row(&scores.emotion_logits)?, row(&scores.trait_scores)?))
        };
        let (emotion_logits, trait_scores) = values().map_err(read)?;
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

impl<'a> Board<'a> {
    pub(super) fn new(scorer: &'a Scorer, detectors: [bool; 2], cast: Cast) -> Self {
        Self { scorer, detectors, cast, windows: BTreeMap::new() }
    }

    /// Fuses every window that holds anything, and each person of it who gets scores of their own;
    /// `spans` says what each window covers. Rows of windows come first.
    pub(super) fn scores(
        &mut self,
        scope: Scope,
        spans: &[TimeWindow],
        steps: &mut Steps,
    ) -> Result<Vec<Scores>> {
        let mut rows = Vec::new();
        let mut rows_of_people = Vec::new();
        for (number, span) in spans.iter().enumerate() {
            let window = self.windows.remove(&number).unwrap_or_default();
            let parts = window.parts()?;
            let (scorer, frames) = (self.scorer, window.frames);
            let Some(scores) = steps.time("fusion", || parts.fused(scorer))? else { continue };
            rows.push(scores.row(scope, None, *span, frames.clone()));
            for PersonParts { id, body, face } in window.people {
                let parts = Parts(PerModality { body, face, ..parts.0.clone() });
                let scores = steps.time("fusion", || parts.fused(scorer))?;
                let row = scores.map(|one| one.row(Scope::Person, Some(id), *span, frames.clone()));
                rows_of_people.extend(row);
            }
        }
        rows.extend(rows_of_people);
        Ok(rows)
    }

    /// Who was seen.
    pub(super) fn people(self) -> Vec<prediction::Person> {
        self.cast.people()
    }

    /// What one visual modality says about some crops of a window.
    fn visual(
        &self,
        modality: Modality,
        seen: &Seen,
        is_wanted: impl Fn(usize) -> bool,
        steps: &mut Steps,
    ) -> Result<Part> {
        let places: Vec<usize> = seen.places(modality).filter(|place| is_wanted(*place)).collect();
        let Some(features) = seen.features(&places)? else {
            return Ok(Part::missing(Seen::why_absent(modality)));
        };
        let scores = steps.time("heads", || self.scorer.head(modality, &features))?;
        let mut part = Part::present(modality, scores, steps_of(&features)?)?;
        part.report.sources = counts(places.iter().map(|place| seen.crops[*place].source));
        part.report.reason = self.stand_in(modality, &part.report.sources);
        Ok(part)
    }

    /// Body and face of one person, or of all when there is none to choose.
    fn figure(
        &self,
        person: Option<&Person>,
        seen: &Seen,
        steps: &mut Steps,
    ) -> Result<(Part, Part)> {
        let is_wanted = |place| person.is_none_or(|person| Cast::shows(person, seen, place));
        let body = self.visual(Modality::Body, seen, is_wanted, steps)?;
        Ok((body, self.visual(Modality::Face, seen, is_wanted, steps)?))
    }

    /// What a reader should know about crops that are not what they stand for.
    fn stand_in(&self, modality: Modality, sources: &[SourceCount]) -> Option<String> {
        let [has_faces, has_bodies] = self.detectors;
        let holds = |source| sources.iter().any(|one| one.source == name(source));
        let stand_ins = match modality {
            Modality::Face | Modality::Body if holds(CropSource::Frame) => "whole frames",
            Modality::Face if holds(CropSource::Body) => "bodies",
            _ => return None,
        };
        let has_detector = if modality == Modality::Face { has_faces } else { has_bodies };
        Some(match (has_detector, holds(CropSource::Detected)) {
            (false, _) => format!("the weights hold no {modality} detector: {stand_ins} stand in"),
            (true, true) => format!("no {modality} was found in some frames: {stand_ins} stand in"),
            (true, false) => format!("no {modality} was found: {stand_ins} stand in"),
        })
    }
}

impl Window {
    /// All modalities, with what the sound says and why there are no pictures.
    fn parts(&self) -> Result<Parts> {
        let mut parts = self.parts.clone();
        parts.audio = self.sound()?;
        if self.frames.is_empty() {
            for modality in [Modality::Body, Modality::Face, Modality::Scene] {
                parts[modality] = Part::missing(why_nothing(modality));
            }
        }
        Ok(Parts(parts))
    }

    /// What the sound says, the mean of its pieces by length; or why it says nothing.
    fn sound(&self) -> Result<Part> {
        if self.pieces.is_empty() {
            let reason = self.no_sound.unwrap_or(why_nothing(Modality::Audio));
            return Ok(Part::missing(reason));
        }
        let inputs = self.pieces.iter().map(|(steps, _)| *steps as usize).sum();
        let scores = HeadScores::mean(&self.pieces)
            .map_err(Error::doing("averaging the pieces of sound"))?;
        let mut part = Part::present(Modality::Audio, scores, inputs)?;
        if self.pieces.len() > 1 {
            let count = self.pieces.len();
            part.report.reason =
                Some(format!("read in {count} pieces, whose results are averaged"));
        }
        Ok(part)
    }
}

/// The modalities of a row.
struct Parts(PerModality<Part>);

/// A row without its place.
struct Fused {
    scores: FusedScores,
    modalities: PerModality<ModalityReport>,
}

impl Parts {
    /// Fuses the modalities; `None` when there is none.
    fn fused(&self, scorer: &Scorer) -> Result<Option<Fused>> {
        let parts = PerModality::from_fn(|modality| match scorer.reads(modality) {
            true => self.0[modality].clone(),
            false => Part::missing("the fusion model was trained without it"),
        });
        let heads = PerModality::from_fn(|modality| parts[modality].scores.clone());
        if heads.iter().all(|(_, head)| head.is_none()) {
            return Ok(None);
        }
        let modalities = PerModality::from_fn(|modality| parts[modality].report.clone());
        Ok(Some(Fused { scores: scorer.fuse(&heads)?, modalities }))
    }
}

impl Fused {
    fn row(
        self,
        scope: Scope,
        person: Option<u32>,
        span: TimeWindow,
        frames: Vec<ChosenFrame>,
    ) -> Scores {
        Scores {
            scope,
            person,
            t_start: span.start_seconds,
            t_end: span.end_seconds,
            emotions: self.scores.emotions,
            decided: self.scores.decided,
            traits: self.scores.traits,
            modalities: self.modalities,
            frames,
        }
    }
}

impl FeatureSink for Board<'_> {
    fn pictures(&mut self, window: usize, pictures: Pictures, steps: &mut Steps) -> Result<()> {
        let Some(seen) = &pictures.seen else { return Ok(()) };
        let people = self.cast.meet(window, &pictures.frames, seen);
        let (body, face) = match self.cast.chosen(&people) {
            Ok(person) => self.figure(person, seen, steps)?,
            Err(reason) => (Part::missing(reason.clone()), Part::missing(reason)),
        };
        let scene = self.visual(Modality::Scene, seen, |_| true, steps)?;
        let mut own = Vec::new();
        for person in people.iter().filter(|_| self.cast.per_person()) {
            let (body, face) = self.figure(Some(person), seen, steps)?;
            own.push(PersonParts { id: person.id as u32, body, face });
        }
        let window = self.windows.entry(window).or_default();
        window.parts.body = body;
        window.parts.face = face;
        window.parts.scene = scene;
        window.people = own;
        window.frames = pictures.frames;
        Ok(())
    }

    fn sound(&mut self, window: usize, piece: SoundPiece, steps: &mut Steps) -> Result<()> {
        let window = self.windows.entry(window).or_default();
        match piece.features {
            Ok(features) => {
                let scores =
                    steps.time("heads", || self.scorer.head(Modality::Audio, &features))?;
                window.pieces.push((steps_of(&features)? as f64, scores));
            }
            Err(reason) => _ = window.no_sound.get_or_insert(reason),
        }
        Ok(())
    }

    fn words(
        &mut self,
        window: usize,
        features: std::result::Result<Tensor, String>,
        steps: &mut Steps,
    ) -> Result<()> {
        let part = match features {
            Ok(features) => {
                let scores = steps.time("heads", || self.scorer.head(Modality::Text, &features))?;
                Part::present(Modality::Text, scores, steps_of(&features)?)?
            }
            Err(reason) => Part::missing(reason),
        };
        self.windows.entry(window).or_default().parts.text = part;
        Ok(())
    }
}

/// Length of a sequence `(1, steps, width)`.
fn steps_of(features: &Tensor) -> Result<usize> {
    features.dim(1).map_err(Error::doing("reading the length of a sequence"))
}

fn counts(sources: impl Iterator<Item = CropSource>) -> Vec<SourceCount> {
    let mut counts = BTreeMap::new();
    sources.for_each(|source| *counts.entry(source).or_insert(0) += 1);
    let count = |(source, crops)| SourceCount { source: name(source).to_owned(), crops };
    counts.into_iter().map(count).collect()
}

fn name(source: CropSource) -> &'static str {
    match source {
        CropSource::Detected => "detected",
        CropSource::Body => "body",
        CropSource::Frame => "frame",
    }
}
