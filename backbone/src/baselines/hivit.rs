//! HiViT (Zhang et al., "HiViT: A Simpler and More Efficient Design of Hierarchical Vision Transformer"): MLPs alone until stride 16, then a
//! vision transformer.
//!
//! ```text
//! image ─ patch_embed ─ MLP blocks ─ merge ─ MLP blocks ─ merge ─ + absolute_pos_embed ─ attention blocks ─ average ─ fc_norm ─ head
//!          stride 4                 stride 8              stride 16
//! ```
//! A block of the paper's first two stages is two MLP blocks. The official code keeps the 4 x 4 positions of a token together, so that masked
//! tokens can be left out; nothing before the attention looks beyond them, so that plain maps, as here, give the same. The reference of the keys
//! is the official repository's network for supervised training.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::rc::Rc;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use serde::{Deserialize, Serialize};
use vision_ops::Fused;

use crate::complexity::{Complexity, OpKind, product};
use crate::last_map::{Chain, channels_first, last_map_of_trunk};
use crate::layers::{
    Activation, ChannelNorm, Conv, ConvConfig, Dense, DropPath, Mlp, MlpConfig, RelativePositions, TableResize, attend, heads,
};
use crate::vmamba::ConfigError;
use crate::vmamba::config::require;
use crate::vmamba::downsample::merge_neighbours;

/// Options of a HiViT; the default is [`HivitConfig::tiny`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HivitConfig {
    /// Channels of the input image.
    pub in_chans: usize,
    /// Side in pixels of a token of the last stage. A multiple of 4, the first stage having a quarter of it as stride.
    pub patch_size: usize,
    /// Side in pixels of the square image that the tables of positions are made for. Images of other sizes get bicubically resized tables.
    pub image_size: usize,
    /// Channels of the last stage; the second has half of them, the first a quarter.
    pub embed_dim: usize,
    /// Blocks of the three stages; those of the first two are two MLPs each.
    pub depths: [usize; 3],
    /// Attention heads of the last stage's blocks; they share the channels evenly.
    pub num_heads: usize,
    /// Hidden width of the MLPs of the first two stages over their channels.
    pub stem_mlp_ratio: f64,
    /// Hidden width of the last stage's MLPs over its channels.
    pub mlp_ratio: f64,
    /// Adds a learned table of positions before the last stage.
    pub absolute_positions: bool,
    /// Adds learned biases for every distance to the scores of attention.
    pub relative_positions: bool,
    /// Whether the stem normalises.
    pub patch_norm: bool,
    /// Added to the variance in every norm: 1e-6 in the official repository, 1e-5 in mmpretrain.
    pub norm_epsilon: f64,
    /// Whether the classifier normalises the average. mmpretrain's does not.
    pub final_norm: bool,
    /// Stochastic depth of the last block; it rises linearly from 0 over all blocks, each MLP counting as one.
    pub drop_path_rate: f64,
}

impl Default for HivitConfig {
    fn default() -> Self {
        Self::tiny()
    }
}

impl HivitConfig {
    /// HiViT-T.
    pub fn tiny() -> Self {
        Self {
            in_chans: 3,
            patch_size: 16,
            image_size: 224,
            embed_dim: 384,
            depths: [1, 1, 10],
            num_heads: 6,
            stem_mlp_ratio: 3.0,
            mlp_ratio: 4.0,
            absolute_positions: true,
            relative_positions: true,
            patch_norm: true,
            norm_epsilon: 1e-6,
            final_norm: true,
            drop_path_rate: 0.05,
        }
    }

    /// HiViT-S.
    pub fn small() -> Self {
        Self { depths: [2, 2, 20], drop_path_rate: 0.3, ..Self::tiny() }
    }

    /// HiViT-B.
    pub fn base() -> Self {
        Self { embed_dim: 512, num_heads: 8, drop_path_rate: 0.5, ..Self::small() }
    }

