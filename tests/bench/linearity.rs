//! Whether cost grows with bytes, files and layers, and with nothing else: series of images of
//! growing size, and a plot of each.

use std::fs;
use std::path::Path;

use crate::fault::{During, Fault};
use crate::images::Image;
use crate::plot::{self, Plot, Point};
use crate::report::{ImageReport, Report, Verdict};
use crate::tools::Tool;

/// Images that differ in one thing.
struct Series {
    file: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    images: &'static [&'static str],
    size: fn(&Image) -> f64,
    cost: fn(&ImageReport) -> Option<f64>,
    /// Whether the cost grows with the size, and not at all otherwise.
    grows: bool,
}

const FILES: &[&str] = &["files-100k", "files-300k", "files-600k", "files-1m"];
const LAYERS: &[&str] = &["layers-10", "many", "layers-100", "layers-200"];
const BYTES: &[&str] = &["bytes-100m", "bytes-500m", "large1", "bytes-2g", "bytes-4g"];

const SERIES: [Series; 4] = [
    Series {
        file: "linearity-files.svg",
        title: "One layer of small files",
        x: "thousand entries",
        y: "fastest wall seconds",
        images: FILES,
        size: |image| number(image.entries) / 1e3,
        cost: wall,
        grows: true,
    },
    Series {
        file: "linearity-layers.svg",
        title: "Layers of 4 MB",
        x: "layers",
        y: "fastest wall seconds",
        images: LAYERS,
        size: |image| number(image.layers),
        cost: wall,
        grows: true,
    },
    Series {
        file: "linearity-bytes.svg",
        title: "One layer of large files",
        x: "MB of content",
        y: "fastest wall seconds",
        images: BYTES,
        size: |image| number(image.content) / 1e6,
        cost: wall,
        grows: true,
    },
    Series {
        file: "memory-bytes.svg",
        title: "One layer of large files",
        x: "MB of content",
        y: "peak RSS, MiB",
        images: BYTES,
        size: |image| number(image.content) / 1e6,
        cost: |report| report.tool(Tool::ImageAgent)?.peak_rss_mib(),
        grows: false,
    },
];

/// The names of all images in the series.
pub(crate) fn images() -> Vec<String> {
    let names = [FILES, LAYERS, BYTES].concat();
    names.into_iter().map(str::to_owned).collect()
}

/// Draws every series that has been measured whole into `folder`.
pub(crate) fn draw(report: &Report, folder: &Path) -> Result<(), Fault> {
    for series in &SERIES {
        let Some(points) = series.points(report) else {
            continue;
        };
        let Series { title, x, y, .. } = *series;
        let drawing = plot::svg(&Plot {
            title,
            x,
            y,
            points,
        });
        let path = folder.join(series.file);
        fs::write(&path, drawing).during(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Whether the largest image of each series costs what the smallest one promises.
pub(crate) fn verdicts(report: &Report) -> impl Iterator<Item = Verdict> {
    SERIES.iter().map(|series| {
        let factor = series.points(report).and_then(|points| {
            let (first, last) = (points.first()?, points.last()?);
            let growth = if series.grows { last.x / first.x } else { 1.0 };
            Some(last.y / (first.y * growth))
        });
        let shown = factor.map_or_else(|| "-".to_owned(), |factor| format!("{factor:.2}"));
        Verdict {
            text: format!(
                "{}, {}: the last point at most {MOST_OFF} of what the first one promises: {shown}",
                series.title, series.y
            ),
            holds: factor.is_some_and(|factor| factor <= MOST_OFF),
        }
    })
}

/// Machines that others use as well vary by more than this from one point to the next, but a cost
/// that grows with the square would be ten times too high at the end.
const MOST_OFF: f64 = 1.3;

impl Series {
    fn points(&self, report: &Report) -> Option<Vec<Point>> {
        let points = self.images.iter().map(|name| self.point(report, name));
        points.collect()
    }

    fn point(&self, report: &Report, name: &str) -> Option<Point> {
        let mut images = report.images.iter();
        let part = images.find(|part| part.image.name == name)?;
        Some(Point {
            x: (self.size)(&part.image),
            y: (self.cost)(part)?,
        })
    }
}

/// The fastest round: other work on the machine makes a point higher and never lower.
fn wall(report: &ImageReport) -> Option<f64> {
    report.tool(Tool::ImageAgent)?.fastest()
}

/// Exact for all that is counted here.
fn number(count: u64) -> f64 {
    let low = u32::try_from(count & 0xffff_ffff).unwrap_or_default();
    let high = u32::try_from(count >> 32).unwrap_or_default();
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe;

    #[test]
    fn every_image_of_a_series_can_be_made() {
        let chosen = recipe::choose(&images()).unwrap();
        assert_eq!(chosen.len(), images().len());
    }

    #[test]
    fn counts_beyond_32_bits_stay_what_they_are() {
        assert!((number(0) - 0.0).abs() < f64::EPSILON);
        assert!((number((1 << 32) + 5) - 4_294_967_301.0).abs() < 0.5);
    }
}
