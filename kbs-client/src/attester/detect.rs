//! An attester for a guest whose builder has named none.

use std::path::PathBuf;

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::agent::{AgentError, AttestationAgent};
use super::tsm::{TsmAttester, TsmError};
use super::{Attester, AttesterError, ReportData};

/// The attestation agent if it answers, else the kernel (configfs-tsm); never
/// [`SampleAttester`](crate::SampleAttester), and no agent that has nothing but `sample` evidence.
///
/// The choice is made at the first handshake, as the agent may start later than we do; once made, it
/// stays. A failure is no choice.
#[derive(Debug)]
pub struct DetectedAttester {
    agent: AttestationAgent,
    kernel: TsmAttester,
    choice: OnceCell<Choice>,
}

#[derive(Debug, Clone, Copy)]
enum Choice {
    Agent,
    Kernel,
}

impl DetectedAttester {
    /// Looks at these two places, when there is need to.
    pub fn new(agent: AttestationAgent, kernel: TsmAttester) -> Self {
        Self {
            agent,
            kernel,
            choice: OnceCell::new(),
        }
    }

    async fn chosen(&self) -> Result<&dyn Attester, AttesterError> {
        let choice = self.choice.get_or_try_init(|| self.choose()).await;
        Ok(match choice.map_err(AttesterError::new)? {
            Choice::Agent => &self.agent,
            Choice::Kernel => &self.kernel,
        })
    }

    async fn choose(&self) -> Result<Choice, DetectError> {
        let socket = || self.agent.socket().to_owned();
        let agent = match self.agent.tee_type().await {
            Ok(tee) if tee == "sample" => return Err(DetectError::Sample { socket: socket() }),
            Ok(tee) => {
                tracing::info!(tee, socket = %socket().display(), "attester: attestation agent");
                return Ok(Choice::Agent);
            }
            Err(error) => error,
        };
        // An agent that is there and fails must not be passed over in silence.
        if !matches!(agent, AgentError::Unreachable { .. }) {
            return Err(DetectError::Agent(agent));
        }
        if !self.kernel.is_there() {
            return Err(DetectError::Nothing {
                socket: socket(),
                folder: self.kernel.folder().to_owned(),
                source: agent,
            });
        }
        let tee = self.kernel.tee_name().await.map_err(DetectError::Kernel)?;
        tracing::info!(tee, folder = %self.kernel.folder().display(), "attester: configfs-tsm");
        Ok(Choice::Kernel)
    }
}

impl Attester for DetectedAttester {
    fn tee(&self) -> BoxFuture<'_, Result<String, AttesterError>> {
        Box::pin(async { self.chosen().await?.tee().await })
    }

    fn evidence<'a>(
        &'a self,
        report_data: &'a ReportData,
    ) -> BoxFuture<'a, Result<Value, AttesterError>> {
        Box::pin(async { self.chosen().await?.evidence(report_data).await })
    }

    fn additional_evidence<'a>(
        &'a self,
        report_data: &'a ReportData,
    ) -> BoxFuture<'a, Result<String, AttesterError>> {
        Box::pin(async { self.chosen().await?.additional_evidence(report_data).await })
    }
}

/// Why no attester was found. The guest's builder is at fault, or this is no confidential VM.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DetectError {
    /// Neither is there.
    #[error(
        "no attester: looked for the attestation agent at {} and for configfs-tsm at {}; is this a \
         confidential VM?",
        socket.display(),
        folder.display()
    )]
    Nothing {
        /// Where the agent would listen.
        socket: PathBuf,
        /// Where the kernel would take requests.
        folder: PathBuf,
        /// What was met at the socket.
        #[source]
        source: AgentError,
    },
    /// The agent has found no TEE, and stands in with evidence that proves nothing.
    #[error(
        "the attestation agent at {} has sample evidence only, which proves nothing and is used by \
         whoever names it",
        socket.display()
    )]
    Sample {
        /// Where it listens.
        socket: PathBuf,
    },
    /// The agent is there and fails.
    #[error(transparent)]
    Agent(AgentError),
    /// The kernel takes requests and fails.
    #[error(transparent)]
    Kernel(TsmError),
}

impl DetectError {
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Agent(error) => error.is_transient(),
            Self::Kernel(error) => error.is_transient(),
            Self::Nothing { .. } | Self::Sample { .. } => false,
        }
    }
}
