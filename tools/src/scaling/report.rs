//! The tables and plots of a study, published numbers beside.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use vmamba::complexity::Complexity;
use vmamba::zoo::BackboneConfig;

use super::{Accuracy, CLASSES, Measured, Protocol, Purpose, Row, Study, Work};
use crate::published;
use crate::report::plots::{Series, line_plot};
use crate::report::tables::{Cell, Table};

const MIB: f64 = (1 << 20) as f64;

/// Writes `study.md`, `study.csv` and the plots into `folder`; returns what was written.
///
/// # Errors
/// When a file cannot be written.
pub fn write(study: &Study, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    let mut file = |name: &str, text: String| -> Result<()> {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        written.push(path);
        Ok(())
    };
    let (speed, cost) = (speed_table(study), cost_table(study));
    let growth = growth_table(study);
    let accuracy = accuracy_table(study);
    let mut text =
        format!("Machine: {}.\n\n{NOTES}\n## Cost\n\n{}\n## Speed and memory\n\n{}", study.machine, cost.markdown(), speed.markdown());
    text.push_str(&format!("\n## Growth with the number of pixels\n\n{GROWTH}\n{}", growth.markdown()));
    if !study.accuracies.is_empty() {
        text.push_str(&format!("\n## Accuracy without fine-tuning\n\n{}", accuracy.markdown()));
    }
    file("study.md", text)?;
    file("study.csv", speed.csv())?;
    file("cost.csv", cost.csv())?;
    if !study.accuracies.is_empty() {
        file("accuracy.csv", accuracy.csv())?;
    }
    written.extend(plots(study, folder)?);
    Ok(written)
}

/// The tables on the terminal.
pub fn text(study: &Study) -> String {
    let tables = [speed_table(study), growth_table(study), accuracy_table(study)];
    tables.iter().filter(|table| !table.rows().is_empty()).map(Table::text).collect::<Vec<_>>().join("\n")
}

const NOTES: &str =
    "A multiply-add is one FLOP. \"early\" counts the selective scan as the paper's first two versions did. Images a second are the
median of the rounds; the loop is the paper's: runs that are not timed, then timed ones between two waits for the device; a protocol reads warm-up + rounds x
runs. Published throughputs are of an A100 at batch 32: inference in float32, training in mixed precision.
";

const GROWTH: &str = "The exponent e of y ~ pixels^e, by least squares over the logarithms; memory without the weights and images.
";

/// Models in the order of the rows.
fn models(study: &Study) -> Vec<&str> {
    let mut models: Vec<&str> = Vec::new();
    for name in study.rows.iter().map(|row| row.work.model.as_str()).chain(study.accuracies.iter().map(|row| row.model.as_str())) {
        if !models.contains(&name) {
            models.push(name);
        }
    }
    models
}

fn sides(study: &Study) -> Vec<usize> {
    let sides = study.rows.iter().map(|row| row.work.side).chain(study.accuracies.iter().map(|row| row.side));
    sides.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn complexity(model: &str, side: usize) -> Option<Complexity> {
    let config = BackboneConfig::named(model).ok()?;
    config.check_image([side; 2]).ok()?;
    Some(config.classifier_complexity(CLASSES, [side; 2]))
}

fn cost_table(study: &Study) -> Table {
    let costs: Vec<(&str, usize, Complexity)> = models(study)
        .into_iter()
        .flat_map(|model| sides(study).into_iter().filter_map(move |side| Some((model, side, complexity(model, side)?))))
        .collect();
    let kinds: std::collections::BTreeSet<_> = costs.iter().flat_map(|(_, _, cost)| cost.by_op.keys().copied()).collect();
    let mut columns = vec!["model", "side", "params, M", "GFLOPs", "GFLOPs, early", "GFLOPs, published"];
    columns.extend(kinds.iter().map(|kind| kind.official_name()));
    let mut table = Table::new(columns);
    for (model, side, cost) in &costs {
        let giga = |flops: u64| Cell::Number(flops as f64 / 1e9, 2);
        let published = published_row(model, *side).map(|row| row.gflops);
        let mut row: Vec<Cell> = vec![
            (*model).into(),
            (*side).into(),
            Cell::Number(cost.params as f64 / 1e6, 2),
            giga(cost.flops()),
            giga(cost.early_flops()),
            published.map_or(Cell::Missing, |gflops| Cell::Number(gflops, 1)),
        ];
        row.extend(kinds.iter().map(|kind| cost.by_op.get(kind).map_or(Cell::Missing, |flops| giga(*flops))));
        table.push(row);
    }
    table
}

fn speed_table(study: &Study) -> Table {
    let mut table = Table::new([
        "model",
        "side",
        "batch",
        "device",
        "precision",
        "task",
        "images/s",
        "published, A100",
        "peak, MiB",
        "beyond weights, MiB",
        "protocol",
        "remark",
    ]);
    for row in &study.rows {
        let (work, protocol) = (&row.work, row.protocol);
        let published = published_row(&work.model, work.side).map(|published| match work.purpose {
            Purpose::Inference => published.throughput,
            Purpose::Training => published.train_throughput,
        });
        let measured = row.measured.as_ref();
        let number = |value: Option<f64>, decimals| value.map_or(Cell::Missing, |value| Cell::Number(value, decimals));
        table.push([
            work.model.as_str().into(),
            work.side.into(),
            work.batch.into(),
            work.device.as_str().into(),
            work.precision.name().into(),
            work.purpose.name().into(),
            number(measured.map(|measured| measured.images_per_second), 2),
            number(published, 0),
            number(measured.map(|measured| measured.peak_bytes as f64 / MIB), 0),
            number(measured.map(|measured| beyond_weights(measured) / MIB), 0),
            format!("{} + {} x {}", protocol.warmup, protocol.rounds, protocol.runs).into(),
            row.failed.as_deref().unwrap_or_default().into(),
        ]);
    }
    table
}

/// The paper's row. Its Swin has windows that grow with the image.
fn published_row(model: &str, side: usize) -> Option<&'static published::ScalingRow> {
    match model {
        "swin_tiny" => None,
        "swin_tiny_scaled" => published::scaling("swin_tiny", side),
        _ => published::scaling(model, side),
    }
}

