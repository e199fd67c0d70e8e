//! Figures of activation maps: what the patches of a photo contribute to a query patch, in one layer of one network.
//!
//! ```text
//! picture.rs: photo or scene ── resize, crop ──┐
//! erf::Subject: model, weights ────────────────┴─ Network ── trace_scan, activation_maps (VMamba) or attention_row (DeiT) ──> figure.rs
//! ```
//! The computation itself is [`vmamba::analysis`]; the protocol and its differences from the published script are in `docs/analysis.md`.

mod figure;
mod picture;
mod query;

use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::TensorData;
use image::RgbImage;
use vision_datasets::transforms::Normalize;
use vmamba::analysis::{
    ActivationMaps, AttentionRow, BlockIndex, MapMode, MapOptions, MapRange, MapRanges, ScanTrace, activation_maps, activation_maps_between,
};
use vmamba::zoo::{Backbone, BackboneConfig, Classifier};

pub use figure::{Figure, write_figure};
pub use picture::{photo, scene};
pub use query::Query;

use crate::erf::{Network, Subject};
use vmamba_report::console::progress_bar;
use vmamba_report::run_folder::{BEST, LAST};

/// A layer as the user names it: `2.1` is block 1 of stage 2, `8` is block 8 of a network without stages; both count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Of a network with stages.
    Staged(BlockIndex),
    /// Of a network without.
    Block(usize),
}

impl std::str::FromStr for Layer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number =
            |part: &str| part.parse::<usize>().map_err(|_| format!("`{text}` is no layer; write stage.block, as in 2.1, or block"));
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

/// A network that has maps.
pub struct Viewer {
    /// Its name in figures.
    pub name: String,
    network: Network,
    normalize: Normalize,
    config: BackboneConfig,
}

/// What was looked at: one forward pass is enough for all queries of a scan.
pub enum View {
    /// The scan of an SS2D.
    Scan(Box<ScanTrace>),
    /// The image, for attention.
    Attention(Box<Tensor<4>>, usize),
}

/// The maps of a query.
pub enum Maps {
    /// Of a scan.
    Scan(ActivationMaps),
    /// Of attention.
    Attention(AttentionRow),
}

impl Viewer {
    /// The model of that name with random weights from `seed`, or with those of a checkpoint, which brings its model when it is one of
    /// `train_seg` or `train_det`.
    ///
    /// # Errors
    /// When there is no such model, it has no maps, or the checkpoint is missing or of another model.
    pub fn load(model: Option<&str>, checkpoint: Option<&Path>, seed: u64, device: &Device) -> Result<Self> {
        let subject = match (model, checkpoint) {
            (Some(model), None) => Subject::named(model).context("--model")?,
            (Some(model), Some(path)) => Subject::named(model).context("--model")?.trained(path).context("--checkpoint")?,
            (None, Some(path)) => {
                let name = own_name(path).with_context(|| format!("--checkpoint {} has no name", path.display()))?;
                Subject::of_run(name, path).context("--checkpoint")?
            }
            (None, None) => bail!("no model: name one with --model, or a checkpoint of train_seg or train_det with --checkpoint"),
        };
        let name = subject.name.clone();
        if !matches!(subject.config, BackboneConfig::Vmamba(_) | BackboneConfig::Deit(_)) {
            bail!(
                "{name}: models of family {} have no two-dimensional scan; activation maps are of VMamba, and attention maps of DeiT",
                subject.config.family()
            );
        }
        let network = match &subject.checkpoint {
            Some(path) => subject.load_weights(path, device).context("--checkpoint")?,
            None => random(&subject, seed, device)?,
        };
        let network = match network {
            Network::Classifier(model) => Network::Classifier(model.valid()),
            Network::Backbone(model) => Network::Backbone(model.valid()),
        };
        Ok(Self { name, network, normalize: subject.normalize, config: subject.config })
    }

    /// Normalises with these numbers instead of the model's own.
    pub fn set_normalize(&mut self, normalize: Normalize) {
        self.normalize = normalize;
    }

    /// What images are normalised with.
    pub fn normalize(&self) -> &Normalize {
        &self.normalize
    }

    /// Whether it has attention in place of scans, for which there are no [`MapOptions`].
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

    /// Checks that the model can take a picture of this size.
    ///
    /// # Errors
    /// When it cannot, with what it can take.
    pub fn check_size(&self, picture: &RgbImage) -> Result<()> {
        let (height, width) = (picture.height() as usize, picture.width() as usize);
        self.config.check_image([height, width]).with_context(|| format!("{}: an image of {width} x {height} pixels", self.name))
    }

