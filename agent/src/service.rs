//! `api.ImagePullService` over ttrpc: one call in, one pull, one answer or status out.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{error, info};
use ttrpc::r#async::{Service, TtrpcContext};

use crate::error::{Error, chain};
use crate::generated::api::{ImagePullRequest, ImagePullResponse};
use crate::generated::api_ttrpc::{ImagePullService, create_image_pull_service};
use crate::printable::printable;
use crate::progress::Listener;
use crate::pull::{Agent, Pulled};
use crate::status;

/// What stands behind the socket.
#[derive(Debug)]
pub(crate) enum Backend {
    /// The daemon as configured.
    Ready(Arc<Agent>),
    /// The configuration is broken. kata-agent discards what we print, so the error is kept and
    /// given to every call.
    Misconfigured(String),
}

/// The ttrpc services of `backend`, by name. Running pulls are cancelled when `ending` says true.
pub(crate) fn services(
    backend: Backend,
    ending: watch::Receiver<bool>,
) -> HashMap<String, Service> {
    create_image_pull_service(Arc::new(PullService { backend, ending }))
}

struct PullService {
    backend: Backend,
    ending: watch::Receiver<bool>,
}

#[async_trait::async_trait]
impl ImagePullService for PullService {
    async fn pull_image(
        &self,
        context: &TtrpcContext,
        request: ImagePullRequest,
    ) -> ttrpc::Result<ImagePullResponse> {
        let agent = match &self.backend {
            Backend::Ready(agent) => Arc::clone(agent),
            Backend::Misconfigured(text) => {
                return Err(ttrpc::Error::RpcStatus(status::misconfigured(text)));
            }
        };
        let verbose = agent.verbose_errors();
        let image = request.image_url.clone();
        let deadline = caller_deadline(context);
        // A task of its own: a panic in it is this call's error and nobody else's.
        let task = AbortOnDrop(tokio::spawn(pull(agent, request, deadline)));
        match task.finished_unless(self.ending.clone()).await {
            Ok(pulled) => {
                let mut response = ImagePullResponse::new();
                response.manifest_digest = pulled.manifest_digest.to_string();
                Ok(response)
            }
            Err(failure) => {
                error!(
                    image = printable(&image, MAX_LOGGED),
                    error = printable(&chain(&failure), MAX_LOGGED_ERROR),
                    "pull failed"
                );
                let status = status::for_the_caller(&image, &failure, verbose);
                Err(ttrpc::Error::RpcStatus(status))
            }
        }
    }
}

async fn pull(
    agent: Arc<Agent>,
    request: ImagePullRequest,
    deadline: Option<Duration>,
) -> Result<Pulled, Error> {
    let bundle = Path::new(&request.bundle_path);
    info!(
        image = printable(&request.image_url, MAX_LOGGED),
        bundle = printable(&request.bundle_path, MAX_LOGGED),
        "pull asked for"
    );
    let listener = Listener::silent();
    let pulling = agent.pull(&request.image_url, bundle, &listener);
    match deadline {
        None => pulling.await,
        Some(limit) => tokio::time::timeout(limit, pulling)
            .await
            .unwrap_or(Err(Error::Deadline {
                seconds: limit.as_secs(),
            })),
    }
}

/// The time that the caller will wait, less what our own answer needs to arrive in it.
fn caller_deadline(context: &TtrpcContext) -> Option<Duration> {
    let nanoseconds = u64::try_from(context.timeout_nano)
        .ok()
        .filter(|limit| *limit > 0)?;
    let limit = Duration::from_nanos(nanoseconds);
    Some(limit.saturating_sub((limit / 20).min(Duration::from_millis(250))))
}

/// A pull that ends when its caller goes away: ttrpc drops the handler of a closed connection.
struct AbortOnDrop(JoinHandle<Result<Pulled, Error>>);

impl AbortOnDrop {
    async fn finished_unless(self, mut ending: watch::Receiver<bool>) -> Result<Pulled, Error> {
        tokio::select! {
            biased;
            // A pull that is done is told as done, also at the last moment.
            result = self.finished() => result,
            // A sender that is gone has ended, too.
            _ = ending.wait_for(|end| *end) => Err(Error::ShuttingDown),
        }
    }

    async fn finished(mut self) -> Result<Pulled, Error> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(stopped) if stopped.is_panic() => Err(Error::Panicked),
            Err(_aborted) => Err(Error::ShuttingDown),
        }
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Characters of a name in the log; the names come from the host.
const MAX_LOGGED: usize = 512;
/// Characters of an error in the log.
const MAX_LOGGED_ERROR: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    fn running(pull: impl Future<Output = Result<Pulled, Error>> + Send + 'static) -> AbortOnDrop {
        AbortOnDrop(tokio::spawn(pull))
    }

    #[tokio::test]
    async fn panic_is_the_error_of_one_pull() {
        let bad = running(async { panic!("a defect") });
        let good = running(async { Err(Error::Deadline { seconds: 1 }) });
        assert!(matches!(bad.finished().await, Err(Error::Panicked)));
        assert!(matches!(
            good.finished().await,
            Err(Error::Deadline { seconds: 1 })
        ));
    }

    #[tokio::test]
    async fn panic_of_blocking_work_is_the_error_of_one_pull() {
        let bad = running(async { crate::blocking::blocking(|| panic!("a defect")).await });
        assert!(matches!(bad.finished().await, Err(Error::Panicked)));
    }

    #[tokio::test]
    async fn end_of_the_daemon_is_the_answer_to_running_pulls() {
        let (end, ending) = watch::channel(false);
        let pull = running(std::future::pending());
        let answered = tokio::spawn(pull.finished_unless(ending));
        end.send_replace(true);
        assert!(matches!(answered.await.unwrap(), Err(Error::ShuttingDown)));
    }

    #[tokio::test]
    async fn pull_ends_when_its_caller_goes_away() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let pull = running(async move {
            let _held_as_long_as_the_pull_lives = sender;
            std::future::pending().await
        });
        drop(pull);
        assert!(
            receiver.await.is_err(),
            "the pull and what it held are gone"
        );
    }
}
