//! What can go wrong with a pull: one variant per stage, and the closed list of causes.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use policy::{Denied, Digest};

use crate::bundle::BundleError;
use crate::config::ConfigError;
use crate::record::Record;
use crate::registry::RegistryError;
use crate::resources::ResourceError;
use crate::sources::OpenError;
use crate::store::{Amount, Shortage, StoreError};

/// A pull that failed. The variant is the stage; the source says what happened there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image name is malformed: the caller's fault.
    #[error("image name")]
    Reference(#[source] policy::ReferenceError),

    /// The bundle path is none that we may use: the caller's fault.
    #[error("bundle path")]
    BundlePath(#[source] BundleError),

    /// No policy is configured, so every image is refused.
    #[error("no image policy is configured, so every image is refused: {hint}")]
    NoPolicy {
        /// How to configure one.
        hint: String,
    },

    /// The policy or the registry credentials cannot be had.
    #[error("{what}")]
    Resource {
        /// Which of them, in words.
        what: &'static str,
        /// Why not.
        source: ResourceError,
    },

    /// The policy document is malformed: the owner's fault.
    #[error("image policy")]
    Policy(#[source] policy::PolicyError),

    /// The registries configuration is malformed: the owner's fault.
    #[error("registries configuration")]
    Registries(#[source] ConfigError),

    /// The configuration of lookasides is malformed: the owner's fault.
    #[error("sigstore configuration")]
    Lookaside(#[source] policy::LookasideError),

    /// The registry of the image cannot be used.
    #[error("registry")]
    Open(#[source] OpenError),

    /// The manifest cannot be had.
    #[error("resolve")]
    Resolve(#[source] RegistryError),

    /// None of several places has the image, or a layer of it, each for its own cause.
    #[error("{}", Listed(failures, unasked))]
    Nowhere {
        /// Why not, place by place: [`Error::Resolve`], [`Error::Manifest`] or [`Error::Platform`], or for a layer
        /// [`Error::Fetch`] or [`Error::Unpack`].
        failures: Vec<Error>,
        /// Which places were not asked, and why.
        unasked: Vec<String>,
    },

    /// The manifest is not one, or not the one that was asked for.
    #[error("resolve")]
    Manifest(#[source] policy::ManifestError),

    /// The index has nothing for this platform.
    #[error("resolve")]
    Platform(#[source] policy::NoPlatform),

    /// The policy's other valid answer, or none for now.
    #[error("{}: {denied}", answer(denied))]
    Denied {
        /// The answer, with every reason.
        denied: Box<Denied>,
        /// See [`Record::kbs_authenticated`](crate::record::Record::kbs_authenticated).
        kbs_authenticated: bool,
    },

    /// The image config cannot be had.
    #[error("config")]
    FetchConfig(#[source] RegistryError),

    /// The image config does not belong to the approved manifest.
    #[error("config")]
    Config(#[source] policy::ConfigError),

    /// A layer cannot be fetched.
    #[error("fetch of layer {layer}")]
    Fetch {
        /// Digest of the layer's blob.
        layer: Digest,
        /// Why not.
        source: RegistryError,
    },

    /// A layer is not what the approved image says, or breaks a limit.
    #[error("unpack of layer {layer}")]
    Unpack {
        /// Digest of the layer's blob.
        layer: Digest,
        /// Why not.
        source: Box<rootfs::Error>,
    },

    /// Nobody but root can mount a root file system and give its files their owners.
    #[error(
        "not running as root, as whom alone a root file system can be unpacked and mounted; \
         `verify` decides without"
    )]
    NotRoot,

    /// The store cannot be used.
    #[error("store")]
    Store(#[source] StoreError),

    /// The guest is too small for the image, as was seen before anything was fetched.
    #[error("not enough space for the image: {0}")]
    NoRoom(Shortage),

    /// The guest turned out to be too small for the image.
    #[error(
        "the image needs more than the {free} that were free in {} ({file_system})",
        path.display()
    )]
    DiskFull {
        /// What was free before anything was fetched.
        free: Amount,
        /// The work directory.
        path: PathBuf,
        /// The kind of its file system.
        file_system: String,
        /// What there was no space for.
        source: Box<Error>,
    },

    /// The bundle cannot be assembled.
    #[error("assemble")]
    Assemble(#[source] BundleError),

    /// The caller's deadline, or our own, passed.
    #[error("not finished within {seconds} s")]
    Deadline {
        /// The deadline, in seconds.
        seconds: u64,
    },

    /// A defect of ours, confined to this pull.
    #[error("internal error: the pull panicked; the log of the guest has the place")]
    Panicked,

    /// A signal ended the pull of the command line.
    #[error("interrupted by a signal; nothing is left but layers that were complete")]
    Interrupted,

    /// The daemon ends, or the caller has gone.
    #[error("cancelled: the daemon is ending")]
    ShuttingDown,
}

impl Error {
    /// What went wrong with a registry, if that is it.
    pub(crate) fn of_registry(&self) -> Option<&RegistryError> {
        match self {
            Self::Resolve(error) | Self::FetchConfig(error) => Some(error),
            Self::Fetch { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Whether there was no space left.
    pub(crate) fn is_disk_full(&self) -> bool {
        match self {
            Self::Unpack { source, .. } => matches!(**source, rootfs::Error::NoSpace { .. }),
            Self::Store(source) => source.is_disk_full(),
            Self::Assemble(source) => source.is_disk_full(),
            Self::DiskFull { .. } => true,
            _ => false,
        }
    }

    /// Whether a registry wants other credentials than those that we have.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Resolve(source) | Self::Fetch { source, .. } => source.is_refusal(),
            Self::Nowhere { failures, .. } => failures.iter().any(Self::is_refusal),
            _ => false,
        }
    }

    /// The decision record, where the error is one.
    pub fn record(&self) -> Option<Record> {
        match self {
            Self::Denied {
                denied,
                kbs_authenticated,
            } => Some(Record {
                decision: denied.decision().clone(),
                kbs_authenticated: *kbs_authenticated,
            }),
            _ => None,
        }
    }
}

/// The phrase for a denial is the one that callers look for.
fn answer(denied: &Denied) -> &'static str {
    if denied.decision().is_undecided() {
        "the image policy cannot judge for now, try again"
    } else {
        "Image policy rejected: Denied by policy"
    }
}

/// The end of asking one place after the other: the error of the only one as it is, and several
/// together.
pub(crate) fn nowhere(mut failures: Vec<Error>, unasked: Vec<String>) -> Error {
    match failures.pop() {
        Some(only) if failures.is_empty() && unasked.is_empty() => only,
        last => {
            failures.extend(last);
            Error::Nowhere { failures, unasked }
        }
    }
}

/// What failed at each place, in the order in which they were asked.
struct Listed<'a>(&'a [Error], &'a [String]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(failures, unasked) = self;
        if let Some(stage) = failures.first() {
            write!(f, "{stage}: ")?;
        }
        write!(f, "none of {} places has it", failures.len())?;
        for (number, failure) in (1..).zip(*failures) {
            // The stage is said once, in front.
            let cause = std::error::Error::source(failure).map(chain);
            let cause = cause.unwrap_or_else(|| failure.to_string());
            write!(f, "; [{number}] {cause}")?;
        }
        for reason in *unasked {
            write!(f, "; {reason}")?;
        }
        Ok(())
    }
}

/// An error and all its causes in one line, for logs and people.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // A transparent wrapper repeats its source's text; once is enough.
        let line = cause.to_string();
        if !text.ends_with(&line) {
            // Writing to a string does not fail.
            let _ = write!(text, ": {line}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_every_cause_once() {
        let error = Error::Resource {
            what: "image policy",
            source: ResourceError::Location {
                location: "x".into(),
            },
        };
        assert_eq!(
            chain(&error),
            "image policy: x: not a kbs:///, file:/// or absolute path"
        );
    }
}
