//! Attention on tile registers.
//!
//! Scores come out of the tiles with one key per row and one query per column. The softmax of 16
//! queries therefore runs side by side, and the rows of two keys are one row of the right operand of
//! the multiplication with the values.

use std::cell::RefCell;

use super::super::attention_args::{AttentionArgs, HeadQueries, QkvPart};
use super::super::scratch::with_scratch;
use super::accumulators::Accumulators;
use super::bf16_split::{BLOCK, Bf16Terms, Operand, RowBlock, Tile};
use super::microkernel::{LinePrefetch, multiply};
use super::registers::{Amx, TileConfig};
use super::softmax::unnormalized_softmax;

/// Computes the attention of some queries of one head.
pub(in super::super) fn attention(
    amx: Amx,
    terms: Bf16Terms,
    args: AttentionArgs,
    queries: HeadQueries,
) {
    thread_local! {
        static TILES: RefCell<Vec<Tile>> = const { RefCell::new(Vec::new()) };
        static SCORES: RefCell<Vec<Accumulators>> = const { RefCell::new(Vec::new()) };
    }
    let (keys, width) = (args.lengths[queries.batch], args.head_width);
    let key_blocks = keys.div_ceil(BLOCK);
    let key_tiles = key_blocks * terms.tiles(width);
    let value_tiles = width.div_ceil(BLOCK) * terms.tiles(keys);
    let query_tiles = terms.tiles(width);
    let weight_tiles = terms.tiles(keys);
    let all_tiles = key_tiles + value_tiles + query_tiles + weight_tiles;
    with_scratch(&TILES, all_tiles, Tile::ZERO, |tiles| {
        with_scratch(&SCORES, key_blocks, Accumulators::ZERO, |scores| {
            let (packed_keys, tiles) = tiles.split_at_mut(key_tiles);
            let (packed_values, tiles) = tiles.split_at_mut(value_tiles);
            let (packed_queries, weights) = tiles.split_at_mut(query_tiles);
            pack_keys(amx, terms, &args, &queries, packed_keys);
            pack_values(amx, terms, &args, &queries, packed_values);
            let attention = AmxAttention {
                amx,
                terms,
                config: amx.configure(),
                keys: packed_keys,
                values: packed_values,
            };
            attention.run(args, queries, AttentionScratch { packed_queries, weights, scores });
        });
    });
}

fn pack_keys(
    amx: Amx,
    terms: Bf16Terms,
    args: &AttentionArgs,
    head: &HeadQueries,
    tiles: &mut [Tile],
) {
    let (keys, stride, depth) = (args.lengths[head.batch], args.step_stride(), args.head_width);
    let all = args.part(head, QkvPart::Key);
    for (number, tiles) in tiles.chunks_exact_mut(terms.tiles(depth)).enumerate() {
        let first = number * BLOCK;
        let (values, count) = (&all[first * stride..], BLOCK.min(keys - first));
        RowBlock { values, stride, count, depth }.pack(amx, terms, Operand::Left, tiles);
    }
}

fn pack_values(
    amx: Amx,
    terms: Bf16Terms,
    args: &AttentionArgs,
    head: &HeadQueries,
    tiles: &mut [Tile],
) {
    let (keys, stride, width) = (args.lengths[head.batch], args.step_stride(), args.head_width);
    let all = args.part(head, QkvPart::Value);
    for (number, tiles) in tiles.chunks_exact_mut(terms.tiles(keys)).enumerate() {
        let first = number * BLOCK;
        let (values, count) = (&all[first..], BLOCK.min(width - first));
        let block = RowBlock { values, stride, count, depth: keys };
        block.pack(amx, terms, Operand::LeftTransposed, tiles);
    }
}

struct AmxAttention<'a> {
    amx: Amx,
    terms: Bf16Terms,
    config: TileConfig,
    /// Left operand, one block of keys after the other.
    keys: &'a [Tile],
    /// Left operand, one block of a value's columns after the other.
    values: &'a [Tile],
}

/// Memory for one block of queries.
struct AttentionScratch<'a> {
    /// Right operand.
    packed_queries: &'a mut [Tile],
    /// Attention weights, right operand.
    weights: &'a mut [Tile],
    /// One entry per block of keys.
    scores: &'a mut [Accumulators],
}

impl AmxAttention<'_> {
    fn run(&self, args: AttentionArgs, mut head: HeadQueries, scratch: AttentionScratch) {
        let Self { amx, terms, config, .. } = self;
        let AttentionScratch { packed_queries, weights, scores } = scratch;
        let (stride, depth, keys) = (args.step_stride(), args.head_width, args.lengths[head.batch]);
        let queries = args.part(&head, QkvPart::Query);
        let (mut sums, mut no_prefetch) = (Accumulators::ZERO, LinePrefetch::NONE);
        for (number, rows) in head.out.chunks_mut(BLOCK).enumerate() {
            let values = &queries[(head.first + number * BLOCK) * stride..];
            let block = RowBlock { values, stride, count: rows.len(), depth };
            block.pack(*amx, *terms, Operand::Right, packed_queries);
            for (keys, scores) in self.keys.chunks_exact(packed_queries.len()).zip(&mut *scores) {
                multiply(config, *terms, [keys, packed_queries], scores, &mut no_prefetch);
            }
            let inverse_sums = unnormalized_softmax(*amx, *terms, scores, keys, weights);
            for (number, values) in self.values.chunks_exact(weights.len()).enumerate() {
                multiply(config, *terms, [values, weights], &mut sums, &mut no_prefetch);
                sums.scale(*amx, &inverse_sums);
                sums.write(*amx, rows, number * BLOCK, false);
            }
        }
    }
}
