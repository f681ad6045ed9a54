//! A blob on its way from the network to the unpacker: async on one side, blocking on the other.

use std::io::{self, BufRead, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc::{Permit, Receiver, Sender, channel};

/// A pipe for one blob. It holds at most two network reads, the one that is being unpacked and the
/// next; a slow unpacker slows the network.
pub(crate) fn blob_channel() -> (BlobSender, BlobReader) {
    let (sender, receiver) = channel(1);
    (
        BlobSender(sender),
        BlobReader {
            receiver,
            piece: Bytes::new(),
            finished: false,
        },
    )
}

/// The network's end.
#[derive(Debug)]
pub(crate) struct BlobSender(Sender<Piece>);

/// The unpacker's end. An end of stream is reported only if the sender has said so: a sender
/// that was dropped is an error, never a short blob.
#[derive(Debug)]
pub(crate) struct BlobReader {
    receiver: Receiver<Piece>,
    piece: Bytes,
    finished: bool,
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    End,
}

/// The unpacker has gone: it has failed, or has seen enough.
#[derive(Debug)]
pub(crate) struct NobodyListens;

/// The right to hand on one piece at once.
#[derive(Debug)]
pub(crate) struct Room<'sender>(Permit<'sender, Piece>);

impl Room<'_> {
    /// Hands it on.
    pub(crate) fn fill(self, bytes: Bytes) {
        self.0.send(Piece::Bytes(bytes));
    }
}

impl BlobSender {
    /// Waits while the unpacker is behind. Whoever reads from the network only when there is room
    /// holds nothing meanwhile.
    pub(crate) async fn room(&self) -> Result<Room<'_>, NobodyListens> {
        let permit = self.0.reserve().await;
        permit.map(Room).map_err(|_gone| NobodyListens)
    }

    /// Marks the end of the blob.
    pub(crate) async fn finish(self) {
        // The reader may have gone; then there is nobody to tell.
        let _ = self.0.send(Piece::End).await;
    }
}

impl BufRead for BlobReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() && !self.finished {
            // Even an empty one would keep what it was cut from.
            self.piece = Bytes::new();
            match self.receiver.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.piece = bytes,
                Some(Piece::End) => self.finished = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, FetchStopped)),
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, amount: usize) {
        self.piece.advance(amount.min(self.piece.len()));
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// The fetch ended before the blob did; why is the fetch's own error.
#[derive(Debug, thiserror::Error)]
#[error("the fetch of the blob stopped before its end")]
struct FetchStopped;

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(mut reader: BlobReader) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    }

    #[tokio::test]
    async fn blob_arrives_whole() {
        let (sender, reader) = blob_channel();
        let reading = tokio::task::spawn_blocking(move || read_all(reader));
        for piece in ["one ", "", "two"] {
            let room = sender.room().await.unwrap();
            room.fill(Bytes::from_static(piece.as_bytes()));
        }
        sender.finish().await;
        assert_eq!(reading.await.unwrap().unwrap(), b"one two");
    }

    #[tokio::test]
    async fn dropped_sender_is_an_error_and_not_an_end() {
        let (sender, reader) = blob_channel();
        let reading = tokio::task::spawn_blocking(move || read_all(reader));
        let room = sender.room().await.unwrap();
        room.fill(Bytes::from_static(b"half"));
        drop(sender);
        let error = reading.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn dropped_reader_stops_the_sender() {
        let (sender, reader) = blob_channel();
        drop(reader);
        assert!(matches!(sender.room().await, Err(NobodyListens)));
    }
}
