//! A guest: directories and a configuration of its own, and the daemon that runs on them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::{CallError, Client, Refusal};
use crate::settings::Settings;

/// How long the daemon may take to bind its socket or to end before the test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The directories of one guest. They outlive its daemons; dropped, everything mounted beneath is
/// unmounted and the directories are erased.
#[derive(Debug)]
pub struct Guest {
    directory: TempDir,
    /// What the next daemon is started with.
    pub settings: Settings,
    /// Environment variables of whatever is started here, besides `PATH` and `TMPDIR`.
    pub environment: Vec<(&'static str, String)>,
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

impl Guest {
    /// A guest whose configuration names its own socket and work directory, and no policy.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("guest-")
            .tempdir()
            .expect("a directory");
        let path = directory.path();
        // Memory, as in a guest: layers are kept only where the host cannot write.
        mount(
            "image-agent-guest",
            path,
            "tmpfs",
            MountFlags::empty(),
            c"mode=0700",
        )
        .expect("mount a tmpfs");
        for name in ["bundles", "tmp"] {
            fs::create_dir(path.join(name)).expect("make a directory");
        }
        let settings = Settings::default()
            .with(
                "socket",
                format!("unix://{}", path.join("run/cdh.sock").display()),
            )
            .with("image.work_dir", path.join("work").display().to_string());
        Self {
            directory,
            settings,
            environment: Vec::new(),
        }
    }

    /// The directory that holds everything of this guest.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.path().join("run/cdh.sock")
    }

    /// The daemon's work directory.
    pub fn work(&self) -> PathBuf {
        self.path().join("work")
    }

    /// Where the bundle of container `name` belongs.
    pub fn bundle(&self, name: &str) -> PathBuf {
        self.path().join("bundles").join(name)
    }

    /// Writes the configuration and returns its path.
    pub fn write_config(&self) -> PathBuf {
        let path = self.path().join("cdh.toml");
        fs::write(&path, self.settings.to_string()).expect("write cdh.toml");
        path
    }

    /// A run of our program in this guest's surroundings, without arguments.
    pub fn program(&self) -> Command {
        self.command(&program())
    }

    /// Starts the daemon and waits until it listens.
    pub async fn start(&self) -> Daemon {
        self.start_as(&program(), &["serve"]).await
    }

    /// Starts the daemon under the name that kata-agent starts.
    pub async fn start_as_confidential_data_hub(&self) -> Daemon {
        let link = self.path().join("tmp/confidential-data-hub");
        if !link.exists() {
            std::os::unix::fs::symlink(program(), &link).expect("make a link");
        }
        self.start_as(&link, &[]).await
    }

    async fn start_as(&self, program: &Path, arguments: &[&str]) -> Daemon {
        let config = self.write_config();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path().join("log"))
            .expect("open the log");
        let started = Instant::now();
        let child = self
            .command(program)
            .args(arguments)
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        let mut daemon = Daemon {
            child,
            log: self.path().join("log"),
            bound_after: Duration::ZERO,
            client: None,
        };
        daemon.wait_for(&self.socket(), started).await;
        daemon
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("TMPDIR", self.path().join("tmp"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.path());
        command
    }

    /// All that pulls have left in this guest: mounts, and files by their first three names.
    ///
    /// The empty directories at the top of the work directory, the socket, the log and the
    /// configuration are no residue.
    pub fn residue(&self) -> BTreeSet<String> {
        let mut found: BTreeSet<_> = self
            .mounts()
            .into_iter()
            .map(|path| format!("mount {}", self.relative(&path)))
            .collect();
        for top in list(self.path()) {
            match self.relative(&top).as_str() {
                "log" | "cdh.toml" | "run" => {}
                "work" => list(&top)
                    .iter()
                    .for_each(|below| self.collect(below, &mut found)),
                "bundles" | "tmp" => {
                    found.extend(list(&top).iter().map(|path| self.relative(path)));
                }
                other => drop(found.insert(other.to_owned())),
            }
        }
        found.remove("tmp/confidential-data-hub");
        for path in list(&self.path().join("run")) {
            if path != self.socket() {
                found.insert(self.relative(&path));
            }
        }
        found
    }

    /// The residue apart from verified layers, which may stay for the next image.
    pub fn residue_beside_layers(&self) -> BTreeSet<String> {
        self.residue()
            .into_iter()
            .filter(|path| !is_of_layers(path))
            .collect()
    }

