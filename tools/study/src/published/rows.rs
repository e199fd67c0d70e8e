//! The rows of the published tables. `None` means that nobody published the number; shares are in percent.

use serde::{Deserialize, Serialize};

/// Rows with what holds for all of them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sourced<R> {
    /// Where the numbers come from.
    pub source: String,
    /// Conditions and contradictions worth knowing.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The rows in the order of the publication.
    pub rows: Vec<R>,
}

/// What a network is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Attention.
    Transformer,
    /// Convolutions.
    Convolution,
    /// State-space models.
    StateSpace,
}

/// One classifier at 224x224 on ImageNet-1K.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierRow {
    /// Name of the model in this workspace.
    pub id: String,
    /// The name used in the publication.
    pub model: String,
    /// What it is made of.
    pub family: Family,
    /// Millions of parameters, head included.
    pub params_m: f64,
    /// Multiply-accumulates / 1e9.
    pub gflops: f64,
    /// As `gflops`, with the scan as the paper's first versions counted it.
    pub gflops_old: Option<f64>,
    /// Images a second in inference: A100, batch 128, float32.
    pub throughput: Option<f64>,
    /// Images a second of forward, loss and backward: A100, batch 128, autocast.
    pub train_throughput: Option<f64>,
    /// Top-1 accuracy on val.
    pub top1: f64,
}

/// The published lists of classifiers, which contradict each other in places.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagenetTables {
    /// The table of the paper's text.
    pub main: Sourced<ClassifierRow>,
    /// The table of its appendix.
    pub full: Sourced<ClassifierRow>,
    /// That of the official repository.
    pub repository: Sourced<ClassifierRow>,
}

/// Exact cost of a network.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostRow {
    /// Name of the model; detectors and segmentors have the name of the head before it, segmentors the side of the crop behind it.
    pub id: String,
    /// Parameters.
    pub params: u64,
    /// Multiply-accumulates / 1e9 at `flops_input`.
    pub gflops: Option<f64>,
    /// As `gflops`, with the scan as the paper's first versions counted it.
    pub gflops_old: Option<f64>,
    /// Height and width; absent for classifiers, which are at 224x224.
    pub flops_input: Option<[usize; 2]>,
    /// Parameters without the head and the norm before it.
    pub params_backbone: Option<u64>,
    /// Parameters of the feature pyramid: the backbone with a norm on each of its four outputs.
    pub params_pyramid: Option<u64>,
}

/// Memory and speed of a batch of 128 at 224x224 on an A100.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryRow {
    /// Name of the model, or `acceleration_` and the name of a step of [`Ablation::Acceleration`](super::Ablation::Acceleration).
    pub id: String,
    /// The name used in the publication.
    pub model: String,
    /// Images a second in inference, float32.
    pub throughput: Option<f64>,
    /// Peak in megabytes in inference, float32.
    pub memory_mb: Option<u64>,
    /// Images a second of forward, loss and backward under autocast.
    pub train_amp_throughput: Option<f64>,
    /// Peak in megabytes of the same.
    pub train_amp_memory_mb: Option<u64>,
    /// Images a second of forward, loss and backward, float32.
    pub train_throughput: Option<f64>,
    /// Peak in megabytes of the same.
    pub train_memory_mb: Option<u64>,
}

/// Exact costs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostTables {
    /// Classifiers at 224x224.
    pub classifiers: Sourced<CostRow>,
    /// Mask R-CNN with 80 classes.
    pub detectors: Sourced<CostRow>,
    /// UperNet with 150 classes.
    pub segmentors: Sourced<CostRow>,
    /// Memory of classifiers.
    pub memory: Sourced<MemoryRow>,
}

/// Average precision in percent; only the first is always published.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Vec<f64>")]
pub struct AveragePrecision {
    /// Mean over IoU 0.50 to 0.95.
    pub ap: f64,
    /// At IoU 0.50.
    pub ap50: Option<f64>,
    /// At IoU 0.75.
    pub ap75: Option<f64>,
}

impl AveragePrecision {
    /// AP, AP50, AP75.
    pub fn values(&self) -> [Option<f64>; 3] {
        [Some(self.ap), self.ap50, self.ap75]
    }
}

