//! Where evidence comes from.

pub(crate) mod agent;
pub(crate) mod detect;
pub(crate) mod event_log;
pub(crate) mod snp;
pub(crate) mod tsm;

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::{Value, json};

use agent::AgentError;
use detect::DetectError;
use tsm::TsmError;

/// The hardware, or the service in front of it, that vouches for this guest.
pub trait Attester: Send + Sync + fmt::Debug {
    /// The name that the KBS knows this TEE by, in lower case: `tdx`, `snp`, `sample`. Asked once
    /// for each handshake, so that an attester may find out as late as that.
    fn tee(&self) -> BoxFuture<'_, Result<String, AttesterError>>;

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
#[error(transparent)]
pub struct AttesterError(Arc<dyn Error + Send + Sync>);

impl AttesterError {
    /// Whether the same request may succeed later: what the attester depends on was busy or away.
    pub(crate) fn is_transient(&self) -> bool {
        let cause = self.cause();
        let kernel = cause.downcast_ref().is_some_and(TsmError::is_transient);
        let agent = cause.downcast_ref().is_some_and(AgentError::is_transient);
        let either = cause.downcast_ref().is_some_and(DetectError::is_transient);
        kernel || agent || either || cause.is::<tokio::time::error::Elapsed>()
    }

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

    /// The digest with zeros after it, as `tdx` and `snp` take it.
    pub(crate) fn padded(&self) -> [u8; 64] {
        let mut padded = [0; 64];
        for (byte, digit) in padded.iter_mut().zip(&self.0) {
            *byte = *digit;
        }
        padded
    }
}

/// Evidence of nothing: what trustee's `sample` verifier accepts from anyone.
///
/// It exists for development, and is used only when it is chosen by name: a production guest must
/// never fall back to it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SampleAttester;

impl Attester for SampleAttester {
    fn tee(&self) -> BoxFuture<'_, Result<String, AttesterError>> {
        Box::pin(std::future::ready(Ok("sample".to_owned())))
    }

    fn evidence<'a>(
        &'a self,
        report_data: &'a ReportData,
    ) -> BoxFuture<'a, Result<Value, AttesterError>> {
        let evidence = json!({ "svn": "1", "report_data": STANDARD.encode(report_data.bytes()) });
        Box::pin(std::future::ready(Ok(evidence)))
    }
}
