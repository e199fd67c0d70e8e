//! UperNet on VMamba-T[s1l8] with one image of 512x512 pixels, the whole network and its parts: `cargo bench -p upernet`.

use burn::prelude::*;
use burn::tensor::Distribution;
use divan::Bencher;
use upernet::{FcnHeadConfig, Segmentor, UperHeadConfig, UperNet, UperNetConfig};
use vmamba::zoo::Backbone;
use vmamba::{FeaturePyramid, Preset, VmambaConfig};

fn main() {
    divan::main();
}

fn segmentor(device: &Device) -> UperNet<Backbone> {
    device.seed(0);
    UperNetConfig {
        backbone: VmambaConfig::preset(Preset::VmambaTinyS1l8).into(),
        num_classes: 150,
        head: UperHeadConfig::default(),
        auxiliary: Some(FcnHeadConfig::default()),
    }
    .init(device)
}

fn image(device: &Device) -> Tensor<4> {
    Tensor::random([1, 3, 512, 512], Distribution::Normal(0.0, 1.0), device)
}

#[divan::bench(sample_count = 5)]
fn forward_whole(bencher: Bencher) {
    let device = Device::flex();
    let (model, image) = (segmentor(&device), image(&device));
    bencher.bench_local(|| model.forward(image.clone()).into_data());
}

#[divan::bench(sample_count = 5)]
fn forward_backbone_alone(bencher: Bencher) {
    let device = Device::flex();
    let (model, image) = (segmentor(&device), image(&device));
    bencher.bench_local(|| model.backbone.forward_features(image.clone()).into_iter().map(Tensor::into_data).collect::<Vec<_>>());
}

#[divan::bench(sample_count = 5)]
fn forward_decode_head_alone(bencher: Bencher) {
    let device = Device::flex();
    let model = segmentor(&device);
    let features = model.backbone.forward_features(image(&device));
    bencher.bench_local(|| model.decode_head.forward(features.clone()).into_data());
}
