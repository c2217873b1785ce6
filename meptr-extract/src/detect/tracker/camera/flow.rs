//! Optical flow: positions of points of one image in another, by Lucas and Kanade.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::grey::{GreyImage, reflect};

/// Side of the neighbourhood of a point, in pixels.
const WINDOW: usize = 21;
/// Distance from the edge of the neighbourhood to its centre.
const HALF_WINDOW: f32 = (WINDOW / 2) as f32;
/// Columns that are computed, a multiple of the vector width; the last ones are padding.
const LANES: usize = 24;
/// Levels of the pyramid above the first, if the image is large enough.
const MAX_HALVINGS: usize = 3;
const MAX_STEPS: usize = 30;
/// Length of a step below which iteration stops, in pixels.
const LAST_STEP: f32 = 0.01;
/// Least value of the smaller eigenvalue of a neighbourhood, per pixel.
const MIN_EIGENVALUE: f32 = 1e-4;
/// Fixed-point unit of positions between pixels: 1/2^14.
const POSITION_BITS: f32 = (1 << 14) as f32;
/// Fixed-point unit of neighbourhoods: 1/32 of a grey level.
const GREY_STEPS: f32 = 32.0;
/// Scale of `A` and `b`, to which the thresholds apply. Gradients and grey levels are scaled by 32, so
/// sums of products by 1024, and OpenCV divides by that once more.
const SUM_UNIT: f32 = 1.0 / (1 << 20) as f32;

/// A neighbourhood of a point.
type Patch = [[f32; LANES]; WINDOW];

/// Values of each pixel of an image and of a border around it.
#[derive(Debug, Clone)]
struct PaddedImage {
    width: usize,
    height: usize,
    stride: usize,
    values: Vec<f32>,
}

impl PaddedImage {
    /// Builds the image row by row; `at` appends the values of a row, border included.
    fn new(width: usize, height: usize, at: impl Fn(isize, &mut Vec<f32>)) -> Self {
        let stride = WINDOW + width + LANES;
        let mut values = Vec::with_capacity(stride * (height + 2 * WINDOW));
        (-(WINDOW as isize)..(height + WINDOW) as isize).for_each(|y| at(y, &mut values));
        debug_assert_eq!(values.len(), stride * (height + 2 * WINDOW), "rows of one length");
        Self { width, height, stride, values }
    }

    /// The image, reflected beyond its edges.
    fn of(image: &GreyImage) -> Self {
        let columns = -(WINDOW as isize)..(image.width() + LANES) as isize;
        let columns: Vec<usize> = columns.map(|x| reflect(x, image.width())).collect();
        Self::new(image.width(), image.height(), |y, values| {
            let row = image.row(reflect(y, image.height()));
            values.extend(columns.iter().map(|x| f32::from(row[*x])));
        })
    }

    /// Gradients along x and y times 32, by the Scharr filter; 0 outside.
    #[inline(always)]
    fn gradients(&self) -> [Self; 2] {
        let gradient = |weights: [[f32; 3]; 3]| {
            Self::new(self.width, self.height, |y, values| {
                let start = values.len();
                values.resize(start + self.stride, 0.0);
                if !(0..self.height as isize).contains(&y) {
                    return;
                }
                let out = &mut values[start + WINDOW..][..self.width];
                let first = (y + WINDOW as isize - 1) as usize * self.stride + WINDOW - 1;
                for (row, weights) in weights.iter().enumerate() {
                    let row = &self.values[first + row * self.stride..][..self.width + 2];
                    for (out, pixels) in out.iter_mut().zip(row.windows(3)) {
                        *out += pixels[0] * weights[0]
                            + pixels[1] * weights[1]
                            + pixels[2] * weights[2];
                    }
                }
            })
        };
        [
            gradient([[-3.0, 0.0, 3.0], [-10.0, 0.0, 10.0], [-3.0, 0.0, 3.0]]),
            gradient([[-3.0, -10.0, -3.0], [0.0; 3], [3.0, 10.0, 3.0]]),
        ]
    }

