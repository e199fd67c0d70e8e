//! `train_seg` and `train_det` follow whole training runs of mmsegmentation 1.2.2 and mmdetection 3.3.0, step by step.
//!
//! `$VMAMBA_SHARED/fixtures/trajectories` holds the recorded runs: losses, gradient norm and learning rate of every step, and the
//! weights after the last one. Nothing in them is random, and the images come in the order that the project's own sampler draws. The
//! README.md there lists the software versions and says how each bound was chosen. One test a case.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tests::tool::{program, run};
use tests::{FixtureTensor, fixtures_root, present, read_tensors};

const TRAIN_SEG: &str = program::TRAIN_SEG;
const TRAIN_DET: &str = program::TRAIN_DET;

/// Steps in which the tight bounds hold. Two float32 runs drift apart afterwards: each step starts from the rounding of all before it.
const EARLY_STEPS: usize = 20;

/// Largest relative difference of a quantity in the first [`EARLY_STEPS`] steps and after them.
struct Bound {
    early: f64,
    late: f64,
}

/// PyTorch in float32 differs from itself in float64 by up to 1.4e-6 in the early steps and 1e-5 after. The smallest mistake that the
/// README measured, a weight decay of 0.049 for 0.05, moves a loss by 1.1e-5.
const LOSS: Bound = Bound { early: 1e-5, late: 1e-4 };

/// The norm sums the squares of all gradients, so it meets the kinks of ReLU and L1 before the loss does: PyTorch differs from itself
/// by up to 1e-3 over a whole run.
const GRADIENT_NORM: Bound = Bound { early: 1e-4, late: 1e-3 };

/// The schedule is float64 arithmetic on both sides; 1e-9 leaves room for another order of the multiplications only.
const LEARNING_RATE: Bound = Bound { early: 1e-9, late: 1e-9 };

/// How far a parameter may end from the reference, relative to the distance that the reference moved it.
const MOVEMENT: f64 = 1e-2;

/// A parameter is compared when float32 and float64 runs of PyTorch agree on it within this, relative to its largest movement. The
/// others have no influence on the loss: AdamW turns the rounding noise of their gradients into steps of full length.
const REPRODUCIBLE: f64 = 1e-2;

/// Divisor of a relative difference when the expected value is zero.
const SMALLEST: f64 = 1e-12;

/// Failures that are printed; a wrong schedule fails every step.
const PRINTED: usize = 20;

/// Configuration keys that were renamed since the runs were recorded, as dotted paths: (key in the fixture, key today).
const RENAMED: &[(&str, &str)] = &[];

/// Values that were renamed since the runs were recorded, as TOML.
const RENAMED_VALUES: &[(&str, &str)] = &[("decay_rule = \"vmamba-substring\"", "decay_rule = \"published\"")];

#[test]
fn adamw_with_poly_decay_follows_mmsegmentation() {
    follows_the_reference("seg_adamw", TRAIN_SEG);
}

#[test]
fn accumulation_and_clipping_follow_mmsegmentation() {
    follows_the_reference("seg_accumulation_clip", TRAIN_SEG);
}

#[test]
fn adamw_with_step_decay_follows_mmdetection() {
    follows_the_reference("det_adamw", TRAIN_DET);
}

#[test]
fn sgd_with_frozen_stages_follows_mmdetection() {
    follows_the_reference("det_resnet_sgd", TRAIN_DET);
}

#[test]
fn a_renamed_key_keeps_its_value() {
    let text = "seed = 3\n[train]\nlr = 0.5\nsteps = 7\n[train.schedule]\nwarmup = 2\n";
    let table = [("train.lr", "train.optimizer.lr"), ("train.schedule.warmup", "schedule.warmup_iterations"), ("absent", "present")];
    let expected = "seed = 3\n[train]\nsteps = 7\n[train.schedule]\n[train.optimizer]\nlr = 0.5\n[schedule]\nwarmup_iterations = 2\n";
    assert_eq!(parse(&rename(text, &table)), parse(expected));
    assert_eq!(parse(&rename(text, &[])), parse(text));
}

