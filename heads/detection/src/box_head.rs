//! Class and box of RoIs (mmdetection's `Shared2FCBBoxHead` and `Shared4Conv1FCBBoxHead`).

use burn::module::Param;
use burn::nn::Initializer;
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::activation::softmax;
use serde::{Deserialize, Serialize};
use vision_ops::{Fused, Pointwise};
use vmamba::layers::{BatchNorm2d, Conv, ConvConfig, Dense};
use vmamba::{NotFinite, require_finite};

use crate::box_coder::BoxCoder;
use crate::losses::{DeltaLoss, argmax, cross_entropy, giou_loss, pick};
use crate::postprocess::{ScoredBox, TestConfig, multiclass_nms};
use crate::roi_sampling::RoiBatch;

/// The box head. The defaults are those of the published Mask R-CNN models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BoxHeadConfig {
    /// The layers between the features and the two predictors.
    pub layers: BoxHeadLayers,
    /// Outputs of the linear layers.
    pub channels: usize,
    /// Side of the RoI features, in cells.
    pub roi_size: usize,
    /// Encodes boxes relative to RoIs.
    pub coder: BoxCoder,
    /// Whether all classes share one box (mmdetection's `reg_class_agnostic`).
    pub reg_class_agnostic: bool,
    /// The loss of the boxes.
    pub loss: BoxLoss,
    /// Factor of the loss of the boxes.
    pub loss_weight: f64,
}

/// The layers of a box head between the features and the two predictors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub enum BoxHeadLayers {
    /// Two linear layers (mmdetection's `Shared2FCBBoxHead`).
    #[default]
    #[serde(rename = "shared_2fc")]
    Shared2Fc,
    /// Four 3x3 convolutions and one linear layer (mmdetection's `Shared4Conv1FCBBoxHead`).
    #[serde(rename = "shared_4conv1fc")]
    Shared4Conv1Fc {
        /// Outputs of the convolutions.
        channels: usize,
        /// The norm behind every convolution.
        norm: ConvNorm,
    },
}

/// The norm behind a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ConvNorm {
    /// No norm; the convolution has a bias.
    None,
    /// Batch norm (mmdetection's `BN` and `SyncBN`); the convolution has no bias.
    BatchNorm,
}

/// The loss between predicted and true boxes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum BoxLoss {
    /// Absolute difference of the deltas.
    L1,
    /// Smooth L1 loss of the deltas.
    SmoothL1 {
        /// Absolute difference at which the loss turns from quadratic to linear.
        beta: f32,
    },
    /// One minus the GIoU of the decoded boxes (mmdetection's `GIoULoss` with `reg_decoded_bbox`).
    Giou,
}

impl BoxLoss {
    /// The loss of the deltas; `None` for the GIoU loss, which compares decoded boxes.
    pub(crate) fn of_deltas(self) -> Option<DeltaLoss> {
        match self {
            Self::L1 => Some(DeltaLoss::L1),
            Self::SmoothL1 { beta } => Some(DeltaLoss::SmoothL1 { beta }),
            Self::Giou => None,
        }
    }
}

impl Default for BoxHeadConfig {
    fn default() -> Self {
        Self {
            layers: BoxHeadLayers::Shared2Fc,
            channels: 1024,
            roi_size: 7,
            coder: BoxCoder::BOX_HEAD,
            reg_class_agnostic: false,
            loss: BoxLoss::L1,
            loss_weight: 1.0,
        }
    }
}

impl BoxHeadConfig {
    /// Numbers of shared convolutions and of shared linear layers.
    pub(crate) fn depths(&self) -> (usize, usize) {
        match self.layers {
            BoxHeadLayers::Shared2Fc => (0, 2),
            BoxHeadLayers::Shared4Conv1Fc { .. } => (4, 1),
        }
    }

    /// Outputs of the predictor of the boxes.
    pub(crate) fn regression_outputs(&self, num_classes: usize) -> usize {
        if self.reg_class_agnostic { 4 } else { 4 * num_classes }
    }

    /// A head on RoI features of `inputs` channels with the initialisation of mmdetection: Kaiming normal convolutions, Xavier uniform
    /// linear layers, normal predictors.
    pub fn init(&self, inputs: usize, num_classes: usize, device: &Device) -> BoxHead {
        let (convs, fcs) = self.depths();
        let (mut features, norm) = match self.layers {
            BoxHeadLayers::Shared2Fc => (inputs, ConvNorm::None),
            BoxHeadLayers::Shared4Conv1Fc { channels, norm } => (channels, norm),
        };
        let conv = |index: usize| SharedConv::new(if index == 0 { inputs } else { features }, features, norm, device);
        let shared_convs = (0..convs).map(conv).collect();
        features *= self.roi_size * self.roi_size;
        let xavier = || Initializer::XavierUniform { gain: 1.0 };
        let normal = |std: f64| Initializer::Normal { mean: 0.0, std };
        let fc = |index: usize| dense(if index == 0 { features } else { self.channels }, self.channels, xavier(), device);
        BoxHead {
            shared_convs,
            shared_fcs: (0..fcs).map(fc).collect(),
            fc_cls: dense(self.channels, num_classes + 1, normal(0.01), device),
            fc_reg: dense(self.channels, self.regression_outputs(num_classes), normal(0.001), device),
            num_classes,
            config: self.clone(),
        }
    }
}

