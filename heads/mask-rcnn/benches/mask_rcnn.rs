//! Mask R-CNN on VMamba-T with one image of 800x1066 pixels: `cargo bench -p mask-rcnn`.

use burn::prelude::*;
use burn::tensor::Distribution;
use divan::Bencher;
use mask_rcnn::{MaskRcnn, MaskRcnnConfig};
use vmamba::zoo::Backbone;
use vmamba::{FeaturePyramid, Preset};
use vmamba_detection::{Detector, ImageInfo};

fn main() {
    divan::main();
}

/// A photo of 480x640 pixels after the resize and the padding of the published recipe.
const SIZE: [usize; 2] = [800, 1088];

fn model(device: &Device) -> MaskRcnn<Backbone> {
    device.seed(0);
    let mut config = MaskRcnnConfig::on(Preset::VmambaTinyS1l8.config(), 80);
    // With random weights every class is equally improbable. Without a threshold the heads process as many boxes as they are allowed to.
    config.heads.test.score_threshold = 0.0;
    config.init(device)
}

fn image(device: &Device) -> Tensor<4> {
    Tensor::random([1, 3, SIZE[0], SIZE[1]], Distribution::Normal(0.0, 1.0), device)
}

#[divan::bench(sample_count = 3, sample_size = 1)]
fn predict(bencher: Bencher) {
    let device = Device::flex();
    let (model, image) = (model(&device), image(&device));
    let infos = [ImageInfo::new([480, 640], [800, 1066])];
    bencher.bench_local(|| model.predict(image.clone(), &infos).expect("finite"));
}

#[divan::bench(sample_count = 3, sample_size = 1)]
fn backbone_alone(bencher: Bencher) {
    let device = Device::flex();
    let (model, image) = (model(&device), image(&device));
    bencher.bench_local(|| model.backbone.forward_features(image.clone()).into_iter().map(Tensor::into_data).collect::<Vec<_>>());
}
