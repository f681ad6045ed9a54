//! Passes bytes from one stage of the pipeline to the next in a fixed set of buffers.

use std::io::{self, BufRead, Read};
use std::mem;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::sync::{Mutex, PoisonError};

use thiserror::Error;

use crate::error::Error;

/// Bytes of one buffer: large enough that handing over costs nothing beside filling it, and several
/// of them still fit in the cache of a core.
pub(crate) const CHUNK: usize = 128 << 10;

/// A connection that holds at most `chunks` buffers, at least two, full and empty together.
pub(crate) fn channel(chunks: usize) -> (Sink, Source) {
    let (full, filled) = mpsc::sync_channel(chunks.saturating_add(1));
    let (empty, emptied) = mpsc::channel();
    let sink = Sink {
        full,
        emptied,
        ready: Vec::new(),
        unmade: chunks,
    };
    let source = Source {
        filled,
        empty,
        used: Vec::new(),
        batch: chunks.div_ceil(2),
        chunk: Chunk::default(),
        position: 0,
        passed: 0,
        ended: false,
    };
    (sink, source)
}

/// A connection with a stage in between that sees all bytes and changes none. It holds at most
/// `chunks` buffers, at least three.
pub(crate) fn relayed_channel(chunks: usize) -> (Sink, Relay, Source) {
    let (sink, mut source) = channel(chunks);
    let (full, filled) = mpsc::sync_channel(chunks.saturating_add(1));
    let filled = mem::replace(&mut source.filled, filled);
    (sink, Relay { filled, full }, source)
}

/// The end into which a stage writes.
#[derive(Debug)]
pub(crate) struct Sink {
    full: SyncSender<Message>,
    emptied: Receiver<Vec<Buffer>>,
    ready: Vec<Buffer>,
    unmade: usize,
}

impl Sink {
    /// An empty buffer, as soon as there is one. Its content is whatever it was.
    pub(crate) fn buffer(&mut self) -> Result<Buffer, Error> {
        if let Some(buffer) = self.ready.pop() {
            return Ok(buffer);
        }
        if let Some(unmade) = self.unmade.checked_sub(1) {
            self.unmade = unmade;
            return Ok(Buffer::take());
        }
        self.ready = self.emptied.recv().map_err(|mpsc::RecvError| gone())?;
        self.ready.pop().ok_or_else(gone)
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
    /// Buffers to be given back. They go several at a time, so that a stage that is the faster one
    /// is woken to do more than one chunk.
    used: Vec<Buffer>,
    batch: usize,
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
        if self.used.len() >= self.batch {
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
        let pooled = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(pooled.unwrap_or_else(|| vec![0; CHUNK]))
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
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_real() && pool.len() < POOLED {
            pool.push(mem::take(&mut self.0));
        }
    }
}

static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
/// Buffers kept while nobody needs them, 4.5 MiB: those of as many layers as are unpacked at a
/// time by default.
const POOLED: usize = 36;

#[cfg(test)]
mod tests {
    use super::*;

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
        let (sink, mut source) = channel(2);
        let sender = std::thread::spawn(move || send_numbers(sink));
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).unwrap();
        sender.join().unwrap();
        assert_eq!(bytes, numbers());
        assert_eq!(source.passed(), 150);
    }

    #[test]
    fn a_stage_in_between_sees_all_bytes() {
        let (sink, relay, mut source) = relayed_channel(3);
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
        let (mut sink, mut source) = channel(2);
        let buffer = sink.buffer().unwrap();
        sink.send(buffer, 10).unwrap();
        drop(sink);
        let mut bytes = Vec::new();
        let error = Error::Read(source.read_to_end(&mut bytes).unwrap_err());
        assert!(is_peer_gone(&error), "{error:?}");
    }

    #[test]
    fn a_stage_in_between_that_fails_ends_both_sides() {
        let (mut sink, relay, mut source) = relayed_channel(3);
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

        let (mut sink, relay, _source) = relayed_channel(3);
        let buffer = sink.buffer().unwrap();
        drop(relay);
        assert!(is_peer_gone(&sink.send(buffer, 1).unwrap_err()));
    }

    #[test]
    fn a_source_dropped_ends_the_sink() {
        let (mut sink, source) = channel(1);
        let buffer = sink.buffer().unwrap();
        sink.send(buffer, 1).unwrap();
        let waiting = std::thread::spawn(move || sink.buffer().unwrap_err());
        drop(source);
        assert!(is_peer_gone(&waiting.join().unwrap()));
    }
}
