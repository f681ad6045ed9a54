//! The one place where `sigstore-verify` is called: certificates, logs and timestamps of Sigstore.
//!
//! Everything goes through [`TrustedRoot`]. What is read of a bundle here is what was verified: it
//! is parsed once.

mod bundle;
mod error;

use std::fmt;

use serde_json::json;
use sigstore_verify::trust_root::{
    SIGSTORE_PRODUCTION_TRUSTED_ROOT, SIGSTORE_STAGING_TRUSTED_ROOT, TransparencyLog,
    TrustedRoot as Material,
};
use sigstore_verify::types::{Artifact, DerPublicKey, Sha256Hash, TimeRange};
use sigstore_verify::{
    Policy, PublicKeyVerificationPolicy, VerificationPolicy, VerificationResult, Verifier,
};

use crate::certificate::{Certificate, CertificateError};
use crate::chain::Chain;
use crate::digest::Digest;
use crate::encoding::encode_base64;
use crate::json::Json;
use crate::key::PublicKey;
use crate::printable::printable;
use crate::rekor::LogKey;
use crate::statement::UntrustedStatement;

pub use self::bundle::UntrustedBundle;
pub use self::error::{BundleProblem, TrustedRootError};

/// The services that an owner trusts: certificate authorities, logs, and timestamp authorities.
pub struct TrustedRoot {
    material: Material,
    verifier: Verifier,
    authorities: Vec<Authority>,
    /// The lists of services that have none.
    empty: Vec<&'static str>,
}

/// A certificate authority and when it is trusted.
struct Authority {
    chain: Chain,
    window: Option<TimeRange>,
}

impl fmt::Debug for TrustedRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustedRoot")
            .field("empty", &self.empty)
            .finish_non_exhaustive()
    }
}

impl TrustedRoot {
    /// Reads a `trusted_root.json` (Sigstore protobuf-specs, `TrustedRoot`).
    ///
    /// Its media type must be the one of trusted roots, and every service must say from when on it
    /// is trusted.
    pub fn parse(document: &[u8]) -> Result<Self, TrustedRootError> {
        let (limit, found) = (MAX_ROOT_BYTES, document.len());
        if found > limit {
            return Err(TrustedRootError::TooLarge { limit, found });
        }
        check_form(document)?;
        let text = str::from_utf8(document).map_err(TrustedRootError::NotText)?;
        Self::from_material(&Material::from_json(text).map_err(unusable)?)
    }

    /// The root of the public-good instance as it was when this program was built.
    pub fn public_good() -> Result<Self, TrustedRootError> {
        Self::parse(SIGSTORE_PRODUCTION_TRUSTED_ROOT.as_bytes())
    }

    /// The root of the staging instance as it was when this program was built.
    pub fn staging() -> Result<Self, TrustedRootError> {
        Self::parse(SIGSTORE_STAGING_TRUSTED_ROOT.as_bytes())
    }

