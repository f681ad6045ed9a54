//! Generates `agent/src/generated` from `agent/proto/api.proto`; with `--check` it only compares.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent");
    let fresh = tempfile::tempdir()?;
    generate(&agent.join("proto"), fresh.path())?;
    let check = std::env::args().any(|argument| argument == "--check");
    let mut stale = Vec::new();
    for name in ["api.rs", "api_ttrpc.rs"] {
        let committed = agent.join("src/generated").join(name);
        let text = std::fs::read(fresh.path().join(name))?;
        if !check {
            std::fs::write(&committed, text)?;
        } else if std::fs::read(&committed)? != text {
            stale.push(name);
        }
    }
    if stale.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(format!(
        "{} in agent/src/generated: stale, run `make proto`",
        stale.join(", ")
    )
    .into())
}

fn generate(from: &Path, into: &Path) -> Result<(), Box<dyn Error>> {
    let proto: PathBuf = from.join("api.proto");
    Codegen::new()
        .out_dir(into)
        .inputs([&proto])
        .include(from)
        .rust_protobuf()
        .customize(Customize {
            async_all: true,
            ..Customize::default()
        })
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(false))
        .run()?;
    Ok(())
}
