//! Every operation of `vision_ops` on the device against the CPU: the output with and without autodiff, and the gradient of every input.

mod cases;

use burn::prelude::*;
use burn::tensor::{Distribution, FloatDType, TensorData};
use vision_ops::Operation;
use vmamba_panics::catch;
use vmamba_report::tables::Cell;
use vmamba_train::Precision;

use super::numerics::{Worst, error, round_to_bf16, values};
use super::precision::{BF16, Float32};
use super::session::{Outcome, Session};
use super::{Facts, Part, Setup};
use crate::error::{Result, StudyError};
use cases::{Case, Function, HostFunction, Run, Scores};

const COLUMNS: [&str; 7] = ["operation", "shape", "precision", "forward error", "gradient error", "worst gradient", "limit"];

/// The operations that run on a device; the others take and return plain numbers on the host.
pub fn checked_operations() -> impl Iterator<Item = Operation> {
    Operation::ALL.iter().copied().filter(|operation| !operation.is_host_only())
}

pub(super) fn run(setup: &Setup, session: &mut Session, facts: &mut Facts) -> Result<()> {
    session.part(Part::ParityOps, &COLUMNS)?;
    let wanted = |operation: &Operation| setup.operations.is_empty() || setup.operations.contains(operation);
    for precision in &setup.precisions {
        if let Err(error) = precision.adopt(&setup.device) {
            session.note(format!("{} not run: {error}", precision.name()))?;
            continue;
        }
        for case in checked_operations().filter(wanted).flat_map(cases::of) {
            let operation = case.operation.name();
            let name = format!("{operation} {} in {}", case.shape, precision.name());
            if !session.begin(&name)? {
                continue;
            }
            let outcome = catch(|| check(&case, *precision, setup)).and_then(|checked| checked.map_err(|error| error.line()));
            let title = vec![operation.into(), case.shape.as_str().into()];
            setup.device.memory_cleanup();
            row(setup, session, facts, &name, title, *precision, outcome)?;
        }
    }
    Ok(())
}

fn row(
    setup: &Setup,
    session: &mut Session,
    facts: &mut Facts,
    name: &str,
    mut title: Vec<Cell>,
    precision: Precision,
    outcome: Result<Checked, String>,
) -> Result<()> {
    let limit = setup.limit(precision);
    let scientific = |error: Option<f64>| error.map_or(Cell::Missing, Cell::Scientific);
    let outcome = match outcome {
        Ok(checked) => {
            title.push(checked.precision.into());
            let cells = vec![
                scientific(checked.forward.error()),
                scientific(checked.gradients.error()),
                checked.gradients.name().map(str::to_owned).into(),
                Cell::Scientific(limit),
            ];
            if precision == Precision::Float32 {
                for worst in [&checked.forward, &checked.gradients] {
                    worst.error().into_iter().for_each(|error| facts.errors.add(name, error));
                }
            }
            if checked.forward.exceeds(limit) || checked.gradients.exceeds(limit) {
                facts.failed += 1;
                Outcome::TooLarge(cells, checked.note)
            } else {
                Outcome::Measured(cells, checked.note)
            }
        }
        Err(reason) => {
            facts.failed += 1;
            title.push(precision.name().into());
            Outcome::Failed(reason)
        }
    };
    session.row(title, outcome)
}

struct Checked {
    forward: Worst,
    gradients: Worst,
    precision: String,
    note: String,
}

fn check(case: &Case, precision: Precision, setup: &Setup) -> Result<Checked> {
    let cpu = Device::flex();
    let inputs = draw(case, precision, &cpu);
    let (mut forward, mut gradients, mut note) = (Worst::default(), Worst::default(), String::new());
    match &case.run {
        Run::Function(function) => {
            let expected = evaluate(case, function, &inputs, Precision::Float32, &cpu.clone().autodiff(), None)?;
            let actual = evaluate(case, function, &inputs, precision, &setup.device.clone().autodiff(), Some(&expected.weights))?;
            forward.add("output", error(&actual.output, &expected.output)?);
            for ((input, actual), expected) in case.inputs.iter().zip(&actual.gradients).zip(&expected.gradients) {
                gradients.add(input.name, error(actual, expected)?);
            }
            // Epilogues and activations have kernels of their own without autodiff.
            let inferred = |precision, device| values(function(&tensors(case, &inputs, precision, device)).cast(FloatDType::F32));
            forward.add("output without autodiff", error(&inferred(precision, &setup.device)?, &inferred(Precision::Float32, &cpu)?)?);
        }
        Run::Labels { scores, labels } => {
            let [expected, actual] = [tensors(case, &inputs, Precision::Float32, &cpu), tensors(case, &inputs, precision, &setup.device)];
            let score_table = values((scores.resized)(&expected))?;
            note = check_labels(scores, &score_table, &labels(&actual), &labels(&expected), &mut forward)?;
        }
        Run::Kept(kept) => note = check_kept(kept, &inputs, &setup.device, &cpu, &mut forward),
    }
    let precision = match precision {
        Precision::Float32 | Precision::Tf32 => Float32::of(&setup.device, &case.products)?.name(),
        Precision::Bf16 => BF16.to_owned(),
    };
    Ok(Checked { forward, gradients, precision, note })
}

