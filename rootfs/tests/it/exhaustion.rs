//! Archives made to take processor time, memory and room, and the end of all work when it is asked for.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use rootfs::{Budget, Cancel, Dir, Error, LimitKind, Limits, LinkFault, Staging, unpack};

use crate::kit::{Blob, Header, Scratch, Tar};

/// Directory `d`, and links `l0` to `l{links - 1}`, each to the next by way of `detours` visits to
/// `d`, the last one to `d`.
fn chain(links: usize, detours: usize) -> Tar {
    (0..links).fold(Tar::new().dir("d"), |tar, link| {
        let next = if link + 1 == links {
            "d".to_owned()
        } else {
            format!("l{}", link + 1)
        };
        let target = "d/../".repeat(detours) + &next;
        tar.pax(&[("linkpath", target.as_bytes())])
            .symlink(format!("l{link}"), "t")
    })
}

fn assert_too_far(error: &Error, row: &str) {
    let too_far = matches!(
        error,
        Error::ParentLink {
            fault: LinkFault::TooFar,
            ..
        }
    );
    assert!(too_far, "{row}: {error:?}");
}

#[test]
fn refuses_links_that_go_in_detours_for_ever() {
    let tar = chain(36, 800).file("l0/x", b"");
    let error = Scratch::new().unpack(&Blob::plain(tar.end())).unwrap_err();
    assert_too_far(&error, "at once");
}

/// Two links of 3,200 components stay below what one entry may take. To replace something makes
/// what is known of links void, so that every entry takes them again.
#[test]
fn refuses_detours_repeated_for_every_entry() {
    let scratch = Scratch::new();
    let files = (0..100).fold(chain(2, 800), |tar, file| {
        tar.file("replaced", b"").file(format!("l0/{file}"), b"")
    });
    let error = scratch.unpack(&Blob::plain(files.end())).unwrap_err();
    assert_too_far(&error, "through a link replaced");
    let elsewhere = (0..100).fold(chain(2, 800), |tar, file| {
        tar.file(format!("l0/{file}/x"), b"")
    });
    let error = scratch.unpack(&Blob::plain(elsewhere.end())).unwrap_err();
    assert_too_far(&error, "to another parent each time");
}

#[test]
fn follows_long_links_once_for_all_that_is_beneath() {
    let tar = (0..500).fold(chain(2, 800), |tar, file| {
        tar.file(format!("l0/{file}"), b"")
    });
    let tree = Scratch::new().unpack(&Blob::plain(tar.end())).unwrap();
    assert_eq!(tree.names().len(), 503);
    assert!(tree.lines.contains_key("d/499"));
}

#[test]
fn a_replaced_link_is_not_followed_to_where_it_led() {
    let rows: [(&str, Tar, [&str; 2]); 5] = [
        (
            "the link itself",
            Tar::new()
                .dir("a")
                .dir("b")
                .symlink("l", "a")
                .file("l/1", b"")
                .symlink("l", "b"),
            ["a/1", "b/2"],
        ),
        (
            "a link on the way",
            Tar::new()
                .dir("a")
                .dir("b")
                .symlink("m", "a")
                .symlink("l", "m")
                .file("l/1", b"")
                .symlink("m", "b"),
            ["a/1", "b/2"],
        ),
        (
            "by a directory",
            Tar::new()
                .dir("a")
                .symlink("l", "a")
                .file("l/1", b"")
                .dir("l"),
            ["a/1", "l/2"],
        ),
        (
            "a link in a directory that was replaced",
            Tar::new()
                .dir("a")
                .dir("b")
                .symlink("c/m", "../a")
                .symlink("l", "c/m")
                .file("l/1", b"")
                .file("c", b"")
                .dir("c")
                .symlink("c/m", "../b"),
            ["a/1", "b/2"],
        ),
        (
            "by a hard link to another link",
            Tar::new()
                .dir("a")
                .dir("b")
                .symlink("m", "b")
                .symlink("l", "a")
                .file("l/1", b"")
                .hard_link("l", "m"),
            ["a/1", "b/2"],
        ),
    ];
    for (row, tar, expected) in rows {
        let tree = Scratch::new()
            .unpack(&Blob::plain(tar.file("l/2", b"").end()))
            .unwrap();
        for name in expected {
            assert!(tree.lines.contains_key(name), "{row}: {:#?}", tree.lines);
        }
    }
}