/// Trains the case with `program` and compares every step and the final weights.
fn follows_the_reference(case: &str, program: &str) {
    if !present("trajectories") {
        return;
    }
    let root = fixtures_root().join("trajectories");
    let folder = root.join("cases").join(case);
    let expected: Expected = Expected::read(&folder.join("expected.json"));
    assert!(program.ends_with(&expected.tool), "{case}: recorded for {}, run with {program}", expected.tool);

    let temporary = tempfile::tempdir().expect("a temporary folder");
    let config = temporary.path().join("config.toml");
    let out = temporary.path().join("run");
    let text = fs::read_to_string(folder.join("config.toml")).expect("the configuration of the case");
    fs::write(&config, translate(&text)).expect("the configuration can be written");
    let initial = root.join(&expected.weights);
    let data = root.join(&expected.data);
    let arguments = [
        "--config".into(),
        config.into_os_string(),
        "--data".into(),
        data.into_os_string(),
        "--set".into(),
        format!("init={}", initial.display()).into(),
        "--out".into(),
        out.clone().into_os_string(),
    ];
    run(program, &arguments).succeeded();

    let mut comparison = Comparison { case, compared: 0, largest: BTreeMap::new(), failures: Vec::new() };
    comparison.steps(&train_lines(&out.join("metrics.jsonl")), &expected.steps);
    let found = read_tensors(&out.join("last.safetensors"));
    comparison.movements(&read_tensors(&initial), &found, &expected.movements);
    if expected.all_values {
        comparison.values(&found, &read_tensors(&folder.join("final.safetensors")), &expected.movements);
    }
    comparison.finish();
}

/// Rewrites the keys and values that were renamed since the runs were recorded.
fn translate(config_text: &str) -> String {
    let text = rename(config_text, RENAMED);
    RENAMED_VALUES.iter().fold(text, |text, (old, new)| text.replace(old, new))
}

/// Moves the value of each old key to its new key. Keys that the text lacks are ignored.
fn rename(text: &str, table: &[(&str, &str)]) -> String {
    let mut root = parse(text);
    for (old, new) in table {
        let Some(value) = take(&mut root, old) else { continue };
        let (parents, name) = new.rsplit_once('.').map_or((None, *new), |(parents, name)| (Some(parents), name));
        let mut parent = &mut root;
        for step in parents.into_iter().flat_map(|parents| parents.split('.')) {
            let next = parent.entry(step).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            parent = next.as_table_mut().unwrap_or_else(|| panic!("{new}: `{step}` is not a table"));
        }
        assert!(parent.insert(name.to_owned(), value).is_none(), "the configuration has both {old} and {new}");
    }
    toml::to_string(&root).expect("a TOML document")
}

/// Removes the value of a dotted key.
fn take(root: &mut toml::Table, key: &str) -> Option<toml::Value> {
    let Some((first, rest)) = key.split_once('.') else { return root.remove(key) };
    take(root.get_mut(first)?.as_table_mut()?, rest)
}

fn parse(text: &str) -> toml::Table {
    text.parse().unwrap_or_else(|error| panic!("the configuration is not valid TOML: {error}\n{text}"))
}

/// The lines of a training log that describe an optimiser step.
fn train_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")));
    lines.filter(|line: &Value| line["kind"] == "train").collect()
}

/// `expected.json` of a case.
struct Expected {
    tool: String,
    /// Folder of the images and labels, relative to the folder of the trajectories.
    data: String,
    /// Initial weights, relative to the folder of the trajectories.
    weights: String,
    /// One object a step.
    steps: Vec<Value>,
    movements: BTreeMap<String, Movement>,
    /// Whether `final.safetensors` holds all values after the last step.
    all_values: bool,
}

/// How the reference moved one parameter or running statistic from its initial value.
struct Movement {
    /// Euclidean length of the movement.
    l2: f64,
    /// Largest movement of one value.
    max: f64,
    /// Difference of the float32 and the float64 run, relative to `max`.
    noise: f64,
}

impl Expected {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let root: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let string = |key: &str| root[key].as_str().unwrap_or_else(|| panic!("{}: no string {key}", path.display())).to_owned();
        let movement = |(key, value): (&String, &Value)| {
            let movement = Movement { l2: number(value, "moved_l2"), max: number(value, "moved_max"), noise: number(value, "f32_vs_f64") };
            (key.clone(), movement)
        };
        Self {
            tool: string("tool"),
            data: string("data"),
            weights: string("weights"),
            // `reference` names the run to compare with.
            steps: root[string("reference")].as_array().expect("the steps of the reference").clone(),
            movements: root["final"].as_object().expect("the final parameters").iter().map(movement).collect(),
            all_values: root["full_final"].as_bool().expect("full_final is a boolean"),
        }
    }
}

/// The number called `key`; NaN, which no bound admits, when there is none.
fn number(object: &Value, key: &str) -> f64 {
    object[key].as_f64().unwrap_or(f64::NAN)
}

/// Collects all differences, so that one failure shows whether a single step or the whole run is off.
struct Comparison<'a> {
    case: &'a str,
    compared: usize,
    /// Largest error of the losses and of the gradient norm, early and late, for the table in `docs/learning.md`.
    largest: BTreeMap<(&'static str, &'static str), f64>,
    failures: Vec<String>,
}

