//! configfs-tsm as a FUSE file system: the kernel's interface for quotes, with its semantics, and
//! with its failures on demand.
//!
//! As in the kernel (`drivers/virt/coco/tsm.c`): a request is a directory whose attributes come and
//! go with it; binary attributes take effect when they are closed, and what is refused then is told
//! to nobody; `generation` counts the writes that took effect; reading `outblob` makes the quote.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use tempfile::TempDir;

/// What the hardware behind the file system is.
#[derive(Debug, Clone)]
pub struct Hardware {
    /// `tdx_guest`, `sev_guest`, or what else the kernel may say.
    pub provider: &'static str,
    /// The quote for these 64 bytes.
    pub quote: fn(&[u8]) -> Vec<u8>,
    /// Certificates of the host, for `sev_guest`.
    pub certificates: Option<Vec<u8>>,
    /// The lowest VMPL that an SVSM leaves to the guest.
    pub privilege_floor: u32,
}

/// What happens to the next request for a quote instead of success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TsmFault {
    /// Reading `outblob` ends with `EBUSY`: a quote is in flight.
    Busy,
    /// Reading `outblob` ends with `ETIMEDOUT`: the quoting service does not answer.
    TimedOut,
    /// Reading `outblob` ends with `EINTR`.
    Interrupted,
    /// Reading `outblob` ends with `EIO`.
    Broken,
    /// `outblob` is empty, without an error.
    Empty,
    /// What was written to `inblob` is refused at close, which nobody is told.
    WriteDropped,
    /// Somebody else writes before the quote is made.
    ForeignWrite,
    /// The quote takes this long.
    Slow(Duration),
}

/// A mounted configfs-tsm; unmounted when dropped.
#[derive(Debug)]
pub struct TsmFs {
    state: Arc<Mutex<State>>,
    session: Option<BackgroundSession>,
    folder: TempDir,
}

impl TsmFs {
    /// Mounts one over this hardware.
    ///
    /// # Panics
    /// Where FUSE cannot be used.
    pub fn mount(hardware: Hardware) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let state = Arc::new(Mutex::new(State {
            hardware,
            requests: BTreeMap::new(),
            faults: VecDeque::new(),
            written: Vec::new(),
            made: 0,
        }));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("tsm".to_owned())];
        let files = Files(Arc::clone(&state));
        let session = fuser::spawn_mount(files, folder.path(), &config)
            .expect("FUSE is there, and we may mount");
        Self {
            state,
            session: Some(session),
            folder,
        }
    }

    /// Where requests are made.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The next requests for a quote meet these, one each.
    pub fn fail(&self, faults: impl IntoIterator<Item = TsmFault>) {
        lock(&self.state).faults.extend(faults);
    }

    /// How many requests there are at this moment.
    pub fn open_requests(&self) -> usize {
        lock(&self.state).requests.len()
    }

    /// How many quotes were asked for, whatever came of it.
    pub fn quotes(&self) -> usize {
        lock(&self.state).made
    }

    /// What was written and took effect, in order.
    pub fn written(&self) -> Vec<(&'static str, Vec<u8>)> {
        lock(&self.state).written.clone()
    }
}

impl Drop for TsmFs {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let ended = session.umount_and_join();
            assert!(
                std::thread::panicking() || ended.is_ok(),
                "not unmounted: {ended:?}"
            );
        }
    }
}

