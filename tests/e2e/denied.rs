//! Images that the owner's policy refuses, and policies that cannot be had.

use kit::client::Code;
use kit::cosign::{Claim, Key, KeyKind, Signature};
use kit::hostile::closed_port;
use kit::image::Image;
use kit::kbs::DevKbs;
use kit::scene::{KEY, POLICY, Scene};
use serde_json::{Value, json};

use super::{DENIED, FAILED, UNDECIDED, assert_says, trusting_guest};

/// Signatures that must not be enough, by what is wrong with them, and a word that the refusal
/// has for it.
fn bad_signatures(
    owner: &Key,
    repository: &str,
    digest: &str,
) -> Vec<(&'static str, Vec<Signature>, &'static str)> {
    let claim = Claim::of(repository, digest);
    let good = owner.attest(&claim);
    let zeros = format!("sha256:{}", "0".repeat(64));
    let stranger = Key::mint(KeyKind::P256);
    let other_digest = owner.attest(&Claim::of(repository, &zeros));
    let other_repository = owner.attest(&Claim::of("registry.example/other", digest));
    let longer = owner.attest(&Claim::of(&format!("{repository}-more"), digest));
    vec![
        ("empty manifest", vec![], "no signature"),
        ("another key", vec![stranger.attest(&claim)], "key"),
        ("another digest", vec![other_digest], "sha256:0000"),
        (
            "another repository",
            vec![other_repository],
            "registry.example/other",
        ),
        ("a longer repository", vec![longer], "-more"),
        (
            "another tag",
            vec![owner.attest(&claim.clone().naming_tag("2"))],
            ":2",
        ),
        (
            "no reference",
            vec![owner.attest(&Claim::of("", digest))],
            "",
        ),
        (
            "another type",
            vec![owner.attest(&claim.clone().of_type("atomic container signature"))],
            "type",
        ),
        ("not base64", vec![good.clone().annotated("%%%")], "base64"),
        ("no signature in it", vec![good.clone().annotated("")], ""),
        (
            "another payload",
            vec![good.clone().over(Claim::of(repository, &zeros).payload())],
            "",
        ),
        (
            "a payload with more",
            vec![
                good.clone()
                    .over([claim.payload(), b"{}".to_vec()].concat()),
            ],
            "",
        ),
        (
            "many bad ones",
            vec![
                stranger.attest(&claim),
                good.clone().annotated("AAAA"),
                good.annotated("%%%"),
            ],
            "base64",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn images_without_a_good_signature_are_refused_with_the_reason() {
    let scene = Scene::start().await;
    let mut guest = scene.guest();
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.verbose_errors", true);
    let daemon = guest.start().await;
    let before = guest.residue();

    let unsigned = scene
        .registry
        .push("unsigned:1", &Image::small("unsigned"))
        .await;
    let refusal = daemon.refuses(&unsigned, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
    assert_says(
        "unsigned",
        &refusal.message,
        &[FAILED, DENIED, "no signature"],
    );
    guest.assert_residue(&before, "unsigned").await;

    let image = Image::small("badly signed");
    for (number, (case, ..)) in bad_signatures(&scene.key, "host/app", &image.digest())
        .into_iter()
        .enumerate()
    {
        let repository = format!("app{number}");
        let reference = scene
            .registry
            .push(&format!("{repository}:1"), &image)
            .await;
        let name = scene.name(&repository);
        let (_, signatures, word) =
            bad_signatures(&scene.key, &name, &image.digest()).swap_remove(number);
        scene
            .push_signatures(&repository, &image.digest(), signatures)
            .await;
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{case}: {refusal:?}");
        assert_says(case, &refusal.message, &[FAILED, DENIED, word]);
        guest.assert_residue(&before, case).await;
    }
    // The same daemon goes on to deliver what is signed well.
    let good = scene.push_signed("good:1", &image).await;
    daemon.delivers(&good, &guest.bundle("c1")).await;
}

#[expect(clippy::too_many_lines, reason = "a table, one row per case")]
#[tokio::test(flavor = "multi_thread")]
async fn policies_are_held_to_the_letter() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let daemon = guest.start().await;
    let image = Image::small("letter");
    let reference = scene.push_signed("team/app:1", &image).await;
    let host = scene.registry.host().to_owned();
    let signed = |more: Value| {
        let mut rule = json!({"type": "sigstoreSigned", "keyPath": format!("kbs:///{KEY}")});
        let members = more.as_object().cloned().unwrap_or_default();
        rule.as_object_mut().unwrap().extend(members);
        rule
    };
    let scoped = |scope: &str, rules: Value| json!({"default": [{"type": "reject"}], "transports": {"docker": {scope: rules}}});
    let identity = |kind: &str| signed(json!({"signedIdentity": {"type": kind}}));
    let data = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(scene.key.public_pem())
    };
    let accept = json!({"type": "insecureAcceptAnything"});
    let reject = json!({"type": "reject"});
    for (number, (case, policy, delivered)) in [
        ("guide", scene.guide_policy(), true),
        ("default accepts", json!({"default": [accept]}), true),
        ("default rejects", json!({"default": [reject]}), false),
        ("scope of the repository", scoped(&format!("{host}/team/app"), json!([signed(json!({}))])), true),
        ("scope of the folder", scoped(&format!("{host}/team"), json!([signed(json!({}))])), true),
        ("scope of another repository", scoped(&format!("{host}/other"), json!([accept])), false),
        (
            "narrower scope wins",
            json!({"default": [accept], "transports": {"docker": {&host: [accept], format!("{host}/team"): [reject]}}}),
            false,
        ),
        ("every requirement counts", scoped(&host, json!([signed(json!({})), reject])), false),
        ("another transport", json!({"default": [reject], "transports": {"dir": {"": [accept]}}}), false),
        ("matchRepository", scoped(&host, json!([identity("matchRepository")])), true),
        ("stated matchRepoDigestOrExact", scoped(&host, json!([identity("matchRepoDigestOrExact")])), false),
        (
            "key in the policy",
            scoped(&host, json!([{"type": "sigstoreSigned", "keyData": data}])),
            true,
        ),
        (
            "missing key",
            scoped(&host, json!([{"type": "sigstoreSigned", "keyPath": "kbs:///default/cosign-key/2"}])),
            false,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        scene.set_policy(&policy);
        let bundle = guest.bundle(&format!("c{number}"));
        if delivered {
            assert_eq!(daemon.delivers(&reference, &bundle).await, image.digest(), "{case}");
        } else {
            let before = guest.residue();
            let refusal = daemon.refuses(&reference, &bundle).await;
            assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{case}: {refusal:?}");
            assert_says(case, &refusal.message, &[FAILED, DENIED]);
            guest.assert_residue(&before, case).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_does_not_know_stays_in_the_guest() {
    let scene = Scene::start().await;
    let mut guest = scene.guest();
    let reference = scene.push_signed("app:1", &Image::small("quiet")).await;
    scene.kbs.remove(KEY);
    let daemon = guest.start().await;
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_says("quiet", &refusal.message, &[FAILED, DENIED, &reference]);
    for secret in [
        "cosign-key",
        "security-policy",
        "kbs:",
        &guest.path().display().to_string(),
    ] {
        assert!(!refusal.message.contains(secret), "{secret} in {refusal:?}");
    }
    assert_says("log", &daemon.log(), &["kbs:///default/cosign-key/1"]);
    drop(daemon);

    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.verbose_errors", true);
    let daemon = guest.start().await;
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_says(
        "verbose",
        &refusal.message,
        &[FAILED, DENIED, "kbs:///default/cosign-key/1"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_are_none_refuse_every_image() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let daemon = guest.start().await;
    let before = guest.residue();
    let reference = scene.push_signed("app:1", &Image::small("malformed")).await;
    for policy in [
        "",
        "{",
        "null",
        "[]",
        "{}",
        r#"{"default":[]}"#,
        r#"{"default":null}"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}]} x"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}],"default":[{"type":"reject"}]}"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}],"transport":{}}"#,
        r#"{"default":[{"type":"insecureAcceptAnythin"}]}"#,
        r#"{"default":[{"type":"insecureAcceptAnything","keyPath":"/x"}]}"#,
        r#"{"default":[{"type":"sigstoreSigned"}]}"#,
        r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"x":[]}}}"#,
        "\u{feff}{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}",
    ] {
        scene.kbs.put(POLICY, policy);
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(
            refusal.code,
            Code::FAILED_PRECONDITION,
            "{policy}: {refusal:?}"
        );
        assert_says(policy, &refusal.message, &[FAILED, "policy"]);
        guest.assert_residue(&before, policy).await;
    }
    assert_says("log", &daemon.log(), &["insecureAcceptAnything", "line 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_policy_means_no_image_and_says_how_to_configure_one() {
    let scene = Scene::start().await;
    let reference = scene.push_signed("app:1", &Image::small("no policy")).await;
    let mut guest = scene.guest();
    guest.settings = guest
        .settings
        .clone()
        .without("image.image_security_policy_uri");
    let daemon = guest.start().await;
    let before = guest.residue();
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::FAILED_PRECONDITION, "{refusal:?}");
    assert_says(
        "no policy",
        &refusal.message,
        &[FAILED, "image_security_policy_uri"],
    );
    guest.assert_residue(&before, "no policy").await;
    assert_eq!(scene.kbs.requests().get, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pull_is_decided_afresh() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let daemon = guest.start().await;
    let image = Image::small("afresh");
    let reference = scene.push_signed("app:1", &image).await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;

    scene.set_policy(&json!({"default": [{"type": "reject"}]}));
    let before = guest.residue();
    let refusal = daemon.refuses(&reference, &guest.bundle("c2")).await;
    assert_says("rejected since", &refusal.message, &[FAILED, DENIED]);
    guest.assert_residue(&before, "rejected since").await;

    scene.set_policy(&scene.guide_policy());
    daemon.delivers(&reference, &guest.bundle("c2")).await;

    // The same content under a name that nobody signed for is another question.
    let other = scene.registry.push("other:1", &image).await;
    let refusal = daemon.refuses(&other, &guest.bundle("c3")).await;
    assert_says("other name", &refusal.message, &[FAILED, DENIED]);

    // Another key in the KBS: the old signature no longer counts.
    scene.kbs.put(KEY, Key::mint(KeyKind::P256).public_pem());
    let refusal = daemon.refuses(&reference, &guest.bundle("c3")).await;
    assert_says("other key", &refusal.message, &[FAILED, DENIED]);
    let requests = scene.kbs.requests();
    assert_eq!(
        (requests.auth, requests.attest),
        (1, 1),
        "one attestation serves the process"
    );
    assert!(
        requests.get >= 5,
        "the policy is fetched for each pull: {requests:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kbs_that_cannot_be_asked_refuses_every_image() {
    let scene = Scene::start().await;
    let reference = scene.push_signed("app:1", &Image::small("no kbs")).await;
    let stranger = DevKbs::https();
    let down = format!("https://{}", closed_port());
    for (case, key, value, code, words) in [
        (
            "down",
            "kbc.url",
            down.as_str(),
            Code::UNAVAILABLE,
            ["key broker", "unreachable"],
        ),
        (
            "wrong certificate",
            "kbc.kbs_cert",
            stranger.certificate(),
            Code::UNAUTHENTICATED,
            ["key broker", "not trusted"],
        ),
    ] {
        let mut guest = scene.guest();
        guest.settings = guest.settings.clone().with(key, value);
        let daemon = guest.start().await;
        let before = guest.residue();
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(refusal.code, code, "{case}: {refusal:?}");
        assert_says(case, &refusal.message, &[FAILED]);
        assert_says(case, &refusal.message, &words);
        guest.assert_residue(&before, case).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_that_the_kbs_withholds_refuse_the_image() {
    let scene = Scene::start().await;
    let reference = scene.push_signed("app:1", &Image::small("withheld")).await;
    let guest = scene.guest();
    let daemon = guest.start().await;
    let before = guest.residue();

    scene.kbs.deny(POLICY);
    let gets = scene.kbs.requests().get;
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::UNAUTHENTICATED, "{refusal:?}");
    assert_says("policy denied", &refusal.message, &[FAILED, "denies"]);
    assert_eq!(scene.kbs.requests().get, gets + 1, "a denial is final");
    scene.kbs.allow(POLICY);

    scene.kbs.remove(POLICY);
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::UNAUTHENTICATED, "{refusal:?}");
    assert_says(
        "policy missing",
        &refusal.message,
        &[FAILED, "no such resource"],
    );
    scene.set_policy(&scene.guide_policy());

    // Without its key a requirement is not met: that is the policy's answer, not a fault.
    for case in ["key denied", "key missing", "key is none"] {
        match case {
            "key denied" => scene.kbs.deny(KEY),
            "key missing" => {
                scene.kbs.allow(KEY);
                scene.kbs.remove(KEY);
            }
            _ => scene.kbs.put(KEY, "not a key"),
        }
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{case}: {refusal:?}");
        assert_says(case, &refusal.message, &[FAILED, DENIED]);
        guest.assert_residue(&before, case).await;
    }
    scene.kbs.put(KEY, scene.key.public_pem());
    daemon.delivers(&reference, &guest.bundle("c1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_hides_signatures_gets_no_image_through() {
    let registry = kit::hostile::Hostile::start().await;
    let key = Key::mint(KeyKind::P256);
    let image = Image::small("hidden");
    let reference = registry.push("app:1", &image);
    let claim = Claim::of(&format!("{}/app", registry.host()), &image.digest());
    let tag = kit::cosign::signature_tag(&image.digest());
    let signatures = kit::cosign::signature_image([key.attest(&claim)]);
    registry.push(&format!("app:{tag}"), &signatures);

    let mut guest = trusting_guest(&registry.host());
    let public = guest.path().join("tmp/cosign.pub");
    std::fs::write(&public, key.public_pem()).unwrap();
    let policy = json!({"default": [{"type": "sigstoreSigned", "keyPath": public}]});
    guest.settings = guest
        .settings
        .clone()
        .with("image.image_security_policy", policy.to_string());
    let daemon = guest.start().await;
    let before = guest.residue();
    for fault in [
        kit::hostile::Fault::Status(404),
        kit::hostile::Fault::Status(500),
        kit::hostile::Fault::HangUp,
        kit::hostile::Fault::Bytes("{}".into()),
        kit::hostile::Fault::Bytes(image.manifest.clone()),
        kit::hostile::Fault::Endless,
        kit::hostile::Fault::ContentType("text/plain".into()),
    ] {
        registry.disarm();
        registry.arm(&tag, fault.clone());
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        let (code, phrase) = match fault {
            kit::hostile::Fault::Status(500) | kit::hostile::Fault::HangUp => {
                (Code::UNAVAILABLE, UNDECIDED)
            }
            _ => (Code::PERMISSION_DENIED, DENIED),
        };
        assert_eq!(refusal.code, code, "{fault:?}: {refusal:?}");
        assert_says("hidden", &refusal.message, &[FAILED, phrase]);
        guest.assert_residue(&before, "hidden").await;
    }
    // A payload blob that is not its digest.
    registry.disarm();
    let payload = &signatures.blobs[1].0;
    registry.arm(payload, kit::hostile::Fault::Bytes("other".into()));
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
    registry.disarm();
    daemon.delivers(&reference, &guest.bundle("c1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_kbs_cannot_give_for_now_is_no_denial() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let daemon = guest.start().await;
    let reference = scene.push_signed("app:1", &Image::small("hiccup")).await;
    let signed = json!({"type": "sigstoreSigned", "keyPath": format!("kbs:///{KEY}")});
    let stranger = Key::mint(KeyKind::P256).public_pem();
    let other = json!({"type": "sigstoreSigned", "keyData": stranger});
    let policies = [
        signed.clone(),
        json!({"type": "threshold", "count": 1, "of": [other, signed]}),
    ];
    for policy in policies {
        scene.set_policy(&json!({"default": [policy]}));
        let before = guest.residue();
        scene.kbs.break_down(KEY);
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::UNAVAILABLE, "{refusal:?}");
        let words = [FAILED, UNDECIDED, "key not available for now"];
        assert_says("503", &refusal.message, &words);
        assert!(!refusal.message.contains(DENIED), "{refusal:?}");
        guest.assert_residue(&before, "503").await;
        assert_says("log", &daemon.log(), &["not decided"]);
        scene.kbs.repair(KEY);
    }
    daemon.delivers(&reference, &guest.bundle("c1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_beside_a_good_signature_spoil_nothing() {
    let registry = kit::hostile::Hostile::start().await;
    let key = Key::mint(KeyKind::P256);
    let image = Image::small("poisoned");
    let reference = registry.push("app:1", &image);
    let claim = Claim::of(&format!("{}/app", registry.host()), &image.digest());
    // The honest payload comes late in the order of digests, eight of the largest size before it.
    let mut numbered = (0..).map(|number| claim.clone().optional(json!({ "number": number })));
    let late = |claim: &Claim| kit::image::sha256(&claim.payload()).starts_with("sha256:f");
    let good = key.attest(&numbered.find(late).unwrap());
    let honest = kit::image::sha256(&good.payload);
    let large = (0_u64..).map(|number| {
        let mut blob = vec![0; 1 << 20];
        blob[..8].copy_from_slice(&number.to_le_bytes());
        good.clone().over(blob)
    });
    let first = large.filter(|one| kit::image::sha256(&one.payload) < honest);
    let mut signatures: Vec<Signature> = first.take(8).collect();
    signatures.push(good);
    let mut poisoned = kit::cosign::signature_image(signatures);
    // A layer of another kind, and one that lies about the size of the honest payload.
    let mut manifest: Value = serde_json::from_slice(&poisoned.manifest).unwrap();
    let layers = manifest["layers"].as_array_mut().unwrap();
    let mut liar = layers[8].clone();
    liar["size"] = json!(1);
    let mut other = layers[0].clone();
    other["mediaType"] = json!("application/octet-stream");
    layers.insert(0, liar.clone());
    layers.insert(0, other);
    layers.push(liar);
    poisoned.manifest = manifest.to_string().into();
    let tag = kit::cosign::signature_tag(&image.digest());
    registry.push(&format!("app:{tag}"), &poisoned);

    let mut guest = trusting_guest(&registry.host());
    let public = guest.path().join("tmp/cosign.pub");
    std::fs::write(&public, key.public_pem()).unwrap();
    let policy = json!({"default": [{"type": "sigstoreSigned", "keyPath": public}]});
    guest.settings = guest
        .settings
        .clone()
        .with("image.image_security_policy", policy.to_string());
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
}
