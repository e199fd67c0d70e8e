//! Line plots as PNG and SVG: loss over iterations, mIoU over validations, several runs in one plot.
//!
//! The font (DejaVu Sans) is built into the program, so plots look the same on a server without fonts.

mod axis;

use std::path::Path;
use std::sync::OnceLock;

use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use self::axis::Axis;
use crate::error::ReportError;
use crate::files::{write_picture, write_whole};

/// Size of a plot in pixels.
const SIZE: (u32, u32) = (1000, 600);

/// Pixels around a plot.
const MARGIN: u32 = 16;

/// Maximum width and height of the area between the axes, in pixels.
const PLOT: [f64; 2] = [870.0, 488.0];

/// Distance of the lines of the legend in pixels.
const LEGEND_ROW: u32 = 21;

/// Colours that colour-blind readers can distinguish (Okabe and Ito, 2008), without yellow, which is invisible on white.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];

/// One curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points `(x, y)` in ascending order of x; points that are not finite are skipped.
    pub points: Vec<(f64, f64)>,
    /// How the curve is drawn.
    pub style: SeriesStyle,
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SeriesStyle {
    /// A line.
    Line,
    /// A line with a dot at every point, for few points such as validations.
    Dots,
    /// A pale line, and over it the running mean with this weight of the past, `0.0..1.0` (see [`smooth`]).
    Smoothed(f64),
}

impl Series {
    /// A curve drawn as a line.
    pub fn line(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, style: SeriesStyle::Line }
    }

    /// A curve with a dot at every point.
    pub fn dots(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, style: SeriesStyle::Dots }
    }

    /// A noisy curve: a pale line, and its running mean as a strong one.
    pub fn smoothed(name: impl Into<String>, points: Vec<(f64, f64)>, weight: f64) -> Self {
        Self { name: name.into(), points, style: SeriesStyle::Smoothed(weight) }
    }
}

/// Exponential running mean of the y values with Adam's bias correction: each point counts `weight` times as much as the next one. A weight
/// of 0 returns the points.
pub fn smooth(points: &[(f64, f64)], weight: f64) -> Vec<(f64, f64)> {
    let weight = weight.clamp(0.0, 0.9999);
    let (mut sum, mut total) = (0.0, 0.0);
    points
        .iter()
        .map(|&(x, y)| {
            sum = weight * sum + y;
            total = weight * total + 1.0;
            (x, sum / total)
        })
        .collect()
}

/// Draws curves into `png` and `svg`, either of which may be none.
///
/// # Errors
/// When no series has a finite point, because an empty plot would look like a result, or when a file cannot be written.
pub fn line_plot(
    png: Option<&Path>,
    svg: Option<&Path>,
    title: &str,
    x_label: &str,
    y_label: &str,
    series: &[Series],
) -> Result<(), ReportError> {
    let finite: Vec<Series> = series
        .iter()
        .map(|s| Series { points: s.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect(), ..s.clone() })
        .collect();
    if finite.iter().all(|series| series.points.is_empty()) {
        return Err(ReportError::EmptyPlot { title: title.to_owned(), series: series.len() });
    }
    let plot = Plot { title, x_label, y_label, series: &finite };
    if !register_fonts() {
        return Err(plot.failed("the built-in font is damaged"));
    }
    if let Some(path) = png {
        let mut pixels = vec![255u8; (SIZE.0 * SIZE.1 * 3) as usize];
        plot.draw(BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area())?;
        let image = image::RgbImage::from_raw(SIZE.0, SIZE.1, pixels).ok_or_else(|| plot.failed("its buffer has another size"))?;
        write_picture(path, &image.into())?;
    }
    if let Some(path) = svg {
        let mut text = String::new();
        plot.draw(SVGBackend::with_string(&mut text, SIZE).into_drawing_area())?;
        write_whole(path, text.as_bytes())?;
    }
    Ok(())
}

/// Registers the built-in font once per process, under a name that browsers know too; returns whether that succeeded.
fn register_fonts() -> bool {
    static DONE: OnceLock<bool> = OnceLock::new();
    *DONE.get_or_init(|| {
        register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular()).is_ok()
            && register_font("sans-serif", FontStyle::Bold, dejavu::sans::bold()).is_ok()
    })
}

struct Plot<'a> {
    title: &'a str,
    x_label: &'a str,
    y_label: &'a str,
    series: &'a [Series],
}

