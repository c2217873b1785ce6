//! Crops of a frame: its faces, bodies and scene.

use meptr_core::Modality;
use serde::{Deserialize, Serialize};

use super::BoundingBox;
use crate::image::PixelBox;

/// Content of a crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CropSource {
    /// A detected face or body, or the frame where the frame was wanted.
    Detected,
    /// A body instead of a face that was not found.
    Body,
    /// The whole frame instead of a face or body that was not found.
    Frame,
}

/// One input of a visual backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// Index of the frame, from 0.
    pub frame: usize,
    /// Body, face or scene.
    pub modality: Modality,
    /// Pixels of the frame.
    pub bounds: PixelBox,
    /// Content.
    pub source: CropSource,
}

/// Boxes found in one frame.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FrameBoxes {
    /// Columns of the frame.
    pub width: usize,
    /// Rows of the frame.
    pub height: usize,
    /// Faces, in the detector's order.
    pub faces: Vec<BoundingBox>,
    /// Bodies, in the detector's order; with a tracker, its boxes at this frame.
    pub bodies: Vec<BoundingBox>,
}

impl FrameBoxes {
    /// The whole frame.
    pub(crate) fn whole(&self) -> PixelBox {
        PixelBox::whole(self.width, self.height)
    }

    /// Crops without any fall-back: the scene, then each face, followed by the first body that contains
    /// its centre, if any does. `frame` is the index of this frame.
    pub(crate) fn detected_crops(&self, frame: usize) -> Vec<Crop> {
        let crop =
            |modality, bounds| Crop { frame, modality, bounds, source: CropSource::Detected };
        let mut crops = vec![crop(Modality::Scene, self.whole())];
        for face in &self.faces {
            let face = TruncatedBox::face(face, self);
            crops.extend(face.pixels().map(|bounds| crop(Modality::Face, bounds)));
            let mut bodies = self.bodies.iter().map(|body| TruncatedBox::body(body, self));
            let body = bodies.find(|body| body.contains(face.center()));
            let bounds = body.and_then(|body| body.pixels());
            crops.extend(bounds.map(|bounds| crop(Modality::Body, bounds)));
        }
        crops
    }

    /// The first of the largest bodies that hold a pixel.
    pub(crate) fn largest_body(&self) -> Option<PixelBox> {
        let mut largest: Option<(f32, PixelBox)> = None;
        for body in &self.bodies {
            let Some(bounds) = TruncatedBox::body(body, self).pixels() else { continue };
            let area = body.clamped(self.width, self.height).area();
            if largest.is_none_or(|(best, _)| area > best) {
                largest = Some((area, bounds));
            }
        }
        largest.map(|(_, bounds)| bounds)
    }
}

/// A box in whole pixels, possibly empty, as in the reference.
#[derive(Debug, Clone, Copy)]
struct TruncatedBox {
    x1: i64,
    y1: i64,
    x2: i64,
    y2: i64,
}

impl TruncatedBox {
    /// Cut off where it starts before the frame or ends after it.
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
