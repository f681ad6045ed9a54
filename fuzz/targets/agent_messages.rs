//! An answer of the attestation agent is read or refused in words that are safe to print.
//!
//! An input is a byte that says what was asked, and the bytes of the answer: with their head if the
//! byte is 128 or more, else without.
#![no_main]

use std::future::pending;
use std::sync::LazyLock;

use fuzz::assert_printable;
use kbs_client::{AgentError, AttestationAgent};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Runtime};

struct Scene {
    runtime: Runtime,
    listener: UnixListener,
    agent: AttestationAgent,
    _folder: TempDir,
}

static SCENE: LazyLock<Scene> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let entered = runtime.enter();
    let listener = UnixListener::bind(&socket).unwrap();
    drop(entered);
    Scene {
        runtime,
        listener,
        agent: AttestationAgent::new(socket),
        _folder: folder,
    }
});

fuzz_target!(|data: &[u8]| {
    let Some((asked, answer)) = data.split_first() else {
        return;
    };
    let (scene, message) = (&*SCENE, message(*asked, answer));
    scene.runtime.block_on(async {
        tokio::select! {
            outcome = ask(&scene.agent, asked % 3) => {
                if let Err(error) = outcome {
                    assert_printable(&error);
                }
            }
            () = serve(&scene.listener, &message) => {}
        }
    });
});

async fn ask(agent: &AttestationAgent, what: u8) -> Result<(), AgentError> {
    match what {
        0 => {
            let tee = agent.tee_type().await?;
            assert!(!tee.is_empty() && tee.bytes().all(|byte| byte.is_ascii_graphic()));
            Ok(())
        }
        1 => agent.primary_evidence(b"x").await.map(drop),
        _ => agent.device_evidence(b"x").await.map(drop),
    }
}

/// Length, stream 1, a response, no flags.
fn message(asked: u8, answer: &[u8]) -> Vec<u8> {
    if asked >= 128 {
        return answer.to_vec();
    }
    let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
    [&length, &[0, 0, 0, 1, 2, 0][..], answer].concat()
}

async fn serve(listener: &UnixListener, answer: &[u8]) {
    let (mut stream, _) = listener.accept().await.unwrap();
    // The whole request, which is short.
    stream.read(&mut [0; 4096]).await.unwrap();
    // Who does not like the beginning hangs up.
    let _ = stream.write_all(answer).await;
    drop(stream);
    pending().await
}
