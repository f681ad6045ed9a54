//! Redirects that must not be followed, and what is said of them.

use kit::client::Code;
use kit::hostile::{Fault, Hostile};
use kit::image::Image;

use super::{FAILED, assert_says, trusting_guest};

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_from_https_to_http_is_not_followed() {
    let registry = Hostile::start_https().await;
    let plain = Hostile::start().await;
    let image = Image::small("downgraded");
    let reference = registry.push("app:1", &image);
    plain.push("app:1", &image);
    // Plain http is allowed there for those who ask there, which does not make it good here.
    let mut guest = trusting_guest(&plain.host());
    guest.settings = guest
        .settings
        .clone()
        .with("image.extra_root_certificates", vec![registry.authority()]);
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    let other = Image::small("downgraded too");
    registry.push("app:2", &other);
    plain.push("app:2", &other);
    let before = guest.residue();
    for path in [
        "/v2/app/manifests/2".to_owned(),
        format!("/v2/app/blobs/{}", other.blobs[1].0),
    ] {
        let target = format!("http://{}{path}", plain.host());
        registry.arm(&path, Fault::Redirect(target));
        let reference = format!("{}/app:2", registry.host());
        let refusal = daemon.refuses(&reference, &guest.bundle("c2")).await;
        assert_eq!(refusal.code, Code::UNAVAILABLE, "{path}: {refusal:?}");
        let words = [FAILED, "redirect refused", "it leads from https to http"];
        assert_says(&path, &refusal.message, &words);
        registry.disarm();
        guest.assert_residue(&before, &path).await;
    }
    assert_eq!(plain.requests(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_from_plain_http_to_https_is_followed_to_who_is_vouched_for() {
    let registry = Hostile::start().await;
    let storage = Hostile::start_https().await;
    let image = Image::small("stored elsewhere");
    let reference = registry.push("app:1", &image);
    storage.push("app:1", &image);
    for (digest, _) in &image.blobs {
        let path = format!("/v2/app/blobs/{digest}");
        let target = format!("https://{}{path}", storage.host());
        registry.arm(&path, Fault::Redirect(target));
    }
    let mut guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::UNAUTHENTICATED, "{refusal:?}");
    assert_eq!(storage.requests(), Vec::<String>::new());
    drop(daemon);
    guest.settings = guest
        .settings
        .clone()
        .with("image.extra_root_certificates", vec![storage.authority()]);
    let daemon = guest.start().await;
    let digest = daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(digest, image.digest());
    assert_eq!(storage.requests().len(), image.blobs.len());
}
