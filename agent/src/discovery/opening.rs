//! From a list of artefacts to the bytes of their layers, within the limits.
//!
//! Sizes are counted as they are stated and in the order of the list, before anything is fetched, so
//! that what is left out does not depend on which answer comes first. An artefact that lies about a
//! size spoils itself alone.

use futures_util::StreamExt as _;
use futures_util::stream::iter;
use policy::parse_attachments;
use policy::{CosignSignature, Descriptor, Digest, Discovered, ManifestError, NotFetched};
use serde::Deserialize;

use super::{BUNDLE, is_evidence};
use crate::config::EvidenceLimits;
use crate::error::chain;
use crate::evidence::unanswered;
use crate::registry::{Referrer, Source};

/// An artefact whose manifest has been read.
#[derive(Debug)]
pub(super) struct Artefact {
    found: String,
    layers: Vec<Descriptor>,
}

impl Artefact {
    /// What was found at `found` with these layers.
    pub(super) fn new(found: String, layers: Vec<Descriptor>) -> Self {
        Self { found, layers }
    }
}

/// What became of opening an artefact.
#[derive(Debug)]
pub(super) enum Opened {
    /// It is evidence.
    Artefact(Artefact),
    /// It is something else.
    Foreign,
    /// It could not be read, so nobody knows.
    Unreadable(CosignSignature),
}

/// Fetches the manifests of these artefacts.
pub(super) async fn open(
    source: &Source,
    limits: &EvidenceLimits,
    subject: &Digest,
    referrers: &[Referrer],
) -> Vec<Opened> {
    let mut room = limits.total_bytes;
    let opening = referrers.iter().map(|referrer| {
        let fits = limits.admit(referrer.untrusted_size, &mut room);
        async move {
            let opened = match fits {
                Ok(limit) => manifest(source, subject, &referrer.digest, limit).await,
                Err(why) => Err(NotFetched::permanent(why)),
            };
            opened.unwrap_or_else(|why| {
                Opened::Unreadable(CosignSignature {
                    found: found(&referrer.digest),
                    // Nobody knows what it is, so it is named among what does not count.
                    media_type: BUNDLE.to_owned(),
                    payload: Err(why),
                    annotations: std::collections::BTreeMap::new(),
                })
            })
        }
    });
    // Made first: a stream that makes them as it goes cannot be sent to other threads.
    let opening: Vec<_> = opening.collect();
    iter(opening).buffered(WIDTH).collect().await
}

/// Reads the evidence in these artefacts into `into`.
pub(super) async fn read(
    source: &Source,
    limits: &EvidenceLimits,
    artefacts: Vec<Artefact>,
    into: &mut Discovered,
) {
    let layers = artefacts.iter().flat_map(|artefact| {
        let layers = artefact.layers.iter().enumerate();
        layers.map(|(index, layer)| (format!("{}[{index}]", artefact.found), layer))
    });
    let layers: Vec<_> = layers
        .filter(|(_, layer)| is_evidence(layer.media_type()))
        .collect();
    let (most, count) = (limits.candidates, layers.len());
    if count > most {
        let why = format!(
            "there are {count} pieces of evidence, the first {most} are looked at, \
             see image_agent.evidence.candidates"
        );
        into.incomplete.push(NotFetched::permanent(why));
    }
    let mut room = limits.total_bytes;
    let reading = layers.into_iter().take(most).map(|(found, layer)| {
        let fits = limits.admit(layer.size(), &mut room);
        async move {
            let payload = match fits {
                Ok(limit) => source
                    .small_blob(layer, limit)
                    .await
                    .map_err(|error| unanswered(&error)),
                Err(why) => Err(NotFetched::permanent(why)),
            };
            CosignSignature {
                found,
                media_type: layer.media_type().to_owned(),
                payload,
                annotations: layer.annotations().clone(),
            }
        }
    });
    let reading: Vec<_> = reading.collect();
    let read: Vec<_> = iter(reading).buffered(WIDTH).collect().await;
    into.candidates.extend(read);
}

/// The manifest of an artefact, if it is one that refers to `subject`.
async fn manifest(
    source: &Source,
    subject: &Digest,
    digest: &Digest,
    limit: u64,
) -> Result<Opened, NotFetched> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let served = source.manifest(&digest.to_string(), limit).await;
    let served = served.map_err(|error| unanswered(&error))?;
    let bytes = &served.untrusted_bytes;
    let actual = Digest::of(digest.algorithm(), bytes);
    if actual != *digest {
        let why = format!("its manifest has the digest {actual}");
        return Err(NotFetched::permanent(why));
    }
    let content_type = served.untrusted_content_type.as_deref();
    let layers = match parse_attachments(content_type, bytes) {
        Ok(layers) => layers,
        // Whatever is no image manifest has no layers that could be evidence.
        Err(ManifestError::UnknownType { .. }) => return Ok(Opened::Foreign),
        Err(error) => return Err(NotFetched::permanent(chain(&error))),
    };
    if !layers.iter().any(|layer| is_evidence(layer.media_type())) {
        return Ok(Opened::Foreign);
    }
    let refers = serde_json::from_slice::<Refers>(bytes)
        .map_err(|error| NotFetched::permanent(chain(&error)))?;
    if refers.subject.digest != subject.to_string() {
        let why = format!("it refers to {}", refers.subject.digest);
        return Err(NotFetched::permanent(why));
    }
    Ok(Opened::Artefact(Artefact::new(found(digest), layers)))
}

/// The part of a manifest that says what it is about.
#[derive(Deserialize)]
struct Refers {
    subject: Subject,
}

#[derive(Deserialize)]
struct Subject {
    digest: String,
}

fn found(digest: &Digest) -> String {
    format!("referrer {digest}")
}

/// Requests at the same time.
const WIDTH: usize = 16;
