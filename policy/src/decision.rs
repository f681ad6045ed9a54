//! A decision is a value: what was asked, what was proved, and what was wrong with the rest.

mod refusal;

use std::fmt;

use serde::Serialize;

use crate::authority::SignerCertificate;
use crate::cosign::SignatureProblem;
use crate::digest::Digest;
use crate::evidence::Failure;
use crate::fingerprint::Fingerprint;
use crate::manifest::{Manifest, SubjectKind, Unverified};
use crate::printable::printable;
use crate::reference::ImageRef;
use crate::scope::Scope;

pub use self::refusal::Refusal;
use self::refusal::SIGNATURES_LATER;

/// The answer of a policy for one image, with every reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    reference: ImageRef,
    manifest_digest: Digest,
    index_digest: Option<Digest>,
    policy_digest: Digest,
    scope: Scope,
    findings: Vec<Finding>,
}

impl Decision {
    pub(crate) fn new(
        manifest: &Unverified<Manifest>,
        policy_digest: Digest,
        scope: Scope,
        findings: Vec<Finding>,
    ) -> Self {
        Self {
            reference: manifest.reference().clone(),
            manifest_digest: *manifest.digest(),
            index_digest: manifest.via().copied(),
            policy_digest,
            scope,
            findings,
        }
    }

    /// Whether the image may run: there are requirements, and every one is met.
    pub fn is_allowed(&self) -> bool {
        let met = |finding: &Finding| matches!(finding.outcome, Outcome::Met(_));
        !self.findings.is_empty() && self.findings.iter().all(met)
    }

    /// Whether it refuses only for what could not be fetched for the time being: the same image may
    /// be allowed later without anybody changing anything.
    pub fn is_undecided(&self) -> bool {
        let refused = |finding: &&Finding| matches!(finding.outcome, Outcome::Refused(_));
        let mut refused = self.findings.iter().filter(refused).peekable();
        refused.peek().is_some() && refused.all(|finding| finding.hangs_on(Failure::Transient))
    }

    /// Whether the index that the manifest was chosen from is as good as the manifest: whatever
    /// was proved was proved of it, or nobody asks for anything. Otherwise it only led to the
    /// manifest, and what it says of the platform is the registry's word.
    pub(crate) fn trusts_index(&self) -> bool {
        let Some(index) = &self.index_digest else {
            return false;
        };
        let mut subjects = Vec::new();
        for finding in &self.findings {
            finding.add_subjects(index, &mut subjects);
        }
        let demands_nothing = |finding: &Finding| {
            matches!(
                finding.outcome,
                Outcome::Met(Grounds::InsecureAcceptAnything)
            )
        };
        if subjects.is_empty() {
            self.findings.iter().all(demands_nothing)
        } else {
            !subjects.contains(&SubjectKind::Manifest)
        }
    }

    /// The reference that was asked for.
    pub fn reference(&self) -> &ImageRef {
        &self.reference
    }

    /// The digest of the manifest decided on.
    pub fn manifest_digest(&self) -> &Digest {
        &self.manifest_digest
    }

    /// The digest of the index that the manifest was chosen from.
    pub fn index_digest(&self) -> Option<&Digest> {
        self.index_digest.as_ref()
    }

    /// The digest of the policy document.
    pub fn policy_digest(&self) -> &Digest {
        &self.policy_digest
    }

    /// The entry of the policy that spoke.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What became of each requirement, in the order of the policy.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The record of the decision as canonical JSON (RFC 8785).
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json_canonicalizer::to_string(&self.record())
    }

    fn record(&self) -> Record<'_> {
        Record {
            allowed: self.is_allowed(),
            asked: self.reference.as_asked(),
            index_digest: self.index_digest,
            manifest_digest: self.manifest_digest,
            policy_digest: self.policy_digest,
            reference: self.reference.to_string(),
            requirements: self.findings.iter().map(FindingRecord::new).collect(),
            scope: &self.scope,
        }
    }
}

impl Serialize for Decision {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.record().serialize(serializer)
    }
}

/// What became of one requirement.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Finding {
    /// The requirement's type in the policy.
    pub requirement: &'static str,
    /// The result.
    pub outcome: Outcome,
    /// The signatures that did not count, and why.
    pub rejected: Vec<Rejected>,
    /// What became of the members of a threshold, as far as they were looked at.
    pub members: Vec<Finding>,
}

