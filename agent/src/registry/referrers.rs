//! Who refers to a document: the list that a registry keeps, and the one that its users keep under
//! a tag where it keeps none (OCI distribution specification 1.1, "Listing Referrers").
//!
//! A list is a hint where to look and nothing else. What it says of an artefact's type and size may
//! decide what is looked at first, never what is left out.

use policy::{Digest, OCI_INDEX};
use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::Source;
use super::error::{RegistryError, Wanted};

/// What a list says of one artefact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Referrer {
    /// The digest of the artefact's manifest.
    pub(crate) digest: Digest,
    /// The size of the manifest, in bytes, if the list has any.
    untrusted_size: Option<u64>,
    rank: Rank,
}

/// What an artefact may be by what is said of it, the likelier the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It is listed as what we look for.
    Likely,
    /// It is listed as nothing in particular, as old tools and some registries list everything.
    Unknown,
    /// It is listed as something else, which may be wrong.
    Unlikely,
}

impl Referrer {
    /// The order in which artefacts are looked at: first by what they are listed as, then the small
    /// before the large, and before those without a size. Those that are equal keep the order of
    /// the list.
    pub(crate) fn order(&self) -> impl Ord + use<> {
        (self.rank, self.untrusted_size.unwrap_or(u64::MAX))
    }
}

/// A list of referrers as far as there is one.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The artefacts, in the order of the list.
    pub(crate) referrers: Vec<Referrer>,
    /// Why there may be more.
    pub(crate) incomplete: Option<Incomplete>,
}

/// Why a list is not the whole of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Incomplete {
    /// The registry answers with something else. Those without such a list do that, too.
    #[error("{wanted}: the answer is no list of referrers")]
    NoList {
        /// What was asked for.
        wanted: Wanted,
    },
    /// A page could not be had.
    #[error(transparent)]
    Failed(#[from] RegistryError),
    /// A page did not come in time.
    #[error("{wanted}: not all came in time, see image_agent.evidence.deadline")]
    Late {
        /// What was asked for.
        wanted: Wanted,
    },
    /// The next page is at another host, or at no address.
    #[error("{wanted}: the next page is not at the same host")]
    Elsewhere {
        /// What was asked for.
        wanted: Wanted,
    },
    /// It goes on and on.
    #[error("{wanted}: more than {MAX_PAGES} pages or {MAX_LIST_BYTES} bytes of referrers")]
    TooLong {
        /// What was asked for.
        wanted: Wanted,
    },
}

impl Source {
    /// What the registry itself lists, as far as it has come by then. A registry that has no such
    /// list lists nothing.
    pub(crate) async fn referrers(&self, subject: &Digest, until: Instant) -> Listing {
        let mut listing = Listing::default();
        let wanted = self.wanted_referrers(subject);
        let listed = self.pages(subject, &wanted, &mut listing.referrers);
        listing.incomplete = match timeout_at(until, listed).await {
            Ok(Ok(())) => None,
            Ok(Err(Incomplete::Failed(error))) if is_unknown_here(&error) => None,
            Ok(Err(incomplete)) => Some(incomplete),
            Err(_elapsed) => Some(Incomplete::Late { wanted }),
        };
        listing
    }

    /// What is listed under the tag for that, if it has come by then.
    pub(crate) async fn tagged_referrers(&self, subject: &Digest, until: Instant) -> Listing {
        let tag = fallback_tag(subject);
        let served = timeout_at(until, self.manifest(&tag, MAX_LIST_BYTES)).await;
        let wanted = || self.wanted_referrers(subject);
        let mut listing = Listing::default();
        listing.incomplete = match served {
            Ok(Ok(served)) => match parse(&served.untrusted_bytes) {
                Some(referrers) => {
                    listing.referrers = referrers;
                    None
                }
                None => Some(Incomplete::NoList { wanted: wanted() }),
            },
            Ok(Err(RegistryError::NotFound { .. })) => None,
            Ok(Err(error)) => Some(error.into()),
            Err(_elapsed) => Some(Incomplete::Late { wanted: wanted() }),
        };
        listing
    }

