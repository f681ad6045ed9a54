//! What the caller may read of an error: the only text that leaves the process.
//!
//! The caller relays it to the host. So the text has a stage and a cause, both from closed lists,
//! and what the host knows anyway: the image's name, hosts, HTTP statuses, digests, sizes and
//! counts. Names of keys and resources, what a registry says, file names of the image and paths
//! of the guest stay in the guest's log, unless `verbose_errors` is set.

use policy::{ConfigError, ManifestError};
use ttrpc::{Code, Status, get_status};

use crate::bundle::BundleError;
use crate::error::{Error, chain};
use crate::printable::printable;
use crate::registry::RegistryError;
use crate::resources::ResourceError;
use crate::sources::OpenError;
use crate::store::StoreError;

/// The status of a pull that failed.
pub(crate) fn for_the_caller(image: &str, error: &Error, verbose: bool) -> Status {
    let verdict = Verdict::of(error);
    // The name is the caller's own; it is cut so that it cannot fill the answer.
    let image = printable(image, MAX_IMAGE_NAME);
    let mut text = format!(
        "Failed to pull image {image}: {}: {}",
        verdict.stage, verdict.cause
    );
    if let Some(facts) = &verdict.facts {
        text.push_str(": ");
        text.push_str(facts);
    }
    if verbose {
        text.push_str(" [");
        text.push_str(&chain(error));
        text.push(']');
    }
    get_status(verdict.code, text)
}

/// The status of every call while the configuration is broken.
///
/// The configuration is the owner's and reaches the guest through the host, so its errors may
/// be read there.
pub(crate) fn misconfigured(text: &str) -> Status {
    let text = format!("Failed to pull image: configuration: {text}");
    get_status(Code::FAILED_PRECONDITION, text)
}

/// An error in words from closed lists, with facts that the host knows anyway.
#[derive(Debug)]
struct Verdict {
    code: Code,
    stage: &'static str,
    cause: &'static str,
    facts: Option<String>,
}

fn verdict(code: Code, stage: &'static str, cause: &'static str) -> Verdict {
    Verdict {
        code,
        stage,
        cause,
        facts: None,
    }
}

impl Verdict {
    fn with(self, facts: &str) -> Self {
        let facts = Some(printable(facts, MAX_FACTS));
        Self { facts, ..self }
    }

    fn of(error: &Error) -> Self {
        let broken = |stage, cause| verdict(Code::FAILED_PRECONDITION, stage, cause);
        match error {
            Error::Reference(source) => {
                verdict(Code::INVALID_ARGUMENT, "reference", "malformed image name")
                    .with(&source.to_string())
            }
            Error::BundlePath(source) => of_bundle("bundle path", source),
            Error::NoPolicy { hint } => {
                broken("policy", "no image policy is configured").with(hint)
            }
            Error::Policy(_) => broken("policy", "malformed image policy"),
            Error::Registries(_) => broken("resolve", "malformed registries configuration"),
            Error::Lookaside(_) => broken("decide", "malformed sigstore configuration"),
            Error::Resource { source, .. } => of_resource(source),
            Error::Open(source) => of_open(source),
            Error::Nowhere { failures, .. } => of_places(failures),
            Error::Resolve(source) => of_registry("resolve", source),
            Error::FetchConfig(source) => of_registry("config", source),
            Error::Fetch { source, .. } => of_registry("fetch", source),
            Error::Manifest(source) => of_manifest(source),
            Error::Platform(source) => {
                verdict(Code::NOT_FOUND, "resolve", "no image for this platform")
                    .with(&source.to_string())
            }
            Error::Denied { denied, .. } if denied.decision().is_undecided() => verdict(
                Code::UNAVAILABLE,
                "decide",
                "the image policy cannot judge for now, try again",
            )
            .with(denied.cause()),
            Error::Denied { denied, .. } => verdict(
                Code::PERMISSION_DENIED,
                "decide",
                "Image policy rejected: Denied by policy",
            )
            .with(denied.cause()),
            Error::Config(source) => of_config(source),
            Error::Unpack { layer, source } => of_unpack(source).about(&layer.to_string()),
            Error::NotRoot => broken("pull", "the agent does not run as root"),
            Error::Store(source) => of_store(source),
            Error::NoRoom(_) | Error::DiskFull { .. } => of_space(error),
            Error::Assemble(source) => of_bundle("assemble", source),
            Error::Deadline { .. } | Error::Panicked | Error::ShuttingDown | Error::Interrupted => {
                of_end(error)
            }
        }
    }