impl Finding {
    /// Adds which documents the proofs are about, also those of the members that are met.
    fn add_subjects(&self, index: &Digest, subjects: &mut Vec<SubjectKind>) {
        let Outcome::Met(grounds) = &self.outcome else {
            return;
        };
        match grounds {
            Grounds::Signature(proof) => subjects.push(proof.subject),
            Grounds::DigestAllowed(digest) if digest == index => subjects.push(SubjectKind::Index),
            Grounds::DigestAllowed(_) => subjects.push(SubjectKind::Manifest),
            Grounds::Members(_) => {
                for member in &self.members {
                    member.add_subjects(index, subjects);
                }
            }
            Grounds::InsecureAcceptAnything
            | Grounds::LayersEncrypted(_)
            | Grounds::AskedByDigest => {}
        }
    }

    /// Whether it is refused and, for all one knows, would not be without failures of this kind.
    fn hangs_on(&self, failure: Failure) -> bool {
        let Outcome::Refused(refusal) = &self.outcome else {
            return false;
        };
        let payload = || {
            let mut problems = self.rejected.iter().map(|rejected| &rejected.problem);
            problems.any(|problem| {
                matches!(problem, SignatureProblem::NotFetched { why } if why.failure == failure)
            })
        };
        match refusal {
            Refusal::KeyNotFetched { why, .. } => why.failure == failure,
            Refusal::NotListed { why, .. } => why.failure == failure || payload(),
            Refusal::NoneCounts { .. } => payload(),
            Refusal::TooFew { wanted, found, .. } => {
                let missing = self.members_that_hang_on(failure).count();
                missing > 0 && found + missing >= *wanted
            }
            _ => false,
        }
    }

    fn members_that_hang_on(&self, failure: Failure) -> impl Iterator<Item = &Self> {
        let hangs = move |member: &&Self| member.hangs_on(failure);
        self.members.iter().filter(hangs)
    }

    /// The cause of a refusal, from a closed list and without names: what is behind a threshold if
    /// nothing else is in its way.
    fn cause(&self) -> Option<&'static str> {
        let Outcome::Refused(refusal) = &self.outcome else {
            return None;
        };
        let behind = [Failure::Transient, Failure::NotConfigured]
            .into_iter()
            .filter(|failure| self.hangs_on(*failure))
            .find_map(|failure| self.members_that_hang_on(failure).next());
        match refusal {
            Refusal::NotListed { .. } | Refusal::NoneCounts { .. }
                if self.hangs_on(Failure::Transient) =>
            {
                Some(SIGNATURES_LATER)
            }
            _ => behind.map_or_else(|| Some(refusal.cause()), Self::cause),
        }
    }

    pub(crate) fn new(requirement: &'static str, outcome: Outcome) -> Self {
        Self {
            requirement,
            outcome,
            rejected: Vec::new(),
            members: Vec::new(),
        }
    }

    pub(crate) fn refused(requirement: &'static str, refusal: Refusal) -> Self {
        Self::new(requirement, Outcome::Refused(refusal))
    }
}

/// The result for one requirement. Complete: it is met, or it is not, or nobody looked.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Met, and on what grounds.
    Met(Grounds),
    /// Not met, and why.
    Refused(Refusal),
    /// Another requirement refuses whatever this one would say.
    NotExamined,
}

/// On what grounds a requirement is met. Complete.
#[derive(Debug, Clone, PartialEq)]
pub enum Grounds {
    /// The policy demands nothing.
    InsecureAcceptAnything,
    /// A signature.
    Signature(Box<Proof>),
    /// The policy lists the digest, of the manifest or of the index.
    DigestAllowed(Digest),
    /// All layers are encrypted: so many.
    LayersEncrypted(usize),
    /// The image was asked for by digest.
    AskedByDigest,
    /// So many members of a threshold.
    Members(usize),
}

impl fmt::Display for Grounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InsecureAcceptAnything => f.write_str("the policy demands nothing"),
            Self::Signature(proof) => write!(f, "it is signed by {}", proof.key_fingerprint),
            Self::DigestAllowed(digest) => write!(f, "the policy lists {digest}"),
            Self::LayersEncrypted(count) => write!(f, "all layers are encrypted, {count} of them"),
            Self::AskedByDigest => f.write_str("it was asked for by digest"),
            Self::Members(count) => write!(f, "{count} of its members are met"),
        }
    }
}

/// The signature that met a requirement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Proof {
    /// Who signed.
    pub key_fingerprint: Fingerprint,
    /// The certificate that names the signer, where it is not a key of the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Box<SignerCertificate>>,
    /// When a transparency log of the policy took the signature in, in seconds since 1970. It was
    /// made before that; anyone may log an old signature late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logged_at: Option<u64>,
    /// Where the signature was found.
    pub found: String,
    /// Which document it is on.
    pub subject: SubjectKind,
    /// The reference that it names.
    pub signed_reference: String,
    /// What an attestation says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicate_type: Option<String>,
}

