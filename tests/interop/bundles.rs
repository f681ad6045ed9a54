//! What cosign makes by itself today: bundles in referrers, and what becomes of changed ones.
#![expect(
    clippy::items_after_statements,
    clippy::too_many_lines,
    reason = "tables of cases"
)]

use kit::image::Image;
use kit::sigstore::{Attached, Bundle, Identity, Moment, Sigstore, Statement, Version};
use serde_json::{Value, json};

use crate::cosign::{OWNER, STRANGER, at, by};
use crate::guide::only;
use crate::world::{World, succeed};
use crate::{Outcome, Report};

/// Runs every case.
pub(crate) async fn check(world: &World, report: &mut Report) {
    let made = signing_config(world);
    report.add("cosign signing-config create, without services", made);
    signatures(world, report).await;
    changed(world, report).await;
    attestations(world, report).await;
    certificates(world, report).await;
}

async fn signatures(world: &World, report: &mut Report) {
    let image = Image::small("bundles");
    let name = world.push("org/bundled:1", &image).await;
    let tag = format!("{name}:1");
    let signed = cosign(world, &["sign"], OWNER, &at(&name, &image));
    report.add("cosign sign, a bundle", signed);
    let outcome = world
        .accepts(&by(OWNER, world), &tag, &["referrer sha256:"])
        .await;
    report.add("a bundle: accepted", outcome);
    let words = ["not by the key"];
    let outcome = world.refuses(&by(STRANGER, world), &tag, &words).await;
    report.add("a bundle by another key: refused", outcome);
    let signed = cosign(world, &["sign"], STRANGER, &at(&name, &image));
    report.add("cosign sign, a second bundle", signed);
    for key in [OWNER, STRANGER] {
        let outcome = world.accepts(&by(key, world), &tag, &[]).await;
        report.add(&format!("two bundles: accepted, {key}"), outcome);
    }
}

async fn changed(world: &World, report: &mut Report) {
    let image = Image::small("bundles to be changed");
    let repository = "org/rebundled";
    let name = world.push(&format!("{repository}:1"), &image).await;
    let signed = cosign(world, &["sign"], OWNER, &at(&name, &image));
    report.add("cosign sign, a bundle to be changed", signed);
    let bundles = world.bundles(repository, &image).await;
    let bundle = || bundles[0].clone();
    let (owner, tag) = (by(OWNER, world), format!("{name}:1"));
    let payload = "/dsseEnvelope/payload";
    for (case, changed) in [
        ("its payload", bundle().spoiled(payload)),
        (
            "its signature",
            bundle().spoiled("/dsseEnvelope/signatures/0/sig"),
        ),
        (
            "its type of payload",
            bundle().edit(|json| json["dsseEnvelope"]["payloadType"] = "text/plain".into()),
        ),
        (
            "its envelope, which is gone",
            bundle().without("/dsseEnvelope"),
        ),
    ] {
        let attached = [Attached::bundle(&image, &changed)];
        world.attach(repository, &image, &attached).await;
        let outcome = world.refuses(&owner, &tag, &[]).await;
        report.add(&format!("a bundle changed in {case}: refused"), outcome);
    }
    let attached = [Attached::bundle(&image, &bundle())];
    world.attach(repository, &image, &attached).await;
    let outcome = world.accepts(&owner, &tag, &[]).await;
    report.add("the bundle as it was: accepted", outcome);

    let other = Image::small("another image");
    world.push(&format!("{repository}:2"), &other).await;
    let attached = [Attached::bundle(&other, &bundle())];
    world.attach(repository, &other, &attached).await;
    let outcome = world.refuses(&owner, &format!("{name}:2"), &[]).await;
    report.add("a bundle attached to another image: refused", outcome);
}

/// The services of a bundle's evidence: none.
fn signing_config(world: &World) -> Outcome {
    let mut create = world.command("cosign");
    create.args(["signing-config", "create", "--out", "signing.json"]);
    succeed(&mut create).map(drop)
}

/// Has cosign make a bundle without services.
pub(crate) fn cosign(world: &World, arguments: &[&str], key: &str, image: &str) -> Outcome {
    let mut cosign = world.command("cosign");
    cosign
        .args(arguments)
        .args(["--key", &format!("{key}.key")]);
    cosign.args(["--signing-config", "signing.json", image]);
    succeed(&mut cosign).map(drop)
}

/// Attestations by a key.
async fn attestations(world: &World, report: &mut Report) {
    let image = Image::small("attested");
    let repository = "org/attested";
    let name = world.push(&format!("{repository}:1"), &image).await;
    let tag = format!("{name}:1");
    world.write(
        "predicate.json",
        r#"{"builder": {"level": 3, "name": "farm"}}"#,
    );
    let attest = [
        "attest",
        "--type",
        PREDICATE,
        "--predicate",
        "predicate.json",
    ];
    let made = cosign(world, &attest, OWNER, &at(&name, &image));
    report.add("cosign attest, a bundle", made);
    let words = ["https://sigstore.dev/cosign/sign/v1"];
    let outcome = world.refuses(&by(OWNER, world), &tag, &words).await;
    report.add(
        "an attestation where a signature is wanted: refused",
        outcome,
    );
    for (case, conditions, is_met) in [
        ("no condition", json!([]), true),
        (
            "a level",
            json!([{"pointer": "/builder/level", "atLeast": 3}]),
            true,
        ),
        (
            "a name",
            json!([{"pointer": "/builder/name", "equals": "farm"}]),
            true,
        ),
        (
            "a higher level",
            json!([{"pointer": "/builder/level", "atLeast": 4}]),
            false,
        ),
        (
            "another name",
            json!([{"pointer": "/builder/name", "equals": "home"}]),
            false,
        ),
    ] {
        let policy = attested_by(OWNER, world, &conditions);
        if is_met {
            let outcome = world.accepts(&policy, &tag, &[]).await;
            report.add(&format!("an attestation, {case} wanted: accepted"), outcome);
        } else {
            let outcome = world.refuses(&policy, &tag, &["/builder/"]).await;
            report.add(&format!("an attestation, {case} wanted: refused"), outcome);
        }
    }
    let policy = attested_by(STRANGER, world, &json!([]));
    let outcome = world.refuses(&policy, &tag, &["not by the key"]).await;
    report.add("an attestation by another key: refused", outcome);
    let bundles = world.bundles(repository, &image).await;
    let changed = bundles[0].clone().spoiled("/dsseEnvelope/payload");
    let attached = [Attached::bundle(&image, &changed)];
    world.attach(repository, &image, &attached).await;
    let policy = attested_by(OWNER, world, &json!([]));
    let outcome = world.refuses(&policy, &tag, &["does not count"]).await;
    report.add("an attestation changed: refused", outcome);
}

