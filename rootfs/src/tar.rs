//! Reads the entries of a tar archive: v7, ustar, GNU and pax (POSIX.1-2017, `pax` utility).
//!
//! Where readers are known to disagree on what an archive says, it is refused: a layer that one
//! program scans and another unpacks must be one layer.

mod header;
mod pax;
mod sparse;

use std::io::BufRead;

use crate::entry::{Content, Entry, Kind, Metadata};
use crate::error::{Error, HeaderFault, SparseFault};
use crate::limits::{LimitKind, Limits};
use crate::name::{Name, RelPath, length};
use crate::tar::header::Header;
use crate::tar::pax::Extended;
use crate::tar::sparse::Sparse;

/// An archive being read. Entries come in order; the content of a file is read, by
/// [`copy_content`](Self::copy_content), before the next entry is asked for, or else skipped.
#[derive(Debug)]
pub(crate) struct Archive<'a, R> {
    source: R,
    limits: &'a Limits,
    /// Whether there has been a pax header.
    is_pax: bool,
    /// Bytes of archive consumed.
    offset: u64,
    /// Bytes of content of the present entry not yet consumed.
    content: u64,
    /// Bytes that fill its last block.
    padding: u64,
}

impl<'a, R: BufRead> Archive<'a, R> {
    pub(crate) fn new(source: R, limits: &'a Limits) -> Self {
        Self {
            source,
            limits,
            is_pax: false,
            offset: 0,
            content: 0,
            padding: 0,
        }
    }

