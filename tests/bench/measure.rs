//! What a process costs: wall time, CPU time of its whole tree, peak resident memory.
//!
//! Each program runs under a helper (this binary again), whose only child tree it is, so that
//! `getrusage(RUSAGE_CHILDREN)` speaks of it alone.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use crate::fault::{During, Fault};
use crate::registry::Registry;

/// One process tree's cost; times in seconds.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) wall: f64,
    pub(crate) user: f64,
    pub(crate) system: f64,
    /// Of the process in the tree that had most.
    pub(crate) peak_rss_kib: u64,
}

/// One run of one tool, and what went on beside it.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    #[serde(flatten)]
    pub(crate) usage: Usage,
    /// CPU seconds of the registry meanwhile.
    pub(crate) registry: f64,
    /// CPU seconds of everything else on the machine meanwhile.
    pub(crate) foreign: f64,
}

impl Sample {
    pub(crate) fn cpu(&self) -> f64 {
        self.usage.user + self.usage.system
    }
}

/// A program to run.
#[derive(Debug)]
pub(crate) struct Invocation {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, PathBuf)>,
}

impl Invocation {
    pub(crate) fn new(program: impl Into<PathBuf>) -> Invocation {
        Invocation {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Invocation {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn args(mut self, arguments: &[&str]) -> Invocation {
        self.arguments.extend(arguments.iter().map(OsString::from));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: PathBuf) -> Invocation {
        self.environment.push((name, value));
        self
    }

    /// Runs it alone; what it writes to standard error is kept in `scratch`.
    pub(crate) fn run(&self, scratch: &Path) -> Result<Usage, Fault> {
        let program = self.program.display().to_string();
        let during = || format!("running {program}");
        let report = scratch.join("usage.json");
        let log = scratch.join("stderr.log");
        let errors = File::create(&log).during(during)?;
        let helper = std::env::current_exe().during(during)?;
        // A tool that hangs is killed after a quarter of an hour, and all end with the bench.
        let status = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "timeout", "--signal", "KILL", "900"])
            .arg(helper)
            .arg("measure")
            .arg("--report")
            .arg(&report)
            .arg("--")
            .arg(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .status()
            .during(during)?;
        if !status.success() {
            return Err(Fault::Command {
                program,
                status,
                stderr: tail(&log),
            });
        }
        let text = fs::read(&report).during(during)?;
        let unreadable = |source| Fault::Json {
            what: format!("the cost of {program}"),
            source,
        };
        serde_json::from_slice(&text).map_err(unreadable)
    }
}

/// Runs the invocations one after another and adds up their costs.
pub(crate) fn sample(
    invocations: &[Invocation],
    registry: &Registry,
    scratch: &Path,
) -> Result<Sample, Fault> {
    let machine_before = cpu_of_machine()?;
    let registry_before = registry.cpu()?;
    let mut total = Usage::default();
    for invocation in invocations {
        let usage = invocation.run(scratch)?;
        total.wall += usage.wall;
        total.user += usage.user;
        total.system += usage.system;
        total.peak_rss_kib = total.peak_rss_kib.max(usage.peak_rss_kib);
    }
    let registry = (registry.cpu()?.saturating_sub(registry_before)).as_secs_f64();
    let machine = (cpu_of_machine()?.saturating_sub(machine_before)).as_secs_f64();
    let foreign = (machine - registry - total.user - total.system).max(0.0);
    Ok(Sample {
        usage: total,
        registry,
        foreign,
    })
}

/// The helper's own `main`: runs `command`, writes its cost to `report`.
pub(crate) fn helper(report: &Path, command: &[OsString]) -> Result<ExitCode, Fault> {
    let (program, arguments) = command.split_first().unzip();
    let program = program.cloned().unwrap_or_default();
    let during = || format!("running {}", program.display());
    let start = Instant::now();
    let status = Command::new(&program)
        .args(arguments.unwrap_or_default())
        .status()
        .during(during)?;
    let wall = start.elapsed().as_secs_f64();
    let spent = getrusage(UsageWho::RUSAGE_CHILDREN).during(during)?;
    let usage = Usage {
        wall,
        user: seconds(spent.user_time()),
        system: seconds(spent.system_time()),
        peak_rss_kib: u64::try_from(spent.max_rss()).unwrap_or(0),
    };
    let text = serde_json::to_vec(&usage).map_err(|source| Fault::Json {
        what: "a cost".to_owned(),
        source,
    })?;
    fs::write(report, text).during(|| format!("writing {}", report.display()))?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn seconds(time: TimeVal) -> f64 {
    let part = |value: i64, unit: fn(u64) -> Duration| unit(u64::try_from(value).unwrap_or(0));
    let whole = part(time.tv_sec(), Duration::from_secs);
    (whole + part(time.tv_usec(), Duration::from_micros)).as_secs_f64()
}

/// CPU time of a living process, to the nanosecond: the scheduler's account of each thread.
///
/// Threads that have ended are not in it; the registry's runtime keeps its threads.
pub(crate) fn cpu_of_process(process: u32) -> Result<Duration, Fault> {
    let during = || format!("reading /proc/{process}/task");
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{process}/task")).during(during)? {
        let path = task.during(during)?.path().join("schedstat");
        // A thread may end between the listing and the reading.
        let text = fs::read_to_string(path).unwrap_or_default();
        total += text
            .split(' ')
            .next()
            .and_then(|spent| spent.parse().ok())
            .unwrap_or(0);
    }
    Ok(Duration::from_nanos(total))
}

/// CPU time that all processors together have spent busy since boot, or that the host spent on
/// others while they wanted to run.
fn cpu_of_machine() -> Result<Duration, Fault> {
    // The unit of /proc/stat, `USER_HZ`, is part of the kernel's interface.
    const TICK: Duration = Duration::from_millis(10);
    let text = fs::read_to_string("/proc/stat").during(|| "reading /proc/stat".to_owned())?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u32> = line
        .split_whitespace()
        .skip(1)
        .map(|ticks| ticks.parse().unwrap_or(0))
        .collect();
    // user nice system idle iowait irq softirq steal: all but the two idle ones, nothing after.
    let busy = [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|index| ticks.get(*index));
    Ok(busy.map(|ticks| TICK * *ticks).sum())
}

/// The last of what a program wrote before it failed.
fn tail(log: &Path) -> String {
    const ENOUGH: u64 = 600;
    let mut text = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(ENOUGH)))?;
        file.read_to_end(&mut text)
    });
    match read {
        Ok(_) => String::from_utf8_lossy(&text)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
        Err(error) => format!("(its standard error is lost: {error})"),
    }
}
