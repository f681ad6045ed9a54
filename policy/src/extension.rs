//! Requirements beyond containers-policy.json(5).
//!
//! Their names are unknown to the reference implementation, which refuses a document with one of
//! them as a whole: they cannot be mistaken for something weaker.

use std::collections::{BTreeMap, BTreeSet};

use crate::decision::{Grounds, Outcome, Refusal};
use crate::digest::Digest;
use crate::fingerprint::Fingerprint;
use crate::freshness::Freshness;
use crate::manifest::{Manifest, Unverified};
use crate::requirement::Requirement;

/// `digestAllowed`: for each repository the digests that may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DigestAllowed {
    pub(crate) digests: BTreeMap<String, BTreeSet<Digest>>,
}

impl DigestAllowed {
    /// Of the manifest, or of the index that it was chosen from.
    pub(crate) fn examine(&self, manifest: &Unverified<Manifest>) -> Outcome {
        let name = manifest.reference().name();
        let allowed = self.digests.get(&name).into_iter().flatten();
        let listed = allowed
            .copied()
            .find(|digest| manifest.subjects().any(|subject| subject.has(digest)));
        listed.map_or_else(
            || {
                let found = *manifest.digest();
                Outcome::Refused(Refusal::DigestNotAllowed { name, found })
            },
            |digest| Outcome::Met(Grounds::DigestAllowed(digest)),
        )
    }
}

/// `encrypted`: every layer is of an encrypted media type, and there are layers.
pub(crate) fn examine_encrypted(manifest: &Unverified<Manifest>) -> Outcome {
    let layers = manifest.layers();
    let plain = layers
        .iter()
        .zip(0..)
        .find(|(layer, _)| !ENCRYPTED_LAYERS.contains(&layer.media_type()));
    match plain {
        Some((layer, index)) => Outcome::Refused(Refusal::LayerNotEncrypted {
            index,
            media_type: layer.media_type().to_owned(),
        }),
        None if layers.is_empty() => Outcome::Refused(Refusal::NoLayers),
        None => Outcome::Met(Grounds::LayersEncrypted(layers.len())),
    }
}

/// `requireDigest`: the image was asked for by digest.
pub(crate) fn examine_reference(manifest: &Unverified<Manifest>) -> Outcome {
    match manifest.reference().digest() {
        Some(_) => Outcome::Met(Grounds::AskedByDigest),
        None => Outcome::Refused(Refusal::NotByDigest),
    }
}

/// `notOlder`: a signature that is good and, by what is signed with it, recent enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotOlder {
    pub(crate) freshness: Freshness,
    /// `signedBy` or `sigstoreSigned`.
    pub(crate) signature: Box<Requirement>,
}

/// `threshold`: so many of these.
///
/// With a count above one all members are met by signatures only, each by one of a signer that no
/// other member counts, and every threshold among them has a count of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Threshold {
    /// From one to the number of members.
    pub(crate) count: usize,
    pub(crate) of: Vec<Requirement>,
}

/// All that one signer is known by: whoever shares any of it is the same.
pub(crate) type Signer = BTreeSet<Fingerprint>;

/// The signers of each member by number, where those who share anything, also over others, have
/// one number.
pub(crate) fn told_apart(members: &[BTreeSet<Signer>]) -> Vec<BTreeSet<usize>> {
    let mut apart: Vec<Signer> = Vec::new();
    for signer in members.iter().flatten() {
        let same = apart.extract_if(.., |known| !known.is_disjoint(signer));
        let merged = same.flatten().chain(signer.iter().cloned()).collect();
        apart.push(merged);
    }
    let number = |signer: &Signer| apart.iter().position(|known| !known.is_disjoint(signer));
    let numbers = |member: &BTreeSet<Signer>| member.iter().filter_map(number).collect();
    members.iter().map(numbers).collect()
}

/// The signers to count, each for the member it stands for, when each member has those given: as
/// many as there can be.
///
/// One signer counts once, however many members would take it. This is a maximum matching: the
/// answer does not depend on any order.
pub(crate) fn distinct(members: &[BTreeSet<usize>]) -> BTreeMap<usize, usize> {
    let mut given = BTreeMap::new();
    for member in 0..members.len() {
        give(member, members, &mut given, &mut BTreeSet::new());
    }
    given
}

/// Finds a signer for one more member, if need be by finding others for those that have one.
fn give(
    member: usize,
    members: &[BTreeSet<usize>],
    given: &mut BTreeMap<usize, usize>,
    tried: &mut BTreeSet<usize>,
) -> bool {
    for &signer in members.get(member).into_iter().flatten() {
        if !tried.insert(signer) {
            continue;
        }
        let holder = given.get(&signer).copied();
        if holder.is_none_or(|holder| give(holder, members, given, tried)) {
            given.insert(signer, member);
            return true;
        }
    }
    false
}

/// The layer types of the OCI image encryption proposal.
const ENCRYPTED_LAYERS: [&str; 3] = [
    "application/vnd.oci.image.layer.v1.tar+encrypted",
    "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
    "application/vnd.oci.image.layer.v1.tar+zstd+encrypted",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_signer_counts_once_and_the_order_is_of_no_matter() {
        let rows: [(&[&str], usize); 6] = [
            (&["a", "a"], 1),
            (&["ab", "a"], 2),
            (&["a", "ab"], 2),
            (&["ab", "bc", "a"], 3),
            (&["abc", "", "abc", "abc", "abc"], 3),
            (&["ab", "ab", "ab"], 2),
        ];
        for (members, count) in rows {
            let of = |signers: &&str| signers.chars().map(|c| known(&c.to_string())).collect();
            let members: Vec<BTreeSet<_>> = members.iter().map(of).collect();
            assert_eq!(distinct(&told_apart(&members)).len(), count, "{members:?}");
        }
    }

    fn known(names: &str) -> Signer {
        let names = names.chars();
        names.map(|c| Fingerprint::Holder(c.into())).collect()
    }

    #[test]
    fn signers_with_anything_in_common_are_one() {
        let rows: [(&[&str], usize); 5] = [
            (&["ab", "ab"], 1),
            (&["ab", "bc"], 1),
            (&["a", "b", "ab"], 1),
            (&["ab", "cd", "bc"], 1),
            (&["ab", "cd", "de"], 2),
        ];
        for (members, count) in rows {
            let of = |signer: &&str| BTreeSet::from([known(signer)]);
            let signers: Vec<_> = members.iter().map(of).collect();
            assert_eq!(distinct(&told_apart(&signers)).len(), count, "{members:?}");
        }
    }
}
