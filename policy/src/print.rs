//! A policy as a document again, every default filled in as the reference implementation has it.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::conditions::{Condition, Test};
use crate::document::Policy;
use crate::encoding::encode_base64;
use crate::extension::{DigestAllowed, NotOlder, Threshold};
use crate::identities::{Identity, Matcher};
use crate::identity::SignedIdentity;
use crate::requirement::{
    AttestedBy, Fulcio, Material, Pki, Requirement, Requirements, RootSource, RootTrust, SignedBy,
    SigstoreSigned, Trust,
};
use crate::sigstore::Demands;

impl Serialize for Policy {
    /// Writes a containers-policy.json document that the reference implementation reads the same.
    ///
    /// A `signedIdentity` that was absent is written as `matchRepoDigestOrExact`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let transport = |scopes: &std::collections::BTreeMap<String, Requirements>| {
            let scope =
                |(scope, list): (&String, &Requirements)| (scope.clone(), requirements(list));
            scopes.iter().map(scope).collect::<Value>()
        };
        let transports = self.transports.iter();
        let transports: Value = transports
            .map(|(name, scopes)| (name.clone(), transport(scopes)))
            .collect();
        json!({"default": requirements(&self.default), "transports": transports})
            .serialize(serializer)
    }
}

pub(crate) fn requirements(list: &Requirements) -> Value {
    list.iter().map(requirement).collect()
}

fn requirement(requirement: &Requirement) -> Value {
    let mut members = Map::new();
    put(&mut members, "type", requirement.name());
    match requirement {
        Requirement::InsecureAcceptAnything
        | Requirement::Reject
        | Requirement::Encrypted
        | Requirement::RequireDigest => {}
        Requirement::SignedBy(signed) => signed_by(&mut members, signed),
        Requirement::SigstoreSigned(signed) => sigstore_signed(&mut members, signed),
        Requirement::AttestedBy(wanted) => attested_by(&mut members, wanted),
        Requirement::DigestAllowed(wanted) => digest_allowed(&mut members, wanted),
        Requirement::NotOlder(wanted) => not_older(&mut members, wanted),
        Requirement::Threshold(wanted) => threshold(&mut members, wanted),
        Requirement::SignedBaseLayer(base) => {
            members.insert("baseLayerIdentity".to_owned(), identity(Some(base)));
        }
    }
    Value::Object(members)
}

fn digest_allowed(members: &mut Map<String, Value>, wanted: &DigestAllowed) {
    members.insert("digests".to_owned(), json!(wanted.digests));
}

fn not_older(members: &mut Map<String, Value>, wanted: &NotOlder) {
    if let Some(moment) = wanted.freshness.signed_after {
        put(members, "signedAfter", &moment.to_string());
    }
    if let Some(bound) = &wanted.freshness.minimum_version {
        let version = bound.version.to_string();
        let bound = json!({"annotation": bound.annotation, "version": version});
        members.insert("minimumVersion".to_owned(), bound);
    }
    members.insert("signature".to_owned(), requirement(&wanted.signature));
}

fn threshold(members: &mut Map<String, Value>, wanted: &Threshold) {
    members.insert("count".to_owned(), json!(wanted.count));
    let of = wanted.of.iter().map(requirement).collect();
    members.insert("of".to_owned(), of);
}

fn signed_by(members: &mut Map<String, Value>, signed: &SignedBy) {
    put(members, "keyType", signed.key_type.name());
    material(members, "key", &signed.keys);
    if signed.allow_weak_hashes {
        members.insert("allowWeakHashes".to_owned(), Value::Bool(true));
    }
    members.insert(
        "signedIdentity".to_owned(),
        identity(signed.identity.as_ref()),
    );
}

fn sigstore_signed(members: &mut Map<String, Value>, signed: &SigstoreSigned) {
    match &signed.trust {
        Trust::Keys(keys) => material(members, "key", keys),
        Trust::Fulcio(wanted) => {
            members.insert("fulcio".to_owned(), fulcio(wanted));
        }
        Trust::Pki(wanted) => {
            members.insert("pki".to_owned(), pki(wanted));
        }
        Trust::Root(wanted) => root(members, wanted),
    }
    if !signed.annotations.is_empty() {
        members.insert("annotations".to_owned(), json!(signed.annotations));
    }
    if let Some(keys) = &signed.rekor {
        material(members, "rekorPublicKey", keys);
    }
    members.insert(
        "signedIdentity".to_owned(),
        identity(signed.identity.as_ref()),
    );
}

fn attested_by(members: &mut Map<String, Value>, wanted: &AttestedBy) {
    sigstore_signed(members, &wanted.by);
    if wanted.by.identity.is_none() {
        members.remove("signedIdentity");
    }
    let attestation = &wanted.attestation;
    put(members, "predicateType", &attestation.predicate_type);
    if !attestation.conditions.is_empty() {
        let conditions = attestation.conditions.iter().map(condition).collect();
        members.insert("conditions".to_owned(), conditions);
    }
}

