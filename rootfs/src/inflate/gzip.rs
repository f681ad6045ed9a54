//! Gzip: members one after the other, and what may follow them.

use std::io::{self, BufRead};

use flate2::{Decompress, FlushDecompress, Status};
use policy::Compression;

use crate::chunks::Source;
use crate::error::Error;

/// A gzip file: members one after the other (RFC 1952, 2.2), and zeros to fill a tape block, which
/// gzip itself has always passed over.
pub(super) struct Gzip {
    pub(super) source: Source,
    inflate: Decompress,
    position: Position,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    BeforeFirst,
    Within,
    Between,
    Padding,
}

impl Gzip {
    pub(super) fn new(source: Source) -> Self {
        let inflate = Decompress::new_gzip(WINDOW_BITS);
        Self {
            source,
            inflate,
            position: Position::BeforeFirst,
        }
    }

    /// Fills some of `buffer`; nothing of it at the end of the stream.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            let input = self.source.fill_buf().map_err(Error::Read)?;
            match (self.position, input) {
                (Position::Between | Position::Padding, []) => return Ok(0),
                (Position::BeforeFirst | Position::Within, []) => {
                    return Err(gzip_error(io::ErrorKind::UnexpectedEof.into()));
                }
                (Position::Between | Position::Padding, [0, ..]) => {
                    let zeros = input.iter().take_while(|&&byte| byte == 0).count();
                    self.source.consume(zeros);
                    self.position = Position::Padding;
                    continue;
                }
                (Position::Between, [FIRST_MAGIC, ..]) => self.inflate.reset(true),
                (Position::Between | Position::Padding, _) => {
                    let (compression, offset) = (Compression::Gzip, self.source.passed());
                    return Err(Error::TrailingGarbage {
                        compression,
                        offset,
                    });
                }
                (Position::BeforeFirst | Position::Within, _) => {}
            }
            let produced = self.member(buffer)?;
            if produced > 0 {
                return Ok(produced);
            }
        }
    }

    /// Decompresses some of a member.
    fn member(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let input = self.source.fill_buf().map_err(Error::Read)?;
        let before = (self.inflate.total_in(), self.inflate.total_out());
        let status = self
            .inflate
            .decompress(input, buffer, FlushDecompress::None);
        let status = status.map_err(|error| gzip_error(error.into()))?;
        let consumed = difference(self.inflate.total_in(), before.0);
        let produced = difference(self.inflate.total_out(), before.1);
        self.source.consume(consumed);
        self.position = match status {
            Status::StreamEnd => Position::Between,
            _ if consumed == 0 && produced == 0 => {
                return Err(gzip_error(io::ErrorKind::InvalidData.into()));
            }
            Status::Ok | Status::BufError => Position::Within,
        };
        Ok(produced)
    }
}

fn gzip_error(source: io::Error) -> Error {
    Error::Inflate {
        compression: Compression::Gzip,
        source,
    }
}

fn difference(after: u64, before: u64) -> usize {
    usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX)
}

/// The window of deflate, RFC 1951.
const WINDOW_BITS: u8 = 15;
/// The first byte of a gzip member, RFC 1952, 2.3.1.
const FIRST_MAGIC: u8 = 0x1f;