impl TryFrom<Vec<f64>> for AveragePrecision {
    type Error = String;

    fn try_from(values: Vec<f64>) -> Result<Self, String> {
        match values[..] {
            [ap] => Ok(Self { ap, ap50: None, ap75: None }),
            [ap, ap50, ap75] => Ok(Self { ap, ap50: Some(ap50), ap75: Some(ap75) }),
            _ => Err(format!("expected AP, or AP, AP50 and AP75, found {} numbers", values.len())),
        }
    }
}

/// One published detector.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionRow {
    /// Name of the configuration file without its ending.
    pub id: String,
    /// Name of the backbone in this workspace.
    pub backbone: String,
    /// The name used in the publication.
    pub model: String,
    /// Name of the [`DetectionSetting`] where it is not that of most rows.
    pub recipe: Option<String>,
    /// `1x` or `3x`.
    pub schedule: String,
    /// Images of a step, where it is not that of the [`DetectionSetting`].
    pub batch: Option<u64>,
    /// AP of the boxes.
    pub boxes: AveragePrecision,
    /// AP of the masks.
    pub masks: AveragePrecision,
    /// Parameters of the whole detector, exact.
    pub params: Option<u64>,
    /// Millions of them as published, where no exact count is known.
    pub params_m: Option<f64>,
    /// Multiply-accumulates / 1e9 of the whole detector at `flops_input`.
    pub gflops: f64,
    /// Height and width for which `gflops` holds.
    pub flops_input: [usize; 2],
    /// Where the numbers come from.
    pub source: String,
    /// Contradictions and conditions worth knowing.
    pub note: Option<String>,
}

/// How the published detectors were trained and evaluated.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionSetting {
    /// Which rows it is of; absent for those that name none.
    pub recipe: Option<String>,
    /// `1x` or `3x`.
    pub schedule: String,
    /// Passes over the training set.
    pub epochs: u64,
    /// Images of a step.
    pub batch: u64,
    /// `AdamW` or `SGD`.
    pub optimizer: String,
    /// Highest learning rate.
    pub lr: f64,
    /// Limits of the long and the short side in training.
    pub scales: Vec<[usize; 2]>,
    /// Whether a share of the images is cropped.
    pub crop: bool,
    /// Limits of the long and the short side in the evaluation.
    pub test_scale: [usize; 2],
    /// Name of the annotations evaluated on.
    pub validation_annotations: String,
    /// Images evaluated on.
    pub validation_images: usize,
    /// Number of classes.
    pub classes: usize,
    /// Numbers computed with in training.
    pub precision: String,
    /// What training starts from.
    pub initial: String,
    /// Where this is written.
    pub source: String,
    /// Contradictions and conditions worth knowing.
    pub note: Option<String>,
}

/// One published segmentor.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentationRow {
    /// Name of the configuration file without its ending.
    pub id: String,
    /// Name of the backbone in this workspace.
    pub backbone: String,
    /// The name used in the publication.
    pub model: String,
    /// Name of the [`SegmentationSetting`] where it is not that of most rows.
    pub recipe: Option<String>,
    /// Side of the training crop in pixels.
    pub crop: usize,
    /// mIoU of one scale, whole image.
    pub miou_ss: Option<f64>,
    /// mIoU of six scales with flips.
    pub miou_ms: Option<f64>,
    /// Parameters of the whole segmentor, exact.
    pub params: Option<u64>,
    /// Millions of them as published, where no exact count is known.
    pub params_m: Option<f64>,
    /// Multiply-accumulates / 1e9 of the whole segmentor at `flops_input`.
    pub gflops: Option<f64>,
    /// Height and width for which `gflops` holds.
    pub flops_input: Option<[usize; 2]>,
    /// Where the numbers come from.
    pub source: String,
    /// Contradictions and conditions worth knowing.
    pub note: Option<String>,
}

