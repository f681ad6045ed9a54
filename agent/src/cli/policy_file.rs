//! `image-agent policy check` and `image-agent policy explain`: a policy looked at by itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand};
use policy::{Explanation, ImageRef, Place, PolicyCheck, PolicyError, Scope};
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
    let check = match load(file) {
        Ok(check) => check,
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
    let policy = check.policy();
    let warnings = check.warnings(&keys_in_files(&check), SystemTime::now());
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
    let check = match load(file) {
        Ok(check) => check,
        Err(Unusable::Malformed(error)) => {
            report::complain(&format!("{}: {error}", file.display()));
            return Exit::Misconfigured;
        }
        Err(Unusable::Unreadable(error)) => return unreadable(file, &error),
    };
    let explanation = check.policy().explain(&image);
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

fn load(file: &Path) -> Result<PolicyCheck, Unusable> {
    let document = read(file).map_err(Unusable::Unreadable)?;
    PolicyCheck::parse(&document).map_err(Unusable::Malformed)
}

/// Those keys of the policy that are files here. The rest are elsewhere: in the guest, or with the
/// Key Broker Service.
fn keys_in_files(check: &PolicyCheck) -> BTreeMap<String, Vec<u8>> {
    let content = |location: &str| {
        let path = Path::new(location.strip_prefix("file://").unwrap_or(location));
        let content = path.is_absolute().then(|| read(path))?.ok()?;
        Some((location.to_owned(), content))
    };
    check.locations().into_iter().filter_map(content).collect()
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let file = File::open(file)?;
    file.take(MAX_POLICY_BYTES).read_to_end(&mut content)?;
    Ok(content)
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
    use policy::Policy;

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
    fn keys_that_are_files_here_are_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key.pub");
        std::fs::write(&key, "no key").unwrap();
        let location = format!("file://{}", key.display());
        let key_paths = json!([location, "file:///not/here", "kbs:///default/key/1"]);
        let requirement = json!({"type": "sigstoreSigned", "keyPaths": key_paths});
        let document = json!({"default": [requirement]}).to_string();
        let check = PolicyCheck::parse(document.as_bytes()).unwrap();
        let keys = keys_in_files(&check);
        assert_eq!(keys, BTreeMap::from([(location, b"no key".to_vec())]));
        let warnings = check.warnings(&keys, SystemTime::now());
        let places: Vec<&str> = warnings.iter().map(|found| found.place().path()).collect();
        assert_eq!(places, ["default[0]", "default[0].keyPaths[0]"]);
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
