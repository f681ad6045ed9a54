//! The development KBS as a program: resources are files, ended by SIGTERM or SIGINT.

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use kit::kbs::{Certificate, DevKbs, Options};
use tokio::signal::unix::{SignalKind, signal};

/// Development Key Broker Service: accepts sample evidence from anyone. Never for production.
#[derive(Parser)]
struct Arguments {
    /// Where to listen; port 0 for any that is free.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Directory of resources: `DIR/repository/type/tag`, read at request time.
    #[arg(long)]
    dir: PathBuf,
    /// Serve https, and write the certificate to trust (PEM) to this file.
    #[arg(long, value_name = "FILE")]
    tls_cert_out: Option<PathBuf>,
    /// Write the URL to this file once it serves.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Deny this resource, as repository/type/tag; may be given several times.
    #[arg(long, value_name = "PATH")]
    deny: Vec<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let kbs = DevKbs::start(Options {
        listen: arguments.listen,
        tls: arguments.tls_cert_out.as_ref().map(|_| Certificate::Good),
        // As the real one.
        http2: true,
        directory: Some(arguments.dir),
    })?;
    for path in &arguments.deny {
        kbs.deny(path);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Handlers first: whoever has read the ready file may send the signal.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        if let Some(file) = &arguments.tls_cert_out {
            write_whole(file, kbs.certificate())?;
        }
        writeln!(std::io::stdout(), "{}", kbs.url())?;
        if let Some(file) = &arguments.ready_file {
            write_whole(file, &kbs.url())?;
        }
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

/// Appears complete or not at all, as others wait for it.
fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    let draft = file.with_extension("draft");
    std::fs::write(&draft, text)?;
    std::fs::rename(draft, file)
}
