//! `threshold`: so many of several requirements, by signers that are counted once each.

use std::collections::BTreeSet;

use crate::decision::{Finding, Grounds, Outcome, Refusal};
use crate::digest::Digest;
use crate::evidence::{Evidence, Needs};
use crate::extension::{Signer, Threshold, distinct, told_apart};
use crate::manifest::{Manifest, Unverified};
use crate::requirement::Requirement;
use crate::rules::{Check, check};
use crate::search::Search;

/// A threshold that can be reached.
pub(crate) struct ThresholdCheck<'a> {
    count: usize,
    members: Vec<Member<'a>>,
}

/// A member by its name, and what there is to check, or why no evidence could ever help.
type Member<'a> = (&'static str, Result<Check<'a>, Refusal>);

impl<'a> ThresholdCheck<'a> {
    /// Without enough members that evidence can meet, the first of the others says why.
    pub(crate) fn new(wanted: &'a Threshold) -> Result<Self, Refusal> {
        let member = |requirement: &'a Requirement| (requirement.name(), check(requirement));
        let members: Vec<Member<'_>> = wanted.of.iter().map(member).collect();
        let hopeful = members.iter().filter(|(_, check)| check.is_ok()).count();
        let refusal = members.iter().find_map(|(_, check)| check.as_ref().err());
        match refusal {
            Some(refusal) if hopeful < wanted.count => Err(refusal.clone()),
            _ => Ok(Self {
                count: wanted.count,
                members,
            }),
        }
    }

    pub(crate) fn add_needs(&self, subjects: &[Digest], needs: &mut Needs) {
        for check in self
            .members
            .iter()
            .filter_map(|(_, check)| check.as_ref().ok())
        {
            check.add_needs(subjects, needs);
        }
    }

    pub(crate) fn takes_bundles(&self) -> bool {
        let checks = self
            .members
            .iter()
            .filter_map(|(_, check)| check.as_ref().ok());
        checks.into_iter().any(Check::takes_bundles)
    }

    /// With a count of one the first member that is met decides, unless who else signed matters to
    /// a threshold around this one.
    pub(crate) fn examine(
        &self,
        name: &'static str,
        manifest: &Unverified<Manifest>,
        evidence: &Evidence,
        search: &mut Search<'_>,
    ) -> Finding {
        let first_decides = self.count == 1 && !search.is_for_every_signer();
        let (mut members, mut signers) = (Vec::new(), Vec::new());
        for (name, check) in &self.members {
            let mut part = if first_decides {
                Search::for_one()
            } else {
                Search::for_every_signer()
            };
            let finding = match check {
                Ok(check) => check.examine(name, manifest, evidence, &mut part),
                Err(refusal) => Finding::refused(name, refusal.clone()),
            };
            let met = matches!(finding.outcome, Outcome::Met(_));
            // A member that is refused has no signer to count.
            signers.push(if met { part.signers() } else { BTreeSet::new() });
            if met {
                search.absorb(part);
            }
            members.push(finding);
            if met && first_decides {
                break;
            }
        }
        Finding {
            outcome: self.outcome(&members, &signers),
            members,
            ..Finding::new(name, Outcome::NotExamined)
        }
    }

    fn outcome(&self, members: &[Finding], signers: &[BTreeSet<Signer>]) -> Outcome {
        let found = if self.count == 1 {
            let met = |finding: &&Finding| matches!(finding.outcome, Outcome::Met(_));
            members.iter().filter(met).count()
        } else {
            distinct(&told_apart(signers)).len()
        };
        if found >= self.count {
            return Outcome::Met(Grounds::Members(found));
        }
        let (wanted, of) = (self.count, self.members.len());
        Outcome::Refused(Refusal::TooFew { wanted, of, found })
    }
}
