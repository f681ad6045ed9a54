//! Names of resources.

use std::fmt;
use std::str::FromStr;

/// The name of a resource: `kbs:///repository/type/tag`, or `kbs+plugin:///path?query`.
///
/// Parsing is strict where others resolve or guess: `kbs:a/b/c`, empty segments, `.` and `..`
/// (spelled in any way), fragments and user names are errors. A host is accepted and ignored, as
/// the address of the KBS comes from configuration alone; two names that differ only in it are
/// equal.
///
/// ```
/// use kbs_client::ResourceUri;
///
/// let uri: ResourceUri = "kbs://some.host:8080/default/cosign-key/1".parse()?;
/// assert_eq!(uri.to_string(), "kbs:///default/cosign-key/1");
/// assert_eq!(uri.http_path(), "/kbs/v0/resource/default/cosign-key/1");
/// # Ok::<(), kbs_client::UriError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceUri {
    plugin: String,
    path: String,
    query: Option<String>,
}

impl ResourceUri {
    /// The plugin that serves it; `resource` for `kbs://`.
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// The segments joined by `/`, without a leading one: `repository/type/tag`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query, without its `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Where it is found beneath the address of the KBS, without the query.
    pub fn http_path(&self) -> String {
        format!("/kbs/v0/{}/{}", self.plugin, self.path)
    }
}

impl fmt::Display for ResourceUri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.plugin == RESOURCE {
            "kbs"
        } else {
            "kbs+"
        };
        let plugin = if self.plugin == RESOURCE {
            ""
        } else {
            self.plugin.as_str()
        };
        write!(formatter, "{scheme}{plugin}:///{}", self.path)?;
        match &self.query {
            Some(query) => write!(formatter, "?{query}"),
            None => Ok(()),
        }
    }
}

impl FromStr for ResourceUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let (scheme, rest) = text.split_once(':').ok_or(UriError::NoScheme)?;
        let plugin = plugin_of(scheme)?;
        let rest = rest.strip_prefix("//").ok_or(UriError::NoSlashes)?;
        if rest.contains('#') {
            return Err(UriError::Fragment);
        }
        let (address, query) = match rest.split_once('?') {
            Some((address, query)) => (address, Some(checked_query(query)?)),
            None => (rest, None),
        };
        let (host, path) = address.split_once('/').ok_or(UriError::NoPath)?;
        check_host(host)?;
        check_path(&plugin, path)?;
        Ok(Self {
            plugin,
            path: path.to_owned(),
            query,
        })
    }
}

/// Why a text is no name of a resource. The text is at fault: nothing was asked of any KBS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// There is no `:` in it.
    #[error("expected a name like kbs:///repository/type/tag, found no scheme")]
    NoScheme,
    /// The scheme is another one.
    #[error("expected the scheme kbs or kbs+<plugin>, found {found:?}")]
    Scheme {
        /// What stands before the first `:`.
        found: String,
    },
    /// `kbs:a/b/c` and `kbs:/a/b/c`, which other readers misread silently.
    #[error("expected :// after the scheme, as in kbs:///repository/type/tag")]
    NoSlashes,
    /// There is nothing after the host.
    #[error("expected a path, as in kbs:///repository/type/tag, found none")]
    NoPath,
    /// `kbs://user@host/..`.
    #[error("a user name has no meaning in the name of a resource")]
    UserInfo,
    /// The host, though ignored, is not one.
    #[error("character {character:?} is not allowed in a host")]
    Host {
        /// The first offending character.
        character: char,
    },
    /// `#` has no meaning here and would be dropped on the way.
    #[error("a fragment (#) has no meaning in the name of a resource")]
    Fragment,
    /// The `resource` plugin has exactly three segments; a forgotten slash makes the first a host.
    #[error(
        "expected three segments, as in kbs:///repository/type/tag, found {found} (what follows \
         the second slash is a host, which is ignored)"
    )]
    SegmentCount {
        /// How many there are.
        found: usize,
    },
    /// `kbs:///a//c` or a trailing slash.
    #[error("segment {position} is empty")]
    EmptySegment {
        /// Counted from 1.
        position: usize,
    },
    /// `.` or `..`, also as `%2e`.
    #[error("segment {position} is . or .. , which is not a name")]
    DotSegment {
        /// Counted from 1.
        position: usize,
    },
    /// The server refuses such names, without saying so.
    #[error("segment {position} begins with a dot; it must begin with a letter, a digit, _ or -")]
    LeadingDot {
        /// Counted from 1.
        position: usize,
    },
    /// A character that the path may not hold.
    #[error("character {character:?} is not allowed in segment {position}")]
    SegmentCharacter {
        /// The first offending character.
        character: char,
        /// Counted from 1.
        position: usize,
    },
    /// A `%` without two hexadecimal digits, or one that hides a slash.
    #[error("segment {position} holds an incomplete or forbidden percent sequence")]
    PercentSequence {
        /// Counted from 1.
        position: usize,
    },
    /// A character that the query may not hold.
    #[error("character {character:?} is not allowed in the query")]
    QueryCharacter {
        /// The first offending character.
        character: char,
    },
}

