//! Image references: the grammar, the docker.io normalisation, and the form that can be pulled.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::digest::{Digest, DigestError};

/// A reference that can be pulled: a normalised name with either a tag or a digest, never both.
///
/// This is the reference of the docker transport: a name without either gets the tag `latest`, and
/// a name with both is refused. What Kubernetes sends comes in through [`ImageRef::parse_edge`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageRef {
    reference: Reference,
    dropped_tag: Option<String>,
}

impl ImageRef {
    /// Reads a name as the outside world writes it: `name:tag@digest` means the digest.
    ///
    /// The tag of such a name decides nothing from here on, as with containerd and CRI-O; only
    /// [`ImageRef::as_asked`] still shows it.
    pub fn parse_edge(text: &str) -> Result<Self, ReferenceError> {
        let mut reference = Reference::parse(text)?;
        if reference.digest.is_none() {
            return Ok(Self::tagged(reference));
        }
        let dropped_tag = reference.tag.take();
        Ok(Self {
            reference,
            dropped_tag,
        })
    }

    /// The registry, `host[:port]`.
    pub fn registry(&self) -> &str {
        self.reference.registry()
    }

    /// The path within the registry, e.g. `library/busybox`.
    pub fn repository(&self) -> &str {
        self.reference.repository()
    }

    /// Registry and repository, e.g. `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        self.reference.name()
    }

    /// The tag, when this is a tag reference.
    pub fn tag(&self) -> Option<&str> {
        self.reference.tag()
    }

    /// The digest, when this is a digest reference.
    pub fn digest(&self) -> Option<&Digest> {
        self.reference.digest()
    }

    /// What was asked for, with the tag that [`ImageRef::parse_edge`] dropped: for the record only.
    pub fn as_asked(&self) -> String {
        match &self.dropped_tag {
            None => self.to_string(),
            Some(_) => Reference {
                tag: self.dropped_tag.clone(),
                ..self.reference.clone()
            }
            .to_string(),
        }
    }

    /// The same value as the reference that identities are compared with.
    pub fn as_reference(&self) -> &Reference {
        &self.reference
    }

    fn tagged(mut reference: Reference) -> Self {
        reference.tag.get_or_insert_with(|| DEFAULT_TAG.to_owned());
        Self {
            reference,
            dropped_tag: None,
        }
    }
}

impl FromStr for ImageRef {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let reference = Reference::parse(text)?;
        match (&reference.tag, &reference.digest) {
            (Some(_), Some(_)) => Err(ReferenceError::TagAndDigest),
            (None, Some(_)) => Ok(Self {
                reference,
                dropped_tag: None,
            }),
            (_, None) => Ok(Self::tagged(reference)),
        }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reference.fmt(f)
    }
}

/// A normalised name with whatever tag and digest were written: what signatures and policies name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a familiar or full name; `busybox` is `docker.io/library/busybox`.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::LooksLikeId);
        }
        let (registry, remainder) = split_registry(text);
        let remote_name = remainder.split(':').next().unwrap_or_default();
        if remote_name.chars().any(char::is_uppercase) {
            return Err(ReferenceError::Uppercase);
        }
        let library = registry == DEFAULT_REGISTRY && !remainder.contains('/');
        let prefix = if library { "library/" } else { "" };
        let full = format!("{registry}/{prefix}{remainder}");
        let parts = ReferenceParts::parse(&full)?;
        if parts.registry.is_empty() {
            return Err(ReferenceError::NoRegistry);
        }
        Ok(Self {
            registry: parts.registry.to_owned(),
            repository: parts.repository.to_owned(),
            tag: parts.tag.map(str::to_owned),
            digest: parts.digest,
        })
    }

    /// Reads a name that must already be in full: what it prints is what was read.
    pub fn parse_qualified(text: &str) -> Result<Self, ReferenceError> {
        let reference = Self::parse(text)?;
        let canonical = reference.to_string();
        if canonical == text {
            Ok(reference)
        } else {
            Err(ReferenceError::NotQualified { canonical })
        }
    }

    /// The registry, `host[:port]`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag, if one was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was written.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether neither a tag nor a digest was written.
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// Whether both name the same repository of the same registry, byte by byte.
    pub fn same_name(&self, other: &Self) -> bool {
        self.registry == other.registry && self.repository == other.repository
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// The parts of a reference by the bare grammar, without any docker.io defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceParts<'a> {
    /// The first component when it has the form of a host and something follows, else empty.
    pub registry: &'a str,
    /// The path.
    pub repository: &'a str,
    /// The tag.
    pub tag: Option<&'a str>,
    /// The digest.
    pub digest: Option<Digest>,
}

impl<'a> ReferenceParts<'a> {
    /// Splits `text` by the grammar `[host[:port]/]path[:tag][@digest]`.
    pub fn parse(text: &'a str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (named, digest_text) = match text.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (text, None),
        };
        let (name, tag) = split_tag(named);
        let well_formed = tag.is_none_or(is_tag) && digest_text.is_none_or(is_digest_shaped);
        let (registry, repository) = split_name(name)
            .filter(|_| well_formed)
            .ok_or_else(|| malformed(text))?;
        if name.len() > MAX_NAME {
            return Err(ReferenceError::TooLong { found: name.len() });
        }
        let digest = digest_text.map(str::parse).transpose()?;
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }
}

