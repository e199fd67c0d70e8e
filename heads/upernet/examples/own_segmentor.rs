//! A segmentor of one's own: it trains a step and predicts in sliding windows with the same functions as UperNet.
//!
//! ```text
//! cargo run --release -p upernet --example own_segmentor
//! ```

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::prelude::*;
use burn::tensor::activation::relu;
use upernet::inference::{InferenceMode, SlidingWindows, View, predict_labels};
use upernet::{SegmentationLoss, Segmentor, loss_and_accuracy};

/// Two convolutions: features at a quarter of the image, then the classes.
#[derive(Module, Debug)]
struct TwoConvs {
    features: Conv2d,
    classes: Conv2d,
}

impl TwoConvs {
    fn new(num_classes: usize, device: &Device) -> Self {
        Self {
            features: Conv2dConfig::new([3, 32], [4, 4]).with_stride([4, 4]).init(device),
            classes: Conv2dConfig::new([32, num_classes], [1, 1]).init(device),
        }
    }
}

impl Segmentor for TwoConvs {
    fn num_classes(&self) -> usize {
        self.classes.weight.lazy_shape()[0]
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        self.classes.forward(relu(self.features.forward(images)))
    }

    fn loss(&self, images: Tensor<4>, labels: Tensor<3, Int>) -> SegmentationLoss {
        let (loss, accuracy) = loss_and_accuracy(self.forward(images), &labels);
        SegmentationLoss::new(vec![("loss_ce".to_owned(), loss)], vec![("acc_seg".to_owned(), accuracy)])
    }

    fn observe(&self, images: Tensor<4>, observe: &mut dyn FnMut(&str, usize, &Tensor<4>)) {
        let features = self.features.forward(images);
        observe("features", 0, &features);
        observe("classes", 0, &self.classes.forward(relu(features)));
    }
}

fn main() -> Result<(), vmamba::NotFinite> {
    let device = Device::flex().autodiff();
    device.seed(0);
    let model = TwoConvs::new(5, &device);

    // A training step on one image in which every pixel has class 2.
    let images = Tensor::<4>::ones([1, 3, 64, 96], &device);
    let loss = model.loss(images.clone(), Tensor::full([1, 64, 96], 2, &device));
    println!("loss {:.3}", loss.total.clone().into_scalar::<f32>());
    let gradients = loss.total.backward();
    println!("the features have gradients: {}", model.features.weight.val().grad(&gradients).is_some());

    // Prediction of a photo of 128x192 pixels that was resized to 64x96 for the network.
    let model = model.valid();
    let view = View { input: images.inner(), flipped: false };
    let windows = SlidingWindows::overlapping([32, 32]);
    let labels = predict_labels(&model, view, InferenceMode::Slide(windows), [128, 192])?;
    println!("{} labels, the first is {}", labels.len(), labels[0]);
    Ok(())
}
