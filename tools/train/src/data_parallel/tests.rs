//! What can be tested without two NVIDIA GPUs. Burn has no all-reduce on the CPU, so on several CPU "devices" threads that meet at a barrier
//! compute the mean. Everything around Burn's `all_reduce` is tested; its call on CUDA devices (`burn_mean`) and NCCL are not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Barrier, Mutex};

use burn::nn::{BatchNorm, BatchNormConfig};
use vmamba::checkpoint::{Checkpoint, StateDict, Weights, state_dict_of};

use super::*;
use crate::config::{NonFinite, TrainConfig};
use crate::error::{BoxError, TrainError};
use crate::freeze::freeze;
use crate::guard::Incident;
use crate::observer::{CheckpointKind, Observer, Snapshot};
use crate::optimizer::OptimizerConfig;
use crate::parameters::{KeyMap, trainable};
use crate::precision::Precision;
use crate::recipe::{BatchOrder, Batches, Recipe, Scalars, StepContext, StepLoss};
use crate::schedule::ScheduleConfig;
use crate::trainer::{Outcome, Trainer};

/// `count` CPU "devices".
fn cpus(count: usize) -> DeviceGroup {
    let (given, barrier) = (Mutex::new(Vec::<Tensor<1>>::new()), Barrier::new(count));
    let mean = move |own: Tensor<1>| {
        given.lock().unwrap().push(own);
        barrier.wait();
        let sum = given.lock().unwrap().iter().cloned().reduce(|sum, next| sum + next);
        if barrier.wait().is_leader() {
            given.lock().unwrap().clear();
        }
        barrier.wait();
        sum.unwrap() / count as f64
    };
    DeviceGroup::with_mean((0..count).map(|_| Device::flex()), mean).unwrap()
}

#[derive(Module, Debug)]
struct Curve {
    weight: Param<Tensor<1>>,
    /// Only some samples need it.
    rare: Param<Tensor<1>>,
    /// No sample needs it.
    unused: Param<Tensor<1>>,
}

fn curve(device: &Device) -> Curve {
    let param = |values: &[f32]| Param::from_tensor(Tensor::from_floats(values, device));
    Curve { weight: param(&[0.5, -0.25]), rare: param(&[0.75]), unused: param(&[2.0]) }
}

/// Fits a curve to twelve numbers.
#[derive(Default)]
struct Fit {
    /// The sample whose loss is NaN.
    broken: Option<u64>,
    seen: Mutex<Vec<u64>>,
}

const SAMPLES: u64 = 12;

impl Recipe for Fit {
    type Model = Curve;
    type Batch = Vec<u64>;

    fn samples(&self) -> usize {
        SAMPLES as usize
    }

    fn batches(&self, order: BatchOrder) -> Batches<'_, Vec<u64>> {
        let size = order.batch_size as u64;
        Box::new((order.first..).map(move |batch| Ok((batch * size..(batch + 1) * size).map(|sample| sample % SAMPLES).collect())))
    }

    fn loss(&self, model: &Curve, batch: &Vec<u64>, context: &StepContext) -> StepLoss {
        self.seen.lock().unwrap().extend(batch);
        let mut total = Tensor::<1>::zeros([1], &context.device);
        for sample in batch {
            let x = if self.broken == Some(*sample) { f32::NAN } else { (*sample as f32).sin() };
            let inputs = Tensor::<1>::from_floats([x, x * x], &context.device);
            let mut error = (model.weight.val() * inputs).sum() - 1.0;
            // The second half of the samples: with batches of three on two devices, often only one device has some.
            if *sample >= SAMPLES / 2 {
                error = error + model.rare.val();
            }
            total = total + error.square();
        }
        let total = total / batch.len() as f64;
        StepLoss { parts: vec![("error".to_owned(), f64::from(total.clone().into_scalar::<f32>()))], total }
    }

    fn validate(&self, model: &Curve, _device: &Device) -> Result<Scalars, BoxError> {
        Ok(vec![("figure".to_owned(), f64::from(model.rare.val().into_scalar::<f32>()))])
    }

    fn keys(&self) -> KeyMap {
        str::to_owned
    }

    fn sample_names(&self, batch: &Vec<u64>) -> Vec<String> {
        batch.iter().map(u64::to_string).collect()
    }

    fn first_non_finite_module(&self, _model: &Curve, _batch: &Vec<u64>, _context: &StepContext) -> Option<String> {
        Some("the sample".to_owned())
    }
}

