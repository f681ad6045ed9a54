//! The decision record: what was decided, on what grounds, from which sources.

use std::fmt;

use policy::{Decision, Grounds, Outcome};
use serde::Serialize;

/// A decision, and whether what it rests on is known to come from the owner.
///
/// One is made for every pull and every `verify`, for refusals as for approvals. It is in the
/// daemon's log, in `--json`, and kept beside the bundle.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// The decision.
    #[serde(flatten)]
    pub decision: Decision,
    /// Whether the Key Broker Service was reached in a way that nobody between can forge. If
    /// not, the policy is whatever the host says.
    pub kbs_authenticated: bool,
}

impl Record {
    /// The record as one line of canonical JSON (RFC 8785).
    pub fn line(&self) -> String {
        // The record is strings, lists and booleans: there is nothing in it that JSON cannot say.
        serde_json_canonicalizer::to_string(self).unwrap_or_else(|error| error.to_string())
    }
}

/// As people read it: the verdict first, then what it rests on.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = &self.decision;
        let verdict = if decision.is_allowed() {
            "approved"
        } else {
            "refused"
        };
        writeln!(f, "{verdict}: {}", decision.reference())?;
        writeln!(f, "  manifest: {}", decision.manifest_digest())?;
        if let Some(index) = decision.index_digest() {
            writeln!(f, "  index:    {index}")?;
        }
        writeln!(
            f,
            "  policy:   {}, {}",
            decision.policy_digest(),
            decision.scope()
        )?;
        for finding in decision.findings() {
            write!(f, "  {}: ", finding.requirement)?;
            match &finding.outcome {
                Outcome::Met(Grounds::InsecureAcceptAnything) => f.write_str("demands nothing")?,
                Outcome::Met(Grounds::Signature(proof)) => write!(
                    f,
                    "signed by {} for {} ({})",
                    proof.key_fingerprint, proof.signed_reference, proof.found
                )?,
                Outcome::Met(grounds) => write!(f, "{grounds}")?,
                Outcome::Refused(refusal) => write!(f, "{refusal}")?,
                Outcome::NotExamined => f.write_str("not examined")?,
            }
            for rejected in &finding.rejected {
                write!(f, "\n    {}: {}", rejected.found, rejected.problem)?;
            }
            writeln!(f)?;
        }
        if !self.kbs_authenticated {
            writeln!(
                f,
                "  the KBS is not authenticated: the policy is whatever the host says"
            )?;
        }
        Ok(())
    }
}
