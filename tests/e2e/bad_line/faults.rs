//! The table: every fault at every place, once and always.

use futures_util::{StreamExt as _, stream};
use kit::client::CallError;
use kit::cosign::{Claim, Key, KeyKind, signature_image, signature_tag};
use kit::guest::Daemon;
use serde_json::json;

use super::*;

/// What a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    FirstLayer,
    BigLayer,
    Manifest,
    Token,
    Signature,
}

const PLACES: [Place; 5] = [
    Place::FirstLayer,
    Place::BigLayer,
    Place::Manifest,
    Place::Token,
    Place::Signature,
];

/// How a pull must end.
type End = Result<(), Code>;

struct Row {
    fault: &'static str,
    /// With so many bytes before it, where that has a meaning.
    trouble: fn(u64) -> Trouble,
    /// When it happens once.
    once: fn(Place) -> End,
    /// When it happens every time.
    always: fn(Place) -> End,
}

const FINE: fn(Place) -> End = |_| Ok(());
const UNAVAILABLE: fn(Place) -> End = |_| Err(Code::UNAVAILABLE);

const ROWS: [Row; 10] = [
    row("dropped", Trouble::DropAfter, FINE, UNAVAILABLE),
    row("reset", Trouble::ResetAfter, FINE, UNAVAILABLE),
    row("stalled", Trouble::StallAfter, FINE, UNAVAILABLE),
    row("half-closed", Trouble::HalfCloseAfter, FINE, UNAVAILABLE),
    row("429", |_| Trouble::Status(429, None), FINE, UNAVAILABLE),
    row("502", |_| Trouble::Status(502, None), FINE, UNAVAILABLE),
    row("50 kB/s", |_| Trouble::Slow(50_000), FINE, FINE),
    row("corrupt", Trouble::Corrupt, wrong_bytes, wrong_bytes),
    row(
        "wrong length",
        |_| Trouble::WrongLength(7),
        wrong_length,
        |place| wrong_length(place).and(Err(Code::UNAVAILABLE)),
    ),
    row(
        "redirect loop",
        |_| Trouble::RedirectLoop,
        FINE,
        |place| match place {
            Place::Signature => Err(Code::PERMISSION_DENIED),
            _ => Err(Code::UNAVAILABLE),
        },
    ),
];

const fn row(
    fault: &'static str,
    trouble: fn(u64) -> Trouble,
    once: fn(Place) -> End,
    always: fn(Place) -> End,
) -> Row {
    Row {
        fault,
        trouble,
        once,
        always,
    }
}

/// There is no second place here that could have the right ones.
fn wrong_bytes(place: Place) -> End {
    Err(match place {
        Place::FirstLayer | Place::BigLayer | Place::Manifest => Code::DATA_LOSS,
        Place::Token => Code::UNAUTHENTICATED,
        Place::Signature => Code::PERMISSION_DENIED,
    })
}

/// The length of a layer is known; that of anything else is a promise that is not kept.
fn wrong_length(place: Place) -> End {
    match place {
        Place::FirstLayer | Place::BigLayer => Err(Code::DATA_LOSS),
        Place::Manifest | Place::Token | Place::Signature => Ok(()),
    }
}

/// One pull of an image of its own, so that nothing is there from another.
struct Case {
    name: String,
    repository: String,
    image: Image,
    expected: End,
}