impl Plot<'_> {
    fn failed(&self, reason: impl ToString) -> ReportError {
        ReportError::Drawing { title: self.title.to_owned(), reason: reason.to_string() }
    }

    fn draw<B: DrawingBackend>(&self, area: DrawingArea<B, plotters::coord::Shift>) -> Result<(), ReportError> {
        self.draw_inner(&area).map_err(|error| self.failed(error))
    }

    fn draw_inner<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, plotters::coord::Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let x = Axis::around(self.series.iter().flat_map(|s| s.points.iter().map(|p| p.0)), 0.0);
        let y = Axis::around(self.series.iter().flat_map(|s| s.points.iter().map(|p| p.1)), 0.04);
        area.fill(&WHITE)?;
        // If the legend would cover a curve in every corner, it goes to the right of the plot.
        let corner = self.free_corner(&x, &y);
        let outside = self.series.len() > 1 && corner.is_none();
        let right = if outside { MARGIN + self.legend_size()[0] } else { 36 };
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, ("sans-serif", 24).into_font().style(FontStyle::Bold))
            .margin(MARGIN)
            .margin_right(right)
            .x_label_area_size(52)
            .y_label_area_size(78)
            .build_cartesian_2d(x.low..x.high, y.low..y.high)?;
        chart
            .configure_mesh()
            .x_desc(self.x_label)
            .y_desc(self.y_label)
            .axis_desc_style(("sans-serif", 18))
            .label_style(("sans-serif", 15))
            .x_labels(9)
            .y_labels(9)
            .x_label_formatter(&|v| x.label(*v))
            .y_label_formatter(&|v| y.label(*v))
            .bold_line_style(RGBColor(222, 222, 222))
            .light_line_style(WHITE)
            .axis_style(RGBColor(90, 90, 90))
            .draw()?;
        // A series without points keeps its colour, so that the colours of a series agree between plots.
        let coloured = self.series.iter().zip(COLOURS.iter().cycle());
        for (series, &colour) in coloured.filter(|(series, _)| !series.points.is_empty()) {
            let strong = colour.stroke_width(2);
            let drawn = match series.style {
                SeriesStyle::Line => chart.draw_series(LineSeries::new(series.points.iter().copied(), strong))?,
                SeriesStyle::Dots => {
                    chart.draw_series(series.points.iter().map(|&p| Circle::new(p, 4, colour.filled())))?;
                    chart.draw_series(LineSeries::new(series.points.iter().copied(), strong))?
                }
                SeriesStyle::Smoothed(weight) => {
                    chart.draw_series(LineSeries::new(series.points.iter().copied(), colour.mix(0.25).stroke_width(1)))?;
                    chart.draw_series(LineSeries::new(smooth(&series.points, weight), strong))?
                }
            };
            // A line through a single point is invisible.
            let drawn = drawn.label(series.name.as_str());
            drawn.legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 22, y)], colour.stroke_width(3)));
            if let [point] = series.points[..] {
                chart.draw_series([Circle::new(point, 4, colour.filled())])?;
            }
        }
        if let Some(corner) = corner.filter(|_| self.series.len() > 1) {
            chart
                .configure_series_labels()
                .position(corner)
                .background_style(WHITE.mix(0.85))
                .border_style(RGBColor(180, 180, 180))
                .label_font(("sans-serif", 16))
                .margin(10)
                .legend_area_size(30)
                .draw()?;
        }
        if outside {
            self.draw_legend_outside(area)?;
        }
        area.present()
    }

    /// The legend to the right of the plot.
    fn draw_legend_outside<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, plotters::coord::Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let left = (SIZE.0 - self.legend_size()[0]) as i32;
        let named = self.series.iter().zip(COLOURS.iter().cycle()).filter(|(series, _)| !series.points.is_empty());
        for (row, (series, &colour)) in named.enumerate() {
            let middle = 60 + LEGEND_ROW as i32 * row as i32;
            area.draw(&PathElement::new(vec![(left, middle), (left + 22, middle)], colour.stroke_width(3)))?;
            area.draw(&Text::new(series.name.as_str(), (left + 30, middle - 8), ("sans-serif", 16)))?;
        }
        Ok(())
    }

    /// Width and height of the legend in pixels, estimated from above by the number of letters.
    fn legend_size(&self) -> [u32; 2] {
        let named = || self.series.iter().filter(|series| !series.points.is_empty());
        let longest = named().map(|series| series.name.chars().count()).max().unwrap_or(0);
        [60 + 10 * longest as u32, 16 + LEGEND_ROW * named().count() as u32]
    }

    /// A corner where the legend covers no curve.
    fn free_corner(&self, x: &Axis, y: &Axis) -> Option<SeriesLabelPosition> {
        let corners = [
            (SeriesLabelPosition::UpperRight, true, true),
            (SeriesLabelPosition::UpperLeft, false, true),
            (SeriesLabelPosition::LowerRight, true, false),
            (SeriesLabelPosition::LowerLeft, false, false),
        ];
        let [width, height] = self.legend_size();
        let (width, height) = (f64::from(width + 12) / PLOT[0], f64::from(height + 12) / PLOT[1]);
        let covered = |right: bool, upper: bool| {
            let within = |(u, v): (f64, f64)| {
                (if right { u > 1.0 - width } else { u < width }) && (if upper { v > 1.0 - height } else { v < height })
            };
            self.series.iter().any(|series| {
                let places: Vec<(f64, f64)> = series.points.iter().map(|(px, py)| (x.share(*px), y.share(*py))).collect();
                places.iter().copied().any(within) || places.windows(2).any(|pair| along(pair[0], pair[1]).any(within))
            })
        };
        corners.into_iter().find(|(_, right, upper)| !covered(*right, *upper)).map(|(corner, ..)| corner)
    }
}

