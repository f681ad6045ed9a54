//! The stages of unpacking, each on a thread of its own, and the proof at their end.

use std::io::{self, BufRead, Read};
use std::panic::resume_unwind;
use std::thread::{self, Scope, ScopedJoinHandle};

use policy::{Approved, Compression, Digest, Hasher, Layer};

use crate::apply::{Writer, Written};
use crate::cancel::Cancel;
use crate::chunks::{self, CHUNK, Sink, Source, is_peer_gone};
use crate::dir::Dir;
use crate::error::Error;
use crate::inflate::inflate;
use crate::limits::Limits;
use crate::name::length;
use crate::staging::Staging;
use crate::tar::Archive;
use crate::unpacked::Unpacked;

/// Unpacks an approved layer from `blob` into the staging directory `into`.
///
/// Reading and hashing the blob happens on the calling thread, decompressing it and writing the
/// files on two others, with some 3 MiB of buffers between them. Nothing compressed is stored.
///
/// When a stage fails or `cancel` is requested, the others end at their next step. The one thing
/// that can delay that is a `blob` whose `fill_buf` does not return: its owner must give it a
/// deadline.
///
/// # Errors
/// See [`Error`]. What was written is erased with `into`; a staging directory serves one attempt.
pub fn unpack(
    layer: &Approved<Layer>,
    blob: impl BufRead + Send,
    into: &Staging,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<Unpacked, Error> {
    let expected = Expected {
        digest: *layer.blob().digest(),
        size: layer.blob().size(),
        compression: layer.compression(),
        diff_id: *layer.diff_id(),
    };
    run(&expected, blob, into, limits, cancel)
}

/// What an approved layer must turn out to be.
struct Expected {
    digest: Digest,
    size: u64,
    compression: Compression,
    diff_id: Digest,
}

fn run(
    expected: &Expected,
    blob: impl BufRead,
    into: &Staging,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<Unpacked, Error> {
    let root = into.begin()?;
    let (blob_sink, blob_source) = chunks::channel(BLOB_CHUNKS);
    let (content_sink, content_source) = chunks::channel(CONTENT_CHUNKS);
    let (read, inflated, written) = thread::scope(|scope| {
        let compression = expected.compression;
        let inflating = spawn(scope, "layer-inflate", move || {
            inflate(blob_source, compression, content_sink, limits, cancel)
        })?;
        let writing = spawn(scope, "layer-write", move || {
            write(content_source, expected, root, limits, cancel)
        })?;
        let read = read_blob(blob, blob_sink, expected, cancel);
        Ok::<_, Error>((read, join(inflating), join(writing)))
    })?;
    let (content_bytes, written) = first_cause(read, inflated, written)?;
    Ok(Unpacked {
        staging: into.serial(),
        root: written.root,
        implied: written.implied,
        notes: written.notes,
        counts: written.counts,
        content_bytes,
    })
}

/// Reads the blob to its end, holding it to size and digest. The stages after it learn that it has
/// ended only when it is the right one.
fn read_blob(
    mut blob: impl BufRead,
    mut sink: Sink,
    expected: &Expected,
    cancel: &Cancel,
) -> Result<(), Error> {
    let mut hasher = Hasher::new(expected.digest.algorithm());
    let mut found = 0_u64;
    loop {
        cancel.check()?;
        let mut buffer = sink.buffer()?;
        let filled = fill(&mut blob, &mut buffer).map_err(Error::Read)?;
        let bytes = buffer.get(..filled).unwrap_or_default();
        found = found.saturating_add(length(bytes));
        if found > expected.size {
            return Err(Error::BlobTooLong {
                expected: expected.size,
            });
        }
        hasher.update(bytes);
        if filled > 0 {
            sink.send(buffer, filled)?;
        }
        if filled < CHUNK {
            break;
        }
    }
    if found < expected.size {
        return Err(Error::BlobTooShort {
            expected: expected.size,
            found,
        });
    }
    let found = hasher.finish();
    if found != expected.digest {
        return Err(Error::BlobDigest {
            expected: expected.digest,
            found,
        });
    }
    sink.finish()
}

/// Hashes the content and writes the archive in it; all of it, also what follows the archive.
fn write(
    source: Source,
    expected: &Expected,
    root: Dir,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<Written, Error> {
    let hasher = Hasher::new(expected.diff_id.algorithm());
    let mut content = Content { source, hasher };
    let mut writer = Writer::new(root, limits, expected.size, cancel);
    let mut archive = Archive::new(&mut content, limits);
    while let Some(entry) = archive.next_entry()? {
        writer.entry(entry, &mut archive)?;
    }
    archive.drain()?;
    let found = content.hasher.finish();
    if found != expected.diff_id {
        return Err(Error::DiffId {
            expected: expected.diff_id,
            found,
        });
    }
    writer.finish()
}

/// The decompressed content, hashed as it arrives.
struct Content {
    source: Source,
    hasher: Hasher,
}

impl BufRead for Content {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill(|chunk| self.hasher.update(chunk))
    }

    fn consume(&mut self, count: usize) {
        self.source.consume(count);
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// What all stages came to, or the error of the one that failed of itself and not because a
/// neighbour did.
fn first_cause<T>(
    read: Result<(), Error>,
    inflated: Result<u64, Error>,
    written: Result<T, Error>,
) -> Result<(u64, T), Error> {
    match (read, inflated, written) {
        (Ok(()), Ok(bytes), Ok(written)) => Ok((bytes, written)),
        (Err(error), inflated, written) => Err(cause(error, [inflated.err(), written.err()])),
        (Ok(()), Err(error), written) => Err(cause(error, [written.err(), None])),
        (Ok(()), Ok(_), Err(error)) => Err(error),
    }
}

fn cause(error: Error, others: [Option<Error>; 2]) -> Error {
    let nearer = |known: Error, other| if is_peer_gone(&known) { other } else { known };
    others.into_iter().flatten().fold(error, nearer)
}

/// Fills `buffer`, unless the source ends before.
fn fill(source: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match source.read(room) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    stage: &'static str,
    run: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, Error> {
    thread::Builder::new()
        .name(stage.to_owned())
        .spawn_scoped(scope, run)
        .map_err(|source| Error::Thread { stage, source })
}

/// The result of a stage; its panic is that of the caller.
fn join<T>(stage: ScopedJoinHandle<'_, T>) -> T {
    stage.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Compressed chunks under way, 1 MiB.
const BLOB_CHUNKS: usize = 4;
/// Decompressed chunks under way, 2 MiB: writing goes in fits and starts.
const CONTENT_CHUNKS: usize = 8;
