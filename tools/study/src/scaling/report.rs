//! The tables and plots of a study, beside the published figures.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use vmamba::complexity::Complexity;
use vmamba::zoo::BackboneConfig;
use vmamba_report::files::write_whole;
use vmamba_report::plots::{Series, line_plot};
use vmamba_report::tables::{Cell, Table};

use super::{Accuracy, Protocol, Row, Study, Work};
use crate::error::Result;
use crate::measure::{CLASSES, Measured, Purpose};
use crate::published::{self, ScalingRow};

const MIB: f64 = (1 << 20) as f64;

/// Writes `study.md`, all tables as CSV and as `tables.json`, and the plots into `folder`. Returns the paths.
///
/// # Errors
/// When a file cannot be written.
pub fn write(study: &Study, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    let mut file = |name: &str, text: String| -> Result<()> {
        let path = folder.join(name);
        write_whole(&path, text.as_bytes())?;
        written.push(path);
        Ok(())
    };
    let (speed, cost) = (speed_table(study), cost_table(study));
    let growth = growth_table(study);
    let accuracy = accuracy_table(study);
    let machines = machines(study).join("; ");
    let mut text = format!("Machine: {machines}.\n\n{NOTES}\n## Cost\n\n{}\n## Speed and memory\n\n{}", cost.markdown(), speed.markdown());
    text.push_str(&format!("\n## Growth with the number of pixels\n\n{GROWTH}\n{}", growth.markdown()));
    if !study.accuracies.is_empty() {
        text.push_str(&format!("\n## Accuracy without fine-tuning\n\n{}", accuracy.markdown()));
    }
    file("study.md", text)?;
    file("study.csv", speed.csv())?;
    file("cost.csv", cost.csv())?;
    file("growth.csv", growth.csv())?;
    if !study.accuracies.is_empty() {
        file("accuracy.csv", accuracy.csv())?;
    }
    let tables = [("cost", &cost), ("speed", &speed), ("growth", &growth), ("accuracy", &accuracy)];
    let tables: Map<String, Value> = tables.into_iter().map(|(name, table)| (name.to_owned(), table.json_rows())).collect();
    file("tables.json", format!("{:#}\n", Value::Object(tables)))?;
    written.extend(plots(study, folder)?);
    Ok(written)
}

/// The tables as text.
pub fn text(study: &Study) -> String {
    let tables = [speed_table(study), growth_table(study), accuracy_table(study)];
    tables.iter().filter(|table| !table.rows().is_empty()).map(Table::text).collect::<Vec<_>>().join("\n")
}

const NOTES: &str =
    "A multiply-add is one FLOP. \"early\" counts the selective scan as in the first two versions of the paper. Images per second are the
median of the rounds. The protocol, as in the paper: untimed warm-up runs, then timed runs between two synchronisations with the device; it is written
as warm-up + rounds x runs. Published throughputs were measured on an A100 at batch 32: inference in float32, training in mixed precision.
";

const GROWTH: &str = "The exponent e of y ~ pixels^e, fitted by least squares to the logarithms; memory without weights and images.
";

/// The machines of the rows.
fn machines(study: &Study) -> Vec<&str> {
    let mut machines: Vec<&str> = Vec::new();
    for measured in study.rows.iter().filter_map(|row| row.measured.as_ref()) {
        if !machines.contains(&measured.machine.as_str()) {
            machines.push(&measured.machine);
        }
    }
    machines
}

/// The models in the order of the rows.
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
            published.map_or(Cell::Missing, |gflops| Cell::Number(gflops, 2)),
        ];
        row.extend(kinds.iter().map(|kind| cost.by_op.get(kind).map_or(Cell::Missing, |flops| giga(*flops))));
        table.push(row);
    }
    table
}

fn speed_table(study: &Study) -> Table {
    let several = machines(study).len() > 1;
    let mut columns = vec![
        "model",
        "side",
        "batch",
        "device",
        "precision",
        "task",
        "params, M",
        "GFLOPs",
        "images/s",
        "published, A100",
        "peak, MiB",
        "beyond weights, MiB",
        "protocol",
        "remark",
    ];
    if several {
        columns.push("machine");
    }
    let mut table = Table::new(columns);
    for row in &study.rows {
        let (work, protocol) = (&row.work, row.protocol);
        let published = published_row(&work.model, work.side).map(|published| published_speed(published, work.purpose));
        let measured = row.measured.as_ref();
        let cost = complexity(&work.model, work.side);
        let number = |value: Option<f64>, decimals| value.map_or(Cell::Missing, |value| Cell::Number(value, decimals));
        table.push([
            work.model.as_str().into(),
            work.side.into(),
            work.batch.into(),
            work.device.as_str().into(),
            work.precision.name().into(),
            work.purpose.name().into(),
            number(cost.as_ref().map(|cost| cost.params as f64 / 1e6), 2),
            number(cost.as_ref().map(|cost| cost.flops() as f64 / 1e9), 2),
            number(measured.map(|measured| measured.images_per_second), 2),
            number(published, 0),
            number(measured.map(|measured| measured.peak_bytes as f64 / MIB), 0),
            number(measured.map(|measured| beyond_weights(measured) / MIB), 0),
            format!("{} + {} x {}", protocol.warmup, protocol.rounds, protocol.runs).into(),
            row.failed.as_deref().unwrap_or_default().into(),
            measured.map(|measured| measured.machine.clone()).into(),
        ]);
    }
    table
}