/// How the published segmentors were trained and evaluated.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentationSetting {
    /// Which rows it is of; absent for those that name none.
    pub recipe: Option<String>,
    /// Side of the training crop in pixels.
    pub crop: usize,
    /// Steps.
    pub iterations: u64,
    /// Images of a step.
    pub batch: u64,
    /// `AdamW` or `SGD`.
    pub optimizer: String,
    /// Highest learning rate.
    pub lr: f64,
    /// Limits of the long and the short side in training, before the random factor.
    pub scale: [usize; 2],
    /// The same in the evaluation.
    pub test_scale: [usize; 2],
    /// Whether the evaluation slides windows over the image instead of taking it whole.
    #[serde(default)]
    pub slide: bool,
    /// Images evaluated on.
    pub validation_images: usize,
    /// Number of classes.
    pub classes: usize,
    /// Numbers computed with in training.
    pub precision: String,
    /// What training starts from.
    pub initial: String,
    /// Where this is written.
    pub source: String,
}

/// One classifier, trained at 224x224, at one size.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalingRow {
    /// Name of the model in this workspace.
    pub id: String,
    /// Height and width of the images in pixels.
    pub side: usize,
    /// Millions of parameters.
    pub params_m: f64,
    /// Multiply-accumulates / 1e9.
    pub gflops: f64,
    /// Images a second in inference: A100, float32, the batch of the [`ScalingStudy`].
    pub throughput: f64,
    /// Images a second of forward, loss and backward under autocast.
    pub train_throughput: f64,
    /// Top-1 accuracy of the weights as they are.
    pub top1: f64,
    /// Top-1 accuracy with a linear layer trained on the features of that size.
    pub top1_tuned: f64,
}

/// The study of larger images.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalingStudy {
    /// Where the numbers come from.
    pub source: String,
    /// Images of a batch.
    pub batch: usize,
    /// Conditions and contradictions worth knowing.
    pub notes: Vec<String>,
    /// By model, then by size.
    pub rows: Vec<ScalingRow>,
}

/// One variant of VMamba-T at 224x224 on ImageNet-1K. Options that its table does not vary are `None`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AblationRow {
    /// Name of the variant, unique in its table.
    pub id: String,
    /// What changed against the row before.
    pub what: Option<String>,
    /// Size of the state.
    pub d_state: Option<usize>,
    /// Width of the SSM over that of the block.
    pub ssm_ratio: Option<f64>,
    /// Width of the MLP over that of the block.
    pub mlp_ratio: Option<f64>,
    /// Blocks of the four stages.
    pub depths: Option<[usize; 4]>,
    /// Whether there is a depthwise convolution before the scan.
    pub dwconv: Option<bool>,
    /// Whether there is a multiplicative branch.
    pub gate: Option<bool>,
    /// Whether there is an MLP.
    pub mlp: Option<bool>,
    /// Routes of the scan: `unidi`, `bidi`, `cascade` or `cross`.
    pub pattern: Option<String>,
    /// Initialisation of the SSM: `mamba`, `rand` or `zero`.
    pub init: Option<String>,
    /// Activation in the SSM: `silu`, `gelu` or `relu`.
    pub activation: Option<String>,
    /// Millions of parameters.
    pub params_m: f64,
    /// Multiply-accumulates / 1e9.
    pub gflops: f64,
    /// Images a second in inference: A100, batch 128, float32.
    pub throughput: f64,
    /// Images a second of forward, loss and backward under autocast.
    pub train_throughput: f64,
    /// Top-1 accuracy.
    pub top1: f64,
}

/// The ablations of the paper.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AblationTables {
    /// From the first paper's block to VMamba-T, step by step.
    pub acceleration: Sourced<AblationRow>,
    /// Routes of the scan.
    pub scan_pattern: Sourced<AblationRow>,
    /// Initialisation of the SSM.
    pub initialisation: Sourced<AblationRow>,
    /// Size of the state.
    pub d_state: Sourced<AblationRow>,
    /// Width of the SSM against number of blocks.
    pub ssm_ratio: Sourced<AblationRow>,
    /// Width of the MLP against that of the SSM.
    pub mlp_ratio: Sourced<AblationRow>,
    /// Activation in the SSM.
    pub activation: Sourced<AblationRow>,
}
