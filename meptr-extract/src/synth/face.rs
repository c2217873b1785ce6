//! Drawn faces: an actor's features, and their change by an emotion.

use meptr_core::Emotion;
use meptr_core::rng::RandomStream;

use super::between;
use super::canvas::{Canvas, Colour, Point, Shape, blend, ellipse_distance, scaled};
use super::plan::Cue;

/// Appearance of the person in a clip.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Actor {
    /// Colour of the skin in full light.
    pub(super) skin: Colour,
    hair: Colour,
    /// Height of the head, relative to an average one.
    length: f32,
    /// Length of the hair: 0 short to 1 on the shoulders.
    hair_length: f32,
    eye_distance: f32,
    nose_length: f32,
    brow_thickness: f32,
    iris: Colour,
}

impl Actor {
    /// Draws a random actor.
    pub(super) fn draw(random: &mut RandomStream) -> Self {
        let skins =
            [[0.95, 0.78, 0.66], [0.88, 0.68, 0.53], [0.76, 0.55, 0.40], [0.60, 0.41, 0.29]];
        let hairs =
            [[0.10, 0.07, 0.06], [0.25, 0.15, 0.08], [0.45, 0.30, 0.15], [0.35, 0.33, 0.32]];
        let skin = scaled(skins[random.below(4)], 0.96 + 0.08 * random.uniform() as f32);
        let hair = hairs[random.below(4)];
        let mut spread = |from: f32, to: f32| between(from, to, random.uniform() as f32);
        Self {
            skin,
            hair,
            length: spread(1.24, 1.36),
            hair_length: spread(0.0, 1.0),
            eye_distance: spread(0.39, 0.44),
            nose_length: spread(0.40, 0.48),
            brow_thickness: spread(0.06, 0.085),
            iris: blend([0.20, 0.12, 0.07], [0.25, 0.33, 0.42], spread(0.0, 1.0)),
        }
    }
}

/// Position of a head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    /// Centre of the head.
    pub(super) centre: Point,
    /// Half its width in pixels, the unit of lengths on it.
    pub(super) unit: f32,
    /// Angle of rotation, radians.
    pub(super) tilt: f32,
}

impl Head {
    /// Converts a point in units from the centre of the head to pixels.
    pub(super) fn at(&self, [x, y]: Point) -> Point {
        let (sine, cosine) = self.tilt.sin_cos();
        let [left, top] = self.centre;
        [left + self.unit * (cosine * x - sine * y), top + self.unit * (sine * x + cosine * y)]
    }
}

/// Expression of a face; lengths in half widths of the head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expression {
    brow_raise: f32,
    /// Slant of the brows; above 0, inner ends down.
    brow_slant: f32,
    /// Opening of the eyes; 1 = average.
    eye_opening: f32,
    /// Height of the corners of the mouth above its centre.
    mouth_lift: f32,
    mouth_opening: f32,
    mouth_width: f32,
    shows_teeth: f32,
    /// Added to the colour of the skin.
    flush: Colour,
}

impl Expression {
    fn of(emotion: Emotion) -> Self {
        let rows: [[f32; 10]; Emotion::COUNT] = [
            // raise, slant, eyes, lift, opening, width, teeth, flush
            [0.00, 0.00, 1.00, 0.02, 0.00, 1.00, 0.0, 0.00, 0.00, 0.00],
            [-0.07, 0.17, 0.75, -0.12, 0.16, 1.10, 1.0, 0.16, -0.10, -0.10],
            [-0.03, 0.09, 0.50, -0.17, 0.04, 0.75, 0.0, -0.10, 0.04, -0.10],
            [0.12, -0.14, 1.45, -0.08, 0.24, 1.05, 0.3, 0.06, 0.09, 0.16],
            [0.05, -0.02, 0.75, 0.20, 0.22, 1.35, 1.0, 0.08, 0.01, -0.06],
            [0.00, -0.16, 0.60, -0.18, 0.00, 0.85, 0.0, -0.09, -0.05, 0.08],
            [0.18, 0.00, 1.50, 0.00, 0.52, 0.75, 0.0, 0.02, 0.02, -0.02],
        ];
        let [raise, slant, eyes, lift, opening, width, teeth, red, green, blue] =
            rows[emotion as usize];
        Self {
            brow_raise: raise,
            brow_slant: slant,
            eye_opening: eyes,
            mouth_lift: lift,
            mouth_opening: opening,
            mouth_width: width,
            shows_teeth: teeth,
            flush: [red, green, blue],
        }
    }

    /// Expression of a cue: its emotion by its strength, and wider eyes for an
    /// extravert, a friendlier look for an agreeable person, a darker one for an unstable one.
    pub(super) fn of_cue(cue: &Cue) -> Self {
        let (rest, full) = (Self::of(Emotion::Neutral), Self::of(cue.emotion));
        let mix = |rest: f32, full: f32| between(rest, full, cue.strength);
        let [_, _, extravert, agreeable, stable] = cue.own;
        Self {
            brow_raise: mix(rest.brow_raise, full.brow_raise),
            brow_slant: mix(rest.brow_slant, full.brow_slant),
            eye_opening: mix(rest.eye_opening, full.eye_opening) + 0.08 * extravert,
            mouth_lift: mix(rest.mouth_lift, full.mouth_lift) + 0.05 * agreeable,
            mouth_opening: mix(rest.mouth_opening, full.mouth_opening),
            mouth_width: mix(rest.mouth_width, full.mouth_width) + 0.05 * agreeable,
            shows_teeth: mix(rest.shows_teeth, full.shows_teeth),
            flush: full.flush.map(|part| part * cue.strength + 0.035 * stable),
        }
    }

