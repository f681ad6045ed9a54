//! The requirements that a policy can make, as parsed values.

use std::collections::BTreeMap;

use crate::conditions::Condition;
use crate::extension::{DigestAllowed, NotOlder, Threshold};
use crate::identities::Identities;
use crate::identity::SignedIdentity;
use crate::sigstore::Demands;

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Requirement {
    InsecureAcceptAnything,
    Reject,
    SignedBy(SignedBy),
    SigstoreSigned(SigstoreSigned),
    AttestedBy(Box<AttestedBy>),
    SignedBaseLayer(SignedIdentity),
    DigestAllowed(DigestAllowed),
    Encrypted,
    NotOlder(NotOlder),
    RequireDigest,
    Threshold(Threshold),
}

impl Requirement {
    /// The name in containers-policy.json.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::InsecureAcceptAnything => "insecureAcceptAnything",
            Self::Reject => "reject",
            Self::SignedBy(_) => "signedBy",
            Self::SigstoreSigned(_) => "sigstoreSigned",
            Self::AttestedBy(_) => "attestedBy",
            Self::SignedBaseLayer(_) => "signedBaseLayer",
            Self::DigestAllowed(_) => "digestAllowed",
            Self::Encrypted => "encrypted",
            Self::NotOlder(_) => "notOlder",
            Self::RequireDigest => "requireDigest",
            Self::Threshold(_) => "threshold",
        }
    }
}

impl Requirement {
    fn set_strict_identity(&mut self) {
        match self {
            Self::SigstoreSigned(signed) => signed.strict_identity = true,
            Self::AttestedBy(attested) => attested.by.strict_identity = true,
            Self::NotOlder(wanted) => wanted.signature.set_strict_identity(),
            Self::Threshold(wanted) => {
                wanted.of.iter_mut().for_each(Self::set_strict_identity);
            }
            Self::InsecureAcceptAnything
            | Self::Reject
            | Self::SignedBy(_)
            | Self::SignedBaseLayer(_)
            | Self::DigestAllowed(_)
            | Self::Encrypted
            | Self::RequireDigest => {}
        }
    }
}

/// A list of requirements, all of which must be met. It is never empty: "nothing is required" can
/// only be said as `insecureAcceptAnything`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Requirements {
    first: Requirement,
    rest: Vec<Requirement>,
}

impl Requirements {
    pub(crate) fn new(list: Vec<Requirement>) -> Option<Self> {
        let mut list = list.into_iter();
        list.next().map(|first| Self {
            first,
            rest: list.collect(),
        })
    }

    /// Makes every signature without a stated identity one that needs it, for bundles.
    pub(crate) fn set_strict_identity(&mut self) {
        std::iter::once(&mut self.first)
            .chain(&mut self.rest)
            .for_each(Requirement::set_strict_identity);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Requirement> {
        std::iter::once(&self.first).chain(&self.rest)
    }
}

/// An `OpenPGP` simple-signing signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignedBy {
    pub(crate) key_type: KeyType,
    pub(crate) keys: Material,
    /// None when the policy does not say, which means `matchRepoDigestOrExact`.
    pub(crate) identity: Option<SignedIdentity>,
    /// Whether SHA-1 will do: a key of ours, `allowWeakHashes`.
    pub(crate) allow_weak_hashes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyType {
    GpgKeys,
    SignedByGpgKeys,
    X509Certificates,
    SignedByX509CAs,
}

impl KeyType {
    pub(crate) const ALL: [Self; 4] = [
        Self::GpgKeys,
        Self::SignedByGpgKeys,
        Self::X509Certificates,
        Self::SignedByX509CAs,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GpgKeys => "GPGKeys",
            Self::SignedByGpgKeys => "signedByGPGKeys",
            Self::X509Certificates => "X509Certificates",
            Self::SignedByX509CAs => "signedByX509CAs",
        }
    }
}

/// A cosign signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SigstoreSigned {
    pub(crate) trust: Trust,
    /// The keys of transparency logs, one of which must have promised to log the signature.
    pub(crate) rekor: Option<Material>,
    /// None when the policy does not say: see [`SignedIdentity::default_for_cosign`].
    pub(crate) identity: Option<SignedIdentity>,
    /// What must be signed beside the digest: a key of ours.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Whether bundles, which name no repository, need an `identity` that says that this will do.
    pub(crate) strict_identity: bool,
}

/// `attestedBy`: somebody says something of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttestedBy {
    /// By keys, or by a trusted root.
    pub(crate) by: SigstoreSigned,
    pub(crate) attestation: Attestation,
}

/// What is to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attestation {
    pub(crate) predicate_type: String,
    pub(crate) conditions: Vec<Condition>,
}

/// Whose signature counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    Keys(Material),
    Fulcio(Box<Fulcio>),
    Pki(Box<Pki>),
    Root(Box<RootTrust>),
}

/// Certificates, logs and timestamps by the services of a trusted root, for somebody by name: a key
/// of ours, `trustedRoot`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RootTrust {
    pub(crate) root: RootSource,
    pub(crate) identities: Identities,
    pub(crate) demands: Demands,
}

/// Where a trusted root is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RootSource {
    /// The one that came with this program.
    PublicGood,
    Path(String),
    /// The document, as it stands in the policy.
    Inline(Vec<u8>),
}

impl RootSource {
    pub(crate) fn path(&self) -> Option<&str> {
        match self {
            Self::Path(path) => Some(path),
            Self::PublicGood | Self::Inline(_) => None,
        }
    }
}

/// Certificates by a Fulcio authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fulcio {
    pub(crate) ca: Material,
    pub(crate) oidc_issuer: String,
    pub(crate) subject_email: String,
    /// The keys of Certificate Transparency logs, one of which must have seen the certificate.
    pub(crate) ct_log: Option<Material>,
}

/// Certificates by the owner's own authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pki {
    pub(crate) roots: Material,
    pub(crate) intermediates: Option<Material>,
    pub(crate) subject_email: Option<String>,
    pub(crate) subject_hostname: Option<String>,
    /// As in [`Fulcio`].
    pub(crate) ct_log: Option<Material>,
}

/// Keys or certificates: where they are, or themselves. No list in it is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Material {
    Path(String),
    Paths(Vec<String>),
    Data(Vec<u8>),
    Datas(Vec<Vec<u8>>),
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Piece<'a> {
    Path(&'a str),
    Data(&'a [u8]),
}

impl<'a> Piece<'a> {
    pub(crate) fn path(self) -> Option<&'a str> {
        match self {
            Self::Path(path) => Some(path),
            Self::Data(_) => None,
        }
    }
}

impl Material {
    pub(crate) fn pieces(&self) -> Vec<Piece<'_>> {
        match self {
            Self::Path(path) => vec![Piece::Path(path)],
            Self::Paths(paths) => paths.iter().map(|path| Piece::Path(path)).collect(),
            Self::Data(data) => vec![Piece::Data(data)],
            Self::Datas(datas) => datas.iter().map(|data| Piece::Data(data)).collect(),
        }
    }
}
