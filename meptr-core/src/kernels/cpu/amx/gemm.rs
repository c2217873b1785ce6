//! GEMM on tile registers.

use std::cell::RefCell;

use pulp::Arch;
use rayon::prelude::*;

use super::super::gemm_args::{Epilogue, GemmArgs, GemmRows, GemmWeights};
use super::super::partition::{OutputBlock, OutputOffset, output_blocks, outputs_per_block};
use super::super::scratch::{with_scratch, with_taken_scratch};
use super::accumulators::{Accumulators, prefetch_output};
use super::bf16_split::{BLOCK, Bf16Terms, Operand, RowBlock, Tile};
use super::microkernel::{LinePrefetch, multiply};
use super::registers::Amx;

/// Depths of a block of outputs that are multiplied at a time: a few blocks of them and one of the
/// rows stay in the second-level cache.
const MAX_CHAIN: usize = 1024;
/// Blocks of outputs that are packed at a time, so that rows are loaded once for all of them.
const BLOCKS_PER_GROUP: usize = 4;
/// Most rows for which outputs are packed block by block in all their depth: such blocks finish
/// soon, and weights that lie together can be prefetched meanwhile.
const FEW_ROWS: usize = 128;
/// Most tiles of rows that are packed at a time: 16 MB.
const MAX_PACKED_TILES: usize = 1 << 14;

/// Fills `out`, `(rows, outputs)`.
///
/// Rows are packed for all threads, some at a time where there are many. Threads split the outputs
/// and, where these are too few, the rows.
pub(in super::super) fn gemm(amx: Amx, terms: Bf16Terms, args: GemmArgs, out: &mut [f32]) {
    let mut first_column = 0;
    // Weights that read the same values of each row share the packed rows.
    let reads_same = |a: &GemmWeights, b: &GemmWeights| (a.offset, a.depth) == (b.offset, b.depth);
    for weights in args.weights.chunk_by(reads_same) {
        let columns = OutputColumns { weights, first_column, row_width: args.outputs() };
        fill_columns(amx, terms, args, columns, out);
        first_column += weights.iter().map(|weights| weights.bias.len()).sum::<usize>();
    }
}

/// Adjacent output columns whose weights read the same values of each row.
#[derive(Clone, Copy)]
struct OutputColumns<'a> {
    /// At least one.
    weights: &'a [GemmWeights<'a>],
    first_column: usize,
    /// Values of a row of the whole output.
    row_width: usize,
}

fn fill_columns(
    amx: Amx,
    terms: Bf16Terms,
    args: GemmArgs,
    columns: OutputColumns,
    out: &mut [f32],
) {
    thread_local! {
        static PACKED_ROWS: RefCell<Vec<Tile>> = const { RefCell::new(Vec::new()) };
    }
    let GemmArgs { rows, epilogue, .. } = args;
    let OutputColumns { weights, first_column, row_width } = columns;
    let first = &weights[0];
    let has_few_rows = rows.count <= FEW_ROWS;
    let outputs = match has_few_rows {
        true => BLOCK,
        false => outputs_per_block(BLOCK, BLOCKS_PER_GROUP, weights),
    };
    let chain = if has_few_rows { first.depth } else { first.depth.min(MAX_CHAIN) };
    let block_tiles = terms.tiles(first.depth);
    let max_blocks = (MAX_PACKED_TILES / block_tiles.max(1)).max(1);
    let row_blocks = rows.count.div_ceil(BLOCK).min(max_blocks);
    with_taken_scratch(&PACKED_ROWS, row_blocks * block_tiles, Tile::ZERO, |packed| {
        for (number, out) in out.chunks_mut(row_blocks * BLOCK * row_width).enumerate() {
            let (first_row, count) = (number * row_blocks * BLOCK, out.len() / row_width);
            let right = &mut packed[..count.div_ceil(BLOCK) * block_tiles];
            let values = rows.values.get(first_row * rows.stride..).unwrap_or_default();
            pack_rows(amx, terms, GemmRows { values, count, ..rows }, first, right);
            let offset = OutputOffset { first_row, first_column, row_width };
            let blocks = output_blocks(out, offset, weights, outputs);
            let rows_per_task = rows_per_task(count, blocks.len());
            let blocks: Vec<OutputBlock> =
                blocks.into_iter().flat_map(|block| block.split(rows_per_task)).collect();
            blocks.into_par_iter().for_each(|block| {
                let row_block = (block.offset.first_row - first_row) / BLOCK;
                let right = &right[row_block * block_tiles..];
                AmxGemm { amx, terms, right, chain, epilogue }.fill_block(block);
            });
        }
    });
}

