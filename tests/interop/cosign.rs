//! Images signed by the real cosign: what must be accepted, and what becomes of each part when it
//! is changed.

use kit::cosign::{SIGNATURE_ANNOTATION, Signature, signature_image, signature_tag};
use kit::image::{Format, Image, host_architecture};
use serde_json::{Value, json};

use crate::guide::only;
use crate::world::{World, succeed};
use crate::{Outcome, Report};

/// How cosign is asked for signatures under the tag `sha256-<hex>.sig`, without a log.
const LEGACY: [&str; 3] = [
    "--new-bundle-format=false",
    "--use-signing-config=false",
    "--tlog-upload=false",
];

/// Runs every case.
pub(crate) async fn check(world: &World, report: &mut Report) {
    for name in [OWNER, STRANGER] {
        let mut generate = world.command("cosign");
        generate.args(["generate-key-pair", "--output-key-prefix", name]);
        let made = succeed(&mut generate).map(drop);
        report.add(&format!("cosign generate-key-pair, {name}"), made);
    }
    one_signature(world, report).await;
    changed(world, report).await;
    several_signatures(world, report).await;
    annotations(world, report).await;
    names(world, report).await;
    index(world, report).await;
}

async fn one_signature(world: &World, report: &mut Report) {
    let image = Image::small("one signature");
    let name = world.push("org/one:1", &image).await;
    let (tag, digest) = (format!("{name}:1"), at(&name, &image));
    let owner = by(OWNER, world);
    let outcome = world
        .refuses(&owner, &tag, &["no signature was found"])
        .await;
    report.add("not signed yet: refused", outcome);
    report.add("cosign sign", sign(world, OWNER, &digest, &[]));
    report.add(
        "signed: accepted by tag",
        world.accepts(&owner, &tag, &[]).await,
    );
    let both = format!("{tag}@{}", image.digest());
    for (case, image) in [("digest", &digest), ("tag and digest", &both)] {
        let outcome = world.accepts(&owner, image, &[&name]).await;
        report.add(&format!("signed: accepted by {case}"), outcome);
    }
    let outcome = world
        .refuses(&by(STRANGER, world), &tag, &["not by the key"])
        .await;
    report.add("signed by another key: refused", outcome);
}

async fn changed(world: &World, report: &mut Report) {
    let image = Image::small("to be changed");
    let name = world.push("org/changed:1", &image).await;
    report.add(
        "cosign sign, an image to be changed",
        sign(world, OWNER, &at(&name, &image), &[]),
    );
    let owner = by(OWNER, world);

    let altered = Image::of([]).manifest(|manifest| manifest["annotations"] = json!({"a": "b"}));
    let altered = altered.build();
    world.push("org/changed:2", &altered).await;
    world.copy(&attachment(&name, &image), &attachment(&name, &altered));
    let words = [image.digest(), altered.digest()];
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let outcome = world.refuses(&owner, &format!("{name}:2"), &words).await;
    report.add("the manifest altered: refused", outcome);

    let moved = world.push("org/moved:1", &image).await;
    world.copy(&attachment(&name, &image), &attachment(&moved, &image));
    let outcome = world
        .refuses(&owner, &format!("{moved}:1"), &[&name, "matchRepository"])
        .await;
    report.add(
        "the signature moved to another repository: refused",
        outcome,
    );

    let signed = signatures(world, &name, &image);
    let text = String::from_utf8(signed[0].payload.to_vec()).expect("the payload is text");
    for (case, payload) in [
        ("a blank added to the payload", text.replace("\":", "\": ")),
        (
            "the name in the payload altered",
            text.replace(&name, &moved),
        ),
        (
            "the digest in the payload altered",
            text.replace(&image.digest(), &altered.digest()),
        ),
    ] {
        let repository = moved.trim_start_matches("quay.io/");
        let signature = signed[0].clone().over(payload);
        let tag = signature_tag(&image.digest());
        world
            .push(
                &format!("{repository}:{tag}"),
                &signature_image([signature]),
            )
            .await;
        let outcome = world
            .refuses(&owner, &format!("{moved}:1"), &["not by the key"])
            .await;
        report.add(&format!("{case}: refused"), outcome);
    }
}

async fn several_signatures(world: &World, report: &mut Report) {
    let image = Image::small("several signatures");
    let name = world.push("org/several:1", &image).await;
    let tag = format!("{name}:1");
    let both = only(&json!({
        "type": "threshold",
        "count": 2,
        "of": [signed_by(OWNER, world), signed_by(STRANGER, world)],
    }));
    let outcome = sign(world, OWNER, &at(&name, &image), &[]);
    report.add("cosign sign, the first of two", outcome);
    let outcome = world.refuses(&both, &tag, &["1 can be"]).await;
    report.add("two signers wanted, one has signed: refused", outcome);
    let outcome = sign(world, STRANGER, &at(&name, &image), &[]);
    report.add("cosign sign, the second of two", outcome);
    for (case, policy) in [
        ("the first key", by(OWNER, world)),
        ("the second key", by(STRANGER, world)),
        ("two signers wanted", both),
    ] {
        let outcome = world.accepts(&policy, &tag, &[]).await;
        report.add(&format!("two signatures: accepted, {case}"), outcome);
    }
}

