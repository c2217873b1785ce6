//! Frames of a clip.

use meptr_core::PerModality;
use meptr_core::rng::{RandomStream, SeedStreams};

use super::body::{Posture, paint_body};
use super::canvas::Canvas;
use super::face::{Actor, Expression, Head, paint_face, paint_hair_behind};
use super::plan::Cue;
use super::scene::paint_scene;

/// Pixels in a row.
pub(super) const WIDTH: usize = 160;
/// Rows.
pub(super) const HEIGHT: usize = 120;
/// Frames per second.
pub(super) const FRAMES_PER_SECOND: usize = 10;
/// Half the width of an average head, pixels.
const HEAD_UNIT: f32 = 19.0;

/// Parts of a clip that stay the same over its frames.
#[derive(Debug)]
pub(super) struct Film {
    room: Canvas,
    actor: Actor,
    expression: Expression,
    posture: Posture,
    /// Centre of the head at rest.
    place: [f32; 2],
    /// Phase of the body's movement at the start, in radians.
    phase: f32,
}

impl Film {
    /// Prepares a clip, from random streams named after it alone.
    pub(super) fn new(streams: &SeedStreams, clip: &str, cues: &PerModality<Cue>) -> Self {
        let stream = |what: &str| streams.stream(&format!("{clip}/{what}"));
        let room = paint_scene(WIDTH, HEIGHT, &cues.scene, &mut stream("scene"));
        let mut random: RandomStream = stream("actor");
        let actor = Actor::draw(&mut random);
        let hue = random.uniform() as f32;
        let mut around = |spread: f32| spread * (2.0 * random.uniform() as f32 - 1.0);
        Self {
            room,
            actor,
            expression: Expression::of_cue(&cues.face),
            posture: Posture::of_cue(&cues.body, hue),
            place: [WIDTH as f32 / 2.0 + around(5.0), 44.0 + around(3.0)],
            phase: around(std::f32::consts::PI),
        }
    }

    /// Draws the frame at a time in seconds; `voice` is the loudness of the voice then, 0 to 1.
    pub(super) fn picture(&self, seconds: f32, voice: f32) -> Canvas {
        let turn = std::f32::consts::TAU * self.posture.pace * seconds + self.phase;
        let unit = HEAD_UNIT * self.posture.nearness;
        let nod = self.posture.swing * (0.5 * turn).sin();
        let head = Head {
            centre: [
                self.place[0] + 0.4 * unit * nod,
                self.place[1] + unit * (self.posture.head_drop + 0.15 * voice * self.posture.swing),
            ],
            unit,
            tilt: self.posture.head_tilt + 0.2 * nod,
        };
        let mut canvas = self.room.clone();
        paint_hair_behind(&mut canvas, &head, &self.actor);
        paint_body(&mut canvas, &head, &self.actor, &self.posture, turn.sin());
        paint_face(&mut canvas, &head, &self.actor, &self.expression.speaking(voice));
        canvas
    }
}