    /// Checks that the options fit together.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first field that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        require(self.in_chans > 0, "in_chans", "at least 1", &self.in_chans)?;
        let quarters = |size: usize| size > 0 && size.is_multiple_of(MERGED);
        require(quarters(self.patch_size), "patch_size", "a positive multiple of 4", &self.patch_size)?;
        require(
            self.image_size > 0 && self.image_size.is_multiple_of(self.patch_size),
            "image_size",
            "a positive multiple of patch_size",
            &self.image_size,
        )?;
        require(quarters(self.embed_dim), "embed_dim", "a positive multiple of 4", &self.embed_dim)?;
        require(self.depths.iter().all(|depth| *depth > 0), "depths", "positive numbers", &self.depths)?;
        require(
            self.num_heads > 0 && self.embed_dim.is_multiple_of(self.num_heads),
            "num_heads",
            "a positive number that divides embed_dim",
            &self.num_heads,
        )?;
        for (field, ratio, channels) in
            [("stem_mlp_ratio", self.stem_mlp_ratio, self.dim(0)), ("mlp_ratio", self.mlp_ratio, self.embed_dim)]
        {
            require(ratio.is_finite() && ratio * channels as f64 >= 1.0, field, "a ratio that leaves a hidden channel", &ratio)?;
        }
        require(self.norm_epsilon > 0.0 && self.norm_epsilon.is_finite(), "norm_epsilon", "a small positive number", &self.norm_epsilon)?;
        require((0.0..1.0).contains(&self.drop_path_rate), "drop_path_rate", "a rate in [0, 1)", &self.drop_path_rate)
    }

    /// Checks that an image of `[height, width]` pixels divides into tokens.
    ///
    /// # Errors
    /// [`ConfigError::Field`] when it does not.
    pub fn check_image(&self, image: [usize; 2]) -> Result<(), ConfigError> {
        if image.iter().all(|size| *size > 0 && size.is_multiple_of(self.patch_size)) {
            return Ok(());
        }
        let [height, width] = image;
        let expected = format!("height and width that {} divides", self.patch_size);
        Err(ConfigError::Field { field: "image", expected, found: format!("{height} x {width}") })
    }

    /// A classifier with random weights on `device`.
    ///
    /// # Errors
    /// As [`HivitConfig::validate`].
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<HivitClassifier, ConfigError> {
        self.validate()?;
        Ok(HivitClassifier::new(self, num_classes, device))
    }

    /// Height and width of every stage for an image of `[height, width]` pixels.
    pub fn stage_sizes(&self, image: [usize; 2]) -> [[usize; 2]; 3] {
        let tokens = image.map(|size| size / self.patch_size);
        [4, 2, 1].map(|times| tokens.map(|size| times * size))
    }

    /// Channels of a stage.
    fn dim(&self, stage: usize) -> usize {
        self.embed_dim >> (2 - stage)
    }

    fn patch_conv(&self) -> ConvConfig {
        let side = self.patch_size / MERGED;
        ConvConfig { inputs: self.in_chans, outputs: self.dim(0), kernel: side, stride: side, padding: 0 }
    }

    /// Hidden width of a stage's MLPs, rounded down.
    fn hidden(&self, stage: usize) -> usize {
        let ratio = if stage == LAST { self.mlp_ratio } else { self.stem_mlp_ratio };
        (ratio * self.dim(stage) as f64) as usize
    }

    /// MLPs of a stage.
    fn mlps(&self, stage: usize) -> usize {
        if stage == LAST { self.depths[stage] } else { 2 * self.depths[stage] }
    }

    /// Tokens along a side of the image that the tables are made for.
    fn table_side(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Cost of the classifier for one image of `[height, width]` pixels. The average is free, as it is no pooling layer there.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        let (sizes, side) = (self.stage_sizes(image), self.table_side());
        let mut cost = Complexity::default();
        cost.conv_layer(&self.patch_conv(), sizes[0].map(|size| size * self.patch_size / MERGED));
        if self.patch_norm {
            cost.layer_norm(self.dim(0), sizes[0]);
        }
        for (stage, size) in sizes.into_iter().enumerate() {
            let (dim, hidden) = (self.dim(stage), self.hidden(stage));
            for _ in 0..self.mlps(stage) {
                if stage == LAST {
                    self.attention_complexity(&mut cost, size);
                }
                cost.layer_norm(dim, size);
                cost.linear(OpKind::Linear, dim, hidden, true, size);
                cost.linear(OpKind::Linear, hidden, dim, true, size);
            }
            if let Some(next) = sizes.get(stage + 1) {
                cost.layer_norm(4 * dim, *next);
                cost.linear(OpKind::Linear, 4 * dim, 2 * dim, false, *next);
            }
        }
        if self.absolute_positions {
            cost.add_params(side * side * self.embed_dim);
        }
        if self.final_norm {
            cost.layer_norm(self.embed_dim, [1, 1]);
        }
        cost.linear(OpKind::Linear, self.embed_dim, num_classes, true, [1, 1]);
        cost
    }

    fn attention_complexity(&self, cost: &mut Complexity, size: [usize; 2]) {
        let (dim, tokens) = (self.embed_dim, size[0] * size[1]);
        cost.layer_norm(dim, size);
        cost.linear(OpKind::Linear, dim, 3 * dim, true, size);
        cost.add(OpKind::Matmul, product(&[2, tokens, tokens, dim]));
        cost.linear(OpKind::Linear, dim, dim, true, size);
        if self.relative_positions {
            cost.add_params((2 * self.table_side() - 1).pow(2) * self.num_heads);
        }
    }
}

