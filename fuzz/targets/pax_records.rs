//! A file is what its extended header says it is.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use fuzz::layer::{PLAIN, attempt};
use fuzz::tar::{Header, write_entry, write_records};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Said {
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    seconds: i32,
    nanoseconds: u32,
    comment: Vec<u8>,
    content: Vec<u8>,
}

fuzz_target!(|said: Said| {
    let mut name = b"n".to_vec();
    name.extend(
        said.name
            .iter()
            .filter(|byte| !matches!(byte, 0 | b'/'))
            .take(254),
    );
    let owner = |id: u32| id.min(u32::MAX - 1);
    let time = i64::from(said.seconds) * NANOSECONDS + i64::from(said.nanoseconds) % NANOSECONDS;
    let (sign, size) = (if time < 0 { "-" } else { "" }, time.unsigned_abs());
    let parts = (
        size / NANOSECONDS.unsigned_abs(),
        size % NANOSECONDS.unsigned_abs(),
    );
    let mut archive = Vec::new();
    let records = [
        ("comment", said.comment),
        ("path", name.clone()),
        ("uid", owner(said.uid).to_string().into_bytes()),
        ("gid", owner(said.gid).to_string().into_bytes()),
        (
            "mtime",
            format!("{sign}{}.{:09}", parts.0, parts.1).into_bytes(),
        ),
    ];
    write_records(&records, &mut archive);
    write_entry(
        Header::new(b'0', "another name"),
        &said.content,
        &mut archive,
    );
    let unpacked = attempt(PLAIN, &archive, &archive, |tree| {
        let file = tree.join(OsStr::from_bytes(&name));
        let meta = std::fs::symlink_metadata(&file).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (owner(said.uid), owner(said.gid)));
        assert_eq!(meta.mtime() * NANOSECONDS + meta.mtime_nsec(), time);
        assert_eq!(std::fs::read(file).unwrap(), said.content);
    });
    unpacked.unwrap();
});

const NANOSECONDS: i64 = 1_000_000_000;