#[derive(Debug)]
struct State {
    hardware: Hardware,
    /// By inode of the directory.
    requests: BTreeMap<u64, Entry>,
    faults: VecDeque<TsmFault>,
    written: Vec<(&'static str, Vec<u8>)>,
    made: usize,
}

#[derive(Debug, Default)]
struct Entry {
    name: String,
    pending: Option<Vec<u8>>,
    inblob: Vec<u8>,
    privilege: u32,
    generation: u64,
    /// The quote, and the generation that it was made for.
    outblob: Option<(u64, Vec<u8>)>,
}

const ATTRIBUTES: [&str; 7] = [
    "provider",
    "generation",
    "privlevel",
    "privlevel_floor",
    "inblob",
    "outblob",
    "auxblob",
];
/// Inodes of a request: its directory at a multiple of this, its attributes after it.
const STRIDE: u64 = 16;
const LONGEST_INBLOB: usize = 64;
const NEVER: Duration = Duration::ZERO;

impl State {
    fn attribute(&self, inode: u64) -> Option<(u64, &'static str)> {
        let index = usize::try_from(inode % STRIDE).ok()?.checked_sub(1)?;
        let request = inode - inode % STRIDE;
        self.requests.contains_key(&request).then_some(())?;
        Some((request, *ATTRIBUTES.get(index)?))
    }

    /// `auxblob` and the levels are there for the hardware that has them.
    fn has(&self, attribute: &str) -> bool {
        let is_snp = self.hardware.provider == "sev_guest";
        is_snp || !matches!(attribute, "privlevel" | "privlevel_floor" | "auxblob")
    }

    fn read(
        &mut self,
        request: u64,
        attribute: &str,
        fault: Option<TsmFault>,
    ) -> Result<Vec<u8>, Errno> {
        let hardware = self.hardware.clone();
        let entry = self.requests.get_mut(&request).ok_or(Errno::ENOENT)?;
        match attribute {
            "provider" => Ok(format!("{}\n", hardware.provider).into_bytes()),
            "generation" => Ok(format!("{}\n", entry.generation).into_bytes()),
            "privlevel_floor" => Ok(format!("{}\n", hardware.privilege_floor).into_bytes()),
            "outblob" => entry.quote(&hardware, fault),
            "auxblob" => {
                entry.quote(&hardware, None)?;
                Ok(hardware.certificates.unwrap_or_default())
            }
            _ => Err(Errno::EACCES),
        }
    }

    fn write(&mut self, request: u64, attribute: &'static str, data: &[u8]) -> Result<(), Errno> {
        let floor = self.hardware.privilege_floor;
        let entry = self.requests.get_mut(&request).ok_or(Errno::ENOENT)?;
        match attribute {
            "inblob" => {
                let pending = entry.pending.get_or_insert_default();
                pending.extend(data);
                if pending.len() > LONGEST_INBLOB {
                    return Err(Errno::EFBIG);
                }
            }
            "privlevel" => {
                let text = str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
                let level: u32 = text.trim_end().parse().map_err(|_| Errno::EINVAL)?;
                if level > 3 || level < floor {
                    return Err(Errno::EINVAL);
                }
                entry.privilege = level;
                entry.generation += 1;
                self.written.push((attribute, data.to_vec()));
            }
            _ => return Err(Errno::EACCES),
        }
        Ok(())
    }

