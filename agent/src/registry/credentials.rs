//! `auth.json` / `config.json`: passwords by registry and namespace.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use zeroize::Zeroizing;

/// A user name and password for one registry namespace. It never prints.
pub(crate) struct BasicCredentials {
    header: HeaderValue,
}

impl std::fmt::Debug for BasicCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BasicCredentials(masked)")
    }
}

impl BasicCredentials {
    /// The `Authorization` header, marked as sensitive.
    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    fn new(user: &str, password: &str) -> Option<Self> {
        let pair = Zeroizing::new(format!("{user}:{password}"));
        let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let mut header = HeaderValue::try_from(value.as_str()).ok()?;
        header.set_sensitive(true);
        Some(Self { header })
    }
}

/// An `auth.json` that is not one. Its text is a secret, so no part of it is in the error.
#[derive(Debug, thiserror::Error)]
#[error("the registry credentials are not an auth.json: line {line}, column {column}")]
pub struct CredentialsError {
    /// Line of the fault, from 1.
    pub line: usize,
    /// Column of the fault, from 1.
    pub column: usize,
}

/// The credentials in an `auth.json` for a repository, the longest matching key first:
/// `host/a/b`, `host/a`, `host`.
///
/// One entry that cannot be used does not spoil the rest; a missing one means anonymous.
pub(crate) fn credentials_for(
    auth_json: &[u8],
    host: &str,
    repository: &str,
) -> Result<Option<BasicCredentials>, CredentialsError> {
    let file: AuthFile = serde_json::from_slice(auth_json).map_err(|error| CredentialsError {
        line: error.line(),
        column: error.column(),
    })?;
    let full = format!("{host}/{repository}");
    let mut key = full.as_str();
    loop {
        if let Some(found) = file.auths.get(key).and_then(usable) {
            return Ok(Some(found));
        }
        match key.rsplit_once('/') {
            Some((parent, _)) => key = parent,
            None => break,
        }
    }
    if host == "docker.io" {
        let aliases = [
            "https://index.docker.io/v1/",
            "index.docker.io",
            "registry-1.docker.io",
        ];
        return Ok(aliases
            .iter()
            .find_map(|key| file.auths.get(*key).and_then(usable)));
    }
    Ok(None)
}

/// The entry's user and password, with the trailing newline trimmed that
/// `echo user:password | base64` leaves behind.
fn usable(entry: &serde_json::Value) -> Option<BasicCredentials> {
    let encoded = entry.get("auth")?.as_str()?;
    let decoded = Zeroizing::new(STANDARD.decode(encoded.trim()).ok()?);
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    BasicCredentials::new(user, password.trim_end_matches(['\n', '\r', '\0']))
}

#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(auth_json: &str, host: &str, repository: &str) -> Option<String> {
        credentials_for(auth_json.as_bytes(), host, repository)
            .unwrap()
            .map(|found| found.header().to_str().unwrap().to_owned())
    }

    #[test]
    fn longest_key_wins_and_a_bad_entry_spoils_nothing() {
        let file = r#"{"auths":{
            "quay.io": {},
            "r.example": {"auth":"YTpi"},
            "r.example/team": {"auth":"YzpkCg=="},
            "r.example/team/x": {"auth":"%%%"},
            "https://index.docker.io/v1/": {"auth":"aDpi"}
        }}"#;
        assert_eq!(
            header(file, "r.example", "app").as_deref(),
            Some("Basic YTpi")
        );
        assert_eq!(
            header(file, "r.example", "team/app").as_deref(),
            Some("Basic Yzpk")
        );
        assert_eq!(
            header(file, "r.example", "team/x/app").as_deref(),
            Some("Basic Yzpk")
        );
        assert_eq!(
            header(file, "r.example", "teams/app").as_deref(),
            Some("Basic YTpi")
        );
        assert_eq!(
            header(file, "docker.io", "library/app").as_deref(),
            Some("Basic aDpi")
        );
        assert_eq!(header(file, "quay.io", "app"), None);
        assert_eq!(header(file, "other.example", "app"), None);
    }

    #[test]
    fn malformed_file_is_an_error_without_its_text() {
        let error = credentials_for(b"{\"auths\": s3cret", "r.example", "app").unwrap_err();
        assert_eq!((error.line, error.column), (1, 11));
        assert!(!error.to_string().contains("s3cret"));
    }
}
