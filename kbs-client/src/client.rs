//! The client: one attestation, many resources.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, WeakShared};

use crate::attester::{Attester, AttesterError};
use crate::config::KbsConfig;
use crate::error::{ConfigError, Error};
use crate::handshake::{Attested, Challenged, Evidence, Handshake};
use crate::key::TeeKey;
use crate::secret::Secret;
use crate::transport::Transport;
use crate::uri::ResourceUri;

/// Fetches resources from one KBS.
///
/// Cheap to clone; clones share the connection and the attestation. One attestation serves every
/// resource until the session or its token ends; callers who need one at the same moment wait for
/// the same handshake, and if it fails, all of them learn why.
#[derive(Clone)]
pub struct KbsClient {
    shared: Arc<Inner>,
}

impl KbsClient {
    /// A client for the KBS of `config`, vouched for by `attester`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ConfigError`], if `config` cannot work.
    pub fn new(config: KbsConfig, attester: Arc<dyn Attester>) -> Result<Self, ConfigError> {
        let shared = Inner {
            transport: Transport::new(&config)?,
            attester,
            config,
            sessions: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Whether the answers are the KBS's own: it is reached over https, or on this machine.
    ///
    /// Over plain http the network decides what a resource contains, as a JWE proves only that its
    /// sender has seen our public key.
    pub fn authenticated(&self) -> bool {
        self.shared.transport.authenticated()
    }

    /// The resource with this name, decrypted.
    ///
    /// Costs one request on a live session. When the KBS does not know the session any more, or
    /// refuses its token, there is one new handshake and one more request; a denial or a missing
    /// resource is final after one.
    ///
    /// # Errors
    /// [`Error`] says which step went wrong.
    pub async fn resource(&self, uri: &ResourceUri) -> Result<Secret, Error> {
        let session = self.session(None).await?;
        match self.fetch(&session, uri).await {
            Err(error @ Error::TokenRefused { .. }) => {
                tracing::debug!(%error, "session with the KBS lost, attesting anew");
                let session = self.session(Some(&session)).await?;
                self.fetch(&session, uri).await
            }
            outcome => outcome,
        }
    }

    async fn fetch(
        &self,
        session: &Handshake<Attested>,
        uri: &ResourceUri,
    ) -> Result<Secret, Error> {
        let answer = self
            .shared
            .transport
            .exchange(&session.resource_request(uri))
            .await?;
        session.open(&answer)
    }

    /// A session that is alive and is not `lost`: the present one, else the one that the handshake
    /// in flight will bring, else a new handshake's.
    async fn session(
        &self,
        lost: Option<&Arc<Handshake<Attested>>>,
    ) -> Result<Arc<Handshake<Attested>>, Error> {
        let flight = {
            let mut sessions = self.shared.sessions();
            let now = Instant::now();
            // Forgotten at once, so that nobody else asks with it in the meantime.
            sessions.present.take_if(|present| {
                present.is_over(now) || lost.is_some_and(|lost| Arc::ptr_eq(lost, present))
            });
            if let Some(present) = &sessions.present {
                return Ok(Arc::clone(present));
            }
            let running = sessions.flight.as_ref().and_then(WeakShared::upgrade);
            running.unwrap_or_else(|| {
                let flight = Arc::clone(&self.shared).handshake().boxed().shared();
                sessions.flight = flight.downgrade();
                flight
            })
        };
        flight.await
    }
}

impl fmt::Debug for KbsClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KbsClient")
            .field("config", &self.shared.config)
            .field("attester", &self.shared.attester)
            .finish_non_exhaustive()
    }
}

type Flight = BoxFuture<'static, Result<Arc<Handshake<Attested>>, Error>>;

struct Inner {
    transport: Transport,
    attester: Arc<dyn Attester>,
    config: KbsConfig,
    /// Never held across an await.
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    present: Option<Arc<Handshake<Attested>>>,
    /// Weak: a handshake that nobody waits for any more is dropped, not left half-way.
    flight: Option<WeakShared<Flight>>,
}

impl Inner {
    /// One handshake for everybody who waits.
    async fn handshake(self: Arc<Self>) -> Result<Arc<Handshake<Attested>>, Error> {
        let outcome = self.attest().await.map(Arc::new);
        let mut sessions = self.sessions();
        sessions.flight = None;
        if let Ok(session) = &outcome {
            sessions.present = Some(Arc::clone(session));
        }
        outcome
    }

    async fn attest(&self) -> Result<Handshake<Attested>, Error> {
        let tee = self.attester.tee();
        let answer = self
            .transport
            .exchange(&Handshake::auth_request(tee))
            .await?;
        let key = TeeKey::generate(self.config.tee_key)?;
        let handshake = Handshake::challenged(tee, key, &answer)?;
        let evidence = self.evidence(&handshake).await?;
        let answer = self
            .transport
            .exchange(&handshake.attest_request(&evidence)?)
            .await?;
        let session = handshake.attested(&answer)?;
        tracing::debug!(tee, url = answer.url, "attested to the KBS");
        Ok(session)
    }

    async fn evidence(&self, handshake: &Handshake<Challenged>) -> Result<Evidence, Error> {
        let failed = |source| Error::Attester {
            tee: self.attester.tee().to_owned(),
            source,
        };
        let devices = handshake.device_report_data()?;
        let additional = self
            .within(self.attester.additional_evidence(&devices))
            .await;
        let additional = additional.map_err(failed)?;
        let report_data = handshake.report_data(&additional)?;
        let primary = self
            .within(self.attester.evidence(&report_data))
            .await
            .map_err(failed)?;
        Ok(Evidence {
            primary,
            additional,
        })
    }

    async fn within<T>(
        &self,
        pending: BoxFuture<'_, Result<T, AttesterError>>,
    ) -> Result<T, AttesterError> {
        match tokio::time::timeout(self.config.timeouts.evidence, pending).await {
            Ok(outcome) => outcome,
            Err(elapsed) => Err(AttesterError::new(elapsed)),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
