//! `auth.json`, or docker's `config.json`: who we are at which registry.
//!
//! Pure: bytes in, a login out. The bytes are a secret, so no part of them is in an error, and
//! nothing here prints one. What is read and what is not is as in containers-auth.json(5) and its
//! reference implementation, but that `username` and `password` are read, too, as docker does.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// Logins by registry and namespace.
#[derive(Debug, Clone, Default)]
pub struct AuthFile {
    logins: BTreeMap<String, Login>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
    unusable: Vec<String>,
}

/// A user name and a password, or a token that stands for both. It never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
    identity_token: Option<Zeroizing<String>>,
}

/// Which credentials a file has for a repository.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// These, under this key.
    Login {
        /// The key, which is no secret: `host[:port][/namespace]`.
        key: &'a str,
        /// Who we are there.
        login: &'a Login,
    },
    /// Those that a program knows, and nobody else: `docker-credential-<helper>`.
    Helper {
        /// The name of the program without its prefix.
        helper: &'a str,
    },
    /// None, but a program is named that may know some: `docker-credential-<helper>`.
    Store {
        /// The name of the program without its prefix.
        helper: &'a str,
    },
    /// None: we are anonymous there.
    Nothing,
}

/// A file that is no `auth.json`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthFileError {
    /// It is no JSON.
    #[error("the registry credentials are not an auth.json: line {line}, column {column}")]
    Syntax {
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault, from 1.
        column: usize,
    },
    /// It is JSON of another shape.
    #[error("the registry credentials are not an auth.json: expected {expected}")]
    Shape {
        /// What should be there.
        expected: &'static str,
    },
}

impl AuthFile {
    /// Parses a file. An entry that cannot be used does not spoil the rest.
    pub fn parse(text: &[u8]) -> Result<Self, AuthFileError> {
        let file: Value = serde_json::from_slice(text).map_err(|error| AuthFileError::Syntax {
            line: error.line(),
            column: error.column(),
        })?;
        let file = match file {
            Value::Null => Map::new(),
            Value::Object(file) => file,
            _ => {
                let expected = "an object";
                return Err(AuthFileError::Shape { expected });
            }
        };
        // Whoever has written it so means it, and would be anonymous without a word.
        let is_misspelled = |key: &String| key != "auths" && key.eq_ignore_ascii_case("auths");
        if file.keys().any(is_misspelled) {
            let expected = "auths in small letters";
            return Err(AuthFileError::Shape { expected });
        }
        let mut parsed = Self::default();
        for (host, helper) in members(&file, "credHelpers", "credHelpers to be an object")? {
            match helper.as_str() {
                Some(helper) => {
                    parsed.helpers.insert(host.clone(), helper.to_owned());
                }
                None => parsed.unusable.push(host.clone()),
            }
        }
        match file.get("credsStore") {
            None | Some(Value::Null) => {}
            Some(Value::String(helper)) if helper.is_empty() => {}
            Some(Value::String(helper)) => parsed.store = Some(helper.clone()),
            Some(_) => parsed.unusable.push("credsStore".to_owned()),
        }
        for (key, entry) in members(&file, "auths", "auths to be an object")? {
            parsed.add(key.clone(), entry);
        }
        if is_legacy(&file) {
            for (key, entry) in &file {
                // The keys of `~/.dockercfg` are hosts, whatever path they have.
                let host = without_scheme(key).split('/').next().unwrap_or_default();
                parsed.add(host.to_owned(), entry);
            }
        }
        Ok(parsed)
    }

    /// The credentials for `host/repository`: those of the longest key that is a parent of it,
    /// whole components each, else those for the host however it is spelled. A program for the host
    /// comes before all of them, and one for all hosts (`credsStore`) after them.
    pub fn find(&self, host: &str, repository: &str) -> Found<'_> {
        if let Some(helper) = self.helpers.get(host) {
            return Found::Helper { helper };
        }
        let full = match repository {
            "" => host.to_owned(),
            repository => format!("{host}/{repository}"),
        };
        let parents = std::iter::successors(Some(full.as_str()), |key| {
            key.rsplit_once('/').map(|(parent, _)| parent)
        });
        let exact = parents
            .into_iter()
            .find_map(|key| self.logins.get_key_value(key));
        let spelled = || {
            let host = normalised(host);
            let mut logins = self.logins.iter();
            logins.find(|(key, _)| normalised(host_of_key(key)) == host)
        };
        match (exact.or_else(spelled), &self.store) {
            (Some((key, login)), _) => Found::Login { key, login },
            (None, Some(helper)) => Found::Store { helper },
            (None, None) => Found::Nothing,
        }
    }

    /// The keys of the entries that cannot be used.
    pub fn unusable(&self) -> &[String] {
        &self.unusable
    }

    fn add(&mut self, key: String, entry: &Value) {
        match Login::of(entry) {
            Some(login) => {
                self.logins.insert(key, login);
            }
            None if says_something(entry) => self.unusable.push(key),
            None => {}
        }
    }
}

