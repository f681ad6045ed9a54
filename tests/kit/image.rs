//! Images: layers, configurations, manifests and indexes, as bytes, in both formats.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use aws_lc_rs::digest;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::archive::{Archive, Entry};
use crate::programs::{require, run};

/// Media types of the two formats.
pub mod media_type {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, not compressed; `+gzip` and `+zstd` are appended.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Docker schema 2 manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker schema 2 manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
}

/// `sha256:<hex>` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref()
        .iter()
        .fold(String::from("sha256:"), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string succeeds");
            text
        })
}

/// The architecture of this machine in the words of image configurations.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// One gzip member.
    Gzip,
    /// One zstd frame.
    Zstd,
}

impl Compression {
    /// The compressed form of `content`: one gzip member or zstd frame.
    pub fn compress(self, content: &[u8]) -> Vec<u8> {
        match self {
            Self::None => content.to_vec(),
            Self::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(content).expect("memory takes every byte");
                encoder.finish().expect("memory takes every byte")
            }
            Self::Zstd => zstd::encode_all(content, 3).expect("memory takes every byte"),
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }
}

/// One layer: the blob as stored and what the image says of it.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The blob, compressed.
    pub blob: Bytes,
    /// Digest of the content, as the configuration claims it.
    pub diff_id: String,
    /// Media type in the manifest.
    pub media_type: String,
    /// Digest in the manifest.
    pub digest: String,
    /// Size in the manifest.
    pub size: u64,
}

impl Layer {
    /// An honest layer of this archive.
    pub fn new(archive: Archive, compression: Compression) -> Self {
        let content = archive.finish();
        let blob = compression.compress(&content);
        Self::from_blob(blob, compression, sha256(&content))
    }

    /// A gzip layer of this archive.
    pub fn gzip(archive: Archive) -> Self {
        Self::new(archive, Compression::Gzip)
    }

    /// A blob with a stated content digest, true or not.
    pub fn from_blob(blob: Vec<u8>, compression: Compression, diff_id: String) -> Self {
        Self {
            diff_id,
            media_type: format!("{}{}", media_type::OCI_LAYER, compression.suffix()),
            digest: sha256(&blob),
            size: u64::try_from(blob.len()).expect("a length fits in 64 bits"),
            blob: blob.into(),
        }
    }

    /// A file of `size` zero bytes (a multiple of 64 MiB), which compress to almost nothing.
    ///
    /// The content digest is not computed: the layer is to be refused long before its end.
    pub fn zeros(size: u64, compression: Compression) -> Self {
        const CHUNK: u64 = 64 << 20;
        assert_eq!(size % CHUNK, 0, "whole chunks only");
        let header = Entry::file("zeros", "").claiming(size).header();
        let chunk = compression.compress(&vec![0; 64 << 20]);
        let mut blob = compression.compress(header.as_bytes());
        for _ in 0..size / CHUNK {
            blob.extend_from_slice(&chunk);
        }
        blob.extend(compression.compress(&[0; 1024]));
        Self::from_blob(blob, compression, sha256(b"never reached"))
    }

    fn docker_media_type(&self) -> String {
        if self.media_type.ends_with("+gzip") {
            media_type::DOCKER_LAYER.to_owned()
        } else {
            self.media_type.clone()
        }
    }
}

/// Which of the two families of media types an image uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OCI image specification 1.x.
    Oci,
    /// Docker schema 2.
    Docker,
}

/// A finished image or index: a manifest, the blobs it names and the images it lists.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest or index, byte for byte.
    pub manifest: Bytes,
    /// The `Content-Type` of the manifest.
    pub media_type: String,
    /// Configuration and layers, each under the digest that the manifest names it by.
    pub blobs: Vec<(String, Bytes)>,
    /// The listed images, when this is an index.
    pub children: Vec<Image>,
}

impl Image {
    /// A builder over these layers, bottom first.
    pub fn of(layers: impl IntoIterator<Item = Layer>) -> ImageBuilder {
        ImageBuilder::new(layers.into_iter().collect())
    }

    /// A small honest image of one file; `mark` makes its digests differ from those of others.
    pub fn small(mark: &str) -> Image {
        let archive = Archive::new().directory("etc/").file("etc/mark", mark);
        Self::of([Layer::gzip(archive)]).build()
    }

