//! Keeps the CPU time of one thread apart by stage.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use rustix::time::{ClockId, clock_gettime};

/// What the thread is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Receive,
    BlobDigest,
    Inflate,
    ContentDigest,
    Write,
    /// Headers, copies between buffers, the ledger itself: no part of the floor.
    Other,
}

/// The account. Stages nest: the inner one's time is not the outer one's.
#[derive(Debug)]
pub(super) struct Ledger {
    current: Cell<Stage>,
    since: Cell<Duration>,
    spent: RefCell<BTreeMap<Stage, Duration>>,
}

impl Ledger {
    pub(super) fn new() -> Ledger {
        Ledger {
            current: Cell::new(Stage::Other),
            since: Cell::new(thread_cpu()),
            spent: RefCell::default(),
        }
    }

    /// Does the work at the cost of `stage`.
    pub(super) fn charge<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let outer = self.turn_to(stage);
        let result = work();
        self.turn_to(outer);
        result
    }

    pub(super) fn seconds(&self, stage: Stage) -> f64 {
        self.spent
            .borrow()
            .get(&stage)
            .copied()
            .unwrap_or_default()
            .as_secs_f64()
    }

    fn turn_to(&self, stage: Stage) -> Stage {
        let now = thread_cpu();
        let spent = now.saturating_sub(self.since.replace(now));
        let before = self.current.replace(stage);
        *self.spent.borrow_mut().entry(before).or_default() += spent;
        before
    }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A reader whose reads are at the cost of a stage.
#[derive(Debug)]
pub(super) struct Charged<'a, R> {
    inner: R,
    stage: Stage,
    ledger: &'a Ledger,
}

impl<'a, R> Charged<'a, R> {
    pub(super) fn new(inner: R, stage: Stage, ledger: &'a Ledger) -> Charged<'a, R> {
        Charged {
            inner,
            stage,
            ledger,
        }
    }

    pub(super) fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Charged<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Charged {
            inner,
            stage,
            ledger,
        } = self;
        ledger.charge(*stage, || inner.read(buffer))
    }
}

/// A reader that digests what it passes on, at the cost of a stage.
pub(super) struct Digested<'a, R> {
    inner: R,
    context: Context,
    stage: Stage,
    ledger: &'a Ledger,
}

impl<'a, R> Digested<'a, R> {
    pub(super) fn new(inner: R, stage: Stage, ledger: &'a Ledger) -> Digested<'a, R> {
        Digested {
            inner,
            context: Context::new(&SHA256),
            stage,
            ledger,
        }
    }

    pub(super) fn into_inner(self) -> R {
        self.inner
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.context.finish().as_ref().to_vec()
    }
}

impl<R: Read> Read for Digested<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        self.ledger
            .charge(self.stage, || self.context.update(bytes));
        Ok(count)
    }
}
