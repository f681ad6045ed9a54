//! Credential helpers: programs that know who we are at a registry.
//!
//! The protocol is that of docker: `docker-credential-NAME get` is told the registry on its standard
//! input and writes JSON to its standard output. Nothing of that output is in an error when it may
//! be an answer, for an answer is a secret.

use std::fmt;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use crate::auth::Login;
use crate::printable;

/// A helper that gave no answer. The program, or whoever enabled it, is at fault.
#[derive(Debug, thiserror::Error)]
#[error("docker-credential-{helper}, which knows the registry credentials for {server}")]
pub struct HelperError {
    /// The program, without its prefix.
    pub helper: String,
    /// The registry that it was asked about.
    pub server: String,
    /// What went wrong.
    pub source: HelperFault,
}

/// What went wrong with a helper.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelperFault {
    /// It is not installed where it is looked for.
    #[error("there is no such program in PATH")]
    NotThere,
    /// It cannot be started or talked to.
    #[error("it cannot be run")]
    Run(#[from] io::Error),
    /// It took too long, and was killed.
    #[error("no answer within {seconds} s")]
    Deadline {
        /// How long it was waited for, in seconds.
        seconds: u64,
    },
    /// It wrote more than an answer, and was killed.
    #[error("its answer is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The cap, in bytes.
        limit: usize,
    },
    /// It says that it failed.
    #[error("it ended with {status}{}", Said(said.as_deref()))]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// What it wrote: one line, printable and short.
        said: Option<String>,
    },
    /// It ended well, and what it wrote is none of its answers.
    #[error("its answer is no JSON with Username and Secret")]
    Malformed,
}

/// What `docker-credential-<helper>` knows about `server`; None when it says that it knows nothing.
///
/// Dropped, or after `deadline`, the program is killed with all that it has started. Of our
/// environment it gets `PATH` and `HOME`.
pub(crate) async fn login(
    helper: &str,
    server: &str,
    deadline: Duration,
) -> Result<Option<Login>, HelperError> {
    let asking = async { answer(ask(helper, server).await?) };
    let seconds = deadline.as_secs();
    let late = |_elapsed| Err(HelperFault::Deadline { seconds });
    let answered = tokio::time::timeout(deadline, asking).await;
    answered.unwrap_or_else(late).map_err(|source| HelperError {
        helper: helper.to_owned(),
        server: server.to_owned(),
        source,
    })
}

async fn ask(helper: &str, server: &str) -> Result<(ExitStatus, Zeroizing<Vec<u8>>), HelperFault> {
    let mut running = Running::start(helper)?;
    if let Some(mut stdin) = running.0.stdin.take() {
        match stdin.write_all(server.as_bytes()).await {
            // One that does not care to listen may answer all the same.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
            _ => drop(stdin),
        }
    }
    let output = match running.0.stdout.take() {
        Some(stdout) => read_whole(stdout).await?,
        None => Zeroizing::default(),
    };
    Ok((running.0.wait().await?, output))
}

/// Reads into a buffer that never moves, so that no copy of a secret stays behind.
async fn read_whole(
    mut stdout: tokio::process::ChildStdout,
) -> Result<Zeroizing<Vec<u8>>, HelperFault> {
    let mut buffer = Zeroizing::new(vec![0; MAX_ANSWER.saturating_add(1)]);
    let mut length = 0_usize;
    while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty()) {
        let count = stdout.read(room).await?;
        if count == 0 {
            buffer.truncate(length);
            return Ok(buffer);
        }
        length = length.saturating_add(count);
    }
    Err(HelperFault::TooLarge { limit: MAX_ANSWER })
}

