//! `registries.conf`, version 2: where an image really is, and how that place is reached.
//!
//! Pure: text in, places out. Policy and signatures are always about the name that was asked for;
//! what is rewritten here only decides where its bytes come from.

mod merge;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use policy::{ImageRef, Reference, ReferenceError};

use crate::config::{ConfigError, Document, Warning};

/// What to know about registries. Without any entry, every one is reached by https.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    entries: Vec<Entry>,
    /// Who is asked for credentials; the credentials file alone when nothing is said.
    helpers: Vec<String>,
    /// Full names by short ones; an empty one takes back what another file has said.
    aliases: BTreeMap<String, String>,
}

/// The name that the credentials file has among `credential-helpers`.
pub(crate) const CREDENTIALS_FILE: &str = "containers-auth.json";

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
    /// The registry that was asked for, where the place wants to be told it (`?ns=`).
    pub namespace: Option<String>,
}

/// How a host is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// By TLS.
    Https,
    /// By plain http, as `insecure = true` says; by TLS that nobody vouches for where the host
    /// turns out to speak nothing else.
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

    /// The name that was asked for, written out: a short name that has an alias is that name, any
    /// other one is docker.io's. It is what the policy judges.
    pub fn reference(&self, asked: &str) -> Result<ImageRef, ReferenceError> {
        match self.unaliased(asked) {
            Some(full) => ImageRef::parse_edge(&full),
            None => ImageRef::parse_edge(asked),
        }
    }

    /// What a short name with an alias stands for, with its tag or digest.
    fn unaliased(&self, asked: &str) -> Option<String> {
        let (name, rest) = asked.split_at(asked.find([':', '@']).unwrap_or(asked.len()));
        // A colon before a slash is that of a port, so that the name is no short one.
        let full = self.alias(name).filter(|_| !rest.contains('/'))?;
        Some(format!("{full}{rest}"))
    }

    /// The full name of a short one, both without tag or digest.
    pub fn alias(&self, short: &str) -> Option<&str> {
        let full = self.aliases.get(short)?;
        (!full.is_empty()).then_some(full.as_str())
    }

    /// The place that the name means when no mirror is used.
    #[cfg(test)]
    pub(crate) fn lookup(&self, image: &ImageRef) -> Result<Endpoint, RewriteError> {
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
            .map(|mirror| {
                let place = self.endpoint(image, entry, Some(&mirror.location), mirror.insecure)?;
                let namespace = mirror.namespace.then(|| image.registry().to_owned());
                Ok(Endpoint { namespace, ..place })
            })
            .chain([self.primary(image, entry)])
            .collect()
    }

    /// Who is asked for credentials, in this order: [`CREDENTIALS_FILE`], or programs by the names
    /// that they have after `docker-credential-`.
    pub(crate) fn credential_sources(&self) -> Vec<&str> {
        match self.helpers.as_slice() {
            [] => vec![CREDENTIALS_FILE],
            helpers => helpers.iter().map(String::as_str).collect(),
        }
    }

    /// What the entries are about, in the order of the file.
    pub fn prefixes(&self) -> Vec<String> {
        let entries = self.entries.iter();
        entries.map(|entry| entry.prefix.to_string()).collect()
    }

    /// How many bytes of `name` a `prefix` stands for, if it is a prefix and about that name.
    pub fn matched(prefix: &str, name: &str) -> Option<usize> {
        read::parse_prefix(prefix).ok().flatten()?.matched(name)
    }

    /// The hosts that plain http may be spoken to, `host[:port]`: those that an `insecure` entry
    /// or mirror leads to.
    pub(crate) fn plain_hosts(&self) -> Vec<String> {
        let host = |place: &str| place.split('/').next().unwrap_or_default().to_owned();
        let primaries = self.entries.iter().filter(|entry| entry.insecure);
        let primaries = primaries.filter_map(|entry| match (&entry.location, &entry.prefix) {
            (Some(location), _) => Some(host(location)),
            (None, Prefix::Namespace(prefix)) => Some(host(prefix)),
            (None, Prefix::Subdomains(_)) => None,
        });
        let mirrors = self.entries.iter().flat_map(|entry| &entry.mirrors);
        let mirrors = mirrors.filter(|mirror| mirror.insecure);
        primaries
            .chain(mirrors.map(|mirror| host(&mirror.location)))
            .collect()
    }

    /// The hosts that the owner names as places of images, whether or not with a port.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &str> {
        let places = self.entries.iter().flat_map(|entry| {
            let mirrors = entry.mirrors.iter().map(|mirror| mirror.location.as_str());
            let prefix = match &entry.prefix {
                Prefix::Namespace(prefix) => Some(prefix.as_str()),
                Prefix::Subdomains(_) => None,
            };
            mirrors.chain(entry.location.as_deref()).chain(prefix)
        });
        places.filter_map(|place| place.split('/').next())
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn helpers(&self) -> &[String] {
        &self.helpers
    }

    pub(crate) fn aliases(&self) -> &BTreeMap<String, String> {
        &self.aliases
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
            namespace: None,
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
    /// Whether it is told by `?ns=` which registry was asked for.
    pub(crate) namespace: bool,
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
        namespace: None,
    }
}
