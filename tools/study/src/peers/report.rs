//! What a comparison writes: tables, JSON, a plot.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Comparison, Measured, Peak, Task, Versions, Work};
use vmamba_report::plots::{Series, line_plot};
use vmamba_report::tables::{Cell, Table};

/// Smallest and middle value; of an even number the lower of the two in the middle.
pub fn min_and_median(values: impl IntoIterator<Item = f64>) -> Option<[f64; 2]> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    Some([*values.first()?, *values.get((values.len() - 1) / 2)?])
}

impl Measured {
    fn wall(&self) -> Option<[f64; 2]> {
        min_and_median(self.runs.as_ref().ok()?.iter().map(|timing| timing.wall))
    }

    fn cpu(&self) -> Option<[f64; 2]> {
        min_and_median(self.runs.as_ref().ok()?.iter().map(|timing| timing.cpu).collect::<Option<Vec<f64>>>()?)
    }
}

/// One table for all tasks: CPU and wall seconds (minimum and median), and how long the first of our models takes beside each.
pub fn table(comparisons: &[Comparison]) -> Table {
    let columns = ["task", "model", "CPU s, min", "CPU s, median", "wall s, min", "wall s, median", "ours / this, wall", "note"];
    let mut table = Table::new(columns);
    for comparison in comparisons {
        let ours = comparison.models.first().and_then(Measured::wall);
        for model in &comparison.models {
            let mut row = vec![Cell::from(comparison.task.name()), Cell::from(model.name.as_str())];
            let wall = model.wall();
            for pair in [model.cpu(), wall] {
                row.extend(pair.map_or([Cell::Missing, Cell::Missing], |pair| pair.map(|seconds| Cell::Number(seconds, 4))));
            }
            row.push(ours.zip(wall).map_or(Cell::Missing, |(ours, this)| Cell::Number(ours[1] / this[1], 2)));
            row.push(model.runs.as_ref().err().map_or_else(|| Cell::from(""), |reason| Cell::from(reason.as_str())));
            table.push(row);
        }
    }
    table
}

/// Peak memory of each task's networks in MiB, and how much of it came on top of program, weights and images.
pub fn memory_table(memory: &[(Task, String, Result<Peak, String>)]) -> Table {
    let mut table = Table::new(["task", "model", "peak, MiB", "before the run, MiB", "the run's, MiB", "note"]);
    let mib = |bytes: u64| Cell::Number(bytes as f64 / f64::from(1 << 20), 0);
    for (task, name, peak) in memory {
        let mut row = vec![Cell::from(task.name()), Cell::from(name.as_str())];
        match peak {
            Ok(Peak { before, peak, .. }) => row.extend([mib(*peak), mib(*before), mib(peak.saturating_sub(*before)), Cell::from("")]),
            Err(reason) => row.extend([Cell::Missing, Cell::Missing, Cell::Missing, Cell::from(reason.as_str())]),
        }
        table.push(row);
    }
    table
}

/// Every single run and all memory in bytes, for programs.
pub fn json(comparisons: &[Comparison], memory: &[(Task, String, Result<Peak, String>)], versions: Option<&Versions>) -> Value {
    let task = |Task { work, size, batch, threads }: Task| json!({ "work": work.name(), "size": size, "batch": batch, "threads": threads });
    let comparison = |comparison: &Comparison| {
        let model = |model: &Measured| match &model.runs {
            Ok(runs) => json!({
                "name": model.name, "ours": model.ours,
                "wall": runs.iter().map(|t| t.wall).collect::<Vec<_>>(), "cpu": runs.iter().map(|t| t.cpu).collect::<Vec<_>>(),
            }),
            Err(reason) => json!({ "name": model.name, "ours": model.ours, "error": reason }),
        };
        let mut object = task(comparison.task);
        object["models"] = comparison.models.iter().map(model).collect();
        object
    };
    let memory = memory.iter().map(|(of, name, peak)| {
        let mut object = task(*of);
        object["name"] = json!(name);
        match peak {
            Ok(Peak { before, peak, .. }) => (object["before"], object["peak"]) = (json!(before), json!(peak)),
            Err(reason) => object["error"] = json!(reason),
        }
        object
    });
    json!({
        "torch": versions.map(|v| &v.torch), "torchvision": versions.map(|v| &v.torchvision),
        "tasks": comparisons.iter().map(comparison).collect::<Vec<_>>(),
        "memory": memory.collect::<Vec<_>>(),
    })
}

/// Median wall time of a forward pass for every million pixels over the side of the image, a curve for each model and number of threads.
///
/// # Errors
/// When no forward pass was measured and when a file cannot be written.
pub fn plot(comparisons: &[Comparison], png: &Path, svg: &Path) -> Result<()> {
    let mut series: Vec<Series> = Vec::new();
    for comparison in comparisons.iter().filter(|comparison| comparison.task.work == Work::Forward) {
        let Task { size: [height, width], batch, threads, .. } = comparison.task;
        for model in &comparison.models {
            let Some([_, median]) = model.wall() else { continue };
            let name = format!("{}, {threads} thread{}", model.name, if threads == 1 { "" } else { "s" });
            let pixels = (batch * height * width) as f64;
            let point = (((height * width) as f64).sqrt(), median * 1e9 / pixels);
            match series.iter_mut().find(|series| series.name == name) {
                Some(series) => series.points.push(point),
                None => series.push(Series::dots(name, vec![point])),
            }
        }
    }
    Ok(line_plot(Some(png), Some(svg), "Forward pass", "side of the image, pixels", "milliseconds for a million pixels", &series)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Timing;

    #[test]
    fn the_middle_of_an_even_number_is_a_value_that_was_measured() {
        assert_eq!(min_and_median([4.0, 1.0, 3.0, 2.0]), Some([1.0, 2.0]));
        assert_eq!(min_and_median([5.0]), Some([5.0, 5.0]));
        assert_eq!(min_and_median([]), None);
    }

    #[test]
    fn ratios_compare_the_first_model_with_each() {
        let task = Task { work: Work::Forward, size: [224, 224], batch: 1, threads: 2 };
        let runs = |wall: f64| Ok(vec![Timing { wall, cpu: Some(2.0 * wall) }; 3]);
        let models = vec![
            Measured { name: "ours".into(), ours: true, runs: runs(0.5) },
            Measured { name: "peer".into(), ours: false, runs: runs(0.25) },
            Measured { name: "broken".into(), ours: false, runs: Err("no such model".into()) },
        ];
        let comparisons = [Comparison { task, models }];
        let table = table(&comparisons);
        let row = |row: usize| table.rows()[row].clone();
        assert_eq!(row(0)[6], Cell::Number(1.0, 2));
        assert_eq!((row(1)[3].clone(), row(1)[6].clone()), (Cell::Number(0.5, 4), Cell::Number(2.0, 2)));
        assert_eq!((row(2)[4].clone(), row(2)[7].clone()), (Cell::Missing, Cell::from("no such model")));
        assert_eq!(json(&comparisons, &[], None)["tasks"][0]["models"][2]["error"], "no such model");
    }
}
