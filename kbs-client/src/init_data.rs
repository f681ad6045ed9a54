//! What a guest was configured with from outside, and what the hardware says of it.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

/// Init-data of version 0.1.0: a TOML document whose digest was given to the hardware at launch, and
/// which came to the guest by another way.
///
/// The digest is that of the exact bytes, so these are kept and sent, and never written anew.
#[derive(Clone, PartialEq, Eq)]
pub struct InitData {
    document: String,
    digest: Option<Vec<u8>>,
}

impl InitData {
    /// Where a guest finds it.
    pub const DEFAULT_FILE: &str = "/run/confidential-containers/initdata/initdata.toml";

    /// Reads a document.
    ///
    /// # Errors
    /// [`InitDataError`], if it is not init-data of a version and algorithm that are known.
    pub fn parse(document: String) -> Result<Self, InitDataError> {
        #[derive(Deserialize)]
        struct Document {
            version: String,
            algorithm: String,
        }
        let read: Document = toml::from_str(&document).map_err(|error| InitDataError::Toml {
            line: line_of(&document, error.span().map(|span| span.start)),
            reason: error.message().to_owned(),
        })?;
        if read.version != VERSION {
            let found = read.version;
            return Err(InitDataError::Version { found });
        }
        let algorithm = match read.algorithm.as_str() {
            "sha256" => Some(&digest::SHA256),
            "sha384" => Some(&digest::SHA384),
            "sha512" => Some(&digest::SHA512),
            // Known to the protocol, not to our crypto library.
            "sm3" => None,
            _ => {
                let found = read.algorithm;
                return Err(InitDataError::Algorithm { found });
            }
        };
        let digest = algorithm.map(|algorithm| {
            digest::digest(algorithm, document.as_bytes())
                .as_ref()
                .to_vec()
        });
        Ok(Self { document, digest })
    }

    /// Reads a file; none if it does not exist.
    ///
    /// # Errors
    /// [`InitDataError`], if it exists and cannot be read, or is not init-data.
    pub fn read(file: &Path) -> Result<Option<Self>, InitDataError> {
        let failed = |source| InitDataError::Read {
            file: file.to_owned(),
            source: Arc::new(source),
        };
        let mut document = String::new();
        let opened = match std::fs::File::open(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            outcome => outcome.map_err(failed)?,
        };
        let read = opened
            .take(FILE_LIMIT.saturating_add(1))
            .read_to_string(&mut document)
            .map_err(failed)?;
        if u64::try_from(read).is_ok_and(|read| read > FILE_LIMIT) {
            return Err(failed(io::Error::other("longer than 1 MiB")));
        }
        Self::parse(document).map(Some)
    }

    /// Compares it with what `evidence` of `tee` says the guest was launched with: `MRCONFIGID` of
    /// TDX, `HOST_DATA` of SNP. Other hardware is left to the KBS.
    ///
    /// # Errors
    /// [`InitDataError::Mismatch`].
    pub(crate) fn check(&self, tee: &str, evidence: &Value) -> Result<(), InitDataError> {
        let launched = match tee {
            "tdx" => ("MRCONFIGID", mrconfigid(evidence)),
            "snp" => ("HOST_DATA", host_data(evidence)),
            _ => return Ok(()),
        };
        // Evidence in which it is not found is no business of ours, but of the verifier.
        let ((register, Some(found)), Some(digest)) = (launched, &self.digest) else {
            tracing::debug!(tee, "init-data is not checked here");
            return Ok(());
        };
        let mut expected = digest.clone();
        expected.resize(found.len(), 0);
        if expected == found {
            return Ok(());
        }
        Err(InitDataError::Mismatch {
            register,
            expected: hex(&expected),
            found: hex(&found),
        })
    }

    /// As the KBS takes it.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "format": "toml", "body": self.document })
    }
}

/// The document may hold what the guest's owner told it in confidence.
impl std::fmt::Debug for InitData {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("InitData").finish_non_exhaustive()
    }
}

/// Why init-data is not used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum InitDataError {
    /// The file exists and cannot be read.
    #[error("init-data in {}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// The system's account.
        #[source]
        source: Arc<io::Error>,
    },
    /// The document is not TOML with a version and an algorithm.
    #[error("init-data, line {line}: {reason}")]
    Toml {
        /// Counted from 1.
        line: usize,
        /// The parser's words.
        reason: String,
    },
    /// It is of another version.
    #[error("expected init-data of version {VERSION}, found {found:?}")]
    Version {
        /// As written.
        found: String,
    },
    /// Its digest is of a kind that the hardware is not given.
    #[error("expected sha256, sha384, sha512 or sm3 as algorithm of init-data, found {found:?}")]
    Algorithm {
        /// As written.
        found: String,
    },
    /// The guest was launched with another document. The host, which carries it, is at fault.
    #[error(
        "init-data is not what the guest was launched with: {register} is {found}, not {expected}"
    )]
    Mismatch {
        /// Where the hardware keeps the digest.
        register: &'static str,
        /// The document's digest, in the register's length.
        expected: String,
        /// The register.
        found: String,
    },
}

impl InitDataError {
    /// What is to be said of a file that must be there and is not.
    pub fn missing(file: &Path) -> Self {
        Self::Read {
            file: file.to_owned(),
            source: Arc::new(io::ErrorKind::NotFound.into()),
        }
    }
}

