//! Passes bytes from one stage of the pipeline to the next in a fixed set of buffers.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use thiserror::Error;

use crate::error::Error;

/// Bytes of one buffer: large enough that handing over costs nothing beside filling it, and several
/// of them still fit in the cache of a core.
pub(crate) const CHUNK: usize = 256 << 10;

/// A connection that holds at most `chunks` buffers, full and empty together.
pub(crate) fn channel(chunks: usize) -> (Sink, Source) {
    let (full, filled) = mpsc::sync_channel(chunks.saturating_add(1));
    let (empty, emptied) = mpsc::channel();
    let sink = Sink {
        full,
        emptied,
        unmade: chunks,
    };
    (
        sink,
        Source {
            filled,
            empty,
            chunk: Chunk::default(),
            position: 0,
            passed: 0,
            ended: false,
        },
    )
}

/// The end into which a stage writes.
#[derive(Debug)]
pub(crate) struct Sink {
    full: SyncSender<Message>,
    emptied: Receiver<Vec<u8>>,
    unmade: usize,
}

impl Sink {
    /// An empty buffer, as soon as there is one. Its content is whatever it was.
    pub(crate) fn buffer(&mut self) -> Result<Vec<u8>, Error> {
        if let Some(unmade) = self.unmade.checked_sub(1) {
            self.unmade = unmade;
            return Ok(vec![0; CHUNK]);
        }
        self.emptied.recv().map_err(|mpsc::RecvError| gone())
    }

    /// Passes on the first `filled` bytes of a buffer.
    pub(crate) fn send(&self, buffer: Vec<u8>, filled: usize) -> Result<(), Error> {
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

/// The end from which a stage reads.
#[derive(Debug)]
pub(crate) struct Source {
    filled: Receiver<Message>,
    empty: Sender<Vec<u8>>,
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

    /// The bytes not yet consumed of the present chunk, waiting for one if there are none. Each
    /// chunk is shown to `arrived` once.
    pub(crate) fn fill(&mut self, mut arrived: impl FnMut(&[u8])) -> io::Result<&[u8]> {
        while self.position >= self.chunk.filled && !self.ended {
            match self.filled.recv() {
                Ok(Message::Chunk(chunk)) => {
                    let used = std::mem::replace(&mut self.chunk, chunk);
                    self.position = 0;
                    arrived(self.rest());
                    // The first has no buffer, and a stage that has ended no use for one.
                    if !used.buffer.is_empty() {
                        drop(self.empty.send(used.buffer));
                    }
                }
                Ok(Message::End) => self.ended = true,
                Err(mpsc::RecvError) => return Err(io::Error::other(PeerGone)),
            }
        }
        Ok(self.rest())
    }

    fn rest(&self) -> &[u8] {
        self.chunk
            .buffer
            .get(self.position..self.chunk.filled)
            .unwrap_or_default()
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.fill(|_| ())
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
    buffer: Vec<u8>,
    filled: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_all_bytes_in_few_buffers() {
        let (mut sink, mut source) = channel(2);
        let sender = std::thread::spawn(move || {
            for number in 0..50_u8 {
                let mut buffer = sink.buffer().unwrap();
                assert_eq!(buffer.len(), CHUNK);
                buffer[..3].copy_from_slice(&[number; 3]);
                sink.send(buffer, 3).unwrap();
            }
            sink.finish().unwrap();
        });
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).unwrap();
        sender.join().unwrap();
        assert_eq!(
            bytes,
            (0..50).flat_map(|number| [number; 3]).collect::<Vec<_>>()
        );
        assert_eq!(source.passed(), 150);
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
    fn a_source_dropped_ends_the_sink() {
        let (mut sink, source) = channel(1);
        let buffer = sink.buffer().unwrap();
        sink.send(buffer, 1).unwrap();
        let waiting = std::thread::spawn(move || sink.buffer().unwrap_err());
        drop(source);
        assert!(is_peer_gone(&waiting.join().unwrap()));
    }
}
