//! The image's config on its way, while it is still to be decided whether the image may run.
//!
//! Policy and keys take a round trip to the Key Broker Service, or an attestation; the config can
//! come in that time. It is bytes in memory that nobody looks at, of the size and digest that the
//! manifest names, which proves nothing either. Whoever has an approval takes them; without one they
//! are dropped, and so is the request if it is still under way.

use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;

use policy::{Descriptor, MAX_CONFIG_BYTES, Manifest, Unverified};
use tokio::task::JoinHandle;

use crate::documents::Documents;
use crate::registry::{RegistryError, Source};

/// The config of one image, which nobody may use yet.
#[derive(Debug)]
pub(crate) struct Prefetch(JoinHandle<Result<Vec<u8>, RegistryError>>);

impl Prefetch {
    /// Begins to get the config that `manifest` names: from the store, which costs no request, or
    /// from `source`, which has served the manifest.
    pub(crate) fn begin(
        manifest: &Unverified<Manifest>,
        source: &Arc<Source>,
        documents: &Documents,
    ) -> Option<Self> {
        // An image that could not start is not worth a request; an approval of it says why.
        let descriptor = manifest.untrusted_config().ok()?.clone();
        let getting = get(descriptor, Arc::clone(source), documents.clone());
        Some(Self(tokio::spawn(getting)))
    }

    /// The bytes, once they are there.
    pub(crate) async fn untrusted_bytes(mut self) -> Result<Vec<u8>, RegistryError> {
        match (&mut self.0).await {
            Ok(got) => got,
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime is shutting down.
                Err(_cancelled) => pending().await,
            },
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn get(
    descriptor: Descriptor,
    source: Arc<Source>,
    documents: Documents,
) -> Result<Vec<u8>, RegistryError> {
    if let Some(raw) = documents.find(descriptor.digest()).await {
        return Ok(raw);
    }
    let raw = source.small_blob(&descriptor, MAX_CONFIG_BYTES).await?;
    documents.note(descriptor.digest(), &raw);
    Ok(raw)
}
