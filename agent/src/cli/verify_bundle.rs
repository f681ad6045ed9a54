//! `image-agent verify-bundle`: one Sigstore bundle, judged by itself and without a network.
//!
//! The options are those that the conformance suite of Sigstore gives to the clients it compares.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use policy::{
    BundleArtifact, BundleProblem, BundleSigner, Digest, KeyError, PublicKey, TrustedRoot,
    TrustedRootError, UntrustedBundle, verify_bundle,
};
use thiserror::Error;

use super::{Exit, report};
use crate::error::chain;

#[derive(Debug, Args)]
pub(super) struct VerifyBundleArgs {
    /// Trust the services on which Sigstore tries out what is new, in place of its public ones
    #[arg(long)]
    staging: bool,
    /// The bundle
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// The subject alternative name that the signer's certificate must have
    #[arg(
        long,
        value_name = "IDENTITY",
        value_parser = NonEmptyStringValueParser::new(),
        required_unless_present = "key",
        conflicts_with = "key"
    )]
    certificate_identity: Option<String>,
    /// Where that signer must have logged in
    #[arg(
        long,
        value_name = "URL",
        value_parser = NonEmptyStringValueParser::new(),
        required_unless_present = "key",
        conflicts_with = "key"
    )]
    certificate_oidc_issuer: Option<String>,
    /// The public key that must have signed, in place of a certificate
    #[arg(long, value_name = "PEM")]
    key: Option<PathBuf>,
    /// A file with the trusted root, in place of what is built in
    #[arg(long, value_name = "FILE")]
    trusted_root: Option<PathBuf>,
    /// What must be signed: a file, or sha256: with its digest
    #[arg(value_name = "FILE_OR_DIGEST")]
    artifact: PathBuf,
}

/// What became of it. Unlike the other commands, whose exit codes tell a refusal from a failure,
/// this one answers as the conformance suite expects: 1 is a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Verified,
    Refused,
    Unreadable,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Verified => Self::SUCCESS,
            Outcome::Refused => Self::from(1),
            Outcome::Unreadable => Self::from(3),
        }
    }
}

/// Runs `image-agent verify-bundle`.
pub(super) fn run(arguments: &VerifyBundleArgs) -> Outcome {
    match judge(arguments) {
        Ok(()) => {
            let text = format!("{}: verified", arguments.artifact.display());
            match report::print(&text, Exit::Done) {
                Exit::Done => Outcome::Verified,
                // An answer that got lost is no answer.
                _ => Outcome::Unreadable,
            }
        }
        Err(problem) => {
            report::complain(&chain(&problem));
            match problem {
                Problem::Unreadable { .. } => Outcome::Unreadable,
                _ => Outcome::Refused,
            }
        }
    }
}

fn judge(arguments: &VerifyBundleArgs) -> Result<(), Problem> {
    let root = arguments.root()?;
    let key = arguments.public_key()?;
    let file = &arguments.bundle;
    let bundle = UntrustedBundle::parse(&read(file, MAX_DOCUMENT_BYTES)?);
    let bundle = bundle.map_err(|source| Problem::Malformed {
        file: file.clone(),
        source,
    })?;
    let (identity, issuer) = arguments.identity();
    let signer = match &key {
        Some(key) => BundleSigner::Key(key),
        None => BundleSigner::Identity { identity, issuer },
    };
    let judge = |artifact| verify_bundle(&root, &bundle, artifact, &signer);
    let judged = if let Some(digest) = arguments.digest() {
        judge(BundleArtifact::Digest(&digest))
    } else {
        let content = read(&arguments.artifact, MAX_ARTIFACT_BYTES)?;
        judge(BundleArtifact::Bytes(&content))
    };
    judged.map_err(|source| Problem::Unproved {
        file: file.clone(),
        artifact: arguments.artifact.clone(),
        signer: arguments.signer(),
        source,
    })
}

impl VerifyBundleArgs {
    fn root(&self) -> Result<TrustedRoot, Problem> {
        let (name, root) = match (&self.trusted_root, self.staging) {
            (Some(file), _) => {
                let document = read(file, MAX_DOCUMENT_BYTES)?;
                (file.as_path(), TrustedRoot::parse(&document))
            }
            (None, true) => (Path::new("--staging"), TrustedRoot::staging()),
            (None, false) => (
                Path::new("the trusted root built in"),
                TrustedRoot::public_good(),
            ),
        };
        root.map_err(|source| Problem::Root {
            file: name.to_owned(),
            source,
        })
    }

    fn public_key(&self) -> Result<Option<PublicKey>, Problem> {
        let Some(file) = &self.key else {
            return Ok(None);
        };
        let key = PublicKey::from_pem(&read(file, MAX_DOCUMENT_BYTES)?);
        let key = key.map_err(|source| Problem::Key {
            file: file.clone(),
            source,
        })?;
        Ok(Some(key))
    }

    /// Identity and issuer. Without a key the command line has both.
    fn identity(&self) -> (&str, &str) {
        (
            self.certificate_identity.as_deref().unwrap_or_default(),
            self.certificate_oidc_issuer.as_deref().unwrap_or_default(),
        )
    }

    /// Who must have signed, in words.
    fn signer(&self) -> String {
        let (identity, issuer) = self.identity();
        self.key.as_ref().map_or_else(
            || format!("{identity:?}, logged in at {issuer:?},"),
            |file| format!("the holder of {}", file.display()),
        )
    }

    /// The digest that stands in the place of the artefact, unless a file has that name.
    fn digest(&self) -> Option<Digest> {
        let text = self.artifact.to_str()?;
        let digest = text.starts_with("sha256:").then(|| text.parse().ok())??;
        (!self.artifact.exists()).then_some(digest)
    }
}

/// Reads a file, of which there may be so much.
fn read(file: &Path, limit: u64) -> Result<Vec<u8>, Problem> {
    let unreadable = |source| Problem::Unreadable {
        file: file.to_owned(),
        source,
    };
    let mut content = Vec::new();
    let opened = File::open(file).map_err(unreadable)?;
    let mut beginning = opened.take(limit.saturating_add(1));
    beginning.read_to_end(&mut content).map_err(unreadable)?;
    // Nothing is left of what was let through only if there was more than the limit.
    if beginning.limit() == 0 {
        let file = file.to_owned();
        return Err(Problem::TooLarge { file, limit });
    }
    Ok(content)
}

/// Why a bundle is not verified. Nothing but a file that cannot be read is an error of the caller.
#[derive(Debug, Error)]
enum Problem {
    #[error("{}", file.display())]
    Unreadable { file: PathBuf, source: io::Error },
    #[error("{}: it has more than the {limit} bytes that are read; of an artefact the digest will do", file.display())]
    TooLarge { file: PathBuf, limit: u64 },
    #[error("{}: no trusted root", file.display())]
    Root {
        file: PathBuf,
        source: TrustedRootError,
    },
    #[error("{}: no public key", file.display())]
    Key { file: PathBuf, source: KeyError },
    #[error("{}", file.display())]
    Malformed {
        file: PathBuf,
        source: BundleProblem,
    },
    #[error("{}: no proof that {signer} signed {}", file.display(), artifact.display())]
    Unproved {
        file: PathBuf,
        artifact: PathBuf,
        signer: String,
        source: BundleProblem,
    },
}

/// More than trusted root, key or bundle may have.
const MAX_DOCUMENT_BYTES: u64 = 16 << 20;
/// A key may have signed the bytes themselves, so they are held in memory.
const MAX_ARTIFACT_BYTES: u64 = 1 << 30;
