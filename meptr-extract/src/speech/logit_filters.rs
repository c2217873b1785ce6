//! Filters of the logits: tokens that may not come next.

use super::tokens::SpecialTokens;

/// Forbids tokens by setting their logits to minus infinity.
///
/// Radford et al. 2022, section 4.5, <https://arxiv.org/abs/2212.04356>; equal to OpenAI's and
/// transformers' filters. They suppress the tokens that the model lists. With timestamps, these come in
/// pairs (the end of a phrase and the start of the next), never decrease, start early, and are chosen
/// when all together are more probable than any other token.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogitFilter<'a> {
    /// Special tokens of the model.
    pub(super) tokens: &'a SpecialTokens,
    /// Whether the filters of timestamps apply.
    pub(super) timestamps: bool,
}

impl LogitFilter<'_> {
    /// Applies all filters to the logits of the token after `tokens`, which exclude the prompt.
    pub(super) fn apply(&self, tokens: &[u32], logits: &mut [f32]) {
        let begin = if tokens.is_empty() { &self.tokens.suppressed_at_begin[..] } else { &[] };
        for token in self.tokens.suppressed.iter().chain(begin) {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let first_timestamp = self.tokens.first_timestamp as usize;
        if !self.timestamps || first_timestamp >= logits.len() {
            return;
        }
        forbid(&mut logits[self.tokens.no_timestamps as usize..first_timestamp]);
        self.keep_pairs(tokens, logits);
        self.keep_order(tokens, logits);
        if tokens.is_empty() {
            forbid(&mut logits[..first_timestamp]);
            if let Some(highest) = self.tokens.max_initial_timestamp_index {
                let above = first_timestamp.saturating_add(highest as usize).saturating_add(1);
                forbid(logits.get_mut(above..).unwrap_or_default());
            }
        }
        let (others, timestamps) = logits.split_at_mut(first_timestamp);
        let highest_other = others.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if log_sum_exp(timestamps) > f64::from(highest_other) {
            forbid(others);
        }
    }

    /// Forbids, after a timestamp: another one if it starts a phrase, else text.
    fn keep_pairs(&self, tokens: &[u32], logits: &mut [f32]) {
        if !self.ends_in_timestamp(tokens) {
            return;
        }
        if self.begins_phrase(tokens) {
            forbid(&mut logits[self.tokens.first_timestamp as usize..]);
        } else {
            forbid(&mut logits[..self.tokens.end as usize]);
        }
    }

    /// Forbids timestamps before the last one, and that one itself except as the start of a phrase.
    fn keep_order(&self, tokens: &[u32], logits: &mut [f32]) {
        let latest = tokens.iter().rev().find(|token| self.tokens.is_timestamp(**token));
        if let Some(latest) = latest {
            let may_repeat = self.ends_in_timestamp(tokens) && !self.begins_phrase(tokens);
            let first = self.tokens.first_timestamp as usize;
            let allowed = *latest as usize + usize::from(!may_repeat);
            forbid(&mut logits[first..allowed.max(first)]);
        }
    }

    fn ends_in_timestamp(&self, tokens: &[u32]) -> bool {
        tokens.last().is_some_and(|token| self.tokens.is_timestamp(*token))
    }

    /// Whether the last token, a timestamp, follows another one or nothing.
    fn begins_phrase(&self, tokens: &[u32]) -> bool {
        tokens.len() < 2 || self.tokens.is_timestamp(tokens[tokens.len() - 2])
    }
}

fn forbid(logits: &mut [f32]) {
    logits.fill(f32::NEG_INFINITY);
}

/// `ln(sum(exp(x)))`; minus infinity when all of `x` is.
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    if highest == f64::NEG_INFINITY {
        return highest;
    }
    let sum: f64 = logits
        .iter()
        .filter(|logit| !logit.is_nan())
        .map(|logit| (f64::from(*logit) - highest).exp())
        .sum();
    highest + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::super::tokens::tests::tokens;
    use super::*;

    const VOCABULARY: usize = 30;

    /// Tokens that may follow when the logits of text exceed those of timestamps by `lead`.
    fn allowed(timestamps: bool, before: &[u32], lead: f32) -> Vec<u32> {
        let special = tokens();
        let mut logits: Vec<f32> =
            (0..VOCABULARY).map(|token| if token < 18 { lead } else { 0.0 }).collect();
        LogitFilter { tokens: &special, timestamps }.apply(before, &mut logits);
        let allowed = logits.iter().enumerate().filter(|(_, logit)| **logit > f32::NEG_INFINITY);
        allowed.map(|(token, _)| token as u32).collect()
    }

    fn tokens_in(ranges: &[std::ops::RangeInclusive<u32>]) -> Vec<u32> {
        ranges.iter().cloned().flatten().collect()
    }

    #[test]
    fn without_timestamps_only_suppressed_tokens_are_forbidden() {
        assert_eq!(allowed(false, &[], 0.0), tokens_in(&[1..=9, 17..=29]));
        assert_eq!(allowed(false, &[3], 0.0), tokens_in(&[0..=10, 17..=29]));
    }

    #[test]
    fn the_first_token_is_an_early_timestamp() {
        assert_eq!(allowed(true, &[], 50.0), tokens_in(&[18..=23]));
    }

    #[test]
    fn text_follows_the_start_of_a_phrase() {
        assert_eq!(allowed(true, &[19], 0.0), tokens_in(&[0..=10]));
        assert_eq!(allowed(true, &[19, 4, 21, 22], 0.0), tokens_in(&[0..=10]));
    }

    #[test]
    fn a_phrase_ends_after_it_starts_and_text_may_go_on() {
        assert_eq!(allowed(true, &[19, 4], 50.0), tokens_in(&[0..=10, 20..=29]));
    }

    #[test]
    fn after_the_end_of_a_phrase_comes_the_next_or_the_end_of_text() {
        assert_eq!(allowed(true, &[19, 4, 22], 50.0), tokens_in(&[10..=10, 22..=29]));
    }

    #[test]
    fn likely_timestamps_together_displace_text() {
        assert_eq!(allowed(true, &[19, 4], 2.0), tokens_in(&[20..=29])); // ln 10 > 2
        assert_eq!(allowed(true, &[19, 4], 2.5), tokens_in(&[0..=10, 20..=29]));
    }

    #[test]
    fn extreme_logits_do_not_overflow() {
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 3]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[f32::MAX, f32::NEG_INFINITY, f32::NAN]), f64::from(f32::MAX));
        let tokens = tokens();
        for value in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
            let mut logits = vec![value; VOCABULARY];
            LogitFilter { tokens: &tokens, timestamps: true }.apply(&[29, 1, 29], &mut logits);
        }
    }
}