    /// Looks at a picture in one layer.
    ///
    /// # Errors
    /// When the layer does not exist or has no scan through the image, and when the model cannot take the size.
    pub fn look(&self, picture: &RgbImage, layer: Layer, device: &Device) -> Result<View> {
        let size = [picture.height() as usize, picture.width() as usize];
        self.check_size(picture)?;
        let input = self.normalize.apply(picture, size);
        let images = Tensor::from_data(TensorData::new(input.values, [1, 3, size[0], size[1]]), device);
        let context = || format!("{}: --layer", self.name);
        let trace = |trace: Result<ScanTrace, _>| -> Result<View> { Ok(View::Scan(Box::new(trace.with_context(context)?))) };
        match (&self.network, layer) {
            (Network::Backbone(Backbone::Vmamba(model)), Layer::Staged(layer)) => trace(model.trace_scan(images, layer)),
            (Network::Classifier(Classifier::Vmamba(model)), Layer::Staged(layer)) => trace(model.trace_scan(images, layer)),
            (Network::Backbone(Backbone::Deit(_)) | Network::Classifier(Classifier::Deit(_)), Layer::Block(block)) => {
                Ok(View::Attention(Box::new(images), block))
            }
            (_, Layer::Block(_)) => bail!("{}: --layer {layer}: write stage.block, as in 2.1", self.name),
            (_, Layer::Staged(_)) => bail!("{}: --layer {layer}: this network has no stages; write the number of a block", self.name),
        }
    }

    /// The maps of queries, which are parts of the width and height of the picture.
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
                let BackboneConfig::Deit(config) = &self.config else { bail!("{} has no attention", self.name) };
                let [_, _, height, width] = images.dims();
                let query = patch(query, [height / config.patch_size, width / config.patch_size]);
                let context = || format!("{}: --layer", self.name);
                let row = match &self.network {
                    Network::Backbone(Backbone::Deit(model)) => model.attention_row(images.as_ref().clone(), *block, query),
                    Network::Classifier(Classifier::Deit(model)) => model.attention_row(images.as_ref().clone(), *block, query),
                    _ => bail!("{} has no attention", self.name),
                };
                Ok(Maps::Attention(row.with_context(context)?))
            }
        }
    }
}

impl Maps {
    /// The patch of the query, row and column, and the height and width of the grid.
    pub fn place(&self) -> ([usize; 2], [usize; 2]) {
        match self {
            Self::Scan(maps) => (maps.query, maps.size),
            Self::Attention(row) => (row.query, row.size),
        }
    }

    /// What they show, in words; `mode` is that of scans.
    pub fn describe(&self, mode: MapMode) -> String {
        match self {
            Self::Scan(_) => format!("activation maps {}", mode.name()),
            Self::Attention(_) => "attention".to_owned(),
        }
    }
}

/// With a bar on the terminal, as it takes long.
fn ranges_of_all_queries(trace: &ScanTrace, options: MapOptions) -> MapRanges {
    let bar = progress_bar((trace.size[0] * trace.size[1]) as u64);
    bar.set_message("queries");
    let ranges = MapRanges::of_all_queries(trace, options, &|| bar.inc(1));
    bar.finish_and_clear();
    ranges
}

/// The run that a checkpoint is of, where its file has the name that all runs give it; else its own.
fn own_name(path: &Path) -> Option<String> {
    let of_run = path.file_name().is_some_and(|name| [BEST, LAST].iter().any(|run| name == *run));
    let named = if of_run { path.parent().filter(|folder| folder.file_name().is_some()).unwrap_or(path) } else { path };
    named.file_name().map(|name| name.to_string_lossy().into_owned())
}

fn random(subject: &Subject, seed: u64, device: &Device) -> Result<Network> {
    device.seed(seed);
    Ok(Network::Backbone(subject.config.try_init(device).with_context(|| subject.name.clone())?))
}

/// The row and column of the patch at `[x, y]`, parts of width and height; the far edges belong to the last patches.
fn patch([x, y]: [f64; 2], [rows, columns]: [usize; 2]) -> [usize; 2] {
    let place = |part: f64, count: usize| ((part * count as f64) as usize).min(count.saturating_sub(1));
    [place(y, rows), place(x, columns)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_in_the_patch_around_it() {
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
