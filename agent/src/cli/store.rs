//! `image-agent store`: what the work directory holds, by hand.
//!
//! All of it works beside a running daemon: what is in use is locked or written down.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{ConfigArgs, Exit, about_file, report};
use crate::config::{Config, Environment};
use crate::error::chain;
use crate::logging;
use crate::store::{Amount, Listed, Store, StoreError, size};

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// List the layers that are kept, the one that was used longest ago first
    List(StoreArgs),
    /// Remove every layer that no bundle uses, and what killed processes have left
    Gc(StoreArgs),
    /// Check that every layer has its record and no more in it than was unpacked, and that no
    /// bundle misses one; the contents of files cannot be checked
    Verify(StoreArgs),
}

#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs `image-agent store`.
pub(super) fn run(command: &StoreCommand) -> Exit {
    let (StoreCommand::List(arguments)
    | StoreCommand::Gc(arguments)
    | StoreCommand::Verify(arguments)) = command;
    let environment = Environment::from_process();
    let file = arguments.config.config.as_deref();
    let work_dir = match Config::load(file, &environment) {
        Ok((config, _warnings)) => config.image.work_dir,
        Err(error) => {
            report::complain(&about_file(file, &error));
            return Exit::Misconfigured;
        }
    };
    logging::start("warn", &environment);
    if !work_dir.is_dir() {
        report::complain(&format!("{}: there is no store", work_dir.display()));
        return Exit::Failed;
    }
    let answer = Store::open(&work_dir).and_then(|store| match command {
        StoreCommand::List(_) => list(&store),
        StoreCommand::Gc(_) => collect(&store),
        StoreCommand::Verify(_) => verify(&store),
    });
    match answer {
        Ok(answer) if arguments.json => report::print_json(&answer.json, answer.exit),
        Ok(answer) => report::print(&answer.text, answer.exit),
        Err(error) => {
            report::complain(&chain(&error));
            Exit::Failed
        }
    }
}

/// What a command found or did.
struct Answer {
    text: String,
    json: Value,
    exit: Exit,
}

fn list(store: &Store) -> Result<Answer, StoreError> {
    let layers = store.inventory()?;
    let free = store.free()?;
    let mut text = about_belief(store).to_owned();
    for layer in &layers {
        let (what, amount) = match &layer.proved {
            Some(proved) => (proved.blob.as_str(), size(proved.amount.bytes)),
            None => ("nothing proves it", "?".to_owned()),
        };
        let (key, used) = (short(&layer.key), if layer.is_used { "used" } else { "" });
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key}  {amount:>12}  {used:4}  {what}");
    }
    let _ = write!(text, "{} layers, {} free", layers.len(), size(free.bytes));
    let json = json!({
        "layers": layers.iter().map(layer_as_json).collect::<Vec<_>>(),
        "free_bytes": free.bytes,
    });
    let exit = Exit::Done;
    Ok(Answer { text, json, exit })
}

fn layer_as_json(layer: &Listed) -> Value {
    let since = layer.last_used.duration_since(SystemTime::UNIX_EPOCH);
    let proved = layer.proved.as_ref();
    json!({
        "key": layer.key,
        "blob": proved.map(|proved| &proved.blob),
        "diff_id": proved.map(|proved| &proved.diff_id),
        "bytes": proved.map(|proved| proved.amount.bytes),
        "entries": proved.map(|proved| proved.amount.inodes),
        "last_used": since.map(|since| since.as_secs()).unwrap_or_default(),
        "used": layer.is_used,
    })
}

fn collect(store: &Store) -> Result<Answer, StoreError> {
    let everything = Amount {
        bytes: u64::MAX,
        inodes: u64::MAX,
    };
    let collected = store.collect(&HashSet::new(), everything)?;
    let free = store.free()?;
    let text = format!(
        "{} layers removed, {} in their files; {} free",
        collected.layers,
        size(collected.amount.bytes),
        size(free.bytes)
    );
    let json = json!({
        "layers": collected.layers,
        "bytes": collected.amount.bytes,
        "free_bytes": free.bytes,
    });
    let exit = Exit::Done;
    Ok(Answer { text, json, exit })
}

fn verify(store: &Store) -> Result<Answer, StoreError> {
    let (layers, findings) = store.verify()?;
    let mut text = about_belief(store).to_owned();
    for finding in &findings {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}: {}", short(&finding.key), finding.problem);
    }
    let _ = write!(text, "{layers} layers, {} findings", findings.len());
    let listed = findings.iter();
    let listed =
        listed.map(|finding| json!({ "key": finding.key, "problem": finding.problem.to_string() }));
    let json = json!({ "layers": layers, "findings": listed.collect::<Vec<_>>() });
    let exit = if findings.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    };
    Ok(Answer { text, json, exit })
}

/// Why nothing proves the layers of a daemon whose store is on a disk of the host.
fn about_belief(store: &Store) -> &'static str {
    if store.is_private() {
        return "";
    }
    "the host can write this disk, so that only the process that unpacked a layer believes it\n"
}

fn short(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}