    /// The next entry, or nothing at the end of the archive.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        self.skip_content()?;
        let mut own = Own::default();
        loop {
            let offset = self.offset;
            let Some(block) = self.block()? else {
                own.none_pending(offset)?;
                return Ok(None);
            };
            if block == ZEROS {
                own.none_pending(offset)?;
                return self.end().map(|()| None);
            }
            let header = Header::parse(&block, offset)?;
            if !self.extension(&header, offset, &mut own)? {
                return self.entry(header, own, offset, &block).map(Some);
            }
        }
    }

    /// Gives the content of the present entry to `sink`, in pieces as they come.
    pub(crate) fn copy_content(
        &mut self,
        mut sink: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        while self.content > 0 {
            let (offset, wanted) = (self.offset, self.content);
            let piece = first(self.fill(offset)?, wanted);
            sink(piece)?;
            let taken = piece.len();
            self.content = self.content.saturating_sub(self.consume(taken));
        }
        Ok(())
    }

    /// Reads what follows the archive, up to the end of the source.
    pub(crate) fn drain(&mut self) -> Result<(), Error> {
        loop {
            let taken = self.source.fill_buf().map_err(Error::Read)?.len();
            if taken == 0 {
                return Ok(());
            }
            self.consume(taken);
        }
    }

    /// Takes `header` in if it extends the entry that follows.
    fn extension(&mut self, header: &Header, offset: u64, own: &mut Own) -> Result<bool, Error> {
        self.is_pax |= matches!(header.typeflag, b'g' | b'x' | b'X');
        let slot = match header.typeflag {
            b'g' => {
                let body = self.extension_body(header.size)?;
                return pax::check_global(&body, offset).map(|()| true);
            }
            b'x' | b'X' => {
                let body = self.extension_body(header.size)?;
                let parsed = Extended::parse(&body, offset)?;
                let duplicate = own.extended.replace(parsed).is_some();
                return once(duplicate, header, offset);
            }
            b'L' => &mut own.long_name,
            b'K' => &mut own.long_link,
            _ => return Ok(false),
        };
        let mut body = self.extension_body(header.size)?;
        let end = body
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(body.len());
        body.truncate(end);
        let duplicate = slot.replace(body).is_some();
        once(duplicate, header, offset)
    }

    fn extension_body(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        self.limits.hold(LimitKind::HeaderBytes, size)?;
        let body = self.take(size)?;
        self.take(padding(size))?;
        Ok(body)
    }

    /// Makes an entry of its header, with `own` over the block.
    fn entry(
        &mut self,
        mut header: Header,
        own: Own,
        offset: u64,
        block: &[u8; BLOCK],
    ) -> Result<Entry, Error> {
        own.none_contradicts(offset)?;
        let mut extended = own.extended.unwrap_or_default();
        let block_name = std::mem::take(&mut header.name);
        let name = extended.path.take().or(own.long_name).unwrap_or(block_name);
        let keys = extended
            .sparse
            .take()
            .map(sparse::Keys::resolve)
            .transpose();
        let sparse = keys.map_err(|fault| malformed_map(&name, fault))?;
        let name = sparse
            .as_ref()
            .and_then(|sparse| sparse.name.clone())
            .unwrap_or(name);
        if let Some(link) = extended.linkpath.take().or(own.long_link) {
            header.link = link;
        }
        header.typeflag = header.kind_flag(&name);
        header.size = extended.size.unwrap_or(header.size);
        self.begin_content(&header, offset)?;
        let kind = self.kind(&header, &name, sparse, block, offset)?;
        let metadata = Metadata {
            uid: extended.uid.unwrap_or(header.uid),
            gid: extended.gid.unwrap_or(header.gid),
            mode: header.mode,
            modified: extended.modified.unwrap_or(header.modified),
            xattrs: extended.xattrs,
        };
        let path = RelPath::parse(&name, self.limits)?;
        Ok(Entry {
            path,
            kind,
            metadata,
            typeflag: header.typeflag,
        })
    }

    fn begin_content(&mut self, header: &Header, offset: u64) -> Result<(), Error> {
        // In an archive with pax headers bsdtar takes what follows a hard link for its content.
        let is_empty =
            header::has_no_content(header.typeflag) || (header.typeflag == b'1' && self.is_pax);
        if header.size > 0 && is_empty {
            let typeflag = char::from(header.typeflag);
            let fault = HeaderFault::Size {
                typeflag,
                size: header.size,
            };
            return Err(Error::Header { offset, fault });
        }
        self.content = if header.typeflag == b'1' {
            0
        } else {
            header.size
        };
        self.padding = padding(self.content);
        Ok(())
    }

    fn kind(
        &mut self,
        header: &Header,
        name: &[u8],
        sparse: Option<Sparse>,
        block: &[u8; BLOCK],
        offset: u64,
    ) -> Result<Kind, Error> {
        let refuse = |fault| Err(Error::Header { offset, fault });
        let link = header.link.as_slice();
        Ok(match header.typeflag {
            b'0' if header.is_socket => Kind::Socket,
            b'0' => Kind::File(self.content_map(name, sparse, header.size)?),
            b'S' if sparse.is_some() => return Err(malformed_map(name, SparseFault::Format)),
            b'S' => Kind::File(self.old_sparse(name, block, header.size)?),
            b'1' | b'2' if link.is_empty() => return refuse(HeaderFault::NoTarget),
            b'1' => Kind::HardLink(RelPath::parse(link, self.limits)?),
            b'2' if link.contains(&0) => return Err(Error::ZeroInName { entry: link.into() }),
            b'2' => Kind::Symlink(link.to_vec()),
            flag @ (b'3' | b'4') => match (flag, header.device()) {
                (_, Err(fault)) => return refuse(fault),
                (b'3', Ok((major, minor))) => Kind::CharacterDevice { major, minor },
                (_, Ok((major, minor))) => Kind::BlockDevice { major, minor },
            },
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'V' => Kind::VolumeLabel,
            flag => {
                return refuse(HeaderFault::Typeflag {
                    typeflag: char::from(flag),
                });
            }
        })
    }

    /// The content of a regular file, whose map may be in a pax header or before the content.
    fn content_map(
        &mut self,
        name: &[u8],
        keys: Option<Sparse>,
        stored: u64,
    ) -> Result<Content, Error> {
        let Some(keys) = keys else {
            return Ok(Content::Dense { size: stored });
        };
        let map = match keys.map {
            Some(map) => map,
            None => self.leading_map(name)?,
        };
        sparse::content(&map, keys.size, self.content).map_err(|fault| malformed_map(name, fault))
    }

    /// The map of pax format 1.0: decimal lines in front of the content, filled to a block.
    fn leading_map(&mut self, name: &[u8]) -> Result<Vec<u64>, Error> {
        let mut map = sparse::Lines::default();
        while !map.is_complete() {
            self.limits.hold(LimitKind::HeaderBytes, map.bytes())?;
            if self.content < length(&ZEROS) {
                return Err(malformed_map(name, SparseFault::Format));
            }
            let block = self.block()?.ok_or(Error::Truncated {
                offset: self.offset,
            })?;
            self.content = self.content.saturating_sub(length(&block));
            map.add(&block)
                .map_err(|fault| malformed_map(name, fault))?;
        }
        Ok(map.finish())
    }

    /// The old GNU format: the map is in the header, and in blocks between it and the content.
    fn old_sparse(
        &mut self,
        name: &[u8],
        block: &[u8; BLOCK],
        stored: u64,
    ) -> Result<Content, Error> {
        let malformed = |fault| malformed_map(name, fault);
        let (mut map, size, mut more) = sparse::old_header(block).map_err(malformed)?;
        while more {
            self.limits
                .hold(LimitKind::HeaderBytes, sparse::map_bytes(&map))?;
            let block = self.block()?.ok_or(Error::Truncated {
                offset: self.offset,
            })?;
            more = sparse::old_extension(&block, &mut map).map_err(malformed)?;
        }
        sparse::content(&map, size, stored).map_err(malformed)
    }

    /// The end is two blocks of zeros; writers have been known to leave out the second.
    fn end(&mut self) -> Result<(), Error> {
        let offset = self.offset;
        match self.block()? {
            None | Some(ZEROS) => Ok(()),
            Some(_) => Err(Error::Header {
                offset,
                fault: HeaderFault::LoneZeroBlock,
            }),
        }
    }

    /// Skips what is left of an entry, and its padding. Some writers (umoci 0.4 among them) end
    /// the archive with the last file's content: no padding, no blocks of zeros. Readers accept
    /// that, and so do we: that nothing is missing is proved by the digest, not by the trailer.
    fn skip_content(&mut self) -> Result<(), Error> {
        self.copy_content(|_| Ok(()))?;
        let mut padding = std::mem::take(&mut self.padding);
        while padding > 0 {
            let available = self.source.fill_buf().map_err(Error::Read)?;
            if available.is_empty() {
                break;
            }
            let taken = first(available, padding).len();
            padding = padding.saturating_sub(self.consume(taken));
        }
        Ok(())
    }

    /// The next block, or nothing if the source has ended.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let available = self.source.fill_buf().map_err(Error::Read)?;
        if available.is_empty() {
            return Ok(None);
        }
        let mut block = ZEROS;
        if let Some(whole) = available.first_chunk::<BLOCK>() {
            block = *whole;
            self.consume(BLOCK);
        } else {
            let bytes = self.take(length(&block))?;
            for (to, from) in block.iter_mut().zip(bytes) {
                *to = from;
            }
        }
        Ok(Some(block))
    }

    /// The next `count` bytes, which the caller has held to a limit.
    fn take(&mut self, count: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while length(&bytes) < count {
            let offset = self.offset;
            let wanted = count.saturating_sub(length(&bytes));
            let piece = first(self.fill(offset)?, wanted);
            bytes.extend_from_slice(piece);
            let taken = piece.len();
            self.consume(taken);
        }
        Ok(bytes)
    }

    fn fill(&mut self, offset: u64) -> Result<&[u8], Error> {
        let available = self.source.fill_buf().map_err(Error::Read)?;
        if available.is_empty() {
            Err(Error::Truncated { offset })
        } else {
            Ok(available)
        }
    }

    fn consume(&mut self, taken: usize) -> u64 {
        self.source.consume(taken);
        let taken = u64::try_from(taken).unwrap_or(u64::MAX);
        self.offset = self.offset.saturating_add(taken);
        taken
    }
}

