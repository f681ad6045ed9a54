//! `image-agent kbs`: the Key Broker Service, asked by hand.

use std::io::{self, Write as _};

use clap::{Args, Subcommand};
use kbs_client::{KbsClient, Secret};
use serde_json::{Value, json};

use super::{ConfigArgs, Exit, about_file, report};
use crate::config::{Config, Environment};
use crate::error::chain;
use crate::resources::Resources;
use crate::{logging, memory};

#[derive(Debug, Subcommand)]
pub(super) enum KbsCommand {
    /// Fetch a resource and write its bytes to standard output
    Get(GetArgs),
    /// Attest, and print what the service has found out about this guest
    Attest(AttestArgs),
}

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The resource's name, such as `kbs:///repository/type/tag`
    uri: String,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
pub(super) struct AttestArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs `image-agent kbs`.
pub(super) fn run(command: &KbsCommand) -> Exit {
    match command {
        KbsCommand::Get(arguments) => with_resources(&arguments.config, async |resources| {
            match resources.fetch(&arguments.uri).await {
                Ok(secret) => write(&secret),
                Err(error) => {
                    report::complain(&chain(&error));
                    Exit::Failed
                }
            }
        }),
        KbsCommand::Attest(arguments) => with_resources(&arguments.config, async |resources| {
            let Some(client) = resources.client() else {
                report::complain("files stand for the key broker service (offline_fs_kbc)");
                return Exit::Misconfigured;
            };
            attest(client, arguments.json).await
        }),
    }
}

async fn attest(client: &KbsClient, as_json: bool) -> Exit {
    let attestation = match client.attest().await {
        Ok(attestation) => attestation,
        Err(error) => {
            report::complain(&chain(&error));
            return Exit::Failed;
        }
    };
    let tee = attestation
        .tee
        .unwrap_or_else(|| "known to the attestation agent alone".to_owned());
    let (length, claims) = (attestation.evidence_length, attestation.untrusted_claims);
    if as_json {
        let answer = json!({ "tee": tee, "evidence_bytes": length, "claims": claims });
        return report::print_json(&answer, Exit::Done);
    }
    let length = length.map_or_else(|| "unknown".to_owned(), |length| format!("{length} bytes"));
    let claims = match claims {
        Some(claims) => pretty(&claims),
        None => "none that can be read".to_owned(),
    };
    report::print(
        &format!("tee: {tee}\nevidence: {length}\nclaims: {claims}"),
        Exit::Done,
    )
}

fn pretty(claims: &Value) -> String {
    serde_json::to_string_pretty(claims).unwrap_or_else(|_| claims.to_string())
}

/// The bytes as they are: no newline is added.
fn write(secret: &Secret) -> Exit {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(secret.expose())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Exit::Done,
        Err(error) => {
            report::complain(&format!("standard output: {error}"));
            Exit::Failed
        }
    }
}

fn with_resources(arguments: &ConfigArgs, run: impl AsyncFnOnce(&Resources) -> Exit) -> Exit {
    let environment = Environment::from_process();
    let file = arguments.config.as_deref();
    let config = match Config::load(file, &environment) {
        Ok((config, _warnings)) => config,
        Err(error) => {
            report::complain(&about_file(file, &error));
            return Exit::Misconfigured;
        }
    };
    logging::start("warn", &environment);
    memory::protect();
    let resources = match Resources::new(&config) {
        Ok(resources) => resources,
        Err(error) => {
            report::complain(&about_file(file, &error));
            return Exit::Misconfigured;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(&resources)),
        Err(error) => {
            report::complain(&format!("starting the runtime: {error}"));
            Exit::Failed
        }
    }
}
