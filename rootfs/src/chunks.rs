//! Passes bytes from one stage of the pipeline to the next in a fixed set of buffers.

use std::io::{self, BufRead, Read};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use crate::error::Error;

/// Bytes of one buffer: large enough that handing over costs nothing beside filling it, and several
/// of them still fit in the cache of a core.
pub(crate) const CHUNK: usize = 128 << 10;

/// How many buffers a connection holds, full and empty together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Depth {
    /// So many there are whatever other layers hold: at least two, and one more for a stage in
    /// between.
    pub(crate) least: usize,
    /// So many if other layers leave them to it.
    pub(crate) most: usize,
}

/// A connection of two stages.
pub(crate) fn channel(depth: Depth) -> (Sink, Source) {
    let (full, filled) = mpsc::sync_channel(depth.most.saturating_add(1));
    let (empty, emptied) = mpsc::channel();
    let held = Arc::new(AtomicUsize::new(0));
    let sink = Sink {
        full,
        emptied,
        ready: Vec::new(),
        depth,
        held: Arc::clone(&held),
    };
    let source = Source {
        filled,
        empty,
        used: Vec::new(),
        held,
        chunk: Chunk::default(),
        position: 0,
        passed: 0,
        ended: false,
    };
    (sink, source)
}

/// A connection with a stage in between that sees all bytes and changes none.
pub(crate) fn relayed_channel(depth: Depth) -> (Sink, Relay, Source) {
    let (sink, mut source) = channel(depth);
    let (full, filled) = mpsc::sync_channel(depth.most.saturating_add(1));
    let filled = mem::replace(&mut source.filled, filled);
    (sink, Relay { filled, full }, source)
}

/// The end into which a stage writes.
#[derive(Debug)]
pub(crate) struct Sink {
    full: SyncSender<Message>,
    emptied: Receiver<Vec<Buffer>>,
    ready: Vec<Buffer>,
    depth: Depth,
    /// Buffers of this connection, wherever they are.
    held: Arc<AtomicUsize>,
}

impl Sink {
    /// An empty buffer, as soon as there is one. Its content is whatever it was.
    pub(crate) fn buffer(&mut self) -> Result<Buffer, Error> {
        loop {
            if self.ready.is_empty() {
                self.ready = self.emptied.try_recv().unwrap_or_default();
            }
            let held = self.held.load(Relaxed);
            if let Some(buffer) = self.ready.pop() {
                if !pool().wants_back(held, self.depth) {
                    return Ok(buffer);
                }
                drop(buffer);
                self.held.store(held.saturating_sub(1), Relaxed);
            } else if pool().grants(held, self.depth) {
                self.held.store(held.saturating_add(1), Relaxed);
                return Ok(Buffer::take());
            } else {
                self.ready = self.emptied.recv().map_err(|mpsc::RecvError| gone())?;
            }
        }
    }

    /// Passes on the first `filled` bytes of a buffer.
    pub(crate) fn send(&self, buffer: Buffer, filled: usize) -> Result<(), Error> {
        let message = Message::Chunk(Chunk { buffer, filled });
        self.full.send(message).map_err(|mpsc::SendError(_)| gone())
    }

    /// Says that all bytes were passed on, and that all of them are good. A sink that is dropped
    /// without this has failed, and so will the stage at the other end.
    pub(crate) fn finish(self) -> Result<(), Error> {
        self.full
            .send(Message::End)
            .map_err(|mpsc::SendError(_)| gone())
    }
}

/// The middle of a connection. Dropped before the end, it is to the stages at both ends as if the
/// other one had failed.
#[derive(Debug)]
pub(crate) struct Relay {
    filled: Receiver<Message>,
    full: SyncSender<Message>,
}

impl Relay {
    /// Shows every chunk to `see` and passes it on. That the stream has ended is told to no one
    /// before [`finish`](Self::finish).
    pub(crate) fn pass(&self, mut see: impl FnMut(&[u8])) -> Result<(), Error> {
        loop {
            match self.filled.recv().map_err(|mpsc::RecvError| gone())? {
                Message::End => return Ok(()),
                Message::Chunk(chunk) => {
                    see(chunk.bytes(0));
                    let passed = self.full.send(Message::Chunk(chunk));
                    passed.map_err(|mpsc::SendError(_)| gone())?;
                }
            }
        }
    }

    /// Says that all bytes were passed on, and that all of them are good.
    pub(crate) fn finish(self) -> Result<(), Error> {
        self.full
            .send(Message::End)
            .map_err(|mpsc::SendError(_)| gone())
    }
}

