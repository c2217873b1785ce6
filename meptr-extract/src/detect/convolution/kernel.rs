//! Products of weights and pixels, for a block of pixels and a panel of output channels at a time.

use pulp::{Arch, Scalar128b, Simd, WithSimd};

use super::Ending;
use super::input::Shortcut;
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

fn dispatch<W: WithSimd>(arch: Arch, work: W) -> W::Output {
    match arch {
        // Vectors of four that the compiler makes of what every CPU of the kind has.
        Arch::Scalar => Simd::vectorize(Scalar128b, work),
        arch => arch.dispatch(work),
    }
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
        let lanes = dispatch(arch, Lanes);
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
    pub(super) shortcut: Option<Shortcut<'a>>,
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
            // Sums of 24 vectors leave room for weights and pixels where there are 32 registers.
            match (width == S::F32_LANES, S::REGISTER_COUNT >= 32) {
                (true, _) => blocks::<S, 12, 1>(simd, &mut rows, panel),
                (false, true) => blocks::<S, 12, 2>(simd, &mut rows, panel),
                (false, false) => blocks::<S, 6, 2>(simd, &mut rows, panel),
            }
        }
        end(&mut rows, panels.outputs);
    }
}

/// All output pixels, `P` at a time.
#[inline(always)]
fn blocks<S: Simd, const P: usize, const C: usize>(simd: S, rows: &mut Rows, panel: Panel) {
    let pixels = rows.output.len() / panel.outputs;
    if pixels < P {
        (0..pixels).for_each(|pixel| block::<S, 1, C>(simd, rows, pixel, panel));
        return;
    }
    for pixel in (0..pixels).step_by(P) {
        // The last block goes back over some pixels of the one before.
        block::<S, P, C>(simd, rows, pixel.min(pixels - P), panel);
    }
}

#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "indices that are constants keep sums in registers")]
fn block<S: Simd, const P: usize, const C: usize>(
    simd: S,
    rows: &mut Rows,
    first: usize,
    panel: Panel,
) {
    let (weights, _) = S::as_simd_f32s(panel.values);
    let (bias, _) = S::as_simd_f32s(panel.bias);
    let mut sums = [[simd.splat_f32s(0.0); C]; P];
    let mut starts = [0; P];
    let (mut row, mut column) = (first / rows.columns, first % rows.columns);
    for start in &mut starts {
        *start = row * rows.row_step + column * rows.pixel_step;
        column += 1;
        if column == rows.columns {
            (row, column) = (row + 1, 0);
        }
    }
    for kernel_row in 0..rows.kernel {
        let run = rows.run;
        let weights = &weights[kernel_row * run * C..][..run * C];
        let mut pixels = [&rows.x[..0]; P];
        for (pixel, start) in pixels.iter_mut().zip(starts) {
            *pixel = &rows.x[start + kernel_row * rows.row_length..][..run];
        }
        for start in (0..run).step_by(MAX_CHAIN) {
            let length = MAX_CHAIN.min(run - start);
            let mut chain = [[simd.splat_f32s(0.0); C]; P];
            let mut parts = [&rows.x[..0]; P];
            for (part, pixel) in parts.iter_mut().zip(pixels) {
                *part = &pixel[start..][..length];
            }
            let weights = weights[start * C..][..length * C].chunks_exact(C);
            for (depth, weights) in (0..length).zip(weights) {
                for p in 0..P {
                    let value = simd.splat_f32s(parts[p][depth]);
                    for c in 0..C {
                        chain[p][c] = simd.mul_add_e_f32s(value, weights[c], chain[p][c]);
                    }
                }
            }
            for p in 0..P {
                for c in 0..C {
                    sums[p][c] = simd.add_f32s(sums[p][c], chain[p][c]);
                }
            }
        }
    }
    // An array of its own: the sums stay in registers only if no index of theirs is computed.
    let mut finished = [[simd.splat_f32s(0.0); C]; P];
    for p in 0..P {
        for c in 0..C {
            finished[p][c] = simd.add_f32s(sums[p][c], bias[c]);
        }
    }
    let width = (C * S::F32_LANES).min(panel.outputs - panel.first);
    for (number, finished) in finished.iter().enumerate() {
        let start = (first + number) * panel.outputs + panel.first;
        let into = &mut rows.output[start..start + width];
        for (into, finished) in into.chunks_mut(S::F32_LANES).zip(finished) {
            simd.partial_store_f32s(into, *finished);
        }
    }
}

/// Activation and shortcut.
#[inline(always)]
fn end(rows: &mut Rows, outputs: usize) {
    let output = &mut *rows.output;
    match rows.ending {
        Ending::Silu => output.iter_mut().for_each(|x| *x = vector_math::silu(*x)),
        Ending::Sigmoid => output.iter_mut().for_each(|x| *x = vector_math::sigmoid(*x)),
        Ending::Linear | Ending::Relu => {}
    }
    if let Some(shortcut) = rows.shortcut {
        shortcut.add_to(output, outputs);
    }
    if rows.ending == Ending::Relu {
        output.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x });
    }
}