/// Points on the line between two points.
fn along((x0, y0): (f64, f64), (x1, y1): (f64, f64)) -> impl Iterator<Item = (f64, f64)> {
    const STEPS: usize = 24;
    (1..STEPS).map(move |step| {
        let share = step as f64 / STEPS as f64;
        (x0 + share * (x1 - x0), y0 + share * (y1 - y0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_without_a_finite_point_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let png = dir.path().join("loss.png");
        let empty = Series::line("loss", vec![(0.0, f64::NAN), (1.0, f64::INFINITY)]);
        let error = line_plot(Some(&png), None, "Loss", "iteration", "loss", &[empty]).unwrap_err();
        assert!(error.to_string().contains("none with a finite point"), "{error}");
        assert!(!png.exists());
    }

    #[test]
    fn a_plot_is_written_as_png_and_svg_with_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let (png, svg) = (dir.path().join("p.png"), dir.path().join("p.svg"));
        let a = Series::smoothed("first run", (0..200).map(|i| (f64::from(i), 1.0 / f64::from(i + 1))).collect(), 0.9);
        let b = Series::dots("second run", vec![(0.0, 0.4), (100.0, 0.2)]);
        line_plot(Some(&png), Some(&svg), "Loss", "iteration", "cross entropy", &[a, b]).unwrap();
        let image = image::open(&png).unwrap().to_rgb8();
        assert_eq!(image.dimensions(), SIZE);
        assert!(image.pixels().any(|p| p.0 == [0, 114, 178]) && image.pixels().any(|p| p.0 == [213, 94, 0]));
        let text = std::fs::read_to_string(&svg).unwrap();
        for word in ["first run", "second run", "cross entropy", "iteration"] {
            assert!(text.contains(word), "{word}");
        }
    }

    /// Crossing curves reach into all corners, so the legend goes to the right of the plot.
    #[test]
    fn a_legend_covers_no_curve() {
        let series = |names: [&str; 2], points: [Vec<(f64, f64)>; 2]| -> Vec<Series> {
            names.into_iter().zip(points).map(|(name, points)| Series::dots(name, points)).collect()
        };
        let corner = |series: &[Series]| {
            let plot = Plot { title: "", x_label: "", y_label: "", series };
            let unit = || Axis { low: 0.0, high: 1.0 };
            plot.free_corner(&unit(), &unit()).is_some()
        };
        assert!(corner(&series(["a", "b"], [vec![(0.0, 0.1), (1.0, 0.2)], vec![(0.0, 0.2), (1.0, 0.1)]])));
        let cross = [vec![(0.0, 0.0), (1.0, 1.0)], vec![(0.0, 1.0), (1.0, 0.0)]];
        assert!(!corner(&series(["a", "b"], cross.clone())));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cross.png");
        line_plot(Some(&path), None, "Cross", "x", "y", &series(["rising", "falling"], cross)).unwrap();
        // The blue line of the legend stands right of the axes, where no curve is.
        let image = image::open(path).unwrap().to_rgb8();
        assert!((880..1000).any(|x| image.get_pixel(x, 60).0 == [0, 114, 178]));
    }

    #[test]
    fn a_single_point_or_a_constant_curve_can_be_drawn() {
        let dir = tempfile::tempdir().unwrap();
        for (name, points) in [("one", vec![(5.0, 0.3)]), ("flat", vec![(0.0, 0.0), (1.0, 0.0)])] {
            let path = dir.path().join(format!("{name}.png"));
            line_plot(Some(&path), None, name, "x", "y", &[Series::dots(name, points)]).unwrap();
            assert!(image::open(path).unwrap().to_rgb8().pixels().any(|p| p.0 == [0, 114, 178]));
        }
    }

    #[test]
    fn smoothing_starts_at_the_first_point_and_keeps_a_constant() {
        let flat: Vec<_> = (0..50).map(|i| (f64::from(i), 3.0)).collect();
        assert!(smooth(&flat, 0.95).iter().all(|p| (p.1 - 3.0).abs() < 1e-12));
        let noisy = [(0.0, 1.0), (1.0, 5.0), (2.0, 3.0)];
        assert_eq!(smooth(&noisy, 0.0), noisy);
    }
}