/// Rows of a task: all of them, unless there are too few blocks for the threads.
fn rows_per_task(count: usize, blocks: usize) -> usize {
    let shares = (2 * rayon::current_num_threads()).div_ceil(blocks.max(1));
    count.div_ceil(shares).next_multiple_of(BLOCK)
}

/// Packs the values of `rows` that `weights` reads, block after block.
fn pack_rows(
    amx: Amx,
    terms: Bf16Terms,
    rows: GemmRows,
    weights: &GemmWeights,
    right: &mut [Tile],
) {
    let (stride, depth) = (rows.stride, weights.depth);
    right.par_chunks_mut(terms.tiles(depth).max(1)).enumerate().for_each(|(number, tiles)| {
        let row = number * BLOCK;
        let values = &rows.values[row * stride + weights.offset..];
        let count = BLOCK.min(rows.count - row);
        RowBlock { values, stride, count, depth }.pack(amx, terms, Operand::Right, tiles);
    });
}

/// GEMM of packed rows.
struct AmxGemm<'a> {
    amx: Amx,
    terms: Bf16Terms,
    /// Packed rows, block after block, from the output block's first row on.
    right: &'a [Tile],
    /// Depths multiplied at a time.
    chain: usize,
    epilogue: Epilogue<'a>,
}

impl AmxGemm<'_> {
    fn fill_block(&self, mut block: OutputBlock) {
        thread_local! {
            static PACKED_WEIGHTS: RefCell<Vec<Tile>> = const { RefCell::new(Vec::new()) };
        }
        let Self { amx, terms, right, chain, epilogue } = *self;
        let (arch, weights) = (Arch::new(), block.weights);
        let (config, mut sums) = (amx.configure(), Accumulators::ZERO);
        let max_tiles = weights.bias.len().div_ceil(BLOCK) * terms.tiles(chain);
        with_scratch(&PACKED_WEIGHTS, max_tiles, Tile::ZERO, |left| {
            for start in (0..weights.depth).step_by(chain.max(1)) {
                let depth = chain.min(weights.depth - start);
                let block_tiles = terms.tiles(depth);
                let left = &mut left[..weights.bias.len().div_ceil(BLOCK) * block_tiles];
                for (number, tiles) in left.chunks_exact_mut(block_tiles).enumerate() {
                    let output = number * BLOCK;
                    let values = &weights.weight[output * weights.depth + start..];
                    let (stride, count) = (weights.depth, BLOCK.min(weights.bias.len() - output));
                    let rows = RowBlock { values, stride, count, depth };
                    rows.pack(amx, terms, Operand::Left, tiles);
                }
                // The next block's weights follow in memory.
                let mut prefetch = match chain == weights.depth {
                    true => {
                        LinePrefetch::new(weights.weight.as_ptr_range().end, weights.weight.len())
                    }
                    false => LinePrefetch::NONE,
                };
                let is_last = start + depth == weights.depth;
                for number in 0..block.rows.len().div_ceil(BLOCK) {
                    let rows = number * BLOCK..block.rows.len().min((number + 1) * BLOCK);
                    let first = number * terms.tiles(weights.depth) + terms.tiles(start);
                    let right = &right[first..][..block_tiles];
                    for (column, left) in left.chunks_exact(block_tiles).enumerate() {
                        let out = &mut block.rows[rows.clone()];
                        prefetch_output(out, column * BLOCK);
                        multiply(&config, terms, [left, right], &mut sums, &mut prefetch);
                        sums.write(amx, out, column * BLOCK, start > 0);
                    }
                    if is_last {
                        block.finish(arch, epilogue, rows, 0..weights.bias.len());
                    }
                }
            }
        });
        if weights.depth == 0 {
            let rows = 0..block.rows.len();
            block.finish(arch, epilogue, rows, 0..weights.bias.len());
        }
    }
}
