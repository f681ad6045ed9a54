//! The grammar of containers-policy.json(5), one function per kind of object.

use std::collections::{BTreeMap, BTreeSet};

use super::sigstore::{annotations, no_identities_without_root};
use super::{PolicyError, PolicyProblem, Warning};
use crate::encoding::{decode_base64, is_pem};
use crate::identity::{Remap, SignedIdentity, WrittenReference, is_remap_prefix};
use crate::json::{JsonError, Members, Node, nearest};
use crate::keycheck::{KeySite, Purpose};
use crate::lint;
use crate::openpgp::Hashes;
use crate::requirement::{
    Fulcio, KeyType, Material, Pki, Requirement, Requirements, SignedBy, SigstoreSigned, Trust,
};

#[derive(Default)]
pub(super) struct Reader {
    pub(super) warnings: Vec<Warning>,
    pub(super) notes: Vec<Warning>,
    /// Where each key stands, for those who want to know.
    pub(super) sites: Option<Vec<KeySite>>,
    /// How many thresholds stand around what is read now.
    pub(super) depth: usize,
    /// The paths that the requirement which is read now has named so far.
    pub(super) paths: BTreeSet<String>,
}

impl Reader {
    pub(super) fn scopes(
        &mut self,
        transport: &str,
        node: &Node<'_>,
    ) -> Result<BTreeMap<String, Requirements>, PolicyError> {
        let mut scopes = BTreeMap::new();
        for (scope, node) in node.open_object()?.iter() {
            if transport == "dir" && !scope.is_empty() && !is_dir_scope(scope) {
                return Err(fault(&node, PolicyProblem::DirScope));
            }
            let list = self.requirements(&node)?;
            if transport == "docker" {
                self.warn(&node, lint::about_docker_scope(scope));
                let everywhere = lint::about_list(&list).filter(|_| scope.is_empty());
                self.warn(&node, everywhere);
            }
            scopes.insert(scope.to_owned(), list);
        }
        Ok(scopes)
    }

    pub(super) fn requirements(&mut self, node: &Node<'_>) -> Result<Requirements, PolicyError> {
        let items = node.array()?;
        let list = items
            .iter()
            .map(|item| self.requirement(item))
            .collect::<Result<_, _>>()?;
        Requirements::new(list).ok_or_else(|| fault(node, PolicyProblem::EmptyList))
    }

    pub(super) fn requirement(&mut self, node: &Node<'_>) -> Result<Requirement, PolicyError> {
        let kind = node.open_object()?.required("type")?;
        match kind.string()? {
            "insecureAcceptAnything" => {
                node.object(&["type"])?;
                Ok(Requirement::InsecureAcceptAnything)
            }
            "reject" => {
                node.object(&["type"])?;
                Ok(Requirement::Reject)
            }
            "signedBy" => self.signed_by(node).map(Requirement::SignedBy),
            "sigstoreSigned" => self.sigstore_signed(node).map(Requirement::SigstoreSigned),
            "signedBaseLayer" => {
                let members = node.object(&["type", "baseLayerIdentity"])?;
                identity(&members.required("baseLayerIdentity")?).map(Requirement::SignedBaseLayer)
            }
            other => self
                .extension(other, node)?
                .ok_or_else(|| unknown_value(&kind, other, REQUIREMENTS.to_vec())),
        }
    }

