//! `[[credentials]]`: resources that other programs of the guest expect as files.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use kbs_client::Secret;
use rustix::fs::{Mode, OFlags, open};
use tracing::{info, warn};

use crate::config::{CREDENTIALS_FOLDER, Credential};
use crate::error::chain;
use crate::handle::replace_file;
use crate::resources::Resources;

/// Fetches every one and writes it with mode 0600. One that fails is logged and spoils no other:
/// the daemon serves pulls without them.
pub(crate) async fn fetch(resources: &Resources, credentials: &[Credential]) {
    for credential in credentials {
        let path = Path::new(CREDENTIALS_FOLDER).join(credential.path());
        match resources.fetch(credential.resource_uri()).await {
            Err(error) => {
                warn!(path = %path.display(), error = %chain(&error), "credential not fetched");
            }
            Ok(secret) => match write(path.clone(), secret).await {
                Ok(()) => info!(path = %path.display(), "credential written"),
                Err(error) => warn!(path = %path.display(), %error, "credential not written"),
            },
        }
    }
}

async fn write(path: PathBuf, secret: Secret) -> io::Result<()> {
    let writing = tokio::task::spawn_blocking(move || write_private(&path, secret.expose()));
    writing.await.map_err(io::Error::other)?
}

/// Writes the file whole, for its owner alone, in folders of the same kind.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let no_file = || io::Error::from(io::ErrorKind::IsADirectory);
    let folder = path.parent().ok_or_else(no_file)?;
    let name = path.file_name().ok_or_else(no_file)?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(folder, flags, Mode::empty())?;
    replace_file(folder.as_fd(), name, content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn file_is_private_whole_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kbs/a/secret");
        for content in ["first", "second"] {
            write_private(&path, content.as_bytes()).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content.as_bytes());
            assert_eq!(
                std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
                0o600
            );
        }
        let parent = std::fs::metadata(path.parent().unwrap()).unwrap();
        assert_eq!(parent.permissions().mode() & 0o7777, 0o700);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
    }
}
