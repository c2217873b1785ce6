//! Estimation of the camera's motion over the frames of a clip.

use super::super::Warp;
use super::corners::corners;
use super::flow::{Pyramid, flow};
use super::grey::GreyImage;
use super::similarity::similarity;

/// Factor by which images are reduced before they are compared.
const SCALE: f64 = 2.0;
/// Points that must be exceeded by those found again.
const MIN_POINTS: usize = 4;

/// Warp of a camera at rest.
const STILL: Warp = Warp([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);

/// Estimator of the camera's motion, frame by frame.
#[derive(Debug, Clone, Default)]
pub struct CameraMotion {
    before: Option<Before>,
}

/// Corners and pyramid of the last frame.
#[derive(Debug, Clone)]
struct Before {
    picture: Pyramid,
    corners: Vec<[f32; 2]>,
}

impl CameraMotion {
    /// Warp from the last frame to this one, in pixels of the frames.
    ///
    /// It is the identity where nothing can be estimated: in the first frame, after an image without
    /// corners, when fewer than five corners are found again. Frames of another size than the first, or
    /// of less than two pixels a side, are skipped, and the next is compared with the one before them.
    /// Across a cut, the warp is the one that some corners happen to agree on, as in the reference; it
    /// is always finite.
    pub fn next(&mut self, frame: &crate::RgbImage) -> Warp {
        let Some(grey) = GreyImage::halved(frame) else { return STILL };
        let (corners, picture) = rayon::join(|| corners(&grey), || Pyramid::new(grey.clone()));
        let now = Before { picture, corners };
        let warp = match &self.before {
            Some(before) if !before.corners.is_empty() => match before.warp_to(&now) {
                Some(warp) => warp,
                None => return STILL,
            },
            _ => STILL,
        };
        self.before = Some(now);
        warp
    }
}

impl Before {
    /// Warp to a later frame; `None` where the reference skips that frame.
    fn warp_to(&self, now: &Self) -> Option<Warp> {
        if self.picture.size() != now.picture.size() {
            return None;
        }
        let found = flow(&self.picture, &now.picture, &self.corners);
        let pairs = self.corners.iter().zip(found);
        let (from, to): (Vec<_>, Vec<_>) =
            pairs.filter_map(|(from, to)| Some((*from, to?))).unzip();
        if from.len() <= MIN_POINTS {
            tracing::debug!("the camera's motion cannot be estimated from {} points", from.len());
            return Some(STILL);
        }
        let Warp(mut rows) = similarity(&from, &to)?;
        rows.iter_mut().for_each(|row| row[2] *= SCALE);
        Some(Warp(rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RgbImage;

    /// Image of smooth noise, transformed by the warp.
    fn landscape(width: usize, height: usize, [a, b, x0, y0]: [f64; 4]) -> RgbImage {
        let peak = |i: f64, j: f64| ((i * 12.9898 + j * 78.233).sin() * 43758.5453).fract().abs();
        let pixel = |at: usize| {
            let (u, v) = ((at % width) as f64 - x0, (at / width) as f64 - y0);
            let cell = 11.0 * (a * a + b * b);
            let (x, y) = ((a * u + b * v) / cell, (a * v - b * u) / cell);
            let (i, j) = (x.floor(), y.floor());
            let [right, lower] = [x - i, y - j].map(|share| share * share * (3.0 - 2.0 * share));
            let row = |j: f64| peak(i, j) * (1.0 - right) + peak(i + 1.0, j) * right;
            (20.0 + 210.0 * (row(j) * (1.0 - lower) + row(j + 1.0) * lower)) as u8
        };
        let data = (0..width * height).flat_map(|at| [pixel(at); 3]);
        RgbImage::new(width, height, data.collect())
    }

    fn difference(found: &Warp, [a, b, x, y]: [f64; 4], at: [f64; 2]) -> f64 {
        let expected = [[a, -b, x], [b, a, y]];
        let off = |row: usize| {
            let by = |k: usize| found.0[row][k] - expected[row][k];
            by(0) * at[0] + by(1) * at[1] + by(2)
        };
        off(0).abs().max(off(1).abs())
    }

    #[test]
    fn shifts_turns_and_zooms_are_found_to_half_a_pixel() {
        let still = [1.0, 0.0, 0.0, 0.0];
        let (turn, zoom) = (2f64.to_radians(), 1.05);
        let motions = [
            still,
            [1.0, 0.0, 7.0, -4.5],
            [turn.cos(), turn.sin(), 3.0, 1.0],
            [zoom, 0.0, -6.0, -4.0],
        ];
        for motion in motions {
            let mut camera = CameraMotion::default();
            assert_eq!(camera.next(&landscape(320, 241, still)), STILL);
            let found = camera.next(&landscape(320, 241, motion));
            for corner in [[0.0, 0.0], [320.0, 241.0]] {
                let off = difference(&found, motion, corner);
                assert!(off < 0.5, "{motion:?}: off by {off} at {corner:?}");
            }
        }
    }

    #[test]
    fn a_frame_of_another_size_is_left_out() {
        let (still, moved) = ([1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 4.0, 2.0]);
        let mut camera = CameraMotion::default();
        camera.next(&landscape(320, 240, still));
        assert_eq!(camera.next(&landscape(200, 100, still)), STILL);
        assert_eq!(camera.next(&landscape(1, 300, still)), STILL);
        let found = camera.next(&landscape(320, 240, moved));
        assert!(difference(&found, moved, [0.0, 0.0]) < 0.5, "{found:?}");
    }

    #[test]
    fn warps_are_finite_over_cuts_flat_frames_and_tiny_ones() {
        let still = [1.0, 0.0, 0.0, 0.0];
        for (width, height) in [(160, 120), (44, 40), (16, 12), (6, 6), (2, 2), (1, 1)] {
            let flat = RgbImage::new(width, height, vec![50; width * height * 3]);
            let other = landscape(width, height, [-2.0, 5.0, 1e4, -1e3]);
            let mut camera = CameraMotion::default();
            for frame in [&landscape(width, height, still), &other, &flat, &flat, &other] {
                let Warp(rows) = camera.next(frame);
                assert!(rows.iter().flatten().all(|value| value.is_finite()), "{rows:?}");
            }
        }
    }
}
