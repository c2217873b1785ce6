//! Division of the tokens of a window into phrases, and the start of the next window.

use super::config::FRAMES_PER_POSITION;

/// Seconds from one timestamp token to the next.
pub(super) const SECONDS_PER_TIMESTAMP: f64 = 0.02;

/// A phrase of a window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Phrase {
    /// From the start of the window.
    pub(super) start_seconds: f64,
    /// From the start of the window.
    pub(super) end_seconds: f64,
    /// Text and timestamps.
    pub(super) tokens: Vec<u32>,
}

/// Divides the tokens of a window into phrases; returns these and the frames to advance by, at least 1
/// and, unless a timestamp lies past the window, at most `window_frames` (if that is not 0).
///
/// As in OpenAI's code and transformers, two timestamps in a row end a phrase. The phrase after the
/// last such pair is cut off by the window; it is decoded again in the next window, which starts at
/// that time. If the last phrase has an end and no other starts, or no phrase is marked, the next
/// window starts at the end of this one.
pub(super) fn split_phrases(
    tokens: &[u32],
    first_timestamp: u32,
    window_frames: usize,
) -> (Vec<Phrase>, usize) {
    let index = |token: u32| token.checked_sub(first_timestamp);
    let is_pair = |at: &usize| index(tokens[*at - 1]).is_some() && index(tokens[*at]).is_some();
    let mut ends: Vec<usize> = (1..tokens.len()).filter(is_pair).collect();
    let window_seconds = window_frames as f64 * SECONDS_PER_TIMESTAMP / FRAMES_PER_POSITION as f64;
    let seconds = |index: u32| f64::from(index) * SECONDS_PER_TIMESTAMP;
    let Some(last_pair) = ends.last().copied() else {
        let last = tokens.iter().rev().find_map(|token| index(*token)).filter(|last| *last > 0);
        let end_seconds = last.map_or(window_seconds, seconds);
        let whole = Phrase { start_seconds: 0.0, end_seconds, tokens: tokens.to_vec() };
        let phrases = if tokens.is_empty() { Vec::new() } else { vec![whole] };
        return (phrases, window_frames.max(1));
    };
    let ends_alone = tokens.len() >= 2
        && index(tokens[tokens.len() - 1]).is_some()
        && index(tokens[tokens.len() - 2]).is_none();
    let advance = if ends_alone {
        ends.push(tokens.len());
        window_frames
    } else {
        // The second timestamp of the pair belongs to the phrase, as in transformers.
        ends.pop();
        ends.push(last_pair + 1);
        index(tokens[last_pair - 1]).map_or(0, |index| FRAMES_PER_POSITION * index as usize)
    };
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let phrases = starts.zip(&ends).filter(|(start, end)| start < end).map(|(start, end)| {
        let tokens = &tokens[start..*end];
        let times: Vec<u32> = tokens.iter().filter_map(|token| index(*token)).collect();
        let last_of_pair = !ends_alone && *end == last_pair + 1;
        let end_time = times.iter().rev().nth(usize::from(last_of_pair && times.len() > 1));
        Phrase {
            start_seconds: index(tokens[0]).map_or(0.0, seconds),
            end_seconds: end_time.copied().map_or(window_seconds, seconds),
            tokens: tokens.to_vec(),
        }
    });
    // Timestamps out of order, possible without the timestamp filters only, must not stop the advance.
    (phrases.collect(), if advance == 0 { window_frames.max(1) } else { advance })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: u32 = 100;
    const FRAMES: usize = 3000;

    fn times(phrases: &[Phrase]) -> Vec<(f64, f64)> {
        let hundredths = |seconds: f64| (seconds * 100.0).round() / 100.0;
        phrases
            .iter()
            .map(|phrase| (hundredths(phrase.start_seconds), hundredths(phrase.end_seconds)))
            .collect()
    }

    #[test]
    fn text_without_times_fills_the_window() {
        let (phrases, advance) = split_phrases(&[1, 2], T, FRAMES);
        assert_eq!((times(&phrases), advance), (vec![(0.0, 30.0)], FRAMES));
        assert_eq!(split_phrases(&[], T, FRAMES), (Vec::new(), FRAMES));
    }

    #[test]
    fn one_phrase_ends_at_its_last_time_and_the_window_is_done() {
        let (phrases, advance) = split_phrases(&[T, 1, 2, T + 150], T, FRAMES);
        assert_eq!((times(&phrases), advance), (vec![(0.0, 3.0)], FRAMES));
    }

    #[test]
    fn a_last_phrase_with_an_end_finishes_the_window() {
        let tokens = [T, 1, T + 50, T + 60, 2, T + 100];
        let (phrases, advance) = split_phrases(&tokens, T, FRAMES);
        assert_eq!((times(&phrases), advance), (vec![(0.0, 1.0), (1.2, 2.0)], FRAMES));
        assert_eq!(phrases[1].tokens, tokens[3..]);
    }

    #[test]
    fn an_unfinished_phrase_is_heard_again_from_its_start() {
        let tokens = [T, 1, T + 50, T + 50, 2, T + 100, T + 120, 3];
        let (phrases, advance) = split_phrases(&tokens, T, FRAMES);
        assert_eq!((times(&phrases), advance), (vec![(0.0, 1.0), (1.0, 2.0)], 200));
        assert_eq!(phrases[1].tokens, tokens[3..7]);
    }

    proptest! {
        #[test]
        fn any_tokens_move_on(tokens in prop::collection::vec(90u32..1700, 0..40), frames in 0usize..4000) {
            let (phrases, advance) = split_phrases(&tokens, T, frames);
            prop_assert!(advance > 0);
            let kept: Vec<u32> = phrases.iter().flat_map(|phrase| phrase.tokens.clone()).collect();
            prop_assert!(tokens.starts_with(&kept));
        }
    }
}
