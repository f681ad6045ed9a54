//! Extended headers (POSIX.1-2017, `pax`, «pax Extended Header»).

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::entry::{Time, Xattr};
use crate::error::{Error, PaxFault};
use crate::name::{Name, length};
use crate::tar::sparse::Keys;

/// What extended headers say, as far as this program has a use for it.
///
/// `SCHILY.*` are star's and `LIBARCHIVE.*` bsdtar's, both for extended attributes; `GNU.sparse.*`
/// are GNU tar's. Other keywords, ACLs in text form among them, are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) modified: Option<Time>,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) sparse: Option<Keys>,
}

impl Extended {
    /// Parses the body of a header that applies to one entry.
    pub(super) fn parse(body: &[u8], offset: u64) -> Result<Self, Error> {
        let mut extended = Self::default();
        for record in (Records { body, at: 0 }) {
            record
                .and_then(|(key, value)| extended.set(key, value))
                .map_err(|fault| Error::Pax { offset, fault })?;
        }
        Ok(extended)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), PaxFault> {
        let malformed = || PaxFault::Value {
            key: Name::from(key),
        };
        match key {
            b"path" => assign(&mut self.path, value, text),
            b"linkpath" => assign(&mut self.linkpath, value, text),
            b"size" => assign(&mut self.size, value, size),
            b"uid" => assign(&mut self.uid, value, owner),
            b"gid" => assign(&mut self.gid, value, owner),
            b"mtime" => assign(&mut self.modified, value, time),
            _ => return self.set_prefixed(key, value),
        }
        .ok_or_else(malformed)
    }

    fn set_prefixed(&mut self, key: &[u8], value: &[u8]) -> Result<(), PaxFault> {
        let malformed = || PaxFault::Value {
            key: Name::from(key),
        };
        if let Some(name) = key.strip_prefix(SCHILY_XATTR) {
            self.xattr(name.to_vec(), value.to_vec())
                .ok_or_else(malformed)
        } else if let Some(name) = key.strip_prefix(LIBARCHIVE_XATTR) {
            let name = percent_decoded(name).ok_or_else(malformed)?;
            let value = BASE64.decode(value).ok().ok_or_else(malformed)?;
            self.xattr(name, value).ok_or_else(malformed)
        } else if let Some(name) = key.strip_prefix(GNU_SPARSE) {
            self.sparse
                .get_or_insert_default()
                .set(name, value)
                .ok_or_else(malformed)
        } else {
            Ok(())
        }
    }

    /// Adds an attribute. bsdtar writes each twice, in both forms; setting it twice does no harm.
    fn xattr(&mut self, name: Vec<u8>, value: Vec<u8>) -> Option<()> {
        if name.is_empty() || name.contains(&0) {
            return None;
        }
        self.xattrs.push(Xattr { name, value });
        Some(())
    }
}

/// Reads a global header, which may hold nothing but what is passed over, such as the comment of
/// `git archive`.
///
/// For POSIX and GNU tar its other records are about every entry that follows; bsdtar and what runs
/// containers pass over them, too.
pub(super) fn check_global(body: &[u8], offset: u64) -> Result<(), Error> {
    for record in (Records { body, at: 0 }) {
        record
            .and_then(|(key, _)| is_passed_over(key))
            .map_err(|fault| Error::Pax { offset, fault })?;
    }
    Ok(())
}

fn is_passed_over(key: &[u8]) -> Result<(), PaxFault> {
    let keywords: [&[u8]; 6] = [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"];
    let prefixes = [SCHILY_XATTR, LIBARCHIVE_XATTR, GNU_SPARSE];
    if keywords.contains(&key) || prefixes.iter().any(|own| key.starts_with(own)) {
        return Err(PaxFault::Global {
            key: Name::from(key),
        });
    }
    Ok(())
}

/// The records `length key=value\n` of a header's body.
struct Records<'a> {
    body: &'a [u8],
    at: u64,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), PaxFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.body.is_empty() {
            return None;
        }
        let Some((record, rest)) = first_record(self.body) else {
            self.body = &[];
            return Some(Err(PaxFault::Record { at: self.at }));
        };
        self.at = self
            .at
            .saturating_add(length(self.body).saturating_sub(length(rest)));
        self.body = rest;
        Some(Ok(record))
    }
}

