//! Which crops show the same person.

use std::collections::BTreeMap;

use meptr_core::Modality;

use super::tracker::assign;
use super::{BoundingBox, Crop, CropSource};
use crate::image::PixelBox;

/// A face is looked for within this many times its size of where it was.
const MAX_FACE_STEP: f32 = 3.0;
/// A face may be this many times as large, or as small, as it was.
const MAX_FACE_GROWTH: f32 = 3.0;
/// A body must overlap where it was by this much.
const MIN_BODY_OVERLAP: f32 = 0.1;
/// What each frame without a person adds to the distance, so that of two people who were at one
/// place the later is found again.
const COST_OF_ABSENCE: f32 = 0.005;
/// Appearances from this distance on are different people.
const MAX_DISTANCE: f32 = 1.0;

/// Somebody, at all frames where they were seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// From 1, in the order of first appearance.
    pub id: usize,
    /// When and where, by frame.
    pub sightings: Vec<Sighting>,
    /// The crops of faces and bodies that show the person, as places in the list of crops.
    pub crops: Vec<usize>,
}

/// Somebody at one frame: a face, a body, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// Which of the frames, from 0.
    pub frame: usize,
    /// The face.
    pub face: Option<PixelBox>,
    /// The body.
    pub body: Option<PixelBox>,
}

impl Person {
    fn new(id: usize) -> Self {
        Self { id, sightings: Vec::new(), crops: Vec::new() }
    }

    /// Pixels of all faces, or of all bodies where no face was ever seen.
    fn prominence(&self) -> (usize, usize) {
        let area = |part: fn(&Sighting) -> Option<PixelBox>| {
            let boxes = self.sightings.iter().filter_map(part);
            boxes.map(|b| (b.x2 - b.x1) * (b.y2 - b.y1)).sum()
        };
        (area(|sighting| sighting.face), area(|sighting| sighting.body))
    }
}

/// Links the faces and bodies of all frames into people.
///
/// The chosen frames of a video lie about half a second apart, too far for the speeds that a
/// tracker of every frame relies on. So each frame's appearances (a face with the body it was
/// matched with, or the body that stands in for a face) are paired with the people seen so far at
/// the least total distance from where each was last seen: between faces, the way from centre to
/// centre in sizes of the face; between bodies, what they do not share. Whole frames that stand in
/// for a face or body show nobody in particular.
///
/// Nothing about looks is compared: two people who change places between two frames, as in a cut,
/// may change ids.
///
/// `crops` is what [`crops`](super::crops()) gave for the frames.
pub fn people(crops: &[Crop]) -> Vec<Person> {
    let frames = crops.last().map_or(0, |crop| crop.frame + 1);
    Crowd::default().add(crops, frames)
}

/// The people of a video whose frames come in portions; see [`people`] for how they are told apart.
#[derive(Debug, Clone, Default)]
pub struct Crowd {
    /// Everybody so far, with sightings counted over all frames, and without crops.
    people: Vec<Person>,
    /// Frames so far.
    frames: usize,
}

impl Crowd {
    /// Takes the crops of the next `frames` frames; returns those who are seen in them, by id,
    /// with frames and crops counted within this portion.
    pub fn add(&mut self, crops: &[Crop], frames: usize) -> Vec<Person> {
        let mut seen: BTreeMap<usize, Person> = BTreeMap::new();
        let mut start = 0;
        for frame in crops.chunk_by(|a, b| a.frame == b.frame) {
            let appearances = appearances(frame, start);
            start += frame.len();
            let owners = self.owners(&appearances);
            for (appearance, owner) in appearances.into_iter().zip(owners) {
                let Appearance { sighting, crops } = appearance;
                let id = self.note(owner, &sighting);
                let person = seen.entry(id).or_insert_with(|| Person::new(id));
                person.sightings.push(sighting);
                person.crops.extend(crops);
            }
        }
        self.frames += frames;
        seen.into_values().collect()
    }

    /// For each appearance of a frame, the place of the person it continues.
    fn owners(&self, appearances: &[Appearance]) -> Vec<Option<usize>> {
        let distance = |person: &Person, appearance: &Appearance| {
            let last = person.sightings.last().expect("a person was seen");
            let frame = self.frames + appearance.sighting.frame;
            let absence = frame.saturating_sub(last.frame + 1) as f32;
            nearness(person, &appearance.sighting) + COST_OF_ABSENCE * absence
        };
        let row = |person: &Person| appearances.iter().map(|one| distance(person, one)).collect();
        let distances: Vec<Vec<f32>> = self.people.iter().map(row).collect();
        let mut owners = vec![None; appearances.len()];
        for (person, appearance) in assign(&distances, MAX_DISTANCE) {
            owners[appearance] = Some(person);
        }
        owners
    }

