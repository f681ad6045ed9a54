//! A plot of a few points as SVG, small enough to be read as text.

use std::fmt::Write;

/// What to draw.
#[derive(Debug)]
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) points: Vec<Point>,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
}

/// The points, joined, and the straight line that is nearest to them; both axes begin at zero.
pub(crate) fn svg(plot: &Plot<'_>) -> String {
    let Plot {
        title,
        x,
        y,
        points,
    } = plot;
    let largest = |of: fn(&Point) -> f64| points.iter().map(of).fold(f64::MIN_POSITIVE, f64::max);
    let (most_x, most_y) = (largest(|point| point.x), largest(|point| point.y) * 1.1);
    let place = |point: &Point| {
        let across = LEFT + point.x / most_x * (RIGHT - LEFT);
        (across, BOTTOM - point.y / most_y * (BOTTOM - TOP))
    };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 480 280\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"480\" height=\"280\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"13\">{title}</text>\n\
         <text x=\"{LEFT}\" y=\"34\" fill=\"#555\">{y} (dashed: a straight line)</text>\n\
         <text x=\"{RIGHT}\" y=\"272\" text-anchor=\"end\" fill=\"#555\">{x}</text>\n\
         <path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#888\"/>\n"
    );
    let line = fitted(points);
    let ends = [0.0, most_x].map(|x| {
        place(&Point {
            x,
            y: line.0 + line.1 * x,
        })
    });
    let [(from_x, from_y), (to_x, to_y)] = ends;
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "<path d=\"M{from_x:.1} {from_y:.1}L{to_x:.1} {to_y:.1}\" stroke=\"#bbb\" \
         stroke-dasharray=\"4 3\"/>"
    );
    let mut joined = String::new();
    for point in points {
        let (across, down) = place(point);
        let _ = write!(joined, "{across:.1},{down:.1} ");
        let _ = writeln!(
            text,
            "<circle cx=\"{across:.1}\" cy=\"{down:.1}\" r=\"3\" fill=\"#1563b0\"/>\n\
             <text x=\"{across:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.2}</text>\n\
             <text x=\"{across:.1}\" y=\"{}\" text-anchor=\"middle\">{:.0}</text>",
            down - 6.0,
            point.y,
            BOTTOM + 14.0,
            point.x
        );
    }
    let _ = writeln!(
        text,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#1563b0\"/>\n</svg>",
        joined.trim_end()
    );
    text
}

/// Where the line with the least squared distances begins at zero, and how it rises.
fn fitted(points: &[Point]) -> (f64, f64) {
    let sum = |of: fn(&Point) -> f64| points.iter().map(of).sum::<f64>();
    let count = sum(|_| 1.0).max(1.0);
    let (x, y) = (sum(|point| point.x) / count, sum(|point| point.y) / count);
    let (mut spread, mut common) = (0.0, 0.0);
    for point in points {
        spread += (point.x - x).powi(2);
        common += (point.x - x) * (point.y - y);
    }
    let slope = if spread > 0.0 { common / spread } else { 0.0 };
    (y - slope * x, slope)
}

const LEFT: f64 = 40.0;
const RIGHT: f64 = 460.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 240.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_through_points_on_a_line_is_that_line() {
        let points = [1.0, 2.0, 5.0].map(|x| Point {
            x,
            y: 3.0 + 2.0 * x,
        });
        let (start, slope) = fitted(&points);
        assert!(
            (start - 3.0).abs() < 1e-9 && (slope - 2.0).abs() < 1e-9,
            "{start} {slope}"
        );
    }

    #[test]
    fn every_point_is_drawn_within_the_frame() {
        let points = [1.0, 10.0, 100.0].map(|x| Point { x, y: x * x });
        let plot = Plot {
            title: "t",
            x: "x",
            y: "y",
            points: points.into(),
        };
        let text = svg(&plot);
        assert_eq!(text.matches("<circle").count(), 3);
        assert!(text.contains("cx=\"460.0\" cy=\"63.6\""), "{text}");
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
    }
}
