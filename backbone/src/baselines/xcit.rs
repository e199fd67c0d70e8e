//! XCiT (El-Nouby et al., "XCiT: Cross-Covariance Image Transformers") with patches of 16 pixels.
//!
//! ```text
//! image ─ patch_embed ─ + pos_embed ─ blocks[0] ─ … ─ blocks[11] ─ cls_attn_blocks with cls_token ─ norm ─ head     XcitClassifier
//!                                        │ 3, 5, 7, 11
//!                                       fpn1 (×4), fpn2 (×2), fpn3 (×1), fpn4 (½)                                     Xcit
//!
//! block:  x ─ + gamma1 XCA(norm1) ─ + gamma3 LPI(norm3) ─ + gamma2 MLP(norm2) ─
//! ```
//!
//! Keys are those of timm's `Xcit`, and for `fpn1` and `fpn2` those of the official detectors and segmentors. The official classifiers store
//! query, key and value of the class attention as one layer, which [`split_class_attention`] splits.

mod config;
mod family;
mod key_map;

use std::f64::consts::TAU;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Distribution, TensorData};
use vision_ops::{Fused, Pointwise};

use crate::feature_pyramid::FeaturePyramid;
use crate::last_map::{Chain, channels_first, last_map_of_trunk};
use crate::layers::{
    Activation, BatchNorm2d, ChannelNorm, Conv, ConvConfig, DeconvPyramid, Dense, DepthwiseConv, DropPath, Mlp, MlpConfig, attend, heads,
    trains_batch_norm, uniform_fan_in,
};

use config::PATCH;
pub use config::XcitConfig;
pub use key_map::{key, rename, split_class_attention};

/// Epsilon of every LayerNorm.
const EPSILON: f64 = 1e-6;

/// Values per axis in the position encoding, half of them sines and half cosines.
const FREQUENCIES: usize = 32;

/// XCiT with the pyramid of the official detectors: features of strides 4, 8, 16 and 32.
#[derive(Module, Debug)]
pub struct Xcit {
    trunk: Trunk,
    pyramid: DeconvPyramid,
    #[module(skip)]
    config: XcitConfig,
}

/// XCiT with class attention and a linear head.
#[derive(Module, Debug)]
pub struct XcitClassifier {
    trunk: Trunk,
    /// `[1, 1, embed_dim]`.
    cls_token: Param<Tensor<3>>,
    cls_attn_blocks: Vec<ClassAttentionBlock>,
    norm: ChannelNorm,
    head: Dense,
    #[module(skip)]
    config: XcitConfig,
}

/// The patch embedding and the blocks, which backbone and classifier share.
#[derive(Module, Debug)]
struct Trunk {
    patch_embed: PatchEmbed,
    pos_embed: FourierPositions,
    blocks: Vec<Block>,
}

#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Vec<ConvNorm>,
}

/// A convolution without bias, and its batch norm.
#[derive(Module, Debug)]
struct ConvNorm {
    conv: Conv,
    norm: BatchNorm2d,
}

/// Position encoding: sines and cosines of the position in the image, projected to the channels.
#[derive(Module, Debug)]
struct FourierPositions {
    /// A 1x1 convolution.
    token_projection: Conv,
}

#[derive(Module, Debug)]
struct Block {
    norm1: ChannelNorm,
    attn: CrossCovarianceAttention,
    norm3: ChannelNorm,
    local_mp: LocalPatchInteraction,
    norm2: ChannelNorm,
    mlp: Mlp,
    /// Layer scale of the three branches, `[embed_dim]` each.
    gamma1: Param<Tensor<1>>,
    gamma3: Param<Tensor<1>>,
    gamma2: Param<Tensor<1>>,
    drop_path: DropPath,
}

/// Attention between the channels of a head instead of between the positions (XCA).
#[derive(Module, Debug)]
struct CrossCovarianceAttention {
    /// `[heads, 1, 1]`.
    temperature: Param<Tensor<3>>,
    qkv: Dense,
    proj: Dense,
}

/// Local patch interaction (LPI): two depthwise 3x3 convolutions.
#[derive(Module, Debug)]
struct LocalPatchInteraction {
    conv1: DepthwiseConv,
    bn: BatchNorm2d,
    conv2: DepthwiseConv,
}

/// A block in which only the class token attends to the others (CaiT).
#[derive(Module, Debug)]
struct ClassAttentionBlock {
    norm1: ChannelNorm,
    attn: ClassAttention,
    norm2: ChannelNorm,
    mlp: Mlp,
    gamma1: Param<Tensor<1>>,
    gamma2: Param<Tensor<1>>,
    #[module(skip)]
    tokens_norm: bool,
}