#[test]
fn refuses_directories_whose_names_would_fill_memory() {
    let parent = vec!["d".repeat(255); 15].join("/");
    let tar = (0..2000).fold(Tar::new(), |tar, dir| {
        let path = format!("{parent}/{dir}");
        tar.pax(&[("path", path.as_bytes())]).dir("x")
    });
    let mut scratch = Scratch::new();
    scratch.limits.kept_bytes = 4 << 20;
    let blob = Blob::gzip(&tar.end());
    assert!(blob.size < 100_000, "{}", blob.size);
    let error = scratch.unpack(&blob).unwrap_err();
    let Error::Limit {
        limit: LimitKind::KeptBytes,
        allowed: 4_194_304,
        found,
    } = error
    else {
        panic!("{error:?}")
    };
    assert!(found < 4_194_304 + 5000, "{found}");
}

/// A file that is stated to have `size` bytes and holds none of them, in every sparse format.
fn holes(name: &str, size: u64) -> [(&'static str, Tar); 4] {
    let size_text = size.to_string();
    let [size_of_0, size_of_1] =
        ["GNU.sparse.size", "GNU.sparse.realsize"].map(|key| (key, size_text.as_bytes()));
    let of_0_0: [(&str, &[u8]); 4] = [
        size_of_0,
        ("GNU.sparse.numblocks", b"1"),
        ("GNU.sparse.offset", size_text.as_bytes()),
        ("GNU.sparse.numbytes", b"0"),
    ];
    let of_0_1: [(&str, &[u8]); 3] = [
        size_of_0,
        ("GNU.sparse.numblocks", b"0"),
        ("GNU.sparse.map", b""),
    ];
    let of_1_0: [(&str, &[u8]); 3] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        size_of_1,
    ];
    let mut map = vec![0; 512];
    map[..2].copy_from_slice(b"0\n");
    let old = Header::new(b'S', name)
        .at(257, b"ustar  \0")
        .at(483, &[&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat());
    [
        ("pax 0.0", Tar::new().pax(&of_0_0).file(name, b"")),
        ("pax 0.1", Tar::new().pax(&of_0_1).file(name, b"")),
        ("pax 1.0", Tar::new().pax(&of_1_0).file(name, &map)),
        ("old GNU", Tar::new().header(old)),
    ]
}

#[test]
fn counts_the_holes_of_sparse_files_in_every_format() {
    let ten_gigabytes = 10_u64 << 30;
    let unbound = Limits {
        ratio_free_bytes: u64::MAX,
        ..Limits::default()
    };
    let limits = [
        (LimitKind::Ratio, Limits::default()),
        (
            LimitKind::UnpackedBytes,
            Limits {
                unpacked_bytes: 1 << 30,
                ..unbound.clone()
            },
        ),
        (
            LimitKind::ImageBytes,
            Limits {
                image_bytes: 1 << 30,
                ..unbound
            },
        ),
    ];
    for (kind, limits) in limits {
        let mut scratch = Scratch::new();
        scratch.limits = limits;
        for (format, tar) in holes("a", ten_gigabytes) {
            let blob = Blob::plain(tar.end());
            let length = blob.size;
            assert!(length <= 4096, "{format}");
            let expected = match kind {
                LimitKind::Ratio => ((64 << 20) + 200 * length, ten_gigabytes),
                LimitKind::UnpackedBytes => (1 << 30, ten_gigabytes),
                // Of the image count the archive and the holes.
                _ => (1 << 30, ten_gigabytes + length),
            };
            let error = scratch.unpack(&blob).unwrap_err();
            let Error::Limit {
                limit,
                allowed,
                found,
            } = error
            else {
                panic!("{format}: {error:?}")
            };
            assert_eq!((limit, (allowed, found)), (kind, expected), "{format}");
        }
    }
}

#[test]
fn holes_of_several_files_count_together() {
    let mut scratch = Scratch::new();
    scratch.limits.unpacked_bytes = 1 << 20;
    for ((format, one), (_, two)) in holes("a", 600_000).into_iter().zip(holes("b", 600_000)) {
        scratch.unpack(&Blob::plain(one.clone().end())).unwrap();
        let error = scratch
            .unpack(&Blob::plain(one.raw(&two.0).end()))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the layer has 1200000 unpacked bytes, at most 1048576 are allowed",
            "{format}"
        );
    }
}