    /// Names the layer that the facts are about.
    fn about(self, layer: &str) -> Self {
        let facts = match &self.facts {
            Some(facts) => format!("layer {layer}: {facts}"),
            None => format!("layer {layer}"),
        };
        self.with(&facts)
    }
}

fn of_open(error: &OpenError) -> Verdict {
    let broken = |cause| verdict(Code::FAILED_PRECONDITION, "resolve", cause);
    match error {
        OpenError::Registry(source) => of_registry("resolve", source),
        OpenError::Rewrite(_) => broken("the registries configuration makes no name of this one"),
        OpenError::Credentials(_) | OpenError::HelperNotEnabled { .. } => {
            broken("malformed registry credentials")
        }
        OpenError::Helper(_) => verdict(
            Code::UNAUTHENTICATED,
            "resolve",
            "the credential helper gives no credentials",
        ),
        OpenError::Certificates { .. }
        | OpenError::NoCertificate { .. }
        | OpenError::File { .. } => broken("proxy or certificates are unusable"),
    }
}

/// The code of the last place, which is the registry itself, and what each has said.
fn of_places(failures: &[Error]) -> Verdict {
    let causes = failures.iter().map(|failure| {
        let verdict = Verdict::of(failure);
        verdict.facts.unwrap_or_else(|| verdict.cause.to_owned())
    });
    let facts: Vec<String> = causes.collect();
    let last = failures.last().map(Verdict::of);
    let (code, stage) = last.map_or((Code::UNAVAILABLE, "resolve"), |last| {
        (last.code, last.stage)
    });
    verdict(code, stage, "no place has the image").with(&facts.join("; "))
}

/// Too little space, as was seen before anything was fetched or afterwards.
fn of_space(error: &Error) -> Verdict {
    match error {
        Error::NoRoom(shortage) => {
            verdict(Code::RESOURCE_EXHAUSTED, "store", "disk full").with(&shortage.facts())
        }
        Error::DiskFull {
            free,
            file_system,
            source,
            ..
        } => {
            let facts = format!("needs more than the {free} that were free");
            Verdict::of(source).with(&format!("{facts} ({file_system})"))
        }
        other => of_end(other),
    }
}

/// A pull that ended for no reason of its own.
fn of_end(error: &Error) -> Verdict {
    let stage = "pull";
    match error {
        Error::Deadline { seconds } => verdict(Code::DEADLINE_EXCEEDED, stage, "deadline exceeded")
            .with(&format!("{seconds} s")),
        Error::ShuttingDown | Error::Interrupted => {
            verdict(Code::UNAVAILABLE, stage, "the daemon is ending")
        }
        _ => verdict(Code::INTERNAL, stage, "internal error"),
    }
}

fn of_resource(error: &ResourceError) -> Verdict {
    let failed = |cause| verdict(Code::UNAUTHENTICATED, "policy", cause);
    let broken = |cause| verdict(Code::FAILED_PRECONDITION, "policy", cause);
    match error {
        ResourceError::NotAccepted { .. } => {
            broken("the policy is none that the configuration accepts")
        }
        ResourceError::Location { .. } | ResourceError::Uri { .. } => {
            broken("malformed resource location")
        }
        ResourceError::File { .. } => broken("a resource file cannot be read"),
        ResourceError::TooLarge { .. } => broken("a resource is too large"),
        ResourceError::Kbs { source, .. } => match source.as_ref() {
            kbs_client::Error::Unreachable { .. } => verdict(
                Code::UNAVAILABLE,
                "policy",
                "key broker service unreachable",
            ),
            kbs_client::Error::Tls { .. } => failed("key broker service not trusted"),
            kbs_client::Error::Version { ours, theirs, .. } => {
                failed("key broker service speaks another protocol")
                    .with(&format!("expected {ours}, found {theirs}"))
            }
            kbs_client::Error::SessionRefused { .. }
            | kbs_client::Error::EvidenceRefused { .. }
            | kbs_client::Error::TokenRefused { .. } => failed("attestation refused"),
            kbs_client::Error::PolicyDenied { .. } => {
                failed("key broker service denies the resource")
            }
            kbs_client::Error::NotFound { .. } | kbs_client::Error::Offline(_) => {
                failed("no such resource")
            }
            kbs_client::Error::Attester { .. } => failed("no evidence from the attester"),
            kbs_client::Error::InitData(_) => failed("other init-data than at launch"),
            _ => failed("key broker service failed"),
        },
    }
}

