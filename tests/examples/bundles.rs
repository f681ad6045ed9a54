//! Runs `image-agent verify-bundle` on vectors of bundles that other programs made: `bundles DIR`,
//! where DIR has the bundles, `trusted_root.json`, `identity`, `issuer`, the public keys and
//! `blob.txt`. Ends with an error when one was judged otherwise than its README says.

#![expect(
    clippy::print_stdout,
    reason = "a report on standard output is the purpose"
)]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kit::guest::program;
use kit::image::sha256;
use serde_json::Value;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).ok_or("usage: bundles DIR")?;
    let directory = PathBuf::from(directory);
    let mut wrong = Vec::new();
    let mut total = 0;
    for (name, key, expected) in vectors() {
        for digest in [false, true] {
            let form = if digest { "digest" } else { "file" };
            let Some(artifact) = artifact(&directory, &name, digest)? else {
                continue;
            };
            total += 1;
            let (code, said) = judge(&directory, &name, key.as_deref(), &artifact)?;
            if code != Some(expected) {
                wrong.push(format!("{name}, {form}: {code:?}, not {expected}: {said}"));
            }
        }
    }
    println!(
        "bundles                  {total} vectors, {} wrong",
        wrong.len()
    );
    for line in &wrong {
        println!("{line}");
    }
    Ok(if wrong.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Name, key if there is one, and exit code.
fn vectors() -> Vec<(String, Option<String>, i32)> {
    let keyless = |name: &str, code| (format!("keyless-{name}"), None, code);
    let mut vectors: Vec<_> = ACCEPTED.iter().map(|name| keyless(name, 0)).collect();
    vectors.extend(REFUSED.iter().map(|name| keyless(name, 1)));
    for algorithm in ALGORITHMS {
        let key = Some(format!("key-{algorithm}.pub"));
        // Sigstore's clients have no key of P-521.
        let code = i32::from(algorithm == "p521");
        vectors.push((format!("keyed-{algorithm}-rekor1"), key.clone(), code));
        vectors.push((format!("keyed-{algorithm}-notlog"), key, 1));
    }
    let other = Some("key-rsa2048.pub".to_owned());
    vectors.push(("keyed-p256-rekor1".to_owned(), other, 1));
    vectors
}

/// What the bundle is about, as an argument; the file of an image is not among the vectors.
fn artifact(directory: &Path, name: &str, digest: bool) -> Result<Option<String>, Box<dyn Error>> {
    // Of the one about something else, what the others are about.
    let name = if name == "keyless-wrong-digest" {
        "keyless-rekor1"
    } else {
        name
    };
    let bundle: Value = serde_json::from_slice(&fs::read(bundle(directory, name))?)?;
    let blob = directory.join("blob.txt");
    match bundle
        .pointer("/dsseEnvelope/payload")
        .and_then(Value::as_str)
    {
        None if digest => Ok(Some(sha256(&fs::read(blob)?))),
        None => Ok(Some(blob.to_str().ok_or("no text")?.to_owned())),
        Some(payload) if digest => {
            let statement: Value = serde_json::from_slice(&STANDARD.decode(payload)?)?;
            let hex = statement
                .pointer("/subject/0/digest/sha256")
                .and_then(Value::as_str);
            Ok(Some(format!("sha256:{}", hex.ok_or("no digest")?)))
        }
        Some(_) => Ok(None),
    }
}

fn judge(
    directory: &Path,
    name: &str,
    key: Option<&str>,
    artifact: &str,
) -> Result<(Option<i32>, String), Box<dyn Error>> {
    let mut command = Command::new(program());
    command.args(["verify-bundle", "--bundle"]);
    command.arg(bundle(directory, name));
    let text = |name: &str| fs::read_to_string(directory.join(name));
    match key {
        Some(key) => command.arg("--key").arg(directory.join(key)),
        None => command
            .args(["--certificate-identity", text("identity")?.trim()])
            .args(["--certificate-oidc-issuer", text("issuer")?.trim()]),
    };
    command.arg("--trusted-root");
    command.arg(directory.join("trusted_root.json"));
    let output = command.arg(artifact).output()?;
    let said = String::from_utf8(output.stderr)?;
    Ok((output.status.code(), said.trim().to_owned()))
}

fn bundle(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.sigstore.json"))
}

const ALGORITHMS: [&str; 6] = ["p256", "p384", "p521", "rsa2048", "rsa4096", "ed25519"];
const ACCEPTED: [&str; 5] = [
    "rekor1",
    "rekor1-tsa",
    "rekor2-tsa",
    "slsa-attestation",
    "blob-rekor1",
];
const REFUSED: [&str; 7] = [
    "tsa-only",
    "no-tlog",
    "rekor2-no-tsa",
    "other-identity",
    "wrong-digest",
    "tampered-sig",
    "tampered-integrated-time",
];