fn condition(condition: &Condition) -> Value {
    let mut members = Map::new();
    put(&mut members, "pointer", &condition.pointer);
    for test in &condition.tests {
        let (key, value) = match test {
            Test::Equals(value) => ("equals", value.clone()),
            Test::OneOf(values) => ("oneOf", json!(values)),
            Test::Matches(pattern) => ("matches", json!(pattern.text())),
            Test::Exists(wanted) => ("exists", json!(wanted)),
            Test::AtLeast(bound) => ("atLeast", json!(bound)),
            Test::AtMost(bound) => ("atMost", json!(bound)),
        };
        members.insert(key.to_owned(), value);
    }
    Value::Object(members)
}

fn root(members: &mut Map<String, Value>, wanted: &RootTrust) {
    let root = match &wanted.root {
        RootSource::PublicGood => json!("public-good"),
        RootSource::Path(path) => json!(path),
        // It was read as JSON when the policy was.
        RootSource::Inline(document) => serde_json::from_slice(document).unwrap_or_default(),
    };
    members.insert("trustedRoot".to_owned(), root);
    let identities = wanted.identities.iter().map(signer).collect();
    members.insert("identities".to_owned(), identities);
    let Demands {
        tlog,
        sct,
        timestamp,
    } = wanted.demands;
    let demands = json!({"tlog": tlog, "sct": sct, "timestamp": timestamp});
    members.insert("evidence".to_owned(), demands);
}

fn signer(identity: &Identity) -> Value {
    let mut members = Map::new();
    for (key, matcher) in [("subject", &identity.subject), ("issuer", &identity.issuer)] {
        match matcher {
            Matcher::Exact(text) => put(&mut members, key, text),
            Matcher::Pattern(pattern) => {
                put(&mut members, &format!("{key}RegExp"), pattern.text());
            }
        }
    }
    for (key, text) in &identity.claims {
        put(&mut members, key, text);
    }
    Value::Object(members)
}

fn fulcio(wanted: &Fulcio) -> Value {
    let mut members = Map::new();
    material(&mut members, "ca", &wanted.ca);
    put(&mut members, "oidcIssuer", &wanted.oidc_issuer);
    put(&mut members, "subjectEmail", &wanted.subject_email);
    if let Some(keys) = &wanted.ct_log {
        material(&mut members, "ctLogPublicKey", keys);
    }
    Value::Object(members)
}

fn pki(wanted: &Pki) -> Value {
    let mut members = Map::new();
    material(&mut members, "caRoots", &wanted.roots);
    if let Some(certificates) = &wanted.intermediates {
        material(&mut members, "caIntermediates", certificates);
    }
    if let Some(email) = &wanted.subject_email {
        put(&mut members, "subjectEmail", email);
    }
    if let Some(hostname) = &wanted.subject_hostname {
        put(&mut members, "subjectHostname", hostname);
    }
    if let Some(keys) = &wanted.ct_log {
        material(&mut members, "ctLogPublicKey", keys);
    }
    Value::Object(members)
}

fn material(members: &mut Map<String, Value>, prefix: &str, material: &Material) {
    let (suffix, value) = match material {
        Material::Path(path) => ("Path", json!(path)),
        Material::Paths(paths) => ("Paths", json!(paths)),
        Material::Data(data) => ("Data", json!(encode_base64(data))),
        Material::Datas(datas) => (
            "Datas",
            datas.iter().map(|data| encode_base64(data)).collect(),
        ),
    };
    members.insert(format!("{prefix}{suffix}"), value);
}

fn identity(identity: Option<&SignedIdentity>) -> Value {
    let identity = identity.unwrap_or(&SignedIdentity::MatchRepoDigestOrExact);
    let mut members = Map::new();
    put(&mut members, "type", identity.name());
    match identity {
        SignedIdentity::MatchExact
        | SignedIdentity::MatchRepoDigestOrExact
        | SignedIdentity::MatchRepository
        | SignedIdentity::DigestOnly => {}
        SignedIdentity::ExactReference(written) => {
            put(&mut members, "dockerReference", written.text());
        }
        SignedIdentity::ExactRepository(written) => {
            put(&mut members, "dockerRepository", written.text());
        }
        SignedIdentity::RemapIdentity(remap) => {
            put(&mut members, "prefix", remap.prefix());
            put(&mut members, "signedPrefix", remap.signed_prefix());
        }
    }
    Value::Object(members)
}

fn put(members: &mut Map<String, Value>, key: &str, value: &str) {
    members.insert(key.to_owned(), Value::from(value));
}
