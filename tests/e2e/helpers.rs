//! Credential helpers: programs of the guest that know who we are, if the owner lets them be run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kit::client::Code;
use kit::guest::{Daemon, Guest};
use kit::image::Image;
use kit::registry::Registry;
use kit::token_server::{TokenServer, htpasswd};
use serde_json::{Value, json};

use super::{FAILED, assert_says, trusting_guest};

/// A private registry, and a guest that trusts it and may run helpers by any of `enabled`.
struct World {
    _store: Registry,
    registry: Registry,
    image: Image,
    guest: Guest,
}

impl World {
    async fn new(auth: &str, authorities: &[&str], enabled: &[&str]) -> Self {
        let store = Registry::start().await;
        let image = Image::small("private");
        store.push("team/app:1", &image).await;
        let registry = store.guarded(auth).await;
        let mut guest = trusting_guest("unused.example");
        let trusted: Vec<&str> = authorities
            .iter()
            .copied()
            .chain([registry.authority()])
            .collect();
        let enabled = enabled.to_vec();
        guest.settings = guest
            .settings
            .clone()
            .with("image.extra_root_certificates", trusted)
            .with("image_agent.verbose_errors", true)
            .with("image_agent.timeouts.idle", 2)
            .with("image_agent.credential_helpers", enabled);
        let path = format!("{}:/usr/bin:/bin", guest.path().join("bin").display());
        guest.environment.push(("PATH", path));
        guest
            .environment
            .push(("AWS_SECRET_ACCESS_KEY", "s3cret-of-ours".to_owned()));
        fs::create_dir(guest.path().join("bin")).unwrap();
        Self {
            _store: store,
            registry,
            image,
            guest,
        }
    }

    fn reference(&self) -> String {
        format!("{}/team/app:1", self.registry.host())
    }

    /// Gives the guest this credentials file.
    fn log_in(&mut self, file: &Value) {
        let path = self.guest.path().join("auth.json");
        fs::write(&path, file.to_string()).unwrap();
        let key = "image.authenticated_registry_credentials_uri";
        let location = format!("file://{}", path.display());
        self.guest.settings = self.guest.settings.clone().with(key, location);
    }
}

/// Installs a helper that notes what it is given, and then does what `script` says.
fn install(guest: &Guest, name: &str, script: &str) {
    let note = guest.path().join(format!("{name}.note"));
    let script = format!(
        "#!/bin/sh\nread -r server\nfor way in \"$@\" \"$server\" \"$(env | cut -d= -f1 | sort | \
         tr '\\n' ' ')\"; do echo \"$way\"; done >{}\n{script}\n",
        note.display()
    );
    let program = guest.path().join(format!("bin/docker-credential-{name}"));
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
}

fn note(guest: &Guest, name: &str) -> Vec<String> {
    let text = fs::read_to_string(guest.path().join(format!("{name}.note"))).unwrap();
    text.lines().map(ToOwned::to_owned).collect()
}

