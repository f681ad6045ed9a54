//! Whose cosign signatures count: what a requirement names, fetched and read.

use std::time::UNIX_EPOCH;

use crate::attached::signature_as_bundle;
use crate::authority::{Authority, SignerCertificate};
use crate::cosign::{
    BUNDLE_ANNOTATION, CERTIFICATE_ANNOTATION, CHAIN_ANNOTATION, SignatureProblem, open_cosign,
};
use crate::decision::Refusal;
use crate::digest::Digest;
use crate::encoding::decode_base64;
use crate::evidence::{CosignSignature, Evidence};
use crate::fingerprint::Fingerprint;
use crate::identities::Identities;
use crate::key::{KeyError, PublicKey};
use crate::payload::Payload;
use crate::rekor::{LogEntry, LogKey, Signer, UntrustedLogEntry};
use crate::requirement::{
    Fulcio, Material, Piece, Pki, RootSource, RootTrust, SigstoreSigned, Trust,
};
use crate::rules::{load_pieces, resource};
use crate::sigstore::{
    BundleArtifact, BundleProblem, Demands, TrustedRoot, TrustedRootError, UntrustedBundle,
};

/// Those whose signatures count.
#[derive(Debug)]
pub(crate) enum Signers {
    Keys(Vec<PublicKey>),
    /// Keys whose signatures must have been logged.
    LoggedKeys(
        Vec<PublicKey>,
        Vec<LogKey>,
        Box<Result<TrustedRoot, TrustedRootError>>,
    ),
    /// Holders of certificates that live for minutes: the log tells when they signed.
    Fulcio(Authority, Vec<LogKey>),
    /// Holders of certificates that are valid at that time, in seconds since 1970.
    Pki(Authority, u64),
    /// Holders of certificates by the services of a trusted root.
    Root(Box<RootSigners>),
}

/// A trusted root, and those who count among all who can sign under it.
#[derive(Debug)]
pub(crate) struct RootSigners {
    root: TrustedRoot,
    identities: Identities,
    demands: Demands,
}

impl RootSigners {
    fn load(wanted: &RootTrust, evidence: &Evidence) -> Result<Self, Refusal> {
        let (location, root) = match &wanted.root {
            RootSource::PublicGood => (PUBLIC_GOOD, TrustedRoot::public_good()),
            RootSource::Inline(document) => ("in the policy", TrustedRoot::parse(document)),
            RootSource::Path(path) => {
                (path.as_str(), TrustedRoot::parse(resource(path, evidence)?))
            }
        };
        let checked = root.and_then(|root| root.check(wanted.demands).map(|()| root));
        let root = checked.map_err(|problem| Refusal::TrustedRootUnusable {
            location: location.to_owned(),
            problem,
        })?;
        let (identities, demands) = (wanted.identities.clone(), wanted.demands);
        Ok(Self {
            root,
            identities,
            demands,
        })
    }

    fn verify(
        &self,
        bundle: &UntrustedBundle,
        artifact: BundleArtifact<'_>,
    ) -> Result<SignedBy, SignatureProblem> {
        // The engine refuses what bears a timestamp that it cannot check, demanded or not.
        let bundle = if self.root.has_clocks() {
            bundle
        } else {
            &bundle.without_timestamps()
        };
        let verified = self
            .root
            .verify_certificate(bundle, artifact, self.demands)?;
        let leaf = &verified.certificate;
        let named = self.identities.named_by(leaf);
        let (subject, issuer) = named.map_err(BundleProblem::OtherSigner)?;
        let certificate = SignerCertificate::of_identity(leaf, subject, issuer)?;
        Ok(SignedBy {
            signer: Fingerprint::Holder(certificate.holder()),
            certificate: Some(Box::new(certificate)),
            logged_at: verified.logged_at,
        })
    }
}

/// Who signed a statement.
#[derive(Debug)]
pub(crate) struct SignedBy {
    pub(crate) signer: Fingerprint,
    pub(crate) certificate: Option<Box<SignerCertificate>>,
    pub(crate) logged_at: Option<u64>,
}