/// Keeps the newest checkpoint in a file.
struct Latest(PathBuf);

impl Observer for Latest {
    fn wants_checkpoints(&self) -> bool {
        true
    }

    fn save(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        if snapshot.kind == CheckpointKind::Latest {
            snapshot.write(&self.0)?;
        }
        Ok(())
    }
}

/// Keeps the incidents of a run.
struct Incidents(Arc<Mutex<Vec<Incident>>>);

impl Observer for Incidents {
    fn incident(&mut self, incident: &Incident) -> Result<(), BoxError> {
        self.0.lock().unwrap().push(incident.clone());
        Ok(())
    }
}

fn config(iterations: u64, batch_size: usize, accumulation: u64) -> TrainConfig {
    TrainConfig {
        iterations: Some(iterations),
        batch_size,
        accumulation,
        ema: Some(0.9),
        val_interval: Some(100),
        optimizer: OptimizerConfig::adamw(0.05).weight_decay(0.1).clip_norm(0.5),
        schedule: ScheduleConfig::constant().warmup(2, 0.1),
        ..TrainConfig::default()
    }
}

/// Trains in `folder`, from its checkpoint if there is one. Returns the samples in the order they were seen, and the trained and averaged
/// weights of the newest checkpoint.
fn train(folder: &Path, devices: usize, recipe: Fit, config: &TrainConfig) -> Result<(Vec<u64>, StateDict, StateDict), TrainError> {
    let group = cpus(devices);
    let latest = folder.join("latest.safetensors");
    let model = curve(group.first());
    let mut trainer = Trainer::builder(recipe, model).config(config.clone()).observe(Latest(latest.clone())).build_on(group)?;
    if latest.exists() {
        trainer.resume(&latest)?;
    }
    assert_eq!(trainer.run()?, Outcome::Finished);
    let checkpoint = Checkpoint::read(&latest)?;
    let (model, ema) = (checkpoint.state_dict(Weights::Model)?, checkpoint.state_dict(Weights::Ema)?);
    let seen = trainer.recipe().seen.lock().unwrap().clone();
    Ok((seen, model, ema))
}

fn weights(devices: usize, batch_size: usize, accumulation: u64) -> [StateDict; 2] {
    let folder = tempfile::tempdir().unwrap();
    let (_, model, ema) = train(folder.path(), devices, Fit::default(), &config(9, batch_size, accumulation)).unwrap();
    [model, ema]
}

fn values(state: &StateDict, key: &str) -> Vec<f32> {
    state.get(key).unwrap().data.clone()
}

/// Rounding of sums in another order, over nine steps.
const TOLERANCE: f32 = 1e-5;

#[test]
fn two_devices_train_as_one_with_the_batches_of_both() {
    let expected = weights(1, 6, 1);
    for (devices, batch_size, accumulation) in [(2, 3, 1), (1, 3, 2), (3, 2, 1), (3, 1, 2)] {
        let actual = weights(devices, batch_size, accumulation);
        for (actual, expected) in actual.iter().zip(&expected) {
            for key in ["weight", "rare", "unused"] {
                let (actual, expected) = (values(actual, key), values(expected, key));
                let close = actual.iter().zip(&expected).all(|(a, b)| (a - b).abs() < TOLERANCE);
                assert!(close, "{devices} devices x {batch_size} x {accumulation}, {key}: {actual:?} instead of {expected:?}");
            }
        }
    }
    let [model, _] = &expected;
    assert!((values(model, "rare")[0] - 0.75).abs() > 0.01, "it was trained");
    // Without a gradient there is no weight decay either, on any number of devices.
    assert_eq!(values(&weights(2, 3, 1)[0], "unused"), [2.0]);
}

#[test]
fn an_epoch_has_every_sample_once_on_all_devices_together() {
    let folder = tempfile::tempdir().unwrap();
    let mut two_epochs = config(1, 2, 1);
    (two_epochs.iterations, two_epochs.epochs) = (None, Some(2));
    assert_eq!(two_epochs.length(SAMPLES as usize, 3).unwrap().iterations, 4);
    let (seen, ..) = train(folder.path(), 3, Fit::default(), &two_epochs).unwrap();
    for epoch in seen.chunks(SAMPLES as usize) {
        let mut sorted = epoch.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..SAMPLES).collect::<Vec<_>>());
    }
    assert_eq!(seen.len(), 2 * SAMPLES as usize);
}

