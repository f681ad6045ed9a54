//! The command line: a daemon for kata-agent, and the same decisions for people.

mod call;
mod kbs;
mod policy_file;
mod pull;
mod report;
mod store;
mod verify_bundle;

use std::ffi::OsString;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Environment};
use crate::error::chain;
use crate::serve::{OnMisconfiguration, ServeError, serve};

/// Exit codes; they are part of the interface and documented in the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// It failed: network, disk, image.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The policy refuses the image.
    Denied = 3,
    /// The configuration or the policy is malformed or missing.
    Misconfigured = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::Usage => Self::from(2),
            Exit::Denied => Self::from(3),
            Exit::Misconfigured => Self::from(4),
        }
    }
}

/// Verifies container images inside a confidential VM and unpacks only what is proved.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 refused by policy, 4 configuration.
#[derive(Debug, Parser)]
#[command(name = "image-agent", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve kata-agent's image pulls over ttrpc, in the place of the Confidential Data Hub
    Serve(ConfigArgs),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at a policy
    #[command(subcommand)]
    Policy(policy_file::PolicyCommand),
    /// Pull an image into a bundle, without a daemon
    Pull(pull::PullArgs),
    /// Decide whether an image may run and explain why; unpacks nothing
    Verify(pull::VerifyArgs),
    /// Verify a Sigstore bundle by itself: 0 verified, 1 refused, 2 usage, 3 a file cannot be read
    VerifyBundle(verify_bundle::VerifyBundleArgs),
    /// Look after the work directory: what is kept there, and what of it is in use
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Ask the key broker service, with the evidence that the daemon would use
    #[command(subcommand)]
    Kbs(kbs::KbsCommand),
    /// Ask a running daemon to pull an image, as kata-agent does
    Call(call::CallArgs),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the effective configuration of a file, secrets masked, and what is questionable in it
    Check {
        /// The configuration, a cdh.toml
        file: PathBuf,
    },
}

/// Which configuration is used.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration, a cdh.toml; without it environment and kernel command line speak
    #[arg(short, long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Serves kata-agent's image pulls over ttrpc: image-agent under the name that kata-agent starts.
#[derive(Debug, Parser)]
#[command(name = "confidential-data-hub", version)]
struct HubCommandLine {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the command line `arguments`, whose first word is the name we were started under.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let exit = if started_as_hub(&arguments) {
        match HubCommandLine::try_parse_from(&arguments) {
            Ok(line) => run_serve(&line.config, OnMisconfiguration::AnswerWithIt),
            Err(error) => usage(&error),
        }
    } else {
        match CommandLine::try_parse_from(&arguments) {
            Ok(line) => return run_command(line.command),
            Err(error) => usage(&error),
        }
    };
    exit.into()
}

fn run_command(command: Command) -> ExitCode {
    let exit = match command {
        Command::VerifyBundle(arguments) => return verify_bundle::run(&arguments).into(),
        Command::Serve(arguments) => {
            // With stderr discarded there is nobody to read an error: answer the calls with it.
            let broken = if stderr_is_discarded() {
                OnMisconfiguration::AnswerWithIt
            } else {
                OnMisconfiguration::Exit
            };
            run_serve(&arguments, broken)
        }
        Command::Config(ConfigCommand::Check { file }) => check(&file),
        Command::Policy(command) => policy_file::run(&command),
        Command::Pull(arguments) => pull::pull(&arguments),
        Command::Verify(arguments) => pull::verify(&arguments),
        Command::Store(command) => store::run(&command),
        Command::Kbs(command) => kbs::run(&command),
        Command::Call(arguments) => call::call(&arguments),
    };
    exit.into()
}

fn run_serve(arguments: &ConfigArgs, broken: OnMisconfiguration) -> Exit {
    match serve(arguments.config.as_deref(), broken) {
        Ok(()) => Exit::Done,
        Err(error) => {
            report::complain(&about_file(arguments.config.as_deref(), &error));
            match error {
                ServeError::Config(_) | ServeError::Client(_) => Exit::Misconfigured,
                _ => Exit::Failed,
            }
        }
    }
}

fn check(file: &Path) -> Exit {
    match Config::load(Some(file), &Environment::from_process()) {
        Ok((config, warnings)) => {
            for warning in warnings {
                report::complain(&format!("warning: {warning}"));
            }
            report::print(&config.effective_toml(), Exit::Done)
        }
        Err(error) => {
            report::complain(&about_file(Some(file), &error));
            Exit::Misconfigured
        }
    }
}

/// An error with all its causes, and with the configuration's name if no cause has it.
fn about_file(file: Option<&Path>, error: &(dyn std::error::Error + 'static)) -> String {
    let text = chain(error);
    match file.map(|file| file.display().to_string()) {
        Some(name) if !text.contains(&name) => format!("{name}: {text}"),
        _ => text,
    }
}

fn usage(error: &clap::Error) -> Exit {
    // clap prints help and version on stdout, mistakes on stderr; there is nowhere to report a
    // broken pipe to.
    let _ = error.print();
    if error.use_stderr() {
        Exit::Usage
    } else {
        Exit::Done
    }
}

fn started_as_hub(arguments: &[OsString]) -> bool {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    name.is_some_and(|name| name == "confidential-data-hub")
}

fn stderr_is_discarded() -> bool {
    let device = |path: &str| {
        let metadata = std::fs::metadata(path).ok()?;
        metadata
            .file_type()
            .is_char_device()
            .then(|| metadata.rdev())
    };
    device("/proc/self/fd/2").is_some_and(|stderr| Some(stderr) == device("/dev/null"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_lines_are_consistent() {
        CommandLine::command().debug_assert();
        HubCommandLine::command().debug_assert();
    }

    #[test]
    fn name_of_the_hub_is_recognised_under_any_path() {
        let started = |name: &str| started_as_hub(&[OsString::from(name)]);
        assert!(started("/usr/local/bin/confidential-data-hub"));
        assert!(started("confidential-data-hub"));
        assert!(!started("/usr/local/bin/image-agent"));
        assert!(!started_as_hub(&[]));
    }

    #[test]
    fn hub_takes_the_flags_that_kata_agent_gives() {
        let line = HubCommandLine::try_parse_from(["confidential-data-hub", "-c", "/run/cdh.toml"])
            .unwrap();
        assert_eq!(
            line.config.config.as_deref(),
            Some(Path::new("/run/cdh.toml"))
        );
        assert!(HubCommandLine::try_parse_from(["confidential-data-hub"]).is_ok());
    }
}
