//! `make bench`: image-agent beside the tools that people pull with today, and beside what the
//! bytes cost at least. See `docs/performance.md`.

mod content;
mod fault;
mod floor;
mod http;
mod images;
mod kbs;
mod latency;
mod layer;
mod linearity;
mod measure;
mod plot;
mod recipe;
mod registry;
mod report;
mod scratch;
mod signature;
mod tools;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::fault::{During, Fault, explain};
use crate::kbs::KbsReport;
use crate::recipe::Recipe;
use crate::registry::Registry;
use crate::report::{ImageReport, Report, ToolReport, Verdict};
use crate::signature::Signer;
use crate::tools::{Bench, TOOLS, Tool};

/// Compares image-agent with skopeo+umoci, podman and the floor, on images of its own making.
#[derive(Debug, Parser)]
#[command(
    name = "bench",
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
struct Arguments {
    /// Rounds; every tool runs once in each.
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Images, separated by commas [default: small,medium,large1,zstd,zstd-wide,many,many-zstd].
    #[arg(long, value_delimiter = ',')]
    images: Vec<String>,
    /// Tools, separated by commas [default: image-agent,skopeo+umoci,podman].
    #[arg(long, value_delimiter = ',')]
    tools: Vec<String>,
    /// The image-agent to measure [default: the one beside this program].
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Where the images are kept between calls.
    #[arg(long, default_value = "target/bench-images")]
    cache: PathBuf,
    /// Where the figures go, as JSON.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// End with failure unless the targets are met.
    #[arg(long)]
    check: bool,
    /// Replace the measured part of docs/performance.md.
    #[arg(long)]
    write_docs: bool,
    /// Measure only image-agent, on images of growing size, and draw the plots of docs.
    #[arg(long, conflicts_with_all = ["images", "tools", "write_docs"])]
    linearity: bool,
    /// Pull into this directory of a disk instead of a tmpfs: to be looked at, no target holds there.
    #[arg(long, conflicts_with_all = ["check", "write_docs"])]
    disk: Option<PathBuf>,
    /// Measure only what the KBS is asked for, which takes seconds.
    #[arg(long, conflicts_with_all = ["images", "tools", "linearity"])]
    kbs: bool,
    /// Measure only many small layers from a registry that is far away, beside `skopeo copy`.
    #[arg(long, conflicts_with_all = ["images", "tools", "linearity"])]
    latency: bool,
    /// Already inside the mount namespace of its own.
    #[arg(long, hide = true)]
    inside: bool,
    #[command(subcommand)]
    helper: Option<Helper>,
}