async fn annotations(world: &World, report: &mut Report) {
    let image = Image::small("annotations");
    let name = world.push("org/annotated:1", &image).await;
    let tag = format!("{name}:1");
    let outcome = sign(world, OWNER, &at(&name, &image), &["-a", "version=1.2.3"]);
    report.add("cosign sign -a version=1.2.3", outcome);
    let not_older = |annotation: &str, version: &str| {
        only(&json!({
            "type": "notOlder",
            "minimumVersion": {"annotation": annotation, "version": version},
            "signature": signed_by(OWNER, world),
        }))
    };
    for version in ["1.2.0", "1.2.3"] {
        let outcome = world
            .accepts(&not_older("version", version), &tag, &[])
            .await;
        report.add(&format!("version {version} wanted: accepted"), outcome);
    }
    for (annotation, version) in [("version", "1.10.0"), ("release", "1.2.3")] {
        let policy = not_older(annotation, version);
        let outcome = world.refuses(&policy, &tag, &[annotation]).await;
        report.add(&format!("{annotation} {version} wanted: refused"), outcome);
    }
}

/// Names with a tag, which cosign signs when it is told to.
async fn names(world: &World, report: &mut Report) {
    let image = Image::small("names");
    let name = world.push("org/named:1", &image).await;
    world.push("org/named:2", &image).await;
    let identity = format!("--sign-container-identity={name}:1");
    let outcome = sign(world, OWNER, &at(&name, &image), &[&identity]);
    report.add("cosign sign --sign-container-identity", outcome);
    let mut requirement = signed_by(OWNER, world);
    requirement["signedIdentity"] = json!({"type": "matchExact"});
    let exact = only(&requirement);
    let outcome = world.accepts(&exact, &format!("{name}:1"), &[]).await;
    report.add("the tag that is signed: accepted", outcome);
    let outcome = world
        .refuses(&exact, &format!("{name}:2"), &["matchExact"])
        .await;
    report.add("another tag: refused", outcome);
}

async fn index(world: &World, report: &mut Report) {
    for (repository, more, words) in [
        ("index", [].as_slice(), "\"subject\": \"index\""),
        ("recursive", ["--recursive"].as_slice(), "\"subject\": "),
    ] {
        let here = Image::small(repository);
        let platform = format!("linux/{}", host_architecture());
        let other = Image::small("of another platform");
        let children = [("linux/s390x", other), (platform.as_str(), here.clone())];
        let index = Image::index(Format::Oci, children);
        let name = world.push(&format!("org/{repository}:1"), &index).await;
        let owner = by(OWNER, world);
        let outcome = sign(world, OWNER, &at(&name, &index), more);
        report.add(&format!("cosign sign, an index {}", more.concat()), outcome);
        let outcome = world.accepts(&owner, &format!("{name}:1"), &[words]).await;
        report.add(
            &format!("{repository}: the platform's manifest is accepted"),
            outcome,
        );
        let child = at(&name, &here);
        if more.is_empty() {
            let outcome = world
                .refuses(&owner, &child, &["no signature was found"])
                .await;
            report.add("index: the manifest by its own digest is refused", outcome);
        } else {
            let outcome = world
                .accepts(&owner, &child, &["\"subject\": \"manifest\""])
                .await;
            report.add(
                "recursive: the manifest by its own digest is accepted",
                outcome,
            );
        }
    }
}

/// Key of the owner.
pub(crate) const OWNER: &str = "owner";
/// Key of somebody else.
pub(crate) const STRANGER: &str = "stranger";

/// Signs with the key pair of that name.
pub(crate) fn sign(world: &World, key: &str, image: &str, more: &[&str]) -> Outcome {
    let mut sign = world.command("cosign");
    sign.args(["sign", "--key", &format!("{key}.key")])
        .args(LEGACY);
    succeed(sign.args(more).arg(image)).map(drop)
}

/// `<repository>@<digest>`.
pub(crate) fn at(repository: &str, image: &Image) -> String {
    format!("{repository}@{}", image.digest())
}

/// A policy that wants a signature by the key pair of that name.
pub(crate) fn by(key: &str, world: &World) -> Value {
    only(&signed_by(key, world))
}

fn signed_by(key: &str, world: &World) -> Value {
    let path = world.home().join(format!("{key}.pub"));
    json!({"type": "sigstoreSigned", "keyPath": path})
}

/// Where the signatures of an image are.
fn attachment(repository: &str, image: &Image) -> String {
    format!("docker://{repository}:{}", signature_tag(&image.digest()))
}

/// The signatures that cosign has stored for an image.
fn signatures(world: &World, repository: &str, image: &Image) -> Vec<Signature> {
    let directory = tempfile::tempdir().expect("make a directory");
    let path = directory.path().to_str().expect("the path is text");
    world.copy(&attachment(repository, image), &format!("dir:{path}"));
    let read = |name: &str| std::fs::read(directory.path().join(name)).expect("read a file");
    let manifest: Value = serde_json::from_slice(&read("manifest.json")).expect("JSON");
    let layers = manifest["layers"].as_array().expect("layers");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    layers
        .iter()
        .map(|layer| Signature {
            payload: read(text(&layer["digest"]).trim_start_matches("sha256:")).into(),
            annotation: text(&layer["annotations"][SIGNATURE_ANNOTATION]),
            evidence: Vec::new(),
        })
        .collect()
}
