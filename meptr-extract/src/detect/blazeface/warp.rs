//! Sampling positions of OpenCV's `warpPerspective`, equal bit for bit.
//!
//! OpenCV computes them with a linear system, an inverse and a division. Where the exact position
//! is half-way between two steps, the rounding errors of these decide.

/// Columns of the blocks in which OpenCV computes positions; their rows are 16.
const BLOCK: usize = 64;

/// Perspective transform from pixels of the square to pixels of the image.
pub(super) struct PerspectiveWarp {
    inverse: [[f64; 3]; 3],
}

impl PerspectiveWarp {
    /// Warp of the square of `side` pixels at (`left`, `top`) of an image into one of `size`
    /// pixels, as `getPerspectiveTransform` and `invert` compute it.
    pub(super) fn of_square([left, top]: [f32; 2], side: f32, size: usize) -> Self {
        let size = size as f64;
        let (right, bottom) = (left + side, top + side);
        let from = [[left, top], [right, top], [left, bottom], [right, bottom]];
        let to = [[0.0, 0.0], [size, 0.0], [0.0, size], [size, size]];
        let (mut rows, mut sums) = ([[0.0; 8]; 8], [0.0; 8]);
        for (at, (from, to)) in from.into_iter().zip(to).enumerate() {
            let [x, y] = from.map(f64::from);
            rows[at] = [x, y, 1.0, 0.0, 0.0, 0.0, -x * to[0], -y * to[0]];
            rows[at + 4] = [0.0, 0.0, 0.0, x, y, 1.0, -x * to[1], -y * to[1]];
            (sums[at], sums[at + 4]) = (to[0], to[1]);
        }
        let [a, b, c, d, e, f, g, h] = solve(rows, sums);
        Self { inverse: invert([[a, b, c], [d, e, f], [g, h, 1.0]]) }
    }

    /// Sampling position in the image for pixel (`x`, `y`) of the square, in `1 / steps` pixel.
    pub(super) fn position(&self, x: usize, y: usize, steps: i64) -> [i64; 2] {
        let [across, down, scale] = self.inverse.map(|[by_x, by_y, at]| {
            let block = (x - x % BLOCK) as f64;
            by_x * block + by_y * y as f64 + at
        });
        let within = (x % BLOCK) as f64;
        let scale = scale + self.inverse[2][0] * within;
        let scale = if scale == 0.0 { 0.0 } else { steps as f64 / scale };
        [across + self.inverse[0][0] * within, down + self.inverse[1][0] * within]
            .map(|position| (position * scale).round_ties_even() as i64)
    }
}

/// Solves a linear system, with eliminations in OpenCV's order.
fn solve(mut rows: [[f64; 8]; 8], mut sums: [f64; 8]) -> [f64; 8] {
    for column in 0..8 {
        let mut pivot = column;
        for row in column + 1..8 {
            if rows[row][column].abs() > rows[pivot][column].abs() {
                pivot = row;
            }
        }
        rows.swap(column, pivot);
        sums.swap(column, pivot);
        let (above, sum) = (rows[column], sums[column]);
        let factor = -1.0 / above[column];
        for (row, below) in rows.iter_mut().enumerate().skip(column + 1) {
            let share = below[column] * factor;
            for (number, above) in below.iter_mut().zip(above).skip(column + 1) {
                *number += share * above;
            }
            sums[row] += share * sum;
        }
    }
    for row in (0..8).rev() {
        let known = rows[row].iter().zip(sums).skip(row + 1);
        let rest = known.fold(sums[row], |rest, (number, sum)| rest - number * sum);
        sums[row] = rest / rows[row][row];
    }
    sums
}

/// Inverts a matrix by cofactors, in OpenCV's order of operations.
fn invert(m: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    let minor = |rows: [usize; 2], columns: [usize; 2]| {
        m[rows[0]][columns[0]] * m[rows[1]][columns[1]]
            - m[rows[0]][columns[1]] * m[rows[1]][columns[0]]
    };
    let determinant = m[0][0] * minor([1, 2], [1, 2]) - m[0][1] * minor([1, 2], [0, 2])
        + m[0][2] * minor([1, 2], [0, 1]);
    let scale = 1.0 / determinant;
    // Each with its sign in the order of its factors.
    let signed = |a: [usize; 2], b: [usize; 2], c: [usize; 2], d: [usize; 2]| {
        (m[a[0]][a[1]] * m[b[0]][b[1]] - m[c[0]][c[1]] * m[d[0]][d[1]]) * scale
    };
    [
        [
            signed([1, 1], [2, 2], [1, 2], [2, 1]),
            signed([0, 2], [2, 1], [0, 1], [2, 2]),
            signed([0, 1], [1, 2], [0, 2], [1, 1]),
        ],
        [
            signed([1, 2], [2, 0], [1, 0], [2, 2]),
            signed([0, 0], [2, 2], [0, 2], [2, 0]),
            signed([0, 2], [1, 0], [0, 0], [1, 2]),
        ],
        [
            signed([1, 0], [2, 1], [1, 1], [2, 0]),
            signed([0, 1], [2, 0], [0, 0], [2, 1]),
            signed([0, 0], [1, 1], [0, 1], [1, 0]),
        ],
    ]
}
