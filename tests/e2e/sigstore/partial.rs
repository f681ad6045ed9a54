//! Registries of which some part does not answer: what the rest has counts all the same.

use std::time::{Duration, Instant};

use bytes::Bytes;
use kit::client::Code;
use kit::cosign::{Claim, signature_image, signature_tag};
use kit::front::{Front, Referrers};
use kit::guest::Guest;
use kit::image::Image;
use kit::scene::KEY;
use kit::sigstore::{Attached, Bundle, Statement, fallback_tag};
use serde_json::{Value, json};

use super::{Stage, stranger};
use crate::places::{REGISTRIES, entry};
use crate::{FAILED, UNDECIDED, assert_says};

const LATE: &str = "in time, see image_agent.evidence.deadline";

/// A registry behind a front of its own, whose mirror is the front of the stage.
struct Mirrored {
    stage: Stage,
    origin: Front,
}

impl Mirrored {
    async fn set() -> Self {
        let mut stage = Stage::set().await;
        let origin = Front::start(&stage.scene.registry).await;
        origin.announce(false);
        let (host, mirror) = (origin.host(), stage.front.host());
        let mirrors: [(&str, &[&str]); 1] = [(&mirror, &["insecure"])];
        let entries = vec![entry(&host, true, &mirrors)];
        stage.guest.settings = stage.guest.settings.clone().with(REGISTRIES, entries);
        stage.scene.set_policy(&json!({
            "default": [{"type": "reject"}],
            "transports": {"docker": {&host: [
                {"type": "sigstoreSigned", "keyPath": format!("kbs:///{KEY}")},
            ]}},
        }));
        Self { stage, origin }
    }

    /// Both have the image, and artefacts that nobody lists; returns its reference at the origin.
    async fn push(&self, image: &Image, attached: &[Attached]) -> String {
        self.stage.push("team/app:1", image).await;
        self.stage.store("team/app", attached).await;
        format!("{}/team/app:1", self.origin.host())
    }
}

fn within(guest: &mut Guest, seconds: i64) {
    let settings = guest.settings.clone();
    guest.settings = settings.with("image_agent.evidence.deadline", seconds);
}

fn listing(image: &Image, attached: &[&Attached]) -> Referrers {
    let entries = attached.iter().map(|one| one.entry());
    Referrers::paged(100).list(&image.digest(), entries)
}

/// The path of the blob that the one layer of an artefact is.
fn layer_of(attached: &Attached) -> String {
    let manifest: Value = serde_json::from_slice(&attached.image.manifest).unwrap();
    format!(
        "/blobs/{}",
        manifest["layers"][0]["digest"].as_str().unwrap()
    )
}

fn manifest_of(attached: &Attached) -> String {
    format!("/manifests/{}", attached.image.digest())
}

