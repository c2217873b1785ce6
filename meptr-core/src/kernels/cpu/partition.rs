//! Outputs shared out over threads, and what follows their sums.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::dispatch;
use super::multiply::{Ending, Part};
use crate::backbones::{Activation, vector_math};

/// The most outputs of a task that leave no thread idle for long: up to `most` times `panel`.
pub(super) fn outputs_at_once(panel: usize, most: usize, parts: &[Part]) -> usize {
    let threads = rayon::current_num_threads();
    let panels: usize = parts.iter().map(|part| part.bias.len().div_ceil(panel)).sum();
    let is_even = |size: &usize| {
        let tasks = panels.div_ceil(*size);
        tasks >= 8 * threads || (tasks.is_multiple_of(threads) && panels.is_multiple_of(*size))
    };
    panel * (1..=most).rev().find(is_even).unwrap_or(1)
}

/// Cuts the outputs of parts into tasks of `at_once` of them, each with its columns of all lines; the
/// first part's first output is at `place`.
pub(super) fn tasks<'a, 'o>(
    out: &'o mut [f32],
    place: Place,
    parts: &[Part<'a>],
    at_once: usize,
) -> Vec<Task<'a, 'o>> {
    let mut tasks: Vec<Task> = Vec::new();
    let mut first_column = place.first_column;
    for part in parts {
        for first in (0..part.bias.len()).step_by(at_once) {
            let outputs = at_once.min(part.bias.len() - first);
            let part = Part {
                weight: &part.weight[first * part.depth..][..outputs * part.depth],
                bias: &part.bias[first..first + outputs],
                ..*part
            };
            let place = Place { first_column, ..place };
            tasks.push(Task { part, place, out: Vec::with_capacity(out.len() / place.width) });
            first_column += outputs;
        }
    }
    for line in out.chunks_exact_mut(place.width) {
        let mut line = &mut line[place.first_column..];
        for task in &mut tasks {
            let (columns, rest) = line.split_at_mut(task.part.bias.len());
            task.out.push(columns);
            line = rest;
        }
    }
    tasks
}

/// Some outputs, and their columns of some lines.
pub(super) struct Task<'a, 'o> {
    pub(super) part: Part<'a>,
    pub(super) place: Place,
    pub(super) out: Vec<&'o mut [f32]>,
}

/// Where a task's lines lie in the output.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) first_row: usize,
    pub(super) first_column: usize,
    pub(super) width: usize,
}

impl<'a, 'o> Task<'a, 'o> {
    /// The same in several tasks of so many lines, at least one.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn split(self, lines: usize) -> Vec<Self> {
        if self.out.len() <= lines {
            return vec![self];
        }
        let Self { part, place, out } = self;
        let mut tasks: Vec<Task<'a, 'o>> = Vec::new();
        for (number, line) in out.into_iter().enumerate() {
            if number % lines == 0 {
                let place = Place { first_row: place.first_row + number, ..place };
                tasks.push(Task { part, place, out: Vec::with_capacity(lines) });
            }
            tasks.last_mut().expect("the first line makes one").out.push(line);
        }
        tasks
    }

    /// Scale, bias and what follows for some of the task's lines and outputs, whose sums are there.
    pub(super) fn end(
        &mut self,
        arch: Arch,
        ending: Ending,
        lines: Range<usize>,
        outputs: Range<usize>,
    ) {
        match arch {
            Arch::Scalar => dispatch(arch, End::<false> { task: self, ending, lines, outputs }),
            _ => dispatch(arch, End::<true> { task: self, ending, lines, outputs }),
        }
    }
}

struct End<'t, 'a, 'o, 'e, const FUSED: bool> {
    task: &'t mut Task<'a, 'o>,
    ending: Ending<'e>,
    lines: Range<usize>,
    outputs: Range<usize>,
}

impl<const FUSED: bool> WithSimd for End<'_, '_, '_, '_, FUSED> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { task: Task { part, place, out }, ending, lines, outputs } = self;
        let first_row = place.first_row + lines.start;
        for (row, line) in out[lines].iter_mut().enumerate() {
            let line = &mut line[outputs.clone()];
            let bias = &part.bias[outputs.clone()];
            let at = (first_row + row) * place.width + place.first_column + outputs.start;
            end::<FUSED>(line, bias, part.scale, ending, at);
        }
    }
}

/// Scale, bias and what follows, for a stretch of a line that starts at number `at` of the output.
#[inline(always)]
fn end<const FUSED: bool>(line: &mut [f32], bias: &[f32], scale: f32, ending: Ending, at: usize) {
    let biased = line.iter_mut().zip(bias);
    match ending {
        Ending::Linear => biased.for_each(|(x, bias)| *x = *x * scale + bias),
        Ending::Activated(Activation::Gelu) => {
            biased.for_each(|(x, bias)| *x = vector_math::gelu::<FUSED>(*x * scale + bias));
        }
        Ending::Activated(Activation::QuickGelu) => {
            biased.for_each(|(x, bias)| *x = vector_math::quick_gelu::<FUSED>(*x * scale + bias));
        }
        Ending::Plus(residual) => {
            let residual = &residual[at..at + bias.len()];
            for ((x, bias), residual) in biased.zip(residual) {
                *x += bias + residual; // parts with a residual have the scale 1
            }
        }
    }
}
