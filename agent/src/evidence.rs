//! What the policy needs, fetched: keys from the KBS or files, signatures from the registry.
//!
//! Nothing here decides. What cannot be had is handed to the policy as "not fetched, because",
//! and the policy refuses with that reason.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use policy::{COSIGN_PAYLOAD, CosignSignature, Descriptor, Digest, Discovered, Evidence};
use policy::{MAX_MANIFEST_BYTES, Needs, NotFetched, attachment_tag, parse_attachments};

use crate::config::EvidencePlaces;
use crate::discovery::discover;
use crate::error::chain;
use crate::lookaside::Place;
use crate::registry::{RegistryError, Source};
use crate::resources::Resources;

/// Fetches the keys at `locations`, all at once.
pub(crate) async fn keys(
    resources: &Resources,
    locations: BTreeSet<String>,
) -> BTreeMap<String, Result<Vec<u8>, NotFetched>> {
    let keys = locations.into_iter().map(|location| async move {
        let content = resources.fetch(&location).await;
        let content = content
            .map(|secret| secret.expose().to_vec())
            .map_err(|error| not_fetched(chain(&error), error.is_transient()));
        (location, content)
    });
    join_all(keys).await.into_iter().collect()
}

/// Looks for bundles and attestations of each of the `subjects`: in registries at those of `places`
/// where the owner wants it, and wherever else `settings` has some.
pub(crate) async fn discovered(
    resources: &Resources,
    places: &[Place<'_>],
    settings: &EvidencePlaces,
    subjects: &[Digest],
) -> BTreeMap<Digest, Discovered> {
    let sources = &attached(places);
    let discovered = subjects.iter().map(|subject| async move {
        // Boxed, since most pulls discover nothing and would carry its room about.
        let found = Box::pin(discover(sources, resources, settings, subject));
        (*subject, found.await)
    });
    join_all(discovered).await.into_iter().collect()
}

/// Fetches the signatures that `needs` names, all at once, each from the first of `places` that
/// answers: that it has none is an answer, too.
pub(crate) async fn gather(places: &[Place<'_>], needs: &Needs) -> Evidence {
    let sources = &attached(places);
    let signatures = join_all(needs.cosign_subjects.iter().map(|subject| async move {
        if sources.is_empty() {
            return (*subject, Err(NotFetched::not_configured(NO_ATTACHMENTS)));
        }
        let answers = sources.iter().map(|source| signatures(source, subject));
        let answer = first_whole(answers, |found| have_payloads(found), either_has);
        // Boxed, since most pulls look for none and would carry its room about.
        (*subject, Box::pin(answer).await)
    }));
    let simple = join_all(needs.lookaside_subjects.iter().map(|subject| async move {
        let answers = places.iter().map(|place| place.signatures(subject));
        (*subject, first_whole(answers, |_| true, |one, _| one).await)
    }));
    let (signatures, simple) = tokio::join!(signatures, simple);
    let mut evidence = Evidence::default();
    evidence.cosign.extend(signatures);
    evidence.simple.extend(simple);
    evidence
}

/// The first answer that nothing is missing of for now; else all that there are, joined; else why
/// there is none.
async fn first_whole<T>(
    answers: impl Iterator<Item = impl Future<Output = Result<T, NotFetched>>>,
    is_whole: fn(&T) -> bool,
    join: fn(T, T) -> T,
) -> Result<T, NotFetched> {
    let (mut in_part, mut failures) = (None, Vec::new());
    for answer in answers {
        match answer.await {
            Err(failure) if failure.is_transient() => failures.push(failure.why),
            Ok(answer) if !is_whole(&answer) => {
                in_part = Some(match in_part {
                    Some(before) => join(before, answer),
                    None => answer,
                });
            }
            whole => return whole,
        }
    }
    in_part.ok_or_else(|| NotFetched::transient(failures.join("; ")))
}

fn either_has(mut one: Vec<CosignSignature>, other: Vec<CosignSignature>) -> Vec<CosignSignature> {
    for signature in other {
        if !one.contains(&signature) {
            one.push(signature);
        }
    }
    one
}

fn have_payloads(signatures: &[CosignSignature]) -> bool {
    let mut payloads = signatures.iter().map(|signature| &signature.payload);
    !payloads.any(|payload| payload.as_ref().is_err_and(NotFetched::is_transient))
}

/// The places where sigstore attachments are looked up: all but those where the owner says no.
fn attached<'a>(places: &[Place<'a>]) -> Vec<&'a Source> {
    let places = places.iter().filter(|place| place.uses_attachments());
    places.map(Place::source).collect()
}

