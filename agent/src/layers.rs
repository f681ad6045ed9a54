//! From approved layers to stored ones: from the store, from a flight that is under way, or from
//! the registry.
//!
//! Only layer work is shared. Whoever joins comes with a decision of its own, and takes from the
//! store, by its own approval, what the flight brought there.

mod width;

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use policy::{Approved, Digest, Image, Layer};
use rootfs::{Budget, Cancel};

use crate::blocking::blocking;
use crate::bundle::View;
use crate::config::Config;
use crate::error::{self, Error, nowhere};
use crate::flight::{Boarding, End, Failure, Flights};
use crate::progress::{Listener, Progress};
use crate::registry::{BlobReader, Places, RegistryError, Source, blob_channel};
use crate::store::{ChainId, ImageNames, LayerNames, Store, StoreError, StoreId, StoredLayer};

use self::width::{Memory, Width};

/// Gets layers, each once however many pulls want it.
#[derive(Debug)]
pub(crate) struct Layers {
    flights: Flights<FlightKey>,
    /// Layers that were found to be nothing without those below them. It only spares finding that
    /// out again: on top of others any layer can be unpacked.
    leaning: Mutex<HashSet<FlightKey>>,
    width: Width,
    memory: Arc<Memory>,
    terms: Terms,
}

/// A layer on its way into a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FlightKey {
    store: StoreId,
    layer: String,
}

/// Under which terms a layer is fetched and unpacked.
#[derive(Debug, Clone, Copy)]
struct Terms {
    /// For one layer, from its first request until it is published.
    deadline: Duration,
    sync: bool,
}

impl Layers {
    /// As configured.
    pub(crate) fn new(config: &Config) -> Self {
        let (width, config) = (
            config.image.max_concurrent_layer_downloads,
            &config.image_agent,
        );
        let terms = Terms {
            deadline: config.timeouts.total,
            sync: config.store.sync,
        };
        let width = Width::of(width);
        Self {
            flights: Flights::new(config.store.linger),
            leaning: Mutex::default(),
            width,
            memory: Arc::new(Memory::new(config.downloads.memory_bytes, width)),
            terms,
        }
    }

    /// Those of `names` whose layers are on their way into `store`.
    pub(crate) fn under_way(
        &self,
        store: &Store,
        names: &ImageNames,
    ) -> Result<HashSet<String>, Error> {
        let id = store.id().map_err(Error::Store)?;
        let keys = names.all().map(|name| FlightKey {
            store: id,
            layer: name.to_owned(),
        });
        let under_way = keys.filter(|key| self.flights.is_under_way(key));
        Ok(under_way.map(|key| key.layer).collect())
    }

    /// The layers of `image`, bottom first, each from wherever it can be had soonest.
    ///
    /// Most layers are the same tree wherever they occur. One that is not is unpacked onto what
    /// lies below it, once that is there.
    ///
    /// The bundle has to be reserved: until then, others may remove what is found.
    pub(crate) async fn get_all(
        &self,
        pull: &Pull<'_>,
        image: &Approved<Image>,
        names: &ImageNames,
    ) -> Result<Vec<StoredLayer>, Error> {
        let (mut got, wanted) = self.find_all(pull, image, names).await?;
        let size = |wanted: &Wanted| wanted.layer.blob().size();
        let [one, other] = self.width.lines(wanted, size);
        let (one, other) = tokio::try_join!(self.get_line(pull, one), self.get_line(pull, other))?;
        got.extend(one.into_iter().chain(other));
        got.sort_unstable_by_key(|(index, _)| *index);
        let mut stored: Vec<StoredLayer> = Vec::with_capacity(got.len());
        for ((layer, names), (_, got)) in image.layers().zip(names.layers()).zip(got) {
            let next = match (got, names.chain()) {
                (Got::Settled(layer), _) | (Got::OnItsOwn(layer), None) => layer,
                (Got::OnItsOwn(found), Some(chain)) => {
                    let (found, leads) = leads_through_link(pull.store, found, &stored).await?;
                    if leads {
                        self.get_onto(pull, layer, chain, &stored).await?
                    } else {
                        found
                    }
                }
                (Got::Leans(chain), _) => self.get_onto(pull, layer, &chain, &stored).await?,
            };
            stored.push(next);
        }
        Ok(stored)
    }