const BIG: usize = 300_000;

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_place_ends_right() {
    let world = World::new().await;
    world.line.demand_token();
    let key = Key::mint(KeyKind::P256);
    let mut cases = Vec::new();
    for row in &ROWS {
        for place in PLACES {
            for (often, times, expected) in [
                ("once", 1, (row.once)(place)),
                ("always", u32::MAX, (row.always)(place)),
            ] {
                let name = format!("{} at {place:?} {often}", row.fault);
                let case = Case {
                    repository: format!("case{}x", cases.len()),
                    image: Image::of([
                        Layer::gzip(Archive::new().file("first", &name)),
                        layer_of("big", &name, BIG),
                    ])
                    .build(),
                    name,
                    expected,
                };
                prepare(&world, &key, &case).await;
                // What always breaks at the beginning never gets further.
                let after = match (place, often) {
                    (Place::BigLayer, "once") => 100_000,
                    (_, "once") => 1,
                    _ => 0,
                };
                arm(&world.line, &case, place, (row.trouble)(after), times);
                cases.push(case);
            }
        }
    }
    let guest = signed_guest(&world, &key);
    let daemon = guest.start().await;
    let wrong: Vec<_> = stream::iter(&cases)
        .map(|case| run_case(&world, &guest, &daemon, case))
        .buffer_unordered(25)
        .filter_map(|wrong| async { wrong })
        .collect()
        .await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let delivered = cases.iter().filter(|case| case.expected.is_ok()).count();
    assert_eq!(guest.mounts().len(), delivered);
    let bundles = std::fs::read_dir(guest.path().join("bundles")).unwrap();
    assert_eq!(bundles.count(), delivered, "nothing of the others is left");
    let peak = daemon.peak_memory();
    assert!(peak < 200 << 10, "the daemon grew to {peak} KiB");
}

/// What went wrong with the case, if anything did.
async fn run_case(world: &World, guest: &Guest, daemon: &Daemon, case: &Case) -> Option<String> {
    let bundle = guest.bundle(&case.repository);
    let reference = format!("{}/{}:1", world.line.host(), case.repository);
    let began = Instant::now();
    let ended = daemon.pull(&reference, &bundle).await;
    let took = began.elapsed();
    let wrong = match (&ended, case.expected) {
        (Ok(_), Ok(())) => {
            let is_same = content(&bundle, "first") == case.name
                && std::fs::read(bundle.join("rootfs/big")).unwrap() == noise(&case.name, BIG);
            !is_same
        }
        (Err(CallError::Refused(refusal)), Err(code)) => refusal.code != code,
        _ => true,
    };
    let is_late = took > Duration::from_secs(20);
    let told = format!(
        "{}: {ended:?} after {took:?}, not {:?}",
        case.name, case.expected
    );
    (wrong || is_late).then_some(told)
}

async fn prepare(world: &World, key: &Key, case: &Case) {
    let name = format!("{}:1", case.repository);
    world.push(&name, &case.image).await;
    let digest = case.image.digest();
    let claim = Claim::of(
        &format!("{}/{}", world.line.host(), case.repository),
        &digest,
    );
    let signatures = signature_image([key.attest(&claim)]);
    let name = format!("{}:{}", case.repository, signature_tag(&digest));
    world.push(&name, &signatures).await;
}

fn arm(line: &Line, case: &Case, place: Place, trouble: Trouble, times: u32) {
    let own = format!("/v2/{}/", case.repository);
    let part = match place {
        Place::FirstLayer => format!("{own}blobs/{}", blob_of(&case.image, 0)),
        Place::BigLayer => format!("{own}blobs/{}", blob_of(&case.image, 1)),
        Place::Manifest => format!("{own}manifests/1"),
        Place::Token => case.repository.clone(),
        Place::Signature => format!("{own}manifests/sha256-"),
    };
    let mut left = times;
    line.arm_by(move |asked| {
        let is_for_token = asked.target.starts_with("/token");
        let hit = asked.target.contains(&part) && (place == Place::Token) == is_for_token;
        if !hit || left == 0 {
            return None;
        }
        left -= 1;
        Some(trouble.clone())
    });
}

/// A guest that demands a signature by `key`.
fn signed_guest(world: &World, key: &Key) -> Guest {
    let mut guest = world.guest();
    let path = guest.path().join("tmp/cosign.pub");
    std::fs::write(&path, key.public_pem()).unwrap();
    let signed =
        json!([{"type": "sigstoreSigned", "keyPath": format!("file://{}", path.display())}]);
    let policy = json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {world.line.host(): signed}},
    });
    guest.settings = guest
        .settings
        .clone()
        .with("image.image_security_policy", policy.to_string())
        // Many at once on a busy machine: none is to fail but by its fault.
        .with("image_agent.timeouts.idle", 3);
    guest
}
