//! Products of weights and pixels, for a block of pixels and a panel of output channels at a time.

use pulp::{Arch, Scalar128b, Simd, WithSimd};

use super::Ending;
use super::input::{Added, AddedPixel};
use crate::backbones::vector_math;

/// Vectors of output channels in a panel.
const PANEL_VECTORS: usize = 2;

/// Products that are added up one after the other; sums of such sums round less than one of all.
const MAX_CHAIN: usize = 128;

/// Weights by panel of output channels, then by depth: `kernel x kernel x inputs`.
#[derive(Debug)]
pub(super) struct Panels {
    values: Vec<f32>,
    bias: Vec<f32>, // as many as the panels have channels
    outputs: usize,
    depth: usize,
    arch: Arch,
}

/// Runs work with the vectors of these instructions.
pub(in crate::detect) fn dispatch<W: WithSimd>(arch: Arch, work: W) -> W::Output {
    match arch {
        // Vectors of four that the compiler makes of what every CPU of the kind has.
        Arch::Scalar => Simd::vectorize(Scalar128b, work),
        arch => arch.dispatch(work),
    }
}

/// Numbers in a vector of these instructions.
pub(in crate::detect) fn lanes(arch: Arch) -> usize {
    dispatch(arch, Lanes)
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

impl Panels {
    /// - `by_depth`: `(depth, outputs)`, row by row
    /// - `bias`: `(outputs,)`
    pub(super) fn new(by_depth: &[f32], bias: &[f32]) -> Self {
        Self::laid_out(by_depth, bias, Arch::new())
    }

    /// For vectors of these instructions.
    pub(super) fn laid_out(by_depth: &[f32], bias: &[f32], arch: Arch) -> Self {
        let outputs = bias.len();
        let lanes = lanes(arch);
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

    pub(super) fn multiply(&self, rows: Rows) {
        dispatch(self.arch, Multiply { panels: self, rows });
    }
}

/// Input rows, and the output rows that they give.
pub(super) struct Rows<'a> {
    /// Input rows with their border, `row_length` numbers each.
    pub(super) x: &'a [f32],
    pub(super) row_length: usize,
    /// Numbers from an output row's first input row to the next one's.
    pub(super) row_step: usize,
    /// Numbers from an output pixel's first input pixel to the next one's.
    pub(super) pixel_step: usize,
    /// Rows of the kernel.
    pub(super) kernel: usize,
    /// Numbers of a kernel's row: columns times channels.
    pub(super) run: usize,
    /// Pixels of an output row.
    pub(super) columns: usize,
    pub(super) ending: Ending,
    pub(super) added: Added<'a>,
    pub(super) output: &'a mut [f32],
}

struct Multiply<'a> {
    panels: &'a Panels,
    rows: Rows<'a>,
}

/// A panel and the output channel that it starts with.
#[derive(Clone, Copy)]
struct Panel<'a> {
    values: &'a [f32],
    bias: &'a [f32],
    first: usize,
    outputs: usize,
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { panels, mut rows } = self;
        let padded = panels.bias.len();
        for first in (0..padded).step_by(PANEL_VECTORS * S::F32_LANES) {
            let width = (PANEL_VECTORS * S::F32_LANES).min(padded - first);
            let panel = Panel {
                values: &panels.values[first * panels.depth..][..width * panels.depth],
                bias: &panels.bias[first..first + width],
                first,
                outputs: panels.outputs,
            };
            let is_one_chain = rows.kernel == 1 && rows.run <= MAX_CHAIN;
            // Sums of 24 vectors leave room for weights and pixels where there are 32 registers.
            match (width == S::F32_LANES, S::REGISTER_COUNT >= 32, is_one_chain) {
                (true, _, true) => blocks::<S, 12, 1, true>(simd, &mut rows, panel),
                (true, _, false) => blocks::<S, 12, 1, false>(simd, &mut rows, panel),
                (false, true, true) => blocks::<S, 12, 2, true>(simd, &mut rows, panel),
                (false, true, false) => blocks::<S, 12, 2, false>(simd, &mut rows, panel),
                (false, false, true) => blocks::<S, 6, 2, true>(simd, &mut rows, panel),
                (false, false, false) => blocks::<S, 6, 2, false>(simd, &mut rows, panel),
            }
        }
        end(&mut rows, panels.outputs);
    }
}