impl Login {
    /// A user and a password.
    pub fn new(user: &str, password: &str) -> Self {
        Self {
            user: Zeroizing::new(user.to_owned()),
            password: Zeroizing::new(password.to_owned()),
            identity_token: None,
        }
    }

    /// A token that a token server takes instead of a password.
    #[must_use]
    pub fn with_identity_token(mut self, token: &str) -> Self {
        self.identity_token = (!token.is_empty()).then(|| Zeroizing::new(token.to_owned()));
        self
    }

    /// The user.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// What a token server takes instead of the password.
    pub fn identity_token(&self) -> Option<&str> {
        self.identity_token.as_ref().map(|token| token.as_str())
    }

    fn of(entry: &Value) -> Option<Self> {
        let text = |key| entry.get(key).and_then(Value::as_str);
        if let Some(login) = text("auth").and_then(Self::of_auth) {
            // As in the reference implementation, the token alone is nothing.
            return Some(login.with_identity_token(text("identitytoken").unwrap_or_default()));
        }
        let user = text("username").filter(|user| !user.is_empty())?;
        Some(Self::new(user, text("password")?))
    }

    /// base64 of `user:password`, where what `echo user:password | base64` leaves at the end, and
    /// what docker pads with, is no part of the password.
    fn of_auth(encoded: &str) -> Option<Self> {
        let decoded = Zeroizing::new(STANDARD.decode(encoded.trim()).ok()?);
        let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        Some(Self::new(
            user,
            password.trim_end_matches(['\n', '\r', '\0']),
        ))
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(masked)")
    }
}

fn members<'a>(
    file: &'a Map<String, Value>,
    key: &str,
    expected: &'static str,
) -> Result<impl Iterator<Item = (&'a String, &'a Value)>, AuthFileError> {
    let members = match file.get(key) {
        None | Some(Value::Null) => None,
        Some(Value::Object(members)) => Some(members),
        Some(_) => return Err(AuthFileError::Shape { expected }),
    };
    Ok(members.into_iter().flatten())
}

/// Whether this is a `~/.dockercfg`, as Kubernetes keeps it in secrets of the older kind: entries
/// without anything around them.
fn is_legacy(file: &Map<String, Value>) -> bool {
    !file.contains_key("auths") && file.values().any(|entry| entry.get("auth").is_some())
}

/// Whether an entry was meant to be a login: docker leaves empty ones beside credential helpers.
fn says_something(entry: &Value) -> bool {
    let is_filled = |key| entry.get(key).is_some_and(|value| value != "");
    !entry.is_object() || ["auth", "username"].into_iter().any(is_filled)
}

/// The host that a key means: one with a scheme may have a path, another one is a host or none.
fn host_of_key(key: &str) -> &str {
    let bare = without_scheme(key);
    if bare.len() == key.len() {
        return key;
    }
    bare.split('/').next().unwrap_or_default()
}

fn without_scheme(key: &str) -> &str {
    let bare = key
        .strip_prefix("http://")
        .or_else(|| key.strip_prefix("https://"));
    bare.unwrap_or(key)
}

