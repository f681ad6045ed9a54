//! The areas about who signed: transparency logs and certificates.

use std::error::Error;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use policy::{Authority, Certificate, LogKey, UntrustedLogEntry, open_log_entry};
use serde_json::Value;

use crate::score::{Answer, Vector};

type Outcome = Result<Answer, Box<dyn Error>>;

pub(crate) fn rekor_set(vector: &Vector<'_>, _: &Path) -> Outcome {
    let keys = vector.texts("rekorKeys").into_iter();
    let keys: Result<Vec<_>, _> = keys.map(|pem| LogKey::from_pem(pem.as_bytes())).collect();
    let keys = match keys {
        Ok(keys) => keys,
        Err(error) => return Ok(Answer::Reject(error.to_string())),
    };
    let time = open_log_entry(
        &keys,
        &vector.base64("set_b64")?,
        &vector.base64("keyOrCert_b64")?,
        vector.text("signatureBase64")?,
        &vector.base64("payload_b64")?,
    );
    match time {
        Err(error) => Ok(Answer::Reject(error.to_string())),
        Ok(time) => Ok(match vector.member("integratedTime") {
            Some(expected) => Answer::compare(&Value::from(time), expected),
            None => Answer::Accept,
        }),
    }
}

pub(crate) fn rekor_set_parse(vector: &Vector<'_>, _: &Path) -> Outcome {
    let input = vector.text("input")?;
    let bundle = match vector.text("object")? {
        "bundle" => input.to_owned(),
        "bundle.Payload" => format!(r#"{{"SignedEntryTimestamp":"","Payload":{input}}}"#),
        other => return Err(format!("an object {other}").into()),
    };
    Ok(Answer::of(UntrustedLogEntry::parse(bundle.as_bytes())))
}

pub(crate) fn fulcio_cert(vector: &Vector<'_>, _: &Path) -> Outcome {
    let certificate = vector.text("cert")?.as_bytes();
    if vector.member("check").is_some() {
        return issuer_extension(certificate, vector);
    }
    let authority = Authority::fulcio(
        vector.text("ca")?.as_bytes(),
        vector.text("oidcIssuer")?,
        vector.text("subjectEmail")?,
    );
    let authority = match authority {
        Ok(authority) => authority,
        Err(error) => return Ok(Answer::Reject(error.to_string())),
    };
    let time = vector.member("time").and_then(Value::as_u64);
    let chain = vector.text("chain")?.as_bytes();
    Ok(Answer::of(authority.vouch(
        certificate,
        chain,
        time.ok_or("no time")?,
    )))
}

fn issuer_extension(pem: &[u8], vector: &Vector<'_>) -> Outcome {
    let certificate = match Certificate::from_pem(pem) {
        Ok(certificate) => certificate,
        Err(error) => return Ok(Answer::Reject(error.to_string())),
    };
    match certificate.untrusted_oidc_issuer() {
        Err(error) => Ok(Answer::Reject(error.to_string())),
        Ok(issuer) => Ok(Answer::compare(&issuer, &vector.text("issuer")?)),
    }
}

pub(crate) fn pki_cert(vector: &Vector<'_>, _: &Path) -> Outcome {
    let some = |key| -> Result<_, Box<dyn Error>> {
        Ok(Some(vector.text(key)?).filter(|text| !text.is_empty()))
    };
    let authority = Authority::pki(
        vector.text("caRoots")?.as_bytes(),
        some("caIntermediates")?.map(str::as_bytes),
        some("subjectEmail")?,
        some("subjectHostname")?,
    );
    let authority = match authority {
        Ok(authority) => authority,
        Err(error) => return Ok(Answer::Reject(error.to_string())),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let (certificate, chain) = (vector.text("cert")?, vector.text("chain")?);
    Ok(Answer::of(authority.vouch(
        certificate.as_bytes(),
        chain.as_bytes(),
        now,
    )))
}
