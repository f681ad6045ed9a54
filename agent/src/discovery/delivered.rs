//! Bundles that the owner delivers with the keys, for guests that see no registry but a mirror of
//! the layers, or whose registry keeps no evidence.

use std::collections::BTreeMap;

use policy::{CosignSignature, Digest, Discovered, NotFetched};
use serde::de::IgnoredAny;

use crate::config::EvidencePlaces;
use crate::error::chain;
use crate::resources::Resources;

/// What is delivered for one document; nothing if the configuration names no place.
pub(super) async fn find(
    resources: &Resources,
    places: &EvidencePlaces,
    subject: &Digest,
) -> Discovered {
    let mut found = Discovered::default();
    let Some(folder) = &places.delivered else {
        return found;
    };
    let location = format!("{folder}/{}-{}", subject.algorithm(), subject.hex());
    let content = match resources.fetch(&location).await {
        Ok(content) => content,
        Err(error) if error.is_absent() => return found,
        Err(error) => {
            let why = chain(&error);
            found.incomplete.push(if error.is_transient() {
                NotFetched::transient(why)
            } else {
                NotFetched::permanent(why)
            });
            return found;
        }
    };
    let bundles = bundles(content.expose());
    let (most, count) = (places.limits.candidates, bundles.len());
    if count > most {
        let why = format!(
            "{location} has {count} bundles, the first {most} are looked at, \
             see image_agent.evidence.candidates"
        );
        found.incomplete.push(NotFetched::permanent(why));
    }
    let mut room = places.limits.total_bytes;
    let candidates = bundles.into_iter().take(most).enumerate();
    found.candidates.extend(candidates.map(|(index, bundle)| {
        let size = u64::try_from(bundle.len()).unwrap_or(u64::MAX);
        let fits = places.limits.admit(Some(size), &mut room);
        CosignSignature {
            found: format!("{location}[{index}]"),
            media_type: MEDIA_TYPE.to_owned(),
            payload: fits
                .map(|_size| bundle.to_vec())
                .map_err(NotFetched::permanent),
            annotations: BTreeMap::new(),
        }
    }));
    found
}

/// One bundle, or one in each line.
fn bundles(content: &[u8]) -> Vec<&[u8]> {
    if serde_json::from_slice::<IgnoredAny>(content).is_ok() {
        return vec![content];
    }
    let lines = content.split(|&byte| byte == b'\n');
    lines.filter(|line| !line.trim_ascii().is_empty()).collect()
}

/// Whoever delivers a bundle does not say of which version it is; the bundle does.
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle+json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_one_bundle_or_one_in_each_line() {
        let rows: [(&[u8], &[&[u8]]); 5] = [
            (b"{\n \"a\": 1\n}\n", &[b"{\n \"a\": 1\n}\n"]),
            (b"{\"a\":1}\n{\"b\":2}\n", &[b"{\"a\":1}", b"{\"b\":2}"]),
            (b"{\"a\":1}\n\n \r\nnonsense", &[b"{\"a\":1}", b"nonsense"]),
            (b"", &[]),
            (b"\n", &[]),
        ];
        for (content, expected) in rows {
            assert_eq!(bundles(content), expected);
        }
    }
}
