//! Activation maps: the contribution of each patch of a photo to a query patch, in one layer of one network.
//!
//! ```text
//! picture.rs: photo or scene ── resize, crop ──┐
//! erf::Subject: model, weights ────────────────┴─ Network ── trace_scan, activation_maps (VMamba) or attention_row (DeiT) ──> figure.rs
//! ```
//! [`vmamba::analysis`] computes the maps. `docs/analysis.md` has the protocol and its differences from the published script.

mod figure;
mod picture;
mod query;

use std::path::Path;

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::TensorData;
use image::RgbImage;
use vision_datasets::transforms::Normalize;
use vmamba::analysis::{
    ActivationMaps, AttentionRow, BlockIndex, MapMode, MapOptions, MapRange, MapRanges, ScanTrace, TraceError, activation_maps,
    activation_maps_between,
};
use vmamba::zoo::{Backbone, BackboneConfig, Classifier};
use vmamba_report::console::{progress_bar, weights_line};
use vmamba_report::eprintln;
use vmamba_report::run_folder::{BEST, LAST};

pub use figure::{Figure, write_figure};
pub use picture::{Photo, scene};
pub use query::Query;

use crate::erf::{Network, Subject};
use crate::error::{Place, Result, invalid};
use vmamba_recipes::MemoryEstimate;

/// A layer, counted from 0: `2.1` is block 1 of stage 2, `8` is block 8 of a network without stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A block of a stage.
    Staged(BlockIndex),
    /// A block of a network without stages.
    Block(usize),
}

impl std::str::FromStr for Layer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number =
            |part: &str| part.parse::<usize>().map_err(|_| format!("`{text}` is not a layer; write stage.block, as in 2.1, or block"));
        match text.split_once('.') {
            Some((stage, block)) => Ok(Self::Staged(BlockIndex { stage: number(stage)?, block: number(block)? })),
            None => Ok(Self::Block(number(text)?)),
        }
    }
}

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Staged(layer) => layer.fmt(f),
            Self::Block(block) => block.fmt(f),
        }
    }
}

/// A network with activation or attention maps.
pub struct Viewer {
    /// Its name in figures.
    pub name: String,
    network: Network,
    normalize: Normalize,
    config: BackboneConfig,
}

/// One layer on one picture. A scan needs one forward pass for all queries.
pub enum View {
    /// The scan of an SS2D.
    Scan(Box<ScanTrace>),
    /// The image and the block, for attention.
    Attention(Box<Tensor<4>>, usize),
}

/// The maps of one query.
pub enum Maps {
    /// Maps of a scan.
    Scan(ActivationMaps),
    /// Maps of attention.
    Attention(AttentionRow),
}

impl Viewer {
    /// Loads a model by name with the weights of a checkpoint, or with random weights from `seed`. A checkpoint of `train_seg` or `train_det`
    /// needs no name.
    ///
    /// # Errors
    /// When the model is unknown or has no maps, or the checkpoint is missing or belongs to another model.
    pub fn load(model: Option<&str>, checkpoint: Option<&Path>, seed: u64, device: &Device) -> Result<Self> {
        let subject = match (model, checkpoint) {
            (Some(model), None) => Subject::named(model).at("--model")?,
            (Some(model), Some(path)) => Subject::named(model).at("--model")?.trained(path).at("--checkpoint")?,
            (None, Some(path)) => {
                let name = own_name(path).ok_or_else(|| invalid!("--checkpoint {} has no file name", path.display()))?;
                Subject::of_run(name, path).at("--checkpoint")?
            }
            (None, None) => {
                return Err(invalid!("no model; name one with --model, or a checkpoint of train_seg or train_det with --checkpoint"));
            }
        };
        let name = subject.name.clone();
        if !matches!(subject.config, BackboneConfig::Vmamba(_) | BackboneConfig::Deit(_)) {
            return Err(invalid!(
                "{name}: models of family {} have no two-dimensional scan; VMamba has activation maps, DeiT attention maps",
                subject.config.family()
            ));
        }
        let network = match &subject.checkpoint {
            Some(path) => {
                let (network, origin) = subject.load_weights(path, device).at("--checkpoint")?;
                eprintln!("{}", weights_line(path, &origin));
                network
            }
            None => random(&subject, seed, device)?,
        };
        let network = match network {
            Network::Classifier(model) => Network::Classifier(model.valid()),
            Network::Backbone(model) => Network::Backbone(model.valid()),
        };
        Ok(Self { name, network, normalize: subject.normalize, config: subject.config })
    }