/// What stands in place of a reference where a signature names none: any repository that has this
/// digest will do. One key or identity for each repository tells them apart.
pub(crate) const DIGEST_ONLY: &str =
    "digest only (a bundle names no repository: use one key or identity per repository)";

/// A signature that does not count.
///
/// Both of its texts may be what a stranger wrote. It displays as where and why, each cut and
/// without control characters, as in the record.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rejected {
    /// Where it was found.
    pub found: String,
    /// What is wrong with it.
    pub problem: SignatureProblem,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (found, problem) = (printable(&self.found), printable(&self.problem));
        write!(f, "{found}: {problem}")
    }
}

/// The policy does not allow the image. This is an answer, not a fault: asking again changes
/// nothing, unless it [is undecided](Decision::is_undecided).
///
/// Displays as one paragraph that names keys and signatures; it is for the owner, not for the
/// host, for whom there is [`Denied::cause`].
#[derive(Debug, Clone, PartialEq)]
pub struct Denied {
    decision: Box<Decision>,
}

impl Denied {
    pub(crate) fn new(decision: Decision) -> Self {
        Self {
            decision: Box::new(decision),
        }
    }

    /// The decision, with every reason.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The first cause, from a closed list and without names.
    pub fn cause(&self) -> &'static str {
        let findings = &self.decision.findings;
        let cause = findings.iter().find_map(Finding::cause);
        cause.unwrap_or("nothing was proved")
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = &self.decision;
        let verdict = if decision.is_undecided() {
            "cannot be judged for now"
        } else {
            "is denied"
        };
        write!(
            f,
            "{} {verdict} by the policy's {}",
            decision.reference, decision.scope
        )?;
        for (finding, number) in decision.findings.iter().zip(1_usize..) {
            if let Outcome::Refused(_) = &finding.outcome {
                write!(f, "; requirement {number}, {}", Refused(finding))?;
            }
        }
        Ok(())
    }
}

/// A finding that is a refusal, with all that led to it.
struct Refused<'a>(&'a Finding);

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let finding = self.0;
        let Outcome::Refused(refusal) = &finding.outcome else {
            return write!(f, "{} is met", finding.requirement);
        };
        write!(f, "{}: {refusal}", finding.requirement)?;
        for (index, rejected) in finding.rejected.iter().enumerate() {
            let mark = if index == 0 { ":" } else { "," };
            write!(f, "{mark} {rejected}")?;
        }
        for (index, member) in finding.members.iter().enumerate() {
            let mark = if index == 0 { " (" } else { "; " };
            write!(f, "{mark}{}", Self(member))?;
        }
        f.write_str(if finding.members.is_empty() { "" } else { ")" })
    }
}

impl std::error::Error for Denied {}

#[derive(Serialize)]
struct Record<'a> {
    allowed: bool,
    asked: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    index_digest: Option<Digest>,
    manifest_digest: Digest,
    policy_digest: Digest,
    reference: String,
    requirements: Vec<FindingRecord<'a>>,
    scope: &'a Scope,
}

#[derive(Serialize)]
struct FindingRecord<'a> {
    requirement: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<&'a Proof>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rejected: Vec<RejectedRecord>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<FindingRecord<'a>>,
}

impl<'a> FindingRecord<'a> {
    fn new(finding: &'a Finding) -> Self {
        let (outcome, signature, reason) = match &finding.outcome {
            Outcome::Met(Grounds::InsecureAcceptAnything) => ("met", None, None),
            Outcome::Met(Grounds::Signature(proof)) => ("met", Some(proof.as_ref()), None),
            Outcome::Met(grounds) => ("met", None, Some(grounds.to_string())),
            Outcome::Refused(refusal) => ("refused", None, Some(refusal.to_string())),
            Outcome::NotExamined => ("not examined", None, None),
        };
        let record = |rejected: &Rejected| RejectedRecord {
            found: printable(&rejected.found),
            problem: printable(&rejected.problem),
        };
        let rejected = finding.rejected.iter().map(record).collect();
        Self {
            requirement: finding.requirement,
            outcome,
            signature,
            reason,
            rejected,
            members: finding.members.iter().map(FindingRecord::new).collect(),
        }
    }
}

#[derive(Serialize)]
struct RejectedRecord {
    found: String,
    problem: String,
}
