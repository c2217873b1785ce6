//! Similarity transform (translation, rotation, scale) between two sets of points.

use super::super::Warp;

/// Largest error of an inlier, in pixels.
const MAX_ERROR: f32 = 3.0;
const MAX_DRAWS: usize = 2000;
/// Required probability that one sample held no outlier.
const CONFIDENCE: f64 = 0.99;

/// Similarity transform from `from` to `to` that most pairs of points agree on, fitted to those by
/// least squares; `None` with fewer than two different points.
///
/// RANSAC (Fischler and Bolles 1981) over pairs of points, then least squares: OpenCV's
/// `estimateAffinePartial2D` with its defaults, which draws the same points every time.
pub fn similarity(from: &[[f32; 2]], to: &[[f32; 2]]) -> Option<Warp> {
    let count = from.len().min(to.len());
    if count < 2 {
        return None;
    }
    let mut draws = Draws { state: u64::MAX };
    let mut best: Option<(usize, Warp)> = None;
    let (mut draw, mut needed) = (0, MAX_DRAWS);
    while draw < needed {
        draw += 1;
        let [one, two] = if count == 2 { [0, 1] } else { draws.pair(count) };
        let warp = through([from[one], from[two]], [to[one], to[two]]);
        let agreeing = agreeing(&warp, from, to).count();
        if agreeing > best.map_or(1, |(most, _)| most) {
            best = Some((agreeing, warp));
            needed = needed_draws((count - agreeing) as f64 / count as f64, needed);
        }
    }
    let (_, warp) = best?;
    let pairs: Vec<[[f64; 2]; 2]> = agreeing(&warp, from, to)
        .map(|at| [from[at], to[at]].map(|point| point.map(f64::from)))
        .collect();
    Some(nearest(&pairs).unwrap_or(warp))
}

/// Infinite, fixed sequence of samples: a multiply-with-carry generator as OpenCV seeds it.
///
/// Not the program's own generator, because the result depends on the samples: with others, warps
/// differ from the reference's by up to 0.5 pixel, and across cuts by hundreds.
struct Draws {
    state: u64,
}

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        let low = self.state & u64::from(u32::MAX);
        self.state = low.wrapping_mul(4_164_903_690).wrapping_add(self.state >> 32);
        (self.state as u32 as usize) % bound
    }

    /// Two different indices below `bound`, which is above 1.
    fn pair(&mut self, bound: usize) -> [usize; 2] {
        let first = self.below(bound);
        loop {
            let second = self.below(bound);
            if second != first {
                return [first, second];
            }
        }
    }
}

/// Number of samples needed at this share of outliers.
fn needed_draws(disagreeing: f64, most: usize) -> usize {
    let all_agree = (1.0 - disagreeing).powi(2);
    if 1.0 - all_agree < f64::MIN_POSITIVE {
        return 0;
    }
    let (wanted, each) = ((1.0 - CONFIDENCE).ln(), (1.0 - all_agree).ln());
    if each >= 0.0 || -wanted >= most as f64 * -each {
        return most;
    }
    (wanted / each).round_ties_even() as usize
}

/// Similarity transform that maps two points to two others; not finite when the points are equal.
fn through(from: [[f32; 2]; 2], to: [[f32; 2]; 2]) -> Warp {
    let [[x1, y1], [x2, y2]] = from.map(|point| point.map(f64::from));
    let [[u1, v1], [u2, v2]] = to.map(|point| point.map(f64::from));
    let (x, y, u, v) = (x1 - x2, y1 - y2, u1 - u2, v1 - v2);
    let scale = 1.0 / (x * x + y * y);
    let (a, b) = (scale * (u * x + v * y), scale * (v * x - u * y));
    warp(a, b, u1 - (a * x1 - b * y1), v1 - (b * x1 + a * y1))
}

fn warp(a: f64, b: f64, x: f64, y: f64) -> Warp {
    Warp([[a, -b, x], [b, a, y]])
}

