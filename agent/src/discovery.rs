//! Where evidence about a document is found, apart from the tag `sha256-<hex>.sig`: attestations
//! under `sha256-<hex>.att`, artefacts that refer to the document, a directory of the guest, and
//! the Key Broker Service.
//!
//! What an artefact is, its layers decide; what a list says of it decides only when it is looked at.
//! Every place has the whole of the [`EvidenceLimits`] for itself, so that what somebody puts into
//! one leaves the others as they are, but for the time: the registry and its mirrors share that.
//! What has come by then counts, and that it is not all is told. Nothing here decides what counts.

mod delivered;
mod layout;
mod opening;
mod reading;

use std::collections::HashSet;

use policy::{COSIGN_PAYLOAD, CosignSignature, Digest, Discovered};
use policy::{MAX_MANIFEST_BYTES, NotFetched, parse_attachments};
use tokio::time::{Instant, timeout_at};

use self::opening::{Artefact, Opened};
use crate::config::{EvidenceLimits, EvidencePlaces};
use crate::error::chain;
use crate::evidence::{NO_ATTACHMENTS, unanswered};
use crate::registry::{Incomplete, Listing, Referrer, RegistryError, Source};
use crate::resources::Resources;

/// Looks everywhere but under the tag `.sig`: in what the owner delivers and at `sources`, which are
/// the places in registries that the owner lets us ask.
pub(crate) async fn discover(
    sources: &[&Source],
    resources: &Resources,
    places: &EvidencePlaces,
    subject: &Digest,
) -> Discovered {
    let limits = &places.limits;
    let deadline = Instant::now() + limits.deadline;
    let (mut found, kept, attested, referring) = tokio::join!(
        delivered::find(resources, places, subject),
        layout::find(places, subject),
        together(sources, deadline, |source, until| {
            attestations(source, limits, subject, until)
        }),
        together(sources, deadline, |source, until| {
            referrers(source, limits, subject, until)
        }),
    );
    for part in [kept, attested, referring] {
        found.candidates.extend(part.candidates);
        found.incomplete.extend(part.incomplete);
    }
    if sources.is_empty() {
        let unasked = NotFetched::not_configured(NO_ATTACHMENTS);
        found.incomplete.push(unasked);
    }
    found
}

/// What there is at the places up to the first that gives all its answers, which has those that the
/// ones before it did not give, too.
async fn together<'s, F>(
    sources: &[&'s Source],
    deadline: Instant,
    look: impl Fn(&'s Source, Instant) -> F,
) -> Discovered
where
    F: Future<Output = Discovered>,
{
    let mut all = Discovered::default();
    let places_left = (1..=sources.len()).rev();
    for (source, left) in sources.iter().zip(places_left) {
        let found = look(source, share(deadline, left)).await;
        let is_whole = !found.incomplete.iter().any(NotFetched::is_transient)
            && !found.candidates.iter().any(may_come_later);
        if is_whole {
            all.incomplete.retain(|why| !why.is_transient());
            all.candidates
                .retain(|candidate| !may_come_later(candidate));
        }
        all.incomplete.extend(found.incomplete);
        for candidate in found.candidates {
            if !all.candidates.contains(&candidate) {
                all.candidates.push(candidate);
            }
        }
        if is_whole {
            break;
        }
    }
    all
}

fn may_come_later(candidate: &CosignSignature) -> bool {
    let payload = candidate.payload.as_ref();
    payload.is_err_and(NotFetched::is_transient)
}

/// When the first of so many things has to end that have the time until `deadline` together. What
/// it leaves of its share is for the others.
fn share(deadline: Instant, things: usize) -> Instant {
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    let things = u32::try_from(things).unwrap_or(u32::MAX);
    now + left.checked_div(things).unwrap_or(left)
}

/// The layers under the tag of attestations.
async fn attestations(
    source: &Source,
    limits: &EvidenceLimits,
    subject: &Digest,
    until: Instant,
) -> Discovered {
    let tag = format!("{}-{}.att", subject.algorithm(), subject.hex());
    let mut found = Discovered::default();
    let manifest = source.manifest(&tag, MAX_MANIFEST_BYTES);
    let served = match timeout_at(share(until, 2), manifest).await {
        Ok(Ok(served)) => served,
        Ok(Err(RegistryError::NotFound { .. })) => return found,
        Ok(Err(error)) => {
            found.incomplete.push(unanswered(&error));
            return found;
        }
        Err(_elapsed) => {
            let why = NotFetched::transient(format!("{tag}: {LATE}"));
            found.incomplete.push(why);
            return found;
        }
    };
    let content_type = served.untrusted_content_type.as_deref();
    match parse_attachments(content_type, &served.untrusted_bytes) {
        Ok(layers) => {
            let artefacts = [Artefact::new(tag, layers)];
            opening::read(source, limits, &artefacts, until, &mut found).await;
        }
        Err(error) => {
            let why = format!("{tag}: {}", chain(&error));
            found.incomplete.push(NotFetched::permanent(why));
        }
    }
    found
}

/// What refers to the document, by the registry's own list and by the one under a tag.
///
/// Lists, manifests and layers are read one after the other, and none of these steps takes the time
/// of those after it.
async fn referrers(
    source: &Source,
    limits: &EvidenceLimits,
    subject: &Digest,
    until: Instant,
) -> Discovered {
    let lists_until = share(until, 3);
    let (listed, tagged) = tokio::join!(
        source.referrers(subject, lists_until),
        source.tagged_referrers(subject, lists_until)
    );
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
    let opened = opening::open(source, limits, subject, &listed, share(until, 2));
    for opened in opened.await {
        match opened {
            Opened::Artefact(artefact) => artefacts.push(artefact),
            Opened::Foreign => {}
            Opened::Unreadable(candidate) => found.candidates.push(candidate),
        }
    }
    opening::read(source, limits, &artefacts, until, &mut found).await;
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
        late @ Incomplete::Late { .. } => NotFetched::transient(late.to_string()),
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

/// What is said of what was given up.
const LATE: &str = "it did not come in time, see image_agent.evidence.deadline";
/// What the media types of bundles of every version begin with.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// The media type of an attestation without a bundle.
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_has_an_equal_share_of_the_time_that_is_left_and_the_last_all_of_it() {
        let deadline = Instant::now() + Duration::from_mins(1);
        let left = |things| share(deadline, things).saturating_duration_since(Instant::now());
        for (things, seconds) in [(1, 60), (2, 30), (3, 20), (60, 1)] {
            let (left, expected) = (left(things), Duration::from_secs(seconds));
            let almost = expected.saturating_sub(Duration::from_millis(500));
            assert!(left <= expected && left >= almost, "{things}: {left:?}");
        }
        let past = Instant::now();
        assert!(share(past, 2) <= Instant::now());
    }
}
