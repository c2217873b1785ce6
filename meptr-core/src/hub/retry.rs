//! Time limits and retries of requests.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::progress::{Event, Progress};
use super::{Error, Result};

/// Time limits and retries of requests, with exponential backoff.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Longest time for a connection to be made.
    pub connect_timeout: Duration,
    /// Longest time without a byte before a connection counts as broken.
    pub idle_timeout: Duration,
    /// Failed attempts in a row before the failure is final, at least 1. An attempt that transferred
    /// [`RetryPolicy::progress_bytes`] starts the count anew.
    pub max_attempts: u32,
    /// Bytes of a broken transfer that count as progress.
    pub progress_bytes: u64,
    /// Delay after the first failure. It doubles with each further one, and a random part of up to
    /// half is taken off, so that many clients do not return at the same moment.
    pub initial_delay: Duration,
    /// Longest delay that is not the server's choice.
    pub max_delay: Duration,
    /// Longest delay that a server may ask for (`Retry-After`); a longer one is an error.
    pub max_retry_after: Duration,
    /// Longest time that another process may hold a lock without making progress.
    pub lock_timeout: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(60),
            max_attempts: 6,
            progress_bytes: 8 << 20,
            initial_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(30),
            max_retry_after: Duration::from_secs(300),
            lock_timeout: Duration::from_secs(120),
        }
    }
}

/// A failed attempt.
#[derive(Debug)]
pub(super) enum Failure {
    /// Would fail again.
    Final(Box<Error>),
    /// May succeed later.
    Temporary {
        error: Box<Error>,
        retry_after: Option<Duration>,
        /// Bytes transferred before the failure.
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

impl RetryPolicy {
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
            let wait = retry_after.unwrap_or_else(|| self.delay(failures));
            if failures >= self.max_attempts || wait > self.max_retry_after {
                return Err(*error);
            }
            progress.report(&Event::Retrying { wait, reason: &error });
            std::thread::sleep(wait);
        }
    }

    fn delay(&self, failures: u32) -> Duration {
        let doubled = self.initial_delay.saturating_mul(1 << (failures - 1).min(16));
        let random = RandomState::new().hash_one(failures) as f64 / u64::MAX as f64;
        doubled.min(self.max_delay).mul_f64(1.0 - random / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Silent;
    use super::*;

    fn quick() -> RetryPolicy {
        RetryPolicy {
            initial_delay: Duration::from_micros(1),
            max_attempts: 4,
            ..RetryPolicy::default()
        }
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
    fn the_number_of_attempts_is_bounded() {
        assert_eq!(count(|_| failing(0, None)), 4);
        assert_eq!(count(|_| Error::NotFound { what: "x".into() }.into()), 1);
        assert_eq!(count(|_| failing(0, Some(Duration::from_secs(301)))), 1, "too long to wait");
    }

    #[test]
    fn progress_starts_the_count_anew() {
        let progress = RetryPolicy::default().progress_bytes;
        assert_eq!(count(|call| failing(if call == 3 { progress } else { 0 }, None)), 6);
    }

    #[test]
    fn delays_double_up_to_a_bound_and_vary_by_half() {
        let policy = RetryPolicy::default();
        for (failures, most) in [(1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (4000, 30.0)] {
            let delay = policy.delay(failures).as_secs_f64();
            assert!((most / 2.0..=most).contains(&delay), "{failures}: {delay}");
        }
    }
}
