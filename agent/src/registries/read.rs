//! From the tables of a `registries.conf` to [`Registries`].

use std::collections::BTreeMap;

use policy::ReferenceParts;

use super::{Entry, Mirror, Prefix, PullFromMirror, Registries};
use crate::config::{ConfigError, Fault, Found, Section, Warning, credential_helper, word};

impl Registries {
    /// Reads `table`: the root of a `registries.conf`, or the same as a table of the configuration.
    pub(crate) fn read(
        mut table: Section<'_>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, ConfigError> {
        let aliases = read_short_names(&mut table, warnings)?;
        let helpers = read_helpers(&mut table, warnings)?;
        let mut entries: Vec<Entry> = Vec::new();
        for section in table.sections("registry")? {
            let key = section.path_of("prefix");
            let entry = read_entry(section, &entries)?;
            // containers-registries.conf(5): the first entry for a prefix counts.
            if entries.iter().any(|other| other.prefix == entry.prefix) {
                let winner = format!("an earlier entry for {}", entry.prefix);
                warnings.push(Warning::Overridden { loser: key, winner });
            } else {
                entries.push(entry);
            }
        }
        table.finish()?;
        Ok(Self {
            entries,
            helpers,
            aliases,
        })
    }
}

/// Everything about names without a registry: the aliases, and what has no effect, as a name
/// without an alias is docker.io's.
fn read_short_names(
    table: &mut Section<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let searched = table.strings("unqualified-search-registries")?;
    let mut ignored = Vec::new();
    if !searched.is_empty() {
        ignored.push("unqualified-search-registries");
    }
    for host in searched {
        host.parse(|text| namespace(text).and_then(only_host))?;
    }
    if table.parsed("short-name-mode", parse_mode)?.is_some() {
        ignored.push("short-name-mode");
    }
    let keys = ignored.into_iter().map(|key| table.path_of(key));
    warnings.extend(keys.map(|key| Warning::SearchRegistries { key }));
    let Some(aliases) = table.section("aliases")? else {
        return Ok(BTreeMap::new());
    };
    let read = |(short, full): (&str, Found<&str>)| {
        if !is_short(short) {
            return Err(full.fault(Fault::RegistryName {
                expected: "a short name without registry, tag or digest as the key",
                found: short.to_owned(),
            }));
        }
        Ok((short.to_owned(), full.parse(parse_alias)?))
    };
    aliases.dictionary()?.into_iter().map(read).collect()
}