    fn signed_by(&mut self, node: &Node<'_>) -> Result<SignedBy, PolicyError> {
        let known = [
            "type",
            "keyType",
            "keyPath",
            "keyPaths",
            "keyData",
            "signedIdentity",
            "allowWeakHashes",
        ];
        let members = node.object(&known)?;
        self.paths.clear();
        let key_type = members.required("keyType")?;
        let name = key_type.string()?;
        let key_type = KeyType::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| {
                unknown_value(&key_type, name, KeyType::ALL.map(KeyType::name).to_vec())
            })?;
        let weak = members.optional("allowWeakHashes");
        let allow_weak_hashes = weak.map(|node| node.boolean()).transpose()?;
        let allow_weak_hashes = allow_weak_hashes.unwrap_or_default();
        let keys = ["keyPath", "keyPaths", "keyData"];
        let (name, key) = exactly_one(&members, &keys)?;
        let hashes = if allow_weak_hashes {
            Hashes::AlsoSha1
        } else {
            Hashes::Strong
        };
        let keys = self.material(name, &key, Purpose::Keyring(hashes))?;
        self.warn(node, lint::about_weak_hashes(allow_weak_hashes));
        Ok(SignedBy {
            key_type,
            keys,
            identity: named_identity(&members)?,
            allow_weak_hashes,
        })
    }

    fn sigstore_signed(&mut self, node: &Node<'_>) -> Result<SigstoreSigned, PolicyError> {
        let members = node.object(&SIGSTORE_KEYS)?;
        self.paths.clear();
        let sources = [
            "keyPath",
            "keyPaths",
            "keyData",
            "keyDatas",
            "fulcio",
            "pki",
            "trustedRoot",
        ];
        let (name, source) = exactly_one(&members, &sources)?;
        let rekor = self.at_most_one(&members, &REKOR_KEYS, Purpose::LogKey)?;
        let trust = match name {
            "fulcio" if rekor.is_none() => {
                return Err(fault(&source, PolicyProblem::FulcioWithoutRekor));
            }
            "fulcio" => Trust::Fulcio(Box::new(self.fulcio(&source)?)),
            "pki" if rekor.is_some() => return Err(fault(&source, PolicyProblem::PkiWithRekor)),
            "pki" => Trust::Pki(Box::new(self.pki(&source)?)),
            "trustedRoot" if rekor.is_some() => {
                return Err(fault(&source, PolicyProblem::RootWithRekor));
            }
            "trustedRoot" => self.root(&members, &source)?,
            _ => Trust::Keys(self.material(name, &source, Purpose::PublicKey)?),
        };
        no_identities_without_root(&members, &trust)?;
        let identity = optional_identity(&members)?;
        self.warn(
            node,
            identity.as_ref().and_then(lint::about_cosign_identity),
        );
        let signed = SigstoreSigned {
            trust,
            rekor,
            identity,
            annotations: annotations(&members)?,
            strict_identity: false,
        };
        self.note(node, lint::about_digest_only(&signed));
        Ok(signed)
    }

    fn fulcio(&mut self, node: &Node<'_>) -> Result<Fulcio, PolicyError> {
        let members = node.object(&FULCIO_KEYS)?;
        let (name, ca) = exactly_one(&members, &["caPath", "caData"])?;
        Ok(Fulcio {
            ca: self.material(name, &ca, Purpose::Certificates)?,
            oidc_issuer: text(&members.required("oidcIssuer")?)?,
            subject_email: text(&members.required("subjectEmail")?)?,
            ct_log: self.at_most_one(&members, &CT_LOG_KEYS, Purpose::LogKey)?,
        })
    }

    fn pki(&mut self, node: &Node<'_>) -> Result<Pki, PolicyError> {
        let members = node.object(&PKI_KEYS)?;
        let (name, roots) = exactly_one(&members, &["caRootsPath", "caRootsData"])?;
        let intermediates = ["caIntermediatesPath", "caIntermediatesData"];
        let subject = |key: &str| match members.optional(key) {
            // One of the two may be left empty, which says the same as leaving it out.
            Some(node) => Ok(Some(node.string()?.to_owned()).filter(|name| !name.is_empty())),
            None => Ok::<_, JsonError>(None),
        };
        let pki = Pki {
            roots: self.material(name, &roots, Purpose::Certificates)?,
            intermediates: self.at_most_one(&members, &intermediates, Purpose::Certificates)?,
            subject_email: subject("subjectEmail")?,
            subject_hostname: subject("subjectHostname")?,
            ct_log: self.at_most_one(&members, &CT_LOG_KEYS, Purpose::LogKey)?,
        };
        if pki.subject_email.is_none() && pki.subject_hostname.is_none() {
            return Err(fault(node, PolicyProblem::PkiWithoutSubject));
        }
        for (key, subject) in [
            ("subjectEmail", &pki.subject_email),
            ("subjectHostname", &pki.subject_hostname),
        ] {
            if let Some(written) = members.optional(key) {
                self.warn(&written, lint::about_empty_subject(subject.is_none()));
            }
        }
        Ok(pki)
    }

    fn at_most_one(
        &mut self,
        members: &Members<'_>,
        keys: &[&'static str],
        purpose: Purpose,
    ) -> Result<Option<Material>, PolicyError> {
        match given(members, keys).as_slice() {
            [] => Ok(None),
            [(name, node)] => self.material(name, node, purpose).map(Some),
            several => {
                let found = several.iter().map(|(name, _)| *name).collect();
                let problem = PolicyProblem::AtMostOne {
                    one_of: keys.to_vec(),
                    found,
                };
                Err(PolicyError {
                    place: members.place(),
                    problem,
                })
            }
        }
    }

    /// The plural and the kind of the value show in the key's name.
    pub(super) fn material(
        &mut self,
        name: &str,
        node: &Node<'_>,
        purpose: Purpose,
    ) -> Result<Material, PolicyError> {
        if name.ends_with("Paths") {
            list(node, |item| self.path(item, purpose)).map(Material::Paths)
        } else if name.ends_with("Datas") {
            list(node, |item| self.data(item, purpose)).map(Material::Datas)
        } else if name.ends_with("Data") {
            self.data(node, purpose).map(Material::Data)
        } else {
            self.path(node, purpose).map(Material::Path)
        }
    }

    pub(super) fn path(
        &mut self,
        node: &Node<'_>,
        purpose: Purpose,
    ) -> Result<String, PolicyError> {
        let path = text(node)?;
        let is_new = self.paths.insert(path.clone());
        self.warn(node, lint::about_path_seen_before(!is_new));
        if let Some(sites) = &mut self.sites {
            sites.push(KeySite::at_path(node.place(), purpose, path.clone()));
        }
        Ok(path)
    }

    fn data(&mut self, node: &Node<'_>, purpose: Purpose) -> Result<Vec<u8>, PolicyError> {
        let written = some_text(node)?;
        let data = if is_pem(written) {
            let text = Some("the value is PEM; the format wants the base64 of it");
            self.warn(node, text);
            written.as_bytes().to_vec()
        } else {
            let decoded = decode_base64(written);
            decoded.map_err(|source| fault(node, PolicyProblem::Base64(source)))?
        };
        if let Some(sites) = &mut self.sites {
            sites.push(KeySite::inline(node.place(), purpose, data.clone()));
        }
        Ok(data)
    }
}

