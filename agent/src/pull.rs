//! The straight line: resolve, decide, fetch, unpack, assemble.
//!
//! Everything before `decide` is hostile; everything after it still has to match a digest. No
//! decision is ever stored: every call fetches the policy and decides afresh, and only the
//! fetching and unpacking of a layer that is already in the store is left out.

mod locate;

use std::collections::BTreeMap;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::try_join;
use policy::{
    Approved, Decision, Denied, Digest, Discovered, Evidence, Image, ImageRef, Lookaside,
    MAX_CONFIG_BYTES, Manifest, Needs, Policy, Unverified,
};
use rootfs::Budget;
use serde::Serialize;
use tokio::sync::{OnceCell, oneshot};
use tracing::{debug, info, warn};

use crate::blocking::blocking;
use crate::bundle::{self, BundleError, BundlePath, Reservation};
use crate::config::{Config, PolicySource, Source as ConfigSource};
use crate::documents::Documents;
use crate::error::{Error, chain};
use crate::layers::{self, Layers};
use crate::lookaside::Place;
use crate::prefetch::Prefetch;
use crate::progress::{Listener, Progress};
use crate::record::Record;
use crate::registry::{Places, Registry};
use crate::resources::Resources;
use crate::store::{ImageNames, Store, StoredLayer};
use crate::{credentials, evidence, room};

use self::locate::refusal_before;

/// The agent as configured: everything that a pull needs, shared by all pulls.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    resources: Resources,
    registry: Registry,
    layers: Layers,
    recovery: OnceCell<()>,
}

/// Why an agent cannot be made from a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The client of the Key Broker Service: a bad certificate, for one.
    #[error("key broker service")]
    Kbs(#[source] kbs_client::ConfigError),
}

/// An image that was approved, unpacked and mounted.
#[derive(Debug, Serialize)]
pub struct Pulled {
    /// The digest of the platform manifest whose layers are mounted.
    pub manifest_digest: Digest,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Why the image may run.
    pub decision: Record,
}

impl Agent {
    /// An agent as `config` says; nothing is connected or read yet.
    pub fn new(config: Config) -> Result<Self, AgentError> {
        let resources = Resources::new(&config).map_err(AgentError::Kbs)?;
        let registry = Registry::new(config.route());
        let layers = Layers::new(&config);
        Ok(Self {
            config,
            resources,
            registry,
            layers,
            recovery: OnceCell::new(),
        })
    }

    /// Whether errors go to the caller with every detail.
    pub fn verbose_errors(&self) -> bool {
        self.config.image_agent.verbose_errors
    }

    /// Pulls `image` and mounts it at `<bundle>/rootfs`.
    pub async fn pull(
        &self,
        image: &str,
        bundle: &Path,
        listener: &Listener,
    ) -> Result<Pulled, Error> {
        let limit = self.config.image_agent.timeouts.total;
        // Boxed: what a pull keeps between its steps is too much to be moved about on stacks.
        let pulling = Box::pin(self.pull_without_deadline(image, bundle, listener));
        let seconds = limit.as_secs();
        tokio::time::timeout(limit, pulling)
            .await
            .unwrap_or(Err(Error::Deadline { seconds }))
    }

    async fn pull_without_deadline(
        &self,
        image: &str,
        bundle: &Path,
        listener: &Listener,
    ) -> Result<Pulled, Error> {
        // Sooner than after the download.
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let wanted = match self.place(bundle).await {
            // What a killed process has left there may be about to be removed.
            Err(Error::BundlePath(BundleError::Exists { .. })) => {
                self.recover().await;
                self.place(bundle).await
            }
            placed => placed,
        }?;
        reclaim(wanted.store.clone());
        let documents = &wanted.documents;
        let (manifest, config) = self.approve(image, documents, listener).await?;
        let (places, image) = self.with_config(config, manifest, documents).await?;
        Box::pin(self.deliver(places, image, wanted, listener)).await
    }