fn of_registry(stage: &'static str, error: &RegistryError) -> Verdict {
    let (code, cause) = match error {
        RegistryError::Client(_) => (
            Code::FAILED_PRECONDITION,
            "proxy or certificates are unusable",
        ),
        RegistryError::Blocked { .. } => {
            (Code::PERMISSION_DENIED, "registry blocked by configuration")
        }
        RegistryError::Unreachable { .. } => (Code::UNAVAILABLE, "registry unreachable"),
        RegistryError::NotTrusted { .. } => (Code::UNAUTHENTICATED, "registry not trusted"),
        RegistryError::Broken { .. } => (Code::UNAVAILABLE, "connection to the registry broke"),
        RegistryError::Stalled { .. } => (Code::UNAVAILABLE, "registry stalled"),
        RegistryError::Deadline { .. } => (Code::UNAVAILABLE, "registry too slow"),
        RegistryError::NotFound { .. } => (Code::NOT_FOUND, "not found in the registry"),
        RegistryError::Refused { .. } | RegistryError::Challenge { .. } => {
            (Code::UNAUTHENTICATED, "registry refuses access")
        }
        RegistryError::Status {
            status: 429 | 500..,
            ..
        } => (Code::UNAVAILABLE, "registry failed"),
        RegistryError::Status { .. } => (Code::INTERNAL, "registry failed"),
        RegistryError::TooLarge { .. } => (Code::RESOURCE_EXHAUSTED, "limit exceeded"),
        RegistryError::WrongSize { .. } => (Code::DATA_LOSS, "size mismatch"),
        RegistryError::WrongDigest { .. } => (Code::DATA_LOSS, "digest mismatch"),
        RegistryError::BadRedirect { .. }
        | RegistryError::LeadsInside { .. }
        | RegistryError::TooManyRedirects { .. } => (Code::UNAVAILABLE, "redirect refused"),
        RegistryError::WrongRange { .. } => (Code::DATA_LOSS, "wrong part of a blob"),
        RegistryError::GivenUp { attempts, last } => {
            let verdict = of_registry(stage, last);
            let facts = verdict.facts.clone().unwrap_or_default();
            return verdict.with(&format!("{facts}, after {attempts} attempts"));
        }
    };
    let verdict = verdict(code, stage, cause);
    match error {
        RegistryError::Client(_) => verdict,
        // What the registry says of it stays in the guest.
        RegistryError::Refused { wanted, status, .. }
        | RegistryError::Status { wanted, status, .. } => {
            verdict.with(&format!("{wanted}: HTTP status {status}"))
        }
        // The others have names, hosts, digests and sizes, and the system's words for a broken
        // connection: the host carries it.
        _ => verdict.with(&error.to_string()),
    }
}

fn of_manifest(error: &ManifestError) -> Verdict {
    let (code, cause) = match error {
        ManifestError::TooLarge { .. } | ManifestError::TooManyLayers { .. } => {
            (Code::RESOURCE_EXHAUSTED, "limit exceeded")
        }
        ManifestError::DigestMismatch { .. } => (Code::DATA_LOSS, "digest mismatch"),
        ManifestError::SizeMismatch { .. } => (Code::DATA_LOSS, "size mismatch"),
        ManifestError::EncryptedLayer { .. } => (Code::UNIMPLEMENTED, "encrypted layer"),
        ManifestError::ForeignLayer { .. }
        | ManifestError::UnsupportedLayer { .. }
        | ManifestError::UnknownType { .. }
        | ManifestError::Schema1 { .. }
        | ManifestError::SchemaVersion { .. } => (Code::UNIMPLEMENTED, "unsupported image"),
        _ => return verdict(Code::DATA_LOSS, "resolve", "malformed manifest"),
    };
    // These texts have digests, sizes, counts and media types of the manifest, which the host
    // serves, and nothing else.
    verdict(code, "resolve", cause).with(&error.to_string())
}