const RESOURCE: &str = "resource";

/// RFC 3986 section 3.1: schemes are compared without regard to case, and are letters, digits, `+`,
/// `-` and `.` only.
fn plugin_of(scheme: &str) -> Result<String, UriError> {
    let lower = scheme.to_ascii_lowercase();
    if lower == "kbs" {
        return Ok(RESOURCE.to_owned());
    }
    lower
        .strip_prefix("kbs+")
        .filter(|plugin| plugin.starts_with(|c: char| c.is_ascii_alphanumeric()))
        .filter(|plugin| {
            plugin
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
        })
        .map(str::to_owned)
        .ok_or_else(|| UriError::Scheme {
            found: scheme.to_owned(),
        })
}

fn check_host(host: &str) -> Result<(), UriError> {
    if host.contains('@') {
        return Err(UriError::UserInfo);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    match host.chars().find(|c| !allowed(*c)) {
        Some(character) => Err(UriError::Host { character }),
        None => Ok(()),
    }
}

fn check_path(plugin: &str, path: &str) -> Result<(), UriError> {
    let segments: Vec<&str> = path.split('/').collect();
    for (index, segment) in segments.iter().enumerate() {
        let position = index.saturating_add(1);
        check_segment(segment, position)?;
        if plugin == RESOURCE {
            check_resource_segment(segment, position)?;
        }
    }
    if plugin == RESOURCE && segments.len() != 3 {
        return Err(UriError::SegmentCount {
            found: segments.len(),
        });
    }
    Ok(())
}

/// RFC 3986 section 3.3, `segment-nz`, less whatever a server on the way could resolve.
fn check_segment(segment: &str, position: usize) -> Result<(), UriError> {
    if segment.is_empty() {
        return Err(UriError::EmptySegment { position });
    }
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    if plain == "." || plain == ".." {
        return Err(UriError::DotSegment { position });
    }
    let allowed = |c: char| is_unreserved(c) || "!$&'()*+,;=:@%".contains(c);
    if let Some(character) = segment.chars().find(|c| !allowed(*c)) {
        return Err(UriError::SegmentCharacter {
            character,
            position,
        });
    }
    let hides_nothing = |sequence: &str| {
        let byte = sequence
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        byte.is_some_and(|byte| !matches!(byte, b'/' | b'\\' | b'%' | 0))
    };
    if !segment.split('%').skip(1).all(hides_nothing) {
        return Err(UriError::PercentSequence { position });
    }
    Ok(())
}

/// The rule of the server for its own resources: `[A-Za-z0-9_-][A-Za-z0-9_.-]*`.
fn check_resource_segment(segment: &str, position: usize) -> Result<(), UriError> {
    if segment.starts_with('.') {
        return Err(UriError::LeadingDot { position });
    }
    match segment
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !"_.-".contains(*c))
    {
        Some(character) => Err(UriError::SegmentCharacter {
            character,
            position,
        }),
        None => Ok(()),
    }
}

/// RFC 3986 section 3.4.
fn checked_query(query: &str) -> Result<String, UriError> {
    let allowed = |c: char| is_unreserved(c) || "!$&'()*+,;=:@%/?".contains(c);
    match query.chars().find(|c| !allowed(*c)) {
        Some(character) => Err(UriError::QueryCharacter { character }),
        None => Ok(query.to_owned()),
    }
}

