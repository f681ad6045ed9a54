//! Decides whether a container image may run.
//!
//! Pure and synchronous: bytes in, a decision out. The caller fetches; nothing here opens a file
//! or a socket, so a decision can be made again from what it was made from.
//!
//! The theorem: **an [`Approved`] exists only if the owner's policy, read strictly, allows the
//! manifest with that digest under the reference that was asked for.** The straight line to it:
//!
//! 1. [`ImageRef::parse_edge`] reads the name.
//! 2. [`Document::parse`] reads what the registry served for it; of an index,
//!    [`Unverified::choose`] takes the entry for the platform and [`Unverified::instance`] reads
//!    the manifest behind it.
//! 3. [`Policy::rules_for`] finds the rules, [`Rules::needs`] says what to fetch for them.
//! 4. [`Rules::decide`] weighs the [`Evidence`] and answers with an [`Approved`] or with
//!    [`Denied`].
//! 5. [`Approved::with_config`] and [`Approved::layers`] hand on what follows by digest.

#![forbid(unsafe_code)]

mod approved;
mod attached;
mod authority;
mod blob;
mod bundle;
mod certificate;
mod chain;
mod claims;
mod conditions;
mod cosign;
mod decision;
mod descriptor;
mod digest;
mod document;
mod encoding;
mod evidence;
mod explain;
mod extension;
mod fingerprint;
mod freshness;
mod identities;
mod identity;
mod image;
mod json;
mod key;
mod keycheck;
mod lint;
mod listed;
mod lookaside;
mod manifest;
mod openpgp;
mod payload;
mod platform;
mod print;
mod printable;
mod reference;
mod rekor;
mod requirement;
mod rules;
mod scope;
mod sct;
mod search;
mod signers;
mod sigstore;
mod simple;
mod statement;
mod threshold;
mod yaml;

// The public interface is:
pub use approved::Approved;
pub use attached::{AttachedProblem, signature_as_bundle};
pub use authority::{Authority, CertificateProblem, SignerCertificate};
pub use blob::{BlobError, StoredSignature, StoredSigstore};
pub use certificate::{Certificate, CertificateError, IssuerError};
pub use conditions::UnmetCondition;
pub use cosign::{SignatureProblem, open_cosign};
pub use decision::{Decision, Denied, Finding, Grounds, Outcome, Proof, Refusal, Rejected};
pub use descriptor::{Compression, Descriptor};
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use document::{Policy, PolicyError, PolicyProblem, Warning};
pub use encoding::PemError;
pub use evidence::{
    COSIGN_PAYLOAD, CosignSignature, Discovered, Evidence, Failure, Needs, NotFetched,
    SimpleSignature, attachment_tag,
};
pub use explain::Explanation;
pub use fingerprint::Fingerprint;
pub use freshness::{Moment, Stale};
pub use identities::{OtherSigner, PatternError};
pub use identity::{IdentityMismatch, Remap, SignedIdentity, WrittenReference};
pub use image::{ConfigError, Image, ImageConfig, Layer, MAX_CONFIG_BYTES, RunConfig};
pub use json::{JsonError, JsonProblem, Place};
pub use key::{KeyError, PublicKey};
pub use keycheck::PolicyCheck;
pub use listed::{ListedSignature, SignatureListError, parse_signature_list};
pub use lookaside::{Lookaside, LookasideError, LookasideProblem};
pub use manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Document, Index, MAX_LAYERS, MAX_MANIFEST_BYTES, Manifest,
    ManifestError, NoPlatform, OCI_INDEX, OCI_MANIFEST, SubjectKind, Unverified, parse_attachments,
};
pub use openpgp::{Hashes, KeyringError, Keyrings, OpenPgpProblem, open_simple};
pub use payload::{Payload, PayloadError};
pub use platform::Platform;
pub use reference::{ImageRef, Reference, ReferenceError, ReferenceParts};
pub use rekor::{LogKey, LogProblem, UntrustedLogEntry, open_log_entry};
pub use rules::Rules;
pub use scope::Scope;
pub use sct::SctProblem;
pub use sigstore::{
    BundleArtifact, BundleProblem, BundleSigner, TrustedRoot, TrustedRootError, UntrustedBundle,
    verify_bundle,
};
pub use statement::{StatementProblem, UntrustedStatement};
pub use yaml::YamlProblem;
