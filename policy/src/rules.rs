//! The rules for one reference: what they need, and what they decide.

use std::collections::{BTreeMap, BTreeSet};

use crate::approved::{Approved, conclude};
use crate::bundle;
use crate::cosign;
use crate::decision::{Decision, Denied, Finding, Grounds, Outcome, Refusal};
use crate::digest::Digest;
use crate::document::Policy;
use crate::evidence::{COSIGN_PAYLOAD, CosignSignature, Evidence, Failure, Needs, NotFetched};
use crate::extension::{DigestAllowed, NotOlder, examine_encrypted, examine_reference};
use crate::manifest::{Manifest, Unverified};
use crate::reference::ImageRef;
use crate::requirement::{
    AttestedBy, KeyType, Material, Piece, Requirement, Requirements, SigstoreSigned,
};
use crate::scope::Scope;
use crate::search::Search;
use crate::signers::Signers;
use crate::simple::SimpleCheck;
use crate::threshold::ThresholdCheck;

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
        let subjects = manifest.subjects().map(|subject| subject.digest);
        self.needs_for(&subjects.collect::<Vec<_>>())
    }

    /// The [`resources`](Needs::resources) among the needs. They are the same for every manifest,
    /// and so can be fetched before there is one.
    pub fn resources(&self) -> BTreeSet<String> {
        self.needs_for(&[]).resources
    }

    fn needs_for(&self, subjects: &[Digest]) -> Needs {
        let checks: Result<Vec<_>, _> = self.requirements.iter().map(check).collect();
        let mut needs = Needs::default();
        for check in checks.unwrap_or_default() {
            check.add_needs(subjects, &mut needs);
        }
        needs
    }

    /// What else must be fetched, now that what [`Rules::needs`] named is there: where a bundle may
    /// help that nobody looked for yet.
    pub fn needs_more(&self, manifest: &Unverified<Manifest>, evidence: &Evidence) -> Needs {
        let mut needs = Needs::default();
        if *manifest.reference() != self.reference {
            return needs;
        }
        let subjects = manifest.subjects().map(|subject| subject.digest);
        let is_unknown = |subject: &Digest| !evidence.discovered.contains_key(subject);
        let unknown: Vec<Digest> = subjects.filter(is_unknown).collect();
        if unknown.is_empty() {
            return needs;
        }
        for requirement in self.requirements.iter() {
            let Ok(check) = check(requirement) else {
                return Needs::default();
            };
            if !check.takes_bundles() {
                continue;
            }
            let search = &mut Search::for_one();
            let finding = check.examine(requirement.name(), manifest, evidence, search);
            if !matches!(finding.outcome, Outcome::Met(_)) {
                needs.discover.clone_from(&unknown);
            }
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
            Ok(check) => {
                let search = &mut Search::for_one();
                check.examine(requirement.name(), &manifest, evidence, search)
            }
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
pub(crate) enum Check<'a> {
    Nothing,
    Cosign(CosignCheck<'a>),
    Attested(&'a AttestedBy),
    Simple(SimpleCheck<'a>),
    DigestAllowed(&'a DigestAllowed),
    Encrypted,
    RequireDigest,
    NotOlder(&'a NotOlder, Box<Check<'a>>),
    Threshold(ThresholdCheck<'a>),
}

impl Check<'_> {
    /// Adds what must be fetched for an image of these documents.
    pub(crate) fn add_needs(&self, subjects: &[Digest], needs: &mut Needs) {
        match self {
            Self::Nothing | Self::DigestAllowed(_) | Self::Encrypted | Self::RequireDigest => {}
            Self::Cosign(signature) => {
                let locations = signature.wanted.locations();
                needs.resources.extend(locations.map(str::to_owned));
                needs.cosign_subjects = subjects.to_vec();
                if signature.wanted.wants_bundles() {
                    needs.discover = subjects.to_vec();
                }
            }
            Self::Attested(attested) => {
                let locations = attested.by.locations();
                needs.resources.extend(locations.map(str::to_owned));
                needs.discover = subjects.to_vec();
            }
            Self::Simple(signature) => {
                needs.resources.extend(signature.resources());
                needs.lookaside_subjects = subjects.to_vec();
            }
            Self::NotOlder(_, signature) => signature.add_needs(subjects, needs),
            Self::Threshold(threshold) => threshold.add_needs(subjects, needs),
        }
    }

    /// Whether a bundle could meet it, or a part of it.
    pub(crate) fn takes_bundles(&self) -> bool {
        match self {
            Self::Nothing
            | Self::DigestAllowed(_)
            | Self::Encrypted
            | Self::RequireDigest
            | Self::Simple(_) => false,
            Self::Cosign(signature) => signature.wanted.takes_bundles(),
            Self::Attested(_) => true,
            Self::NotOlder(_, signature) => signature.takes_bundles(),
            Self::Threshold(threshold) => threshold.takes_bundles(),
        }
    }

    /// Looks whether the evidence meets the requirement; the signers who did are left in `search`.
    pub(crate) fn examine(
        &self,
        name: &'static str,
        manifest: &Unverified<Manifest>,
        evidence: &Evidence,
        search: &mut Search<'_>,
    ) -> Finding {
        match self {
            Self::Nothing => Finding::new(name, Outcome::Met(Grounds::InsecureAcceptAnything)),
            Self::Cosign(wanted) => wanted.examine(manifest, evidence, search),
            Self::Simple(wanted) => wanted.examine(manifest, evidence, search),
            Self::Attested(wanted) => examine_attestations(wanted, manifest, evidence, search),
            Self::DigestAllowed(wanted) => Finding::new(name, wanted.examine(manifest)),
            Self::Encrypted => Finding::new(name, examine_encrypted(manifest)),
            Self::RequireDigest => Finding::new(name, examine_reference(manifest)),
            Self::NotOlder(wanted, signature) => {
                let mut part = search.part().fresh(Some(&wanted.freshness));
                let finding = signature.examine(name, manifest, evidence, &mut part);
                search.absorb(part);
                Finding {
                    requirement: name,
                    ..finding
                }
            }
            Self::Threshold(wanted) => wanted.examine(name, manifest, evidence, search),
        }
    }
}

/// What there is to check, or why no evidence could ever help.
pub(crate) fn check(requirement: &Requirement) -> Result<Check<'_>, Refusal> {
    let unsupported = |feature| Err(Refusal::Unsupported { feature });
    match requirement {
        Requirement::InsecureAcceptAnything => Ok(Check::Nothing),
        Requirement::Reject => Err(Refusal::Rejects),
        Requirement::SignedBy(signed) if signed.key_type == KeyType::GpgKeys => {
            Ok(Check::Simple(SimpleCheck { signed }))
        }
        Requirement::SignedBy(_) => unsupported("signedBy with a keyType other than GPGKeys"),
        Requirement::SignedBaseLayer(_) => unsupported("signedBaseLayer"),
        Requirement::SigstoreSigned(wanted) => Ok(Check::Cosign(CosignCheck { wanted })),
        Requirement::AttestedBy(wanted) => Ok(Check::Attested(wanted)),
        Requirement::DigestAllowed(wanted) => Ok(Check::DigestAllowed(wanted)),
        Requirement::Encrypted => Ok(Check::Encrypted),
        Requirement::RequireDigest => Ok(Check::RequireDigest),
        Requirement::NotOlder(wanted) => {
            let signature = check(&wanted.signature)?;
            Ok(Check::NotOlder(wanted, Box::new(signature)))
        }
        Requirement::Threshold(wanted) => ThresholdCheck::new(wanted).map(Check::Threshold),
    }
}

/// `sigstoreSigned`: one good signature is enough, and bad ones beside it do no harm.
pub(crate) struct CosignCheck<'a> {
    wanted: &'a SigstoreSigned,
}

impl CosignCheck<'_> {
    /// Goes through the signatures that were found until `search` has enough.
    fn examine(
        &self,
        manifest: &Unverified<Manifest>,
        evidence: &Evidence,
        search: &mut Search<'_>,
    ) -> Finding {
        let signers = match Signers::load(self.wanted, evidence) {
            Ok(signers) => signers,
            Err(refusal) => return Finding::refused(SIGSTORE_SIGNED, refusal),
        };
        let (mut candidates, unlisted) = signatures_on(manifest, &evidence.cosign);
        let (discovered, unseen) = discovered_about(manifest, evidence);
        let known = |found: &&CosignSignature| {
            found.media_type == COSIGN_PAYLOAD || bundle::is_bundle(&found.media_type)
        };
        candidates.extend(discovered.into_iter().filter(known));
        for found in candidates {
            let verified = if bundle::is_bundle(&found.media_type) {
                bundle::verify_signature(found, &signers, self.wanted, manifest)
            } else {
                cosign::verify(found, &signers, self.wanted, manifest)
            };
            if search.take(&found.found, verified) {
                break;
            }
        }
        search.finish(SIGSTORE_SIGNED, first_of(unlisted, unseen))
    }
}

/// `attestedBy`: one good attestation is enough, and others beside it do no harm.
fn examine_attestations(
    wanted: &AttestedBy,
    manifest: &Unverified<Manifest>,
    evidence: &Evidence,
    search: &mut Search<'_>,
) -> Finding {
    let signers = match Signers::load(&wanted.by, evidence) {
        Ok(signers) => signers,
        Err(refusal) => return Finding::refused(ATTESTED_BY, refusal),
    };
    let (discovered, unseen) = discovered_about(manifest, evidence);
    for found in discovered {
        if !bundle::is_attestation(&found.media_type) {
            continue;
        }
        let (by, attestation) = (&wanted.by, &wanted.attestation);
        let verified = bundle::verify_attestation(found, &signers, by, attestation, manifest);
        if search.take(&found.found, verified) {
            break;
        }
    }
    search.finish(ATTESTED_BY, unseen)
}

/// The bundles and attestations found, and the first reason why there may be more: the first
/// transient one if there is one.
fn discovered_about<'e>(
    manifest: &Unverified<Manifest>,
    evidence: &'e Evidence,
) -> (Vec<&'e CosignSignature>, Option<Refusal>) {
    let mut candidates = Vec::new();
    let mut unseen = None;
    for subject in manifest.subjects() {
        let Some(discovered) = evidence.discovered.get(&subject.digest) else {
            continue;
        };
        candidates.extend(&discovered.candidates);
        for why in discovered.incomplete.iter().cloned() {
            let subject = subject.digest;
            unseen = first_of(unseen, Some(Refusal::NotListed { subject, why }));
        }
    }
    (candidates, unseen)
}

/// The first of the two, unless only the other one may pass.
fn first_of(first: Option<Refusal>, second: Option<Refusal>) -> Option<Refusal> {
    let passes = |refusal: &Refusal| matches!(refusal, Refusal::NotListed { why, .. } if why.failure == Failure::Transient);
    match (first, second) {
        (Some(first), Some(second)) if passes(&second) && !passes(&first) => Some(second),
        (first, second) => first.or(second),
    }
}

/// The signatures found on any of the image's documents, and the first failure to list some: the
/// first transient one if there is one.
pub(crate) fn signatures_on<'e, S>(
    manifest: &Unverified<Manifest>,
    fetched: &'e BTreeMap<Digest, Result<Vec<S>, NotFetched>>,
) -> (Vec<&'e S>, Option<Refusal>) {
    let mut found = Vec::new();
    let mut unlisted: Option<(Digest, NotFetched)> = None;
    for subject in manifest.subjects() {
        let why = match fetched.get(&subject.digest) {
            Some(Ok(signatures)) => {
                found.extend(signatures);
                continue;
            }
            Some(Err(why)) => why.clone(),
            None => NotFetched::permanent(NOT_ASKED),
        };
        // One that may pass is what matters: the next try may find a good signature there.
        let passes = why.failure == Failure::Transient;
        if unlisted
            .as_ref()
            .is_none_or(|(_, first)| passes && first.failure != Failure::Transient)
        {
            unlisted = Some((subject.digest, why));
        }
    }
    let unlisted = unlisted.map(|(subject, why)| Refusal::NotListed { subject, why });
    (found, unlisted)
}

/// The content of every piece with its name, or the first that is not to be had.
pub(crate) fn load_pieces<'e>(
    material: &'e Material,
    evidence: &'e Evidence,
) -> Result<Vec<(String, &'e [u8])>, Refusal> {
    let load = |(index, piece): (usize, Piece<'e>)| match piece {
        Piece::Data(data) => Ok((format!("{index} in the policy"), data)),
        Piece::Path(path) => Ok((path.to_owned(), resource(path, evidence)?)),
    };
    (1..).zip(material.pieces()).map(load).collect()
}

pub(crate) fn resource<'e>(location: &str, evidence: &'e Evidence) -> Result<&'e [u8], Refusal> {
    let not_fetched = |why| Refusal::KeyNotFetched {
        location: location.to_owned(),
        why,
    };
    match evidence.resources.get(location) {
        Some(Ok(content)) => Ok(content),
        Some(Err(why)) => Err(not_fetched(why.clone())),
        None => Err(not_fetched(NotFetched::permanent(NOT_ASKED))),
    }
}

const ATTESTED_BY: &str = "attestedBy";
const SIGSTORE_SIGNED: &str = "sigstoreSigned";
const NOT_ASKED: &str = "nobody asked for it";
