//! Sampling of pictures as tables, for GPUs.

/// The two pixels along an axis that a sampling position lies between, and their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) places: [usize; 2],
    pub(crate) weights: [u32; 2],
}

/// How the four pixels around a position become one; as in `gpu/pictures.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blending {
    /// Weights in 1/32, as OpenCV warps pictures.
    SharesOf32,
    /// Weights in 1/2048, as OpenCV resizes pictures.
    SharesOf2048,
    /// All the same.
    Mean,
}

/// How pictures of one size are sampled.
#[derive(Debug)]
pub(crate) struct Sampling {
    /// Of each column of the result; `None` where nothing of the picture is.
    pub(crate) columns: Vec<Option<Pair>>,
    pub(crate) rows: Vec<Option<Pair>>,
    pub(crate) blending: Blending,
    /// Every channel of what has nothing of the picture.
    pub(crate) fill: u8,
}

#[cfg(test)]
impl Sampling {
    /// What the kernel computes, here.
    pub(crate) fn apply(&self, image: &crate::RgbImage) -> Vec<u8> {
        let mut sampled = Vec::with_capacity(self.rows.len() * self.columns.len() * 3);
        for row in &self.rows {
            for column in &self.columns {
                let (Some(row), Some(column)) = (row, column) else {
                    sampled.extend([self.fill; 3]);
                    continue;
                };
                sampled.extend([0, 1, 2].map(|channel| {
                    let corners = row
                        .places
                        .map(|y| column.places.map(|x| u32::from(image.row(y)[x * 3 + channel])));
                    self.blending.of(corners, column.weights, row.weights)
                }));
            }
        }
        sampled
    }
}

#[cfg(test)]
impl Blending {
    fn of(self, corners: [[u32; 2]; 2], across: [u32; 2], down: [u32; 2]) -> u8 {
        let rows = corners.map(|[left, right]| left * across[0] + right * across[1]);
        let byte = match self {
            Self::SharesOf32 => (rows[0] * down[0] + rows[1] * down[1] + 512) / 1024,
            Self::SharesOf2048 => {
                let share = |row: usize| (down[row] * (rows[row] >> 4)) >> 16;
                (share(0) + share(1) + 2) >> 2
            }
            Self::Mean => (corners.as_flattened().iter().sum::<u32>() + 2) >> 2,
        };
        byte as u8
    }
}
