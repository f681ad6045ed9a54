//! `registries.conf`, version 2: where an image really is, and how that place is reached.
//!
//! Pure: text in, places out. Policy and signatures are always about the name that was asked for;
//! what is rewritten here only decides where its bytes come from.

mod read;

use std::fmt;

use policy::{ImageRef, Reference, ReferenceError};

use crate::config::{ConfigError, Document, Warning};

/// What to know about registries. Without any entry, every one is reached by https.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    entries: Vec<Entry>,
}

/// A place that serves an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The host, with a port if one was written.
    pub host: String,
    /// The repository there.
    pub repository: String,
    /// How the host is reached.
    pub transport: Transport,
    /// Whether pulls from there, or of the name that was asked for, are forbidden.
    pub blocked: bool,
}

/// How a host is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// By TLS.
    Https,
    /// By plain http, as `insecure = true` says.
    PlainHttp,
}

/// A `location` that, with the rest of the image's name, is no name. The author of the
/// configuration is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the registry configuration for {prefix:?} makes {name:?} of {image:?}")]
pub struct RewriteError {
    /// The prefix of the entry that matched.
    pub prefix: String,
    /// The name that was asked for.
    pub image: String,
    /// What became of it.
    pub name: String,
    /// Why that is no name.
    pub source: ReferenceError,
}

impl Registries {
    /// Parses the text of a `registries.conf`.
    pub fn parse(text: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        let mut warnings = Vec::new();
        let registries = Self::read(Document::parse(text)?.root(), &mut warnings)?;
        Ok((registries, warnings))
    }

    /// The place that the name means when no mirror is used.
    pub fn lookup(&self, image: &ImageRef) -> Result<Endpoint, RewriteError> {
        match self.entry_for(&image.name()) {
            None => Ok(as_asked(image)),
            Some(entry) => self.primary(image, entry),
        }
    }

    /// Every place that may serve the image, in the order in which to try them: mirrors, then the
    /// place that the name means.
    pub fn endpoints(&self, image: &ImageRef) -> Result<Vec<Endpoint>, RewriteError> {
        let Some(entry) = self.entry_for(&image.name()) else {
            return Ok(vec![as_asked(image)]);
        };
        let by_digest = image.digest().is_some();
        let mirrors = entry
            .mirrors
            .iter()
            .filter(|mirror| mirror.pull.admits(by_digest));
        mirrors
            .map(|mirror| self.endpoint(image, entry, Some(&mirror.location), mirror.insecure))
            .chain([self.primary(image, entry)])
            .collect()
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry with the longest prefix. A wildcard wins over a host of the same length, as in
    /// the reference implementation, which sorts `*` before letters.
    fn entry_for(&self, name: &str) -> Option<&Entry> {
        let matching = self
            .entries
            .iter()
            .filter(|entry| entry.prefix.matched(name).is_some());
        matching.max_by_key(|entry| {
            (
                entry.prefix.to_string().len(),
                matches!(entry.prefix, Prefix::Subdomains(_)),
            )
        })
    }

    fn primary(&self, image: &ImageRef, entry: &Entry) -> Result<Endpoint, RewriteError> {
        self.endpoint(image, entry, entry.location.as_deref(), entry.insecure)
    }

    fn endpoint(
        &self,
        image: &ImageRef,
        entry: &Entry,
        location: Option<&str>,
        insecure: bool,
    ) -> Result<Endpoint, RewriteError> {
        let asked = as_asked(image);
        let (host, repository) = match location {
            None => (asked.host, asked.repository),
            Some(location) => {
                let physical = entry.rewrite(&image.name(), location)?;
                (
                    physical.registry().to_owned(),
                    physical.repository().to_owned(),
                )
            }
        };
        // A block means the name that was asked for as well as the place where it would lead.
        let physical = self.entry_for(&format!("{host}/{repository}"));
        let blocked = entry.blocked || physical.is_some_and(|entry| entry.blocked);
        let transport = if insecure {
            Transport::PlainHttp
        } else {
            Transport::Https
        };
        Ok(Endpoint {
            host,
            repository,
            transport,
            blocked,
        })
    }
}

/// A `[[registry]]`.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Which names it is about.
    pub(crate) prefix: Prefix,
    /// What stands in the place of the prefix; the prefix itself when absent.
    pub(crate) location: Option<String>,
    /// Whether plain http is spoken.
    pub(crate) insecure: bool,
    /// Whether pulls are forbidden.
    pub(crate) blocked: bool,
    /// Where to look before.
    pub(crate) mirrors: Vec<Mirror>,
}

