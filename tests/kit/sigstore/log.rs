//! A transparency log as Rekor is one: a Merkle tree (RFC 6962 section 2.1), signed checkpoints,
//! and, in its first version, signed entry timestamps.

use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::key::ServiceKey;
use super::moment::Moment;
use super::{hex, sha256};

/// Which Rekor it is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// With signed entry timestamps, and so a time of its own.
    One,
    /// Checkpoints alone, under Ed25519, and no time.
    Two,
}

/// A log.
#[derive(Debug)]
pub(super) struct Log {
    version: Version,
    key: ServiceKey,
    leaves: Mutex<Vec<[u8; 32]>>,
}

impl Log {
    /// A log that has some entries of others.
    pub(super) fn start(version: Version) -> Self {
        let key = match version {
            Version::One => ServiceKey::p256(),
            Version::Two => ServiceKey::ed25519(),
        };
        let others = (0..5_u8).map(|number| leaf(&[number])).collect();
        Self {
            version,
            key,
            leaves: Mutex::new(others),
        }
    }

    /// The entry of `tlogs` in a trusted root.
    pub(super) fn trusted(&self) -> Value {
        let url = format!("https://{}", self.origin());
        self.key.trusted(&url, &self.id())
    }

    /// Which Rekor it is like.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// PEM of the key.
    pub(super) fn public_pem(&self) -> String {
        self.key.pair.public_key_pem()
    }

    /// Takes in `body` of `kind` (a kind and its version) at `time`; the entry is as bundles have it.
    pub(super) fn take(&self, kind: (&str, &str), body: &Value, time: Moment) -> Value {
        let body = body.to_string().into_bytes();
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        let index = leaves.len();
        leaves.push(leaf(&body));
        // One more behind it, so that the proof leads both ways.
        let behind = u64::try_from(index).expect("64 bits").to_be_bytes();
        leaves.push(leaf(&behind));
        let (root, size) = (root(&leaves), leaves.len());
        let hashes: Vec<_> = path(index, &leaves)
            .iter()
            .map(|hash| STANDARD.encode(hash))
            .collect();
        let mut entry = json!({
            "logIndex": index.to_string(),
            "logId": {"keyId": STANDARD.encode(self.id())},
            "kindVersion": {"kind": kind.0, "version": kind.1},
            "inclusionProof": {
                "logIndex": index.to_string(),
                "rootHash": STANDARD.encode(root),
                "treeSize": size.to_string(),
                "hashes": hashes,
                "checkpoint": {"envelope": self.checkpoint(size, &root)},
            },
            "canonicalizedBody": STANDARD.encode(&body),
        });
        if self.version == Version::One {
            let promise = self.promise(&body, index, time);
            entry["integratedTime"] = time.0.to_string().into();
            entry["inclusionPromise"] = json!({"signedEntryTimestamp": STANDARD.encode(promise)});
        }
        entry
    }

    /// The signed entry timestamp. Members print in the order of their names, which is the canonical
    /// form of these (RFC 8785).
    fn promise(&self, body: &[u8], index: usize, time: Moment) -> Vec<u8> {
        let payload = json!({
            "body": STANDARD.encode(body),
            "integratedTime": time.0,
            "logID": hex(&self.id()),
            "logIndex": index,
        });
        self.key.sign(payload.to_string().as_bytes())
    }

    /// A signed note (C2SP signed-note).
    fn checkpoint(&self, size: usize, root: &[u8]) -> String {
        let origin = self.origin();
        let tree = match self.version {
            Version::One => format!("{origin} - 4711"),
            Version::Two => origin.to_owned(),
        };
        let note = format!("{tree}\n{size}\n{}\n", STANDARD.encode(root));
        let signature = self.key.sign(note.as_bytes());
        let signed = STANDARD.encode([&self.id()[..4], &signature].concat());
        format!("{note}\n\u{2014} {origin} {signed}\n")
    }

    fn id(&self) -> [u8; 32] {
        match self.version {
            Version::One => self.key.id(),
            Version::Two => {
                let spki = self.key.spki();
                let raw = &spki[spki.len() - 32..];
                sha256(&[self.origin().as_bytes(), b"\n\x01", raw].concat())
            }
        }
    }

    fn origin(&self) -> &'static str {
        match self.version {
            Version::One => "rekor.example",
            Version::Two => "rekor2.example",
        }
    }
}

fn leaf(entry: &[u8]) -> [u8; 32] {
    sha256(&[&[0], entry].concat())
}

fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    if let [leaf] = leaves {
        return *leaf;
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    sha256(&[&[1], root(left).as_slice(), &root(right)].concat())
}

/// The audit path of a leaf, from the bottom up.
fn path(index: usize, leaves: &[[u8; 32]]) -> Vec<[u8; 32]> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut path, sibling) = match index.checked_sub(left.len()) {
        None => (path(index, left), root(right)),
        Some(index) => (path(index, right), root(left)),
    };
    path.push(sibling);
    path
}

/// The largest power of two that is less than `count`.
fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}
