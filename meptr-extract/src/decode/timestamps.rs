//! Timestamps of a stream in seconds.

use ffmpeg_next as ffmpeg;

/// Conversion of one stream's ticks to seconds since time zero of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeBase {
    numerator: f64,
    denominator: f64,
    start_ticks: i64,
}

impl TimeBase {
    /// Time base of a stream in a file whose time zero is at `start_microseconds`.
    pub(super) fn of(stream: &ffmpeg::Stream, start_microseconds: i64) -> Self {
        let base = stream.time_base();
        let (numerator, denominator) =
            (f64::from(base.numerator().max(1)), f64::from(base.denominator().max(1)));
        let start = start_microseconds as f64 * denominator / (numerator * 1e6);
        Self { numerator, denominator, start_ticks: start.round() as i64 }
    }

    /// Seconds since time zero; exact where the quotient is.
    pub(super) fn seconds(self, ticks: i64) -> f64 {
        ticks.saturating_sub(self.start_ticks) as f64 * self.numerator / self.denominator
    }

    /// Ticks per frame at `rate` frames per second, at least 1.
    pub(super) fn ticks_per_frame(self, rate: f64) -> i64 {
        ((self.denominator / (self.numerator * rate)).round() as i64).max(1)
    }

    /// Tick of time zero.
    pub(super) fn start_ticks(self) -> i64 {
        self.start_ticks
    }
}
