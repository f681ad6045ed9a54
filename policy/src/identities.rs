//! Whom a certificate of Sigstore must name: the holder's name and where they logged in, both.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use spki::ObjectIdentifier;
use thiserror::Error;

use crate::certificate::{Certificate, IssuerError};
use crate::sigstore::BundleProblem;

/// Those whose signatures count, never nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identities {
    pub(crate) first: Identity,
    pub(crate) rest: Vec<Identity>,
}

impl Identities {
    pub(crate) fn new(list: Vec<Identity>) -> Option<Self> {
        let mut list = list.into_iter();
        list.next().map(|first| Self {
            first,
            rest: list.collect(),
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Identity> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// The holder's name and the issuer, by which one of the entries takes the certificate.
    pub(crate) fn named_by(
        &self,
        certificate: &Certificate,
    ) -> Result<(String, String), OtherSigner> {
        let subjects = subjects(certificate)?;
        let issuer = certificate.untrusted_oidc_issuer()?;
        let subject = self.iter().find_map(|identity| {
            let meets = identity.issuer.matches(issuer) && identity.claims_hold(certificate);
            let mut names = subjects.iter().filter(|_| meets);
            names.find(|name| identity.subject.matches(name))
        });
        let issuer = issuer.to_owned();
        if let Some(subject) = subject {
            return Ok((subject.clone(), issuer));
        }
        Err(OtherSigner::Nobody { subjects, issuer })
    }
}

/// One of those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) subject: Matcher,
    pub(crate) issuer: Matcher,
    /// What the certificate must also say of a GitHub workflow, by the key in the policy.
    pub(crate) claims: BTreeMap<&'static str, String>,
}

impl Identity {
    fn claims_hold(&self, certificate: &Certificate) -> bool {
        self.claims.iter().all(|(key, expected)| {
            let claim = CLAIMS.iter().find(|(known, _)| known == key);
            let found = claim.and_then(|(_, oid)| certificate.untrusted_claim(*oid));
            found == Some(expected.as_bytes())
        })
    }
}

/// Which texts will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Matcher {
    Exact(String),
    Pattern(Pattern),
}

impl Matcher {
    pub(crate) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(expected) => text == expected,
            Self::Pattern(pattern) => pattern.matches(text),
        }
    }
}

/// A regular expression that is held against a whole text, and that the empty one does not meet.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    text: String,
    whole: Regex,
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        // By itself first: one with a bracket too many could leave the brackets around it.
        build(text)?;
        let whole = build(&format!(r"\A(?:{text})\z"))?;
        if whole.is_match("") {
            return Err(PatternError::Empty);
        }
        let text = text.to_owned();
        Ok(Self { text, whole })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// Why a text is no usable regular expression. The author of the policy is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PatternError {
    /// It is none, or one that takes too much memory.
    #[error("it is no usable regular expression: {why}")]
    Unusable {
        /// What is wrong with it.
        why: String,
    },
    /// Nothing at all meets it.
    #[error("the regular expression matches the empty text, so it may match anybody")]
    Empty,
}

/// Why the holder of a certificate is not whom the policy wants.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OtherSigner {
    /// It names someone else.
    #[error("it is by {subjects:?}, logged in at {issuer:?}, who is none of the identities wanted")]
    Nobody {
        /// Every name in the certificate.
        subjects: Vec<String>,
        /// The issuer in it.
        issuer: String,
    },
    /// It does not say where its holder logged in.
    #[error("{0}")]
    Issuer(#[from] IssuerError),
    /// Its names are malformed.
    #[error("its subject alternative names are malformed: {0}")]
    Names(spki::der::Error),
}

/// Whether a certificate names exactly these.
pub(crate) fn check_exact(
    certificate: &Certificate,
    identity: &str,
    issuer: &str,
) -> Result<(), BundleProblem> {
    let wanted = Identities {
        first: Identity {
            subject: Matcher::Exact(identity.to_owned()),
            issuer: Matcher::Exact(issuer.to_owned()),
            claims: BTreeMap::new(),
        },
        rest: Vec::new(),
    };
    wanted.named_by(certificate)?;
    Ok(())
}

fn subjects(certificate: &Certificate) -> Result<Vec<String>, OtherSigner> {
    let subjects = certificate.untrusted_subjects();
    subjects.map_err(OtherSigner::Names)
}

fn build(text: &str) -> Result<Regex, PatternError> {
    let built = RegexBuilder::new(text).size_limit(MAX_REGEX_BYTES).build();
    built.map_err(|source| PatternError::Unusable {
        why: source.to_string(),
    })
}

const MAX_REGEX_BYTES: usize = 1 << 20;

/// The claims of GitHub workflows that narrow an identity, and Fulcio's extensions for them.
pub(crate) const CLAIMS: [(&str, ObjectIdentifier); 5] = [
    ("githubWorkflowTrigger", fulcio("1.3.6.1.4.1.57264.1.2")),
    ("githubWorkflowSha", fulcio("1.3.6.1.4.1.57264.1.3")),
    ("githubWorkflowName", fulcio("1.3.6.1.4.1.57264.1.4")),
    ("githubWorkflowRepository", fulcio("1.3.6.1.4.1.57264.1.5")),
    ("githubWorkflowRef", fulcio("1.3.6.1.4.1.57264.1.6")),
];

const fn fulcio(oid: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(oid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_is_held_against_the_whole_text() {
        let pattern = Pattern::parse("https://github.com/acme/.*|b").unwrap();
        for (text, expected) in [
            ("https://github.com/acme/app", true),
            ("b", true),
            ("https://evil/?https://github.com/acme/app", false),
            ("https://github.com/acme/app\n", false),
            ("xb", false),
            ("", false),
        ] {
            assert_eq!(pattern.matches(text), expected, "{text:?}");
        }
    }

    #[test]
    fn pattern_that_matches_nothing_at_all_or_leaves_its_brackets_is_refused() {
        for text in ["", ".*", "a?", "(?:a|)", "^$", "(?m)^"] {
            assert_eq!(Pattern::parse(text), Err(PatternError::Empty), "{text}");
        }
        for text in ["a)|(?:b", "(", "(?x)a # b", "a{1000}{1000}"] {
            let parsed = Pattern::parse(text);
            assert!(
                matches!(parsed, Err(PatternError::Unusable { .. })),
                "{text}: {parsed:?}"
            );
        }
    }
}