    /// Logs alone, always trusted: what the bare keys of a policy say.
    pub(crate) fn of_logs(logs: &[LogKey]) -> Result<Self, TrustedRootError> {
        let mut entries = std::collections::BTreeMap::new();
        for log in logs {
            let key = log.key();
            let id = encode_base64(key.fingerprint().bytes());
            let entry = json!({
                "baseUrl": "",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": encode_base64(key.spki()),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": {"start": "1970-01-01T00:00:00Z"},
                },
                "logId": {"keyId": id},
            });
            // The same key twice is one log.
            entries.insert(*key.fingerprint(), entry);
        }
        let entries: Vec<_> = entries.into_values().collect();
        let root = json!({"mediaType": MEDIA_TYPES[0], "tlogs": entries}).to_string();
        Self::parse(root.as_bytes())
    }

    fn from_material(material: &Material) -> Result<Self, TrustedRootError> {
        let verifier = Verifier::new(material).map_err(unusable)?;
        let authorities = material.certificate_authorities.iter().map(|authority| {
            let certificates = authority.cert_chain.certificates.iter();
            let certificates = certificates
                .map(|entry| Certificate::from_der(entry.raw_bytes.as_bytes().to_vec()))
                .collect::<Result<Vec<_>, _>>()?;
            let chain = Chain::new(certificates)?;
            let window = authority.valid_for;
            Ok(Authority { chain, window })
        });
        let authorities = authorities.collect::<Result<Vec<_>, CertificateError>>();
        Ok(Self {
            material: material.clone(),
            verifier,
            authorities: authorities.map_err(TrustedRootError::Certificate)?,
            empty: empty_lists(material),
        })
    }

    /// Whether it names every service that `demands` need.
    pub(crate) fn check(&self, demands: Demands) -> Result<(), TrustedRootError> {
        let wanted = [
            (AUTHORITIES, true, None),
            (LOGS, demands.tlog, Some("tlog")),
            (CERTIFICATE_LOGS, demands.sct, Some("sct")),
            (CLOCKS, demands.timestamp, Some("timestamp")),
        ];
        for (list, wanted, switch) in wanted {
            if wanted && self.empty.contains(&list) {
                return Err(TrustedRootError::Missing { list, switch });
            }
        }
        Ok(())
    }

    /// Whether it names an authority that a timestamp could be by.
    pub(crate) fn has_clocks(&self) -> bool {
        !self.empty.contains(&CLOCKS)
    }

    /// Who signed `artifact`, by a certificate of one of the authorities, with what `demands` want.
    ///
    /// Whoever that is, is yet to be compared.
    pub(crate) fn verify_certificate(
        &self,
        bundle: &UntrustedBundle,
        artifact: BundleArtifact<'_>,
        demands: Demands,
    ) -> Result<VerifiedSigner, BundleProblem> {
        if demands.timestamp && !bundle.has_timestamp() {
            return Err(BundleProblem::NoTimestamp);
        }
        if demands.tlog {
            bundle.require_log_entry()?;
        }
        let mut policy = VerificationPolicy::any_identity();
        if !demands.tlog {
            policy = policy.skip_tlog_unsafe();
        }
        if !demands.sct {
            policy = policy.skip_sct();
        }
        let verified = self.judge(bundle, artifact, &policy)?;
        // Said once more by what was verified, lest another version skip more than it was told.
        let lacks = !verified.certificate_verified()
            || demands.sct && !verified.sct_verified()
            || demands.tlog && !verified.tlog_verified();
        if lacks || verified.verified_timestamps().is_empty() {
            return Err(BundleProblem::Unproved);
        }
        let mut certificates = bundle.certificates()?.into_iter();
        let leaf = certificates.next().ok_or(BundleProblem::Unproved)?;
        let intermediates: Vec<Certificate> = certificates.collect();
        for time in verified.verified_timestamps() {
            let seconds = u64::try_from(time.as_second()).unwrap_or_default();
            let trusted = |window: TimeRange| window.contains(*time);
            self.check_path(&leaf, &intermediates, seconds, trusted)?;
        }
        Ok(VerifiedSigner {
            certificate: leaf,
            logged_at: logged_at(&verified),
        })
    }

    /// Whether `key` signed `artifact`, and a log has it.
    pub(crate) fn verify_logged_key(
        &self,
        bundle: &UntrustedBundle,
        artifact: BundleArtifact<'_>,
        key: &PublicKey,
    ) -> Result<Option<u64>, BundleProblem> {
        bundle.require_log_entry()?;
        let policy = PublicKeyVerificationPolicy::new(DerPublicKey::new(key.spki().to_vec()));
        let verified = self.judge(bundle, artifact, &policy)?;
        if verified.tlog_verified() {
            Ok(logged_at(&verified))
        } else {
            Err(BundleProblem::Unproved)
        }
    }

    /// What the engine finds, by logs that were trusted at the time of the signature: it takes a
    /// proof of inclusion from any that it knows, however long ago the owner gave that up.
    fn judge(
        &self,
        bundle: &UntrustedBundle,
        artifact: BundleArtifact<'_>,
        policy: &impl Policy,
    ) -> Result<VerificationResult, BundleProblem> {
        let verified = bundle.judged_by(&self.verifier, artifact, policy)?;
        let times = verified.verified_timestamps();
        let was_trusted = |log: &TransparencyLog| {
            log.public_key.valid_for.is_none_or(|window| {
                // Where no time is proved, none is within a window that has ended or will.
                let ever = !times.is_empty() || window.end.is_none();
                ever && times.iter().all(|time| window.contains(*time))
            })
        };
        let mut logs = self.material.tlogs.iter();
        if logs.all(|log| was_trusted(log) || !bundle.has_proof_by(log.log_id.key_id.as_bytes())) {
            return Ok(verified);
        }
        let mut material = self.material.clone();
        material.tlogs.retain(was_trusted);
        let engine = Verifier::new(&material).map_err(|error| refused(&error))?;
        let again = bundle.judged_by(&engine, artifact, policy);
        again.map_err(|problem| BundleProblem::LogNotTrusted {
            why: problem.to_string(),
        })
    }

    /// The engine takes every certificate of a trusted root for an anchor, whenever that was valid.
    /// Here only the last of a chain is one, and those between must be valid at that time.
    fn check_path(
        &self,
        leaf: &Certificate,
        supplied: &[Certificate],
        time: u64,
        trusted: impl Fn(TimeRange) -> bool,
    ) -> Result<(), BundleProblem> {
        let trusted = |authority: &&Authority| authority.window.is_none_or(&trusted);
        // Those out of their time among them: one of the same name may have signed it.
        let named = |authority: &&Authority| authority.chain.may_have_issued(leaf);
        let mut issuers = self.authorities.iter().filter(named).peekable();
        let is_known = |authority: &Authority| {
            trusted(&authority) && authority.chain.is_known_to_lead_to(leaf, time)
        };
        // The engine has found that one of these signed it: whichever it was, all lead to it.
        if supplied.is_empty() && issuers.peek().is_some() && issuers.all(is_known) {
            return Ok(());
        }
        let mut last = None;
        for authority in self.authorities.iter().filter(trusted) {
            match authority.chain.leads_to(leaf, supplied, time) {
                Ok(()) => return Ok(()),
                Err(problem) => last = Some(problem),
            }
        }
        let why = last.map_or_else(|| NO_AUTHORITY.to_owned(), |problem| problem.to_string());
        Err(BundleProblem::Path { why })
    }
}

