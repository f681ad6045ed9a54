//! The client: one attestation, many resources.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, WeakShared};
use serde_json::Value;

use crate::attester::agent::AttestationAgent;
use crate::attester::{Attester, AttesterError};
use crate::cache::Cache;
use crate::clock::{Clock, moment};
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

/// What a handshake has brought, for people.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Attestation {
    /// The TEE that vouched for this guest; unknown when the attestation agent did the handshake.
    pub tee: Option<String>,
    /// Length of its evidence in bytes of JSON, as far as it was ours to send.
    pub evidence_length: Option<usize>,
    /// What the token says; its signature is the KBS's own business, and not checked here.
    pub untrusted_claims: Option<Value>,
}

impl KbsClient {
    /// A client for the KBS of `config`, vouched for by `attester`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ConfigError`], if `config` cannot work.
    pub fn new(config: KbsConfig, attester: Arc<dyn Attester>) -> Result<Self, ConfigError> {
        Self::with(config, Voucher::Attester(attester))
    }

    /// A client for the KBS of `config`, for which the attestation agent of the guest does the
    /// handshakes, with the KBS of its own configuration. Init-data are its business, too.
    ///
    /// # Errors
    /// [`ConfigError`], if `config` cannot work.
    pub fn with_agent_tokens(
        config: KbsConfig,
        agent: AttestationAgent,
    ) -> Result<Self, ConfigError> {
        Self::with(config, Voucher::Tokens(agent))
    }

