//! Checks decryption and report data against vectors made by the real server: `vectors FILE`.
//!
//! Exits with failure if any vector fails, or if there are none.

use std::env;
use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_client::{JweError, ReportData, TeeKey};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Vectors {
    jwe: Vec<JweVector>,
    report_data: Vec<ReportDataVector>,
}

#[derive(Deserialize)]
struct JweVector {
    tee_key: String,
    private_key_pkcs8_der_hex: Option<String>,
    private_key_pkcs1_der_hex: Option<String>,
    path: String,
    jwe: Value,
    plaintext_b64: String,
}

#[derive(Deserialize)]
struct ReportDataVector {
    nonce: String,
    tee_pubkey: Value,
    additional_evidence: Option<String>,
    sha384_hex: String,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let file = env::args().nth(1).ok_or("expected: vectors FILE")?;
    let vectors: Vectors = serde_json::from_slice(&std::fs::read(file)?)?;
    let decrypted = vectors.jwe.iter().map(|vector| {
        (
            format!("{} {}", vector.tee_key, vector.path),
            check_jwe(vector),
        )
    });
    let hashed = vectors
        .report_data
        .iter()
        .enumerate()
        .map(|(index, vector)| (format!("report data {index}"), check_report_data(vector)));
    let mut output = std::io::stdout();
    let (mut passed, mut failed) = (0_usize, 0_usize);
    for (name, outcome) in decrypted.chain(hashed) {
        match outcome {
            Ok(()) => passed = passed.saturating_add(1),
            Err(error) => {
                failed = failed.saturating_add(1);
                writeln!(output, "{name}: {error}")?;
            }
        }
    }
    writeln!(output, "KBS vectors: {passed} passed, {failed} failed")?;
    let good = failed == 0 && !vectors.jwe.is_empty() && !vectors.report_data.is_empty();
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn check_jwe(vector: &JweVector) -> Result<(), Box<dyn Error>> {
    let outcome = key(vector)?.open(vector.jwe.to_string().as_bytes());
    // RSAES-PKCS1-v1_5 invites padding oracles and was given up by the protocol: refusing it by
    // name is the right outcome.
    if vector.tee_key == "RSA1_5" {
        return match outcome {
            Err(JweError::Algorithm { found, .. }) if found == "RSA1_5" => Ok(()),
            other => Err(format!("expected a refusal of RSA1_5, found {other:?}").into()),
        };
    }
    if outcome?.expose() == STANDARD.decode(&vector.plaintext_b64)? {
        return Ok(());
    }
    Err("another content than the recorded one".into())
}

fn key(vector: &JweVector) -> Result<TeeKey, Box<dyn Error>> {
    let pkcs8 = match (
        &vector.private_key_pkcs8_der_hex,
        &vector.private_key_pkcs1_der_hex,
    ) {
        (Some(pkcs8), _) => bytes(pkcs8)?,
        (None, Some(pkcs1)) => pkcs8_of_rsa(&bytes(pkcs1)?)?,
        (None, None) => return Err("the vector has no private key".into()),
    };
    Ok(TeeKey::from_pkcs8(&pkcs8)?)
}

/// RFC 5208 section 5: version 0, `rsaEncryption` with null parameters, the key in an octet string.
fn pkcs8_of_rsa(pkcs1: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let head = b"\x02\x01\x00\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    der(0x30, &[head.as_slice(), &der(0x04, pkcs1)?].concat())
}

/// X.690 section 8.1.3.5, with two bytes of length.
fn der(tag: u8, value: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let length = u16::try_from(value.len())?.to_be_bytes();
    Ok([&[tag, 0x82], length.as_slice(), value].concat())
}

fn check_report_data(vector: &ReportDataVector) -> Result<(), Box<dyn Error>> {
    let mut runtime_data = json!({ "nonce": vector.nonce, "tee-pubkey": vector.tee_pubkey });
    if let (Some(additional), Some(members)) =
        (&vector.additional_evidence, runtime_data.as_object_mut())
    {
        members.insert("additional-evidence".to_owned(), additional.as_str().into());
    }
    if ReportData::sha384(&runtime_data)?.bytes() == bytes(&vector.sha384_hex)? {
        return Ok(());
    }
    Err("another digest than the recorded one".into())
}

fn bytes(hex: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let digit = |c: char| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits: Option<Vec<u8>> = hex.chars().map(digit).collect();
    let digits = digits
        .filter(|digits| digits.len() % 2 == 0)
        .ok_or("not hexadecimal")?;
    Ok(digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| (byte << 4) | digit))
        .collect())
}
