//! What is on the terminal, and what happens when there is none.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kit::client::{CallError, Client, Code};
use kit::guest::program;
use kit::image::Image;
use kit::programs::{require, run};
use kit::registry::Registry;

use super::{FAILED, assert_says, content, trusting_guest};

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_shown_on_a_terminal_and_nowhere_else() {
    let registry = Registry::start().await;
    let guest = trusting_guest(registry.host());
    let image = Image::small("progress");
    let reference = registry.push("app:1", &image).await;
    let config = guest.write_config();
    let layer = image.blobs[1].0.clone();
    let shown = layer.strip_prefix("sha256:").unwrap()[..12].to_owned();
    let pull = |name: &str| {
        format!(
            "{} pull {reference} --bundle {} -c {}",
            program().display(),
            guest.bundle(name).display(),
            config.display(),
        )
    };
    let script = require("script", "bsdutils");
    let on_terminal = format!("stty cols 120 rows 30; {}", pull("c1"));
    let output = run(Command::new(script)
        .args([
            "--quiet",
            "--return",
            "--command",
            &on_terminal,
            "/dev/null",
        ])
        .env("TERM", "xterm")
        .stdin(Stdio::null()));
    let screen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_says("terminal", &screen, &[&shown, "B/s", &image.digest()]);

    // Another store, so that the layer is fetched again.
    let guest_without = trusting_guest(registry.host());
    let mut command = guest_without.program();
    command
        .args(["pull", &reference, "--bundle"])
        .arg(guest_without.bundle("c2"))
        .arg("-c")
        .arg(guest_without.write_config());
    let output = run(&mut command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let is_warning = |line: &&str| line.starts_with("image-agent: warning: ");
    let rest: Vec<&str> = said.lines().filter(|line| !is_warning(line)).collect();
    assert_eq!(rest, Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_stderr_discarded_pulls_work_and_a_broken_configuration_answers_the_calls() {
    let registry = Registry::start().await;
    let mut guest = trusting_guest(registry.host());
    let reference = registry.push("app:1", &Image::small("discarded")).await;
    let mut pull = guest.program();
    pull.args(["pull", &reference, "--bundle"])
        .arg(guest.bundle("c1"))
        .arg("-c")
        .arg(guest.write_config())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    assert_eq!(pull.status().unwrap().code(), Some(0));
    assert_eq!(content(&guest.bundle("c1"), "etc/mark"), "discarded");

    guest.settings = guest.settings.clone().with("image.work_dri", "/x");
    let mut serve = guest.program();
    serve.args(["serve", "-c"]).arg(guest.write_config());
    let mut daemon = serve
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let client = loop {
        if let Ok(client) = Client::connect(&guest.socket()).await {
            break client;
        }
        assert!(Instant::now() < deadline, "the daemon does not listen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let bundle = guest.bundle("c2").display().to_string();
    let answer = client.pull(&reference, &bundle).await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let Err(CallError::Refused(refusal)) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(refusal.code, Code::FAILED_PRECONDITION, "{refusal:?}");
    let words = [FAILED, "image.work_dri", "work_dir"];
    assert_says("broken", &refusal.message, &words);
}
