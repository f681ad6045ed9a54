//! Decompresses a layer as its media type says, whole: all members, all frames.

mod gzip;
mod pool;
mod zstd;

use std::io::Read;

use policy::Compression;

use self::gzip::Gzip;
use self::zstd::Zstd;
use crate::cancel::Cancel;
use crate::chunks::{CHUNK, Sink, Source};
use crate::error::Error;
use crate::limits::Budget;

/// Reads all of `source`, decompresses it into `sink`, and returns the number of bytes that made.
pub(crate) fn inflate(
    source: Source,
    compression: Compression,
    mut sink: Sink,
    budget: &Budget,
    cancel: &Cancel,
) -> Result<u64, Error> {
    let mut decoder = Decoder::new(source, compression);
    let limits = budget.limits();
    let mut total = 0_u64;
    loop {
        cancel.check()?;
        let mut buffer = sink.buffer()?;
        let mut filled = 0;
        let mut ended = false;
        while filled < CHUNK && !ended {
            let room = buffer.as_mut().get_mut(filled..).unwrap_or_default();
            let count = decoder.read(room, budget, cancel)?;
            ended = count == 0;
            filled = filled.saturating_add(count);
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            total = total.saturating_add(count);
            limits.hold_expansion(total, decoder.consumed())?;
            budget.spend(count)?;
        }
        if filled > 0 {
            sink.send(buffer, filled)?;
        }
        if ended {
            sink.finish()?;
            return Ok(total);
        }
    }
}

/// The one place that knows which library decompresses what.
enum Decoder {
    Plain(Source),
    Gzip(Gzip),
    Zstd(Zstd),
}

impl Decoder {
    fn new(source: Source, compression: Compression) -> Self {
        match compression {
            Compression::None => Self::Plain(source),
            Compression::Gzip => Self::Gzip(Gzip::new(source)),
            Compression::Zstd => Self::Zstd(Zstd::new(source)),
        }
    }

    /// Fills some of `buffer`; nothing of it at the end of the stream.
    fn read(
        &mut self,
        buffer: &mut [u8],
        budget: &Budget,
        cancel: &Cancel,
    ) -> Result<usize, Error> {
        match self {
            Self::Plain(source) => source.read(buffer).map_err(Error::Read),
            Self::Gzip(gzip) => gzip.read(buffer),
            Self::Zstd(zstd) => zstd.read(buffer, budget.limits(), cancel),
        }
    }

