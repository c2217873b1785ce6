//! Who is in a video, and who of them counts.

use std::collections::BTreeMap;

use meptr_core::prediction::{self, ChosenFrame};

use super::request::PersonChoice;
use crate::detect::{CropSource, Crowd, Person, Sighting, largest_person};
use crate::extractor::Seen;
use crate::image::PixelBox;

/// The people of a video as its windows come in.
#[derive(Debug, Default)]
pub(super) struct Cast {
    choice: PersonChoice,
    per_person: bool,
    crowd: Crowd,
    /// By id: the window, and the sighting in its results' form.
    sightings: BTreeMap<usize, Vec<(usize, prediction::Sighting)>>,
}

impl Cast {
    pub(super) fn new(choice: PersonChoice, per_person: bool) -> Self {
        Self { choice, per_person, ..Self::default() }
    }

    /// Whether each person gets scores of their own.
    pub(super) fn per_person(&self) -> bool {
        self.per_person
    }

    /// Takes what was seen in a window; returns the people in it. A window that comes again
    /// replaces what was seen in it before.
    pub(super) fn meet(
        &mut self,
        window: usize,
        frames: &[ChosenFrame],
        seen: &Seen,
    ) -> Vec<Person> {
        for sightings in self.sightings.values_mut() {
            sightings.retain(|(number, _)| *number != window);
        }
        let people = self.crowd.add(&seen.crops, frames.len());
        for person in &people {
            let here = person.sightings.iter();
            let here = here.map(|sighting| (window, reported(sighting, frames)));
            self.sightings.entry(person.id).or_default().extend(here);
        }
        people
    }

    /// The person whose face and body count; none when everybody's do.
    pub(super) fn chosen<'p>(&self, people: &'p [Person]) -> Result<Option<&'p Person>, String> {
        match self.choice {
            PersonChoice::All => Ok(None),
            PersonChoice::Largest => {
                largest_person(people).map(Some).ok_or_else(|| "nobody is seen".to_owned())
            }
            PersonChoice::Id(id) => people
                .iter()
                .find(|person| person.id == id as usize)
                .map(Some)
                .ok_or_else(|| format!("person {id} is not seen")),
        }
    }

    /// Whether a crop shows a person. A whole frame that stands in for bodies stands for the body
    /// of everybody in it.
    pub(super) fn shows(person: &Person, seen: &Seen, place: usize) -> bool {
        let crop = &seen.crops[place];
        let is_there = || person.sightings.iter().any(|sighting| sighting.frame == crop.frame);
        person.crops.contains(&place) || (crop.source == CropSource::Frame && is_there())
    }

    /// Everybody, with all sightings in the order of time.
    pub(super) fn people(self) -> Vec<prediction::Person> {
        let known = self.sightings.into_iter().filter(|(_, sightings)| !sightings.is_empty());
        known
            .map(|(id, sightings)| {
                let mut sightings: Vec<_> = sightings.into_iter().map(|(_, one)| one).collect();
                sightings.sort_by_key(|sighting| sighting.frame);
                sightings.dedup_by_key(|sighting| sighting.frame); // windows may overlap
                prediction::Person { id: id as u32, sightings }
            })
            .collect()
    }
}

fn reported(sighting: &Sighting, frames: &[ChosenFrame]) -> prediction::Sighting {
    let frame = &frames[sighting.frame];
    let edges =
        |pixels: PixelBox| [pixels.x1, pixels.y1, pixels.x2, pixels.y2].map(|edge| edge as f32);
    prediction::Sighting {
        frame: frame.index,
        time: frame.time,
        face: sighting.face.map(edges),
        body: sighting.body.map(edges),
    }
}
