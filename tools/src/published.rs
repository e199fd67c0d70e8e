//! Published results, to be printed beside one's own: `data/published.toml`, built into the program.

use crate::report::tables::{Cell, Table};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::Path;

const DATA: &str = include_str!("../data/published.toml");

/// All tables of the data file, one field a benchmark.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// UperNet on ADE20K val.
    pub ade20k_upernet: Vec<SegmentationRow>,
    /// Mask R-CNN on COCO val2017.
    pub coco_mask_rcnn: Vec<DetectionRow>,
}

/// One published detector. `None` means that nobody published the number; APs in percent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionRow {
    /// Name of the configuration file without its ending.
    pub id: String,
    /// The name used in the publication.
    pub model: String,
    /// `1x` or `3x`.
    pub schedule: String,
    /// AP, AP50 and AP75 of the boxes.
    pub boxes: [f64; 3],
    /// AP, AP50 and AP75 of the masks.
    pub masks: [f64; 3],
    /// Parameters of the whole detector.
    pub params: u64,
    /// Multiply-accumulates / 1e9 of the whole detector at `flops_input`.
    pub gflops: f64,
    /// Height and width for which `gflops` holds.
    pub flops_input: [usize; 2],
    /// Where the numbers come from.
    pub source: String,
    /// Contradictions and conditions worth knowing.
    pub note: Option<String>,
}

/// One published segmentor. `None` means that nobody published the number.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentationRow {
    /// Name of the configuration file without its ending.
    pub id: String,
    /// The name used in the publication.
    pub model: String,
    /// Side of the training crop in pixels.
    pub crop: usize,
    /// mIoU in percent, one scale, whole image.
    pub miou_ss: Option<f64>,
    /// mIoU in percent, six scales with flips.
    pub miou_ms: Option<f64>,
    /// Parameters of the whole segmentor.
    pub params: Option<u64>,
    /// Multiply-accumulates / 1e9 of the whole segmentor at `flops_input`.
    pub gflops: Option<f64>,
    /// Height and width for which `gflops` holds.
    pub flops_input: Option<[usize; 2]>,
    /// Where the numbers come from.
    pub source: String,
    /// Contradictions and conditions worth knowing.
    pub note: Option<String>,
}

/// Reads the built-in data file.
///
/// # Errors
/// When the file is damaged; the tests of this module exclude that for a released program.
pub fn published() -> Result<Published> {
    toml::from_str(DATA).context("the built-in table of published results")
}

/// The row of a configuration, given as a name or as a path to its file (`configs/upernet/upernet_vmamba_tiny_s1l8_512.toml`).
///
/// # Errors
/// As [`published`].
pub fn segmentation_row(config: &str) -> Result<Option<SegmentationRow>> {
    Ok(published()?.ade20k_upernet.into_iter().find(|row| row.id == name_of(config)))
}

/// The row of a configuration, as for [`segmentation_row`].
///
/// # Errors
/// As [`published`].
pub fn detection_row(config: &str) -> Result<Option<DetectionRow>> {
    Ok(published()?.coco_mask_rcnn.into_iter().find(|row| row.id == name_of(config)))
}

fn name_of(config: &str) -> &str {
    let name = Path::new(config).file_name().and_then(|n| n.to_str()).unwrap_or(config);
    name.strip_suffix(".toml").unwrap_or(name)
}

impl DetectionRow {
    /// The published row, one's own below it (percent), and the difference.
    pub fn compare(&self, boxes: [f64; 3], masks: [f64; 3]) -> Table {
        let mut table = Table::new(["", "APb", "APb50", "APb75", "APm", "APm50", "APm75"]);
        let own: Vec<f64> = boxes.into_iter().chain(masks).collect();
        let published: Vec<f64> = self.boxes.into_iter().chain(self.masks).collect();
        let row = |name: String, values: &[f64], decimals: usize| {
            std::iter::once(Cell::Text(name)).chain(values.iter().map(|value| Cell::Number(*value, decimals))).collect::<Vec<_>>()
        };
        let differences: Vec<f64> = own.iter().zip(&published).map(|(own, published)| own - published).collect();
        table.push(row(format!("published, {} {}", self.model, self.schedule), &published, 1));
        table.push(row("this run".to_owned(), &own, 2));
        table.push(row("difference".to_owned(), &differences, 2));
        table
    }
}

/// Own results in percent, as far as they were measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// mIoU of one scale.
    pub miou_ss: Option<f64>,
    /// mIoU of six scales with flips.
    pub miou_ms: Option<f64>,
}

impl SegmentationRow {
    /// The published row, one's own below it, and the difference.
    pub fn compare(&self, own: Measured) -> Table {
        let number = |n: Option<f64>| n.map_or(Cell::Missing, |n| Cell::Number(n, 2));
        let mut table = Table::new(["", "mIoU (SS)", "mIoU (MS)"]);
        table.push([format!("published, {}", self.model).into(), number(self.miou_ss), number(self.miou_ms)]);
        table.push(["this run".into(), number(own.miou_ss), number(own.miou_ms)]);
        let difference = |own: Option<f64>, published: Option<f64>| number(own.zip(published).map(|(a, b)| a - b));
        table.push(["difference".into(), difference(own.miou_ss, self.miou_ss), difference(own.miou_ms, self.miou_ms)]);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_file_is_complete_and_its_ids_are_unique() {
        let rows = published().unwrap().ade20k_upernet;
        let mut ids: Vec<&str> = rows.iter().map(|r| r.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), rows.len());
        for row in &rows {
            assert!(row.id.ends_with(&format!("_{}", row.crop)) && !row.source.is_empty(), "{}", row.id);
            assert_eq!(row.gflops.is_some(), row.flops_input.is_some(), "{}", row.id);
        }
        let rows = published().unwrap().coco_mask_rcnn;
        let ids: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(ids.len(), rows.len());
        for row in &rows {
            assert!(row.id.ends_with(&format!("_{}", row.schedule)) && !row.source.is_empty(), "{}", row.id);
        }
    }

    #[test]
    fn a_row_is_found_by_the_path_of_its_config() {
        let row = segmentation_row("configs/upernet/upernet_vmamba_tiny_s1l8_512.toml").unwrap().unwrap();
        assert_eq!((row.model.as_str(), row.miou_ss, row.params), ("VMamba-T[s1l8]", Some(47.9), Some(61_902_572)));
        assert!(segmentation_row("configs/camvid_nano.toml").unwrap().is_none());
    }

    #[test]
    fn a_detector_is_compared_with_its_row() {
        let row = detection_row("configs/mask_rcnn/mask_rcnn_vmamba_tiny_s1l8_1x.toml").unwrap().unwrap();
        let text = row.compare([47.5, 69.0, 52.0], [42.7, 66.4, 45.9]).text();
        assert!(text.contains("0.20") && text.contains("-0.30") && text.contains("47.3"), "{text}");
    }

    #[test]
    fn a_comparison_shows_the_difference_where_both_are_known() {
        let row = segmentation_row("upernet_vmamba_tiny_s1l8_512").unwrap().unwrap();
        let text = row.compare(Measured { miou_ss: Some(48.4), miou_ms: None }).text();
        assert!(text.contains("0.50") && text.contains("48.40"), "{text}");
    }
}
