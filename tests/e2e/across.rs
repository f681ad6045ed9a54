//! Layers that lean on those below them make the tree that unpacking in order would make.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use kit::archive::{Archive, Entry};
use kit::guest::Guest;
use kit::hostile::Hostile;
use kit::image::{Image, Layer};
use kit::programs::{require, run};
use tar::EntryType;

use super::tree::{Attributes, tree};
use super::{content, trusting_guest};

type Tree = BTreeMap<PathBuf, Attributes>;

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
    let (base_blob, mut base_asked) = (base().digest, 0);
    for (name, layers) in images {
        let image = Image::of(layers).build();
        let reference = registry.push(&format!("{name}:1"), &image);
        let expected = unpacked_in_order(&guest, name, &image);
        for again in ["first", "second"] {
            base_asked += times_asked(&registry, &base_blob);
            registry.disarm();
            let bundle = guest.bundle(&format!("{name}-{again}"));
            daemon.delivers(&reference, &bundle).await;
            assert_eq!(comparable(&bundle.join("rootfs")), expected, "{name}");
            if again == "second" {
                assert_eq!(registry.requests().len(), 1, "{:?}", registry.requests());
            }
        }
    }
    assert_eq!(content(&guest.bundle("all-first"), "usr/lib/x/d"), "d");
    let overlays = std::fs::read_dir(guest.work().join("overlay")).unwrap();
    assert_eq!(overlays.count(), 10, "ten bundles and nothing else");
    // Those that lean on others are there once for each chain, all others once for all images.
    assert_eq!(base_asked, 1);
    let trees = std::fs::read_dir(guest.work().join("layers")).unwrap();
    let leaning = [
        "upper on base",
        "upper on all",
        "link on upper",
        "link on base",
    ];
    let shared = ["base", "other base", "link"];
    assert_eq!(trees.count(), leaning.len() + shared.len());
}

/// What umoci makes of an image.
fn unpacked_in_order(guest: &Guest, name: &str, image: &Image) -> Tree {
    let layout = guest.path().join("tmp").join(name);
    std::fs::create_dir(&layout).unwrap();
    image.write_layout(&layout.join("layout"), "image");
    run(Command::new(require("umoci", "umoci"))
        .args(["unpack", "--image"])
        .arg(format!("{}:image", layout.join("layout").display()))
        .arg(layout.join("bundle")));
    comparable(&layout.join("bundle/rootfs"))
}

/// A tree without its root, which is nobody's business where no layer has an entry for it, and
/// without the times of directories: umoci leaves there when it has last put something in.
fn comparable(root: &Path) -> Tree {
    let mut found = tree(root);
    found.remove(Path::new(""));
    for attributes in found.values_mut().filter(|it| it.is_directory()) {
        attributes.modified = (0, 0);
    }
    found
}

/// A directory that a layer does not carry is what the layers below say.
#[tokio::test(flavor = "multi_thread")]
async fn directory_that_is_only_implied_is_what_it_is_below() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let private = Entry::new("private/", EntryType::Directory)
        .mode(0o1750)
        .owner(7, 8)
        .extension("mtime", "1234567890.123456789")
        .attribute("user.note", "kept");
    let base = Archive::new()
        .entry(&private)
        .file("private/old", "old")
        .entry(
            &Entry::file("tool", "x")
                .mode(0o755)
                .attribute("security.capability", CAPABILITY),
        );
    let upper = Archive::new()
        .file("private/x", "x")
        .file("private/q/y", "y")
        .file("private/.wh.old", "");
    let image = Image::of([base, upper].map(Layer::gzip)).build();
    let reference = registry.push("app:1", &image);
    let expected = unpacked_in_order(&guest, "app", &image);
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    let rootfs = guest.bundle("c1").join("rootfs");
    assert_eq!(comparable(&rootfs), expected);
    let modified = tree(&rootfs)[Path::new("private")].modified;
    assert_eq!(modified, (1_234_567_890, 123_456_789));
}

/// `cap_net_bind_service=ep`, as `capabilities(7)` has it on disk.
pub(crate) const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn times_asked(registry: &Hostile, digest: &str) -> usize {
    let requests = registry.requests();
    requests.iter().filter(|path| path.contains(digest)).count()
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
