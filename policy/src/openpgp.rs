//! `signedBy`: a simple-signing signature, an `OpenPGP` message (RFC 9580), checked step by step.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, SystemTime};

use sequoia_openpgp::cert::CertParser;
use sequoia_openpgp::cert::amalgamation::key::{ErasedKeyAmalgamation, ValidErasedKeyAmalgamation};
use sequoia_openpgp::cert::amalgamation::{ValidAmalgamation, ValidateAmalgamation};
use sequoia_openpgp::packet::key::PublicParts;
use sequoia_openpgp::packet::{Body, Packet, Signature, Tag};
use sequoia_openpgp::parse::stream::{
    GoodChecksum, MessageLayer, MessageStructure, VerificationHelper, VerifierBuilder,
};
use sequoia_openpgp::parse::{Dearmor, PacketParserBuilder, PacketParserResult, Parse};
use sequoia_openpgp::policy::{AsymmetricAlgorithm, StandardPolicy};
use sequoia_openpgp::types::{
    CompressionAlgorithm, HashAlgorithm, RevocationStatus, SignatureType,
};
use sequoia_openpgp::{Cert, Fingerprint, KeyHandle};
use thiserror::Error;

use crate::payload::{Payload, PayloadError};

/// The keys of one requirement: any of them may sign.
///
/// Copies of one key from several keyrings are merged, so that a revocation in one of them counts.
#[derive(Debug, Default)]
pub struct Keyrings {
    certificates: BTreeMap<Fingerprint, Cert>,
}

impl Keyrings {
    /// Adds a keyring, binary or armored, with any number of keys, also none.
    ///
    /// One that is damaged anywhere is refused: what is left out could be a revocation. So is one
    /// with a revocation of a key or subkey by another key, a designated revoker (RFC 9580 section
    /// 5.2.3.23), which cannot be checked here.
    pub fn add(&mut self, keyring: &[u8]) -> Result<(), KeyringError> {
        if keyring.len() > MAX_KEYRING_BYTES {
            return Err(KeyringError::TooLarge {
                limit: MAX_KEYRING_BYTES,
                found: keyring.len(),
            });
        }
        for block in blocks(keyring)? {
            self.add_block(block)?;
        }
        Ok(())
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.certificates.len()
    }

    /// The fingerprints of those keys that cannot sign at that time, with the reason.
    pub(crate) fn unusable_at(
        &self,
        now: SystemTime,
        hashes: Hashes,
    ) -> impl Iterator<Item = (String, String)> {
        let policy = policy(hashes, now);
        self.certificates.values().filter_map(move |certificate| {
            let why = why_unusable(certificate, &policy, now)?;
            Some((certificate.fingerprint().to_hex(), why))
        })
    }

    fn add_block(&mut self, block: &[u8]) -> Result<(), KeyringError> {
        for certificate in CertParser::from(ring_packets(block)?) {
            let certificate = certificate.map_err(|error| unreadable(&error))?;
            let fingerprint = certificate.fingerprint();
            check_revocations(&certificate)?;
            let merged = match self.certificates.remove(&fingerprint) {
                Some(known) => known
                    .merge_public(certificate)
                    .map_err(|error| unreadable(&error))?,
                None => certificate.strip_secret_key_material(),
            };
            self.certificates.insert(fingerprint, merged);
        }
        Ok(())
    }
}

/// Why bytes are no keyring. Whoever stored it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// More than any honest keyring has.
    #[error("it has {found} bytes, at most {limit} are read")]
    TooLarge {
        /// The limit.
        limit: usize,
        /// The size.
        found: usize,
    },
    /// Neither binary nor armored.
    #[error("it is neither a binary nor an armored OpenPGP keyring")]
    NotAKeyring,
    /// The `OpenPGP` library cannot read it.
    #[error("it is not an OpenPGP keyring: {why}")]
    Unreadable {
        /// What the library says.
        why: String,
    },
    /// A packet that the library leaves out.
    #[error(
        "a packet in it ({packet}) cannot be read and could be a revocation: export the keys anew, \
         e.g. with gpg --export-options export-minimal"
    )]
    UnknownPacket {
        /// Its type.
        packet: String,
    },
    /// A revocation certificate stands there without its key.
    #[error(
        "a revocation stands beside its key and not in it: import both with gpg and export the key"
    )]
    LoneRevocation,
    /// Whether a key is revoked cannot be said.
    #[error(
        "a revocation of the key {fingerprint} is damaged or by another key, and cannot be checked: \
         leave the key out, or export it anew"
    )]
    Revocation {
        /// The primary fingerprint.
        fingerprint: String,
    },
    /// No key came from any keyring of the requirement.
    #[error("there is no key in it")]
    NoKey,
}

