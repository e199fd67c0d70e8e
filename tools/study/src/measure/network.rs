//! A network on random images that can be run again and again.

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use burn::tensor::Distribution;
use mask_rcnn::MaskRcnnConfig;
use upernet::{Segmentor, UperHeadConfig, UperNetConfig};
use vmamba::layers::trains_batch_norm;
use vmamba::zoo::{BackboneConfig, Classifier};
use vmamba_detection::{Detector, ImageInfo};

use super::task::{Task, Work};
use crate::error::{Result, StudyError, invalid};

/// Number of classes of ImageNet-1K.
pub const CLASSES: usize = 1000;

const LEARNING_RATE: f64 = 1e-4;

/// Pixels of an image for one position of the last layers of any published model, at most.
const COARSEST_STRIDE: usize = 32;

/// A network with random weights, images and labels.
pub struct Network {
    images: Tensor<4>,
    /// Returns logits or loss; `None` for detections, which are on the host.
    run: Box<dyn FnMut(Tensor<4>) -> Option<Tensor<1>> + Send>,
    /// Logits or loss of the last run.
    last: Option<Tensor<1>>,
    /// Whether the last run returned.
    finished: bool,
}

impl Network {
    /// The network of `task` on the backbone `config`. Weights and images are random with a fixed seed.
    ///
    /// # Errors
    /// When the options of the backbone are invalid or it does not take the image size.
    pub fn new(config: &BackboneConfig, task: &Task, device: &Device) -> Result<Self> {
        let Task { work, size, batch, precision, .. } = *task;
        let device = if matches!(work, Work::Train { .. }) { device.clone().autodiff() } else { device.clone() };
        config.validate()?;
        device.seed(0);
        let mut padded = size;
        let run: Box<dyn FnMut(Tensor<4>) -> Option<Tensor<1>> + Send> = match work {
            Work::Forward => {
                let model = config.try_init_classifier(CLASSES, &device)?;
                Box::new(move |images| Some(model.forward(images).flatten(0, 1)))
            }
            Work::Train { update } => {
                let model = config.try_init_classifier(CLASSES, &device)?;
                if batch < 2 && size.iter().all(|side| *side <= COARSEST_STRIDE) && trains_batch_norm(&model) {
                    return Err(invalid!(
                        "a training step on one image of {}x{} pixels would give a batch norm a single value per channel; take larger batches, \
                         or images of more than {COARSEST_STRIDE} pixels",
                        size[0],
                        size[1]
                    ));
                }
                training(model, batch, update, &device)
            }
            Work::Segment => {
                let (head, auxiliary) = (UperHeadConfig::default(), None);
                let model = UperNetConfig { backbone: config.clone(), num_classes: 150, head, auxiliary }.init(&device);
                Box::new(move |images| Some(model.forward(images).flatten(0, 3)))
            }
            Work::Detect => {
                let mut detector = MaskRcnnConfig::on(config.clone(), 80);
                // Random weights score every class alike; without a threshold the heads work on as many boxes as they may.
                detector.heads.test.score_threshold = 0.0;
                let model = detector.init(&device);
                padded = size.map(|side| side.next_multiple_of(model.size_divisor()));
                let infos = vec![ImageInfo::new(size, size); batch];
                Box::new(move |images| {
                    drop(std::hint::black_box(model.predict(images, &infos)));
                    None
                })
            }
        };
        config.check_image(padded)?;
        let images = Tensor::<4>::random([batch, 3, padded[0], padded[1]], Distribution::Normal(0.0, 1.0), &device);
        Ok(Self { images: precision.input(images), run, last: None, finished: false })
    }

    /// Draws the random weights by a run on a corner of at most 64x64 pixels: Burn initialises parameters on first use.
    pub fn draw_parameters(&mut self) {
        let [batch, channels, height, width] = self.images.dims();
        self.run_on(self.images.clone().slice([0..batch, 0..channels, 0..height.min(64), 0..width.min(64)]));
    }

    /// Runs once. The device may still be at work when it returns.
    pub fn run(&mut self) {
        self.run_on(self.images.clone());
    }

    fn run_on(&mut self, images: Tensor<4>) {
        (self.last, self.finished) = (None, false);
        self.last = (self.run)(images);
        self.finished = true;
    }

    /// Reads the result of the last run. A kernel that failed shows only here.
    ///
    /// # Errors
    /// [`StudyError::Run`] when there was no run, it did not finish, or a value is not finite.
    pub fn check(self) -> Result<()> {
        if !self.finished {
            return Err(StudyError::Run("the network did not finish a run".to_owned()));
        }
        let Some(last) = self.last else { return Ok(()) };
        let values = last.try_into_data().map_err(|error| StudyError::Run(error.to_string()))?;
        if values.iter::<f32>().all(f32::is_finite) {
            Ok(())
        } else {
            Err(StudyError::Run("the result has values that are not finite".to_owned()))
        }
    }
}

/// Forward pass, cross-entropy loss, backward pass and, with `update`, a step of AdamW. Returns the loss.
fn training(model: Classifier, batch: usize, update: bool, device: &Device) -> Box<dyn FnMut(Tensor<4>) -> Option<Tensor<1>> + Send> {
    let labels = Tensor::<1, Int>::arange(0..batch as i64, device).remainder_scalar(CLASSES as i64);
    let loss = CrossEntropyLossConfig::new().init(device);
    let mut optimizer = update.then(|| AdamWConfig::new().with_weight_decay(0.05).with_epsilon(1e-8).init());
    // The optimizer takes the model and returns it.
    let mut model = Some(model);
    Box::new(move |images| {
        // Missing only after a panic in an earlier step.
        let own = model.take()?;
        let loss = loss.forward(own.forward(images), labels.clone());
        let gradients = loss.backward();
        model = Some(match &mut optimizer {
            Some(optimizer) => {
                let gradients = GradientsParams::from_grads(gradients, &own);
                optimizer.step(LEARNING_RATE, own, gradients)
            }
            None => {
                drop(std::hint::black_box(gradients));
                own
            }
        });
        Some(loss.detach())
    })
}

#[cfg(test)]
mod tests {
    use vmamba::Preset;
    use vmamba_train::Precision;

    use super::*;

    fn task(work: Work) -> Task {
        Task { work, size: [32, 40], batch: 2, precision: Precision::Float32, threads: None }
    }

    #[test]
    fn every_work_gives_finite_results_after_a_run_and_an_error_before() {
        let config = BackboneConfig::from(vmamba::VmambaConfig { dims: vmamba::Dims::Doubling(8), ..Preset::VmambaTinyS1l8.config() });
        let device = Device::flex();
        for work in [Work::Forward, Work::Train { update: false }, Work::Train { update: true }] {
            let mut network = Network::new(&config, &task(work), &device).unwrap();
            network.draw_parameters();
            network.run();
            network.run();
            assert!(network.check().is_ok(), "{work:?}");
            let unused = Network::new(&config, &task(work), &device).unwrap();
            assert!(matches!(unused.check(), Err(StudyError::Run(_))), "{work:?}");
        }
    }

    #[test]
    fn a_training_step_that_gives_a_batch_norm_one_value_is_refused() {
        let config = BackboneConfig::named("resnet50").unwrap();
        let one = Task { size: [32, 32], batch: 1, ..task(Work::Train { update: false }) };
        let refused = Network::new(&config, &one, &Device::flex()).err().map(|error| error.to_string());
        assert!(refused.as_ref().is_some_and(|text| text.contains("single value per channel")), "{refused:?}");
    }
}
