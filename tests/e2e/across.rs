//! Layers that lean on those below them make the tree that unpacking in order would make.

use std::process::Command;

use kit::archive::{Archive, Entry};
use kit::hostile::Hostile;
use kit::image::{Image, Layer};
use kit::programs::{require, run};

use super::tree::tree;
use super::{content, trusting_guest};

/// As distributions have it since they merged `/lib` into `/usr/lib`.
fn base() -> Layer {
    let archive = Archive::new()
        .directory("usr/")
        .directory("usr/lib/")
        .file("usr/lib/a", "a")
        .file("usr/lib/old", "old")
        .symlink("lib", "usr/lib")
        .symlink("absolute", "/usr/lib")
        .entry(&Entry::file("data", "data").mode(0o4751).owner(7, 8));
    Layer::gzip(archive)
}

fn upper() -> Layer {
    let archive = Archive::new()
        .file("lib/b", "b")
        .file("absolute/deep/c", "c")
        .file("lib/.wh.old", "")
        .hard_link("same-data", "data")
        .hard_link("lib/same-a", "usr/lib/a");
    Layer::gzip(archive)
}

#[tokio::test(flavor = "multi_thread")]
async fn links_into_lower_layers_lead_where_they_lead_when_unpacked_in_order() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let only_through_link = Layer::gzip(Archive::new().file("lib/x/d", "d"));
    let other_base = Layer::gzip(Archive::new().directory("lib/").file("lib/own", "own"));
    let images = [
        ("all", vec![base(), upper(), only_through_link.clone()]),
        ("twice", vec![base(), upper(), base(), upper()]),
        ("linked", vec![base(), only_through_link.clone()]),
        ("plain", vec![other_base, only_through_link.clone()]),
        ("alone", vec![only_through_link]),
    ];
    for (name, layers) in images {
        let image = Image::of(layers).build();
        let reference = registry.push(&format!("{name}:1"), &image);
        let layout = guest.path().join("tmp").join(name);
        std::fs::create_dir(&layout).unwrap();
        image.write_layout(&layout.join("layout"), "image");
        run(Command::new(require("umoci", "umoci"))
            .args(["unpack", "--image"])
            .arg(format!("{}:image", layout.join("layout").display()))
            .arg(layout.join("bundle")));
        let mut expected = tree(&layout.join("bundle/rootfs"));
        // The root's mode is nobody's business where no layer has an entry for it.
        expected.remove(std::path::Path::new(""));
        for again in ["first", "second"] {
            registry.disarm();
            let bundle = guest.bundle(&format!("{name}-{again}"));
            daemon.delivers(&reference, &bundle).await;
            let mut found = tree(&bundle.join("rootfs"));
            found.remove(std::path::Path::new(""));
            assert_eq!(found, expected, "{name}");
            if again == "second" {
                assert_eq!(registry.requests().len(), 1, "{:?}", registry.requests());
            }
        }
    }
    assert_eq!(content(&guest.bundle("all-first"), "usr/lib/x/d"), "d");
    let overlays = std::fs::read_dir(guest.work().join("overlay")).unwrap();
    assert_eq!(overlays.count(), 10, "ten bundles and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_to_what_no_layer_has_are_refused_still() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let before = guest.residue_beside_layers();
    let bad = Layer::gzip(Archive::new().hard_link("link", "nowhere"));
    for (name, layers) in [("bottom", vec![bad.clone()]), ("top", vec![base(), bad])] {
        let reference = registry.push(&format!("{name}:1"), &Image::of(layers).build());
        let refusal = daemon.refuses(&reference, &guest.bundle(name)).await;
        assert_eq!(refusal.code, kit::client::Code::DATA_LOSS, "{refusal:?}");
        super::assert_says(name, &refusal.message, &["hard link"]);
        assert_eq!(guest.residue_beside_layers(), before, "{name}");
    }
}
