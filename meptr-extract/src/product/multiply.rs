//! Rows times weights, shared out over threads.

use std::cell::RefCell;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::kernel::{LINE, Next, PANEL_VECTORS, Times, blocks_of};
use super::{dispatch, pack};
use crate::backbones::{Activation, vector_math};

/// Products that are added up one after the other: a panel of that depth fits the first-level
/// cache, and sums of such sums round less than one of all.
pub(super) const MAX_CHAIN: usize = 256;
/// Panels that are laid out at a time, so that rows are fetched once for all of them: 256 kB.
const PANELS_AT_ONCE: usize = 8;
/// Rows from which on a thread gets rows of its own; below, threads share the outputs.
const OWN_ROWS: usize = 192;
/// Rows of a task, at most.
const MAX_OWN_ROWS: usize = 512;
/// Rows that are copied together and stay in the first-level cache, beside a panel, while they meet
/// one panel after the other.
const CACHED_ROWS: usize = 24;
/// Rows up to which the weights that come next are fetched meanwhile: more rows are busy for so long
/// that waiting for weights does not count.
const FETCHING_ROWS: usize = 128;
/// From the start of a copied row to that of the next: rows that lie a power of two apart would
/// drive each other out of the cache.
const CACHED_STEP: usize = MAX_CHAIN + 16;

/// Rows of numbers, which may overlap: row `r` starts at number `r * step`.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The numbers of all rows.
    pub numbers: &'a [f32],
    /// From the start of a row to that of the next.
    pub step: usize,
    /// The number of rows.
    pub count: usize,
}

/// Some neighbouring outputs: `scale (x W^T) + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Where the part's numbers start in each row.
    pub offset: usize,
    /// `(outputs, depth)`, row by row.
    pub weight: &'a [f32],
    /// Numbers of a row that are multiplied.
    pub depth: usize,
    /// `(outputs,)`.
    pub bias: &'a [f32],
    /// Multiplies the sum before the bias is added.
    pub scale: f32,
}

/// What follows the bias.
#[derive(Debug, Clone, Copy)]
pub enum Ending<'a> {
    /// Nothing.
    Linear,
    /// An activation.
    Activated(Activation),
    /// Numbers of the output's shape are added.
    Plus(&'a [f32]),
}

/// Products of rows with all parts, whose outputs stand side by side: `(rows.count, outputs)`.
///
/// # Panics
/// When sizes do not fit each other; callers check shapes.
pub fn multiply(rows: Rows, parts: &[Part], ending: Ending) -> Vec<f32> {
    multiply_with(Arch::new(), rows, parts, ending)
}

fn multiply_with(arch: Arch, rows: Rows, parts: &[Part], ending: Ending) -> Vec<f32> {
    let width: usize = parts.iter().map(|part| part.bias.len()).sum();
    let mut out = vec![0.0; rows.count * width];
    if out.is_empty() {
        return out;
    }
    if let Ending::Plus(residual) = ending {
        assert_eq!(residual.len(), out.len(), "a residual is of the output's shape");
    }
    let threads = rayon::current_num_threads();
    if rows.count >= OWN_ROWS * threads {
        let share = rows.count.div_ceil(threads * rows.count.div_ceil(threads * MAX_OWN_ROWS));
        out.par_chunks_mut(share * width).enumerate().for_each(|(number, out)| {
            let first_row = number * share;
            for task in tasks(out, first_row, width, parts, usize::MAX) {
                run(arch, rows, ending, task);
            }
        });
    } else {
        let outputs = outputs_at_once(arch, threads, parts);
        tasks(&mut out, 0, width, parts, outputs)
            .into_par_iter()
            .for_each(|task| run(arch, rows, ending, task));
    }
    out
}

/// The most outputs of a task that leave no thread idle for long.
fn outputs_at_once(arch: Arch, threads: usize, parts: &[Part]) -> usize {
    let panel = dispatch(arch, PanelWidth);
    let panels: usize = parts.iter().map(|part| part.bias.len().div_ceil(panel)).sum();
    let is_even = |size: &usize| {
        let tasks = panels.div_ceil(*size);
        tasks >= 8 * threads || (tasks.is_multiple_of(threads) && panels.is_multiple_of(*size))
    };
    panel * (1..=PANELS_AT_ONCE).rev().find(is_even).unwrap_or(1)
}

