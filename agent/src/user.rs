//! The user of an image, resolved as the container engines do: names and groups come from
//! `etc/passwd` and `etc/group` of the verified root file system, opened by handle.
//!
//! OCI image-spec, config.md ("User"): `user`, `uid`, `user:group`, `uid:gid`, `uid:group` and
//! `user:gid`. The archive decides what these files are, so they are opened with the root file
//! system as the root of every link, only when they are regular, and read up to a cap.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;

use crate::handle::descriptor_path;

/// Who the process of a container runs as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct User {
    /// The user id.
    pub(crate) uid: u32,
    /// The primary group id.
    pub(crate) gid: u32,
    /// The supplementary groups, in the order of `etc/group`, without the primary one.
    pub(crate) additional_gids: Vec<u32>,
}

/// Why the `User` of an image names nobody.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// The image's fault: more than one colon, or a NUL.
    #[error("user {user:?} is not of the form user[:group]")]
    Malformed {
        /// The `User` of the image config.
        user: String,
    },

    /// The image's fault: its `etc/passwd` has no such name.
    #[error("user {name:?} is not in /etc/passwd of the image")]
    UnknownUser {
        /// The name.
        name: String,
    },

    /// The image's fault: its `etc/group` has no such name.
    #[error("group {name:?} is not in /etc/group of the image")]
    UnknownGroup {
        /// The name.
        name: String,
    },

    /// The image's fault: an id that the kernel or a runtime would wrap around, at worst to root.
    #[error("{id} is no user or group id: at most {MAX_ID} is allowed")]
    OutOfRange {
        /// The number as the image has it.
        id: String,
    },

    /// The image's fault: the line that names the user or group has no usable ids.
    #[error("/{file} of the image has a malformed line for {name:?}")]
    MalformedLine {
        /// `etc/passwd` or `etc/group`.
        file: &'static str,
        /// The name or number looked for.
        name: String,
    },

    /// The image's fault: a device, a fifo or a directory stands in the place of the file.
    #[error("/{file} of the image is not a regular file")]
    NotRegular {
        /// `etc/passwd` or `etc/group`.
        file: &'static str,
    },

    /// The image's fault: more than anybody's user database.
    #[error("/{file} of the image is longer than {MAX_DATABASE} bytes")]
    TooLarge {
        /// `etc/passwd` or `etc/group`.
        file: &'static str,
    },

    /// The file is there but cannot be read.
    #[error("/{file} of the image cannot be read")]
    Unreadable {
        /// `etc/passwd` or `etc/group`.
        file: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

/// Resolves `user`, the `User` of an image config, in the tree below `rootfs`.
///
/// # Errors
/// [`UserError`]: whoever is named must exist, except that a number needs no entry.
pub(crate) fn resolve(user: &str, rootfs: BorrowedFd<'_>) -> Result<User, UserError> {
    let wanted = Wanted::parse(user)?;
    let passwd = read_database(rootfs, PASSWD)?;
    let group = read_database(rootfs, GROUP)?;
    wanted.look_up(&passwd, &group)
}

/// A `User` taken apart. An empty part is an absent one.
struct Wanted<'a> {
    user: &'a str,
    group: &'a str,
}

