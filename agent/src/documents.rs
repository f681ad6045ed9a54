//! Manifests and configs by digest: from the store where it has them, and kept there once the image
//! they belong to is delivered.

use std::sync::{Arc, Mutex, PoisonError};

use policy::Digest;

use crate::blocking::blocking;
use crate::store::{Document, Store};

/// The documents of one image.
///
/// Whoever is handed one checks it against its digest all the same: nothing here is proof.
#[derive(Debug, Clone, Default)]
pub(crate) struct Documents {
    store: Option<Store>,
    fetched: Arc<Mutex<Vec<Document>>>,
}

impl Documents {
    /// Documents that are looked for in `store`. By default there is none, and nothing is kept.
    pub(crate) fn of(store: &Store) -> Self {
        let store = Some(store.clone());
        Self {
            store,
            ..Self::default()
        }
    }

    /// The document, if the store has it.
    pub(crate) async fn find(&self, digest: &Digest) -> Option<Vec<u8>> {
        let (store, digest) = (self.store.clone()?, *digest);
        blocking(move || store.document(&digest)).await
    }

    /// Notes a document that had to be fetched.
    pub(crate) fn note(&self, digest: &Digest, bytes: &[u8]) {
        if self.store.is_some() {
            let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
            fetched.push(Document {
                digest: *digest,
                bytes: bytes.to_vec(),
            });
        }
    }

    /// Keeps what was fetched. For blocking work.
    pub(crate) fn keep(&self) {
        if let Some(store) = &self.store {
            let fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
            store.keep_documents(&fetched);
        }
    }
}