/// A signer whose certificate, and whatever else was demanded, was proved.
#[derive(Debug)]
pub(crate) struct VerifiedSigner {
    pub(crate) certificate: Certificate,
    pub(crate) logged_at: Option<u64>,
}

/// What must be proved beside the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demands {
    /// A transparency log has the signature.
    pub(crate) tlog: bool,
    /// A certificate log has the certificate.
    pub(crate) sct: bool,
    /// A timestamp authority has seen the signature.
    pub(crate) timestamp: bool,
}

impl Default for Demands {
    fn default() -> Self {
        Self {
            tlog: true,
            sct: true,
            timestamp: false,
        }
    }
}

/// What a bundle is to be about.
#[derive(Debug, Clone, Copy)]
pub enum BundleArtifact<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Whatever has this sha256 digest.
    Digest(&'a Digest),
}

impl<'a> BundleArtifact<'a> {
    fn argument(self) -> Result<Artifact<'a>, BundleProblem> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.into()),
            Self::Digest(digest) => {
                let hash = Sha256Hash::try_from(digest.bytes());
                hash.map(Into::into)
                    .map_err(|source| refused(&source.into()))
            }
        }
    }
}

/// Whose signature a bundle must have.
#[derive(Debug)]
pub enum BundleSigner<'a> {
    /// This key, whether or not a log has it.
    KeyAlone(&'a PublicKey),
    /// This key, with an entry in a log.
    Key(&'a PublicKey),
    /// The holder of a certificate for `identity`, logged in at `issuer`.
    Identity {
        /// The name: an address, a URI, a host or a user.
        identity: &'a str,
        /// The `OpenID` Connect issuer.
        issuer: &'a str,
    },
}

/// Whether `bundle` proves that `signer` signed `artifact`, by the rules of Sigstore's clients: for
/// tools. It says nothing about images.
pub fn verify_bundle(
    root: &TrustedRoot,
    bundle: &UntrustedBundle,
    artifact: BundleArtifact<'_>,
    signer: &BundleSigner<'_>,
) -> Result<(), BundleProblem> {
    match signer {
        BundleSigner::KeyAlone(key) => verify_envelope(bundle, artifact, key),
        BundleSigner::Key(key) => root.verify_logged_key(bundle, artifact, key).map(|_| ()),
        BundleSigner::Identity { identity, issuer } => {
            let signer = root.verify_certificate(bundle, artifact, Demands::default())?;
            crate::identities::check_exact(&signer.certificate, identity, issuer)
        }
    }
}

fn verify_envelope(
    bundle: &UntrustedBundle,
    artifact: BundleArtifact<'_>,
    key: &PublicKey,
) -> Result<(), BundleProblem> {
    let digest = match artifact {
        BundleArtifact::Bytes(bytes) => Digest::sha256_of(bytes),
        BundleArtifact::Digest(digest) => *digest,
    };
    if !bundle.is_signed_by(key)? {
        return Err(BundleProblem::OtherKey);
    }
    let (payload_type, payload) = bundle.untrusted_statement()?;
    let statement = UntrustedStatement::parse(payload_type, payload)?;
    if statement.names(&digest) {
        Ok(())
    } else {
        Err(BundleProblem::OtherArtifact { found: digest })
    }
}

fn empty_lists(material: &Material) -> Vec<&'static str> {
    let lists = [
        (AUTHORITIES, material.certificate_authorities.is_empty()),
        (LOGS, material.tlogs.is_empty()),
        (CERTIFICATE_LOGS, material.ctlogs.is_empty()),
        (CLOCKS, material.timestamp_authorities.is_empty()),
    ];
    let empty = lists.into_iter().filter(|(_, is_empty)| *is_empty);
    empty.map(|(list, _)| list).collect()
}

