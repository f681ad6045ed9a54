//! From an approved manifest to its layers.

use policy::{
    Approved, Compression, ConfigError, Digest, Evidence, Manifest, ManifestError, Platform,
};
use serde_json::{Value, json};

use crate::support::{NAME, config, decide, manifest_for, policy, resolve};

fn approve(manifest: &Value) -> Approved<Manifest> {
    let policy = policy(&json!([{"type": "insecureAcceptAnything"}]));
    let manifest = resolve(NAME, manifest.to_string().into_bytes());
    decide(&policy, manifest, &Evidence::default()).unwrap()
}

fn with_config(config: &Value) -> Result<Approved<policy::Image>, ConfigError> {
    let raw = config.to_string().into_bytes();
    approve(&manifest_for(&raw)).with_config(&raw)
}

#[test]
fn pairs_each_blob_with_its_diff_id_bottom_first() {
    let image = with_config(&config()).unwrap();
    let layers: Vec<_> = image.layers().collect();
    assert_eq!(layers.len(), 2);
    assert_eq!(layers[0].blob().digest(), &Digest::sha256_of(b"blob 0"));
    assert_eq!(layers[0].diff_id(), &Digest::sha256_of(b"tar 0"));
    assert_eq!(layers[1].diff_id(), &Digest::sha256_of(b"tar 1"));
    assert_eq!(layers[1].compression(), Compression::Gzip);
    assert_eq!(layers[1].blob().size(), 6);
}

#[test]
fn reads_what_docker_and_buildkit_write() {
    let mut config = config();
    config["config"] = json!({
        "User": "app:app", "Env": ["A=b"], "Entrypoint": ["/init"], "Cmd": null,
        "WorkingDir": "/srv", "Volumes": {"/data": {}}, "Labels": {"k": "v"},
        "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGINT", "OnBuild": null,
    });
    config["history"] = json!([{"created_by": "x"}]);
    config["variant"] = json!("");
    let image = with_config(&config).unwrap();
    let read = image.config();
    assert_eq!(read.variant, None);
    assert_eq!(read.config.user, "app:app");
    assert_eq!(read.config.entrypoint, ["/init"]);
    assert!(read.config.cmd.is_empty());
    assert!(read.config.volumes.contains("/data"));
    assert!(read.config.exposed_ports.contains("80/tcp"));
    assert_eq!(read.config.labels["k"], "v");
    assert_eq!(read.config.stop_signal.as_deref(), Some("SIGINT"));
}

#[test]
fn refuses_a_config_that_the_manifest_does_not_name() {
    let raw = config().to_string().into_bytes();
    let mut other = raw.clone();
    other[0] = b' ';
    assert!(matches!(
        approve(&manifest_for(&raw)).with_config(&other),
        Err(ConfigError::Content(ManifestError::DigestMismatch { .. }))
    ));
    assert!(matches!(
        approve(&manifest_for(&raw)).with_config(b"{}"),
        Err(ConfigError::Content(ManifestError::SizeMismatch {
            found: 2,
            ..
        }))
    ));
}

#[test]
fn refuses_a_config_that_does_not_go_with_the_layers() {
    let mut one = config();
    one["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
    assert!(matches!(
        with_config(&one),
        Err(ConfigError::LayerCount {
            layers: 2,
            diff_ids: 1
        })
    ));
    let mut bad = config();
    bad["rootfs"]["diff_ids"][1] = json!("sha256:../../x");
    assert!(matches!(
        with_config(&bad),
        Err(ConfigError::DiffId { index: 1, .. })
    ));
    let mut none = config();
    none.as_object_mut().unwrap().remove("rootfs");
    assert!(matches!(with_config(&none), Err(ConfigError::Malformed(_))));
}

#[test]
fn refuses_an_image_for_another_platform() {
    let mut other = config();
    other["architecture"] = json!("pdp11");
    let host = Platform::host();
    assert!(matches!(
        with_config(&other),
        Err(ConfigError::Platform { wanted, found })
            if *wanted == host && found.architecture == "pdp11"
    ));
}

#[test]
fn names_a_layer_that_cannot_be_unpacked_before_anything_is_fetched() {
    let raw = config().to_string().into_bytes();
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted".to_owned();
    let mut encrypted = manifest_for(&raw);
    encrypted["layers"][1]["mediaType"] = json!(media_type);
    let approved = approve(&encrypted);
    let expected = ManifestError::EncryptedLayer {
        index: 1,
        media_type,
    };
    assert_eq!(approved.config().unwrap_err(), expected);
    assert!(matches!(
        approved.with_config(&raw),
        Err(ConfigError::Layers(error)) if error == expected
    ));

    let mut foreign = manifest_for(&raw);
    foreign["layers"][0]["urls"] = json!(["https://elsewhere.example/blob"]);
    assert!(matches!(
        approve(&foreign).config(),
        Err(ManifestError::ForeignLayer { index: 0, .. })
    ));

    let mut chart = manifest_for(&raw);
    chart["layers"][0]["mediaType"] = json!("application/vnd.cncf.helm.chart.content.v1.tar+gzip");
    assert!(matches!(
        approve(&chart).config(),
        Err(ManifestError::UnsupportedLayer { index: 0, .. })
    ));
}