/// A signature that holds, by one of the signers.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) signer: Fingerprint,
    pub(crate) certificate: Option<Box<SignerCertificate>>,
    /// When a log took it in, in seconds since 1970: it is not younger, and may be older.
    pub(crate) logged_at: Option<u64>,
    pub(crate) payload: Payload,
}

impl Signers {
    /// Every key and certificate of the requirement, or the first that is not to be had: one that
    /// is left out would make the requirement another one.
    pub(crate) fn load(wanted: &SigstoreSigned, evidence: &Evidence) -> Result<Self, Refusal> {
        match (&wanted.trust, &wanted.rekor) {
            (Trust::Keys(keys), None) => Ok(Self::Keys(load_keys(keys, evidence)?)),
            (Trust::Keys(keys), Some(logs)) => {
                let keys = load_keys(keys, evidence)?;
                let logs = load_logs(logs, evidence)?;
                let root = Box::new(TrustedRoot::of_logs(&logs));
                Ok(Self::LoggedKeys(keys, logs, root))
            }
            (Trust::Root(wanted), None) => RootSigners::load(wanted, evidence)
                .map(Box::new)
                .map(Self::Root),
            (Trust::Fulcio(fulcio), Some(logs)) => Ok(Self::Fulcio(
                load_fulcio(fulcio, evidence)?,
                load_logs(logs, evidence)?,
            )),
            (Trust::Pki(pki), None) => Ok(Self::Pki(load_pki(pki, evidence)?, now(evidence)?)),
            // The parser lets none of these through.
            (Trust::Root(_), Some(_)) => Err(Refusal::Unsupported {
                feature: "trustedRoot with a rekorPublicKey",
            }),
            (Trust::Fulcio(_), None) => Err(Refusal::Unsupported {
                feature: "fulcio without a rekorPublicKey",
            }),
            (Trust::Pki(_), Some(_)) => Err(Refusal::Unsupported {
                feature: "pki with a rekorPublicKey",
            }),
        }
    }

    /// The payload, once one of the signers has made the base64 `signature` over its bytes, and a
    /// log has taken it in where one must.
    pub(crate) fn open(
        &self,
        found: &CosignSignature,
        untrusted_payload: &[u8],
        signature: &str,
    ) -> Result<Opened, SignatureProblem> {
        let by_key = |keys: &[PublicKey], logged_at| {
            let (key, payload) = open_cosign(keys, untrusted_payload, signature)?;
            Ok(Opened {
                signer: Fingerprint::Spki(*key.fingerprint()),
                certificate: None,
                logged_at,
                payload,
            })
        };
        let by_certificate = |(key, certificate): (PublicKey, SignerCertificate), logged_at| {
            let opened = by_key(&[key], logged_at)?;
            Ok(Opened {
                // The key may live for minutes; its holder is who signed.
                signer: Fingerprint::Holder(certificate.holder()),
                certificate: Some(Box::new(certificate)),
                ..opened
            })
        };
        match self {
            Self::Keys(keys) => by_key(keys, None),
            Self::Root(root) => {
                certificate(found)?;
                let bundle = signature_as_bundle(found, untrusted_payload, signature)?;
                let signed = root.verify(&bundle, BundleArtifact::Bytes(untrusted_payload))?;
                Ok(Opened {
                    signer: signed.signer,
                    certificate: signed.certificate,
                    logged_at: signed.logged_at,
                    payload: Payload::parse_cosign(untrusted_payload)?,
                })
            }
            Self::LoggedKeys(keys, logs, _root) => {
                let entry = entry(found, logs)?;
                let signers = keys.iter().map(|key| Signer::Key(*key.fingerprint()));
                let place = entry.signer_among(signers)?;
                let time = entry.about(&decode_base64(signature)?, untrusted_payload)?;
                // The key that is logged, and no other of the policy's.
                let key = keys.get(place..=place).unwrap_or_default();
                by_key(key, Some(time))
            }
            Self::Fulcio(authority, logs) => {
                let entry = entry(found, logs)?;
                let pem = certificate(found)?;
                entry.signer_among([Signer::from_pem(pem)?])?;
                let time = entry.about(&decode_base64(signature)?, untrusted_payload)?;
                let vouched = authority.vouch(pem, chain(found), time)?;
                by_certificate(vouched, Some(time))
            }
            Self::Pki(authority, now) => {
                let vouched = authority.vouch(certificate(found)?, chain(found), *now)?;
                by_certificate(vouched, None)
            }
        }
    }
}

