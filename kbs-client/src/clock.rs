//! What time it is at least.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The clock of the guest, which belongs to its host, kept from going back behind what is known: a
/// moment that is certainly past, and later the time of the KBS.
///
/// A clock that is *ahead* is not noticed by it.
#[derive(Debug)]
pub(crate) struct Clock {
    /// A moment that has been, and when we learned of it.
    known: Mutex<(SystemTime, Instant)>,
}

impl Clock {
    /// A clock that shows `past` or later.
    pub(crate) fn new(past: SystemTime) -> Self {
        Self {
            known: Mutex::new((past, Instant::now())),
        }
    }

    /// The latest of the system's clock and what is known, which goes on with the monotonic clock.
    pub(crate) fn now(&self) -> SystemTime {
        self.at_least(SystemTime::now())
    }

    pub(crate) fn at_least(&self, claimed: SystemTime) -> SystemTime {
        let (past, learned) = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = past.checked_add(learned.elapsed()).unwrap_or(past);
        known.max(claimed)
    }

    /// `moment` has been, says somebody who is believed.
    pub(crate) fn learn(&self, moment: SystemTime, received: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (past, learned) = *known;
        let since = received.saturating_duration_since(learned);
        if past.checked_add(since).is_none_or(|known| known < moment) {
            *known = (moment, received);
        }
    }
}

/// Seconds since 1970 as a moment; none if there is no such moment.
pub(crate) fn moment(seconds: f64) -> Option<SystemTime> {
    let since = Duration::try_from_secs_f64(seconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn clock_does_not_go_back_behind_what_is_known() {
        let clock = Clock::new(SystemTime::UNIX_EPOCH);
        let now = SystemTime::now();
        let near = |shown: SystemTime, expected: SystemTime| {
            shown.duration_since(expected).unwrap() < Duration::from_mins(1)
        };
        assert!(near(clock.now(), now), "the system's clock is right");
        clock.learn(now + DAY, Instant::now());
        assert!(near(clock.now(), now + DAY), "the KBS is ahead of it");
        clock.learn(now + DAY / 2, Instant::now());
        assert!(near(clock.now(), now + DAY), "what was learned stays");
        assert_eq!(clock.at_least(now + 3 * DAY), now + 3 * DAY);
    }

    #[test]
    fn what_is_known_goes_on_with_the_monotonic_clock() {
        let Some(yesterday) = Instant::now().checked_sub(DAY / 24) else {
            return;
        };
        let clock = Clock::new(SystemTime::UNIX_EPOCH);
        let start = SystemTime::now() + DAY;
        clock.learn(start, yesterday);
        assert!(clock.now() >= start + DAY / 24);
    }
}
