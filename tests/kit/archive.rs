//! Layer archives, honest and hostile: every name is written as the bytes that were given.

use tar::{Builder, EntryType, Header};

/// A tar archive under construction; the methods append one entry each.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    /// An archive without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// A directory, mode 0755 and owned by root.
    #[must_use]
    pub fn directory(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(&Entry::new(name, EntryType::Directory).mode(0o755))
    }

    /// A regular file, mode 0644 and owned by root.
    #[must_use]
    pub fn file(self, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        self.entry(&Entry::file(name, content))
    }

    /// A symbolic link that points at `target`, whatever that is.
    #[must_use]
    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(
            &Entry::new(name, EntryType::Symlink)
                .link(target)
                .mode(0o777),
        )
    }

    /// A hard link to `target`, whatever that is.
    #[must_use]
    pub fn hard_link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(&Entry::new(name, EntryType::Link).link(target))
    }

    /// A character device.
    #[must_use]
    pub fn character_device(self, name: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        self.entry(&Entry::new(name, EntryType::Char).device(major, minor))
    }

    /// An entry of any kind.
    #[must_use]
    pub fn entry(mut self, entry: &Entry) -> Self {
        if !entry.extensions.is_empty() {
            let mut builder = Builder::new(Vec::new());
            builder
                .append_pax_extensions(
                    entry
                        .extensions
                        .iter()
                        .map(|(key, value)| (key.as_str(), value.as_slice())),
                )
                .expect("a PAX header fits in memory");
            self.bytes.append(builder.get_mut());
        }
        self.bytes.extend_from_slice(entry.header().as_bytes());
        self.bytes.extend_from_slice(&entry.content);
        self.pad()
    }

    /// Bytes that the tar format need not allow.
    #[must_use]
    pub fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.bytes.extend_from_slice(bytes.as_ref());
        self
    }

    /// The archive with its two closing blocks.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }

    fn pad(mut self) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }
}

/// One entry: its header fields, its extended attributes and its content.
#[derive(Debug, Clone)]
pub struct Entry {
    name: Vec<u8>,
    kind: EntryType,
    link: Vec<u8>,
    content: Vec<u8>,
    size: Option<u64>,
    mode: u32,
    owner: (u64, u64),
    device: (u32, u32),
    modified: u64,
    sparse: Option<u64>,
    extensions: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// An empty entry of this kind, owned by root, last modified at the epoch plus one day.
    pub fn new(name: impl AsRef<[u8]>, kind: EntryType) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            kind,
            link: Vec::new(),
            content: Vec::new(),
            size: None,
            mode: 0o644,
            owner: (0, 0),
            device: (0, 0),
            modified: 86_400,
            sparse: None,
            extensions: Vec::new(),
        }
    }

    /// A regular file.
    pub fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        let mut entry = Self::new(name, EntryType::Regular);
        entry.content = content.as_ref().to_vec();
        entry
    }

    /// An old-GNU sparse file of `size` bytes that stores none of them.
    pub fn sparse(name: impl AsRef<[u8]>, size: u64) -> Self {
        let mut entry = Self::new(name, EntryType::GNUSparse);
        entry.sparse = Some(size);
        entry
    }

    /// The bytes that follow the header.
    #[must_use]
    pub fn content(mut self, content: impl AsRef<[u8]>) -> Self {
        self.content = content.as_ref().to_vec();
        self
    }

    /// Permission bits, including setuid, setgid and sticky.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Numeric owner and group.
    #[must_use]
    pub fn owner(mut self, user: u64, group: u64) -> Self {
        self.owner = (user, group);
        self
    }

    /// Target of a symbolic or hard link.
    #[must_use]
    pub fn link(mut self, target: impl AsRef<[u8]>) -> Self {
        self.link = target.as_ref().to_vec();
        self
    }

    /// Device numbers.
    #[must_use]
    pub fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }

    /// The size that the header claims, where it is not that of the content.
    #[must_use]
    pub fn claiming(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    /// An extended attribute, as the PAX record `SCHILY.xattr.<name>`.
    #[must_use]
    pub fn attribute(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.extension(format!("SCHILY.xattr.{name}"), value)
    }

    /// A PAX record.
    #[must_use]
    pub fn extension(mut self, key: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.extensions.push((key.into(), value.as_ref().to_vec()));
        self
    }

    /// The header block alone.
    pub fn header(&self) -> Header {
        let mut header = Header::new_gnu();
        let stored = u64::try_from(self.content.len()).expect("a length fits in 64 bits");
        header.set_entry_type(self.kind);
        header.set_size(self.size.unwrap_or(stored));
        header.set_mode(self.mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(self.modified);
        header
            .set_device_major(self.device.0)
            .expect("a GNU header has device numbers");
        header
            .set_device_minor(self.device.1)
            .expect("a GNU header has device numbers");
        if let Some(size) = self.sparse {
            let gnu = header
                .as_gnu_mut()
                .expect("the header was made in the GNU format");
            gnu.set_real_size(size);
            gnu.sparse[0].set_offset(size);
            gnu.sparse[0].set_length(0);
        }
        let old = header.as_old_mut();
        write_name(&mut old.name, &self.name);
        write_name(&mut old.linkname, &self.link);
        header.set_cksum();
        header
    }
}

fn write_name(field: &mut [u8; 100], name: &[u8]) {
    assert!(
        name.len() <= field.len(),
        "the kit writes names of at most 100 bytes"
    );
    field[..name.len()].copy_from_slice(name);
}
