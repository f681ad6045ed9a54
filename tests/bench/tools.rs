//! The tools side by side: what each runs to bring one image from the registry to a tmpfs.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use crate::fault::{During, Fault};
use crate::measure::{Invocation, Sample, sample};
use crate::registry::Registry;
use crate::scratch::Scratch;

/// A way to pull an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Tool {
    #[serde(rename = "image-agent")]
    ImageAgent,
    #[serde(rename = "skopeo+umoci")]
    SkopeoUmoci,
    #[serde(rename = "podman")]
    Podman,
}

/// Everything that is compared, ours first.
pub(crate) const TOOLS: [Tool; 3] = [Tool::ImageAgent, Tool::SkopeoUmoci, Tool::Podman];

/// What every run needs.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) registry: &'a Registry,
    /// The public half of the key that signed the images.
    pub(crate) public_pem: &'a str,
    pub(crate) mountpoint: PathBuf,
    /// Whether that is to be a directory of the disk that it is on.
    pub(crate) on_disk: bool,
    pub(crate) agent: PathBuf,
}

impl Bench<'_> {
    /// Where a run may write, as long as it lives.
    pub(crate) fn scratch(&self) -> Result<Scratch, Fault> {
        if self.on_disk {
            Scratch::on_disk(&self.mountpoint)
        } else {
            Scratch::new(&self.mountpoint)
        }
    }
}

/// One pull, and what it left.
#[derive(Debug)]
pub(crate) struct Pull {
    pub(crate) sample: Sample,
    /// Wall seconds of the same pull again, on the store that the first one filled.
    pub(crate) again: Option<f64>,
    /// Names in the resulting tree, where the tool makes one.
    pub(crate) entries: Option<u64>,
}

impl Tool {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Tool::ImageAgent => "image-agent",
            Tool::SkopeoUmoci => "skopeo+umoci",
            Tool::Podman => "podman",
        }
    }

    /// The program that the machine lacks, if it lacks one.
    pub(crate) fn missing(self, agent: &Path) -> Option<String> {
        let found = match self {
            Tool::ImageAgent => agent.is_file(),
            Tool::SkopeoUmoci => on_path("umoci"),
            Tool::Podman => on_path("podman"),
        };
        let wanted = match self {
            Tool::ImageAgent => agent.display().to_string(),
            Tool::SkopeoUmoci => "umoci".to_owned(),
            Tool::Podman => "podman".to_owned(),
        };
        (!found).then_some(wanted)
    }

    /// Pulls the image onto a fresh scratch directory.
    pub(crate) fn pull(self, bench: &Bench<'_>, image: &str) -> Result<Pull, Fault> {
        let scratch = bench.scratch()?;
        let reference = bench.registry.reference(image);
        match self {
            Tool::ImageAgent => pull_with_agent(bench, &scratch, &reference),
            Tool::SkopeoUmoci => pull_with_umoci(bench, &scratch, &reference),
            Tool::Podman => pull_with_podman(bench, &scratch, &reference),
        }
    }
}

/// Whether a program of this name can be started.
pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The whole process: start, configuration, policy, signature check, unpack, mount.
fn pull_with_agent(bench: &Bench<'_>, scratch: &Scratch, image: &str) -> Result<Pull, Fault> {
    let config = write_agent_files(bench, scratch).during(|| "writing cdh.toml".to_owned())?;
    let invocation = |bundle: &Path| {
        Invocation::new(&bench.agent)
            .args(&["pull", image, "--bundle"])
            .arg(bundle)
            .arg("-c")
            .arg(&config)
    };
    let bundle = scratch.join("bundle");
    let first = sample(&[invocation(&bundle)], bench.registry, scratch.path())?;
    let entries = Some(count_entries(&bundle.join("rootfs"))?);
    let second = [invocation(&scratch.join("bundle-again"))];
    let again = sample(&second, bench.registry, scratch.path())?;
    Ok(Pull {
        sample: first,
        again: Some(again.usage.wall),
        entries,
    })
}