impl Entry {
    fn rewrite(&self, name: &str, location: &str) -> Result<Reference, RewriteError> {
        let matched = self.prefix.matched(name).unwrap_or_default();
        let rest = name.get(matched..).unwrap_or_default();
        let rewritten = format!("{location}{rest}");
        Reference::parse_qualified(&rewritten).map_err(|source| RewriteError {
            prefix: self.prefix.to_string(),
            image: name.to_owned(),
            name: rewritten,
            source,
        })
    }
}

/// A `[[registry.mirror]]`.
#[derive(Debug, Clone)]
pub(crate) struct Mirror {
    /// What stands in the place of the prefix.
    pub(crate) location: String,
    /// Whether plain http is spoken.
    pub(crate) insecure: bool,
    /// Which references it serves.
    pub(crate) pull: PullFromMirror,
}

/// Which references a mirror serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PullFromMirror {
    /// Tags and digests.
    All,
    /// Digests.
    DigestOnly,
    /// Tags.
    TagOnly,
}

impl PullFromMirror {
    /// The word in the file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::DigestOnly => "digest-only",
            Self::TagOnly => "tag-only",
        }
    }

    fn admits(self, by_digest: bool) -> bool {
        match self {
            Self::All => true,
            Self::DigestOnly => by_digest,
            Self::TagOnly => !by_digest,
        }
    }
}

/// Which names an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// `host[:port][/path]` and what is beneath it.
    Namespace(String),
    /// `*.example.com`: `.example.com` and every host that ends so.
    Subdomains(String),
}

impl Prefix {
    /// How many bytes of `name` the prefix stands for, if it is about that name.
    ///
    /// What follows must be another component, or, as in the reference implementation, the port of
    /// the host.
    fn matched(&self, name: &str) -> Option<usize> {
        let length = match self {
            Self::Namespace(prefix) => name.starts_with(prefix.as_str()).then_some(prefix.len()),
            Self::Subdomains(suffix) => {
                let host = name.split(['/', ':', '@']).next().unwrap_or_default();
                let below = host.strip_suffix(suffix.as_str());
                below.filter(|below| !below.is_empty()).map(|_| host.len())
            }
        }?;
        let rest = name.get(length..)?;
        (rest.is_empty() || rest.starts_with(['/', ':', '@'])).then_some(length)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(prefix) => f.write_str(prefix),
            Self::Subdomains(suffix) => write!(f, "*{suffix}"),
        }
    }
}

