//! Speed beside other implementations: our models and, through a Python worker, PyTorch's, run in turns on the same machine.

mod worker;

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::prelude::*;
use burn::tensor::Distribution;
use serde_json::{Value, json};
use vmamba::{Preset, VmambaClassifier};

use crate::engine::process::cpu_seconds;
use crate::report::plots::{Series, line_plot};
use crate::report::tables::{Cell, Table};

pub use worker::{Peers, Versions};

/// What one measurement runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Task {
    /// Height and width of the images in pixels.
    pub side: usize,
    /// Images at once.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Forward and backward of a cross-entropy loss rather than a forward pass.
    pub train: bool,
}

impl Task {
    /// `forward, 224x224, batch 1, 2 threads`.
    pub fn name(&self) -> String {
        let Self { side, batch, threads, train } = *self;
        let (what, s) = (if train { "training step" } else { "forward" }, if threads == 1 { "" } else { "s" });
        format!("{what}, {side}x{side}, batch {batch}, {threads} thread{s}")
    }
}

/// Seconds of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// On the clock.
    pub wall: f64,
    /// Of all threads of the process together.
    pub cpu: f64,
}

/// The runs of one model, or why there are none.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Model.
    pub name: String,
    /// Whether it is one of ours.
    pub ours: bool,
    /// The runs in order, without the warm-up; the reason when the model could not run.
    pub runs: Result<Vec<Timing>, String>,
}

/// All models on one task.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What was run.
    pub task: Task,
    /// Ours first.
    pub models: Vec<Measured>,
}

/// Runs `ours` and `peers` in turns: one warm-up each, then `runs` rounds of one run of every model.
///
/// # Errors
/// When the Python worker dies. A peer that refuses a task is a row that says so.
pub fn compare(task: Task, ours: &[Preset], peers: &mut Option<Peers>, names: &[String], runs: usize) -> Result<Comparison> {
    if task.threads == 0 || task.side < 32 || task.batch == 0 || runs == 0 {
        bail!("threads, batch and runs must be at least 1 and the side at least 32: {}, {runs} runs", task.name());
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(task.threads).build()?;
    let mut models: Vec<Measured> = Vec::new();
    let mut networks = Vec::new();
    for preset in ours {
        let network = pool.install(|| Network::new(*preset, task));
        pool.install(|| network.run());
        networks.push(network);
        models.push(Measured { name: preset.name().to_owned(), ours: true, runs: Ok(Vec::new()) });
    }
    // The worker holds one peer at a time, so that each peer gets rounds of its own against all of ours.
    for name in names {
        let Some(peers) = peers.as_mut() else { break };
        let ready = peers.set_up(name, task)?;
        let mut timings = match ready {
            Ok(()) => peers.run()?.map(|_| Vec::with_capacity(runs)),
            Err(reason) => Err(reason),
        };
        for _ in 0..runs {
            for (network, model) in networks.iter().zip(&mut models) {
                let timing = pool.install(|| timed(|| network.run()));
                if let Ok(timings) = &mut model.runs {
                    timings.push(timing);
                }
            }
            let Ok(all) = &mut timings else { break };
            match peers.run()? {
                Ok(timing) => all.push(timing),
                Err(reason) => timings = Err(reason),
            }
        }
        models.push(Measured { name: name.clone(), ours: false, runs: timings });
    }
    if models.iter().all(|model| model.ours) {
        for _ in 0..runs {
            for (network, model) in networks.iter().zip(&mut models) {
                let timing = pool.install(|| timed(|| network.run()));
                if let Ok(timings) = &mut model.runs {
                    timings.push(timing);
                }
            }
        }
    }
    Ok(Comparison { task, models })
}

/// One of our classifiers with images to work on.
struct Network {
    model: VmambaClassifier,
    images: Tensor<4>,
    labels: Option<Tensor<1, Int>>,
}

impl Network {
    fn new(preset: Preset, task: Task) -> Self {
        let device = if task.train { Device::flex().autodiff() } else { Device::flex() };
        device.seed(0);
        let model = preset.config().init_classifier(1000, &device);
        let images = Tensor::random([task.batch, 3, task.side, task.side], Distribution::Normal(0.0, 1.0), &device);
        let labels = task.train.then(|| Tensor::arange(0..task.batch as i64, &device));
        Self { model, images, labels }
    }

    /// To the last number: results that nobody reads might otherwise never be computed.
    fn run(&self) {
        let logits = self.model.forward(self.images.clone());
        match &self.labels {
            Some(labels) => {
                let loss = CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, labels.clone());
                std::hint::black_box(loss.backward());
            }
            None => {
                std::hint::black_box(logits.into_data());
            }
        }
    }
}