impl Signers {
    /// Whether evidence beside a signature is of no use: what is not understood of it must do no
    /// harm either.
    pub(crate) fn need_the_signature_alone(&self) -> bool {
        matches!(self, Self::Keys(_))
    }

    /// Who of the signers may have made `bundle`: nothing of what it says is read for that. A key is
    /// the one whose signature it has.
    pub(crate) fn claimant(
        &self,
        bundle: &UntrustedBundle,
    ) -> Result<Claimant<'_>, SignatureProblem> {
        match self {
            Self::Keys(keys) => Ok(Claimant::Key(signer_among(keys, bundle)?)),
            Self::LoggedKeys(keys, _logs, root) => {
                let key = signer_among(keys, bundle)?;
                match root.as_ref() {
                    Ok(root) => Ok(Claimant::LoggedKey(key, root)),
                    Err(problem) => Err(SignatureProblem::Logs(problem.clone())),
                }
            }
            Self::Root(root) => Ok(Claimant::Certificate(root)),
            Self::Fulcio(..) => Err(SignatureProblem::NoBundles { rule: "fulcio" }),
            Self::Pki(..) => Err(SignatureProblem::NoBundles { rule: "pki" }),
        }
    }
}

/// Who may have made a bundle, as far as that can be told without knowing what it is about.
#[derive(Debug)]
pub(crate) enum Claimant<'s> {
    /// This key has signed it.
    Key(&'s PublicKey),
    /// This key has signed it, and one of these logs must have it.
    LoggedKey(&'s PublicKey, &'s TrustedRoot),
    /// Whoever has a certificate: the engine judges that together with all the rest.
    Certificate(&'s RootSigners),
}

impl Claimant<'_> {
    /// Who signed the statement in `bundle`, which is about `digest`.
    pub(crate) fn prove(
        &self,
        bundle: &UntrustedBundle,
        digest: &Digest,
    ) -> Result<SignedBy, SignatureProblem> {
        let signed_by = |key: &PublicKey, logged_at| SignedBy {
            signer: Fingerprint::Spki(*key.fingerprint()),
            certificate: None,
            logged_at,
        };
        let artifact = BundleArtifact::Digest(digest);
        match self {
            Self::Key(key) => Ok(signed_by(key, None)),
            Self::LoggedKey(key, root) => {
                // Bare keys of logs name no authority that a timestamp could be by.
                let bundle = bundle.without_timestamps();
                let logged_at = root.verify_logged_key(&bundle, artifact, key)?;
                Ok(signed_by(key, logged_at))
            }
            Self::Certificate(root) => root.verify(bundle, artifact),
        }
    }
}

impl SigstoreSigned {
    /// Whether bundles can meet it.
    pub(crate) fn takes_bundles(&self) -> bool {
        matches!(self.trust, Trust::Keys(_) | Trust::Root(_))
    }

    /// Whether it is likely that only bundles meet it.
    pub(crate) fn wants_bundles(&self) -> bool {
        matches!(self.trust, Trust::Root(_))
    }

    /// Where everything is that it names.
    pub(crate) fn locations(&self) -> impl Iterator<Item = &str> {
        let trusted = match &self.trust {
            Trust::Keys(keys) => vec![keys],
            Trust::Fulcio(fulcio) => std::iter::once(&fulcio.ca).chain(&fulcio.ct_log).collect(),
            Trust::Pki(pki) => std::iter::once(&pki.roots)
                .chain(&pki.intermediates)
                .chain(&pki.ct_log)
                .collect(),
            Trust::Root(_) => Vec::new(),
        };
        let root = match &self.trust {
            Trust::Root(wanted) => wanted.root.path(),
            _ => None,
        };
        let material = trusted.into_iter().chain(&self.rekor);
        let pieces = material.flat_map(Material::pieces).filter_map(Piece::path);
        pieces.chain(root)
    }
}