/// Why a text is not an image reference. Whoever asked for the image is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// Nothing was written.
    #[error("the reference is empty")]
    Empty,
    /// The text does not follow `[host[:port]/]path[:tag][@digest]`.
    #[error("the reference does not have the form [host[:port]/]path[:tag][@digest]")]
    Malformed,
    /// A repository name with capitals; hosts and tags may have them.
    #[error("a repository name is lower case")]
    Uppercase,
    /// The name is longer than registries allow.
    #[error("the name has {found} characters, at most {MAX_NAME} are allowed")]
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// The digest is not one.
    #[error("the digest in the reference is invalid")]
    Digest(#[from] DigestError),
    /// 64 hexadecimal digits are taken for an image identifier by other tools.
    #[error("64 hexadecimal digits are an image identifier, not a name")]
    LooksLikeId,
    /// The first component has a dot, yet cannot be a host.
    #[error("the first component is not a valid host name")]
    NoRegistry,
    /// The docker transport takes a tag or a digest, not both.
    #[error("a reference with both a tag and a digest is ambiguous here")]
    TagAndDigest,
    /// A full name was demanded.
    #[error("the name is not written in full, that would be {canonical:?}")]
    NotQualified {
        /// The full form of what was written.
        canonical: String,
    },
}

/// A first component is a host iff it has a dot or a port or is `localhost`.
fn split_registry(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (
            if first == LEGACY_REGISTRY {
                DEFAULT_REGISTRY
            } else {
                first
            },
            rest,
        ),
        _ => (DEFAULT_REGISTRY, text),
    }
}

/// A colon before the last slash belongs to the host's port.
fn split_tag(named: &str) -> (&str, Option<&str>) {
    match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (named, None),
    }
}

/// The grammar is greedy: a first component that can be a host is one, if a path follows.
fn split_name(name: &str) -> Option<(&str, &str)> {
    match name.split_once('/') {
        Some((host, path)) if is_host(host) && is_path(path) => Some((host, path)),
        _ => is_path(name).then_some(("", name)),
    }
}

pub(crate) fn is_host(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    host.split('.').all(is_host_label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

pub(crate) fn is_path(text: &str) -> bool {
    text.split('/').all(is_path_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends_are_words = component.bytes().next().is_some_and(is_word)
        && component.bytes().next_back().is_some_and(is_word);
    ends_are_words
        && component
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

/// The shape of any digest, so that an unknown algorithm is reported as such.
fn is_digest_shaped(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.split(['-', '_', '+', '.']).all(|word| {
            word.starts_with(|c: char| c.is_ascii_alphabetic())
                && word.bytes().all(|b| b.is_ascii_alphanumeric())
        }) && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

fn malformed(text: &str) -> ReferenceError {
    let lower = text.to_lowercase();
    if lower != text && ReferenceParts::parse(&lower).is_ok() {
        ReferenceError::Uppercase
    } else {
        ReferenceError::Malformed
    }
}

const DEFAULT_REGISTRY: &str = "docker.io";
const LEGACY_REGISTRY: &str = "index.docker.io";
const DEFAULT_TAG: &str = "latest";
/// The longest name, registry included, that the distribution grammar allows.
const MAX_NAME: usize = 255;
/// The longest tag (distribution-spec, "Pulling manifests").
const MAX_TAG: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn normalises_familiar_names() {
        let rows = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1"),
            ("ns/app", "docker.io/ns/app:latest"),
            (
                "index.docker.io/busybox",
                "docker.io/library/busybox:latest",
            ),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("quay.io/org/app", "quay.io/org/app:latest"),
            ("Example.com/app", "Example.com/app:latest"),
        ];
        for (text, full) in rows {
            let image: ImageRef = text.parse().unwrap();
            assert_eq!(image.to_string(), full);
            assert_eq!(image.to_string().parse(), Ok(image));
        }
    }

    #[test]
    fn the_edge_drops_the_tag_beside_a_digest_and_keeps_it_for_the_record() {
        let text = format!("quay.io/org/app:1.2@sha256:{HEX}");
        assert_eq!(text.parse::<ImageRef>(), Err(ReferenceError::TagAndDigest));
        let image = ImageRef::parse_edge(&text).unwrap();
        assert_eq!(image.to_string(), format!("quay.io/org/app@sha256:{HEX}"));
        assert_eq!(image.tag(), None);
        assert_eq!(image.as_asked(), text);
        assert_eq!(
            ImageRef::parse_edge("busybox").unwrap().tag(),
            Some("latest")
        );
    }

    #[test]
    fn refuses_what_is_no_reference() {
        let rows = [
            ("", ReferenceError::Empty),
            ("Busybox", ReferenceError::Uppercase),
            ("example.com/App", ReferenceError::Uppercase),
            (HEX, ReferenceError::LooksLikeId),
            ("exa_mple.com/x", ReferenceError::NoRegistry),
            ("a//b", ReferenceError::Malformed),
            ("../etc", ReferenceError::Malformed),
            ("example.com/a:b:c", ReferenceError::Malformed),
            (" busybox", ReferenceError::Malformed),
            ("busybox\n", ReferenceError::Malformed),
            ("busybox@sha256:abc", ReferenceError::Malformed),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse::<ImageRef>(), Err(expected), "{text:?}");
        }
        let long = format!("example.com/{}", "a".repeat(244));
        assert_eq!(
            long.parse::<ImageRef>(),
            Err(ReferenceError::TooLong { found: 256 })
        );
    }

    #[test]
    fn a_qualified_name_prints_as_it_was_written() {
        assert!(Reference::parse_qualified("docker.io/library/busybox:1").is_ok());
        assert_eq!(
            Reference::parse_qualified("busybox:1"),
            Err(ReferenceError::NotQualified {
                canonical: "docker.io/library/busybox:1".to_owned()
            })
        );
    }
}
