//! Sparse files in the four formats of GNU tar (GNU tar manual, «Storing Sparse Files»).

use crate::entry::{Content, Segment};
use crate::error::SparseFault;
use crate::tar::BLOCK;
use crate::tar::header::number;
use crate::tar::pax::decimal;

/// The `GNU.sparse.*` keywords of one extended header, without that prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Keys {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    blocks: Option<u64>,
    /// Offsets and lengths by turns, of formats 0.0 and 0.1.
    map: Vec<u64>,
}

impl Keys {
    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" if !value.is_empty() && !value.contains(&0) => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"numblocks" => self.blocks = Some(decimal(value)?),
            b"offset" if self.map.len().is_multiple_of(2) => self.map.push(decimal(value)?),
            b"numbytes" if !self.map.len().is_multiple_of(2) => self.map.push(decimal(value)?),
            b"name" | b"offset" | b"numbytes" => return None,
            b"map" if !self.map.is_empty() => return None,
            b"map" => {
                let numbers = value.split(|&byte| byte == b',').map(decimal);
                self.map = if value.is_empty() {
                    Vec::new()
                } else {
                    numbers.collect::<Option<_>>()?
                };
            }
            _ => {}
        }
        Some(())
    }

    /// Tells the formats apart.
    pub(super) fn resolve(self) -> Result<Sparse, SparseFault> {
        let size = self.size.ok_or(SparseFault::Format)?;
        let map = match (self.major.unwrap_or(0), self.minor.unwrap_or(0)) {
            (1, 0) if self.map.is_empty() && self.blocks.is_none() => None,
            (0, 0 | 1) if self.blocks.and_then(|n| n.checked_mul(2)) == Some(count(&self.map)) => {
                Some(self.map)
            }
            _ => return Err(SparseFault::Format),
        };
        Ok(Sparse {
            name: self.name,
            size,
            map,
        })
    }
}

/// A sparse file of a pax archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sparse {
    /// The name of the file; that of the entry is then a made-up one.
    pub(super) name: Option<Vec<u8>>,
    /// The size with holes.
    pub(super) size: u64,
    /// Offsets and lengths by turns; of format 1.0 they stand before the content.
    pub(super) map: Option<Vec<u64>>,
}

/// The map of format 1.0: a count of segments, then offsets and lengths, one number to a line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    expected: Option<u64>,
    numbers: Vec<u64>,
    partial: Vec<u8>,
}

impl Lines {
    pub(super) fn is_complete(&self) -> bool {
        self.expected
            .is_some_and(|expected| count(&self.numbers) == expected)
    }

    /// Bytes of memory that the map takes, for holding it to a limit.
    pub(super) fn bytes(&self) -> u64 {
        map_bytes(&self.numbers)
    }