impl Reader {
    pub(super) fn note(&mut self, node: &Node<'_>, text: Option<&'static str>) {
        // Who looks for the keys looks at these, too; to write out where they stand costs something.
        if self.sites.is_some() {
            self.notes
                .extend(text.map(|text| Warning::new(node.place(), text)));
        }
    }

    pub(super) fn warn(&mut self, node: &Node<'_>, text: Option<&'static str>) {
        self.warnings
            .extend(text.map(|text| Warning::new(node.place(), text)));
    }
}

/// One that is about names: what is signed otherwise than in a bundle always has one.
fn named_identity(members: &Members<'_>) -> Result<Option<SignedIdentity>, PolicyError> {
    let identity = optional_identity(members)?;
    match (&identity, members.optional("signedIdentity")) {
        (Some(SignedIdentity::DigestOnly), Some(node)) => {
            Err(fault(&node, PolicyProblem::DigestOnlyHere))
        }
        _ => Ok(identity),
    }
}

pub(super) fn optional_identity(
    members: &Members<'_>,
) -> Result<Option<SignedIdentity>, PolicyError> {
    members
        .optional("signedIdentity")
        .map(|node| identity(&node))
        .transpose()
}

pub(super) fn identity(node: &Node<'_>) -> Result<SignedIdentity, PolicyError> {
    let kind = node.open_object()?.required("type")?;
    let plain = |identity| {
        node.object(&["type"])
            .map(|_| identity)
            .map_err(PolicyError::from)
    };
    match kind.string()? {
        "matchExact" => plain(SignedIdentity::MatchExact),
        "matchRepoDigestOrExact" => plain(SignedIdentity::MatchRepoDigestOrExact),
        "matchRepository" => plain(SignedIdentity::MatchRepository),
        "digestOnly" => plain(SignedIdentity::DigestOnly),
        "exactReference" => {
            let member = node
                .object(&["type", "dockerReference"])?
                .required("dockerReference")?;
            let written = written_reference(&member)?;
            if written.reference().is_name_only() {
                return Err(fault(&member, PolicyProblem::NameOnly));
            }
            Ok(SignedIdentity::ExactReference(written))
        }
        "exactRepository" => {
            let members = node.object(&["type", "dockerRepository"])?;
            let member = members.required("dockerRepository")?;
            written_reference(&member).map(SignedIdentity::ExactRepository)
        }
        "remapIdentity" => {
            let members = node.object(&["type", "prefix", "signedPrefix"])?;
            let prefix = remap_prefix(&members.required("prefix")?)?;
            let signed_prefix = remap_prefix(&members.required("signedPrefix")?)?;
            Ok(SignedIdentity::RemapIdentity(Remap::new(
                prefix,
                signed_prefix,
            )))
        }
        other => Err(unknown_value(&kind, other, IDENTITIES.to_vec())),
    }
}

fn written_reference(node: &Node<'_>) -> Result<WrittenReference, PolicyError> {
    WrittenReference::parse(node.string()?)
        .map_err(|source| fault(node, PolicyProblem::Reference(source)))
}

fn remap_prefix<'a>(node: &Node<'a>) -> Result<&'a str, PolicyError> {
    let prefix = node.string()?;
    if is_remap_prefix(prefix) {
        Ok(prefix)
    } else {
        Err(fault(node, PolicyProblem::RemapPrefix))
    }
}