/// Which hashes a signature may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hashes {
    /// SHA-2 and SHA-3.
    Strong,
    /// Also SHA-1, with detection of collisions; MD5 never.
    AlsoSha1,
}

/// The payload and the fingerprint of the primary key, once one of `keys` has signed it.
///
/// The one message form that counts is that of `gpg --sign`: one-pass signature, literal data and
/// signature, of each exactly one (RFC 9580 section 10.3), possibly in one compressed packet, and
/// nothing after it. The key must be usable at `now`, also when it was when it signed.
pub fn open_simple(
    keys: &Keyrings,
    untrusted_message: &[u8],
    now: SystemTime,
    hashes: Hashes,
) -> Result<(String, Payload), OpenPgpProblem> {
    let message = plain(untrusted_message)?;
    check_form(&message)?;
    let policy = policy(hashes, now);
    let check = Check {
        keys,
        policy: &policy,
        now,
        signer: None,
    };
    // A signer's clock may be ahead of ours.
    let time = now.checked_add(CLOCK_SKEW).unwrap_or(now);
    let mut verifier = VerifierBuilder::from_bytes(&message)
        .and_then(|builder| builder.with_policy(&policy, time, check))
        .map_err(problem)?;
    let mut content = Vec::new();
    verifier
        .read_to_end(&mut content)
        .map_err(|error| OpenPgpProblem::Unreadable {
            why: error.to_string(),
        })?;
    if !verifier.message_processed() {
        return Err(OpenPgpProblem::Form);
    }
    let signer = verifier.into_helper().signer.ok_or(OpenPgpProblem::Form)?;
    Ok((signer.to_hex(), Payload::parse_simple(&content)?))
}

/// Why an `OpenPGP` message proves nothing.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum OpenPgpProblem {
    /// The message, or what it unpacks to, is too large.
    #[error("it has more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// Armored, or no `OpenPGP` at all.
    #[error("it is not a binary OpenPGP message")]
    NotBinary,
    /// Not the packets that `gpg --sign` writes.
    #[error("it is not one signed message with exactly one signature")]
    Form,
    /// Compressed in a way that is not read.
    #[error("it is compressed with {algorithm}; ZIP and ZLIB are read")]
    Compression {
        /// The algorithm.
        algorithm: String,
    },
    /// The packets are damaged.
    #[error("it cannot be read: {why}")]
    Unreadable {
        /// What the library says.
        why: String,
    },
    /// None of the keys made it.
    #[error(
        "it is not by a key of the policy's keyrings, but by {}",
        issuer(issuers)
    )]
    OtherKey {
        /// Whom it names as the signer.
        issuers: Vec<String>,
    },
    /// The signature does not hold.
    #[error("its signature does not hold: {why}")]
    BadSignature {
        /// What the library says.
        why: String,
    },
    /// The key is not, or no longer, good for signatures.
    #[error("its key {fingerprint} cannot sign: {why}")]
    BadKey {
        /// The primary fingerprint.
        fingerprint: String,
        /// What the library says.
        why: String,
    },
    /// What is signed is no payload.
    #[error("its payload is malformed: {0}")]
    Payload(#[from] PayloadError),
}

fn why_unusable(
    certificate: &Cert,
    policy: &StandardPolicy<'static>,
    now: SystemTime,
) -> Option<String> {
    let valid = match certificate.with_policy(policy, now) {
        Ok(valid) => valid,
        Err(error) => return Some(chain(&error)),
    };
    if matches!(valid.revocation_status(), RevocationStatus::Revoked(_)) {
        return Some("it is revoked".to_owned());
    }
    if let Err(error) = valid.alive() {
        return Some(chain(&error));
    }
    let mut signing = valid.keys().alive().revoked(false).for_signing();
    let none = "no key in it that signs is neither expired nor revoked";
    signing.next().is_none().then(|| none.to_owned())
}

