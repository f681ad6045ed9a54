//! An OCI layout in the guest, as `cosign save` and `skopeo copy` write one: evidence for guests
//! whose registry keeps none.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use policy::parse_attachments;
use policy::{CosignSignature, Descriptor, Digest, Discovered, MAX_MANIFEST_BYTES, NotFetched};
use serde::Deserialize;

use super::is_evidence;
use crate::blocking::blocking;
use crate::config::{EvidenceLimits, EvidencePlaces};
use crate::resources::read_capped;

/// What the layout has about one document; nothing if the configuration names none.
pub(super) async fn find(places: &EvidencePlaces, subject: &Digest) -> Discovered {
    let Some(folder) = places.layout.clone() else {
        return Discovered::default();
    };
    let (limits, subject) = (places.limits.clone(), *subject);
    blocking(move || Layout { folder, limits }.find(&subject)).await
}

struct Layout {
    folder: PathBuf,
    limits: EvidenceLimits,
}

impl Layout {
    fn find(&self, subject: &Digest) -> Discovered {
        let mut found = Discovered::default();
        match self.manifests() {
            Ok(manifests) => self.look_through(&manifests, subject, &mut found),
            Err(error) => {
                let why = format!("{}: {error}", self.folder.display());
                found.incomplete.push(NotFetched::permanent(why));
            }
        }
        found
    }

    /// What may be manifests: those that the index names, with the tag that it gives them, and then
    /// every small blob, since what refers to an image need not be in the index.
    fn manifests(&self) -> io::Result<Vec<(Digest, Option<String>)>> {
        let index = self.read(Path::new("index.json"), MAX_MANIFEST_BYTES)?;
        let index: Index = serde_json::from_slice(&index)?;
        let mut manifests: Vec<_> = index
            .manifests
            .into_iter()
            .filter_map(|mut entry| {
                let tag = entry.annotations.remove(TAG);
                Some((entry.digest.parse().ok()?, tag))
            })
            .collect();
        let mut blobs = Vec::new();
        for entry in std::fs::read_dir(self.folder.join("blobs/sha256"))?.take(MAX_BLOBS) {
            let entry = entry?;
            let digest = format!("sha256:{}", entry.file_name().display()).parse();
            if let (Ok(digest), ..=MAX_ARTEFACT_BYTES) = (digest, entry.metadata()?.len()) {
                blobs.push((digest, None));
            }
        }
        blobs.retain(|(digest, _)| manifests.iter().all(|(known, _)| known != digest));
        // Directories have no order of their own.
        blobs.sort();
        manifests.extend(blobs);
        Ok(manifests)
    }

    fn look_through(
        &self,
        manifests: &[(Digest, Option<String>)],
        subject: &Digest,
        found: &mut Discovered,
    ) {
        let mut room = self.limits.total_bytes;
        for (digest, tag) in manifests {
            // What cannot be read is no manifest of evidence that anybody could find here.
            let layers = self.blob(digest, MAX_MANIFEST_BYTES).map(|raw| {
                let is_about = is_about(&raw, tag.as_deref(), subject);
                let layers = is_about.then(|| parse_attachments(None, &raw));
                layers.and_then(Result::ok).unwrap_or_default()
            });
            let layers = layers.unwrap_or_default();
            let layers = layers.iter().enumerate();
            for (index, layer) in layers.filter(|(_, one)| is_evidence(one.media_type())) {
                if found.candidates.len() == self.limits.candidates {
                    let why = format!(
                        "{} has more than {} pieces of evidence, \
                         see image_agent.evidence.candidates",
                        self.folder.display(),
                        self.limits.candidates
                    );
                    return found.incomplete.push(NotFetched::permanent(why));
                }
                found.candidates.push(CosignSignature {
                    found: format!("{}: {digest}[{index}]", self.folder.display()),
                    media_type: layer.media_type().to_owned(),
                    payload: self.layer(layer, &mut room),
                    annotations: layer.annotations().clone(),
                });
            }
        }
    }

    fn layer(&self, layer: &Descriptor, room: &mut u64) -> Result<Vec<u8>, NotFetched> {
        let limit = self.limits.admit(Some(layer.size()), room);
        let limit = limit.map_err(NotFetched::permanent)?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.blob(layer.digest(), limit)
            .map_err(|error| NotFetched::permanent(error.to_string()))
    }

    fn blob(&self, digest: &Digest, limit: usize) -> io::Result<Vec<u8>> {
        let name = format!("blobs/{}/{}", digest.algorithm(), digest.hex());
        let bytes = self.read(Path::new(&name), limit)?;
        let found = Digest::of(digest.algorithm(), &bytes);
        if found == *digest {
            Ok(bytes)
        } else {
            Err(io::Error::other(format!("{name} has the digest {found}")))
        }
    }

