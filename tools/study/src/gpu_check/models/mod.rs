//! Networks on the device against results of the official implementations: outputs and, where the fixtures have them, gradients.

mod backbone;
mod mask_rcnn;
mod upernet;

use std::collections::BTreeSet;

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::Gradients;
use vmamba::checkpoint::{LoadOptions, StateDict, load_into};
use vmamba_panics::catch;
use vmamba_report::tables::Cell;
use vmamba_train::Precision;

use super::fixtures::{Fixture, FixtureSet};
use super::numerics::{Worst, error, values};
use super::precision::{Float32, Product};
use super::session::{Outcome, Session};
use super::{Facts, Part, Setup};
use crate::error::{Place, Result, StudyError};

const COLUMNS: [&str; 8] = ["case", "precision", "tensors", "forward error", "worst tensor", "gradient error", "worst gradient", "limits"];

/// The limit for gradients over that for outputs: the backward pass adds a second, longer chain of float32 sums.
const GRADIENT_FACTOR: f64 = 10.0;

/// Maps a path in a module to the official key.
type KeyMap = fn(&str) -> String;

/// Runs a case, `FOLDER/NAME`, on a device.
type Check = fn(&FixtureSet, &str, &Device) -> Result<Compared>;

pub(super) fn run(setup: &Setup, session: &mut Session, facts: &mut Facts) -> Result<()> {
    session.part(Part::ParityModels, &COLUMNS)?;
    let Some(fixtures) = &setup.fixtures else {
        return session.note("not run: no --fixtures DIR with numbers of the official implementations");
    };
    Precision::Float32.adopt(&setup.device)?;
    let mut cases: Vec<(String, Check)> = Vec::new();
    for folder in fixtures.folders("backbone_")? {
        let own = fixtures.cases(&folder)?.into_iter().filter(|name| name != "weights");
        cases.extend(own.map(|name| (format!("{folder}/{name}"), backbone::pyramid as Check)));
    }
    cases.extend(fixtures.folders("classifier_")?.into_iter().map(|folder| (format!("{folder}/data"), backbone::classifier as Check)));
    let heads = [
        ("upernet", "stages_eval", upernet::stages as Check),
        ("upernet", "train", upernet::training_step),
        ("maskrcnn", "stages", mask_rcnn::stages),
        ("maskrcnn", "train", mask_rcnn::training_step),
    ];
    for (folder, name, check) in heads {
        let present = fixtures.cases(folder)?.iter().any(|case| case == name);
        if present {
            cases.push((format!("{folder}/{name}"), check));
        } else {
            session.note(format!("not run: {folder}/{name} is not among the fixtures"))?;
        }
    }
    for (name, check) in cases {
        if !session.begin(&name)? {
            continue;
        }
        let outcome = catch(|| check(fixtures, &name, &setup.device)).and_then(|found| found.map_err(|error| error.line()));
        setup.device.memory_cleanup();
        row(setup, session, facts, &name, outcome)?;
    }
    Ok(())
}

fn row(setup: &Setup, session: &mut Session, facts: &mut Facts, name: &str, outcome: Result<Compared, String>) -> Result<()> {
    let mut title: Vec<Cell> = vec![name.into()];
    let outcome = match outcome {
        Ok(Compared { tensors: 0, .. }) => {
            facts.failed += 1;
            Outcome::Failed("the case has no tensors to compare".to_owned())
        }
        Ok(Compared { forward, gradients, tensors }) => {
            let [limit, gradient_limit] = [setup.tolerance, GRADIENT_FACTOR * setup.tolerance];
            let [forward_error, gradient_error] = [&forward, &gradients].map(|worst| worst.error().map_or(Cell::Missing, Cell::Scientific));
            let place = |worst: &Worst| Cell::from(worst.name().map(str::to_owned));
            title.push(precision(&setup.device).into());
            let limits = format!("{limit:.0e}, gradients {gradient_limit:.0e}");
            let cells = vec![tensors.into(), forward_error, place(&forward), gradient_error, place(&gradients), limits.into()];
            if let Some(error) = forward.error() {
                facts.errors.add(name, error);
            }
            if forward.exceeds(limit) || gradients.exceeds(gradient_limit) {
                facts.failed += 1;
                Outcome::TooLarge(cells, String::new())
            } else {
                Outcome::Measured(cells, String::new())
            }
        }
        Err(reason) => {
            facts.failed += 1;
            Outcome::Failed(reason)
        }
    };
    session.row(title, outcome)
}