fn answer(
    (status, output): (ExitStatus, Zeroizing<Vec<u8>>),
) -> Result<Option<Login>, HelperFault> {
    if !status.success() {
        let said = String::from_utf8_lossy(&output);
        if said.trim() == NOT_FOUND {
            return Ok(None);
        }
        return Err(HelperFault::Failed {
            status,
            said: complaint(&said),
        });
    }
    // The cause would show what it stumbled over.
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|_secret| HelperFault::Malformed)?;
    let (user, secret) = (Zeroizing::new(answer.user), Zeroizing::new(answer.secret));
    Ok(match user.as_str() {
        "" if secret.is_empty() => None,
        TOKEN => Some(Login::new("", "").with_identity_token(&secret)),
        user => Some(Login::new(user, &secret)),
    })
}

/// What a program says of its failure, unless it looks like an answer.
fn complaint(said: &str) -> Option<String> {
    if said.contains(['{', '"']) {
        return None;
    }
    printable::said(said, MAX_SAID)
}

/// A helper that runs, in a process group of its own.
struct Running(Child);

impl Running {
    fn start(helper: &str) -> Result<Self, HelperFault> {
        let kept = ["PATH", "HOME"].into_iter();
        let kept = kept.filter_map(|name| Some((name, std::env::var_os(name)?)));
        let started = Command::new(format!("docker-credential-{helper}"))
            .arg("get")
            .env_clear()
            .envs(kept)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        match started {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(HelperFault::NotThere),
            started => Ok(Self(started?)),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that was waited for has no id any more, so that this is nobody else's group.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // It may have ended by itself just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// What was said, at the end of a sentence.
struct Said<'a>(Option<&'a str>);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(text) => write!(f, ", and says: {text}"),
            None => Ok(()),
        }
    }
}

/// What every helper says of a registry that it does not know.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user name beside a secret that is an identity token.
const TOKEN: &str = "<token>";
/// Tokens of the clouds have a few KiB.
const MAX_ANSWER: usize = 64 << 10;
const MAX_SAID: usize = 300;

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn answered(code: i32, output: &str) -> Result<Option<Login>, HelperFault> {
        let status = ExitStatus::from_raw(code << 8);
        answer((status, Zeroizing::new(output.as_bytes().to_vec())))
    }

    #[test]
    fn answer_is_a_login_a_token_or_nothing() {
        let rows = [
            (
                r#"{"ServerURL":"r.example","Username":"u","Secret":"p"}"#,
                Some(Login::new("u", "p")),
            ),
            (
                r#"{"Username":"<token>","Secret":"t"}"#,
                Some(Login::new("", "").with_identity_token("t")),
            ),
            (r#"{"Username":"","Secret":""}"#, None),
        ];
        for (output, expected) in rows {
            assert_eq!(answered(0, output).unwrap(), expected, "{output}");
        }
        let unknown = answered(1, "credentials not found in native keychain\n");
        assert_eq!(unknown.unwrap(), None);
    }

    #[test]
    fn failure_tells_what_the_helper_says_and_never_what_may_be_a_secret() {
        let rows = [
            (
                1,
                "no such profile\n",
                "it ended with exit status: 1, and says: no such profile",
            ),
            (
                1,
                r#"{"Username":"u","Secret":"s3cret"}"#,
                "it ended with exit status: 1",
            ),
            (
                0,
                r#"{"Username":"u","Secret":s3cret}"#,
                "its answer is no JSON with Username and Secret",
            ),
            (
                0,
                r#""s3cret""#,
                "its answer is no JSON with Username and Secret",
            ),
        ];
        for (code, output, expected) in rows {
            let error = answered(code, output).unwrap_err();
            assert_eq!(error.to_string(), expected, "{output}");
            assert!(!format!("{error:?}").contains("s3cret"), "{output}");
        }
    }

    #[tokio::test]
    async fn helper_that_is_not_installed_is_named_with_the_registry() {
        let deadline = Duration::from_secs(5);
        let error = login("not-installed-anywhere", "r.example", deadline).await;
        assert_eq!(
            crate::error::chain(&error.unwrap_err()),
            "docker-credential-not-installed-anywhere, which knows the registry credentials for \
             r.example: there is no such program in PATH"
        );
    }
}
