//! How often a registry is asked again, and how long it is left alone before.

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;
use std::time::Duration;

use super::error::RegistryError;

/// The attempts at one thing.
#[derive(Debug)]
pub(crate) struct Tries {
    allowed: NonZeroU32,
    failed: u32,
}

impl Tries {
    /// None made yet, and so many to make.
    pub(crate) fn new(allowed: NonZeroU32) -> Self {
        Self { allowed, failed: 0 }
    }

    /// The last attempt brought so many bytes. If that is some, the count begins anew.
    pub(crate) fn brought(&mut self, bytes: u64) {
        if bytes >= LEAST_PROGRESS {
            self.failed = 0;
        }
    }

    /// Waits until it is time to try again after `error`, or gives it back when trying again would
    /// not help or has been done often enough.
    pub(crate) async fn again_after(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let pause = self.pause_after(error)?;
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn pause_after(&mut self, error: RegistryError) -> Result<Duration, RegistryError> {
        if !error.is_transient() {
            return Err(error);
        }
        self.failed = self.failed.saturating_add(1);
        if self.failed >= self.allowed.get() {
            return Err(error.after(self.failed));
        }
        let pause = error.retry_after().map_or_else(
            || back_off(self.failed, random()),
            |asked| asked.min(LONGEST_ASKED),
        );
        tracing::info!(%error, attempt = self.failed, ?pause, "trying again");
        Ok(pause)
    }
}

/// Twice as long after every failure, and then some part of that between a half and the whole, so
/// that many guests that were thrown out together do not come back together.
fn back_off(failed: u32, random: u32) -> Duration {
    let doublings = failed.saturating_sub(1).min(16);
    let longest = FIRST_PAUSE
        .saturating_mul(1 << doublings)
        .min(LONGEST_PAUSE);
    let half = longest / 2;
    half.saturating_add(half.mul_f64(f64::from(random) / f64::from(u32::MAX)))
}

/// The seed of a hash map is random; nothing here needs more than that.
fn random() -> u32 {
    let bytes = RandomState::new().hash_one(()).to_le_bytes();
    let [first, second, third, fourth, ..] = bytes;
    u32::from_le_bytes([first, second, third, fourth])
}

/// Fewer bytes than this are no progress of an attempt: with a byte each, nothing ever arrives.
const LEAST_PROGRESS: u64 = 16 << 10;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A registry that wants us to come back later than this is taken at its word only so far: whoever
/// waits for the image has a deadline, too.
const LONGEST_ASKED: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Wanted;

    fn broken() -> RegistryError {
        RegistryError::Broken {
            wanted: Wanted::manifest("registry.example", "app", "1"),
            reason: "reset".to_owned(),
        }
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_are_never_shorter_than_half() {
        for (failed, longest) in [(1, 250), (2, 500), (3, 1000), (6, 8000), (7, 10_000)] {
            let longest = Duration::from_millis(longest);
            assert_eq!(back_off(failed, 0), longest / 2, "{failed}");
            assert_eq!(back_off(failed, u32::MAX), longest, "{failed}");
        }
        assert_eq!(back_off(u32::MAX, u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn gives_up_after_so_many_attempts_without_progress_and_says_how_many() {
        let mut tries = Tries::new(NonZeroU32::new(3).unwrap());
        for _ in 0..4 {
            tries.pause_after(broken()).unwrap();
            tries.pause_after(broken()).unwrap();
            tries.brought(LEAST_PROGRESS);
        }
        tries.brought(LEAST_PROGRESS - 1);
        tries.pause_after(broken()).unwrap();
        tries.pause_after(broken()).unwrap();
        let last = tries.pause_after(broken()).unwrap_err().to_string();
        assert!(last.ends_with("(reset), after 3 attempts"), "{last}");
    }

    #[test]
    fn what_nobody_repairs_by_waiting_is_not_tried_again() {
        let wanted = Wanted::manifest("registry.example", "app", "1");
        let mut tries = Tries::new(NonZeroU32::new(3).unwrap());
        let refused = RegistryError::status(&wanted, 404, b"");
        let error = tries.pause_after(refused).unwrap_err();
        assert!(matches!(error, RegistryError::NotFound { .. }), "{error:?}");
    }

    #[test]
    fn a_registry_is_left_alone_for_as_long_as_it_asks_within_reason() {
        for (asked, waited) in [(0, 0), (7, 7), (3600, 30)] {
            let error = RegistryError::Status {
                wanted: Wanted::manifest("registry.example", "app", "1"),
                status: 429,
                message: None,
                retry_after: Some(Duration::from_secs(asked)),
            };
            let mut tries = Tries::new(NonZeroU32::new(2).unwrap());
            let pause = tries.pause_after(error).unwrap();
            assert_eq!(pause.as_secs(), waited, "{asked}");
        }
    }
}