    /// Replaces the normalisation of the model.
    pub fn set_normalize(&mut self, normalize: Normalize) {
        self.normalize = normalize;
    }

    /// The normalisation of images.
    pub fn normalize(&self) -> &Normalize {
        &self.normalize
    }

    /// Whether the model has attention instead of scans; [`MapOptions`] apply to scans only.
    pub fn has_attention(&self) -> bool {
        matches!(self.config, BackboneConfig::Deit(_))
    }

    /// The layer of the published figures.
    pub fn default_layer(&self) -> Layer {
        match self.config {
            BackboneConfig::Deit(_) => Layer::Block(8),
            _ => Layer::Staged(BlockIndex { stage: 2, block: 1 }),
        }
    }

    /// Checks that the model takes a picture of this size.
    ///
    /// # Errors
    /// [`StudyError::Config`](crate::StudyError::Config) with the supported sizes.
    pub fn check_size(&self, picture: &RgbImage) -> Result<()> {
        let (height, width) = (picture.height() as usize, picture.width() as usize);
        self.config.check_photo([height, width]).at_with(|| format!("{}: an image of {width} x {height} pixels", self.name))
    }

    /// The memory for a picture of `[height, width]` pixels.
    pub fn memory(&self, size: [usize; 2]) -> MemoryEstimate {
        MemoryEstimate::prediction(&self.config.complexity(size), size, 1)
    }

    /// Runs the model on a picture and records one layer.
    ///
    /// # Errors
    /// When the layer does not exist or has no scan through the whole image, or the model does not take the size.
    pub fn look(&self, picture: &RgbImage, layer: Layer, device: &Device) -> Result<View> {
        let size = [picture.height() as usize, picture.width() as usize];
        self.check_size(picture)?;
        let input = self.normalize.apply(picture, size);
        let images = Tensor::from_data(TensorData::new(input.values, [1, 3, size[0], size[1]]), device);
        let context = || format!("{}: --layer", self.name);
        let trace = |trace: Result<ScanTrace, TraceError>| -> Result<View> { Ok(View::Scan(Box::new(trace.at_with(context)?))) };
        match (&self.network, layer) {
            (Network::Backbone(Backbone::Vmamba(model)), Layer::Staged(layer)) => trace(model.trace_scan(images, layer)),
            (Network::Classifier(Classifier::Vmamba(model)), Layer::Staged(layer)) => trace(model.trace_scan(images, layer)),
            (Network::Backbone(Backbone::Deit(_)) | Network::Classifier(Classifier::Deit(_)), Layer::Block(block)) => {
                Ok(View::Attention(Box::new(images), block))
            }
            (_, Layer::Block(_)) => Err(invalid!("{}: --layer {layer}: write stage.block, as in 2.1", self.name)),
            (_, Layer::Staged(_)) => {
                Err(invalid!("{}: --layer {layer}: this network has no stages; write the number of a block", self.name))
            }
        }
    }

    /// The maps of queries `[x, y]`, as fractions of the width and height of the picture.
    ///
    /// # Errors
    /// When the block of attention does not exist.
    pub fn maps(&self, view: &View, queries: &[[f64; 2]], options: MapOptions) -> Result<Vec<Maps>> {
        let ranges = match view {
            View::Scan(trace) if options.range == MapRange::AllQueries => Some(ranges_of_all_queries(trace, options)),
            _ => None,
        };
        queries.iter().map(|query| self.map(view, *query, options, ranges.as_ref())).collect()
    }