fn beyond_weights(measured: &Measured) -> f64 {
    measured.peak_bytes.saturating_sub(measured.before_bytes) as f64
}

fn accuracy_table(study: &Study) -> Table {
    let mut table = Table::new([
        "model",
        "side",
        "top-1, %",
        "published, %",
        "tuned, %",
        "published tuned, %",
        "images",
        "left out",
        "weights",
        "remark",
    ]);
    for row in &study.accuracies {
        let Accuracy { model, side, checkpoint, top1, tuned_top1, images, skipped, .. } = row;
        let published = published_row(model, *side);
        let number = |value: Option<f64>| value.map_or(Cell::Missing, |value| Cell::Number(value, 2));
        table.push([
            model.as_str().into(),
            (*side).into(),
            top1.map_or(Cell::Missing, Cell::percent),
            number(published.map(|row| row.top1)),
            tuned_top1.map_or(Cell::Missing, Cell::percent),
            number(published.map(|row| row.top1_tuned)),
            (*images).into(),
            (*skipped).into(),
            checkpoint.display().to_string().into(),
            row.failed.as_deref().unwrap_or_default().into(),
        ]);
    }
    table
}

/// Measured rows that differ in nothing but the side, the smallest first.
struct Curve<'a> {
    /// What they have in common; the side is the first row's.
    work: &'a Work,
    protocol: Protocol,
    rows: Vec<(usize, &'a Measured)>,
}

impl Curve<'_> {
    fn points(&self, value: impl Fn(usize, &Measured) -> f64) -> Vec<(f64, f64)> {
        self.rows.iter().map(|(side, measured)| (*side as f64, value(*side, measured))).collect()
    }
}

/// In the order in which the study has them, so that a model has one colour in all figures.
fn curves(study: &Study) -> Vec<Curve<'_>> {
    let mut curves: Vec<Curve> = Vec::new();
    for Row { work, protocol, measured, .. } in &study.rows {
        let Some(measured) = measured else { continue };
        let same = |curve: &&mut Curve| curve.protocol == *protocol && Work { side: curve.work.side, ..work.clone() } == *curve.work;
        match curves.iter_mut().find(same) {
            Some(curve) => curve.rows.push((work.side, measured)),
            None => curves.push(Curve { work, protocol: *protocol, rows: vec![(work.side, measured)] }),
        }
    }
    for curve in &mut curves {
        curve.rows.sort_by_key(|(side, _)| *side);
    }
    curves
}

/// The exponent of a power law through the points, for at least three of them.
pub(super) fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let points: Vec<(f64, f64)> = points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0).map(|(x, y)| (x.ln(), y.ln())).collect();
    if points.len() < 3 {
        return None;
    }
    let count = points.len() as f64;
    let (x_mean, y_mean) = (points.iter().map(|p| p.0).sum::<f64>() / count, points.iter().map(|p| p.1).sum::<f64>() / count);
    let covariance: f64 = points.iter().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - x_mean).powi(2)).sum();
    (variance > 0.0).then(|| covariance / variance)
}

fn growth_table(study: &Study) -> Table {
    let mut table = Table::new(["model", "batch", "device", "precision", "task", "sides", "FLOPs", "time", "memory"]);
    for curve in curves(study) {
        let along = |value: &dyn Fn(usize, &Measured) -> f64| {
            let points: Vec<(f64, f64)> = curve.points(value).into_iter().map(|(side, value)| (side * side, value)).collect();
            exponent(&points).map_or(Cell::Missing, |exponent| Cell::Number(exponent, 3))
        };
        let work = curve.work;
        table.push([
            work.model.as_str().into(),
            work.batch.into(),
            work.device.as_str().into(),
            work.precision.name().into(),
            work.purpose.name().into(),
            curve.rows.len().into(),
            along(&|side, _| complexity(&work.model, side).map_or(f64::NAN, |cost| cost.flops() as f64)),
            along(&|_, measured| 1.0 / measured.images_per_second),
            along(&|_, measured| beyond_weights(measured)),
        ]);
    }
    table
}

