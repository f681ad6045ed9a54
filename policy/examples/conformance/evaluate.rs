//! The area `policy-eval`: a policy, a reference and an image with its signatures, end to end.

use std::error::Error;
use std::path::Path;
use std::time::SystemTime;

use policy::{
    CosignSignature, Document, Evidence, ImageRef, Needs, NotFetched, Policy, SimpleSignature,
    StoredSignature,
};

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
    let evidence = gather(&rules.needs(&manifest), &image);
    match rules.decide(manifest, &evidence) {
        Ok(_) => Ok(Answer::Accept),
        Err(denied) => Ok(Answer::Reject(denied.to_string())),
    }
}

fn gather(needs: &Needs, image: &Path) -> Evidence {
    let mut evidence = Evidence::default();
    for location in &needs.resources {
        let content =
            std::fs::read(location).map_err(|error| NotFetched::permanent(error.to_string()));
        evidence.resources.insert(location.clone(), content);
    }
    for subject in &needs.cosign_subjects {
        let found = signatures(image).map(|(cosign, _)| cosign);
        evidence.cosign.insert(*subject, found);
    }
    for subject in &needs.lookaside_subjects {
        let found = signatures(image).map(|(_, simple)| simple);
        evidence.simple.insert(*subject, found);
    }
    evidence.now = Some(SystemTime::now());
    evidence
}

/// The blobs `signature-1`, `signature-2`, ... up to the first that is missing. One that cannot be
/// read spoils them all.
fn signatures(image: &Path) -> Result<(Vec<CosignSignature>, Vec<SimpleSignature>), NotFetched> {
    let (mut cosign, mut simple) = (Vec::new(), Vec::new());
    for number in 1.. {
        let found = format!("signature-{number}");
        let Ok(blob) = std::fs::read(image.join(&found)) else {
            break;
        };
        match StoredSignature::parse(blob)
            .map_err(|error| NotFetched::permanent(error.to_string()))?
        {
            StoredSignature::Simple(message) => simple.push(SimpleSignature { found, message }),
            StoredSignature::Sigstore(stored) => cosign.push(CosignSignature {
                found,
                media_type: stored.mime_type,
                payload: Ok(stored.payload),
                annotations: stored.annotations,
            }),
            _ => {
                let why = format!("{found} is of an unknown kind");
                return Err(NotFetched::permanent(why));
            }
        }
    }
    Ok((cosign, simple))
}