/// The type that the device computes a product and a convolution of the fixtures' size in.
fn precision(device: &Device) -> String {
    let products = [
        Product::Linear { rows: 384, inputs: 64, outputs: 256 },
        Product::Conv { batch: 2, size: [16, 24], inputs: 32, outputs: 32, stride: 1 },
    ];
    match catch(|| Float32::of(device, &products)) {
        Ok(Ok(float32)) => float32.name(),
        Ok(Err(error)) => format!("unknown: {}", error.line()),
        Err(reason) => format!("unknown: {reason}"),
    }
}

/// The folder and the name of a case.
fn parts(name: &str) -> Result<(&str, &str)> {
    name.split_once('/').ok_or_else(|| StudyError::content(name)("not FOLDER/CASE"))
}

/// The errors of a case.
#[derive(Default)]
struct Compared {
    forward: Worst,
    gradients: Worst,
    tensors: usize,
}

impl Compared {
    /// Compares a tensor with the tensor `name` of the case.
    fn tensor<const D: usize>(&mut self, name: &str, actual: Tensor<D>, case: &Fixture) -> Result<()> {
        let expected = case.get(name)?;
        if actual.dims()[..] != expected.shape {
            return Err(StudyError::Run(format!("{name} has the shape {:?}, the reference {:?}", actual.dims(), expected.shape)));
        }
        self.forward.add(name, error(&values(actual)?, &expected.data)?);
        self.tensors += 1;
        Ok(())
    }

    /// Compares a number.
    fn scalar(&mut self, name: &str, actual: f64, expected: f64) -> Result<()> {
        self.forward.add(name, error(&[actual as f32], &[expected as f32])?);
        self.tensors += 1;
        Ok(())
    }

    /// Compares the gradient of an input.
    fn gradient<const D: usize>(&mut self, name: &str, of: &Tensor<D>, gradients: &Gradients, case: &Fixture) -> Result<()> {
        let gradient = of.grad(gradients).ok_or_else(|| StudyError::Run(format!("no gradient for {name}")))?;
        self.gradients.add(name, error(&values(gradient)?, &case.get(name)?.data)?);
        self.tensors += 1;
        Ok(())
    }

    /// Compares the gradients of parameters with the tensors `g.<official key>` of the case.
    fn parameters<M: Module>(&mut self, module: &M, keys: KeyMap, gradients: &Gradients, case: &Fixture) -> Result<()> {
        let expected = case.with_prefix("g.");
        let (path, found, seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut visitor = ParameterGradients { keys, gradients, expected: &expected, path, found, seen };
        module.visit(&mut visitor);
        if let Some(key) = expected.keys().find(|key| !visitor.seen.contains(*key)) {
            return Err(StudyError::Run(format!("no parameter has the key of the gradient `{key}`")));
        }
        for (key, found) in visitor.found {
            self.gradients.add(&key, found.at(key.as_str())?);
            self.tensors += 1;
        }
        Ok(())
    }
}

struct ParameterGradients<'a> {
    keys: KeyMap,
    gradients: &'a Gradients,
    expected: &'a StateDict,
    path: Vec<String>,
    found: Vec<(String, Result<f64>)>,
    seen: BTreeSet<String>,
}

impl ModuleVisitor for ParameterGradients<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = (self.keys)(&self.path.join("."));
        if let Some(expected) = self.expected.get(&key) {
            let gradient = param.val().grad(self.gradients).ok_or_else(|| StudyError::Run("no gradient".to_owned())).and_then(values);
            self.found.push((key.clone(), gradient.and_then(|gradient| error(&gradient, &expected.data))));
            self.seen.insert(key);
        }
    }
}

/// Loads official weights strictly.
fn load<M: Module>(module: M, keys: KeyMap, weights: &StateDict) -> Result<M> {
    Ok(load_into(module, &keys, weights, &LoadOptions::new())?.0)
}
