//! A config goes with the manifest that names it: as many layers, each with its digest.
#![no_main]

use fuzz::assert_printable;
use fuzz::honest::reference;
use libfuzzer_sys::fuzz_target;
use policy::{Digest, Document, Evidence, OCI_MANIFEST, Policy};
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    let Ok(config @ Value::Object(_)) = serde_json::from_slice(data) else {
        return;
    };
    let digests = config["rootfs"]["diff_ids"].as_array();
    let digests: Vec<&Value> = digests.into_iter().flatten().collect();
    let digests = &digests[..digests.len().min(8)];
    let layer = json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": Digest::sha256_of(b"").to_string(), "size": 0,
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": vec![layer; digests.len()],
        "config": {"digest": Digest::sha256_of(data).to_string(), "size": data.len()},
    });
    let policy = Policy::parse(br#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let (name, manifest) = (reference(), manifest.to_string().into_bytes());
    let Ok(Document::Manifest(manifest)) = Document::parse(&name, Some(OCI_MANIFEST), manifest)
    else {
        panic!("no manifest");
    };
    let approved = policy
        .rules_for(&name)
        .decide(manifest, &Evidence::default())
        .unwrap();
    let image = match approved.with_config(data) {
        Ok(image) => image,
        Err(error) => return assert_printable(&error),
    };
    let found = image.layers().map(|layer| layer.diff_id().to_string());
    assert!(found.map(Value::from).eq(digests.iter().copied().cloned()));
    assert_eq!(config["os"], image.config().os.as_str());
});
