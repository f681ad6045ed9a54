//! Medians, ratios, tables, and the verdict.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::fault::{During, Fault};
use crate::floor::Floor;
use crate::images::Image;
use crate::measure::Sample;
use crate::tools::Tool;

/// Everything that one call of the bench found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    /// Rounds; every tool runs once in each.
    pub(crate) runs: u32,
    pub(crate) images: Vec<ImageReport>,
}

/// One image's part.
#[derive(Debug, Serialize)]
pub(crate) struct ImageReport {
    pub(crate) image: Image,
    pub(crate) tools: Vec<ToolReport>,
    pub(crate) floors: Vec<Floor>,
}

/// One tool's part.
#[derive(Debug, Serialize)]
pub(crate) struct ToolReport {
    pub(crate) tool: Tool,
    pub(crate) samples: Vec<Sample>,
    /// Wall seconds of pulling the same image once more.
    pub(crate) again: Vec<f64>,
    pub(crate) entries: Option<u64>,
    /// Why there are no samples, or no more of them.
    pub(crate) trouble: Option<String>,
}

impl ToolReport {
    fn median(&self, value: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.samples.iter().map(value).collect())
    }

    pub(crate) fn wall(&self) -> Option<f64> {
        self.median(|sample| sample.usage.wall)
    }

    /// That of the round which was disturbed least.
    pub(crate) fn fastest(&self) -> Option<f64> {
        let walls = self.samples.iter().map(|sample| sample.usage.wall);
        walls.min_by(f64::total_cmp)
    }

    pub(crate) fn peak_rss_mib(&self) -> Option<f64> {
        let peak = self
            .samples
            .iter()
            .map(|sample| sample.usage.peak_rss_kib)
            .max()?;
        u32::try_from(peak).ok().map(|kib| f64::from(kib) / 1024.0)
    }
}

impl ImageReport {
    pub(crate) fn tool(&self, tool: Tool) -> Option<&ToolReport> {
        self.tools.iter().find(|report| report.tool == tool)
    }

    /// Medians stage by stage; the registry's share is that of our own pulls where there are any.
    fn floor(&self) -> Option<Floor> {
        let stage = |value: fn(&Floor) -> f64| median(self.floors.iter().map(value).collect());
        let ours = self.tool(Tool::ImageAgent);
        let registry = ours.and_then(|report| report.median(|sample| sample.registry));
        Some(Floor {
            receive: stage(|floor| floor.receive)?,
            blob_digest: stage(|floor| floor.blob_digest)?,
            inflate: stage(|floor| floor.inflate)?,
            inflater: self.floors.last()?.inflater,
            content_digest: stage(|floor| floor.content_digest)?,
            write: stage(|floor| floor.write)?,
            registry: registry.or_else(|| stage(|floor| floor.registry))?,
        })
    }

    /// How many times our wall time the other tool's of the same round is.
    fn ratio(&self, other: Tool) -> Option<f64> {
        let other = self.tool(other)?.samples.iter();
        let ours = self.tool(Tool::ImageAgent)?.samples.iter();
        let of_round = |(other, ours): (&Sample, &Sample)| other.usage.wall / ours.usage.wall;
        median(other.zip(ours).map(of_round).collect())
    }

    /// Our wall time for each second of the floor.
    fn wall_of_floor(&self) -> Option<f64> {
        self.by_round(|sample, floor| sample.usage.wall / floor.wall())
    }

    /// Our CPU time for each second of the floor's stages. The registry's is part of these, and so
    /// it is added to ours.
    fn cpu_of_floor(&self) -> Option<f64> {
        self.by_round(|sample, floor| (sample.cpu() + sample.registry) / floor.sum())
    }

    /// The median of what each of our pulls is to the floor measured right after it: a machine that
    /// is shared can be half as fast a minute later.
    fn by_round(&self, ratio: impl Fn(&Sample, &Floor) -> f64) -> Option<f64> {
        let samples = &self.tool(Tool::ImageAgent)?.samples;
        let of_round = |(sample, floor): (&Sample, &Floor)| {
            let registry = sample.registry;
            ratio(sample, &Floor { registry, ..*floor })
        };
        median(samples.iter().zip(&self.floors).map(of_round).collect())
    }

    fn peak_rss_mib(&self) -> Option<f64> {
        self.tool(Tool::ImageAgent)?.peak_rss_mib()
    }

