//! The rules for one reference: what they need, and what they decide.

use crate::approved::{Approved, conclude};
use crate::cosign;
use crate::decision::{Decision, Denied, Finding, Grounds, Outcome, Refusal, Rejected};
use crate::document::Policy;
use crate::evidence::{CosignSignature, Evidence, Needs};
use crate::identity::SignedIdentity;
use crate::key::PublicKey;
use crate::manifest::{Manifest, Unverified};
use crate::reference::ImageRef;
use crate::requirement::{
    KeyType, Material, Piece, Requirement, Requirements, SignedBy, SigstoreSigned, Trust,
};
use crate::scope::Scope;

impl Policy {
    /// The rules for `reference`: those of the most specific scope, and of no other.
    pub fn rules_for(&self, reference: &ImageRef) -> Rules<'_> {
        let scopes = self.transports.get("docker");
        let found = candidate_scopes(reference).find_map(|scope| {
            let requirements = scopes?.get(&scope)?;
            Some((Scope::Docker(scope), requirements))
        });
        let (scope, requirements) = found.unwrap_or((Scope::Default, &self.default));
        Rules {
            policy: self,
            reference: reference.clone(),
            scope,
            requirements,
        }
    }
}

/// What a policy demands of one reference.
#[derive(Debug, Clone)]
pub struct Rules<'a> {
    policy: &'a Policy,
    reference: ImageRef,
    scope: Scope,
    requirements: &'a Requirements,
}

impl Rules<'_> {
    /// The entry of the policy that they come from.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(crate) fn list(&self) -> &Requirements {
        self.requirements
    }

    /// The types of the requirements, in the order of the policy.
    pub fn requirements(&self) -> impl Iterator<Item = &'static str> {
        self.requirements.iter().map(Requirement::name)
    }

    /// What must be fetched before [`Rules::decide`] can say more than no.
    ///
    /// Nothing is needed when the answer does not depend on it.
    pub fn needs(&self, manifest: &Unverified<Manifest>) -> Needs {
        let checks: Result<Vec<_>, _> = self.requirements.iter().map(check).collect();
        let mut needs = Needs::default();
        for signature in checks.unwrap_or_default().iter().filter_map(Check::cosign) {
            let paths = signature.keys.pieces().into_iter().filter_map(Piece::path);
            needs.resources.extend(paths.map(str::to_owned));
            needs.cosign_subjects = manifest.subjects().map(|subject| subject.digest).collect();
        }
        needs
    }

    /// Decides whether the image may run. Every requirement must be met.
    pub fn decide(
        &self,
        manifest: Unverified<Manifest>,
        evidence: &Evidence,
    ) -> Result<Approved<Manifest>, Denied> {
        let hopeless = self
            .requirements
            .iter()
            .any(|requirement| check(requirement).is_err());
        let examine = |requirement: &Requirement| match check(requirement) {
            Err(refusal) => Finding::refused(requirement.name(), refusal),
            Ok(_) if hopeless => Finding::new(requirement.name(), Outcome::NotExamined),
            Ok(_) if *manifest.reference() != self.reference => {
                let rules_for = self.reference.to_string();
                Finding::refused(requirement.name(), Refusal::OtherReference { rules_for })
            }
            Ok(Check::Nothing) => {
                let met = Outcome::Met(Grounds::InsecureAcceptAnything);
                Finding::new(requirement.name(), met)
            }
            Ok(Check::Cosign(wanted)) => wanted.examine(&manifest, evidence),
        };
        let findings = self.requirements.iter().map(examine).collect();
        let scope = self.scope.clone();
        let decision = Decision::new(&manifest, *self.policy.digest(), scope, findings);
        conclude(manifest, decision)
    }
}

/// The docker scopes that can speak for a reference, the most specific first.
pub(crate) fn candidate_scopes(reference: &ImageRef) -> impl Iterator<Item = String> {
    std::iter::once(reference.policy_identity())
        .chain(reference.policy_namespaces())
        .chain(std::iter::once(String::new()))
}

/// A requirement that evidence can meet.
enum Check<'a> {
    Nothing,
    Cosign(CosignCheck<'a>),
}

impl<'a> Check<'a> {
    fn cosign(&self) -> Option<&CosignCheck<'a>> {
        match self {
            Self::Cosign(check) => Some(check),
            Self::Nothing => None,
        }
    }
}

