//! Linking of crops that show the same person.

use std::collections::BTreeMap;

use meptr_core::Modality;

use super::tracker::assign;
use super::{BoundingBox, Crop, CropSource};
use crate::image::PixelBox;

/// Distance that a face may move between two frames, in sizes of the face.
const MAX_FACE_STEP: f32 = 3.0;
/// Factor by which a face may grow or shrink between two frames.
const MAX_FACE_GROWTH: f32 = 3.0;
/// Least IoU of a body with its last position.
const MIN_BODY_OVERLAP: f32 = 0.1;
/// Distance added per frame in which a person was absent, so that of two persons at one place the more
/// recent one is matched.
const COST_OF_ABSENCE: f32 = 0.005;
/// Distance from which on two appearances are different persons.
const MAX_DISTANCE: f32 = 1.0;

/// A person, in all frames in which they appear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// From 1, in the order of first candidate.
    pub id: usize,
    /// Appearances, by frame.
    pub appearances: Vec<Appearance>,
    /// Crops of faces and bodies that show the person, as indices into the list of crops.
    pub crops: Vec<usize>,
}

/// A person in one frame: a face, a body, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appearance {
    /// Index of the frame, from 0.
    pub frame: usize,
    /// The face.
    pub face: Option<PixelBox>,
    /// The body.
    pub body: Option<PixelBox>,
}

impl Person {
    fn new(id: usize) -> Self {
        Self { id, appearances: Vec::new(), crops: Vec::new() }
    }

    /// Pixels of all faces, and of all bodies, which count where no face was ever seen.
    fn prominence(&self) -> (usize, usize) {
        let area = |part: fn(&Appearance) -> Option<PixelBox>| {
            let boxes = self.appearances.iter().filter_map(part);
            boxes.map(|b| (b.x2 - b.x1) * (b.y2 - b.y1)).sum()
        };
        (area(|appearance| appearance.face), area(|appearance| appearance.body))
    }
}

/// Links the faces and bodies of all frames to persons.
///
/// The frames of a clip are about half a second apart, too far for the velocities that a tracker of
/// every frame relies on. So the candidates of each frame (a face with the body that it was matched
/// with, or the body that is used instead of a face) are assigned to the persons so far, with the
/// least total distance from where each was last seen. Between faces the distance is that of the
/// centres, in sizes of the face; between bodies it is their lack of overlap. Whole frames that are used
/// instead of a face or body belong to nobody.
///
/// Appearance features are not compared: two persons who change places between two frames, as in a
/// cut, may exchange their ids.
///
/// - `crops`: crops of all frames, as [`crate::pipeline::fallback::crops`] gives them
pub fn link_persons(crops: &[Crop]) -> Vec<Person> {
    let frames = crops.last().map_or(0, |crop| crop.frame + 1);
    PersonLinker::default().link(crops, frames)
}

/// Links persons over frames that come in several calls; see [`link_persons`] for the rules.
#[derive(Debug, Clone, Default)]
pub struct PersonLinker {
    /// Persons so far, with frames counted over all calls, and without crops.
    persons: Vec<Person>,
    /// Frames so far.
    frames: usize,
}

impl PersonLinker {
    /// Links the crops of the next `frames` frames; returns the persons in them, by id, with frames and
    /// crops counted within this call.
    pub fn link(&mut self, crops: &[Crop], frames: usize) -> Vec<Person> {
        let mut seen: BTreeMap<usize, Person> = BTreeMap::new();
        let mut start = 0;
        for frame in crops.chunk_by(|a, b| a.frame == b.frame) {
            let candidates = candidates(frame, start);
            start += frame.len();
            let owners = self.owners(&candidates);
            for (candidate, owner) in candidates.into_iter().zip(owners) {
                let Candidate { appearance, crops } = candidate;
                let id = self.record(owner, &appearance);
                let person = seen.entry(id).or_insert_with(|| Person::new(id));
                person.appearances.push(appearance);
                person.crops.extend(crops);
            }
        }
        self.frames += frames;
        seen.into_values().collect()
    }

    /// Index of the person that each candidate of a frame belongs to.
    fn owners(&self, candidates: &[Candidate]) -> Vec<Option<usize>> {
        let distance = |person: &Person, candidate: &Candidate| {
            let last = person.appearances.last().expect("a person was seen");
            let frame = self.frames + candidate.appearance.frame;
            let absence = frame.saturating_sub(last.frame + 1) as f32;
            distance_to(person, &candidate.appearance) + COST_OF_ABSENCE * absence
        };
        let row = |person: &Person| candidates.iter().map(|one| distance(person, one)).collect();
        let distances: Vec<Vec<f32>> = self.persons.iter().map(row).collect();
        let mut owners = vec![None; candidates.len()];
        for (person, candidate) in assign(&distances, MAX_DISTANCE) {
            owners[candidate] = Some(person);
        }
        owners
    }

