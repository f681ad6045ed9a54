//! Guests that are too small for an image, and guests that are full of what nobody uses.

use std::path::{Path, PathBuf};

use kit::archive::Archive;
use kit::client::Code;
use kit::guest::Guest;
use kit::hostile::Hostile;
use kit::image::{Compression, Image, Layer};
use kit::programs::run;
use rustix::mount::{UnmountFlags, unmount};

use super::store::{fetched, noise};
use super::{FAILED, assert_says, content, trusting_guest};

/// A guest whose work directory holds this much.
fn small_guest(registry: &Hostile, options: &str) -> Guest {
    let guest = trusting_guest(&registry.host());
    std::fs::create_dir(guest.work()).unwrap();
    run(std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "image-agent-e2e"])
        .arg(guest.work()));
    guest
}

fn take_down(bundle: &Path) {
    unmount(bundle.join("rootfs"), UnmountFlags::DETACH).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_fit_is_refused_before_it_is_fetched() {
    let registry = Hostile::start().await;
    let image = Image::of([noise("a", 2_000_000)]).build();
    let reference = registry.push("app:1", &image);
    for is_verbose in [false, true] {
        let mut guest = small_guest(&registry, "size=4m");
        guest.settings = guest
            .settings
            .clone()
            .with("image_agent.verbose_errors", is_verbose);
        let daemon = guest.start().await;
        let before = guest.residue();
        registry.disarm();
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::RESOURCE_EXHAUSTED, "{refusal:?}");
        let words = [
            FAILED,
            "disk full: needs about ",
            " MiB, 4.0 MiB free (tmpfs)",
        ];
        assert_says("preflight", &refusal.message, &words);
        let path = format!("free in {} (tmpfs)", guest.work().display());
        assert_eq!(refusal.message.contains(&path), is_verbose, "{refusal:?}");
        let asked = registry.requests();
        assert!(
            !asked.iter().any(|path| path.contains(&image.blobs[1].0)),
            "{asked:?}"
        );
        guest.assert_residue(&before, "preflight").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_which_there_are_too_few_inodes_is_refused_before_it_is_fetched() {
    let registry = Hostile::start().await;
    let layer = |number| Layer::gzip(Archive::new().file(format!("file{number}"), "x"));
    for (inodes, layers, needed) in [(10, 1, 18), (60, 30, 76)] {
        let guest = small_guest(&registry, &format!("nr_inodes={inodes}"));
        let daemon = guest.start().await;
        let before = guest.residue();
        let image = Image::of((0..layers).map(layer)).build();
        let reference = registry.push(&format!("app{inodes}:1"), &image);
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::RESOURCE_EXHAUSTED, "{refusal:?}");
        guest.assert_residue(&before, "too few inodes").await;
        let free = rustix::fs::statvfs(guest.work()).unwrap().f_favail;
        let numbers = format!("disk full: needs about {needed} inodes, {free} free (tmpfs)");
        assert_says("too few inodes", &refusal.message, &[FAILED, &numbers]);
        assert_eq!(fetched(&registry, &image), vec![0; layers]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cached_layer_takes_is_not_counted_again() {
    let registry = Hostile::start().await;
    let guest = small_guest(&registry, "size=14m");
    let daemon = guest.start().await;
    let plain = |name: &str, size| {
        let bytes = vec![name.as_bytes()[0]; size];
        Layer::new(Archive::new().file(name, bytes), Compression::None)
    };
    let base = plain("base", 8_000_000);
    let push = |name: &str, layers: Vec<Layer>| {
        let image = Image::of(layers).build();
        (registry.push(&format!("{name}:1"), &image), image)
    };
    let (first, first_image) = push("first", vec![base.clone()]);
    daemon.delivers(&first, &guest.bundle("first")).await;
    // Both have 10 MB, where 6 MB are free.
    let (other, other_image) = push(
        "other",
        vec![plain("alien", 8_000_000), plain("own", 2_000_000)],
    );
    let refusal = daemon.refuses(&other, &guest.bundle("other")).await;
    assert_eq!(refusal.code, Code::RESOURCE_EXHAUSTED, "{refusal:?}");
    assert_says("nothing shared", &refusal.message, &["needs about 9."]);
    assert_eq!(fetched(&registry, &other_image), [0, 0]);

    let (second, second_image) = push("second", vec![base, plain("own", 2_000_000)]);
    daemon.delivers(&second, &guest.bundle("second")).await;
    assert_eq!(content(&guest.bundle("second"), "base").len(), 8_000_000);
    assert_eq!(content(&guest.bundle("second"), "own").len(), 2_000_000);
    assert_eq!(fetched(&registry, &first_image), [1]);
    assert_eq!(fetched(&registry, &second_image), [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_fitted_are_not_fetched_again_once_there_is_room_for_the_others() {
    let registry = Hostile::start().await;
    let mut guest = small_guest(&registry, "size=16m");
    // In order, so that the small layer is there when the large one fills the disk.
    guest.settings = guest
        .settings
        .clone()
        .with("image.max_concurrent_layer_downloads_per_image", 1);
    let daemon = guest.start().await;
    let plain = Layer::new(
        Archive::new().file("other", vec![b'o'; 8_000_000]),
        Compression::None,
    );
    let other = registry.push("other:1", &Image::of([plain]).build());
    daemon.delivers(&other, &guest.bundle("other")).await;
    let before = guest.residue_beside_layers();
    let zeros = Layer::gzip(Archive::new().file("zeros", vec![0; 12_000_000]));
    let image = Image::of([noise("small", 100_000), zeros]).build();
    let reference = registry.push("app:1", &image);
    for times_large_was_fetched in 1..=2 {
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::RESOURCE_EXHAUSTED, "{refusal:?}");
        let words = [
            FAILED,
            "disk full: needs more than the ",
            " MiB and ",
            "that were free (tmpfs)",
        ];
        assert_says("half way", &refusal.message, &words);
        assert_eq!(fetched(&registry, &image), [1, times_large_was_fetched]);
        assert_eq!(guest.residue_beside_layers(), before);
    }
    take_down(&guest.bundle("other"));
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(fetched(&registry, &image)[0], 1, "it had fitted");
    let zeros = std::fs::metadata(guest.bundle("c1").join("rootfs/zeros"));
    assert_eq!(zeros.unwrap().len(), 12_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_no_bundle_uses_make_room_the_oldest_first() {
    let registry = Hostile::start().await;
    let guest = small_guest(&registry, "size=14m");
    let daemon = guest.start().await;
    // 4 MB each, of which three fit.
    let plain = |name: &str| {
        let bytes = vec![name.as_bytes()[0]; 4_000_000];
        let layer = Layer::new(Archive::new().file(name, bytes), Compression::None);
        Image::of([layer]).build()
    };
    for name in ["a", "b", "c"] {
        let reference = registry.push(&format!("{name}:1"), &plain(name));
        daemon.delivers(&reference, &guest.bundle(name)).await;
    }
    let reference = registry.push("d:1", &plain("d"));
    let refusal = daemon.refuses(&reference, &guest.bundle("d")).await;
    assert_eq!(refusal.code, Code::RESOURCE_EXHAUSTED, "all are in use");
    assert_says("in use", &refusal.message, &["needs about 4.0 MiB"]);

    take_down(&guest.bundle("b"));
    take_down(&guest.bundle("c"));
    daemon.delivers(&reference, &guest.bundle("d")).await;
    assert_eq!(content(&guest.bundle("d"), "d").len(), 4_000_000);
    assert_eq!(content(&guest.bundle("a"), "a").len(), 4_000_000);
    registry.disarm();
    // The one that was used last was not needed.
    let again = format!("{}/c:1", registry.host());
    daemon.delivers(&again, &guest.bundle("c-again")).await;
    assert_eq!(registry.requests().len(), 1, "{:?}", registry.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_half_way_is_told_and_unused_layers_give_way() {
    let registry = Hostile::start().await;
    let guest = small_guest(&registry, "size=16m");
    let daemon = guest.start().await;
    let before = guest.residue();
    // A few kilobytes that become much more than most layers do.
    let zeros = |size: usize| {
        let layer = Layer::gzip(Archive::new().file("zeros", vec![0; size]));
        Image::of([layer]).build()
    };
    let large = registry.push("large:1", &zeros(30_000_000));
    let refusal = daemon.refuses(&large, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::RESOURCE_EXHAUSTED, "{refusal:?}");
    let words = [
        FAILED,
        "disk full: needs more than the 16.0 MiB and ",
        " inodes that were free (tmpfs)",
    ];
    assert_says("half way", &refusal.message, &words);
    guest.assert_residue(&before, "half way").await;

    let other = registry.push("other:1", &Image::of([noise("a", 2_000_000)]).build());
    daemon.delivers(&other, &guest.bundle("other")).await;
    let fits = registry.push("fits:1", &zeros(10_000_000));
    daemon.refuses(&fits, &guest.bundle("c2")).await;
    take_down(&guest.bundle("other"));
    daemon.delivers(&fits, &guest.bundle("c2")).await;
    let size = std::fs::metadata(guest.bundle("c2").join("rootfs/zeros"));
    assert_eq!(size.unwrap().len(), 10_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_at_once_make_room_once_and_all_get_it() {
    let registry = Hostile::start().await;
    let guest = small_guest(&registry, "size=24m");
    let daemon = guest.start().await;
    let other = registry.push("other:1", &Image::of([noise("other", 2_000_000)]).build());
    daemon.delivers(&other, &guest.bundle("other")).await;
    take_down(&guest.bundle("other"));
    // It fits once, and only without what nobody uses.
    let layer = Layer::gzip(Archive::new().file("zeros", vec![0; 20_000_000]));
    let image = Image::of([layer]).build();
    let reference = registry.push("app:1", &image);
    let bundles: Vec<_> = (0..4)
        .map(|number| guest.bundle(&format!("c{number}")))
        .collect();
    let pull = |bundle: &PathBuf| super::restart::spawn_pull(&daemon, &reference, bundle);
    let calls: Vec<_> = bundles.iter().map(pull).collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(image.digest()), "{}", daemon.log());
    }
    assert_eq!(guest.mounts().len(), 1 + bundles.len());
}