/// What the verifier asks of us: which keys there are, and whether what it found is enough.
struct Check<'a> {
    keys: &'a Keyrings,
    policy: &'a StandardPolicy<'static>,
    now: SystemTime,
    signer: Option<Fingerprint>,
}

impl VerificationHelper for Check<'_> {
    fn get_certs(&mut self, ids: &[KeyHandle]) -> sequoia_openpgp::Result<Vec<Cert>> {
        let is_named = |handle: KeyHandle| ids.iter().any(|id| id.aliases(&handle));
        let has_named = |certificate: &&Cert| {
            let mut keys = certificate.keys();
            keys.any(|key| is_named(key.key().key_handle()))
        };
        let certificates = self.keys.certificates.values();
        Ok(certificates.filter(has_named).cloned().collect())
    }

    fn check(&mut self, structure: MessageStructure<'_>) -> sequoia_openpgp::Result<()> {
        let layers: Vec<MessageLayer<'_>> = structure.into_iter().collect();
        let [MessageLayer::SignatureGroup { results }] = layers.as_slice() else {
            return Err(OpenPgpProblem::Form.into());
        };
        let [result] = results.as_slice() else {
            return Err(OpenPgpProblem::Form.into());
        };
        let good = result.as_ref().map_err(not_good)?;
        self.check_now(good)?;
        self.signer = Some(good.ka.cert().fingerprint());
        Ok(())
    }
}

impl Check<'_> {
    /// The verifier judges a key as of the time that the signature states, which whoever has a
    /// stolen key may choose; so it is judged again as of now.
    fn check_now(&self, good: &GoodChecksum<'_>) -> Result<(), OpenPgpProblem> {
        if good.sig.typ() != SignatureType::Binary {
            return Err(OpenPgpProblem::Form);
        }
        let fingerprint = good.ka.cert().fingerprint();
        let bad = |why: String| OpenPgpProblem::BadKey {
            fingerprint: fingerprint.to_hex(),
            why,
        };
        let key: ValidErasedKeyAmalgamation<'_, PublicParts> = good
            .ka
            .clone()
            .with_policy(self.policy, self.now)
            .map_err(|error| bad(chain(&error)))?;
        key.valid_cert()
            .alive()
            .and_then(|()| key.alive())
            .map_err(|error| bad(chain(&error)))?;
        let statuses = [
            key.valid_cert().revocation_status(),
            key.revocation_status(),
        ];
        let revoked = |status| matches!(status, RevocationStatus::Revoked(_));
        if statuses.into_iter().any(revoked) {
            return Err(bad("it is revoked".to_owned()));
        }
        if !key.for_signing() {
            return Err(bad("it is no longer for signing".to_owned()));
        }
        Ok(())
    }
}

/// The message without the one compressed packet that it may be in.
///
/// The library is built without decompression: this cap is the only way in.
fn plain(message: &[u8]) -> Result<Cow<'_, [u8]>, OpenPgpProblem> {
    if message.len() > MAX_MESSAGE_BYTES {
        let limit = MAX_MESSAGE_BYTES;
        return Err(OpenPgpProblem::TooLarge { limit });
    }
    // RFC 9580 section 4.2: the first bit of a packet is always set. Armor is text.
    if message.first().is_none_or(|byte| byte & 0x80 == 0) {
        return Err(OpenPgpProblem::NotBinary);
    }
    let packets = first_packets(message, 1)?;
    let Some(Packet::CompressedData(compressed)) = packets.first() else {
        return Ok(Cow::Borrowed(message));
    };
    if packets.len() > 1 {
        return Err(OpenPgpProblem::Form);
    }
    let unsupported = || OpenPgpProblem::Compression {
        algorithm: compressed.algo().to_string(),
    };
    let Body::Unprocessed(body) = compressed.body() else {
        return Err(unsupported());
    };
    let content = match compressed.algo() {
        CompressionAlgorithm::Zip => inflate(flate2::read::DeflateDecoder::new(body.as_slice())),
        CompressionAlgorithm::Zlib => inflate(flate2::read::ZlibDecoder::new(body.as_slice())),
        _ => Err(unsupported()),
    };
    content.map(Cow::Owned)
}

