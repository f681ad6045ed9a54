//! The simple-signing signatures of an image, from the lookaside that the owner has configured.

use policy::{Digest, ImageRef, Lookaside, SimpleSignature, StoredSignature};
use reqwest::Url;

use crate::blocking::blocking;
use crate::error::chain;
use crate::registry::Registry;
use crate::resources::read_capped;

/// Where the signatures of one image are looked up.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    registry: &'a Registry,
    base: Option<String>,
    attachments: bool,
}

impl<'a> Place<'a> {
    /// What `config` says of `image`, which is the name of the place that it is pulled from.
    pub(crate) fn of(registry: &'a Registry, config: &Lookaside, image: &ImageRef) -> Self {
        Self {
            registry,
            base: config.base(image),
            attachments: config.use_sigstore_attachments(image).unwrap_or(true),
        }
    }

    /// Whether sigstore attachments are looked up; they are unless the owner says no.
    pub(crate) fn uses_attachments(&self) -> bool {
        self.attachments
    }

    /// The signatures of one document: those numbered 1, 2, ... up to the first that is missing.
    ///
    /// One that cannot be had or read spoils them all (containers-registries.d(5) as the reference
    /// implementation has it).
    pub(crate) async fn signatures(
        &self,
        subject: &Digest,
    ) -> Result<Vec<SimpleSignature>, String> {
        let base = self.base.as_deref().ok_or(NOT_CONFIGURED)?;
        let mut signatures = Vec::new();
        let mut room = MAX_BYTES;
        for number in 1.. {
            let found = Lookaside::signature(base, subject, number);
            let Some(stored) = self.fetch(&found, room.min(MAX_SIGNATURE_BYTES)).await? else {
                break;
            };
            if number > MAX_SIGNATURES {
                return Err(format!("{base} has more than {MAX_SIGNATURES} signatures"));
            }
            room = room.saturating_sub(stored.len());
            match StoredSignature::parse(stored) {
                Ok(StoredSignature::Simple(message)) => {
                    signatures.push(SimpleSignature { found, message });
                }
                // A sigstore signature counts where its own kind is looked up.
                Ok(_) => {}
                Err(error) => return Err(format!("{found}: {}", chain(&error))),
            }
        }
        Ok(signatures)
    }

    async fn fetch(&self, address: &str, limit: usize) -> Result<Option<Vec<u8>>, String> {
        let url = Url::parse(address).map_err(|error| format!("{address}: {error}"))?;
        match url.scheme() {
            "http" | "https" => {
                let fetched = self.registry.lookaside(url, limit).await;
                fetched.map_err(|error| format!("{address}: {}", chain(&error)))
            }
            "file" => {
                let path = url.to_file_path();
                let path = path.map_err(|()| format!("{address}: not a path of this machine"))?;
                match blocking(move || read_capped(&path, limit)).await {
                    Ok(stored) if stored.len() > limit => {
                        Err(format!("{address}: larger than the limit of {limit} bytes"))
                    }
                    Ok(stored) => Ok(Some(stored.to_vec())),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(format!("{address}: {error}")),
                }
            }
            scheme => Err(format!(
                "{address}: a lookaside is at file, http or https, not {scheme}"
            )),
        }
    }
}

/// The reference implementation's limits.
const MAX_SIGNATURE_BYTES: usize = 4 << 20;
const MAX_SIGNATURES: usize = 128;
/// Bytes of all signatures of one document; real ones have a kilobyte each.
const MAX_BYTES: usize = 16 << 20;
const NOT_CONFIGURED: &str = "no lookaside is configured for the image; see image.sigstore_config";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Timeouts;
    use crate::registry::Route;

    fn registry() -> Registry {
        Registry::new(Route {
            https_proxy: None,
            http_proxy: None,
            no_proxy: None,
            extra_root_certificates: Vec::new(),
            timeouts: Timeouts::default(),
        })
    }

    async fn signatures(lookaside: &str) -> Result<Vec<SimpleSignature>, String> {
        let config = format!("default-docker:\n  lookaside: {lookaside}\n");
        let config = Lookaside::parse([("test", config.as_bytes())]).unwrap();
        let image = "registry.example/team/app:1".parse().unwrap();
        let registry = registry();
        let place = Place::of(&registry, &config, &image);
        place.signatures(&Digest::sha256_of(b"")).await
    }

    #[tokio::test]
    async fn reads_files_by_number_until_one_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let subject = Digest::sha256_of(b"");
        let place = folder
            .path()
            .join(format!("team/app@sha256={}", subject.hex()));
        std::fs::create_dir_all(&place).unwrap();
        let lookaside = format!("file://{}", folder.path().display());
        assert_eq!(signatures(&lookaside).await, Ok(Vec::new()));
        for number in [1, 2, 4] {
            std::fs::write(place.join(format!("signature-{number}")), b"\xa3x").unwrap();
        }
        let found = signatures(&lookaside).await.unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[1].found.ends_with("/signature-2"));
        std::fs::write(place.join("signature-2"), b"-----BEGIN").unwrap();
        let unreadable = signatures(&lookaside).await.unwrap_err();
        assert!(unreadable.contains("0x2d"), "{unreadable}");
        std::fs::write(
            place.join("signature-2"),
            vec![0xa3; MAX_SIGNATURE_BYTES + 1],
        )
        .unwrap();
        let large = signatures(&lookaside).await.unwrap_err();
        assert!(large.contains("larger than"), "{large}");
        for number in 1..=MAX_SIGNATURES + 1 {
            std::fs::write(place.join(format!("signature-{number}")), b"\xa3x").unwrap();
        }
        let many = signatures(&lookaside).await.unwrap_err();
        assert!(many.contains("more than 128"), "{many}");
    }

    #[tokio::test]
    async fn without_a_place_of_a_known_kind_there_is_no_answer() {
        let ftp = signatures("ftp://registry.example").await.unwrap_err();
        assert!(ftp.contains("not ftp"), "{ftp}");
        assert_eq!(signatures("").await, Err(NOT_CONFIGURED.to_owned()));
    }
}