type Record<'a> = (&'a [u8], &'a [u8]);

fn first_record(body: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let space = body.iter().position(|&byte| byte == b' ')?;
    let total = usize::try_from(decimal(body.get(..space)?)?).ok()?;
    let (record, rest) = body.split_at_checked(total)?;
    let record = record.get(space.checked_add(1)?..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    let (key, value) = record.split_at(equals);
    let value = value.strip_prefix(b"=")?;
    (!key.is_empty() && !key.contains(&0)).then_some(((key, value), rest))
}

/// An empty value takes an earlier one back, except of extended attributes.
fn assign<T>(
    slot: &mut Option<T>,
    value: &[u8],
    parse: impl FnOnce(&[u8]) -> Option<T>,
) -> Option<()> {
    *slot = if value.is_empty() {
        None
    } else {
        Some(parse(value)?)
    };
    Some(())
}

fn text(value: &[u8]) -> Option<Vec<u8>> {
    (!value.contains(&0)).then(|| value.to_vec())
}

fn size(value: &[u8]) -> Option<u64> {
    decimal(value).filter(|&size| i64::try_from(size).is_ok())
}

fn owner(value: &[u8]) -> Option<u32> {
    u32::try_from(decimal(value)?)
        .ok()
        .filter(|&owner| owner != u32::MAX)
}

/// Seconds with an optional fraction, of which nine digits count; negative before 1970.
fn time(value: &[u8]) -> Option<Time> {
    let (is_negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let nanoseconds = parts.next().map_or(Some(0), nanoseconds)?;
    if !is_negative {
        return Some(Time {
            seconds,
            nanoseconds,
        });
    }
    let seconds = seconds.checked_neg()?;
    if nanoseconds == 0 {
        return Some(Time {
            seconds,
            nanoseconds,
        });
    }
    let (seconds, nanoseconds) = (seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds);
    Some(Time {
        seconds,
        nanoseconds,
    })
}

fn nanoseconds(fraction: &[u8]) -> Option<u32> {
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().map(|digit| u32::from(digit - b'0'));
    Some(
        digits
            .chain(std::iter::repeat(0))
            .take(9)
            .fold(0, |value, digit| value * 10 + digit),
    )
}

/// Digits and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let (pair, tail) = rest.split_first_chunk::<2>()?;
            let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
            decoded.push(u8::try_from(high? * 16 + low?).ok()?);
            rest = tail;
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

const SCHILY_XATTR: &[u8] = b"SCHILY.xattr.";
const LIBARCHIVE_XATTR: &[u8] = b"LIBARCHIVE.xattr.";
const GNU_SPARSE: &[u8] = b"GNU.sparse.";
/// RFC 4648; bsdtar leaves out the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_keyword_it_knows() {
        let records: [(&[u8], &[u8]); 10] = [
            (b"uid", b"70000"),
            (b"gid", b"1234"),
            (b"mtime", b"1700000000.12345"),
            (b"size", b"0000000001"),
            (b"path", b"ab"),
            (b"linkpath", b"b"),
            (b"comment", b"x"),
            (b"SCHILY.xattr.user.e", b"\0\n=\xff"),
            (b"LIBARCHIVE.xattr.user.%61b", b"aGk/Pw=="),
            (b"SCHILY.xattr.user.z", b""),
        ];
        let mut body = Vec::new();
        for (key, value) in records {
            // All of these are long enough for a length of two digits.
            let total = key.len() + value.len() + 5;
            body.extend([total.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat());
        }
        let extended = Extended::parse(&body, 0).unwrap();
        let xattr = |name: &[u8], value: &[u8]| Xattr {
            name: name.into(),
            value: value.into(),
        };
        assert_eq!(
            (extended.uid, extended.gid, extended.size),
            (Some(70000), Some(1234), Some(1))
        );
        let time = Time {
            seconds: 1_700_000_000,
            nanoseconds: 123_450_000,
        };
        assert_eq!(extended.modified, Some(time));
        assert_eq!(extended.path.as_deref(), Some(&b"ab"[..]));
        assert_eq!(extended.linkpath.as_deref(), Some(&b"b"[..]));
        let expected = [
            xattr(b"user.e", b"\0\n=\xff"),
            xattr(b"user.ab", b"hi??"),
            xattr(b"user.z", b""),
        ];
        assert_eq!(extended.xattrs, expected);
    }

    #[test]
    fn times_before_1970_have_a_positive_fraction() {
        let rows: [(&[u8], Option<Time>); 7] = [
            (
                b"-1.25",
                Some(Time {
                    seconds: -2,
                    nanoseconds: 750_000_000,
                }),
            ),
            (
                b"-3",
                Some(Time {
                    seconds: -3,
                    nanoseconds: 0,
                }),
            ),
            (
                b"0.0000000019",
                Some(Time {
                    seconds: 0,
                    nanoseconds: 1,
                }),
            ),
            (
                b"7.",
                Some(Time {
                    seconds: 7,
                    nanoseconds: 0,
                }),
            ),
            (b".5", None),
            (b"1e9", None),
            (b"9223372036854775808", None),
        ];
        for (text, expected) in rows {
            assert_eq!(time(text), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn refuses_malformed_records() {
        let rows: [(&str, &[u8]); 9] = [
            ("no length", b"path=a\n"),
            ("too short", b"8 path=a\n"),
            ("too long", b"11 path=a\n"),
            ("no newline", b"10 path=ab"),
            ("no equals", b"7 path\n"),
            ("no key", b"6 =ab\n"),
            ("signed length", b"+9 path=a\n"),
            ("length overflows", b"99999999999999999999999 path=a\n"),
            ("zeros for filling", b"\0\0\0\0"),
        ];
        for (row, body) in rows {
            let error = Extended::parse(body, 512).unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::Pax {
                        offset: 512,
                        fault: PaxFault::Record { at: 0 }
                    }
                ),
                "{row}: {error:?}"
            );
        }
    }

    #[test]
    fn refuses_values_out_of_range() {
        let rows: [(&[u8], &[u8]); 8] = [
            (b"10 uid=-1\n", b"uid"),
            (b"18 uid=4294967295\n", b"uid"),
            (b"18 gid=4294967296\n", b"gid"),
            (b"28 size=9223372036854775808\n", b"size"),
            (b"11 size=-1\n", b"size"),
            (b"12 path=a\0b\n", b"path"),
            (b"13 mtime=1.x\n", b"mtime"),
            (b"19 SCHILY.xattr.=a\n", b"SCHILY.xattr."),
        ];
        for (body, expected) in rows {
            let error = Extended::parse(body, 0).unwrap_err();
            let Error::Pax {
                fault: PaxFault::Value { key },
                ..
            } = error
            else {
                panic!("{}: {error:?}", body.escape_ascii())
            };
            assert_eq!(key.as_bytes(), expected);
        }
    }

    #[test]
    fn a_global_header_says_nothing_of_entries() {
        check_global(b"13 comment=x\n26 SCHILY.archtype=xustar\n", 0).unwrap();
        for key in [
            "path",
            "linkpath",
            "size",
            "uid",
            "gid",
            "mtime",
            "SCHILY.xattr.user.a",
            "LIBARCHIVE.xattr.user.a",
            "GNU.sparse.major",
        ] {
            for value in ["1", ""] {
                let record = format!("{key}={value}\n");
                // The length counts its own digits.
                let digits = if record.len() < 8 { 1 } else { 2 };
                let body = format!("{} {record}", record.len() + digits + 1);
                let error = check_global(body.as_bytes(), 0).unwrap_err();
                assert!(
                    matches!(&error, Error::Pax { fault: PaxFault::Global { key: found }, .. }
                        if found.as_bytes() == key.as_bytes()),
                    "{key}: {error:?}"
                );
            }
        }
    }
}
