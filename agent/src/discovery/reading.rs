//! Reading many things at a time, within one number of bytes and until one deadline.
//!
//! While something is read, as many bytes are set aside for it as it may have; those that it turns
//! out not to have are for the others. So nobody takes room by what he says of a size, and what is
//! there and what is under way never exceed the limit together.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use policy::NotFetched;
use tokio::time::{Instant, timeout_at};

use super::LATE;
use crate::config::EvidenceLimits;

/// What became of reading one thing.
#[derive(Debug)]
pub(super) struct Taken<R> {
    /// How many bytes were read, also in vain.
    pub(super) bytes: u64,
    /// What they are, or why there are none.
    pub(super) outcome: Result<R, NotFetched>,
}

/// Reads `things` by `read`, which is told how many bytes one may have at most, and returns what
/// became of each, in their order. The size of some is known.
///
/// One that does not come takes one turn of those at a time, and what came before `until` is kept.
pub(super) async fn read_each<T, R, F>(
    limits: &EvidenceLimits,
    until: Instant,
    things: Vec<(T, Option<u64>)>,
    read: impl Fn(T, u64) -> F,
) -> Vec<Result<R, NotFetched>>
where
    F: Future<Output = Taken<R>>,
{
    let read = &read;
    let mut room = limits.total_bytes;
    let mut waiting = things.into_iter().enumerate().peekable();
    let mut under_way = FuturesUnordered::new();
    let mut done = Vec::new();
    loop {
        let mut next = || {
            waiting.next_if(|(_, (_, size))| {
                let wanted = size.unwrap_or(u64::MAX).min(limits.candidate_bytes);
                under_way.is_empty() || under_way.len() < WIDTH && wanted <= room
            })
        };
        if let Some((index, (thing, size))) = next() {
            match limits.admit(size, &mut room) {
                Ok(limit) => under_way.push(async move {
                    let reading = async { read(thing, limit).await };
                    (index, limit, in_time(until, reading).await)
                }),
                Err(why) => done.push((index, Err(NotFetched::permanent(why)))),
            }
        } else if let Some((index, limit, taken)) = under_way.next().await {
            room = room.saturating_add(limit.saturating_sub(taken.bytes));
            done.push((index, taken.outcome));
        } else {
            break;
        }
    }
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// What `reading` takes, unless it is too late. Then it is not even begun.
async fn in_time<R>(until: Instant, reading: impl Future<Output = Taken<R>>) -> Taken<R> {
    let late = || Taken {
        bytes: 0,
        outcome: Err(NotFetched::transient(LATE)),
    };
    if Instant::now() >= until {
        return late();
    }
    let taken = timeout_at(until, reading).await;
    taken.unwrap_or_else(|_elapsed| late())
}

/// Requests at the same time.
const WIDTH: usize = 16;

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::pending;
    use std::time::Duration;

    use super::*;

    fn limits(candidate_bytes: u64, total_bytes: u64) -> EvidenceLimits {
        EvidenceLimits {
            candidate_bytes,
            total_bytes,
            ..EvidenceLimits::default()
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(200)
    }

    /// Things that have so many bytes, whatever is said of them, and how many were set aside and
    /// kept at most at a time.
    async fn read(
        limits: &EvidenceLimits,
        things: &[(u64, Option<u64>)],
    ) -> (Vec<Result<u64, String>>, u64) {
        let (held, most) = (Cell::new(0), Cell::new(0));
        let reading = |actual: u64, limit: u64| {
            held.set(held.get() + limit);
            most.set(most.get().max(held.get()));
            let held = &held;
            async move {
                // The later ones come before the earlier.
                tokio::time::sleep(Duration::from_millis(20 - actual.min(20))).await;
                assert!(actual <= limit, "{actual} bytes where {limit} are allowed");
                held.set(held.get() - limit + actual);
                let outcome = Ok(actual);
                Taken {
                    bytes: actual,
                    outcome,
                }
            }
        };
        let until = Instant::now() + Duration::from_secs(20);
        let read = read_each(limits, until, things.to_vec(), reading).await;
        let read = read.into_iter().map(|one| one.map_err(|error| error.why));
        (read.collect(), most.get())
    }

    #[tokio::test]
    async fn what_is_read_counts_and_not_what_might_have_been() {
        let limits = limits(10, 40);
        // Ten times as many as would fit if each had what it may have.
        let (read_of_unknown_size, most) = read(&limits, &[(1, None); 31]).await;
        assert_eq!(read_of_unknown_size, vec![Ok(1); 31]);
        assert!(most <= 40, "{most}");
        let (said_to_be_large, most) = read(&limits, &[(1, Some(10)); 31]).await;
        assert_eq!(said_to_be_large, vec![Ok(1); 31]);
        assert!(most <= 40, "{most}");
    }

    #[tokio::test]
    async fn never_more_than_the_limit_is_read_and_what_is_beyond_is_named() {
        let limits = limits(10, 25);
        let sizes = [10, 4, 10, 9, 1].map(|size| (size, Some(size)));
        let (read, most) = read(&limits, &sizes).await;
        assert_eq!(most, 25);
        let beyond = "it has 9 bytes, which is beyond the 25 that are read in all, \
                      see image_agent.evidence.total_bytes";
        let expected = [Ok(10), Ok(4), Ok(10), Err(beyond.to_owned()), Ok(1)];
        assert_eq!(read, expected);
    }

    #[tokio::test]
    async fn what_does_not_come_holds_up_nothing_else_and_is_named() {
        let things = (0..100).map(|index| (index, None)).collect();
        let reading = |index: u64, _limit| async move {
            if index < 15 {
                pending::<()>().await;
            }
            let (bytes, outcome) = (1, Ok(index));
            Taken { bytes, outcome }
        };
        let read = read_each(&limits(1, 200), soon(), things, reading).await;
        let (late, came) = read.split_at(15);
        assert_eq!(late, vec![Err(NotFetched::transient(LATE)); 15]);
        let expected: Vec<_> = (15..100).map(Ok).collect();
        assert_eq!(came, expected);
    }

    #[tokio::test]
    async fn nothing_is_begun_after_the_deadline() {
        // As many are begun as may be at a time, or as have room.
        for (limits, count) in [(limits(1, 200), WIDTH), (limits(10, 80), 8)] {
            let begun = RefCell::new(Vec::new());
            let reading = |index: u64, _limit| {
                begun.borrow_mut().push(index);
                pending::<Taken<u64>>()
            };
            let things = (0..40).map(|index| (index, None)).collect();
            let read = read_each(&limits, soon(), things, reading).await;
            assert_eq!(read, vec![Err(NotFetched::transient(LATE)); 40]);
            assert_eq!(begun.into_inner().len(), count);
        }
    }
}
