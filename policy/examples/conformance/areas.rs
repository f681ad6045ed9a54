//! One function per area: the vector's input through the public interface of the crate.

use std::error::Error;
use std::path::Path;

use policy::{
    Digest, Document, ImageRef, Payload, Platform, Policy, PublicKey, Reference, ReferenceParts,
    Scope, SignedIdentity, open_cosign,
};
use serde_json::{Map, Value, json};

use crate::score::{Answer, Vector};

type Outcome = Result<Answer, Box<dyn Error>>;

pub(crate) fn policy_parse(vector: &Vector<'_>, _: &Path) -> Outcome {
    let policy = match Policy::parse(vector.text("input")?.as_bytes()) {
        Ok(policy) => policy,
        Err(error) => return Ok(Answer::Reject(error.to_string())),
    };
    let Some(parsed) = vector.member("parsed") else {
        return Ok(Answer::Accept);
    };
    let mut found = serde_json::to_value(&policy)?;
    let mut expected = parsed.clone();
    normalise(&mut found);
    normalise(&mut expected);
    Ok(Answer::compare(&found, &expected))
}

pub(crate) fn identity_match(vector: &Vector<'_>, _: &Path) -> Outcome {
    let object = vector.member("signedIdentity").ok_or("no signedIdentity")?;
    let identity = match SignedIdentity::parse(object.to_string().as_bytes()) {
        Ok(identity) => identity,
        Err(error) => return Ok(Answer::Reject(error.to_string())),
    };
    let intended = match Reference::parse(vector.text("image")?) {
        Ok(intended) => intended,
        Err(error) => return Ok(Answer::Reject(error.to_string())),
    };
    Ok(Answer::of(
        identity.accepts(&intended, vector.text("signature")?),
    ))
}

pub(crate) fn scope_lookup(vector: &Vector<'_>, _: &Path) -> Outcome {
    if vector.text("transport")? != "docker" {
        return Ok(Answer::NotApplicable("only registries are pulled from"));
    }
    let mut transports = Map::new();
    for (transport, scopes) in vector
        .member("scopes")
        .and_then(Value::as_object)
        .ok_or("scopes")?
    {
        let scopes = scopes
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        let entry = |scope: &str| (scope.to_owned(), json!([{"type": "reject"}]));
        transports.insert(transport.clone(), scopes.map(entry).collect());
    }
    let document = json!({"default": [{"type": "reject"}], "transports": transports});
    let policy = Policy::parse(document.to_string().as_bytes())?;
    let reference: ImageRef = match vector.text("reference")?.parse() {
        Ok(reference) => reference,
        Err(error) => return Ok(reject(&error)),
    };
    let Some(selected) = vector.member("selected") else {
        return Ok(Answer::Accept);
    };
    let found = match policy.rules_for(&reference).scope() {
        Scope::Docker(scope) => json!({"kind": "scope", "transport": "docker", "scope": scope}),
        Scope::Default => json!({"kind": "default"}),
    };
    Ok(Answer::compare(&found, selected))
}

pub(crate) fn scope_namespaces(vector: &Vector<'_>, _: &Path) -> Outcome {
    let text = vector.text("input")?;
    match Reference::parse(text) {
        Err(error) => return Ok(reject(&error)),
        Ok(reference) if reference.is_name_only() => {
            return Ok(Answer::Reject("neither tag nor digest".to_owned()));
        }
        Ok(_) => {}
    }
    match text.parse::<ImageRef>() {
        Err(error) => Ok(reject(&error)),
        Ok(image) => {
            let found = (image.policy_identity(), image.policy_namespaces());
            let Some(identity) = vector.member("identity").and_then(Value::as_str) else {
                return Ok(Answer::Accept);
            };
            let namespaces = vector
                .texts("namespaces")
                .into_iter()
                .map(str::to_owned)
                .collect();
            Ok(Answer::compare(&found, &(identity.to_owned(), namespaces)))
        }
    }
}

pub(crate) fn reference_normalize(vector: &Vector<'_>, _: &Path) -> Outcome {
    let text = vector.text("input")?;
    let transport = vector
        .member("docker_transport")
        .ok_or("no docker_transport")?;
    if let Answer::Differs(why) = docker_transport(text, transport) {
        return Ok(Answer::Differs(why));
    }
    let reference = match Reference::parse(text) {
        Ok(reference) => reference,
        Err(error) => return Ok(reject(&error)),
    };
    let found = parts_as_json(
        &reference.to_string(),
        reference.registry(),
        reference.repository(),
        reference.tag(),
        reference.digest(),
    );
    Ok(compare_parts(&found, vector))
}