/// Docker Hub has several names.
fn normalised(host: &str) -> &str {
    match host {
        "docker.io" | "registry-1.docker.io" => "index.docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(file: &str, host: &str, repository: &str) -> Option<String> {
        let file = AuthFile::parse(file.as_bytes()).unwrap();
        match file.find(host, repository) {
            Found::Login { key, login } => {
                Some(format!("{key} {}:{}", login.user(), login.password()))
            }
            Found::Helper { helper } => Some(format!("helper {helper}")),
            Found::Store { helper } => Some(format!("store {helper}")),
            Found::Nothing => None,
        }
    }

    #[test]
    fn longest_key_wins_and_a_bad_entry_spoils_nothing() {
        let file = r#"{"auths":{
            "quay.io": {},
            "r.example": {"auth":"YTpi"},
            "r.example/team": {"auth":"YzpkCg=="},
            "r.example/team/x": {"auth":"%%%"},
            "s.example": {"username":"u","password":"p"},
            "odd.example": 7,
            "https://index.docker.io/v1/": {"auth":"aDpi"}
        }}"#;
        let rows = [
            ("r.example", "app", Some("r.example a:b")),
            ("r.example", "team/app", Some("r.example/team c:d")),
            ("r.example", "team/x/app", Some("r.example/team c:d")),
            ("r.example", "teams/app", Some("r.example a:b")),
            ("r.example:5000", "app", None),
            ("s.example", "app", Some("s.example u:p")),
            (
                "docker.io",
                "library/app",
                Some("https://index.docker.io/v1/ h:b"),
            ),
            ("quay.io", "app", None),
            ("odd.example", "app", None),
            ("other.example", "app", None),
        ];
        for (host, repository, expected) in rows {
            let found = login(file, host, repository);
            assert_eq!(found.as_deref(), expected, "{host}/{repository}");
        }
        let parsed = AuthFile::parse(file.as_bytes()).unwrap();
        assert_eq!(parsed.unusable(), ["odd.example", "r.example/team/x"]);
    }

    #[test]
    fn identity_token_goes_with_the_login_that_it_stands_beside() {
        let file = r#"{"auths":{
            "a.example":{"auth":"dTo=","identitytoken":"t0ken"},
            "b.example":{"identitytoken":"t0ken"}
        }}"#;
        let file = AuthFile::parse(file.as_bytes()).unwrap();
        let Found::Login { login, .. } = file.find("a.example", "app") else {
            panic!("{file:?}")
        };
        assert_eq!(login.identity_token(), Some("t0ken"));
        assert_eq!(file.find("b.example", "app"), Found::Nothing);
    }

    #[test]
    fn helper_of_a_host_is_the_only_source_for_it() {
        let file =
            r#"{"credHelpers":{"r.example":"ecr-login"},"auths":{"r.example/a":{"auth":"dTpw"}}}"#;
        assert_eq!(
            login(file, "r.example", "a").as_deref(),
            Some("helper ecr-login")
        );
    }

    #[test]
    fn store_is_asked_for_what_is_not_written_out() {
        let file = r#"{"credsStore":"pass","credHelpers":{"h.example":"gcr"},
            "auths":{"r.example":{"auth":"dTpw"},"s.example":{}}}"#;
        let rows = [
            ("h.example", "helper gcr"),
            ("r.example", "r.example u:p"),
            ("s.example", "store pass"),
            ("other.example", "store pass"),
        ];
        for (host, expected) in rows {
            assert_eq!(login(file, host, "a").as_deref(), Some(expected), "{host}");
        }
        assert_eq!(login(r#"{"credsStore":""}"#, "r.example", "a"), None);
    }

    #[test]
    fn secrets_of_the_older_kind_are_read() {
        let file = r#"{"https://r.example/v1/":{"auth":"dTpw"},"s.example":{"auth":"dTpw"}}"#;
        assert_eq!(
            login(file, "r.example", "a").as_deref(),
            Some("r.example u:p")
        );
        assert_eq!(
            login(file, "s.example", "a").as_deref(),
            Some("s.example u:p")
        );
    }

    #[test]
    fn malformed_file_is_an_error_without_its_text() {
        let error = AuthFile::parse(b"{\"auths\": s3cret").unwrap_err();
        assert_eq!(
            error,
            AuthFileError::Syntax {
                line: 1,
                column: 11
            }
        );
        assert!(!error.to_string().contains("s3cret"));
        let error = AuthFile::parse(b"{\"Auths\":{}}").unwrap_err();
        let expected = "auths in small letters";
        assert_eq!(error, AuthFileError::Shape { expected });
        let error = AuthFile::parse(b"{\"auths\":[]}").unwrap_err();
        let expected = "auths to be an object";
        assert_eq!(error, AuthFileError::Shape { expected });
    }

    #[test]
    fn login_never_prints() {
        let shown = format!(
            "{:?}",
            Login::new("us3r", "s3cret").with_identity_token("t0ken")
        );
        assert_eq!(shown, "Login(masked)");
    }
}
