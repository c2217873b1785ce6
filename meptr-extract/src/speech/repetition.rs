//! Detection of phrases that a model repeats.

/// Longest phrase whose repetition is detected, in tokens.
const MAX_PHRASE_TOKENS: usize = 32;

/// Whether the tokens end in one phrase more than `max_repeats` times.
pub(super) fn ends_in_loop(tokens: &[u32], max_repeats: usize) -> bool {
    looped_phrase(tokens, max_repeats).is_some()
}

/// Tokens with a repeated phrase at their end kept `max_repeats` times.
pub(super) fn shorten_loop(tokens: &[u32], max_repeats: usize) -> &[u32] {
    match looped_phrase(tokens, max_repeats) {
        Some((phrase, count)) => &tokens[..tokens.len() - phrase * (count - max_repeats)],
        None => tokens,
    }
}

/// Length of the shortest phrase that the tokens end in more than `max_repeats` times, and the number
/// of complete repetitions.
fn looped_phrase(tokens: &[u32], max_repeats: usize) -> Option<(usize, usize)> {
    (1..=MAX_PHRASE_TOKENS.min(tokens.len())).find_map(|phrase| {
        let last = &tokens[tokens.len() - phrase..];
        let count = tokens.rchunks_exact(phrase).take_while(|chunk| *chunk == last).count();
        (count > max_repeats).then_some((phrase, count))
    })
}

/// Marks the items to keep, so that at most `max_repeats` equal ones are in a row.
pub(super) fn keep_in_row<T: PartialEq>(items: &[T], max_repeats: usize) -> Vec<bool> {
    let mut in_row = 0;
    (0..items.len())
        .map(|index| {
            let repeats = index > 0 && items[index] == items[index - 1];
            in_row = if repeats { in_row + 1 } else { 1 };
            in_row <= max_repeats
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_a_phrase_at_the_end_said_too_often() {
        assert!(ends_in_loop(&[9, 9, 9, 9, 9], 4));
        assert!(!ends_in_loop(&[9, 9, 9, 9], 4));
        assert!(!ends_in_loop(&[9, 9, 9, 9, 9, 1], 4));
        assert!(!ends_in_loop(&[], 1));
        let phrase: Vec<u32> = [7, 1, 2, 3].into_iter().chain([1, 2, 3].repeat(4)).collect();
        assert!(ends_in_loop(&phrase, 4));
        assert!(!ends_in_loop(&phrase[1..13], 4));
    }

    #[test]
    fn a_loop_is_shortened_to_the_allowed_count_and_other_text_is_not() {
        assert_eq!(shorten_loop(&[5, 1, 2, 1, 2, 1, 2], 2), [5, 1, 2, 1, 2]);
        assert_eq!(shorten_loop(&[5, 1, 2, 1, 2], 2), [5, 1, 2, 1, 2]);
    }

    #[test]
    fn equal_items_in_a_row_are_limited() {
        assert_eq!(keep_in_row(&["a", "a", "a", "b", "a"], 2), [true, true, false, true, true]);
    }
}