    async fn pages(
        &self,
        subject: &Digest,
        wanted: &Wanted,
        referrers: &mut Vec<Referrer>,
    ) -> Result<(), Incomplete> {
        let mut url = self.url("referrers", &subject.to_string());
        let mut room = MAX_LIST_BYTES;
        for _ in 0..MAX_PAGES {
            let limit = room;
            let answer = self.get_small(url.clone(), Some(OCI_INDEX), wanted, limit);
            let answer = answer.await?;
            room = room.saturating_sub(answer.body.len());
            let no_list = || Incomplete::NoList {
                wanted: wanted.clone(),
            };
            referrers.extend(parse(&answer.body).ok_or_else(no_list)?);
            let Some(next) = next_page(&answer.headers) else {
                return Ok(());
            };
            let elsewhere = || Incomplete::Elsewhere {
                wanted: wanted.clone(),
            };
            let next = url.join(next).ok();
            url = next
                .filter(|next| next.origin() == self.base.origin())
                .ok_or_else(elsewhere)?;
        }
        let wanted = wanted.clone();
        Err(Incomplete::TooLong { wanted })
    }

    fn wanted_referrers(&self, subject: &Digest) -> Wanted {
        let thing = format!("referrers of {subject} of {}", self.asked);
        self.reached(Wanted::of(&self.endpoint.host, &thing))
    }
}

/// The tag under which the referrers of a document are listed where the registry does not list them.
fn fallback_tag(subject: &Digest) -> String {
    let hex: String = subject.hex().chars().take(64).collect();
    format!("{}-{hex}", subject.algorithm())
}

/// Whether this is how a registry says that it knows no lists of referrers.
fn is_unknown_here(error: &RegistryError) -> bool {
    match error {
        RegistryError::NotFound { .. } => true,
        RegistryError::Status { status, .. } => matches!(status, 400 | 405 | 406 | 501),
        _ => false,
    }
}

/// The entries of an index. One that names no manifest is none.
///
/// Nothing here is believed, so nothing is held to the letter.
pub(crate) fn parse(untrusted_index: &[u8]) -> Option<Vec<Referrer>> {
    let mut objects = untrusted_index.split(|byte| *byte == b'{').skip(1);
    if objects.nth(MAX_OBJECTS).is_some() {
        return None;
    }
    let index: Index = serde_json::from_slice(untrusted_index).ok()?;
    let referrer = |entry: serde_json::Value| {
        let entry = Entry::deserialize(entry).ok()?;
        Some(Referrer {
            digest: entry.digest.parse().ok()?,
            untrusted_size: entry.size.as_u64(),
            rank: entry.rank(),
        })
    };
    Some(index.manifests.into_iter().filter_map(referrer).collect())
}

/// An object of a few bytes takes hundreds to read; 10,000 referrers have two or three each.
const MAX_OBJECTS: usize = 1 << 16;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    digest: String,
    #[serde(default)]
    size: serde_json::Value,
    #[serde(default)]
    artifact_type: serde_json::Value,
    #[serde(default)]
    annotations: serde_json::Value,
}

impl Entry {
    fn rank(&self) -> Rank {
        if self.annotations.get(CONTENT_HINT).is_some() {
            return Rank::Likely;
        }
        let listed_as = self.artifact_type.as_str().unwrap_or_default();
        if LIKELY.iter().any(|kind| listed_as.starts_with(kind)) {
            Rank::Likely
        } else if listed_as.is_empty() || listed_as == EMPTY {
            Rank::Unknown
        } else {
            Rank::Unlikely
        }
    }
}

/// The address in a `Link` header (RFC 8288) whose relation is `next`.
fn next_page(headers: &HeaderMap) -> Option<&str> {
    let links = headers.get_all(LINK).iter();
    links
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split('<').skip(1))
        .find_map(|link| {
            let (address, parameters) = link.split_once('>')?;
            let is_next = parameters.split([';', ',']).any(|parameter| {
                let parameter = parameter.trim();
                parameter == "rel=next" || parameter == "rel=\"next\""
            });
            is_next.then_some(address)
        })
}

