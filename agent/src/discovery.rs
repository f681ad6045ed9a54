//! Where evidence about a document is found, apart from the tag `sha256-<hex>.sig`: attestations
//! under `sha256-<hex>.att`, artefacts that refer to the document, a directory of the guest, and
//! the Key Broker Service.
//!
//! What an artefact is, its layers decide; what a list says of it decides only when it is looked at.
//! Every place has the whole of the [`EvidenceLimits`] for itself, so that what somebody puts into
//! one leaves the others as they are. Nothing here decides what counts.

mod delivered;
mod layout;
mod opening;

use std::collections::HashSet;

use policy::parse_attachments;
use policy::{COSIGN_PAYLOAD, Digest, Discovered, MAX_MANIFEST_BYTES, NotFetched};

use self::opening::{Artefact, Opened};
use crate::config::{EvidenceLimits, EvidencePlaces};
use crate::error::chain;
use crate::evidence::{NO_ATTACHMENTS, unanswered};
use crate::registry::{Incomplete, Listing, Referrer, RegistryError, Source};
use crate::resources::Resources;

/// Looks everywhere but under the tag `.sig`: in what the owner delivers and, if `attachments` are
/// to be looked up at all, in the registry, or where else `sources` have it if that does not answer.
pub(crate) async fn discover(
    sources: &[&Source],
    attachments: bool,
    resources: &Resources,
    places: &EvidencePlaces,
    subject: &Digest,
) -> Discovered {
    let limits = &places.limits;
    let in_registry = async {
        if !attachments {
            let unasked = Discovered {
                candidates: Vec::new(),
                incomplete: vec![NotFetched::not_configured(NO_ATTACHMENTS)],
            };
            return [unasked, Discovered::default()];
        }
        let attested = sources.iter();
        let attested = attested.map(|source| attestations(source, limits, subject));
        let referring = sources.iter();
        let referring = referring.map(|source| referrers(source, limits, subject));
        let (attested, referring) = tokio::join!(
            in_time(limits, subject, first_whole(attested)),
            in_time(limits, subject, first_whole(referring)),
        );
        [attested, referring]
    };
    let (delivered, kept, [attested, referring]) = tokio::join!(
        delivered::find(resources, places, subject),
        layout::find(places, subject),
        in_registry,
    );
    let mut found = delivered;
    for part in [kept, attested, referring] {
        found.candidates.extend(part.candidates);
        found.incomplete.extend(part.incomplete);
    }
    found
}

/// What `looking` finds within the deadline, or that it took longer.
async fn in_time(
    limits: &EvidenceLimits,
    subject: &Digest,
    looking: impl Future<Output = Discovered>,
) -> Discovered {
    let late = |_elapsed| {
        let seconds = limits.deadline.as_secs();
        let why = format!(
            "looking for evidence about {subject} took longer than {seconds} s, \
             see image_agent.evidence.deadline"
        );
        Discovered {
            candidates: Vec::new(),
            incomplete: vec![NotFetched::transient(why)],
        }
    };
    tokio::time::timeout(limits.deadline, looking)
        .await
        .unwrap_or_else(late)
}

/// What was found at the first place that gave all its answers; else what there was at the first.
async fn first_whole(
    answers: impl Iterator<Item = impl Future<Output = Discovered>>,
) -> Discovered {
    let mut in_part = None;
    for answer in answers {
        let found = answer.await;
        if !found.incomplete.iter().any(NotFetched::is_transient) {
            return found;
        }
        in_part = in_part.or(Some(found));
    }
    in_part.unwrap_or_default()
}

/// The layers under the tag of attestations.
async fn attestations(source: &Source, limits: &EvidenceLimits, subject: &Digest) -> Discovered {
    let tag = format!("{}-{}.att", subject.algorithm(), subject.hex());
    let mut found = Discovered::default();
    let served = match source.manifest(&tag, MAX_MANIFEST_BYTES).await {
        Ok(served) => served,
        Err(RegistryError::NotFound { .. }) => return found,
        Err(error) => {
            found.incomplete.push(unanswered(&error));
            return found;
        }
    };
    let content_type = served.untrusted_content_type.as_deref();
    match parse_attachments(content_type, &served.untrusted_bytes) {
        Ok(layers) => {
            let artefacts = vec![Artefact::new(tag, layers)];
            opening::read(source, limits, artefacts, &mut found).await;
        }
        Err(error) => {
            let why = format!("{tag}: {}", chain(&error));
            found.incomplete.push(NotFetched::permanent(why));
        }
    }
    found
}

/// What refers to the document, by the registry's own list and by the one under a tag.
async fn referrers(source: &Source, limits: &EvidenceLimits, subject: &Digest) -> Discovered {
    let (listed, tagged) =
        tokio::join!(source.referrers(subject), source.tagged_referrers(subject));
    let mut found = Discovered::default();
    let (mut listed, incomplete) = merge(listed, tagged);
    found.incomplete.extend(incomplete);
    listed.sort_by_key(Referrer::order);
    let most = limits.candidates;
    if listed.len() > most {
        let count = listed.len();
        let why = format!(
            "{count} artefacts refer to {subject}, the first {most} are looked at, \
             see image_agent.evidence.candidates"
        );
        found.incomplete.push(NotFetched::permanent(why));
        listed.truncate(most);
    }
    let mut artefacts = Vec::new();
    for opened in opening::open(source, limits, subject, &listed).await {
        match opened {
            Opened::Artefact(artefact) => artefacts.push(artefact),
            Opened::Foreign => {}
            Opened::Unreadable(candidate) => found.candidates.push(candidate),
        }
    }
    opening::read(source, limits, artefacts, &mut found).await;
    found
}

/// Both lists as one, each artefact once. An answer that is no list is what a registry without such
/// lists may give, so it says nothing where the tag has one.
fn merge(listed: Listing, tagged: Listing) -> (Vec<Referrer>, Vec<NotFetched>) {
    let has_tag = !tagged.referrers.is_empty();
    let incomplete = [
        listed
            .incomplete
            .filter(|why| !(has_tag && matches!(why, Incomplete::NoList { .. }))),
        tagged.incomplete,
    ];
    let incomplete = incomplete.into_iter().flatten().map(|why| match why {
        Incomplete::Failed(error) => unanswered(&error),
        other => NotFetched::permanent(other.to_string()),
    });
    let mut seen = HashSet::new();
    let both = listed.referrers.into_iter().chain(tagged.referrers);
    let each = both.filter(|one| seen.insert(one.digest)).collect();
    (each, incomplete.collect())
}

/// Whether a layer of this media type is evidence.
fn is_evidence(media_type: &str) -> bool {
    media_type.starts_with(BUNDLE) || [COSIGN_PAYLOAD, ENVELOPE].contains(&media_type)
}

/// What the media types of bundles of every version begin with.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// The media type of an attestation without a bundle.
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
