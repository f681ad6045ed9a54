//! Pulls over lines that break: they go on where they were, or say why they cannot.

mod faults;
mod lanes;
mod sources;

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use kit::archive::Archive;
use kit::client::Code;
use kit::guest::Guest;
use kit::image::{Compression, Image, Layer, sha256};
use kit::line::{Line, Trouble};
use kit::registry::Registry;

use super::{assert_says, content, trusting_guest};

/// A registry, and a line to it.
struct World {
    registry: Registry,
    line: Line,
}

impl World {
    async fn new() -> Self {
        let registry = Registry::start().await;
        let line = Line::to(registry.host());
        Self { registry, line }
    }

    /// Pushes an image; returns its name at the other end of the line.
    async fn push(&self, name: &str, image: &Image) -> String {
        self.registry.push(name, image).await;
        format!("{}/{name}", self.line.host())
    }

    /// A guest that accepts anything that comes over the line, with short deadlines.
    fn guest(&self) -> Guest {
        let mut guest = trusting_guest(&self.line.host());
        guest.settings = guest
            .settings
            .clone()
            .with("image_agent.timeouts.connect", 2)
            .with("image_agent.timeouts.idle", 1)
            .with("image_agent.timeouts.total", 50)
            .with("image_agent.downloads.attempts", 2);
        guest
    }
}

/// Bytes that no compression makes fewer of, others for every `mark`.
fn noise(mark: &str, length: usize) -> Vec<u8> {
    let mut state = mark.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A layer of one file of noise, not compressed.
fn layer_of(name: &str, mark: &str, length: usize) -> Layer {
    let archive = Archive::new().file(name, noise(mark, length));
    Layer::new(archive, Compression::None)
}

fn blob_of(image: &Image, layer: usize) -> &str {
    &image.blobs[layer + 1].0
}

/// A pull through twenty connections that break at random places finishes, and fetches hardly more
/// than one that nothing happens to. `make soak` does the same with a gigabyte.
#[tokio::test(flavor = "multi_thread")]
async fn random_drops_cost_hardly_any_bytes() {
    const DROPS: u64 = 20;
    let size = std::env::var("SOAK_BYTES").map_or(24 << 20, |bytes| bytes.parse().unwrap());
    let world = World::new().await;
    let layer = layer_of("noise", "drops", size);
    let (blob_size, expected) = (layer.size, sha256(&noise("drops", size)));
    let image = Image::of([layer]).build();
    let reference = world.push("app:1", &image).await;
    drop(image);
    let random = |n| RandomState::new().hash_one(n);
    let mut places: Vec<_> = (0..DROPS).map(|n| random(n) % blob_size).collect();
    places.sort_unstable_by(|one, other| other.cmp(one));
    let mut stalls = 2;
    world.line.arm_by(move |asked| {
        if !asked.target.contains("/blobs/sha256:") {
            return None;
        }
        while places.pop_if(|place| *place <= asked.from).is_some() {}
        let after = places.pop()? - asked.from;
        let stall = random(after) % 8 == 0 && stalls > 0;
        stalls -= u32::from(stall);
        Some(match random(after) % 3 {
            _ if stall => Trouble::StallAfter(after),
            0 => Trouble::ResetAfter(after),
            1 => Trouble::HalfCloseAfter(after),
            _ => Trouble::DropAfter(after),
        })
    });
    let mut guest = world.guest();
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.timeouts.total", 600)
        // The default: some drops are so near to each other that an attempt brings next to nothing.
        .with("image_agent.downloads.attempts", 5);
    let daemon = guest.start().await;
    let began = Instant::now();
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    let took = began.elapsed();
    let file = guest.bundle("c1").join("rootfs/noise");
    assert_eq!(sha256(&std::fs::read(file).unwrap()), expected);
    let again = world
        .line
        .requests()
        .iter()
        .filter(|line| line.contains(" from "))
        .count();
    let fetched = world.line.blob_bytes();
    println!("{blob_size} bytes in {took:?}: {fetched} fetched, {again} times gone on");
    assert!(again >= 10, "{:?}", world.line.requests());
    assert!(fetched * 100 <= blob_size * 105, "{fetched} of {blob_size}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_no_ranges_is_noticed_and_nothing_is_fed_twice() {
    let world = World::new().await;
    let image = Image::of([layer_of("noise", "no ranges", 400_000)]).build();
    let reference = world.push("app:1", &image).await;
    let blob = blob_of(&image, 0).to_owned();
    world.line.arm_times(&blob, Trouble::DropAfter(150_000), 1);
    world.line.arm(&blob, Trouble::IgnoreRange);
    let guest = world.guest();
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    let found = std::fs::read(guest.bundle("c1").join("rootfs/noise")).unwrap();
    assert!(found == noise("no ranges", 400_000));
    let requests = world.line.requests().join("\n");
    assert!(
        requests.contains(&format!("{blob} from 150000")),
        "{requests}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_part_than_the_one_asked_for_is_refused() {
    let world = World::new().await;
    let image = Image::of([layer_of("noise", "wrong range", 400_000)]).build();
    let reference = world.push("app:1", &image).await;
    let blob = blob_of(&image, 0).to_owned();
    world.line.arm_times(&blob, Trouble::DropAfter(150_000), 1);
    world.line.arm(&blob, Trouble::WrongRange);
    let guest = world.guest();
    let daemon = guest.start().await;
    let before = guest.residue();
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::DATA_LOSS, "{refusal:?}");
    assert_says("wrong range", &refusal.message, &["from 150000", &blob]);
    guest.assert_residue(&before, "wrong range").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_left_alone_for_as_long_as_it_asks() {
    let world = World::new().await;
    let reference = world.push("app:1", &Image::small("busy")).await;
    world
        .line
        .arm_times("/manifests/", Trouble::Status(429, Some(2)), 1);
    let guest = world.guest();
    let daemon = guest.start().await;
    let began = Instant::now();
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}");
}

/// What it says in the end has the host, what was asked for, how often, and the last cause.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_error_says_how_often_what_was_tried() {
    let world = World::new().await;
    let image = Image::small("never");
    let reference = world.push("app:1", &image).await;
    let mut guest = world.guest();
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.downloads.attempts", 3)
        .with("image_agent.verbose_errors", true);
    let daemon = guest.start().await;
    world.line.arm("/blobs/", Trouble::Status(503, None));
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::UNAVAILABLE, "{refusal:?}");
    let host = world.line.host();
    let words = [
        host.as_str(),
        "blob sha256:",
        "HTTP status 503",
        "the words of the registry",
        "after 3 attempts",
    ];
    assert_says("always 503", &refusal.message, &words);
    let asked = world.line.requests();
    let blobs = asked.iter().filter(|line| line.contains("/blobs/")).count();
    assert_eq!(blobs, 3, "{asked:?}");
}