/// All output pixels, `P` at a time; `ONE`: a sum is one chain.
#[inline(always)]
fn blocks<S: Simd, const P: usize, const C: usize, const ONE: bool>(
    simd: S,
    rows: &mut Rows,
    panel: Panel,
) {
    let pixels = rows.output.len() / panel.outputs;
    let in_blocks = pixels / P * P;
    for pixel in (0..in_blocks).step_by(P) {
        block::<S, P, C, ONE>(simd, rows, pixel, panel);
    }
    if in_blocks < pixels && in_blocks > 0 && !matches!(rows.added, Added::Output) {
        // The last block goes back over some pixels of the one before.
        return block::<S, P, C, ONE>(simd, rows, pixels - P, panel);
    }
    for pixel in in_blocks..pixels {
        block::<S, 1, C, ONE>(simd, rows, pixel, panel);
    }
}

#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "indices that are constants keep sums in registers")]
fn block<S: Simd, const P: usize, const C: usize, const ONE: bool>(
    simd: S,
    rows: &mut Rows,
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
        return finish::<S, P, C>(simd, sums, rows, first, panel);
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
    finish::<S, P, C>(simd, sums, rows, first, panel);
}

/// Products of pixels, all of one length, and weights, added up one after the other.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "indices that are constants keep sums in registers")]
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
            // The only check of bounds for four products.
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

/// Bias, what is added and `max(x, 0)` where they belong before a sum is stored.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "indices that are constants keep sums in registers")]
fn finish<S: Simd, const P: usize, const C: usize>(
    simd: S,
    sums: [[S::f32s; C]; P],
    rows: &mut Rows,
    first: usize,
    panel: Panel,
) {
    let (bias, _) = S::as_simd_f32s(panel.bias);
    // An array of its own: the sums stay in registers only if no index of theirs is computed.
    let mut finished = [[simd.splat_f32s(0.0); C]; P];
    for p in 0..P {
        for c in 0..C {
            finished[p][c] = simd.add_f32s(sums[p][c], bias[c]);
        }
    }
    let is_rectified = rows.ending == Ending::Relu;
    let zero = simd.splat_f32s(0.0);
    let width = (C * S::F32_LANES).min(panel.outputs - panel.first);
    for (number, finished) in finished.iter().enumerate() {
        let start = (first + number) * panel.outputs + panel.first;
        let into = &mut rows.output[start..start + width];
        let added = if rows.ending.is_last() { rows.added } else { Added::Nothing };
        let added = added.at(first + number, panel.first, width);
        for (c, finished) in finished.iter().enumerate() {
            let channels = c * S::F32_LANES..width.min((c + 1) * S::F32_LANES);
            if channels.is_empty() {
                break;
            }
            let mut value = *finished;
            match added {
                AddedPixel::Nothing => {}
                AddedPixel::Numbers(numbers) => {
                    value = simd.add_f32s(value, load(simd, &numbers[channels.clone()]));
                }
                AddedPixel::Output => {
                    value = simd.add_f32s(value, load(simd, &into[channels.clone()]));
                }
            }
            if is_rectified {
                value = simd.select_f32s(simd.less_than_f32s(value, zero), zero, value);
            }
            store(simd, &mut into[channels], value);
        }
    }
}

/// Loads a vector, or the beginning of one.
#[inline(always)]
pub(in crate::detect) fn load<S: Simd>(simd: S, numbers: &[f32]) -> S::f32s {
    match S::as_simd_f32s(numbers) {
        ([whole], []) => *whole,
        _ => simd.partial_load_f32s(numbers),
    }
}

/// Stores a vector, or the beginning of one.
#[inline(always)]
pub(in crate::detect) fn store<S: Simd>(simd: S, into: &mut [f32], values: S::f32s) {
    match S::as_mut_simd_f32s(into) {
        ([whole], []) => *whole = values,
        _ => simd.partial_store_f32s(into, values),
    }
}

/// Activations that are computed row by row, and what is added after them.
#[inline(always)]
fn end(rows: &mut Rows, outputs: usize) {
    let output = &mut *rows.output;
    match rows.ending {
        Ending::Silu => output.iter_mut().for_each(|x| *x = vector_math::silu(*x)),
        Ending::Sigmoid => output.iter_mut().for_each(|x| *x = vector_math::sigmoid(*x)),
        Ending::Linear | Ending::Relu => return,
    }
    if let Added::Shortcut(shortcut) = rows.added {
        shortcut.add_to(output, outputs);
    }
}
