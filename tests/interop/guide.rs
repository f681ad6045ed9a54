//! The commands of the owners' guide, run as they are printed there, from top to bottom.
//!
//! A `sh` block is run by `make test`, a `sh interop` block by `make interop`, which has cosign.
//! Nothing is replaced: the world is made so that the names in the guide are true.

use kit::image::{Format, Image, host_architecture};
use kit::sigstore::{Identity, Sigstore};
use serde_json::{Value, json};

use crate::world::{World, succeed};
use crate::{Outcome, Report};

const GUIDE: &str = include_str!("../../docs/policy.md");

/// The image that the guide signs.
const IMAGE: &str = "quay.io/org/app:1.4.0";

/// Runs the blocks, then looks at what they have made.
pub(crate) async fn check(world: &World, with_cosign: bool, report: &mut Report) {
    let platform = format!("linux/{}", host_architecture());
    let image = Image::index(Format::Oci, [(platform.as_str(), Image::small("app"))]);
    world.push("org/app:1.4.0", &image).await;
    world.write("policy.json", first_policy());
    release(world);
    report.add(
        "every command of the guide is in a block that is run",
        all_are_run(),
    );
    let blocks: Vec<_> = blocks()
        .into_iter()
        .filter(|block| block.language == "sh" || (block.language == "sh interop" && with_cosign))
        .collect();
    let done = run_in_one_shell(world, &blocks);
    for (index, block) in blocks.iter().enumerate() {
        let first = block.text.lines().next().unwrap_or_default();
        report.add(
            &format!("guide, {}: {first}", block.heading),
            match &done {
                Err((failed, why)) if *failed == index => Err(why.clone()),
                Err((failed, _)) if *failed < index => Err("not reached".to_owned()),
                _ => Ok(()),
            },
        );
    }
    report.add("the guide's gpg signature is accepted", gpg(world).await);
    if with_cosign {
        report.add(
            "the guide's cosign signature is accepted",
            cosign(world).await,
        );
    }
}

/// A fenced block.
struct Block {
    heading: &'static str,
    language: &'static str,
    text: String,
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut heading = "";
    let mut lines = GUIDE.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix('#') {
            heading = title.trim_start_matches('#').trim();
        } else if let Some(language) = line.strip_prefix("```") {
            let text: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(Block {
                heading,
                language,
                text: text.join("\n"),
            });
        }
    }
    blocks
}

/// A file that the guide's workflow has released, with its bundle.
fn release(world: &World) {
    const RELEASED: &str = "app";
    let services = Sigstore::mint();
    let workflow = Identity::github("org/app", "release.yml", "refs/tags/v1.4.0");
    let signer = services.ceremony(workflow);
    let bundle = signer.sign_blob(RELEASED.as_bytes());
    world.write("app.tar.gz", RELEASED);
    world.write("app.sigstore.json", &bundle.json().to_string());
    world.write("trusted_root.json", &services.trusted_root().to_string());
}

/// The policy at the top of the guide, which its first commands are about.
fn first_policy() -> &'static str {
    let rest = GUIDE.split_once("\n```json\n").expect("a policy").1;
    rest.split_once("\n```").expect("an end").0
}

fn all_are_run() -> Outcome {
    let unknown = blocks().into_iter().find(|block| {
        let tools = ["cosign", "gpg", "image-agent", "skopeo"];
        let runs = |line: &str| {
            let command = line.trim_start_matches(['$', ' ']);
            tools
                .iter()
                .any(|tool| command.starts_with(&format!("{tool} ")))
        };
        !block.language.starts_with("sh") && block.text.lines().any(runs)
    });
    match unknown {
        None => Ok(()),
        Some(block) => Err(format!("this is printed and not run:\n{}", block.text)),
    }
}

/// Runs the blocks as one script; fails with the number of the block that failed.
fn run_in_one_shell(world: &World, blocks: &[Block]) -> Result<(), (usize, String)> {
    let parts: Vec<_> = blocks.iter().map(|block| block.text.as_str()).collect();
    let script = parts.join("\necho >> .done\n");
    world.write(".script", &script);
    world.write(".done", "");
    let mut shell = world.command("bash");
    match succeed(shell.args(["-eu", "-o", "pipefail", ".script"])) {
        Ok(_output) => Ok(()),
        Err(why) => {
            let done = std::fs::read(world.home().join(".done")).expect("read .done");
            Err((done.len(), why))
        }
    }
}

async fn gpg(world: &World) -> Outcome {
    let key = world.home().join("release.pub");
    let policy = only(&json!({"type": "signedBy", "keyType": "GPGKeys", "keyPath": key}));
    world.accepts(&policy, IMAGE, &["signature-1"]).await
}

async fn cosign(world: &World) -> Outcome {
    let key = world.home().join("cosign.pub");
    let policy = only(&json!({
        "type": "notOlder",
        "minimumVersion": {"annotation": "version", "version": "1.4.0"},
        "signature": {"type": "sigstoreSigned", "keyPath": key},
    }));
    world.accepts(&policy, IMAGE, &[]).await
}

/// A policy of this requirement.
pub(crate) fn only(requirement: &Value) -> Value {
    json!({ "default": [requirement] })
}