impl<'a> Wanted<'a> {
    fn parse(text: &'a str) -> Result<Self, UserError> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        if group.contains(':') || text.contains(['\0', '\n']) {
            return Err(UserError::Malformed {
                user: text.to_owned(),
            });
        }
        Ok(Self { user, group })
    }

    fn look_up(&self, passwd: &[u8], group: &[u8]) -> Result<User, UserError> {
        let account = self.account(passwd)?;
        if !self.group.is_empty() {
            let gid = explicit_group(self.group, group)?;
            return Ok(User {
                uid: account.uid,
                gid,
                additional_gids: Vec::new(),
            });
        }
        // Supplementary groups come with the name of the account, never beside an explicit group.
        let mut additional_gids = Vec::new();
        if let Some(name) = account.name {
            for line in lines::<4>(group).filter(|line| is_member(line, name)) {
                let gid = id_field(line[2], GROUP, line[0])?;
                if gid != account.gid && !additional_gids.contains(&gid) {
                    additional_gids.push(gid);
                }
            }
        }
        Ok(User {
            uid: account.uid,
            gid: account.gid,
            additional_gids,
        })
    }

    /// The entry of the user. All digits are an id even when an account has that name; an absent
    /// user is root, whose groups count too.
    fn account<'p>(&self, passwd: &'p [u8]) -> Result<Account<'p>, UserError> {
        let id = if self.user.is_empty() {
            Some(0)
        } else {
            number(self.user)?
        };
        let line = lines::<7>(passwd).find(|line| match id {
            Some(id) => parse_id(line[2]) == Some(id),
            None => line[0] == self.user.as_bytes(),
        });
        match (line, id) {
            (Some(line), _) => Ok(Account {
                name: Some(line[0]),
                uid: id_field(line[2], PASSWD, line[0])?,
                gid: id_field(line[3], PASSWD, line[0])?,
            }),
            (None, Some(uid)) => Ok(Account {
                name: None,
                uid,
                gid: 0,
            }),
            (None, None) => Err(UserError::UnknownUser {
                name: self.user.to_owned(),
            }),
        }
    }
}

struct Account<'p> {
    name: Option<&'p [u8]>,
    uid: u32,
    gid: u32,
}

fn explicit_group(wanted: &str, group: &[u8]) -> Result<u32, UserError> {
    if let Some(gid) = number(wanted)? {
        return Ok(gid);
    }
    let line = lines::<4>(group)
        .find(|line| line[0] == wanted.as_bytes())
        .ok_or_else(|| UserError::UnknownGroup {
            name: wanted.to_owned(),
        })?;
    id_field(line[2], GROUP, line[0])
}

fn is_member(line: &[&[u8]; 4], name: &[u8]) -> bool {
    line[3]
        .split(|byte| *byte == b',')
        .any(|member| member.trim_ascii() == name)
}

/// The entries of a database: lines of at least `N` fields, the last field with the rest of the
/// line. Comments, blank lines and NIS markers are no entries.
fn lines<const N: usize>(database: &[u8]) -> impl Iterator<Item = [&[u8]; N]> {
    database.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.trim_ascii().splitn(N, |byte| *byte == b':');
        let mut entry: [&[u8]; N] = [&[]; N];
        for slot in &mut entry {
            *slot = fields.next()?;
        }
        let is_entry = !matches!(entry.first()?.first()?, b'#' | b'+' | b'-');
        is_entry.then_some(entry)
    })
}

/// `Some` when `text` is a number, which then must be a legal id.
fn number(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match parse_id(text.as_bytes()) {
        Some(id) => Ok(Some(id)),
        None => Err(UserError::OutOfRange {
            id: text.to_owned(),
        }),
    }
}

/// The id field of the entry of `name`.
fn id_field(field: &[u8], file: &'static str, name: &[u8]) -> Result<u32, UserError> {
    let text = std::str::from_utf8(field).unwrap_or_default();
    let malformed = || UserError::MalformedLine {
        file,
        name: String::from_utf8_lossy(name).into_owned(),
    };
    number(text)?.ok_or_else(malformed)
}

/// Digits only, at most [`MAX_ID`]: beyond it, runtimes that keep ids in 32 signed bits wrap
/// around, which made an image run as root (CVE-2024-40635).
fn parse_id(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let id = std::str::from_utf8(digits).ok()?.parse::<u32>().ok()?;
    (id <= MAX_ID).then_some(id)
}