fn is_unreserved(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ResourceUri, UriError> {
        text.parse()
    }

    #[test]
    fn legal_names_are_normalised() {
        let rows = [
            ("kbs:///a/b/c", "kbs:///a/b/c", "/kbs/v0/resource/a/b/c"),
            ("KBS:///a/b/c", "kbs:///a/b/c", "/kbs/v0/resource/a/b/c"),
            ("kbs://host/a/b/c", "kbs:///a/b/c", "/kbs/v0/resource/a/b/c"),
            (
                "kbs://[fd00::1]:8080/a/b/c",
                "kbs:///a/b/c",
                "/kbs/v0/resource/a/b/c",
            ),
            (
                "kbs+resource:///a/b/c",
                "kbs:///a/b/c",
                "/kbs/v0/resource/a/b/c",
            ),
            (
                "kbs:///_a/-b/c.d.",
                "kbs:///_a/-b/c.d.",
                "/kbs/v0/resource/_a/-b/c.d.",
            ),
            (
                "kbs:///a/b/c?x=1",
                "kbs:///a/b/c?x=1",
                "/kbs/v0/resource/a/b/c",
            ),
            ("kbs+PKCS11:///k", "kbs+pkcs11:///k", "/kbs/v0/pkcs11/k"),
            (
                "kbs+nebula-ca:///c/x?ip=1",
                "kbs+nebula-ca:///c/x?ip=1",
                "/kbs/v0/nebula-ca/c/x",
            ),
            ("kbs+p:///a%20b", "kbs+p:///a%20b", "/kbs/v0/p/a%20b"),
        ];
        for (text, shown, path) in rows {
            let uri = parse(text).unwrap();
            assert_eq!(uri.to_string(), shown, "{text}");
            assert_eq!(uri.http_path(), path, "{text}");
            assert_eq!(parse(shown).unwrap(), uri, "{text}");
        }
    }

    #[test]
    fn sloppy_names_are_refused_with_their_fault() {
        let scheme = |found: &str| UriError::Scheme {
            found: found.to_owned(),
        };
        let character = |character, position| UriError::SegmentCharacter {
            character,
            position,
        };
        let rows = [
            ("", UriError::NoScheme),
            ("a/b/c", UriError::NoScheme),
            ("/a/b/c", UriError::NoScheme),
            ("http://h/a/b/c", scheme("http")),
            (" kbs:///a/b/c", scheme(" kbs")),
            ("kbs+:///a/b/c", scheme("kbs+")),
            ("kbs+../x:///a/b/c", scheme("kbs+../x")),
            ("kbs:a/b/c", UriError::NoSlashes),
            ("kbs:/a/b/c", UriError::NoSlashes),
            ("kbs://", UriError::NoPath),
            ("kbs://host", UriError::NoPath),
            ("kbs:///", UriError::EmptySegment { position: 1 }),
            ("kbs:////a/b/c", UriError::EmptySegment { position: 1 }),
            ("kbs:///a//c", UriError::EmptySegment { position: 2 }),
            ("kbs:///a/b/c/", UriError::EmptySegment { position: 4 }),
            ("kbs://a/b/c", UriError::SegmentCount { found: 2 }),
            ("kbs:///a/b/c/d", UriError::SegmentCount { found: 4 }),
            ("kbs:///a/../b/c/d", UriError::DotSegment { position: 2 }),
            ("kbs:///./b/c", UriError::DotSegment { position: 1 }),
            ("kbs:///a/%2e%2E/c", UriError::DotSegment { position: 2 }),
            ("kbs:///a/.%2e/c", UriError::DotSegment { position: 2 }),
            ("kbs:///a/.b/c", UriError::LeadingDot { position: 2 }),
            ("kbs:///a/b/c d", character(' ', 3)),
            ("kbs:///a/b/c\n", character('\n', 3)),
            ("kbs:///a/b\\x/c", character('\\', 2)),
            ("kbs:///a/ü/c", character('ü', 2)),
            ("kbs:///a/b%20x/c", character('%', 2)),
            ("kbs+p:///a%2fb", UriError::PercentSequence { position: 1 }),
            ("kbs+p:///a%2", UriError::PercentSequence { position: 1 }),
            ("kbs+p:///a%zz", UriError::PercentSequence { position: 1 }),
            ("kbs:///a/b/c#d", UriError::Fragment),
            ("kbs://user@host/a/b/c", UriError::UserInfo),
            ("kbs://user:pw@host/a/b/c", UriError::UserInfo),
            ("kbs://ho st/a/b/c", UriError::Host { character: ' ' }),
            (
                "kbs:///a/b/c?x y",
                UriError::QueryCharacter { character: ' ' },
            ),
        ];
        for (text, fault) in rows {
            assert_eq!(parse(text), Err(fault), "{text:?}");
        }
    }
}
