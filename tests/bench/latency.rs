//! Many small layers from a registry that is far away: image-agent beside `skopeo copy`, which
//! fetches them and does nothing else.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kit::archive::Archive;
use kit::delay::Delay;
use kit::image::{Image, Layer};
use kit::registry::Registry;
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::fault::{During, Fault};
use crate::measure::{Invocation, Usage};
use crate::report::{Verdict, median};
use crate::scratch::Scratch;

/// What the part found out.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    layers: usize,
    layer_bytes: usize,
    round_trip_milliseconds: u64,
    /// One pull after the other, in the same rounds.
    agent: Vec<Usage>,
    skopeo: Vec<Usage>,
}

/// A registry over https, and the long line to it.
struct World {
    runtime: Runtime,
    registry: Registry,
    line: Delay,
}

const LAYERS: usize = 40;
const LAYER_BYTES: usize = 100_000;
const ROUND_TRIP: Duration = Duration::from_millis(50);
const NAME: &str = "bench/forty:1";
/// How many times as fast as skopeo.
const LEAST: f64 = 2.0;

/// Pulls `runs` times with each of the two, by turns.
pub(crate) fn measure(agent: &Path, mountpoint: &Path, runs: u32) -> Result<Latency, Fault> {
    let world = World::new()?;
    let mut latency = Latency {
        layers: LAYERS,
        layer_bytes: LAYER_BYTES,
        round_trip_milliseconds: u64::try_from(ROUND_TRIP.as_millis()).unwrap_or(0),
        agent: Vec::new(),
        skopeo: Vec::new(),
    };
    for round in 1..=runs {
        let scratch = Scratch::new(mountpoint)?;
        latency.agent.push(world.pull_with_agent(agent, &scratch)?);
        drop(scratch);
        let scratch = Scratch::new(mountpoint)?;
        latency.skopeo.push(world.copy_with_skopeo(&scratch)?);
        crate::say(&format!("latency: round {round} of {runs} done"));
    }
    // Its connections end before the registry does.
    drop(world.line);
    drop(world.runtime);
    Ok(latency)
}

impl World {
    fn new() -> Result<Self, Fault> {
        let runtime = Runtime::new().during(|| "starting a runtime".to_owned())?;
        let (registry, line) = runtime.block_on(async {
            let registry = Registry::start_https().await;
            registry.push(NAME, &forty_layers()).await;
            let line = Delay::to(registry.host(), ROUND_TRIP).await;
            (registry, line)
        });
        Ok(Self {
            runtime,
            registry,
            line,
        })
    }

    fn reference(&self) -> String {
        format!("{}/{NAME}", self.line.host())
    }

    /// By the configuration that there must be, and defaults in everything that is measured.
    fn pull_with_agent(&self, agent: &Path, scratch: &Scratch) -> Result<Usage, Fault> {
        let config = scratch.join("cdh.toml");
        let text = format!(
            r#"[kbc]
name = "offline_fs_kbc"

[image]
work_dir = "{}"
image_security_policy = '{{"default":[{{"type":"insecureAcceptAnything"}}]}}'
extra_root_certificates = ["""
{}"""]
"#,
            scratch.join("store").display(),
            self.registry.authority(),
        );
        fs::write(&config, text).during(|| "writing cdh.toml".to_owned())?;
        Invocation::new(agent)
            .args(&["pull", &self.reference(), "--bundle"])
            .arg(scratch.join("bundle"))
            .arg("-c")
            .arg(config)
            .run(scratch.path())
    }

    fn copy_with_skopeo(&self, scratch: &Scratch) -> Result<Usage, Fault> {
        let certificates: PathBuf = scratch.join("certificates");
        let written = fs::create_dir(&certificates)
            .and_then(|()| fs::write(certificates.join("ca.crt"), self.registry.authority()));
        written.during(|| "writing skopeo's certificates".to_owned())?;
        Invocation::new("skopeo")
            .args(&["--insecure-policy", "copy", "--src-cert-dir"])
            .arg(certificates)
            .arg(format!("docker://{}", self.reference()))
            .arg(format!("dir:{}", scratch.join("copy").display()))
            .env("TMPDIR", scratch.path().to_owned())
            .run(scratch.path())
    }
}

/// Noise, so that as many bytes travel as there are.
fn forty_layers() -> Image {
    let layer = |number: usize| {
        let mut state =
            0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::try_from(number).unwrap_or(0) + 1);
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .flatten()
        .take(LAYER_BYTES)
        .collect();
        Layer::gzip(Archive::new().file(format!("file{number}"), noise))
    };
    Image::of((0..LAYERS).map(layer)).build()
}

impl Latency {
    fn ratio(&self) -> Option<f64> {
        Some(wall(&self.skopeo)? / wall(&self.agent)?)
    }

    /// The must, and whether it holds.
    pub(crate) fn verdict(&self) -> Verdict {
        let ratio = self.ratio();
        let found = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}x"));
        Verdict {
            text: format!("latency: {LEAST} times as fast as skopeo copy to dir: {found}"),
            holds: ratio.is_some_and(|ratio| ratio >= LEAST),
        }
    }

    /// The part of the report.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "| {} layers of {} kB, round trip {} ms | wall s | min - max | CPU s | peak RSS MiB | runs |\n\
             |---|---:|---:|---:|---:|---:|\n",
            self.layers,
            self.layer_bytes / 1000,
            self.round_trip_milliseconds,
        );
        for (name, samples) in [
            ("image-agent, unpacked and mounted", &self.agent),
            ("skopeo copy to `dir:`", &self.skopeo),
        ] {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}", row(name, samples));
        }
        if let Some(ratio) = self.ratio() {
            let _ = writeln!(text, "\nimage-agent is {ratio:.2}x as fast.");
        }
        text
    }
}

fn wall(samples: &[Usage]) -> Option<f64> {
    median(samples.iter().map(|usage| usage.wall).collect())
}

fn row(name: &str, samples: &[Usage]) -> String {
    let cpu = median(
        samples
            .iter()
            .map(|usage| usage.user + usage.system)
            .collect(),
    );
    let least = samples
        .iter()
        .map(|usage| usage.wall)
        .fold(f64::INFINITY, f64::min);
    let most = samples.iter().map(|usage| usage.wall).fold(0.0, f64::max);
    let peak = samples.iter().map(|usage| usage.peak_rss_kib).max();
    let peak = peak.and_then(|kib| u32::try_from(kib).ok());
    format!(
        "| {name} | **{:.3}** | {least:.3} - {most:.3} | {:.3} | {:.1} | {} |",
        wall(samples).unwrap_or(0.0),
        cpu.unwrap_or(0.0),
        f64::from(peak.unwrap_or(0)) / 1024.0,
        samples.len(),
    )
}