#[derive(Module, Debug)]
struct ClassAttention {
    q: Dense,
    k: Dense,
    v: Dense,
    proj: Dense,
    #[module(skip)]
    num_heads: usize,
}

impl Xcit {
    /// Requires a valid configuration.
    fn new(config: &XcitConfig, device: &Device) -> Self {
        Self { trunk: Trunk::new(config, device), pyramid: DeconvPyramid::new(config.embed_dim, device), config: config.clone() }
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &XcitConfig {
        &self.config
    }
}

impl FeaturePyramid for Xcit {
    fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let mut x = self.trunk.embed(images);
        let mut levels = Vec::with_capacity(self.config.out_indices.len());
        for (index, block) in self.trunk.blocks.iter().enumerate() {
            x = block.forward(x);
            if self.config.out_indices.contains(&index) {
                levels.push(self.pyramid.level(levels.len(), x.clone()));
            }
        }
        levels
    }

    fn channels(&self) -> Vec<usize> {
        vec![self.config.embed_dim; self.config.out_indices.len()]
    }

    fn strides(&self) -> Vec<usize> {
        self.config.strides()
    }

    fn fewest_norm_values(&self, [height, width]: [usize; 2]) -> Option<usize> {
        trains_batch_norm(&self.trunk).then(|| height.div_ceil(PATCH) * width.div_ceil(PATCH))
    }
}

impl XcitClassifier {
    /// Requires a valid configuration.
    fn new(config: &XcitConfig, num_classes: usize, device: &Device) -> Self {
        let dim = config.embed_dim;
        Self {
            trunk: Trunk::new(config, device),
            cls_token: Param::from_tensor(Tensor::random([1, 1, dim], Distribution::Normal(0.0, 0.02), device)),
            cls_attn_blocks: (0..config.cls_attn_layers).map(|_| ClassAttentionBlock::new(config, device)).collect(),
            norm: ChannelNorm::with_epsilon(dim, EPSILON, device),
            head: Dense::new(dim, num_classes, true, device),
            config: config.clone(),
        }
    }

    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to logits `[batch, num_classes]`, float32.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.head.forward(self.features(images))
    }

    /// The input of the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, to `[batch, channels]`, float32.
    pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.trunk.blocks.iter().fold(self.trunk.embed(images), |x, block| block.forward(x));
        let ([batch, height, width, dim], dtype) = (x.dims(), x.dtype());
        let mut patches = x.reshape([batch, 1, height * width, dim]);
        let mut class = self.cls_token.val().cast(dtype).unsqueeze::<4>().expand([batch, 1, 1, dim]);
        for block in &self.cls_attn_blocks {
            (class, patches) = block.forward(class, patches);
        }
        self.norm.forward(class.reshape([batch, dim]).cast(DType::F32))
    }

    /// The last linear layer.
    pub fn head(&self) -> &Dense {
        &self.head
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &XcitConfig {
        &self.config
    }
}

last_map_of_trunk!(Xcit, XcitClassifier);

impl Trunk {
    /// See [`LastMap`](crate::LastMap).
    fn chain(&self, _image: [usize; 2]) -> Chain<'_> {
        let embedded = Chain::of(|images| self.embed(images));
        self.blocks.iter().fold(embedded, |chain, block| chain.then(|x| block.forward(x))).then(channels_first)
    }

    fn new(config: &XcitConfig, device: &Device) -> Self {
        let patch = |conv: ConvConfig| {
            let fan_in = conv.inputs * conv.kernel * conv.kernel;
            let weight = uniform_fan_in([conv.outputs, conv.inputs, conv.kernel, conv.kernel], fan_in, device);
            ConvNorm { conv: conv.with_parameters(weight, None), norm: BatchNorm2d::new(conv.outputs, device) }
        };
        let projection = ConvConfig { inputs: 2 * FREQUENCIES, outputs: config.embed_dim, kernel: 1, stride: 1, padding: 0 };
        Self {
            patch_embed: PatchEmbed { proj: config.patch_convs().map(patch).into() },
            pos_embed: FourierPositions { token_projection: projection.init(device) },
            blocks: (0..config.depth).map(|_| Block::new(config, device)).collect(),
        }
    }

    /// `images` `[batch, in_chans, height, width]` to `[batch, height', width', embed_dim]` with the position encoding.
    fn embed(&self, images: Tensor<4>) -> Tensor<4> {
        let last = self.patch_embed.proj.len() - 1;
        let mut x = images.permute([0, 2, 3, 1]);
        for (index, ConvNorm { conv, norm }) in self.patch_embed.proj.iter().enumerate() {
            let activation = if index == last { Pointwise::Identity } else { Pointwise::Gelu };
            x = norm.forward_behind(conv, x, None, activation);
        }
        let [_, height, width, _] = x.dims();
        let positions = self.pos_embed.forward([height, width], &x.device()).cast(x.dtype());
        x + positions
    }
}

