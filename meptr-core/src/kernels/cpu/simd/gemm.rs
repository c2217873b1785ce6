//! GEMM on vector instructions.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::super::dispatch::dispatch;
use super::super::gemm_args::{Epilogue, GemmArgs, GemmRows};
use super::super::partition::{OutputBlock, OutputOffset, output_blocks, outputs_per_block};
use super::super::scratch::with_aligned_scratch;
use super::microkernel::{MicroKernel, PANEL_VECTORS, RowPrefetch, block_count};
use super::pack::{PackSource, pack};

/// Longest chain of multiply-adds into one accumulator: a panel of that depth fits the first-level
/// cache, and a sum of such sums rounds less than one long sum.
pub(super) const MAX_CHAIN: usize = 256;
/// Panels that are packed at a time, so that rows are loaded once for all of them: 256 kB.
const PANELS_PER_GROUP: usize = 8;
/// Rows per thread from which on threads split the rows; below, they split the outputs.
const MIN_ROWS_PER_THREAD: usize = 192;
/// Most rows of a task when threads split the rows.
const MAX_ROWS_PER_TASK: usize = 512;
/// Rows that are copied together and stay in the first-level cache, beside a panel, while they meet
/// one panel after the other.
const CACHED_ROWS: usize = 24;
/// Most rows for which the next weights are prefetched: more rows keep the core busy for so long
/// that waiting for weights does not count.
const MAX_PREFETCHING_ROWS: usize = 128;
/// Values from one copied row to the next: rows a power of two apart would evict each other from
/// the cache.
const CACHED_STRIDE: usize = MAX_CHAIN + 16;

/// Fills `out`, `(rows, outputs)`.
///
/// Threads split the outputs or, where there are many rows, the rows.
pub(in super::super) fn gemm(arch: Arch, args: GemmArgs, out: &mut [f32]) {
    let GemmArgs { rows, weights, .. } = args;
    let row_width = args.outputs();
    let threads = rayon::current_num_threads();
    if rows.count >= MIN_ROWS_PER_THREAD * threads {
        let tasks = threads * rows.count.div_ceil(threads * MAX_ROWS_PER_TASK);
        let share = rows.count.div_ceil(tasks);
        out.par_chunks_mut(share * row_width).enumerate().for_each(|(number, out)| {
            let offset = OutputOffset { first_row: number * share, first_column: 0, row_width };
            for block in output_blocks(out, offset, weights, usize::MAX) {
                fill_block(arch, args, block);
            }
        });
    } else {
        let panel = dispatch(arch, PanelWidth);
        let outputs = outputs_per_block(panel, PANELS_PER_GROUP, weights);
        let offset = OutputOffset { first_row: 0, first_column: 0, row_width };
        output_blocks(out, offset, weights, outputs)
            .into_par_iter()
            .for_each(|block| fill_block(arch, args, block));
    }
}

struct PackedGemm<'a, 'o> {
    arch: Arch,
    rows: GemmRows<'a>,
    epilogue: Epilogue<'a>,
    block: OutputBlock<'a, 'o>,
    /// Room for [`PANELS_PER_GROUP`] panels.
    packed: &'a mut [f32],
    /// Room for [`CACHED_ROWS`] rows.
    cached_rows: &'a mut [f32],
}

fn fill_block(arch: Arch, args: GemmArgs, block: OutputBlock) {
    let GemmArgs { rows, epilogue, .. } = args;
    let packed = PANELS_PER_GROUP * MAX_CHAIN * dispatch(arch, PanelWidth);
    with_aligned_scratch(packed + CACHED_ROWS * CACHED_STRIDE, |scratch| {
        let (packed, cached_rows) = scratch.split_at_mut(packed);
        dispatch(arch, PackedGemm { arch, rows, epilogue, block, packed, cached_rows });
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

impl WithSimd for PackedGemm<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { arch, rows, epilogue, mut block, packed, cached_rows } = self;
        let OutputBlock { weights, offset, .. } = block;
        let panel = PANEL_VECTORS * S::F32_LANES;
        let group = PANELS_PER_GROUP * panel;
        // Rows in chunks of nearly one size, each of which the micro-kernel's blocks divide evenly.
        let chunks = block.rows.len().div_ceil(CACHED_ROWS).max(1);
        let chunk_rows = block.rows.len().div_ceil(chunks).max(1);
        for first in (0..weights.bias.len()).step_by(group) {
            let last = weights.bias.len().min(first + group);
            for start in (0..weights.depth).step_by(MAX_CHAIN) {
                let depth = MAX_CHAIN.min(weights.depth - start);
                let outputs = last - first;
                let packed = &mut packed[..outputs.div_ceil(panel) * depth * panel];
                let weight = &weights.weight[first * weights.depth + start..];
                let source =
                    PackSource { values: weight, row_stride: weights.depth, count: outputs, depth };
                pack(arch, source, panel, packed);
                let blocks = chunks * block_count::<S>(chunk_rows, true) * outputs.div_ceil(panel);
                let mut prefetch = match (start + depth < weights.depth, last < weights.bias.len())
                {
                    _ if block.rows.len() > MAX_PREFETCHING_ROWS => RowPrefetch::NONE,
                    (true, _) => RowPrefetch::new(&weight[depth..], weights.depth, outputs, blocks),
                    (false, true) => {
                        let weight = &weights.weight[last * weights.depth..];
                        let count = group.min(weights.bias.len() - last);
                        RowPrefetch::new(weight, weights.depth, count, blocks)
                    }
                    (false, false) => RowPrefetch::NONE,
                };
                for (number, out) in block.rows.chunks_mut(chunk_rows).enumerate() {
                    let row = offset.first_row + number * chunk_rows;
                    let cached = cached_rows.chunks_mut(CACHED_STRIDE);
                    for (row, cached) in (row..row + out.len()).zip(cached) {
                        let x = row * rows.stride + weights.offset + start;
                        cached[..depth].copy_from_slice(&rows.values[x..x + depth]);
                    }
                    for (number, packed) in packed.chunks_exact(depth * panel).enumerate() {
                        let kernel = MicroKernel {
                            x: &*cached_rows,
                            row_stride: CACHED_STRIDE,
                            depth,
                            panel: packed,
                            accumulate: start > 0,
                        };
                        kernel.run(simd, out, first + number * panel, &mut prefetch);
                    }
                }
            }
            block.finish(arch, epilogue, 0..block.rows.len(), first..last);
        }
    }
}
