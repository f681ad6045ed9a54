//! How many layers are got at a time: by their sizes, within a budget of memory.
//!
//! A large layer keeps a processor busy and takes all the buffers of its pipeline, so that more
//! than a few at a time cost memory and bring nothing. A small one is mostly a wait for the
//! network, and takes buffers only as far as it fills them. So there are many small ones at a time
//! and few large ones, and they wait for each other nowhere: neither for a place in line nor for
//! memory.

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A layer whose blob has so many bytes, or less, never fills the buffers of its pipeline.
const SMALL: u64 = 768 << 10;
/// What a pipeline takes that passes hardly a byte: four threads, a decompressor and a connection.
const LEAST: u64 = 256 << 10;
/// What a pipeline takes at most.
const MOST: u64 = LEAST + 3 * SMALL;
/// Layers end more often than this on any line that is worth waiting for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many large layers of an image are got at a time.
const LARGE_AT_A_TIME: usize = 3;
/// How many small ones beside them; with the large ones these are 16.
const SMALL_AT_A_TIME: usize = 13;

/// How the layers of one image are lined up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    /// In one line, so many of them at a time.
    Stated(NonZeroUsize),
    /// Small and large ones each in a line of their own.
    BySize,
}

impl Width {
    /// As configured: a number that is stated is kept.
    pub(crate) fn of(stated: Option<NonZeroUsize>) -> Self {
        stated.map_or(Self::BySize, Self::Stated)
    }

    /// The lines, each with how many of it are got at a time.
    pub(super) fn lines<T>(self, all: Vec<T>, size: impl Fn(&T) -> u64) -> [(Vec<T>, usize); 2] {
        match self {
            Self::Stated(width) => [(all, width.get()), (Vec::new(), 1)],
            Self::BySize => {
                let (small, large) = all.into_iter().partition(|one| size(one) <= SMALL);
                [(large, LARGE_AT_A_TIME), (small, SMALL_AT_A_TIME)]
            }
        }
    }
}

/// The memory for fetching and unpacking layers, all pulls together.
#[derive(Debug)]
pub(crate) struct Memory {
    all: Lot,
    /// What large layers may have of it; the rest is always there for small ones.
    large: Lot,
    /// How long nobody may have taken or given back anything before whoever waits goes on without;
    /// None to wait for ever, since the owner has stated how much there is.
    patience: Option<Duration>,
    moved: Arc<Mutex<Instant>>,
}

/// Memory of a layer; dropped, it is free for others.
#[derive(Debug)]
pub(crate) struct Share {
    _all: Option<OwnedSemaphorePermit>,
    _large: Option<OwnedSemaphorePermit>,
    /// None of what is beyond the budget: that says nothing of those who are within.
    moved: Option<Arc<Mutex<Instant>>>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.moved.iter().for_each(note);
    }
}

impl Memory {
    /// As much as is stated, or as the layers need that are got at a time.
    pub(crate) fn new(stated: Option<NonZeroU64>, width: Width) -> Self {
        let large = match width {
            Width::Stated(width) => width.get().max(LARGE_AT_A_TIME),
            Width::BySize => LARGE_AT_A_TIME,
        };
        let large = u64::try_from(large)
            .unwrap_or(u64::MAX)
            .saturating_mul(MOST);
        let bytes = stated.map_or_else(|| large.saturating_add(large / 3), NonZeroU64::get);
        Self {
            all: Lot::new(bytes),
            large: Lot::new(bytes - bytes / 4),
            patience: stated.is_none().then_some(PATIENCE),
            moved: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// Waits for the memory that a layer takes whose blob has `size` bytes; not for layers that
    /// never end, of a registry that lets its bytes drip.
    pub(crate) async fn share(&self, size: u64) -> Share {
        tokio::select! {
            biased;
            share = self.within(size) => share,
            () = self.stagnation() => Share { _all: None, _large: None, moved: None },
        }
    }

    async fn within(&self, size: u64) -> Share {
        let needed = LEAST.saturating_add(size.saturating_mul(3)).min(MOST);
        let large = if size > SMALL {
            self.large.take(needed).await
        } else {
            None
        };
        let all = self.all.take(needed).await;
        note(&self.moved);
        Share {
            _all: all,
            _large: large,
            moved: Some(Arc::clone(&self.moved)),
        }
    }

    /// Ends when nobody has taken or given back anything for too long.
    async fn stagnation(&self) {
        let Some(patience) = self.patience else {
            return std::future::pending().await;
        };
        loop {
            let moved = *self.moved.lock().unwrap_or_else(PoisonError::into_inner);
            let rest = patience.saturating_sub(moved.elapsed());
            if rest.is_zero() {
                return;
            }
            tokio::time::sleep(rest).await;
        }
    }
}

fn note(moved: &Arc<Mutex<Instant>>) {
    *moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
}

/// So many KiB, given out in the order in which they are asked for.
#[derive(Debug)]
struct Lot {
    free: Arc<Semaphore>,
    whole: u32,
}

impl Lot {
    fn new(bytes: u64) -> Self {
        let whole = kibibytes(bytes).clamp(1, MOST_KIBIBYTES);
        let permits = usize::try_from(whole).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(permits)),
            whole,
        }
    }

