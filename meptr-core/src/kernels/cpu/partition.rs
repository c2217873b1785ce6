//! Partition of a GEMM's output over threads, and the epilogue on each block.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::dispatch::dispatch;
use super::gemm_args::{Epilogue, GemmWeights};
use super::row_ops;
use crate::kernels::Activation;

/// Largest block, in outputs, that leaves no thread idle for long: up to `max_panels` times `panel`.
pub(super) fn outputs_per_block(panel: usize, max_panels: usize, weights: &[GemmWeights]) -> usize {
    let threads = rayon::current_num_threads();
    let panels: usize = weights.iter().map(|part| part.bias.len().div_ceil(panel)).sum();
    let is_even = |size: &usize| {
        let blocks = panels.div_ceil(*size);
        blocks >= 8 * threads || (blocks.is_multiple_of(threads) && panels.is_multiple_of(*size))
    };
    panel * (1..=max_panels).rev().find(is_even).unwrap_or(1)
}

/// Cuts the outputs of all weights into blocks of `outputs`, each with its columns of all rows of
/// `out`. The first output of the first weights is at `offset`.
pub(super) fn output_blocks<'a, 'o>(
    out: &'o mut [f32],
    offset: OutputOffset,
    weights: &[GemmWeights<'a>],
    outputs: usize,
) -> Vec<OutputBlock<'a, 'o>> {
    let mut blocks: Vec<OutputBlock> = Vec::new();
    let mut first_column = offset.first_column;
    for part in weights {
        for first in (0..part.bias.len()).step_by(outputs) {
            let outputs = outputs.min(part.bias.len() - first);
            let weights = GemmWeights {
                weight: &part.weight[first * part.depth..][..outputs * part.depth],
                bias: &part.bias[first..first + outputs],
                ..*part
            };
            let offset = OutputOffset { first_column, ..offset };
            let rows = Vec::with_capacity(out.len() / offset.row_width);
            blocks.push(OutputBlock { weights, offset, rows });
            first_column += outputs;
        }
    }
    for row in out.chunks_exact_mut(offset.row_width) {
        let mut row = &mut row[offset.first_column..];
        for block in &mut blocks {
            let (columns, rest) = row.split_at_mut(block.weights.bias.len());
            block.rows.push(columns);
            row = rest;
        }
    }
    blocks
}

/// Some outputs and their columns of some rows: the work of one task.
pub(super) struct OutputBlock<'a, 'o> {
    pub(super) weights: GemmWeights<'a>,
    pub(super) offset: OutputOffset,
    /// This block's columns of each row.
    pub(super) rows: Vec<&'o mut [f32]>,
}

/// Position of a block in the output.
#[derive(Clone, Copy)]
pub(super) struct OutputOffset {
    pub(super) first_row: usize,
    pub(super) first_column: usize,
    /// Values of a row of the whole output.
    pub(super) row_width: usize,
}

impl<'a, 'o> OutputBlock<'a, 'o> {
    /// Splits the block into blocks of at most `rows` rows, `rows` being at least 1.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn split(self, rows: usize) -> Vec<Self> {
        if self.rows.len() <= rows {
            return vec![self];
        }
        let Self { weights, offset, rows: all } = self;
        let mut blocks: Vec<OutputBlock<'a, 'o>> = Vec::new();
        for (number, row) in all.into_iter().enumerate() {
            if number % rows == 0 {
                let offset = OutputOffset { first_row: offset.first_row + number, ..offset };
                blocks.push(OutputBlock { weights, offset, rows: Vec::with_capacity(rows) });
            }
            blocks.last_mut().expect("the first row makes one").rows.push(row);
        }
        blocks
    }

    /// Applies scale, bias and epilogue to some rows and outputs of the block that hold finished
    /// sums.
    pub(super) fn finish(
        &mut self,
        arch: Arch,
        epilogue: Epilogue,
        rows: Range<usize>,
        outputs: Range<usize>,
    ) {
        match arch {
            Arch::Scalar => {
                dispatch(arch, FinishRows::<false> { block: self, epilogue, rows, outputs });
            }
            _ => dispatch(arch, FinishRows::<true> { block: self, epilogue, rows, outputs }),
        }
    }
}

struct FinishRows<'t, 'a, 'o, 'e, const FUSED: bool> {
    block: &'t mut OutputBlock<'a, 'o>,
    epilogue: Epilogue<'e>,
    rows: Range<usize>,
    outputs: Range<usize>,
}

impl<const FUSED: bool> WithSimd for FinishRows<'_, '_, '_, '_, FUSED> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { block: OutputBlock { weights, offset, rows: all }, epilogue, rows, outputs } =
            self;
        let first_row = offset.first_row + rows.start;
        for (number, row) in all[rows].iter_mut().enumerate() {
            let row = &mut row[outputs.clone()];
            let bias = &weights.bias[outputs.clone()];
            let index =
                (first_row + number) * offset.row_width + offset.first_column + outputs.start;
            finish_row::<FUSED>(row, bias, weights.scale, epilogue, index);
        }
    }
}

/// Applies scale, bias and epilogue to columns of one row that start at value `index` of the output.
#[inline(always)]
fn finish_row<const FUSED: bool>(
    row: &mut [f32],
    bias: &[f32],
    scale: f32,
    epilogue: Epilogue,
    index: usize,
) {
    let biased = row.iter_mut().zip(bias);
    match epilogue {
        Epilogue::Identity => biased.for_each(|(x, bias)| *x = *x * scale + bias),
        Epilogue::Activation(Activation::Gelu) => {
            biased.for_each(|(x, bias)| *x = row_ops::gelu::<FUSED>(*x * scale + bias));
        }
        Epilogue::Activation(Activation::QuickGelu) => {
            biased.for_each(|(x, bias)| *x = row_ops::quick_gelu::<FUSED>(*x * scale + bias));
        }
        Epilogue::Residual(residual) => {
            let residual = &residual[index..index + bias.len()];
            for ((x, bias), residual) in biased.zip(residual) {
                *x += bias + residual; // weights with a residual have the scale 1
            }
        }
    }
}
