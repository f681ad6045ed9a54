//! What it costs to verify a keyless bundle, beside `sigstore-verify` called directly on the same
//! bytes: both read the bundle and prove signature, certificate, log and identity.
//!
//! `cargo run --release --workspace --example bundle_bench`; fails when ours takes more than 1.1
//! times as long. Times are medians of CPU time, both measured by turns.

#![expect(
    clippy::print_stdout,
    reason = "a report on standard output is the purpose"
)]

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use kit::image::sha256;
use kit::sigstore::{Ceremony, Identity, Sigstore, Statement, Version};
use policy::{BundleArtifact, BundleSigner, Digest, TrustedRoot, UntrustedBundle, verify_bundle};
use rustix::time::{ClockId, clock_gettime};
use sigstore_verify::trust_root::TrustedRoot as Material;
use sigstore_verify::types::{Bundle, Sha256Hash};
use sigstore_verify::{VerificationPolicy, Verifier};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let services = Sigstore::mint();
    let trusted_root = services.trusted_root().to_string();
    let ours = TrustedRoot::parse(trusted_root.as_bytes())?;
    let library = Verifier::new(&Material::from_json(&trusted_root)?)?;
    let signer = services.ceremony(Identity::email(EMAIL, ISSUER));
    let kinds: [(&str, Ceremony<'_>); 3] = [
        ("Rekor 1 and timestamp", signer.clone()),
        ("Rekor 1", signer.clone().without_timestamp()),
        ("Rekor 2 and timestamp", signer.log(Version::Two)),
    ];
    println!("one keyless bundle            ours  sigstore-verify  ratio");
    let mut worst: f64 = 0.0;
    for (kind, signer) in kinds {
        let digest = sha256(kind.as_bytes());
        let bundle = signer.sign(&Statement::signature(&digest)).bytes();
        let digest: Digest = digest.parse()?;
        let (ours, library) = measure(
            || verify_ours(&ours, &bundle, &digest),
            || verify_library(&library, &bundle, &digest),
        )?;
        let ratio = ours.as_secs_f64() / library.as_secs_f64();
        println!("{kind:22} {ours:>11.1?} {library:>16.1?} {ratio:>6.2}");
        worst = worst.max(ratio);
    }
    Ok(if worst <= MOST {
        ExitCode::SUCCESS
    } else {
        println!("more than {MOST} times as long");
        ExitCode::FAILURE
    })
}

fn verify_ours(root: &TrustedRoot, bundle: &[u8], digest: &Digest) -> Result<(), Box<dyn Error>> {
    let bundle = UntrustedBundle::parse(bundle)?;
    let (artifact, identity, issuer) = (BundleArtifact::Digest(digest), EMAIL, ISSUER);
    let signer = BundleSigner::Identity { identity, issuer };
    Ok(verify_bundle(root, &bundle, artifact, &signer)?)
}

fn verify_library(
    verifier: &Verifier,
    bundle: &[u8],
    digest: &Digest,
) -> Result<(), Box<dyn Error>> {
    let bundle = Bundle::from_json(str::from_utf8(bundle)?)?;
    let digest = Sha256Hash::from_hex(&digest.hex())?;
    let policy = VerificationPolicy::new(EMAIL, ISSUER);
    verifier.verify(digest, &bundle, &policy)?;
    Ok(())
}

/// The median times of both, of which neither may fail.
fn measure(
    ours: impl Fn() -> Result<(), Box<dyn Error>>,
    library: impl Fn() -> Result<(), Box<dyn Error>>,
) -> Result<(Duration, Duration), Box<dyn Error>> {
    let (mut of_ours, mut of_library) = (Vec::new(), Vec::new());
    for round in 0..RUNS {
        // Whoever comes second finds the caches warm.
        if round % 2 == 0 {
            of_ours.push(time(&ours)?);
            of_library.push(time(&library)?);
        } else {
            of_library.push(time(&library)?);
            of_ours.push(time(&ours)?);
        }
    }
    Ok((middle(of_ours), middle(of_library)))
}

fn time(run: impl Fn() -> Result<(), Box<dyn Error>>) -> Result<Duration, Box<dyn Error>> {
    let start = cpu_time()?;
    run()?;
    Ok(cpu_time()?.saturating_sub(start))
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec)?;
    Ok(Duration::new(seconds, u32::try_from(time.tv_nsec)?))
}

const EMAIL: &str = "dev@example.com";
const ISSUER: &str = "https://login.example.com";
const RUNS: u32 = 401;
const MOST: f64 = 1.1;
