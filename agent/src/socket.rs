//! The unix socket that kata-agent dials.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// A bound socket file; removed when dropped, if it is still ours.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

/// Why the socket cannot be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Another process answers on it.
    #[error("{path}: another daemon already serves this socket")]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something that is no socket has its name.
    #[error("{path}: exists and is not a socket")]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{path}")]
    Io {
        /// The path that the system refused.
        path: PathBuf,
        /// The system's account.
        source: io::Error,
    },
}

/// Binds `path` with mode 0600. A stale socket is replaced, a missing parent directory created.
pub(crate) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    let failed = |at: &Path| {
        let path = at.to_owned();
        move |source| SocketError::Io { path, source }
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed(parent))?;
    }
    refuse_unless_stale(path)?;
    // Bound under another name, made private, then renamed: nobody can dial it too early, and
    // whoever waits for the path to appear finds it complete.
    // The other name is no longer than usual ones: the kernel takes 107 bytes of path.
    let aside = path.with_file_name(format!(".{:x}", std::process::id()));
    remove_if_present(&aside).map_err(failed(&aside))?;
    let listener = UnixListener::bind(&aside).map_err(failed(&aside))?;
    let published = std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&aside, path))
        .and_then(|()| std::fs::symlink_metadata(path));
    match published {
        Ok(metadata) => Ok((
            listener,
            SocketFile {
                path: path.to_owned(),
                inode: metadata.ino(),
            },
        )),
        Err(source) => {
            // The first error is the one to tell.
            let _ = remove_if_present(&aside);
            Err(SocketError::Io {
                path: path.to_owned(),
                source,
            })
        }
    }
}

fn refuse_unless_stale(path: &Path) -> Result<(), SocketError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(SocketError::Io {
            path: path.to_owned(),
            source,
        }),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(SocketError::NotASocket {
            path: path.to_owned(),
        }),
        Ok(_) if UnixStream::connect(path).is_ok() => Err(SocketError::InUse {
            path: path.to_owned(),
        }),
        Ok(_) => Ok(()),
    }
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| metadata.ino() == self.inode);
        if ours && let Err(error) = remove_if_present(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "socket file stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn binds_privately_creates_the_parent_and_removes_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/cc/cdh.sock");
        let (_listener, file) = bind(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        let names = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "the name it was bound under is gone");
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn replaces_a_stale_socket_but_neither_a_live_one_nor_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let stale = folder.path().join("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        let (_listener, _file) = bind(&stale).unwrap();
        assert!(matches!(bind(&stale), Err(SocketError::InUse { .. })));

        let file = folder.path().join("file");
        std::fs::write(&file, b"precious").unwrap();
        assert!(matches!(bind(&file), Err(SocketError::NotASocket { .. })));
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn leaves_a_successor_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cdh.sock");
        let (listener, file) = bind(&path).unwrap();
        drop(listener);
        let (_successor, _its_file) = bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }
}