fn as_asked(image: &ImageRef) -> Endpoint {
    Endpoint {
        host: image.registry().to_owned(),
        repository: image.repository().to_owned(),
        transport: Transport::Https,
        blocked: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Fault, Position};

    fn registries(text: &str) -> Registries {
        Registries::parse(text)
            .unwrap_or_else(|error| panic!("{text}\n{error:?}"))
            .0
    }

    fn image(name: &str) -> ImageRef {
        ImageRef::parse_edge(name).unwrap()
    }

    /// `host repository`, with `http` and `blocked` after it where they hold.
    fn show(endpoint: &Endpoint) -> String {
        let transport = match endpoint.transport {
            Transport::Https => "",
            Transport::PlainHttp => " http",
        };
        let blocked = if endpoint.blocked { " blocked" } else { "" };
        format!(
            "{} {}{transport}{blocked}",
            endpoint.host, endpoint.repository
        )
    }

    const FILE: &str = r#"
        [[registry]]
        location = "plain.example:5000"
        insecure = true
        [[registry]]
        prefix = "a.example"
        location = "b.example/mirrored"
        [[registry]]
        prefix = "a.example/ns/app"
        location = "c.example:443/x/y"
        insecure = true
        [[registry]]
        prefix = "a.example/blocked"
        blocked = true
        [[registry]]
        prefix = "alias.example"
        location = "a.example/blocked"
        [[registry]]
        prefix = "*.wild.example"
        location = "w.example"
        [[registry]]
        prefix = "*.deep.wild.example"
        [[registry]]
        prefix = "docker.io/library"
        location = "hub.example/official/"
    "#;

    #[test]
    fn longest_prefix_decides_where_an_image_is() {
        let rows = [
            ("other.example/app:1", "other.example app"),
            ("busybox", "hub.example official/busybox"),
            ("me/app", "docker.io me/app"),
            ("plain.example:5000/app", "plain.example:5000 app http"),
            ("plain.example/app", "plain.example app"),
            ("plain.example:50000/app", "plain.example:50000 app"),
            ("a.example/app:1", "b.example mirrored/app"),
            ("a.example/ns/app:1", "c.example:443 x/y http"),
            ("a.example/ns/app/deeper", "c.example:443 x/y/deeper http"),
            ("a.example/ns/apple", "b.example mirrored/ns/apple"),
            ("a.example/blocked/app", "a.example blocked/app blocked"),
            ("a.example/blockedx/app", "b.example mirrored/blockedx/app"),
            ("alias.example/app", "a.example blocked/app blocked"),
            ("x.wild.example/app", "w.example app"),
            ("x.y.wild.example/app", "w.example app"),
            ("x.wild.example:5000/app", "w.example:5000 app"),
            ("wild.example/app", "wild.example app"),
            ("xwild.example/app", "xwild.example app"),
            ("x.wild.example.org/app", "x.wild.example.org app"),
            (
                "other.example/x.wild.example/app",
                "other.example x.wild.example/app",
            ),
            ("x.deep.wild.example/app", "x.deep.wild.example app"),
        ];
        let registries = registries(FILE);
        for (name, expected) in rows {
            assert_eq!(
                show(&registries.lookup(&image(name)).unwrap()),
                expected,
                "{name}"
            );
        }
        let none = Registries::default();
        assert_eq!(
            show(&none.lookup(&image("busybox")).unwrap()),
            "docker.io library/busybox"
        );
    }

    #[test]
    fn mirrors_come_first_and_serve_what_they_are_for() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let text = r#"
            [[registry]]
            location = "a.example"
            [[registry.mirror]]
            location = "all.example/a"
            insecure = true
            [[registry.mirror]]
            location = "digest.example"
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "tag.example"
            pull-from-mirror = "tag-only"
            [[registry]]
            location = "b.example"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "b-mirror.example"
            [[registry]]
            location = "digest.example"
            blocked = true
        "#;
        let rows = [
            (
                "a.example/x:1".to_owned(),
                "all.example a/x http, tag.example x, a.example x",
            ),
            (
                format!("a.example/x@{digest}"),
                "all.example a/x http, digest.example x blocked, a.example x",
            ),
            ("b.example/x:1".to_owned(), "b.example x"),
            (
                format!("b.example/x:1@{digest}"),
                "b-mirror.example x, b.example x",
            ),
            ("c.example/x".to_owned(), "c.example x"),
        ];
        let registries = registries(text);
        for (name, expected) in rows {
            let endpoints = registries.endpoints(&image(&name)).unwrap();
            let shown: Vec<String> = endpoints.iter().map(show).collect();
            assert_eq!(shown.join(", "), expected, "{name}");
            let primary = registries.lookup(&image(&name)).unwrap();
            assert_eq!(endpoints.last(), Some(&primary), "{name}");
        }
    }

    #[test]
    fn a_location_that_makes_no_name_is_refused() {
        let rows = [
            (
                "example.com",
                "example.com:5000",
                "example.com:5000/image",
                "example.com:5000:5000/image",
            ),
            (
                "example.com/ns",
                "example.org",
                "example.com/ns",
                "example.org",
            ),
            (
                "example.com/ns",
                "notlocalhost",
                "example.com/ns/app",
                "notlocalhost/app",
            ),
            (
                "example.com",
                "docker.io",
                "example.com/app",
                "docker.io/app",
            ),
        ];
        for (prefix, location, name, expected) in rows {
            let text = format!("[[registry]]\nprefix = \"{prefix}\"\nlocation = \"{location}\"");
            let error = registries(&text).lookup(&image(name)).unwrap_err();
            assert_eq!(
                (error.prefix.as_str(), error.name.as_str()),
                (prefix, expected)
            );
        }
    }

    #[test]
    fn contradictions_and_what_is_no_name_are_refused() {
        type Expected = fn(&Fault) -> bool;
        let rows: [(&str, Expected); 14] = [
            ("location = \"https://a.example\"", |f| {
                matches!(f, Fault::RegistryName { .. })
            }),
            ("location = \"a b\"", |f| {
                matches!(f, Fault::RegistryName { .. })
            }),
            ("location = \"/\"", |f| {
                matches!(f, Fault::RegistryName { .. })
            }),
            ("prefix = \"*.a.example/ns\"", |f| {
                matches!(f, Fault::RegistryName { .. })
            }),
            ("prefix = \"*.a.example:5000\"", |f| {
                matches!(f, Fault::RegistryName { .. })
            }),
            ("prefix = \"*a.example\"", |f| {
                matches!(f, Fault::RegistryName { .. })
            }),
            ("prefix = \"*\"", |f| {
                matches!(f, Fault::RegistryName { .. })
            }),
            (
                "location = \"a.example\"\npull-from-mirror = \"all\"",
                |f| matches!(f, Fault::Incompatible { .. }),
            ),
            (
                "location = \"a.example\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"b.example\"\npull-from-mirror = \"all\"",
                |f| {
                    matches!(
                        f,
                        Fault::Incompatible {
                            other: "mirror-by-digest-only = true"
                        }
                    )
                },
            ),
            (
                "location = \"a.example\"\n[[registry.mirror]]\nlocation = \"b.example\"\npull-from-mirror = \"digest\"",
                |f| matches!(f, Fault::Word { .. }),
            ),
            (
                "location = \"a.example\"\n[[registry]]\nprefix = \"b.example\"\nlocation = \"a.example\"\nblocked = true",
                |f| matches!(f, Fault::Incompatible { .. }),
            ),
            (
                "location = \"a.example\"\n[[registry]]\nprefix = \"b.example\"\nlocation = \"a.example\"\ninsecure = true",
                |f| matches!(f, Fault::Incompatible { .. }),
            ),
        ];
        for (text, is_expected) in rows {
            let error = Registries::parse(&format!("[[registry]]\n{text}")).unwrap_err();
            let ConfigError::Value { source, .. } = error else {
                panic!("{text}: {error:?}")
            };
            assert!(is_expected(&source), "{text}: {source:?}");
        }
    }

    #[test]
    fn incomplete_entries_are_refused() {
        let rows = [
            ("[[registry]]", "registry[0].location"),
            (
                "[[registry]]\nprefix = \"a.example\"",
                "registry[0].location",
            ),
            ("[[registry]]\nlocation = \"\"", "registry[0].location"),
            (
                "[[registry]]\nlocation = \"a.example\"\n[[registry.mirror]]",
                "registry[0].mirror[0].location",
            ),
        ];
        for (text, expected) in rows {
            let error = Registries::parse(text).unwrap_err();
            assert!(
                matches!(&error, ConfigError::Missing { key, .. } if key == expected),
                "{text}: {error:?}"
            );
        }
    }

    #[test]
    fn misspelled_block_is_refused_not_ignored() {
        let error =
            Registries::parse("[[registry]]\nlocation = \"a.example\"\nbloked = true").unwrap_err();
        let ConfigError::UnknownKey { key, at, nearest } = error else {
            panic!("{error:?}")
        };
        assert_eq!(key, "registry[0].bloked");
        assert_eq!(at, Position { line: 3, column: 1 });
        assert_eq!(nearest.as_deref(), Some("blocked"));
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let text = r#"
            unqualified-search-registries = ["docker.io", "localhost:5000"]
            short-name-mode = "enforcing"
            credential-helpers = ["containers-auth.json", "ecr-login"]
            additional-layer-store-auth-helper = "x"
            [aliases]
            fedora = "registry.fedoraproject.org/fedora"
            [[registry]]
            location = "a.example"
            insecure = true
            [[registry.mirror]]
            location = "b.example"
            [[registry]]
            location = "a.example"
            insecure = true
        "#;
        let (registries, warnings) = Registries::parse(text).unwrap();
        assert_eq!(registries.entries().len(), 1);
        let shown: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        let starts = [
            "unqualified-search-registries has",
            "short-name-mode has",
            "aliases has",
            "credential-helpers has",
            "additional-layer-store-auth-helper has",
            "registry[0].mirror has",
            "registry[1].prefix has no effect: an earlier entry for a.example wins",
        ];
        assert_eq!(shown.len(), starts.len(), "{shown:#?}");
        for (line, start) in shown.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
    }
}
