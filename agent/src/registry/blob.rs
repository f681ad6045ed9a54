//! A blob on its way from the network to the unpacker: async on one side, blocking on the other.

use std::io::{self, BufRead, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// A pipe for one blob. It holds at most a few network reads; a slow unpacker slows the network.
pub(crate) fn blob_channel() -> (BlobSender, BlobReader) {
    let (sender, receiver) = channel(PIECES_UNDER_WAY);
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

impl BlobSender {
    /// Hands on one piece; waits while the unpacker is behind.
    pub(crate) async fn send(&self, bytes: Bytes) -> Result<(), NobodyListens> {
        self.0
            .send(Piece::Bytes(bytes))
            .await
            .map_err(|_gone| NobodyListens)
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

const PIECES_UNDER_WAY: usize = 2;

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
            sender
                .send(Bytes::from_static(piece.as_bytes()))
                .await
                .unwrap();
        }
        sender.finish().await;
        assert_eq!(reading.await.unwrap().unwrap(), b"one two");
    }

    #[tokio::test]
    async fn dropped_sender_is_an_error_and_not_an_end() {
        let (sender, reader) = blob_channel();
        let reading = tokio::task::spawn_blocking(move || read_all(reader));
        sender.send(Bytes::from_static(b"half")).await.unwrap();
        drop(sender);
        let error = reading.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn dropped_reader_stops_the_sender() {
        let (sender, reader) = blob_channel();
        drop(reader);
        assert!(matches!(
            sender.send(Bytes::from_static(b"x")).await,
            Err(NobodyListens)
        ));
    }
}
