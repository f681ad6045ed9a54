//! The grammar of trusted roots, of whom they may vouch for, and of attestations.

use std::collections::BTreeMap;

use serde_json::{Number, Value};

use super::read::{Reader, exactly_one, fault, list, optional_identity, text, unknown_value};
use super::{PolicyError, PolicyProblem};
use crate::conditions::{self, Condition, Test};
use crate::identities::{CLAIMS, Identities, Identity, Matcher, Pattern};
use crate::json::{Members, Node};
use crate::keycheck::Purpose;
use crate::lint;
use crate::requirement::{Attestation, AttestedBy, RootSource, RootTrust, SigstoreSigned, Trust};
use crate::sigstore::{Demands, TrustedRoot};

impl Reader {
    /// A trusted root, never without somebody whom it is to vouch for.
    pub(super) fn root(
        &mut self,
        members: &Members<'_>,
        source: &Node<'_>,
    ) -> Result<Trust, PolicyError> {
        let list_node = members
            .optional("identities")
            .ok_or_else(|| fault(source, PolicyProblem::RootWithoutIdentities))?;
        let identities = Identities::new(list(&list_node, identity)?);
        let identities =
            identities.ok_or_else(|| fault(&list_node, PolicyProblem::RootWithoutIdentities))?;
        self.warn(&list_node, lint::about_everybody(&identities));
        let demands = demands(members)?;
        Ok(Trust::Root(Box::new(RootTrust {
            root: self.root_source(source, demands)?,
            identities,
            demands,
        })))
    }

    fn root_source(
        &mut self,
        source: &Node<'_>,
        demands: Demands,
    ) -> Result<RootSource, PolicyError> {
        if source.open_object().is_ok() {
            let document = source.to_value()?.to_string().into_bytes();
            let unusable = |error| fault(source, PolicyProblem::TrustedRoot(error));
            let root = TrustedRoot::parse(&document).map_err(unusable)?;
            root.check(demands).map_err(unusable)?;
            return Ok(RootSource::Inline(document));
        }
        match source.string()? {
            PUBLIC_GOOD => Ok(RootSource::PublicGood),
            path if PLACES.iter().any(|place| path.starts_with(place)) => {
                let purpose = Purpose::TrustedRoot(demands);
                self.path(source, purpose).map(RootSource::Path)
            }
            _ => Err(fault(source, PolicyProblem::RootLocation)),
        }
    }

    pub(super) fn attested_by(&mut self, node: &Node<'_>) -> Result<AttestedBy, PolicyError> {
        let members = node.object(&ATTESTED_KEYS)?;
        self.paths.clear();
        let sources = ["keyPath", "keyPaths", "keyData", "keyDatas", "trustedRoot"];
        let (name, source) = exactly_one(&members, &sources)?;
        let trust = match name {
            "trustedRoot" => self.root(&members, &source)?,
            _ => Trust::Keys(self.material(name, &source, Purpose::PublicKey)?),
        };
        no_identities_without_root(&members, &trust)?;
        let conditions = members.optional("conditions");
        let conditions = conditions.map(|node| list(&node, condition)).transpose()?;
        let by = SigstoreSigned {
            trust,
            rekor: None,
            identity: optional_identity(&members)?,
            annotations: BTreeMap::new(),
            strict_identity: false,
        };
        self.note(node, lint::about_digest_only(&by));
        Ok(AttestedBy {
            by,
            attestation: Attestation {
                predicate_type: predicate_type(&members.required("predicateType")?)?,
                conditions: conditions.unwrap_or_default(),
            },
        })
    }
}

/// Beside keys, identities would name people whom nothing vouches for.
pub(super) fn no_identities_without_root(
    members: &Members<'_>,
    trust: &Trust,
) -> Result<(), PolicyError> {
    if matches!(trust, Trust::Root(_)) {
        return Ok(());
    }
    for key in ["identities", "evidence"] {
        if let Some(node) = members.optional(key) {
            return Err(fault(&node, PolicyProblem::NeedsRoot { key }));
        }
    }
    Ok(())
}

/// What must be signed beside the digest.
pub(super) fn annotations(members: &Members<'_>) -> Result<BTreeMap<String, String>, PolicyError> {
    let Some(node) = members.optional("annotations") else {
        return Ok(BTreeMap::new());
    };
    let mut annotations = BTreeMap::new();
    for (key, value) in node.open_object()?.iter() {
        annotations.insert(key.to_owned(), value.string()?.to_owned());
    }
    if annotations.is_empty() {
        return Err(fault(&node, PolicyProblem::EmptyList));
    }
    Ok(annotations)
}

fn demands(members: &Members<'_>) -> Result<Demands, PolicyError> {
    let mut demands = Demands::default();
    let Some(node) = members.optional("evidence") else {
        return Ok(demands);
    };
    let members = node.object(&["tlog", "sct", "timestamp"])?;
    for (key, demand) in [
        ("tlog", &mut demands.tlog),
        ("sct", &mut demands.sct),
        ("timestamp", &mut demands.timestamp),
    ] {
        if let Some(node) = members.optional(key) {
            *demand = node.boolean()?;
        }
    }
    Ok(demands)
}

