//! The world that the guide names, on a loopback of its own: a registry that is `quay.io`, the
//! machine of an owner, and guests.

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kit::client::{CallError, Code};
use kit::guest::{Guest, program};
use kit::image::Image;
use kit::programs::{require, run};
use kit::registry::Registry;
use kit::sigstore::{Attached, Bundle, fallback_tag, referrers};
use serde_json::Value;
use tempfile::TempDir;

use crate::Outcome;

/// The registry of the guide.
pub(crate) const HOST: &str = "quay.io";

/// Everything there is. The owner's home directory is also where the owner works.
#[derive(Debug)]
pub(crate) struct World {
    home: TempDir,
    registry: Registry,
}

impl World {
    /// Makes it, with `cosign` as a program of the owner's.
    pub(crate) async fn start(cosign: Option<&Path>) -> Self {
        let busybox = require("busybox", "busybox-static");
        run(Command::new(busybox).args(["ip", "link", "set", "lo", "up"]));
        let home = tempfile::tempdir().expect("make a directory");
        let names = home.path().join(".hosts");
        std::fs::write(&names, format!("127.0.0.1 localhost {HOST}\n")).expect("write hosts");
        rustix::mount::mount_bind(&names, "/etc/hosts").expect("mount hosts");
        let registry = Registry::start_as(&[HOST]).await;
        let world = Self { home, registry };
        world.write(".authority", world.registry.authority());
        // What these would ask a person on a terminal.
        world.write(
            ".gnupg/gpg.conf",
            "batch\npinentry-mode loopback\npassphrase \"\"\n",
        );
        for (name, program) in [
            ("image-agent", Some(program())),
            ("cosign", absolute(cosign)),
        ] {
            if let Some(program) = program {
                world.write("bin/.keep", "");
                symlink(program, world.home().join("bin").join(name)).expect("make a link");
            }
        }
        world
    }

