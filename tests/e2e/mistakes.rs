//! Mistakes of those who set a guest up: each is told by its name, with the remedy.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use kit::client::Code;
use kit::guest::program;
use kit::image::Image;
use kit::registry::Registry;
use kit::scene::Scene;

use super::{FAILED, assert_says, trusting_guest};

#[tokio::test(flavor = "multi_thread")]
async fn a_work_directory_that_is_a_file_is_named() {
    let registry = Registry::start().await;
    let mut guest = trusting_guest(registry.host());
    let reference = registry.push("app:1", &Image::small("file")).await;
    let file = guest.path().join("tmp/file");
    std::fs::write(&file, "precious").unwrap();
    for place in [file.clone(), file.join("below")] {
        guest.settings = guest
            .settings
            .clone()
            .with("image.work_dir", place.display().to_string());
        let daemon = guest.start().await;
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::FAILED_PRECONDITION, "{refusal:?}");
        let words = [FAILED, "image.work_dir is not a directory"];
        assert_says("work_dir", &refusal.message, &words);
        let words = [&place.display().to_string(), "not a directory"];
        assert_says("log", &daemon.log(), &words.map(|word: &str| word));
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_root_may_verify_and_is_told_why_no_more() {
    let registry = Registry::start().await;
    let guest = trusting_guest(registry.host());
    let reference = registry.push("app:1", &Image::small("nobody")).await;
    let place = tempfile::tempdir().unwrap();
    let readable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.path(), readable.clone()).unwrap();
    let (ours, config) = (
        place.path().join("image-agent"),
        place.path().join("cdh.toml"),
    );
    std::fs::copy(program(), &ours).unwrap();
    std::fs::copy(guest.write_config(), &config).unwrap();
    std::fs::set_permissions(&ours, readable.clone()).unwrap();
    std::fs::set_permissions(&config, readable).unwrap();
    let as_nobody = |arguments: &[&str]| {
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(&ours)
            .args(arguments)
            .arg("-c")
            .arg(&config)
            .current_dir("/")
            .output()
            .unwrap()
    };
    let verified = as_nobody(&["verify", &reference]);
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert_eq!(verified.status.code(), Some(0), "{said}");
    let pulled = as_nobody(&["pull", &reference, "--bundle", "/nonexistent/c1"]);
    let said = String::from_utf8_lossy(&pulled.stderr).into_owned();
    assert_eq!(pulled.status.code(), Some(1), "{said}");
    assert_says(
        "nobody",
        &said,
        &[FAILED, "not running as root", "`verify`"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn http_to_a_kbs_that_speaks_tls_is_told_so() {
    let scene = Scene::start().await;
    let mut guest = scene.guest();
    let url = scene.kbs.url().replace("https:", "http:");
    guest.settings = guest
        .settings
        .clone()
        .with("kbc.url", url)
        .with("image_agent.verbose_errors", true);
    let daemon = guest.start().await;
    let refusal = daemon
        .refuses("host.example/app:1", &guest.bundle("c1"))
        .await;
    assert_eq!(refusal.code, Code::UNAUTHENTICATED, "{refusal:?}");
    let words = [
        FAILED,
        "it does not answer in HTTP",
        "the configured URL has to begin with https",
    ];
    assert_says("http", &refusal.message, &words);
}
