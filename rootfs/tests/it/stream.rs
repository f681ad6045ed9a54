//! The blob around the archive: sizes, digests, and sources that misbehave.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use policy::{Algorithm, Digest};
use rootfs::{Error, LimitKind};
use rustix::process::Pid;
use rustix::thread::{CapabilitySet, capabilities};

use crate::kit::{Blob, GZIP, PLAIN, Scratch, Tar, ZSTD, gzip};

fn archive() -> Vec<u8> {
    Tar::new()
        .dir("dir")
        .file("dir/file", &[7; 1500])
        .symlink("link", "dir/file")
        .end()
}

#[test]
fn unpacks_every_compression_and_digest() {
    let scratch = Scratch::new();
    let archive = archive();
    let members = [gzip(&archive[..700]), gzip(&archive[700..])].concat();
    let mut blobs = vec![
        Blob::plain(archive.clone()),
        Blob::gzip(&archive),
        Blob::zstd(&archive),
        Blob::new(members, GZIP, &archive),
    ];
    for algorithm in [Algorithm::Sha384, Algorithm::Sha512] {
        let mut blob = Blob::zstd(&archive);
        blob.digest = Digest::of(algorithm, &blob.bytes);
        blobs.push(blob);
    }
    for blob in blobs {
        let tree = scratch.unpack(&blob).unwrap();
        assert_eq!(tree.names(), ["dir", "dir/file", "link"]);
    }
}

/// eStargz and zstd:chunked: made to be fetched in pieces, and whole ones all the same.
#[test]
fn formats_for_lazy_pulling_are_plain_input() {
    let scratch = Scratch::new();
    let index = br#"{"version":1,"entries":[]}"#;
    let with_index = Tar::new()
        .dir("dir")
        .file(".no.prefetch.landmark", b"\x0f")
        .file("dir/file", &[7; 1500])
        .symlink("link", "dir/file")
        .file("stargz.index.json", index)
        .end();
    // A member for each block or so, the index in the last one, and a footer that says where.
    let (content, end) = with_index.split_at(with_index.len() - 2048);
    let mut estargz: Vec<u8> = content.chunks(512).flat_map(gzip).collect();
    let offset = estargz.len();
    estargz.extend(gzip(end));
    estargz.extend(stargz_footer(offset));
    let expected = scratch.unpack(&Blob::plain(with_index.clone())).unwrap();
    let found = scratch.unpack(&Blob::new(estargz, GZIP, &with_index));
    let found = found.unwrap();
    assert_eq!(found.names().last(), Some(&"stargz.index.json"));
    assert_eq!(found.lines, expected.lines);

    // A frame for each block or so, and frames to be skipped: the index, and where that is.
    let archive = archive();
    let frame = |bytes: &[u8]| Blob::zstd(bytes).bytes;
    let mut chunked: Vec<u8> = archive.chunks(512).flat_map(frame).collect();
    chunked.extend(skippable(&frame(index)));
    chunked.extend(skippable(&[0; 64]));
    let expected = scratch.unpack(&Blob::plain(archive.clone())).unwrap();
    let found = scratch.unpack(&Blob::new(chunked, ZSTD, &archive));
    assert_eq!(found.unwrap().lines, expected.lines);
}

/// An empty member of gzip with the offset in an extra field (RFC 1952 section 2.3.1.1).
fn stargz_footer(offset: usize) -> Vec<u8> {
    let field = format!("{offset:016x}STARGZ");
    let mut footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0".to_vec();
    footer.extend(field.as_bytes());
    // An empty block that is the last, and the checksum and length of nothing.
    footer.extend(b"\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
    assert_eq!(footer.len(), 51);
    footer
}

/// A frame of zstd that means nothing to a decoder (RFC 8878 section 3.1.2).
fn skippable(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    let magic = 0x184D_2A50_u32;
    [&magic.to_le_bytes(), &length.to_le_bytes(), content].concat()
}

#[test]
fn a_cut_at_any_block_is_an_error() {
    let scratch = Scratch::new();
    let archive = archive();
    for cut in (0..archive.len()).step_by(512).chain([archive.len() - 1]) {
        let mut blob = Blob::plain(archive.clone());
        blob.bytes.truncate(cut);
        let error = scratch.unpack(&blob).unwrap_err();
        let cut = u64::try_from(cut).unwrap();
        assert!(
            matches!(error, Error::BlobTooShort { expected, found } if found == cut && expected == blob.size),
            "{cut}: {error:?}"
        );
    }
    let whole = Blob::gzip(&archive);
    for cut in 0..whole.bytes.len() {
        let mut blob = whole.clone();
        blob.bytes.truncate(cut);
        let error = scratch.unpack(&blob).unwrap_err();
        assert!(
            matches!(error, Error::BlobTooShort { .. }),
            "{cut}: {error:?}"
        );
    }
}

/// Cut before it was hashed: all digests hold, and still it is no archive.
#[test]
fn an_archive_cut_by_its_author_is_an_error_within_entries() {
    let scratch = Scratch::new();
    let archive = archive();
    // Header, header, three blocks of content.
    for cut in [100, 512 + 100, 1024, 1024 + 1, 1024 + 512, 1024 + 1499] {
        let blob = Blob::gzip(&archive[..cut]);
        let error = scratch.unpack(&blob).unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }), "{cut}: {error:?}");
    }
    // Between entries there is nothing to tell it from an archive without an end mark.
    assert_eq!(
        scratch
            .unpack(&Blob::gzip(&archive[..512]))
            .unwrap()
            .names(),
        ["dir"]
    );
}

