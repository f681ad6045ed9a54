//! One header block.

use std::ops::Range;

use crate::entry::Time;
use crate::error::{Error, HeaderFault};
use crate::tar::BLOCK;

/// The fields of a header block, in whichever of the four formats it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) typeflag: u8,
    pub(super) size: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) modified: Time,
    pub(super) major: u32,
    pub(super) minor: u32,
    /// Some writers leave the file type in the mode; of those that have no type flag of their own
    /// this is the only trace.
    pub(super) is_socket: bool,
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK], offset: u64) -> Result<Self, Error> {
        Self::fields(block).map_err(|fault| Error::Header { offset, fault })
    }

    /// The numbers of a device, in the range that `mknod(2)` takes. It would cut larger ones, and
    /// 4096:0 cut is 0:0, which an overlay takes for a whiteout.
    pub(super) fn device(&self) -> Result<(u32, u32), HeaderFault> {
        let held = |number: u32, most, place: &Place| match number {
            number if number > most => Err(HeaderFault::Number { field: place.0 }),
            number => Ok(number),
        };
        Ok((
            held(self.major, MAJOR_MAX, &MAJOR)?,
            held(self.minor, MINOR_MAX, &MINOR)?,
        ))
    }

    /// The type flag that the entry is to be read as. Before POSIX a directory was a file whose
    /// name ends in a slash, and GNU tar takes it for one still. With content it is none that all
    /// readers would take for the same.
    pub(super) fn kind_flag(&self, name: &[u8]) -> u8 {
        match self.typeflag {
            0 | b'0' | b'7' if name.ends_with(b"/") => b'5',
            0 | b'7' => b'0',
            flag => flag,
        }
    }

    fn fields(block: &[u8; BLOCK]) -> Result<Self, HeaderFault> {
        check_sum(block)?;
        let mode = unsigned(block, &MODE)?;
        let is_posix = field(block, &MAGIC) == b"ustar\0";
        let mut name = text(field(block, &NAME));
        if is_posix {
            // The star format has times in the last bytes of the prefix.
            let is_star = field(block, &STAR_TRAILER) == b"tar\0";
            let prefix = text(field(block, if is_star { &STAR_PREFIX } else { &PREFIX }));
            if !prefix.is_empty() {
                name = [prefix.as_slice(), &name].join(&b'/');
            }
        }
        let has_devices = field(block, &MAGIC).starts_with(b"ustar");
        let device = |place| {
            if has_devices {
                narrow(block, place)
            } else {
                Ok(0)
            }
        };
        Ok(Self {
            name,
            link: text(field(block, &LINK)),
            typeflag: block.get(TYPEFLAG).copied().unwrap_or_default(),
            size: unsigned(block, &SIZE)?,
            uid: owner(block, &UID)?,
            gid: owner(block, &GID)?,
            mode: u32::try_from(mode & 0o7777).unwrap_or_default(),
            modified: Time {
                seconds: signed(block, &MTIME)?,
                nanoseconds: 0,
            },
            major: device(&MAJOR)?,
            minor: device(&MINOR)?,
            is_socket: mode & 0o170_000 == 0o140_000,
        })
    }
}

/// Whether entries of this type have no content, and a size that is not zero is a contradiction.
/// Hard links are not among them: many writers state the size of the file, and readers agree that
/// nothing follows, except in archives with pax headers.
pub(super) fn has_no_content(typeflag: u8) -> bool {
    matches!(typeflag, b'2'..=b'6' | b'V')
}

/// Reads a number as octal text, or as GNU's base-256.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.split_first() {
        Some((&lead @ 0x80.., rest)) => binary(lead, rest),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field
        .iter()
        .position(|byte| !blank(byte))
        .unwrap_or(field.len());
    let digits = field.get(start..)?;
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if !rest.iter().all(blank) {
        return None;
    }
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Two's complement, big endian; the topmost bit only marks the form.
fn binary(lead: u8, rest: &[u8]) -> Option<i64> {
    let first = if lead & 0x40 == 0 {
        i128::from(lead & 0x3f)
    } else {
        i128::from(lead) - 0x100
    };
    let value = rest.iter().try_fold(first, |value, &byte| {
        value.checked_mul(256)?.checked_add(i128::from(byte))
    })?;
    i64::try_from(value).ok()
}

