//! The simple-signing signatures of an image: from its registry if that keeps them itself, else
//! from the lookaside that the owner has configured.

use policy::{
    Digest, ImageRef, Lookaside, NotFetched, SimpleSignature, StoredSignature, parse_signature_list,
};
use reqwest::Url;

use crate::blocking::blocking;
use crate::error::chain;
use crate::evidence::unanswered;
use crate::registry::{Places, Registry, Source};
use crate::resources::read_capped;

/// Where the signatures of one image are looked up.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    registry: &'a Registry,
    source: &'a Source,
    base: Option<String>,
    attachments: bool,
}

impl<'a> Place<'a> {
    /// Each of `places`, of which each goes by what `config` says of it.
    pub(crate) fn all(
        registry: &'a Registry,
        places: &'a Places,
        config: &Lookaside,
        image: &ImageRef,
    ) -> Vec<Self> {
        let sources = places.sources().into_iter();
        let places = sources.map(|source| Self::of(registry, source, config, image));
        places.collect()
    }

    /// What `config` says of `image`, which is pulled from `source`. Lookasides go by the name of
    /// that place, the policy by the one that was asked for.
    fn of(
        registry: &'a Registry,
        source: &'a Source,
        config: &Lookaside,
        image: &ImageRef,
    ) -> Self {
        let image = source.physical(image);
        Self {
            registry,
            source,
            base: config.base(&image),
            attachments: config.use_sigstore_attachments(&image).unwrap_or(true),
        }
    }

    /// Where the image is pulled from.
    pub(crate) fn source(&self) -> &'a Source {
        self.source
    }

    /// Whether sigstore attachments are looked up; they are unless the owner says no.
    pub(crate) fn uses_attachments(&self) -> bool {
        self.attachments
    }

    /// The signatures of one document. One that cannot be had spoils them all.
    ///
    /// As in the reference implementation, a registry that keeps signatures is asked for them and
    /// no lookaside is: the registry can so hide signatures, which it can by other means too, and
    /// cannot make any.
    pub(crate) async fn signatures(
        &self,
        subject: &Digest,
    ) -> Result<Vec<SimpleSignature>, NotFetched> {
        let kept = self.source.keeps_signatures().await;
        if kept.map_err(|error| unanswered(&error))? {
            self.kept_by_registry(subject).await
        } else {
            self.in_lookaside(subject).await
        }
    }

    async fn kept_by_registry(&self, subject: &Digest) -> Result<Vec<SimpleSignature>, NotFetched> {
        let address = self.source.signature_list_url(subject);
        let list = self.source.signature_list(subject).await;
        let list = list.map_err(|error| unanswered(&error))?;
        let listed = parse_signature_list(&list)
            .map_err(|error| NotFetched::permanent(format!("{address}: {}", chain(&error))))?;
        let signatures = listed.into_iter().map(|one| SimpleSignature {
            found: format!("{address}[{}]", one.position),
            message: one.untrusted_message,
        });
        Ok(signatures.collect())
    }

    /// The signatures numbered 1, 2, ... up to the first that is missing
    /// (containers-registries.d(5) as the reference implementation has it).
    async fn in_lookaside(&self, subject: &Digest) -> Result<Vec<SimpleSignature>, NotFetched> {
        let base = self.base.as_deref();
        let base = base.ok_or_else(|| NotFetched::not_configured(NOT_CONFIGURED))?;
        let mut signatures = Vec::new();
        let mut room = MAX_BYTES;
        for number in 1.. {
            let url =
                Url::parse(&Lookaside::signature(base, subject, number)).map_err(|error| {
                    NotFetched::permanent(format!("the address of the lookaside: {error}"))
                })?;
            let found = shown(&url);
            let Some(stored) = self.fetch(url, room.min(MAX_SIGNATURE_BYTES)).await? else {
                break;
            };
            if number > MAX_SIGNATURES {
                return Err(NotFetched::permanent(format!(
                    "{found}: the lookaside has more than {MAX_SIGNATURES} signatures"
                )));
            }
            room = room.saturating_sub(stored.len());
            match StoredSignature::parse(stored) {
                Ok(StoredSignature::Simple(message)) => {
                    signatures.push(SimpleSignature { found, message });
                }
                // A sigstore signature counts where its own kind is looked up.
                Ok(_) => {}
                Err(error) => {
                    let why = format!("{found}: {}", chain(&error));
                    return Err(NotFetched::permanent(why));
                }
            }
        }
        Ok(signatures)
    }

    async fn fetch(&self, url: Url, limit: usize) -> Result<Option<Vec<u8>>, NotFetched> {
        let address = shown(&url);
        let permanent = |why: String| NotFetched::permanent(format!("{address}: {why}"));
        match url.scheme() {
            "http" | "https" => {
                let fetched = self.registry.lookaside(url, limit).await;
                fetched.map_err(|error| {
                    let NotFetched { why, failure } = unanswered(&error);
                    let why = format!("{address}: {why}");
                    NotFetched { why, failure }
                })
            }
            "file" => {
                let path = url.to_file_path();
                let path = path.map_err(|()| permanent("not a path of this machine".to_owned()))?;
                match blocking(move || read_capped(&path, limit)).await {
                    Ok(stored) if stored.len() > limit => {
                        Err(permanent(format!("larger than the limit of {limit} bytes")))
                    }
                    Ok(stored) => Ok(Some(stored.to_vec())),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(permanent(error.to_string())),
                }
            }
            scheme => {
                let why = format!("a lookaside is at file, http or https, not {scheme}");
                Err(permanent(why))
            }
        }
    }
}