/// Positions of the first stage along a side of a token of the last.
const MERGED: usize = 4;

/// The stage with attention.
const LAST: usize = 2;

/// HiViT with a linear head on the average of the tokens.
#[derive(Module, Debug)]
pub struct HivitClassifier {
    trunk: Trunk,
    fc_norm: Option<ChannelNorm>,
    head: Dense,
    #[module(skip)]
    config: HivitConfig,
}

#[derive(Module, Debug)]
struct Trunk {
    patch_embed: PatchEmbed,
    /// `[1, tokens, embed_dim]` of the image size it was made for.
    absolute_pos_embed: Option<Param<Tensor<3>>>,
    blocks: Vec<Block>,
    #[module(skip)]
    table_side: usize,
}

#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Conv,
    norm: Option<ChannelNorm>,
}

/// All blocks of the official network stand in one list.
// Blocks are few, and Burn has no boxed modules.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
enum Block {
    Mlp(MlpBlock),
    Merge(PatchMerge),
    Attention(AttentionBlock),
}

/// Of the first two stages.
#[derive(Module, Debug)]
struct MlpBlock {
    norm2: ChannelNorm,
    mlp: Mlp,
    drop_path: DropPath,
}

/// Of the last stage.
#[derive(Module, Debug)]
struct AttentionBlock {
    norm1: ChannelNorm,
    attn: Attention,
    mixed: MlpBlock,
}

/// Four neighbours concatenated, norm, linear without bias.
#[derive(Module, Debug)]
struct PatchMerge {
    norm: ChannelNorm,
    reduction: Dense,
}

#[derive(Module, Debug)]
struct Attention {
    qkv: Dense,
    proj: Dense,
    /// A bias a head for every distance down and across: `[(2 side - 1)^2, heads]`.
    relative_position_bias_table: Option<Param<Tensor<2>>>,
    #[module(skip)]
    num_heads: usize,
    #[module(skip)]
    table_side: usize,
}

impl HivitClassifier {
    /// The configuration must be valid.
    fn new(config: &HivitConfig, num_classes: usize, device: &Device) -> Self {
        Self {
            trunk: Trunk::new(config, device),
            fc_norm: config.final_norm.then(|| ChannelNorm::with_epsilon(config.embed_dim, config.norm_epsilon, device)),
            head: Dense::new(config.embed_dim, num_classes, true, device),
            config: config.clone(),
        }
    }

    /// The last linear layer.
    pub fn head(&self) -> &Dense {
        &self.head
    }

    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to logits `[batch, num_classes]`, float32. The patch size divides
    /// height and width, see [`HivitConfig::check_image`]; a rest is left out.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.head.forward(self.features(images))
    }

    /// What goes into the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, to `[batch, channels]`, float32.
    pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let patch = self.config.patch_size;
        let images = [2, 3].into_iter().fold(images, |images, axis| match images.dims()[axis] {
            size if size.is_multiple_of(patch) => images,
            size => images.narrow(axis, 0, size / patch * patch),
        });
        let x = self.trunk.forward(images);
        let [batch, _, _, dim] = x.dims();
        let averaged = x.cast(DType::F32).mean_dim(1).mean_dim(2).reshape([batch, dim]);
        match &self.fc_norm {
            Some(norm) => norm.forward(averaged),
            None => averaged,
        }
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &HivitConfig {
        &self.config
    }
}

last_map_of_trunk!(HivitClassifier);

