//! `image-agent policy check` and `image-agent policy explain`: a policy looked at by itself.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use policy::{Explanation, ImageRef, Place, Policy, PolicyError, Scope};
use serde_json::{Value, json};

use super::{Exit, report};

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Say what is wrong with a policy, and what is questionable in it
    Check(CheckArgs),
    /// Say which part of a policy speaks for an image and what it demands, without pulling it
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The policy, a containers-policy.json document
    file: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The policy, a containers-policy.json document
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The image, as Kubernetes would name it
    image: String,
    /// Print the explanation as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `image-agent policy`.
pub(super) fn run(command: &PolicyCommand) -> Exit {
    match command {
        PolicyCommand::Check(arguments) => check(arguments),
        PolicyCommand::Explain(arguments) => explain(arguments),
    }
}

fn check(arguments: &CheckArgs) -> Exit {
    let file = &arguments.file;
    let policy = match load(file) {
        Ok(policy) => policy,
        Err(Unusable::Malformed(error)) => {
            report::complain(&format!("{}: {error}", file.display()));
            if arguments.json {
                let fault = remark(error.place(), &error.problem().to_string());
                let answer = json!({"error": fault, "warnings": []});
                return report::print_json(&answer, Exit::Misconfigured);
            }
            return Exit::Misconfigured;
        }
        Err(Unusable::Unreadable(error)) => return unreadable(file, &error),
    };
    let warnings = policy.warnings();
    if arguments.json {
        let warnings: Vec<Value> = warnings
            .iter()
            .map(|warning| remark(warning.place(), warning.text()))
            .collect();
        let answer = json!({"digest": policy.digest(), "warnings": warnings});
        return report::print_json(&answer, Exit::Done);
    }
    for warning in warnings {
        report::complain(&format!("warning: {}: {warning}", file.display()));
    }
    let found = format!("{} {}", policy.digest(), file.display());
    report::print(&found, Exit::Done)
}

fn explain(arguments: &ExplainArgs) -> Exit {
    let image = match ImageRef::parse_edge(&arguments.image) {
        Ok(image) => image,
        Err(error) => {
            report::complain(&format!("{:?}: {error}", arguments.image));
            return Exit::Usage;
        }
    };
    let file = &arguments.policy;
    let policy = match load(file) {
        Ok(policy) => policy,
        Err(Unusable::Malformed(error)) => {
            report::complain(&format!("{}: {error}", file.display()));
            return Exit::Misconfigured;
        }
        Err(Unusable::Unreadable(error)) => return unreadable(file, &error),
    };
    let explanation = policy.explain(&image);
    if arguments.json {
        return report::print_json(&explanation, Exit::Done);
    }
    report::print(&describe(&explanation), Exit::Done)
}

/// Why there is no policy in a file.
enum Unusable {
    Unreadable(io::Error),
    Malformed(PolicyError),
}

fn load(file: &Path) -> Result<Policy, Unusable> {
    let mut document = Vec::new();
    File::open(file)
        .and_then(|file| file.take(MAX_POLICY_BYTES).read_to_end(&mut document))
        .map_err(Unusable::Unreadable)?;
    Policy::parse(&document).map_err(Unusable::Malformed)
}

fn unreadable(file: &Path, error: &io::Error) -> Exit {
    report::complain(&format!("{}: {error}", file.display()));
    Exit::Misconfigured
}

fn remark(place: &Place, text: &str) -> Value {
    json!({
        "line": place.line(),
        "column": place.column(),
        "path": place.path(),
        "text": text,
    })
}

fn describe(explanation: &Explanation) -> String {
    let Explanation {
        reference,
        policy_digest,
        candidates,
        scope,
        requirements,
        ..
    } = explanation;
    let mut text = format!(
        "{reference}\n  policy: {policy_digest}\n  scope:  {scope}, for these are asked in turn:\n"
    );
    let mut line = |taken: bool, name: &str| {
        let mark = if taken { '>' } else { ' ' };
        // Writing to a text does not fail.
        let _ = writeln!(text, "  {mark} {name}");
    };
    for candidate in candidates {
        let here = Scope::Docker(candidate.clone());
        line(here == *scope, &here.to_string());
        if here == *scope {
            break;
        }
    }
    if *scope == Scope::Default {
        line(true, &scope.to_string());
    }
    text.push_str("  requirements, all of which must be met:\n");
    let none = Vec::new();
    for (requirement, number) in requirements.as_array().unwrap_or(&none).iter().zip(1..) {
        let _ = writeln!(text, "  {number}. {requirement}");
    }
    text
}

/// As much as the Key Broker Service may send; what is cut off here is no policy.
const MAX_POLICY_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &[u8] = br#"{"default": [{"type": "reject"}], "transports": {"docker":
        {"quay.io/org": [{"type": "sigstoreSigned", "keyPath": "kbs:///default/key/1"}]}}}"#;

    #[test]
    fn explanation_shows_what_was_asked_up_to_what_was_taken() {
        let policy = Policy::parse(POLICY).unwrap();
        let explain = |image: &str| describe(&policy.explain(&image.parse().unwrap()));
        let text = explain("quay.io/org/app:1");
        let asked: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("docker."))
            .collect();
        assert_eq!(
            asked,
            [
                r#"  scope:  transports.docker."quay.io/org", for these are asked in turn:"#,
                r#"    transports.docker."quay.io/org/app:1""#,
                r#"    transports.docker."quay.io/org/app""#,
                r#"  > transports.docker."quay.io/org""#,
            ]
        );
        assert!(
            text.contains(r#"  1. {"keyPath":"kbs:///default/key/1","#),
            "{text}"
        );
        let text = explain("busybox");
        assert!(text.contains("\n  > default\n"), "{text}");
        assert!(text.contains("\n  1. {\"type\":\"reject\"}\n"), "{text}");
    }

    #[test]
    fn exit_code_tells_whether_a_policy_can_be_used() {
        let directory = tempfile::tempdir().unwrap();
        let check = |name: &str, content: &[u8]| {
            let file = directory.path().join(name);
            std::fs::write(&file, content).unwrap();
            let json = false;
            check(&CheckArgs { file, json })
        };
        assert_eq!(check("good", POLICY), Exit::Done);
        assert_eq!(check("bad", b"{}"), Exit::Misconfigured);
        let file = directory.path().join("none");
        let arguments = CheckArgs { file, json: true };
        assert_eq!(super::check(&arguments), Exit::Misconfigured);
        let explain = |image: &str| {
            let (policy, image) = (directory.path().join("good"), image.to_owned());
            explain(&ExplainArgs {
                policy,
                image,
                json: true,
            })
        };
        assert_eq!(explain("quay.io/org/app@1"), Exit::Usage);
        assert_eq!(explain("quay.io/org/app"), Exit::Done);
    }
}
