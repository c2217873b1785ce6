//! Micro-kernel: a block of pixels times a panel of output channels, accumulated in registers.

use pulp::{Arch, Simd, WithSimd};

use super::super::dispatch::{dispatch, f32_lanes, load, store};
use super::super::row_ops;
use super::args::Conv2dActivation;
use super::input::{PixelResidual, Residual};

/// Vectors of output channels in a panel.
const PANEL_VECTORS: usize = 2;

/// Longest chain of multiply-adds into one accumulator; a sum of such sums rounds less than one long
/// sum.
const MAX_CHAIN: usize = 128;

/// Weights packed by panel of output channels, then by depth: `kernel * kernel * inputs`.
#[derive(Debug)]
pub(super) struct PackedWeights {
    values: Vec<f32>,
    bias: Vec<f32>, // padded to the channels of all panels
    outputs: usize,
    depth: usize,
    arch: Arch,
}

impl PackedWeights {
    /// Packs weights for this CPU.
    ///
    /// - `by_depth`: `(depth, outputs)`, row-major
    /// - `bias`: `(outputs,)`
    pub(super) fn new(by_depth: &[f32], bias: &[f32]) -> Self {
        Self::packed_for(by_depth, bias, Arch::new())
    }

    /// Like [`Self::new`], for the vectors of `arch`.
    pub(super) fn packed_for(by_depth: &[f32], bias: &[f32], arch: Arch) -> Self {
        let outputs = bias.len();
        let lanes = f32_lanes(arch);
        let depth = by_depth.len() / outputs.max(1);
        let padded = outputs.next_multiple_of(lanes);
        let mut values = Vec::with_capacity(depth * padded);
        for first in (0..padded).step_by(PANEL_VECTORS * lanes) {
            let width = (PANEL_VECTORS * lanes).min(padded - first);
            let real = width.min(outputs - first);
            for row in by_depth.chunks_exact(outputs) {
                values.extend_from_slice(&row[first..first + real]);
                values.resize(values.len() + width - real, 0.0);
            }
        }
        let mut bias = bias.to_vec();
        bias.resize(padded, 0.0);
        Self { values, bias, outputs, depth, arch }
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Fills the output rows.
    pub(super) fn multiply(&self, rows: ConvRows) {
        dispatch(self.arch, ConvJob { weights: self, rows });
    }
}

/// Input rows, and the output rows that they give.
pub(super) struct ConvRows<'a> {
    /// Input rows with their padding, `row_length` values each.
    pub(super) x: &'a [f32],
    pub(super) row_length: usize,
    /// Values from an output row's first input row to the next one's.
    pub(super) row_step: usize,
    /// Values from an output pixel's first input pixel to the next one's.
    pub(super) pixel_step: usize,
    /// ConvRows of the kernel.
    pub(super) kernel: usize,
    /// Values of a kernel row: columns times channels.
    pub(super) run: usize,
    /// Pixels of an output row.
    pub(super) columns: usize,
    pub(super) activation: Conv2dActivation,
    pub(super) residual: Residual<'a>,
    pub(super) output: &'a mut [f32],
}

struct ConvJob<'a> {
    weights: &'a PackedWeights,
    rows: ConvRows<'a>,
}

/// A panel and its first output channel.
#[derive(Clone, Copy)]
struct Panel<'a> {
    values: &'a [f32],
    bias: &'a [f32],
    first: usize,
    outputs: usize,
}

impl WithSimd for ConvJob<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weights, mut rows } = self;
        let padded = weights.bias.len();
        for first in (0..padded).step_by(PANEL_VECTORS * S::F32_LANES) {
            let width = (PANEL_VECTORS * S::F32_LANES).min(padded - first);
            let panel = Panel {
                values: &weights.values[first * weights.depth..][..width * weights.depth],
                bias: &weights.bias[first..first + width],
                first,
                outputs: weights.outputs,
            };
            let is_one_chain = rows.kernel == 1 && rows.run <= MAX_CHAIN;
            // With 32 registers, 24 accumulators leave room for weights and pixels.
            match (width == S::F32_LANES, S::REGISTER_COUNT >= 32, is_one_chain) {
                (true, _, true) => blocks::<S, 12, 1, true>(simd, &mut rows, panel),
                (true, _, false) => blocks::<S, 12, 1, false>(simd, &mut rows, panel),
                (false, true, true) => blocks::<S, 12, 2, true>(simd, &mut rows, panel),
                (false, true, false) => blocks::<S, 12, 2, false>(simd, &mut rows, panel),
                (false, false, true) => blocks::<S, 6, 2, true>(simd, &mut rows, panel),
                (false, false, false) => blocks::<S, 6, 2, false>(simd, &mut rows, panel),
            }
        }
        finish_rows(&mut rows, weights.outputs);
    }
}

/// Computes all output pixels, `P` at a time; `ONE`: a sum is one chain.
#[inline(always)]
fn blocks<S: Simd, const P: usize, const C: usize, const ONE: bool>(
    simd: S,
    rows: &mut ConvRows,
    panel: Panel,
) {
    let pixels = rows.output.len() / panel.outputs;
    let in_blocks = pixels / P * P;
    for pixel in (0..in_blocks).step_by(P) {
        block::<S, P, C, ONE>(simd, rows, pixel, panel);
    }
    if in_blocks < pixels && in_blocks > 0 && !matches!(rows.residual, Residual::Output) {
        // The last block overlaps the one before.
        return block::<S, P, C, ONE>(simd, rows, pixels - P, panel);
    }
    for pixel in in_blocks..pixels {
        block::<S, 1, C, ONE>(simd, rows, pixel, panel);
    }
}

