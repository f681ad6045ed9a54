//! The areas of simple signing: messages, payloads, stored signatures, lookasides.

use std::error::Error;
use std::path::Path;
use std::time::SystemTime;

use base64::Engine;
use policy::{
    Digest, Hashes, ImageRef, Keyrings, Lookaside, Payload, StoredSignature, attachment_tag,
    open_simple,
};
use serde_json::{Value, json};

use crate::areas::{compare_payload, reject};
use crate::score::{Answer, Vector};

type Outcome = Result<Answer, Box<dyn Error>>;

pub(crate) fn simple_signing(vector: &Vector<'_>, fixtures: &Path) -> Outcome {
    let mut keys = Keyrings::default();
    for file in vector.texts("keyrings") {
        if let Err(error) = keys.add(&std::fs::read(fixtures.join(file))?) {
            return Ok(reject(&error));
        }
    }
    let message = std::fs::read(fixtures.join(vector.text("signature")?))?;
    let (fingerprint, payload) =
        match open_simple(&keys, &message, SystemTime::now(), Hashes::Strong) {
            Ok(opened) => opened,
            Err(error) => return Ok(reject(&error)),
        };
    let Some(expected) = vector.member("result") else {
        return Ok(Answer::Accept);
    };
    let found = json!({
        "docker_manifest_digest": payload.untrusted_digest(),
        "docker_reference": payload.untrusted_reference(),
        "primary_key_fingerprint": fingerprint,
    });
    Ok(Answer::compare(&found, expected))
}

pub(crate) fn simple_payload(vector: &Vector<'_>, _: &Path) -> Outcome {
    match Payload::parse_simple(&vector.base64("payload_b64")?) {
        Ok(payload) => Ok(compare_payload(&payload, vector)),
        Err(error) => Ok(reject(&error)),
    }
}

pub(crate) fn signature_blob(vector: &Vector<'_>, _: &Path) -> Outcome {
    let stored = match StoredSignature::parse(vector.base64("blob_b64")?) {
        Ok(stored) => stored,
        Err(error) => return Ok(reject(&error)),
    };
    let Some(expected) = vector.member("result") else {
        return Ok(Answer::Accept);
    };
    let found = match stored {
        StoredSignature::Sigstore(stored) => json!({
            "format": "sigstore-json",
            "mimeType": stored.mime_type,
            "annotations": stored.annotations,
            "payload_b64": base64::engine::general_purpose::STANDARD.encode(&stored.payload),
        }),
        _ => json!({"format": "simple-signing"}),
    };
    let mut expected = expected.clone();
    // Null and empty annotations are the same.
    if let Some(annotations) = expected
        .get_mut("annotations")
        .filter(|value| value.is_null())
    {
        *annotations = json!({});
    }
    Ok(Answer::compare(&found, &expected))
}

pub(crate) fn registries_d(vector: &Vector<'_>, _: &Path) -> Outcome {
    let files = vector.member("files").and_then(Value::as_object);
    let files = files.ok_or("no files")?;
    // Whoever lists a directory passes over other names.
    let files = files
        .iter()
        .filter(|(name, _)| Path::new(name).extension().is_some_and(|end| end == "yaml"))
        .filter_map(|(name, text)| Some((name.as_str(), text.as_str()?.as_bytes())));
    let lookaside = match Lookaside::parse(files) {
        Ok(lookaside) => lookaside,
        Err(error) => return Ok(reject(&error)),
    };
    let Some(reference) = vector.member("reference").and_then(Value::as_str) else {
        return Ok(Answer::Accept);
    };
    let image: ImageRef = match reference.parse() {
        Ok(image) => image,
        Err(error) => return Ok(reject::<policy::ReferenceError>(&error)),
    };
    let found = json!({
        "lookaside": lookaside.configured(&image),
        "lookaside_base_url": lookaside.base(&image),
        // The reference implementation's default is not ours.
        "use_sigstore_attachments": lookaside.use_sigstore_attachments(&image).unwrap_or(false),
    });
    let mut expected = vector.member("result").cloned().unwrap_or_default();
    if let Some(members) = expected.as_object_mut() {
        members.remove("note");
    }
    Ok(Answer::compare(&found, &expected))
}

pub(crate) fn lookaside_url(vector: &Vector<'_>, _: &Path) -> Outcome {
    let digest: Digest = match vector.text("digest")?.parse() {
        Ok(digest) => digest,
        Err(error) => return Ok(reject::<policy::DigestError>(&error)),
    };
    let found = if vector.text("kind")? == "sigtag" {
        attachment_tag(&digest)
    } else {
        let index = vector.member("index").and_then(Value::as_u64);
        let number = usize::try_from(index.ok_or("no index")?)? + 1;
        Lookaside::signature(vector.text("base")?, &digest, number)
    };
    let expected = vector.member("result").cloned().unwrap_or_default();
    Ok(Answer::compare(&json!(found), &expected))
}
