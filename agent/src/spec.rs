//! The runtime configuration of a bundle: OCI image-spec conversion.md, as OCI runtime-spec 1.0.2
//! writes it.
//!
//! Pure: the image's config and the resolved user in, JSON out. What the image leaves open is what
//! `runc spec` would say. The runtime's agent replaces this file by the one that the host asked
//! for, so nothing here enforces anything; it is for whoever runs the bundle as it stands.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use policy::{ImageConfig, RunConfig};
use serde::Serialize;
use serde_json::{Value, json};

use crate::user::User;

/// Why an image has no runtime configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The image's fault: a volume must be an absolute path without `..`.
    #[error("volume {volume:?} of the image is not an absolute path without `..`")]
    Volume {
        /// The path as the image has it.
        volume: String,
    },
}

/// A runtime configuration. Only what an image can change is typed; the rest is constant.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    oci_version: &'static str,
    process: Process,
    root: Root,
    hostname: &'static str,
    mounts: Vec<Mount>,
    annotations: BTreeMap<String, String>,
    linux: Value,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    terminal: bool,
    user: ProcessUser,
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
    capabilities: Value,
    no_new_privileges: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessUser {
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Serialize)]
struct Root {
    path: &'static str,
    readonly: bool,
}

#[derive(Debug, Clone, Serialize)]
struct Mount {
    destination: Cow<'static, str>,
    #[serde(rename = "type")]
    kind: &'static str,
    source: &'static str,
    options: &'static [&'static str],
}

impl Mount {
    const fn new(
        destination: &'static str,
        kind: &'static str,
        source: &'static str,
        options: &'static [&'static str],
    ) -> Self {
        Self {
            destination: Cow::Borrowed(destination),
            kind,
            source,
            options,
        }
    }
}

impl Spec {
    /// The configuration for `image`, whose process runs as `user`.
    pub(crate) fn new(image: &ImageConfig, user: User) -> Result<Self, SpecError> {
        Ok(Self {
            oci_version: "1.0.2",
            process: Process::new(&image.config, user),
            root: Root {
                path: ROOTFS,
                readonly: false,
            },
            hostname: "image-agent",
            mounts: mounts(&image.config)?,
            annotations: annotations(image),
            linux: linux(),
        })
    }
}

impl Process {
    fn new(config: &RunConfig, user: User) -> Self {
        let User {
            uid,
            gid,
            additional_gids,
        } = user;
        // conversion.md, "Config.Entrypoint" and "Config.Cmd". Both may be absent: then whoever
        // starts the container must say what to run.
        let args = config
            .entrypoint
            .iter()
            .chain(&config.cmd)
            .cloned()
            .collect();
        let bounding = ["bounding", "effective", "permitted"];
        Self {
            terminal: false,
            user: ProcessUser {
                uid,
                gid,
                additional_gids,
            },
            args,
            env: environment(&config.env),
            cwd: working_directory(&config.working_dir),
            capabilities: bounding
                .iter()
                .map(|set| (*set, json!(CAPABILITIES)))
                .collect(),
            no_new_privileges: false,
        }
    }
}

/// The variables, with a default search path. Runtimes refuse entries that are no assignment, and
/// an image with one is run by today's engines without it.
fn environment(image: &[String]) -> Vec<String> {
    let is_assignment = |entry: &&String| {
        !entry.contains('\0')
            && entry
                .split_once('=')
                .is_some_and(|(name, _)| !name.is_empty())
    };
    let mut environment = Vec::new();
    if !image.iter().any(|entry| entry.starts_with("PATH=")) {
        environment.push(format!("PATH={DEFAULT_PATH}"));
    }
    environment.extend(image.iter().filter(is_assignment).cloned());
    environment
}

/// An absolute path: `process.cwd` must be one (runtime-spec, config.md "Process").
fn working_directory(image: &str) -> String {
    let mut plain: Vec<&str> = Vec::new();
    for component in image.split('/') {
        match component {
            "" | "." => {}
            ".." => _ = plain.pop(),
            name => plain.push(name),
        }
    }
    format!("/{}", plain.join("/"))
}

/// What `runc spec` mounts, and a file system in memory for each volume.
fn mounts(config: &RunConfig) -> Result<Vec<Mount>, SpecError> {
    let mut mounts = MOUNTS.to_vec();
    for volume in &config.volumes {
        if let Some(destination) = volume_destination(volume)? {
            let destination = destination.into();
            mounts.push(Mount {
                destination,
                ..VOLUME
            });
        }
    }
    Ok(mounts)
}

/// Where a volume goes; `None` where the kernel's own file systems are, or the root is: systemd
/// images declare `/sys/fs/cgroup`, and the runtime mounts that by itself.
fn volume_destination(volume: &str) -> Result<Option<String>, SpecError> {
    let is_odd = |component| component == "..";
    if !volume.starts_with('/') || volume.contains('\0') || volume.split('/').any(is_odd) {
        return Err(SpecError::Volume {
            volume: volume.to_owned(),
        });
    }
    let plain = working_directory(volume);
    let kernel = ["/proc", "/sys", "/dev"];
    let is_provided = plain == "/"
        || kernel
            .iter()
            .any(|mount| Path::new(&plain).starts_with(mount));
    Ok((!is_provided).then_some(plain))
}

