//! Under which names a store has the layers of an image, and which of them are there.

use std::sync::Arc;

use policy::{Approved, Image};

use super::{ChainId, Store, StoreError, StoredLayer};

/// The names that the trees of an image's layers have in a store, or would have; bottom first.
///
/// They are made of what was approved and of nothing else, so that a tree that is proved under one
/// of them is that of the layer. They are made once for each pull: each is a digest.
#[derive(Debug, Clone)]
pub(crate) struct ImageNames(Arc<[LayerNames]>);

/// The names of one layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerNames {
    own: String,
    onto: Option<(ChainId, String)>,
}

impl ImageNames {
    /// Those of every layer, bottom first.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &LayerNames> {
        self.0.iter()
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.layers().flat_map(LayerNames::all)
    }
}

impl LayerNames {
    /// The name of the tree that the layer is on its own.
    pub(crate) fn own(&self) -> &str {
        &self.own
    }

    /// What lies below it; nothing below the first.
    pub(crate) fn chain(&self) -> Option<&ChainId> {
        self.onto.as_ref().map(|(chain, _)| chain)
    }

    /// The name on its own and, except for the lowest layer, on top of what lies below.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        let chained = self.onto.iter().map(|(_, name)| name.as_str());
        std::iter::once(self.own()).chain(chained)
    }
}

impl Store {
    /// The names of the trees that a bundle of `image` may be made of.
    pub(crate) fn names_of(&self, image: &Approved<Image>) -> ImageNames {
        let chains = ChainId::below_each(image).into_iter();
        let names = image.layers().zip(chains).map(|(layer, chain)| LayerNames {
            own: self.key_of(&layer, None),
            onto: chain.map(|chain| {
                let name = self.key_of(&layer, Some(&chain));
                (chain, name)
            }),
        });
        ImageNames(names.collect())
    }

    /// Those layers that are in the store, on their own or else on top of what lies below them. It
    /// waits as [`Store::layer`] does.
    pub(crate) fn find_all(
        &self,
        names: &ImageNames,
    ) -> Result<Vec<Option<StoredLayer>>, StoreError> {
        let find = |names: &LayerNames| {
            for name in names.all() {
                if let Some(stored) = self.proved(name)? {
                    return Ok(Some(stored));
                }
            }
            Ok(None)
        };
        names.layers().map(find).collect()
    }

    /// Whether there is a tree of the layer, proved or not: enough to know how much room it takes.
    pub(crate) fn has_any(&self, names: &LayerNames) -> Result<bool, StoreError> {
        for name in names.all() {
            if self.has_tree(name)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