/// The extended headers of one entry.
#[derive(Default)]
struct Own {
    extended: Option<Extended>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Own {
    fn none_pending(&self, offset: u64) -> Result<(), Error> {
        let pending =
            self.extended.is_some() || self.long_name.is_some() || self.long_link.is_some();
        let fault = HeaderFault::Dangling;
        if pending {
            Err(Error::Header { offset, fault })
        } else {
            Ok(())
        }
    }

    /// Of a pax header and a GNU one that both have the name, or the target, Go believes the one
    /// and tar the other.
    fn none_contradicts(&self, offset: u64) -> Result<(), Error> {
        let Some(extended) = &self.extended else {
            return Ok(());
        };
        let pairs = [
            ('L', extended.path.is_some() && self.long_name.is_some()),
            ('K', extended.linkpath.is_some() && self.long_link.is_some()),
        ];
        match pairs.into_iter().find(|(_, is_twice)| *is_twice) {
            None => Ok(()),
            Some((typeflag, _)) => Err(Error::Header {
                offset,
                fault: HeaderFault::Contradiction { typeflag },
            }),
        }
    }
}

/// An entry has at most one extended header of a kind.
fn once(duplicate: bool, header: &Header, offset: u64) -> Result<bool, Error> {
    let fault = HeaderFault::Duplicate {
        typeflag: char::from(header.typeflag),
    };
    if duplicate {
        Err(Error::Header { offset, fault })
    } else {
        Ok(true)
    }
}

fn malformed_map(name: &[u8], fault: SparseFault) -> Error {
    Error::Sparse {
        entry: Name::from(name),
        fault,
    }
}

/// At most `count` bytes from the front of `bytes`.
fn first(bytes: &[u8], count: u64) -> &[u8] {
    usize::try_from(count)
        .ok()
        .and_then(|count| bytes.get(..count))
        .unwrap_or(bytes)
}

/// The bytes that fill the last block of `size` bytes.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % 512
}

const BLOCK: usize = 512;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

#[cfg(test)]
mod tests;