const VERSION: &str = "0.1.0";
const FILE_LIMIT: u64 = 1 << 20;

/// `HOST_DATA` of an SNP report in JSON.
fn host_data(evidence: &Value) -> Option<Vec<u8>> {
    let bytes = evidence
        .pointer("/attestation_report/host_data")?
        .as_array()?;
    let byte = |value: &Value| u8::try_from(value.as_u64()?).ok();
    bytes.iter().map(byte).collect()
}

/// `MRCONFIGID` of a TD quote of version 4, or of version 5, which tells the body's type and length
/// before it (Intel TDX DCAP Quoting Library API, appendix 3).
fn mrconfigid(evidence: &Value) -> Option<Vec<u8>> {
    let quote = STANDARD.decode(evidence.get("quote")?.as_str()?).ok()?;
    let (version, _) = quote.split_first_chunk()?;
    let body = match u16::from_le_bytes(*version) {
        4 => QUOTE_HEADER,
        5 => QUOTE_HEADER + 6,
        _ => return None,
    };
    let start = body + MRCONFIGID;
    quote.get(start..start + 48).map(<[u8]>::to_vec)
}

const QUOTE_HEADER: usize = 48;
/// Offset within the body of the quote.
const MRCONFIGID: usize = 16 + 48 + 48 + 8 + 8 + 8 + 48;

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

fn line_of(document: &str, position: Option<usize>) -> usize {
    let before = document.get(..position.unwrap_or_default());
    let lines = before.unwrap_or_default().matches('\n').count();
    lines.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(algorithm: &str) -> String {
        format!("version = \"0.1.0\"\nalgorithm = \"{algorithm}\"\n[data]\n\"a.toml\" = 'x'\n")
    }

    fn init_data(algorithm: &str) -> InitData {
        InitData::parse(document(algorithm)).unwrap()
    }

    /// A quote whose `MRCONFIGID` begins with `digest`.
    fn quote(version: u16, digest: &[u8]) -> Value {
        let start = 184 + if version == 4 { 48 } else { 54 };
        let mut quote = vec![9; start + 48];
        quote[..2].copy_from_slice(&version.to_le_bytes());
        quote[start..].fill(0);
        quote[start..start + digest.len()].copy_from_slice(digest);
        json!({ "quote": STANDARD.encode(quote) })
    }

    #[test]
    fn exact_bytes_are_sent() {
        let text = "# as written\n version=\"0.1.0\"\nalgorithm   = 'sha384'\r\n";
        let body = InitData::parse(text.to_owned()).unwrap().to_json();
        assert_eq!(body, json!({ "format": "toml", "body": text }));
    }

    #[test]
    fn document_that_is_none_is_refused_with_its_fault() {
        let parse = |text: &str| InitData::parse(text.to_owned()).unwrap_err().to_string();
        assert_eq!(
            parse("version = \"0.2.0\"\nalgorithm = \"sha384\""),
            "expected init-data of version 0.1.0, found \"0.2.0\""
        );
        assert_eq!(
            parse(&document("sha-384")),
            "expected sha256, sha384, sha512 or sm3 as algorithm of init-data, found \"sha-384\""
        );
        assert!(parse("version = \"0.1.0\"\n[data").starts_with("init-data, line 2: "));
        assert!(parse("version = \"0.1.0\"").contains("missing field `algorithm`"));
    }

    #[test]
    fn digest_is_compared_with_what_the_hardware_says() {
        let sha384 = |text: &str| digest::digest(&digest::SHA384, text.as_bytes());
        let digest = sha384(&document("sha384"));
        let other = sha384("other");
        let launched =
            |digest: &[u8]| json!({ "attestation_report": { "host_data": digest[..32] } });
        let data = init_data("sha384");
        for version in [4, 5] {
            data.check("tdx", &quote(version, digest.as_ref())).unwrap();
        }
        data.check("snp", &launched(digest.as_ref())).unwrap();
        data.check("sample", &json!({})).unwrap();
        data.check("tdx", &quote(3, other.as_ref())).unwrap();
        for (tee, evidence, expected) in [
            ("tdx", quote(4, other.as_ref()), "MRCONFIGID"),
            ("tdx", quote(5, &[]), "MRCONFIGID"),
            ("snp", launched(other.as_ref()), "HOST_DATA"),
        ] {
            let error = data.check(tee, &evidence).unwrap_err();
            let InitDataError::Mismatch { register, .. } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(*register, expected);
        }
    }

    #[test]
    fn shorter_digest_is_padded_and_one_unknown_to_us_is_left_to_the_kbs() {
        let sha256 = digest::digest(&digest::SHA256, document("sha256").as_bytes());
        init_data("sha256")
            .check("tdx", &quote(4, sha256.as_ref()))
            .unwrap();
        init_data("sm3").check("tdx", &quote(4, &[1])).unwrap();
    }

    #[test]
    fn file_that_is_not_there_is_no_init_data() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("initdata.toml");
        assert_eq!(InitData::read(&file).unwrap(), None);
        std::fs::write(&file, document("sha512")).unwrap();
        assert_eq!(InitData::read(&file).unwrap(), Some(init_data("sha512")));
        let error = InitData::read(folder.path()).unwrap_err();
        assert!(matches!(error, InitDataError::Read { .. }), "{error:?}");
    }
}
