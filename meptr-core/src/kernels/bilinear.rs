//! Bilinear sampling of 8-bit images as tables, for GPUs; equal to OpenCV bit for bit.

/// Two pixels along an axis that a sampling position lies between, and their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BilinearTap {
    /// Columns or rows of the source.
    pub indices: [usize; 2],
    /// Weights of the two, in the unit of the table's [`Blending`].
    pub weights: [u32; 2],
}

/// Fixed-point arithmetic by which four pixels become one; as in `cuda/resize.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blending {
    /// Weights in 1/32, as in OpenCV's `warpAffine`.
    Weights32,
    /// Weights in 1/2048, as in OpenCV's `resize`.
    Weights2048,
    /// Mean of the four.
    Mean,
}

/// Sampling positions for images of one size.
#[derive(Debug)]
pub struct SamplingTable {
    /// Tap of each column of the result; `None` outside the source.
    pub columns: Vec<Option<BilinearTap>>,
    /// Tap of each row of the result; `None` outside the source.
    pub rows: Vec<Option<BilinearTap>>,
    /// Arithmetic.
    pub blending: Blending,
    /// Value of every channel outside the source.
    pub fill: u8,
}

impl SamplingTable {
    /// Samples an image as the GPU kernel does; the reference of its tests.
    ///
    /// - `pixels`: rows of `width` pixels of 3 bytes
    /// - returns `(rows, columns, 3)`
    ///
    /// # Panics
    /// When a tap lies outside `pixels`.
    pub fn apply(&self, pixels: &[u8], width: usize) -> Vec<u8> {
        let mut sampled = Vec::with_capacity(self.rows.len() * self.columns.len() * 3);
        for row in &self.rows {
            for column in &self.columns {
                let (Some(row), Some(column)) = (row, column) else {
                    sampled.extend([self.fill; 3]);
                    continue;
                };
                sampled.extend([0, 1, 2].map(|channel| {
                    let corners = row.indices.map(|y| {
                        column.indices.map(|x| u32::from(pixels[(y * width + x) * 3 + channel]))
                    });
                    self.blending.blend(corners, column.weights, row.weights)
                }));
            }
        }
        sampled
    }
}

impl Blending {
    fn blend(self, corners: [[u32; 2]; 2], across: [u32; 2], down: [u32; 2]) -> u8 {
        let rows = corners.map(|[left, right]| left * across[0] + right * across[1]);
        let byte = match self {
            Self::Weights32 => (rows[0] * down[0] + rows[1] * down[1] + 512) / 1024,
            Self::Weights2048 => {
                let [upper, lower] = [0, 1].map(|row| (down[row] * (rows[row] >> 4)) >> 16);
                (upper + lower + 2) >> 2
            }
            Self::Mean => (corners.as_flattened().iter().sum::<u32>() + 2) >> 2,
        };
        byte as u8
    }
}