#[derive(Debug, clap::Subcommand)]
enum Helper {
    /// Runs a program and writes what it cost.
    #[command(hide = true)]
    Measure {
        #[arg(long)]
        report: PathBuf,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.helper {
        Some(Helper::Measure { report, command }) => measure::helper(report, command),
        None if arguments.inside && arguments.latency => run_latency(&arguments),
        None if arguments.inside => run(&arguments),
        None => Err(enter_namespace()),
    };
    result.unwrap_or_else(|fault| {
        say(&format!("bench: {}", explain(&fault)));
        ExitCode::FAILURE
    })
}

/// Progress and trouble; when standard error is gone there is no one to tell.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Becomes the same program in a mount namespace of its own: whatever is mounted during the
/// bench is gone when it ends, however it ends.
fn enter_namespace() -> Fault {
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let source = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(own)
        .arg("--inside")
        .args(std::env::args_os().skip(1))
        .exec();
    Fault::Io {
        what: "starting unshare (Debian: apt-get install util-linux)".to_owned(),
        source,
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Fault> {
    require_programs()?;
    if arguments.kbs {
        return kbs(arguments);
    }
    let (images, tools) = if arguments.linearity {
        (linearity::images(), vec![Tool::ImageAgent])
    } else {
        (arguments.images.clone(), choose_tools(&arguments.tools)?)
    };
    let recipes = recipe::choose(&images)?;
    keep_to_two_processors()?;
    fs::create_dir_all(&arguments.cache)
        .during(|| format!("creating {}", arguments.cache.display()))?;
    let cache = arguments
        .cache
        .canonicalize()
        .during(|| "finding the cache".to_owned())?;
    let whole = images.is_empty() && arguments.tools.is_empty();
    let asked = if whole {
        kbs(arguments)?
    } else {
        ExitCode::SUCCESS
    };
    let registry = Registry::start(&cache.join("registry"))?;
    let signer = Signer::new()?;
    let bench = Bench {
        registry: &registry,
        public_pem: &signer.public_pem,
        mountpoint: arguments.disk.as_ref().unwrap_or(&cache).join("scratch"),
        on_disk: arguments.disk.is_some(),
        agent: agent(arguments)?,
    };
    let mut report = Report {
        machine: machine(),
        runs: arguments.runs,
        images: Vec::new(),
    };
    for recipe in &recipes {
        say(&format!("{}: preparing", recipe.name));
        let image = images::ensure(recipe, &registry, &cache)?;
        signer.sign(&registry, recipe.name)?;
        let tools = tools.iter().map(|tool| ready(*tool, &bench)).collect();
        let mut part = ImageReport {
            image,
            tools,
            floors: Vec::new(),
        };
        measure_image(&bench, recipe, arguments.runs, &mut part)?;
        report.images.push(part);
    }
    let everything = arguments.images.is_empty() && arguments.tools.is_empty();
    let mut parts = vec![asked, publish(arguments, &report)?];
    if everything && !arguments.linearity {
        let latency = measure_latency(arguments)?;
        parts.push(publish_latency(arguments, &latency)?);
    }
    let failed = parts.into_iter().find(|part| *part != ExitCode::SUCCESS);
    Ok(failed.unwrap_or(ExitCode::SUCCESS))
}

fn kbs(arguments: &Arguments) -> Result<ExitCode, Fault> {
    keep_to_two_processors()?;
    let report = KbsReport::measure()?;
    let text = report.markdown();
    writeln!(io::stdout(), "{text}").during(|| "printing the report".to_owned())?;
    if arguments.write_docs {
        report::write_into(Path::new(DOCUMENT), report::KBS, &text)?;
    }
    Ok(judge(arguments, report.verdicts()))
}

/// Only the registry that is far away.
fn run_latency(arguments: &Arguments) -> Result<ExitCode, Fault> {
    require_programs()?;
    keep_to_two_processors()?;
    publish_latency(arguments, &measure_latency(arguments)?)
}

fn require_programs() -> Result<(), Fault> {
    for program in ["docker-registry", "skopeo"] {
        if !tools::on_path(program) {
            let remedy = "apt-get install docker-registry skopeo umoci podman";
            return Err(Fault::Missing { program, remedy });
        }
    }
    Ok(())
}

fn measure_latency(arguments: &Arguments) -> Result<latency::Latency, Fault> {
    let cache = &arguments.cache;
    fs::create_dir_all(cache).during(|| format!("creating {}", cache.display()))?;
    let cache = cache
        .canonicalize()
        .during(|| "finding the cache".to_owned())?;
    latency::measure(&agent(arguments)?, &cache.join("scratch"), arguments.runs)
}

fn publish_latency(arguments: &Arguments, latency: &latency::Latency) -> Result<ExitCode, Fault> {
    let text = latency.markdown();
    writeln!(io::stdout(), "{text}").during(|| "printing the report".to_owned())?;
    if arguments.write_docs {
        report::write_into(Path::new(DOCUMENT), report::LATENCY, &text)?;
    }
    Ok(judge(arguments, [latency.verdict()]))
}

fn choose_tools(names: &[String]) -> Result<Vec<Tool>, Fault> {
    let all = || TOOLS.map(Tool::name).join(", ");
    let unknown = |name: &&String| !TOOLS.iter().any(|tool| tool.name() == name.as_str());
    if let Some(name) = names.iter().find(unknown) {
        return Err(Fault::Unknown {
            kind: "tool",
            name: name.clone(),
            expected: all(),
        });
    }
    let wanted = |tool: &Tool| names.is_empty() || names.iter().any(|name| name == tool.name());
    Ok(TOOLS.into_iter().filter(wanted).collect())
}

/// A machine with more processors is made to look like the one the targets are stated for;
/// the registry and every tool inherit it.
fn keep_to_two_processors() -> Result<(), Fault> {
    let during = || "choosing two processors".to_owned();
    let allowed = sched_getaffinity(None).during(during)?;
    let mut two = CpuSet::new();
    for index in (0..CpuSet::MAX_CPU)
        .filter(|index| allowed.is_set(*index))
        .take(2)
    {
        two.set(index);
    }
    sched_setaffinity(None, &two).during(during)
}

fn agent(arguments: &Arguments) -> Result<PathBuf, Fault> {
    if let Some(path) = &arguments.agent {
        return Ok(path.clone());
    }
    let own = std::env::current_exe().during(|| "finding image-agent".to_owned())?;
    Ok(own.with_file_name("image-agent"))
}

/// A tool whose program is missing is left out, and that is said wherever the figures are.
fn ready(tool: Tool, bench: &Bench<'_>) -> ToolReport {
    let missing = tool.missing(&bench.agent);
    let trouble = missing.map(|program| format!("SKIPPED: {program} is not installed"));
    if let Some(trouble) = &trouble {
        say(&format!("*** {}: {trouble} ***", tool.name()));
    }
    ToolReport {
        tool,
        samples: Vec::new(),
        again: Vec::new(),
        entries: None,
        trouble,
    }
}

/// Round by round, so that whatever else the machine does hits every tool alike.
fn measure_image(
    bench: &Bench<'_>,
    recipe: &Recipe,
    runs: u32,
    part: &mut ImageReport,
) -> Result<(), Fault> {
    for round in 1..=runs {
        bench.registry.warm(recipe.name)?;
        for tool in part.tools.iter_mut().filter(|tool| tool.trouble.is_none()) {
            measure_tool(bench, recipe.name, tool)?;
            if tool.tool == Tool::ImageAgent {
                part.floors.push(floor::measure(bench, recipe.name)?);
            }
        }
        // Another tool begins the next round.
        let step = 1.min(part.tools.len());
        part.tools.rotate_left(step);
        if !part.tools.iter().any(|tool| tool.tool == Tool::ImageAgent) {
            part.floors.push(floor::measure(bench, recipe.name)?);
        }
        say(&format!("{}: round {round} of {runs} done", recipe.name));
    }
    part.tools
        .sort_by_key(|report| TOOLS.iter().position(|tool| *tool == report.tool));
    compare_trees(recipe.name, &part.tools)
}

/// A peer that cannot pull an image is reported so; our own failure ends the bench.
fn measure_tool(bench: &Bench<'_>, image: &str, report: &mut ToolReport) -> Result<(), Fault> {
    match report.tool.pull(bench, image) {
        Ok(pull) => {
            report.samples.push(pull.sample);
            report.again.extend(pull.again);
            report.entries = pull.entries;
            Ok(())
        }
        Err(fault) if report.tool == Tool::ImageAgent => Err(fault),
        Err(fault) => {
            say(&format!(
                "*** {} on {image}: {} ***",
                report.tool.name(),
                explain(&fault)
            ));
            report.trouble = Some(format!("FAILED: {}", explain(&fault)));
            Ok(())
        }
    }
}

/// Speed counts only for the same result.
fn compare_trees(image: &str, tools: &[ToolReport]) -> Result<(), Fault> {
    let mut counted = tools
        .iter()
        .filter_map(|report| Some((report.tool, report.entries?)));
    let Some((other, expected)) = counted.next() else {
        return Ok(());
    };
    let different = counted.find(|(_, found)| *found != expected);
    different.map_or(Ok(()), |(tool, found)| {
        Err(Fault::TreesDiffer {
            image: image.to_owned(),
            tool: tool.name(),
            found,
            other: other.name(),
            expected,
        })
    })
}

fn publish(arguments: &Arguments, report: &Report) -> Result<ExitCode, Fault> {
    let text = report::markdown(report);
    let json = serde_json::to_vec_pretty(report).map_err(|source| Fault::Json {
        what: "the report".to_owned(),
        source,
    })?;
    fs::write(&arguments.json, json).during(|| format!("writing {}", arguments.json.display()))?;
    writeln!(io::stdout(), "{text}").during(|| "printing the report".to_owned())?;
    if arguments.linearity {
        linearity::draw(report, Path::new("docs"))?;
        return Ok(judge(arguments, linearity::verdicts(report)));
    }
    if arguments.write_docs {
        report::write_into(Path::new(DOCUMENT), report::IMAGES, &text)?;
    }
    if arguments.disk.is_some() {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(judge(arguments, report::verdicts(report)))
}

/// Says what holds and what does not.
fn judge(arguments: &Arguments, verdicts: impl IntoIterator<Item = Verdict>) -> ExitCode {
    let mut met = true;
    for verdict in verdicts {
        met &= verdict.holds;
        say(&format!(
            "{} {}",
            if verdict.holds { "ok  " } else { "MISS" },
            verdict.text
        ));
    }
    if met || !arguments.check {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Where the results go.
const DOCUMENT: &str = "docs/performance.md";

/// What was measured on, in one line.
fn machine() -> String {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = information
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model
        .and_then(|line| line.split_once(':'))
        .map_or("?", |(_, name)| name.trim());
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok());
    let gibibytes = memory.unwrap_or(0) / (1024 * 1024);
    let kernel = rustix::system::uname();
    let kernel = kernel.release().to_string_lossy().into_owned();
    format!("{model}, two processors, {gibibytes} GiB of memory, Linux {kernel}, store on tmpfs.")
}
