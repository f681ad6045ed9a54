//! `[[image_agent.registry]]`: what one registry has of its own.

use std::fmt;

use super::{ConfigError, Fault, Found, Section, Source, value};

/// Whom one registry is vouched for by, and who we are to it.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistrySettings {
    /// `host[:port]`, as image names and locations have it.
    pub host: String,
    /// Authorities that are trusted for it besides the system's.
    pub ca: Option<Source>,
    /// The certificate that we show to it, and its key.
    pub client: Option<(Source, Source)>,
}

/// A key may be written out, so only the host prints.
impl fmt::Debug for RegistrySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrySettings")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// What the sections set.
pub(super) fn read(sections: Vec<Section<'_>>) -> Result<Vec<RegistrySettings>, ConfigError> {
    let mut registries: Vec<RegistrySettings> = Vec::new();
    for section in sections {
        let settings = read_one(section, &registries)?;
        registries.push(settings);
    }
    Ok(registries)
}

fn read_one(
    mut section: Section<'_>,
    earlier: &[RegistrySettings],
) -> Result<RegistrySettings, ConfigError> {
    let host = section.parsed("host", |text| {
        let host = host(text)?;
        if earlier.iter().any(|other| other.host == host) {
            let other = "an earlier [[image_agent.registry]] for the same host";
            return Err(Fault::Incompatible { other });
        }
        Ok(host)
    })?;
    let ca = pem(&mut section, "ca")?;
    let certificate = pem(&mut section, "client_certificate")?;
    let key = pem(&mut section, "client_key")?;
    let missing = section.missing(match (&host, &certificate) {
        (None, _) => "host",
        (_, None) => "client_certificate",
        _ => "client_key",
    });
    section.finish()?;
    match (host, certificate, key) {
        (Some(host), None, None) => Ok(RegistrySettings {
            host,
            ca,
            client: None,
        }),
        (Some(host), Some(certificate), Some(key)) => Ok(RegistrySettings {
            host,
            ca,
            client: Some((certificate, key)),
        }),
        _ => Err(missing),
    }
}

/// The text in PEM, or where it is.
fn pem(section: &mut Section<'_>, key: &'static str) -> Result<Option<Source>, ConfigError> {
    let parse = |found: Found<&str>| {
        if found.value.contains("-----BEGIN ") {
            return Ok(Source::Inline(found.value.to_owned()));
        }
        found.parse(value::location).map(Source::Uri)
    };
    section.string(key)?.map(parse).transpose()
}

fn host(text: &str) -> Result<String, Fault> {
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
    if !text.is_empty() && text.chars().all(is_host) {
        return Ok(text.to_owned());
    }
    Err(Fault::RegistryName {
        expected: "host[:port]",
        found: text.to_owned(),
    })
}
