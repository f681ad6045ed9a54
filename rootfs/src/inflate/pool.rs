//! The zstd decoders of the process, and the memory that their windows share.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use policy::Compression;
use zstd::zstd_safe::{DCtx, ResetDirective};

use crate::cancel::Cancel;
use crate::chunks::Frugality;
use crate::error::Error;

/// A decoder, with the right to a window.
///
/// Windows come out of [`WINDOWS`] bytes for the whole process, and those that large or larger are
/// there one at a time. Whoever has one must not ask for a second one. Decoders are kept for the
/// next layer, as each has threads of its own: the allocator would keep for every thread what a
/// decoder gave back to it there.
pub(super) struct Decoder {
    /// Always there until it is dropped.
    context: Option<DCtx<'static>>,
    window: u64,
    /// One that has all the windows' memory and more leaves no more than the least to others.
    _frugality: Option<Frugality>,
}

impl Decoder {
    /// A decoder that may have a window of so many bytes, as soon as there is room for that.
    pub(super) fn take(window: u64, cancel: &Cancel) -> Result<Self, Error> {
        let mut pool = lock();
        let (context, window) = loop {
            if let Some((context, window)) = pool.idle(window) {
                break (Some(context), window);
            }
            if pool.make_room(share(window)) {
                break (DCtx::try_create(), window);
            }
            cancel.check()?;
            let waited = RETURNED.wait_timeout(pool, BETWEEN_CHECKS);
            (pool, _) = waited.unwrap_or_else(PoisonError::into_inner);
        };
        drop(pool);
        let mut decoder = Self {
            context,
            window,
            _frugality: (window > WINDOWS).then(Frugality::begin),
        };
        let fresh = decoder
            .context()
            .and_then(|context| context.reset(ResetDirective::SessionOnly).ok());
        fresh.map(|_| decoder).ok_or_else(|| Error::Inflate {
            compression: Compression::Zstd,
            source: io::ErrorKind::OutOfMemory.into(),
        })
    }

    /// The library's decoder.
    pub(super) fn context(&mut self) -> Option<&mut DCtx<'static>> {
        self.context.as_mut()
    }

    /// The window that it may have.
    pub(super) fn window(&self) -> u64 {
        self.window
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        let mut pool = lock();
        match self.context.take() {
            Some(context) if self.window <= KEPT => pool.idle.push((context, self.window)),
            larger_or_none => {
                drop(larger_or_none);
                pool.room = pool.room.saturating_add(share(self.window));
            }
        }
        drop(pool);
        RETURNED.notify_all();
    }
}

/// What is not in use.
struct Pool {
    /// Bytes that no decoder has.
    room: u64,
    /// Decoders and their windows.
    idle: Vec<(DCtx<'static>, u64)>,
}

impl Pool {
    /// A decoder that fits a window, and is not so large that others would have to wait for it.
    fn idle(&mut self, window: u64) -> Option<(DCtx<'static>, u64)> {
        let fits = |&(_, has): &(_, u64)| (window..=window.saturating_mul(2)).contains(&has);
        let at = self.idle.iter().position(fits)?;
        Some(self.idle.swap_remove(at))
    }

    /// Takes so many bytes, of idle decoders if need be.
    fn make_room(&mut self, bytes: u64) -> bool {
        while self.room < bytes {
            let Some((decoder, window)) = self.idle.pop() else {
                return false;
            };
            drop(decoder);
            self.room = self.room.saturating_add(share(window));
        }
        self.room = self.room.saturating_sub(bytes);
        true
    }
}

/// What a window takes of [`WINDOWS`].
fn share(window: u64) -> u64 {
    window.min(WINDOWS)
}

fn lock() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    room: WINDOWS,
    idle: Vec::new(),
});
static RETURNED: Condvar = Condvar::new();
/// One window of the levels in common use and small ones beside it: two at a time cost memory and,
/// with two processors that digest as well, bring hardly any time. A larger one has it all to itself.
const WINDOWS: u64 = 3 << 20;
/// The largest window that is kept for the next layer. Those of the highest levels of the format's
/// own program have it, and would otherwise stay with the allocator once for every layer.
const KEPT: u64 = 8 << 20;
const BETWEEN_CHECKS: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// One test, since the pool is that of the process and other tests take little of it.
    #[test]
    fn a_window_as_large_as_all_waits_until_it_is_alone() {
        let cancel = Cancel::new();
        let small = Decoder::take(1 << 20, &cancel).unwrap();
        let (told, taken) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let large = Decoder::take(128 << 20, &cancel).unwrap();
                told.send(large.window()).unwrap();
            });
            let early = taken.recv_timeout(Duration::from_millis(100));
            assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout));
            drop(small);
            assert_eq!(taken.recv(), Ok(128 << 20));
        });
        let _all = Decoder::take(u64::MAX, &cancel).unwrap();
        cancel.request();
        let error = Decoder::take(1, &cancel).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error:?}");
    }

    #[test]
    fn room_is_made_of_idle_decoders() {
        let idle = |window| (DCtx::create(), window);
        let mut pool = Pool {
            room: 1,
            idle: vec![idle(10), idle(20)],
        };
        assert!(pool.idle(4).is_none(), "neither too small nor too large");
        assert_eq!(pool.idle(6).map(|(_, window)| window), Some(10));
        assert!(pool.make_room(15));
        assert_eq!((pool.room, pool.idle.len()), (6, 0));
        assert!(!pool.make_room(7));
        // One that had all to itself gives back no more than that.
        let mut pool = Pool {
            room: 0,
            idle: vec![idle(KEPT)],
        };
        assert!(pool.make_room(1));
        assert_eq!((pool.room, pool.idle.len()), (WINDOWS - 1, 0));
    }
}
