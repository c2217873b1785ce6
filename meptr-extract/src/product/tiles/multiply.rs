//! Rows times weights on tiles.

use std::cell::RefCell;

use pulp::Arch;
use rayon::prelude::*;

use super::super::multiply::{Ending, Part, Rows};
use super::super::scratch::{lend, lend_to_all};
use super::super::task::{Task, outputs_at_once, tasks};
use super::Tiles;
use super::kernel::{Next, product};
use super::pieces::{BLOCK, Block, Pieces, Tile};
use super::sums::{Sums, fetch};

/// Depths of a block of outputs that are multiplied at a time: a few blocks of them and one of the
/// rows stay in the second-level cache.
const MAX_CHAIN: usize = 1024;
/// Blocks of outputs that are laid out at a time, so that rows are fetched once for all of them.
const BLOCKS_AT_ONCE: usize = 4;
/// Rows up to which the weights that come next are fetched meanwhile; outputs are then laid out
/// block by block in all their depth, because those weights lie together.
const FETCHING_ROWS: usize = 128;
/// Tiles of rows that are laid out at a time: 16 MB.
const MAX_LAID_OUT: usize = 1 << 14;

/// Sets `out` to the products of rows with all parts; a line of it has `width` numbers.
///
/// Rows are laid out once for all threads, which share the outputs.
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
    let sources = sources(parts);
    let tiles_of_block: usize = sources.iter().map(|source| pieces.tiles_of(source.depth)).sum();
    let blocks = rows.count.div_ceil(BLOCK);
    let at_once = blocks.min((MAX_LAID_OUT / tiles_of_block.max(1)).max(1));
    let outputs = match rows.count {
        ..=FETCHING_ROWS => BLOCK,
        _ => outputs_at_once(BLOCK, BLOCKS_AT_ONCE, parts),
    };
    lend_to_all(&LAID_OUT, (at_once * tiles_of_block, Tile::ZERO), |laid_out| {
        for (number, out) in out.chunks_mut(at_once * BLOCK * width).enumerate() {
            let first_row = number * at_once * BLOCK;
            let count = out.len() / width;
            let laid_out = lay_out(tiles, pieces, rows, (first_row, count), &sources, laid_out);
            tasks(out, first_row, width, parts, outputs).into_par_iter().for_each(|task| {
                let source = Source { offset: task.part.offset, depth: task.part.depth };
                let at = sources.iter().position(|one| *one == source);
                let right = laid_out[at.expect("there is a source for each part")];
                run(tiles, pieces, right, ending, task);
            });
        }
    });
}

/// What parts read of each row.
#[derive(Clone, Copy, PartialEq)]
struct Source {
    offset: usize,
    depth: usize,
}

fn sources(parts: &[Part]) -> Vec<Source> {
    let mut sources: Vec<Source> =
        parts.iter().map(|part| Source { offset: part.offset, depth: part.depth }).collect();
    sources.dedup();
    sources
}

/// Lays out rows `first_row..first_row + count`, all blocks of one source after the other.
fn lay_out<'t>(
    tiles: Tiles,
    pieces: Pieces,
    rows: Rows,
    (first_row, count): (usize, usize),
    sources: &[Source],
    laid_out: &'t mut [Tile],
) -> Vec<&'t [Tile]> {
    let mut work = Vec::new();
    let mut rest = laid_out;
    for source in sources {
        let of_block = pieces.tiles_of(source.depth);
        let here;
        (here, rest) = rest.split_at_mut(count.div_ceil(BLOCK) * of_block);
        work.push((source, here));
    }
    work.par_iter_mut().for_each(|(source, here)| {
        let of_block = pieces.tiles_of(source.depth).max(1);
        here.par_chunks_mut(of_block).enumerate().for_each(|(number, into)| {
            let row = number * BLOCK;
            let numbers = &rows.numbers[(first_row + row) * rows.step + source.offset..];
            let (step, count) = (rows.step, BLOCK.min(count - row));
            Block { numbers, step, count, depth: source.depth }.lay_out_right(tiles, pieces, into);
        });
    });
    work.into_iter().map(|(_, here)| &*here).collect()
}

/// Multiplies a task's rows, block after block in `right`, with its outputs.
fn run(tiles: Tiles, pieces: Pieces, right: &[Tile], ending: Ending, mut task: Task) {
    thread_local! {
        static LEFT: RefCell<Vec<Tile>> = const { RefCell::new(Vec::new()) };
    }
    let (arch, part) = (Arch::new(), task.part);
    let is_fetching = task.out.len() <= FETCHING_ROWS;
    let (configured, mut sums) = (tiles.configure(), Sums::ZERO);
    let chain = if is_fetching { part.depth } else { part.depth.min(MAX_CHAIN) };
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
                Block { numbers, step, count, depth }.lay_out_left(tiles, pieces, into);
            }
            let mut next = match is_fetching {
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
