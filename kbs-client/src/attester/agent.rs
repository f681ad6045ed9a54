//! The attestation agent of the guest, over ttrpc: evidence, or whole tokens.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::{Attester, AttesterError, ReportData};
use crate::key::{KeyError, TeeKey};
use crate::protobuf::{bytes_of, put_bytes};
use crate::ttrpc::{self, CallError};

/// The attestation agent at a unix socket: `attestation_agent.AttestationAgentService`.
///
/// As an [`Attester`] it gives evidence, and this crate does the handshake; with
/// [`KbsClient::with_agent_tokens`](crate::KbsClient::with_agent_tokens) the agent does the
/// handshake, too, and hands over its token and key.
#[derive(Debug, Clone)]
pub struct AttestationAgent {
    socket: PathBuf,
    deadline: Duration,
}

impl AttestationAgent {
    /// Where the agent listens unless it is told otherwise.
    pub const DEFAULT_SOCKET: &str =
        "/run/confidential-containers/attestation-agent/attestation-agent.sock";

    /// The agent at `socket`, which is not connected to yet. A call may take 50 s, as a quote may.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            deadline: Duration::from_secs(50),
        }
    }

    /// The same with another deadline for each call.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The TEE that it has found, in the words of the KBS.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn tee_type(&self) -> Result<String, AgentError> {
        const METHOD: &str = "GetTeeType";
        let answer = self.call(METHOD, &[]).await?;
        let name = field(METHOD, &answer)?;
        let legal = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if name.is_empty() || name.len() > 32 || !name.iter().all(legal) {
            return Err(malformed(METHOD, "the name of a TEE in lower case"));
        }
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    /// The evidence for these 64 bytes or less, as the verifier of the KBS takes it.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn primary_evidence(&self, report_data: &[u8]) -> Result<Value, AgentError> {
        const METHOD: &str = "GetEvidence";
        let answer = self.call(METHOD, report_data).await?;
        serde_json::from_slice(field(METHOD, &answer)?)
            .map_err(|source| not_json(METHOD, "evidence in JSON", source))
    }

    /// The evidence of secondary devices as the text of a JSON object; empty when there are none, or
    /// when the agent is too old to know of any.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn device_evidence(&self, report_data: &[u8]) -> Result<String, AgentError> {
        const METHOD: &str = "GetAdditionalEvidence";
        let answer = match self.call(METHOD, report_data).await {
            Err(AgentError::Refused { code, .. }) if code == UNIMPLEMENTED => {
                return Ok(String::new());
            }
            outcome => outcome?,
        };
        let text = str::from_utf8(field(METHOD, &answer)?);
        text.map(str::to_owned)
            .map_err(|_| malformed(METHOD, "evidence in UTF-8"))
    }

    /// A token of the KBS, and the key that the KBS encrypts to.
    pub(crate) async fn token(&self) -> Result<(Zeroizing<String>, TeeKey), AgentError> {
        const METHOD: &str = "GetToken";
        #[derive(Deserialize)]
        struct Answer {
            token: String,
            tee_keypair: String,
        }
        let answer = self.call(METHOD, b"kbs").await?;
        let answer: Answer = serde_json::from_slice(field(METHOD, &answer)?)
            .map_err(|source| not_json(METHOD, "a token and its key in JSON", source))?;
        let key = TeeKey::from_pem(&Zeroizing::new(answer.tee_keypair))?;
        Ok((Zeroizing::new(answer.token), key))
    }

    /// What is to be said when the text that it gave is no token.
    pub(crate) fn no_token() -> AgentError {
        malformed("GetToken", "a token")
    }

    /// Every request of this service has one field of bytes, or none.
    async fn call(
        &self,
        method: &'static str,
        argument: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, AgentError> {
        let mut payload = Vec::new();
        if !argument.is_empty() {
            put_bytes(&mut payload, 1, argument);
        }
        let call = ttrpc::call(&self.socket, SERVICE, method, &payload, self.deadline);
        match tokio::time::timeout(self.deadline, call).await {
            Ok(outcome) => outcome.map_err(|error| self.explained(method, error)),
            Err(_elapsed) => Err(self.too_late(method)),
        }
    }

    fn too_late(&self, method: &'static str) -> AgentError {
        AgentError::Deadline {
            socket: self.socket.clone(),
            method,
            after: self.deadline,
        }
    }

    fn explained(&self, method: &'static str, error: CallError) -> AgentError {
        match error {
            CallError::Io(source) => AgentError::Unreachable {
                socket: self.socket.clone(),
                source: Arc::new(source),
            },
            // It knows the deadline, too, and may notice first.
            CallError::Status {
                code: DEADLINE_EXCEEDED,
                ..
            } => self.too_late(method),
            CallError::Status { code, message } => AgentError::Refused {
                method,
                code,
                message: crate::error::printable(&message),
            },
            CallError::Malformed { expected } => malformed(method, expected),
            CallError::TooLarge { length } => AgentError::TooLarge { method, length },
        }
    }
}

