//! Bundles: statements about an image, signed by somebody. A signature is the one that says nothing
//! but that.

use std::collections::BTreeMap;

use crate::attached::{bare_envelope, envelope_as_bundle};
use crate::claims::Claims;
use crate::cosign::SignatureProblem;
use crate::decision::{DIGEST_ONLY, Proof};
use crate::evidence::CosignSignature;
use crate::identity::SignedIdentity;
use crate::manifest::{Manifest, Unverified};
use crate::requirement::{Attestation, SigstoreSigned};
use crate::signers::Signers;
use crate::sigstore::UntrustedBundle;
use crate::statement::UntrustedStatement;

/// Whether an artefact with a layer of this media type is a bundle.
pub(crate) fn is_bundle(media_type: &str) -> bool {
    media_type.starts_with(BUNDLE)
}

/// Whether an artefact with a layer of this media type may attest something.
pub(crate) fn is_attestation(media_type: &str) -> bool {
    is_bundle(media_type) || media_type == ENVELOPE
}

/// Checks one bundle against a requirement for signatures.
pub(crate) fn verify_signature(
    found: &CosignSignature,
    signers: &Signers,
    wanted: &SigstoreSigned,
    manifest: &Unverified<Manifest>,
) -> Result<(Proof, Claims), SignatureProblem> {
    let (proof, claims, statement) = verify(found, signers, wanted, manifest)?;
    check_predicate_type(&statement, SIGNATURE)?;
    check_annotations(&wanted.annotations, &claims)?;
    Ok((proof, claims))
}

/// Checks one bundle or envelope against a requirement for attestations.
pub(crate) fn verify_attestation(
    found: &CosignSignature,
    signers: &Signers,
    wanted: &SigstoreSigned,
    attestation: &Attestation,
    manifest: &Unverified<Manifest>,
) -> Result<(Proof, Claims), SignatureProblem> {
    let (proof, claims, statement) = verify(found, signers, wanted, manifest)?;
    check_predicate_type(&statement, &attestation.predicate_type)?;
    for condition in &attestation.conditions {
        condition.check(statement.predicate())?;
    }
    let predicate_type = Some(attestation.predicate_type.clone());
    let proof = Proof {
        predicate_type,
        ..proof
    };
    Ok((proof, claims))
}

/// Every text that the policy wants beside a signature, signed with it.
pub(crate) fn check_annotations(
    wanted: &BTreeMap<String, String>,
    claims: &Claims,
) -> Result<(), SignatureProblem> {
    for (key, expected) in wanted {
        let found = claims.annotations.get(key);
        if found != Some(expected) {
            return Err(SignatureProblem::Annotation {
                key: key.clone(),
                expected: expected.clone(),
                found: found.cloned(),
            });
        }
    }
    Ok(())
}

fn verify(
    found: &CosignSignature,
    signers: &Signers,
    wanted: &SigstoreSigned,
    manifest: &Unverified<Manifest>,
) -> Result<(Proof, Claims, UntrustedStatement), SignatureProblem> {
    let untrusted = match &found.payload {
        Ok(untrusted) => untrusted,
        Err(why) => return Err(SignatureProblem::NotFetched { why: why.clone() }),
    };
    let is_bundle = is_bundle(&found.media_type);
    let bundle = match (is_bundle, signers.need_the_signature_alone()) {
        (true, true) => UntrustedBundle::parse_without_evidence(untrusted)?,
        (true, false) => UntrustedBundle::parse(untrusted)?,
        (false, true) => bare_envelope(untrusted)?,
        (false, false) => envelope_as_bundle(found, untrusted)?,
    };
    // What a stranger says is not read. Of a certificate only the engine can tell whose it is, and
    // it must be told which digest the signature is to be for; what it then proves is that these
    // very bytes are signed.
    let claimant = signers.claimant(&bundle)?;
    let (payload_type, payload) = bundle.untrusted_statement()?;
    let statement = UntrustedStatement::parse(payload_type, payload)?;
    let (subject, digest, annotations) = statement.about(manifest)?;
    let signed = claimant.prove(&bundle, digest)?;
    check_identity(wanted)?;
    let proof = Proof {
        key_fingerprint: signed.signer,
        certificate: signed.certificate,
        logged_at: signed.logged_at,
        found: found.found.clone(),
        subject,
        signed_reference: DIGEST_ONLY.to_owned(),
        predicate_type: None,
    };
    let claims = Claims {
        timestamp: None,
        annotations: annotations.clone(),
    };
    Ok((proof, claims, statement))
}

/// A bundle names a digest and no repository.
fn check_identity(wanted: &SigstoreSigned) -> Result<(), SignatureProblem> {
    match &wanted.identity {
        None if wanted.strict_identity => Err(SignatureProblem::IdentityNotStated),
        None | Some(SignedIdentity::DigestOnly) => Ok(()),
        Some(identity) => Err(SignatureProblem::NamesNoRepository {
            rule: identity.name(),
        }),
    }
}

fn check_predicate_type(
    statement: &UntrustedStatement,
    expected: &str,
) -> Result<(), SignatureProblem> {
    let found = statement.predicate_type();
    if found == expected {
        return Ok(());
    }
    let (expected, found) = (expected.to_owned(), found.to_owned());
    Err(SignatureProblem::PredicateType { expected, found })
}

/// What the media types of bundles of every version begin with.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// The media type of an attestation without a bundle.
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
/// The predicate of what `cosign sign` makes.
const SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";