    /// The store, and the bundle's path as far as it can be judged before there is a bundle.
    async fn place(&self, bundle: &Path) -> Result<Wanted, Error> {
        let work_dir = self.config.image.work_dir.clone();
        let may_be_writable = self.config.image_agent.danger_host_writable_store;
        let bundle = BundlePath::parse(bundle, &work_dir).map_err(Error::BundlePath)?;
        blocking(move || {
            let store = Store::open(&work_dir).map_err(Error::Store)?;
            if !may_be_writable {
                store.require_private().map_err(Error::Store)?;
            }
            bundle::preflight(&store, &bundle).map_err(Error::BundlePath)?;
            let documents = Documents::of(&store);
            Ok(Wanted {
                store,
                bundle,
                documents,
            })
        })
        .await
    }

    /// Decides whether `image` may run, and unpacks nothing.
    pub async fn verify(&self, image: &str) -> Result<Record, Error> {
        let limit = self.config.image_agent.timeouts.total;
        let seconds = limit.as_secs();
        let verifying = async {
            let (documents, listener) = (Documents::default(), Listener::silent());
            let (manifest, config) = self.approve(image, &documents, &listener).await?;
            let (_places, image) = self.with_config(config, manifest, &documents).await?;
            Ok(self.record(image.decision()))
        };
        tokio::time::timeout(limit, verifying)
            .await
            .unwrap_or(Err(Error::Deadline { seconds }))
    }

    /// Cleans up after a process that was killed: half-made bundles and half-unpacked layers. Once;
    /// whoever asks while that goes on waits for it.
    pub async fn recover(&self) {
        let recovering = || async {
            let work_dir = self.config.image.work_dir.clone();
            match blocking(move || Store::open(&work_dir)?.recover()).await {
                Ok(recovered) => debug!(?recovered, "store checked"),
                Err(error) => warn!(error = %chain(&error), "store cannot be checked"),
            }
        };
        self.recovery.get_or_init(recovering).await;
    }

    /// Writes the resources that `[[credentials]]` names to where the configuration wants them.
    pub async fn fetch_credentials(&self) {
        credentials::fetch(&self.resources, &self.config.credentials).await;
    }

    /// Lets what the owner has rotated take effect: forgets what was fetched from the Key Broker
    /// Service.
    pub fn forget(&self) {
        self.resources.forget();
    }

    /// From a name to a manifest that the owner's policy approves.
    ///
    /// The policy and then its keys are fetched beside the manifest and then its signatures, and
    /// with these the config, which nobody looks at before the manifest is approved.
    async fn approve(
        &self,
        image: &str,
        documents: &Documents,
        listener: &Listener,
    ) -> Result<(Approved<Manifest>, Remaining), Error> {
        // Sooner than anything is fetched.
        ImageRef::parse_edge(image).map_err(Error::Reference)?;
        let (tell_name, name) = oneshot::channel();
        let (tell_policy, policy) = oneshot::channel();
        let keys = async {
            let policy = self.policy().await?;
            let name: Result<ImageRef, _> = name.await;
            let locations = name.map(|name| policy.rules_for(&name).resources());
            // Nobody listens any more when the other side has failed.
            let _ = tell_policy.send(policy);
            match locations {
                Ok(locations) => Ok(evidence::keys(&self.resources, locations).await),
                // The other side has failed, and says why.
                Err(_) => pending().await,
            }
        };
        let found = Box::pin(self.find(image, documents, listener, tell_name, policy));
        // In this order: without a policy nothing else is begun.
        let (keys, found) = try_join(keys, found).await?;
        let Found {
            mut case,
            remaining,
            lookaside,
        } = found;
        case.evidence.resources = keys;
        case.evidence.now = Some(self.resources.now());
        let (mut case, more) = case.needs_more().await;
        let places = Place::all(
            &self.registry,
            &remaining.places,
            &lookaside,
            &case.reference,
        );
        let found = self.discover(&places, &more).await;
        case.evidence.discovered.extend(found);
        let decided = case.decide().await;
        let manifest = decided.map_err(|denied| self.denied(denied))?;
        listener.tell(Progress::Approved(manifest.digest()));
        info!(record = %self.record(manifest.decision()).line(), "approved");
        Ok((manifest, remaining))
    }

