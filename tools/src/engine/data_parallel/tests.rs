//! What can be tested without two NVIDIA GPUs. Burn has no all-reduce on the CPU, so that on two CPU "devices" the mean is taken by threads
//! that meet at a barrier: everything around Burn's `all_reduce` is tested, its call on CUDA devices (`burn_mean`) and NCCL are not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Barrier, Mutex};

use burn::nn::{BatchNorm, BatchNormConfig};
use vision_datasets::DataError;
use vmamba::checkpoint::{Checkpoint, StateDict, Weights, state_dict_of};

use super::super::config::{self, NonFinite, TrainConfig};
use super::super::detection::DetectionTraining;
use super::super::freeze::freeze;
use super::super::guard::REPORT_FILE;
use super::super::logging::Scalars;
use super::super::parameters::{KeyMap, trainable};
use super::super::run::Training;
use super::super::segmentation::SegmentationTraining;
use super::super::trainer::{LAST, Outcome, StepLoss, Task, Trainer};
use super::*;

/// So many CPU "devices".
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
    let device = || Device::flex().autodiff();
    DeviceGroup { first: device(), others: (1..count).map(|_| device()).collect(), mean: Arc::new(mean) }
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
struct Fit {
    batch_size: usize,
    /// The sample that is no number.
    broken: Option<u64>,
    seen: Mutex<Vec<u64>>,
}

const SAMPLES: u64 = 12;

impl Fit {
    fn new(batch_size: usize) -> Self {
        Self { batch_size, broken: None, seen: Mutex::new(Vec::new()) }
    }
}

impl Task for Fit {
    type Model = Curve;
    type Batch = Vec<u64>;

    fn samples(&self) -> usize {
        SAMPLES as usize
    }

    fn batches(&self, first: u64) -> Box<dyn Iterator<Item = Result<Vec<u64>, DataError>>> {
        let size = self.batch_size as u64;
        Box::new((first..).map(move |batch| Ok((batch * size..(batch + 1) * size).map(|sample| sample % SAMPLES).collect())))
    }

    fn names(&self, batch: &Vec<u64>) -> Vec<String> {
        batch.iter().map(u64::to_string).collect()
    }

    fn loss(&self, model: &Curve, batch: &Vec<u64>, device: &Device, _seed: u64) -> StepLoss {
        self.seen.lock().unwrap().extend(batch);
        let mut total = Tensor::<1>::zeros([1], device);
        for sample in batch {
            let x = if self.broken == Some(*sample) { f32::NAN } else { (*sample as f32).sin() };
            let inputs = Tensor::<1>::from_floats([x, x * x], device);
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

    fn diagnose(&self, _model: &Curve, _batch: &Vec<u64>, _device: &Device) -> Option<String> {
        Some("the sample".to_owned())
    }

    fn validate(&self, model: &Curve, _device: &Device) -> Result<Scalars> {
        Ok(vec![("figure".to_owned(), f64::from(model.rare.val().into_scalar::<f32>()))])
    }

    fn keys(&self) -> KeyMap {
        str::to_owned
    }

    fn name(&self) -> String {
        "fit".to_owned()
    }

    fn metric(&self) -> &'static str {
        "figure"
    }

    fn plotted(&self) -> &'static [&'static str] {
        &["loss"]
    }

    fn metadata(&self) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }
}

fn config(iterations: u64, batch_size: usize, accumulation: u64) -> TrainConfig {
    let text = format!(
        "iterations = {iterations}\nbatch_size = {batch_size}\naccumulation = {accumulation}\nema = 0.9\nval_interval = 100\n\
         optimizer = {{ lr = 0.05, weight_decay = 0.1, clip_norm = 0.5 }}\n\
         schedule = {{ warmup_iterations = 2, warmup_factor = 0.1, decay = {{ kind = \"constant\" }} }}\n"
    );
    toml::from_str(&text).unwrap()
}

/// Trains in `folder`, from its checkpoint if there is one, and returns the task and the weights of the newest checkpoint.
fn train(folder: &Path, devices: usize, task: Fit, config: &TrainConfig) -> Result<(Fit, StateDict, StateDict)> {
    let group = cpus(devices);
    let mut trainer = Trainer::new(&task, config, curve(group.first()), &group, folder)?;
    if folder.join(LAST).exists() {
        trainer.resume()?;
    }
    assert_eq!(trainer.run()?, Outcome::Finished);
    let checkpoint = Checkpoint::read(folder.join(LAST))?;
    let (model, ema) = (checkpoint.state_dict(Weights::Model)?, checkpoint.state_dict(Weights::Ema)?);
    Ok((task, model, ema))
}