pub(crate) fn reference_strict(vector: &Vector<'_>, _: &Path) -> Outcome {
    let parts = match ReferenceParts::parse(vector.text("input")?) {
        Ok(parts) => parts,
        Err(error) => return Ok(reject(&error)),
    };
    let canonical = vector.text("input")?;
    let ReferenceParts {
        registry,
        repository,
        tag,
        digest,
    } = parts;
    let found = parts_as_json(canonical, registry, repository, tag, digest.as_ref());
    Ok(compare_parts(&found, vector))
}

pub(crate) fn docker_transport_parse(vector: &Vector<'_>, _: &Path) -> Outcome {
    let Some(text) = vector.text("input")?.strip_prefix("//") else {
        return Ok(Answer::Reject("no //".to_owned()));
    };
    let expected = json!({
        "dockerReference": vector.member("dockerReference"),
        "policyIdentity": vector.member("policyIdentity"),
        "policyNamespaces": vector.member("policyNamespaces"),
    });
    match text.parse::<ImageRef>() {
        Ok(image) => Ok(Answer::compare(&image_as_json(&image), &expected)),
        Err(error) => Ok(reject(&error)),
    }
}

pub(crate) fn sigstore_payload(vector: &Vector<'_>, _: &Path) -> Outcome {
    match Payload::parse_cosign(&vector.base64("payload_b64")?) {
        Ok(payload) => Ok(compare_payload(&payload, vector)),
        Err(error) => Ok(reject(&error)),
    }
}

/// What a payload says, beside what the vector has of it.
pub(crate) fn compare_payload(payload: &Payload, vector: &Vector<'_>) -> Answer {
    let Some(expected) = vector.member("result") else {
        return Answer::Accept;
    };
    let mut found = json!({
        "digest": payload.untrusted_digest(),
        "reference": payload.untrusted_reference(),
        "creator": payload.untrusted_creator(),
        "timestamp": payload.untrusted_timestamp(),
    });
    let mut expected = expected.clone();
    normalise(&mut found);
    normalise(&mut expected);
    Answer::compare(&found, &expected)
}

pub(crate) fn sigstore_verify(vector: &Vector<'_>, _: &Path) -> Outcome {
    let keys = vector
        .texts("keys")
        .into_iter()
        .map(|pem| PublicKey::from_pem(pem.as_bytes()));
    let keys: Vec<PublicKey> = match keys.collect() {
        Ok(keys) => keys,
        Err(error) => return Ok(reject::<policy::KeyError>(&error)),
    };
    let payload = vector.base64("payload_b64")?;
    Ok(Answer::of(open_cosign(
        &keys,
        &payload,
        vector.text("signatureBase64")?,
    )))
}

pub(crate) fn manifest_parse(vector: &Vector<'_>, fixtures: &Path) -> Outcome {
    let raw = manifest(vector, fixtures)?;
    let image: ImageRef = ANY_IMAGE.parse()?;
    let document = match Document::parse(&image, Some(vector.text("media_type")?), raw) {
        Ok(document) => document,
        Err(error) => return Ok(reject(&error)),
    };
    let Some(result) = vector.member("result") else {
        return Ok(Answer::Accept);
    };
    let count = |key: &str| result.get(key).and_then(Value::as_array).map(Vec::len);
    let kind = result.get("kind").and_then(Value::as_str);
    match document {
        Document::Manifest(manifest) => {
            let found = (Some("image"), Some(manifest.layer_count()));
            Ok(Answer::compare(&found, &(kind, count("layers"))))
        }
        Document::Index(index) => {
            let digests = index.entries().iter().map(|entry| json!(entry.digest()));
            let found = json!({"kind": "list", "instances": digests.collect::<Value>()});
            Ok(Answer::compare(&found, result))
        }
    }
}

pub(crate) fn manifest_type_digest(vector: &Vector<'_>, fixtures: &Path) -> Outcome {
    let raw = manifest(vector, fixtures)?;
    let guessed = vector.text("guessed_media_type")?;
    let digest = vector.member("digest").and_then(Value::as_str);
    let image: ImageRef = ANY_IMAGE.parse()?;
    let found = Digest::sha256_of(&raw);
    match Document::parse(&image, None, raw) {
        // There is no guessing here, so only the digest can be compared.
        Err(policy::ManifestError::UnknownType { found: None })
            if !guessed.is_empty() && Some(found.to_string().as_str()) == digest =>
        {
            Ok(Answer::NotApplicable(
                "the digest agrees; a type that nobody names is not guessed",
            ))
        }
        Err(error) if !guessed.is_empty() => Ok(reject(&error)),
        Err(_) if digest.is_none() => Ok(Answer::Reject("no digest".to_owned())),
        Err(_) => Ok(Answer::compare(&Some(found.to_string().as_str()), &digest)),
        Ok(document) => {
            let is_list = matches!(document, Document::Index(_));
            let expected = (
                guessed.contains("list") || guessed.contains("index"),
                digest,
            );
            Ok(Answer::compare(
                &(is_list, Some(found.to_string().as_str())),
                &expected,
            ))
        }
    }
}

