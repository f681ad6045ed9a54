//! Room for an image: whether there is enough before anything is fetched for it, and making some.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use policy::{Approved, Image};
use tracing::{debug, info};

use crate::blocking::blocking;
use crate::error::Error;
use crate::store::{Amount, Estimate, ImageNames, Store, StoreError, size};

/// Makes room for `image` if there is too little, at the cost of layers that no bundle uses, and
/// returns what is free. The layers `under_way` have their part already.
///
/// Refuses an image that cannot fit. What takes more than most images do is found out when the
/// disk is full.
pub(crate) async fn make(
    store: &Store,
    image: &Arc<Approved<Image>>,
    names: &ImageNames,
    under_way: HashSet<String>,
) -> Result<Amount, Error> {
    let (store, image, names) = (store.clone(), Arc::clone(image), names.clone());
    blocking(move || make_now(&store, &image, &names, &under_way)).await
}

/// Removes every layer that no bundle uses and that is not one of `image`; whether there is more
/// free than the `free` of before, whoever has seen to that.
pub(crate) async fn make_all(
    store: &Store,
    names: &ImageNames,
    free: Amount,
) -> Result<bool, Error> {
    let (store, names) = (store.clone(), names.clone());
    let everything = Amount {
        bytes: u64::MAX,
        inodes: u64::MAX,
    };
    let collect = move || {
        let collected = store.collect(&keys(&names), everything)?;
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
    names: &ImageNames,
    under_way: &HashSet<String>,
) -> Result<Amount, Error> {
    let needed = missing(store, image, names, under_way).map_err(Error::Store)?;
    let free = store.free().map_err(Error::Store)?;
    debug!(?needed, ?free, "room for the image");
    if free.covers(needed.likely) {
        return Ok(free);
    }
    // What is in use is known only when bundles that are gone have been reclaimed.
    store.recover().map_err(Error::Store)?;
    let free = store.free().map_err(Error::Store)?;
    let spared = keys(names);
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
///
/// What is in the store nobody holds yet, so it is looked for again once the bundle is reserved.
fn missing(
    store: &Store,
    image: &Approved<Image>,
    names: &ImageNames,
    under_way: &HashSet<String>,
) -> Result<Estimate, StoreError> {
    let of_bundle = Estimate {
        least: BUNDLE,
        likely: BUNDLE,
    };
    let mut layers = BTreeMap::new();
    for (layer, names) in image.layers().zip(names.layers()) {
        let is_there = layers.contains_key(names.own())
            || names.all().any(|name| under_way.contains(name))
            || store.has_any(names)?;
        if !is_there {
            layers.insert(names.own(), Estimate::of(&layer));
        }
    }
    Ok(layers.into_values().fold(of_bundle, Estimate::plus))
}

fn keys(names: &ImageNames) -> HashSet<String> {
    names.all().map(str::to_owned).collect()
}

/// Its directory and record, upper and work directory and what the kernel makes in there, and the
/// documents of the image.
const BUNDLE: Amount = Amount {
    bytes: 256 << 10,
    inodes: 16,
};
