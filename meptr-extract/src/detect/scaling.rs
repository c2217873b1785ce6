//! Bilinear resizing, as in OpenCV.

#[cfg(any(test, feature = "cuda"))]
use meptr_core::kernels::bilinear::{BilinearTap, Blending};

/// Fixed-point unit of OpenCV's interpolation weights: 1/2048.
const WEIGHT_BITS: u32 = 11;

/// OpenCV's `resize` with `INTER_LINEAR` on bytes, in the same fixed-point arithmetic.
///
/// - `pixels`: rows from the top, `CHANNELS` bytes a pixel
/// - `from`, `to`: columns and rows, at least 1
pub(super) fn resize<const CHANNELS: usize>(
    pixels: &[u8],
    from: [usize; 2],
    to: [usize; 2],
) -> Vec<u8> {
    if from == to {
        return pixels.to_vec();
    }
    if from == to.map(|side| 2 * side) {
        return halve::<CHANNELS>(pixels, from[0]); // a special case in OpenCV as well
    }
    let columns = taps(from[0], to[0], true);
    let rows = taps(from[1], to[1], false);
    let blend_row = |y: usize| -> Vec<i32> {
        let row = &pixels[y * from[0] * CHANNELS..][..from[0] * CHANNELS];
        let blend = |tap: &Tap, channel: usize| {
            let value = |x: usize| i32::from(row[x * CHANNELS + channel]);
            value(tap.first) * tap.weights[0] + value(tap.second) * tap.weights[1]
        };
        let mut blended = Vec::with_capacity(to[0] * CHANNELS);
        for tap in &columns {
            blended.extend_from_slice(&std::array::from_fn::<_, CHANNELS, _>(|c| blend(tap, c)));
        }
        blended
    };
    let mut scaled = Vec::with_capacity(to[0] * to[1] * CHANNELS);
    for tap in &rows {
        let (upper, lower) = (blend_row(tap.first), blend_row(tap.second));
        let share = |value: i32, weight: i32| (weight * (value >> 4)) >> 16;
        scaled.extend(upper.iter().zip(&lower).map(|(&upper, &lower)| {
            ((share(upper, tap.weights[0]) + share(lower, tap.weights[1]) + 2) >> 2) as u8
        }));
    }
    scaled
}

/// Taps with which the GPU kernel computes [`resize`]: for each output column and row, the pixels
/// around it. With them comes the kind of blending.
#[cfg(any(test, feature = "cuda"))]
pub(super) fn sampling(from: [usize; 2], to: [usize; 2]) -> ([Vec<BilinearTap>; 2], Blending) {
    let alike = |second: usize| {
        let pairs = |side: usize| {
            let pair = |at| BilinearTap {
                indices: [at * (second + 1), at * (second + 1) + second],
                weights: [0; 2],
            };
            (0..side).map(pair).collect()
        };
        (to.map(pairs), Blending::Mean)
    };
    if from == to {
        return alike(0);
    }
    if from == to.map(|side| 2 * side) {
        return alike(1);
    }
    let pair = |tap: Tap| BilinearTap {
        indices: [tap.first, tap.second],
        weights: tap.weights.map(i32::cast_unsigned),
    };
    let pairs = |axis: usize| taps(from[axis], to[axis], axis == 0).into_iter().map(pair).collect();
    ([0, 1].map(pairs), Blending::Weights2048)
}

/// Halves an image: each pixel is the mean of 2x2.
fn halve<const CHANNELS: usize>(pixels: &[u8], width: usize) -> Vec<u8> {
    let mut halved = Vec::with_capacity(pixels.len() / 4);
    for rows in pixels.chunks_exact(2 * width * CHANNELS) {
        let (upper, lower) = rows.split_at(width * CHANNELS);
        let pairs = upper.chunks_exact(2 * CHANNELS).zip(lower.chunks_exact(2 * CHANNELS));
        halved.extend(pairs.flat_map(|(upper, lower)| {
            std::array::from_fn::<_, CHANNELS, _>(|c| {
                let corners = [upper[c], upper[c + CHANNELS], lower[c], lower[c + CHANNELS]];
                ((corners.map(u32::from).iter().sum::<u32>() + 2) >> 2) as u8
            })
        }));
    }
    halved
}

/// Two neighbouring pixels of an output position, and their weights in 1/2048.
struct Tap {
    first: usize,
    second: usize,
    weights: [i32; 2],
}

/// Before the first and after the last pixel, both taps are that pixel. Horizontally it counts
/// once; vertically its two weights are rounded separately, as in OpenCV.
fn taps(from: usize, to: usize, is_across: bool) -> Vec<Tap> {
    let step = 1.0 / (to as f64 / from as f64);
    let inside = |place: f32| (place.max(0.0) as usize).min(from - 1);
    let tap = |index: usize| {
        let position = ((index as f64 + 0.5) * step - 0.5) as f32;
        let (first, second) = (inside(position.floor()), inside(position.floor() + 1.0));
        let share = if is_across && first == second { 0.0 } else { position - position.floor() };
        let weight = |share: f32| (share * (1 << WEIGHT_BITS) as f32).round_ties_even() as i32;
        Tap { first, second, weights: [weight(1.0 - share), weight(share)] }
    };
    (0..to).map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_picture_stays_plain_at_any_scale() {
        for [width, height] in [[5, 3], [50, 31], [128, 64], [1, 1], [200, 7]] {
            for to in [[64, 38], [25, 15], [64, 32], [3, 1]] {
                let grey = resize::<1>(&vec![201; width * height], [width, height], to);
                let colours = resize::<3>(&vec![201; width * height * 3], [width, height], to);
                assert_eq!((grey.len(), colours.len()), (to[0] * to[1], to[0] * to[1] * 3));
                assert!(grey.iter().chain(&colours).all(|value| *value == 201));
            }
        }
    }
}
