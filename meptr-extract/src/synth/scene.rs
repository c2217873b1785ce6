//! Drawn rooms: light, colours and furniture.

use meptr_core::Emotion;
use meptr_core::rng::RandomStream;

use super::canvas::{Canvas, Colour, Point, blend, from_hue, scaled};
use super::plan::Cue;

/// Colour of the wall in the light of an emotion.
fn wall_colour(emotion: Emotion) -> Colour {
    match emotion {
        Emotion::Neutral => [0.62, 0.60, 0.56],
        Emotion::Anger => [0.62, 0.20, 0.16],
        Emotion::Disgust => [0.48, 0.52, 0.18],
        Emotion::Fear => [0.16, 0.13, 0.30],
        Emotion::Happiness => [0.95, 0.80, 0.38],
        Emotion::Sadness => [0.30, 0.40, 0.52],
        Emotion::Surprise => [0.85, 0.45, 0.75],
    }
}

/// Draws the room of a cue.
///
/// The light is the emotion's, by the cue's strength. An open person has many-coloured pictures on
/// the wall, a conscientious one a tidy shelf and no clutter, an agreeable one a large plant, a
/// stable one an even light.
pub(super) fn paint_scene(
    width: usize,
    height: usize,
    cue: &Cue,
    random: &mut RandomStream,
) -> Canvas {
    let [open, conscientious, _, agreeable, stable] = cue.own;
    let mut around = |spread: f32| spread * random.normal() as f32;
    let wall = blend(wall_colour(Emotion::Neutral), wall_colour(cue.emotion), cue.strength);
    let wall = wall.map(|value| (value + around(0.04)).clamp(0.03, 1.0));
    let floor = scaled(wall, 0.6);
    let (width_, height_) = (width as f32, height as f32);
    let falloff = (0.35 - 0.15 * stable).clamp(0.05, 0.65);
    let mut canvas = Canvas::new(width, height, |[x, y]: Point| {
        let light = 1.1 - falloff * (0.6 * x / width_ + 0.4 * y / height_);
        scaled(if y < 0.86 * height_ { wall } else { floor }, light)
    });
    paint_pictures(&mut canvas, open, random);
    paint_shelf(&mut canvas, conscientious, random);
    let plant = (9.0 + 6.0 * agreeable).clamp(0.0, 24.0);
    let foot = [0.80 * width_, 0.93 * height_];
    canvas
        .rectangle([foot[0] - 5.0, foot[1] - 6.0, foot[0] + 5.0, foot[1] + 6.0], [0.5, 0.28, 0.2]);
    let crown = [foot[0], foot[1] - 6.0 - 0.8 * plant];
    canvas.ellipse(crown, [0.75 * plant, plant], 0.0, [0.18, 0.50, 0.20]);
    canvas
}

/// Draws four wall pictures, larger and more colourful with higher openness.
fn paint_pictures(canvas: &mut Canvas, open: f32, random: &mut RandomStream) {
    let saturation = (0.45 + 0.3 * open).clamp(0.0, 1.0);
    let size = (9.0 + 2.0 * open).clamp(4.0, 14.0);
    for centre in [[36.0, 16.0], [36.0, 42.0], [124.0, 16.0], [124.0, 42.0]] {
        let hue = random.uniform() as f32;
        let [x, y] = centre;
        let frame = [x - size, y - 0.9 * size, x + size, y + 0.9 * size];
        canvas.rectangle(frame, [0.92, 0.90, 0.86]);
        for stripe in 0..3 {
            let left = x - size + 1.5 + stripe as f32 * (2.0 * size - 3.0) / 3.0;
            let right = left + (2.0 * size - 3.0) / 3.0;
            let colour = from_hue(hue + stripe as f32 / 3.0, saturation, 0.85);
            canvas.rectangle([left, y - 0.9 * size + 1.5, right, y + 0.9 * size - 1.5], colour);
        }
    }
}

/// Draws a shelf of books and clutter on the floor, tidier with higher conscientiousness.
fn paint_shelf(canvas: &mut Canvas, conscientious: f32, random: &mut RandomStream) {
    canvas.rectangle([22.0, 78.0, 50.0, 81.0], [0.35, 0.24, 0.16]);
    let disorder = (0.5 - 0.4 * conscientious).clamp(0.0, 1.2);
    for book in 0..6 {
        let mut around = |spread: f32| spread * disorder * random.normal() as f32;
        let left = 24.0 + 4.2 * book as f32 + around(3.0);
        let top = 66.0 + around(6.0);
        let colour = scaled([0.20, 0.30, 0.50], 1.0 + around(0.8));
        canvas.rectangle([left, top, left + 3.6, top + 12.0 + around(2.0)], colour);
    }
    for _ in 0..(disorder * 16.0) as usize {
        let [x, y] = [0.1 + 0.8 * random.uniform(), 0.72 + 0.26 * random.uniform()];
        let centre = [x as f32 * canvas.width() as f32, y as f32 * canvas.height() as f32];
        let angle = 3.0 * random.uniform() as f32;
        canvas.ellipse(centre, [4.5, 2.5], angle, from_hue(random.uniform() as f32, 0.3, 0.9));
    }
}
