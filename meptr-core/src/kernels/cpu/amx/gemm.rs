//! Rows times weights on tiles.

use std::cell::RefCell;

use pulp::Arch;
use rayon::prelude::*;

use super::super::multiply::{Ending, Part, Rows};
use super::super::scratch::{lend, lend_to_all};
use super::super::task::{Place, Task, outputs_at_once, tasks};
use super::Tiles;
use super::kernel::{Next, product};
use super::pieces::{BLOCK, Block, Factor, Pieces, Tile};
use super::sums::{Sums, fetch};

/// Depths of a block of outputs that are multiplied at a time: a few blocks of them and one of the
/// rows stay in the second-level cache.
const MAX_CHAIN: usize = 1024;
/// Blocks of outputs that are laid out at a time, so that rows are fetched once for all of them.
const BLOCKS_AT_ONCE: usize = 4;
/// Rows up to which outputs are laid out block by block in all their depth: they are done with soon,
/// and weights that lie together can be fetched meanwhile.
const FEW_ROWS: usize = 128;
/// Tiles of rows that are laid out at a time: 16 MB.
const MAX_LAID_OUT: usize = 1 << 14;

/// Sets `out` to the products of rows with all parts; a line of it has `width` numbers.
///
/// Rows are laid out for all threads, some at a time where there are many; threads share the outputs
/// and, where these are too few, the rows.
pub(in super::super) fn multiply(
    tiles: Tiles,
    pieces: Pieces,
    rows: Rows,
    parts: &[Part],
    ending: Ending,
    (out, width): (&mut [f32], usize),
) {
    thread_local! {
        static LAID_OUT: RefCell<Vec<Tile>> = const { RefCell::new(Vec::new()) };
    }
    let are_few = rows.count <= FEW_ROWS;
    let mut first_column = 0;
    // Parts that read the same of each row share what is laid out.
    for parts in parts.chunk_by(|a, b| (a.offset, a.depth) == (b.offset, b.depth)) {
        let first = &parts[0];
        let outputs = match are_few {
            true => BLOCK,
            false => outputs_at_once(BLOCK, BLOCKS_AT_ONCE, parts),
        };
        let chain = if are_few { first.depth } else { first.depth.min(MAX_CHAIN) };
        let of_block = pieces.tiles_of(first.depth);
        let blocks = rows.count.div_ceil(BLOCK).min((MAX_LAID_OUT / of_block.max(1)).max(1));
        lend_to_all(&LAID_OUT, (blocks * of_block, Tile::ZERO), |laid_out| {
            for (number, out) in out.chunks_mut(blocks * BLOCK * width).enumerate() {
                let (first_row, count) = (number * blocks * BLOCK, out.len() / width);
                let right = &mut laid_out[..count.div_ceil(BLOCK) * of_block];
                lay_out(tiles, pieces, rows, (first_row, count), first, right);
                let place = Place { first_row, first_column, width };
                let tasks = tasks(out, place, parts, outputs);
                let lines = lines_at_once(count, tasks.len());
                let tasks: Vec<Task> =
                    tasks.into_iter().flat_map(|task| task.split(lines)).collect();
                tasks.into_par_iter().for_each(|task| {
                    let block = (task.place.first_row - first_row) / BLOCK;
                    run(tiles, pieces, &right[block * of_block..], chain, ending, task);
                });
            }
        });
        first_column += parts.iter().map(|part| part.bias.len()).sum::<usize>();
    }
}

/// Lines of a task: all of them, unless there are too few tasks for the threads.
fn lines_at_once(count: usize, tasks: usize) -> usize {
    let shares = (2 * rayon::current_num_threads()).div_ceil(tasks.max(1));
    count.div_ceil(shares).next_multiple_of(BLOCK)
}

/// Lays out what a part reads of rows `first_row..first_row + count`, block after block.
fn lay_out(
    tiles: Tiles,
    pieces: Pieces,
    rows: Rows,
    (first_row, count): (usize, usize),
    part: &Part,
    right: &mut [Tile],
) {
    let (step, depth) = (rows.step, part.depth);
    right.par_chunks_mut(pieces.tiles_of(depth).max(1)).enumerate().for_each(|(number, into)| {
        let row = number * BLOCK;
        let numbers = &rows.numbers[(first_row + row) * step + part.offset..];
        let count = BLOCK.min(count - row);
        Block { numbers, step, count, depth }.lay_out(tiles, pieces, Factor::Right, into);
    });
}

/// Multiplies a task's rows, block after block in `right`, with its outputs, `chain` depths at a time.
fn run(tiles: Tiles, pieces: Pieces, right: &[Tile], chain: usize, ending: Ending, mut task: Task) {
    thread_local! {
        static LEFT: RefCell<Vec<Tile>> = const { RefCell::new(Vec::new()) };
    }
    let (arch, part) = (Arch::new(), task.part);
    let (configured, mut sums) = (tiles.configure(), Sums::ZERO);
    let most = part.bias.len().div_ceil(BLOCK) * pieces.tiles_of(chain);
    lend(&LEFT, (most, Tile::ZERO), |left| {
        for start in (0..part.depth).step_by(chain.max(1)) {
            let depth = chain.min(part.depth - start);
            let of_block = pieces.tiles_of(depth);
            let left = &mut left[..part.bias.len().div_ceil(BLOCK) * of_block];
            for (number, into) in left.chunks_exact_mut(of_block).enumerate() {
                let output = number * BLOCK;
                let numbers = &part.weight[output * part.depth + start..];
                let (step, count) = (part.depth, BLOCK.min(part.bias.len() - output));
                Block { numbers, step, count, depth }.lay_out(tiles, pieces, Factor::Left, into);
            }
            // The next task's weights follow in memory.
            let mut next = match chain == part.depth {
                true => Next::new(part.weight.as_ptr_range().end, part.weight.len()),
                false => Next::NOTHING,
            };
            let is_last = start + depth == part.depth;
            for number in 0..task.out.len().div_ceil(BLOCK) {
                let lines = number * BLOCK..task.out.len().min((number + 1) * BLOCK);
                let first = number * pieces.tiles_of(part.depth) + pieces.tiles_of(start);
                let right = &right[first..][..of_block];
                for (block, left) in left.chunks_exact(of_block).enumerate() {
                    let out = &mut task.out[lines.clone()];
                    fetch(out, block * BLOCK);
                    product(&configured, pieces, left, right, &mut sums, &mut next);
                    sums.write(tiles, out, block * BLOCK, start > 0);
                }
                if is_last {
                    task.end(arch, ending, lines, 0..part.bias.len());
                }
            }
        }
    });
    if part.depth == 0 {
        let lines = 0..task.out.len();
        task.end(arch, ending, lines, 0..part.bias.len());
    }
}
