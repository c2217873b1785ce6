//! Attention on tiles.
//!
//! Scores come out of the tiles with a key's in a row, one for each query, so that the softmax of
//! 16 queries runs side by side, and two keys' rows are a row of the next product's right factor.

use std::cell::RefCell;

use super::super::attention::{Attend, Head};
use super::super::scratch::lend;
use super::kernel::{Next, product};
use super::pieces::{BLOCK, Block, Factor, Pieces, Tile};
use super::softmax::softmax;
use super::sums::Sums;
use super::{Configured, Tiles};

/// Sets what some queries of a head read.
pub(in super::super) fn attend(tiles: Tiles, pieces: Pieces, attend: Attend, head: Head) {
    thread_local! {
        static TILES: RefCell<Vec<Tile>> = const { RefCell::new(Vec::new()) };
        static SCORES: RefCell<Vec<Sums>> = const { RefCell::new(Vec::new()) };
    }
    let (keys, width) = (attend.lengths[head.batch], attend.head_width);
    let key_blocks = keys.div_ceil(BLOCK);
    // Memory of the keys, the values, a block's queries and its weights.
    let of_keys = key_blocks * pieces.tiles_of(width);
    let of_values = width.div_ceil(BLOCK) * pieces.tiles_of(keys);
    let of_queries = pieces.tiles_of(width);
    let all = of_keys + of_values + of_queries + pieces.tiles_of(keys);
    lend(&TILES, (all, Tile::ZERO), |memory| {
        lend(&SCORES, (key_blocks, Sums::ZERO), |scores| {
            let (left_keys, memory) = memory.split_at_mut(of_keys);
            let (left_values, memory) = memory.split_at_mut(of_values);
            let (queries, weights) = memory.split_at_mut(of_queries);
            lay_out_keys(tiles, pieces, &attend, &head, left_keys);
            lay_out_values(tiles, pieces, &attend, &head, left_values);
            let run = Run {
                tiles,
                pieces,
                configured: tiles.configure(),
                keys: left_keys,
                values: left_values,
            };
            run.all_queries(attend, head, queries, weights, scores);
        });
    });
}

fn lay_out_keys(tiles: Tiles, pieces: Pieces, attend: &Attend, head: &Head, into: &mut [Tile]) {
    let (keys, step, depth) = (attend.lengths[head.batch], attend.step(), attend.head_width);
    for (number, into) in into.chunks_exact_mut(pieces.tiles_of(depth)).enumerate() {
        let first = number * BLOCK;
        let numbers = &attend.part(head, 1)[first * step..];
        let count = BLOCK.min(keys - first);
        Block { numbers, step, count, depth }.lay_out(tiles, pieces, Factor::Left, into);
    }
}

fn lay_out_values(tiles: Tiles, pieces: Pieces, attend: &Attend, head: &Head, into: &mut [Tile]) {
    let (keys, step, width) = (attend.lengths[head.batch], attend.step(), attend.head_width);
    for (number, into) in into.chunks_exact_mut(pieces.tiles_of(keys)).enumerate() {
        let first = number * BLOCK;
        let numbers = &attend.part(head, 2)[first..];
        let count = BLOCK.min(width - first);
        Block { numbers, step, count, depth: keys }.lay_out(
            tiles,
            pieces,
            Factor::LeftTurned,
            into,
        );
    }
}

struct Run<'a> {
    tiles: Tiles,
    pieces: Pieces,
    configured: Configured,
    /// Left factor, a block of keys after the other.
    keys: &'a [Tile],
    /// Left factor, a block of a value's numbers after the other.
    values: &'a [Tile],
}

impl Run<'_> {
    /// - `queries`, `weights`: memory of right factors
    /// - `scores`: memory, one for each block of keys
    fn all_queries(
        &self,
        attend: Attend,
        mut head: Head,
        queries: &mut [Tile],
        weights: &mut [Tile],
        scores: &mut [Sums],
    ) {
        let Self { tiles, pieces, configured, .. } = self;
        let (step, depth, keys) = (attend.step(), attend.head_width, attend.lengths[head.batch]);
        let all = attend.part(&head, 0);
        let (mut read, mut nothing) = (Sums::ZERO, Next::NOTHING);
        for (number, lines) in head.out.chunks_mut(BLOCK).enumerate() {
            let numbers = &all[(head.first + number * BLOCK) * step..];
            let block = Block { numbers, step, count: lines.len(), depth };
            block.lay_out(*tiles, *pieces, Factor::Right, queries);
            for (left, scores) in self.keys.chunks_exact(queries.len()).zip(&mut *scores) {
                product(configured, *pieces, left, queries, scores, &mut nothing);
            }
            let inverse = softmax(*tiles, *pieces, scores, keys, weights);
            for (number, left) in self.values.chunks_exact(weights.len()).enumerate() {
                product(configured, *pieces, left, weights, &mut read, &mut nothing);
                read.scale(*tiles, &inverse);
                read.write(*tiles, lines, number * BLOCK, false);
            }
        }
    }
}