/// Cuts the outputs into tasks of `at_once` of them, each with its columns of all lines.
fn tasks<'a, 'o>(
    out: &'o mut [f32],
    first_row: usize,
    width: usize,
    parts: &[Part<'a>],
    at_once: usize,
) -> Vec<Task<'a, 'o>> {
    let mut tasks = Vec::new();
    let mut first_column = 0;
    for part in parts {
        for first in (0..part.bias.len()).step_by(at_once) {
            let outputs = at_once.min(part.bias.len() - first);
            let part = Part {
                weight: &part.weight[first * part.depth..][..outputs * part.depth],
                bias: &part.bias[first..first + outputs],
                ..*part
            };
            let place = Place { first_row, first_column, width };
            tasks.push(Task { part, place, out: Vec::with_capacity(out.len() / width) });
            first_column += outputs;
        }
    }
    for mut line in out.chunks_exact_mut(width) {
        for task in &mut tasks {
            let (columns, rest) = line.split_at_mut(task.part.bias.len());
            task.out.push(columns);
            line = rest;
        }
    }
    tasks
}

/// Some outputs, and their columns of some lines.
struct Task<'a, 'o> {
    part: Part<'a>,
    place: Place,
    out: Vec<&'o mut [f32]>,
}

/// Where a task's lines lie in the output.
#[derive(Clone, Copy)]
struct Place {
    first_row: usize,
    first_column: usize,
    width: usize,
}

struct Run<'a, 'o> {
    arch: Arch,
    rows: Rows<'a>,
    ending: Ending<'a>,
    task: Task<'a, 'o>,
    /// Room for [`PANELS_AT_ONCE`] panels.
    packed: &'a mut [f32],
    /// Room for [`CACHED_ROWS`] rows.
    near: &'a mut [f32],
}

fn run(arch: Arch, rows: Rows, ending: Ending, task: Task) {
    let packed = PANELS_AT_ONCE * MAX_CHAIN * dispatch(arch, PanelWidth);
    with_scratch(packed + CACHED_ROWS * CACHED_STEP, |scratch| {
        let (packed, near) = scratch.split_at_mut(packed);
        dispatch(arch, Run { arch, rows, ending, task, packed, near });
    });
}

/// Lends numbers that a thread keeps, of any value; they start with a line of the cache.
pub(super) fn with_scratch<R>(count: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let room = count + LINE;
        if scratch.len() < room {
            scratch.resize(room, 0.0);
        }
        let first = scratch.as_ptr().align_offset(LINE * size_of::<f32>());
        work(&mut scratch[first..][..count])
    })
}

struct PanelWidth;

impl WithSimd for PanelWidth {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        PANEL_VECTORS * S::F32_LANES
    }
}

impl WithSimd for Run<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { arch, rows, ending, task, packed, near } = self;
        let Task { part, place, mut out } = task;
        let panel = PANEL_VECTORS * S::F32_LANES;
        let group = PANELS_AT_ONCE * panel;
        // Rows in chunks of nearly one size, each of which blocks of the kernel divide evenly.
        let chunks = out.len().div_ceil(CACHED_ROWS).max(1);
        let at_once = out.len().div_ceil(chunks).max(1);
        for first in (0..part.bias.len()).step_by(group) {
            let last = part.bias.len().min(first + group);
            for start in (0..part.depth).step_by(MAX_CHAIN) {
                let depth = MAX_CHAIN.min(part.depth - start);
                let outputs = last - first;
                let packed = &mut packed[..outputs.div_ceil(panel) * depth * panel];
                let weight = &part.weight[first * part.depth + start..];
                pack::pack(arch, weight, part.depth, outputs, depth, panel, packed);
                let blocks = chunks * blocks_of::<S>(at_once, true) * outputs.div_ceil(panel);
                let mut next = match (start + depth < part.depth, last < part.bias.len()) {
                    _ if out.len() > FETCHING_ROWS => Next::NOTHING,
                    (true, _) => Next::new(&weight[depth..], part.depth, outputs, blocks),
                    (false, true) => {
                        let weight = &part.weight[last * part.depth..];
                        Next::new(weight, part.depth, group.min(part.bias.len() - last), blocks)
                    }
                    (false, false) => Next::NOTHING,
                };
                for (number, out) in out.chunks_mut(at_once).enumerate() {
                    let row = place.first_row + number * at_once;
                    for (row, near) in (row..row + out.len()).zip(near.chunks_mut(CACHED_STEP)) {
                        let x = row * rows.step + part.offset + start;
                        near[..depth].copy_from_slice(&rows.numbers[x..x + depth]);
                    }
                    for (number, panel_of) in packed.chunks_exact(depth * panel).enumerate() {
                        let (x, row_step, adds) = (&*near, CACHED_STEP, start > 0);
                        let times = Times { x, row_step, depth, panel: panel_of, adds };
                        times.run(simd, out, first + number * panel, &mut next);
                    }
                }
            }
            for (row, line) in out.iter_mut().enumerate() {
                let line = &mut line[first..last];
                let bias = &part.bias[first..last];
                let at = (place.first_row + row) * place.width + place.first_column + first;
                end(line, bias, part.scale, ending, at);
            }
        }
    }
}

