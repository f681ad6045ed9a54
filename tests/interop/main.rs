//! `make interop`: the commands of the owners' guide, and image-agent beside the real cosign.
//!
//! Without `--cosign` it runs those commands of `docs/policy.md` that need only programs of the
//! distribution; `make test` has that much.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a set-up that breaks ends the run where it broke; the report is the output"
)]

mod bundles;
mod cosign;
mod guide;
mod keys;
mod world;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Parser;

use crate::world::World;

/// Runs the guide's commands and, given cosign, checks image-agent against it.
#[derive(Debug, Parser)]
#[command(name = "interop")]
struct Arguments {
    /// The cosign program to check against.
    #[arg(long, value_name = "FILE")]
    cosign: Option<PathBuf>,
    /// Already inside namespaces of its own.
    #[arg(long, hide = true)]
    inside: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.inside {
        return in_namespaces();
    }
    let world = World::start(arguments.cosign.as_deref()).await;
    let mut report = Report::default();
    guide::check(&world, arguments.cosign.is_some(), &mut report).await;
    if arguments.cosign.is_some() {
        println!("# cosign {}", world.cosign_version());
        cosign::check(&world, &mut report).await;
        bundles::check(&world, &mut report).await;
        keys::check(&world, &mut report).await;
    }
    report.finish()
}

/// Runs the same program again with a network that is loopback alone, and with mounts and
/// processes of its own: whatever it leaves behind is gone when it ends, however it ends.
fn in_namespaces() -> ExitCode {
    let own = std::env::current_exe().expect("the path of this program");
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(own)
        .args(std::env::args_os().skip(1))
        .arg("--inside")
        .status()
        .expect("unshare starts");
    if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What became of a case: nothing, or what was expected and what was found.
type Outcome = Result<(), String>;

/// One line per case, and the count. A case that does not run does not pass.
#[derive(Debug, Default)]
struct Report {
    passed: usize,
    failed: usize,
}

impl Report {
    fn add(&mut self, case: &str, outcome: Outcome) {
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok      {case}");
            }
            Err(why) => {
                self.failed += 1;
                println!(
                    "FAILED  {case}\n        {}",
                    why.trim().replace('\n', "\n        ")
                );
            }
        }
    }

    fn finish(self) -> ExitCode {
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 && self.passed > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
