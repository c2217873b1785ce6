//! Which parts of a frame stand for its faces, bodies and scene.

use meptr_core::Modality;
use serde::{Deserialize, Serialize};

use super::BoundingBox;
use crate::image::PixelBox;

/// What a crop really shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CropSource {
    /// A detected face or body, or the frame where the frame was wanted.
    Detected,
    /// A body in place of a face that was not found.
    Body,
    /// The whole frame in place of a face or body that was not found.
    Frame,
}

/// One input of a visual backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// Which of the frames handed in, from 0.
    pub frame: usize,
    /// Body, face or scene.
    pub modality: Modality,
    /// The pixels.
    pub bounds: PixelBox,
    /// What they show.
    pub source: CropSource,
}

/// The boxes found in one frame.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FrameBoxes {
    /// Columns of the frame.
    pub width: usize,
    /// Rows of the frame.
    pub height: usize,
    /// Faces, in the detector's order.
    pub faces: Vec<BoundingBox>,
    /// Bodies, in the detector's order; of a tracker, those it follows at this frame.
    pub bodies: Vec<BoundingBox>,
}

/// The crops of all frames, in the reference's order of processing.
///
/// Of each frame, first the scene: the whole of it. Then each face, followed by the first body that
/// contains the face's centre, if any does. In a frame without faces, the largest body (by area)
/// stands for body and face; without bodies too, the whole frame does.
///
/// Boxes are truncated to whole pixels and cut off at the frame's edges; a box that holds no pixel
/// then gives no crop. A modality can so have fewer crops than there are frames, or more.
pub fn crops(frames: &[FrameBoxes]) -> Vec<Crop> {
    frames.iter().enumerate().flat_map(|(index, boxes)| frame_crops(index, boxes)).collect()
}

fn frame_crops(frame: usize, boxes: &FrameBoxes) -> Vec<Crop> {
    let whole = PixelBox::whole(boxes.width, boxes.height);
    let crop = |modality, bounds, source| Crop { frame, modality, bounds, source };
    let mut crops = vec![crop(Modality::Scene, whole, CropSource::Detected)];
    for face in &boxes.faces {
        let face = Truncated::face(face, boxes);
        let bounds = face.pixels();
        crops.extend(bounds.map(|bounds| crop(Modality::Face, bounds, CropSource::Detected)));
        let mut bodies = boxes.bodies.iter().map(|body| Truncated::body(body, boxes));
        let bounds = bodies.find(|body| body.contains(face.center())).and_then(|b| b.pixels());
        crops.extend(bounds.map(|bounds| crop(Modality::Body, bounds, CropSource::Detected)));
    }
    if boxes.faces.is_empty() {
        let (bounds, body_source, face_source) = match largest(&boxes.bodies, boxes) {
            Some(body) => (body, CropSource::Detected, CropSource::Body),
            None => (whole, CropSource::Frame, CropSource::Frame),
        };
        crops.push(crop(Modality::Body, bounds, body_source));
        crops.push(crop(Modality::Face, bounds, face_source));
    }
    crops
}

/// The first of the largest bodies that hold a pixel.
fn largest(bodies: &[BoundingBox], frame: &FrameBoxes) -> Option<PixelBox> {
    let mut largest: Option<(f32, PixelBox)> = None;
    for body in bodies {
        let Some(bounds) = Truncated::body(body, frame).pixels() else { continue };
        let area = body.clamped(frame.width, frame.height).area();
        if largest.is_none_or(|(best, _)| area > best) {
            largest = Some((area, bounds));
        }
    }
    largest.map(|(_, bounds)| bounds)
}

/// A box in whole pixels that may hold none, as the reference computes with it.
#[derive(Debug, Clone, Copy)]
struct Truncated {
    x1: i64,
    y1: i64,
    x2: i64,
    y2: i64,
}

