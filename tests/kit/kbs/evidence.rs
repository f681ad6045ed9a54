//! Verifiers of evidence: that report data and init-data are where the hardware would have put them.
//!
//! What only hardware and its vendor can vouch for, signatures above all, is not looked at.

use aws_lc_rs::digest::{self, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Whether `evidence` of `tee` carries this digest, and that of `init_data` if there are any. The
/// digest of `sample` stands unpadded.
pub(super) fn check(tee: &str, evidence: &Value, expected: &[u8], init_data: &Value) -> Option<()> {
    match tee {
        "sample" => {
            evidence.get("svn")?.as_str()?;
            let found = STANDARD
                .decode(evidence.get("report_data")?.as_str()?)
                .ok()?;
            (found == expected).then_some(())
        }
        "tdx" => {
            let quote = STANDARD.decode(evidence.get("quote")?.as_str()?).ok()?;
            let is_version_4 = quote.get(..2)? == [4, 0];
            let register = quote.get(48 + 184..48 + 232)?;
            let reported = quote.get(48 + 520..48 + 584)?;
            let fits = is_version_4
                && reported == padded(expected, 64)
                && is_launched_with(register, init_data);
            fits.then_some(())
        }
        "snp" => {
            let report = evidence.get("attestation_report")?;
            let version = report.get("version")?.as_u64()?;
            let fits = (3..=5).contains(&version)
                && report.get("vmpl")? == 0
                && bytes(report.get("report_data")?)? == padded(expected, 64)
                && is_launched_with(&bytes(report.get("host_data")?)?, init_data);
            fits.then_some(())
        }
        _ => None,
    }
}

/// Whether the register holds the digest of these init-data, if there are any.
fn is_launched_with(register: &[u8], init_data: &Value) -> bool {
    let launched = digest_of(init_data).map(|digest| padded(&digest, register.len()));
    init_data.is_null() || launched.is_some_and(|launched| launched == register)
}

/// Over the exact bytes, with the algorithm that they name.
fn digest_of(init_data: &Value) -> Option<Vec<u8>> {
    let body = init_data.get("body")?.as_str()?;
    let table: toml::Table = body.parse().ok()?;
    let algorithm = match table.get("algorithm")?.as_str()? {
        "sha256" => &digest::SHA256,
        "sha384" => &digest::SHA384,
        "sha512" => &digest::SHA512,
        _ => return None,
    };
    Some(digest(algorithm, body.as_bytes()).as_ref().to_vec())
}

fn padded(digest: &[u8], length: usize) -> Vec<u8> {
    let mut padded = digest.to_vec();
    padded.resize(length, 0);
    padded
}

fn bytes(array: &Value) -> Option<Vec<u8>> {
    let byte = |value: &Value| u8::try_from(value.as_u64()?).ok();
    array.as_array()?.iter().map(byte).collect()
}