#[test]
fn a_resumed_run_on_two_devices_takes_the_steps_of_an_uninterrupted_one_bit_by_bit() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, model, ema) = train(whole.path(), 2, Fit::default(), &config(9, 3, 1)).unwrap();
    train(cut.path(), 2, Fit::default(), &config(5, 3, 1)).unwrap();
    let (_, resumed, resumed_ema) = train(cut.path(), 2, Fit::default(), &config(9, 3, 1)).unwrap();
    for key in ["weight", "rare", "unused"] {
        assert_eq!(values(&resumed, key), values(&model, key), "{key}");
        assert_eq!(values(&resumed_ema, key), values(&ema, key), "{key}");
    }
}

#[test]
fn a_checkpoint_without_optimiser_state_is_refused_and_the_run_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("best.safetensors");
    let (device, keys): (Device, KeyMap) = (Device::flex(), str::to_owned);
    let other = Curve { weight: Param::from_tensor(Tensor::from_floats([9.0, 9.0], &device)), ..curve(&device) };
    let metadata = BTreeMap::from([("iteration".to_owned(), "5".to_owned())]);
    let weights = state_dict_of(&other, &keys);
    Snapshot { kind: CheckpointKind::Best, weights, averaged: None, metadata, optimizer: BTreeMap::new() }.write(&path).unwrap();

    let config = TrainConfig { ema: None, ..config(9, 3, 1) };
    let mut trainer = Trainer::builder(Fit::default(), curve(&device)).config(config).build(&device).unwrap();
    let error = trainer.resume(&path).unwrap_err().to_string();
    assert!(error.contains("it has no optimiser state"), "{error}");
    assert_eq!(trainer.iteration(), 0);
    let kept: Vec<f32> = trainer.evaluated_model().unwrap().weight.val().into_data().iter::<f32>().collect();
    assert_eq!(kept, [0.5, -0.25]);
}

#[test]
fn a_loss_that_is_not_finite_on_the_second_device_stops_the_step_on_all() {
    // In the first step, the second device has samples 3 to 5.
    let broken = || Fit { broken: Some(4), ..Fit::default() };
    let (group, incidents) = (cpus(2), Arc::new(Mutex::new(Vec::new())));
    let model = curve(group.first());
    let builder = Trainer::builder(broken(), model).config(config(9, 3, 1)).observe(Incidents(Arc::clone(&incidents)));
    let error = builder.build_on(group).unwrap().run().unwrap_err().to_string();
    assert!(error.contains("iteration 1") && error.contains("3, 4, 5"), "{error}");
    assert_eq!(incidents.lock().unwrap()[0].place, "the sample");

    let folder = tempfile::tempdir().unwrap();
    let skip = TrainConfig { non_finite: NonFinite::Skip, ..config(9, 3, 1) };
    let (_, model, _) = train(folder.path(), 2, broken(), &skip).unwrap();
    let weight = values(&model, "weight");
    assert!(weight.iter().all(|value| value.is_finite()) && weight != [0.5, -0.25], "the other steps are taken: {weight:?}");
}