fn overload(front: &Front, part: &str) {
    front.fail(part, Some((503, Bytes::from_static(b"later"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_the_deadline_counts() {
    let mut stage = Stage::set().await;
    within(&mut stage.guest, 3);
    let image = Image::small("beside what never comes");
    let reference = stage.push("team/app:1", &image).await;
    let strange = Bundle::keyed(&stranger(), &Statement::signature(&image.digest()));
    let never = Attached::bundle(&image, &strange);
    let good = stage.attached(&image);
    let daemon = stage.guest.start().await;
    let both = [never.clone(), good.clone()];
    stage.refer("team/app", &image, &both).await;
    for (case, stalled) in [
        ("a layer of another", layer_of(&never)),
        ("a manifest of another", manifest_of(&never)),
    ] {
        stage.front.stall(Some(&stalled));
        stage.delivers(&daemon, case, &reference).await;
    }
    // The second page of a list.
    let next = "/v2/team/app/second";
    let list = Referrers::paged(1).next_page(next);
    let list = list.list(&image.digest(), [good.entry()]);
    stage.front.set_referrers(Some(list));
    stage.front.stall(Some(next));
    stage.delivers(&daemon, "a page", &reference).await;

    // What never came may be what is missing.
    let alone = [never.clone()];
    stage.refer("team/app", &image, &alone).await;
    for stalled in [
        layer_of(&never),
        manifest_of(&never),
        "/referrers/".to_owned(),
    ] {
        stage.front.stall(Some(&stalled));
        let begin = Instant::now();
        let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(6), "{stalled}: {took:?}");
        assert_eq!(refusal.code, Code::UNAVAILABLE, "{stalled}: {refusal:?}");
        assert_says(&stalled, &refusal.message, &[FAILED, UNDECIDED, LATE]);
    }
    stage.front.stall(None);
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_hangs_leaves_the_next_one_its_share_of_the_time() {
    let mut at = Mirrored::set().await;
    within(&mut at.stage.guest, 4);
    let image = Image::small("mirrored, and the mirror hangs");
    let good = at.stage.attached(&image);
    let reference = at.push(&image, std::slice::from_ref(&good)).await;
    at.stage
        .front
        .set_referrers(Some(listing(&image, &[&good])));
    at.origin.set_referrers(Some(listing(&image, &[&good])));
    let daemon = at.stage.guest.start().await;
    let stalled = [
        "/referrers/".to_owned(),
        manifest_of(&good),
        layer_of(&good),
    ];
    for (number, stalled) in stalled.iter().enumerate() {
        at.stage.front.stall(Some(stalled));
        let case = format!("hangs {number}");
        at.stage.delivers(&daemon, &case, &reference).await;
    }
    // The deadline is one for all.
    let stalled = &stalled[0];
    at.origin.stall(Some(stalled));
    let begin = Instant::now();
    let refusal = daemon
        .refuses(&reference, &at.stage.guest.bundle("c1"))
        .await;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(refusal.code, Code::UNAVAILABLE, "{refusal:?}");
    assert_says("both hang", &refusal.message, &[FAILED, UNDECIDED]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_several_places_have_in_part_is_joined() {
    let at = Mirrored::set().await;
    let image = Image::small("here and there");
    let good = at.stage.attached(&image);
    let reference = at.push(&image, std::slice::from_ref(&good)).await;
    let daemon = at.stage.guest.start().await;
    let tag = format!("/manifests/{}", fallback_tag(&image.digest()));
    // Neither gives all its answers, and the bundle is at one of them.
    for (case, has, has_not) in [
        ("at the mirror", &at.stage.front, &at.origin),
        ("at the origin", &at.origin, &at.stage.front),
    ] {
        for front in [has, has_not] {
            front.set_referrers(None);
            front.fail("/referrers/", None);
            overload(front, &tag);
        }
        has.set_referrers(Some(listing(&image, &[&good])));
        overload(has_not, "/referrers/");
        at.stage.delivers(&daemon, case, &reference).await;
        has.set_referrers(None);
        let refusal = daemon
            .refuses(&reference, &at.stage.guest.bundle("c1"))
            .await;
        assert_eq!(refusal.code, Code::UNAVAILABLE, "{case}: {refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_that_a_mirror_cannot_serve_for_now_comes_from_the_registry() {
    let at = Mirrored::set().await;
    let image = Image::small("served badly");
    let good = at.stage.attached(&image);
    let reference = at.push(&image, std::slice::from_ref(&good)).await;
    for front in [&at.stage.front, &at.origin] {
        front.set_referrers(Some(listing(&image, &[&good])));
    }
    let daemon = at.stage.guest.start().await;
    for (number, part) in [layer_of(&good), manifest_of(&good)].iter().enumerate() {
        overload(&at.stage.front, part);
        let case = format!("overloaded {number}");
        at.stage.delivers(&daemon, &case, &reference).await;
        // The registry says that it has none, and it is who knows.
        at.origin.set_referrers(Some(listing(&image, &[])));
        let refusal = daemon
            .refuses(&reference, &at.stage.guest.bundle("c1"))
            .await;
        assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
        at.origin.set_referrers(Some(listing(&image, &[&good])));
        at.stage.front.fail(part, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_place_is_asked_as_the_owner_says_of_it() {
    let mut at = Mirrored::set().await;
    let image = Image::small("asked here and not there");
    let good = at.stage.attached(&image);
    let reference = at.push(&image, std::slice::from_ref(&good)).await;
    let plain = at.stage.guest.settings.clone();
    let only_at = |on: &Front, off: &Front| {
        let (on, off) = (on.host(), off.host());
        let key = "use-sigstore-attachments";
        let text = format!("docker:\n  {on}:\n    {key}: true\n  {off}:\n    {key}: false\n");
        plain.clone().with("image.sigstore_config", text)
    };
    let asked = |front: &Front| {
        let mut asked = front.requests();
        let hex = image.digest().replace(':', "-");
        asked.retain(|request| request.contains("/referrers/") || request.contains(&hex));
        asked
    };
    // The image comes from the mirror, the evidence from behind it.
    at.stage.guest.settings = only_at(&at.origin, &at.stage.front);
    for front in [&at.stage.front, &at.origin] {
        front.set_referrers(Some(listing(&image, &[&good])));
    }
    let daemon = at.stage.guest.start().await;
    at.stage.delivers(&daemon, "origin", &reference).await;
    assert_eq!(asked(&at.stage.front), Vec::<String>::new());
    assert_ne!(asked(&at.origin), Vec::<String>::new());
    // So does a signature under the tag for that.
    let signed = Image::small("signed behind the mirror");
    let reference_of_signed = at.push(&signed, &[]).await;
    let repository = format!("{}/team/app", at.origin.host());
    let claim = Claim::of(&repository, &signed.digest());
    let signature = signature_image([at.stage.scene.key.attest(&claim)]);
    let tag = format!("team/app:{}", signature_tag(&signed.digest()));
    at.stage.scene.registry.push(&tag, &signature).await;
    let case = "tag at the origin";
    at.stage.delivers(&daemon, case, &reference_of_signed).await;
    at.push(&image, &[]).await;
    drop(daemon);

    // What the mirror cannot tell, nobody else is asked for.
    at.stage.guest.settings = only_at(&at.stage.front, &at.origin);
    let daemon = at.stage.guest.start().await;
    at.origin.forget_requests();
    at.stage.delivers(&daemon, "mirror", &reference).await;
    overload(&at.stage.front, "/referrers/");
    let refusal = daemon
        .refuses(&reference, &at.stage.guest.bundle("c1"))
        .await;
    assert_eq!(refusal.code, Code::UNAVAILABLE, "{refusal:?}");
    assert_eq!(asked(&at.origin), Vec::<String>::new());
}
