//! The requirements that a policy can make, as parsed values.

use crate::extension::{DigestAllowed, NotOlder, Threshold};
use crate::identity::SignedIdentity;

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Requirement {
    InsecureAcceptAnything,
    Reject,
    SignedBy(SignedBy),
    SigstoreSigned(SigstoreSigned),
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
            Self::SignedBaseLayer(_) => "signedBaseLayer",
            Self::DigestAllowed(_) => "digestAllowed",
            Self::Encrypted => "encrypted",
            Self::NotOlder(_) => "notOlder",
            Self::RequireDigest => "requireDigest",
            Self::Threshold(_) => "threshold",
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
}

/// Whose signature counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    Keys(Material),
    Fulcio(Box<Fulcio>),
    Pki(Box<Pki>),
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