    /// Which layers are in the store already, and which are not.
    async fn find_all(
        &self,
        pull: &Pull<'_>,
        image: &Approved<Image>,
        names: &ImageNames,
    ) -> Result<(Vec<(usize, Got)>, Vec<Wanted>), Error> {
        let (store, looked_for) = (pull.store.clone(), names.clone());
        let found = blocking(move || store.find_all(&looked_for)).await;
        let found = found.map_err(Error::Store)?;
        let (mut got, mut wanted) = (Vec::with_capacity(found.len()), Vec::new());
        let each = image.layers().zip(names.layers()).zip(found);
        for (index, ((layer, names), found)) in each.enumerate() {
            match found {
                Some(stored) if stored.key() == names.own() => {
                    got.push((index, Got::OnItsOwn(pull.take(&layer, stored)?)));
                }
                Some(stored) => got.push((index, Got::Settled(pull.take(&layer, stored)?))),
                None => wanted.push(Wanted {
                    index,
                    layer,
                    names: names.clone(),
                }),
            }
        }
        Ok((got, wanted))
    }

    /// The layers of one line, so many at a time, in the order in which they are there.
    async fn get_line(
        &self,
        pull: &Pull<'_>,
        (wanted, width): (Vec<Wanted>, usize),
    ) -> Result<Vec<(usize, Got)>, Error> {
        stream::iter(wanted)
            .map(|wanted| async move {
                let got = self.get_on_its_own(pull, wanted.layer, wanted.names);
                Ok((wanted.index, got.await?))
            })
            .buffer_unordered(width)
            .try_collect()
            .await
    }

    /// A layer that was not there when the pull began; if it leans on others, what it is on top of
    /// them is for later.
    async fn get_on_its_own(
        &self,
        pull: &Pull<'_>,
        layer: Approved<Layer>,
        names: LayerNames,
    ) -> Result<Got, Error> {
        let Some(chain) = names.chain() else {
            return self.bring(pull, layer, None).await.map(Got::OnItsOwn);
        };
        let key = FlightKey {
            store: pull.store.id().map_err(Error::Store)?,
            layer: names.own().to_owned(),
        };
        if self.leaning().contains(&key) {
            return Ok(Got::Leans(chain.clone()));
        }
        match self.bring(pull, layer, None).await {
            Err(Error::Unpack { source, .. }) if source.needs_lower_layers() => {
                self.leaning().insert(key);
                Ok(Got::Leans(chain.clone()))
            }
            brought => brought.map(Got::OnItsOwn),
        }
    }

    fn leaning(&self) -> MutexGuard<'_, HashSet<FlightKey>> {
        self.leaning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A layer as it is on top of `below`, which are all that lie there.
    async fn get_onto(
        &self,
        pull: &Pull<'_>,
        layer: Approved<Layer>,
        chain: &ChainId,
        below: &[StoredLayer],
    ) -> Result<StoredLayer, Error> {
        let (layer, stored) = look_up(pull.store, layer, Some(chain.clone())).await;
        if let Some(stored) = stored? {
            return pull.take(&layer, stored);
        }
        let (store, below) = (pull.store.clone(), below.to_vec());
        let view = blocking(move || View::of(&store, &below)).await;
        let onto = Onto {
            chain: chain.clone(),
            view: view.map_err(Error::Assemble)?,
        };
        self.bring(pull, layer, Some(onto)).await
    }

    /// Brings a layer that was not there a moment ago, or waits for whoever does.
    async fn bring(
        &self,
        pull: &Pull<'_>,
        layer: Approved<Layer>,
        onto: Option<Onto>,
    ) -> Result<StoredLayer, Error> {
        let chain = onto.as_ref().map(|onto| onto.chain.clone());
        let key = FlightKey {
            store: pull.store.id().map_err(Error::Store)?,
            layer: pull.store.key_of(&layer, chain.as_ref()),
        };
        let (mut layer, mut joined) = (layer, 0);
        let departure = loop {
            // Others have another registry, or other credentials: when theirs have failed often
            // enough, ours are tried without waiting for anybody.
            if joined == PATIENCE {
                break self.flights.lead(key);
            }
            let passenger = match self.flights.board(key.clone()) {
                Boarding::Lead(departure) => break departure,
                Boarding::Join(passenger) => passenger,
            };
            let end = passenger.end().await;
            let stored;
            (layer, stored) = look_up(pull.store, layer, chain.clone()).await;
            if let Some(stored) = stored? {
                return pull.take(&layer, stored);
            }
            tracing::info!(?end, layer = %layer.blob().digest(), "a joined flight has failed");
            if end == End::OutOfSpace {
                // Room has to be made first, or all who joined would fill the disk together.
                return Err(Error::Store(pull.store.disk_full()));
            }
            joined += 1;
        };
        let flight = Flight {
            store: pull.store.clone(),
            places: pull.places.clone(),
            budget: Arc::clone(pull.budget),
            listener: pull.listener.clone(),
            memory: Arc::clone(&self.memory),
            terms: self.terms,
            onto,
        };
        let digest = *layer.blob().digest();
        let stored = departure.fly(flight.bring(layer)).await?;
        pull.listener.tell(Progress::LayerReady(&digest));
        Ok(stored)
    }
}

