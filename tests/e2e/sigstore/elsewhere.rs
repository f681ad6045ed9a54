//! Evidence that is not in the registry: delivered with the keys, or in a directory of the guest.

use kit::client::Code;
use kit::image::Image;
use kit::sigstore::{Bundle, Statement, fallback_tag, referrers};

use super::{Stage, stranger};
use crate::{DENIED, assert_says};

#[tokio::test(flavor = "multi_thread")]
async fn the_key_broker_service_delivers_bundles_for_a_digest() {
    let mut stage = Stage::set().await;
    stage.guest.settings = stage
        .guest
        .settings
        .clone()
        .with("image_agent.evidence.delivered", "kbs:///default/evidence");
    let image = Image::small("delivered");
    let reference = stage.push("team/app:1", &image).await;
    let name = format!("default/evidence/{}", fallback_tag(&image.digest()));
    let text = |bundle: &Bundle| String::from_utf8(bundle.bytes().to_vec()).unwrap();
    let strange = text(&Bundle::keyed(
        &stranger(),
        &Statement::signature(&image.digest()),
    ));
    let good = text(&stage.bundle(&image));
    let daemon = stage.guest.start().await;
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    assert_says(
        "nothing delivered",
        &refusal.message,
        &[DENIED, "no signature was found"],
    );
    stage.scene.kbs.put(&name, strange.clone());
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    let found = format!(
        "kbs:///default/evidence/{}[0]",
        fallback_tag(&image.digest())
    );
    let words = [DENIED, &found, "it is not by the key of the policy"];
    assert_says("a stranger's", &refusal.message, &words);
    stage.scene.kbs.put(&name, format!("{strange}\n{good}\n"));
    stage
        .delivers(&daemon, "one in each line", &reference)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_in_the_guest_has_what_refers_to_an_image() {
    let mut stage = Stage::set().await;
    let (image, other) = (Image::small("kept"), Image::small("kept, too"));
    let reference = stage.push("team/app:1", &image).await;
    let layout = stage.guest.path().join("tmp/layout");
    let path = layout.display().to_string();
    stage.guest.settings = stage
        .guest
        .settings
        .clone()
        .with("image_agent.evidence.layout", path);
    let daemon = stage.guest.start().await;
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
    assert_says(
        "no layout",
        &refusal.message,
        &[DENIED, "could not be listed"],
    );
    // Listed through an index of its own, as `cosign save` leaves referrers out of the first one.
    let all = [stage.attached(&other), stage.attached(&image)];
    referrers(&all).write_layout(&layout, "evidence");
    stage.delivers(&daemon, "in a layout", &reference).await;
}