    /// Remembers a sighting of a known or a new person; returns the id.
    fn note(&mut self, owner: Option<usize>, sighting: &Sighting) -> usize {
        let place = owner.unwrap_or_else(|| {
            self.people.push(Person::new(self.people.len() + 1));
            self.people.len() - 1
        });
        let frame = self.frames + sighting.frame;
        let person = &mut self.people[place];
        person.sightings.push(Sighting { frame, ..*sighting });
        person.id
    }
}

/// The one who takes most of the picture over all frames, by faces before bodies.
pub fn largest_person(people: &[Person]) -> Option<&Person> {
    // Of equals, the first.
    people.iter().rev().max_by_key(|person| person.prominence())
}

/// Somebody at one frame, and the crops that show them.
struct Appearance {
    sighting: Sighting,
    crops: Vec<usize>,
}

/// The appearances in the crops of one frame, the first of which is number `start`.
fn appearances(crops: &[Crop], start: usize) -> Vec<Appearance> {
    let mut found: Vec<Appearance> = Vec::new();
    let someone =
        |crop: &Crop| crop.modality != Modality::Scene && crop.source != CropSource::Frame;
    for (index, crop) in crops.iter().enumerate().filter(|(_, crop)| someone(crop)) {
        let is_face = crop.modality == Modality::Face && crop.source == CropSource::Detected;
        // A body follows the face it belongs to; a face without any pixel left no crop before it.
        // Where a body stands in for a face, both crops show the body.
        let known = found.last_mut().filter(|last| match (is_face, last.sighting.face) {
            (true, _) => false,
            (false, Some(face)) => {
                last.sighting.body.is_none() && contains_center(&crop.bounds, &face)
            }
            (false, None) => last.sighting.body == Some(crop.bounds),
        });
        let appearance = match known {
            Some(appearance) => appearance,
            None => {
                let sighting = Sighting { frame: crop.frame, face: None, body: None };
                found.push(Appearance { sighting, crops: Vec::new() });
                found.last_mut().expect("just pushed")
            }
        };
        let part = match is_face {
            true => &mut appearance.sighting.face,
            false => &mut appearance.sighting.body,
        };
        *part = Some(crop.bounds);
        appearance.crops.push(start + index);
    }
    found
}

fn contains_center(body: &PixelBox, face: &PixelBox) -> bool {
    let (x, y) = ((face.x1 + face.x2) / 2, (face.y1 + face.y2) / 2);
    (body.x1..=body.x2).contains(&x) && (body.y1..=body.y2).contains(&y)
}

/// How far an appearance is from where a person was last seen; 1 and more is too far.
fn nearness(person: &Person, appearance: &Sighting) -> f32 {
    let last =
        |part: fn(&Sighting) -> Option<PixelBox>| person.sightings.iter().rev().find_map(part);
    let faces = last(|sighting| sighting.face).zip(appearance.face);
    let bodies = last(|sighting| sighting.body).zip(appearance.body);
    match (faces, bodies) {
        // A face tells people apart, where bodies of a crowd overlap.
        (Some((was, is)), _) => face_distance(&was.into(), &is.into()),
        (None, Some((was, is))) => body_distance(&was.into(), &is.into()),
        (None, None) => match (last(|sighting| sighting.face), appearance.body) {
            // Turned away: the body stands where the face was.
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
    use super::super::{FrameBoxes, crops};
    use super::*;

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
        let people = people(&crops(frames));
        let at = |frame: usize| {
            let seen = people.iter().flat_map(|person| {
                let here = person.sightings.iter().filter(|sighting| sighting.frame == frame);
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
        let people = people(&crops);
        // scene, face, face, body; scene, body, face; scene, body, face
        assert_eq!(people[0].crops, [1]);
        assert_eq!(people[1].crops, [2, 3, 8, 9]);
        assert_eq!(people.len(), 2);
        assert_eq!(people[1].sightings[1].face, None);
    }

    #[test]
    fn the_largest_person_is_the_one_with_most_face() {
        let mut frames = [frame(&[(100.0, 50.0), (300.0, 50.0)], &[(0.0, 200.0)]); 1].to_vec();
        frames.push(frame(&[(300.0, 50.0)], &[]));
        let people = people(&crops(&frames));
        assert_eq!(largest_person(&people).map(|person| person.id), Some(2));
        assert_eq!(largest_person(&[]), None);
        assert_eq!(super::people(&[]), []);
    }

    #[test]
    fn people_keep_their_ids_from_one_portion_to_the_next() {
        let mut crowd = Crowd::default();
        let mut ids = |frames: &[FrameBoxes]| -> Vec<(usize, usize)> {
            let seen = crowd.add(&crops(frames), frames.len());
            seen.iter().map(|person| (person.id, person.sightings[0].frame)).collect()
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
        assert_eq!(people(&crops(&frames)).len(), 200);
    }
}
