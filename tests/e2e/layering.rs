//! The arrows between the crates, as `ARCHITECTURE.md` draws them.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Normal dependencies of a package, by name.
fn dependencies(metadata: &Value, package: &str) -> BTreeSet<String> {
    let packages = metadata["packages"].as_array().expect("packages");
    let found = packages
        .iter()
        .find(|found| found["name"] == package)
        .expect(package);
    let all = found["dependencies"]
        .as_array()
        .expect("dependencies")
        .iter();
    all.filter(|dependency| dependency["kind"].is_null())
        .map(|dependency| dependency["name"].as_str().expect("a name").to_owned())
        .collect()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
            "--locked",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

#[test]
fn crates_know_only_whom_they_may() {
    let metadata = metadata();
    let ours = BTreeSet::from(["policy", "rootfs", "kbs-client", "agent", "e2e"]);
    for (package, allowed) in [
        ("policy", vec![]),
        ("rootfs", vec!["policy"]),
        ("kbs-client", vec![]),
        ("agent", vec!["kbs-client", "policy", "rootfs"]),
    ] {
        let dependencies = dependencies(&metadata, package);
        let known: Vec<_> = dependencies
            .iter()
            .map(String::as_str)
            .filter(|name| ours.contains(name))
            .collect();
        assert_eq!(known, allowed, "{package}");
    }
}

#[test]
fn trust_kernel_and_unpacker_have_no_async_and_no_network() {
    let metadata = metadata();
    for package in ["policy", "rootfs"] {
        let dependencies = dependencies(&metadata, package);
        for banned in [
            "tokio",
            "reqwest",
            "hyper",
            "ttrpc",
            "async-trait",
            "futures-util",
        ] {
            assert!(
                !dependencies.contains(banned),
                "{package} depends on {banned}"
            );
        }
    }
    let policy = dependencies(&metadata, "policy");
    for banned in ["rustix", "nix", "tempfile"] {
        assert!(!policy.contains(banned), "policy depends on {banned}");
    }
}

#[test]
fn no_crate_has_features() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let features = package["features"].as_object().expect("features");
        assert!(features.is_empty(), "{}: {features:?}", package["name"]);
    }
}