    /// So many bytes, or all there are; None only if the lot were closed, which it never is.
    async fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let wanted = kibibytes(bytes).min(self.whole);
        Arc::clone(&self.free).acquire_many_owned(wanted).await.ok()
    }
}

fn kibibytes(bytes: u64) -> u32 {
    u32::try_from(bytes >> 10).unwrap_or(u32::MAX)
}

/// A tebibyte; a semaphore counts to about 2^61, on machines of 32 bits to 2^29.
const MOST_KIBIBYTES: u32 = 1 << 28;

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    async fn is_free(memory: &Memory, size: u64) -> bool {
        let asking = memory.share(size);
        tokio::time::timeout(Duration::from_millis(20), asking)
            .await
            .is_ok()
    }

    #[test]
    fn a_stated_number_is_one_line_and_else_small_and_large_do_not_wait_for_each_other() {
        let sizes = vec![GIB, 10, SMALL, SMALL + 1, 20];
        let stated = Width::of(NonZeroUsize::new(2));
        let lines = stated.lines(sizes.clone(), |size| *size);
        assert_eq!(lines, [(sizes.clone(), 2), (Vec::new(), 1)]);
        let lines = Width::of(None).lines(sizes, |size| *size);
        let expected = [(vec![GIB, SMALL + 1], 3), (vec![10, SMALL, 20], 13)];
        assert_eq!(lines, expected);
    }

    #[tokio::test]
    async fn large_layers_leave_room_for_small_ones() {
        let memory = Memory::new(None, Width::BySize);
        let mut large = Vec::new();
        for _ in 0..LARGE_AT_A_TIME {
            large.push(memory.share(GIB).await);
        }
        assert!(!is_free(&memory, GIB).await);
        let mut small = Vec::new();
        for _ in 0..4 {
            small.push(memory.share(100 << 10).await);
        }
        drop(large);
        assert!(is_free(&memory, GIB).await);
    }

    #[tokio::test]
    async fn layers_that_never_end_are_waited_for_only_if_the_memory_is_stated() {
        for (stated, is_free_then) in [(None, true), (NonZeroU64::new(8 << 20), false)] {
            let mut memory = Memory::new(stated, Width::BySize);
            memory.patience = memory.patience.map(|_| Duration::from_millis(50));
            let mut held = Vec::new();
            while is_free(&memory, GIB).await {
                held.push(memory.share(GIB).await);
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
            for _ in 0..3 {
                assert_eq!(is_free(&memory, GIB).await, is_free_then, "{stated:?}");
            }
            // What ends is worth waiting for.
            held.pop();
            held.push(memory.share(GIB).await);
            assert!(!is_free(&memory, GIB).await, "{stated:?}");
        }
    }

    #[tokio::test]
    async fn thirteen_layers_of_a_hundred_kilobytes_fit_by_default() {
        let memory = Memory::new(None, Width::BySize);
        let mut small = Vec::new();
        for _ in 0..SMALL_AT_A_TIME {
            assert!(is_free(&memory, 100 << 10).await);
            small.push(memory.share(100 << 10).await);
        }
    }

    #[tokio::test]
    async fn as_many_large_ones_as_are_stated_fit_unless_the_memory_is_stated_too() {
        let width = Width::of(NonZeroUsize::new(6));
        for (stated, fit) in [(None, 6), (NonZeroU64::new(4 << 20), 1)] {
            let memory = Memory::new(stated, width);
            let mut held = Vec::new();
            while is_free(&memory, GIB).await {
                held.push(memory.share(GIB).await);
            }
            assert_eq!(held.len(), fit, "{stated:?}");
        }
    }
}