fn read_helpers(
    table: &mut Section<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<String>, ConfigError> {
    let helpers = table.strings("credential-helpers")?.into_iter();
    let helpers = helpers
        .map(|helper| helper.parse(credential_helper))
        .collect();
    if table
        .string("additional-layer-store-auth-helper")?
        .is_some()
    {
        let key = table.path_of("additional-layer-store-auth-helper");
        let missing = "additional layer store";
        warnings.push(Warning::NotYet { key, missing });
    }
    helpers
}

fn read_entry(mut section: Section<'_>, earlier: &[Entry]) -> Result<Entry, ConfigError> {
    let prefix = section.parsed("prefix", parse_prefix)?.flatten();
    let location = section.string("location")?;
    let insecure = section.flag("insecure")?;
    let blocked = section.flag("blocked")?;
    let digest_only = section.flag("mirror-by-digest-only")?;
    if let Some(found) = section.string("pull-from-mirror")? {
        return Err(found.fault(Fault::Incompatible {
            other: "a registry, only with a mirror",
        }));
    }
    let mirrors = read_mirrors(&mut section, digest_only)?;
    let missing = section.missing("location");
    section.finish()?;
    let location = match location {
        None => None,
        Some(found) => optional_location(found, insecure, blocked, earlier)?,
    };
    let Some(prefix) = prefix.or_else(|| location.clone().map(Prefix::Namespace)) else {
        return Err(missing);
    };
    // A subdomain of many, or one that is only blocked, need not be rewritten.
    let may_lack = matches!(prefix, Prefix::Subdomains(_)) || blocked;
    if location.is_none() && !may_lack {
        return Err(missing);
    }
    Ok(Entry {
        prefix,
        location,
        insecure,
        blocked,
        mirrors,
    })
}

/// A location may be given several times, but must then be described in the same way each time.
fn optional_location(
    found: Found<&str>,
    insecure: bool,
    blocked: bool,
    earlier: &[Entry],
) -> Result<Option<String>, ConfigError> {
    if found.value.is_empty() {
        return Ok(None);
    }
    found.parse(|text| {
        let location = namespace(text)?;
        let same = |entry: &&Entry| entry.location.as_deref() == Some(location);
        match earlier.iter().find(same) {
            Some(entry) if entry.insecure != insecure => Err(Fault::Incompatible {
                other: "another value of insecure for this location",
            }),
            Some(entry) if entry.blocked != blocked => Err(Fault::Incompatible {
                other: "another value of blocked for this location",
            }),
            _ => Ok(Some(location.to_owned())),
        }
    })
}

fn read_mirrors(section: &mut Section<'_>, digest_only: bool) -> Result<Vec<Mirror>, ConfigError> {
    let mut mirrors = Vec::new();
    for mut mirror in section.sections("mirror")? {
        let location = mirror.parsed("location", |text| namespace(text).map(str::to_owned))?;
        let insecure = mirror.flag("insecure")?;
        let namespace = mirror.flag("ns")?;
        // An empty word is the default.
        let pull = mirror
            .string("pull-from-mirror")?
            .filter(|found| !found.value.is_empty());
        let pull = pull.map(|found| {
            if digest_only {
                let other = "mirror-by-digest-only = true";
                return Err(found.fault(Fault::Incompatible { other }));
            }
            found.parse(parse_pull)
        });
        let by_default = if digest_only {
            PullFromMirror::DigestOnly
        } else {
            PullFromMirror::All
        };
        let pull = pull.transpose()?.unwrap_or(by_default);
        let missing = mirror.missing("location");
        mirror.finish()?;
        mirrors.push(Mirror {
            location: location.ok_or(missing)?,
            insecure,
            pull,
            namespace,
        });
    }
    Ok(mirrors)
}

fn parse_pull(text: &str) -> Result<PullFromMirror, Fault> {
    match word(text, &["all", "digest-only", "tag-only"])? {
        "digest-only" => Ok(PullFromMirror::DigestOnly),
        "tag-only" => Ok(PullFromMirror::TagOnly),
        _ => Ok(PullFromMirror::All),
    }
}

fn parse_mode(text: &str) -> Result<(), Fault> {
    if text.is_empty() {
        return Ok(());
    }
    word(text, &["enforcing", "permissive", "disabled"]).map(|_| ())
}

/// Whether `text` is a name that docker.io would be put before.
fn is_short(text: &str) -> bool {
    let host = text.split('/').next().unwrap_or_default();
    let parts = ReferenceParts::parse(text);
    !host.contains(['.', ':'])
        && host != "localhost"
        && parts.is_ok_and(|parts| parts.tag.is_none() && parts.digest.is_none())
}

/// The full name that a short one stands for, or nothing, which takes an alias back.
fn parse_alias(text: &str) -> Result<String, Fault> {
    let is_full = || {
        let host = text.split('/').next().unwrap_or_default();
        let parts = ReferenceParts::parse(text);
        (host.contains(['.', ':']) || host == "localhost")
            && parts.is_ok_and(|parts| parts.tag.is_none() && parts.digest.is_none())
    };
    if text.is_empty() || is_full() {
        return Ok(text.to_owned());
    }
    let expected = "host[:port]/path without tag or digest";
    Err(Fault::RegistryName {
        expected,
        found: text.to_owned(),
    })
}

pub(super) fn parse_prefix(text: &str) -> Result<Option<Prefix>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let Some(suffix) = text.strip_prefix('*') else {
        return namespace(text).map(|prefix| Some(Prefix::Namespace(prefix.to_owned())));
    };
    let host = suffix.strip_prefix('.').unwrap_or_default();
    let is_domain = !host.is_empty() && !host.contains(['/', '@', ':', '*']);
    if is_domain {
        Ok(Some(Prefix::Subdomains(suffix.to_owned())))
    } else {
        let expected =
            "*.example.com: a wildcard stands for whole subdomains, without port or path";
        Err(Fault::RegistryName {
            expected,
            found: text.to_owned(),
        })
    }
}

/// `host[:port][/path]`; slashes at the end are no part of it.
fn namespace(text: &str) -> Result<&str, Fault> {
    let name = text.trim_end_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:/@[]".contains(c);
    if name.is_empty() || name.contains("//") || !name.chars().all(plain) {
        let expected = "host[:port][/path], without http:// or https://";
        return Err(Fault::RegistryName {
            expected,
            found: text.to_owned(),
        });
    }
    Ok(name)
}

fn only_host(name: &str) -> Result<&str, Fault> {
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
    if name.chars().all(is_host) {
        Ok(name)
    } else {
        Err(Fault::RegistryName {
            expected: "host[:port]",
            found: name.to_owned(),
        })
    }
}