    /// Our time for the same image again.
    fn again_milliseconds(&self) -> Option<f64> {
        let again = median(self.tool(Tool::ImageAgent)?.again.clone())?;
        Some(again * 1000.0)
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get(values.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

/// A must, and whether it holds.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) text: String,
    pub(crate) holds: bool,
}

/// How many times faster than another tool a pull of an image must be.
const FASTER: [(&str, Tool, f64); 7] = [
    ("small", Tool::SkopeoUmoci, 2.0),
    ("small", Tool::Podman, 2.0),
    ("medium", Tool::SkopeoUmoci, 6.0),
    ("medium", Tool::Podman, 5.0),
    ("large1", Tool::SkopeoUmoci, 5.0),
    ("large1", Tool::Podman, 6.0),
    ("zstd", Tool::Podman, 4.0),
];

/// Of these the floor is no measure: of the one the start of the process and the round trips, of
/// which it knows nothing, are most of the time, and of the other one layer waits for the next, since
/// large windows are had one at a time.
const BEYOND_THE_FLOOR: [&str; 2] = ["small", "zstd-wide"];

/// At most: wall time for each second of the floor, CPU time for each second of its stages, peak
/// memory, and the time that a second pull takes.
const WALL: f64 = 1.25;
const CPU: f64 = 1.15;
const PEAK_RSS_MIB: f64 = 32.0;
const AGAIN_MILLISECONDS: f64 = 30.0;

/// The musts that this report can speak of. One that could not be measured does not hold.
pub(crate) fn verdicts(report: &Report) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for image in &report.images {
        let name = image.image.name.as_str();
        let wanted = FASTER.iter().filter(|(image, ..)| *image == name);
        verdicts.extend(wanted.map(|(_, tool, least)| {
            let ratio = image.ratio(*tool);
            Verdict {
                text: format!(
                    "{name}: {least} times as fast as {}: {}",
                    tool.name(),
                    times(ratio)
                ),
                holds: ratio.is_some_and(|ratio| ratio >= *least),
            }
        }));
        let mut at_most = |what: &str, most: f64, found: Option<f64>, digits: usize| {
            verdicts.push(Verdict {
                text: format!("{name}: {what} at most {most}: {}", number(found, digits)),
                holds: found.is_some_and(|found| found <= most),
            });
        };
        if !BEYOND_THE_FLOOR.contains(&name) {
            at_most("wall / F", WALL, image.wall_of_floor(), 2);
            at_most("CPU / sum of stages", CPU, image.cpu_of_floor(), 2);
        }
        at_most("peak RSS MiB", PEAK_RSS_MIB, image.peak_rss_mib(), 1);
        at_most(
            "second pull ms",
            AGAIN_MILLISECONDS,
            image.again_milliseconds(),
            1,
        );
    }
    verdicts
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}x"))
}

/// The whole report as Markdown.
pub(crate) fn markdown(report: &Report) -> String {
    let tables = [
        images_table(report),
        tools_table(report),
        floor_table(report),
        ratios(report),
    ];
    format!("{}\n\n{}", report.machine, tables.join("\n"))
}

/// Rows under a heading; the first column is text, the others are numbers.
pub(crate) fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|---|", columns.join(" | "));
    text.push_str(&"---:|".repeat(columns.len().saturating_sub(1)));
    text.push('\n');
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

fn images_table(report: &Report) -> String {
    let row = |image: &ImageReport| {
        let Image {
            name,
            layers,
            entries,
            compressed,
            content,
            ..
        } = &image.image;
        vec![
            name.clone(),
            layers.to_string(),
            entries.to_string(),
            megabytes(*compressed),
            megabytes(*content),
        ]
    };
    let rows: Vec<_> = report.images.iter().map(row).collect();
    table(
        &["image", "layers", "entries", "compressed MB", "content MB"],
        &rows,
    )
}

fn megabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn tools_table(report: &Report) -> String {
    let mut rows = Vec::new();
    for image in &report.images {
        for tool in &image.tools {
            rows.push(tool_row(&image.image.name, tool));
        }
    }
    let columns = [
        "image",
        "tool",
        "wall s",
        "min - max",
        "CPU s",
        "user + sys",
        "peak RSS MiB",
        "registry CPU s",
        "foreign CPU s",
        "runs",
    ];
    table(&columns, &rows)
}

fn tool_row(image: &str, tool: &ToolReport) -> Vec<String> {
    let walls = || tool.samples.iter().map(|sample| sample.usage.wall);
    let fastest = walls().fold(f64::INFINITY, f64::min);
    let slowest = walls().fold(0.0, f64::max);
    let mut row = vec![image.to_owned(), tool.tool.name().to_owned()];
    if let Some(trouble) = &tool.trouble {
        row.push(trouble.replace('|', "/"));
        row.resize(10, "-".to_owned());
        return row;
    }
    let user = tool.median(|sample| sample.usage.user);
    let system = tool.median(|sample| sample.usage.system);
    row.extend([
        format!("**{}**", number(tool.wall(), 3)),
        format!("{fastest:.3} - {slowest:.3}"),
        number(tool.median(Sample::cpu), 3),
        format!("{} + {}", number(user, 2), number(system, 2)),
        number(tool.peak_rss_mib(), 1),
        number(tool.median(|sample| sample.registry), 3),
        number(tool.median(|sample| sample.foreign), 2),
        tool.samples.len().to_string(),
    ]);
    row
}