/// What cosign lists its artefacts as.
const LIKELY: [&str; 2] = [
    "application/vnd.dev.sigstore.bundle",
    "application/vnd.dev.cosign.artifact.sig.",
];
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// An annotation that cosign gives its bundles.
const CONTENT_HINT: &str = "dev.sigstore.bundle.content";
/// Pages of one list; a registry that pages gives about a hundred entries with each.
const MAX_PAGES: usize = 256;
/// Bytes of one list, be it in one page or under a tag: some 15,000 entries as cosign writes them.
const MAX_LIST_BYTES: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hints_order_and_nothing_that_names_a_manifest_is_left_out() {
        let digest = |number: u8| Digest::sha256_of(&[number]).to_string();
        let entry = |number: u8, size: u64, kind: &str| json!({"digest": digest(number), "size": size, "artifactType": kind});
        let bundle = "application/vnd.dev.sigstore.bundle.v0.3+json";
        let mut annotated = entry(6, 900, "application/spdx+json");
        annotated["annotations"] = json!({"dev.sigstore.bundle.content": "dsse-envelope"});
        let list = json!({"manifests": [
            entry(1, 5, "application/spdx+json"),
            entry(2, 800, EMPTY),
            {"digest": digest(3), "size": 700},
            entry(4, 1000, bundle),
            entry(5, 600, bundle),
            annotated,
            {"digest": digest(7), "size": 1, "artifactType": 7, "annotations": []},
            {"digest": digest(8), "artifactType": bundle},
            {"digest": digest(9), "size": -1, "artifactType": bundle},
            {"digest": digest(10), "size": "1", "artifactType": bundle},
            entry(11, 0, bundle),
            entry(12, u64::MAX - 1, bundle),
            {"digest": "sha256:short", "size": 1},
            {"size": 1},
            "text",
        ]});
        let mut listed = parse(list.to_string().as_bytes()).unwrap();
        listed.sort_by_key(Referrer::order);
        let found: Vec<_> = listed.iter().map(|one| one.digest.to_string()).collect();
        assert_eq!(found, [11, 5, 6, 4, 12, 8, 9, 10, 7, 3, 2, 1].map(digest));
        for odd in ["", "[]", "{}", "<html>", r#"{"manifests":{}}"#] {
            assert_eq!(parse(odd.as_bytes()), None, "{odd}");
        }
        for (count, is_read) in [(MAX_OBJECTS - 1, true), (MAX_OBJECTS, false)] {
            let objects = vec!["{}"; count].join(",");
            let read = parse(format!(r#"{{"manifests":[{objects}]}}"#).as_bytes());
            assert_eq!(read.is_some(), is_read, "{count}");
        }
    }

    #[test]
    fn the_next_page_is_the_link_whose_relation_says_so() {
        let rows = [
            (
                "</v2/app/referrers/d?n=2>; rel=\"next\"",
                Some("/v2/app/referrers/d?n=2"),
            ),
            (
                "</first>; rel=first, </next>; title=\"a\"; rel=next",
                Some("/next"),
            ),
            ("</prev>; rel=\"prev\"", None),
            ("next", None),
            ("<unfinished; rel=next", None),
        ];
        for (value, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, value.parse().unwrap());
            assert_eq!(next_page(&headers), expected, "{value}");
        }
        assert_eq!(next_page(&HeaderMap::new()), None);
    }

    #[test]
    fn tags_are_as_long_as_the_specification_has_them() {
        let subject = Digest::sha256_of(b"");
        assert_eq!(fallback_tag(&subject), format!("sha256-{}", subject.hex()));
        let long = Digest::of(policy::Algorithm::Sha512, b"");
        assert_eq!(fallback_tag(&long).len(), "sha512-".len() + 64);
    }
}
