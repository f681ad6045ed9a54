//! Which part of a policy speaks for a reference, without asking any registry.

use serde::Serialize;

use crate::digest::Digest;
use crate::document::Policy;
use crate::print::requirements;
use crate::reference::ImageRef;
use crate::rules::candidate_scopes;
use crate::scope::Scope;

/// Why a reference gets the rules that it gets.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The reference in full.
    pub reference: String,
    /// The digest of the policy document.
    pub policy_digest: Digest,
    /// The scopes of the docker transport that could speak for it, the most specific first. The
    /// first that the policy has is taken; if it has none of them, the default of the policy is.
    pub candidates: Vec<String>,
    /// The one that was taken.
    pub scope: Scope,
    /// Its requirements, as a document with every default filled in.
    pub requirements: serde_json::Value,
}

impl Policy {
    /// Explains the rules for `reference`.
    pub fn explain(&self, reference: &ImageRef) -> Explanation {
        let rules = self.rules_for(reference);
        Explanation {
            reference: reference.to_string(),
            policy_digest: *self.digest(),
            candidates: candidate_scopes(reference).collect(),
            scope: rules.scope().clone(),
            requirements: requirements(rules.list()),
        }
    }
}
