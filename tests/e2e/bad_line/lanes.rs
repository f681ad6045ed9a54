//! How many layers come at a time, and who waits for whom.

use super::*;

/// An image of one layer of 300 kB and many small ones, of which the first is the lowest.
fn mixed(mark: &str, small: usize) -> Image {
    let layer = |n: usize| layer_of(&format!("small{n}"), &format!("{mark} {n}"), 1000);
    let large = layer_of("large", mark, 3 << 20);
    Image::of(std::iter::once(large).chain((0..small).map(layer))).build()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stated_number_of_layers_at_a_time_is_kept_and_else_their_sizes_choose() {
    let world = World::new().await;
    // (stated, at least, at most)
    for (stated, least, most) in [(Some(1), 1, 1), (Some(5), 5, 5), (None, 8, 16)] {
        let case = format!("{stated:?}");
        let layer = |n: usize| layer_of(&format!("small{n}"), &format!("{case} {n}"), 25_000);
        let image = Image::of((0..30).map(layer)).build();
        let reference = world.push(&format!("app{least}:1"), &image).await;
        world.line.arm("/blobs/", Trouble::Slow(200_000));
        let mut guest = world.guest();
        if let Some(stated) = stated {
            let key = "image.max_concurrent_layer_downloads_per_image";
            guest.settings = guest.settings.clone().with(key, stated);
        }
        let daemon = guest.start().await;
        daemon.delivers(&reference, &guest.bundle("c1")).await;
        let found = world.line.most_blobs_at_once();
        // The line counts a blob a moment longer than whoever has its last byte.
        let counted = least..=most + u32::from(stated.is_some());
        assert!(counted.contains(&found), "{case}: {found} at a time");
        world.line.disarm();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_layers_do_not_wait_for_large_ones() {
    let world = World::new().await;
    let image = mixed("starved", 25);
    let reference = world.push("app:1", &image).await;
    let large = blob_of(&image, 0).to_owned();
    world.line.arm(&large, Trouble::Slow(600_000));
    let guest = world.guest();
    let daemon = guest.start().await;
    let (client, bundle) = (daemon.client(), guest.bundle("c1").display().to_string());
    let call = tokio::spawn(async move { client.pull(&reference, &bundle).await });
    let small: Vec<_> = (1..26).map(|n| blob_of(&image, n).to_owned()).collect();
    let began = Instant::now();
    let all_asked_for = || {
        let asked = world.line.requests().join("\n");
        small.iter().all(|blob| asked.contains(blob))
    };
    while !all_asked_for() {
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "small layers wait"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!call.is_finished(), "the large layer came sooner");
    call.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_layers_together_keep_to_the_bandwidth_and_the_memory_that_is_configured() {
    let world = World::new().await;
    let image = mixed("limited", 10);
    let reference = world.push("app:1", &image).await;
    let mut guest = world.guest();
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.downloads.bytes_per_second", 1 << 20)
        .with("image_agent.downloads.memory_bytes", 4 << 20);
    let daemon = guest.start().await;
    let began = Instant::now();
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    let took = began.elapsed();
    let expected = Duration::from_millis(2900)..Duration::from_secs(8);
    assert!(expected.contains(&took), "{took:?}");
}
