//! `image-agent call`: what kata-agent does, by hand.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ttrpc::context;

use super::{ConfigArgs, Exit, about_file, report};
use crate::config::{Config, Environment};
use crate::generated::api::ImagePullRequest;
use crate::generated::api_ttrpc::ImagePullServiceClient;

#[derive(Debug, Args)]
pub(super) struct CallArgs {
    /// The image, as Kubernetes would name it
    image: String,
    /// The bundle directory that the daemon is to fill: absolute, in the daemon's file system
    bundle: String,
    /// The daemon's socket; without it the configuration says
    #[arg(short, long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Give up after this many seconds; 0 waits for ever
    #[arg(long, value_name = "SECONDS", default_value_t = 1200)]
    timeout: u32,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs `image-agent call`.
pub(super) fn call(arguments: &CallArgs) -> Exit {
    let file = arguments.config.config.as_deref();
    let configured = || Config::load(file, &Environment::from_process());
    let named = arguments.socket.clone().map(Ok);
    let socket = named.unwrap_or_else(|| configured().map(|(config, _warnings)| config.socket));
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => {
            report::complain(&about_file(file, &error));
            return Exit::Misconfigured;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            report::complain(&format!("starting the runtime: {error}"));
            return Exit::Failed;
        }
    };
    let address = format!("unix://{}", socket.display());
    match runtime.block_on(pull(&address, arguments)) {
        Ok(digest) => report::print(&digest, Exit::Done),
        Err(ttrpc::Error::RpcStatus(status)) => {
            report::complain(&format!("{:?}: {}", status.code(), status.message()));
            match status.code() {
                ttrpc::Code::PERMISSION_DENIED => Exit::Denied,
                ttrpc::Code::FAILED_PRECONDITION => Exit::Misconfigured,
                ttrpc::Code::INVALID_ARGUMENT => Exit::Usage,
                _ => Exit::Failed,
            }
        }
        Err(error) => {
            report::complain(&format!(
                "{}: no answer from a daemon ({error}); `image-agent serve` starts one",
                socket.display()
            ));
            Exit::Failed
        }
    }
}

async fn pull(address: &str, arguments: &CallArgs) -> ttrpc::Result<String> {
    let client = ttrpc::r#async::Client::connect(address).await?;
    let mut request = ImagePullRequest::new();
    request.image_url.clone_from(&arguments.image);
    request.bundle_path.clone_from(&arguments.bundle);
    let limit = context::with_duration(Duration::from_secs(arguments.timeout.into()));
    let response = ImagePullServiceClient::new(client)
        .pull_image(limit, &request)
        .await?;
    Ok(response.manifest_digest)
}