    pub(super) fn add(&mut self, block: &[u8; BLOCK]) -> Result<(), SparseFault> {
        for &byte in block {
            if self.is_complete() {
                return Ok(());
            }
            if byte != b'\n' {
                self.partial.push(byte);
                if self.partial.len() > LONGEST_NUMBER {
                    return Err(SparseFault::Format);
                }
                continue;
            }
            let number = decimal(&self.partial).ok_or(SparseFault::Format)?;
            self.partial.clear();
            match self.expected {
                Some(_) => self.numbers.push(number),
                None => self.expected = Some(number.checked_mul(2).ok_or(SparseFault::Format)?),
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<u64> {
        self.numbers
    }
}

/// The part of an old GNU map that is in the header: the numbers, the size with holes, and whether
/// a block of more numbers follows.
pub(super) fn old_header(block: &[u8; BLOCK]) -> Result<(Vec<u64>, u64, bool), SparseFault> {
    let mut map = Vec::new();
    old_numbers(block.get(386..482).unwrap_or_default(), &mut map)?;
    let size = block
        .get(483..495)
        .and_then(number)
        .and_then(|size| u64::try_from(size).ok());
    Ok((
        map,
        size.ok_or(SparseFault::Format)?,
        block.get(482).is_some_and(|&more| more != 0),
    ))
}

/// A block of more numbers; tells whether yet another follows.
pub(super) fn old_extension(block: &[u8; BLOCK], map: &mut Vec<u64>) -> Result<bool, SparseFault> {
    old_numbers(block.get(..504).unwrap_or_default(), map)?;
    Ok(block.get(504).is_some_and(|&more| more != 0))
}

fn old_numbers(fields: &[u8], map: &mut Vec<u64>) -> Result<(), SparseFault> {
    for pair in fields.as_chunks::<24>().0 {
        // Unused fields are empty, which is not the same as a zero.
        if pair.first() == Some(&0) {
            return Ok(());
        }
        for field in pair.as_chunks::<12>().0 {
            let value = number(field).and_then(|value| u64::try_from(value).ok());
            map.push(value.ok_or(SparseFault::Format)?);
        }
    }
    Ok(())
}

/// Checks a map against the size of the file and of what is stored of it.
pub(super) fn content(map: &[u64], size: u64, stored: u64) -> Result<Content, SparseFault> {
    if i64::try_from(size).is_err() || !map.len().is_multiple_of(2) {
        return Err(SparseFault::Format);
    }
    let (mut segments, mut end, mut sum) = (Vec::new(), 0_u64, 0_u64);
    for &[offset, length] in map.as_chunks::<2>().0 {
        let fault = SparseFault::Segment { offset, length };
        let next = offset
            .checked_add(length)
            .filter(|&next| next <= size)
            .ok_or(fault)?;
        if offset < end {
            return Err(fault);
        }
        end = next;
        sum = sum.saturating_add(length);
        if length > 0 {
            segments.push(Segment { offset, length });
        }
    }
    if sum != stored {
        return Err(SparseFault::Sum {
            segments: sum,
            stored,
        });
    }
    Ok(Content::Sparse { size, segments })
}

/// Bytes of memory that a map takes.
pub(super) fn map_bytes(map: &[u64]) -> u64 {
    count(map).saturating_mul(8)
}

fn count(map: &[u64]) -> u64 {
    u64::try_from(map.len()).unwrap_or(u64::MAX)
}

/// Digits of the largest 64-bit number.
const LONGEST_NUMBER: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_maps_that_lie() {
        let segment = |offset, length| SparseFault::Segment { offset, length };
        let rows: [(&str, &[u64], u64, u64, SparseFault); 6] = [
            ("overlap", &[0, 10, 5, 10], 100, 20, segment(5, 10)),
            ("backwards", &[50, 10, 0, 10], 100, 20, segment(0, 10)),
            ("past the end", &[90, 20], 100, 20, segment(90, 20)),
            ("overflow", &[u64::MAX, 2], 100, 2, segment(u64::MAX, 2)),
            (
                "more stored",
                &[0, 10],
                100,
                11,
                SparseFault::Sum {
                    segments: 10,
                    stored: 11,
                },
            ),
            ("half a pair", &[0, 10, 5], 100, 10, SparseFault::Format),
        ];
        for (row, map, size, stored, expected) in rows {
            assert_eq!(content(map, size, stored), Err(expected), "{row}");
        }
        let kept = vec![Segment {
            offset: 10,
            length: 5,
        }];
        let expected = Content::Sparse {
            size: 100,
            segments: kept,
        };
        assert_eq!(content(&[10, 5, 100, 0], 100, 5), Ok(expected));
    }

    #[test]
    fn tells_the_pax_formats_apart() {
        let keys = |pairs: &[(&str, &str)]| {
            let mut keys = Keys::default();
            for (key, value) in pairs {
                keys.set(key.as_bytes(), value.as_bytes())?;
            }
            Some(keys.resolve())
        };
        let old = [
            ("size", "9"),
            ("numblocks", "1"),
            ("offset", "3"),
            ("numbytes", "2"),
        ];
        let expected = Sparse {
            name: None,
            size: 9,
            map: Some(vec![3, 2]),
        };
        assert_eq!(keys(&old), Some(Ok(expected.clone())));
        assert_eq!(
            keys(&[("size", "9"), ("numblocks", "1"), ("map", "3,2")]),
            Some(Ok(expected))
        );
        let new = [
            ("major", "1"),
            ("minor", "0"),
            ("name", "x"),
            ("realsize", "9"),
        ];
        let expected = Sparse {
            name: Some(b"x".into()),
            size: 9,
            map: None,
        };
        assert_eq!(keys(&new), Some(Ok(expected)));
        assert_eq!(
            keys(&[("major", "2"), ("size", "9")]),
            Some(Err(SparseFault::Format))
        );
        assert_eq!(
            keys(&[("size", "9"), ("numblocks", "2"), ("map", "3,2")]),
            Some(Err(SparseFault::Format))
        );
        assert_eq!(keys(&[("numbytes", "2")]), None);
    }
}
