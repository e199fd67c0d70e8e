//! Published results from `data/published/*.toml`, built into the program.
//!
//! [`classifier`], [`classifier_cost`], [`memory`], [`scaling`] and [`ablation`] find rows by this workspace's name of a model,
//! [`segmentation_row`] and [`detection_row`] by the name of a configuration. They return nothing where nothing was published, and also for
//! damaged data; [`published`] reports the damage, and the tests of this module exclude it.

mod rows;

use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use vmamba_report::tables::{Cell, Table};

use crate::choice::chosen_by_name;

pub use self::rows::{
    AblationRow, AblationTables, AveragePrecision, ClassifierRow, CostRow, CostTables, DetectionRow, DetectionSetting, Family,
    ImagenetTables, MemoryRow, ScalingRow, ScalingStudy, SegmentationRow, SegmentationSetting, Sourced,
};

/// All published tables.
#[derive(Clone, Debug)]
pub struct Published {
    /// Classifiers on ImageNet-1K at 224x224.
    pub imagenet: ImagenetTables,
    /// Exact parameters and FLOPs, and memory.
    pub costs: CostTables,
    /// Mask R-CNN on COCO val2017.
    pub coco_mask_rcnn: Vec<DetectionRow>,
    /// Training and evaluation settings of the detectors, by schedule.
    pub coco_settings: Vec<DetectionSetting>,
    /// UperNet on ADE20K val.
    pub ade20k_upernet: Vec<SegmentationRow>,
    /// Training and evaluation settings of the segmentors, by crop.
    pub ade20k_settings: Vec<SegmentationSetting>,
    /// Classifiers at larger image sizes.
    pub scaling: ScalingStudy,
    /// Variants of VMamba-T.
    pub ablations: AblationTables,
}

/// A built-in data file is damaged.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the built-in {file}: {reason}")]
pub struct PublishedError {
    file: &'static str,
    reason: toml::de::Error,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CocoFile {
    settings: Vec<DetectionSetting>,
    coco_mask_rcnn: Vec<DetectionRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ade20kFile {
    settings: Vec<SegmentationSetting>,
    ade20k_upernet: Vec<SegmentationRow>,
}

static DATA: LazyLock<Result<Published, PublishedError>> = LazyLock::new(|| {
    fn parse<T: DeserializeOwned>(file: &'static str, text: &str) -> Result<T, PublishedError> {
        toml::from_str(text).map_err(|reason| PublishedError { file, reason })
    }
    let coco: CocoFile = parse("coco.toml", include_str!("../data/published/coco.toml"))?;
    let ade20k: Ade20kFile = parse("ade20k.toml", include_str!("../data/published/ade20k.toml"))?;
    Ok(Published {
        imagenet: parse("imagenet.toml", include_str!("../data/published/imagenet.toml"))?,
        costs: parse("costs.toml", include_str!("../data/published/costs.toml"))?,
        coco_mask_rcnn: coco.coco_mask_rcnn,
        coco_settings: coco.settings,
        ade20k_upernet: ade20k.ade20k_upernet,
        ade20k_settings: ade20k.settings,
        scaling: parse("scaling.toml", include_str!("../data/published/scaling.toml"))?,
        ablations: parse("ablations.toml", include_str!("../data/published/ablations.toml"))?,
    })
});

/// The built-in data.
///
/// # Errors
/// When a file is damaged.
pub fn published() -> Result<&'static Published, PublishedError> {
    DATA.as_ref().map_err(Clone::clone)
}

/// A classifier at 224x224 by its name in this workspace. Where the lists contradict each other, the main table of the paper takes precedence;
/// missing figures come from the appendix, then from the repository.
pub fn classifier(id: &str) -> Option<ClassifierRow> {
    let ImagenetTables { main, full, repository } = &published().ok()?.imagenet;
    let mut found = [main, full, repository].into_iter().filter_map(|table| table.rows.iter().find(|row| row.id == id));
    let first = found.next()?.clone();
    Some(found.fold(first, |row, other| ClassifierRow {
        gflops_old: row.gflops_old.or(other.gflops_old),
        throughput: row.throughput.or(other.throughput),
        train_throughput: row.train_throughput.or(other.train_throughput),
        ..row
    }))
}

/// The exact cost of a classifier at 224x224 by its name in this workspace.
pub fn classifier_cost(id: &str) -> Option<&'static CostRow> {
    published().ok()?.costs.classifiers.rows.iter().find(|row| row.id == id)
}

/// The memory of a classifier by its name in this workspace.
pub fn memory(id: &str) -> Option<&'static MemoryRow> {
    published().ok()?.costs.memory.rows.iter().find(|row| row.id == id)
}

/// A classifier at an image size, by its name in this workspace and the side of the images in pixels.
pub fn scaling(model: &str, side: usize) -> Option<&'static ScalingRow> {
    scaling_study()?.rows.iter().find(|row| row.id == model && row.side == side)
}

/// The resolution study with its source and conditions.
pub fn scaling_study() -> Option<&'static ScalingStudy> {
    Some(&published().ok()?.scaling)
}

/// A table of the paper's ablations, named after the option that it varies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ablation {
    /// From the first paper's block to VMamba-T, step by step.
    Acceleration,
    /// Scan routes.
    ScanPattern,
    /// Initialisation of the SSM.
    Initialisation,
    /// Size of the state.
    DState,
    /// Width of the SSM against the number of blocks.
    SsmRatio,
    /// Width of the MLP against that of the SSM.
    MlpRatio,
    /// Activation in the SSM.
    Activation,
}