    /// Adds an appearance to a known or new person; returns the id.
    fn record(&mut self, owner: Option<usize>, appearance: &Appearance) -> usize {
        let place = owner.unwrap_or_else(|| {
            self.persons.push(Person::new(self.persons.len() + 1));
            self.persons.len() - 1
        });
        let frame = self.frames + appearance.frame;
        let person = &mut self.persons[place];
        person.appearances.push(Appearance { frame, ..*appearance });
        person.id
    }
}

/// The person who covers the most pixels over all frames, by faces before bodies.
pub fn largest_person(people: &[Person]) -> Option<&Person> {
    // Of equals, the first.
    people.iter().rev().max_by_key(|person| person.prominence())
}

/// A person in one frame whose identity is not known yet, and the crops that show them.
struct Candidate {
    appearance: Appearance,
    crops: Vec<usize>,
}

/// Candidates in the crops of one frame; `start` is the index of its first crop.
fn candidates(crops: &[Crop], start: usize) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    let shows_somebody =
        |crop: &Crop| crop.modality != Modality::Scene && crop.source != CropSource::Frame;
    for (index, crop) in crops.iter().enumerate().filter(|(_, crop)| shows_somebody(crop)) {
        let is_face = crop.modality == Modality::Face && crop.source == CropSource::Detected;
        // A body comes after its face, unless the face holds no pixel and so has no crop. Where a body
        // is used instead of a face, both crops show the body.
        let known = found.last_mut().filter(|last| match (is_face, last.appearance.face) {
            (true, _) => false,
            (false, Some(face)) => {
                last.appearance.body.is_none() && contains_center(&crop.bounds, &face)
            }
            (false, None) => last.appearance.body == Some(crop.bounds),
        });
        let candidate = match known {
            Some(candidate) => candidate,
            None => {
                let appearance = Appearance { frame: crop.frame, face: None, body: None };
                found.push(Candidate { appearance, crops: Vec::new() });
                found.last_mut().expect("just pushed")
            }
        };
        let part = match is_face {
            true => &mut candidate.appearance.face,
            false => &mut candidate.appearance.body,
        };
        *part = Some(crop.bounds);
        candidate.crops.push(start + index);
    }
    found
}

fn contains_center(body: &PixelBox, face: &PixelBox) -> bool {
    let (x, y) = ((face.x1 + face.x2) / 2, (face.y1 + face.y2) / 2);
    (body.x1..=body.x2).contains(&x) && (body.y1..=body.y2).contains(&y)
}

/// Distance of an appearance from where a person was last seen; 1 and more is too far.
fn distance_to(person: &Person, candidate: &Appearance) -> f32 {
    let last =
        |part: fn(&Appearance) -> Option<PixelBox>| person.appearances.iter().rev().find_map(part);
    let faces = last(|appearance| appearance.face).zip(candidate.face);
    let bodies = last(|appearance| appearance.body).zip(candidate.body);
    match (faces, bodies) {
        // Faces distinguish people better: bodies in a crowd overlap.
        (Some((was, is)), _) => face_distance(&was.into(), &is.into()),
        (None, Some((was, is))) => body_distance(&was.into(), &is.into()),
        (None, None) => match (last(|appearance| appearance.face), candidate.body) {
            // Face turned away: the body contains the last position of the face.
            (Some(face), Some(body)) if contains_center(&body, &face) => MAX_DISTANCE / 2.0,
            _ => f32::from(u8::MAX),
        },
    }
}

fn face_distance(was: &BoundingBox, is: &BoundingBox) -> f32 {
    let size = |face: &BoundingBox| face.area().sqrt();
    let ([x1, y1], [x2, y2]) = (was.center(), is.center());
    let step = (x2 - x1).hypot(y2 - y1) / ((size(was) + size(is)) / 2.0);
    let growth = (size(is) / size(was)).ln().abs();
    (step / MAX_FACE_STEP).max(growth / MAX_FACE_GROWTH.ln())
}

fn body_distance(was: &BoundingBox, is: &BoundingBox) -> f32 {
    (1.0 - was.iou(is)) / (1.0 - MIN_BODY_OVERLAP)
}