/// Presence counts, not the value: a null beside another key is one too many.
fn given<'a>(members: &Members<'a>, keys: &[&'static str]) -> Vec<(&'static str, Node<'a>)> {
    keys.iter()
        .filter_map(|key| members.optional(key).map(|node| (*key, node)))
        .collect()
}

pub(super) fn exactly_one<'a>(
    members: &Members<'a>,
    keys: &[&'static str],
) -> Result<(&'static str, Node<'a>), PolicyError> {
    let given = given(members, keys);
    if let [one] = given.as_slice() {
        return Ok(one.clone());
    }
    let found = given.iter().map(|(name, _)| *name).collect();
    let problem = PolicyProblem::ExactlyOne {
        one_of: keys.to_vec(),
        found,
    };
    Err(PolicyError {
        place: members.place(),
        problem,
    })
}

pub(super) fn list<T>(
    node: &Node<'_>,
    read: impl FnMut(&Node<'_>) -> Result<T, PolicyError>,
) -> Result<Vec<T>, PolicyError> {
    let items = node.array()?;
    if items.is_empty() {
        return Err(fault(node, PolicyProblem::EmptyList));
    }
    items.iter().map(read).collect()
}

pub(super) fn text(node: &Node<'_>) -> Result<String, PolicyError> {
    some_text(node).map(str::to_owned)
}

fn some_text<'a>(node: &Node<'a>) -> Result<&'a str, PolicyError> {
    match node.string()? {
        "" => Err(fault(node, PolicyProblem::EmptyText)),
        text => Ok(text),
    }
}

pub(super) fn unknown_value(node: &Node<'_>, found: &str, known: Vec<&'static str>) -> PolicyError {
    let suggestion = nearest(found, known.iter().copied()).map(str::to_owned);
    let found = found.to_owned();
    fault(
        node,
        PolicyProblem::UnknownValue {
            found,
            suggestion,
            known,
        },
    )
}

pub(super) fn fault(node: &Node<'_>, problem: PolicyProblem) -> PolicyError {
    PolicyError {
        place: node.place(),
        problem,
    }
}

/// A clean absolute path below the root.
fn is_dir_scope(scope: &str) -> bool {
    scope.strip_prefix('/').is_some_and(|rest| {
        rest.split('/')
            .all(|component| !matches!(component, "" | "." | ".."))
    })
}

const REQUIREMENTS: [&str; 11] = [
    "insecureAcceptAnything",
    "reject",
    "signedBy",
    "sigstoreSigned",
    "signedBaseLayer",
    // Beyond the format.
    "attestedBy",
    "digestAllowed",
    "encrypted",
    "notOlder",
    "requireDigest",
    "threshold",
];
const IDENTITIES: [&str; 7] = [
    "matchExact",
    "matchRepoDigestOrExact",
    "matchRepository",
    "exactReference",
    "exactRepository",
    "remapIdentity",
    // Beyond the format.
    "digestOnly",
];
const REKOR_KEYS: [&str; 4] = [
    "rekorPublicKeyPath",
    "rekorPublicKeyPaths",
    "rekorPublicKeyData",
    "rekorPublicKeyDatas",
];
const SIGSTORE_KEYS: [&str; 16] = [
    "type",
    "keyPath",
    "keyPaths",
    "keyData",
    "keyDatas",
    "fulcio",
    "pki",
    "rekorPublicKeyPath",
    "rekorPublicKeyPaths",
    "rekorPublicKeyData",
    "rekorPublicKeyDatas",
    "signedIdentity",
    // Beyond the format.
    "trustedRoot",
    "identities",
    "evidence",
    "annotations",
];
const FULCIO_KEYS: [&str; 8] = [
    "caPath",
    "caData",
    "oidcIssuer",
    "subjectEmail",
    // Beyond the format.
    "ctLogPublicKeyPath",
    "ctLogPublicKeyPaths",
    "ctLogPublicKeyData",
    "ctLogPublicKeyDatas",
];
const PKI_KEYS: [&str; 10] = [
    "caRootsPath",
    "caRootsData",
    "caIntermediatesPath",
    "caIntermediatesData",
    "subjectEmail",
    "subjectHostname",
    // Beyond the format.
    "ctLogPublicKeyPath",
    "ctLogPublicKeyPaths",
    "ctLogPublicKeyData",
    "ctLogPublicKeyDatas",
];
const CT_LOG_KEYS: [&str; 4] = [
    "ctLogPublicKeyPath",
    "ctLogPublicKeyPaths",
    "ctLogPublicKeyData",
    "ctLogPublicKeyDatas",
];
