//! The demos on two devices are trained as on one device with two accumulated batches. Burn has no all-reduce on the CPU, so threads that
//! meet at a barrier compute the mean.

use std::sync::{Arc, Barrier, Mutex};

use burn::prelude::*;
use upernet::UperNet;
use vmamba::checkpoint::{StateDict, state_dict_of};
use vmamba::zoo::Backbone;
use vmamba_recipes::detection::{AnyDetector, Detection};
use vmamba_recipes::segmentation::Segmentation;
use vmamba_recipes::{Configured, RunConfig, config};
use vmamba_train::parameters::trainable;
use vmamba_train::{BoxError, CheckpointKind, DeviceGroup, Observer, Outcome, Snapshot, Trainer};

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

/// Keeps the newest weights in memory.
struct Newest(Arc<Mutex<StateDict>>);

impl Observer for Newest {
    fn wants_checkpoints(&self) -> bool {
        true
    }

    fn save(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        if snapshot.kind == CheckpointKind::Latest {
            *self.0.lock().unwrap() = snapshot.weights.clone();
        }
        Ok(())
    }
}

/// Trains a demo for two steps of two batches of two images, on one device and on two. Batch norms see the same batches both times, and
/// halving is exact.
fn two_devices_equal_two_accumulated_batches<R: Configured>(more: &[&str]) {
    let configured = |accumulation: &str| -> RunConfig<R::Task> {
        let common =
            ["train.iterations=2", "train.val_interval=2", "train.batch_size=2", "train.schedule.warmup_iterations=0", accumulation];
        let overrides: Vec<String> = common.iter().chain(more).map(|text| (*text).to_owned()).collect();
        config::load_text(R::DEMO, &overrides, "the demo").unwrap()
    };
    let (one, two) = (configured("train.accumulation=2"), configured("train.accumulation=1"));
    // Initialised once, because other tests draw from the same generator.
    let model = R::open(&one).unwrap().random_model(&one, cpus(1).first()).unwrap();
    let trained = |config: &RunConfig<R::Task>, devices: usize| {
        let newest = Arc::new(Mutex::new(StateDict::new()));
        let builder = Trainer::builder(R::open(config).unwrap(), model.clone()).config(config.train.clone());
        let mut trainer = builder.observe(Newest(Arc::clone(&newest))).build_on(cpus(devices)).unwrap();
        assert_eq!(trainer.run().unwrap(), Outcome::Finished);
        newest.lock().unwrap().clone()
    };
    let keys = R::open(&one).unwrap().keys();
    let (one, two) = (trained(&one, 1), trained(&two, 2));
    let before = state_dict_of(&model, &keys);
    for key in trainable(&model, keys).keys() {
        assert!(one.get(key).unwrap().data == two.get(key).unwrap().data, "{key}");
    }
    assert!(one.iter().any(|(key, tensor)| before.get(key).is_some_and(|start| start.data != tensor.data)), "it was trained");
}

#[test]
fn a_segmentor_on_two_devices_is_trained_as_on_one_with_two_accumulated_batches_bit_by_bit() {
    two_devices_equal_two_accumulated_batches::<Segmentation<UperNet<Backbone>>>(&[
        "data.source.size=64",
        "data.source.train=8",
        "data.source.val=2",
        "data.train.crop.size=[64, 64]",
        // Two threads would draw dropout in any order.
        "model.head.dropout=0.0",
        "model.auxiliary.dropout=0.0",
    ]);
}

#[test]
fn a_detector_on_two_devices_is_trained_as_on_one_with_two_accumulated_batches_bit_by_bit() {
    two_devices_equal_two_accumulated_batches::<Detection<AnyDetector>>(&[
        "data.source.size=64",
        "data.source.train=8",
        "data.source.val=2",
        "data.train.scales=[[64, 64]]",
    ]);
}