fn inflate(reader: impl Read) -> Result<Vec<u8>, OpenPgpProblem> {
    let mut content = Vec::new();
    let limit = MAX_UNPACKED_BYTES;
    reader
        .take(u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1))
        .read_to_end(&mut content)
        .map_err(|error| OpenPgpProblem::Unreadable {
            why: error.to_string(),
        })?;
    if content.len() > limit {
        return Err(OpenPgpProblem::TooLarge { limit });
    }
    Ok(content)
}

/// One-pass signature, literal data, signature, and the end.
fn check_form(message: &[u8]) -> Result<(), OpenPgpProblem> {
    let packets = first_packets(message, SIGNED_MESSAGE.len())?;
    let tags: Vec<Tag> = packets.iter().map(Packet::tag).collect();
    if tags == SIGNED_MESSAGE {
        Ok(())
    } else {
        Err(OpenPgpProblem::Form)
    }
}

/// The packets of a message that should have `count`; one more if it has more.
fn first_packets(message: &[u8], count: usize) -> Result<Vec<Packet>, OpenPgpProblem> {
    let mut next = PacketParserBuilder::from_bytes(message)
        .and_then(|builder| {
            builder
                .dearmor(Dearmor::Disabled)
                .max_recursion_depth(0)
                .buffer_unread_content()
                .build()
        })
        .map_err(problem)?;
    let mut found = Vec::new();
    while let PacketParserResult::Some(parser) = next
        && found.len() <= count
    {
        let (packet, rest) = parser.next().map_err(problem)?;
        found.push(packet);
        next = rest;
    }
    Ok(found)
}

fn policy(hashes: Hashes, now: SystemTime) -> StandardPolicy<'static> {
    // Which algorithms are weak does not depend on what the host's clock says.
    let mut policy = StandardPolicy::at(now.max(SystemTime::UNIX_EPOCH + POLICY_DATE));
    policy.reject_hash(HashAlgorithm::MD5);
    policy.reject_hash(HashAlgorithm::RipeMD);
    policy.reject_asymmetric_algo(AsymmetricAlgorithm::RSA1024);
    policy.reject_asymmetric_algo(AsymmetricAlgorithm::DSA1024);
    match hashes {
        Hashes::Strong => policy.reject_hash(HashAlgorithm::SHA1),
        Hashes::AlsoSha1 => policy.accept_hash(HashAlgorithm::SHA1),
    }
    policy
}

/// The armored blocks of a keyring, or the whole of a binary one.
fn blocks(keyring: &[u8]) -> Result<Vec<&[u8]>, KeyringError> {
    match keyring.first() {
        None => return Ok(Vec::new()),
        Some(byte) if byte & 0x80 != 0 => return Ok(vec![keyring]),
        Some(_) => {}
    }
    let Ok(text) = std::str::from_utf8(keyring) else {
        return Err(KeyringError::NotAKeyring);
    };
    let mut starts: Vec<usize> = text.match_indices(ARMOR).map(|(at, _)| at).collect();
    if starts.is_empty() {
        return Err(KeyringError::NotAKeyring);
    }
    if text.matches("BEGIN PGP").count() != starts.len() {
        let why = format!("not every armored block of it begins with {ARMOR}");
        return Err(KeyringError::Unreadable { why });
    }
    starts.push(text.len());
    let block = |pair: &[usize]| match pair {
        [start, end] => keyring.get(*start..*end),
        _ => None,
    };
    Ok(starts.windows(2).filter_map(block).collect())
}

/// Whether each revocation that is there can be checked; the library leaves out what it cannot.
///
/// What binds user IDs and subkeys may be damaged: without it there is less to sign with.
fn check_revocations(certificate: &Cert) -> Result<(), KeyringError> {
    let is_binding = |signature: &Signature| BINDINGS.contains(&signature.typ());
    let by_others = |key: ErasedKeyAmalgamation<'_, PublicParts>| {
        key.bundle().other_revocations().next().is_some()
    };
    if certificate.bad_signatures().all(is_binding) && !certificate.keys().any(by_others) {
        return Ok(());
    }
    let fingerprint = certificate.fingerprint().to_hex();
    Err(KeyringError::Revocation { fingerprint })
}