fn plots(study: &Study, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    let mut draw = |name: &str, title: &str, y: &str, series: Vec<Series>| -> Result<()> {
        if series.iter().all(|series| series.points.is_empty()) {
            return Ok(());
        }
        let paths = ["png", "svg"].map(|ending| folder.join(format!("{name}.{ending}")));
        line_plot(Some(&paths[0]), Some(&paths[1]), title, "side of the image, pixels", y, &series)?;
        written.extend(paths);
        Ok(())
    };
    let mut flops = Vec::new();
    for model in models(study) {
        let points = sides(study).into_iter().filter_map(|side| Some((side as f64, complexity(model, side)?.flops() as f64 / 1e9)));
        flops.push(Series::dots(model, points.collect()));
    }
    draw("flops", "FLOPs of an image", "GFLOPs", flops)?;

    let curves = curves(study);
    for purpose in [Purpose::Inference, Purpose::Training] {
        let of = |points: &dyn Fn(&Curve) -> Vec<(f64, f64)>, style: fn(String, Vec<(f64, f64)>) -> Series| -> Vec<Series> {
            let of_purpose = curves.iter().filter(|curve| curve.work.purpose == purpose);
            of_purpose.map(|curve| style(label(&curves, curve), points(curve))).collect()
        };
        let name = purpose.name();
        let speed = of(&|curve| curve.points(|_, measured| measured.images_per_second), Series::dots);
        draw(&format!("throughput_{name}"), &format!("Throughput, {name}"), "images a second", speed)?;
        let memory = of(&|curve| curve.points(|_, measured| measured.peak_bytes as f64 / MIB), Series::dots);
        draw(&format!("memory_{name}"), &format!("Peak memory, {name}"), "MiB", memory)?;
        let title = format!("Pixels a second over those at the smallest size, {name}");
        let ours = of(&|curve| pixels(curve.points(|_, measured| measured.images_per_second)), Series::dots);
        draw(&format!("pixels_{name}"), &title, "ratio", ours)?;
        let published = of(&|curve| pixels(published_speeds(curve)), Series::dots);
        draw(&format!("pixels_{name}_published"), &format!("{title}, published"), "ratio", published)?;
    }

    let mut accuracy = Vec::new();
    for model in models(study) {
        let rows: Vec<&Accuracy> = study.accuracies.iter().filter(|row| row.model == model).collect();
        let points = |value: &dyn Fn(&Accuracy) -> Option<f64>| -> Vec<(f64, f64)> {
            rows.iter().filter_map(|row| Some((row.side as f64, 100.0 * value(row)?))).collect()
        };
        accuracy.push(Series::dots(model, points(&|row| row.top1)));
        accuracy.push(Series::dots(format!("{model}, tuned"), points(&|row| row.tuned_top1)));
        let published = rows.iter().filter_map(|row| Some((row.side as f64, published_row(model, row.side)?.top1)));
        accuracy.push(Series::line(format!("{model}, published"), published.collect()));
    }
    draw("accuracy", "Top-1 without fine-tuning", "%", accuracy)?;
    Ok(written)
}

/// Only what tells the curves of a figure apart.
fn label(curves: &[Curve], curve: &Curve) -> String {
    let Work { model, batch, precision, .. } = curve.work;
    let mut label = model.clone();
    if curves.iter().any(|other| other.work.batch != *batch) {
        label.push_str(&format!(", batch {batch}"));
    }
    if curves.iter().any(|other| other.work.precision != *precision) {
        label.push_str(&format!(", {}", precision.name()));
    }
    label
}

/// Throughput times pixels over that of the smallest side: what does not depend on the machine's speed.
fn pixels(speeds: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let Some(first) = speeds.first().map(|(side, speed)| side * side * speed) else { return speeds };
    speeds.into_iter().map(|(side, speed)| (side, side * side * speed / first)).collect()
}

/// The published throughputs at the sides of a curve.
fn published_speeds(curve: &Curve) -> Vec<(f64, f64)> {
    let speed = |side: usize| {
        let published = published_row(&curve.work.model, side)?;
        let speed = if curve.work.purpose == Purpose::Inference { published.throughput } else { published.train_throughput };
        Some((side as f64, speed))
    };
    curve.rows.iter().filter_map(|(side, _)| speed(*side)).collect()
}

#[cfg(test)]
mod tests {
    use super::exponent;

    #[test]
    fn the_exponent_of_a_power_law_is_found() {
        let points: Vec<(f64, f64)> = [2.0_f64, 3.0, 5.0, 9.0].iter().map(|x| (*x, 0.3 * x.powf(1.25))).collect();
        assert!((exponent(&points).unwrap() - 1.25).abs() < 1e-12);
        assert_eq!(exponent(&points[..2]), None);
    }
}
