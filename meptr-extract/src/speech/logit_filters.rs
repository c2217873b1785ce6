//! Which tokens may come next.

use super::tokens::SpecialTokens;

/// Forbids tokens by setting their logits to minus infinity.
///
/// Radford et al. 2022, section 4.5, <https://arxiv.org/abs/2212.04356>; equal to OpenAI's and
/// transformers' rules: suppressed tokens; and with timestamps, these come in pairs (the end of a
/// phrase and the start of the next), never go back, start early, and are taken when all together
/// are likelier than any one other token.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenRules<'a> {
    /// The model's tokens.
    pub(super) tokens: &'a SpecialTokens,
    /// Whether the rules of timestamps are in force.
    pub(super) timestamps: bool,
}

impl TokenRules<'_> {
    /// Applies all rules to the logits of the token after `said`, the prompt not included.
    pub(super) fn apply(&self, said: &[u32], logits: &mut [f32]) {
        let begin = if said.is_empty() { &self.tokens.suppressed_at_begin[..] } else { &[] };
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
        self.keep_pairs(said, logits);
        self.keep_order(said, logits);
        if said.is_empty() {
            forbid(&mut logits[..first_timestamp]);
            if let Some(highest) = self.tokens.max_initial_timestamp_index {
                let above = first_timestamp.saturating_add(highest as usize).saturating_add(1);
                forbid(logits.get_mut(above..).unwrap_or_default());
            }
        }
        let (others, timestamps) = logits.split_at_mut(first_timestamp);
        let likeliest_other = others.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if log_sum_exp(timestamps) > f64::from(likeliest_other) {
            forbid(others);
        }
    }

    /// After a timestamp comes text if it began a phrase, else the next phrase or the end.
    fn keep_pairs(&self, said: &[u32], logits: &mut [f32]) {
        if !self.ends_in_timestamp(said) {
            return;
        }
        if self.begins_phrase(said) {
            forbid(&mut logits[self.tokens.first_timestamp as usize..]);
        } else {
            forbid(&mut logits[..self.tokens.end as usize]);
        }
    }

    /// Only the start of a phrase may repeat a time: that of the end before it.
    fn keep_order(&self, said: &[u32], logits: &mut [f32]) {
        let latest = said.iter().rev().find(|token| self.tokens.is_timestamp(**token));
        if let Some(latest) = latest {
            let may_repeat = self.ends_in_timestamp(said) && !self.begins_phrase(said);
            let first = self.tokens.first_timestamp as usize;
            let allowed = *latest as usize + usize::from(!may_repeat);
            forbid(&mut logits[first..allowed.max(first)]);
        }
    }

    fn ends_in_timestamp(&self, said: &[u32]) -> bool {
        said.last().is_some_and(|token| self.tokens.is_timestamp(*token))
    }

    /// Whether the last token, a timestamp, follows another one or nothing.
    fn begins_phrase(&self, said: &[u32]) -> bool {
        said.len() < 2 || self.tokens.is_timestamp(said[said.len() - 2])
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

    /// Tokens that may follow when text is likelier than time by `lead`.
    fn allowed(timestamps: bool, said: &[u32], lead: f32) -> Vec<u32> {
        let tokens = tokens();
        let mut logits: Vec<f32> =
            (0..VOCABULARY).map(|token| if token < 18 { lead } else { 0.0 }).collect();
        TokenRules { tokens: &tokens, timestamps }.apply(said, &mut logits);
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
            TokenRules { tokens: &tokens, timestamps: true }.apply(&[29, 1, 29], &mut logits);
        }
    }
}
