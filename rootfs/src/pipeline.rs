//! The stages of unpacking, each on a thread of its own, and the proof at their end.

use std::io::{self, BufRead};
use std::panic::resume_unwind;
use std::thread::{self, Scope, ScopedJoinHandle};

use policy::{Approved, Compression, Digest, Hasher, Layer};
use rustix::thread::CapabilitySet;

use crate::apply::{Writer, Written};
use crate::cancel::Cancel;
use crate::chunks::{self, CHUNK, Depth, Relay, Sink, Source, is_peer_gone};
use crate::dir::Dir;
use crate::error::Error;
use crate::inflate::inflate;
use crate::limits::{Budget, Limits};
use crate::name::length;
use crate::privilege::{NONE, WRITE, keep_only};
use crate::staging::Staging;
use crate::tar::Archive;
use crate::unpacked::Unpacked;

/// Unpacks an approved layer from `blob` into the staging directory `into`.
///
/// Reading and hashing the blob happens on the calling thread; decompressing it, hashing the
/// content and writing the files on three others, with 1.25 MiB of buffers between them, and up to
/// 3.25 MiB more while few layers are unpacked. Nothing compressed is stored.
///
/// When a stage fails or `cancel` is requested, the others end at their next step. The one thing
/// that can delay that is a `blob` whose `fill_buf` does not return: its owner must give it a
/// deadline.
///
/// # Errors
/// See [`Error`]. What was written is erased with `into`; a staging directory serves one attempt.
/// Where [`Error::needs_lower_layers`] holds, [`unpack_onto`] may have more success.
pub fn unpack(
    layer: &Approved<Layer>,
    blob: impl BufRead + Send,
    into: &Staging,
    budget: &Budget,
    cancel: &Cancel,
) -> Result<Unpacked, Error> {
    run(&Expected::of(layer), blob, None, into, budget, cancel)
}

/// Unpacks an approved layer as [`unpack`] does, for a place on top of other layers that it cannot
/// do without: `below` shows what a bundle of these alone would, and nothing may change it
/// meanwhile.
///
/// Parents that are symbolic links below are followed as in a chroot of the image, and the files
/// below that this layer has hard links to are copied into its tree. For any other place the tree
/// is of no use.
///
/// # Errors
/// As [`unpack`]; never one for which [`Error::needs_lower_layers`] holds.
pub fn unpack_onto(
    layer: &Approved<Layer>,
    blob: impl BufRead + Send,
    below: &Dir,
    into: &Staging,
    budget: &Budget,
    cancel: &Cancel,
) -> Result<Unpacked, Error> {
    let below = Some(below);
    run(&Expected::of(layer), blob, below, into, budget, cancel)
}

/// What an approved layer must turn out to be.
struct Expected {
    digest: Digest,
    size: u64,
    compression: Compression,
    diff_id: Digest,
}

impl Expected {
    fn of(layer: &Approved<Layer>) -> Self {
        Self {
            digest: *layer.blob().digest(),
            size: layer.blob().size(),
            compression: layer.compression(),
            diff_id: *layer.diff_id(),
        }
    }
}

fn run(
    expected: &Expected,
    blob: impl BufRead,
    below: Option<&Dir>,
    into: &Staging,
    budget: &Budget,
    cancel: &Cancel,
) -> Result<Unpacked, Error> {
    let (root, below) = (into.begin()?, below.map(Dir::try_clone).transpose()?);
    let (blob_sink, blob_source) = chunks::channel(BLOB_CHUNKS);
    let (content_sink, content_relay, content_source) = chunks::relayed_channel(CONTENT_CHUNKS);
    let (blob_bytes, compression, diff_id) =
        (expected.size, expected.compression, &expected.diff_id);
    let (((), content_bytes), (written, ())) = thread::scope(|scope| {
        let inflating = spawn(scope, "layer-inflate", NONE, move || {
            inflate(blob_source, compression, content_sink, budget, cancel)
        })?;
        let hashing = spawn(scope, "layer-hash", NONE, move || {
            prove_content(content_relay, diff_id)
        })?;
        let writing = spawn(scope, "layer-write", WRITE, move || {
            let writer = Writer::new(root, below, budget, blob_bytes, cancel);
            write(content_source, writer, budget.limits())
        })?;
        let read = read_blob(blob, blob_sink, expected, cancel);
        let content = both(join(writing), join(hashing));
        both(both(read, join(inflating)), content)
    })?;
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
        let filled = fill(&mut blob, buffer.as_mut()).map_err(Error::Read)?;
        let bytes = buffer.as_mut().get(..filled).unwrap_or_default();
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

/// Holds the content to its digest. Whoever writes it learns that it has ended only when it is the
/// right one.
fn prove_content(relay: Relay, diff_id: &Digest) -> Result<(), Error> {
    let mut hasher = Hasher::new(diff_id.algorithm());
    relay.pass(|chunk| hasher.update(chunk))?;
    let found = hasher.finish();
    if found != *diff_id {
        return Err(Error::DiffId {
            expected: *diff_id,
            found,
        });
    }
    relay.finish()
}

/// Writes the archive, and reads to its end what follows that.
fn write(source: Source, mut writer: Writer<'_>, limits: &Limits) -> Result<Written, Error> {
    let mut archive = Archive::new(source, limits);
    while let Some(entry) = archive.next_entry()? {
        writer.entry(entry, &mut archive)?;
    }
    archive.drain()?;
    writer.finish()
}

/// What both stages came to, or the error of the one that failed of itself and not because a
/// neighbour did.
fn both<A, B>(one: Result<A, Error>, other: Result<B, Error>) -> Result<(A, B), Error> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (Err(error), Err(cause)) if is_peer_gone(&error) => Err(cause),
        (Err(error), _) | (Ok(_), Err(error)) => Err(error),
    }
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

/// Runs a stage on a thread of its own, which has no capability but those of `kept`.
fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    stage: &'static str,
    kept: CapabilitySet,
    run: impl FnOnce() -> Result<T, Error> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<T, Error>>, Error> {
    let failed = move |source| Error::Thread { stage, source };
    thread::Builder::new()
        .name(stage.to_owned())
        .spawn_scoped(scope, move || {
            keep_only(kept).map_err(|errno| failed(errno.into()))?;
            run()
        })
        .map_err(failed)
}

/// The result of a stage; its panic is that of the caller.
fn join<T>(stage: ScopedJoinHandle<'_, T>) -> T {
    stage.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Compressed chunks under way, 256 to 512 KiB.
const BLOB_CHUNKS: Depth = Depth { least: 2, most: 4 };
/// Decompressed chunks under way, 1 to 4 MiB. Writing goes in fits and starts, of few large chunks
/// every stage would hold one while none is left to wait for the slowest, and a stage waits for a
/// processor as long as others need to hash 1 MiB.
const CONTENT_CHUNKS: Depth = Depth { least: 8, most: 32 };