fn floor_table(report: &Report) -> String {
    let row = |image: &ImageReport| {
        let floor = image.floor()?;
        let mut row = vec![image.image.name.clone()];
        row.extend(floor.stages().iter().map(|seconds| format!("{seconds:.3}")));
        row.extend([
            floor.inflater.to_owned(),
            format!("{:.3}", floor.sum()),
            format!("**{:.3}**", floor.wall()),
        ]);
        Some(row)
    };
    let rows: Vec<_> = report.images.iter().filter_map(row).collect();
    let columns = [
        "floor, CPU s",
        "receive",
        "blob sha256",
        "inflate",
        "content sha256",
        "write files",
        "registry",
        "inflated by",
        "sum",
        "F (wall s)",
    ];
    table(&columns, &rows)
}

fn ratios(report: &Report) -> String {
    let row = |image: &ImageReport| {
        vec![
            image.image.name.clone(),
            times(image.ratio(Tool::SkopeoUmoci)),
            times(image.ratio(Tool::Podman)),
            number(image.wall_of_floor(), 2),
            number(image.cpu_of_floor(), 2),
            number(image.again_milliseconds(), 1),
        ]
    };
    let rows: Vec<_> = report.images.iter().map(row).collect();
    let columns = [
        "image-agent",
        "faster than skopeo+umoci",
        "faster than podman",
        "wall / F",
        "CPU / sum of stages",
        "second pull ms",
    ];
    table(&columns, &rows)
}

/// The lines between which each part of the results goes.
pub(crate) const IMAGES: [&str; 2] = ["<!-- bench:begin -->", "<!-- bench:end -->"];
pub(crate) const KBS: [&str; 2] = ["<!-- kbs:begin -->", "<!-- kbs:end -->"];
pub(crate) const LATENCY: [&str; 2] = ["<!-- latency:begin -->", "<!-- latency:end -->"];

/// Replaces a measured part of a document, between its two markers.
pub(crate) fn write_into(
    document: &Path,
    [begin, end]: [&'static str; 2],
    tables: &str,
) -> Result<(), Fault> {
    let during = || format!("updating {}", document.display());
    let text = fs::read_to_string(document).during(during)?;
    let lost = |marker| Fault::Marker {
        path: document.display().to_string(),
        marker,
    };
    let (before, rest) = text.split_once(begin).ok_or_else(|| lost(begin))?;
    let (_, after) = rest.split_once(end).ok_or_else(|| lost(end))?;
    fs::write(document, format!("{before}{begin}\n{tables}{end}{after}")).during(during)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_the_mean_of_the_two_middles() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn floor_is_half_the_sum_but_never_less_than_its_longest_stage() {
        let even = Floor {
            receive: 1.0,
            inflate: 1.0,
            write: 1.0,
            ..Floor::default()
        };
        let one_long = Floor {
            receive: 0.5,
            inflate: 3.0,
            ..Floor::default()
        };
        assert!((even.wall() - 1.5).abs() < 1e-9);
        assert!((one_long.wall() - 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_pull_is_compared_with_the_floor_of_its_own_round() {
        let sample = |wall| {
            let mut sample = Sample::default();
            sample.usage.wall = wall;
            sample
        };
        let floor = |receive| Floor {
            receive,
            ..Floor::default()
        };
        let ours = ToolReport {
            tool: Tool::ImageAgent,
            samples: [2.0, 8.0, 4.0].map(sample).into(),
            again: Vec::new(),
            entries: None,
            trouble: None,
        };
        let report = ImageReport {
            image: Image::default(),
            tools: vec![ours],
            // The second round was twice as slow.
            floors: [1.0, 4.0, 2.0].map(floor).into(),
        };
        let ratio = report.wall_of_floor().unwrap();
        assert!((ratio - 2.0).abs() < 1e-9, "{ratio}");
    }

    #[test]
    fn replaces_only_what_is_between_the_markers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("performance.md");
        let [begin, end] = LATENCY;
        fs::write(&path, format!("before\n{begin}\nold\n{end}\nafter\n")).unwrap();
        write_into(&path, LATENCY, "new\n").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("before\n{begin}\nnew\n{end}\nafter\n"));
    }

    #[test]
    fn names_the_marker_that_a_document_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("performance.md");
        let [begin, end] = LATENCY;
        fs::write(&path, format!("{begin}\n")).unwrap();
        let Err(Fault::Marker { marker, .. }) = write_into(&path, LATENCY, "new\n") else {
            panic!("accepted");
        };
        assert_eq!(marker, end);
    }
}