fn write_agent_files(bench: &Bench<'_>, scratch: &Scratch) -> std::io::Result<PathBuf> {
    let [key, policy, config] = ["cosign.pub", "policy.json", "cdh.toml"].map(|f| scratch.join(f));
    let requirement = json!([{ "type": "sigstoreSigned", "keyPath": file_uri(&key) }]);
    let host = bench.registry.host();
    let document = json!({
        "default": [{ "type": "reject" }],
        "transports": { "docker": { host.as_str(): requirement } },
    });
    fs::write(&key, bench.public_pem)?;
    fs::write(&policy, document.to_string())?;
    let text = format!(
        r#"[kbc]
name = "offline_fs_kbc"

[image]
work_dir = "{store}"
image_security_policy_uri = "{policy}"

[[image.registry_config.registry]]
location = "{host}"
insecure = true

[image_agent]
danger_host_writable_store = {on_disk}
"#,
        on_disk = bench.on_disk,
        store = scratch.join("store").display(),
        policy = file_uri(&policy),
    );
    fs::write(&config, text)?;
    Ok(config)
}

fn file_uri(path: &Path) -> String {
    format!("file://{}", path.display())
}

fn pull_with_umoci(bench: &Bench<'_>, scratch: &Scratch, image: &str) -> Result<Pull, Fault> {
    let layout = format!("{}:latest", scratch.join("layout").display());
    let bundle = scratch.join("bundle");
    let copy = Invocation::new("skopeo")
        .args(&["--insecure-policy", "copy", "--src-tls-verify=false"])
        .args(&[&format!("docker://{image}"), &format!("oci:{layout}")])
        .env("TMPDIR", scratch.path().to_owned());
    let unpack = Invocation::new("umoci")
        .args(&["unpack", "--image", &layout])
        .arg(&bundle);
    let sample = sample(&[copy, unpack], bench.registry, scratch.path())?;
    let entries = Some(count_entries(&bundle.join("rootfs"))?);
    Ok(Pull {
        sample,
        again: None,
        entries,
    })
}

/// Podman unpacks into its own store and mounts nothing: there is no tree to count.
fn pull_with_podman(bench: &Bench<'_>, scratch: &Scratch, image: &str) -> Result<Pull, Fault> {
    let during = || "writing podman's configuration".to_owned();
    let policy = scratch.join("policy.json");
    let storage = scratch.join("storage.conf");
    let [root, runroot] = ["root", "runroot"].map(|name| scratch.join(name));
    fs::write(
        &policy,
        r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
    )
    .during(during)?;
    fs::write(&storage, storage_conf(&root, &runroot)).during(during)?;
    let invocation = Invocation::new("podman")
        .arg("--root")
        .arg(&root)
        .arg("--runroot")
        .arg(&runroot)
        .arg("--tmpdir")
        .arg(scratch.join("libpod"))
        .args(&[
            "--storage-driver",
            "overlay",
            "--cgroup-manager",
            "cgroupfs",
        ])
        .args(&[
            "--events-backend",
            "none",
            "pull",
            "--quiet",
            "--tls-verify=false",
        ])
        .arg("--signature-policy")
        .arg(policy)
        .arg(image)
        .env("TMPDIR", scratch.path().to_owned())
        .env("CONTAINERS_STORAGE_CONF", storage);
    let sample = sample(&[invocation], bench.registry, scratch.path())?;
    Ok(Pull {
        sample,
        again: None,
        entries: None,
    })
}

/// In place of the host's, so that nothing of this machine's set-up has a part in the figures.
fn storage_conf(root: &Path, runroot: &Path) -> String {
    let (root, runroot) = (root.display(), runroot.display());
    format!("[storage]\ndriver = \"overlay\"\ngraphroot = \"{root}\"\nrunroot = \"{runroot}\"\n")
}

/// How many names a tree holds, the root itself not counted.
fn count_entries(root: &Path) -> Result<u64, Fault> {
    let mut count = 0;
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        let during = || format!("listing {}", folder.display());
        for entry in fs::read_dir(&folder).during(during)? {
            let entry = entry.during(during)?;
            count += 1;
            if entry.file_type().during(during)?.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Ok(count)
}
