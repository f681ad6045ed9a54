//! Archives made of entries that get in each other's way.

use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};

/// An entry, with the extended header in front of it if it has records.
#[derive(Debug, Arbitrary)]
pub struct Entry {
    records: Vec<(Key, Value)>,
    kind: Kind,
    name: Name,
    target: Name,
    mode: u16,
    device: [u8; 2],
    body: Body,
    /// The body of an extended header, whatever that makes of it.
    raw: Vec<u8>,
    /// The map in a sparse file's header: offsets and lengths by turns.
    map: [u16; 4],
    real_size: u32,
}

/// The archive of `entries`, with its trailer.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        entry.write(&mut archive);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

/// Writes an extended header of `records` for the entry that follows.
pub fn write_records(records: &[(&str, Vec<u8>)], archive: &mut Vec<u8>) {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut total = rest + 1;
        while total != rest + total.to_string().len() {
            total = rest + total.to_string().len();
        }
        body.extend_from_slice(format!("{total} {key}=").as_bytes());
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    write_entry(Header::new(b'x', "PaxHeaders/x"), &body, archive);
}

/// Writes an entry of a type with `body` as its content.
pub fn write_entry(header: Header, body: &[u8], archive: &mut Vec<u8>) {
    let size = u64::try_from(body.len()).unwrap();
    archive.extend_from_slice(&header.octal(124, 11, size).sealed());
    archive.extend_from_slice(body);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}

impl Entry {
    fn write(&self, archive: &mut Vec<u8>) {
        if !self.records.is_empty() {
            let record = |(key, value): &(Key, Value)| (key.0, value.bytes());
            let records: Vec<_> = self.records.iter().map(record).collect();
            write_records(&records, archive);
        }
        let [major, minor] = self.device.map(u64::from);
        let header = Header::new(self.kind.0, self.name.0)
            .at(157, self.target.0.as_bytes())
            .octal(100, 7, u64::from(self.mode))
            .octal(329, 7, major)
            .octal(337, 7, minor);
        let header = match self.kind.0 {
            b'S' => header.sparse(self.map, self.real_size),
            _ => header,
        };
        let body = match self.kind.0 {
            b'L' | b'K' => self.target.0.as_bytes().to_vec(),
            b'0' | b'7' | b'S' => self.body.0.clone(),
            b'x' | b'X' | b'g' => self.raw.clone(),
            _ => Vec::new(),
        };
        write_entry(header, &body, archive);
    }
}

/// A ustar header.
#[derive(Debug)]
pub struct Header([u8; BLOCK]);

impl Header {
    /// One of mode 0755 that belongs to 0:0.
    pub fn new(kind: u8, name: &str) -> Self {
        let mut header = Self([0; BLOCK]);
        header.0[156] = kind;
        let header = header.at(257, b"ustar\x0000").at(0, name.as_bytes());
        header.octal(100, 7, 0o755)
    }

    fn at(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn octal(self, offset: usize, digits: usize, value: u64) -> Self {
        self.at(offset, format!("{value:0digits$o}").as_bytes())
    }

    /// With the map of the old GNU format, whose magic this is.
    fn sparse(self, map: [u16; 4], real_size: u32) -> Self {
        let header = self
            .at(257, b"ustar  \0")
            .octal(483, 11, u64::from(real_size));
        (386..)
            .step_by(12)
            .zip(map)
            .fold(header, |header, (at, number)| {
                header.octal(at, 11, u64::from(number))
            })
    }

    fn sealed(self) -> [u8; BLOCK] {
        let blank = self.at(148, b"        ");
        let sum: u64 = blank.0.iter().map(|byte| u64::from(*byte)).sum();
        blank.at(148, format!("{sum:06o}\0 ").as_bytes()).0
    }
}

/// Few names, so that entries meet.
#[derive(Debug)]
struct Name(&'static str);

impl<'a> Arbitrary<'a> for Name {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        u.choose(&NAMES).copied().map(Self)
    }
}

#[derive(Debug)]
struct Kind(u8);

impl<'a> Arbitrary<'a> for Kind {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        u.choose(b"01234567555222110gxXLKSVsM").copied().map(Self)
    }
}

#[derive(Debug)]
struct Key(&'static str);

impl<'a> Arbitrary<'a> for Key {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        u.choose(&KEYS).copied().map(Self)
    }
}

#[derive(Debug, Arbitrary)]
enum Value {
    Name(Name),
    Number(u32),
    Bytes(Vec<u8>),
}

impl Value {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Name(name) => name.0.as_bytes().to_vec(),
            Self::Number(number) => number.to_string().into_bytes(),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// At most a few blocks.
#[derive(Debug)]
struct Body(Vec<u8>);

impl<'a> Arbitrary<'a> for Body {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let size = u.int_in_range(0..=1_100)?;
        Ok(Self(vec![7; size]))
    }
}

const BLOCK: usize = 512;
const NAMES: [&str; 24] = [
    "a",
    "a/b",
    "a/b/c",
    "b",
    "b/a",
    "c",
    "c/a",
    "./",
    "./a/",
    "/a",
    "../a",
    "../../outside",
    "../outside/a",
    "/",
    "..",
    ".",
    "",
    "a/..",
    "a/.wh.b",
    ".wh.a",
    "a/.wh..wh..opq",
    ".wh..wh..opq",
    ".wh.",
    ".wh..wh.plnk",
];
const KEYS: [&str; 21] = [
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "comment",
    "SCHILY.xattr.user.x",
    "SCHILY.xattr.trusted.overlay.opaque",
    "SCHILY.xattr.user.overlay.redirect",
    "SCHILY.xattr.security.capability",
    "LIBARCHIVE.xattr.user.x",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.name",
    "GNU.sparse.realsize",
    "GNU.sparse.size",
    "GNU.sparse.numblocks",
    "GNU.sparse.map",
    "GNU.sparse.offset",
    "GNU.sparse.numbytes",
];