/// Inliers of a warp; none when it is not finite.
fn agreeing(warp: &Warp, from: &[[f32; 2]], to: &[[f32; 2]]) -> impl Iterator<Item = usize> {
    let rows = warp.0.map(|row| row.map(|value| value as f32));
    let error = move |row: [f32; 3], from: [f32; 2], to: f32| {
        row[0] * from[0] + row[1] * from[1] + row[2] - to
    };
    from.iter().zip(to).enumerate().filter_map(move |(at, (from, to))| {
        let [x, y] = [0, 1].map(|axis| error(rows[axis], *from, to[axis]));
        (x * x + y * y <= MAX_ERROR * MAX_ERROR).then_some(at)
    })
}

/// Warp with the least sum of squared errors; `None` when all points are equal.
fn nearest(pairs: &[[[f64; 2]; 2]]) -> Option<Warp> {
    let count = pairs.len() as f64;
    let mean =
        |which: usize, axis: usize| pairs.iter().map(|pair| pair[which][axis]).sum::<f64>() / count;
    let [x0, y0, u0, v0] = [mean(0, 0), mean(0, 1), mean(1, 0), mean(1, 1)];
    let [mut along, mut across, mut spread] = [0.0; 3];
    for [[x, y], [u, v]] in pairs {
        let (x, y, u, v) = (x - x0, y - y0, u - u0, v - v0);
        along += x * u + y * v;
        across += x * v - y * u;
        spread += x * x + y * y;
    }
    let (a, b) = (along / spread, across / spread);
    (spread > 0.0).then(|| warp(a, b, u0 - (a * x0 - b * y0), v0 - (b * x0 + a * y0)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grid() -> Vec<[f32; 2]> {
        (0..60).map(|at| [(at % 10 * 17) as f32, (at / 10 * 23) as f32]).collect()
    }

    fn moved(points: &[[f32; 2]], warp: &Warp) -> Vec<[f32; 2]> {
        let row = |row: [f64; 3], [x, y]: [f32; 2]| {
            (row[0] * f64::from(x) + row[1] * f64::from(y) + row[2]) as f32
        };
        points.iter().map(|point| [row(warp.0[0], *point), row(warp.0[1], *point)]).collect()
    }

    #[test]
    fn points_that_move_on_their_own_are_outvoted() {
        let (from, camera) = (grid(), warp(0.98, 0.05, 4.0, -7.5));
        let mut to = moved(&from, &camera);
        for (at, point) in to.iter_mut().enumerate().filter(|(at, _)| at % 3 == 0) {
            *point = [point[0] + 30.0, point[1] - at as f32];
        }
        let found = similarity(&from, &to).unwrap();
        for (found, expected) in found.0.iter().flatten().zip(camera.0.iter().flatten()) {
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
        }
    }

    #[test]
    fn too_few_or_equal_points_have_no_warp() {
        assert_eq!(similarity(&[], &[]), None);
        assert_eq!(similarity(&[[1.0, 2.0]], &[[1.0, 2.0]]), None);
        assert_eq!(similarity(&[[1.0, 2.0]; 9], &[[3.0, 2.0]; 9]), None);
        let ends = [[0.0, 0.0], [0.0, 2.0]];
        assert_eq!(similarity(&ends, &[[1.0, 1.0], [1.0, 3.0]]), Some(warp(1.0, 0.0, 1.0, 1.0)));
    }

    proptest! {
        #[test]
        fn a_warp_is_finite_whatever_the_points(
            points in prop::collection::vec(prop::array::uniform4(-1e4f32..1e4), 0..40),
        ) {
            let from: Vec<[f32; 2]> = points.iter().map(|p| [p[0], p[1]]).collect();
            let to: Vec<[f32; 2]> = points.iter().map(|p| [p[2], p[3]]).collect();
            if let Some(found) = similarity(&from, &to) {
                prop_assert!(found.0.iter().flatten().all(|value| value.is_finite()));
            }
        }
    }
}