/// The content of a database, empty when the image has none.
fn read_database(rootfs: BorrowedFd<'_>, file: &'static str) -> Result<Vec<u8>, UserError> {
    let unreadable = |source: Errno| UserError::Unreadable {
        file,
        source: source.into(),
    };
    // O_PATH first: opening a device node for reading can act on the device, a fifo can block.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let found = match openat2(rootfs, file, flags, Mode::empty(), inside) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let stat = fstat(&found).map_err(unreadable)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(UserError::NotRegular { file });
    }
    let readable = open(
        descriptor_path(found.as_fd()),
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(unreadable)?;
    let mut content = Vec::new();
    std::fs::File::from(readable)
        .take(MAX_DATABASE + 1)
        .read_to_end(&mut content)
        .map_err(|source| UserError::Unreadable { file, source })?;
    if u64::try_from(content.len()).is_ok_and(|length| length > MAX_DATABASE) {
        return Err(UserError::TooLarge { file });
    }
    Ok(content)
}

const PASSWD: &str = "etc/passwd";
const GROUP: &str = "etc/group";

/// The largest id that is accepted, that of a signed 32-bit integer.
const MAX_ID: u32 = 0x7fff_ffff;

/// The most bytes read of either database.
const MAX_DATABASE: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use rustix::fs::{CWD, makedev, mknodat};

    use super::*;

    const PASSWD_TEXT: &[u8] = b"# comment\n\nroot:x:0:0:root:/root:/bin/sh\n+::::::\nshort:x:3\n\
        app:x:1000:1001:App,,,:/home/app:/bin/sh\nother:x:1000:7::/:\n1000x:x:5:6::/:\n\
        12:x:77:78::/:\nhuge:x:4294967296:0::/:\nnegative:x:-1:0::/:\nbadgroup:x:8:x::/:\n";
    const GROUP_TEXT: &[u8] = b"root:x:0:root\nwheel:x:10:root, app\nwww:x:33:app,other\n\
        app:x:1001:app\nlist:x:38:\nwww2:x:33:app\nhuge:x:4294967295:someone\n";

    fn user(uid: u32, gid: u32, additional_gids: &[u32]) -> User {
        User {
            uid,
            gid,
            additional_gids: additional_gids.to_vec(),
        }
    }

    #[test]
    fn resolves_as_engines_do() {
        let rows: &[(&str, User)] = &[
            ("", user(0, 0, &[10])),
            ("root", user(0, 0, &[10])),
            ("0", user(0, 0, &[10])),
            ("app", user(1000, 1001, &[10, 33])),
            ("app:", user(1000, 1001, &[10, 33])),
            ("1000", user(1000, 1001, &[10, 33])),
            ("app:www", user(1000, 33, &[])),
            ("app:4", user(1000, 4, &[])),
            ("1000:www", user(1000, 33, &[])),
            ("2000:3000", user(2000, 3000, &[])),
            ("2000", user(2000, 0, &[])),
            (":www", user(0, 33, &[])),
            ("12", user(12, 0, &[])),
            ("2147483647:2147483647", user(MAX_ID, MAX_ID, &[])),
        ];
        for (text, expected) in rows {
            let found = Wanted::parse(text)
                .unwrap()
                .look_up(PASSWD_TEXT, GROUP_TEXT)
                .unwrap();
            assert_eq!(found, *expected, "{text}");
        }
    }

    #[test]
    fn numbers_need_no_database() {
        let found = Wanted::parse("7:8").unwrap().look_up(b"", b"").unwrap();
        assert_eq!(found, user(7, 8, &[]));
        let found = Wanted::parse("").unwrap().look_up(b"", b"").unwrap();
        assert_eq!(found, user(0, 0, &[]));
    }

    #[test]
    fn refuses_who_does_not_exist_and_ids_that_wrap() {
        let rows = [
            (
                "nobody-here",
                "user \"nobody-here\" is not in /etc/passwd of the image",
            ),
            ("-1", "user \"-1\" is not in /etc/passwd of the image"),
            ("+5", "user \"+5\" is not in /etc/passwd of the image"),
            (
                "app:none",
                "group \"none\" is not in /etc/group of the image",
            ),
            ("short", "user \"short\" is not in /etc/passwd of the image"),
            (
                "4294967296",
                "4294967296 is no user or group id: at most 2147483647 is allowed",
            ),
            (
                "4294967295:0",
                "4294967295 is no user or group id: at most 2147483647 is allowed",
            ),
            (
                "0:2147483648",
                "2147483648 is no user or group id: at most 2147483647 is allowed",
            ),
            (
                "99999999999999999999999",
                "99999999999999999999999 is no user or group id: at most 2147483647 is allowed",
            ),
            (
                "huge",
                "4294967296 is no user or group id: at most 2147483647 is allowed",
            ),
            (
                "app:huge",
                "4294967295 is no user or group id: at most 2147483647 is allowed",
            ),
            (
                "negative",
                "/etc/passwd of the image has a malformed line for \"negative\"",
            ),
            (
                "badgroup",
                "/etc/passwd of the image has a malformed line for \"badgroup\"",
            ),
            ("a:b:c", "user \"a:b:c\" is not of the form user[:group]"),
            ("a\0", "user \"a\\0\" is not of the form user[:group]"),
        ];
        for (text, expected) in rows {
            let error = Wanted::parse(text)
                .and_then(|wanted| wanted.look_up(PASSWD_TEXT, GROUP_TEXT))
                .unwrap_err();
            assert_eq!(error.to_string(), expected, "{text}");
        }
    }

    fn resolve_in(root: &Path, text: &str) -> Result<User, UserError> {
        let handle = open(
            root,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        resolve(text, handle.as_fd())
    }

    #[test]
    fn links_in_the_image_resolve_inside_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/etc")).unwrap();
        std::fs::write(root.path().join("usr/etc/passwd"), "app:x:5:6::/:\n").unwrap();
        symlink("/../../usr/etc", root.path().join("etc")).unwrap();
        assert_eq!(resolve_in(root.path(), "app").unwrap(), user(5, 6, &[]));

        // The host's own file must not answer through a link that leads out.
        std::fs::remove_file(root.path().join("usr/etc/passwd")).unwrap();
        symlink(
            "../../../../../../../../etc/passwd",
            root.path().join("usr/etc/passwd"),
        )
        .unwrap();
        let error = resolve_in(root.path(), "root").unwrap_err();
        assert!(
            matches!(error, UserError::Unreadable { file: PASSWD, ref source }
            if source.raw_os_error() == Some(Errno::LOOP.raw_os_error())),
            "{error:?}"
        );
    }

    #[test]
    fn neither_devices_nor_fifos_nor_endless_files_are_read() {
        let root = tempfile::tempdir().unwrap();
        let passwd = root.path().join("etc/passwd");
        std::fs::create_dir(root.path().join("etc")).unwrap();
        for (kind, device) in [
            (FileType::Fifo, 0),
            (FileType::CharacterDevice, makedev(1, 5)),
            (FileType::Socket, 0),
        ] {
            mknodat(CWD, &passwd, kind, Mode::RUSR, device).unwrap();
            let error = resolve_in(root.path(), "app").unwrap_err();
            assert!(
                matches!(error, UserError::NotRegular { file: PASSWD }),
                "{error:?}"
            );
            std::fs::remove_file(&passwd).unwrap();
        }
        std::fs::create_dir(&passwd).unwrap();
        let error = resolve_in(root.path(), "app").unwrap_err();
        assert!(
            matches!(error, UserError::NotRegular { file: PASSWD }),
            "{error:?}"
        );
        std::fs::remove_dir(&passwd).unwrap();

        std::fs::File::create(&passwd)
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        let error = resolve_in(root.path(), "app").unwrap_err();
        assert!(
            matches!(error, UserError::TooLarge { file: PASSWD }),
            "{error:?}"
        );
    }

    #[test]
    fn a_magic_link_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        symlink("/proc/self/root/etc", root.path().join("etc")).unwrap();
        assert_eq!(resolve_in(root.path(), "7").unwrap(), user(7, 0, &[]));
    }
}
