//! The decision record: what was decided, on what grounds, from which sources.

use std::fmt;

use policy::{Decision, Finding, Grounds, Outcome, Proof, SubjectKind};
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
        } else if decision.is_undecided() {
            "not decided"
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
        let page = Page { decision };
        for finding in decision.findings() {
            page.finding(f, "  ", finding, &[])?;
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

/// The findings of a decision, one line each: a requirement, its signatures and its members.
struct Page<'a> {
    decision: &'a Decision,
}

impl Page<'_> {
    /// A requirement, indented; `siblings` are the members before it, where it is one of several.
    fn finding(
        &self,
        f: &mut fmt::Formatter<'_>,
        indent: &str,
        finding: &Finding,
        siblings: &[Finding],
    ) -> fmt::Result {
        write!(f, "{indent}{}: ", finding.requirement)?;
        match &finding.outcome {
            Outcome::Met(Grounds::InsecureAcceptAnything) => f.write_str("demands nothing")?,
            Outcome::Met(Grounds::Signature(proof)) => {
                self.proof(f, proof)?;
                if let Some(number) = same_signer(proof, siblings) {
                    write!(f, "; the signer is that of member {number}")?;
                }
            }
            Outcome::Met(grounds) => write!(f, "{grounds}")?,
            Outcome::Refused(refusal) => write!(f, "not met: {refusal}")?,
            Outcome::NotExamined => f.write_str("not examined")?,
        }
        writeln!(f)?;
        for rejected in &finding.rejected {
            writeln!(f, "{indent}  {rejected}")?;
        }
        let deeper = format!("{indent}  ");
        for (index, member) in finding.members.iter().enumerate() {
            let before = finding.members.get(..index).unwrap_or_default();
            self.finding(f, &deeper, member, before)?;
        }
        Ok(())
    }

    /// Who signed what, and where that was found.
    fn proof(&self, f: &mut fmt::Formatter<'_>, proof: &Proof) -> fmt::Result {
        let decision = self.decision;
        let (kind, digest) = match (proof.subject, decision.index_digest()) {
            (SubjectKind::Index, Some(index)) => ("index", index),
            _ => ("manifest", decision.manifest_digest()),
        };
        write!(
            f,
            "signed by {} for {}, on the {kind} {digest} ({})",
            proof.key_fingerprint, proof.signed_reference, proof.found
        )
    }
}

/// The first of `members`, from 1, that is met by a signature of the same signer.
fn same_signer(proof: &Proof, members: &[Finding]) -> Option<usize> {
    let is_same = |member: &Finding| match &member.outcome {
        Outcome::Met(Grounds::Signature(other)) => other.key_fingerprint == proof.key_fingerprint,
        _ => false,
    };
    members
        .iter()
        .zip(1..)
        .find(|(member, _)| is_same(member))
        .map(|(_, number)| number)
}
