//! The area `policy-eval`: a policy, a reference and an image with its signatures, end to end.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use base64::Engine;
use policy::{
    CosignSignature, Denied, Document, Evidence, ImageRef, Needs, Outcome, Policy, Refusal,
};
use serde::Deserialize;

use crate::score::{Answer, Vector};

pub(crate) fn policy_eval(vector: &Vector<'_>, fixtures: &Path) -> Result<Answer, Box<dyn Error>> {
    let text = vector
        .text("policy")?
        .replace("@FIXTURES@", &fixtures.display().to_string());
    let policy = match Policy::parse(text.as_bytes()) {
        Ok(policy) => policy,
        Err(error) => return Ok(Answer::Reject(error.to_string())),
    };
    let reference: ImageRef = match vector.text("reference")?.parse() {
        Ok(reference) => reference,
        Err(error) => return Ok(Answer::of::<(), policy::ReferenceError>(Err(error))),
    };
    let image = fixtures.join(vector.text("image_dir")?);
    let manifest = match std::fs::read(image.join("manifest.json")) {
        Ok(raw) => Document::parse(&reference, None, raw),
        Err(error) => return Ok(Answer::Reject(error.to_string())),
    };
    let manifest = match manifest {
        Ok(Document::Manifest(manifest)) => manifest,
        Ok(Document::Index(_)) => return Ok(Answer::Reject("an index".to_owned())),
        Err(error) => return Ok(Answer::Reject(error.to_string())),
    };
    let rules = policy.rules_for(&reference);
    let evidence = gather(&rules.needs(&manifest), &image)?;
    match rules.decide(manifest, &evidence) {
        Ok(_) => Ok(Answer::Accept),
        Err(denied) if is_unsupported(&denied) => Ok(Answer::NotApplicable(
            "needs OpenPGP, logs or certificates, which always deny yet",
        )),
        Err(denied) => Ok(Answer::Reject(denied.to_string())),
    }
}

fn is_unsupported(denied: &Denied) -> bool {
    let findings = denied.decision().findings().iter();
    let refusals = findings.filter_map(|finding| match &finding.outcome {
        Outcome::Refused(refusal) => Some(refusal),
        Outcome::Met(_) | Outcome::NotExamined => None,
    });
    let mut refusals = refusals.filter(|refusal| !matches!(refusal, Refusal::Rejects));
    refusals.any(|refusal| matches!(refusal, Refusal::Unsupported { .. }))
}

fn gather(needs: &Needs, image: &Path) -> Result<Evidence, Box<dyn Error>> {
    let mut evidence = Evidence::default();
    for location in &needs.resources {
        let content = std::fs::read(location).map_err(|error| error.to_string());
        evidence.resources.insert(location.clone(), content);
    }
    for subject in &needs.cosign_subjects {
        evidence.cosign.insert(*subject, Ok(signatures(image)?));
    }
    Ok(evidence)
}

/// The blobs `signature-1`, `signature-2`, ... up to the first that is missing.
fn signatures(image: &Path) -> Result<Vec<CosignSignature>, Box<dyn Error>> {
    let mut found = Vec::new();
    for number in 1.. {
        let file = format!("signature-{number}");
        let Ok(blob) = std::fs::read(image.join(&file)) else {
            break;
        };
        let Some(json) = blob.strip_prefix(b"\0sigstore-json\n") else {
            continue;
        };
        let stored: Stored = serde_json::from_slice(json)?;
        found.push(CosignSignature {
            found: file,
            media_type: stored.mime_type,
            payload: Ok(base64::engine::general_purpose::STANDARD.decode(stored.payload)?),
            annotations: stored.annotations.unwrap_or_default(),
        });
    }
    Ok(found)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    mime_type: String,
    payload: String,
    annotations: Option<BTreeMap<String, String>>,
}