fn identity(node: &Node<'_>) -> Result<Identity, PolicyError> {
    let named = ["subject", "subjectRegExp", "issuer", "issuerRegExp"];
    let claims = CLAIMS.map(|(key, _)| key);
    let known: Vec<&str> = named.into_iter().chain(claims).collect();
    let members = node.object(&known)?;
    let mut wanted = BTreeMap::new();
    for key in claims {
        if let Some(node) = members.optional(key) {
            wanted.insert(key, text(&node)?);
        }
    }
    Ok(Identity {
        subject: matcher(&members, ["subject", "subjectRegExp"])?,
        issuer: matcher(&members, ["issuer", "issuerRegExp"])?,
        claims: wanted,
    })
}

fn matcher(members: &Members<'_>, keys: [&'static str; 2]) -> Result<Matcher, PolicyError> {
    let (name, node) = exactly_one(members, &keys)?;
    if name.ends_with("RegExp") {
        pattern(&node).map(Matcher::Pattern)
    } else {
        text(&node).map(Matcher::Exact)
    }
}

fn pattern(node: &Node<'_>) -> Result<Pattern, PolicyError> {
    let pattern = Pattern::parse(node.string()?);
    pattern.map_err(|error| fault(node, PolicyProblem::Pattern(error)))
}

fn predicate_type(node: &Node<'_>) -> Result<String, PolicyError> {
    let written = text(node)?;
    if written.contains("://") {
        return Ok(written);
    }
    let known = PREDICATES.iter().find(|(name, _)| *name == written);
    known.map(|(_, uri)| (*uri).to_owned()).ok_or_else(|| {
        let names = PREDICATES.iter().map(|(name, _)| *name).collect();
        unknown_value(node, &written, names)
    })
}

fn condition(node: &Node<'_>) -> Result<Condition, PolicyError> {
    let known: Vec<&str> = ["pointer"].into_iter().chain(TESTS).collect();
    let members = node.object(&known)?;
    let pointer_node = members.required("pointer")?;
    let pointer = pointer_node.string()?.to_owned();
    if !is_pointer(&pointer) {
        return Err(fault(&pointer_node, PolicyProblem::Pointer));
    }
    let mut tests = Vec::new();
    for key in TESTS {
        if let Some(node) = members.optional(key) {
            tests.push(test(key, &node)?);
        }
    }
    if tests.is_empty() {
        let known = TESTS.to_vec();
        return Err(fault(node, PolicyProblem::NoTest { known }));
    }
    Ok(Condition { pointer, tests })
}

/// RFC 6901 section 3: one with another escape finds nothing, which `"exists": false` would be met by.
fn is_pointer(text: &str) -> bool {
    let escapes = text.split('~').skip(1);
    (text.is_empty() || text.starts_with('/'))
        && escapes.into_iter().all(|rest| rest.starts_with(['0', '1']))
}

fn test(key: &str, node: &Node<'_>) -> Result<Test, PolicyError> {
    Ok(match key {
        "equals" => Test::Equals(value(node)?),
        "oneOf" => Test::OneOf(list(node, value)?),
        "matches" => Test::Matches(pattern(node)?),
        "exists" => Test::Exists(node.boolean()?),
        "atLeast" => Test::AtLeast(number(node)?),
        _ => Test::AtMost(number(node)?),
    })
}

fn number(node: &Node<'_>) -> Result<Number, PolicyError> {
    node.number()?;
    match value(node)? {
        Value::Number(number) => Ok(number),
        _ => Err(node.wrong_type("a number").into()),
    }
}

/// A value whose numbers are compared as they are written.
fn value(node: &Node<'_>) -> Result<Value, PolicyError> {
    fn is_exact(value: &Value) -> bool {
        match value {
            Value::Number(number) => conditions::is_exact(number),
            Value::Array(items) => items.iter().all(is_exact),
            Value::Object(members) => members.values().all(is_exact),
            _ => true,
        }
    }
    let value = node.to_value()?;
    if is_exact(&value) {
        Ok(value)
    } else {
        Err(fault(node, PolicyProblem::NumberNotExact))
    }
}

const PUBLIC_GOOD: &str = "public-good";
const PLACES: [&str; 3] = ["kbs:///", "file:///", "/"];
const TESTS: [&str; 6] = ["equals", "oneOf", "matches", "exists", "atLeast", "atMost"];
const ATTESTED_KEYS: [&str; 11] = [
    "type",
    "predicateType",
    "conditions",
    "keyPath",
    "keyPaths",
    "keyData",
    "keyDatas",
    "trustedRoot",
    "identities",
    "evidence",
    "signedIdentity",
];
/// What cosign calls the common predicate types.
const PREDICATES: [(&str, &str); 9] = [
    ("slsaprovenance", "https://slsa.dev/provenance/v0.2"),
    ("slsaprovenance02", "https://slsa.dev/provenance/v0.2"),
    ("slsaprovenance1", "https://slsa.dev/provenance/v1"),
    ("spdx", "https://spdx.dev/Document"),
    ("spdxjson", "https://spdx.dev/Document"),
    ("cyclonedx", "https://cyclonedx.org/bom"),
    ("openvex", "https://openvex.dev/ns"),
    ("vuln", "https://cosign.sigstore.dev/attestation/vuln/v1"),
    ("custom", "https://cosign.sigstore.dev/attestation/v1"),
];