fn answer(user: &str, secret: &str) -> String {
    let answer = json!({"ServerURL": "any", "Username": user, "Secret": secret});
    format!("echo '{answer}'")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn password(folder: &Path) -> String {
    htpasswd(folder, "user", "s3cret")
}

#[tokio::test(flavor = "multi_thread")]
async fn helper_of_a_host_comes_before_its_entry_and_the_store_after_all_entries() {
    let folder = folder();
    let mut world = World::new(&password(folder.path()), &[], &["right", "wrong"]).await;
    install(&world.guest, "right", &answer("user", "s3cret"));
    install(&world.guest, "wrong", &answer("user", "wr0ng"));
    let host = world.registry.host().to_owned();
    let entry = |password: &str| json!({"auth": STANDARD.encode(format!("user:{password}"))});
    let rows = [
        (
            "before",
            json!({"credHelpers": {&host: "right"}, "auths": {&host: entry("wr0ng")}}),
        ),
        (
            "after",
            json!({"credsStore": "wrong", "auths": {&host: entry("s3cret")}}),
        ),
        (
            "alone",
            json!({"credsStore": "right", "auths": {&host: {}}}),
        ),
    ];
    for (case, file) in rows {
        world.log_in(&file);
        let daemon = world.guest.start().await;
        let bundle = world.guest.bundle(case);
        let digest = daemon.delivers(&world.reference(), &bundle).await;
        assert_eq!(digest, world.image.digest(), "{case}");
        assert!(!daemon.log().contains("s3cret"), "{case}");
    }
    // What a shell adds by itself aside, it has nothing of our environment but where programs are.
    let noted = note(&world.guest, "right");
    assert_eq!(noted[..2], ["get".to_owned(), host.clone()], "{noted:?}");
    assert!(noted[2].contains("PATH"), "{noted:?}");
    assert!(
        !noted[2].contains("AWS") && !noted[2].contains("TMPDIR"),
        "{noted:?}"
    );
    assert!(!world.guest.path().join("wrong.note").exists());

    world.log_in(&json!({"credHelpers": {&host: "wrong"}, "auths": {&host: entry("s3cret")}}));
    let daemon = world.guest.start().await;
    let refusal = daemon
        .refuses(&world.reference(), &world.guest.bundle("wrong"))
        .await;
    assert_eq!(refusal.code, Code::UNAUTHENTICATED, "{refusal:?}");
    let words = ["access refused with the credentials of docker-credential-wrong"];
    assert_says("wrong", &refusal.message, &words);
}

#[tokio::test(flavor = "multi_thread")]
async fn helper_may_know_an_identity_token_and_stand_in_registries_conf() {
    let tokens = TokenServer::start("user", "s3cret", "1dentity").await;
    let enabled = ["none", "token"];
    let mut world = World::new(&tokens.auth(), &[tokens.authority()], &enabled).await;
    install(
        &world.guest,
        "none",
        "echo credentials not found in native keychain; exit 1",
    );
    install(&world.guest, "token", &answer("<token>", "1dentity"));
    let list = ["not-enabled", "none", "containers-auth.json", "token"];
    let settings = world.guest.settings.clone();
    world.guest.settings = settings.with("image.registry_config.credential-helpers", list.to_vec());
    let daemon = world.guest.start().await;
    let bundle = world.guest.bundle("c1");
    let digest = daemon.delivers(&world.reference(), &bundle).await;
    assert_eq!(digest, world.image.digest());
    assert_eq!(
        tokens.requests(),
        ["POST refresh_token repository:team/app:pull"]
    );
    assert_eq!(note(&world.guest, "none")[1], world.registry.host());
    let log = daemon.log();
    let warned = "image_agent.credential_helpers does not have \\\"not-enabled\\\"";
    assert!(
        log.contains(warned) || log.contains(&warned.replace('\\', "")),
        "{log}"
    );
    assert!(!log.contains("1dentity"));
}

#[tokio::test(flavor = "multi_thread")]
async fn helper_that_fails_is_an_error_and_not_anonymous() {
    let folder = folder();
    let enabled = ["absent", "fails", "odd", "loud", "slow", "none"];
    let mut world = World::new(&password(folder.path()), &[], &enabled).await;
    install(&world.guest, "fails", "echo 'no such profile'; exit 3");
    install(&world.guest, "odd", "echo s3cret");
    install(&world.guest, "loud", "yes s3cret");
    install(&world.guest, "slow", "sleep 1002001 & sleep 1002002");
    install(
        &world.guest,
        "none",
        "echo credentials not found in native keychain; exit 1",
    );
    let host = world.registry.host().to_owned();
    let prefix = "docker-credential";
    let fault = |name: &str, fault: &str| {
        format!("{prefix}-{name}, which knows the registry credentials for {host}: {fault}")
    };
    let rows = [
        (
            "absent",
            fault("absent", "there is no such program in PATH"),
        ),
        (
            "fails",
            fault(
                "fails",
                "it ended with exit status: 3, and says: no such profile",
            ),
        ),
        (
            "odd",
            fault("odd", "its answer is no JSON with Username and Secret"),
        ),
        (
            "loud",
            fault("loud", "its answer is larger than the limit of 65536 bytes"),
        ),
        ("slow", fault("slow", "no answer within 2 s")),
        (
            "none",
            "cannot authenticate: it wants a password and none is configured".to_owned(),
        ),
    ];
    for (name, words) in rows {
        world.log_in(&json!({"credHelpers": {&host: name}}));
        let daemon = world.guest.start().await;
        let refusal = daemon
            .refuses(&world.reference(), &world.guest.bundle(name))
            .await;
        assert_eq!(refusal.code, Code::UNAUTHENTICATED, "{name}: {refusal:?}");
        assert_says(name, &refusal.message, &[FAILED, &words]);
        assert!(!refusal.message.contains("s3cret"), "{name}: {refusal:?}");
        assert!(!daemon.log().contains("s3cret"), "{name}");
        ends(&daemon, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn helper_that_is_not_enabled_is_not_run_and_the_error_names_the_key() {
    let folder = folder();
    let mut world = World::new(&password(folder.path()), &[], &["other"]).await;
    install(&world.guest, "right", &answer("user", "s3cret"));
    let host = world.registry.host().to_owned();
    for (case, file, code, words) in [
        (
            "for the host",
            json!({"credHelpers": {&host: "right"}}),
            Code::FAILED_PRECONDITION,
            "is not run unless image_agent.credential_helpers has \"right\"",
        ),
        (
            "for all",
            json!({"credsStore": "right"}),
            Code::UNAUTHENTICATED,
            "it wants a password and none is configured",
        ),
    ] {
        world.log_in(&file);
        let daemon = world.guest.start().await;
        let bundle = world.guest.bundle(case);
        let refusal = daemon.refuses(&world.reference(), &bundle).await;
        assert_eq!(refusal.code, code, "{case}: {refusal:?}");
        assert_says(case, &refusal.message, &[FAILED, words]);
        assert!(
            daemon.log().contains("image_agent.credential_helpers"),
            "{case}"
        );
        assert!(!world.guest.path().join("right.note").exists(), "{case}");
    }
}

/// Fails unless whatever helpers have started ends within a moment.
async fn ends(daemon: &Daemon, case: &str) {
    let running = || {
        let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
        lines
            .filter(|line| line.starts_with(b"sleep\x00100200"))
            .count()
    };
    let deadline = Instant::now() + Duration::from_secs(3);
    while running() > 0 || !daemon.children().is_empty() {
        assert!(Instant::now() < deadline, "{case}: {:?}", daemon.children());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