/// The cosign signatures of one document: the layers of the image under its `.sig` tag.
async fn signatures(source: &Source, subject: &Digest) -> Result<Vec<CosignSignature>, NotFetched> {
    let tag = attachment_tag(subject);
    let served = match source.manifest(&tag, MAX_MANIFEST_BYTES).await {
        Ok(served) => served,
        // No such tag: not signed. Any other failure is no proof of that.
        Err(RegistryError::NotFound { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(unanswered(&error)),
    };
    let content_type = served.untrusted_content_type.as_deref();
    let attachments = parse_attachments(content_type, &served.untrusted_bytes)
        .map_err(|error| NotFetched::permanent(format!("{tag}: {}", chain(&error))))?;
    if attachments.len() > MAX_SIGNATURES {
        let found = attachments.len();
        return Err(NotFetched::permanent(format!(
            "{tag} has {found} signatures, at most {MAX_SIGNATURES} are read"
        )));
    }
    let payloads = payloads(source, &attachments).await;
    Ok(attachments
        .iter()
        .enumerate()
        .map(|(index, attachment)| CosignSignature {
            found: format!("{tag}[{index}]"),
            media_type: attachment.media_type().to_owned(),
            payload: payloads
                .get(&blob(attachment))
                .filter(|_| is_signature(attachment))
                .cloned()
                .unwrap_or_else(|| Err(NotFetched::permanent("it is no cosign signature"))),
            annotations: attachment.annotations().clone(),
        })
        .collect())
}

/// The payloads of cosign's attachments, each fetched once: two keys that sign one payload share
/// its blob.
///
/// The smallest come first. Real ones are small, so that large ones that somebody has put beside
/// them use up only what the real ones have left.
async fn payloads(
    source: &Source,
    attachments: &[Descriptor],
) -> BTreeMap<Blob, Result<Vec<u8>, NotFetched>> {
    let mut distinct: BTreeMap<Blob, (&Descriptor, u64)> = BTreeMap::new();
    for attachment in attachments.iter().filter(|one| is_signature(one)) {
        let (_, copies) = distinct.entry(blob(attachment)).or_insert((attachment, 0));
        // Every attachment keeps a copy, so every one counts.
        *copies += 1;
    }
    let mut fetched = BTreeMap::new();
    let mut budget = MAX_PAYLOADS_BYTES;
    for (blob, (attachment, copies)) in distinct {
        let limit = (budget / copies).min(MAX_PAYLOAD_BYTES);
        let payload = source.small_blob(attachment, limit).await;
        if let Ok(bytes) = &payload {
            let kept = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            budget = budget.saturating_sub(kept.saturating_mul(copies));
        }
        fetched.insert(blob, payload.map_err(|error| unanswered(&error)));
    }
    fetched
}

fn is_signature(attachment: &Descriptor) -> bool {
    attachment.media_type() == COSIGN_PAYLOAD
}

/// A blob as attachments name it, in the order of sizes. The size belongs to it: an attachment that
/// lies about the size of another's blob spoils itself alone.
type Blob = (u64, Digest);

fn blob(attachment: &Descriptor) -> Blob {
    (attachment.size(), *attachment.digest())
}

/// What a registry did not serve.
pub(crate) fn unanswered(error: &RegistryError) -> NotFetched {
    not_fetched(chain(error), error.is_transient())
}

fn not_fetched(why: String, is_transient: bool) -> NotFetched {
    if is_transient {
        NotFetched::transient(why)
    } else {
        NotFetched::permanent(why)
    }
}

/// Why the registry is not asked for what cosign keeps there.
pub(crate) const NO_ATTACHMENTS: &str = "use-sigstore-attachments is false for the image";
/// Signatures per document; more would make every pull pay for a registry's spite.
const MAX_SIGNATURES: usize = 64;
/// Bytes of one signed payload; real ones have a few hundred.
const MAX_PAYLOAD_BYTES: u64 = 1 << 20;
/// Bytes of all payloads of one document.
const MAX_PAYLOADS_BYTES: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(found: &str, payload: Result<&[u8], &str>) -> CosignSignature {
        CosignSignature {
            found: found.to_owned(),
            media_type: COSIGN_PAYLOAD.to_owned(),
            payload: payload.map(<[u8]>::to_vec).map_err(NotFetched::transient),
            annotations: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn what_two_places_have_in_part_is_joined_unless_a_third_has_all() {
        let (good, late) = (Ok(b"good".as_slice()), Err("no answer"));
        let first = vec![signature("0", late), signature("1", late)];
        let second = vec![signature("0", good), signature("1", late)];
        let third = vec![signature("0", good), signature("1", good)];
        let answer = async |places: Vec<Result<Vec<CosignSignature>, NotFetched>>| {
            let places = places.into_iter().map(|place| async { place });
            first_whole(places, |found| have_payloads(found), either_has).await
        };
        let down = || Err(NotFetched::transient("down"));
        let joined = answer(vec![Ok(first.clone()), down(), Ok(second.clone())]).await;
        let expected = [first.as_slice(), &second[..1]].concat();
        assert_eq!(joined.unwrap(), expected);
        let whole = answer(vec![Ok(first), Ok(second), Ok(third.clone())]).await;
        assert_eq!(whole.unwrap(), third);
        assert_eq!(
            answer(vec![down(), down()]).await.unwrap_err().why,
            "down; down"
        );
    }
}
