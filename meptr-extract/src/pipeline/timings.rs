//! Wall time of the steps of a video.

use std::time::{Duration, Instant};

use meptr_core::prediction::Step;

/// Wall time by step, in the order in which steps first ran.
#[derive(Debug, Clone, Default)]
pub struct StepTimings(Vec<(&'static str, Duration)>);

impl StepTimings {
    /// Runs `work` and adds its time to that of the step.
    pub fn time<T>(&mut self, step: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.add(step, start.elapsed());
        result
    }

    /// Adds time to a step.
    pub fn add(&mut self, step: &'static str, time: Duration) {
        match self.0.iter_mut().find(|(name, _)| *name == step) {
            Some((_, total)) => *total += time,
            None => self.0.push((step, time)),
        }
    }

    /// Steps in the form of the result.
    pub fn report(&self) -> Vec<Step> {
        let step = |(name, time): &(&str, Duration)| Step {
            name: (*name).to_owned(),
            seconds: time.as_secs_f64(),
        };
        self.0.iter().map(step).collect()
    }
}