impl Trunk {
    /// See [`LastMap`](crate::LastMap).
    fn chain(&self, _image: [usize; 2]) -> Chain<'_> {
        let mut chain = Chain::of(|images| self.embed(images));
        // Worked out once, by the first block with attention.
        let shared: Rc<OnceCell<RelativePositions>> = Rc::default();
        let first = self.blocks.iter().position(|block| matches!(block, Block::Attention(_)));
        for (index, block) in self.blocks.iter().enumerate() {
            chain = match block {
                Block::Mlp(block) => chain.then(|x| block.forward(x)),
                Block::Merge(merge) => chain.then(|x| merge.forward(x)),
                Block::Attention(block) => {
                    let shared = Rc::clone(&shared);
                    chain.then(move |x| {
                        let x = if first == Some(index) { self.add_positions(x) } else { x };
                        let [_, height, width, _] = x.dims();
                        let pairs = shared.get_or_init(|| RelativePositions::new([height, width], &x.device()));
                        block.forward(x, pairs)
                    })
                }
            };
        }
        chain.then(channels_first)
    }

    fn new(config: &HivitConfig, device: &Device) -> Self {
        let norm = |channels| ChannelNorm::with_epsilon(channels, config.norm_epsilon, device);
        let count: usize = (0..=LAST).map(|stage| config.mlps(stage)).sum();
        let mut drop_path_rates = (0..count).map(|index| config.drop_path_rate * index as f64 / (count - 1).max(1) as f64);
        let mut blocks = Vec::with_capacity(count + LAST);
        for stage in 0..=LAST {
            let dim = config.dim(stage);
            for rate in drop_path_rates.by_ref().take(config.mlps(stage)) {
                let mlp =
                    MlpConfig { channels: dim, hidden: config.hidden(stage), activation: Activation::Gelu, gated: false, drop_rate: 0.0 };
                let block = MlpBlock { norm2: norm(dim), mlp: mlp.init(device), drop_path: DropPath::new(rate) };
                blocks.push(match stage {
                    LAST => Block::Attention(AttentionBlock { norm1: norm(dim), attn: Attention::new(config, device), mixed: block }),
                    _ => Block::Mlp(block),
                });
            }
            if stage < LAST {
                blocks.push(Block::Merge(PatchMerge { norm: norm(4 * dim), reduction: Dense::new(4 * dim, 2 * dim, false, device) }));
            }
        }
        let (dim, side) = (config.embed_dim, config.table_side());
        let table = || Tensor::random([1, side * side, dim], Distribution::Normal(0.0, 0.02), device);
        Self {
            patch_embed: PatchEmbed { proj: config.patch_conv().init(device), norm: config.patch_norm.then(|| norm(config.dim(0))) },
            absolute_pos_embed: config.absolute_positions.then(|| Param::from_tensor(table())),
            blocks,
            table_side: side,
        }
    }

    /// `images` `[batch, in_chans, height, width]` to `[batch, height / patch, width / patch, embed_dim]` in the same type.
    fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let mut x = self.embed(images);
        let mut pairs = None;
        for block in &self.blocks {
            x = match block {
                Block::Mlp(block) => block.forward(x),
                Block::Merge(merge) => merge.forward(x),
                Block::Attention(block) => {
                    // Worked out once, before the first of them.
                    let pairs = match &pairs {
                        Some(pairs) => pairs,
                        None => {
                            x = self.add_positions(x);
                            let [_, height, width, _] = x.dims();
                            pairs.insert(RelativePositions::new([height, width], &x.device()))
                        }
                    };
                    block.forward(x, pairs)
                }
            };
        }
        x
    }

    /// `images` `[batch, in_chans, height, width]` to what the first block gets.
    fn embed(&self, images: Tensor<4>) -> Tensor<4> {
        let x = self.patch_embed.proj.forward(images.permute([0, 2, 3, 1]));
        match &self.patch_embed.norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    fn add_positions(&self, x: Tensor<4>) -> Tensor<4> {
        let Some(table) = &self.absolute_pos_embed else {
            return x;
        };
        let ([_, height, width, dim], side) = (x.dims(), self.table_side);
        let table = table.val().reshape([side, side, dim]);
        let table = if [height, width] == [side; 2] { table } else { TableResize::Bicubic.apply(table, [height, width]) };
        let table = table.cast(x.dtype()).unsqueeze::<4>();
        x + table
    }
}

impl PatchMerge {
    /// `[batch, height, width, channels]` to half as many positions along both axes, twice as many channels.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.reduction.forward(self.norm.forward(merge_neighbours(x)))
    }
}

