//! Single values: from the text that was written to something that is legal.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_client::ResourceUri;
use policy::Platform;
use tracing_subscriber::EnvFilter;
use url::Url;

use super::error::Fault;
use super::nearest::nearest;

/// `unix:///path`: the only kind of address that kata-agent uses.
pub(super) fn socket(text: &str) -> Result<PathBuf, Fault> {
    let path = text
        .strip_prefix("unix://")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let named = path.as_deref().and_then(Path::file_name);
    let (Some(path), Some(name)) = (&path, named) else {
        return Err(Fault::Socket {
            found: text.to_owned(),
        });
    };
    let (length, name) = (path.as_os_str().len(), name.len());
    let found = length.max(length.saturating_sub(name).saturating_add(NAME_ASIDE));
    if found > SOCKET_PATH_MAX {
        let limit = SOCKET_PATH_MAX;
        return Err(Fault::SocketPath { found, limit });
    }
    Ok(path.clone())
}

/// `kbs:///repository/type/tag`, `file:///path` or `/path`.
pub(super) fn location(text: &str) -> Result<String, Fault> {
    let found = text.to_owned();
    if text.starts_with("kbs:") || text.starts_with("kbs+") {
        return resource(text);
    }
    let path = Path::new(text.strip_prefix("file://").unwrap_or(text));
    if path.is_absolute() {
        Ok(found)
    } else {
        Err(Fault::Location { found })
    }
}

/// What a location is in: `kbs:///repository/type`, `file:///path` or `/path`.
pub(super) fn folder(text: &str) -> Result<String, Fault> {
    let found = text.to_owned();
    if text.is_empty() || text.ends_with('/') {
        return Err(Fault::Location { found });
    }
    location(&format!("{text}/sha256-0")).map(|_| found)
}

/// `kbs:///repository/type/tag` alone.
pub(super) fn resource(text: &str) -> Result<String, Fault> {
    let found = text.to_owned();
    match text.parse::<ResourceUri>() {
        Ok(_) => Ok(found),
        Err(source) => Err(Fault::Resource { found, source }),
    }
}

/// A path that does not depend on the working directory or on what `..` means.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, Fault> {
    let path = Path::new(text);
    let plain = path.components().all(|part| part != Component::ParentDir);
    if path.is_absolute() && plain && !text.contains('\0') {
        Ok(path.to_owned())
    } else {
        Err(Fault::RelativePath {
            found: text.to_owned(),
        })
    }
}

/// Hosts, domains and networks that no proxy is used for, as the HTTP client reads them.
pub(super) fn no_proxy(text: &str) -> Result<String, Fault> {
    let items = text.split(',').map(str::trim);
    let items = items.filter(|item| !item.is_empty()).map(exception);
    Ok(items.collect::<Result<Vec<_>, _>>()?.join(","))
}

/// What would never match is refused: the owner would believe that it does.
fn exception(item: &str) -> Result<&str, Fault> {
    let (address, length) = match item.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (item, None),
    };
    let is_length = |most: u8| length.is_none_or(|text| text.parse().is_ok_and(|n: u8| n <= most));
    let is_address = match address.parse() {
        Ok(IpAddr::V4(_)) => is_length(32),
        Ok(IpAddr::V6(_)) => is_length(128),
        Err(_no_address) => false,
    };
    // As others spell it: a domain is meant with all its subdomains however it is written.
    let domain = item.strip_prefix("*.").unwrap_or(item);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_domain = !domain.is_empty() && domain.chars().all(plain);
    match item {
        "*" => Ok(item),
        item if is_address => Ok(item),
        _ if is_domain => Ok(domain),
        _ => Err(Fault::ProxyException {
            found: item.to_owned(),
        }),
    }
}

/// What follows `docker-credential-` in the name of a program.
pub(crate) fn credential_helper(text: &str) -> Result<String, Fault> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(Fault::HelperName {
        found: text.to_owned(),
    })
}

/// The part of a path that lies beneath [`CREDENTIALS_FOLDER`](super::CREDENTIALS_FOLDER).
pub(super) fn credential_path(text: &str) -> Result<PathBuf, Fault> {
    let beneath = text
        .strip_prefix(super::CREDENTIALS_FOLDER)
        .and_then(|rest| rest.strip_prefix('/'))
        .filter(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
        .filter(|rest| !rest.contains('\0'));
    beneath
        .map(PathBuf::from)
        .ok_or_else(|| Fault::CredentialPath {
            found: text.to_owned(),
        })
}

/// A word of a closed list.
pub(crate) fn word(text: &str, expected: &'static [&'static str]) -> Result<&'static str, Fault> {
    expected
        .iter()
        .copied()
        .find(|word| *word == text)
        .ok_or_else(|| Fault::Word {
            expected,
            found: text.to_owned(),
            nearest: nearest(text, expected.iter().copied()),
        })
}

