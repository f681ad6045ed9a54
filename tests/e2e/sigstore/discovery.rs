//! Bundles are found wherever registries of any age keep them.

use bytes::Bytes;
use kit::client::Code;
use kit::cosign::{Claim, signature_tag};
use kit::front::Referrers;
use kit::image::{Image, sha256};
use kit::sigstore::{Attached, Bundle, Statement};
use serde_json::json;

use super::{Stage, stranger, verify};
use crate::{DENIED, FAILED, UNDECIDED, assert_says};

const EMPTY: &str = "application/vnd.oci.empty.v1+json";

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_found_in_the_list_of_the_registry_page_by_page() {
    let stage = Stage::set().await;
    let daemon = stage.guest.start().await;
    for (case, page, label) in [
        ("one page", 100, None),
        ("a page for each", 1, None),
        ("listed as an empty document", 2, Some(EMPTY)),
        (
            "listed as a bill of materials",
            2,
            Some("application/spdx+json"),
        ),
        ("listed as nothing", 2, Some("")),
    ] {
        let image = Image::small(case);
        let reference = stage.push("team/app:1", &image).await;
        let others = ["a", "b", "c"].map(|text| {
            Attached::bytes(&image, "text/plain", format!("{case} {text}")).listed_as("text/plain")
        });
        let mut good = stage.attached(&image);
        if let Some(label) = label {
            good = good.listed_as(label);
        }
        let all: Vec<_> = others.into_iter().chain([good]).collect();
        stage.store("team/app", &all).await;
        let list = Referrers::paged(page).list(&image.digest(), all.iter().map(Attached::entry));
        stage.front.set_referrers(Some(list));
        stage.delivers(&daemon, case, &reference).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_found_under_the_fallback_tag_whatever_the_registry_says_of_lists() {
    let stage = Stage::set().await;
    let daemon = stage.guest.start().await;
    let html = Bytes::from_static(b"<!doctype html><title>container registry</title>");
    for (case, empty, answer) in [
        ("no such list in docker-registry", false, None),
        ("an empty list", true, None),
        ("a page for people", false, Some((200, html))),
        (
            "JSON of another kind",
            false,
            Some((200, Bytes::from_static(b"{\"errors\":[]}"))),
        ),
        ("not found", false, Some((404, Bytes::new()))),
        ("not allowed", false, Some((405, Bytes::new()))),
        ("not implemented", false, Some((501, Bytes::new()))),
    ] {
        let image = Image::small(case);
        let reference = stage.push("team/app:1", &image).await;
        let attached = [stage.attached(&image).listed_as(EMPTY)];
        stage.tag("team/app", &image, &attached).await;
        stage
            .front
            .set_referrers(empty.then(|| Referrers::paged(9)));
        stage.front.fail("/referrers/", answer);
        stage.delivers(&daemon, case, &reference).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_the_experiment_with_referrers_are_found() {
    let stage = Stage::set().await;
    let image = Image::small("an experiment");
    let reference = stage.push("team/app:1", &image).await;
    let repository = format!("{}/team/app", stage.front.host());
    let claim = Claim::of(&repository, &image.digest());
    let (foreign, good) = (stranger().attest(&claim), stage.scene.key.attest(&claim));
    // Signatures of one payload share its blob, and cosign looks at the last artefact alone.
    let attached = [
        Attached::signatures(&image, [foreign.clone(), good]),
        Attached::signatures(&image, [foreign]),
    ];
    stage.refer("team/app", &image, &attached).await;
    let daemon = stage.guest.start().await;
    stage.delivers(&daemon, "experiment", &reference).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_broken_artefacts_harm_nothing_and_are_named() {
    let stage = Stage::set().await;
    let image = Image::small("among others");
    let other = Image::small("another image");
    let reference = stage.push("team/app:1", &image).await;
    let digest = image.digest();
    let kind = kit::sigstore::MEDIA_TYPE;
    let strange = Bundle::keyed(&stranger(), &Statement::signature(&digest));
    let spoiled = stage
        .bundle(&image)
        .spoiled("/dsseEnvelope/signatures/0/sig");
    let gone = Attached::bytes(&image, kind, "{\"gone\":true}");
    let bad = vec![
        Attached::bundle(&image, &strange),
        Attached::bundle(&image, &spoiled),
        Attached::bytes(&image, kind, "no JSON"),
        Attached::bytes(&image, "application/spdx+json", "{}"),
        // A bundle for this image that says to refer to another.
        Attached::bundle(&other, &stage.bundle(&image)),
    ];
    let mut entries: Vec<_> = bad.iter().chain([&gone]).map(Attached::entry).collect();
    stage.store("team/app", &bad).await;
    let list = Referrers::paged(100).list(&digest, entries.clone());
    stage.front.set_referrers(Some(list));
    let daemon = stage.guest.start().await;
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
    let other_digest = other.digest();
    let words = [
        FAILED,
        DENIED,
        "it is not by the key of the policy",
        "not found",
        &format!("it refers to {other_digest}"),
    ];
    assert_says("bad ones", &refusal.message, &words);

    let good = stage.attached(&image);
    stage.store("team/app", std::slice::from_ref(&good)).await;
    entries.push(good.entry());
    let list = Referrers::paged(100).list(&digest, entries);
    stage.front.set_referrers(Some(list));
    stage.delivers(&daemon, "good among bad", &reference).await;
    let (code, record, said) = verify(&stage.guest, &reference);
    assert_eq!(code, Some(0), "{said}");
    assert_says("record", &record, &[&good.image.digest()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_while_listing_is_not_an_absence_and_spoils_nothing_that_is_good() {
    let stage = Stage::set().await;
    let image = Image::small("listed badly");
    let reference = stage.push("team/app:1", &image).await;
    let daemon = stage.guest.start().await;
    let tag = format!(
        "/manifests/{}",
        kit::sigstore::fallback_tag(&image.digest())
    );
    let list = "/referrers/".to_owned();
    let rows = [
        (list.clone(), 500, Code::UNAVAILABLE, UNDECIDED),
        (list.clone(), 429, Code::UNAVAILABLE, UNDECIDED),
        (list.clone(), 403, Code::PERMISSION_DENIED, DENIED),
        (list, 200, Code::PERMISSION_DENIED, DENIED),
        (tag, 500, Code::UNAVAILABLE, UNDECIDED),
    ];
    for (part, status, code, phrase) in rows {
        stage
            .front
            .fail(&part, Some((status, Bytes::from_static(b"no"))));
        let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
        let case = format!("{part} {status}");
        assert_eq!(refusal.code, code, "{case}: {refusal:?}");
        let words = [FAILED, phrase, "could not be listed"];
        assert_says(&case, &refusal.message, &words);
        stage.front.fail(&part, None);
    }
    // The second page is elsewhere, or never comes; what is on the first counts.
    let none = Referrers::paged(1).next_page("http://127.0.0.1:1/v2/team/app/referrers/x");
    stage.front.set_referrers(Some(none.clone()));
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    let words = ["the next page is not at the same host"];
    assert_says("elsewhere", &refusal.message, &words);
    let good = stage.attached(&image);
    stage.store("team/app", std::slice::from_ref(&good)).await;
    let some = none.list(&image.digest(), [good.entry()]);
    stage.front.set_referrers(Some(some));
    stage
        .delivers(&daemon, "the first page is enough", &reference)
        .await;
    stage.front.set_referrers(None);
    stage.front.fail("/referrers/", Some((500, Bytes::new())));
    stage.tag("team/app", &image, &[good]).await;
    stage
        .delivers(&daemon, "the tag is enough", &reference)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_by_a_plain_signature_asks_for_nothing_else() {
    let stage = Stage::set().await;
    let image = Image::small("signed plainly");
    let reference = stage.push("team/app:1", &image).await;
    let repository = format!("{}/team/app", stage.front.host());
    let claim = Claim::of(&repository, &image.digest());
    let signature = stage.scene.key.attest(&claim);
    let payload = sha256(&signature.payload);
    let tag = format!("team/app:{}", signature_tag(&image.digest()));
    let attachment = kit::cosign::signature_image([signature]);
    stage.scene.registry.push(&tag, &attachment).await;
    let daemon = stage.guest.start().await;
    stage.front.forget_requests();
    daemon.delivers(&reference, &stage.guest.bundle("c1")).await;
    let mut asked = stage.front.requests();
    asked.sort();
    let manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    let blob =
        |digest: &serde_json::Value| format!("GET /v2/team/app/blobs/{}", digest.as_str().unwrap());
    let mut expected = vec![
        "GET /v2/team/app/manifests/1".to_owned(),
        format!(
            "GET /v2/team/app/manifests/{}",
            signature_tag(&image.digest())
        ),
        blob(&json!(payload)),
        blob(&manifest["config"]["digest"]),
        blob(&manifest["layers"][0]["digest"]),
    ];
    expected.sort();
    assert_eq!(asked, expected);
}