    fn close(&mut self, request: u64) {
        let Some(entry) = self.requests.get_mut(&request) else {
            return;
        };
        let Some(pending) = entry.pending.take() else {
            return;
        };
        if self.faults.front() == Some(&TsmFault::WriteDropped) {
            self.faults.pop_front();
            return;
        }
        entry.inblob.clone_from(&pending);
        entry.generation += 1;
        self.written.push(("inblob", pending));
    }
}

impl Entry {
    fn quote(&mut self, hardware: &Hardware, fault: Option<TsmFault>) -> Result<Vec<u8>, Errno> {
        if let Some((generation, quote)) = &self.outblob
            && *generation == self.generation
        {
            return Ok(quote.clone());
        }
        if self.inblob.len() != LONGEST_INBLOB || self.privilege < hardware.privilege_floor {
            return Err(Errno::EINVAL);
        }
        let quote = match fault {
            Some(TsmFault::Busy) => return Err(Errno::EBUSY),
            Some(TsmFault::TimedOut) => return Err(Errno::ETIMEDOUT),
            Some(TsmFault::Interrupted) => return Err(Errno::EINTR),
            Some(TsmFault::Broken) => return Err(Errno::EIO),
            Some(TsmFault::Empty) => Vec::new(),
            Some(TsmFault::ForeignWrite) => {
                self.generation += 1;
                (hardware.quote)(&[0; LONGEST_INBLOB])
            }
            _ => (hardware.quote)(&self.inblob),
        };
        self.outblob = Some((self.generation, quote.clone()));
        Ok(quote)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no request panicked")
}

/// The file system itself.
struct Files(Arc<Mutex<State>>);

impl Files {
    fn node(&self, inode: u64) -> Option<FileAttr> {
        let state = lock(&self.0);
        let is_folder = inode == INodeNo::ROOT.0 || state.requests.contains_key(&inode);
        if !is_folder {
            state.attribute(inode)?;
        }
        Some(FileAttr {
            ino: INodeNo(inode),
            size: 0,
            blocks: 0,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: if is_folder {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if is_folder { 0o755 } else { 0o644 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn child(&self, parent: u64, name: &OsStr) -> Option<u64> {
        let state = lock(&self.0);
        let name = name.to_str()?;
        if parent == INodeNo::ROOT.0 {
            let mut requests = state.requests.iter();
            return requests
                .find(|(_, entry)| entry.name == name)
                .map(|(inode, _)| *inode);
        }
        let index = ATTRIBUTES.iter().position(|known| *known == name)?;
        let is_there = state.requests.contains_key(&parent) && state.has(name);
        is_there.then(|| parent + 1 + u64::try_from(index).unwrap_or_default())
    }

    /// The fault of this reading, if it is one that makes a quote; waits without the lock.
    fn fault(&self, attribute: &str) -> Option<TsmFault> {
        if attribute != "outblob" {
            return None;
        }
        let fault = {
            let mut state = lock(&self.0);
            state.made += 1;
            state.faults.pop_front()
        };
        if let Some(TsmFault::Slow(delay)) = fault {
            std::thread::sleep(delay);
        }
        fault
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self
            .child(parent.0, name)
            .and_then(|inode| self.node(inode));
        match found {
            Some(node) => reply.entry(&NEVER, &node, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(inode.0) {
            Some(node) => reply.attr(&NEVER, &node),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        if parent != INodeNo::ROOT {
            return reply.error(Errno::EPERM);
        }
        if self.child(parent.0, name).is_some() {
            return reply.error(Errno::EEXIST);
        }
        let inode = {
            let mut state = lock(&self.0);
            let last = state.requests.last_key_value().map_or(0, |(last, _)| *last);
            let entry = Entry {
                name: name.to_string_lossy().into_owned(),
                ..Entry::default()
            };
            state.requests.insert(last + STRIDE, entry);
            last + STRIDE
        };
        match self.node(inode) {
            Some(node) => reply.entry(&NEVER, &node, Generation(0)),
            None => reply.error(Errno::EIO),
        }
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let found = self.child(parent.0, name);
        match found.and_then(|inode| lock(&self.0).requests.remove(&inode)) {
            Some(_) => reply.ok(),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn unlink(&self, _: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn open(&self, _: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Sizes are not known before the content is.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some((request, attribute)) = lock(&self.0).attribute(inode.0) else {
            return reply.error(Errno::ENOENT);
        };
        let fault = if offset == 0 {
            self.fault(attribute)
        } else {
            None
        };
        match lock(&self.0).read(request, attribute, fault) {
            Ok(content) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = content.get(start.min(content.len())..).unwrap_or_default();
                let length = rest.len().min(usize::try_from(size).unwrap_or(usize::MAX));
                reply.data(rest.get(..length).unwrap_or_default());
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        _offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some((request, attribute)) = lock(&self.0).attribute(inode.0) else {
            return reply.error(Errno::ENOENT);
        };
        let written = lock(&self.0).write(request, attribute, data);
        match written {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, inode: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let mut state = lock(&self.0);
        if let Some((request, "inblob")) = state.attribute(inode.0) {
            state.close(request);
        }
        reply.ok();
    }
}