/// The published rows of a model, the smallest images first. The windows of the published Swin scale with the image.
fn published_rows(model: &str) -> impl Iterator<Item = &'static ScalingRow> {
    let name = match model {
        "swin_tiny" => None,
        "swin_tiny_scaled" => Some("swin_tiny".to_owned()),
        _ => Some(model.to_owned()),
    };
    let rows = published::scaling_study().map_or(&[][..], |study| study.rows.as_slice());
    rows.iter().filter(move |row| name.as_ref() == Some(&row.id))
}

fn published_row(model: &str, side: usize) -> Option<&'static ScalingRow> {
    published_rows(model).find(|row| row.side == side)
}

fn published_speed(row: &ScalingRow, purpose: Purpose) -> f64 {
    match purpose {
        Purpose::Inference => row.throughput,
        Purpose::Training => row.train_throughput,
    }
}

fn beyond_weights(measured: &Measured) -> f64 {
    measured.peak_bytes.saturating_sub(measured.before_bytes) as f64
}

fn accuracy_table(study: &Study) -> Table {
    let mut table = Table::new([
        "model",
        "side",
        "precision",
        "top-1, %",
        "published, %",
        "tuned, %",
        "published tuned, %",
        "images",
        "left out",
        "weights",
        "data",
        "tuned on",
        "remark",
    ]);
    for row in &study.accuracies {
        let Accuracy { model, side, checkpoint, data, precision, top1, tuned_top1, tuned_on, images, skipped, .. } = row;
        let published = published_row(model, *side);
        let number = |value: Option<f64>| value.map_or(Cell::Missing, |value| Cell::Number(value, 2));
        table.push([
            model.as_str().into(),
            (*side).into(),
            precision.name().into(),
            top1.map_or(Cell::Missing, Cell::percent),
            number(published.map(|row| row.top1)),
            tuned_top1.map_or(Cell::Missing, Cell::percent),
            number(published.map(|row| row.top1_tuned)),
            (*images).into(),
            (*skipped).into(),
            checkpoint.path.display().to_string().into(),
            data.path.display().to_string().into(),
            tuned_on.as_ref().map(|source| source.path.display().to_string()).into(),
            row.failed.as_deref().unwrap_or_default().into(),
        ]);
    }
    table
}

/// Measured rows that differ only in the side, the smallest first.
struct Curve<'a> {
    /// The common cell; its side is that of the first row.
    work: &'a Work,
    protocol: Protocol,
    rows: Vec<(usize, &'a Measured)>,
}

impl Curve<'_> {
    fn points(&self, value: impl Fn(usize, &Measured) -> f64) -> Vec<(f64, f64)> {
        self.rows.iter().map(|(side, measured)| (*side as f64, value(*side, measured))).collect()
    }
}

/// The curves in the order of the study, so that a model has the same colour in all figures.
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

/// The exponent of the power law fitted to the points; `None` for fewer than three points.
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
        // Single points show no growth.
        if series.iter().all(|series| series.points.len() < 2) {
            return Ok(());
        }
        let paths = ["png", "svg"].map(|ending| folder.join(format!("{name}.{ending}")));
        line_plot(Some(&paths[0]), Some(&paths[1]), title, "side of the image, pixels", y, &series)?;
        written.extend(paths);
        Ok(())
    };
    let models = models(study);
    // All published sizes of a model, also those that are not in the study.
    let published = |value: &dyn Fn(&ScalingRow) -> f64| -> Vec<Series> {
        let of = |model: &str| published_rows(model).map(|row| (row.side as f64, value(row))).collect();
        models.iter().map(|model| Series::dots(*model, of(model))).collect()
    };
    let mut flops = Vec::new();
    for model in &models {
        let points = sides(study).into_iter().filter_map(|side| Some((side as f64, complexity(model, side)?.flops() as f64 / 1e9)));
        flops.push(Series::dots(*model, points.collect()));
    }
    draw("flops", "FLOPs of an image", "GFLOPs", flops)?;
    draw("flops_published", "FLOPs of an image, published", "GFLOPs", published(&|row| row.gflops))?;

    let curves = curves(study);
    for purpose in [Purpose::Inference, Purpose::Training] {
        let of = |points: &dyn Fn(&Curve) -> Vec<(f64, f64)>| -> Vec<Series> {
            let of_purpose = curves.iter().filter(|curve| curve.work.purpose == purpose);
            of_purpose.map(|curve| Series::dots(label(&curves, curve), points(curve))).collect()
        };
        if !curves.iter().any(|curve| curve.work.purpose == purpose) {
            continue;
        }
        let name = purpose.name();
        let of_published = |row: &ScalingRow| published_speed(row, purpose);
        let speed = of(&|curve| curve.points(|_, measured| measured.images_per_second));
        draw(&format!("throughput_{name}"), &format!("Throughput, {name}"), "images per second", speed)?;
        let title = format!("Throughput, {name}, published (A100)");
        draw(&format!("throughput_{name}_published"), &title, "images per second", published(&of_published))?;
        let memory = of(&|curve| curve.points(|_, measured| measured.peak_bytes as f64 / MIB));
        draw(&format!("memory_{name}"), &format!("Peak memory, {name}"), "MiB", memory)?;
        let title = format!("Pixels per second over those at the smallest size, {name}");
        let ours = of(&|curve| pixels(curve.points(|_, measured| measured.images_per_second)));
        draw(&format!("pixels_{name}"), &title, "ratio", ours)?;
        let ratios = published(&of_published).into_iter().map(|series| Series { points: pixels(series.points), ..series });
        draw(&format!("pixels_{name}_published"), &format!("{title}, published"), "ratio", ratios.collect())?;
    }

    draw("accuracy", "Top-1 without fine-tuning", "%", accuracies(study))?;
    draw("accuracy_published", "Top-1 without fine-tuning, published", "%", published(&|row| row.top1))?;
    Ok(written)
}

