//! Trying again, with patience and within bounds.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::progress::{Event, Progress};
use super::{Error, Result};

/// How long to wait for the network and how often to try.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Longest time for one connection to be made.
    pub connect: Duration,
    /// Longest time without a byte before a connection counts as broken.
    pub idle: Duration,
    /// Tries in a row that may fail before the failure is final; at least 1. A try that brought
    /// [`Patience::progress_bytes`] starts the count anew.
    pub tries: u32,
    /// Bytes that make a broken transfer count as progress.
    pub progress_bytes: u64,
    /// Pause after the first failure; doubles with each further one, and a random part of up to
    /// half is taken off, so that many clients do not return at the same moment.
    pub first_pause: Duration,
    /// Longest pause of our own choice.
    pub longest_pause: Duration,
    /// Longest pause that a server may ask for (`Retry-After`); a longer one is an error.
    pub longest_retry_after: Duration,
    /// How long another process may hold a lock without making progress.
    pub lock: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(60),
            tries: 6,
            progress_bytes: 8 << 20,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            longest_retry_after: Duration::from_secs(300),
            lock: Duration::from_secs(120),
        }
    }
}

/// A try that failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The same would happen again.
    Final(Box<Error>),
    /// May pass.
    Temporary {
        error: Box<Error>,
        retry_after: Option<Duration>,
        /// Bytes that came before it failed.
        bytes: u64,
    },
}

impl Failure {
    pub(super) fn temporary(error: Error) -> Self {
        Self::Temporary { error: Box::new(error), retry_after: None, bytes: 0 }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(Box::new(error))
    }
}

impl Patience {
    /// Calls `attempt` until it succeeds, fails for good, or has failed too often.
    pub(super) fn run<T>(
        &self,
        progress: &dyn Progress,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T> {
        let mut failures = 0;
        loop {
            let (error, retry_after, bytes) = match attempt() {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(*error),
                Err(Failure::Temporary { error, retry_after, bytes }) => {
                    (error, retry_after, bytes)
                }
            };
            failures = if bytes >= self.progress_bytes { 1 } else { failures + 1 };
            let wait = retry_after.unwrap_or_else(|| self.pause(failures));
            if failures >= self.tries || wait > self.longest_retry_after {
                return Err(*error);
            }
            progress.report(&Event::Retrying { wait, reason: &error });
            std::thread::sleep(wait);
        }
    }

    fn pause(&self, failures: u32) -> Duration {
        let doubled = self.first_pause.saturating_mul(1 << (failures - 1).min(16));
        let random = RandomState::new().hash_one(failures) as f64 / u64::MAX as f64;
        doubled.min(self.longest_pause).mul_f64(1.0 - random / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Silent;
    use super::*;

    fn quick() -> Patience {
        Patience { first_pause: Duration::from_micros(1), tries: 4, ..Patience::default() }
    }

    fn failing(bytes: u64, retry_after: Option<Duration>) -> Failure {
        let error = Error::NotFound { what: "x".into() };
        Failure::Temporary { error: Box::new(error), retry_after, bytes }
    }

    fn count(failure: impl Fn(u32) -> Failure) -> u32 {
        let mut calls = 0;
        let result: Result<()> = quick().run(&Silent, || {
            calls += 1;
            Err(failure(calls))
        });
        assert!(result.is_err());
        calls
    }

    #[test]
    fn the_number_of_tries_is_bounded() {
        assert_eq!(count(|_| failing(0, None)), 4);
        assert_eq!(count(|_| Error::NotFound { what: "x".into() }.into()), 1);
        assert_eq!(count(|_| failing(0, Some(Duration::from_secs(301)))), 1, "too long to wait");
    }

    #[test]
    fn progress_starts_the_count_anew() {
        let progress = Patience::default().progress_bytes;
        assert_eq!(count(|call| failing(if call == 3 { progress } else { 0 }, None)), 6);
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_vary_by_half() {
        let patience = Patience::default();
        for (failures, most) in [(1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (4000, 30.0)] {
            let pause = patience.pause(failures).as_secs_f64();
            assert!((most / 2.0..=most).contains(&pause), "{failures}: {pause}");
        }
    }
}