impl Attester for AttestationAgent {
    fn tee(&self) -> BoxFuture<'_, Result<String, AttesterError>> {
        Box::pin(async {
            let tee = self.tee_type().await.map_err(AttesterError::new)?;
            if tee == "sample" {
                tracing::warn!("the attestation agent has sample evidence, which proves nothing");
            }
            Ok(tee)
        })
    }

    fn evidence<'a>(
        &'a self,
        report_data: &'a ReportData,
    ) -> BoxFuture<'a, Result<Value, AttesterError>> {
        Box::pin(async {
            let evidence = self.primary_evidence(report_data.bytes()).await;
            evidence.map_err(AttesterError::new)
        })
    }

    fn additional_evidence<'a>(
        &'a self,
        report_data: &'a ReportData,
    ) -> BoxFuture<'a, Result<String, AttesterError>> {
        Box::pin(async {
            let evidence = self.device_evidence(report_data.bytes()).await;
            evidence.map_err(AttesterError::new)
        })
    }
}

/// Why the attestation agent gives nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// Nobody answers at the socket, or the connection broke.
    #[error("attestation agent not reachable at {}", socket.display())]
    Unreachable {
        /// Where it was looked for.
        socket: PathBuf,
        /// The system's account.
        #[source]
        source: Arc<io::Error>,
    },
    /// It did not answer in time.
    #[error("attestation agent at {}: no answer to {method} within {after:?}", socket.display())]
    Deadline {
        /// Where it listens.
        socket: PathBuf,
        /// What was asked.
        method: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// It says no. The cause is in its own log.
    #[error(
        "attestation agent refuses {method} with status {code}: {message}; the cause is in its log"
    )]
    Refused {
        /// What was asked.
        method: &'static str,
        /// The gRPC status.
        code: u64,
        /// Its words.
        message: String,
    },
    /// Its answer is not one.
    #[error("expected {expected} from {method} of the attestation agent")]
    Malformed {
        /// What was asked.
        method: &'static str,
        /// What an answer would be.
        expected: &'static str,
        /// What the parser says. It quotes nothing.
        #[source]
        source: Option<Arc<serde_json::Error>>,
    },
    /// Its answer is longer than ttrpc allows.
    #[error(
        "{method} of the attestation agent: {length} bytes of answer are more than ttrpc allows"
    )]
    TooLarge {
        /// What was asked.
        method: &'static str,
        /// As announced.
        length: u32,
    },
    /// The key beside its token is none.
    #[error("key of the attestation agent")]
    Key(#[from] KeyError),
}

impl AgentError {
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Deadline { .. })
    }
}

const SERVICE: &str = "attestation_agent.AttestationAgentService";
/// Of gRPC.
const DEADLINE_EXCEEDED: u64 = 4;
/// What the ttrpc of Rust answers to a method that the service does not have.
const UNIMPLEMENTED: u64 = 12;

/// Every answer of this service has one field of bytes or text.
fn field<'a>(method: &'static str, answer: &'a [u8]) -> Result<&'a [u8], AgentError> {
    bytes_of(answer, 1).map_err(|_| malformed(method, "a protobuf message"))
}

fn malformed(method: &'static str, expected: &'static str) -> AgentError {
    AgentError::Malformed {
        method,
        expected,
        source: None,
    }
}

/// What stood there may be a key: where it is wrong may be told, not what.
fn not_json(method: &'static str, expected: &'static str, source: serde_json::Error) -> AgentError {
    AgentError::Malformed {
        method,
        expected,
        source: (source.classify() != serde_json::error::Category::Data).then(|| Arc::new(source)),
    }
}
