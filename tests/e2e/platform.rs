//! Variants of a platform.

use kit::client::Code;
use kit::image::{Format, Image, host_architecture};
use kit::registry::Registry;

use super::{FAILED, assert_says, content, trusting_guest};

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_a_variant_that_nobody_asked_for_is_not_chosen() {
    let registry = Registry::start().await;
    let guest = trusting_guest(registry.host());
    let daemon = guest.start().await;
    let here = format!("linux/{}", host_architecture());
    let newer = format!("{here}/v3");
    let (plain, special) = (Image::small("plain"), Image::small("v3"));
    for (name, entries) in [
        (
            "first",
            [(here.as_str(), &plain), (newer.as_str(), &special)],
        ),
        (
            "last",
            [(newer.as_str(), &special), (here.as_str(), &plain)],
        ),
    ] {
        let entries = entries.map(|(platform, image)| (platform, image.clone()));
        let index = Image::index(Format::Oci, entries);
        let reference = registry.push(&format!("{name}:1"), &index).await;
        let digest = daemon.delivers(&reference, &guest.bundle(name)).await;
        assert_eq!(digest, plain.digest(), "{name}");
        assert_eq!(content(&guest.bundle(name), "etc/mark"), "plain");
    }
    let index = Image::index(Format::Oci, [(newer.as_str(), special)]);
    let reference = registry.push("alone:1", &index).await;
    let refusal = daemon.refuses(&reference, &guest.bundle("alone")).await;
    assert_eq!(refusal.code, Code::NOT_FOUND, "{refusal:?}");
    let words = [FAILED, "no image for this platform", &here, &newer];
    assert_says("alone", &refusal.message, &words);
}