/// Scale, bias and what follows, for a stretch of a line that starts at number `at` of the output.
#[inline(always)]
fn end(line: &mut [f32], bias: &[f32], scale: f32, ending: Ending, at: usize) {
    let biased = line.iter_mut().zip(bias);
    match ending {
        Ending::Linear => biased.for_each(|(x, bias)| *x = *x * scale + bias),
        Ending::Activated(Activation::Gelu) => {
            biased.for_each(|(x, bias)| *x = vector_math::gelu(*x * scale + bias));
        }
        Ending::Activated(Activation::QuickGelu) => {
            biased.for_each(|(x, bias)| *x = vector_math::quick_gelu(*x * scale + bias));
        }
        Ending::Plus(residual) => {
            let residual = &residual[at..at + bias.len()];
            for ((x, bias), residual) in biased.zip(residual) {
                *x += bias + residual; // parts with a residual have the scale 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wave(count: usize, speed: f64) -> Vec<f32> {
        (0..count).map(|at| (at as f64 * at as f64 * speed + 0.3).sin() as f32).collect()
    }

    /// The same by its definition, in f64.
    fn plain(rows: Rows, parts: &[Part], ending: Ending) -> Vec<f64> {
        let mut out = Vec::new();
        for row in 0..rows.count {
            for part in parts {
                let x = &rows.numbers[row * rows.step + part.offset..][..part.depth];
                for (weight, bias) in part.weight.chunks_exact(part.depth).zip(part.bias) {
                    let products = x.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w));
                    let sum = products.sum::<f64>() * f64::from(part.scale) + f64::from(*bias);
                    out.push(match ending {
                        Ending::Linear => sum,
                        Ending::Plus(residual) => sum + f64::from(residual[out.len()]),
                        Ending::Activated(Activation::QuickGelu) => {
                            sum / (1.0 + (-1.702 * sum).exp())
                        }
                        Ending::Activated(Activation::Gelu) => {
                            let x = candle::Tensor::new(sum, &candle::Device::Cpu).unwrap();
                            x.gelu_erf().unwrap().to_scalar().unwrap()
                        }
                    });
                }
            }
        }
        out
    }

    fn archs() -> Vec<Arch> {
        #[allow(unused_mut)]
        let mut all = vec![Arch::Scalar, Arch::new()];
        #[cfg(target_arch = "x86_64")]
        all.extend(pulp::x86::V3::try_new().map(Arch::V3));
        all
    }

    fn check(count: usize, step: usize, outputs: &[usize], depth: usize, ending: usize) {
        let numbers = wave(count * step + depth + 3, 0.37);
        let rows = Rows { numbers: &numbers, step, count };
        let width: usize = outputs.iter().sum();
        let (weight, bias) = (wave(width * depth, 0.71), wave(width, 0.13));
        let residual = wave(count * width, 0.91);
        let mut first = 0;
        let parts: Vec<Part> = outputs
            .iter()
            .enumerate()
            .map(|(number, outputs)| {
                let weight = &weight[first * depth..][..outputs * depth];
                let bias = &bias[first..first + outputs];
                first += outputs;
                let scale = if ending == 0 && number == 0 { 0.3 } else { 1.0 };
                Part { offset: number.min(3), weight, depth, bias, scale }
            })
            .collect();
        let ending = [
            Ending::Linear,
            Ending::Activated(Activation::Gelu),
            Ending::Activated(Activation::QuickGelu),
            Ending::Plus(&residual),
        ][ending];
        let expected = plain(rows, &parts, ending);
        for arch in archs() {
            let found = multiply_with(arch, rows, &parts, ending);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                let off = (f64::from(*found) - expected).abs();
                assert!(off < 2e-6 * (depth as f64).sqrt().max(1.0), "{found} is not {expected}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn products_equal_their_definition(
            count in 0usize..60,
            step in 1usize..90,
            outputs in prop::collection::vec(1usize..140, 1..4),
            depth in 1usize..70,
            ending in 0usize..4,
        ) {
            check(count, step, &outputs, depth, ending);
        }
    }

    #[test]
    fn long_sums_and_many_rows_equal_their_definition() {
        check(5, 700, &[40], 700, 0);
        check(OWN_ROWS * rayon::current_num_threads() + 7, 9, &[33, 3], 20, 3);
    }

    #[test]
    fn what_is_no_number_stays_in_its_row() {
        let mut numbers = wave(40, 0.2);
        numbers[13] = f32::NAN;
        let rows = Rows { numbers: &numbers, step: 8, count: 5 };
        let (weight, bias) = (wave(24, 0.5), vec![0.0; 3]);
        let part = Part { offset: 0, weight: &weight, depth: 8, bias: &bias, scale: 1.0 };
        let found = multiply(rows, &[part], Ending::Activated(Activation::Gelu));
        for (row, line) in found.chunks_exact(3).enumerate() {
            assert!(line.iter().all(|x| x.is_nan() == (row == 1)), "row {row}: {line:?}");
        }
    }
}