/// Two labels are equally right where their scores tie up to rounding. So the error of a label is the score it loses against the expected
/// label, over the largest score.
fn check_labels(scores: &Scores, table: &[f32], actual: &[u32], expected: &[u32], forward: &mut Worst) -> Result<String> {
    let [classes, pixels, batch] = [scores.classes, scores.pixels, scores.batch];
    if actual.len() != batch * pixels {
        return Err(StudyError::Run(format!("{} labels for {} pixels", actual.len(), batch * pixels)));
    }
    let score = |pixel: usize, label: u32| {
        let at = (pixel / pixels * classes + label as usize) * pixels + pixel % pixels;
        table.get(at).copied().map(f64::from).ok_or_else(|| StudyError::Run(format!("label {label} of {classes} classes")))
    };
    let largest = table.iter().fold(0.0_f64, |largest, score| largest.max(f64::from(score.abs())));
    for (pixel, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        forward.add("labels", (score(pixel, *expected)? - score(pixel, *actual)?).abs() / largest);
    }
    let different = actual.iter().zip(expected).filter(|(actual, expected)| actual != expected).count();
    Ok(format!("{different} of {} labels differ; the error is the score they lose", actual.len()))
}

/// The error is the share of positions at which the lists of kept boxes differ.
fn check_kept(kept: &HostFunction<Vec<usize>>, inputs: &[Vec<f32>], device: &Device, cpu: &Device, forward: &mut Worst) -> String {
    let [actual, expected] = [kept(inputs, device), kept(inputs, cpu)];
    let positions = actual.len().max(expected.len());
    let different = (0..positions).filter(|position| actual.get(*position) != expected.get(*position)).count();
    forward.add("kept", different as f64 / positions.max(1) as f64);
    format!("{different} of {positions} kept boxes differ; the error is their share")
}

/// Values of the inputs, the same for both devices. With bf16 activations the values are rounded to bf16 first, so that the error is that
/// of the operation alone.
fn draw(case: &Case, precision: Precision, cpu: &Device) -> Vec<Vec<f32>> {
    cpu.seed(7);
    case.inputs
        .iter()
        .map(|input| {
            let spread = Distribution::Normal(f64::from(input.mean), f64::from(input.spread));
            let drawn = Tensor::<1>::random([input.shape.iter().product::<usize>()], spread, cpu).into_data();
            let round = |value: f32| if precision == Precision::Bf16 && input.activation { round_to_bf16(value) } else { value };
            drawn.iter::<f32>().map(round).collect()
        })
        .collect()
}

fn leaves(inputs: &[Vec<f32>], device: &Device) -> Vec<Tensor<1>> {
    inputs.iter().map(|values| Tensor::from_data(TensorData::new(values.clone(), [values.len()]), device)).collect()
}

fn typed(case: &Case, leaves: &[Tensor<1>], precision: Precision) -> Vec<Tensor<1>> {
    let cast = |(leaf, input): (&Tensor<1>, &cases::Input)| match precision {
        Precision::Bf16 if input.activation => leaf.clone().cast(precision.dtype()),
        _ => leaf.clone(),
    };
    leaves.iter().zip(&case.inputs).map(cast).collect()
}

fn tensors(case: &Case, inputs: &[Vec<f32>], precision: Precision, device: &Device) -> Vec<Tensor<1>> {
    typed(case, &leaves(inputs, device), precision)
}

struct Evaluated {
    output: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    weights: Vec<f32>,
}

/// The output, and the gradients of its weighted sum. The random weights are drawn on the host unless they are given.
fn evaluate(
    case: &Case,
    function: &Function<Tensor<1>>,
    inputs: &[Vec<f32>],
    precision: Precision,
    device: &Device,
    weights: Option<&[f32]>,
) -> Result<Evaluated> {
    let leaves: Vec<Tensor<1>> = leaves(inputs, device).into_iter().map(Tensor::require_grad).collect();
    let output = function(&typed(case, &leaves, precision)).cast(FloatDType::F32);
    let weights = match weights {
        Some(weights) => weights.to_vec(),
        None => values(Tensor::<1>::random(output.dims(), Distribution::Normal(0.0, 1.0), &device.clone().inner()))?,
    };
    let weight = Tensor::<1>::from_data(TensorData::new(weights.clone(), [weights.len()]), device);
    let found = (output.clone() * weight).sum().backward();
    let gradient = |(leaf, input): (&Tensor<1>, &cases::Input)| {
        values(leaf.grad(&found).ok_or_else(|| StudyError::Run(format!("`{}` received no gradient", input.name)))?)
    };
    let gradients = leaves.iter().zip(&case.inputs).map(gradient).collect::<Result<Vec<_>>>()?;
    Ok(Evaluated { output: values(output)?, gradients, weights })
}
