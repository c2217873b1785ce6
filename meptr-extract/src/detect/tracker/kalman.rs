//! Kalman filter of a box, over centre, size and their velocities.

use super::super::BoundingBox;

/// Affine motion of the camera from the last frame to this one: a point (x, y) there is at
/// `(w00 x + w01 y + w02, w10 x + w11 y + w12)` here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warp(pub [[f64; 3]; 2]);

/// Standard deviation of position and size, relative to the size.
const POSITION_WEIGHT: f64 = 1.0 / 20.0;
/// Standard deviation of the velocities per frame, relative to the size.
const VELOCITY_WEIGHT: f64 = 1.0 / 160.0;

/// Dimensions of a measurement: centre x and y, width, height.
const MEASURED: usize = 4;
/// Dimensions of the state: those of a measurement, and their velocities in the same order.
const STATE: usize = 8;

type Matrix = [[f64; STATE]; STATE];

/// State of a box, under the model of constant velocity.
///
/// State `(x, y, w, h, vx, vy, vw, vh)`, in pixels and pixels per frame, and its covariance.
#[derive(Debug, Clone)]
pub(super) struct KalmanBox {
    mean: [f64; STATE],
    covariance: Matrix,
}

impl KalmanBox {
    /// State after the first measurement, at rest.
    pub(super) fn init(bounds: &BoundingBox) -> Self {
        let measured = measurement(bounds);
        let mut mean = [0.0; STATE];
        mean[..MEASURED].copy_from_slice(&measured);
        let spread = deviations(&mean, 2.0 * POSITION_WEIGHT, 10.0 * VELOCITY_WEIGHT);
        let mut covariance = [[0.0; STATE]; STATE];
        for (index, deviation) in spread.iter().enumerate() {
            covariance[index][index] = deviation * deviation;
        }
        Self { mean, covariance }
    }

    /// Estimated box.
    pub(super) fn bounds(&self) -> BoundingBox {
        let [x, y, width, height, ..] = self.mean;
        let (left, upper) = (x - width / 2.0, y - height / 2.0);
        let edges = [left, upper, left + width, upper + height].map(|edge| edge as f32);
        BoundingBox::new(edges[0], edges[1], edges[2], edges[3])
    }

    /// Sets the velocities of the size to 0, for a box that is not detected any more.
    pub(super) fn zero_size_velocity(&mut self) {
        self.mean[6] = 0.0;
        self.mean[7] = 0.0;
    }

    /// Predicts the next frame: `m' = F m`, `P' = F P F^T + Q`, where `F` adds the velocities.
    pub(super) fn predict(&mut self) {
        let noise = deviations(&self.mean, POSITION_WEIGHT, VELOCITY_WEIGHT);
        let mut motion = identity();
        for index in 0..MEASURED {
            motion[index][index + MEASURED] = 1.0;
        }
        self.transform(&motion);
        for (index, deviation) in noise.iter().enumerate() {
            self.covariance[index][index] += deviation * deviation;
        }
    }

    /// Applies the motion of the camera.
    pub(super) fn warp(&mut self, warp: &Warp) {
        let mut motion = [[0.0; STATE]; STATE];
        for pair in (0..STATE).step_by(2) {
            for row in 0..2 {
                motion[pair + row][pair..pair + 2].copy_from_slice(&warp.0[row][..2]);
            }
        }
        self.transform(&motion);
        self.mean[0] += warp.0[0][2];
        self.mean[1] += warp.0[1][2];
    }

    /// Updates the state with a measurement: `S = H P H^T + R`, `K = P H^T S^-1`, `m' = m + K (z - H m)`,
    /// `P' = P - K S K^T`, where `H` selects the first four dimensions.
    pub(super) fn update(&mut self, bounds: &BoundingBox) {
        let noise = deviations(&self.mean, POSITION_WEIGHT, VELOCITY_WEIGHT);
        let mut spread = [[0.0; MEASURED]; MEASURED];
        for (index, row) in spread.iter_mut().enumerate() {
            row.copy_from_slice(&self.covariance[index][..MEASURED]);
            row[index] += noise[index] * noise[index];
        }
        let inverse = inverse(spread);
        let gain = self.covariance.map(|row| {
            std::array::from_fn::<f64, MEASURED, _>(|column| {
                (0..MEASURED).map(|k| row[k] * inverse[k][column]).sum()
            })
        });
        let measured = measurement(bounds);
        let innovation: [f64; MEASURED] = std::array::from_fn(|k| measured[k] - self.mean[k]);
        // K S K^T = K H P, as S is what K divides by.
        let seen: [[f64; STATE]; MEASURED] = std::array::from_fn(|k| self.covariance[k]);
        for (row, gain) in gain.iter().enumerate() {
            self.mean[row] += dot(gain, &innovation);
            for (gain, seen) in gain.iter().zip(&seen) {
                for (value, seen) in self.covariance[row].iter_mut().zip(seen) {
                    *value -= gain * seen;
                }
            }
        }
    }