/// conversion.md, "Annotation Fields": implied ones yield to labels of the same name.
fn annotations(image: &ImageConfig) -> BTreeMap<String, String> {
    let ports: Vec<_> = image
        .config
        .exposed_ports
        .iter()
        .map(String::as_str)
        .collect();
    let ports = (!ports.is_empty()).then(|| ports.join(","));
    let implied = [
        ("os", Some(image.os.clone())),
        ("architecture", Some(image.architecture.clone())),
        ("variant", image.variant.clone()),
        ("author", image.author.clone()),
        ("created", image.created.clone()),
        ("stopSignal", image.config.stop_signal.clone()),
        ("exposedPorts", ports),
    ];
    let mut annotations: BTreeMap<_, _> = implied
        .into_iter()
        .filter_map(|(name, value)| {
            let value = value.filter(|value| !value.is_empty())?;
            Some((format!("org.opencontainers.image.{name}"), value))
        })
        .collect();
    let labels = image
        .config
        .labels
        .iter()
        .filter(|(name, _)| !name.is_empty());
    annotations.extend(labels.map(|(name, value)| (name.clone(), value.clone())));
    annotations
}

fn linux() -> Value {
    let namespaces: Vec<_> = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
        .iter()
        .map(|kind| json!({ "type": kind }))
        .collect();
    json!({
        "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
        "namespaces": namespaces,
        "maskedPaths": MASKED_PATHS,
        "readonlyPaths": READ_ONLY_PATHS,
    })
}

/// The directory of the root file system inside a bundle.
pub(crate) const ROOTFS: &str = "rootfs";

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What engines grant a container that asks for nothing.
const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

const MOUNTS: [Mount; 7] = [
    Mount::new("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    Mount::new(
        "/dev",
        "tmpfs",
        "tmpfs",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    ),
    Mount::new(
        "/dev/pts",
        "devpts",
        "devpts",
        &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ],
    ),
    Mount::new(
        "/dev/shm",
        "tmpfs",
        "shm",
        &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    ),
    Mount::new(
        "/dev/mqueue",
        "mqueue",
        "mqueue",
        &["nosuid", "noexec", "nodev"],
    ),
    Mount::new(
        "/sys",
        "sysfs",
        "sysfs",
        &["nosuid", "noexec", "nodev", "ro"],
    ),
    Mount::new(
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "relatime", "ro"],
    ),
];

/// A volume, its destination to be filled in. Whoever the image's user is may write to it.
const VOLUME: Mount = Mount::new("", "tmpfs", "tmpfs", &["nosuid", "nodev", "relatime", "rw"]);

const MASKED_PATHS: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
];

const READ_ONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(config: &Value) -> Result<Value, SpecError> {
        let image = json!({
            "os": "linux", "architecture": "amd64", "variant": "v3", "author": "someone",
            "created": "2026-01-02T03:04:05Z", "config": config, "rootfs": { "diff_ids": [] },
        });
        let image: ImageConfig = serde_json::from_value(image).unwrap();
        let user = User {
            uid: 1,
            gid: 2,
            additional_gids: vec![3],
        };
        Ok(serde_json::to_value(Spec::new(&image, user)?).unwrap())
    }

    #[test]
    fn what_the_image_says_is_what_runs() {
        let spec = spec(&json!({
            "Entrypoint": ["/bin/app", "-v"], "Cmd": ["serve"], "WorkingDir": "srv/./x/../data/",
            "Env": ["A=b=c", "novalue", "=x", "PATH=/bin"], "User": "ignored: resolved before",
            "Volumes": { "/var/lib/app": {}, "/sys/fs/cgroup": {}, "/": {}, "/device//x/.": {} },
            "Labels": { "a": "b", "org.opencontainers.image.author": "label wins" },
            "ExposedPorts": { "80/tcp": {}, "443": {} }, "StopSignal": "SIGQUIT",
        }))
        .unwrap();
        assert_eq!(spec["ociVersion"], "1.0.2");
        assert_eq!(spec["root"], json!({ "path": "rootfs", "readonly": false }));
        let process = &spec["process"];
        assert_eq!(process["args"], json!(["/bin/app", "-v", "serve"]));
        assert_eq!(process["cwd"], "/srv/data");
        assert_eq!(process["env"], json!(["A=b=c", "PATH=/bin"]));
        assert_eq!(
            process["user"],
            json!({ "uid": 1, "gid": 2, "additionalGids": [3] })
        );
        let volumes: Vec<_> = spec["mounts"].as_array().unwrap()[MOUNTS.len()..]
            .iter()
            .map(|mount| {
                (
                    mount["destination"].as_str().unwrap(),
                    mount["type"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(volumes, [("/device/x", "tmpfs"), ("/var/lib/app", "tmpfs")]);
        assert_eq!(
            spec["annotations"],
            json!({
                "a": "b",
                "org.opencontainers.image.architecture": "amd64",
                "org.opencontainers.image.author": "label wins",
                "org.opencontainers.image.created": "2026-01-02T03:04:05Z",
                "org.opencontainers.image.exposedPorts": "443,80/tcp",
                "org.opencontainers.image.os": "linux",
                "org.opencontainers.image.stopSignal": "SIGQUIT",
                "org.opencontainers.image.variant": "v3",
            })
        );
    }

    #[test]
    fn what_the_image_leaves_open_has_defaults() {
        let spec = spec(&json!({})).unwrap();
        assert_eq!(spec["process"]["args"], json!([]));
        assert_eq!(spec["process"]["cwd"], "/");
        assert_eq!(
            spec["process"]["env"],
            json!([format!("PATH={DEFAULT_PATH}")])
        );
        assert_eq!(spec["mounts"].as_array().unwrap().len(), MOUNTS.len());
    }

    #[test]
    fn refuses_volumes_that_could_lead_elsewhere() {
        for volume in ["data", "/a/../b", "/..", "", "/a\0b"] {
            let mut volumes = serde_json::Map::new();
            volumes.insert(volume.to_owned(), json!({}));
            let error = spec(&json!({ "Volumes": volumes })).unwrap_err();
            assert!(matches!(error, SpecError::Volume { volume: ref found } if found == volume));
        }
    }
}
