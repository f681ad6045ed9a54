//! Makes the images once and keeps them, pushed, as the registry's storage in the cache folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::content::Vocabulary;
use crate::fault::{During, Fault};
use crate::layer::{self, Blob, sha256};
use crate::recipe::{Compression, EDITION, Entry, Recipe};
use crate::registry::Registry;

/// What an image is made of, for the record.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) layers: u64,
    pub(crate) entries: u64,
    pub(crate) compressed: u64,
    pub(crate) content: u64,
    edition: u32,
    digest: String,
}

/// The image as it is in the registry, made and pushed now if it is not there yet.
pub(crate) fn ensure(recipe: &Recipe, registry: &Registry, cache: &Path) -> Result<Image, Fault> {
    let record = cache.join(format!("{}.json", recipe.name));
    if let Some(image) = known(&record, recipe, registry) {
        return Ok(image);
    }
    let during = || format!("making {} in {}", recipe.name, cache.display());
    let layout = tempfile::TempDir::with_prefix_in("layout-", cache).during(during)?;
    let blobs = write_layers(recipe, layout.path())?;
    let digest = write_layout(recipe, &blobs, layout.path()).during(during)?;
    push(layout.path(), &registry.reference(recipe.name))?;
    let image = Image {
        name: recipe.name.to_owned(),
        layers: u64::try_from(blobs.len()).unwrap_or(0),
        entries: blobs.iter().map(|blob| blob.entries).sum(),
        compressed: blobs.iter().map(|blob| blob.size).sum(),
        content: blobs.iter().map(|blob| blob.tar_size).sum(),
        edition: EDITION,
        digest,
    };
    fs::write(&record, json!(image).to_string()).during(during)?;
    Ok(image)
}

/// The image that the cache has, if it is of this edition and still in the registry.
fn known(record: &Path, recipe: &Recipe, registry: &Registry) -> Option<Image> {
    let image: Image = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
    let (digest, _) = registry.manifest(recipe.name).ok()?;
    (image.edition == EDITION && image.digest == digest).then_some(image)
}

/// All layers, two at a time: as many as the bench's processors.
fn write_layers(recipe: &Recipe, layout: &Path) -> Result<Vec<Blob>, Fault> {
    let blobs = blobs_of(layout);
    fs::create_dir_all(&blobs).during(|| format!("creating {}", blobs.display()))?;
    let vocabulary = Vocabulary::new();
    let layers = recipe.layers();
    let waiting = Mutex::new(layers.iter().enumerate());
    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.next());
    let work = || -> Result<Vec<(usize, Blob)>, Fault> {
        let write = |(index, entries): (usize, &Vec<Entry>)| {
            layer::write(entries, recipe, &vocabulary, &blobs).map(|blob| (index, blob))
        };
        std::iter::from_fn(&next).map(write).collect()
    };
    let mut made = thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        let mut made = Vec::new();
        for worker in workers {
            made.extend(worker.join().map_err(|_payload| Fault::Panicked)??);
        }
        Ok::<_, Fault>(made)
    })?;
    made.sort_by_key(|(index, _)| *index);
    Ok(made.into_iter().map(|(_, blob)| blob).collect())
}

fn blobs_of(layout: &Path) -> PathBuf {
    layout.join("blobs/sha256")
}

/// Config, manifest, index and marker of an OCI layout; answers the manifest's digest.
fn write_layout(recipe: &Recipe, blobs: &[Blob], layout: &Path) -> std::io::Result<String> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let diff_ids: Vec<&str> = blobs.iter().map(|blob| blob.diff_id.as_str()).collect();
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Cmd": ["/bin/true"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let media_type = match recipe.compression {
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd | Compression::ZstdWide => "application/vnd.oci.image.layer.v1.tar+zstd",
    };
    let layer =
        |blob: &Blob| json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(layout, "application/vnd.oci.image.config.v1+json", &config)?,
        "layers": blobs.iter().map(layer).collect::<Vec<_>>(),
    });
    let mut descriptor = put(
        layout,
        "application/vnd.oci.image.manifest.v1+json",
        &manifest,
    )?;
    let digest = sha256(manifest.to_string().as_bytes());
    if let Some(fields) = descriptor.as_object_mut() {
        let tag = json!({ "org.opencontainers.image.ref.name": "latest" });
        fields.insert("annotations".to_owned(), tag);
    }
    let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    Ok(digest)
}

/// Writes a document into the layout and answers its descriptor.
fn put(layout: &Path, media_type: &str, document: &Value) -> std::io::Result<Value> {
    let bytes = document.to_string().into_bytes();
    let digest = sha256(&bytes);
    fs::write(
        blobs_of(layout).join(digest.trim_start_matches("sha256:")),
        &bytes,
    )?;
    Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
}

fn push(layout: &Path, reference: &str) -> Result<(), Fault> {
    let output = Command::new("skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "--preserve-digests",
            "--dest-tls-verify=false",
        ])
        .arg(format!("oci:{}:latest", layout.display()))
        .arg(format!("docker://{reference}"))
        .stdin(Stdio::null())
        .output()
        .during(|| "running skopeo".to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    Err(Fault::Command {
        program: "skopeo copy".to_owned(),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
