//! `offline_fs_kbc`: files that stand for a KBS, as guest builders use to try things.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::uri::ResourceUri;

/// Resources from JSON files: flat objects from `repository/type/tag` to content in base64
/// (standard, padded). Nothing vouches for them but the image of the guest.
pub struct OfflineFs {
    resources: HashMap<String, Zeroizing<Vec<u8>>>,
}

impl OfflineFs {
    /// The files that are read by default, when they exist.
    pub const DEFAULT_FILES: [&str; 2] = [
        "/etc/aa-offline_fs_kbc-keys.json",
        "/etc/aa-offline_fs_kbc-resources.json",
    ];

    /// Reads files in order; what a later one holds replaces what an earlier one does. A file that
    /// does not exist counts as empty.
    ///
    /// # Errors
    /// [`OfflineError`] names the first file that cannot be read or understood.
    pub fn open<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> Result<Self, OfflineError> {
        let mut resources = HashMap::new();
        for file in files {
            resources.extend(read_file(file.as_ref())?);
        }
        Ok(Self { resources })
    }

    /// The resource with this name. Query and host do not matter.
    ///
    /// # Errors
    /// [`OfflineError::NotFound`].
    pub fn resource(&self, uri: &ResourceUri) -> Result<Secret, OfflineError> {
        self.resources
            .get(uri.path())
            .filter(|_| uri.plugin() == "resource")
            .map(|content| Secret::new(content.clone()))
            .ok_or_else(|| OfflineError::NotFound {
                uri: uri.to_string(),
            })
    }
}

/// Names and contents are masked.
impl fmt::Debug for OfflineFs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OfflineFs")
            .field("resources", &self.resources.len())
            .finish_non_exhaustive()
    }
}

/// Why a file does not give resources. Whoever built the guest is at fault.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// The file exists and cannot be read.
    #[error("resources file {} cannot be read", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The file is longer than allowed.
    #[error("resources file {} is longer than {limit} bytes", file.display())]
    TooLarge {
        /// Which.
        file: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// The file is not a flat JSON object of strings.
    #[error("expected a flat JSON object of strings in resources file {}", file.display())]
    Json {
        /// Which.
        file: PathBuf,
        /// What the parser found, and where.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// A value is not standard, padded base64.
    #[error("expected standard base64 with padding for {name:?} in resources file {}", file.display())]
    Base64 {
        /// Which.
        file: PathBuf,
        /// Name of the resource.
        name: String,
        /// What is wrong with it.
        #[source]
        source: base64::DecodeError,
    },
    /// No file holds a resource with this name.
    #[error("no resource {uri} in the resources files")]
    NotFound {
        /// Name of the resource.
        uri: String,
    },
}

/// Against a file without end; resources are keys and policies.
const FILE_LIMIT: u64 = 64 * 1024 * 1024;

fn read_file(path: &Path) -> Result<HashMap<String, Zeroizing<Vec<u8>>>, OfflineError> {
    let file = || path.to_owned();
    let Some(text) = read_capped(path)? else {
        tracing::warn!(file = %path.display(), "resources file does not exist");
        return Ok(HashMap::new());
    };
    let encoded: HashMap<String, String> =
        serde_json::from_slice(&text).map_err(|source| OfflineError::Json {
            file: file(),
            source: Arc::new(source),
        })?;
    let decode = |(name, text): (String, String)| match STANDARD.decode(&*Zeroizing::new(text)) {
        Ok(content) => Ok((name, Zeroizing::new(content))),
        Err(source) => Err(OfflineError::Base64 {
            file: file(),
            name,
            source,
        }),
    };
    encoded.into_iter().map(decode).collect()
}

fn read_capped(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, OfflineError> {
    let failed = |source| OfflineError::Read {
        file: path.to_owned(),
        source: Arc::new(source),
    };
    // Looked at before it is opened: opening a fifo waits for its writer.
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(metadata) if !metadata.is_file() => {
            return Err(failed(io::Error::other("not a regular file")));
        }
        outcome => outcome.map_err(failed)?,
    };
    let file = File::open(path).map_err(failed)?;
    let mut text = Zeroizing::new(Vec::new());
    let read = file
        .take(FILE_LIMIT.saturating_add(1))
        .read_to_end(&mut text)
        .map_err(failed)?;
    if u64::try_from(read).is_ok_and(|read| read <= FILE_LIMIT) {
        return Ok(Some(text));
    }
    Err(OfflineError::TooLarge {
        file: path.to_owned(),
        limit: FILE_LIMIT,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NAME: &str = "default/security-policy/test";

    fn open(texts: &[&str]) -> Result<OfflineFs, OfflineError> {
        let directory = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (0..texts.len())
            .map(|index| directory.path().join(index.to_string()))
            .collect();
        for (file, text) in files.iter().zip(texts) {
            fs::write(file, text).unwrap();
        }
        OfflineFs::open(&files)
    }

    fn resource(files: &OfflineFs, uri: &str) -> Result<Vec<u8>, OfflineError> {
        let secret = files.resource(&uri.parse().unwrap())?;
        Ok(secret.expose().to_vec())
    }

    #[test]
    fn later_file_replaces_what_an_earlier_one_holds() {
        let first = format!(r#"{{"{NAME}":"Zmlyc3Q=","a/b/c":"YQ==","a/b/empty":""}}"#);
        let second = format!(r#"{{"{NAME}":"c2Vjb25k"}}"#);
        let files = open(&[&first, &second]).unwrap();
        assert_eq!(
            resource(&files, &format!("kbs:///{NAME}")).unwrap(),
            b"second"
        );
        assert_eq!(
            resource(&files, "kbs://any.host/a/b/c?query").unwrap(),
            b"a"
        );
        assert_eq!(resource(&files, "kbs:///a/b/empty").unwrap(), b"");
    }

    #[test]
    fn resource_in_no_file_is_an_error() {
        let files = open(&[r#"{"a/b/c":"YQ=="}"#]).unwrap();
        for name in ["kbs:///a/b/d", "kbs+plugin:///a/b/c"] {
            let error = resource(&files, name).unwrap_err();
            let OfflineError::NotFound { uri } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(uri, name);
        }
    }

    #[test]
    fn missing_file_counts_as_empty() {
        let files = OfflineFs::open(["/nonexistent/resources.json"]).unwrap();
        let error = resource(&files, "kbs:///a/b/c").unwrap_err();
        assert!(matches!(error, OfflineError::NotFound { .. }), "{error:?}");
    }

    #[test]
    fn malformed_file_is_an_error_that_names_it() {
        for text in ["", "[]", r#"{"a/b/c":1}"#, r#"{"a/b/c":{"d":"YQ=="}}"#, "{"] {
            let error = open(&["{}", text]).unwrap_err();
            let OfflineError::Json { file, .. } = &error else {
                panic!("{text}: {error:?}")
            };
            assert!(file.ends_with("1"), "{}", file.display());
        }
        for value in ["YQ", "YQ===", "Y Q==", "-_-_"] {
            let error = open(&[&format!(r#"{{"a/b/c":"{value}"}}"#)]).unwrap_err();
            let OfflineError::Base64 { name, .. } = &error else {
                panic!("{value}: {error:?}")
            };
            assert_eq!(name, "a/b/c");
        }
    }

    #[test]
    fn directory_in_place_of_a_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let error = OfflineFs::open([directory.path()]).unwrap_err();
        assert!(matches!(error, OfflineError::Read { .. }), "{error:?}");
    }
}