/// The end from which a stage reads.
#[derive(Debug)]
pub(crate) struct Source {
    filled: Receiver<Message>,
    empty: Sender<Vec<Buffer>>,
    /// Buffers to be given back. They go by halves of all there are, so that a stage that is the
    /// faster one is woken to do more than one chunk.
    used: Vec<Buffer>,
    held: Arc<AtomicUsize>,
    chunk: Chunk,
    position: usize,
    passed: u64,
    ended: bool,
}

impl Source {
    /// Bytes consumed.
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    fn rest(&self) -> &[u8] {
        self.chunk.bytes(self.position)
    }

    /// Gives the present chunk's buffer back and waits for the next chunk.
    fn next(&mut self) -> io::Result<()> {
        self.position = 0;
        let chunk = mem::take(&mut self.chunk);
        self.used.extend(Some(chunk.buffer).filter(Buffer::is_real));
        if self.used.len() >= self.held.load(Relaxed).div_ceil(2) {
            self.give_back();
        }
        let message = match self.filled.try_recv() {
            Err(TryRecvError::Empty) => {
                // Whoever fills them must not wait for buffers while this waits for chunks.
                self.give_back();
                self.filled.recv().ok()
            }
            received => received.ok(),
        };
        match message {
            Some(Message::Chunk(chunk)) => self.chunk = chunk,
            Some(Message::End) => self.ended = true,
            None => return Err(io::Error::other(PeerGone)),
        }
        Ok(())
    }

    fn give_back(&mut self) {
        if !self.used.is_empty() {
            // A stage that has ended has no use for them.
            drop(self.empty.send(mem::take(&mut self.used)));
        }
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.position >= self.chunk.filled && !self.ended {
            self.next()?;
        }
        Ok(self.rest())
    }

    fn consume(&mut self, count: usize) {
        self.position = self.position.saturating_add(count).min(self.chunk.filled);
        self.passed = self
            .passed
            .saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Whether a stage failed only because its neighbour did, which is then the one to ask why.
pub(crate) fn is_peer_gone(error: &Error) -> bool {
    let (Error::Read(source) | Error::Inflate { source, .. }) = error else {
        return false;
    };
    source
        .get_ref()
        .is_some_and(<dyn std::error::Error + Send + Sync>::is::<PeerGone>)
}

fn gone() -> Error {
    Error::Read(io::Error::other(PeerGone))
}

/// The stage at the other end ended before its time.
#[derive(Debug, Error)]
#[error("another stage of the pipeline has failed")]
struct PeerGone;

#[derive(Debug)]
enum Message {
    Chunk(Chunk),
    End,
}

#[derive(Debug, Default)]
struct Chunk {
    buffer: Buffer,
    filled: usize,
}

impl Chunk {
    fn bytes(&self, from: usize) -> &[u8] {
        self.buffer.0.get(from..self.filled).unwrap_or_default()
    }
}

/// [`CHUNK`] bytes out of a pool of the process, to which they return: every layer has threads of
/// its own, and what each of them gave back to the allocator would be kept for that thread.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    fn take() -> Self {
        let mut pool = pool();
        pool.used = pool.used.saturating_add(1);
        let idle = pool.idle.pop();
        drop(pool);
        Self(idle.unwrap_or_else(|| vec![0; CHUNK]))
    }

    /// Whether it is more than the place of one.
    fn is_real(&self) -> bool {
        !self.0.is_empty()
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.is_real() {
            pool().take_back(mem::take(&mut self.0));
        }
    }
}

/// While it lives, no layer holds more buffers than its least: something else needs the memory.
#[derive(Debug)]
pub(crate) struct Frugality(());

impl Frugality {
    pub(crate) fn begin() -> Self {
        let mut pool = pool();
        pool.frugalities = pool.frugalities.saturating_add(1);
        Self(())
    }
}

impl Drop for Frugality {
    fn drop(&mut self) {
        let mut pool = pool();
        pool.frugalities = pool.frugalities.saturating_sub(1);
    }
}

/// The buffers of the process.
struct Pool {
    /// Those that a connection holds.
    used: usize,
    idle: Vec<Vec<u8>>,
    frugalities: usize,
}

impl Pool {
    /// Whether a connection that holds so many may have one more.
    fn grants(&self, held: usize, depth: Depth) -> bool {
        let is_spare = self.frugalities == 0 && self.used < SHARED;
        held < depth.least || is_spare && held < depth.most
    }

    /// Whether a connection that holds so many must give one back, because others came since.
    fn wants_back(&self, held: usize, depth: Depth) -> bool {
        let is_short = self.frugalities > 0 || self.used > SHARED;
        held > depth.least && is_short
    }

    fn take_back(&mut self, buffer: Vec<u8>) {
        self.used = self.used.saturating_sub(1);
        // More of them, in use and idle, than are shared: what a thread gives to the allocator is
        // kept for that thread.
        if self.idle.len() < SHARED {
            self.idle.push(buffer);
        }
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    used: 0,
    idle: Vec::new(),
    frugalities: 0,
});
/// Buffers that are kept when nobody needs them, and up to which a layer may have more than its
/// least: 4.5 MiB, 1.5 for each of as many layers as are unpacked at a time by default.
const SHARED: usize = 36;