/// What there is to check, or why no evidence could ever help.
fn check(requirement: &Requirement) -> Result<Check<'_>, Refusal> {
    let unsupported = |feature| Err(Refusal::Unsupported { feature });
    match requirement {
        Requirement::InsecureAcceptAnything => Ok(Check::Nothing),
        Requirement::Reject => Err(Refusal::Rejects),
        Requirement::SignedBy(SignedBy {
            key_type: KeyType::GpgKeys,
            ..
        }) => unsupported("signedBy, a simple-signing signature by OpenPGP keys,"),
        Requirement::SignedBy(_) => unsupported("signedBy with a keyType other than GPGKeys"),
        Requirement::SignedBaseLayer(_) => unsupported("signedBaseLayer"),
        Requirement::SigstoreSigned(SigstoreSigned {
            trust,
            rekor,
            identity,
        }) => match trust {
            Trust::Fulcio(_) => unsupported("sigstoreSigned with fulcio"),
            Trust::Pki(_) => unsupported("sigstoreSigned with pki"),
            Trust::Keys(_) if rekor.is_some() => {
                unsupported("sigstoreSigned with a rekorPublicKey")
            }
            Trust::Keys(keys) => Ok(Check::Cosign(CosignCheck {
                keys,
                identity: identity.as_ref(),
            })),
        },
    }
}

/// `sigstoreSigned` with keys: one good signature is enough, and bad ones beside it do no harm.
struct CosignCheck<'a> {
    keys: &'a Material,
    identity: Option<&'a SignedIdentity>,
}

impl CosignCheck<'_> {
    fn examine(&self, manifest: &Unverified<Manifest>, evidence: &Evidence) -> Finding {
        let keys = match load_keys(self.keys, evidence) {
            Ok(keys) => keys,
            Err(refusal) => return Finding::refused(SIGSTORE_SIGNED, refusal),
        };
        let (signatures, unlisted) = signatures_on(manifest, evidence);
        let mut rejected = Vec::new();
        for signature in signatures {
            match cosign::verify(signature, &keys, self.identity, manifest) {
                Ok(verified) => {
                    let proof = verified.proof(signature.found.clone());
                    let outcome = Outcome::Met(Grounds::Signature(proof));
                    return Finding {
                        rejected,
                        ..Finding::new(SIGSTORE_SIGNED, outcome)
                    };
                }
                Err(problem) => {
                    rejected.push(Rejected {
                        found: signature.found.clone(),
                        problem,
                    });
                }
            }
        }
        let refusal = unlisted.unwrap_or(match rejected.len() {
            0 => Refusal::NoSignature,
            found => Refusal::NoneCounts { found },
        });
        Finding {
            rejected,
            ..Finding::refused(SIGSTORE_SIGNED, refusal)
        }
    }
}

/// The signatures found on any of the image's documents, and the first failure to list some.
fn signatures_on<'e>(
    manifest: &Unverified<Manifest>,
    evidence: &'e Evidence,
) -> (Vec<&'e CosignSignature>, Option<Refusal>) {
    let mut found = Vec::new();
    let mut unlisted = None;
    for subject in manifest.subjects() {
        match evidence.cosign.get(&subject.digest) {
            Some(Ok(signatures)) => found.extend(signatures),
            Some(Err(why)) => {
                let (subject, why) = (subject.digest, why.clone());
                unlisted.get_or_insert(Refusal::NotListed { subject, why });
            }
            None => {
                let (subject, why) = (subject.digest, NOT_ASKED.to_owned());
                unlisted.get_or_insert(Refusal::NotListed { subject, why });
            }
        }
    }
    (found, unlisted)
}

/// Every key of the requirement, or the first that is not to be had: a key that is left out would
/// make the requirement another one.
fn load_keys(material: &Material, evidence: &Evidence) -> Result<Vec<PublicKey>, Refusal> {
    let load = |(index, piece): (usize, Piece<'_>)| {
        let (location, pem) = match piece {
            Piece::Data(data) => (format!("{index} in the policy"), data),
            Piece::Path(path) => (path.to_owned(), resource(path, evidence)?),
        };
        PublicKey::from_pem(pem).map_err(|problem| Refusal::KeyUnusable { location, problem })
    };
    (1..).zip(material.pieces()).map(load).collect()
}

fn resource<'e>(location: &str, evidence: &'e Evidence) -> Result<&'e [u8], Refusal> {
    let not_fetched = |why: &str| Refusal::KeyNotFetched {
        location: location.to_owned(),
        why: why.to_owned(),
    };
    match evidence.resources.get(location) {
        Some(Ok(content)) => Ok(content),
        Some(Err(why)) => Err(not_fetched(why)),
        None => Err(not_fetched(NOT_ASKED)),
    }
}

const SIGSTORE_SIGNED: &str = "sigstoreSigned";
const NOT_ASKED: &str = "nobody asked for it";
