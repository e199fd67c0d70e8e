//! Swin Transformer (Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows"): attention in windows, which
//! every second block shifts by half a window.
//!
//! ```text
//! image ─ patch_embed ─ layers[0] ─ layers[1] ─ layers[2] ─ layers[3]      blocks, then patch merging to the next stage
//!                           │           │           │           │          (features are taken before the merging)
//!                         norm0       norm1       norm2       norm3        backbone: strides 4, 8, 16, 32
//!                                                               └─ classifier: norm, average over positions, head
//!
//! block: x ─┬─ norm1 ─ pad, shift, windows ─ attention ─ undo ─ drop path ─ + ─┬─ norm2 ─ MLP ─ drop path ─ + ─
//!           └─────────────────────────────────────────────────────────────────┘ └───────────────────────────┘
//! ```
//!
//! The reference is the official repository, for the names of the parameters and for the results at its image sizes. Maps that the windows do
//! not divide are padded with zeros before the shift, and attention includes the padding, as in the official detectors and torchvision (timm
//! shifts first). Images are padded to whole patches, as in the detectors (torchvision crops them).

use std::cell::OnceCell;
use std::rc::Rc;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use vision_ops::Fused;

use crate::feature_pyramid::{FeaturePyramid, normalised};
use crate::last_map::{Chain, channels_first, last_map_of_trunk};
use crate::layers::{Activation, ChannelNorm, Conv, Dense, DropPath, Mlp, MlpConfig, attend};
use crate::vmamba::PatchMerging;

mod config;
mod family;
mod key_map;
mod windows;

pub use config::{SmallMaps, SwinConfig, WindowSize};
pub use key_map::{key, official_state, rename};

use windows::{Geometry, Windows, pad_end};

/// The backbone, with a norm on every level, as in the official detectors.
#[derive(Module, Debug)]
pub struct Swin {
    trunk: SwinTrunk,
    /// One entry a stage; only the stages of `out_indices` have a norm.
    norms: Vec<Option<ChannelNorm>>,
}

/// The classifier.
#[derive(Module, Debug)]
pub struct SwinClassifier {
    trunk: SwinTrunk,
    norm: ChannelNorm,
    head: Dense,
}

/// The patch embedding and the stages, which backbone and classifier share.
#[derive(Module, Debug)]
pub struct SwinTrunk {
    patch_embed: SwinPatchEmbed,
    layers: Vec<SwinStage>,
    #[module(skip)]
    config: SwinConfig,
}

/// The patch embedding: one position per patch.
#[derive(Module, Debug)]
pub struct SwinPatchEmbed {
    proj: Conv,
    norm: Option<ChannelNorm>,
}

/// The blocks of one resolution and the patch merging after them.
#[derive(Module, Debug)]
pub struct SwinStage {
    blocks: Vec<SwinBlock>,
    downsample: Option<PatchMerging>,
}

/// Window attention and an MLP, both with a norm and a residual connection.
#[derive(Module, Debug)]
pub struct SwinBlock {
    norm1: ChannelNorm,
    attn: WindowAttention,
    norm2: ChannelNorm,
    mlp: Mlp,
    drop_path: DropPath,
}

/// Attention between the positions of a window, with a learned relative position bias.
#[derive(Module, Debug)]
pub struct WindowAttention {
    qkv: Dense,
    proj: Dense,
    /// `[(2 t - 1)^2, heads]`, where `t` is [`SwinConfig::table_window`]; ordered by vertical and then horizontal offset.
    relative_position_bias_table: Param<Tensor<2>>,
    #[module(skip)]
    table_window: usize,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    shifted: bool,
}

impl Swin {
    /// The configuration it was built from.
    pub fn config(&self) -> &SwinConfig {
        &self.trunk.config
    }
}

impl FeaturePyramid for Swin {
    fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        normalised(self.trunk.forward(images), &self.norms)
    }

    fn channels(&self) -> Vec<usize> {
        self.config().out_indices.iter().map(|stage| self.config().dim(*stage)).collect()
    }

    fn strides(&self) -> Vec<usize> {
        self.config().out_indices.iter().map(|stage| self.config().stride(*stage)).collect()
    }
}

impl SwinClassifier {
    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to logits `[batch, num_classes]`, float32.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.head.forward(self.features(images))
    }

    /// The input of the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, to `[batch, channels]`, float32.
    pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let Some(feature) = self.trunk.forward(images).pop() else { unreachable!("a valid configuration has at least one stage") };
        let [batch, _, _, channels] = feature.dims();
        self.norm.forward(feature).cast(DType::F32).mean_dim(1).mean_dim(2).reshape([batch, channels])
    }

    /// The last linear layer.
    pub fn head(&self) -> &Dense {
        &self.head
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &SwinConfig {
        &self.trunk.config
    }
}