    fn read(&self, name: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let bytes = read_capped(&self.folder.join(name), limit)?;
        if bytes.len() > limit {
            let name = name.display();
            return Err(io::Error::other(format!(
                "{name} is larger than {limit} bytes"
            )));
        }
        Ok(bytes.to_vec())
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Whether evidence in a manifest can be about `subject`: it says so, or it does not say that it is
/// about anything else, as cosign stores what it takes from tags.
fn is_about(untrusted_manifest: &[u8], tag: Option<&str>, subject: &Digest) -> bool {
    let refers = serde_json::from_slice::<Refers>(untrusted_manifest);
    if let Ok(Refers {
        subject: Some(other),
    }) = refers
    {
        return other.digest == subject.to_string();
    }
    let tag = tag
        .and_then(|tag| tag.rsplit(':').next())
        .unwrap_or_default();
    let is_of_another = tag.starts_with("sha256-") && !tag.contains(&subject.hex());
    !is_of_another
}

#[derive(Deserialize)]
struct Refers {
    subject: Option<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: String,
}

/// The annotation of an index that names a manifest.
const TAG: &str = "org.opencontainers.image.ref.name";
/// Blobs that are looked at.
const MAX_BLOBS: usize = 65_536;
/// Bytes of a blob that may be the manifest of an artefact; cosign's have a kilobyte.
const MAX_ARTEFACT_BYTES: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A layout, made by hand.
    struct Made {
        folder: tempfile::TempDir,
        index: Vec<Value>,
    }

    impl Made {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
            let index = Vec::new();
            Self { folder, index }
        }

        fn blob(&self, content: &[u8]) -> Digest {
            let digest = Digest::sha256_of(content);
            let path = self.folder.path().join("blobs/sha256").join(digest.hex());
            std::fs::write(path, content).unwrap();
            digest
        }

        /// A manifest of one layer, about `subject` if there is one, in the index if it has a tag.
        fn artefact(&mut self, layer: &str, subject: Option<&Digest>, tag: Option<&str>) {
            let config = self.blob(b"{}");
            let content = self.blob(layer.as_bytes());
            let mut manifest = json!({
                "schemaVersion": 2,
                "mediaType": policy::OCI_MANIFEST,
                "config": {"mediaType": "application/json", "size": 2, "digest": config},
                "layers": [{"mediaType": BUNDLE, "size": layer.len(), "digest": content}],
            });
            if let Some(digest) = subject {
                manifest["subject"] =
                    json!({"mediaType": policy::OCI_MANIFEST, "size": 1, "digest": digest});
            }
            let digest = self.blob(manifest.to_string().as_bytes());
            if let Some(tag) = tag {
                self.index.push(json!({
                    "mediaType": policy::OCI_MANIFEST,
                    "size": manifest.to_string().len(),
                    "digest": digest,
                    "annotations": {TAG: tag},
                }));
            }
        }

        fn find(&self, limits: EvidenceLimits) -> Discovered {
            let index = json!({"schemaVersion": 2, "manifests": self.index}).to_string();
            std::fs::write(self.folder.path().join("index.json"), index).unwrap();
            let folder = self.folder.path().to_owned();
            Layout { folder, limits }.find(&Digest::sha256_of(b"subject"))
        }
    }

    fn payloads(found: &Discovered) -> Vec<&str> {
        let payloads = found.candidates.iter().map(|one| one.payload.as_ref());
        let mut payloads: Vec<_> = payloads
            .map(|payload| payload.map_or("none", |bytes| std::str::from_utf8(bytes).unwrap()))
            .collect();
        payloads.sort_unstable();
        payloads
    }

    #[test]
    fn what_is_about_the_document_or_says_nothing_of_others_is_found() {
        let subject = Digest::sha256_of(b"subject");
        let other = Digest::sha256_of(b"other");
        let mut made = Made::new();
        made.artefact("by subject, not in the index", Some(&subject), None);
        made.artefact("by subject", Some(&subject), Some("any"));
        made.artefact(
            "by tag",
            None,
            Some(&format!("app:sha256-{}.sig", subject.hex())),
        );
        made.artefact("by nothing", None, Some("latest"));
        made.artefact("of another, by subject", Some(&other), Some("latest"));
        let tag = format!("sha256-{}.att", other.hex());
        made.artefact("of another, by tag", None, Some(&tag));
        let found = made.find(EvidenceLimits::default());
        assert_eq!(
            payloads(&found),
            [
                "by nothing",
                "by subject",
                "by subject, not in the index",
                "by tag"
            ]
        );
        assert_eq!(found.incomplete, []);
    }

    #[test]
    fn limits_are_named_and_what_is_damaged_is_no_evidence() {
        let subject = Digest::sha256_of(b"subject");
        let mut made = Made::new();
        for layer in ["one", "two", "three"] {
            made.artefact(layer, Some(&subject), Some("any"));
        }
        let limits = EvidenceLimits {
            candidates: 2,
            ..EvidenceLimits::default()
        };
        let found = made.find(limits);
        assert_eq!(payloads(&found), ["one", "two"]);
        let why = &found.incomplete[0].why;
        assert!(
            why.ends_with("see image_agent.evidence.candidates"),
            "{why}"
        );
        let blobs = made.folder.path().join("blobs/sha256");
        std::fs::write(blobs.join(Digest::sha256_of(b"two").hex()), b"2wo").unwrap();
        let found = made.find(EvidenceLimits::default());
        assert_eq!(payloads(&found), ["none", "one", "three"]);
        let damaged = found
            .candidates
            .iter()
            .find_map(|one| one.payload.as_ref().err());
        let why = &damaged.unwrap().why;
        assert!(why.contains("has the digest"), "{why}");
    }

    #[test]
    fn a_place_that_is_no_layout_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout {
            folder: folder.path().to_owned(),
            limits: EvidenceLimits::default(),
        };
        let found = layout.find(&Digest::sha256_of(b"subject"));
        assert_eq!(found.candidates, []);
        assert_eq!(found.incomplete.len(), 1);
    }

    const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
}
