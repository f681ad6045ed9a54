//! Layers that a mirror breaks or forges come from the next place, from their first byte.

use toml::{Table, Value};

use super::*;

/// A guest whose first place for images of the registry is the line.
fn mirrored_guest(world: &World) -> Guest {
    guest_with_places(world, &world.line.host(), world.registry.host())
}

fn guest_with_places(world: &World, mirror: &str, registry: &str) -> Guest {
    let mirror = Table::from_iter([
        ("location".to_owned(), Value::from(mirror)),
        ("insecure".to_owned(), true.into()),
    ]);
    let entry = Table::from_iter([
        ("prefix".to_owned(), Value::from(world.registry.host())),
        ("location".to_owned(), Value::from(registry)),
        ("insecure".to_owned(), true.into()),
        ("mirror".to_owned(), vec![mirror].into()),
    ]);
    let mut guest = world.guest();
    guest.settings = guest
        .settings
        .clone()
        .with("image.registry_config.registry", vec![entry]);
    guest
}

/// The line has the honest image and passes on the manifest; what it does to the layer differs.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_breaks_or_forges_a_layer_is_passed_over_for_it() {
    let world = World::new().await;
    let guest = mirrored_guest(&world);
    let daemon = guest.start().await;
    let length = 400_000;
    for (number, (name, trouble)) in [
        ("a byte at the beginning", Trouble::Corrupt(100)),
        ("a byte in the middle", Trouble::Corrupt(200_000)),
        ("the last byte", Trouble::Corrupt(401_000)),
        ("dropped", Trouble::DropAfter(0)),
        ("stalled", Trouble::StallAfter(0)),
        ("502", Trouble::Status(502, None)),
        ("404", Trouble::Status(404, None)),
        ("wrong length", Trouble::WrongLength(1)),
        ("redirect loop", Trouble::RedirectLoop),
    ]
    .into_iter()
    .enumerate()
    {
        let image = Image::of([layer_of("noise", name, length)]).build();
        let blob = blob_of(&image, 0).to_owned();
        world.push(&format!("app{number}:1"), &image).await;
        world.line.arm(&blob, trouble);
        let reference = format!("{}/app{number}:1", world.registry.host());
        let bundle = guest.bundle(&format!("c{number}"));
        daemon.delivers(&reference, &bundle).await;
        let found = std::fs::read(bundle.join("rootfs/noise")).unwrap();
        assert!(found == noise(name, length), "{name}");
        let asked = world.line.requests().join("\n");
        assert!(asked.contains(&blob), "{name}: {asked}");
        let staged = std::fs::read_dir(guest.work().join("staging")).unwrap();
        assert_eq!(staged.count(), 0, "{name}");
        world.line.disarm();
    }
}

/// What a place sent in vain does not count against the limit of the image.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_were_wrong_are_not_counted_for_the_image() {
    let world = World::new().await;
    let mut guest = mirrored_guest(&world);
    let key = "image_agent.limits.image_bytes";
    guest.settings = guest.settings.clone().with(key, 600_000);
    let daemon = guest.start().await;
    let image = Image::of([layer_of("noise", "counted once", 400_000)]).build();
    world.push("app:1", &image).await;
    world
        .line
        .arm(blob_of(&image, 0), Trouble::Corrupt(401_000));
    let reference = format!("{}/app:1", world.registry.host());
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    let asked = world.line.requests().join("\n");
    assert!(asked.contains(blob_of(&image, 0)), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_place_fails_each_is_named_with_its_cause() {
    let world = World::new().await;
    // Both places lead over the line, one of them by another name.
    let line = world.line.host();
    let by_name = line.replace("127.0.0.1", "localhost");
    let mut guest = guest_with_places(&world, &by_name, &line);
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.verbose_errors", true);
    let daemon = guest.start().await;
    let image = Image::of([layer_of("noise", "nowhere", 400_000)]).build();
    world.push("app:1", &image).await;
    let blob = blob_of(&image, 0).to_owned();
    let mut first = true;
    world.line.arm_by(move |asked| {
        let hit = asked.target.contains(&blob);
        let wrong = hit && first;
        first &= !hit;
        hit.then_some(if wrong {
            Trouble::Corrupt(200_000)
        } else {
            Trouble::Status(404, None)
        })
    });
    let before = guest.residue();
    let reference = format!("{}/app:1", world.registry.host());
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::NOT_FOUND, "{refusal:?}");
    let words = [
        "of layer",
        "none of 2 places has it",
        "[1]",
        "[2]",
        line.as_str(),
    ];
    assert_says("nowhere", &refusal.message, &words);
    guest.assert_residue(&before, "nowhere").await;
}