/// The media type, and that each service says from when on it is trusted.
fn check_form(document: &[u8]) -> Result<(), TrustedRootError> {
    let json = Json::parse(document)?;
    let top = json.root().open_object()?;
    let found = top.required("mediaType")?.string()?;
    if !MEDIA_TYPES.contains(&found) {
        let found = found.to_owned();
        return Err(TrustedRootError::MediaType { found });
    }
    for (list, is_log) in [
        (LOGS, true),
        (CERTIFICATE_LOGS, true),
        (AUTHORITIES, false),
        (CLOCKS, false),
    ] {
        let Some(list) = top.non_null(list) else {
            continue;
        };
        for service in list.array()? {
            let mut service = service.open_object()?;
            if is_log {
                service = service.required("publicKey")?.open_object()?;
            }
            let window = service.required("validFor")?.open_object()?;
            window.required("start")?.string()?;
        }
    }
    Ok(())
}

fn logged_at(verified: &VerificationResult) -> Option<u64> {
    let time = verified.integrated_time()?;
    u64::try_from(time.as_second()).ok()
}

fn refused(error: &sigstore_verify::Error) -> BundleProblem {
    BundleProblem::Refused {
        why: printable(error),
    }
}

fn unusable(error: impl fmt::Display) -> TrustedRootError {
    TrustedRootError::Unusable {
        why: printable(&error),
    }
}

const AUTHORITIES: &str = "certificateAuthorities";
const LOGS: &str = "tlogs";
const CERTIFICATE_LOGS: &str = "ctlogs";
const CLOCKS: &str = "timestampAuthorities";
const NO_AUTHORITY: &str = "no authority of the trusted root is trusted for that time";
const MEDIA_TYPES: [&str; 2] = [
    "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    "application/vnd.dev.sigstore.trustedroot.v0.2+json",
];
/// The public one has 7 KiB.
const MAX_ROOT_BYTES: usize = 1 << 20;
