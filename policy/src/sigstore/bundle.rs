//! What somebody says is a bundle.

use serde_json::{Value, json};
use sigstore_verify::types::bundle::{
    TransparencyLogEntry, VerificationMaterial, VerificationMaterialContent,
};
use sigstore_verify::types::{Bundle, Checkpoint, SignatureContent};
use sigstore_verify::{Policy, VerificationResult, Verifier};

use super::{BundleArtifact, BundleProblem, refused};
use crate::certificate::Certificate;
use crate::json::{Json, Members};
use crate::key::PublicKey;
use crate::printable::printable;

/// A Sigstore bundle, read and of a known version. Nothing in it is proved.
#[derive(Debug, Clone)]
pub struct UntrustedBundle(Bundle);

impl UntrustedBundle {
    /// Reads a bundle of version 0.1 to 0.3.
    pub fn parse(document: &[u8]) -> Result<Self, BundleProblem> {
        check_size(document)?;
        // The engine's reader takes what stands twice or lies deep in whatever way it likes, and of
        // the members that exclude each other the first.
        let json = Json::parse(document)?;
        let top = json.root().open_object()?;
        // Without one the engine takes it for the oldest version, of which it wants the least.
        top.required("mediaType")?.string()?;
        one_of(&top, CONTENTS)?;
        let material = top.required("verificationMaterial")?.open_object()?;
        one_of(&material, SIGNERS)?;
        let text = String::from_utf8_lossy(document);
        let bundle = Bundle::from_json(&text).map_err(|source| BundleProblem::Malformed {
            why: printable(&source),
        })?;
        check_parts(&bundle.verification_material)?;
        for entry in &bundle.verification_material.tlog_entries {
            check_kind(entry)?;
        }
        Ok(Self(bundle))
    }

    /// Reads a bundle, and no evidence in it: whether a key made the signature is told without.
    pub(crate) fn parse_without_evidence(document: &[u8]) -> Result<Self, BundleProblem> {
        check_size(document)?;
        let mut bundle = Json::parse(document)?.root().to_value()?;
        if let Some(Value::Object(material)) = bundle.get_mut("verificationMaterial") {
            material.remove("tlogEntries");
            material.remove("timestampVerificationData");
        }
        Self::parse(bundle.to_string().as_bytes())
    }

    /// A bundle of an envelope alone.
    pub(crate) fn of_envelope(envelope: &Value) -> Result<Self, BundleProblem> {
        let bundle = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": ""}},
            "dsseEnvelope": envelope,
        });
        Self::parse(bundle.to_string().as_bytes())
    }

    /// What `engine` finds.
    pub(super) fn judged_by(
        &self,
        engine: &Verifier,
        artifact: BundleArtifact<'_>,
        policy: &impl Policy,
    ) -> Result<VerificationResult, BundleProblem> {
        let found = engine.verify(artifact.argument()?, &self.0, policy);
        found.map_err(|error| refused(&error))
    }

    /// Whether a checkpoint in it has a signature that may be by the log of this name.
    pub(super) fn has_proof_by(&self, log: &[u8]) -> bool {
        let mut notes = checkpoints(&self.0.verification_material);
        notes.any(|note| {
            let mut signatures = note.signatures().iter();
            signatures.any(|signature| log.starts_with(signature.key_id.as_slice()))
        })
    }

    /// The type and the bytes of what the envelope in it has.
    pub(crate) fn untrusted_statement(&self) -> Result<(&str, &[u8]), BundleProblem> {
        match &self.0.content {
            SignatureContent::DsseEnvelope(envelope) => {
                Ok((&envelope.payload_type, envelope.payload.as_bytes()))
            }
            _ => Err(BundleProblem::NoEnvelope),
        }
    }

    /// Whether the envelope's signature is by `key`.
    pub(crate) fn is_signed_by(&self, key: &PublicKey) -> Result<bool, BundleProblem> {
        match &self.0.content {
            SignatureContent::DsseEnvelope(envelope) => {
                Ok(key.verifies(&envelope.pae(), envelope.signature.sig.as_bytes()))
            }
            _ => Err(BundleProblem::NoEnvelope),
        }
    }

    pub(super) fn require_log_entry(&self) -> Result<(), BundleProblem> {
        if self.0.verification_material.tlog_entries.is_empty() {
            return Err(BundleProblem::NoLogEntry);
        }
        Ok(())
    }

    /// The same without timestamps: the engine refuses any that it cannot verify, for which it needs
    /// an authority.
    pub(crate) fn without_timestamps(&self) -> Self {
        let mut bundle = self.0.clone();
        let data = &mut bundle.verification_material.timestamp_verification_data;
        data.rfc3161_timestamps.clear();
        Self(bundle)
    }

    pub(super) fn has_timestamp(&self) -> bool {
        let data = &self.0.verification_material.timestamp_verification_data;
        !data.rfc3161_timestamps.is_empty()
    }

    pub(super) fn certificates(&self) -> Result<Vec<Certificate>, BundleProblem> {
        let ders: Vec<&[u8]> = match &self.0.verification_material.content {
            VerificationMaterialContent::Certificate(one) => vec![one.raw_bytes.as_bytes()],
            VerificationMaterialContent::X509CertificateChain { certificates } => certificates
                .iter()
                .map(|one| one.raw_bytes.as_bytes())
                .collect(),
            _ => Vec::new(),
        };
        let parse = |der: &[u8]| Certificate::from_der(der.to_vec());
        let certificates: Result<_, _> = ders.into_iter().map(parse).collect();
        certificates.map_err(BundleProblem::Certificate)
    }
}

