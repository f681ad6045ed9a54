//! Writes one layer: entries to tar, tar to a compressed blob named by its digest.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use flate2::write::GzEncoder;

use crate::content::{Content, Vocabulary};
use crate::fault::{During, Fault};
use crate::recipe::{Compression, Entry, Kind, Recipe};

/// A layer as a manifest and a config name it.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) diff_id: String,
    pub(crate) tar_size: u64,
    pub(crate) entries: u64,
}

/// Bytes in two digits each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = |byte: &u8| format!("{byte:02x}");
    bytes.iter().map(digits).collect::<Vec<_>>().concat()
}

/// The digest of a document, as registries write it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!(
        "sha256:{}",
        hex(aws_lc_rs::digest::digest(&SHA256, bytes).as_ref())
    )
}

/// Makes the layer and leaves it in `blobs` under the hexadecimal part of its digest.
pub(crate) fn write(
    entries: &[Entry],
    recipe: &Recipe,
    vocabulary: &Vocabulary,
    blobs: &Path,
) -> Result<Blob, Fault> {
    let aside = tempfile::NamedTempFile::new_in(blobs)
        .during(|| format!("a file in {}", blobs.display()))?;
    let file = aside
        .reopen()
        .during(|| format!("a file in {}", blobs.display()))?;
    let (content, blob) =
        compress(entries, recipe, vocabulary, file).during(|| "writing a layer".to_owned())?;
    let (diff_id, tar_size) = content;
    let (digest, size) = blob;
    let path = blobs.join(digest.trim_start_matches("sha256:"));
    aside
        .persist(&path)
        .map_err(|error| error.error)
        .during(|| format!("renaming to {}", path.display()))?;
    let entries = u64::try_from(entries.len()).unwrap_or(u64::MAX);
    Ok(Blob {
        digest,
        size,
        diff_id,
        tar_size,
        entries,
    })
}

/// A digest and how many bytes it covers.
type Sum = (String, u64);

fn compress(
    entries: &[Entry],
    recipe: &Recipe,
    vocabulary: &Vocabulary,
    file: File,
) -> io::Result<(Sum, Sum)> {
    let blob = Summing::new(BufWriter::with_capacity(256 * 1024, file));
    let content = Summing::new(match recipe.compression {
        Compression::Gzip => Compressor::Gzip(GzEncoder::new(blob, flate2::Compression::new(6))),
        Compression::Zstd => Compressor::Zstd(zstd::Encoder::new(blob, 3)?),
        Compression::ZstdWide => {
            let mut encoder = zstd::Encoder::new(blob, 3)?;
            encoder.window_log(23)?;
            Compressor::Zstd(encoder)
        }
    });
    let mut archive = tar::Builder::new(BufWriter::with_capacity(256 * 1024, content));
    for (number, entry) in entries.iter().enumerate() {
        append(&mut archive, number, entry, recipe.noise, vocabulary)?;
    }
    let content = archive
        .into_inner()?
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    let (compressor, content) = content.sum();
    let mut blob = compressor.finish()?;
    blob.flush()?;
    Ok((content, blob.sum().1))
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    number: usize,
    entry: &Entry,
    noise: u64,
    vocabulary: &Vocabulary,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.owner);
    header.set_gid(entry.owner);
    header.set_mtime(1_700_000_000 + u64::try_from(number).unwrap_or(0));
    header.set_size(0);
    match &entry.kind {
        Kind::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            archive.append_data(&mut header, format!("{}/", entry.path), io::empty())
        }
        Kind::File {
            size,
            seed,
            capability,
        } => {
            if *capability {
                archive
                    .append_pax_extensions([("SCHILY.xattr.security.capability", CAP_NET_RAW)])?;
            }
            header.set_size(*size);
            let content = Content::new(vocabulary, *seed, noise, *size);
            archive.append_data(&mut header, &entry.path, content)
        }
        Kind::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            archive.append_link(&mut header, &entry.path, target)
        }
        Kind::HardLink(target) => {
            header.set_entry_type(tar::EntryType::Link);
            archive.append_link(&mut header, &entry.path, target)
        }
        Kind::Mark => archive.append_data(&mut header, &entry.path, io::empty()),
    }
}

/// `struct vfs_cap_data` revision 2: effective and permitted `CAP_NET_RAW`.
const CAP_NET_RAW: &[u8] = &[
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

enum Compressor<W: Write> {
    Gzip(GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    fn finish(self) -> io::Result<W> {
        match self {
            Compressor::Gzip(encoder) => encoder.finish(),
            Compressor::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Compressor::Gzip(encoder) => encoder.write(bytes),
            Compressor::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Nothing: a flushed compressor would end a block, which real layers do not.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts and digests what passes through.
struct Summing<W> {
    inner: W,
    context: Context,
    count: u64,
}

impl<W: Write> Summing<W> {
    fn new(inner: W) -> Summing<W> {
        Summing {
            inner,
            context: Context::new(&SHA256),
            count: 0,
        }
    }

    fn sum(self) -> (W, Sum) {
        let digest = format!("sha256:{}", hex(self.context.finish().as_ref()));
        (self.inner, (digest, self.count))
    }
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.context.update(bytes.get(..count).unwrap_or(bytes));
        self.count += u64::try_from(count).unwrap_or(0);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