    /// Whether a neighbourhood with this upper left corner touches the image.
    #[inline(always)]
    fn touches(&self, [left, upper]: [f32; 2]) -> bool {
        let fits = |place: f32, length: usize| place >= -(WINDOW as f32) && place < length as f32;
        fits(left, self.width) && fits(upper, self.height)
    }

    /// The neighbourhood whose upper left corner is `corner`, in whole numbers of `1 / steps`;
    /// `None` when it lies outside.
    #[inline(always)]
    fn patch(&self, corner: [f32; 2], steps: f32) -> Option<Patch> {
        let [left, upper] = corner.map(f32::floor);
        if !self.touches([left, upper]) {
            return None;
        }
        let (a, b) = (corner[0] - left, corner[1] - upper);
        let weight = |share: f32| (share * POSITION_BITS).round_ties_even();
        let mut weights =
            [weight((1.0 - a) * (1.0 - b)), weight(a * (1.0 - b)), weight((1.0 - a) * b), 0.0];
        weights[3] = POSITION_BITS - weights[0] - weights[1] - weights[2];
        let weights = weights.map(|weight| weight * (steps / POSITION_BITS));

        let start =
            (upper + WINDOW as f32) as usize * self.stride + (left + WINDOW as f32) as usize;
        let row = |y: usize| self.values[start + y * self.stride..].first_chunk::<{ LANES + 1 }>();
        let mut patch = [[0.0; LANES]; WINDOW];
        let mut upper = row(0)?;
        for (y, out) in patch.iter_mut().enumerate() {
            let lower = row(y + 1)?;
            for x in 0..LANES {
                let blend = (upper[x] * weights[0] + upper[x + 1] * weights[1])
                    + (lower[x] * weights[2] + lower[x + 1] * weights[3]);
                out[x] = (blend + 0.5).floor();
            }
            upper = lower;
        }
        Some(patch)
    }
}

/// An image at several sizes, the largest first.
#[derive(Debug, Clone)]
pub struct Pyramid {
    levels: Vec<PaddedImage>,
}

impl Pyramid {
    /// Halves the image up to three times, as long as it stays larger than the neighbourhood.
    pub fn new(image: GreyImage) -> Self {
        let mut levels = vec![PaddedImage::of(&image)];
        let mut image = image;
        while levels.len() <= MAX_HALVINGS {
            if image.width().div_ceil(2) <= WINDOW || image.height().div_ceil(2) <= WINDOW {
                break;
            }
            image = image.pyr_down();
            levels.push(PaddedImage::of(&image));
        }
        Self { levels }
    }

    /// Columns and rows of the image.
    pub fn size(&self) -> [usize; 2] {
        [self.levels[0].width, self.levels[0].height]
    }
}

/// Positions of points (x, y) of one image in another of the same size; `None` for points that get
/// lost.
///
/// Lucas and Kanade's method, from the smallest level of the pyramid to the largest, Bouguet 2000,
/// "Pyramidal Implementation of the Lucas Kanade Feature Tracker": per level, the shift `d` of the
/// neighbourhood with the least squared difference, by Newton steps `d += A^-1 b`, where `A` sums
/// `g g^T` and `b` sums `g (I - J)` over 21x21 pixels, `g` the gradient. OpenCV's
/// `calcOpticalFlowPyrLK` with its defaults, in the same fixed-point arithmetic.
///
/// # Panics
/// When the images differ in size.
pub fn flow(before: &Pyramid, now: &Pyramid, points: &[[f32; 2]]) -> Vec<Option<[f32; 2]>> {
    assert_eq!(before.size(), now.size(), "images of one size");
    let arch = Arch::new();
    let levels: Vec<Level> = before
        .levels
        .iter()
        .zip(&now.levels)
        .map(|(before, now)| Level { before, gradients: arch.dispatch(Gradients(before)), now })
        .collect();
    points
        .par_iter()
        .map(|point| arch.dispatch(TrackPoint { levels: &levels, point: *point }))
        .collect()
}

