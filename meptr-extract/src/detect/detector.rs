//! Detectors, and their output: boxes with scores.

use crate::{Result, RgbImage};

/// An axis-parallel box in pixels, from (`x1`, `y1`) to (`x2`, `y2`), ends excluded.
///
/// A box may extend beyond the image; one without area has `x2 <= x1` or `y2 <= y1`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundingBox {
    /// Left edge.
    pub x1: f32,
    /// Upper edge.
    pub y1: f32,
    /// Right edge.
    pub x2: f32,
    /// Lower edge.
    pub y2: f32,
}

impl BoundingBox {
    /// A box with these edges.
    pub fn new(x1: f32, y1: f32, x2: f32, y2: f32) -> Self {
        Self { x1, y1, x2, y2 }
    }

    /// A box with this centre and size.
    pub fn around(center: [f32; 2], width: f32, height: f32) -> Self {
        let [x, y] = center;
        Self::new(x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0)
    }

    /// Horizontal extent, 0 when the edges are out of order.
    pub fn width(&self) -> f32 {
        (self.x2 - self.x1).max(0.0)
    }

    /// Vertical extent, 0 when the edges are out of order.
    pub fn height(&self) -> f32 {
        (self.y2 - self.y1).max(0.0)
    }

    /// Width times height.
    pub fn area(&self) -> f32 {
        self.width() * self.height()
    }

    /// Centre (x, y).
    pub fn center(&self) -> [f32; 2] {
        [(self.x1 + self.x2) / 2.0, (self.y1 + self.y2) / 2.0]
    }

    /// Overlap with another box; without area when there is none.
    pub fn intersection(&self, other: &Self) -> Self {
        Self {
            x1: self.x1.max(other.x1),
            y1: self.y1.max(other.y1),
            x2: self.x2.min(other.x2),
            y2: self.y2.min(other.y2),
        }
    }

    /// Intersection over union, 0 to 1; 0 when neither has an area.
    pub fn iou(&self, other: &Self) -> f32 {
        let shared = self.intersection(other).area();
        let union = self.area() + other.area() - shared;
        if union > 0.0 { shared / union } else { 0.0 }
    }

    /// Part inside an image of this size.
    pub fn clamped(&self, width: usize, height: usize) -> Self {
        let (width, height) = (width as f32, height as f32);
        Self {
            x1: self.x1.clamp(0.0, width),
            y1: self.y1.clamp(0.0, height),
            x2: self.x2.clamp(0.0, width),
            y2: self.y2.clamp(0.0, height),
        }
    }
}

/// One object found in one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// Box in pixels of the image.
    pub bounds: BoundingBox,
    /// Confidence of the detector, 0 to 1.
    pub score: f32,
    /// Landmarks (x, y) in pixels, in the detector's order; empty when it finds none.
    pub keypoints: Vec<[f32; 2]>,
}

/// Detects faces, bodies or other objects.
///
/// Each image is processed independently. A tracker links the bodies of a clip's frames afterwards,
/// see [`crate::pipeline::Extractor::set_body_detector`]; a detector needs none of its own.
pub trait Detector: std::fmt::Debug + Send + Sync {
    /// Detections of each image, best first. The images may differ in size.
    ///
    /// # Errors
    /// When the device fails.
    fn detect(&self, images: &[&RgbImage]) -> Result<Vec<Vec<Detection>>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_measured_by_area() {
        let one = BoundingBox::new(0.0, 0.0, 2.0, 2.0);
        assert_eq!(one.iou(&one), 1.0);
        assert_eq!(one.iou(&BoundingBox::new(1.0, 0.0, 3.0, 2.0)), 2.0 / 6.0);
        assert_eq!(one.iou(&BoundingBox::new(2.0, 0.0, 3.0, 2.0)), 0.0);
    }

    #[test]
    fn a_box_without_area_overlaps_nothing() {
        let point = BoundingBox::new(1.0, 1.0, 1.0, 1.0);
        assert_eq!(point.iou(&point), 0.0);
        let reversed = BoundingBox::new(3.0, 3.0, 1.0, 1.0);
        assert_eq!((reversed.area(), reversed.iou(&reversed)), (0.0, 0.0));
    }

    #[test]
    fn clamping_keeps_the_part_inside() {
        let found = BoundingBox::new(-5.0, 3.0, 50.0, 4.0).clamped(10, 10);
        assert_eq!(found, BoundingBox::new(0.0, 3.0, 10.0, 4.0));
    }
}
