//! Runs the conformance vectors for containers-policy.json against this crate. Those for the registry
//! client are run by `registry_conformance` of the `agent` crate.
//!
//! `cargo run -p policy --example conformance -- DIR`, where DIR holds one `AREA.json` per area and
//! `fixtures/`. Prints a line per area and every vector that went wrong; ends with an error when
//! anything was wrongly accepted or more than [`TOLERATED_REFUSALS`] were wrongly refused.

#![expect(
    clippy::print_stdout,
    reason = "a report on standard output is the purpose"
)]

mod areas;
mod evaluate;
mod score;
mod signers;
mod simple;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::score::{Answer, Tally, Vector};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).ok_or("usage: conformance DIR")?;
    let directory = PathBuf::from(directory).canonicalize()?;
    let mut total = Tally::default();
    for (area, check) in AREAS {
        let tally = run(area, check, &directory)?;
        println!("{area:24} {tally}");
        total.add(&tally);
    }
    println!("{:24} {total}", "total");
    total.details().iter().for_each(|line| println!("{line}"));
    let passed = total.wrongly_accepted == 0 && total.wrongly_refused <= TOLERATED_REFUSALS;
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

type Check = fn(&Vector<'_>, &Path) -> Result<Answer, Box<dyn Error>>;

fn run(area: &'static str, check: Check, directory: &Path) -> Result<Tally, Box<dyn Error>> {
    let document = std::fs::read(directory.join(format!("{area}.json")))?;
    let document: serde_json::Value = serde_json::from_slice(&document)?;
    let vectors = document
        .get("vectors")
        .and_then(|vectors| vectors.as_array());
    let vectors = vectors
        .filter(|vectors| !vectors.is_empty())
        .ok_or("no vectors")?;
    let mut tally = Tally::default();
    for value in vectors {
        let vector = Vector::new(area, value)?;
        let answer = check(&vector, &directory.join("fixtures"))?;
        tally.count(&vector, answer);
    }
    Ok(tally)
}

const AREAS: [(&str, Check); 23] = [
    ("policy-parse", areas::policy_parse),
    ("policy-eval", evaluate::policy_eval),
    ("identity-match", areas::identity_match),
    ("scope-lookup", areas::scope_lookup),
    ("scope-namespaces", areas::scope_namespaces),
    ("reference-normalize", areas::reference_normalize),
    ("reference-strict", areas::reference_strict),
    ("docker-transport-parse", areas::docker_transport_parse),
    ("sigstore-payload", areas::sigstore_payload),
    ("sigstore-verify", areas::sigstore_verify),
    ("simple-payload", simple::simple_payload),
    ("simple-signing", simple::simple_signing),
    ("signature-blob", simple::signature_blob),
    ("registries-d", simple::registries_d),
    ("lookaside-url", simple::lookaside_url),
    ("rekor-set", signers::rekor_set),
    ("rekor-set-parse", signers::rekor_set_parse),
    ("fulcio-cert", signers::fulcio_cert),
    ("pki-cert", signers::pki_cert),
    ("manifest-parse", areas::manifest_parse),
    ("manifest-type-digest", areas::manifest_type_digest),
    ("manifest-list-choose", areas::manifest_list_choose),
    ("wanted-platforms", areas::wanted_platforms),
];

const TOLERATED_REFUSALS: usize = 5;
