//! Persons of a video, and the choice of those whose crops are used.

use std::collections::BTreeMap;

use meptr_core::prediction::{self, ChosenFrame};

use super::request::PersonChoice;
use crate::detect::{Appearance, Person, PersonLinker, largest_person};
use crate::image::PixelBox;
use crate::pipeline::VisualFeatures;
use crate::pipeline::fallback::shows_everybody;

/// Persons of a video, collected window by window, and the choice among them.
#[derive(Debug, Default)]
pub(super) struct PersonSelection {
    choice: PersonChoice,
    per_person: bool,
    linker: PersonLinker,
    /// By id: the window, and the appearance in the form of the result.
    appearances: BTreeMap<usize, Vec<(usize, prediction::PersonSighting)>>,
}

impl PersonSelection {
    pub(super) fn new(choice: PersonChoice, per_person: bool) -> Self {
        Self { choice, per_person, ..Self::default() }
    }

    /// Whether each person gets scores of their own.
    pub(super) fn per_person(&self) -> bool {
        self.per_person
    }

    /// Links the crops of a window to persons, and returns the persons in it. A window that comes
    /// again replaces its earlier appearances.
    pub(super) fn add_window(
        &mut self,
        window: usize,
        frames: &[ChosenFrame],
        visual: &VisualFeatures,
    ) -> Vec<Person> {
        for appearances in self.appearances.values_mut() {
            appearances.retain(|(number, _)| *number != window);
        }
        let persons = self.linker.link(&visual.crops, frames.len());
        for person in &persons {
            let here = person.appearances.iter();
            let here = here.map(|appearance| (window, reported(appearance, frames)));
            self.appearances.entry(person.id).or_default().extend(here);
        }
        persons
    }

    /// The chosen person among those of a window; `None` when all persons are used.
    pub(super) fn chosen<'p>(&self, persons: &'p [Person]) -> Result<Option<&'p Person>, String> {
        match self.choice {
            PersonChoice::All => Ok(None),
            PersonChoice::Largest => {
                largest_person(persons).map(Some).ok_or_else(|| "nobody is seen".to_owned())
            }
            PersonChoice::Id(id) => persons
                .iter()
                .find(|person| person.id == id as usize)
                .map(Some)
                .ok_or_else(|| format!("person {id} is not seen")),
        }
    }

    /// All persons, with their appearances in the order of time.
    pub(super) fn persons(self) -> Vec<prediction::PersonReport> {
        let seen = self.appearances.into_iter().filter(|(_, appearances)| !appearances.is_empty());
        seen.map(|(id, appearances)| {
            let mut sightings: Vec<_> = appearances.into_iter().map(|(_, one)| one).collect();
            sightings.sort_by_key(|sighting| sighting.frame);
            sightings.dedup_by_key(|sighting| sighting.frame); // windows may overlap
            prediction::PersonReport { id: id as u32, sightings }
        })
        .collect()
    }
}

/// Whether a crop, given by its index, shows a person.
pub(super) fn shows(person: &Person, visual: &VisualFeatures, crop: usize) -> bool {
    let frame = visual.crops[crop].frame;
    let is_in_frame = || person.appearances.iter().any(|appearance| appearance.frame == frame);
    person.crops.contains(&crop) || (shows_everybody(&visual.crops[crop]) && is_in_frame())
}

fn reported(appearance: &Appearance, frames: &[ChosenFrame]) -> prediction::PersonSighting {
    let frame = &frames[appearance.frame];
    prediction::PersonSighting {
        frame: frame.index,
        time: frame.time,
        face: appearance.face.map(edges),
        body: appearance.body.map(edges),
    }
}

fn edges(pixels: PixelBox) -> [f32; 4] {
    [pixels.x1, pixels.y1, pixels.x2, pixels.y2].map(|edge| edge as f32)
}