fn dense(inputs: usize, outputs: usize, initializer: Initializer, device: &Device) -> Dense {
    let weight: Param<Tensor<2>> = initializer.init_with([outputs, inputs], Some(inputs), Some(outputs), device);
    Dense { weight, bias: Some(Initializer::Zeros.init([outputs], device)) }
}

/// A 3x3 convolution, a norm and ReLU (mmcv's `ConvModule`).
#[derive(Module, Debug)]
pub struct SharedConv {
    /// The convolution, `[out, in, 3, 3]`.
    pub conv: Conv,
    /// Its norm.
    pub bn: Option<BatchNorm2d>,
}

impl SharedConv {
    fn new(inputs: usize, outputs: usize, norm: ConvNorm, device: &Device) -> Self {
        let initializer = Initializer::KaimingNormal { gain: std::f64::consts::SQRT_2, fan_out_only: true };
        let weight = initializer.init_with([outputs, inputs, 3, 3], Some(inputs * 9), Some(outputs * 9), device);
        let config = ConvConfig { inputs, outputs, kernel: 3, stride: 1, padding: 1 };
        match norm {
            ConvNorm::None => Self { conv: config.with_parameters(weight, Some(Initializer::Zeros.init([outputs], device))), bn: None },
            ConvNorm::BatchNorm => Self { conv: config.with_parameters(weight, None), bn: Some(BatchNorm2d::new(outputs, device)) },
        }
    }

    /// `[rois, height, width, in]` to `[rois, height, width, out]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match &self.bn {
            Some(norm) => norm.forward_behind(&self.conv, x, None, Pointwise::Relu),
            None => self.conv.forward_fused(x, Fused::default().activation(Pointwise::Relu)),
        }
    }
}

/// Shared layers, then one linear layer for the classes and one for the boxes.
#[derive(Module, Debug)]
pub struct BoxHead {
    shared_convs: Vec<SharedConv>,
    shared_fcs: Vec<Dense>,
    fc_cls: Dense,
    fc_reg: Dense,
    num_classes: usize,
    #[module(skip)]
    config: BoxHeadConfig,
}

/// The outputs of the head for RoIs, float32.
#[derive(Clone, Debug)]
pub struct BoxOutput {
    /// Logits of the classes, background last, `[rois, classes + 1]`.
    pub logits: Tensor<2>,
    /// Deltas of the box of every class, `[rois, classes * 4]`, or of the one box, `[rois, 4]`.
    pub deltas: Tensor<2>,
}

/// The losses of the head.
#[derive(Clone, Debug)]
pub struct BoxHeadLoss {
    /// Mean cross entropy of the classes, `[1]`.
    pub cls: Tensor<1>,
    /// Loss of the boxes of the positives divided by the number of all RoIs, times its weight, `[1]`.
    pub bbox: Tensor<1>,
    /// Percentage of RoIs with the right class.
    pub accuracy: f64,
}

impl BoxHead {
    /// Number of classes without the background, which is also the index of the background.
    pub fn num_classes(&self) -> usize {
        self.num_classes
    }

    /// Features `[rois, inputs, roi_size, roi_size]` to logits and deltas.
    pub fn forward(&self, features: Tensor<4>) -> BoxOutput {
        let relu = || Fused::default().activation(Pointwise::Relu);
        let features = if self.shared_convs.is_empty() {
            features
        } else {
            let x = self.shared_convs.iter().fold(features.permute([0, 2, 3, 1]), |x, conv| conv.forward(x));
            x.permute([0, 3, 1, 2])
        };
        let x: Tensor<2> = features.flatten(1, 3);
        let x = self.shared_fcs.iter().fold(x, |x, layer| layer.forward_fused(x, relu()));
        BoxOutput { logits: self.fc_cls.forward(x.clone()).cast(DType::F32), deltas: self.fc_reg.forward(x).cast(DType::F32) }
    }

    /// The losses of `output` for the RoIs of `batch`, one for each row.
    pub fn loss(&self, output: &BoxOutput, batch: &RoiBatch) -> BoxHeadLoss {
        let labels: Vec<usize> = batch.targets.iter().map(|target| target.map_or(self.num_classes, |target| target.category)).collect();
        let (cls, accuracy) = cross_entropy(output.logits.clone(), &labels);
        let (mut places, mut rois, mut boxes) = (Vec::new(), Vec::new(), Vec::new());
        for (row, (roi, target)) in batch.rois.iter().zip(&batch.targets).enumerate() {
            if let Some(target) = target {
                let first = self.first_delta(row, target.category);
                places.extend(first..first + 4);
                rois.push(roi.bbox);
                boxes.push(target.bbox);
            }
        }
        let coder = &self.config.coder;
        let deltas = pick(&output.deltas, &places);
        let sum = match self.config.loss.of_deltas() {
            _ if boxes.is_empty() => deltas.sum() * 0.0,
            Some(loss) => {
                let encoded: Vec<f32> = rois.iter().zip(&boxes).flat_map(|(roi, bbox)| coder.encode(*roi, *bbox)).collect();
                loss.sum(deltas, &encoded)
            }
            None => giou_loss(coder.decode_tensor(&rois, deltas.reshape([rois.len(), 4])), &boxes),
        };
        let bbox = sum / batch.rois.len().max(1) as f64 * self.config.loss_weight;
        BoxHeadLoss { cls: cls * batch.weight, bbox, accuracy: accuracy * batch.weight }
    }