    /// Compressed bytes used so far.
    fn consumed(&self) -> u64 {
        match self {
            Self::Plain(source) => source.passed(),
            Self::Gzip(gzip) => gzip.source.passed(),
            Self::Zstd(zstd) => zstd.source.passed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ::zstd::Encoder;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::chunks::{self, Depth, is_peer_gone};
    use crate::limits::{LimitKind, Limits};

    const TWO: Depth = Depth { least: 2, most: 2 };

    /// Decompresses `blob`, handed over in pieces of `piece` bytes.
    fn run(blob: &[u8], compression: Compression, piece: usize) -> Result<Vec<u8>, Error> {
        run_within(blob, compression, piece, &Limits::default())
    }

    fn run_within(
        blob: &[u8],
        compression: Compression,
        piece: usize,
        limits: &Limits,
    ) -> Result<Vec<u8>, Error> {
        let (mut blob_sink, blob_source) = chunks::channel(TWO);
        let (content_sink, mut content_source) = chunks::channel(TWO);
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                for piece in blob.chunks(piece) {
                    let mut buffer = blob_sink.buffer()?;
                    buffer.as_mut()[..piece.len()].copy_from_slice(piece);
                    blob_sink.send(buffer, piece.len())?;
                }
                blob_sink.finish()
            });
            let inflater = scope.spawn(move || {
                let (budget, cancel) = (Budget::new(limits.clone()), Cancel::new());
                inflate(blob_source, compression, content_sink, &budget, &cancel)
            });
            let mut content = Vec::new();
            let read = content_source.read_to_end(&mut content);
            drop(content_source);
            let total = inflater.join().unwrap()?;
            read.unwrap();
            reader.join().unwrap().unwrap();
            assert_eq!(total, u64::try_from(content.len()).unwrap());
            Ok(content)
        })
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        ::zstd::encode_all(content, 1).unwrap()
    }

    fn sample() -> Vec<u8> {
        (0..700_000_u32)
            .flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes())
            .collect()
    }

    #[test]
    fn reads_all_members_and_frames() {
        let sample = sample();
        let (head, tail) = sample.split_at(1_234_567);
        let skippable = b"\x5a\x2a\x4d\x18\x04\0\0\0meta";
        let rows = [
            ("none", Compression::None, sample.clone()),
            ("gzip", Compression::Gzip, gzip(&sample)),
            (
                "two members",
                Compression::Gzip,
                [gzip(head), gzip(tail)].concat(),
            ),
            (
                "an empty member between",
                Compression::Gzip,
                [gzip(head), gzip(b""), gzip(tail)].concat(),
            ),
            (
                "padding",
                Compression::Gzip,
                [gzip(&sample), vec![0; 1000]].concat(),
            ),
            ("zstd", Compression::Zstd, zstd(&sample)),
            (
                "two frames",
                Compression::Zstd,
                [zstd(head), zstd(tail)].concat(),
            ),
            (
                "skippable frames",
                Compression::Zstd,
                [
                    &skippable[..],
                    &zstd(head),
                    skippable,
                    &zstd(tail),
                    skippable,
                ]
                .concat(),
            ),
        ];
        for (row, compression, blob) in rows {
            for piece in [CHUNK, 1021] {
                assert!(run(&blob, compression, piece).unwrap() == sample, "{row}");
            }
        }
        assert_eq!(
            run(&gzip(&sample[..200]), Compression::Gzip, 1).unwrap(),
            &sample[..200]
        );
    }

    #[test]
    fn refuses_damage_and_truncation() {
        let (gzip, zstd) = (gzip(b"some content"), zstd(b"some content"));
        let mut checksum = gzip.clone();
        let at = checksum.len() - 6;
        checksum[at] ^= 1;
        let rows = [
            (
                "gzip cut",
                Compression::Gzip,
                gzip[..gzip.len() - 1].to_vec(),
            ),
            ("gzip header cut", Compression::Gzip, gzip[..5].to_vec()),
            ("gzip empty", Compression::Gzip, Vec::new()),
            ("gzip checksum", Compression::Gzip, checksum),
            (
                "gzip second member cut",
                Compression::Gzip,
                [&gzip[..], &gzip[..9]].concat(),
            ),
            (
                "gzip second member bad",
                Compression::Gzip,
                [&gzip[..], b"\x1f\x8c garbage"].concat(),
            ),
            ("zstd for gzip", Compression::Gzip, zstd.clone()),
            (
                "zstd cut",
                Compression::Zstd,
                zstd[..zstd.len() - 1].to_vec(),
            ),
            (
                "zstd then garbage",
                Compression::Zstd,
                [&zstd[..], b"garbage!"].concat(),
            ),
            ("zstd empty", Compression::Zstd, Vec::new()),
            ("zstd header cut", Compression::Zstd, zstd[..5].to_vec()),
            ("gzip for zstd", Compression::Zstd, gzip.clone()),
        ];
        for (row, expected, blob) in rows {
            let error = run(&blob, expected, CHUNK)
                .map(|content| content.len())
                .unwrap_err();
            assert!(
                matches!(&error, Error::Inflate { compression, .. } if *compression == expected),
                "{row}: {error:?}"
            );
            assert!(!is_peer_gone(&error), "{row}");
        }
    }

    #[test]
    fn refuses_garbage_after_gzip() {
        let gzip = gzip(b"some content");
        let end = u64::try_from(gzip.len()).unwrap();
        let rows = [
            ("garbage", [&gzip[..], b"garbage"].concat(), end),
            (
                "garbage in padding",
                [&gzip[..], &[0; 10], b"x"].concat(),
                end + 10,
            ),
            (
                "a member after padding",
                [&gzip[..], &[0; 10], &gzip].concat(),
                end + 10,
            ),
        ];
        for (row, blob, expected) in rows {
            let error = run(&blob, Compression::Gzip, CHUNK).unwrap_err();
            assert!(
                matches!(error, Error::TrailingGarbage { offset, .. } if offset == expected),
                "{row}: {error:?}"
            );
        }
    }

    #[test]
    fn holds_zstd_to_its_window() {
        let mut encoder = Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(24).unwrap();
        encoder.write_all(&sample()).unwrap();
        let blob = encoder.finish().unwrap();
        let limits = Limits {
            zstd_window_log: 23,
            ..Limits::default()
        };
        let error = run_within(&blob, Compression::Zstd, CHUNK, &limits).unwrap_err();
        let Error::Limit {
            limit: LimitKind::ZstdWindow,
            allowed,
            found,
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!((allowed, found), (8 << 20, 16 << 20));
        let limits = Limits {
            zstd_window_log: 24,
            ..Limits::default()
        };
        run_within(&blob, Compression::Zstd, CHUNK, &limits).unwrap();
    }

    #[test]
    fn stops_bombs_soon_after_the_free_allowance() {
        let zeros = vec![0; 1 << 20];
        let (mut gz, mut zst) = (
            GzEncoder::new(Vec::new(), flate2::Compression::best()),
            Encoder::new(Vec::new(), 1).unwrap(),
        );
        for _ in 0..200 {
            gz.write_all(&zeros).unwrap();
            zst.write_all(&zeros).unwrap();
        }
        let rows = [
            (Compression::Gzip, gz.finish().unwrap()),
            (Compression::Zstd, zst.finish().unwrap()),
        ];
        for (compression, blob) in rows {
            let error = run(&blob, compression, CHUNK)
                .map(|content| content.len())
                .unwrap_err();
            let Error::Limit {
                limit: LimitKind::Ratio,
                found,
                ..
            } = error
            else {
                panic!("{error:?}")
            };
            assert!(found < 128 << 20, "{compression:?}: {found}");
        }
    }
}