pub(crate) fn manifest_list_choose(vector: &Vector<'_>, fixtures: &Path) -> Outcome {
    if vector.member("preferGzip") == Some(&Value::Bool(true)) {
        return Ok(Answer::NotApplicable("zstd is never second to gzip"));
    }
    let wanted = platform(vector.member("wanted").ok_or("no wanted")?, "architecture");
    let image: ImageRef = ANY_IMAGE.parse()?;
    let raw = manifest(vector, fixtures)?;
    match Document::parse(&image, Some(vector.text("media_type")?), raw) {
        Ok(Document::Manifest(_)) => Ok(Answer::Reject("not a list".to_owned())),
        Err(error) => Ok(reject(&error)),
        Ok(Document::Index(index)) => match index.choose(&wanted) {
            Err(error) => Ok(reject(&error)),
            Ok(chosen) => {
                let expected = vector.member("digest").cloned().unwrap_or_default();
                Ok(Answer::compare(&json!(chosen.digest()), &expected))
            }
        },
    }
}

pub(crate) fn wanted_platforms(vector: &Vector<'_>, _: &Path) -> Outcome {
    let requested = platform(vector.member("requested").ok_or("no requested")?, "arch");
    let expected = vector.member("platforms").and_then(Value::as_array);
    let expected: Vec<Platform> = expected
        .into_iter()
        .flatten()
        .map(|value| platform(value, "architecture"))
        .collect();
    Ok(Answer::compare(&requested.acceptable(), &expected))
}

/// Null members are an artefact of the implementation that the answers come from.
fn normalise(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(normalise);
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        _ => {}
    }
}

fn docker_transport(text: &str, expected: &Value) -> Answer {
    let accepts = expected.get("expect").and_then(Value::as_str) == Some("accept");
    match text.parse::<ImageRef>() {
        Ok(image) if accepts => {
            let mut expected = expected.clone();
            if let Some(members) = expected.as_object_mut() {
                members.retain(|key, _| key != "expect");
            }
            Answer::compare(&image_as_json(&image), &expected)
        }
        Ok(image) => Answer::Differs(format!("the docker transport should refuse {image}")),
        Err(error) => Answer::Reject(error.to_string()),
    }
}

fn image_as_json(image: &ImageRef) -> Value {
    json!({
        "dockerReference": image.to_string(),
        "policyIdentity": image.policy_identity(),
        "policyNamespaces": image.policy_namespaces(),
    })
}

fn parts_as_json(
    canonical: &str,
    registry: &str,
    path: &str,
    tag: Option<&str>,
    digest: Option<&Digest>,
) -> Value {
    let slash = if registry.is_empty() { "" } else { "/" };
    let mut value = json!({
        "canonical": canonical,
        "name": format!("{registry}{slash}{path}"),
        "domain": registry,
        "path": path,
        "tag": tag,
        "digest": digest,
    });
    normalise(&mut value);
    value
}

/// The familiar form is for display in the tools of others.
fn compare_parts(found: &Value, vector: &Vector<'_>) -> Answer {
    let mut expected = vector.member("result").cloned().unwrap_or_default();
    if let Some(members) = expected.as_object_mut() {
        members.retain(|key, _| key != "familiar");
    }
    Answer::compare(found, &expected)
}

fn platform(value: &Value, architecture: &str) -> Platform {
    let text = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Platform {
        os: text("os"),
        architecture: text(architecture),
        variant: Some(text("variant")).filter(|variant| !variant.is_empty()),
    }
}

fn manifest(vector: &Vector<'_>, fixtures: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    match vector.member("manifest_file").and_then(Value::as_str) {
        Some(file) => Ok(std::fs::read(fixtures.join(file))?),
        None => vector.base64("manifest_b64"),
    }
}

pub(crate) fn reject<E: Error>(error: &E) -> Answer {
    let cause = error
        .source()
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    Answer::Reject(format!("{error}{cause}"))
}

const ANY_IMAGE: &str = "example.com/any:tag";