/// Evidence of the kit's own services, which cosign and image-agent judge alike.
async fn certificates(world: &World, report: &mut Report) {
    let services = Sigstore::mint();
    world.write("trusted_root.json", &services.trusted_root().to_string());
    let policy = only(&json!({
        "type": "sigstoreSigned",
        "trustedRoot": world.home().join("trusted_root.json"),
        "identities": [{"subject": EMAIL, "issuer": ISSUER}],
    }));
    let signer = services.ceremony(Identity::email(EMAIL, ISSUER));
    let late = signer.clone().signed(Moment::now().plus(3600));
    let stranger = services.ceremony(Identity::email("else@example.com", ISSUER));
    let second = signer.clone().log(Version::Two);
    let proof = "/verificationMaterial/tlogEntries/0/inclusionProof/rootHash";
    let promise = "/verificationMaterial/tlogEntries/0/inclusionPromise/signedEntryTimestamp";
    let stamp =
        "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";
    type Make<'a> = Box<dyn Fn(&Statement) -> Bundle + 'a>;
    let cases: [(&str, bool, Make<'_>); 11] = [
        ("everything", true, Box::new(|one| signer.sign(one))),
        (
            "no timestamp",
            true,
            Box::new(|one| signer.clone().without_timestamp().sign(one)),
        ),
        ("the second log", true, Box::new(|one| second.sign(one))),
        (
            "the second log, no timestamp",
            false,
            Box::new(|one| second.clone().without_timestamp().sign(one)),
        ),
        (
            "no log",
            false,
            Box::new(|one| signer.clone().without_log().sign(one)),
        ),
        (
            "no certificate log",
            false,
            Box::new(|one| signer.clone().without_certificate_log().sign(one)),
        ),
        (
            "after the certificate",
            false,
            Box::new(|one| late.sign(one)),
        ),
        (
            "another identity",
            false,
            Box::new(|one| stranger.sign(one)),
        ),
        (
            "a spoiled proof",
            false,
            Box::new(|one| signer.sign(one).spoiled(proof)),
        ),
        (
            "a spoiled promise",
            false,
            Box::new(|one| signer.sign(one).spoiled(promise)),
        ),
        (
            "a spoiled timestamp",
            false,
            Box::new(|one| signer.sign(one).spoiled(stamp)),
        ),
    ];
    for (number, (case, is_good, make)) in cases.iter().enumerate() {
        let image = Image::small(case);
        let repository = format!("org/certified{number}");
        let name = world.push(&format!("{repository}:1"), &image).await;
        let bundle = make(&Statement::signature(&image.digest()));
        let attached = [Attached::bundle(&image, &bundle)];
        world.attach(&repository, &image, &attached).await;
        let verified = by_cosign(world, &at(&name, &image));
        let tag = format!("{name}:1");
        if *is_good {
            report.add(&format!("cosign verify, {case}"), verified);
            let outcome = world.accepts(&policy, &tag, &[EMAIL]).await;
            report.add(&format!("{case}: accepted"), outcome);
        } else {
            let refused = match verified {
                Ok(()) => Err("cosign accepts it".to_owned()),
                Err(_why) => Ok(()),
            };
            // The log's time is enough for cosign, which then looks at no timestamp.
            if *case != "a spoiled timestamp" {
                report.add(&format!("cosign verify refuses, {case}"), refused);
            }
            let outcome = world.refuses(&policy, &tag, &[]).await;
            report.add(&format!("{case}: refused"), outcome);
        }
    }
}

fn by_cosign(world: &World, image: &str) -> Outcome {
    let mut verify = world.command("cosign");
    verify
        .args(["verify", "--trusted-root", "trusted_root.json"])
        .args(["--certificate-identity", EMAIL])
        .args(["--certificate-oidc-issuer", ISSUER])
        .arg(image);
    succeed(&mut verify).map(drop)
}

fn attested_by(key: &str, world: &World, conditions: &Value) -> Value {
    let path = world.home().join(format!("{key}.pub"));
    let mut requirement = json!({
        "type": "attestedBy",
        "predicateType": PREDICATE,
        "keyPath": path,
    });
    if conditions != &json!([]) {
        requirement["conditions"] = conditions.clone();
    }
    only(&requirement)
}

const PREDICATE: &str = "https://example.com/build/v1";
const EMAIL: &str = "dev@example.com";
const ISSUER: &str = "https://login.example.com";
