//! Rows times weights with the vectors of the CPU.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::super::dispatch;
use super::super::multiply::{Ending, Part, Rows};
use super::super::scratch::with_scratch;
use super::super::task::{Place, Task, outputs_at_once, tasks};
use super::kernel::{Next, PANEL_VECTORS, Times, blocks_of};
use super::pack;

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

/// Sets `out` to the products of rows with all parts; a line of it has `width` numbers.
///
/// Threads share the outputs or, where there are many rows, the rows.
pub(in super::super) fn multiply(
    arch: Arch,
    rows: Rows,
    parts: &[Part],
    ending: Ending,
    (out, width): (&mut [f32], usize),
) {
    let threads = rayon::current_num_threads();
    if rows.count >= OWN_ROWS * threads {
        let share = rows.count.div_ceil(threads * rows.count.div_ceil(threads * MAX_OWN_ROWS));
        out.par_chunks_mut(share * width).enumerate().for_each(|(number, out)| {
            let first_row = number * share;
            for task in tasks(out, Place { first_row, first_column: 0, width }, parts, usize::MAX) {
                run(arch, rows, ending, task);
            }
        });
    } else {
        let panel = dispatch(arch, PanelWidth);
        let outputs = outputs_at_once(panel, PANELS_AT_ONCE, parts);
        tasks(out, Place { first_row: 0, first_column: 0, width }, parts, outputs)
            .into_par_iter()
            .for_each(|task| run(arch, rows, ending, task));
    }
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
        let Self { arch, rows, ending, mut task, packed, near } = self;
        let Task { part, place, .. } = task;
        let panel = PANEL_VECTORS * S::F32_LANES;
        let group = PANELS_AT_ONCE * panel;
        // Rows in chunks of nearly one size, each of which blocks of the kernel divide evenly.
        let chunks = task.out.len().div_ceil(CACHED_ROWS).max(1);
        let at_once = task.out.len().div_ceil(chunks).max(1);
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
                    _ if task.out.len() > FETCHING_ROWS => Next::NOTHING,
                    (true, _) => Next::new(&weight[depth..], part.depth, outputs, blocks),
                    (false, true) => {
                        let weight = &part.weight[last * part.depth..];
                        Next::new(weight, part.depth, group.min(part.bias.len() - last), blocks)
                    }
                    (false, false) => Next::NOTHING,
                };
                for (number, out) in task.out.chunks_mut(at_once).enumerate() {
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
            task.end(arch, ending, 0..task.out.len(), first..last);
        }
    }
}
