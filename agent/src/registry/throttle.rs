//! A limit on the bytes per second that all layers together are fetched with.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lets so many bytes through in a second, in the order in which they come: a layer whose pieces
/// are small is not held up by more than one piece of each of the others.
#[derive(Debug)]
pub(crate) struct Throttle {
    bytes_per_second: Option<NonZeroU64>,
    /// When the line is free again.
    free: Mutex<Option<Instant>>,
}

impl Throttle {
    /// At most so many bytes per second; without a number, as many as come.
    pub(crate) fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self {
            bytes_per_second,
            free: Mutex::new(None),
        }
    }

    /// Waits for as long as a line of that many bytes per second would have taken for `bytes` and
    /// for what others have had before.
    pub(crate) async fn pass(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else {
            return;
        };
        tokio::time::sleep_until(self.reserve(bytes, rate, Instant::now())).await;
    }

    /// When `bytes` that are there at `now` will have passed.
    fn reserve(&self, bytes: usize, rate: NonZeroU64, now: Instant) -> Instant {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let nanoseconds = bytes.saturating_mul(1_000_000_000) / rate;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = free.map_or(now, |free| free.max(now));
        let end = begin
            .checked_add(Duration::from_nanos(nanoseconds))
            .unwrap_or(begin);
        *free = Some(end);
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_get_what_the_line_is_said_to_carry() {
        let rate = NonZeroU64::new(1000).unwrap();
        let throttle = Throttle::new(Some(rate));
        let began = Instant::now();
        let reserve = |bytes, now| (throttle.reserve(bytes, rate, now) - began).as_millis();
        assert_eq!(reserve(2000, began), 2000);
        assert_eq!(reserve(500, began), 2500, "after one piece of the other");
        assert_eq!(reserve(2000, began + Duration::from_secs(2)), 4500);
        let later = began + Duration::from_mins(1);
        assert_eq!(reserve(1000, later), 61_000, "silence is not saved up");
    }

    #[tokio::test]
    async fn without_a_limit_nothing_waits() {
        let unlimited = Throttle::new(None);
        let waiting = unlimited.pass(usize::MAX);
        assert!(tokio::time::timeout(Duration::ZERO, waiting).await.is_ok());
    }
}