impl FourierPositions {
    /// `[1, height, width, embed_dim]`, float32.
    fn forward(&self, [height, width]: [usize; 2], device: &Device) -> Tensor<4> {
        let along = |size: usize| (0..size).map(|index| waves((index + 1) as f64 / (size as f64 + 1e-6))).collect::<Vec<_>>();
        let (rows, columns) = (along(height), along(width));
        let places = rows.iter().flat_map(|row| columns.iter().map(move |column| [*row, *column]));
        let values: Vec<f32> = places.flatten().flatten().collect();
        let waves = Tensor::from_data(TensorData::new(values, [1, height, width, 2 * FREQUENCIES]), device);
        self.token_projection.forward(waves)
    }
}

/// Sines and cosines of the place, a fraction of the axis, at falling frequencies.
fn waves(place: f64) -> [f32; FREQUENCIES] {
    std::array::from_fn(|index| {
        let pair = (index / 2 * 2) as f64;
        let angle = place * TAU / 10_000_f64.powf(pair / FREQUENCIES as f64);
        (if index % 2 == 0 { angle.sin() } else { angle.cos() }) as f32
    })
}

/// The MLP of both kinds of blocks.
fn mlp(config: &XcitConfig, device: &Device) -> Mlp {
    let (channels, hidden) = (config.embed_dim, config.mlp_hidden());
    MlpConfig { channels, hidden, activation: Activation::Gelu, gated: false, drop_rate: 0.0 }.init(device)
}

impl Block {
    fn new(config: &XcitConfig, device: &Device) -> Self {
        let dim = config.embed_dim;
        let norm = || ChannelNorm::with_epsilon(dim, EPSILON, device);
        let gamma = || Param::from_tensor(Tensor::full([dim], config.eta, device));
        Self {
            norm1: norm(),
            attn: CrossCovarianceAttention {
                temperature: Param::from_tensor(Tensor::ones([config.num_heads, 1, 1], device)),
                qkv: Dense::new(dim, 3 * dim, true, device),
                proj: Dense::new(dim, dim, true, device),
            },
            norm3: norm(),
            local_mp: LocalPatchInteraction {
                conv1: DepthwiseConv::new(dim, 3, true, device),
                bn: BatchNorm2d::new(dim, device),
                conv2: DepthwiseConv::new(dim, 3, true, device),
            },
            norm2: norm(),
            mlp: mlp(config, device),
            gamma1: gamma(),
            gamma3: gamma(),
            gamma2: gamma(),
            drop_path: DropPath::new(config.drop_path_rate),
        }
    }

    /// `[batch, height, width, embed_dim]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.residual(x, |x, residual| {
            let mixed = self.attn.mix(self.norm1.forward(x));
            scaled(&self.attn.proj, mixed, self.gamma1.val(), residual)
        });
        let x = self.residual(x, |x, residual| {
            let y = self.local_mp.forward(self.norm3.forward(x), self.gamma3.val());
            match residual {
                Some(residual) => residual + y,
                None => y,
            }
        });
        self.residual(x, |x, residual| scaled_mlp(&self.mlp, self.norm2.forward(x), self.gamma2.val(), residual))
    }

    /// Adds a branch to `x`. Without stochastic depth, the branch gets `x` as its residual and adds it itself.
    fn residual(&self, x: Tensor<4>, branch: impl Fn(Tensor<4>, Option<Tensor<4>>) -> Tensor<4>) -> Tensor<4> {
        if x.device().is_autodiff() {
            return x.clone() + self.drop_path.forward(branch(x, None));
        }
        branch(x.clone(), Some(x))
    }
}

/// `residual + gamma * layer(x)`.
fn scaled(layer: &Dense, x: Tensor<4>, gamma: Tensor<1>, residual: Option<Tensor<4>>) -> Tensor<4> {
    let bias = layer.bias.as_ref().map(|bias| bias.val() * gamma.clone());
    vision_ops::linear_fused(x, layer.weight.val(), Fused { scale: Some(gamma), bias, residual, activation: Pointwise::Identity })
}