impl Truncated {
    /// Cut off where it begins before the frame or ends behind it.
    fn face(face: &BoundingBox, frame: &FrameBoxes) -> Self {
        Self {
            x1: (face.x1 as i64).max(0),
            y1: (face.y1 as i64).max(0),
            x2: (face.x2 as i64).min(frame.width as i64),
            y2: (face.y2 as i64).min(frame.height as i64),
        }
    }

    fn body(body: &BoundingBox, frame: &FrameBoxes) -> Self {
        let body = body.clamped(frame.width, frame.height);
        Self { x1: body.x1 as i64, y1: body.y1 as i64, x2: body.x2 as i64, y2: body.y2 as i64 }
    }

    fn center(&self) -> [i64; 2] {
        [(self.x1 + self.x2).div_euclid(2), (self.y1 + self.y2).div_euclid(2)]
    }

    /// Edges included.
    fn contains(&self, [x, y]: [i64; 2]) -> bool {
        (self.x1..=self.x2).contains(&x) && (self.y1..=self.y2).contains(&y)
    }

    fn pixels(&self) -> Option<PixelBox> {
        let [x1, y1, x2, y2] =
            [self.x1, self.y1, self.x2, self.y2].map(|edge| usize::try_from(edge).unwrap_or(0));
        (x1 < x2 && y1 < y2).then_some(PixelBox { x1, y1, x2, y2 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::CropSource::{Body, Detected, Frame};
    use super::*;
    use crate::RgbImage;

    type Edges = [f32; 4];

    fn boxes(faces: &[Edges], bodies: &[Edges]) -> FrameBoxes {
        let all = |edges: &[Edges]| {
            edges.iter().map(|&[x1, y1, x2, y2]| BoundingBox::new(x1, y1, x2, y2)).collect()
        };
        FrameBoxes { width: 100, height: 50, faces: all(faces), bodies: all(bodies) }
    }

    /// The crops after the scene, as modality, source and edges.
    fn found(faces: &[Edges], bodies: &[Edges]) -> Vec<(Modality, CropSource, [usize; 4])> {
        let crops = crops(&[boxes(faces, bodies)]);
        assert_eq!(crops[0].modality, Modality::Scene);
        assert_eq!(crops[0].bounds, PixelBox::whole(100, 50));
        let edges = |b: PixelBox| [b.x1, b.y1, b.x2, b.y2];
        crops[1..].iter().map(|crop| (crop.modality, crop.source, edges(crop.bounds))).collect()
    }

    const FACE: Edges = [10.9, 5.2, 20.9, 15.9];
    const AROUND: Edges = [5.0, 0.0, 40.7, 50.0];
    const ASIDE: Edges = [50.0, 0.0, 99.0, 50.0];

    #[test]
    fn every_face_takes_the_first_body_around_it() {
        let face = (Modality::Face, Detected, [10, 5, 20, 15]);
        let body = (Modality::Body, Detected, [5, 0, 40, 50]);
        let larger = [0.0, 0.0, 100.0, 50.0];
        let other_face = (Modality::Face, Detected, [70, 5, 80, 15]);
        let other_body = (Modality::Body, Detected, [50, 0, 99, 50]);
        type Row<'a> = (&'a [Edges], &'a [Edges], Vec<(Modality, CropSource, [usize; 4])>);
        let table: [Row; 6] = [
            (&[FACE], &[AROUND], vec![face, body]),
            (&[FACE], &[ASIDE, AROUND, larger], vec![face, body]),
            (&[FACE], &[ASIDE], vec![face]),
            (&[FACE], &[], vec![face]),
            (&[FACE, FACE], &[AROUND], vec![face, body, face, body]),
            (
                &[FACE, [70.0, 5.0, 80.0, 15.0]],
                &[ASIDE, AROUND],
                vec![face, body, other_face, other_body],
            ),
        ];
        for (faces, bodies, expected) in table {
            assert_eq!(found(faces, bodies), expected, "{faces:?} with {bodies:?}");
        }
    }

    #[test]
    fn without_a_face_the_largest_body_or_the_frame_stands_in() {
        let small = [0.0, 0.0, 10.0, 10.0];
        let bounds = [50, 0, 99, 50];
        let stand_in = [(Modality::Body, Detected, bounds), (Modality::Face, Body, bounds)];
        assert_eq!(found(&[], &[small, ASIDE, AROUND]), stand_in);
        assert_eq!(found(&[], &[ASIDE, ASIDE]), stand_in);
        let bounds = [0, 0, 100, 50];
        let frame = [(Modality::Body, Frame, bounds), (Modality::Face, Frame, bounds)];
        assert_eq!(found(&[], &[]), frame);
        assert_eq!(found(&[], &[[7.0, 7.0, 7.5, 7.5]]), frame); // holds no pixel
    }

    #[test]
    fn the_centre_is_compared_in_whole_pixels_edges_included() {
        // The centre of the truncated face is (15, 10).
        assert_eq!(found(&[FACE], &[[0.0, 0.0, 15.9, 10.9]]).len(), 2);
        assert_eq!(found(&[FACE], &[[15.9, 10.9, 30.0, 30.0]]).len(), 2);
        assert_eq!(found(&[FACE], &[[16.0, 0.0, 30.0, 30.0]]).len(), 1);
        assert_eq!(found(&[FACE], &[[0.0, 0.0, 14.9, 30.0]]).len(), 1);
    }

    #[test]
    fn boxes_end_at_the_border() {
        let face = found(&[[-8.5, -3.0, 10.0, 10.0]], &[]);
        assert_eq!(face, [(Modality::Face, Detected, [0, 0, 10, 10])]);
        let face = found(&[[90.2, 40.0, 130.0, 1e9]], &[[60.0, -9.0, 1e9, 60.0]]);
        assert_eq!(face[0], (Modality::Face, Detected, [90, 40, 100, 50]));
        assert_eq!(face[1], (Modality::Body, Detected, [60, 0, 100, 50]));
        // Outside, or smaller than a pixel: a face was found, so nothing stands in for it.
        for nothing in [[-9.0, 0.0, -3.0, 9.0], [120.0, 0.0, 130.0, 9.0], [4.2, 4.2, 4.9, 9.0]] {
            assert_eq!(found(&[nothing], &[]), [], "{nothing:?}");
        }
    }

    #[test]
    fn frames_keep_their_order_and_may_differ_in_size() {
        let mut second = boxes(&[FACE], &[]);
        (second.width, second.height) = (15, 12);
        let crops = crops(&[boxes(&[], &[]), second]);
        let frames: Vec<usize> = crops.iter().map(|crop| crop.frame).collect();
        assert_eq!(frames, [0, 0, 0, 1, 1]);
        assert_eq!(crops[4].bounds, PixelBox { x1: 10, y1: 5, x2: 15, y2: 12 });
        assert_eq!(super::crops(&[]), []);
    }

    fn any_boxes() -> impl Strategy<Value = Vec<Edges>> {
        prop::collection::vec(prop::array::uniform4(-50.0f32..200.0), 0..8)
    }

    proptest! {
        #[test]
        fn every_crop_lies_in_its_frame_and_holds_a_pixel(
            faces in any_boxes(), bodies in any_boxes(), width in 1usize..120, height in 1usize..120
        ) {
            let frame = FrameBoxes { width, height, ..boxes(&faces, &bodies) };
            let image = RgbImage::new(width, height, vec![0; width * height * 3]);
            for crop in crops(&[frame]) {
                let PixelBox { x1, y1, x2, y2 } = crop.bounds;
                prop_assert!(x1 < x2 && x2 <= width && y1 < y2 && y2 <= height);
                prop_assert_eq!(crop.bounds.crop(&image).width(), x2 - x1);
            }
        }
    }
}