impl MlpBlock {
    /// `[batch, height, width, channels]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if !x.device().is_autodiff() {
            return self.mlp.forward(self.norm2.forward(x.clone()), Some(x));
        }
        x.clone() + self.drop_path.forward(self.mlp.forward(self.norm2.forward(x), None))
    }
}

impl AttentionBlock {
    /// `[batch, height, width, channels]` to the same shape.
    fn forward(&self, x: Tensor<4>, pairs: &RelativePositions) -> Tensor<4> {
        let y = self.norm1.forward(x.clone());
        let x = if x.device().is_autodiff() {
            x + self.mixed.drop_path.forward(self.attn.forward(y, pairs, None))
        } else {
            self.attn.forward(y, pairs, Some(x))
        };
        self.mixed.forward(x)
    }
}

impl Attention {
    fn new(config: &HivitConfig, device: &Device) -> Self {
        let (dim, side) = (config.embed_dim, config.table_side());
        let table = || Tensor::random([(2 * side - 1).pow(2), config.num_heads], Distribution::Normal(0.0, 0.02), device);
        Self {
            qkv: Dense::new(dim, 3 * dim, true, device),
            proj: Dense::new(dim, dim, true, device),
            relative_position_bias_table: config.relative_positions.then(|| Param::from_tensor(table())),
            num_heads: config.num_heads,
            table_side: side,
        }
    }

    /// `[batch, height, width, channels]` to the same shape; `residual` is added to the result where given.
    fn forward(&self, x: Tensor<4>, pairs: &RelativePositions, residual: Option<Tensor<4>>) -> Tensor<4> {
        let shape = x.dims();
        let bias = self.relative_position_bias_table.as_ref().map(|table| pairs.bias(table.val(), self.table_side));
        let mixed = attend(heads(self.qkv.forward(x), self.num_heads), bias).swap_dims(1, 2).reshape(shape);
        self.proj.forward_fused(mixed, Fused { residual, ..Fused::default() })
    }
}

/// The key in the official network of the parameter at `path` in a [`HivitClassifier`].
///
/// ```
/// use vmamba::baselines::hivit;
/// assert_eq!(hivit::key("trunk.blocks.2.Merge.norm.weight"), "blocks.2.norm.weight");
/// assert_eq!(hivit::key("trunk.blocks.7.Attention.mixed.mlp.fc1.bias"), "blocks.7.mlp.fc1.bias");
/// ```
pub fn key(path: &str) -> String {
    let path = path.strip_prefix("trunk.").unwrap_or(path);
    [".Mlp.", ".Merge.", ".Attention.", ".mixed."].iter().fold(path.to_owned(), |path, ours| path.replace(ours, "."))
}

/// The key of [`key`] for one of mmpretrain, or of a detector or segmentor, whose prefix `backbone.` is taken off; others are returned as
/// they are. `None` for the numbers of pairs of positions, which are worked out.
///
/// ```
/// use vmamba::baselines::hivit;
/// assert_eq!(hivit::rename("backbone.pos_embed").as_deref(), Some("absolute_pos_embed"));
/// assert_eq!(hivit::rename("blocks.7.attn.relative_position_index"), None);
/// ```
pub fn rename(key: &str) -> Option<Cow<'_, str>> {
    let key = key.strip_prefix("backbone.").unwrap_or(key);
    if key.ends_with("relative_position_index") {
        return None;
    }
    if key == "pos_embed" {
        return Some(Cow::Borrowed("absolute_pos_embed"));
    }
    Some(match key.strip_prefix("head.fc.") {
        Some(parameter) => Cow::Owned(format!("head.{parameter}")),
        None => Cow::Borrowed(key),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_make_no_model_are_refused_by_name() {
        type Change = fn(&mut HivitConfig);
        let changes: [(&str, Change); 8] = [
            ("in_chans", |c| c.in_chans = 0),
            ("patch_size", |c| c.patch_size = 14),
            ("image_size", |c| c.image_size = 230),
            ("embed_dim", |c| c.embed_dim = 6),
            ("depths", |c| c.depths = [1, 0, 1]),
            ("num_heads", |c| c.num_heads = 5),
            ("stem_mlp_ratio", |c| c.stem_mlp_ratio = f64::NAN),
            ("drop_path_rate", |c| c.drop_path_rate = 1.0),
        ];
        for (field, change) in changes {
            let mut config = HivitConfig::tiny();
            change(&mut config);
            let error = config.try_init_classifier(10, &Device::flex()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}`")), "{field}: {error}");
        }
    }
}
