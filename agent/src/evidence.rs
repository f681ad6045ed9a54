//! What the policy needs, fetched: keys from the KBS or files, signatures from the registry.
//!
//! Nothing here decides. What cannot be had is handed to the policy as "not fetched, because",
//! and the policy refuses with that reason.

use std::collections::BTreeMap;
use std::time::SystemTime;

use futures_util::future::join_all;
use policy::{CosignSignature, Descriptor, Digest, Evidence, MAX_MANIFEST_BYTES, Needs};
use policy::{attachment_tag, parse_attachments};

use crate::error::chain;
use crate::lookaside::Place;
use crate::registry::{RegistryError, Source};
use crate::resources::Resources;

/// Fetches everything that `needs` names, all at once.
pub(crate) async fn gather(
    resources: &Resources,
    source: &Source,
    place: &Place<'_>,
    needs: &Needs,
) -> Evidence {
    let keys = join_all(needs.resources.iter().map(|location| async move {
        let content = resources.fetch(location).await;
        let content = content
            .map(|secret| secret.expose().to_vec())
            .map_err(|e| chain(&e));
        (location.clone(), content)
    }));
    let signatures = join_all(
        needs
            .cosign_subjects
            .iter()
            .map(|subject| async move { (*subject, attached(source, place, subject).await) }),
    );
    let simple = join_all(
        needs
            .lookaside_subjects
            .iter()
            .map(|subject| async move { (*subject, place.signatures(subject).await) }),
    );
    let (keys, signatures, simple) = tokio::join!(keys, signatures, simple);
    let mut evidence = Evidence::default();
    evidence.resources.extend(keys);
    evidence.cosign.extend(signatures);
    evidence.simple.extend(simple);
    evidence.now = Some(SystemTime::now());
    evidence
}

/// The cosign signatures of one document, unless the owner has said not to look for any.
async fn attached(
    source: &Source,
    place: &Place<'_>,
    subject: &Digest,
) -> Result<Vec<CosignSignature>, String> {
    if place.uses_attachments() {
        signatures(source, subject).await
    } else {
        Err("use-sigstore-attachments is false for the image".to_owned())
    }
}

/// The cosign signatures of one document: the layers of the image under its `.sig` tag.
async fn signatures(source: &Source, subject: &Digest) -> Result<Vec<CosignSignature>, String> {
    let tag = attachment_tag(subject);
    let served = match source.manifest(&tag, MAX_MANIFEST_BYTES).await {
        Ok(served) => served,
        // No such tag: not signed. Any other failure is no proof of that.
        Err(RegistryError::NotFound { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(chain(&error)),
    };
    let content_type = served.untrusted_content_type.as_deref();
    let attachments = parse_attachments(content_type, &served.untrusted_bytes)
        .map_err(|error| format!("{tag}: {}", chain(&error)))?;
    if attachments.len() > MAX_SIGNATURES {
        let found = attachments.len();
        return Err(format!(
            "{tag} has {found} signatures, at most {MAX_SIGNATURES} are read"
        ));
    }
    let payloads = payloads(source, &attachments).await;
    Ok(attachments
        .iter()
        .enumerate()
        .map(|(index, attachment)| CosignSignature {
            found: format!("{tag}[{index}]"),
            media_type: attachment.media_type().to_owned(),
            payload: payloads
                .get(attachment.digest())
                .cloned()
                .unwrap_or_else(|| Err("not fetched".to_owned())),
            annotations: attachment.annotations().clone(),
        })
        .collect())
}

/// The payloads by digest, each fetched once: two keys that sign one payload share its blob.
async fn payloads(
    source: &Source,
    attachments: &[Descriptor],
) -> BTreeMap<Digest, Result<Vec<u8>, String>> {
    let distinct: BTreeMap<&Digest, &Descriptor> = attachments
        .iter()
        .map(|attachment| (attachment.digest(), attachment))
        .collect();
    let mut fetched = BTreeMap::new();
    let mut budget = MAX_PAYLOADS_BYTES;
    for (digest, attachment) in distinct {
        // Every attachment keeps a copy, so every one counts.
        let copies = attachments
            .iter()
            .filter(|other| other.digest() == digest)
            .count();
        let copies = u64::try_from(copies).unwrap_or(u64::MAX);
        let payload = source
            .small_blob(attachment, (budget / copies).min(MAX_PAYLOAD_BYTES))
            .await;
        if let Ok(bytes) = &payload {
            let kept = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            budget = budget.saturating_sub(kept.saturating_mul(copies));
        }
        fetched.insert(*digest, payload.map_err(|error| chain(&error)));
    }
    fetched
}

/// Signatures per document; more would make every pull pay for a registry's spite.
const MAX_SIGNATURES: usize = 64;
/// Bytes of one signed payload; real ones have a few hundred.
const MAX_PAYLOAD_BYTES: u64 = 1 << 20;
/// Bytes of all payloads of one document.
const MAX_PAYLOADS_BYTES: u64 = 8 << 20;