#[cfg(test)]
mod tests {
    use super::*;

    const fn exactly(depth: usize) -> Depth {
        Depth {
            least: depth,
            most: depth,
        }
    }

    fn send_numbers(mut sink: Sink) {
        for number in 0..50_u8 {
            let mut buffer = sink.buffer().unwrap();
            assert_eq!(buffer.as_mut().len(), CHUNK);
            buffer.as_mut()[..3].copy_from_slice(&[number; 3]);
            sink.send(buffer, 3).unwrap();
        }
        sink.finish().unwrap();
    }

    fn numbers() -> Vec<u8> {
        (0..50).flat_map(|number| [number; 3]).collect()
    }

    #[test]
    fn passes_all_bytes_in_few_buffers() {
        let (sink, mut source) = channel(exactly(2));
        let sender = std::thread::spawn(move || send_numbers(sink));
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).unwrap();
        sender.join().unwrap();
        assert_eq!(bytes, numbers());
        assert_eq!(source.passed(), 150);
    }

    #[test]
    fn a_layer_has_more_buffers_while_others_leave_them_to_it() {
        let depth = Depth { least: 8, most: 32 };
        let pool = |used, frugalities| Pool {
            used,
            idle: Vec::new(),
            frugalities,
        };
        for (used, frugalities, held, grants, wants_back) in [
            (4, 0, 0, true, false),
            (12, 0, 8, true, false),
            (35, 0, 31, true, false),
            (35, 0, 32, false, false),
            (36, 0, 31, false, false),
            (37, 0, 31, false, true),
            (60, 0, 7, true, false),
            (60, 0, 8, false, false),
            (12, 1, 8, false, false),
            (12, 1, 9, false, true),
            (12, 1, 7, true, false),
        ] {
            let row = (used, frugalities, held);
            let pool = pool(used, frugalities);
            assert_eq!(pool.grants(held, depth), grants, "{row:?}");
            assert_eq!(pool.wants_back(held, depth), wants_back, "{row:?}");
        }
        let mut pool = pool(SHARED + 1, 0);
        for _ in 0..=SHARED {
            pool.take_back(vec![0; CHUNK]);
        }
        assert_eq!((pool.used, pool.idle.len()), (0, SHARED));
    }

    #[test]
    fn a_stage_in_between_sees_all_bytes() {
        let (sink, relay, mut source) = relayed_channel(exactly(3));
        let sender = std::thread::spawn(move || send_numbers(sink));
        let between = std::thread::spawn(move || {
            let mut seen = Vec::new();
            relay.pass(|bytes| seen.extend_from_slice(bytes)).unwrap();
            relay.finish().unwrap();
            seen
        });
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).unwrap();
        sender.join().unwrap();
        assert_eq!(bytes, numbers());
        assert_eq!(between.join().unwrap(), numbers());
    }

    #[test]
    fn a_sink_dropped_without_finishing_is_no_end_of_stream() {
        let (mut sink, mut source) = channel(exactly(2));
        let buffer = sink.buffer().unwrap();
        sink.send(buffer, 10).unwrap();
        drop(sink);
        let mut bytes = Vec::new();
        let error = Error::Read(source.read_to_end(&mut bytes).unwrap_err());
        assert!(is_peer_gone(&error), "{error:?}");
    }

    #[test]
    fn a_stage_in_between_that_fails_ends_both_sides() {
        let (mut sink, relay, mut source) = relayed_channel(exactly(3));
        let buffer = sink.buffer().unwrap();
        sink.send(buffer, 10).unwrap();
        sink.finish().unwrap();
        // It has seen the end, and not said that all was good.
        relay.pass(|_| ()).unwrap();
        drop(relay);
        let mut bytes = Vec::new();
        let error = Error::Read(source.read_to_end(&mut bytes).unwrap_err());
        assert!(is_peer_gone(&error), "{error:?}");
        assert_eq!(bytes.len(), 10);

        let (mut sink, relay, _source) = relayed_channel(exactly(3));
        let buffer = sink.buffer().unwrap();
        drop(relay);
        assert!(is_peer_gone(&sink.send(buffer, 1).unwrap_err()));
    }

    #[test]
    fn a_source_dropped_ends_the_sink() {
        let (mut sink, source) = channel(exactly(1));
        let buffer = sink.buffer().unwrap();
        sink.send(buffer, 1).unwrap();
        let waiting = std::thread::spawn(move || sink.buffer().unwrap_err());
        drop(source);
        assert!(is_peer_gone(&waiting.join().unwrap()));
    }
}