/// Two images at one level of the pyramid.
struct Level<'a> {
    before: &'a PaddedImage,
    gradients: [PaddedImage; 2],
    now: &'a PaddedImage,
}

/// [`PaddedImage::gradients`] with the CPU's widest vectors.
struct Gradients<'a>(&'a PaddedImage);

impl WithSimd for Gradients<'_> {
    type Output = [PaddedImage; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        self.0.gradients()
    }
}

/// Tracks one point through all levels, with the CPU's widest vectors.
struct TrackPoint<'a> {
    levels: &'a [Level<'a>],
    point: [f32; 2],
}

impl WithSimd for TrackPoint<'_> {
    type Output = Option<[f32; 2]>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let mut guess = None;
        let mut is_found = false;
        for (halvings, level) in self.levels.iter().enumerate().rev() {
            let start = self.point.map(|place| place / (1 << halvings) as f32);
            let first = guess.map_or(start, |guess: [f32; 2]| guess.map(|place| place * 2.0));
            let (place, is_there) = level.track(start, first);
            (guess, is_found) = (Some(place), is_there);
        }
        guess.filter(|_| is_found)
    }
}

impl Level<'_> {
    /// Position of a point in the second image, starting from a guess, and whether it was found; the
    /// last guess when it was not.
    #[inline(always)]
    fn track(&self, point: [f32; 2], mut place: [f32; 2]) -> ([f32; 2], bool) {
        let Some(wanted) = self.neighbourhood(point.map(|place| place - HALF_WINDOW)) else {
            return (place, false);
        };
        let mut corner = place.map(|place| place - HALF_WINDOW);
        let mut last = [0.0; 2];
        for step in 0..MAX_STEPS {
            let Some(found) = self.now.patch(corner, GREY_STEPS) else { return (place, false) };
            let [x, y] = wanted.step_from(found);
            corner = [corner[0] + x, corner[1] + y];
            place = corner.map(|place| place + HALF_WINDOW);
            if x * x + y * y <= LAST_STEP * LAST_STEP {
                break;
            }
            let is_back = |step: f32, last: f32| (step + last).abs() < LAST_STEP;
            if step > 0 && is_back(x, last[0]) && is_back(y, last[1]) {
                place = [place[0] - x * 0.5, place[1] - y * 0.5];
                break;
            }
            last = [x, y];
        }
        let is_inside = self.now.touches(place.map(|place| (place - HALF_WINDOW).floor()));
        (place, is_inside)
    }

    /// Neighbourhood in the first image; `None` outside, or when it is not distinctive.
    #[inline(always)]
    fn neighbourhood(&self, corner: [f32; 2]) -> Option<Neighbourhood> {
        let pixels = self.before.patch(corner, GREY_STEPS)?;
        let [along_x, along_y] = &self.gradients;
        let (mut along_x, mut along_y) = (along_x.patch(corner, 1.0)?, along_y.patch(corner, 1.0)?);
        for row in along_x.iter_mut().chain(&mut along_y) {
            row[WINDOW..].fill(0.0);
        }
        let xx = sum_of_products(&along_x, &along_x);
        let xy = sum_of_products(&along_x, &along_y);
        let yy = sum_of_products(&along_y, &along_y);
        let determinant = xx * yy - xy * xy;
        let smaller = (yy + xx - ((xx - yy) * (xx - yy) + 4.0 * xy * xy).sqrt())
            / (2 * WINDOW * WINDOW) as f32;
        let is_distinct = smaller >= MIN_EIGENVALUE && determinant >= f32::EPSILON;
        is_distinct.then_some(Neighbourhood { pixels, along_x, along_y, xx, xy, yy, determinant })
    }
}

