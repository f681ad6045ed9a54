//! A policy looked at together with its keys: what only their bytes and the time can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::certificate::{Certificate, CertificateError};
use crate::document::{Policy, PolicyError, Warning};
use crate::json::Place;
use crate::key::{KeyError, PublicKey};
use crate::openpgp::{Hashes, KeyringError, Keyrings};
use crate::rekor::LogKey;
use crate::sigstore::{Demands, TrustedRoot};

/// A policy that remembers where in the document each of its keys stands: for tools that look at
/// policies. Deciding takes a [`Policy`].
#[derive(Debug, Clone)]
pub struct PolicyCheck {
    policy: Policy,
    sites: Vec<KeySite>,
}

impl PolicyCheck {
    /// Reads a containers-policy.json document as [`Policy::parse`] does.
    pub fn parse(document: &[u8]) -> Result<Self, PolicyError> {
        let (policy, sites) = Policy::parse_with_sites(document)?;
        Ok(Self { policy, sites })
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Where the policy says that keys are: `kbs:///...`, `file:///...` or a path.
    pub fn locations(&self) -> BTreeSet<&str> {
        let keys = self.sites.iter().map(|site| &site.key);
        keys.filter_map(Key::location).collect()
    }

    /// What is questionable in the policy, and what at `now` is wrong with the keys that stand in
    /// it or that `resources` has by their locations. Keys that are not there are not looked at.
    ///
    /// In the order of the document.
    pub fn warnings(&self, resources: &BTreeMap<String, Vec<u8>>, now: SystemTime) -> Vec<Warning> {
        let mut warnings = [self.policy.warnings(), self.policy.notes()].concat();
        for site in &self.sites {
            let key = match &site.key {
                Key::Inline(data) => Some(data),
                Key::At(path) => resources.get(path),
            };
            let found = key.map(|key| site.purpose.faults(key, now));
            let warning = |text| Warning::new(site.place.clone(), text);
            warnings.extend(found.into_iter().flatten().map(warning));
        }
        warnings.sort_by_key(|warning| (warning.place().line(), warning.place().column()));
        warnings
    }
}

/// A key in a policy, or the name of one, and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct KeySite {
    place: Place,
    purpose: Purpose,
    key: Key,
}

impl KeySite {
    pub(crate) fn at_path(place: Place, purpose: Purpose, path: String) -> Self {
        let key = Key::At(path);
        Self {
            place,
            purpose,
            key,
        }
    }

    pub(crate) fn inline(place: Place, purpose: Purpose, data: Vec<u8>) -> Self {
        let key = Key::Inline(data);
        Self {
            place,
            purpose,
            key,
        }
    }
}

#[derive(Debug, Clone)]
enum Key {
    At(String),
    Inline(Vec<u8>),
}

impl Key {
    fn location(&self) -> Option<&str> {
        match self {
            Self::At(location) => Some(location),
            Self::Inline(_) => None,
        }
    }
}

/// What a key is to be used as.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    PublicKey,
    LogKey,
    Certificates,
    Keyring(Hashes),
    TrustedRoot(Demands),
}

impl Purpose {
    /// What keeps `key` from being of use at `now`.
    fn faults(self, key: &[u8], now: SystemTime) -> Vec<String> {
        let unusable = |error: KeyError| vec![format!("the key cannot be used: {error}")];
        match self {
            Self::PublicKey => PublicKey::from_pem(key).err().map(unusable),
            Self::LogKey => LogKey::from_pem(key).err().map(unusable),
            Self::Certificates => {
                Some(about_certificates(key, now).unwrap_or_else(|error| {
                    vec![format!("the certificates cannot be used: {error}")]
                }))
            }
            Self::TrustedRoot(demands) => {
                let root = TrustedRoot::parse(key).and_then(|root| root.check(demands));
                let text = |error| vec![format!("the trusted root cannot be used: {error}")];
                root.err().map(text)
            }
            Self::Keyring(hashes) => Some(
                about_keyring(key, now, hashes)
                    .unwrap_or_else(|error| vec![format!("the keyring cannot be used: {error}")]),
            ),
        }
        .unwrap_or_default()
    }
}

fn about_certificates(pem: &[u8], now: SystemTime) -> Result<Vec<String>, CertificateError> {
    let certificates = Certificate::list_from_pem(pem)?;
    if certificates.is_empty() {
        return Err(CertificateError::None);
    }
    let now = now.duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let invalid = certificates
        .iter()
        .zip(1..)
        .filter(|(certificate, _)| !certificate.is_valid_at(now));
    let text = |(certificate, number): (&Certificate, u32)| {
        let (from, to) = certificate.validity();
        format!("certificate {number} is valid from {from} to {to}, and not now")
    };
    Ok(invalid.map(text).collect())
}

fn about_keyring(
    keyring: &[u8],
    now: SystemTime,
    hashes: Hashes,
) -> Result<Vec<String>, KeyringError> {
    let mut keys = Keyrings::default();
    keys.add(keyring)?;
    if keys.is_empty() {
        return Err(KeyringError::NoKey);
    }
    let text = |(fingerprint, why)| format!("key {fingerprint} cannot sign now: {why}");
    Ok(keys.unusable_at(now, hashes).map(text).collect())
}