    /// Fails unless the guest becomes as clean as `before` within a moment.
    pub async fn assert_residue(&self, before: &BTreeSet<String>, case: &str) {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let now = self.residue();
            if now == *before {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{case}: left behind: {:?}; gone: {:?}",
                now.difference(before).collect::<Vec<_>>(),
                before.difference(&now).collect::<Vec<_>>(),
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Mount points beneath this guest, from the kernel's table; its own memory is none of them.
    pub fn mounts(&self) -> Vec<PathBuf> {
        fs::read_to_string("/proc/self/mountinfo")
            .expect("read mountinfo")
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(PathBuf::from)
            .filter(|point| point.starts_with(self.path()) && point != self.path())
            .collect()
    }

    fn collect(&self, path: &Path, found: &mut BTreeSet<String>) {
        if path.is_dir() && !path.is_symlink() {
            found.extend(list(path).iter().map(|below| self.relative(below)));
        } else {
            found.insert(self.relative(path));
        }
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(self.path())
            .unwrap_or(path)
            .display()
            .to_string()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut mounts = self.mounts();
        mounts.push(self.path().to_owned());
        mounts.sort();
        for point in mounts.iter().rev() {
            // A second panic would end the whole run of tests.
            if let Err(error) = unmount(point, UnmountFlags::DETACH) {
                assert!(
                    std::thread::panicking(),
                    "{} stays mounted: {error}",
                    point.display()
                );
            }
        }
    }
}

/// A running daemon; dropped, it is killed.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
    client: Option<Client>,
    /// Time from start until the socket took a connection.
    pub bound_after: Duration,
}

impl Daemon {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client on a connection of its own; the daemon's first client is shared.
    pub fn client(&self) -> Client {
        self.client.clone().expect("the daemon has been waited for")
    }

    /// Pulls `image` to `bundle` as kata-agent does.
    pub async fn pull(&self, image: &str, bundle: &Path) -> Result<String, CallError> {
        let bundle = bundle.to_str().expect("bundle paths of the kit are UTF-8");
        self.client().pull(image, bundle).await
    }

    /// Pulls, and fails the test unless the image is delivered.
    pub async fn delivers(&self, image: &str, bundle: &Path) -> String {
        match self.pull(image, bundle).await {
            Ok(digest) => digest,
            Err(error) => panic!("{image}: {error:?}\n{}", self.log()),
        }
    }

    /// Pulls, and fails the test unless the daemon answers with a refusal.
    pub async fn refuses(&self, image: &str, bundle: &Path) -> Refusal {
        match self.pull(image, bundle).await {
            Err(CallError::Refused(refusal)) => refusal,
            other => panic!("{image}: {other:?} is no refusal\n{}", self.log()),
        }
    }

    /// All that daemons of this guest have logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("read the log")
    }

    /// Processes that the daemon has started and that still run.
    pub fn children(&self) -> Vec<String> {
        list(Path::new(&format!("/proc/{}/task", self.pid())))
            .iter()
            .filter_map(|task| fs::read_to_string(task.join("children")).ok())
            .flat_map(|text| {
                text.split_whitespace()
                    .map(ToOwned::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Largest resident set so far, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the daemon runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .expect("VmHWM");
        line.trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number")
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Sends SIGINT and waits for the end.
    pub fn interrupt(&mut self) -> ExitStatus {
        self.signal(Signal::INT);
        self.wait()
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.wait().signal(), Some(9), "the daemon was killed");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("the daemon runs");
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the daemon") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the daemon does not end\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    async fn wait_for(&mut self, socket: &Path, started: Instant) {
        loop {
            // A stale socket refuses the connection, so this waits for the daemon's own.
            if let Ok(client) = Client::connect(socket).await {
                self.bound_after = started.elapsed();
                self.client = Some(client);
                return;
            }
            let ended = self.child.try_wait().expect("wait for the daemon");
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "the daemon does not listen ({ended:?}):\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A daemon that has ended already needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether an item of residue is a verified layer or the record of one, or a manifest or config.
pub fn is_of_layers(path: &str) -> bool {
    let kept = ["work/layers/", "work/records/", "work/documents/"];
    kept.iter().any(|part| path.starts_with(part))
}

/// The program under test: `image-agent` of the build that this test belongs to.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let program = test
        .ancestors()
        .skip(1)
        .map(|directory| directory.join("image-agent"))
        .find(|candidate| candidate.is_file());
    program.expect("image-agent is not built: run `cargo build -p agent` first")
}

fn list(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect()
}