last_map_of_trunk!(Swin, SwinClassifier);

impl SwinTrunk {
    /// See [`LastMap`](crate::LastMap).
    fn chain(&self, [height, width]: [usize; 2]) -> Chain<'_> {
        let window = self.config.window([height, width]);
        let mut chain = Chain::of(|images: Tensor<4>| self.patch_embed.forward(images.permute([0, 2, 3, 1]), self.config.patch_size));
        for stage in &self.layers {
            // Computed once, by the first block of the stage.
            let shared: Rc<OnceCell<Windows>> = Rc::default();
            for block in &stage.blocks {
                let shared = Rc::clone(&shared);
                chain = chain.then(move |x| {
                    let [_, rows, columns, _] = x.dims();
                    let geometry = || Geometry::new([rows, columns], window, self.config.small_maps);
                    let windows = shared.get_or_init(|| Windows::new(geometry(), &x.device()));
                    block.forward(x, windows)
                });
            }
            if let Some(downsample) = &stage.downsample {
                chain = chain.then(|x| downsample.forward(x));
            }
        }
        chain.then(channels_first)
    }

    /// Requires a valid configuration.
    fn new(config: &SwinConfig, device: &Device) -> Self {
        let mut drop_path_rates = config.drop_path_rates().into_iter();
        let layers = config.depths.iter().enumerate().map(|(stage, depth)| {
            let rates = drop_path_rates.by_ref().take(*depth).enumerate();
            SwinStage {
                blocks: rates.map(|(block, rate)| SwinBlock::new(config, stage, block % 2 == 1, rate, device)).collect(),
                downsample: (stage + 1 < config.num_stages()).then(|| PatchMerging::new(config.dim(stage), config.dim(stage + 1), device)),
            }
        });
        let layers = layers.collect();
        let patch_embed = SwinPatchEmbed {
            proj: config.patch_conv().init(device),
            norm: config.patch_norm.then(|| ChannelNorm::new(config.dim(0), device)),
        };
        Self { patch_embed, layers, config: config.clone() }
    }

    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to the feature `[batch, height', width', dim]` of every stage, in the
    /// type of the images, before its patch merging and without norm.
    fn forward(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let [_, _, height, width] = images.dims();
        let window = self.config.window([height, width]);
        let mut x = self.patch_embed.forward(images.permute([0, 2, 3, 1]), self.config.patch_size);
        let mut features = Vec::with_capacity(self.layers.len());
        for stage in &self.layers {
            let [_, rows, columns, _] = x.dims();
            let geometry = Geometry::new([rows, columns], window, self.config.small_maps);
            let windows = Windows::new(geometry, &x.device());
            x = stage.blocks.iter().fold(x, |x, block| block.forward(x, &windows));
            features.push(x.clone());
            if let Some(downsample) = &stage.downsample {
                x = downsample.forward(x);
            }
        }
        features
    }
}

impl SwinPatchEmbed {
    /// `[batch, height, width, in_chans]` to `[batch, ceil(height / patch), ceil(width / patch), dim]`.
    fn forward(&self, images: Tensor<4>, patch: usize) -> Tensor<4> {
        let [_, height, width, _] = images.dims();
        let images = pad_end(images, 1, height.next_multiple_of(patch) - height);
        let x = self.proj.forward(pad_end(images, 2, width.next_multiple_of(patch) - width));
        match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }
}

impl SwinBlock {
    fn new(config: &SwinConfig, stage: usize, shifted: bool, drop_path_rate: f64, device: &Device) -> Self {
        let dim = config.dim(stage);
        let mlp = MlpConfig { channels: dim, hidden: config.mlp_hidden(dim), activation: Activation::Gelu, gated: false, drop_rate: 0.0 };
        Self {
            norm1: ChannelNorm::new(dim, device),
            attn: WindowAttention::new(config, stage, shifted, device),
            norm2: ChannelNorm::new(dim, device),
            mlp: mlp.init(device),
            drop_path: DropPath::new(drop_path_rate),
        }
    }

    /// `[batch, height, width, dim]` to the same shape.
    fn forward(&self, x: Tensor<4>, windows: &Windows) -> Tensor<4> {
        if !x.device().is_autodiff() {
            // The epilogue of each branch's last product adds the residual.
            let x = self.attn.forward(self.norm1.forward(x.clone()), windows, Some(x));
            return self.mlp.forward(self.norm2.forward(x.clone()), Some(x));
        }
        let x = x.clone() + self.drop_path.forward(self.attn.forward(self.norm1.forward(x), windows, None));
        x.clone() + self.drop_path.forward(self.mlp.forward(self.norm2.forward(x), None))
    }
}