    /// The expression while speaking: the mouth opens by `voice`, 0 to 1.
    pub(super) fn speaking(mut self, voice: f32) -> Self {
        self.mouth_opening += 0.10 * voice;
        self
    }
}

/// Draws the hair behind a head, before the body.
pub(super) fn paint_hair_behind(canvas: &mut Canvas, head: &Head, actor: &Actor) {
    let fall = 0.75 * actor.hair_length;
    let radii = [1.16 * head.unit, (actor.length + 0.14 + 0.5 * fall) * head.unit];
    canvas.ellipse(head.at([0.0, -0.06 + 0.5 * fall]), radii, head.tilt, scaled(actor.hair, 0.8));
}

/// Draws a head.
pub(super) fn paint_face(canvas: &mut Canvas, head: &Head, actor: &Actor, expression: &Expression) {
    let skin: Colour =
        std::array::from_fn(|index| (actor.skin[index] + expression.flush[index]).clamp(0.05, 1.0));
    for side in [-1.0, 1.0] {
        let radii = [0.15 * head.unit, 0.27 * head.unit];
        canvas.ellipse(head.at([1.0 * side, 0.08]), radii, head.tilt, scaled(skin, 0.8));
    }
    paint_skull(canvas, head, actor, skin);
    let shade = |by: f32| scaled(skin, by);
    let mut tint = |at: Point, radii: Point, share: f32, colour: Colour| {
        canvas.blob(head.at(at), radii.map(|radius| radius * head.unit), share, colour);
    };
    tint([0.0, 0.0 - 0.55], [0.7, 0.4], 0.35, shade(1.12)); // forehead
    tint([0.0, actor.length - 0.04], [0.5, 0.16], 0.3, shade(0.6)); // below the chin
    for side in [-1.0, 1.0] {
        tint([0.58 * side, 0.35], [0.3, 0.28], 0.3, shade(1.1)); // cheek
        tint([actor.eye_distance * side, -0.14], [0.36, 0.24], 0.5, shade(0.55)); // eye socket
        tint([0.34 * side, 0.56], [0.10, 0.26], 0.25, shade(0.7)); // fold beside the mouth
    }
    paint_nose(canvas, head, actor, skin);
    paint_eyes(canvas, head, actor, expression, skin);
    paint_mouth(canvas, head, actor, expression, skin);
    paint_hair(canvas, head, actor);
}

fn paint_skull(canvas: &mut Canvas, head: &Head, actor: &Actor, skin: Colour) {
    let radii = [head.unit, actor.length * head.unit];
    let distance = |point: Point| ellipse_distance(point, head.centre, radii, head.tilt);
    let reach = radii[1] + 1.0;
    let [x, y] = head.centre;
    let bounds = [x - reach, y - reach, x + reach, y + reach];
    canvas.fill(&Shape { distance: &distance, bounds }, |[px, py]| {
        let (x, y) = ((px - x) / radii[0], (py - y) / radii[1]);
        let curved = (1.0 - (x * x + y * y).min(1.0)).sqrt(); // towards the viewer
        scaled(skin, 0.55 + 0.40 * curved - 0.09 * x - 0.08 * y)
    });
}

fn paint_nose(canvas: &mut Canvas, head: &Head, actor: &Actor, skin: Colour) {
    let tip = actor.nose_length;
    let mut tint = |at: Point, radii: Point, share: f32, colour: Colour| {
        canvas.blob(head.at(at), radii.map(|radius| radius * head.unit), share, colour);
    };
    tint([0.14, 0.12], [0.09, 0.36], 0.45, scaled(skin, 0.6));
    tint([-0.14, 0.12], [0.07, 0.34], 0.3, scaled(skin, 0.7));
    tint([0.0, 0.18], [0.08, 0.36], 0.6, scaled(skin, 1.2));
    tint([0.0, tip + 0.07], [0.28, 0.09], 0.6, scaled(skin, 0.5));
    for side in [-1.0, 1.0] {
        tint([0.11 * side, tip + 0.02], [0.08, 0.06], 0.9, scaled(skin, 0.2));
    }
}

