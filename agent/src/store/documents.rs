//! Small documents of images that were delivered: manifests that an index names, and configs.
//!
//! They are kept by digest and held to it whenever they are read, so that nothing depends on who
//! could have written them. They only spare a second pull the requests.

use std::os::fd::AsFd;

use policy::Digest;

use super::{Store, StoreError};
use crate::handle::{read_file, replace_file};

/// A document by its digest.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
}

impl Store {
    /// The document with this digest, if it is there and undamaged.
    pub(crate) fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        let name = digest.to_string();
        let found = read_file(self.inner.documents.as_fd(), &name);
        let bytes = found
            .inspect_err(|error| tracing::debug!(%error, name, "a document cannot be read"))
            .ok()??;
        (Digest::of(digest.algorithm(), &bytes) == *digest).then_some(bytes)
    }

    /// Keeps documents for the next pull, as far as there is room for them.
    pub(crate) fn keep_documents(&self, documents: &[Document]) {
        for Document { digest, bytes } in documents {
            let name = digest.to_string();
            let kept = replace_file(self.inner.documents.as_fd(), &name, bytes);
            if let Err(error) = kept {
                tracing::debug!(%error, name, "a document cannot be kept");
            }
        }
    }

    /// Removes all documents, which costs the next pull of each image a request or two.
    pub(super) fn remove_documents(&self) -> Result<(), StoreError> {
        for name in self.list("documents")? {
            let path = self.path("documents").join(&name);
            let removed = self.inner.documents.remove_all(&name);
            removed.map_err(StoreError::tree("remove", &path))?;
        }
        Ok(())
    }
}