    /// The owner's home directory.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Writes a file below the owner's home.
    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.home().join(name);
        let parent = path.parent().expect("a file is in a directory");
        std::fs::create_dir_all(parent).expect("make a directory");
        std::fs::write(path, content).expect("write a file");
    }

    /// A run of `program` by the owner.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut path = OsString::from(self.home().join("bin"));
        path.push(":/usr/bin:/bin:/usr/sbin:/sbin");
        let mut command = Command::new("env");
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.home())
            .env("GNUPGHOME", self.home().join(".gnupg"))
            .env("SSL_CERT_FILE", self.home().join(".authority"))
            .env("COSIGN_PASSWORD", "")
            .current_dir(self.home())
            .arg(program);
        command
    }

    /// What the owner's cosign says that it is.
    pub(crate) fn cosign_version(&self) -> String {
        let output = run(self.command("cosign").args(["version", "--json"]));
        let version: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        version["gitVersion"]
            .as_str()
            .expect("a version")
            .to_owned()
    }

    /// Pushes an image as it is; returns `quay.io/<repository>`.
    pub(crate) async fn push(&self, name: &str, image: &Image) -> String {
        self.registry.push(name, image).await;
        let (repository, _) = name.rsplit_once(':').expect("repository:tag");
        format!("{HOST}/{repository}")
    }

    /// Lists `attached` as what refers to `image`, in place of what was listed before.
    pub(crate) async fn attach(&self, repository: &str, image: &Image, attached: &[Attached]) {
        let tag = fallback_tag(&image.digest());
        let name = format!("{repository}:{tag}");
        self.registry.push(&name, &referrers(attached)).await;
    }

    /// The bundles that are listed as referring to `image`.
    pub(crate) async fn bundles(&self, repository: &str, image: &Image) -> Vec<Bundle> {
        let json = |bytes: bytes::Bytes| -> Value { serde_json::from_slice(&bytes).expect("JSON") };
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let tag = fallback_tag(&image.digest());
        let index = format!("manifests/{tag}");
        let index = json(self.registry.get(repository, &index).await);
        let mut found = Vec::new();
        for entry in index["manifests"].as_array().expect("entries") {
            let path = format!("manifests/{}", text(&entry["digest"]));
            let manifest = json(self.registry.get(repository, &path).await);
            let path = format!("blobs/{}", text(&manifest["layers"][0]["digest"]));
            found.push(Bundle::parse(&self.registry.get(repository, &path).await));
        }
        found
    }

    /// Copies a tag with everything that is under it, as anyone with a registry can.
    pub(crate) fn copy(&self, from: &str, to: &str) {
        run(self
            .command("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--preserve-digests"])
            .args([from, to]));
    }

    /// A guest under `policy`; simple-signing signatures are in the owner's `lookaside`.
    fn guest(&self, policy: &Value) -> Guest {
        let lookaside = self.home().join("lookaside");
        let roots = vec![self.registry.authority().to_owned()];
        let mut guest = Guest::new();
        guest.settings = guest
            .settings
            .clone()
            .with("kbc.name", "offline_fs_kbc")
            .with("image.image_security_policy", policy.to_string())
            .with("image.extra_root_certificates", roots)
            .with(
                "image.sigstore_config",
                format!(
                    "docker:\n  {HOST}:\n    lookaside: file://{}\n",
                    lookaside.display()
                ),
            )
            .with("image_agent.attester", "sample")
            .with("image_agent.verbose_errors", true);
        guest
    }

    /// Whether `verify` accepts the image with these words in its record, and the daemon delivers.
    pub(crate) async fn accepts(&self, policy: &Value, image: &str, words: &[&str]) -> Outcome {
        let guest = self.guest(policy);
        let output = verify(&guest, image);
        expect_code(&output, 0)?;
        expect_words(&text(&output.stdout), words)?;
        let delivered = guest.start().await.pull(image, &guest.bundle("c1")).await;
        match delivered {
            Ok(_digest) => Ok(()),
            Err(error) => Err(format!("verify accepts {image}, the daemon says {error:?}")),
        }
    }

    /// Whether `verify` and the daemon refuse the image by policy, with these words.
    pub(crate) async fn refuses(&self, policy: &Value, image: &str, words: &[&str]) -> Outcome {
        let guest = self.guest(policy);
        let output = verify(&guest, image);
        expect_code(&output, 3)?;
        expect_words(&text(&output.stderr), words)?;
        let bundle = guest.bundle("c1");
        match guest.start().await.pull(image, &bundle).await {
            Err(CallError::Refused(refusal)) if refusal.code == Code::PERMISSION_DENIED => {
                expect_words(&refusal.message, words)
            }
            other => Err(format!("verify refuses {image}, the daemon says {other:?}")),
        }
    }
}

/// Runs a program of the owner's that should succeed; says what it said when it does not.
pub(crate) fn succeed(command: &mut Command) -> Result<Output, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?} does not start: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = text(&output.stderr);
    Err(format!("{command:?} ended with {}:\n{said}", output.status))
}

fn verify(guest: &Guest, image: &str) -> Output {
    let mut command = guest.program();
    command
        .args(["verify", "--json", image, "-c"])
        .arg(guest.write_config());
    command.output().expect("image-agent starts")
}

fn expect_code(output: &Output, expected: i32) -> Outcome {
    if output.status.code() == Some(expected) {
        return Ok(());
    }
    let (record, said) = (text(&output.stdout), text(&output.stderr));
    let status = output.status;
    Err(format!(
        "verify ended with {status}, expected {expected}:\n{said}\n{record}"
    ))
}

fn expect_words(said: &str, words: &[&str]) -> Outcome {
    match words.iter().find(|word| !said.contains(**word)) {
        None => Ok(()),
        Some(word) => Err(format!("no {word:?} in: {said}")),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn absolute(path: Option<&Path>) -> Option<PathBuf> {
    path.map(|path| path.canonicalize().expect("the cosign program is there"))
}