fn check_size(document: &[u8]) -> Result<(), BundleProblem> {
    let (limit, found) = (MAX_BUNDLE_BYTES, document.len());
    if found > limit {
        return Err(BundleProblem::TooLarge { limit, found });
    }
    Ok(())
}

/// That there is no more of anything than an honest bundle has.
fn check_parts(material: &VerificationMaterial) -> Result<(), BundleProblem> {
    let chain = match &material.content {
        VerificationMaterialContent::X509CertificateChain { certificates } => certificates.len(),
        _ => 1,
    };
    let stamps = &material.timestamp_verification_data.rfc3161_timestamps;
    let witnesses = checkpoints(material).map(|note| note.signatures().len());
    for (what, found) in [
        ("certificates", chain),
        ("log entries", material.tlog_entries.len()),
        ("timestamps", stamps.len()),
        // Each that has the log's name costs a check.
        (
            "signatures under a checkpoint",
            witnesses.max().unwrap_or_default(),
        ),
    ] {
        if found > MAX_PARTS {
            return Err(BundleProblem::TooMany { what, found });
        }
    }
    Ok(())
}

fn checkpoints(material: &VerificationMaterial) -> impl Iterator<Item = &Checkpoint> {
    let proofs = material.tlog_entries.iter();
    let proofs = proofs.filter_map(|entry| entry.inclusion_proof.as_ref());
    proofs.filter_map(|proof| proof.checkpoint.checkpoint())
}

/// That the body which the log signs is of the kind as which it is read: what stands beside it is
/// signed by nobody.
fn check_kind(entry: &TransparencyLogEntry) -> Result<(), BundleProblem> {
    let json = Json::parse(entry.canonicalized_body.as_bytes())?;
    let body = json.root().open_object()?;
    let found = (
        body.required("kind")?.string()?,
        body.required("apiVersion")?.string()?,
    );
    let stated = (entry.kind_version.kind(), entry.kind_version.version());
    if found == stated {
        return Ok(());
    }
    let name = |(kind, version)| format!("{kind} {version}");
    Err(BundleProblem::EntryKind {
        stated: name(stated),
        found: name(found),
    })
}

/// Whether there is one member of a group of which a bundle has one (a `oneof` of its protocol).
fn one_of(members: &Members<'_>, group: &'static [&'static str]) -> Result<(), BundleProblem> {
    let found = group.iter().filter(|name| members.non_null(name).is_some());
    match found.count() {
        1 => Ok(()),
        found => Err(BundleProblem::NotOne { group, found }),
    }
}

/// What is signed: a statement in an envelope, or bytes that are elsewhere.
const CONTENTS: &[&str] = &["dsseEnvelope", "messageSignature"];
/// Who signed it.
const SIGNERS: &[&str] = &["certificate", "x509CertificateChain", "publicKey"];
/// Whoever fetches has smaller limits; this one is for those who have none.
const MAX_BUNDLE_BYTES: usize = 8 << 20;
/// An honest bundle has one or two of each, and its checkpoint a signature of each witness.
pub(super) const MAX_PARTS: usize = 32;