fn timed(work: impl FnOnce()) -> Timing {
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    work();
    Timing { wall: wall.elapsed().as_secs_f64(), cpu: cpu_seconds() - cpu }
}

/// Smallest and middle value; of an even number the lower of the two in the middle.
pub fn min_and_median(values: impl IntoIterator<Item = f64>) -> Option<[f64; 2]> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    Some([*values.first()?, *values.get((values.len() - 1) / 2)?])
}

impl Measured {
    fn seconds(&self, of: fn(&Timing) -> f64) -> Option<[f64; 2]> {
        min_and_median(self.runs.as_ref().ok()?.iter().map(of))
    }
}

/// One table for all tasks: CPU and wall seconds (minimum and median), and how long the first of our models takes beside each.
pub fn table(comparisons: &[Comparison]) -> Table {
    let columns = ["task", "model", "CPU s, min", "CPU s, median", "wall s, min", "wall s, median", "ours / this, wall", "note"];
    let mut table = Table::new(columns);
    for comparison in comparisons {
        let ours = comparison.models.first().and_then(|model| model.seconds(|t| t.wall));
        for model in &comparison.models {
            let mut row = vec![Cell::from(comparison.task.name()), Cell::from(model.name.as_str())];
            let wall = model.seconds(|t| t.wall);
            for pair in [model.seconds(|t| t.cpu), wall] {
                row.extend(pair.map_or([Cell::Missing, Cell::Missing], |pair| pair.map(|seconds| Cell::Number(seconds, 4))));
            }
            row.push(ours.zip(wall).map_or(Cell::Missing, |(ours, this)| Cell::Number(ours[1] / this[1], 2)));
            row.push(model.runs.as_ref().err().map_or_else(|| Cell::from(""), |reason| Cell::from(reason.as_str())));
            table.push(row);
        }
    }
    table
}

/// Every single run, for programs.
pub fn json(comparisons: &[Comparison], versions: Option<&Versions>) -> Value {
    let comparison = |comparison: &Comparison| {
        let Task { side, batch, threads, train } = comparison.task;
        let model = |model: &Measured| match &model.runs {
            Ok(runs) => json!({
                "name": model.name, "ours": model.ours,
                "wall": runs.iter().map(|t| t.wall).collect::<Vec<_>>(), "cpu": runs.iter().map(|t| t.cpu).collect::<Vec<_>>(),
            }),
            Err(reason) => json!({ "name": model.name, "ours": model.ours, "error": reason }),
        };
        json!({
            "side": side, "batch": batch, "threads": threads, "train": train,
            "models": comparison.models.iter().map(model).collect::<Vec<_>>(),
        })
    };
    json!({
        "torch": versions.map(|v| &v.torch), "torchvision": versions.map(|v| &v.torchvision),
        "tasks": comparisons.iter().map(comparison).collect::<Vec<_>>(),
    })
}

/// Median wall time of a forward pass for every million pixels over the side of the image, a curve for each model and number of threads.
///
/// # Errors
/// When no forward pass was measured and when a file cannot be written.
pub fn plot(comparisons: &[Comparison], png: &Path, svg: &Path) -> Result<()> {
    let mut series: Vec<Series> = Vec::new();
    for comparison in comparisons.iter().filter(|comparison| !comparison.task.train) {
        let Task { side, batch, threads, .. } = comparison.task;
        for model in &comparison.models {
            let Some([_, median]) = model.seconds(|t| t.wall) else { continue };
            let name = format!("{}, {threads} thread{}", model.name, if threads == 1 { "" } else { "s" });
            let point = (side as f64, median * 1e3 / ((batch * side * side) as f64 / 1e6));
            match series.iter_mut().find(|series| series.name == name) {
                Some(series) => series.points.push(point),
                None => series.push(Series::dots(name, vec![point])),
            }
        }
    }
    line_plot(Some(png), Some(svg), "Forward pass", "side of the image, pixels", "milliseconds for a million pixels", &series)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_is_a_value_that_was_measured() {
        assert_eq!(min_and_median([4.0, 1.0, 3.0, 2.0]), Some([1.0, 2.0]));
        assert_eq!(min_and_median([5.0]), Some([5.0, 5.0]));
        assert_eq!(min_and_median([]), None);
    }

    #[test]
    fn ratios_compare_the_first_model_with_each() {
        let task = Task { side: 224, batch: 1, threads: 2, train: false };
        let runs = |wall: f64| Ok(vec![Timing { wall, cpu: 2.0 * wall }; 3]);
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
        assert_eq!(json(&comparisons, None)["tasks"][0]["models"][2]["error"], "no such model");
    }
}