    /// The boxes of the next stage of a cascade: each of `rois`, `[x0, y0, x1, y1]` and one for each row of `output`, moved by the deltas of
    /// its class and clipped to an image of `[height, width]` pixels (mmdetection's `regress_by_class`). The class of a RoI is `known` or, if
    /// that is `None`, the most probable class except the background.
    ///
    /// # Panics
    /// When `known` or `output` has another length than `rois`.
    pub fn refine(&self, output: &BoxOutput, rois: &[[f32; 4]], known: &[Option<usize>], image: [usize; 2]) -> Vec<[f32; 4]> {
        assert!(rois.len() == known.len() && output.logits.dims()[0] == rois.len(), "BoxHead: one row and one class for each RoI");
        let columns = self.num_classes + 1;
        let (logits, deltas) = (host(output.logits.clone()), host(output.deltas.clone()));
        let class = |row: usize| known[row].unwrap_or_else(|| argmax(&logits[row * columns..][..self.num_classes]));
        let refine = |(row, roi): (usize, &[f32; 4])| {
            let first = self.first_delta(row, class(row));
            self.config.coder.decode(*roi, std::array::from_fn(|part| deltas[first + part]), Some(image))
        };
        rois.iter().enumerate().map(refine).collect()
    }

    /// The detections of an image of `[height, width]` pixels: boxes whose probability is above the threshold, after NMS within every
    /// class, by descending probability. `rois` are `[x0, y0, x1, y1]`, one for each row of `output`.
    pub fn detect(&self, output: &BoxOutput, rois: &[[f32; 4]], image: [usize; 2], config: &TestConfig) -> Vec<ScoredBox> {
        let classes = self.num_classes;
        let (probabilities, deltas) = (host(softmax(output.logits.clone(), 1)), host(output.deltas.clone()));
        let mut found = Vec::new();
        for (row, (roi, probabilities)) in rois.iter().zip(probabilities.chunks_exact(classes + 1)).enumerate() {
            for (category, score) in probabilities.iter().take(classes).enumerate() {
                if *score > config.score_threshold {
                    let first = self.first_delta(row, category);
                    let delta = std::array::from_fn(|part| deltas[first + part]);
                    found.push(ScoredBox { bbox: self.config.coder.decode(*roi, delta, Some(image)), score: *score, category });
                }
            }
        }
        multiclass_nms(&found, config).into_iter().map(|index| found[index]).collect()
    }

    /// Index of the first of the four deltas of a class in the row-major deltas of the head.
    fn first_delta(&self, row: usize, category: usize) -> usize {
        if self.config.reg_class_agnostic { row * 4 } else { (row * self.num_classes + category) * 4 }
    }
}

fn host(values: Tensor<2>) -> Vec<f32> {
    values.into_data().iter::<f32>().collect()
}

impl BoxOutput {
    /// Checks that logits and deltas are finite.
    ///
    /// # Errors
    /// Names the output that is not.
    pub fn require_finite(&self) -> Result<(), NotFinite> {
        require_finite("the class scores of the box head", &self.logits)?;
        require_finite("the boxes of the box head", &self.deltas)
    }

    /// The outputs of the RoIs in `range`, such as those of one image.
    #[must_use]
    pub fn rows(&self, range: std::ops::Range<usize>) -> Self {
        let own = |values: &Tensor<2>| values.clone().narrow(0, range.start, range.len());
        Self { logits: own(&self.logits), deltas: own(&self.deltas) }
    }

    /// The outputs of each image of a batch, image by image; `None` for an image without RoIs. `counts` are the numbers of RoIs of the
    /// images.
    pub fn split(&self, counts: impl Iterator<Item = usize>) -> impl Iterator<Item = Option<Self>> {
        let mut begin = 0;
        counts.map(move |count| {
            let rows = begin..begin + count;
            begin = rows.end;
            (count > 0).then(|| self.rows(rows))
        })
    }

    /// The outputs of the last stage with the logits averaged over all stages, as mmdetection's cascades predict; `None` without stages.
    pub fn average_scores(stages: &[Self]) -> Option<Self> {
        let sum = stages.iter().map(|stage| stage.logits.clone()).reduce(|a, b| a + b)?;
        Some(Self { logits: sum / stages.len() as f64, deltas: stages.last()?.deltas.clone() })
    }
}
