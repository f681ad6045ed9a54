//! `signedIdentity`: which reference a signature must name for the image that was asked for.

use std::fmt;

use thiserror::Error;

use crate::reference::{Reference, ReferenceError, is_host, is_path};

/// The rule that the signed reference is held to.
///
/// Complete: containers-policy.json(5) defines these kinds, and there is one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignedIdentity {
    /// Name, tag and digest are the same, and there is a tag or a digest.
    MatchExact,
    /// As `MatchExact`; for an image asked for by digest the same repository is enough.
    MatchRepoDigestOrExact,
    /// The same repository, whatever the tag.
    MatchRepository,
    /// A signature for this one reference, whatever the image is called.
    ExactReference(WrittenReference),
    /// A signature for this one repository, whatever the image is called.
    ExactRepository(WrittenReference),
    /// As `MatchRepoDigestOrExact` after replacing a prefix of the image's name.
    RemapIdentity(Remap),
    /// No reference at all: a key of ours, for bundles, which name none.
    DigestOnly,
}

impl SignedIdentity {
    /// Whether a signature that names `signed` serves for the image `intended`.
    ///
    /// Digests in references are compared as names here; that the signed manifest digest is that
    /// of the image is checked elsewhere, always.
    pub fn accepts(&self, intended: &Reference, signed: &str) -> Result<(), IdentityMismatch> {
        if *self == Self::DigestOnly {
            return Ok(());
        }
        let mismatch = || IdentityMismatch {
            rule: self.name(),
            wanted: self.wanted(intended),
            signed: signed.to_owned(),
            malformed: None,
        };
        let untrusted = Reference::parse(signed).map_err(|source| IdentityMismatch {
            malformed: Some(source),
            ..mismatch()
        })?;
        let holds = match self {
            Self::MatchExact => match_exact(intended, &untrusted),
            Self::MatchRepoDigestOrExact => match_repo_digest_or_exact(intended, &untrusted),
            Self::MatchRepository => intended.same_name(&untrusted),
            Self::ExactReference(written) => match_exact(&written.reference, &untrusted),
            Self::ExactRepository(written) => written.reference.same_name(&untrusted),
            Self::RemapIdentity(remap) => remap
                .apply(intended)
                .is_ok_and(|remapped| match_repo_digest_or_exact(&remapped, &untrusted)),
            Self::DigestOnly => true,
        };
        if holds { Ok(()) } else { Err(mismatch()) }
    }

    /// The rule for a cosign signature when the policy states none.
    ///
    /// `cosign sign` writes a reference without a tag, which [`Self::MatchRepoDigestOrExact`] can
    /// never accept; such a signature speaks for the repository. One that does name a tag or a
    /// digest is held to it.
    pub(crate) fn default_for_cosign(signed: &str) -> Self {
        match Reference::parse(signed) {
            Ok(reference) if reference.is_name_only() => Self::MatchRepository,
            _ => Self::MatchRepoDigestOrExact,
        }
    }

    /// The name in containers-policy.json.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MatchExact => "matchExact",
            Self::MatchRepoDigestOrExact => "matchRepoDigestOrExact",
            Self::MatchRepository => "matchRepository",
            Self::ExactReference(_) => "exactReference",
            Self::ExactRepository(_) => "exactRepository",
            Self::RemapIdentity(_) => "remapIdentity",
            Self::DigestOnly => "digestOnly",
        }
    }

    fn wanted(&self, intended: &Reference) -> String {
        match self {
            Self::ExactReference(written) | Self::ExactRepository(written) => written.text.clone(),
            Self::RemapIdentity(remap) => remap
                .apply(intended)
                .map_or_else(|_| remap.to_string(), |name| name.to_string()),
            Self::MatchRepository => intended.name(),
            Self::MatchExact | Self::MatchRepoDigestOrExact | Self::DigestOnly => {
                intended.to_string()
            }
        }
    }
}

/// A reference as the policy writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenReference {
    text: String,
    reference: Box<Reference>,
}

impl WrittenReference {
    pub(crate) fn parse(text: &str) -> Result<Self, ReferenceError> {
        Ok(Self {
            text: text.to_owned(),
            reference: Box::new(Reference::parse(text)?),
        })
    }

    pub(crate) fn reference(&self) -> &Reference {
        &self.reference
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

/// A prefix of names and what signatures have in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remap {
    prefix: String,
    signed_prefix: String,
}

impl Remap {
    /// Both must have been checked by [`is_remap_prefix`].
    pub(crate) fn new(prefix: &str, signed_prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            signed_prefix: signed_prefix.to_owned(),
        }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn signed_prefix(&self) -> &str {
        &self.signed_prefix
    }

    /// The name that the signature should have; one outside the prefix stays as it is.
    fn apply(&self, intended: &Reference) -> Result<Reference, ReferenceError> {
        let name = intended.name();
        let inside = name
            .strip_prefix(&self.prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if !inside {
            return Ok(intended.clone());
        }
        let full = intended.to_string();
        let rest = full.strip_prefix(&self.prefix).unwrap_or_default();
        Reference::parse_qualified(&format!("{}{rest}", self.signed_prefix))
    }
}

impl fmt::Display for Remap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in place of {}", self.signed_prefix, self.prefix)
    }
}

/// Whether `text` is `host[:port]` or `host[:port]/path`: where a name may be cut.
pub(crate) fn is_remap_prefix(text: &str) -> bool {
    match text.split_once('/') {
        Some((host, path)) => is_host(host) && is_path(path),
        None => is_host(text),
    }
}

/// A signature for something else than the image asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("it is for {signed:?}{}, {rule} wants {wanted}", Malformed(malformed.as_ref()))]
#[non_exhaustive]
pub struct IdentityMismatch {
    /// The rule.
    pub rule: &'static str,
    /// What the rule makes of the reference asked for.
    pub wanted: String,
    /// The reference in the signature.
    pub signed: String,
    /// Why the reference in the signature is none.
    pub malformed: Option<ReferenceError>,
}

struct Malformed<'a>(Option<&'a ReferenceError>);

impl fmt::Display for Malformed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |error| write!(f, " ({error})"))
    }
}

fn match_exact(intended: &Reference, signed: &Reference) -> bool {
    !intended.is_name_only() && !signed.is_name_only() && intended == signed
}

fn match_repo_digest_or_exact(intended: &Reference, signed: &Reference) -> bool {
    if signed.is_name_only() {
        return false;
    }
    match (intended.tag(), intended.digest()) {
        (Some(_), _) => intended == signed,
        (None, Some(_)) => intended.same_name(signed),
        (None, None) => false,
    }
}
