//! Drawn bodies: clothes, posture, gestures.

use meptr_core::Emotion;

use super::between;
use super::canvas::{Canvas, Colour, Point, blend, from_hue, scaled};
use super::face::{Actor, Head};
use super::plan::Cue;

/// Posture of a body; lengths in half widths of the head, from its middle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posture {
    elbow: Point,
    hand: Point,
    shoulder_height: f32,
    /// Distance by which the head hangs.
    pub(super) head_drop: f32,
    /// Angle of the head, radians.
    pub(super) head_tilt: f32,
    /// Distance by which hands and head move.
    pub(super) swing: f32,
    /// Movements a second.
    pub(super) pace: f32,
    /// Scale of the person in the image; 1 = average.
    pub(super) nearness: f32,
    clothes: Colour,
    /// 0 = a shirt, 1 = jacket and tie.
    formality: f32,
}

impl Posture {
    /// Posture of a cue: its emotion by its strength; an extravert is near, spreads the
    /// arms and moves much, a conscientious person wears dark formal clothes, an open one bright
    /// colours (`hue` in turns), an unstable one fidgets.
    pub(super) fn of_cue(cue: &Cue, hue: f32) -> Self {
        let rows: [[f32; 9]; Emotion::COUNT] = [
            // elbow, hand, shoulders, drop, tilt, swing, pace
            [1.75, 3.0, 1.70, 4.4, 1.75, 0.00, 0.00, 0.05, 0.7],
            [2.75, 2.9, 1.10, 3.1, 1.60, 0.05, 0.00, 0.22, 2.6],
            [2.30, 3.0, 2.75, 1.2, 1.75, 0.00, -0.14, 0.08, 1.0],
            [1.60, 3.0, 0.45, 2.2, 1.45, 0.08, 0.05, 0.08, 4.5],
            [2.70, 1.9, 2.75, -0.3, 1.70, -0.05, 0.05, 0.25, 1.8],
            [1.45, 3.4, 0.60, 4.2, 1.95, 0.25, 0.10, 0.02, 0.4],
            [2.25, 2.4, 1.55, 0.9, 1.60, -0.06, 0.00, 0.10, 1.2],
        ];
        let (rest, full) = (rows[0], rows[cue.emotion as usize]);
        let mixed: [f32; 9] =
            std::array::from_fn(|index| between(rest[index], full[index], cue.strength));
        let [elbow_x, elbow_y, hand_x, hand_y, shoulder_height, head_drop, head_tilt, swing, pace] =
            mixed;
        let [open, conscientious, extravert, _, stable] = cue.own;
        let spread = 0.12 * extravert;
        let bright = from_hue(hue, (0.45 + 0.2 * open).clamp(0.1, 0.9), 0.75);
        let formality = (0.5 + 0.4 * conscientious).clamp(0.0, 1.0);
        Self {
            elbow: [elbow_x + spread, elbow_y],
            hand: [hand_x + 2.0 * spread, hand_y],
            shoulder_height,
            head_drop,
            head_tilt,
            swing: (swing * (1.0 + 0.4 * extravert) - 0.02 * stable).max(0.0),
            pace,
            nearness: (1.0 + 0.05 * extravert).clamp(0.9, 1.1),
            clothes: blend(bright, [0.10, 0.11, 0.16], formality),
            formality,
        }
    }
}

/// Draws the body below the head; `sway` is the displacement of the hands, about -1 to 1.
pub(super) fn paint_body(
    canvas: &mut Canvas,
    head: &Head,
    actor: &Actor,
    posture: &Posture,
    sway: f32,
) {
    let upright = Head { tilt: 0.0, ..*head };
    let unit = head.unit;
    let skin = scaled(actor.skin, 0.8);
    canvas.line(
        upright.at([0.0, 0.9]),
        upright.at([0.0, 1.9]),
        [0.48 * unit; 2],
        scaled(skin, 0.8),
    );
    let cloth = posture.clothes;
    let low = posture.shoulder_height + 0.35;
    for side in [-1.0, 1.0] {
        let radii = [0.42 * unit, 1.0 * unit];
        canvas.line(upright.at([1.25 * side, low]), upright.at([0.75 * side, 4.5]), radii, cloth);
    }
    let radii = [0.45 * unit, 0.8 * unit];
    canvas.line(upright.at([-0.6, low + 0.1]), upright.at([0.6, low + 0.1]), [radii[0]; 2], cloth);
    canvas.line(upright.at([0.0, low + 0.3]), upright.at([0.0, 4.5]), radii, cloth);
    let shirt = blend(scaled(cloth, 1.15), [0.95, 0.95, 0.97], posture.formality);
    canvas.line(
        upright.at([0.0, low - 0.1]),
        upright.at([0.0, low + 0.9]),
        [0.28 * unit, 0.02],
        shirt,
    );
    if posture.formality > 0.6 {
        canvas.line(
            upright.at([0.0, low]),
            upright.at([0.0, 3.6]),
            [0.07 * unit, 0.13 * unit],
            [0.45, 0.06, 0.10],
        );
    }
    for side in [-1.0, 1.0] {
        let moved = posture.swing * sway;
        let [hand_x, hand_y] = posture.hand;
        let elbow = upright.at([posture.elbow[0] * side, posture.elbow[1] + 0.5 * moved]);
        let hand = upright.at([(hand_x + moved) * side, hand_y + 2.0 * moved * side]);
        let shoulder = upright.at([1.35 * side, low]);
        let sleeve = scaled(cloth, 0.85);
        canvas.line(shoulder, elbow, [0.40 * unit, 0.30 * unit], sleeve);
        canvas.line(elbow, hand, [0.30 * unit, 0.24 * unit], sleeve);
        canvas.ellipse(hand, [0.33 * unit; 2], 0.0, skin);
    }
}
