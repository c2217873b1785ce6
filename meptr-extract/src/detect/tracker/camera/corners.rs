//! Corners: points at which the image changes in every direction.

use pulp::{Arch, Simd, WithSimd};

use super::grey::{GreyImage, reflect};

/// Corners per image, at most.
const MAX_CORNERS: usize = 1000;
/// Least strength of a corner, relative to the strongest.
const QUALITY: f64 = 0.01;
/// Scale of the gradients: a Sobel filter of 3x3, summed over 3x3, on bytes.
const GRADIENT_SCALE: f64 = 1.0 / (4.0 * 3.0 * 255.0);

/// Strongest corners (x, y), best first: Shi and Tomasi 1994, "Good Features to Track".
///
/// The strength of a pixel is the smaller eigenvalue of the sum over 3x3 pixels of `g g^T`, `g` the
/// gradient. A corner is the strongest of its 3x3 pixels, off the edge. OpenCV's
/// `goodFeaturesToTrack` with at most 1000 corners, quality 0.01 and distance 1.
pub fn corners(image: &GreyImage) -> Vec<[f32; 2]> {
    let (width, height) = (image.width(), image.height());
    let strengths = Arch::new().dispatch(Strengths(image));
    let best = strengths.iter().copied().fold(0.0, f32::max);
    let least = (f64::from(best) * QUALITY) as f32;
    let mut found: Vec<(f32, usize)> = Vec::new();
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            let place = y * width + x;
            let strength = strengths[place];
            let around = [place - width, place, place + width];
            if strength > least
                && around.iter().all(|at| strengths[at - 1..=at + 1].iter().all(|s| *s <= strength))
            {
                found.push((strength, place));
            }
        }
    }
    found.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    found.truncate(MAX_CORNERS);
    found.iter().map(|(_, place)| [(place % width) as f32, (place / width) as f32]).collect()
}

/// [`strengths`] with the CPU's widest vectors.
struct Strengths<'a>(&'a GreyImage);

impl WithSimd for Strengths<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        strengths(self.0)
    }
}

/// Strength of each pixel.
#[inline(always)]
fn strengths(image: &GreyImage) -> Vec<f32> {
    let (width, height) = (image.width(), image.height());
    // Sums over three pixels of a row of the products xx, xy and yy, of three rows in turn.
    let mut sums: [[Vec<f64>; 3]; 3] =
        std::array::from_fn(|_| std::array::from_fn(|_| vec![0.0; width]));
    let mut gradients = [vec![0.0; width + 2], vec![0.0; width + 2]];
    let mut fill = |sums: &mut [Vec<f64>; 3], y: usize| {
        row_gradients(image, y, &mut gradients);
        sum_products(&gradients, sums);
    };
    let mut strengths = Vec::with_capacity(width * height);
    fill(&mut sums[0], reflect(-1, height));
    fill(&mut sums[1], 0);
    for y in 0..height {
        fill(&mut sums[(y + 2) % 3], reflect(y as isize + 1, height));
        let total = |k: usize, x: usize| (sums[0][k][x] + sums[1][k][x] + sums[2][k][x]) as f32;
        strengths.extend((0..width).map(|x| {
            let (xx, xy, yy) = (total(0, x) * 0.5, total(1, x), total(2, x) * 0.5);
            (xx + yy) - ((xx - yy) * (xx - yy) + xy * xy).sqrt()
        }));
    }
    strengths
}

/// Sobel's gradients along x and y of a row, with one reflected pixel on either side.
#[inline(always)]
fn row_gradients(image: &GreyImage, y: usize, gradients: &mut [Vec<f32>; 2]) {
    const ONCE: f32 = GRADIENT_SCALE as f32;
    const TWICE: f32 = (2.0 * GRADIENT_SCALE) as f32;
    let width = image.width();
    let row = |y: isize| image.row(reflect(y, image.height()));
    let (upper, middle, lower) = (row(y as isize - 1), row(y as isize), row(y as isize + 1));
    let [along_x, along_y] = gradients;
    let mut set = |x: usize, left: usize, right: usize| {
        let value = |row: &[u8], x: usize| f32::from(row[x]);
        let step = |row: &[u8]| value(row, right) - value(row, left);
        along_x[x + 1] = step(middle) * TWICE + (step(upper) + step(lower)) * ONCE;
        let smooth =
            |row: &[u8]| value(row, x) * TWICE + (value(row, left) + value(row, right)) * ONCE;
        along_y[x + 1] = smooth(lower) - smooth(upper);
    };
    for x in 1..width.saturating_sub(1) {
        set(x, x - 1, x + 1);
    }
    set(0, reflect(-1, width), reflect(1, width));
    set(width - 1, reflect(width as isize - 2, width), reflect(width as isize, width));
    for gradient in [along_x, along_y] {
        gradient[0] = gradient[reflect(-1, width) + 1];
        gradient[width + 1] = gradient[reflect(width as isize, width) + 1];
    }
}

#[inline(always)]
fn sum_products([along_x, along_y]: &[Vec<f32>; 2], sums: &mut [Vec<f64>; 3]) {
    for (sums, (a, b)) in
        sums.iter_mut().zip([(along_x, along_x), (along_x, along_y), (along_y, along_y)])
    {
        for ((sum, a), b) in sums.iter_mut().zip(a.windows(3)).zip(b.windows(3)) {
            let product = |k: usize| f64::from(a[k] * b[k]);
            *sum = product(0) + product(1) + product(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_picture_and_a_tiny_one_have_no_corners() {
        for (width, height) in [(40, 30), (1, 1), (2, 5), (5, 1), (3, 3)] {
            assert_eq!(
                corners(&GreyImage::new(width, height, vec![9; width * height])),
                [[0.0; 2]; 0]
            );
        }
    }

    #[test]
    fn the_corners_of_a_square_are_found_and_its_sides_are_not() {
        let inside = |x: usize, y: usize| (10..30).contains(&x) && (8..20).contains(&y);
        let pixels = (0..30 * 40).map(|at| if inside(at % 40, at / 40) { 200 } else { 50 });
        let found = corners(&GreyImage::new(40, 30, pixels.collect()));
        assert!(!found.is_empty() && found.len().is_multiple_of(4), "{found:?}");
        for [x, y] in found {
            let near = |value: f32, edges: [f32; 2]| edges.iter().any(|e| (value - e).abs() <= 1.5);
            assert!(near(x, [9.5, 29.5]) && near(y, [7.5, 19.5]), "({x}, {y})");
        }
    }
}