    /// The manifest and what speaks for it, but for the keys.
    async fn find(
        &self,
        image: &str,
        documents: &Documents,
        listener: &Listener,
        tell_name: oneshot::Sender<ImageRef>,
        policy: oneshot::Receiver<Policy>,
    ) -> Result<Found, Error> {
        let located = self.locate(image, documents, tell_name).await;
        let located = located.map(|(reference, places, manifest)| {
            listener.tell(Progress::Resolved(manifest.digest()));
            let config = Prefetch::begin(&manifest, places.first(), documents);
            (reference, Remaining { places, config }, manifest)
        });
        // Before the registry's failure, if it has failed: that of the policy is told first, by
        // whoever fetches it, and that ends this.
        let Ok(policy) = policy.await else {
            return pending().await;
        };
        let (reference, remaining, manifest) = located?;
        let needs = policy.rules_for(&reference).needs(&manifest);
        let lookaside = self.lookaside(&needs).await?;
        let places = Place::all(&self.registry, &remaining.places, &lookaside, &reference);
        let (mut evidence, discovered) = tokio::join!(
            evidence::gather(&places, &needs),
            self.discover(&places, &needs),
        );
        evidence.discovered = discovered;
        let case = Case {
            policy,
            reference,
            manifest,
            evidence,
        };
        Ok(Found {
            case,
            remaining,
            lookaside,
        })
    }

