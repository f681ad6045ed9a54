//! The daemon: bind, serve, end cleanly.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};
use ttrpc::r#async::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::config::{Config, ConfigError, Environment};
use crate::error::chain;
use crate::pull::Agent;
use crate::service::{self, Backend};
use crate::socket::{self, SocketError};
use crate::{logging, memory};

/// What to do when the configuration is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMisconfiguration {
    /// End with the error: somebody reads it.
    Exit,
    /// Bind the socket all the same and answer every call with the error: kata-agent discards
    /// our stderr and does not start us again.
    AnswerWithIt,
}

/// Why the daemon ends with an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration is broken.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration names a client that cannot be made.
    #[error("the configuration of the key broker service or registry client")]
    Client(#[source] crate::pull::AgentError),
    /// The socket cannot be bound.
    #[error("binding the socket")]
    Socket(#[from] SocketError),
    /// The operating system refuses a thread, a signal handler or the like.
    #[error("starting the runtime")]
    Runtime(#[source] std::io::Error),
    /// The ttrpc server refuses to start.
    #[error("starting the ttrpc server")]
    Server(#[source] ttrpc::Error),
}

/// Serves until SIGTERM or SIGINT.
pub fn serve(file: Option<&Path>, broken: OnMisconfiguration) -> Result<(), ServeError> {
    let environment = Environment::from_process();
    let (socket, backend) = match configure(file, &environment) {
        Ok(configured) => configured,
        Err(error) if broken == OnMisconfiguration::Exit => return Err(error),
        Err(error) => {
            logging::start("info", &environment);
            let text = chain(&error);
            error!(error = %text, "configuration refused; every call is answered with this");
            (Config::socket_of_broken(file), Backend::Misconfigured(text))
        }
    };
    memory::protect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let result = runtime.block_on(run(socket, backend));
    // Work that was cancelled ends at its next read and erases what it had staged.
    runtime.shutdown_timeout(CLEAN_UP);
    result
}

fn configure(
    file: Option<&Path>,
    environment: &Environment,
) -> Result<(PathBuf, Backend), ServeError> {
    let (config, warnings) = Config::load(file, environment)?;
    let socket = config.socket.clone();
    let level = config.log_level.clone();
    let agent = Agent::new(config).map_err(ServeError::Client)?;
    logging::start(&level, environment);
    for warning in warnings {
        warn!("{warning}");
    }
    Ok((socket, Backend::Ready(Arc::new(agent))))
}

async fn run(path: PathBuf, backend: Backend) -> Result<(), ServeError> {
    // Before the bind: whoever sees the socket may also send a signal.
    let Signals { end, hangup } = Signals::listen().map_err(ServeError::Runtime)?;
    let (listener, socket_file) = socket::bind(&path)?;
    let agent = match &backend {
        Backend::Ready(agent) => Some(Arc::clone(agent)),
        Backend::Misconfigured(_) => None,
    };
    let (finish, ending) = watch::channel(false);
    let mut server = Server::new()
        .add_listener(Listener::from(listener))
        .register_service(service::services(backend, ending));
    server.start().await.map_err(ServeError::Server)?;
    info!(socket = %path.display(), "ready");
    // Everything that takes time comes after the socket: kata-agent waits for it, not long.
    let chores = tokio::spawn(async move {
        if let Some(agent) = agent {
            chores(&agent, hangup).await;
        }
    });
    end.wait().await;
    info!("ending: running pulls are cancelled, delivered bundles stay");
    chores.abort();
    drop(socket_file);
    // Pulls are cancelled and answered first; the server would wait for them.
    finish.send_replace(true);
    if let Err(error) = server.shutdown().await {
        warn!(%error, "the ttrpc server ended with an error");
    }
    info!("ended");
    Ok(())
}

/// Cleans up after a process that was killed, and lets what the owner has rotated take effect at
/// `hangup`: at once, whatever fetching credentials waits for.
async fn chores(agent: &Agent, mut hangup: Signal) {
    let again = Notify::new();
    let forgetting = async {
        while hangup.recv().await.is_some() {
            agent.forget();
            info!("SIGHUP: what was fetched from the key broker service is forgotten");
            again.notify_one();
        }
    };
    let fetching = async {
        agent.recover().await;
        loop {
            agent.fetch_credentials().await;
            again.notified().await;
        }
    };
    tokio::select! {
        () = forgetting => {}
        () = fetching => {}
    }
}

/// The signals that mean something to us.
struct Signals {
    end: EndSignals,
    hangup: Signal,
}

struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            end: EndSignals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

impl EndSignals {
    async fn wait(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

const CLEAN_UP: Duration = Duration::from_secs(20);