#[test]
fn refuses_other_bytes_than_those_approved() {
    let scratch = Scratch::new();
    let archive = archive();
    let other = Tar::new().file("other", b"").end();

    let mut blob = Blob::gzip(&archive);
    blob.diff_id = Digest::sha256_of(&other);
    let error = scratch.unpack(&blob).unwrap_err();
    let Error::DiffId { expected, found } = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        (expected, found),
        (Digest::sha256_of(&other), Digest::sha256_of(&archive))
    );

    let mut blob = Blob::plain(archive.clone());
    blob.digest = Digest::sha256_of(&other);
    let error = scratch.unpack(&blob).unwrap_err();
    let Error::BlobDigest { expected, found } = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        (expected, found),
        (Digest::sha256_of(&other), Digest::sha256_of(&archive))
    );

    let mut blob = Blob::plain(archive.clone());
    blob.size -= 1;
    let error = scratch.unpack(&blob).unwrap_err();
    assert!(
        matches!(error, Error::BlobTooLong { expected } if expected == blob.size),
        "{error:?}"
    );

    let error = scratch
        .unpack(&Blob::new(gzip(&archive), ZSTD, &archive))
        .unwrap_err();
    assert!(matches!(error, Error::Inflate { .. }), "{error:?}");
    let error = scratch
        .unpack(&Blob::new(gzip(&archive), PLAIN, &archive))
        .unwrap_err();
    // Too short for a header; that nothing follows counts only once the digest has held.
    assert!(matches!(error, Error::DiffId { .. }), "{error:?}");
}

#[test]
fn every_flipped_byte_is_an_error() {
    let scratch = Scratch::new();
    for blob in [Blob::gzip(&archive()), Blob::zstd(&archive())] {
        for at in 0..blob.bytes.len() {
            let mut damaged = blob.clone();
            damaged.bytes[at] ^= 0x10;
            drop(scratch.unpack(&damaged).map(|_| at).unwrap_err());
        }
    }
}

#[test]
fn what_follows_the_archive_counts_but_is_not_unpacked() {
    let scratch = Scratch::new();
    let mut content = archive();
    content.extend_from_slice(&[0; 10_240]);
    content.extend_from_slice(&Tar::new().file("hidden", b"").end());
    for blob in [Blob::gzip(&content), Blob::zstd(&content)] {
        assert_eq!(
            scratch.unpack(&blob).unwrap().names(),
            ["dir", "dir/file", "link"]
        );
    }
    // The digest is that of all of it.
    let mut blob = Blob::gzip(&content);
    blob.diff_id = Digest::sha256_of(&archive());
    let error = scratch.unpack(&blob).unwrap_err();
    assert!(matches!(error, Error::DiffId { .. }), "{error:?}");
}

#[test]
fn an_endless_source_is_cut_at_its_size() {
    let scratch = Scratch::new();
    let blob = Blob::plain(archive());
    let endless = BufReader::new(blob.bytes.chain(io::repeat(0)));
    let error = scratch
        .unpack_from(&Blob::plain(archive()), endless)
        .unwrap_err();
    assert!(matches!(error, Error::BlobTooLong { .. }), "{error:?}");
}

/// Every stage may be the one that fails while the others wait for it.
#[test]
fn a_failure_anywhere_ends_everywhere() {
    let scratch = Scratch::new();
    let large = Tar::new().file("large", &noise(8 << 20)).end();
    let evil = Tar::new()
        .file("../evil", b"")
        .file("large", &noise(8 << 20))
        .end();

    let error = scratch.unpack(&Blob::gzip(&evil)).unwrap_err();
    assert!(matches!(error, Error::ParentComponent { .. }), "{error:?}");

    let mut blob = Blob::gzip(&large);
    blob.bytes[1 << 20] ^= 1;
    let error = scratch.unpack(&blob).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Inflate { .. } | Error::BlobDigest { .. } | Error::DiffId { .. }
        ),
        "{error:?}"
    );

    let blob = Blob::gzip(&large);
    let broken = BufReader::new(blob.bytes.as_slice().take(3 << 20).chain(Broken));
    let error = scratch.unpack_from(&blob, broken).unwrap_err();
    let Error::Read(source) = error else {
        panic!("{error:?}")
    };
    assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_source_of_single_bytes_is_as_good() {
    let scratch = Scratch::new();
    let blob = Blob::gzip(&archive());
    let tree = scratch.unpack_from(&blob, Trickle(&blob.bytes)).unwrap();
    assert_eq!(tree.names(), ["dir", "dir/file", "link"]);
}