impl From<PixelBox> for BoundingBox {
    fn from(pixels: PixelBox) -> Self {
        let [x1, y1, x2, y2] = [pixels.x1, pixels.y1, pixels.x2, pixels.y2].map(|e| e as f32);
        Self { x1, y1, x2, y2 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::FrameBoxes;
    use super::*;
    use crate::pipeline::fallback::crops;

    type Corner = (f32, f32);

    /// Faces of 20 pixels and bodies of 60 x 120 at these corners.
    fn frame(faces: &[Corner], bodies: &[Corner]) -> FrameBoxes {
        let all = |corners: &[Corner], width: f32, height: f32| {
            let bounds = |(x, y): &Corner| BoundingBox::new(*x, *y, x + width, y + height);
            corners.iter().map(bounds).collect()
        };
        let (faces, bodies) = (all(faces, 20.0, 20.0), all(bodies, 60.0, 120.0));
        FrameBoxes { width: 640, height: 360, faces, bodies }
    }

    /// For each frame, the ids in the order of their x.
    fn ids(frames: &[FrameBoxes]) -> Vec<Vec<usize>> {
        let people = link_persons(&crops(frames));
        let at = |frame: usize| {
            let seen = people.iter().flat_map(|person| {
                let here = person.appearances.iter().filter(|appearance| appearance.frame == frame);
                here.map(|s| (s.face.or(s.body).map(|b| b.x1), person.id))
            });
            let mut seen: Vec<_> = seen.collect();
            seen.sort_unstable();
            seen.into_iter().map(|(_, id)| id).collect()
        };
        (0..frames.len()).map(at).collect()
    }

    #[test]
    fn two_people_keep_their_ids_whatever_the_order_of_detection() {
        let frames = [
            frame(&[(100.0, 50.0), (300.0, 50.0)], &[]),
            frame(&[(310.0, 60.0), (120.0, 50.0)], &[]),
            frame(&[(140.0, 55.0)], &[]),
            frame(&[(330.0, 60.0), (150.0, 60.0)], &[]),
        ];
        assert_eq!(ids(&frames), [vec![1, 2], vec![1, 2], vec![1], vec![1, 2]]);
    }

    #[test]
    fn somebody_elsewhere_is_somebody_else() {
        let frames = [frame(&[(100.0, 50.0)], &[]), frame(&[(400.0, 250.0)], &[])];
        assert_eq!(ids(&frames), [[1], [2]]);
        let mut close_up = frame(&[], &[]);
        close_up.faces = vec![BoundingBox::new(20.0, 0.0, 220.0, 200.0)];
        assert_eq!(ids(&[frame(&[(110.0, 90.0)], &[]), close_up]), [[1], [2]]);
    }

    #[test]
    fn a_body_carries_a_person_over_frames_without_a_face() {
        let frames = [
            frame(&[(120.0, 60.0)], &[(100.0, 50.0)]),
            frame(&[], &[(110.0, 50.0)]),
            frame(&[(135.0, 60.0)], &[]),
        ];
        assert_eq!(ids(&frames), [[1], [1], [1]]);
        let turned = [frame(&[(120.0, 60.0)], &[]), frame(&[], &[(100.0, 50.0)])];
        assert_eq!(ids(&turned), [[1], [1]]);
    }

    #[test]
    fn people_own_their_crops_and_nobody_owns_a_whole_frame() {
        let frames = [
            frame(&[(120.0, 60.0), (400.0, 60.0)], &[(380.0, 50.0)]),
            frame(&[], &[]),
            frame(&[], &[(390.0, 50.0)]),
        ];
        let crops = crops(&frames);
        let people = link_persons(&crops);
        // scene, face, face, body; scene, body, face; scene, body, face
        assert_eq!(people[0].crops, [1]);
        assert_eq!(people[1].crops, [2, 3, 8, 9]);
        assert_eq!(people.len(), 2);
        assert_eq!(people[1].appearances[1].face, None);
    }

    #[test]
    fn the_largest_person_is_the_one_with_most_face() {
        let mut frames = [frame(&[(100.0, 50.0), (300.0, 50.0)], &[(0.0, 200.0)]); 1].to_vec();
        frames.push(frame(&[(300.0, 50.0)], &[]));
        let people = link_persons(&crops(&frames));
        assert_eq!(largest_person(&people).map(|person| person.id), Some(2));
        assert_eq!(largest_person(&[]), None);
        assert_eq!(link_persons(&[]), []);
    }

    #[test]
    fn people_keep_their_ids_from_one_portion_to_the_next() {
        let mut linker = PersonLinker::default();
        let mut ids = |frames: &[FrameBoxes]| -> Vec<(usize, usize)> {
            let seen = linker.link(&crops(frames), frames.len());
            seen.iter().map(|person| (person.id, person.appearances[0].frame)).collect()
        };
        let both = frame(&[(100.0, 50.0), (300.0, 50.0)], &[]);
        assert_eq!(ids(&[both.clone(), both.clone()]), [(1, 0), (2, 0)]);
        assert_eq!(ids(&[frame(&[], &[]), frame(&[(305.0, 50.0)], &[])]), [(2, 1)]);
        assert_eq!(ids(&[both]), [(1, 0), (2, 0)]);
    }

    #[test]
    fn a_crowd_of_two_hundred_is_two_hundred() {
        let crowd = |shift: f32| {
            let faces: Vec<Corner> = (0..200)
                .map(|n| ((n % 20) as f32 * 31.0 + shift, (n / 20) as f32 * 35.0))
                .collect();
            frame(&faces, &[])
        };
        let frames = [crowd(0.0), crowd(2.0), crowd(4.0)];
        assert_eq!(link_persons(&crops(&frames)).len(), 200);
    }
}
