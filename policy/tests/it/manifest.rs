//! What a registry may serve, and what is refused before anything else is fetched.

use policy::{
    DOCKER_MANIFEST, Digest, Document, ImageRef, MAX_LAYERS, MAX_MANIFEST_BYTES, ManifestError,
    NoPlatform, OCI_INDEX, OCI_MANIFEST, Platform, parse_attachments,
};
use serde_json::{Value, json};

use crate::support::{NAME, manifest_bytes, manifest_for, resolve_through_index};

fn parse(content_type: Option<&str>, raw: Vec<u8>) -> Result<Document, ManifestError> {
    Document::parse(&NAME.parse().unwrap(), content_type, raw)
}

fn refusal(content_type: Option<&str>, manifest: &Value) -> ManifestError {
    parse(content_type, manifest.to_string().into_bytes()).unwrap_err()
}

fn platform(architecture: &str) -> Platform {
    Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        variant: None,
    }
}

#[test]
fn refuses_content_of_another_digest() {
    let raw = manifest_bytes();
    let expected = Digest::sha256_of(b"something else");
    let image: ImageRef = format!("registry.example/a@{expected}").parse().unwrap();
    let found = Box::new(Digest::sha256_of(&raw));
    assert_eq!(
        Document::parse(&image, Some(OCI_MANIFEST), raw).unwrap_err(),
        ManifestError::DigestMismatch {
            expected: Box::new(expected),
            found
        }
    );
}

#[test]
fn has_the_limits_to_the_byte_and_to_the_layer() {
    let mut raw = manifest_bytes();
    raw.resize(MAX_MANIFEST_BYTES, b' ');
    assert!(parse(Some(OCI_MANIFEST), raw.clone()).is_ok());
    raw.push(b' ');
    let (limit, found) = (MAX_MANIFEST_BYTES, MAX_MANIFEST_BYTES + 1);
    assert_eq!(
        parse(Some(OCI_MANIFEST), raw).unwrap_err(),
        ManifestError::TooLarge { limit, found }
    );

    let mut manifest = manifest_for(b"{}");
    let layer = manifest["layers"][0].clone();
    manifest["layers"] = Value::from(vec![layer; 2000]);
    assert_eq!(
        refusal(None, &manifest),
        ManifestError::TooManyLayers {
            limit: MAX_LAYERS,
            found: 2000
        }
    );
}

#[test]
fn a_document_has_one_type_that_header_and_body_agree_on() {
    let manifest = manifest_for(b"{}");
    let mut untyped = manifest.clone();
    untyped.as_object_mut().unwrap().remove("mediaType");
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let unknown = |found: Option<&str>| ManifestError::UnknownType {
        found: found.map(str::to_owned),
    };
    assert!(parse(None, manifest_bytes()).is_ok());
    assert!(
        parse(
            Some(&format!("{OCI_MANIFEST}; charset=utf-8")),
            manifest_bytes()
        )
        .is_ok()
    );
    assert_eq!(refusal(None, &untyped), unknown(None));
    assert_eq!(
        refusal(Some("text/plain"), &manifest),
        unknown(Some("text/plain"))
    );
    assert_eq!(refusal(Some(""), &manifest), unknown(Some("")));
    assert_eq!(
        refusal(Some(schema1), &manifest),
        ManifestError::Schema1 {
            media_type: schema1.to_owned()
        }
    );
    assert_eq!(
        refusal(Some(DOCKER_MANIFEST), &manifest),
        ManifestError::TypeDisagrees {
            header: DOCKER_MANIFEST.to_owned(),
            body: OCI_MANIFEST.to_owned()
        }
    );
    assert_eq!(
        refusal(Some(DOCKER_MANIFEST), &untyped).to_string(),
        "the manifest is malformed"
    );
}

/// Found by fuzzing: such a type went into errors, and so into logs, as it was.
#[test]
fn a_type_that_nobody_knows_is_quoted_in_one_line_and_cut() {
    let odd = format!("application\u{7f}vnd\n{}", "x".repeat(5_000));
    let manifest = json!({"schemaVersion": 2, "mediaType": odd});
    for content_type in [None, Some(OCI_MANIFEST)] {
        let text = refusal(content_type, &manifest).to_string();
        assert!(
            text.contains("application vnd x") && text.len() < 600,
            "{text}"
        );
    }
}