/// `residual + gamma * mlp(x)`.
fn scaled_mlp(mlp: &Mlp, x: Tensor<4>, gamma: Tensor<1>, residual: Option<Tensor<4>>) -> Tensor<4> {
    let hidden = mlp.fc1.forward_fused(x, Fused::default().activation(Pointwise::Gelu));
    scaled(&mlp.fc2, hidden, gamma, residual)
}

impl CrossCovarianceAttention {
    /// The input of `proj`: `x: [batch, height, width, channels]` to the same shape.
    fn mix(&self, x: Tensor<4>) -> Tensor<4> {
        let (shape, dtype) = (x.dims(), x.dtype());
        let temperature = self.temperature.val();
        let [q, k, v] = heads(self.qkv.forward(x), temperature.dims()[0]);
        // The channels of q and k are normalised to length 1 over the positions. Dividing the product by the lengths is cheaper.
        let [q_length, k_length] = [&q, &k].map(|t| t.clone().cast(DType::F32).square().sum_dim(2).clamp_min(1e-24).sqrt());
        let scores = vision_ops::matmul(q.swap_dims(2, 3), k).cast(DType::F32) * temperature.unsqueeze::<4>();
        let scores = scores / (q_length.swap_dims(2, 3) * k_length);
        let attention = softmax(scores, 3).cast(dtype);
        vision_ops::matmul(v, attention.swap_dims(2, 3)).swap_dims(1, 2).reshape(shape)
    }
}

impl LocalPatchInteraction {
    /// `[batch, height, width, channels]` to the same shape, times `gamma: [channels]`.
    fn forward(&self, x: Tensor<4>, gamma: Tensor<1>) -> Tensor<4> {
        let x = self.bn.forward(self.conv1.forward_activated(x, Activation::Gelu));
        // Scaling the weights equals scaling the result, and there are fewer weights.
        let bias = self.conv2.bias.as_ref().map(|bias| bias.val() * gamma.clone());
        vision_ops::depthwise_conv2d(x, self.conv2.weight.val() * gamma.reshape([-1, 1, 1, 1]), bias)
    }
}

impl ClassAttentionBlock {
    fn new(config: &XcitConfig, device: &Device) -> Self {
        let dim = config.embed_dim;
        let norm = || ChannelNorm::with_epsilon(dim, EPSILON, device);
        let gamma = || Param::from_tensor(Tensor::full([dim], config.eta, device));
        let dense = || Dense::new(dim, dim, true, device);
        Self {
            norm1: norm(),
            attn: ClassAttention { q: dense(), k: dense(), v: dense(), proj: dense(), num_heads: config.num_heads },
            norm2: norm(),
            mlp: mlp(config, device),
            gamma1: gamma(),
            gamma2: gamma(),
            tokens_norm: config.tokens_norm,
        }
    }

    /// Applies the block to the class token `[batch, 1, 1, embed_dim]` and the patches `[batch, 1, patches, embed_dim]`.
    fn forward(&self, class: Tensor<4>, patches: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [normed_class, normed_patches] = [&class, &patches].map(|tokens| self.norm1.forward(tokens.clone()));
        let all = Tensor::cat(vec![normed_class.clone(), normed_patches.clone()], 2);
        let class = scaled(&self.attn.proj, self.attn.mix(normed_class, all), self.gamma1.val(), Some(class));
        let gamma = self.gamma1.val().cast(patches.dtype()).reshape([1, 1, 1, -1]);
        let patches = patches + normed_patches * gamma;

        let class = self.norm2.forward(class);
        let class = scaled_mlp(&self.mlp, class.clone(), self.gamma2.val(), Some(class));
        // The published models add the patches to themselves, where the class token gets its MLP.
        let patches = if self.tokens_norm { self.norm2.forward(patches) } else { patches } * 2.0;
        (class, patches)
    }
}

impl ClassAttention {
    /// The input of `proj`: the values of all tokens, weighted by the attention of the class token, `[batch, 1, 1, channels]`.
    fn mix(&self, class: Tensor<4>, all: Tensor<4>) -> Tensor<4> {
        let [batch, _, _, channels] = class.dims();
        let split = |x: Tensor<4>| {
            let tokens = x.dims()[2];
            x.reshape([batch, tokens, self.num_heads, channels / self.num_heads]).swap_dims(1, 2)
        };
        let (q, k, v) = (self.q.forward(class), self.k.forward(all.clone()), self.v.forward(all));
        attend([split(q), split(k), split(v)], None).reshape([batch, 1, 1, channels])
    }
}
