//! The grammar of the requirements beyond containers-policy.json(5).

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use semver::Version;

use super::read::{Reader, fault, list, text, unknown_value};
use super::{PolicyError, PolicyProblem};
use crate::digest::Digest;
use crate::extension::{DigestAllowed, NotOlder, Threshold};
use crate::freshness::{Freshness, MinimumVersion, Moment};
use crate::json::Node;
use crate::reference::Reference;
use crate::requirement::{Requirement, Trust};

impl Reader {
    /// None for a type that is not one of these.
    pub(super) fn extension(
        &mut self,
        kind: &str,
        node: &Node<'_>,
    ) -> Result<Option<Requirement>, PolicyError> {
        let requirement = match kind {
            "attestedBy" => Requirement::AttestedBy(Box::new(self.attested_by(node)?)),
            "digestAllowed" => Requirement::DigestAllowed(digest_allowed(node)?),
            "encrypted" => {
                node.object(&["type"])?;
                Requirement::Encrypted
            }
            "notOlder" => Requirement::NotOlder(self.not_older(node)?),
            "requireDigest" => {
                node.object(&["type"])?;
                Requirement::RequireDigest
            }
            "threshold" => Requirement::Threshold(self.threshold(node)?),
            _ => return Ok(None),
        };
        Ok(Some(requirement))
    }

    fn not_older(&mut self, node: &Node<'_>) -> Result<NotOlder, PolicyError> {
        let known = ["type", "signedAfter", "minimumVersion", "signature"];
        let members = node.object(&known)?;
        let signed_after = members.optional("signedAfter");
        let signed_after = signed_after.map(|node| moment(&node)).transpose()?;
        let minimum_version = members.optional("minimumVersion");
        let minimum_version = minimum_version
            .map(|node| version_bound(&node))
            .transpose()?;
        if signed_after.is_none() && minimum_version.is_none() {
            return Err(fault(node, PolicyProblem::NoBound));
        }
        let signature = members.required("signature")?;
        let kind = signature.open_object()?.required("type")?;
        let name = kind.string()?;
        if !SIGNATURES.contains(&name) {
            return Err(unknown_value(&kind, name, SIGNATURES.to_vec()));
        }
        Ok(NotOlder {
            freshness: Freshness {
                signed_after,
                minimum_version,
            },
            signature: Box::new(self.requirement(&signature)?),
        })
    }

    fn threshold(&mut self, node: &Node<'_>) -> Result<Threshold, PolicyError> {
        let members = node.object(&["type", "count", "of"])?;
        let count_node = members.required("count")?;
        let count = usize::try_from(count_node.unsigned()?).unwrap_or(usize::MAX);
        let list_node = members.required("of")?;
        let items = list_node.array()?;
        if items.len() > MAX_MEMBERS {
            let (limit, found) = (MAX_MEMBERS, items.len());
            return Err(fault(&list_node, PolicyProblem::TooMany { limit, found }));
        }
        if self.depth == MAX_DEPTH {
            let problem = PolicyProblem::TooDeep { limit: MAX_DEPTH };
            return Err(fault(node, problem));
        }
        self.depth += 1;
        let of = list(&list_node, |item| self.requirement(item))?;
        self.depth -= 1;
        if count == 0 || count > of.len() {
            let problem = PolicyProblem::Count {
                found: count,
                members: of.len(),
            };
            return Err(fault(&count_node, problem));
        }
        for (item, member) in items.iter().zip(&of) {
            check_member(item, member, count)?;
        }
        Ok(Threshold { count, of })
    }
}

/// Whether a requirement can be one of several.
fn check_member(node: &Node<'_>, member: &Requirement, count: usize) -> Result<(), PolicyError> {
    let kind = member.name();
    match member {
        Requirement::InsecureAcceptAnything
        | Requirement::Encrypted
        | Requirement::RequireDigest
        | Requirement::Reject
        | Requirement::SignedBaseLayer(_) => Err(fault(node, PolicyProblem::NoChoice { kind })),
        _ if count > 1 && !names_signers(member) => {
            Err(fault(node, PolicyProblem::NoSigners { kind }))
        }
        _ => Ok(()),
    }
}

/// Whether those who meet a requirement can be told apart and counted.
fn names_signers(requirement: &Requirement) -> bool {
    match requirement {
        Requirement::SignedBy(_) | Requirement::AttestedBy(_) => true,
        // One certificate may have several of the names that the owner's authority gives.
        Requirement::SigstoreSigned(signed) => !matches!(signed.trust, Trust::Pki(_)),
        Requirement::NotOlder(wanted) => names_signers(&wanted.signature),
        Requirement::Threshold(inner) => inner.count == 1 && inner.of.iter().all(names_signers),
        Requirement::InsecureAcceptAnything
        | Requirement::Reject
        | Requirement::SignedBaseLayer(_)
        | Requirement::DigestAllowed(_)
        | Requirement::Encrypted
        | Requirement::RequireDigest => false,
    }
}

fn digest_allowed(node: &Node<'_>) -> Result<DigestAllowed, PolicyError> {
    let node = node.object(&["type", "digests"])?.required("digests")?;
    let mut digests = BTreeMap::new();
    for (name, node) in node.open_object()?.iter() {
        let problem = |source| fault(&node, PolicyProblem::Reference(source));
        let reference = Reference::parse_qualified(name).map_err(problem)?;
        if !reference.is_name_only() {
            return Err(fault(&node, PolicyProblem::NotNameOnly));
        }
        let allowed = list(&node, digest)?;
        digests.insert(name.to_owned(), BTreeSet::from_iter(allowed));
    }
    if digests.is_empty() {
        return Err(fault(&node, PolicyProblem::EmptyList));
    }
    Ok(DigestAllowed { digests })
}

fn digest(node: &Node<'_>) -> Result<Digest, PolicyError> {
    let parsed = node.string()?.parse();
    parsed.map_err(|source| fault(node, PolicyProblem::Digest(source)))
}

fn moment(node: &Node<'_>) -> Result<Moment, PolicyError> {
    Moment::from_str(node.string()?)
        .map_err(|_: spki::der::Error| fault(node, PolicyProblem::Moment))
}

fn version_bound(node: &Node<'_>) -> Result<MinimumVersion, PolicyError> {
    let members = node.object(&["annotation", "version"])?;
    let annotation = members.required("annotation")?;
    let version = members.required("version")?;
    let parsed = Version::parse(version.string()?);
    let parsed = parsed.map_err(|source| {
        let why = source.to_string();
        fault(&version, PolicyProblem::Version { why })
    })?;
    Ok(MinimumVersion {
        annotation: text(&annotation)?,
        version: parsed,
    })
}

const SIGNATURES: [&str; 2] = ["signedBy", "sigstoreSigned"];
/// More signers than anybody assembles; every signature is checked for every member.
const MAX_MEMBERS: usize = 32;
/// Groups of groups of groups.
const MAX_DEPTH: usize = 3;
