//! End to end: the real daemon over its socket, the real registry, a KBS over https, and a
//! registry that misbehaves on demand.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails at the line where it stands"
)]

mod access;
mod across;
mod bad_line;
mod beside;
mod bundle;
mod cli;
mod concurrent;
mod config;
mod denied;
mod extension;
mod guide;
mod helpers;
mod hostile;
mod joined;
mod kbs_use;
mod layering;
mod mistakes;
mod places;
mod platform;
mod pull;
mod record;
mod redirect;
mod restart;
mod sigstore;
mod simple;
mod soak;
mod space;
mod store;
mod terminal;
mod tree;
mod verify_bundle;

use std::path::Path;
use std::process::Command;

use kit::archive::Archive;
use kit::guest::Guest;
use kit::image::{Image, Layer};
use kit::programs::run;

/// A policy that asks nothing, for tests of what comes after the decision.
const ACCEPT_ANYTHING: &str = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;

/// Phrase that today's tests of kata search for in every failure.
const FAILED: &str = "Failed to pull image";
/// Phrase that they search for in a denial.
const DENIED: &str = "Image policy rejected: Denied by policy";
/// Phrase of a refusal that the next try may turn into a delivery.
const UNDECIDED: &str = "the image policy cannot judge for now, try again";

/// A guest that accepts anything from the registry at `host` over plain http, without a KBS.
fn trusting_guest(host: &str) -> Guest {
    let mut guest = Guest::new();
    guest.settings = guest
        .settings
        .clone()
        .with("kbc.name", "offline_fs_kbc")
        .with("image.image_security_policy", ACCEPT_ANYTHING)
        .with("image_agent.attester", "sample")
        .insecure_registry(host);
    guest
}

/// An image of one gzip layer with one file.
fn image_of(archive: Archive) -> Image {
    Image::of([Layer::gzip(archive)]).build()
}

/// Runs a shell command of the image's own busybox inside a delivered root file system.
fn run_inside(bundle: &Path, command: &str) -> String {
    let output = run(Command::new("chroot").arg(bundle.join("rootfs")).args([
        "/bin/busybox",
        "sh",
        "-c",
        command,
    ]));
    String::from_utf8(output.stdout).unwrap()
}

/// Content of a file of a delivered root file system.
fn content(bundle: &Path, file: &str) -> String {
    std::fs::read_to_string(bundle.join("rootfs").join(file)).unwrap()
}

/// Fails unless `message` has every word of `words`.
fn assert_says(case: &str, message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{case}: no {word:?} in {message:?}");
    }
}