fn paint_eyes(
    canvas: &mut Canvas,
    head: &Head,
    actor: &Actor,
    expression: &Expression,
    skin: Colour,
) {
    let unit = head.unit;
    let opening = 0.115 * expression.eye_opening;
    for side in [-1.0, 1.0] {
        let x = |from_middle: f32| side * (actor.eye_distance + from_middle);
        let eye = head.at([x(0.0), -0.12]);
        canvas.ellipse(eye, [0.22 * unit, opening * unit], head.tilt, [0.93, 0.92, 0.90]);
        let iris = [0.105_f32, 0.105_f32.min(opening)].map(|radius| radius * unit);
        canvas.ellipse(eye, iris, head.tilt, actor.iris);
        canvas.ellipse(eye, iris.map(|radius| 0.55 * radius), head.tilt, [0.03; 3]);
        let lid = [-0.24, -0.12, 0.0, 0.12, 0.24].map(|along| {
            let height = opening * (1.0 - (along / 0.26_f32).powi(2)).max(0.0).sqrt();
            head.at([x(along), -0.12 - height])
        });
        canvas.curve(&lid, 0.035 * unit, scaled(skin, 0.25));
        let slant = |along: f32| expression.brow_slant * -along / 0.27; // inner end: along < 0
        let brow = [-0.25_f32, 0.0, 0.27].map(|along| {
            let arch = 0.05 * (1.0 - (along / 0.27).powi(2));
            head.at([x(along), -0.40 - expression.brow_raise - arch + slant(along)])
        });
        canvas.curve(&brow, actor.brow_thickness * unit, scaled(actor.hair, 0.8));
    }
}

fn paint_mouth(
    canvas: &mut Canvas,
    head: &Head,
    actor: &Actor,
    expression: &Expression,
    skin: Colour,
) {
    let unit = head.unit;
    let (middle, width) = (actor.nose_length + 0.33, 0.36 * expression.mouth_width);
    let lift = expression.mouth_lift;
    let (sine, cosine) = head.tilt.sin_cos();
    let local = |point: Point| {
        let (x, y) = (point[0] - head.centre[0], point[1] - head.centre[1]);
        [(cosine * x + sine * y) / unit, (cosine * y - sine * x) / unit]
    };
    // Between `above` and `below` the line of the mouth, both 0 in its corners.
    let band = |above: f32, below: f32| {
        move |point: Point| {
            let [x, y] = local(point);
            let bulge = 1.0 - (x / width).powi(2);
            let y = y - middle - lift * (bulge - 0.5);
            unit * (x.abs() - width).max((-above * bulge - y).max(y - below * bulge))
        }
    };
    let opening = expression.mouth_opening;
    let [x, y] = head.at([0.0, middle]);
    let reach = 1.2 * unit;
    let bounds = [x - reach, y - reach, x + reach, y + reach];
    let lips = band(0.08 + 0.35 * opening, 0.10 + 0.75 * opening);
    let lip_colour = blend(skin, [0.70, 0.22, 0.22], 0.65);
    canvas.fill(&Shape { distance: &lips, bounds }, |_| scaled(lip_colour, 0.85));
    let inside = band(0.012 + 0.35 * opening, 0.012 + 0.70 * opening);
    canvas.fill(&Shape { distance: &inside, bounds }, |_| [0.16, 0.04, 0.05]);
    let teeth = band(0.35 * opening, -0.05 * opening);
    let white = blend([0.16, 0.04, 0.05], [0.95, 0.94, 0.90], expression.shows_teeth);
    canvas.fill(&Shape { distance: &teeth, bounds }, |_| white);
}

fn paint_hair(canvas: &mut Canvas, head: &Head, actor: &Actor) {
    let radii = [1.06 * head.unit, (actor.length + 0.07) * head.unit];
    let (sine, cosine) = head.tilt.sin_cos();
    let distance = |point: Point| {
        let (x, y) = (point[0] - head.centre[0], point[1] - head.centre[1]);
        let (x, y) = ((cosine * x + sine * y) / head.unit, (cosine * y - sine * x) / head.unit);
        let line = -0.80 + 0.55 * x * x;
        ellipse_distance(point, head.centre, radii, head.tilt).max((y - line) * head.unit)
    };
    let reach = radii[1] + 1.0;
    let [x, y] = head.centre;
    let bounds = [x - reach, y - reach, x + reach, y + reach];
    canvas.fill(&Shape { distance: &distance, bounds }, |[px, _]| {
        scaled(actor.hair, 1.0 - 0.25 * (px - x) / head.unit)
    });
}

#[cfg(test)]
mod tests {
    use meptr_core::rng::SeedStreams;

    use super::*;

    fn face(emotion: Emotion) -> Canvas {
        let actor = Actor::draw(&mut SeedStreams::new(1).stream("actor"));
        let mut canvas = Canvas::new(60, 60, |_| [0.5; 3]);
        let head = Head { centre: [30.0, 30.0], unit: 20.0, tilt: 0.0 };
        let cue = Cue { emotion, strength: 1.0, own: [0.0; 5] };
        paint_face(&mut canvas, &head, &actor, &Expression::of_cue(&cue));
        canvas
    }

    #[test]
    fn every_emotion_has_a_face_of_its_own() {
        for (index, one) in Emotion::ALL.into_iter().enumerate() {
            for other in &Emotion::ALL[..index] {
                let (one, other) = (face(one), face(*other));
                let pairs = one.pixels().iter().zip(other.pixels());
                let differing = pairs.filter(|(one, other)| (one[0] - other[0]).abs() > 0.1);
                assert!(differing.count() > 20);
            }
        }
    }
}