    /// The bundles and attestations among what is needed.
    async fn discover(&self, places: &[Place<'_>], needs: &Needs) -> BTreeMap<Digest, Discovered> {
        let (resources, settings) = (&self.resources, &self.config.image_agent.evidence);
        evidence::discovered(resources, places, settings, &needs.discover).await
    }

    fn denied(&self, denied: Denied) -> Error {
        let decision = denied.decision();
        let verdict = if decision.is_undecided() {
            "not decided"
        } else {
            "denied"
        };
        info!(record = %self.record(decision).line(), "{verdict}");
        let kbs_authenticated = self.resources.kbs_authenticated();
        Error::Denied {
            denied: Box::new(denied),
            kbs_authenticated,
        }
    }

    fn record(&self, decision: &Decision) -> Record {
        let kbs_authenticated = self.resources.kbs_authenticated();
        Record {
            decision: decision.clone(),
            kbs_authenticated,
        }
    }

    /// The owner's policy, as it is now.
    async fn policy(&self) -> Result<Policy, Error> {
        let document = match &self.config.image.policy {
            PolicySource::NotConfigured { hint } => {
                return Err(Error::NoPolicy { hint: hint.clone() });
            }
            PolicySource::Inline(text) => text.clone().into_bytes(),
            PolicySource::Uri(location) => {
                let fetched = self.resources.fetch(location).await;
                let what = "image policy";
                fetched
                    .map_err(|source| Error::Resource { what, source })?
                    .expose()
                    .to_vec()
            }
        };
        let policy = Policy::parse(&document).map_err(Error::Policy)?;
        Ok(if self.config.image_agent.strict_identity {
            policy.strict_identity()
        } else {
            policy
        })
    }

    /// Where the owner says that signatures are, if any are needed.
    async fn lookaside(&self, needs: &Needs) -> Result<Lookaside, Error> {
        let text = match &self.config.image.sigstore_config {
            _ if needs.lookaside_subjects.is_empty()
                && needs.cosign_subjects.is_empty()
                && needs.discover.is_empty() =>
            {
                return Ok(Lookaside::default());
            }
            None => return Ok(Lookaside::default()),
            Some(ConfigSource::Inline(text)) => text.clone().into_bytes(),
            Some(ConfigSource::Uri(location)) => {
                let what = "sigstore configuration";
                let text = self.resources.fetch(location).await;
                let text = text.map_err(|source| Error::Resource { what, source })?;
                text.expose().to_vec()
            }
        };
        Lookaside::parse([("sigstore_config", text.as_slice())]).map_err(Error::Lookaside)
    }

    async fn with_config(
        &self,
        Remaining { places, config }: Remaining,
        manifest: Approved<Manifest>,
        documents: &Documents,
    ) -> Result<(Places, Approved<Image>), Error> {
        let descriptor = manifest.config().map_err(Error::Manifest)?;
        let mut raw = match config {
            Some(under_way) => under_way.untrusted_bytes().await,
            None => {
                places
                    .first()
                    .small_blob(descriptor, MAX_CONFIG_BYTES)
                    .await
            }
        };
        for source in places.iter().skip(1) {
            let Err(error) = &raw else { break };
            if !source.is_worth_asking_after(Some(error)) {
                continue;
            }
            info!(error = %chain(error), "asking the next place");
            raw = source.small_blob(descriptor, MAX_CONFIG_BYTES).await;
            if let Ok(raw) = &raw {
                documents.note(descriptor.digest(), raw);
            }
        }
        let raw = raw.map_err(Error::FetchConfig)?;
        let image = manifest.with_config(&raw).map_err(Error::Config)?;
        Ok((places, image))
    }

    /// Gets the layers and mounts them; once more if unused layers of others were in the way, and
    /// once more if the registry has begun to refuse the credentials.
    async fn deliver(
        &self,
        mut places: Places,
        image: Approved<Image>,
        wanted: Wanted,
        listener: &Listener,
    ) -> Result<Pulled, Error> {
        let image = Arc::new(image);
        let names = wanted.store.names_of(&image);
        let under_way = self.layers.under_way(&wanted.store, &names)?;
        let free = room::make(&wanted.store, &image, &names, under_way).await?;
        let (mut has_made_room, mut has_renewed) = (false, false);
        loop {
            let result = self.fill(&places, &image, &names, &wanted, listener).await;
            let error = match result {
                Err(error) if error.is_disk_full() => error,
                Err(error) if error.is_refusal() && places.have_login() && !has_renewed => {
                    info!(error = %chain(&error), "fetching the registry credentials again");
                    let renewed = self.renewed(&places, image.decision().reference()).await;
                    places = renewed.map_err(|second| refusal_before(second, error))?;
                    has_renewed = true;
                    continue;
                }
                other => return other,
            };
            if has_made_room || !room::make_all(&wanted.store, &names, free).await? {
                return Err(room::was_too_small(&wanted.store, free, error));
            }
            has_made_room = true;
        }
    }

    async fn fill(
        &self,
        places: &Places,
        image: &Arc<Approved<Image>>,
        names: &ImageNames,
        wanted: &Wanted,
        listener: &Listener,
    ) -> Result<Pulled, Error> {
        let record = self.record(image.decision());
        let (store, path) = (wanted.store.clone(), wanted.bundle.clone());
        let (reserved, kept) = (Arc::clone(image), record.clone());
        let reservation = blocking(move || bundle::reserve(&store, &reserved, &path, &kept)).await;
        let reservation = reservation.map_err(Error::Assemble)?;
        let pull = layers::Pull {
            store: &wanted.store,
            places,
            budget: &Arc::new(Budget::new(self.config.image_agent.limits.clone())),
            listener,
        };
        let layers = self.layers.get_all(&pull, image, names).await?;
        // It may hold the lock of what a killed process has left at the same place.
        self.recover().await;
        self.assemble(reservation, Arc::clone(image), layers, wanted, listener)
            .await?;
        Ok(Pulled {
            manifest_digest: *image.manifest_digest(),
            bundle: wanted.bundle.as_path().to_owned(),
            decision: record,
        })
    }

    async fn assemble(
        &self,
        reservation: Reservation,
        image: Arc<Approved<Image>>,
        layers: Vec<StoredLayer>,
        wanted: &Wanted,
        listener: &Listener,
    ) -> Result<(), Error> {
        let Wanted {
            bundle, documents, ..
        } = wanted.clone();
        let settings = self.config.image_agent.store;
        let manifest_digest = *image.manifest_digest();
        // Were this future dropped while the blocking part runs, the bundle that it returns would
        // be dropped undelivered, and so be taken down again.
        let assembled = blocking(move || {
            let assembled = bundle::assemble(reservation, &image, &layers, &bundle, settings)?;
            documents.keep();
            Ok(assembled)
        });
        let delivered = assembled.await.and_then(bundle::Bundle::deliver);
        delivered.map_err(Error::Assemble)?;
        listener.tell(Progress::Mounted);
        info!(digest = %manifest_digest, bundle = %wanted.bundle.as_path().display(), "mounted");
        Ok(())
    }
}

/// What a decision is made of.
#[derive(Debug)]
struct Case {
    policy: Policy,
    reference: ImageRef,
    manifest: Unverified<Manifest>,
    evidence: Evidence,
}

// The policy answers off the async threads: signatures are the registry's, and checking some of
// them takes long. A caller that stops waiting, as the deadline of a pull does, does not wait for it.
impl Case {
    /// What else is needed if what was gathered is not enough: most often, it is.
    async fn needs_more(self) -> (Self, Needs) {
        blocking(move || {
            let rules = self.policy.rules_for(&self.reference);
            let more = rules.needs_more(&self.manifest, &self.evidence);
            (self, more)
        })
        .await
    }

