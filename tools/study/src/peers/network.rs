//! Our side of a comparison.

use burn::nn::loss::CrossEntropyLossConfig;
use burn::prelude::*;
use burn::tensor::Distribution;
use mask_rcnn::MaskRcnnConfig;
use upernet::{Segmentor, UperHeadConfig, UperNetConfig};
use vmamba::Preset;
use vmamba_detection::{Detector, ImageInfo};

use super::{Task, Work};

/// A network of ours with images to work on.
pub(super) struct Network {
    images: Tensor<4>,
    /// Works to the last number: results that nobody reads might otherwise never be computed.
    run: Box<dyn Fn(Tensor<4>) + Send + Sync>,
}

/// Detectors pad images to a multiple of this.
const DIVISOR: usize = 32;

impl Network {
    /// Random weights, seeded: the time does not depend on them.
    pub(super) fn new(preset: Preset, task: Task) -> Self {
        let Task { work, size, batch, .. } = task;
        let device = if work == Work::Train { Device::flex().autodiff() } else { Device::flex() };
        device.seed(0);
        let read = |y: Tensor<4>| drop(std::hint::black_box(y.into_data()));
        let mut padded = size;
        let run: Box<dyn Fn(Tensor<4>) + Send + Sync> = match work {
            Work::Forward => {
                let model = preset.config().init_classifier(1000, &device);
                Box::new(move |images| drop(std::hint::black_box(model.forward(images).into_data())))
            }
            Work::Train => {
                let model = preset.config().init_classifier(1000, &device);
                let labels = Tensor::<1, Int>::arange(0..batch as i64, &device).remainder_scalar(1000);
                let loss = CrossEntropyLossConfig::new().init(&device);
                Box::new(move |images| drop(std::hint::black_box(loss.forward(model.forward(images), labels.clone()).backward())))
            }
            Work::Segment => {
                let (head, auxiliary) = (UperHeadConfig::default(), None);
                let model = UperNetConfig { backbone: preset.config().into(), num_classes: 150, head, auxiliary }.init(&device);
                Box::new(move |images| read(model.forward(images)))
            }
            Work::Detect => {
                padded = size.map(|side| side.next_multiple_of(DIVISOR));
                let mut config = MaskRcnnConfig::on(preset.config(), 80);
                // Random weights find every class equally improbable; so the heads work on as many boxes as they may.
                config.heads.test.score_threshold = 0.0;
                let model = config.init(&device);
                let infos = vec![ImageInfo::new(size, size); batch];
                Box::new(move |images| drop(std::hint::black_box(model.predict(images, &infos))))
            }
        };
        let images = Tensor::random([batch, 3, padded[0], padded[1]], Distribution::Normal(0.0, 1.0), &device);
        Self { images, run }
    }

    /// Parameters are drawn when they are first used: by a corner of the images here.
    pub(super) fn draw_parameters(&self) {
        let [batch, channels, height, width] = self.images.dims();
        (self.run)(self.images.clone().slice([0..batch, 0..channels, 0..height.min(64), 0..width.min(64)]));
    }

    pub(super) fn run(&self) {
        (self.run)(self.images.clone());
    }
}
