//! The rows of the published tables. `None` stands for an unpublished number; shares are in percent.

use serde::{Deserialize, Serialize};

/// Rows with their common source and notes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sourced<R> {
    /// Source of the numbers.
    pub source: String,
    /// Conditions and contradictions.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The rows in the order of the publication.
    pub rows: Vec<R>,
}

/// The kind of a network.
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
    /// The kind of the network.
    pub family: Family,
    /// Millions of parameters, head included.
    pub params_m: f64,
    /// Multiply-accumulates / 1e9.
    pub gflops: f64,
    /// As `gflops`, with the scan counted as in the first versions of the paper.
    pub gflops_old: Option<f64>,
    /// Images per second in inference: A100, batch 128, float32.
    pub throughput: Option<f64>,
    /// Images per second of forward, loss and backward: A100, batch 128, autocast.
    pub train_throughput: Option<f64>,
    /// Top-1 accuracy on val.
    pub top1: f64,
}

/// The published lists of classifiers, which contradict each other in places.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagenetTables {
    /// The table in the text of the paper.
    pub main: Sourced<ClassifierRow>,
    /// The table in the appendix.
    pub full: Sourced<ClassifierRow>,
    /// The table of the official repository.
    pub repository: Sourced<ClassifierRow>,
}

/// Exact cost of a network.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostRow {
    /// Name of the model; the name of the head precedes that of a detector or segmentor, and the side of the crop follows that of a segmentor.
    pub id: String,
    /// Parameters.
    pub params: u64,
    /// Multiply-accumulates / 1e9 at `flops_input`.
    pub gflops: Option<f64>,
    /// As `gflops`, with the scan counted as in the first versions of the paper.
    pub gflops_old: Option<f64>,
    /// Height and width; absent for classifiers, whose figures are for 224x224.
    pub flops_input: Option<[usize; 2]>,
    /// Parameters without the head and its norm.
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
    /// Images per second in inference, float32.
    pub throughput: Option<f64>,
    /// Peak memory in megabytes in inference, float32.
    pub memory_mb: Option<u64>,
    /// Images per second of forward, loss and backward under autocast.
    pub train_amp_throughput: Option<f64>,
    /// Its peak memory in megabytes.
    pub train_amp_memory_mb: Option<u64>,
    /// Images per second of forward, loss and backward, float32.
    pub train_throughput: Option<f64>,
    /// Its peak memory in megabytes.
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
    /// Name of the [`DetectionSetting`], where it is not the common one.
    pub recipe: Option<String>,
    /// `1x` or `3x`.
    pub schedule: String,
    /// Images of a step, where it differs from the [`DetectionSetting`].
    pub batch: Option<u64>,
    /// AP of the boxes.
    pub boxes: AveragePrecision,
    /// AP of the masks.
    pub masks: AveragePrecision,
    /// Parameters of the whole detector, exact.
    pub params: Option<u64>,
    /// Published parameters in millions, where no exact count is known.
    pub params_m: Option<f64>,
    /// Multiply-accumulates / 1e9 of the whole detector at `flops_input`.
    pub gflops: f64,
    /// Height and width for which `gflops` holds.
    pub flops_input: [usize; 2],
    /// Source of the numbers.
    pub source: String,
    /// Contradictions and conditions.
    pub note: Option<String>,
}