/// The key that signed the envelope in `bundle`.
fn signer_among<'k>(
    keys: &'k [PublicKey],
    bundle: &UntrustedBundle,
) -> Result<&'k PublicKey, SignatureProblem> {
    for key in keys {
        if bundle.is_signed_by(key)? {
            return Ok(key);
        }
    }
    Err(SignatureProblem::OtherKey { tried: keys.len() })
}

fn entry(found: &CosignSignature, logs: &[LogKey]) -> Result<LogEntry, SignatureProblem> {
    let bundle = found.annotations.get(BUNDLE_ANNOTATION);
    let bundle = bundle.ok_or(SignatureProblem::NoBundle)?;
    Ok(UntrustedLogEntry::parse(bundle.as_bytes())?.promised_by(logs)?)
}

fn certificate(found: &CosignSignature) -> Result<&[u8], SignatureProblem> {
    let pem = found.annotations.get(CERTIFICATE_ANNOTATION);
    pem.map(String::as_bytes)
        .ok_or(SignatureProblem::NoCertificate)
}

fn chain(found: &CosignSignature) -> &[u8] {
    let pem = found.annotations.get(CHAIN_ANNOTATION);
    pem.map(String::as_bytes).unwrap_or_default()
}

fn load_keys(material: &Material, evidence: &Evidence) -> Result<Vec<PublicKey>, Refusal> {
    load(material, evidence, PublicKey::from_pem)
}

fn load_logs(material: &Material, evidence: &Evidence) -> Result<Vec<LogKey>, Refusal> {
    load(material, evidence, LogKey::from_pem)
}

fn load<K>(
    material: &Material,
    evidence: &Evidence,
    read: impl Fn(&[u8]) -> Result<K, KeyError>,
) -> Result<Vec<K>, Refusal> {
    let load =
        |(location, pem)| read(pem).map_err(|problem| Refusal::KeyUnusable { location, problem });
    let pieces = load_pieces(material, evidence)?;
    pieces.into_iter().map(load).collect()
}

/// The certificates in a requirement are one text.
fn certificates(material: &Material, evidence: &Evidence) -> Result<(String, Vec<u8>), Refusal> {
    let pieces = load_pieces(material, evidence)?;
    let (locations, texts): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
    Ok((locations.join(", "), texts.join(&b'\n')))
}

fn load_fulcio(wanted: &Fulcio, evidence: &Evidence) -> Result<Authority, Refusal> {
    let (location, ca) = certificates(&wanted.ca, evidence)?;
    let authority = Authority::fulcio(&ca, &wanted.oidc_issuer, &wanted.subject_email)
        .map_err(|problem| Refusal::AuthorityUnusable { location, problem })?;
    logged(authority, wanted.ct_log.as_ref(), evidence)
}

fn logged(
    authority: Authority,
    logs: Option<&Material>,
    evidence: &Evidence,
) -> Result<Authority, Refusal> {
    match logs {
        Some(logs) => Ok(authority.logged_by(load_logs(logs, evidence)?)),
        None => Ok(authority),
    }
}

fn load_pki(wanted: &Pki, evidence: &Evidence) -> Result<Authority, Refusal> {
    let (mut location, roots) = certificates(&wanted.roots, evidence)?;
    let intermediates = wanted.intermediates.as_ref();
    let intermediates = intermediates.map(|material| certificates(material, evidence));
    let intermediates = intermediates.transpose()?.map(|(more, pem)| {
        location = format!("{location} with {more}");
        pem
    });
    let (email, hostname) = (&wanted.subject_email, &wanted.subject_hostname);
    let authority = Authority::pki(
        &roots,
        intermediates.as_deref(),
        email.as_deref(),
        hostname.as_deref(),
    );
    let authority =
        authority.map_err(|problem| Refusal::AuthorityUnusable { location, problem })?;
    logged(authority, wanted.ct_log.as_ref(), evidence)
}

/// The clock is the host's: it can play an expired certificate back, as it can any clock.
fn now(evidence: &Evidence) -> Result<u64, Refusal> {
    let now = evidence.now.ok_or(Refusal::NoTime)?;
    let since = now.duration_since(UNIX_EPOCH);
    // Before 1970 no certificate is valid.
    Ok(since.map_or(0, |since| since.as_secs()))
}

const PUBLIC_GOOD: &str = "public-good";