impl Comparison<'_> {
    /// Records a failure unless `error` is at most `bound`.
    fn check(&mut self, what: &str, found: f64, expected: f64, error: f64, bound: f64) {
        self.compared += 1;
        // NaN fails.
        if error.is_nan() || error > bound {
            self.failures
                .push(format!("{}, {what}: found {found:e}, expected {expected:e}, error {error:.1e}, allowed {bound:.0e}", self.case));
        }
    }

    /// Losses, gradient norm and learning rate of every step.
    fn steps(&mut self, found: &[Value], expected: &[Value]) {
        assert_eq!(found.len(), expected.len(), "{}: number of steps in metrics.jsonl", self.case);
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            let iteration = number(expected, "iteration");
            assert_eq!(number(found, "iteration"), iteration, "{}: iteration of step {}", self.case, index + 1);
            for key in expected.as_object().expect("an object a step").keys() {
                let (quantity, bound) = match key.as_str() {
                    "lr" => ("learning rate", LEARNING_RATE),
                    "gradient_norm" => ("gradient norm", GRADIENT_NORM),
                    loss if loss.contains("loss") => ("loss", LOSS),
                    // Accuracies jump by one pixel or one box where two logits nearly tie.
                    _ => continue,
                };
                let (found, expected) = (number(found, key), number(expected, key));
                let error = (found - expected).abs() / expected.abs().max(SMALLEST);
                let (steps, bound) = if index < EARLY_STEPS { ("early", bound.early) } else { ("late", bound.late) };
                let largest = self.largest.entry((quantity, steps)).or_default();
                *largest = largest.max(error);
                self.check(&format!("step {iteration}, {key}"), found, expected, error, bound);
            }
        }
    }

    /// The distance of every final parameter from its initial value. A frozen parameter has not moved at all.
    fn movements(
        &mut self,
        initial: &BTreeMap<String, FixtureTensor>,
        found: &BTreeMap<String, FixtureTensor>,
        expected: &BTreeMap<String, Movement>,
    ) {
        for (key, movement) in expected.iter().filter(|(_, movement)| movement.noise <= REPRODUCIBLE) {
            let (initial, found) = (self.tensor(initial, key), self.tensor(found, key));
            assert_eq!(found.shape, initial.shape, "{}: shape of {key}", self.case);
            let squares: f64 = found.values.iter().zip(&initial.values).map(|(found, initial)| (found - initial).powi(2)).sum();
            let moved = squares.sqrt();
            let error = if movement.l2 == 0.0 { moved } else { (moved - movement.l2).abs() / movement.l2 };
            let bound = if movement.l2 == 0.0 { 0.0 } else { MOVEMENT };
            self.check(&format!("last step, movement of {key}"), moved, movement.l2, error, bound);
        }
    }

    /// The values of every final parameter; of each parameter the worst value is reported.
    fn values(
        &mut self,
        found: &BTreeMap<String, FixtureTensor>,
        expected: &BTreeMap<String, FixtureTensor>,
        movements: &BTreeMap<String, Movement>,
    ) {
        for (key, movement) in movements.iter().filter(|(_, movement)| movement.noise <= REPRODUCIBLE) {
            let (found, expected) = (self.tensor(found, key), self.tensor(expected, key));
            assert_eq!(found.shape, expected.shape, "{}: shape of {key}", self.case);
            let pairs = found.values.iter().zip(&expected.values);
            let errors = pairs.map(|(found, expected)| (found - expected).abs() / movement.max.max(SMALLEST));
            // In the order of `total_cmp` a NaN is the largest.
            let (worst, error) = errors.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).expect("no parameter is empty");
            let what = format!("last step, value {worst} of {key}");
            self.check(&what, found.values[worst], expected.values[worst], error, MOVEMENT);
        }
    }

    fn tensor<'t>(&self, tensors: &'t BTreeMap<String, FixtureTensor>, key: &str) -> &'t FixtureTensor {
        tensors.get(key).unwrap_or_else(|| panic!("{}: no tensor {key}", self.case))
    }

    fn finish(self) {
        println!("{}: {} values compared", self.case, self.compared);
        for ((quantity, steps), error) in &self.largest {
            println!("{}: largest error of the {quantity}, {steps} steps: {error:.1e}", self.case);
        }
        let shown = &self.failures[..self.failures.len().min(PRINTED)];
        let count = self.failures.len();
        assert!(count == 0, "{count} of {} values differ, the first of them:\n  {}", self.compared, shown.join("\n  "));
    }
}