fn of_config(error: &ConfigError) -> Verdict {
    match error {
        ConfigError::TooLarge { .. } => {
            verdict(Code::RESOURCE_EXHAUSTED, "config", "limit exceeded").with(&error.to_string())
        }
        ConfigError::Content(source) => {
            verdict(Code::DATA_LOSS, "config", "digest mismatch").with(&source.to_string())
        }
        ConfigError::LayerCount { .. } | ConfigError::Platform { .. } => {
            verdict(Code::DATA_LOSS, "config", "config does not fit the image")
                .with(&error.to_string())
        }
        ConfigError::Layers(source) => of_manifest(source),
        _ => verdict(Code::DATA_LOSS, "config", "malformed image config"),
    }
}

fn of_unpack(error: &rootfs::Error) -> Verdict {
    use rootfs::Error as E;
    let stage = "unpack";
    let hostile = |cause| verdict(Code::DATA_LOSS, stage, cause);
    match error {
        E::BlobTooLong { .. } | E::BlobTooShort { .. } => {
            verdict(Code::DATA_LOSS, stage, "size mismatch").with(&error.to_string())
        }
        E::BlobDigest { .. } | E::DiffId { .. } => {
            verdict(Code::DATA_LOSS, stage, "digest mismatch").with(&error.to_string())
        }
        E::Limit { .. } => {
            verdict(Code::RESOURCE_EXHAUSTED, stage, "limit exceeded").with(&error.to_string())
        }
        E::NoSpace { .. } => verdict(Code::RESOURCE_EXHAUSTED, stage, "disk full"),
        E::Inflate { .. } | E::TrailingGarbage { .. } => {
            verdict(Code::DATA_LOSS, stage, "damaged blob")
        }
        E::Cancelled => verdict(Code::UNAVAILABLE, stage, "cancelled"),
        E::Read(_) => verdict(Code::UNAVAILABLE, stage, "the fetch stopped"),
        E::Io { .. } | E::Thread { .. } | E::StagingUsed | E::ForeignProof => {
            verdict(Code::INTERNAL, stage, "the guest cannot write the layer")
        }
        // What follows is archives that no honest tool makes. Their names are the image's, so
        // only the kind of trick is told.
        E::ParentComponent { .. } | E::ZeroInName { .. } => hostile("name leads out of the layer"),
        E::ParentLink { .. } => hostile("link leads out of the layer"),
        E::HardLink { .. } => hostile("hard link leads out of the layer"),
        E::ParentNotDirectory { .. } | E::RootNotDirectory { .. } => {
            hostile("file where a directory is needed")
        }
        E::DeviceOverDirectory { .. } => hostile("device where a directory was"),
        E::WhiteoutDevice { .. } | E::OverlayXattr { .. } | E::Whiteout { .. } => {
            hostile("archive forges overlay internals")
        }
        E::Truncated { .. } => hostile("archive is cut short"),
        _ => hostile("malformed archive"),
    }
}

fn of_store(error: &StoreError) -> Verdict {
    let stage = "store";
    match error {
        StoreError::DiskFull { .. } => verdict(Code::RESOURCE_EXHAUSTED, stage, "disk full"),
        StoreError::NotADirectory { .. } => verdict(
            Code::FAILED_PRECONDITION,
            stage,
            "image.work_dir is not a directory",
        ),
        StoreError::HostWritable { file_system, .. } => verdict(
            Code::FAILED_PRECONDITION,
            stage,
            "image.work_dir is on a disk that the host can write",
        )
        .with(&format!(
            "{file_system}; mount a tmpfs there, or dm-crypt with integrity, or set \
             image_agent.danger_host_writable_store = true"
        )),
        StoreError::RecordTooLong { .. } => {
            verdict(Code::RESOURCE_EXHAUSTED, stage, "limit exceeded")
        }
        StoreError::Tree { source, .. } if matches!(**source, rootfs::Error::NoSpace { .. }) => {
            verdict(Code::RESOURCE_EXHAUSTED, stage, "disk full")
        }
        _ => verdict(Code::INTERNAL, stage, "the guest cannot use its store"),
    }
}

