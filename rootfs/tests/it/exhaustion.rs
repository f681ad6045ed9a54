//! Archives made to take processor time and memory, and the end of all work when it is asked for.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use rootfs::{Budget, Cancel, Dir, Error, LimitKind, Limits, LinkFault, Staging, unpack};

use crate::kit::{Blob, Scratch, Tar};

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
