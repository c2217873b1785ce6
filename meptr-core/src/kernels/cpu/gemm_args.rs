//! Arguments of a GEMM.

use crate::kernels::Activation;

/// Input rows of a GEMM, which may overlap: row `r` starts at value `r * stride`.
///
/// Overlapping rows are the windows of a convolution, multiplied without an im2col copy.
#[derive(Debug, Clone, Copy)]
pub struct GemmRows<'a> {
    /// Values of all rows.
    pub values: &'a [f32],
    /// Values from the start of a row to the start of the next.
    pub stride: usize,
    /// Number of rows.
    pub count: usize,
}

/// Weights of adjacent output columns: `scale (x W^T) + bias`.
#[derive(Debug, Clone, Copy)]
pub struct GemmWeights<'a> {
    /// First value of each row that is multiplied.
    pub offset: usize,
    /// `(outputs, depth)`, row-major.
    pub weight: &'a [f32],
    /// Values of each row that are multiplied (the inner dimension `k`).
    pub depth: usize,
    /// `(outputs,)`.
    pub bias: &'a [f32],
    /// Factor of the sum, before the bias is added.
    pub scale: f32,
}

/// Step after the bias, applied while the sums are in the cache.
#[derive(Debug, Clone, Copy)]
pub enum Epilogue<'a> {
    /// No further step.
    Identity,
    /// Applies an activation.
    Activation(Activation),
    /// Adds values of the output's shape, `(rows, outputs)` row-major.
    Residual(&'a [f32]),
}

/// Rows times weights, `(rows.count, outputs)`, with the outputs of all `weights` side by side.
#[derive(Debug, Clone, Copy)]
pub struct GemmArgs<'a> {
    /// Left factor.
    pub rows: GemmRows<'a>,
    /// Right factors. Those with equal `offset` and `depth` read the same values of each row.
    pub weights: &'a [GemmWeights<'a>],
    /// Step after the bias.
    pub epilogue: Epilogue<'a>,
}

impl GemmArgs<'_> {
    /// Outputs of all weights: values of an output row.
    pub fn outputs(&self) -> usize {
        self.weights.iter().map(|weights| weights.bias.len()).sum()
    }
}
