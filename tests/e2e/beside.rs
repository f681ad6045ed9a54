//! What is done to the store by hand while the daemon is at work.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kit::guest::Guest;
use kit::hostile::{Fault, Hostile};
use kit::image::Image;
use kit::programs::run;
use rustix::mount::{UnmountFlags, unmount};

use super::restart::spawn_pull;
use super::store::noise;
use super::{content, trusting_guest};

/// Runs `image-agent store` beside the daemon; it has to say that it went well.
fn store(guest: &Guest, command: &str) -> serde_json::Value {
    let mut program = guest.program();
    let config = guest.path().join("cdh.toml");
    program.args(["store", command, "--json", "-c"]).arg(config);
    serde_json::from_slice(&run(&mut program).stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_under_way_is_no_damage_and_loses_nothing() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let image = Image::of([noise("quick", 1000), noise("slow", 20_000)]).build();
    let reference = registry.push("app:1", &image);
    let pause = Duration::from_millis(300);
    registry.arm(&image.blobs[2].0, Fault::Slow(10_000, pause));
    let call = spawn_pull(&daemon, &reference, &guest.bundle("c1"));
    let is_layer = |path: &String| path.starts_with("work/layers/");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !guest.residue().iter().any(is_layer) {
        assert!(Instant::now() < deadline, "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // One layer is there and used, the other is not there yet.
    let verified = store(&guest, "verify");
    assert_eq!(verified["findings"], serde_json::json!([]), "{verified}");
    assert_eq!(store(&guest, "list")["layers"][0]["used"], true);
    assert_eq!(store(&guest, "gc")["layers"], 0);
    assert!(!call.is_finished(), "the pull was under way");
    assert_eq!(call.await.unwrap(), Ok(image.digest()));
    let requests = registry.requests();
    let fetched = requests
        .iter()
        .filter(|path| path.contains(&image.blobs[1].0));
    assert_eq!(fetched.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_never_loses_the_layer_that_it_has_just_found() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let reference = registry.push("app:1", &Image::small("found"));
    daemon.delivers(&reference, &guest.bundle("first")).await;
    unmount(guest.bundle("first").join("rootfs"), UnmountFlags::DETACH).unwrap();
    let (removed, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|threads| {
        let collecting = threads.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let layers = store(&guest, "gc")["layers"].as_u64().unwrap();
                removed.fetch_add(layers, Ordering::Relaxed);
            }
        });
        let (guest, removed, runtime) = (&guest, &removed, tokio::runtime::Handle::current());
        let pulling = threads.spawn(move || {
            let deadline = Instant::now() + Duration::from_mins(2);
            let mut pulls = 0;
            // Layers have to come and go for as long as pulls do.
            while pulls < 50 || removed.load(Ordering::Relaxed) < 5 {
                assert!(Instant::now() < deadline, "{pulls} pulls, {removed:?} gone");
                let bundle = guest.bundle(&format!("c{pulls}"));
                runtime.block_on(daemon.delivers(&reference, &bundle));
                assert_eq!(content(&bundle, "etc/mark"), "found");
                unmount(bundle.join("rootfs"), UnmountFlags::DETACH).unwrap();
                pulls += 1;
            }
        });
        let pulled = pulling.join();
        is_over.store(true, Ordering::Relaxed);
        pulled.unwrap();
        collecting.join().unwrap();
    });
}
