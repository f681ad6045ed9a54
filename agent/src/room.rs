//! Room for an image: whether there is enough before anything is fetched for it, and making some.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use policy::{Approved, Image};
use tracing::{debug, info};

use crate::blocking::blocking;
use crate::error::Error;
use crate::store::{Amount, ChainId, Estimate, Store, StoreError, size};

/// Makes room for `image` if there is too little, at the cost of layers that no bundle uses, and
/// returns what is free. The layers `under_way` have their part already.
///
/// Refuses an image that cannot fit. What takes more than most images do is found out when the
/// disk is full.
pub(crate) async fn make(
    store: &Store,
    image: &Arc<Approved<Image>>,
    under_way: HashSet<String>,
) -> Result<Amount, Error> {
    let (store, image) = (store.clone(), Arc::clone(image));
    blocking(move || make_now(&store, &image, &under_way)).await
}

/// Removes every layer that no bundle uses and that is not one of `image`; whether there is more
/// free than the `free` of before, whoever has seen to that.
pub(crate) async fn make_all(
    store: &Store,
    image: &Arc<Approved<Image>>,
    free: Amount,
) -> Result<bool, Error> {
    let (store, image) = (store.clone(), Arc::clone(image));
    let everything = Amount {
        bytes: u64::MAX,
        inodes: u64::MAX,
    };
    let collect = move || {
        let collected = store.collect(&keys(&store, &image), everything)?;
        Ok((collected, store.free()?))
    };
    let (collected, now) = blocking(collect).await.map_err(Error::Store)?;
    info!(?collected, ?now, "the disk was full");
    Ok(collected.layers > 0 || !free.covers(now))
}

/// What `error` comes to: the disk had `free`, and that was too little.
pub(crate) fn was_too_small(store: &Store, free: Amount, error: Error) -> Error {
    // The path and the kind of the disk are those of any shortage.
    let shortage = store.shortage(Amount::default(), free);
    Error::DiskFull {
        free,
        path: shortage.path,
        file_system: shortage.file_system,
        source: Box::new(error),
    }
}

fn make_now(
    store: &Store,
    image: &Approved<Image>,
    under_way: &HashSet<String>,
) -> Result<Amount, Error> {
    let needed = missing(store, image, under_way).map_err(Error::Store)?;
    let free = store.free().map_err(Error::Store)?;
    debug!(?needed, ?free, "room for the image");
    if free.covers(needed.likely) {
        return Ok(free);
    }
    // What is in use is known only when bundles that are gone have been reclaimed.
    store.recover().map_err(Error::Store)?;
    let free = store.free().map_err(Error::Store)?;
    let spared = keys(store, image);
    let more = store.reclaimable(&spared).map_err(Error::Store)?;
    if !free.plus(more).covers(needed.least) {
        return Err(Error::NoRoom(
            store.shortage(needed.likely, free.plus(more)),
        ));
    }
    let collected = store
        .collect(&spared, needed.likely)
        .map_err(Error::Store)?;
    let free = store.free().map_err(Error::Store)?;
    let (layers, left) = (collected.layers, size(free.bytes));
    info!(
        layers,
        free = left,
        "layers that no bundle uses were removed"
    );
    if !free.covers(needed.least) {
        return Err(Error::NoRoom(store.shortage(needed.likely, free)));
    }
    Ok(free)
}

/// What the layers of `image` take that are not in the store, and the bundle itself.
fn missing(
    store: &Store,
    image: &Approved<Image>,
    under_way: &HashSet<String>,
) -> Result<Estimate, StoreError> {
    let of_bundle = Estimate {
        least: BUNDLE,
        likely: BUNDLE,
    };
    let mut layers = BTreeMap::new();
    for (layer, chain) in image.layers().zip(ChainId::below_each(image)) {
        let key = store.key_of(&layer, None);
        let is_there = layers.contains_key(&key)
            || under_way.contains(&key)
            || under_way.contains(&store.key_of(&layer, chain.as_ref()))
            || store.layer(&layer, None)?.is_some()
            || (chain.is_some() && store.layer(&layer, chain.as_ref())?.is_some());
        if !is_there {
            layers.insert(key, Estimate::of(&layer));
        }
    }
    Ok(layers.into_values().fold(of_bundle, Estimate::plus))
}

fn keys(store: &Store, image: &Approved<Image>) -> HashSet<String> {
    store.keys_of(image).into_iter().collect()
}

/// Records, upper and work directory.
const BUNDLE: Amount = Amount {
    bytes: 256 << 10,
    inodes: 16,
};
