//! The backbone in Burn's own training loop: `cargo run --release --example burn_learner`.

use burn::data::dataloader::{DataLoaderBuilder, batcher::Batcher};
use burn::data::dataset::InMemDataset;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::AdamWConfig;
use burn::prelude::*;
use burn::tensor::TensorData;
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{ClassificationOutput, ExecutionStrategy, InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep};
use vmamba::VmambaClassifier;

#[derive(Module, Debug)]
struct Net {
    model: VmambaClassifier,
}

type Batch = (Tensor<4>, Tensor<1, Int>);

/// The class is the direction of the stripes.
struct Stripes;

impl Batcher<usize, Batch> for Stripes {
    fn batch(&self, items: Vec<usize>, device: &Device) -> Batch {
        let pixel = |item: usize, x: usize, y: usize| (((if item.is_multiple_of(2) { x } else { y }) + item) as f32 * 0.8).sin();
        let image = |item: &usize| (0..3 * 4096).map(|place| pixel(*item, place % 64, place / 64 % 64)).collect::<Vec<_>>();
        let values: Vec<f32> = items.iter().flat_map(image).collect();
        let labels: Vec<i64> = items.iter().map(|item| (item % 2) as i64).collect();
        let images = Tensor::from_data(TensorData::new(values, [items.len(), 3, 64, 64]), device);
        (images, Tensor::from_data(TensorData::new(labels, [items.len()]), device))
    }
}

impl InferenceStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;
    fn step(&self, (images, labels): Batch) -> ClassificationOutput {
        let logits = self.model.forward(images);
        let loss = CrossEntropyLossConfig::new().init(&logits.device()).forward(logits.clone(), labels.clone());
        ClassificationOutput::new(loss, logits, labels)
    }
}

impl TrainStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;
    fn step(&self, batch: Batch) -> TrainOutput<ClassificationOutput> {
        let output = InferenceStep::step(self, batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

fn main() {
    let loader = |items: std::ops::Range<usize>| DataLoaderBuilder::new(Stripes).batch_size(8).build(InMemDataset::new(items.collect()));
    let model = vmamba_examples::small_backbone().init_classifier(2, &Device::flex().autodiff());
    let training = SupervisedTraining::new("runs/burn_learner", loader(0..64), loader(64..80)).num_epochs(2).summary();
    let training = training.with_training_strategy(ExecutionStrategy::SingleDevice(Device::flex()).into());
    let training = training.metric_train_numeric(LossMetric::new()).metric_valid_numeric(AccuracyMetric::new());
    training.launch(Learner::new(Net { model }, AdamWConfig::new().init(), 1e-3));
}
