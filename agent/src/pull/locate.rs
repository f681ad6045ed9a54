//! Where an image is: its name, the places that serve it, and the manifest that it stands for.

use policy::{Document, ImageRef, MAX_MANIFEST_BYTES, Manifest, Platform, Unverified};
use tokio::sync::oneshot;
use tracing::info;

use super::Agent;
use crate::documents::Documents;
use crate::error::{Error, chain, nowhere};
use crate::registries::Registries;
use crate::registry::{Places, Source};
use crate::sources::Sources;

impl Agent {
    /// The name that is meant, where it is served, and the manifest that it stands for.
    pub(super) async fn locate(
        &self,
        image: &str,
        documents: &Documents,
        tell_name: oneshot::Sender<ImageRef>,
    ) -> Result<(ImageRef, Places, Unverified<Manifest>), Error> {
        let sources = self.sources();
        let registries = sources.registries().await?;
        let reference = registries.reference(image).map_err(Error::Reference)?;
        // Whoever wants to know may have failed.
        let _ = tell_name.send(reference.clone());
        let places = sources.places(&registries, &reference).await?;
        let resolved = match self.resolve_anywhere(&places, &reference, documents).await {
            // Credentials that were kept may have run out since.
            Err(refusal) if refusal.is_refusal() && self.forget_credentials() => {
                info!(error = %chain(&refusal), "fetching the registry credentials again");
                let again = self.resolve_by(sources, &registries, &reference, documents);
                again.await.map_err(|error| refusal_before(error, refusal))
            }
            resolved => resolved,
        };
        let may_be_anonymous = self.config.image.anonymous_fallback && places.have_login();
        let resolved = match resolved {
            Err(refusal) if refusal.is_refusal() && may_be_anonymous => {
                info!(error = %chain(&refusal), "asking without credentials");
                let sources = sources.anonymous();
                let again = self.resolve_by(sources, &registries, &reference, documents);
                again.await.map_err(|error| refusal_before(error, refusal))
            }
            resolved => resolved,
        };
        let (places, manifest) = resolved?;
        Ok((reference, places, manifest))
    }

    async fn resolve_by(
        &self,
        sources: Sources<'_>,
        registries: &Registries,
        reference: &ImageRef,
        documents: &Documents,
    ) -> Result<(Places, Unverified<Manifest>), Error> {
        let places = sources.places(registries, reference).await?;
        self.resolve_anywhere(&places, reference, documents).await
    }

    /// Lets the registry credentials be fetched anew. Whether they may so become others.
    fn forget_credentials(&self) -> bool {
        let location = self.config.image.registry_credentials.as_deref();
        location.is_some_and(|location| self.resources.forget_one(location))
    }

    fn sources(&self) -> Sources<'_> {
        Sources {
            config: &self.config,
            resources: &self.resources,
            registry: &self.registry,
            anonymous: false,
        }
    }

    /// The same places with the credentials that are for them now: short-lived ones may have run out
    /// since the pull began.
    pub(super) async fn renewed(
        &self,
        places: &Places,
        reference: &ImageRef,
    ) -> Result<Places, Error> {
        self.forget_credentials();
        let sources = self.sources();
        let registries = sources.registries().await?;
        let renewed = sources.places(&registries, reference).await?;
        Ok(renewed.going_on_from(places))
    }

    /// The manifest from the first place that has it, and the places from that one on.
    async fn resolve_anywhere(
        &self,
        places: &Places,
        reference: &ImageRef,
        documents: &Documents,
    ) -> Result<(Places, Unverified<Manifest>), Error> {
        let mut failures: Vec<Error> = Vec::new();
        for source in places.iter() {
            let in_vain = |error: &Error| !source.is_worth_asking_after(error.of_registry());
            if failures.last().is_some_and(in_vain) {
                continue;
            }
            match self.resolve(source, reference, documents).await {
                Ok(manifest) => return Ok((places.beginning_at(source), manifest)),
                // What a digest means lacks everywhere what it lacks here; a tag is what a place
                // says that it is.
                Err(error @ Error::Platform(_)) if reference.digest().is_some() => {
                    return Err(error);
                }
                Err(error @ (Error::Resolve(_) | Error::Manifest(_) | Error::Platform(_))) => {
                    info!(place = %source.place(), error = %chain(&error), "not from there");
                    failures.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(nowhere(failures, places.unasked().to_vec()))
    }

    /// From a name to the manifest for this platform. The tag is resolved here and only here.
    async fn resolve(
        &self,
        source: &Source,
        reference: &ImageRef,
        documents: &Documents,
    ) -> Result<Unverified<Manifest>, Error> {
        let served = source
            .manifest(&selector(reference), MAX_MANIFEST_BYTES)
            .await;
        let served = served.map_err(Error::Resolve)?;
        let content_type = served.untrusted_content_type.as_deref();
        let document = Document::parse(reference, content_type, served.untrusted_bytes)
            .map_err(Error::Manifest)?;
        match document {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(index) => {
                let platform = self.config.image_agent.platform.clone();
                let platform = platform.unwrap_or_else(Platform::host);
                let chosen = index.choose(&platform).map_err(Error::Platform)?;
                if let Some(raw) = documents.find(chosen.digest()).await {
                    let content_type = Some(chosen.media_type());
                    let instance = index.instance(&chosen, content_type, raw);
                    return instance.map_err(Error::Manifest);
                }
                let digest = chosen.digest().to_string();
                let served = source
                    .manifest(&digest, MAX_MANIFEST_BYTES)
                    .await
                    .map_err(Error::Resolve)?;
                documents.note(chosen.digest(), &served.untrusted_bytes);
                let content_type = served.untrusted_content_type.as_deref();
                index
                    .instance(&chosen, content_type, served.untrusted_bytes)
                    .map_err(Error::Manifest)
            }
        }
    }
}

/// What to tell when a second attempt was made after a refusal: the refusal, which names the
/// credentials, unless the second attempt came further.
pub(super) fn refusal_before(second: Error, refusal: Error) -> Error {
    match second {
        Error::Resource { .. } | Error::Registries(_) | Error::Open(_) => {}
        ref second if second.is_refusal() => {}
        further => return further,
    }
    info!(error = %chain(&second), "nor by a second attempt");
    refusal
}

/// What the registry is asked for: the digest where there is one, else the tag.
fn selector(reference: &ImageRef) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    }
}