#[test]
fn an_empty_layer_is_a_layer() {
    let scratch = Scratch::new();
    for content in [vec![], vec![0; 1024], Tar::new().dir("./").end()] {
        let tree = scratch.unpack(&Blob::gzip(&content)).unwrap();
        assert_eq!(tree.names(), [""; 0]);
        assert!(tree.line("").starts_with("040755 0:0"), "{}", tree.line(""));
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Trickle<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(&self.0[..self.0.len().min(1)])
    }

    fn consume(&mut self, count: usize) {
        self.0 = &self.0[count..];
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| step()).collect()
}

/// The limit is on the window that the frame asks for, to the byte, and comes before its memory.
#[test]
fn zstd_windows_are_held_to_128_mebibytes() {
    let scratch = Scratch::new();
    let archive = archive();
    for log in [23, 27] {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&archive).unwrap();
        let blob = Blob::new(encoder.finish().unwrap(), ZSTD, &archive);
        let window_descriptor = blob.bytes[5] >> 3;
        assert_eq!(u32::from(window_descriptor), log - 10);
        let tree = scratch.unpack(&blob).unwrap();
        assert_eq!(tree.names(), ["dir", "dir/file", "link"]);
    }
    let rows: [(&[u8], u64); 3] = [
        // One segment, its size in four bytes.
        (b"\x28\xb5\x2f\xfd\xa0\x01\0\0\x08", (128 << 20) + 1),
        // The next window that a descriptor can say.
        (b"\x28\xb5\x2f\xfd\x00\x89", 144 << 20),
        (b"\x28\xb5\x2f\xfd\x00\xff", (1 << 41) / 8 * 15),
    ];
    for (header, window) in rows {
        let second = [zstd::encode_all(&archive[..], 1).unwrap(), header.to_vec()].concat();
        for bytes in [header.to_vec(), second] {
            let error = scratch
                .unpack(&Blob::new(bytes, ZSTD, &archive))
                .unwrap_err();
            let Error::Limit {
                limit: LimitKind::ZstdWindow,
                allowed,
                found,
            } = error
            else {
                panic!("{error:?}")
            };
            assert_eq!((allowed, found), (128 << 20, window));
        }
    }
}

/// A source that gives nothing until it is let go, and then its end.
struct Held(mpsc::Receiver<()>);

impl Read for Held {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        assert_eq!(self.0.recv(), Err(mpsc::RecvError));
        Ok(0)
    }
}

#[test]
fn each_stage_has_the_capabilities_that_it_needs_and_no_others() {
    let needed = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::MKNOD
        | CapabilitySet::SETFCAP
        | CapabilitySet::SYS_ADMIN;
    let none = CapabilitySet::empty();
    let stages = [("inflate", none), ("hash", none), ("write", needed)];
    let blob = Blob::gzip(&archive());
    let (first, rest) = blob.bytes.split_at(20);
    let (release, held) = mpsc::channel();
    let source = BufReader::new(first.chain(Held(held)).chain(rest));
    std::thread::scope(|scope| {
        let unpacking = scope.spawn(|| Scratch::new().unpack_from(&blob, source).map(drop));
        let deadline = Instant::now() + Duration::from_secs(20);
        // Those of other tests may be just beginning; those of this one stay as they are.
        while !stages.iter().all(|(stage, caps)| has_only(stage, *caps)) {
            assert!(Instant::now() < deadline, "{:?}", capabilities_by_stage());
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(release);
        unpacking.join().unwrap().unwrap();
    });
}

fn has_only(stage: &str, expected: CapabilitySet) -> bool {
    let all = capabilities_by_stage();
    let mut of_stage = all.iter().filter(|(name, _)| name == stage).peekable();
    of_stage.peek().is_some() && of_stage.all(|(_, found)| *found == expected)
}

/// What each thread of a pipeline in this process may do: effective and permitted together.
fn capabilities_by_stage() -> Vec<(String, CapabilitySet)> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stage = |task: std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let stage = name.trim_end().strip_prefix("layer-")?.to_owned();
        let id = task.file_name().to_str()?.parse().ok()?;
        let sets = capabilities(Pid::from_raw(id)).ok()?;
        Some((stage, sets.effective | sets.permitted))
    };
    tasks.filter_map(|task| stage(task.unwrap())).collect()
}