/// A curve for each combination of model, weights, data and precision, and one with the last layer tuned.
fn accuracies(study: &Study) -> Vec<Series> {
    let key = |row: &Accuracy| (row.model.clone(), row.checkpoint.path.clone(), row.data.path.clone(), row.precision);
    let mut curves: Vec<Vec<&Accuracy>> = Vec::new();
    for row in &study.accuracies {
        match curves.iter_mut().find(|curve| curve.first().is_some_and(|first| key(first) == key(row))) {
            Some(curve) => curve.push(row),
            None => curves.push(vec![row]),
        }
    }
    let firsts: Vec<&Accuracy> = curves.iter().filter_map(|curve| curve.first().copied()).collect();
    let mut series = Vec::new();
    for (curve, first) in curves.iter().zip(&firsts) {
        // Only the parts that distinguish curves of a model.
        let mut name = first.model.clone();
        let same_model = || firsts.iter().filter(|other| other.model == first.model);
        for (differs, part) in [
            (same_model().any(|other| other.checkpoint.path != first.checkpoint.path), first.checkpoint.path.display().to_string()),
            (same_model().any(|other| other.data.path != first.data.path), first.data.path.display().to_string()),
            (same_model().any(|other| other.precision != first.precision), first.precision.name().to_owned()),
        ] {
            if differs {
                name.push_str(&format!(", {part}"));
            }
        }
        let points = |value: &dyn Fn(&Accuracy) -> Option<f64>| -> Vec<(f64, f64)> {
            let mut points: Vec<(f64, f64)> = curve.iter().filter_map(|row| Some((row.side as f64, 100.0 * value(row)?))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            points
        };
        series.push(Series::dots(name.clone(), points(&|row| row.top1)));
        series.push(Series::dots(format!("{name}, tuned"), points(&|row| row.tuned_top1)));
    }
    series.retain(|series| !series.points.is_empty());
    series
}

/// The model, with batch and precision where they distinguish curves.
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

/// Pixels per second over those at the smallest side; this ratio does not depend on the speed of the machine.
fn pixels(speeds: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let Some(first) = speeds.first().map(|(side, speed)| side * side * speed) else { return speeds };
    speeds.into_iter().map(|(side, speed)| (side, side * side * speed / first)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_name_their_machine_when_there_are_several() {
        let study = |machines: &[&str]| {
            let row = |(index, machine): (usize, &&str)| {
                format!(
                    r#"{{"work": {{"model": "deit_tiny", "side": {}, "batch": 1, "device": "cpu", "precision": "float32", "purpose":
                    "inference"}}, "protocol": {{"warmup": 1, "runs": 1, "rounds": 1}}, "measured": {{"images_per_second": 1.0, "seconds":
                    [1.0], "peak_bytes": 2, "before_bytes": 1, "memory_source": "", "machine": "{machine}"}}}}"#,
                    32 * (index + 1)
                )
            };
            let rows: Vec<String> = machines.iter().enumerate().map(row).collect();
            serde_json::from_str::<Study>(&format!(r#"{{"rows": [{}]}}"#, rows.join(","))).unwrap()
        };
        assert!(!speed_table(&study(&["one", "one"])).text().contains("machine"));
        let text = speed_table(&study(&["one", "other"])).text();
        assert!(text.contains("machine") && text.contains("one") && text.contains("other"), "{text}");
    }

    #[test]
    fn the_exponent_of_a_power_law_is_found() {
        let points: Vec<(f64, f64)> = [2.0_f64, 3.0, 5.0, 9.0].iter().map(|x| (*x, 0.3 * x.powf(1.25))).collect();
        assert!((exponent(&points).unwrap() - 1.25).abs() < 1e-12);
        assert_eq!(exponent(&points[..2]), None);
    }
}
