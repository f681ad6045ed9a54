//! Kills at random moments: whatever they leave, the next pull makes the right tree, and nothing
//! is left when everything unused is removed.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Instant;

use kit::archive::{Archive, Entry};
use kit::client::{CallError, Code};
use kit::guest::Guest;
use kit::image::{Image, Layer};
use kit::programs::run;
use kit::registry::Registry;
use rustix::mount::{UnmountFlags, unmount};
use tar::EntryType;

use super::across::CAPABILITY;
use super::restart::spawn_pull;
use super::tree::{Attributes, tree};
use super::trusting_guest;

/// Rounds in `make test`; `make soak` asks for more.
const ROUNDS: u32 = 20;

/// An image whose pull takes long enough to be killed in the middle of every stage, with a layer
/// that occurs twice, one that is unpacked onto those below it, and a directory that most layers only
/// imply.
fn image_with_much_to_do() -> Image {
    let layer = |number: u32| {
        let noise: Vec<u8> = (0..150_000_u32)
            .flat_map(|n| (n ^ number).wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        let archive = match number {
            0 => Archive::new().entry(&private_directory()),
            5 => Archive::new().file("private/.wh.n1", ""),
            _ => Archive::new(),
        };
        let tool = Entry::file("tool", number.to_string())
            .mode(0o755)
            .attribute("security.capability", CAPABILITY);
        let archive = archive
            .entry(&tool)
            .file(format!("private/n{number}"), "")
            .file(format!("noise{number}"), noise)
            .directory(format!("d{number}/"));
        Layer::gzip((0..50).fold(archive, |archive, n| {
            archive.file(format!("d{number}/f{n}"), "x")
        }))
    };
    let leaning = Layer::gzip(Archive::new().hard_link("same", "noise0"));
    Image::of((0..6).map(layer).chain([layer(0), leaning])).build()
}

fn private_directory() -> Entry {
    Entry::new("private/", EntryType::Directory)
        .mode(0o2750)
        .owner(7, 8)
        .extension("mtime", "1234567890.123456789")
        .attribute("user.note", "kept")
}

/// A bundle's tree but for its root, which no layer has an entry for.
fn delivered(bundle: &Path) -> BTreeMap<PathBuf, Attributes> {
    let mut found = tree(&bundle.join("rootfs"));
    found.remove(Path::new(""));
    found
}

/// A random part of a pull's time: one in each of `rounds` slices, and a little past the end.
fn random_part(round: u32, rounds: u32) -> f64 {
    let random = RandomState::new().hash_one(round) % 1000;
    let within = f64::from(u32::try_from(random).unwrap()) / 1000.0;
    1.1 * (f64::from(round) + within) / f64::from(rounds)
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_at_any_moment_is_recovered_from() {
    let rounds = std::env::var("SOAK_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let registry = Registry::start().await;
    let reference = registry.push("app:1", &image_with_much_to_do()).await;
    let mut guest = trusting_guest(registry.host());
    // How long an undisturbed pull takes here and now, and what it makes.
    let daemon = guest.start().await;
    let began = Instant::now();
    daemon.delivers(&reference, &guest.bundle("c0")).await;
    let whole = began.elapsed();
    let expected = delivered(&guest.bundle("c0"));
    // The noise, a directory with fifty files, and one in the common directory, which is one itself
    // and has one hidden; the tool, and a hard link.
    assert_eq!(expected.len(), 6 * (1 + 51 + 1) + 1 - 1 + 1 + 1);
    drop(daemon);

    for round in 0..rounds {
        // A work directory of its own, so that every round has everything to do.
        let work = guest.path().join(format!("work/{round}"));
        let settings = guest.settings.clone();
        guest.settings = settings.with("image.work_dir", work.display().to_string());
        let mut daemon = guest.start().await;
        let bundle = guest.bundle(&format!("round{round}"));
        let call = spawn_pull(&daemon, &reference, &bundle);
        let delay = whole.mul_f64(random_part(round, rounds));
        tokio::time::sleep(delay).await;
        daemon.kill();
        let answered = call.await.unwrap().is_ok();
        let case = format!("round {round}, killed after {delay:?} of {whole:?}");

        let daemon = guest.start().await;
        let again = daemon.pull(&reference, &bundle).await;
        let was_delivered = matches!(
            &again,
            Err(CallError::Refused(refusal)) if refusal.code == Code::ALREADY_EXISTS
        );
        let log = daemon.log();
        assert!(again.is_ok() || was_delivered, "{case}: {again:?}\n{log}");
        assert!(
            was_delivered || !answered,
            "{case}: an answered pull was undone"
        );
        let found = delivered(&bundle);
        let differs = |name: &&PathBuf| found.get(*name) != expected.get(*name);
        let wrong: Vec<_> = found
            .keys()
            .chain(expected.keys())
            .filter(differs)
            .collect();
        assert!(wrong.is_empty(), "{case}: {again:?}: {wrong:?}\n{log}");
        assert!(bundle.join("config.json").exists(), "{case}");
        let count = |name: &str| std::fs::read_dir(work.join(name)).unwrap().count();
        assert_eq!((count("staging"), count("overlay")), (0, 1), "{case}");
        assert_eq!(guest.mounts().len(), 2, "{case}");
        assert_nothing_leaks(&guest, &bundle, &work, &case);
        drop(daemon);
    }
}

/// Takes the bundle down as kata does, and fails unless its work directory becomes empty.
fn assert_nothing_leaks(guest: &Guest, bundle: &Path, work: &Path, case: &str) {
    unmount(bundle.join("rootfs"), UnmountFlags::DETACH).unwrap();
    let config = guest.path().join("cdh.toml");
    run(guest.program().args(["store", "verify", "-c"]).arg(&config));
    run(guest.program().args(["store", "gc", "-c"]).arg(&config));
    for part in ["layers", "records", "staging", "overlay", "documents"] {
        let left: Vec<_> = std::fs::read_dir(work.join(part)).unwrap().collect();
        assert!(left.is_empty(), "{case}: {part} has {left:?}");
    }
}