/// The address of a Key Broker Service.
pub(super) fn kbs_url(text: &str) -> Result<Url, Fault> {
    let url = Url::parse(text.trim()).map_err(Fault::Url)?;
    scheme(&url, &["http", "https"])?;
    let parts = [
        (
            "user name or password",
            !url.username().is_empty() || url.password().is_some(),
        ),
        ("query", url.query().is_some()),
        ("fragment", url.fragment().is_some()),
    ];
    match parts.into_iter().find(|(_, present)| *present) {
        Some((part, _)) => Err(Fault::UrlPart { part }),
        None => Ok(url),
    }
}

/// The address of a proxy, `host:port` for short.
pub(super) fn proxy_url(text: &str) -> Result<Url, Fault> {
    let text = text.trim();
    let url = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&url).map_err(Fault::Url)?;
    scheme(&url, &["http", "https", "socks5", "socks5h"])?;
    Ok(url)
}

/// `os/architecture[/variant]`.
pub(super) fn platform(text: &str) -> Result<Platform, Fault> {
    let parts: Vec<&str> = text.split('/').collect();
    let plain = |part: &&str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !part.is_empty() && part.chars().all(is_plain)
    };
    let (os, architecture, variant) = match parts.as_slice() {
        [os, architecture] => (*os, *architecture, None),
        [os, architecture, variant] => (*os, *architecture, Some(*variant)),
        _ => ("", "", None),
    };
    if !parts.iter().all(plain) || os.is_empty() {
        return Err(Fault::Platform {
            found: text.to_owned(),
        });
    }
    Ok(Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.map(str::to_owned),
    })
}

/// Certificates in PEM, one at least; none when the text is blank, as templates leave it.
pub(super) fn certificates(text: &str) -> Result<Option<String>, Fault> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    pem_certificates(text).map(|_| Some(text.to_owned()))
}

/// The DER of every certificate in `text`.
pub(super) fn pem_certificates(text: &str) -> Result<Vec<Vec<u8>>, Fault> {
    let bad = |reason| Fault::Certificates { reason };
    let mut blocks = text.split(PEM_BEGIN);
    blocks.next();
    let certificates: Vec<Vec<u8>> = blocks
        .map(|block| {
            let (body, _) = block
                .split_once(PEM_END)
                .ok_or_else(|| bad("one has no END line"))?;
            let body: String = body.split_ascii_whitespace().collect();
            let der = STANDARD.decode(body).unwrap_or_default();
            // A certificate is an ASN.1 sequence; X.509 itself is for the TLS stack to judge.
            if der.first() == Some(&0x30) {
                Ok(der)
            } else {
                Err(bad("one is not base64 of DER"))
            }
        })
        .collect::<Result<_, Fault>>()?;
    if certificates.is_empty() {
        Err(bad("no BEGIN CERTIFICATE"))
    } else {
        Ok(certificates)
    }
}

/// A level, or a list of `target=level` as `RUST_LOG` has it.
pub(super) fn log_level(text: &str) -> Result<String, Fault> {
    let found = text.to_owned();
    let is_level = LEVELS.contains(&text.to_ascii_lowercase().as_str());
    let is_list = || text.contains('=') && EnvFilter::try_new(text).is_ok();
    if is_level || is_list() {
        Ok(found)
    } else {
        Err(Fault::LogLevel { found })
    }
}

fn scheme(url: &Url, expected: &'static [&'static str]) -> Result<(), Fault> {
    if expected.contains(&url.scheme()) && url.has_host() {
        Ok(())
    } else {
        Err(Fault::Scheme {
            expected,
            found: url.scheme().to_owned(),
        })
    }
}

/// Linux `sockaddr_un`: 108 bytes with the zero at the end.
const SOCKET_PATH_MAX: usize = 107;
/// A socket is bound under the name `.<process id in hex>` first; the kernel's ids end at 2^22.
const NAME_ASIDE: usize = 7;
const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const PEM_END: &str = "-----END CERTIFICATE-----";
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