/// The packets of a keyring, none of which can be a revocation that the library leaves out.
fn ring_packets(block: &[u8]) -> Result<Vec<Packet>, KeyringError> {
    let mut next = PacketParserBuilder::from_bytes(block)
        .and_then(|builder| {
            builder
                .max_recursion_depth(0)
                .buffer_unread_content()
                .build()
        })
        .map_err(|error| unreadable(&error))?;
    let mut found = Vec::new();
    while let PacketParserResult::Some(parser) = next {
        let (packet, rest) = parser.next().map_err(|error| unreadable(&error))?;
        match &packet {
            // What `gpg --gen-revoke` writes.
            Packet::Signature(_) if found.is_empty() => return Err(KeyringError::LoneRevocation),
            Packet::Unknown(unknown) if !MAY_BE_UNKNOWN.contains(&unknown.tag()) => {
                let packet = unknown.tag().to_string();
                return Err(KeyringError::UnknownPacket { packet });
            }
            _ => {}
        }
        found.push(packet);
        next = rest;
    }
    Ok(found)
}

fn not_good(error: &sequoia_openpgp::parse::stream::VerificationError<'_>) -> OpenPgpProblem {
    use sequoia_openpgp::parse::stream::VerificationError;
    match error {
        VerificationError::MissingKey { sig } => OpenPgpProblem::OtherKey {
            issuers: sig.get_issuers().iter().map(KeyHandle::to_hex).collect(),
        },
        VerificationError::UnboundKey { cert, error, .. } => OpenPgpProblem::BadKey {
            fingerprint: cert.fingerprint().to_hex(),
            why: chain(error),
        },
        VerificationError::BadKey { ka, error, .. } => OpenPgpProblem::BadKey {
            fingerprint: ka.cert().fingerprint().to_hex(),
            why: chain(error),
        },
        VerificationError::BadSignature { error, .. }
        | VerificationError::MalformedSignature { error, .. } => {
            OpenPgpProblem::BadSignature { why: chain(error) }
        }
        other => OpenPgpProblem::BadSignature {
            why: other.to_string(),
        },
    }
}

/// What the verifier answers is often what we told it.
fn problem(error: sequoia_openpgp::anyhow::Error) -> OpenPgpProblem {
    match error.downcast::<OpenPgpProblem>() {
        Ok(problem) => problem,
        Err(error) => OpenPgpProblem::Unreadable { why: chain(&error) },
    }
}

fn unreadable(error: &sequoia_openpgp::anyhow::Error) -> KeyringError {
    KeyringError::Unreadable { why: chain(error) }
}

fn chain(error: &sequoia_openpgp::anyhow::Error) -> String {
    format!("{error:#}")
}

fn issuer(issuers: &[String]) -> String {
    if issuers.is_empty() {
        "somebody it does not name".to_owned()
    } else {
        issuers.join(", ")
    }
}

const SIGNED_MESSAGE: [Tag; 3] = [Tag::OnePassSig, Tag::Literal, Tag::Signature];
/// The types of signature that a key is made of and that take nothing from it.
const BINDINGS: [SignatureType; 8] = [
    SignatureType::GenericCertification,
    SignatureType::PersonaCertification,
    SignatureType::CasualCertification,
    SignatureType::PositiveCertification,
    SignatureType::CertificationApproval,
    SignatureType::SubkeyBinding,
    SignatureType::PrimaryKeyBinding,
    SignatureType::DirectKey,
];
/// Of a version or kind that is yet to come: nothing counts by them.
const MAY_BE_UNKNOWN: [Tag; 3] = [Tag::PublicSubkey, Tag::UserID, Tag::UserAttribute];
const ARMOR: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";

/// The reference implementation's limit for one signature.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// For what a signature unpacks to, which anyone may have packed: honest ones have 1 KiB.
const MAX_UNPACKED_BYTES: usize = 64 * 1024;
const MAX_KEYRING_BYTES: usize = 4 * 1024 * 1024;
const CLOCK_SKEW: Duration = Duration::from_mins(5);
/// 2026-01-01: the algorithms that were weak by then are weak whatever the clock says.
const POLICY_DATE: Duration = Duration::from_hours(24 * 20_454);