/// A layer to be got, and where it lies.
struct Wanted {
    /// From the bottom.
    index: usize,
    layer: Approved<Layer>,
    names: LayerNames,
}

/// A layer, or why it is none yet.
enum Got {
    /// What it is on its own, which may not be what it is in this image.
    OnItsOwn(StoredLayer),
    /// What it is in this image.
    Settled(StoredLayer),
    /// It is nothing without what lies below it.
    Leans(ChainId),
}

/// What a layer is unpacked onto.
struct Onto {
    chain: ChainId,
    view: View,
}

/// What a pull brings for its layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pull<'a> {
    pub(crate) store: &'a Store,
    /// Where layers are, in the order in which to ask.
    pub(crate) places: &'a Places,
    /// What all layers of the image may cost together.
    pub(crate) budget: &'a Arc<Budget>,
    pub(crate) listener: &'a Listener,
}

impl Pull<'_> {
    /// Takes a layer that was unpacked for another pull, and counts it for this one.
    fn take(&self, layer: &Approved<Layer>, stored: StoredLayer) -> Result<StoredLayer, Error> {
        let spent = self.budget.spend(stored.content_bytes());
        spent.map_err(|source| unpack_error(layer, source))?;
        self.listener
            .tell(Progress::LayerReady(layer.blob().digest()));
        Ok(stored)
    }
}

/// Everything that it takes to bring a layer, of its own: the caller may leave.
struct Flight {
    store: Store,
    places: Places,
    budget: Arc<Budget>,
    listener: Listener,
    memory: Arc<Memory>,
    terms: Terms,
    onto: Option<Onto>,
}

impl Flight {
    async fn bring(self, layer: Approved<Layer>) -> Result<StoredLayer, Error> {
        let limit = self.terms.deadline;
        let seconds = limit.as_secs();
        let bringing = self.bring_without_deadline(layer);
        let in_time = tokio::time::timeout(limit, bringing).await;
        in_time.unwrap_or(Err(Error::Deadline { seconds }))
    }

    async fn bring_without_deadline(self, layer: Approved<Layer>) -> Result<StoredLayer, Error> {
        // A flight may have landed between the caller's look into the store and its boarding.
        let chain = self.onto.as_ref().map(|onto| onto.chain.clone());
        let (layer, stored) = look_up(&self.store, layer, chain).await;
        if let Some(stored) = stored? {
            let spent = self.budget.spend(stored.content_bytes());
            spent.map_err(|source| unpack_error(&layer, source))?;
            return Ok(stored);
        }
        let _share = self.memory.share(layer.blob().size()).await;
        let (flight, layer) = (Arc::new(self), Arc::new(layer));
        let mut failures = Vec::new();
        for source in flight.places.iter() {
            let in_vain = |error: &Error| !source.is_worth_asking_after(error.of_registry());
            if failures.last().is_some_and(in_vain) {
                continue;
            }
            match flight.bring_from(source, &layer).await {
                Err(error) if is_of_the_place(&error) => {
                    let cause = error::chain(&error);
                    tracing::info!(place = %source.place(), error = cause, "no layer from there");
                    failures.push(error);
                }
                ended => return ended,
            }
        }
        Err(nowhere(failures, Vec::new()))
    }

    /// From the first byte to the last from one place: another one's bytes never come behind them,
    /// so that it is known whose were wrong, and what became of these is erased.
    async fn bring_from(
        self: &Arc<Self>,
        source: &Source,
        layer: &Arc<Approved<Layer>>,
    ) -> Result<StoredLayer, Error> {
        let (descriptor, listener) = (layer.blob(), &self.listener);
        let digest = descriptor.digest();
        listener.tell(Progress::LayerStarted(digest, descriptor.size()));
        let (sender, reader) = blob_channel();
        let received = |count| listener.tell(Progress::LayerReceived(digest, count));
        let fetching = source.blob(descriptor, sender, received);
        let unpacking = Arc::clone(self).unpack(Arc::clone(layer), reader);
        fetch_and_unpack(digest, fetching, unpacking).await
    }