/// Training and evaluation settings of published detectors.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionSetting {
    /// The name by which rows refer to it; absent for the common setting.
    pub recipe: Option<String>,
    /// `1x` or `3x`.
    pub schedule: String,
    /// Epochs.
    pub epochs: u64,
    /// Images of a step.
    pub batch: u64,
    /// `AdamW` or `SGD`.
    pub optimizer: String,
    /// Highest learning rate.
    pub lr: f64,
    /// Limits of the long and the short side in training.
    pub scales: Vec<[usize; 2]>,
    /// Whether some images are cropped at random.
    pub crop: bool,
    /// Limits of the long and the short side in the evaluation.
    pub test_scale: [usize; 2],
    /// Name of the validation annotations.
    pub validation_annotations: String,
    /// Number of validation images.
    pub validation_images: usize,
    /// Number of classes.
    pub classes: usize,
    /// Type of training: `float32` or `float16`.
    pub precision: String,
    /// The initial weights.
    pub initial: String,
    /// Source of the settings.
    pub source: String,
    /// Contradictions and conditions.
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
    /// Name of the [`SegmentationSetting`], where it is not the common one.
    pub recipe: Option<String>,
    /// Side of the training crop in pixels.
    pub crop: usize,
    /// Single-scale mIoU on whole images.
    pub miou_ss: Option<f64>,
    /// mIoU with six scales and flips.
    pub miou_ms: Option<f64>,
    /// Parameters of the whole segmentor, exact.
    pub params: Option<u64>,
    /// Published parameters in millions, where no exact count is known.
    pub params_m: Option<f64>,
    /// Multiply-accumulates / 1e9 of the whole segmentor at `flops_input`.
    pub gflops: Option<f64>,
    /// Height and width for which `gflops` holds.
    pub flops_input: Option<[usize; 2]>,
    /// Source of the numbers.
    pub source: String,
    /// Contradictions and conditions.
    pub note: Option<String>,
}

/// Training and evaluation settings of published segmentors.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentationSetting {
    /// The name by which rows refer to it; absent for the common setting.
    pub recipe: Option<String>,
    /// Side of the training crop in pixels.
    pub crop: usize,
    /// Training steps.
    pub iterations: u64,
    /// Images of a step.
    pub batch: u64,
    /// `AdamW` or `SGD`.
    pub optimizer: String,
    /// Highest learning rate.
    pub lr: f64,
    /// Limits of the long and the short side in training, before the random factor.
    pub scale: [usize; 2],
    /// Limits of the long and the short side in the evaluation.
    pub test_scale: [usize; 2],
    /// Whether the evaluation uses sliding windows instead of whole images.
    #[serde(default)]
    pub slide: bool,
    /// Number of validation images.
    pub validation_images: usize,
    /// Number of classes.
    pub classes: usize,
    /// Type of training: `float32` or `float16`.
    pub precision: String,
    /// The initial weights.
    pub initial: String,
    /// Source of the settings.
    pub source: String,
}

/// A classifier trained at 224x224, evaluated at one size.
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
    /// Images per second in inference: A100, float32, the batch of the [`ScalingStudy`].
    pub throughput: f64,
    /// Images per second of forward, loss and backward under autocast.
    pub train_throughput: f64,
    /// Top-1 accuracy of the unchanged weights.
    pub top1: f64,
    /// Top-1 accuracy with a linear layer trained on the features at this size.
    pub top1_tuned: f64,
}

/// The resolution study.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalingStudy {
    /// Source of the numbers.
    pub source: String,
    /// Images of a batch.
    pub batch: usize,
    /// Conditions and contradictions.
    pub notes: Vec<String>,
    /// Rows by model, then by size.
    pub rows: Vec<ScalingRow>,
}

/// One variant of VMamba-T at 224x224 on ImageNet-1K. Options that its table does not vary are `None`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AblationRow {
    /// Name of the variant, unique in its table.
    pub id: String,
    /// The change from the row before.
    pub what: Option<String>,
    /// Size of the state.
    pub d_state: Option<usize>,
    /// Width of the SSM over the width of the block.
    pub ssm_ratio: Option<f64>,
    /// Width of the MLP over the width of the block.
    pub mlp_ratio: Option<f64>,
    /// Blocks of the four stages.
    pub depths: Option<[usize; 4]>,
    /// Whether there is a depthwise convolution before the scan.
    pub dwconv: Option<bool>,
    /// Whether there is a gating branch.
    pub gate: Option<bool>,
    /// Whether there is an MLP.
    pub mlp: Option<bool>,
    /// Scan routes: `unidi`, `bidi`, `cascade` or `cross`.
    pub pattern: Option<String>,
    /// Initialisation of the SSM: `mamba`, `rand` or `zero`.
    pub init: Option<String>,
    /// Activation in the SSM: `silu`, `gelu` or `relu`.
    pub activation: Option<String>,
    /// Millions of parameters.
    pub params_m: f64,
    /// Multiply-accumulates / 1e9.
    pub gflops: f64,
    /// Images per second in inference: A100, batch 128, float32.
    pub throughput: f64,
    /// Images per second of forward, loss and backward under autocast.
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
    /// Scan routes.
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
