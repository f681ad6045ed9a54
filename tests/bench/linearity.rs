//! Whether cost grows with bytes, files and layers, and with nothing else: series of images of
//! growing size, and a plot of each.

use std::fs;
use std::path::Path;

use crate::fault::{During, Fault};
use crate::images::Image;
use crate::plot::{self, Plot, Point};
use crate::report::{ImageReport, Report};
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
    },
    Series {
        file: "linearity-layers.svg",
        title: "Layers of 4 MB",
        x: "layers",
        y: "fastest wall seconds",
        images: LAYERS,
        size: |image| number(image.layers),
        cost: wall,
    },
    Series {
        file: "linearity-bytes.svg",
        title: "One layer of large files",
        x: "MB of content",
        y: "fastest wall seconds",
        images: BYTES,
        size: |image| number(image.content) / 1e6,
        cost: wall,
    },
    Series {
        file: "memory-bytes.svg",
        title: "One layer of large files",
        x: "MB of content",
        y: "peak RSS, MiB",
        images: BYTES,
        size: |image| number(image.content) / 1e6,
        cost: |report| report.tool(Tool::ImageAgent)?.peak_rss_mib(),
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
        let points = series.images.iter().map(|name| series.point(report, name));
        let Some(points) = points.collect::<Option<Vec<_>>>() else {
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

impl Series {
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