fn check_sum(block: &[u8; BLOCK]) -> Result<(), HeaderFault> {
    let found = signed(block, &CHECKSUM)?;
    let spaces = i64::from(b' ') * 8;
    let outside = |at: usize| !CHECKSUM.1.contains(&at);
    let bytes = || {
        block
            .iter()
            .enumerate()
            .filter(|(at, _)| outside(*at))
            .map(|(_, byte)| *byte)
    };
    let unsigned = spaces + bytes().map(i64::from).sum::<i64>();
    // Sun's tar summed signed characters.
    let signed = || {
        spaces
            + bytes()
                .map(|byte| i64::from(byte.cast_signed()))
                .sum::<i64>()
    };
    if found == unsigned || found == signed() {
        Ok(())
    } else {
        Err(HeaderFault::Checksum {
            expected: unsigned,
            found,
        })
    }
}

fn signed(block: &[u8; BLOCK], place: &Place) -> Result<i64, HeaderFault> {
    number(field(block, place)).ok_or(HeaderFault::Number { field: place.0 })
}

fn unsigned(block: &[u8; BLOCK], place: &Place) -> Result<u64, HeaderFault> {
    let number = signed(block, place)?;
    u64::try_from(number)
        .ok()
        .ok_or(HeaderFault::Number { field: place.0 })
}

fn narrow(block: &[u8; BLOCK], place: &Place) -> Result<u32, HeaderFault> {
    let number = signed(block, place)?;
    u32::try_from(number)
        .ok()
        .ok_or(HeaderFault::Number { field: place.0 })
}

/// The largest number is not an owner: `chown` takes it for «leave as it is».
fn owner(block: &[u8; BLOCK], place: &Place) -> Result<u32, HeaderFault> {
    match narrow(block, place)? {
        u32::MAX => Err(HeaderFault::Number { field: place.0 }),
        owner => Ok(owner),
    }
}

fn field<'a>(block: &'a [u8; BLOCK], place: &Place) -> &'a [u8] {
    block.get(place.1.clone()).unwrap_or_default()
}

fn text(field: &[u8]) -> Vec<u8> {
    field
        .iter()
        .copied()
        .take_while(|&byte| byte != 0)
        .collect()
}

/// A field: its name and where it is.
type Place = (&'static str, Range<usize>);

const NAME: Place = ("name", 0..100);
const MODE: Place = ("mode", 100..108);
const UID: Place = ("uid", 108..116);
const GID: Place = ("gid", 116..124);
const SIZE: Place = ("size", 124..136);
const MTIME: Place = ("mtime", 136..148);
const CHECKSUM: Place = ("checksum", 148..156);
const TYPEFLAG: usize = 156;
const LINK: Place = ("linkname", 157..257);
const MAGIC: Place = ("magic", 257..263);
const MAJOR: Place = ("devmajor", 329..337);
const MINOR: Place = ("devminor", 337..345);
const PREFIX: Place = ("prefix", 345..500);
const STAR_PREFIX: Place = ("prefix", 345..476);
const STAR_TRAILER: Place = ("trailer", 508..512);
/// Twelve bits, `MINORBITS` in Linux's `kdev_t.h` taken from 32.
const MAJOR_MAX: u32 = 0xfff;
/// Twenty bits, `MINORBITS`.
const MINOR_MAX: u32 = 0xf_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_in_every_form_and_refuses_the_rest() {
        let rows: [(&[u8], Option<i64>); 14] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"\x80\0\0\0\0\x40\0\0", Some(4_194_304)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xc0\0\0\0\0\0\0\0\0\0\0\0", None),
            (b"644 1\0\0\0", None),
            (b"0000888\0", None),
            (b"-0000644", None),
            (b"0x1ff\0\0\0", None),
        ];
        for (field, expected) in rows {
            assert_eq!(number(field), expected, "{}", field.escape_ascii());
        }
    }
}