    /// The policy's answer.
    async fn decide(self) -> Result<Approved<Manifest>, Denied> {
        blocking(move || {
            let rules = self.policy.rules_for(&self.reference);
            rules.decide(self.manifest, &self.evidence)
        })
        .await
    }
}

/// What was found for a decision, but for the keys.
struct Found {
    case: Case,
    remaining: Remaining,
    /// Where the owner says that signatures are.
    lookaside: Lookaside,
}

/// Where the rest of an image is, and what has been asked for of it.
struct Remaining {
    places: Places,
    /// None where no approval could lead to an image.
    config: Option<Prefetch>,
}

/// Gives back what bundles hold that are gone, while this pull goes on: the writable part of a
/// container that is started over and over would fill the guest's memory.
fn reclaim(store: Store) {
    drop(tokio::task::spawn_blocking(move || match store.reclaim() {
        Ok(recovered) => debug!(?recovered, "bundles that are gone"),
        Err(error) => warn!(error = %chain(&error), "bundles that are gone stay"),
    }));
}

/// Where a bundle goes, and what it is made from.
#[derive(Debug, Clone)]
struct Wanted {
    store: Store,
    bundle: BundlePath,
    documents: Documents,
}
#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use policy::Document;

    use super::*;

    /// With one thread for blocking work, which is busy, a decision cannot be made; its caller is
    /// free all the same.
    #[test]
    fn a_decision_holds_up_neither_the_async_thread_nor_the_deadline() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let (release, busy) = mpsc::channel::<()>();
        runtime.block_on(async {
            let working = tokio::task::spawn_blocking(move || busy.recv());
            let late = tokio::time::timeout(Duration::from_millis(50), decision()).await;
            assert!(late.is_err(), "decided on the async thread");
            release.send(()).unwrap();
            working.await.unwrap().unwrap();
            assert!(decision().await.is_ok());
        });
    }

    async fn decision() -> Result<Approved<Manifest>, Denied> {
        let reference: ImageRef = "registry.example/app:1".parse().unwrap();
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{0}","config":{{"mediaType":"{1}","size":2,"digest":"{2}"}},"layers":[]}}"#,
            policy::OCI_MANIFEST,
            "application/vnd.oci.image.config.v1+json",
            Digest::sha256_of(b"{}"),
        );
        let kind = Some(policy::OCI_MANIFEST);
        let document = Document::parse(&reference, kind, text.into_bytes()).unwrap();
        let Document::Manifest(manifest) = document else {
            panic!("a manifest reads as an index");
        };
        let policy = Policy::parse(br#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        let evidence = Evidence::default();
        let case = Case {
            policy,
            reference,
            manifest,
            evidence,
        };
        case.decide().await
    }
}
