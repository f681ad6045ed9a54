//! `image-agent pull` and `image-agent verify`: the daemon's work, by hand.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use policy::Digest;
use serde_json::json;

use super::{ConfigArgs, Exit, report};
use crate::config::{Config, Environment};
use crate::error::{Error, chain};
use crate::logging;
use crate::progress::{Listener, Progress};
use crate::pull::Agent;

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
    with_agent(&arguments.config, async |agent| {
        let bundle = match std::path::absolute(&arguments.bundle) {
            Ok(path) => path,
            Err(error) => {
                report::complain(&format!("{}: {error}", arguments.bundle.display()));
                return Exit::Usage;
            }
        };
        agent.recover().await;
        let listener = bars();
        let pulling = agent.pull(&arguments.image, &bundle, &listener);
        let result = tokio::select! {
            result = pulling => result,
            // Dropping the pull takes down what it had begun.
            _ = tokio::signal::ctrl_c() => Err(Error::ShuttingDown),
        };
        match result {
            Ok(pulled) if arguments.json => {
                report::print_json(&pulled);
                Exit::Done
            }
            Ok(pulled) => {
                report::print(&pulled.manifest_digest.to_string());
                Exit::Done
            }
            Err(error) => refuse(&error, arguments.json),
        }
    })
}

/// Runs `image-agent verify`.
pub(super) fn verify(arguments: &VerifyArgs) -> Exit {
    with_agent(&arguments.config, async |agent| {
        match agent.verify(&arguments.image).await {
            Ok(record) if arguments.json => {
                report::print_json(&record);
                Exit::Done
            }
            Ok(record) => {
                report::print(&record.to_string());
                Exit::Done
            }
            Err(error) => refuse(&error, arguments.json),
        }
    })
}

fn with_agent(arguments: &ConfigArgs, run: impl AsyncFnOnce(&Agent) -> Exit) -> Exit {
    let environment = Environment::from_process();
    let loaded = Config::load(arguments.config.as_deref(), &environment);
    let (config, warnings) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            report::complain(&chain(&error));
            return Exit::Misconfigured;
        }
    };
    logging::start("warn", &environment);
    for warning in warnings {
        report::complain(&format!("warning: {warning}"));
    }
    let agent = match Agent::new(config) {
        Ok(agent) => agent,
        Err(error) => {
            report::complain(&chain(&error));
            return Exit::Misconfigured;
        }
    };
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(run(&agent)),
        Err(error) => {
            report::complain(&format!("starting the runtime: {error}"));
            Exit::Failed
        }
    }
}

/// Says why there is no bundle, and with which code the process ends.
fn refuse(error: &Error, as_json: bool) -> Exit {
    let exit = match error {
        Error::Denied { .. } => Exit::Denied,
        Error::NoPolicy { .. } | Error::Policy(_) | Error::Registries(_) => Exit::Misconfigured,
        Error::Reference(_) | Error::BundlePath(_) => Exit::Usage,
        _ => Exit::Failed,
    };
    if as_json {
        report::print_json(&json!({ "error": chain(error), "decision": error.record() }));
    }
    report::complain(&format!("Failed to pull image: {}", chain(error)));
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