#[test]
fn refuses_keys_that_another_parser_would_read() {
    let rows = [
        "manifests",
        "fsLayers",
        "history",
        "Layers",
        "CONFIG",
        "MediaType",
        "fslayers",
    ];
    for key in rows {
        let mut manifest = manifest_for(b"{}");
        manifest[key] = json!([]);
        assert!(
            matches!(refusal(None, &manifest), ManifestError::Ambiguous { place } if place.path() == key),
            "{key}"
        );
    }
    let mut manifest = manifest_for(b"{}");
    manifest["layers"][1]["Digest"] = json!("x");
    assert!(matches!(
        refusal(None, &manifest),
        ManifestError::Ambiguous { place } if place.path() == "layers[1].Digest"
    ));
    let twice = br#"{"schemaVersion":2,"schemaVersion":2}"#;
    assert_eq!(
        parse(Some(OCI_MANIFEST), twice.to_vec()).unwrap_err(),
        ManifestError::Json(policy_json_error(twice))
    );
}

fn policy_json_error(raw: &[u8]) -> policy::JsonError {
    match parse_attachments(Some(OCI_MANIFEST), raw) {
        Err(ManifestError::Json(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_instance_must_be_the_one_that_the_index_lists() {
    let manifest = manifest_bytes();
    let entry = |size: usize| {
        json!({
            "mediaType": OCI_MANIFEST,
            "digest": Digest::sha256_of(&manifest),
            "size": size,
            "platform": {"os": "linux", "architecture": "amd64"},
        })
    };
    let index = |entry: Value| {
        let raw = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
        match parse(None, raw.to_string().into_bytes()).unwrap() {
            Document::Index(index) => index,
            Document::Manifest(_) => panic!("no index"),
        }
    };
    let good = index(entry(manifest.len()));
    let chosen = good.choose(&platform("amd64")).unwrap();
    assert!(good.instance(&chosen, None, manifest.clone()).is_ok());

    let short = index(entry(manifest.len() + 1));
    let listed = short.choose(&platform("amd64")).unwrap();
    let found = u64::try_from(manifest.len()).unwrap();
    let expected = found + 1;
    assert_eq!(
        short.instance(&listed, None, manifest.clone()).unwrap_err(),
        ManifestError::SizeMismatch { expected, found }
    );

    let mut swapped = manifest.clone();
    let last = swapped.len() - 1;
    swapped[last] = b' ';
    let good = index(entry(manifest.len()));
    assert!(matches!(
        good.instance(&chosen, None, swapped).unwrap_err(),
        ManifestError::DigestMismatch { .. }
    ));

    let other = index(entry(manifest.len() + 1));
    assert_eq!(
        other.instance(&chosen, None, manifest.clone()).unwrap_err(),
        ManifestError::NotListed {
            digest: Digest::sha256_of(&manifest)
        }
    );
}

#[test]
fn an_index_within_an_index_is_refused() {
    let inner = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).to_string();
    let digest = Digest::sha256_of(inner.as_bytes());
    let outer = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{"mediaType": OCI_INDEX, "digest": digest, "size": inner.len()}],
    });
    let Document::Index(outer) = parse(None, outer.to_string().into_bytes()).unwrap() else {
        panic!("no index");
    };
    let chosen = outer.choose(&platform("amd64")).unwrap();
    assert_eq!(
        outer
            .instance(&chosen, None, inner.into_bytes())
            .unwrap_err(),
        ManifestError::NestedIndex { digest }
    );
}

#[test]
fn a_missing_platform_is_reported_with_those_on_offer() {
    let raw = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{
            "mediaType": OCI_MANIFEST, "digest": Digest::sha256_of(b""), "size": 0,
            "platform": {"os": "linux", "architecture": "s390x"},
        }],
    });
    let Document::Index(index) = parse(None, raw.to_string().into_bytes()).unwrap() else {
        panic!("no index");
    };
    let error = index.choose(&platform("amd64")).unwrap_err();
    let offered = vec![platform("s390x")];
    assert_eq!(
        error,
        NoPlatform {
            wanted: platform("amd64"),
            offered
        }
    );
    assert_eq!(
        error.to_string(),
        "no image for linux/amd64, the index offers linux/s390x"
    );
}

#[test]
fn a_manifest_remembers_the_index_it_came_through() {
    let (manifest, index) = resolve_through_index(NAME);
    assert_eq!(manifest.via(), Some(&index));
    assert_eq!(manifest.digest(), &Digest::sha256_of(&manifest_bytes()));
    assert_eq!(manifest.layer_count(), 2);
}

#[test]
fn attachments_come_in_an_oci_manifest_only() {
    let raw = manifest_bytes();
    assert_eq!(
        parse_attachments(Some(OCI_MANIFEST), &raw).unwrap().len(),
        2
    );
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).to_string();
    let found = Some(OCI_INDEX.to_owned());
    assert_eq!(
        parse_attachments(Some(OCI_INDEX), index.as_bytes()).unwrap_err(),
        ManifestError::UnknownType { found }
    );
}