fn weights(devices: usize, batch_size: usize, accumulation: u64) -> [StateDict; 2] {
    let folder = tempfile::tempdir().unwrap();
    let (_, model, ema) = train(folder.path(), devices, Fit::new(batch_size), &config(9, batch_size, accumulation)).unwrap();
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

/// Trains the demo of a tool for two steps of two batches of two images, on one device and on two. Batch norms see the same batches both
/// times, and halving is exact.
fn two_devices_equal_two_accumulated_batches<T: Training>(more: &[&str]) {
    let configured = |accumulation: &str| -> T::Config {
        let common =
            ["train.iterations=2", "train.val_interval=2", "train.batch_size=2", "train.schedule.warmup_iterations=0", accumulation];
        let overrides: Vec<String> = common.iter().chain(more).map(|text| (*text).to_owned()).collect();
        config::load_text(T::DEMO, &overrides, "the demo").unwrap()
    };
    let (one, two) = (configured("train.accumulation=2"), configured("train.accumulation=1"));
    let task = T::open(&one).unwrap();
    // Once, because tests beside this one draw from the same generator.
    let (model, _) = T::initial_model(&task, &one, cpus(1).first()).unwrap();
    let state = |config: &T::Config, devices: usize| {
        let (folder, group) = (tempfile::tempdir().unwrap(), cpus(devices));
        let mut trainer = Trainer::new(&task, T::train(config), model.clone(), &group, folder.path()).unwrap();
        assert_eq!(trainer.run().unwrap(), Outcome::Finished);
        Checkpoint::read(folder.path().join(LAST)).unwrap().state_dict(Weights::Model).unwrap()
    };
    let (one, two) = (state(&one, 1), state(&two, 2));
    let before = state_dict_of(&model, &task.keys());
    for key in trainable(&model, task.keys()).keys() {
        assert!(values(&one, key) == values(&two, key), "{key}");
    }
    assert!(one.iter().any(|(key, tensor)| before.get(key).is_some_and(|start| start.data != tensor.data)), "it was trained");
}

#[test]
fn a_segmentor_on_two_devices_is_trained_as_on_one_with_two_accumulated_batches_bit_by_bit() {
    two_devices_equal_two_accumulated_batches::<SegmentationTraining>(&[
        "data.source.size=64",
        "data.source.train=8",
        "data.source.val=2",
        "data.train.crop.size=[64, 64]",
        // What it draws would be drawn by two threads in any order.
        "model.head.dropout=0.0",
        "model.auxiliary.dropout=0.0",
    ]);
}

#[test]
fn a_detector_on_two_devices_is_trained_as_on_one_with_two_accumulated_batches_bit_by_bit() {
    two_devices_equal_two_accumulated_batches::<DetectionTraining>(&[
        "data.source.size=64",
        "data.source.train=8",
        "data.source.val=2",
        "data.train.scales=[[64, 64]]",
    ]);
}

#[test]
fn an_epoch_has_every_sample_once_on_all_devices_together() {
    let folder = tempfile::tempdir().unwrap();
    let mut two_epochs = config(1, 2, 1);
    (two_epochs.iterations, two_epochs.epochs) = (None, Some(2));
    assert_eq!(two_epochs.length(SAMPLES as usize, 3).unwrap().iterations, 4);
    let (task, ..) = train(folder.path(), 3, Fit::new(2), &two_epochs).unwrap();
    let seen = task.seen.into_inner().unwrap();
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
    let (_, model, ema) = train(whole.path(), 2, Fit::new(3), &config(9, 3, 1)).unwrap();
    train(cut.path(), 2, Fit::new(3), &config(5, 3, 1)).unwrap();
    let (_, resumed, resumed_ema) = train(cut.path(), 2, Fit::new(3), &config(9, 3, 1)).unwrap();
    for key in ["weight", "rare", "unused"] {
        assert_eq!(values(&resumed, key), values(&model, key), "{key}");
        assert_eq!(values(&resumed_ema, key), values(&ema, key), "{key}");
    }
}

#[test]
fn a_loss_that_is_no_number_on_the_second_device_stops_the_step_on_all() {
    // Of the first step, the second device has samples 3 to 5.
    let broken = || Fit { broken: Some(4), ..Fit::new(3) };
    let folder = tempfile::tempdir().unwrap();
    let error = train(folder.path(), 2, broken(), &config(9, 3, 1)).err().unwrap().to_string();
    assert!(error.contains("iteration 1") && error.contains("3, 4, 5"), "{error}");
    let report = std::fs::read_to_string(folder.path().join(REPORT_FILE)).unwrap();
    assert!(report.contains("the sample"), "{report}");

    let folder = tempfile::tempdir().unwrap();
    let skip = TrainConfig { non_finite: NonFinite::Skip, ..config(9, 3, 1) };
    let (_, model, _) = train(folder.path(), 2, broken(), &skip).unwrap();
    let weight = values(&model, "weight");
    assert!(weight.iter().all(|value| value.is_finite()) && weight != [0.5, -0.25], "the other steps are taken: {weight:?}");
}

#[test]
fn all_copies_have_the_same_weights_after_every_step_and_a_failure_of_one_is_an_error() {
    let (group, task, config) = (cpus(3), Fit::new(2), config(9, 2, 1));
    let mut first = Replica::new(group.first().clone(), curve(group.first()), Optimizer::new(config.optimizer.clone(), task.keys()));
    let (task, group) = (&task, &group);
    std::thread::scope(|scope| {
        let others = Others::start(scope, group, &first);
        let mut batches = task.batches(0);
        for _ in 0..4 {
            let inputs: Vec<_> = batches.by_ref().take(3).map(Result::unwrap).collect();
            let add = move |replica: &mut Replica<Curve>, batch: Vec<u64>| {
                let loss = task.loss(&replica.model, &batch, &replica.device, 0).total;
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
        assert!(error.contains("device 3 of --devices") && error.contains("out of memory"), "{error}");
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
    let mut first = Replica::new(group.first().clone(), model, Optimizer::new(config.optimizer.clone(), keys));
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
        (&[], "names no device"),
    ] {
        let error = refused(names);
        assert!(error.contains(expected), "{names:?}: {error}");
    }
    assert_eq!(DeviceGroup::open(&[DeviceChoice::Cpu]).unwrap().count(), 1);
}

/// What Burn itself says when it is asked to average over devices of a kind.
fn burns_answer(device: Device) -> String {
    attempt(PATIENCE, move || means_of_ranks(&[device.clone(), device])).unwrap_err()
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
