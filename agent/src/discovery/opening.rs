//! From a list of artefacts to the bytes of their layers, within the limits.
//!
//! Artefacts are read in the order of the list, and their layers in turns: the first of each before
//! the second of any, so that one with many leaves room for the others. An artefact that lies about a
//! size spoils itself alone.

use policy::parse_attachments;
use policy::{CosignSignature, Descriptor, Digest, Discovered, ManifestError, NotFetched};
use serde::Deserialize;
use tokio::time::Instant;

use super::reading::{Taken, read_each};
use super::{BUNDLE, is_evidence};
use crate::config::EvidenceLimits;
use crate::error::chain;
use crate::evidence::unanswered;
use crate::registry::{Referrer, RegistryError, Served, Source};

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

/// Fetches the manifests of these artefacts. What a list says of their sizes is left aside.
pub(super) async fn open(
    source: &Source,
    limits: &EvidenceLimits,
    subject: &Digest,
    referrers: &[Referrer],
    until: Instant,
) -> Vec<Opened> {
    let digests = referrers.iter().map(|referrer| (&referrer.digest, None));
    let opened = read_each(limits, until, digests.collect(), |digest, limit| {
        manifest(source, limits, subject, digest, limit)
    });
    let opened = referrers.iter().zip(opened.await);
    let or_unreadable = |(referrer, opened): (&Referrer, Result<Opened, NotFetched>)| {
        opened.unwrap_or_else(|why| {
            Opened::Unreadable(CosignSignature {
                found: found(&referrer.digest),
                // Nobody knows what it is, so it is named among what does not count.
                media_type: BUNDLE.to_owned(),
                payload: Err(why),
                annotations: std::collections::BTreeMap::new(),
            })
        })
    };
    opened.map(or_unreadable).collect()
}

/// Reads the evidence in these artefacts into `into`.
pub(super) async fn read(
    source: &Source,
    limits: &EvidenceLimits,
    artefacts: &[Artefact],
    until: Instant,
    into: &mut Discovered,
) {
    let mut layers = in_turns(artefacts);
    let (most, count) = (limits.candidates, layers.len());
    if count > most {
        let why = format!(
            "there are {count} pieces of evidence, the first {most} are looked at, \
             see image_agent.evidence.candidates"
        );
        into.incomplete.push(NotFetched::permanent(why));
        layers.truncate(most);
    }
    let sizes = layers.iter().map(|(_, layer)| (*layer, Some(layer.size())));
    let payloads = read_each(limits, until, sizes.collect(), |layer, limit| {
        payload(source, layer, limit)
    });
    let payloads = payloads.await;
    let read = layers.into_iter().zip(payloads);
    into.candidates
        .extend(read.map(|((found, layer), payload)| CosignSignature {
            found,
            media_type: layer.media_type().to_owned(),
            payload,
            annotations: layer.annotations().clone(),
        }));
}

/// The layers that are evidence and where each was found, the first of every artefact before the
/// second of any.
fn in_turns(artefacts: &[Artefact]) -> Vec<(String, &Descriptor)> {
    let mut turns: Vec<_> = artefacts
        .iter()
        .flat_map(|artefact| {
            let layers = artefact.layers.iter().enumerate();
            let evidence = layers.filter(|(_, layer)| is_evidence(layer.media_type()));
            evidence.enumerate().map(|(turn, (index, layer))| {
                let found = format!("{}[{index}]", artefact.found);
                (turn, (found, layer))
            })
        })
        .collect();
    turns.sort_by_key(|(turn, _)| *turn);
    turns.into_iter().map(|(_, layer)| layer).collect()
}

/// The bytes of a layer.
async fn payload(source: &Source, layer: &Descriptor, limit: u64) -> Taken<Vec<u8>> {
    match source.small_blob(layer, limit).await {
        Ok(bytes) => Taken {
            bytes: length(&bytes),
            outcome: Ok(bytes),
        },
        Err(error) => Taken {
            bytes: read_in_vain(&error, limit),
            outcome: Err(unanswered(&error)),
        },
    }
}

/// The manifest of an artefact, if it is one that refers to `subject`.
async fn manifest(
    source: &Source,
    limits: &EvidenceLimits,
    subject: &Digest,
    digest: &Digest,
    limit: u64,
) -> Taken<Opened> {
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    match source.manifest(&digest.to_string(), most).await {
        Ok(served) => Taken {
            bytes: length(&served.untrusted_bytes),
            outcome: opened(&served, subject, digest),
        },
        Err(error) => Taken {
            bytes: read_in_vain(&error, limit),
            outcome: Err(match error {
                RegistryError::TooLarge { .. } => {
                    NotFetched::permanent(limits.exceeded_by_more_than(limit))
                }
                error => unanswered(&error),
            }),
        },
    }
}

/// What `served` is, which should have this digest.
fn opened(served: &Served, subject: &Digest, digest: &Digest) -> Result<Opened, NotFetched> {
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

/// How much of something with this limit came that could not be used.
fn read_in_vain(error: &RegistryError, limit: u64) -> u64 {
    match error {
        RegistryError::TooLarge { .. } | RegistryError::WrongDigest { .. } => limit,
        RegistryError::WrongSize { found, .. } => *found,
        _ => 0,
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
