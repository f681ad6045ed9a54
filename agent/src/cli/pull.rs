//! `image-agent pull` and `image-agent verify`: the daemon's work, by hand.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use policy::Digest;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{ConfigArgs, Exit, about_file, report};
use crate::bundle::BundleError;
use crate::config::{Config, Environment};
use crate::error::{Error, chain};
use crate::progress::{Listener, Progress};
use crate::pull::Agent;
use crate::store::StoreError;
use crate::{logging, memory};

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// The image, as Kubernetes would name it
    image: String,
    /// The directory to fill: `rootfs` is mounted in it, `config.json` written
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    /// Print the result and the decision record as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The image, as Kubernetes would name it
    image: String,
    /// Print the decision record as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs `image-agent pull`.
pub(super) fn pull(arguments: &PullArgs) -> Exit {
    with_agent(&arguments.config, arguments.json, async |agent| {
        let bundle = match std::path::absolute(&arguments.bundle) {
            Ok(path) => path,
            Err(error) => {
                report::complain(&format!("{}: {error}", arguments.bundle.display()));
                return Exit::Usage;
            }
        };
        agent.recover().await;
        let listener = bars();
        let result = tokio::select! {
            result = agent.pull(&arguments.image, &bundle, &listener) => result,
            // Dropping the pull takes down what it had begun.
            () = interrupted() => Err(Error::Interrupted),
        };
        match result {
            Ok(pulled) if arguments.json => report::print_json(&pulled, Exit::Done),
            Ok(pulled) => report::print(&pulled.manifest_digest.to_string(), Exit::Done),
            Err(error) => refuse("Failed to pull image", &error, arguments.json),
        }
    })
}

/// Runs `image-agent verify`.
pub(super) fn verify(arguments: &VerifyArgs) -> Exit {
    with_agent(&arguments.config, arguments.json, async |agent| match agent
        .verify(&arguments.image)
        .await
    {
        Ok(record) if arguments.json => report::print_json(&record, Exit::Done),
        Ok(record) => report::print(&record.to_string(), Exit::Done),
        Err(error) => {
            let exit = refuse("not verified", &error, arguments.json);
            match error.record() {
                Some(record) if !arguments.json => report::print(&record.to_string(), exit),
                _ => exit,
            }
        }
    })
}

/// SIGINT, SIGTERM or a closed terminal.
async fn interrupted() {
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        // Then the signal's default action ends us.
        Err(_no_handler) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
}

fn with_agent(
    arguments: &ConfigArgs,
    as_json: bool,
    run: impl AsyncFnOnce(&Agent) -> Exit,
) -> Exit {
    let environment = Environment::from_process();
    let misconfigured = |error: &(dyn std::error::Error + 'static)| {
        let text = about_file(arguments.config.as_deref(), error);
        report::complain(&text);
        if as_json {
            return report::print_json(&json!({ "error": text }), Exit::Misconfigured);
        }
        Exit::Misconfigured
    };
    let (config, warnings) = match Config::load(arguments.config.as_deref(), &environment) {
        Ok(loaded) => loaded,
        Err(error) => return misconfigured(&error),
    };
    logging::start("warn", &environment);
    memory::forbid_dumps();
    for warning in warnings {
        report::complain(&format!("warning: {warning}"));
    }
    let agent = match Agent::new(config) {
        Ok(agent) => agent,
        Err(error) => return misconfigured(&error),
    };
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let exit = runtime.block_on(run(&agent));
            // Cancelled work erases what it had staged; work that hangs is not waited for.
            runtime.shutdown_timeout(CLEAN_UP);
            exit
        }
        Err(error) => {
            report::complain(&format!("starting the runtime: {error}"));
            Exit::Failed
        }
    }
}

/// Says why, and with which code the process ends.
fn refuse(what: &str, error: &Error, as_json: bool) -> Exit {
    let exit = match error {
        Error::Denied { denied, .. } if denied.decision().is_undecided() => Exit::Failed,
        Error::Denied { .. } => Exit::Denied,
        Error::Resource { source, .. } if source.is_transient() => Exit::Failed,
        Error::NoPolicy { .. }
        | Error::Policy(_)
        | Error::Registries(_)
        | Error::Lookaside(_)
        | Error::Resource { .. }
        | Error::Store(StoreError::NotADirectory { .. })
        | Error::Open(_) => Exit::Misconfigured,
        Error::Reference(_) | Error::BundlePath(BundleError::Path(_)) => Exit::Usage,
        _ => Exit::Failed,
    };
    report::complain(&format!("{what}: {}", chain(error)));
    if as_json {
        let answer = json!({ "error": chain(error), "decision": error.record() });
        return report::print_json(&answer, exit);
    }
    exit
}

/// Progress bars on a terminal, nothing elsewhere.
fn bars() -> Listener {
    let terminal = std::io::stderr().is_terminal();
    let target = if terminal {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let all = MultiProgress::with_draw_target(target);
    let bars: Mutex<HashMap<Digest, ProgressBar>> = Mutex::new(HashMap::new());
    Listener::new(move |step| {
        let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
        match step {
            // Another place is asked: what came from the one before counts for nothing.
            Progress::LayerStarted(digest, _) if bars.contains_key(digest) => {
                if let Some(bar) = bars.get(digest) {
                    bar.reset();
                }
            }
            Progress::LayerStarted(digest, size) => {
                let bar = all.add(ProgressBar::new(size).with_style(style()));
                bar.set_message(digest.hex().chars().take(12).collect::<String>());
                bars.insert(*digest, bar);
            }
            Progress::LayerReceived(digest, count) => {
                if let Some(bar) = bars.get(digest) {
                    bar.inc(count);
                }
            }
            Progress::LayerReady(digest) => {
                if let Some(bar) = bars.remove(digest) {
                    bar.finish();
                }
            }
            Progress::Resolved(_) | Progress::Approved(_) | Progress::Mounted => {}
        }
    })
}

fn style() -> ProgressStyle {
    let template = "{msg} {bar:32} {bytes:>10} / {total_bytes:10} {bytes_per_sec}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

const CLEAN_UP: Duration = Duration::from_secs(10);
