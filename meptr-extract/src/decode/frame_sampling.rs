//! Sampling of frames: evenly spaced indices, as the reference computes them.

/// Frames that the reference keeps of every clip.
pub const FRAMES_PER_CLIP: usize = 30;

/// Indices of the `wanted` frames to keep out of `count`, ascending.
///
/// All when `count <= wanted`, else `trunc(linspace(0, count - 1, wanted))` in f64 with
/// NumPy's order of operations (`i * ((count - 1) / (wanted - 1))`, last value set to the end),
/// because a product rounded differently lands on another frame. In the reference:
/// `np.linspace(0, n - 1, 30).astype(int)`.
pub fn frame_indices(count: usize, wanted: usize) -> Vec<usize> {
    if count <= wanted {
        return (0..count).collect();
    }
    let last = count - 1;
    let step = last as f64 / wanted.saturating_sub(1) as f64;
    let index = |i: usize| match i {
        0 => 0,
        i if i + 1 == wanted => last,
        i => (i as f64 * step) as usize,
    };
    (0..wanted).map(index).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_clips_are_kept_whole() {
        assert_eq!(frame_indices(0, 30), [0usize; 0]);
        assert_eq!(frame_indices(1, 30), [0]);
        assert_eq!(frame_indices(30, 30), (0..30).collect::<Vec<_>>());
        assert_eq!(frame_indices(9, 1), [0]);
        assert_eq!(frame_indices(9, 0), [0usize; 0]);
    }

    /// Reference: NumPy 1.26.4, `np.linspace(0, n - 1, 30).astype(int)`, by
    /// `scripts/golden_decode.py`; one line a count: `n: indices`.
    #[test]
    fn indices_equal_numpy() {
        let table = include_str!("../../../tests/golden/decode_synthetic/linspace.txt");
        let mut rows = 0;
        for line in table.lines() {
            let (count, indices) = line.split_once(':').expect("count: indices");
            let expected: Vec<usize> =
                indices.split_whitespace().map(|word| word.parse().unwrap()).collect();
            assert_eq!(frame_indices(count.parse().unwrap(), FRAMES_PER_CLIP), expected, "{count}");
            rows += 1;
        }
        assert!(rows > 100, "only {rows} rows");
    }

    proptest! {
        #[test]
        fn indices_ascend_from_the_first_frame_to_the_last(
            count in 1usize..100_000_000, wanted in 2usize..100,
        ) {
            let indices = frame_indices(count, wanted);
            prop_assert_eq!(indices.len(), wanted.min(count));
            prop_assert_eq!(indices[0], 0);
            prop_assert_eq!(*indices.last().unwrap(), count - 1);
            prop_assert!(indices.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