    fn with(config: KbsConfig, voucher: Voucher) -> Result<Self, ConfigError> {
        let clock = Arc::new(Clock::new(config.not_before));
        let shared = Inner {
            transport: Transport::new(&config, Arc::clone(&clock))?,
            voucher,
            clock,
            sessions: Mutex::default(),
            cache: Mutex::new(Cache::new(config.freshness)),
            config,
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

    /// What time it is at least: the latest of the system's clock, of
    /// [`not_before`](KbsConfig::not_before), and of when an authenticated KBS has issued a token,
    /// which go on with the monotonic clock.
    pub fn now(&self) -> SystemTime {
        self.shared.clock.now()
    }

    /// The resource with this name, decrypted.
    ///
    /// Costs one request on a live session, and none within its
    /// [`ttl`](crate::Freshness::ttl). When the KBS does not know the session any more, or
    /// refuses its token, there is one new handshake and one more request; a denial or a missing
    /// resource is final after one.
    ///
    /// # Errors
    /// [`Error`] says which step went wrong.
    pub async fn resource(&self, uri: &ResourceUri) -> Result<Secret, Error> {
        let asked = Instant::now();
        let epoch = {
            let cache = self.shared.cache();
            if let Some(secret) = cache.fresh(uri, asked) {
                return Ok(secret);
            }
            cache.epoch()
        };
        let outcome = self.ask(uri).await;
        let mut cache = self.shared.cache();
        match outcome {
            Ok(secret) => {
                cache.keep(uri, &secret, asked, epoch);
                Ok(secret)
            }
            Err(error @ Error::Unreachable { .. }) => {
                let Some(secret) = cache.stale(uri, Instant::now()) else {
                    return Err(error);
                };
                // Without its query, which errors leave out, too.
                let path = uri.http_path();
                tracing::warn!(path, %error, "what was fetched before serves again");
                Ok(secret)
            }
            Err(error) => {
                cache.forget(uri);
                Err(error)
            }
        }
    }

    /// Forgets everything that was fetched, so that what was rotated takes effect at once. The
    /// session lives on.
    pub fn forget_resources(&self) {
        self.shared.cache().clear();
    }

    /// Forgets one resource, so that the next request for it goes to the service.
    pub fn forget_resource(&self, uri: &ResourceUri) {
        self.shared.cache().forget(uri);
    }

    /// Attests, or joins the handshake in flight, or says what the present one has brought.
    ///
    /// # Errors
    /// [`Error`] says which step went wrong.
    pub async fn attest(&self) -> Result<Attestation, Error> {
        let session = self.session(None).await?;
        Ok(Attestation {
            tee: session.tee.clone(),
            evidence_length: session.evidence_length,
            untrusted_claims: session.handshake.untrusted_claims(),
        })
    }

    async fn ask(&self, uri: &ResourceUri) -> Result<Secret, Error> {
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

    async fn fetch(&self, session: &Session, uri: &ResourceUri) -> Result<Secret, Error> {
        let request = session.handshake.resource_request(uri);
        let answer = self.shared.transport.exchange(&request).await?;
        session.handshake.open(&answer)
    }

    /// A session that is alive and is not `lost`: the present one, else the one that the handshake
    /// in flight will bring, else a new handshake's.
    async fn session(&self, lost: Option<&Arc<Session>>) -> Result<Arc<Session>, Error> {
        let flight = {
            let mut sessions = self.shared.sessions();
            let now = Instant::now();
            // Forgotten at once, so that nobody else asks with it in the meantime.
            sessions.present.take_if(|present| {
                present.handshake.is_over(now)
                    || lost.is_some_and(|lost| Arc::ptr_eq(lost, present))
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
            .field("voucher", &self.shared.voucher)
            .finish_non_exhaustive()
    }
}

type Flight = BoxFuture<'static, Result<Arc<Session>, Error>>;

/// Who vouches for this guest.
#[derive(Debug)]
enum Voucher {
    /// We do the handshake, with its evidence.
    Attester(Arc<dyn Attester>),
    /// It does the handshake.
    Tokens(AttestationAgent),
}

struct Session {
    handshake: Handshake<Attested>,
    tee: Option<String>,
    evidence_length: Option<usize>,
}

struct Inner {
    transport: Transport,
    voucher: Voucher,
    config: KbsConfig,
    clock: Arc<Clock>,
    /// Never held across an await.
    sessions: Mutex<Sessions>,
    /// Nor this.
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Sessions {
    present: Option<Arc<Session>>,
    /// Weak: a handshake that nobody waits for any more is dropped, not left half-way.
    flight: Option<WeakShared<Flight>>,
}

impl Inner {
    /// One handshake for everybody who waits.
    async fn handshake(self: Arc<Self>) -> Result<Arc<Session>, Error> {
        let outcome = match &self.voucher {
            Voucher::Attester(attester) => self.attest(&**attester).await,
            Voucher::Tokens(agent) => self.token(agent).await,
        };
        let outcome = outcome.map(Arc::new);
        let mut sessions = self.sessions();
        sessions.flight = None;
        if let Ok(session) = &outcome {
            sessions.present = Some(Arc::clone(session));
        }
        outcome
    }

    async fn attest(&self, attester: &dyn Attester) -> Result<Session, Error> {
        let tee = self.within(attester.tee()).await?;
        let answer = self
            .transport
            .exchange(&Handshake::auth_request(&tee))
            .await?;
        let key = TeeKey::generate(self.config.tee_key)?;
        let handshake = Handshake::challenged(&tee, key, &answer)?;
        let evidence = self.evidence(attester, &handshake).await?;
        let init_data = self.config.init_data.as_ref();
        if let Some(init_data) = init_data {
            init_data.check(&tee, &evidence.primary)?;
        }
        let request = handshake.attest_request(&evidence, init_data)?;
        let answer = self.transport.exchange(&request).await?;
        let handshake = handshake.attested(&answer, self.config.proof)?;
        // Somebody on the way could say anything.
        if self.transport.authenticated()
            && let Some(issued) = handshake.untrusted_issue().and_then(moment)
        {
            self.clock.learn(issued, answer.received);
        }
        tracing::debug!(tee, url = answer.url, "attested to the KBS");
        let primary = evidence.primary.to_string().len();
        Ok(Session {
            handshake,
            tee: Some(tee),
            evidence_length: Some(primary.saturating_add(evidence.additional.len())),
        })
    }

    async fn evidence(
        &self,
        attester: &dyn Attester,
        handshake: &Handshake<Challenged>,
    ) -> Result<Evidence, Error> {
        let devices = handshake.device_report_data()?;
        let additional = self.within(attester.additional_evidence(&devices)).await?;
        let report_data = handshake.report_data(&additional)?;
        let primary = self.within(attester.evidence(&report_data)).await?;
        Ok(Evidence {
            primary,
            additional,
        })
    }

    async fn token(&self, agent: &AttestationAgent) -> Result<Session, Error> {
        let refused = |error| Error::Attester {
            source: AttesterError::new(error),
        };
        let (token, key) = agent.token().await.map_err(refused)?;
        let handshake = Handshake::with_token(key, token)
            .ok_or_else(|| refused(AttestationAgent::no_token()))?;
        tracing::debug!(socket = %agent.socket().display(), "attested by the attestation agent");
        Ok(Session {
            handshake,
            tee: None,
            evidence_length: None,
        })
    }

    async fn within<T>(
        &self,
        pending: BoxFuture<'_, Result<T, AttesterError>>,
    ) -> Result<T, Error> {
        let outcome = match tokio::time::timeout(self.config.timeouts.evidence, pending).await {
            Ok(outcome) => outcome,
            Err(elapsed) => Err(AttesterError::new(elapsed)),
        };
        outcome.map_err(|source| Error::Attester { source })
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
