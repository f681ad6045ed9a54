//! What is legal in a configuration and still worth saying.

use std::fmt;

/// Something that the owner should know about a configuration that is used nevertheless.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A key of the Confidential Data Hub whose service is not part of this version.
    NotYet {
        /// The key, with its tables.
        key: String,
        /// What is missing.
        missing: &'static str,
    },
    /// Every image will be refused.
    NoPolicy {
        /// How to configure one.
        hint: String,
    },
    /// The answers of the Key Broker Service can be forged by whoever sits on the way.
    PlainHttpKbs {
        /// Its address.
        url: String,
    },
    /// Certificates that nobody looks at, as the address is not https.
    UnusedCertificates,
    /// The evidence proves nothing.
    SampleAttester,
    /// One of two settings wins.
    Overridden {
        /// The one that has no effect.
        loser: String,
        /// The one that has.
        winner: String,
    },
    /// `agent.enable_signature_verification` never permits anything.
    VerificationFlag {
        /// What it is set to.
        value: bool,
    },
    /// Short names are docker.io's and are not searched for anywhere.
    SearchRegistries {
        /// The key, with its tables.
        key: String,
    },
    /// The kernel command line, which may hold settings, cannot be read.
    NoCommandLine,
    /// A kernel parameter that nobody reads and that looks like one of ours.
    MisspelledParameter {
        /// The parameter.
        parameter: String,
        /// The one that it looks like.
        nearest: String,
    },
    /// Something questionable in the policy that the file holds.
    Policy {
        /// What, and where in the policy.
        text: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYet { key, missing } => {
                write!(f, "{key} has no effect: this version has no {missing} yet")
            }
            Self::NoPolicy { hint } => write!(f, "every image will be refused: {hint}"),
            Self::PlainHttpKbs { url } => write!(
                f,
                "kbc.url: {url} is plain http: policy, keys and credentials are whatever the host \
                 says they are; use https with kbs_cert, and require_authenticated_kbs = true in \
                 [image_agent] to insist on it"
            ),
            Self::UnusedCertificates => {
                f.write_str("kbc.kbs_cert has no effect: kbc.url is not https")
            }
            Self::SampleAttester => f.write_str(
                "image_agent.attester: \"sample\" evidence proves nothing, it is for trying things \
                 out",
            ),
            Self::Overridden { loser, winner } => {
                write!(f, "{loser} has no effect: {winner} wins")
            }
            Self::VerificationFlag { value } => write!(
                f,
                "agent.enable_signature_verification={value} has no effect: a policy that is named \
                 is always applied, and without one every image is refused"
            ),
            Self::SearchRegistries { key } => write!(
                f,
                "{key} has no effect: a name without a registry is docker.io's and is not searched \
                 for"
            ),
            Self::MisspelledParameter { parameter, nearest } => write!(
                f,
                "kernel command line: {parameter} has no effect, did you mean {nearest:?}?"
            ),
            Self::Policy { text } => write!(f, "image.image_security_policy: {text}"),
            Self::NoCommandLine => {
                f.write_str("the kernel command line cannot be read: settings on it have no effect")
            }
        }
    }
}
