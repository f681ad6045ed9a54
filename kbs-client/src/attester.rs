//! Where evidence comes from.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::{Value, json};

/// The hardware, or the service in front of it, that vouches for this guest.
pub trait Attester: Send + Sync + fmt::Debug {
    /// The name that the KBS knows this TEE by, in lower case: `tdx`, `snp`, `sample`.
    fn tee(&self) -> &str;

    /// The evidence that binds `report_data`, in the JSON shape that the verifier of
    /// [`tee`](Attester::tee) expects.
    ///
    /// Padding to what the hardware takes (64 bytes for `tdx` and `snp`) is the attester's
    /// business.
    fn evidence<'a>(
        &'a self,
        report_data: &'a ReportData,
    ) -> BoxFuture<'a, Result<Value, AttesterError>>;

    /// The evidence of secondary devices, as the text of a JSON object from TEE name to evidence,
    /// or the empty string when there are none, which is the default. It is hashed into the
    /// report data of [`evidence`](Attester::evidence) exactly as returned.
    fn additional_evidence<'a>(
        &'a self,
        _report_data: &'a ReportData,
    ) -> BoxFuture<'a, Result<String, AttesterError>> {
        Box::pin(std::future::ready(Ok(String::new())))
    }
}

/// Why an attester has no evidence: its own error, whatever its type, which can be found again by
/// walking the sources.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct AttesterError(Arc<dyn Error + Send + Sync>);

impl AttesterError {
    /// Carries the attester's own error.
    pub fn new(cause: impl Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(cause))
    }

    /// The attester's own error.
    pub fn cause(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0
    }
}

/// The digest that evidence must carry: it binds the nonce of this session and the public key that
/// secrets will be encrypted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportData(Vec<u8>);

impl ReportData {
    /// SHA-384 of the canonical form (RFC 8785) of runtime data: an object of `nonce`, `tee-pubkey`
    /// and, for the primary TEE, `additional-evidence`.
    ///
    /// # Errors
    /// If `runtime_data` has no canonical form.
    pub fn sha384(runtime_data: &impl Serialize) -> Result<Self, serde_json::Error> {
        Self::digest_of(&digest::SHA384, runtime_data)
    }

    pub(crate) fn digest_of(
        algorithm: &'static digest::Algorithm,
        runtime_data: &impl Serialize,
    ) -> Result<Self, serde_json::Error> {
        let canonical = serde_json_canonicalizer::to_vec(runtime_data)?;
        Ok(Self(
            digest::digest(algorithm, &canonical).as_ref().to_vec(),
        ))
    }

    /// The bytes of the digest, unpadded: 48 for SHA-384.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Evidence of nothing: what trustee's `sample` verifier accepts from anyone.
///
/// It exists for development, and is used only when it is chosen by name: a production guest must
/// never fall back to it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SampleAttester;

impl Attester for SampleAttester {
    fn tee(&self) -> &'static str {
        "sample"
    }

    fn evidence<'a>(
        &'a self,
        report_data: &'a ReportData,
    ) -> BoxFuture<'a, Result<Value, AttesterError>> {
        let evidence = json!({ "svn": "1", "report_data": STANDARD.encode(report_data.bytes()) });
        Box::pin(std::future::ready(Ok(evidence)))
    }
}