impl WindowAttention {
    fn new(config: &SwinConfig, stage: usize, shifted: bool, device: &Device) -> Self {
        let (dim, heads) = (config.dim(stage), config.num_heads[stage]);
        let distances = (2 * config.table_window - 1).pow(2);
        Self {
            qkv: Dense::new(dim, 3 * dim, config.qkv_bias, device),
            proj: Dense::new(dim, dim, true, device),
            relative_position_bias_table: Param::from_tensor(Tensor::random([distances, heads], Distribution::Normal(0.0, 0.02), device)),
            table_window: config.table_window,
            heads,
            shifted,
        }
    }

    /// `x: [batch, height, width, dim]` to the same shape, plus `residual` where given.
    fn forward(&self, x: Tensor<4>, windows: &Windows, residual: Option<Tensor<4>>) -> Tensor<4> {
        let [batch, _, _, dim] = x.dims();
        let (heads, per_head) = (self.heads, dim / self.heads);
        let geometry = &windows.geometry;
        let ([down, across], [height, width]) = (geometry.counts(), geometry.window);
        let (count, positions) = (down * across, height * width);

        let qkv = self.qkv.forward(geometry.shifted_in(x, self.shifted));
        // Split into windows and heads with one copy: [q k v, batch, window, head, position, channel of the head].
        let qkv: Tensor<8> = qkv.reshape([batch, down, height, across, width, 3, heads, per_head]);
        let qkv: Tensor<4> = qkv.permute([5, 0, 1, 3, 6, 2, 4, 7]).reshape([3, batch * count * heads, positions, per_head]);

        let bias = windows.positions.bias(self.relative_position_bias_table.val(), self.table_window);
        let mask = windows.mask.as_ref().filter(|_| self.shifted);
        // Without a mask, all windows share the bias. With one they do not, so windows and heads share an axis.
        let (groups, heads_of_group, bias) = match mask {
            None => (batch * count, heads, bias),
            Some(mask) => (batch, count * heads, (bias + mask.clone()).reshape([1, count * heads, positions, positions])),
        };
        let part = |index: usize| qkv.clone().slice(s![index..index + 1]).reshape([groups, heads_of_group, positions, per_head]);
        let y = attend([part(0), part(1), part(2)], Some(bias));

        let y: Tensor<7> = y.reshape([batch, down, across, heads, height, width, per_head]);
        let y = y.permute([0, 1, 4, 2, 5, 3, 6]).reshape([batch, geometry.padded[0], geometry.padded[1], dim]);
        let y = geometry.shifted_out(y, self.shifted);
        self.proj.forward_fused(y, Fused { residual, ..Fused::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> SwinConfig {
        SwinConfig { embed_dim: 8, depths: vec![2, 2], num_heads: vec![2, 4], out_indices: vec![0, 1], ..SwinConfig::tiny() }
    }

    #[test]
    fn every_option_gives_the_promised_shapes() {
        type Change = fn(&mut SwinConfig);
        let changes: [Change; 7] = [
            |_| {},
            |c| (c.window_size, c.table_window) = (WindowSize::Fixed(3), 3),
            |c| c.window_size = WindowSize::Scaled,
            |c| c.small_maps = SmallMaps::Shrink,
            |c| (c.qkv_bias, c.patch_norm) = (false, false),
            |c| (c.in_chans, c.patch_size) = (1, 3),
            |c| c.out_indices = vec![1],
        ];
        let device = Device::flex();
        for (number, change) in changes.iter().enumerate() {
            let mut config = small();
            change(&mut config);
            let backbone = config.try_init(&device).unwrap();
            let features = backbone.forward_features(Tensor::ones([2, config.in_chans, 45, 34], &device));
            let sizes = config.stage_sizes([45, 34]);
            assert_eq!(features.len(), config.out_indices.len(), "change {number}");
            for ((feature, stage), channels) in features.into_iter().zip(&config.out_indices).zip(backbone.channels()) {
                assert_eq!(feature.dims(), [2, channels, sizes[*stage][0], sizes[*stage][1]], "change {number}");
                assert!(feature.into_data().iter::<f32>().all(f32::is_finite), "change {number}");
            }
            assert_eq!(config.complexity([45, 34]).params, backbone.num_params() as u64, "change {number}");
        }
    }
}