#[test]
fn stops_bombs_before_they_have_written_much() {
    let scratch = Scratch::new();
    let by_ratio = |blob: &Blob| match scratch.unpack(blob).unwrap_err() {
        Error::Limit {
            limit: LimitKind::Ratio,
            found,
            ..
        } => found,
        error => panic!("{}: {error:?}", blob.media_type),
    };
    // One file is refused by its header, many by what they have come to.
    let body = vec![0; 1 << 20];
    let one = Tar::new().file("zeros", &vec![0; 200 << 20]).end();
    let many = (0..200)
        .fold(Tar::new(), |tar, _| tar.file("zeros", &body))
        .end();
    for blob in [Blob::gzip(&many), Blob::zstd(&many)] {
        let found = by_ratio(&blob);
        assert!(found < 128 << 20, "{}: {found}", blob.media_type);
    }
    for blob in [Blob::gzip(&one), Blob::zstd(&one)] {
        let found = by_ratio(&blob);
        assert_eq!(found, 200 << 20, "{}", blob.media_type);
    }
}

/// A blob that is all there, and that asks for the end once `after` bytes of it were read.
struct Cancelling<'a> {
    rest: &'a [u8],
    after: usize,
    cancel: &'a Cancel,
    staging_area: PathBuf,
    /// Files written when the end was requested.
    written: &'a mut Option<usize>,
}

impl Read for Cancelling<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Cancelling<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.after == 0 && self.written.is_none() {
            self.cancel.request();
            *self.written = Some(files(&self.staging_area));
        }
        Ok(self.rest)
    }

    fn consume(&mut self, count: usize) {
        self.after = self.after.saturating_sub(count);
        self.rest = &self.rest[count..];
    }
}

/// How many files there are in the one staging directory beneath `area`.
fn files(area: &Path) -> usize {
    let staging = std::fs::read_dir(area).unwrap().next().unwrap().unwrap();
    std::fs::read_dir(staging.path()).unwrap().count()
}

/// Cancels the unpacking of `archive` when `after` bytes were read. Returns the files that were
/// written until then, and in all.
fn cancelled(archive: Vec<u8>, after: usize) -> (usize, usize) {
    let scratch = tempfile::tempdir().unwrap();
    let work = Dir::open_ambient(scratch.path()).unwrap();
    let staging = Staging::create(&work).unwrap();
    let (cancel, blob, mut written) = (Cancel::new(), Blob::plain(archive), None);
    let source = Cancelling {
        rest: &blob.bytes,
        after,
        cancel: &cancel,
        staging_area: scratch.path().to_owned(),
        written: &mut written,
    };
    let layer = blob.approved();
    let budget = Budget::new(Limits::default());
    let error = unpack(&layer, source, &staging, &budget, &cancel).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error:?}");
    let total = files(scratch.path());
    drop(staging);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    (written.unwrap(), total)
}

#[test]
fn cancelled_in_the_middle_of_a_buffered_blob_ends_within_a_few_entries() {
    let archive = (0..40_000).fold(Tar::new(), |tar, file| tar.file(file.to_string(), b""));
    let (written, total) = cancelled(archive.end(), 2 << 20);
    assert!(total <= written + 200, "{written}, then {total}");
}

#[test]
fn cancelled_at_the_last_byte_or_before_the_first_gives_no_proof() {
    let archive = Tar::new().file("a", b"").end();
    let end = archive.len();
    cancelled(archive, end);

    let scratch = Scratch::new();
    scratch.cancel.request();
    let error = scratch
        .unpack(&Blob::plain(Tar::new().dir("a").end()))
        .unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error:?}");
}