    /// An index that lists these images, each under `os/architecture` or
    /// `os/architecture/variant`.
    pub fn index<'a>(format: Format, entries: impl IntoIterator<Item = (&'a str, Image)>) -> Image {
        let (descriptors, children): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .map(|(platform, image)| {
                let mut parts = platform.split('/');
                let os = parts.next().expect("an os");
                let architecture = parts.next().expect("an architecture");
                let mut descriptor = json!({
                    "mediaType": image.media_type,
                    "digest": image.digest(),
                    "size": image.manifest.len(),
                    "platform": {"os": os, "architecture": architecture},
                });
                if let Some(variant) = parts.next() {
                    descriptor["platform"]["variant"] = variant.into();
                }
                (descriptor, image)
            })
            .unzip();
        let media_type = match format {
            Format::Oci => media_type::OCI_INDEX,
            Format::Docker => media_type::DOCKER_LIST,
        };
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": descriptors});
        Image {
            manifest: index.to_string().into(),
            media_type: media_type.to_owned(),
            blobs: Vec::new(),
            children,
        }
    }

    /// Digest of the manifest bytes.
    pub fn digest(&self) -> String {
        sha256(&self.manifest)
    }

    /// Writes the image as an OCI layout with one tag.
    pub fn write_layout(&self, directory: &Path, tag: &str) {
        let write = |path: &str, bytes: &[u8]| {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().expect("every file is in a directory"))
                .expect("create the layout");
            std::fs::write(&path, bytes).expect("write the layout");
        };
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": self.media_type,
            "digest": self.digest(),
            "size": self.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }]});
        write("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        write("index.json", index.to_string().as_bytes());
        self.visit(&mut |digest, bytes, _| {
            write(&format!("blobs/{}", digest.replace(':', "/")), bytes);
        });
    }

    /// Calls `each` with digest, bytes and, for manifests, media type: blobs before the manifest
    /// that names them, children before their index.
    pub fn visit(&self, each: &mut dyn FnMut(&str, &Bytes, Option<&str>)) {
        for child in &self.children {
            child.visit(each);
        }
        for (digest, blob) in &self.blobs {
            each(digest, blob, None);
        }
        each(&self.digest(), &self.manifest, Some(&self.media_type));
    }
}

/// Puts an image together, with room to lie.
pub struct ImageBuilder {
    format: Format,
    layers: Vec<Layer>,
    config: Value,
    config_bytes: Option<Bytes>,
    adjust_manifest: Box<dyn FnOnce(&mut Value)>,
}

impl std::fmt::Debug for ImageBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ImageBuilder")
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}

impl ImageBuilder {
    fn new(layers: Vec<Layer>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "architecture": host_architecture(),
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self {
            format: Format::Oci,
            layers,
            config,
            config_bytes: None,
            adjust_manifest: Box::new(|_| ()),
        }
    }

    /// The Docker schema 2 form of the image.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.format = Format::Docker;
        self
    }

    /// Edits the configuration.
    #[must_use]
    pub fn config(mut self, edit: impl FnOnce(&mut Value)) -> Self {
        edit(&mut self.config);
        self
    }

    /// Replaces the configuration by these bytes.
    #[must_use]
    pub fn config_bytes(mut self, bytes: impl Into<Bytes>) -> Self {
        self.config_bytes = Some(bytes.into());
        self
    }

    /// Edits the manifest, last of all.
    #[must_use]
    pub fn manifest(mut self, edit: impl FnOnce(&mut Value) + 'static) -> Self {
        self.adjust_manifest = Box::new(edit);
        self
    }

    /// The image.
    pub fn build(self) -> Image {
        let config = self
            .config_bytes
            .unwrap_or_else(|| serde_json::to_vec(&self.config).expect("JSON").into());
        let (media_type, config_type) = match self.format {
            Format::Oci => (media_type::OCI_MANIFEST, media_type::OCI_CONFIG),
            Format::Docker => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG),
        };
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| {
                let media_type = match self.format {
                    Format::Oci => layer.media_type.clone(),
                    Format::Docker => layer.docker_media_type(),
                };
                json!({"mediaType": media_type, "digest": layer.digest, "size": layer.size})
            })
            .collect();
        let config_digest = sha256(&config);
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": {"mediaType": config_type, "digest": config_digest, "size": config.len()},
            "layers": layers,
        });
        (self.adjust_manifest)(&mut manifest);
        let mut blobs = vec![(config_digest, config)];
        blobs.extend(
            self.layers
                .into_iter()
                .map(|layer| (layer.digest, layer.blob)),
        );
        Image {
            manifest: manifest.to_string().into(),
            media_type: media_type.to_owned(),
            blobs,
            children: Vec::new(),
        }
    }
}

/// Makes an OCI layout with `umoci` from the static busybox of the distribution; the tag is
/// `busybox`.
///
/// The image holds `/bin/busybox`, `/bin/sh` and `/etc/passwd`, in one gzip layer each.
pub fn busybox_layout(directory: &Path) {
    let umoci = require("umoci", "umoci");
    let busybox = require("busybox", "busybox-static");
    let rootfs = tempfile::tempdir().expect("make a directory");
    let bin = rootfs.path().join("bin");
    std::fs::create_dir(&bin).expect("make /bin");
    std::fs::copy(busybox, bin.join("busybox")).expect("copy busybox");
    std::os::unix::fs::symlink("busybox", bin.join("sh")).expect("link /bin/sh");
    let passwd = rootfs.path().join("passwd");
    std::fs::write(
        &passwd,
        "root:x:0:0:root:/:/bin/sh\nguest:x:1000:1000::/:/bin/sh\n",
    )
    .expect("write passwd");

    let image = format!("{}:busybox", directory.display());
    run(Command::new(&umoci)
        .arg("init")
        .arg("--layout")
        .arg(directory));
    run(Command::new(&umoci).args(["new", "--image", &image]));
    run(Command::new(&umoci)
        .args(["insert", "--image", &image])
        .arg(&bin)
        .arg("/bin"));
    run(Command::new(&umoci)
        .args(["insert", "--image", &image])
        .arg(&passwd)
        .arg("/etc/passwd"));
    run(Command::new(&umoci).args([
        "config",
        "--image",
        &image,
        "--config.cmd=/bin/sh",
        "--config.env=PATH=/bin",
    ]));
}
