//! HiViT (Zhang et al., "HiViT: A Simpler and More Efficient Design of Hierarchical Vision Transformer"): only MLPs up to stride 16,
//! then a vision transformer.
//!
//! ```text
//! image ─ patch_embed ─ MLP blocks ─ merge ─ MLP blocks ─ merge ─ + absolute_pos_embed ─ attention blocks ─ average ─ fc_norm ─ head
//!          stride 4      │          stride 8  │           stride 16                        │                    HivitClassifier
//!                        fpn1                 fpn2                                         fpn3, fpn4 (max pool)
//!                                                                                                               Hivit: strides 4, 8, 16, 32
//! ```
//! A block of the paper's first two stages is two MLP blocks. The official code stores the 4 x 4 positions of a token together, so that it can
//! drop masked tokens. No layer before the attention mixes tokens, so plain maps give equal results and are used here. Keys are those of the
//! official network for supervised training, and for `fpn1` to `fpn4` those of the official detector.
//!
//! The levels are those of the official detector and segmentor. They take the first level after entry `depths[0] - 1` of the list of blocks,
//! which is the middle of the first stage, and the second after entry `depths[0] + depths[1]`, which for stages of equal depth is the first
//! merge. Every position attends to all others, as in the official segmentor; the detector's window attention is not implemented.

mod config;
mod family;
mod key_map;

use std::cell::OnceCell;
use std::rc::Rc;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use vision_ops::Fused;

use crate::feature_pyramid::FeaturePyramid;
use crate::last_map::{Chain, channels_first, last_map_of_trunk};
use crate::layers::{
    Activation, ChannelNorm, Conv, Dense, DropPath, Mlp, MlpConfig, RelativePositions, TableResize, attend, halved, heads,
};
use crate::vmamba::downsample::merge_neighbours;

pub use config::HivitConfig;
pub use key_map::{key, rename};

/// Positions of the first stage along each side of a token of the last stage.
const MERGED: usize = 4;

/// The stage with attention.
const LAST: usize = 2;

/// HiViT as a backbone: features of strides 4, 8, 16 and 32.
#[derive(Module, Debug)]
pub struct Hivit {
    trunk: Trunk,
    /// One norm per level, or none.
    level_norms: Vec<ChannelNorm>,
    #[module(skip)]
    config: HivitConfig,
}

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
    /// `[1, tokens, embed_dim]` for the image size of the configuration.
    absolute_pos_embed: Option<Param<Tensor<3>>>,
    blocks: Vec<Block>,
    #[module(skip)]
    table_side: usize,
    #[module(skip)]
    patch_size: usize,
}

#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Conv,
    norm: Option<ChannelNorm>,
}

/// An entry in the official network's list of blocks.
// Blocks are few, and Burn has no boxed modules.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
enum Block {
    Mlp(MlpBlock),
    Merge(PatchMerge),
    Attention(AttentionBlock),
}

/// A block of the first two stages.
#[derive(Module, Debug)]
struct MlpBlock {
    norm2: ChannelNorm,
    mlp: Mlp,
    drop_path: DropPath,
}

/// A block of the last stage.
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
    /// A bias per head for every vertical and horizontal offset: `[(2 side - 1)^2, heads]`.
    relative_position_bias_table: Option<Param<Tensor<2>>>,
    #[module(skip)]
    num_heads: usize,
    #[module(skip)]
    table_side: usize,
}

impl Hivit {
    /// Requires a valid configuration.
    fn new(config: &HivitConfig, device: &Device) -> Self {
        let norm = |channels| ChannelNorm::with_epsilon(channels, config.norm_epsilon, device);
        let level_norms = if config.level_norms { config.channels().into_iter().map(norm).collect() } else { Vec::new() };
        Self { trunk: Trunk::new(config, device), level_norms, config: config.clone() }
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &HivitConfig {
        &self.config
    }
}

impl FeaturePyramid for Hivit {
    fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let taps = self.config.taps();
        let mut levels = Vec::with_capacity(self.config.channels().len());
        let last = self.trunk.forward_observed(images, |index, x| {
            if taps.contains(&index) {
                levels.push(x.clone());
            }
        });
        let coarse = halved(last.clone().permute([0, 3, 1, 2])).permute([0, 2, 3, 1]);
        levels.extend([last, coarse]);
        let normed = levels.into_iter().enumerate().map(|(level, x)| match self.level_norms.get(level) {
            Some(norm) => norm.forward(x),
            None => x,
        });
        normed.map(|x| x.permute([0, 3, 1, 2])).collect()
    }

    fn channels(&self) -> Vec<usize> {
        self.config.channels()
    }

    fn strides(&self) -> Vec<usize> {
        self.config.strides()
    }
}

impl HivitClassifier {
    /// Requires a valid configuration.
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

    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to logits `[batch, num_classes]`, float32. The patch size must
    /// divide height and width, see [`HivitConfig::check_image`]; surplus pixels are cropped.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.head.forward(self.features(images))
    }

    /// The input of the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, to `[batch, channels]`, float32.
    pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.trunk.forward_observed(images, |_, _| ());
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

last_map_of_trunk!(Hivit, HivitClassifier);

impl Trunk {
    /// See [`LastMap`](crate::LastMap).
    fn chain(&self, _image: [usize; 2]) -> Chain<'_> {
        let mut chain = Chain::of(|images| self.embed(images));
        // Computed once, by the first block with attention.
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
            patch_size: config.patch_size,
        }
    }

    /// `images` `[batch, in_chans, height, width]` to `[batch, height / patch, width / patch, embed_dim]` in the type of the images. Pixels
    /// that do not fill a patch are cropped. `observe` gets the output of every block, with the block's index in the official list.
    fn forward_observed(&self, images: Tensor<4>, mut observe: impl FnMut(usize, &Tensor<4>)) -> Tensor<4> {
        let mut x = self.embed(images);
        let mut pairs = None;
        for (index, block) in self.blocks.iter().enumerate() {
            x = match block {
                Block::Mlp(block) => block.forward(x),
                Block::Merge(merge) => merge.forward(x),
                Block::Attention(block) => {
                    // Computed once, before the first block with attention.
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
            observe(index, &x);
        }
        x
    }

    /// `images` `[batch, in_chans, height, width]` to the input of the first block.
    fn embed(&self, images: Tensor<4>) -> Tensor<4> {
        let patch = self.patch_size;
        let images = [2, 3].into_iter().fold(images, |images, axis| match images.dims()[axis] {
            size if size.is_multiple_of(patch) => images,
            size => images.narrow(axis, 0, size / patch * patch),
        });
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

    /// `[batch, height, width, channels]` to the same shape, plus `residual` where given.
    fn forward(&self, x: Tensor<4>, pairs: &RelativePositions, residual: Option<Tensor<4>>) -> Tensor<4> {
        let shape = x.dims();
        let bias = self.relative_position_bias_table.as_ref().map(|table| pairs.bias(table.val(), self.table_side));
        let mixed = attend(heads(self.qkv.forward(x), self.num_heads), bias).swap_dims(1, 2).reshape(shape);
        self.proj.forward_fused(mixed, Fused { residual, ..Fused::default() })
    }
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