    async fn unpack(
        self: Arc<Self>,
        layer: Arc<Approved<Layer>>,
        blob: BlobReader,
    ) -> Result<StoredLayer, Error> {
        let cancel = Arc::new(Cancel::new());
        // Dropping this future must end the work at its next entry, not at its next wait for bytes.
        let _cancelled_when_dropped = CancelOnDrop(Arc::clone(&cancel));
        blocking(move || {
            let store = &self.store;
            let staging = store.stage().map_err(Error::Store)?;
            let budget = Budget::part(&self.budget);
            let unpacked = match &self.onto {
                None => rootfs::unpack(&layer, blob, &staging, &budget, &cancel),
                Some(onto) => {
                    let below = onto.view.root();
                    rootfs::unpack_onto(&layer, blob, below, &staging, &budget, &cancel)
                }
            };
            let unpacked = match unpacked {
                Ok(unpacked) => unpacked,
                Err(source) => {
                    // The next place has the whole of it again.
                    budget.give_back();
                    return Err(unpack_error(&layer, source));
                }
            };
            let chain = self.onto.as_ref().map(|onto| &onto.chain);
            store
                .publish(&layer, chain, staging, unpacked, self.terms.sync)
                .map_err(|error| match error {
                    StoreError::Root(source) => unpack_error(&layer, *source),
                    error => Error::Store(error),
                })
        })
        .await
    }
}

/// The layer in the store, off the async threads: the store waits for locks.
async fn look_up(
    store: &Store,
    layer: Approved<Layer>,
    onto: Option<ChainId>,
) -> (Approved<Layer>, Result<Option<StoredLayer>, Error>) {
    let store = store.clone();
    blocking(move || {
        let stored = store.layer(&layer, onto.as_ref()).map_err(Error::Store);
        (layer, stored)
    })
    .await
}

async fn leads_through_link(
    store: &Store,
    layer: StoredLayer,
    below: &[StoredLayer],
) -> Result<(StoredLayer, bool), Error> {
    if layer.implied().paths().all(<[u8]>::is_empty) {
        return Ok((layer, false));
    }
    let (store, below) = (store.clone(), below.to_vec());
    blocking(move || {
        let leads = store.leads_through_link(&layer, &below);
        Ok((layer, leads.map_err(Error::Store)?))
    })
    .await
}

/// Runs both ends of a layer's pipe.
///
/// A fetch that failed is the cause, and that the unpacker then saw half a blob is not. But an
/// unpacker that refuses what it has seen ends the fetch, however long that would go on.
async fn fetch_and_unpack<T>(
    layer: &Digest,
    fetching: impl Future<Output = Result<(), RegistryError>>,
    unpacking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let failed = |source| Error::Fetch {
        layer: *layer,
        source,
    };
    let (mut fetching, mut unpacking) = (pin!(fetching), pin!(unpacking));
    tokio::select! {
        fetched = &mut fetching => {
            let unpacked = unpacking.await;
            fetched.map_err(failed)?;
            unpacked
        }
        unpacked = &mut unpacking => {
            let is_short_of_bytes = matches!(
                &unpacked,
                Err(Error::Unpack { source, .. }) if matches!(**source, rootfs::Error::Read(_))
            );
            if is_short_of_bytes {
                fetching.await.map_err(failed)?;
            }
            unpacked
        }
    }
}

/// Whether another place may have what this one has not: it could not be had there, or was not what
/// it should have been. What lies with the guest, or with the image itself, does so everywhere.
fn is_of_the_place(error: &Error) -> bool {
    use rootfs::Error as E;
    match error {
        Error::Fetch { .. } => true,
        Error::Unpack { source, .. } => match **source {
            // The blob was the right one, and what is in it is not.
            E::DiffId { .. }
            | E::NoSpace { .. }
            | E::Io { .. }
            | E::Thread { .. }
            | E::Cancelled
            | E::StagingUsed
            | E::ForeignProof
            | E::NotOneComponent { .. } => false,
            _ => !source.needs_lower_layers(),
        },
        _ => false,
    }
}

fn unpack_error(layer: &Approved<Layer>, source: rootfs::Error) -> Error {
    Error::Unpack {
        layer: *layer.blob().digest(),
        source: Box::new(source),
    }
}

impl Failure for Error {
    fn is_disk_full(&self) -> bool {
        Self::is_disk_full(self)
    }
}

/// Cancels an unpacking that nobody waits for.
struct CancelOnDrop(Arc<Cancel>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.request();
    }
}

/// How many flights of others a pull waits for. One that fails is not the last: of those who joined
/// it one leads the next, so that they do not all fetch the layer at once.
const PATIENCE: u32 = 2;