fn of_bundle(stage: &'static str, error: &BundleError) -> Verdict {
    match error {
        // The bundle's path is the caller's own.
        BundleError::Path(source) => {
            verdict(Code::INVALID_ARGUMENT, stage, "unusable bundle path").with(&source.to_string())
        }
        BundleError::Exists { .. } => verdict(
            Code::ALREADY_EXISTS,
            stage,
            "the bundle path holds a bundle already",
        ),
        BundleError::Busy { .. } => verdict(
            Code::ALREADY_EXISTS,
            stage,
            "another bundle is being made there",
        ),
        BundleError::DiskFull { .. } => verdict(Code::RESOURCE_EXHAUSTED, stage, "disk full"),
        BundleError::Mount { layers, .. } => {
            verdict(Code::INTERNAL, stage, "mount failed").with(&format!("{layers} layers"))
        }
        BundleError::User(_) => verdict(
            Code::FAILED_PRECONDITION,
            stage,
            "the image's user cannot be resolved",
        ),
        BundleError::Spec(_) => verdict(
            Code::FAILED_PRECONDITION,
            stage,
            "the image's config cannot be used",
        ),
        BundleError::Store(source) => of_store(source),
        _ => verdict(Code::INTERNAL, stage, "the guest cannot make the bundle"),
    }
}

/// Facts are digests, hosts, sizes and counts.
const MAX_FACTS: usize = 1024;
const MAX_IMAGE_NAME: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Wanted;

    fn status(error: &Error) -> Status {
        for_the_caller("registry.example/app:1", error, false)
    }

    fn refused_by_the_registry() -> Error {
        let wanted = Wanted::manifest("registry.example", "app", "1");
        let body = b"{\"errors\":\"a secret of the registry\"}";
        Error::Resolve(RegistryError::status(&wanted, 403, body))
    }

    #[test]
    fn text_has_the_phrases_that_callers_look_for_and_the_facts() {
        let status = status(&refused_by_the_registry());
        assert_eq!(status.code(), Code::UNAUTHENTICATED);
        assert_eq!(
            status.message(),
            "Failed to pull image registry.example/app:1: resolve: registry refuses access: \
             manifest 1 of app from registry.example: HTTP status 403"
        );
    }

    #[test]
    fn guest_secrets_go_out_only_when_the_owner_wants_it() {
        let location = "kbs:///default/secret-key/1".to_owned();
        let error = Error::Resource {
            what: "image policy",
            source: ResourceError::Location { location },
        };
        for (error, secret) in [
            (error, "secret-key"),
            (refused_by_the_registry(), "a secret of the registry"),
        ] {
            assert!(!status(&error).message().contains(secret), "{error:?}");
            let verbose = for_the_caller("registry.example/app:1", &error, true);
            assert!(verbose.message().contains(secret), "{error:?}");
        }
    }

    #[test]
    fn name_of_the_image_cannot_fill_or_forge_the_answer() {
        let long = format!("x\n{}", "y".repeat(100_000));
        let status = for_the_caller(&long, &Error::Panicked, false);
        assert!(status.message().len() < 700);
        assert!(!status.message().contains('\n'));
        assert_eq!(status.code(), Code::INTERNAL);
    }

    #[test]
    fn causes_are_told_apart() {
        let limit = rootfs::LimitKind::Entries;
        let layer = policy::Digest::sha256_of(b"");
        let unpack = |source| Error::Unpack {
            layer,
            source: Box::new(source),
        };
        let rows = [
            (Error::Panicked, Code::INTERNAL),
            (Error::Deadline { seconds: 5 }, Code::DEADLINE_EXCEEDED),
            (
                Error::NoPolicy {
                    hint: String::new(),
                },
                Code::FAILED_PRECONDITION,
            ),
            (
                unpack(rootfs::Error::Limit {
                    limit,
                    allowed: 1,
                    found: 2,
                }),
                Code::RESOURCE_EXHAUSTED,
            ),
            (
                unpack(rootfs::Error::BlobTooShort {
                    expected: 2,
                    found: 1,
                }),
                Code::DATA_LOSS,
            ),
        ];
        for (error, code) in rows {
            assert_eq!(status(&error).code(), code, "{error:?}");
        }
    }
}