/// The address as it may stand in records and logs. What an owner puts before the host, or behind
/// the path, is a password or a token.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    // Both are refused for addresses that have no user to begin with.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.into()
}

/// The reference implementation's limits.
const MAX_SIGNATURE_BYTES: usize = 4 << 20;
const MAX_SIGNATURES: usize = 128;
/// Bytes of all signatures of one document; real ones have a kilobyte each.
const MAX_BYTES: usize = 16 << 20;
const NOT_CONFIGURED: &str = "no lookaside is configured for the image, see \
    image.sigstore_config_uri and image.sigstore_config, and its registry keeps no signatures itself";

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use super::*;
    use crate::certs::Certificates;
    use crate::config::Timeouts;
    use crate::registries::Registries;
    use crate::registry::{Account, Reach, Route, Throttle};

    fn registry() -> Registry {
        Registry::new(Route {
            https_proxy: None,
            http_proxy: None,
            no_proxy: None,
            extra_root_certificates: Vec::new(),
            timeouts: Timeouts::default(),
            attempts: NonZeroU32::MIN,
            throttle: Arc::new(Throttle::new(None)),
        })
    }

    async fn signatures(lookaside: &str) -> Result<Vec<SimpleSignature>, NotFetched> {
        let config = format!("default-docker:\n  lookaside: {lookaside}\n");
        let config = Lookaside::parse([("test", config.as_bytes())]).unwrap();
        let image = "registry.example/team/app:1".parse().unwrap();
        let registry = registry();
        let endpoints = Registries::default().endpoints(&image).unwrap();
        let endpoint = endpoints.into_iter().next().unwrap();
        let reach = Reach::Tls(Certificates::default());
        let source = registry
            .source(
                endpoint,
                image.repository(),
                &reach,
                &[],
                Account::default(),
            )
            .unwrap();
        let place = Place::of(&registry, &source, &config, &image);
        place.in_lookaside(&Digest::sha256_of(b"")).await
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
        let unreadable = signatures(&lookaside).await.unwrap_err().why;
        assert!(unreadable.contains("0x2d"), "{unreadable}");
        std::fs::write(
            place.join("signature-2"),
            vec![0xa3; MAX_SIGNATURE_BYTES + 1],
        )
        .unwrap();
        let large = signatures(&lookaside).await.unwrap_err().why;
        assert!(large.contains("larger than"), "{large}");
        for number in 1..=MAX_SIGNATURES + 1 {
            std::fs::write(place.join(format!("signature-{number}")), b"\xa3x").unwrap();
        }
        let many = signatures(&lookaside).await.unwrap_err().why;
        assert!(many.contains("more than 128"), "{many}");
    }

    #[tokio::test]
    async fn without_a_place_of_a_known_kind_there_is_no_answer() {
        let ftp = signatures("ftp://registry.example").await.unwrap_err().why;
        assert!(ftp.contains("not ftp"), "{ftp}");
        assert_eq!(
            signatures("").await,
            Err(NotFetched::not_configured(NOT_CONFIGURED))
        );
    }

    #[tokio::test]
    async fn secrets_in_the_address_are_shown_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let subject = Digest::sha256_of(b"");
        let place = format!("team/app@sha256={}", subject.hex());
        let place = folder.path().join(place);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("signature-1"), b"\xa3x").unwrap();
        let path = folder.path().display();
        let found = signatures(&format!("file://{path}?sig=secret#secret")).await;
        let found = &found.unwrap()[0].found;
        assert!(found.ends_with("/signature-1"), "{found}");
        std::fs::write(place.join("signature-1"), b"-----BEGIN").unwrap();
        for address in [
            format!("file://{path}?sig=secret"),
            "https://user:secret@127.0.0.1:1/x?sig=secret#secret".to_owned(),
            "ftp://secret:secret@registry.example/?secret".to_owned(),
            "https://secret@[".to_owned(),
        ] {
            let why = signatures(&address).await.unwrap_err().why;
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
