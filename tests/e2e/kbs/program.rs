//! `dev-kbs`, the program.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kbs_client::{Error, KbsClient, KbsConfig, SampleAttester};
use rustix::process::{Pid, Signal, kill_process};

use crate::{KEY, fetch};

/// Killed when the test fails on the way.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended when all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn wait_for(file: &Path) -> String {
    let started = Instant::now();
    loop {
        if let Ok(text) = fs::read_to_string(file) {
            return text;
        }
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{} never came",
            file.display()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn program_serves_files_over_https_until_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let resource = directory.path().join("resources").join(KEY);
    fs::create_dir_all(resource.parent().unwrap()).unwrap();
    fs::write(&resource, "first").unwrap();
    let (certificate, ready) = (
        directory.path().join("kbs.pem"),
        directory.path().join("url"),
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_dev-kbs"));
    command.args([
        "--listen",
        "127.0.0.1:0",
        "--deny",
        "default/test/denied",
        "--dir",
    ]);
    command.arg(directory.path().join("resources"));
    command
        .arg("--tls-cert-out")
        .arg(&certificate)
        .arg("--ready-file")
        .arg(&ready);
    let mut program = Program(command.stdout(Stdio::null()).spawn().unwrap());

    let mut config = KbsConfig::new(wait_for(&ready).await.parse().unwrap());
    config.root_certificates = vec![fs::read(&certificate).unwrap()];
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"first");
    fs::write(&resource, "second").unwrap();
    assert_eq!(
        fetch(&client, KEY).await.unwrap(),
        b"second",
        "files are read at request time"
    );
    let denied = fetch(&client, "default/test/denied").await.unwrap_err();
    assert!(matches!(denied, Error::PolicyDenied { .. }), "{denied:?}");

    let pid = Pid::from_child(&program.0);
    kill_process(pid, Signal::TERM).unwrap();
    assert!(program.0.wait().unwrap().success());
}