#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant indices keep accumulators in registers")]
fn block<S: Simd, const P: usize, const C: usize, const ONE: bool>(
    simd: S,
    rows: &mut ConvRows,
    first: usize,
    panel: Panel,
) {
    let (weights, _) = S::as_simd_f32s(panel.values);
    let mut starts = [0; P];
    let (mut row, mut column) = (first / rows.columns, first % rows.columns);
    for start in &mut starts {
        *start = row * rows.row_step + column * rows.pixel_step;
        column += 1;
        if column == rows.columns {
            (row, column) = (row + 1, 0);
        }
    }
    let mut parts = [&rows.x[..0]; P];
    if ONE {
        for p in 0..P {
            parts[p] = &rows.x[starts[p]..][..rows.run];
        }
        let sums = chain::<S, P, C>(simd, &parts, &weights[..rows.run * C]);
        return store_block::<S, P, C>(simd, sums, rows, first, panel);
    }
    let mut sums = [[simd.splat_f32s(0.0); C]; P];
    for kernel_row in 0..rows.kernel {
        let run = rows.run;
        let weights = &weights[kernel_row * run * C..][..run * C];
        for start in (0..run).step_by(MAX_CHAIN) {
            let length = MAX_CHAIN.min(run - start);
            for p in 0..P {
                let start = starts[p] + kernel_row * rows.row_length + start;
                parts[p] = &rows.x[start..][..length];
            }
            let weights = &weights[start * C..][..length * C];
            let chain = chain::<S, P, C>(simd, &parts, weights);
            for p in 0..P {
                for c in 0..C {
                    sums[p][c] = simd.add_f32s(sums[p][c], chain[p][c]);
                }
            }
        }
    }
    store_block::<S, P, C>(simd, sums, rows, first, panel);
}

/// Chain of multiply-adds of pixels, all of one length, and weights.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant indices keep accumulators in registers")]
fn chain<S: Simd, const P: usize, const C: usize>(
    simd: S,
    parts: &[&[f32]; P],
    weights: &[S::f32s],
) -> [[S::f32s; C]; P] {
    let mut chain = [[simd.splat_f32s(0.0); C]; P];
    let length = weights.len() / C;
    let mut by_quad = weights.chunks_exact(4 * C);
    let mut quad = [&[0.0; 4]; P];
    let mut depth = 0;
    for weights in &mut by_quad {
        for p in 0..P {
            // The only bounds check for four multiply-adds.
            let Some((four, _)) = parts[p][depth..].split_first_chunk() else { return chain };
            quad[p] = four;
        }
        for step in 0..4 {
            for p in 0..P {
                let value = simd.splat_f32s(quad[p][step]);
                for c in 0..C {
                    chain[p][c] = simd.mul_add_e_f32s(value, weights[step * C + c], chain[p][c]);
                }
            }
        }
        depth += 4;
    }
    for (depth, weights) in (depth..length).zip(by_quad.remainder().chunks_exact(C)) {
        for p in 0..P {
            let value = simd.splat_f32s(parts[p][depth]);
            for c in 0..C {
                chain[p][c] = simd.mul_add_e_f32s(value, weights[c], chain[p][c]);
            }
        }
    }
    chain
}

/// Adds the bias, and residual and ReLU where they come before the store; stores the sums.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant indices keep accumulators in registers")]
fn store_block<S: Simd, const P: usize, const C: usize>(
    simd: S,
    sums: [[S::f32s; C]; P],
    rows: &mut ConvRows,
    first: usize,
    panel: Panel,
) {
    let (bias, _) = S::as_simd_f32s(panel.bias);
    // A separate array: the sums stay in registers only while all their indices are constants.
    let mut finished = [[simd.splat_f32s(0.0); C]; P];
    for p in 0..P {
        for c in 0..C {
            finished[p][c] = simd.add_f32s(sums[p][c], bias[c]);
        }
    }
    let has_relu = rows.activation == Conv2dActivation::Relu;
    let zero = simd.splat_f32s(0.0);
    let width = (C * S::F32_LANES).min(panel.outputs - panel.first);
    for (number, finished) in finished.iter().enumerate() {
        let start = (first + number) * panel.outputs + panel.first;
        let into = &mut rows.output[start..start + width];
        let residual = match rows.activation.is_after_residual() {
            true => rows.residual,
            false => Residual::None,
        };
        let residual = residual.at(first + number, panel.first, width);
        for (c, finished) in finished.iter().enumerate() {
            let channels = c * S::F32_LANES..width.min((c + 1) * S::F32_LANES);
            if channels.is_empty() {
                break;
            }
            let mut value = *finished;
            match residual {
                PixelResidual::None => {}
                PixelResidual::Values(values) => {
                    value = simd.add_f32s(value, load(simd, &values[channels.clone()]));
                }
                PixelResidual::Output => {
                    value = simd.add_f32s(value, load(simd, &into[channels.clone()]));
                }
            }
            if has_relu {
                value = simd.select_f32s(simd.less_than_f32s(value, zero), zero, value);
            }
            store(simd, &mut into[channels], value);
        }
    }
}

/// Applies activations that are computed row by row, and adds the residual after them.
#[inline(always)]
fn finish_rows(rows: &mut ConvRows, outputs: usize) {
    let output = &mut *rows.output;
    match rows.activation {
        Conv2dActivation::Silu => output.iter_mut().for_each(|x| *x = row_ops::silu(*x)),
        Conv2dActivation::Sigmoid => output.iter_mut().for_each(|x| *x = row_ops::sigmoid(*x)),
        Conv2dActivation::Identity | Conv2dActivation::Relu => return,
    }
    if let Residual::View(view) = rows.residual {
        view.add_to(output, outputs);
    }
}
