//! Tables, JSON and plot of comparisons.

use std::path::Path;

use serde_json::{Value, json};
use vmamba_report::files::write_whole;
use vmamba_report::plots::{Series, line_plot};
use vmamba_report::tables::{Cell, Table};

use super::{Comparison, Contestant};
use crate::error::Result;
use crate::measure::{Peers, Rounds, Task, Usage, Versions, Work, threads_text};

/// Peak memory of one model on one task, or the reason for a failure.
#[derive(Clone, Debug)]
pub struct Memory {
    /// The task.
    pub task: Task,
    /// Name of the model.
    pub name: String,
    /// The figures.
    pub usage: Result<Usage, String>,
}

impl Contestant {
    fn wall(&self) -> Option<[f64; 2]> {
        self.rounds.as_ref().ok().map(Rounds::wall)
    }
}

/// The results so far.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Comparisons of speed.
    pub comparisons: Vec<Comparison>,
    /// Peak memory.
    pub memory: Vec<Memory>,
}

impl Results {
    /// Writes `peers.json` and, with comparisons, `peers.md`; with memory, `memory.md`; with forward passes, `peers.png` and `peers.svg`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path, peers: Option<&Peers>) -> Result<()> {
        let file = |name: &str, text: String| write_whole(&folder.join(name), text.as_bytes());
        file("peers.json", format!("{:#}\n", json(&self.comparisons, &self.memory, peers.map(Peers::versions))))?;
        if !self.comparisons.is_empty() {
            file("peers.md", table(&self.comparisons).markdown())?;
        }
        if !self.memory.is_empty() {
            file("memory.md", memory_table(&self.memory).markdown())?;
        }
        if self.comparisons.iter().any(|comparison| comparison.task.work == Work::Forward) {
            plot(&self.comparisons, &folder.join("peers.png"), &folder.join("peers.svg"))?;
        }
        Ok(())
    }

    /// The tables as text.
    pub fn text(&self) -> String {
        let speed = (!self.comparisons.is_empty()).then(|| table(&self.comparisons).text());
        let memory = (!self.memory.is_empty()).then(|| memory_table(&self.memory).text());
        speed.into_iter().chain(memory).collect()
    }
}

/// One table for all tasks: minimum and median of CPU and wall-clock seconds, and the wall-clock time of our first model over each.
fn table(comparisons: &[Comparison]) -> Table {
    let columns = ["task", "model", "CPU s, min", "CPU s, median", "wall s, min", "wall s, median", "ours / this, wall", "note"];
    let mut table = Table::new(columns);
    for comparison in comparisons {
        let ours = comparison.models.first().and_then(Contestant::wall);
        for model in &comparison.models {
            let mut row = vec![Cell::from(comparison.task.name()), Cell::from(model.name.as_str())];
            let wall = model.wall();
            let cpu = model.rounds.as_ref().ok().and_then(Rounds::cpu);
            for pair in [cpu, wall] {
                row.extend(pair.map_or([Cell::Missing, Cell::Missing], |pair| pair.map(|seconds| Cell::Number(seconds, 4))));
            }
            row.push(ours.zip(wall).map_or(Cell::Missing, |(ours, this)| Cell::Number(ours[1] / this[1], 2)));
            row.push(model.rounds.as_ref().err().map_or_else(|| Cell::from(""), |reason| Cell::from(reason.as_str())));
            table.push(row);
        }
    }
    table
}

/// Peak memory of each model in MiB, the memory before the run, and the difference.
fn memory_table(memory: &[Memory]) -> Table {
    let mut table = Table::new(["task", "model", "peak, MiB", "before the run, MiB", "the run's, MiB", "note"]);
    let mib = |bytes: u64| Cell::Number(bytes as f64 / f64::from(1 << 20), 0);
    for Memory { task, name, usage } in memory {
        let mut row = vec![Cell::from(task.name()), Cell::from(name.as_str())];
        match usage {
            Ok(Usage { before, peak, .. }) => row.extend([mib(*peak), mib(*before), mib(peak.saturating_sub(*before)), Cell::from("")]),
            Err(reason) => row.extend([Cell::Missing, Cell::Missing, Cell::Missing, Cell::from(reason.as_str())]),
        }
        table.push(row);
    }
    table
}

/// Seconds of every run, and all memory in bytes.
fn json(comparisons: &[Comparison], memory: &[Memory], versions: Option<&Versions>) -> Value {
    let task = |task: &Task| json!({ "work": task.work.name(), "size": task.size, "batch": task.batch, "threads": task.thread_count() });
    let model = |model: &Contestant| match &model.rounds {
        Ok(rounds) => json!({
            "name": model.name, "ours": model.ours,
            "wall": rounds.timings().iter().map(|t| t.wall).collect::<Vec<_>>(),
            "cpu": rounds.timings().iter().map(|t| t.cpu).collect::<Vec<_>>(),
        }),
        Err(reason) => json!({ "name": model.name, "ours": model.ours, "error": reason }),
    };
    let comparison = |comparison: &Comparison| {
        let mut object = task(&comparison.task);
        object["models"] = comparison.models.iter().map(model).collect();
        object
    };
    let memory = memory.iter().map(|row| {
        let mut object = task(&row.task);
        object["name"] = json!(row.name);
        match &row.usage {
            Ok(Usage { before, peak, .. }) => (object["before"], object["peak"]) = (json!(before), json!(peak)),
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

/// Plots the median wall-clock time of a forward pass per million pixels against the side of the image, one curve for each model and number
/// of threads.
///
/// # Errors
/// When no forward pass was measured, or a file cannot be written.
fn plot(comparisons: &[Comparison], png: &Path, svg: &Path) -> Result<()> {
    let mut series: Vec<Series> = Vec::new();
    for comparison in comparisons.iter().filter(|comparison| comparison.task.work == Work::Forward) {
        let Task { size: [height, width], batch, .. } = comparison.task;
        for model in &comparison.models {
            let Some([_, median]) = model.wall() else { continue };
            let name = format!("{}, {}", model.name, threads_text(comparison.task.thread_count()));
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
    use vmamba_train::Precision;

    use crate::measure::{Contender, Protocol, Timing, in_turns};

    fn rounds(wall: f64) -> Result<Rounds, String> {
        let contender: Contender<'_> = Box::new(move |_| Ok(Timing { wall, cpu: Some(2.0 * wall) }));
        in_turns(Protocol { warmup: 0, runs: 1, rounds: 3 }, None, vec![contender]).remove(0)
    }

    #[test]
    fn ratios_compare_the_first_model_with_each() {
        let task = Task { work: Work::Forward, size: [224, 224], batch: 1, precision: Precision::Float32, threads: Some(2) };
        let models = vec![
            Contestant { name: "ours".into(), ours: true, rounds: rounds(0.5) },
            Contestant { name: "peer".into(), ours: false, rounds: rounds(0.25) },
            Contestant { name: "broken".into(), ours: false, rounds: Err("no such model".into()) },
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