    /// `m' = A m`, `P' = A P A^T`.
    fn transform(&mut self, by: &Matrix) {
        self.mean = std::array::from_fn(|row| dot(&by[row], &self.mean));
        let half: Matrix = std::array::from_fn(|row| {
            std::array::from_fn(|column| {
                (0..STATE).map(|k| by[row][k] * self.covariance[k][column]).sum()
            })
        });
        self.covariance = half.map(|row| std::array::from_fn(|column| dot(&row, &by[column])));
    }
}

fn measurement(bounds: &BoundingBox) -> [f64; MEASURED] {
    let [x, y] = bounds.center();
    [x, y, bounds.x2 - bounds.x1, bounds.y2 - bounds.y1].map(f64::from)
}

/// Standard deviations for a box of the size in `mean`.
fn deviations(mean: &[f64; STATE], position: f64, velocity: f64) -> [f64; STATE] {
    let (width, height) = (mean[2], mean[3]);
    let size = [width, height, width, height];
    std::array::from_fn(|index| match index {
        0..MEASURED => position * size[index],
        _ => velocity * size[index - MEASURED],
    })
}

fn identity() -> Matrix {
    std::array::from_fn(|row| std::array::from_fn(|column| f64::from(row == column)))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Inverse of a symmetric positive matrix, by elimination.
fn inverse<const N: usize>(mut matrix: [[f64; N]; N]) -> [[f64; N]; N] {
    let mut inverse: [[f64; N]; N] =
        std::array::from_fn(|row| std::array::from_fn(|column| f64::from(row == column)));
    for pivot in 0..N {
        // A box without size has no variance; the measurement then has no effect.
        let scale = if matrix[pivot][pivot] > 0.0 { 1.0 / matrix[pivot][pivot] } else { 0.0 };
        for column in 0..N {
            matrix[pivot][column] *= scale;
            inverse[pivot][column] *= scale;
        }
        for row in (0..N).filter(|row| *row != pivot) {
            let factor = matrix[row][pivot];
            for column in 0..N {
                matrix[row][column] -= factor * matrix[pivot][column];
                inverse[row][column] -= factor * inverse[pivot][column];
            }
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inverse_gives_the_identity() {
        let matrix = [[4.0, 1.0, 0.5], [1.0, 3.0, 0.0], [0.5, 0.0, 2.0]];
        let inverse = inverse(matrix);
        let product = |row: usize, column: usize| -> f64 {
            (0..3).map(|k| matrix[row][k] * inverse[k][column]).sum()
        };
        for (row, column) in (0..9).map(|cell| (cell / 3, cell % 3)) {
            assert!((product(row, column) - f64::from(row == column)).abs() < 1e-12);
        }
    }

    #[test]
    fn a_steady_motion_is_learnt() {
        let at = |step: f32| BoundingBox::new(10.0 + 5.0 * step, 20.0, 30.0 + 5.0 * step, 60.0);
        let mut moving = KalmanBox::init(&at(0.0));
        for step in 1..20 {
            moving.predict();
            moving.update(&at(step as f32));
        }
        moving.predict();
        assert!(moving.bounds().iou(&at(20.0)) > 0.98);
    }

    #[test]
    fn the_camera_moves_every_box() {
        let mut moving = KalmanBox::init(&BoundingBox::new(0.0, 0.0, 10.0, 20.0));
        moving.warp(&Warp([[2.0, 0.0, 5.0], [0.0, 2.0, -5.0]]));
        assert_eq!(moving.bounds(), BoundingBox::new(5.0, -5.0, 25.0, 35.0));
    }

    #[test]
    fn a_box_without_size_stays_finite() {
        let point = BoundingBox::new(3.0, 3.0, 3.0, 3.0);
        let mut moving = KalmanBox::init(&point);
        moving.predict();
        moving.update(&point);
        assert_eq!(moving.bounds(), point);
    }
}
