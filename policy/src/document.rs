//! containers-policy.json(5): the grammar, read strictly.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::digest::Digest;
use crate::identity::SignedIdentity;
use crate::json::{Json, Place};
use crate::keycheck::KeySite;
use crate::lint;
use crate::requirement::Requirements;

mod error;
mod extension;
mod read;
mod sigstore;

pub use self::error::{PolicyError, PolicyProblem};
use self::read::{Reader, identity};

/// An owner's policy: what must be proved of an image before it may run.
///
/// There is no default one and no empty one.
#[derive(Debug, Clone)]
pub struct Policy {
    pub(crate) digest: Digest,
    pub(crate) default: Requirements,
    pub(crate) transports: BTreeMap<String, BTreeMap<String, Requirements>>,
    warnings: Vec<Warning>,
    notes: Vec<Warning>,
}

impl Policy {
    /// Reads a containers-policy.json document.
    ///
    /// Every key at every level must be known and stand once; nothing may be null or empty, but
    /// for one of the two names of a `pki` beside the other; one fault anywhere refuses the whole
    /// document. No key is fetched here.
    pub fn parse(document: &[u8]) -> Result<Self, PolicyError> {
        Self::read(document, &mut Reader::default())
    }

    /// Also says where each of its keys stands.
    pub(crate) fn parse_with_sites(document: &[u8]) -> Result<(Self, Vec<KeySite>), PolicyError> {
        let mut reader = Reader {
            sites: Some(Vec::new()),
            ..Reader::default()
        };
        let policy = Self::read(document, &mut reader)?;
        Ok((policy, reader.sites.unwrap_or_default()))
    }

    fn read(document: &[u8], reader: &mut Reader) -> Result<Self, PolicyError> {
        let json = Json::parse(document)?;
        let top = json.root().object(&["default", "transports"])?;
        let default_node = top.required("default")?;
        let default = reader.requirements(&default_node)?;
        reader.warn(&default_node, lint::about_list(&default));
        let mut transports = BTreeMap::new();
        if let Some(node) = top.optional("transports") {
            for (name, node) in node.open_object()?.iter() {
                transports.insert(name.to_owned(), reader.scopes(name, &node)?);
            }
        }
        let digest = Digest::sha256_of(document);
        Ok(Self {
            digest,
            default,
            transports,
            warnings: std::mem::take(&mut reader.warnings),
            notes: std::mem::take(&mut reader.notes),
        })
    }

    /// The same policy, in which a requirement without a `signedIdentity` takes no bundle, for those
    /// name no repository.
    #[must_use]
    pub fn strict_identity(mut self) -> Self {
        self.default.set_strict_identity();
        let scopes = self.transports.values_mut().flat_map(BTreeMap::values_mut);
        scopes.for_each(Requirements::set_strict_identity);
        self
    }

    /// The sha256 digest of the document as it was written.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What is allowed, yet probably not meant.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// What is meant in all likelihood, and worth knowing for who looks at a policy.
    pub(crate) fn notes(&self) -> &[Warning] {
        &self.notes
    }
}

impl SignedIdentity {
    /// Reads a `signedIdentity` object by itself, e.g. for a tool that explains one.
    pub fn parse(object: &[u8]) -> Result<Self, PolicyError> {
        identity(&Json::parse(object)?.root())
    }
}

/// Something in a policy that works, yet its author should know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    place: Place,
    text: Cow<'static, str>,
}

impl Warning {
    pub(crate) fn new(place: Place, text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        Self { place, text }
    }

    /// Where it stands.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What is questionable there.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}