/// Neighbourhood to find: pixels, their gradients, and `A`.
struct Neighbourhood {
    pixels: Patch,
    along_x: Patch,
    along_y: Patch,
    xx: f32,
    xy: f32,
    yy: f32,
    determinant: f32,
}

impl Neighbourhood {
    /// Newton step from the pixels found at the current position: `A^-1 b`.
    #[inline(always)]
    fn step_from(&self, mut found: Patch) -> [f32; 2] {
        for (row, pixels) in found.iter_mut().zip(&self.pixels) {
            row.iter_mut().zip(pixels).for_each(|(found, wanted)| *found -= wanted);
        }
        let x = sum_of_products(&found, &self.along_x);
        let y = sum_of_products(&found, &self.along_y);
        [self.xy * y - self.yy * x, self.xy * x - self.xx * y].map(|step| step / self.determinant)
    }
}

#[inline(always)]
fn sum_of_products(one: &Patch, two: &Patch) -> f32 {
    let mut sums = [0.0; LANES];
    for (one, two) in one.iter().zip(two) {
        for ((sum, one), two) in sums.iter_mut().zip(one).zip(two) {
            *sum += one * two;
        }
    }
    sums.iter().sum::<f32>() * SUM_UNIT
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Image of waves, shifted by (x, y).
    fn waves(width: usize, height: usize, x: f32, y: f32) -> Pyramid {
        let value = |at: usize| {
            let (x, y) = ((at % width) as f32 + x, (at / width) as f32 + y);
            128.0 + 50.0 * (x * 0.21).sin() * (y * 0.17).cos() + 40.0 * (x * 0.05 + y * 0.08).sin()
        };
        let data = (0..width * height).map(|at| value(at).round() as u8).collect();
        Pyramid::new(GreyImage::new(width, height, data))
    }

    #[test]
    fn a_shift_is_found_at_every_point() {
        let (before, now) = (waves(160, 120, 0.0, 0.0), waves(160, 120, 6.25, -3.5));
        let points: Vec<[f32; 2]> = (0..48)
            .map(|at| [30.0 + (at % 8) as f32 * 13.3, 30.0 + (at / 8) as f32 * 11.1])
            .collect();
        for (found, [x, y]) in flow(&before, &now, &points).into_iter().zip(points) {
            let [found_x, found_y] = found.unwrap();
            assert!((found_x - x + 6.25).abs() < 0.1, "{found_x} from {x}");
            assert!((found_y - y - 3.5).abs() < 0.1, "{found_y} from {y}");
        }
    }

    #[test]
    fn points_of_a_flat_picture_and_points_outside_get_lost() {
        let flat = Pyramid::new(GreyImage::new(64, 48, vec![7; 64 * 48]));
        assert_eq!(flow(&flat, &flat, &[[20.0, 20.0], [0.0, 0.0]]), [None, None]);
        let waves = waves(64, 48, 0.0, 0.0);
        let far = [[-80.0, 5.0], [5.0, 1e9], [f32::NAN, 5.0], [f32::INFINITY, 0.0]];
        assert_eq!(flow(&waves, &waves, &far), [None; 4]);
        assert_eq!(flow(&waves, &waves, &[]), []);
    }

    #[test]
    fn pictures_smaller_than_the_window_work() {
        for (width, height) in [(1, 1), (2, 9), (12, 10), (21, 21), (43, 5)] {
            let picture = waves(width, height, 0.0, 0.0);
            assert_eq!(picture.levels.len(), 1);
            let point = [width as f32 / 2.0, height as f32 / 2.0];
            for found in flow(&picture, &picture, &[point]).into_iter().flatten() {
                assert!((found[0] - point[0]).abs() + (found[1] - point[1]).abs() < 0.01);
            }
        }
        assert_eq!(waves(640, 360, 0.0, 0.0).levels.len(), 4);
        assert_eq!(waves(84, 44, 0.0, 0.0).levels.len(), 2);
    }
}