    fn map(&self, view: &View, query: [f64; 2], options: MapOptions, ranges: Option<&MapRanges>) -> Result<Maps> {
        match view {
            View::Scan(trace) => {
                let query = patch(query, trace.size);
                Ok(Maps::Scan(match ranges {
                    Some(ranges) => activation_maps_between(trace, query, options, ranges)?,
                    None => activation_maps(trace, query, options)?,
                }))
            }
            View::Attention(images, block) => {
                let BackboneConfig::Deit(config) = &self.config else {
                    return Err(invalid!("{} has no attention", self.name));
                };
                let [_, _, height, width] = images.dims();
                let query = patch(query, [height / config.patch_size, width / config.patch_size]);
                let context = || format!("{}: --layer", self.name);
                let row = match &self.network {
                    Network::Backbone(Backbone::Deit(model)) => model.attention_row(images.as_ref().clone(), *block, query),
                    Network::Classifier(Classifier::Deit(model)) => model.attention_row(images.as_ref().clone(), *block, query),
                    _ => return Err(invalid!("{} has no attention", self.name)),
                };
                Ok(Maps::Attention(row.at_with(context)?))
            }
        }
    }
}

impl Maps {
    /// The patch of the query `[row, column]`, and the grid `[height, width]`.
    pub fn place(&self) -> ([usize; 2], [usize; 2]) {
        match self {
            Self::Scan(maps) => (maps.query, maps.size),
            Self::Attention(row) => (row.query, row.size),
        }
    }

    /// The kind of the maps in words; `mode` applies to scans.
    pub fn describe(&self, mode: MapMode) -> String {
        match self {
            Self::Scan(_) => format!("activation maps {}", mode.name()),
            Self::Attention(_) => "attention".to_owned(),
        }
    }
}

/// Computes the ranges with a progress bar.
fn ranges_of_all_queries(trace: &ScanTrace, options: MapOptions) -> MapRanges {
    let bar = progress_bar((trace.size[0] * trace.size[1]) as u64);
    bar.set_message("queries");
    let ranges = MapRanges::of_all_queries(trace, options, &|| bar.inc(1));
    bar.finish_and_clear();
    ranges
}

/// The name of a checkpoint: the folder of its run for the file names of runs, otherwise the file name.
fn own_name(path: &Path) -> Option<String> {
    let of_run = path.file_name().is_some_and(|name| [BEST, LAST].iter().any(|run| name == *run));
    let named = if of_run { path.parent().filter(|folder| folder.file_name().is_some()).unwrap_or(path) } else { path };
    named.file_name().map(|name| name.to_string_lossy().into_owned())
}

fn random(subject: &Subject, seed: u64, device: &Device) -> Result<Network> {
    device.seed(seed);
    Ok(Network::Backbone(subject.config.try_init(device).at_with(|| subject.name.clone())?))
}

/// The patch `[row, column]` at `[x, y]`, fractions of width and height; 1 belongs to the last patch.
fn patch([x, y]: [f64; 2], [rows, columns]: [usize; 2]) -> [usize; 2] {
    let place = |part: f64, count: usize| ((part * count as f64) as usize).min(count.saturating_sub(1));
    [place(y, rows), place(x, columns)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_belongs_to_the_patch_that_contains_it() {
        assert_eq!(patch([0.0, 0.0], [4, 8]), [0, 0]);
        assert_eq!(patch([0.5, 0.5], [4, 8]), [2, 4]);
        assert_eq!(patch([1.0, 0.74], [4, 8]), [2, 7]);
    }

    #[test]
    fn layers_are_stage_and_block_or_block() {
        assert_eq!("2.1".parse(), Ok(Layer::Staged(BlockIndex { stage: 2, block: 1 })));
        assert_eq!("8".parse(), Ok(Layer::Block(8)));
        for wrong in ["", "2.", "a.1", "2.1.0", "-1"] {
            assert!(wrong.parse::<Layer>().unwrap_err().contains("stage.block"), "{wrong}");
        }
    }
}
