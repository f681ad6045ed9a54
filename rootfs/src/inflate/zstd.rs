//! Zstandard (RFC 8878): frames one after the other, skippable ones among them.

use std::io::{self, BufRead};

use policy::Compression;
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::pool::Decoder;
use crate::cancel::Cancel;
use crate::chunks::Source;
use crate::error::Error;
use crate::limits::{LimitKind, Limits};

/// A sequence of frames. What a frame's header says of its window is read here, before the decoder
/// sees it: memory for it is not taken without leave.
pub(super) struct Zstd {
    pub(super) source: Source,
    /// None before the first frame.
    decoder: Option<Decoder>,
    is_within: bool,
}

impl Zstd {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            decoder: None,
            is_within: false,
        }
    }

    /// Fills some of `buffer`; nothing of it at the end of the stream.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        limits: &Limits,
        cancel: &Cancel,
    ) -> Result<usize, Error> {
        loop {
            let produced = if self.is_within {
                self.frame(buffer)?
            } else if self.begin(limits, cancel)? {
                0
            } else {
                return Ok(0);
            };
            if produced > 0 {
                return Ok(produced);
            }
        }
    }

    /// Begins a frame, if there is one more. A stream has at least one.
    fn begin(&mut self, limits: &Limits, cancel: &Cancel) -> Result<bool, Error> {
        let Some(header) = self.header()? else {
            return match self.decoder {
                Some(_) => Ok(false),
                None => Err(malformed(io::ErrorKind::UnexpectedEof.into())),
            };
        };
        let window = window_size(&header).unwrap_or(0);
        limits.hold(LimitKind::ZstdWindow, window)?;
        let held = self.decoder.as_ref().map(Decoder::window);
        if held.is_none_or(|held| held < window) {
            // Its memory goes back before more is asked for.
            self.decoder = None;
            self.decoder = Some(Decoder::take(window.max(SMALLEST), cancel)?);
        }
        if let Some(context) = self.decoder.as_mut().and_then(Decoder::context) {
            let largest = DParameter::WindowLogMax(limits.zstd_window_log);
            context.set_parameter(largest).map_err(library)?;
            self.is_within = !step(context, &mut [], &header)?.is_complete;
        }
        Ok(true)
    }

    /// The bytes of a frame's header as far as they tell its window, or nothing at the end.
    fn header(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut header = Vec::new();
        while window_size(&header).is_none() {
            let input = self.source.fill_buf().map_err(Error::Read)?;
            match input.first() {
                Some(&byte) => header.push(byte),
                None if header.is_empty() => return Ok(None),
                None => return Err(malformed(io::ErrorKind::UnexpectedEof.into())),
            }
            self.source.consume(1);
        }
        Ok(Some(header))
    }

    /// Decompresses some of a frame.
    fn frame(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let input = self.source.fill_buf().map_err(Error::Read)?;
        let Some(context) = self.decoder.as_mut().and_then(Decoder::context) else {
            return Ok(0);
        };
        let step = step(context, buffer, input)?;
        if (step.consumed, step.produced) == (0, 0) && !step.is_complete {
            return Err(malformed(io::ErrorKind::UnexpectedEof.into()));
        }
        self.source.consume(step.consumed);
        self.is_within = !step.is_complete;
        Ok(step.produced)
    }
}

/// What one call of the decoder came to.
struct Step {
    consumed: usize,
    produced: usize,
    is_complete: bool,
}

fn step(context: &mut DCtx<'_>, buffer: &mut [u8], input: &[u8]) -> Result<Step, Error> {
    let (mut output, mut input) = (OutBuffer::around(buffer), InBuffer::around(input));
    let wanted = context.decompress_stream(&mut output, &mut input);
    let wanted = wanted.map_err(library)?;
    Ok(Step {
        consumed: input.pos(),
        produced: output.pos(),
        is_complete: wanted == 0,
    })
}

/// The window that a frame's header asks for (RFC 8878, 3.1.1.1), as soon as enough of the header
/// is there to tell. Of what is no such frame the decoder is the judge.
fn window_size(header: &[u8]) -> Option<u64> {
    let (magic, rest) = header.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*magic) != MAGIC {
        return Some(0);
    }
    let (&descriptor, rest) = rest.split_first()?;
    if descriptor & SINGLE_SEGMENT == 0 {
        let window = *rest.first()?;
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    let dictionary = match descriptor & 3 {
        3 => 4,
        length => usize::from(length),
    };
    let length = 1_usize << (descriptor >> 6);
    let bytes = rest.get(dictionary..)?.get(..length)?;
    let mut size = [0; 8];
    size.get_mut(..length)?.copy_from_slice(bytes);
    // Two bytes count from 256: what one byte can say needs no second.
    let least = if length == 2 { 256 } else { 0 };
    Some(u64::from_le_bytes(size).saturating_add(least))
}

fn library(code: usize) -> Error {
    malformed(io::Error::other(get_error_name(code)))
}

fn malformed(source: io::Error) -> Error {
    Error::Inflate {
        compression: Compression::Zstd,
        source,
    }
}

const MAGIC: u32 = 0xfd2f_b528;
const SINGLE_SEGMENT: u8 = 0x20;
/// What a decoder takes at least, whatever its window.
const SMALLEST: u64 = 128 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_window_from_the_least_of_the_header() {
        let rows: [(&str, &[u8], u64); 8] = [
            ("window", b"\x28\xb5\x2f\xfd\x04\x58", 2 << 20),
            (
                "with eighths",
                b"\x28\xb5\x2f\xfd\x00\x5d",
                (2 << 20) / 8 * 13,
            ),
            ("largest", b"\x28\xb5\x2f\xfd\x00\xff", (1 << 41) / 8 * 15),
            ("size of one byte", b"\x28\xb5\x2f\xfd\x20\x07", 7),
            ("of two", b"\x28\xb5\x2f\xfd\x60\x01\x01", 0x101 + 256),
            (
                "of four after a dictionary",
                b"\x28\xb5\x2f\xfd\xa3dict\0\0\0\x40",
                1 << 30,
            ),
            (
                "of eight",
                b"\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\xff",
                u64::MAX,
            ),
            ("skippable", b"\x5a\x2a\x4d\x18", 0),
        ];
        for (row, header, expected) in rows {
            assert_eq!(window_size(header), Some(expected), "{row}");
            let less = header.split_last().unwrap().1;
            assert_eq!(window_size(less), None, "{row}");
        }
    }

    /// What the library itself makes of its frames.
    #[test]
    fn agrees_with_the_encoder() {
        for level in [1, 3, 19] {
            for length in [0, 1, 255, 256, 257, 70_000, 3 << 20] {
                let frame = zstd::bulk::compress(&vec![7; length], level).unwrap();
                let window = window_size(&frame).unwrap();
                let length = u64::try_from(length).unwrap();
                assert!(
                    window >= length.min(1 << 10) && window <= 8 << 20,
                    "{window}"
                );
            }
        }
    }
}