#[test]
fn all_copies_have_the_same_weights_after_every_step_and_a_failure_of_one_is_an_error() {
    let (group, recipe, config) = (cpus(3), Fit::default(), config(9, 2, 1));
    let mut first = Replica::new(
        group.first().clone(),
        curve(group.first()),
        Optimizer::new(config.optimizer.clone(), str::to_owned, recipe.parameter_groups()),
    );
    let (recipe, group) = (&recipe, &group);
    std::thread::scope(|scope| {
        let others = Others::start(scope, group, &first);
        let mut batches = recipe.batches(BatchOrder { first: 0, batch_size: 2, seed: 0 });
        for _ in 0..4 {
            let inputs: Vec<_> = batches.by_ref().take(3).map(Result::unwrap).collect();
            let add = move |replica: &mut Replica<Curve>, batch: Vec<u64>| {
                let context = StepContext { device: replica.device.clone(), seed: 0, precision: Precision::Float32 };
                let loss = recipe.loss(&replica.model, &batch, &context).total;
                replica.add_gradients(loss);
                replica.take_gradients(group)
            };
            let gradients = others.each(&mut first, inputs, add).unwrap();
            others.each(&mut first, gradients, |replica, gradients| replica.step(gradients, 1.0, 0.1)).unwrap();
            let bits = |replica: &mut Replica<Curve>, ()| {
                let weights = [&replica.model.weight, &replica.model.rare].map(|param| param.val().into_data().iter::<f32>().collect());
                weights.map(|values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
            };
            let copies = others.each(&mut first, vec![(); 3], bits).unwrap();
            assert!(copies.iter().all(|copy| *copy == copies[0]), "{copies:?}");
        }
        let failed = others.each(&mut first, vec![1, 2, 3], |_, number| assert_ne!(number, 3, "out of memory"));
        let error = failed.unwrap_err().to_string();
        assert!(error.contains("device 3 of the devices") && error.contains("out of memory"), "{error}");
    });
}

#[derive(Module, Debug)]
struct Normed {
    norm: BatchNorm,
    fixed: Param<Tensor<1>>,
}

#[test]
fn batch_norms_keep_the_statistics_of_their_device_and_frozen_parameters_are_frozen_on_all() {
    let (group, keys): (DeviceGroup, KeyMap) = (cpus(2), str::to_owned);
    let config = TrainConfig { freeze: vec!["fixed".to_owned()], ..config(1, 1, 1) };
    let norm = BatchNormConfig::new(1).init(group.first());
    let model = Normed { norm, fixed: Param::from_tensor(Tensor::ones([1], group.first())) };
    let (model, _) = freeze(model, &config, keys).unwrap();
    let mut first =
        Replica::new(group.first().clone(), model, Optimizer::new(config.optimizer.clone(), keys, Fit::default().parameter_groups()));
    std::thread::scope(|scope| {
        let others = Others::start(scope, &group, &first);
        let train = |replica: &mut Replica<Normed>, level: f32| {
            drop(replica.model.norm.forward(Tensor::<4>::full([1, 1, 2, 2], level, &replica.device)));
            trainable(&replica.model, str::to_owned).into_keys().collect::<Vec<_>>()
        };
        let found = others.each(&mut first, vec![2.0, 10.0], train).unwrap();
        assert_eq!(found, [["norm.beta", "norm.gamma"], ["norm.beta", "norm.gamma"]]);
        let mean = |replica: &mut Replica<Normed>, ()| replica.model.norm.running_mean.value_sync().into_scalar::<f32>();
        let means = others.each(&mut first, vec![(); 2], mean).unwrap();
        // A tenth of the way from 0.
        assert!(means.iter().zip([0.2, 1.0]).all(|(actual, expected)| (actual - expected).abs() < 1e-6), "{means:?}");
    });
}

#[test]
fn devices_between_which_burn_cannot_average_are_refused_with_the_reason() {
    let refused = |names: &[&str]| {
        let choices: Vec<DeviceChoice> = names.iter().map(|name| name.parse().unwrap()).collect();
        DeviceGroup::open(&choices).err().map(|error| error.to_string()).unwrap_or_default()
    };
    for (names, expected) in [
        (&["cpu", "cpu"][..], "Burn's CPU backend has no all-reduce"),
        (&["vulkan:0", "vulkan:1"], "Burn's Vulkan backend has no all-reduce"),
        (&["cuda:0", "cpu"], "Burn's CPU backend has no all-reduce"),
        (&["cuda:0", "cuda:1", "cuda"], "cuda:0 is named twice"),
        (&[], "no device is named"),
    ] {
        let error = refused(names);
        assert!(error.contains(expected), "{names:?}: {error}");
    }
    assert_eq!(DeviceGroup::open(&[DeviceChoice::Cpu]).unwrap().count(), 1);
}

/// What Burn itself says when it is asked to average over devices of a kind.
fn burns_answer(device: Device) -> String {
    catch_within(PATIENCE, move || means_of_ranks(&[device.clone(), device])).unwrap_err()
}

#[test]
fn burns_cpu_backend_has_no_all_reduce() {
    // The day it has one, this fails, and the refusal above can go.
    let answer = burns_answer(Device::flex());
    assert!(answer.contains("Distributed operations are not supported"), "{answer}");
}

#[cfg(feature = "vulkan")]
#[test]
fn burns_vulkan_backend_has_no_all_reduce() {
    match DeviceChoice::Vulkan(None).open() {
        Ok(device) => {
            let answer = burns_answer(device);
            assert!(answer.contains("no transport between its devices"), "{answer}");
        }
        Err(error) => println!("skipped: {error}"),
    }
}
