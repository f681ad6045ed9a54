//! `signedBy`: the simple-signing signatures of an image against the keyrings of a requirement.

use std::time::SystemTime;

use crate::claims::Claims;
use crate::cosign::{SignatureProblem, subject_of};
use crate::decision::{Finding, Proof, Refusal};
use crate::evidence::{Evidence, SimpleSignature};
use crate::fingerprint::Fingerprint;
use crate::identity::SignedIdentity;
use crate::manifest::{Manifest, Unverified};
use crate::openpgp::{Hashes, KeyringError, Keyrings, open_simple};
use crate::requirement::{Material, Piece, SignedBy};
use crate::rules::{load_pieces, signatures_on};
use crate::search::Search;

/// `signedBy` with `GPGKeys`.
pub(crate) struct SimpleCheck<'a> {
    pub(crate) signed: &'a SignedBy,
}

impl<'a> SimpleCheck<'a> {
    /// The locations of the keyrings.
    pub(crate) fn resources(&self) -> impl Iterator<Item = String> + use<'a> {
        let pieces = self.signed.keys.pieces().into_iter();
        pieces.filter_map(Piece::path).map(str::to_owned)
    }

    /// Goes through the signatures that were found until `search` has enough.
    pub(crate) fn examine(
        &self,
        manifest: &Unverified<Manifest>,
        evidence: &Evidence,
        search: &mut Search<'_>,
    ) -> Finding {
        let keys = match load_keyrings(&self.signed.keys, evidence) {
            Ok(keys) => keys,
            Err(refusal) => return Finding::refused(SIGNED_BY, refusal),
        };
        let Some(now) = evidence.now else {
            return Finding::refused(SIGNED_BY, Refusal::NoTime);
        };
        let (signatures, unlisted) = signatures_on(manifest, &evidence.simple);
        for signature in signatures {
            let verified = self.verify(signature, &keys, now, manifest);
            if search.take(&signature.found, verified) {
                break;
            }
        }
        search.finish(SIGNED_BY, unlisted)
    }

    /// In the order of trust: the signature, then what it says, then whether that is about this
    /// image, then whether it is about the name asked for.
    fn verify(
        &self,
        signature: &SimpleSignature,
        keys: &Keyrings,
        now: SystemTime,
        manifest: &Unverified<Manifest>,
    ) -> Result<(Proof, Claims), SignatureProblem> {
        let hashes = if self.signed.allow_weak_hashes {
            Hashes::AlsoSha1
        } else {
            Hashes::Strong
        };
        let (fingerprint, payload) = open_simple(keys, &signature.message, now, hashes)?;
        let subject = subject_of(&payload, manifest)?;
        let signed = payload.untrusted_reference();
        self.signed
            .identity
            .as_ref()
            .unwrap_or(&SignedIdentity::MatchRepoDigestOrExact)
            .accepts(manifest.reference().as_reference(), signed)?;
        let proof = Proof {
            key_fingerprint: Fingerprint::OpenPgp(fingerprint),
            certificate: None,
            logged_at: None,
            found: signature.found.clone(),
            subject,
            signed_reference: signed.to_owned(),
            predicate_type: None,
        };
        Ok((proof, payload.into_claims()))
    }
}

/// Every keyring of the requirement, or the first that is not to be had.
fn load_keyrings(material: &Material, evidence: &Evidence) -> Result<Keyrings, Refusal> {
    let mut keys = Keyrings::default();
    let mut last = String::new();
    for (location, keyring) in load_pieces(material, evidence)? {
        keys.add(keyring)
            .map_err(|problem| Refusal::KeyringUnusable {
                location: location.clone(),
                problem,
            })?;
        last = location;
    }
    if keys.is_empty() {
        return Err(Refusal::KeyringUnusable {
            location: last,
            problem: KeyringError::NoKey,
        });
    }
    Ok(keys)
}

const SIGNED_BY: &str = "signedBy";
