//! Options of the check of a data set.

use std::path::PathBuf;

use clap::Args;

use crate::arguments::{anchor_scale, count, pixels, sheet_images};
use crate::options::{JsonOption, PhotoOptions};

/// What to check and what to write.
#[derive(Args, Clone, Debug)]
pub struct DataCheckOptions {
    /// Folder with images/SPLIT and annotations/SPLIT.
    #[arg(long, value_name = "DIR", group = "files")]
    pub data: Option<PathBuf>,
    /// Class list: a CSV or text file with one class a line (objectInfo format of ADE20K works), or `ade20k` for its 150 classes.
    /// Without it, the list that training would find: DIR/objectInfo*, DIR/classes.txt or a similar name.
    #[arg(long, value_name = "FILE", requires = "data")]
    pub classes: Option<PathBuf>,
    /// Only these splits (repeat or separate by commas).
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "data")]
    pub split: Vec<String>,
    /// COCO annotations to check instead of label maps.
    #[arg(long, value_name = "FILE", group = "files", requires = "images", conflicts_with_all = ["data", "scenes"])]
    pub coco: Option<PathBuf>,
    /// Folder of the images of the annotations.
    #[arg(long, value_name = "DIR", requires = "coco")]
    pub images: Option<PathBuf>,
    /// Leave Roboflow's root category out of the classes, as `data.source.drop_root_category` does in training.
    #[arg(long, requires = "coco")]
    pub drop_root_category: bool,
    /// Read photos without their EXIF orientation, as `data.source.ignore_exif` does in training.
    #[arg(long, requires = "files")]
    pub ignore_exif: bool,
    /// Limits of the long and the short side after the resize of training, for the anchors.
    #[arg(long, value_name = "PIXELS", num_args = 2, default_values_t = [1333, 800], value_parser = pixels, requires = "coco")]
    pub scale: Vec<usize>,
    /// Sizes of the anchors in strides of their level.
    #[arg(long, value_name = "SIZE", value_delimiter = ',', default_values_t = [8.0], value_parser = anchor_scale, requires = "coco")]
    pub anchor_scales: Vec<f32>,
    /// Number of classes of the model.
    #[arg(long, value_name = "N", value_parser = count)]
    pub num_classes: Option<usize>,
    /// Ignore label 0 and lower all others by one, as ADE20K training does.
    #[arg(long, requires = "data")]
    pub reduce_zero_label: bool,
    /// Where to write the whole report.
    #[command(flatten)]
    pub json: JsonOption,
    /// Write a contact sheet (PNG): images with their labels or objects.
    #[arg(long, value_name = "FILE")]
    pub sheet: Option<PathBuf>,
    /// Images of each split on the contact sheet.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = sheet_images, requires = "sheet")]
    pub sheet_images: usize,
    /// List all classes, however many there are.
    #[arg(long)]
    pub all_classes: bool,
    /// The largest image to read.
    #[command(flatten)]
    pub limit: PhotoOptions,
    /// Fail on warnings too.
    #[arg(long)]
    pub strict: bool,
    /// Number of built-in scenes to check.
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = count, conflicts_with = "data")]
    pub scenes: usize,
}
