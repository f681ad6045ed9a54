//! The signatures that were found for one requirement, gone through one by one.

use std::collections::BTreeSet;

use crate::claims::Claims;
use crate::cosign::SignatureProblem;
use crate::decision::{Finding, Grounds, Outcome, Proof, Refusal, Rejected};
use crate::extension::Signer;
use crate::freshness::Freshness;

/// What became of the signatures so far.
///
/// A good one is enough, unless it matters how many signers there are; bad ones beside it do no
/// harm.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    freshness: Option<&'a Freshness>,
    every_signer: bool,
    proofs: Vec<Proof>,
    rejected: Vec<Rejected>,
}

impl<'a> Search<'a> {
    /// A search for the first signature that counts.
    pub(crate) fn for_one() -> Self {
        Self {
            freshness: None,
            every_signer: false,
            proofs: Vec::new(),
            rejected: Vec::new(),
        }
    }

    /// A search for a signature by each signer there is.
    pub(crate) fn for_every_signer() -> Self {
        Self {
            every_signer: true,
            ..Self::for_one()
        }
    }

    /// The same search, among signatures whose own signed claims are fresh enough.
    pub(crate) fn fresh(self, freshness: Option<&'a Freshness>) -> Self {
        Self { freshness, ..self }
    }

    /// A search of the same kind, for a part of what this one is for.
    pub(crate) fn part(&self) -> Search<'static> {
        Search {
            every_signer: self.every_signer,
            ..Search::for_one()
        }
    }

    /// Adds what a part has found.
    pub(crate) fn absorb(&mut self, part: Search<'_>) {
        self.proofs.extend(part.proofs);
    }

    /// Whether every signer counts, so that the first one is not enough.
    pub(crate) fn is_for_every_signer(&self) -> bool {
        self.every_signer
    }

    /// Takes down what a check said of the signature at `found`; true when that is enough.
    pub(crate) fn take(
        &mut self,
        found: &str,
        verified: Result<(Proof, Claims), SignatureProblem>,
    ) -> bool {
        let fresh = verified.and_then(|(proof, claims)| {
            let check = |wanted: &Freshness| wanted.check(&claims);
            self.freshness.map_or(Ok(()), check)?;
            Ok(proof)
        });
        match fresh {
            Ok(proof) => {
                self.proofs.push(proof);
                !self.every_signer
            }
            Err(problem) => {
                let found = found.to_owned();
                self.rejected.push(Rejected { found, problem });
                false
            }
        }
    }

    /// Who has made the signatures that count.
    pub(crate) fn signers(&self) -> BTreeSet<Signer> {
        let signer = |proof: &Proof| {
            let certificate = proof.certificate.iter();
            let identities = certificate.flat_map(|certificate| certificate.identities());
            identities.chain([proof.key_fingerprint.clone()]).collect()
        };
        self.proofs.iter().map(signer).collect()
    }

    /// What it came to; `unlisted` is why there may be signatures that were not looked at.
    pub(crate) fn finish(
        &mut self,
        requirement: &'static str,
        unlisted: Option<Refusal>,
    ) -> Finding {
        let outcome = match self.proofs.first() {
            Some(proof) => Outcome::Met(Grounds::Signature(Box::new(proof.clone()))),
            None => Outcome::Refused(unlisted.unwrap_or(match self.rejected.len() {
                0 => Refusal::NoSignature,
                found => Refusal::NoneCounts { found },
            })),
        };
        Finding {
            rejected: std::mem::take(&mut self.rejected),
            ..Finding::new(requirement, outcome)
        }
    }
}