impl Ablation {
    /// All of them in the order of the paper.
    pub const ALL: [Self; 7] =
        [Self::Acceleration, Self::ScanPattern, Self::Initialisation, Self::DState, Self::SsmRatio, Self::MlpRatio, Self::Activation];

    /// Its name on the command line and in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acceleration => "acceleration",
            Self::ScanPattern => "scan-pattern",
            Self::Initialisation => "initialisation",
            Self::DState => "d-state",
            Self::SsmRatio => "ssm-ratio",
            Self::MlpRatio => "mlp-ratio",
            Self::Activation => "activation",
        }
    }
}

chosen_by_name!(Ablation, "table");

/// The rows of an ablation in the order of the paper.
pub fn ablation(table: Ablation) -> &'static [AblationRow] {
    ablation_table(table).map_or(&[], |table| table.rows.as_slice())
}

/// An ablation with its source and conditions.
pub fn ablation_table(table: Ablation) -> Option<&'static Sourced<AblationRow>> {
    let tables = &published().ok()?.ablations;
    Some(match table {
        Ablation::Acceleration => &tables.acceleration,
        Ablation::ScanPattern => &tables.scan_pattern,
        Ablation::Initialisation => &tables.initialisation,
        Ablation::DState => &tables.d_state,
        Ablation::SsmRatio => &tables.ssm_ratio,
        Ablation::MlpRatio => &tables.mlp_ratio,
        Ablation::Activation => &tables.activation,
    })
}

/// The row of a configuration, given as a name or as a path to its file (`configs/upernet/upernet_vmamba_tiny_s1l8_512.toml`).
///
/// # Errors
/// As [`published`].
pub fn segmentation_row(config: &str) -> Result<Option<&'static SegmentationRow>, PublishedError> {
    Ok(published()?.ade20k_upernet.iter().find(|row| row.id == name_of(config)))
}

/// The row of a configuration, as in [`segmentation_row`].
///
/// # Errors
/// As [`published`].
pub fn detection_row(config: &str) -> Result<Option<&'static DetectionRow>, PublishedError> {
    Ok(published()?.coco_mask_rcnn.iter().find(|row| row.id == name_of(config)))
}

fn name_of(config: &str) -> &str {
    let name = Path::new(config).file_name().and_then(|n| n.to_str()).unwrap_or(config);
    name.strip_suffix(".toml").unwrap_or(name)
}

impl Published {
    /// Training and evaluation settings of a detector.
    pub fn detection_setting(&self, row: &DetectionRow) -> Option<&DetectionSetting> {
        self.coco_settings.iter().find(|setting| setting.schedule == row.schedule && setting.recipe == row.recipe)
    }

    /// Training and evaluation settings of a segmentor.
    pub fn segmentation_setting(&self, row: &SegmentationRow) -> Option<&SegmentationSetting> {
        self.ade20k_settings.iter().find(|setting| setting.crop == row.crop && setting.recipe == row.recipe)
    }
}

/// A cell with a number that may be unknown.
fn cell(number: Option<f64>, decimals: usize) -> Cell {
    number.map_or(Cell::Missing, |number| Cell::Number(number, decimals))
}

impl DetectionRow {
    /// AP, AP50 and AP75 of boxes, then of masks.
    pub fn figures(&self) -> [Option<f64>; 6] {
        let ([b, b50, b75], [m, m50, m75]) = (self.boxes.values(), self.masks.values());
        [b, b50, b75, m, m50, m75]
    }

    /// A table of the published row, our figures in percent, and the difference.
    pub fn compare(&self, boxes: [f64; 3], masks: [f64; 3]) -> Table {
        let mut table = Table::new(["", "APb", "APb50", "APb75", "APm", "APm50", "APm75"]);
        let own: Vec<f64> = boxes.into_iter().chain(masks).collect();
        let published = self.figures();
        let row = |name: String, cells: Vec<Cell>| std::iter::once(Cell::Text(name)).chain(cells);
        let differences = own.iter().zip(&published).map(|(own, published)| cell(published.map(|published| own - published), 2));
        table.push(row(format!("published, {} {}", self.model, self.schedule), published.iter().map(|value| cell(*value, 1)).collect()));
        table.push(row("this run".to_owned(), own.iter().map(|value| Cell::Number(*value, 2)).collect()));
        table.push(row("difference".to_owned(), differences.collect()));
        table
    }
}

/// Our results in percent; `None` where they were not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Single-scale mIoU.
    pub miou_ss: Option<f64>,
    /// mIoU with test-time augmentation: six scales with flips.
    pub miou_ms: Option<f64>,
}

impl SegmentationRow {
    /// A table of the published row, our figures, and the difference.
    pub fn compare(&self, own: Measured) -> Table {
        let mut table = Table::new(["", "mIoU (SS)", "mIoU (MS)"]);
        table.push([format!("published, {}", self.model).into(), cell(self.miou_ss, 2), cell(self.miou_ms, 2)]);
        table.push(["this run".into(), cell(own.miou_ss, 2), cell(own.miou_ms, 2)]);
        let difference = |own: Option<f64>, published: Option<f64>| cell(own.zip(published).map(|(a, b)| a - b), 2);
        table.push(["difference".into(), difference(own.miou_ss, self.miou_ss), difference(own.miou_ms, self.miou_ms)]);
        table
    }
}

#[cfg(test)]
mod tests;
