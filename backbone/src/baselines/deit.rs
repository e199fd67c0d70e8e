//! DeiT (Touvron et al., "Training data-efficient image transformers"): a plain vision transformer of one resolution.
//!
//! ```text
//! image ─ patch_embed ─ [cls_token, patches] + pos_embed ─ blocks[0] ─ … ─ blocks[11] ─ norm ─ first token ─ head     DeitClassifier
//!                                                             │ 2, 5, 8, 11: patches only
//!                                                           neck.lateral_convs ─ resize ×4, ×2, ×1, ×½ ─ neck.convs     Deit
//! ```
//!
//! The backbone is the pyramid of mmsegmentation's UperNet DeiT + MLN (multi-level neck). The reference of the keys is timm's
//! `VisionTransformer` (the original repository has the same), and mmsegmentation's `neck.*`, which stands beside the backbone there
//! ([`neck_into_backbone`]). The distilled variant with a second token is not supported.

use std::borrow::Cow;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, Distribution, TensorData};
use serde::{Deserialize, Serialize};
use vision_ops::Fused;

use crate::analysis::{AttentionError, AttentionRow};
use crate::checkpoint::StateDict;
use crate::complexity::{Complexity, OpKind, product};
use crate::feature_pyramid::FeaturePyramid;
use crate::last_map::{Chain, channels_first, last_map_of_trunk};
use crate::layers::{
    Activation, ChannelNorm, Conv, ConvConfig, Dense, DropPath, Mlp, MlpConfig, TableResize, attend, attention_weights, heads,
};
use crate::vmamba::ConfigError;
use crate::vmamba::config::require;

/// Options of a DeiT; the default is [`DeitConfig::small`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeitConfig {
    /// Channels of the input image.
    pub in_chans: usize,
    /// Whether the patch embedding has a bias. That of mmsegmentation 1.x has none, unless its configuration asks for it.
    pub patch_bias: bool,
    /// Side of a patch in pixels. A multiple of 4 for the backbone, whose finest level has a quarter of it as stride.
    pub patch_size: usize,
    /// Side in pixels of the square image that the position table is made for. Images of other sizes get a resized table.
    pub image_size: usize,
    /// Channels of every token.
    pub embed_dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of every block; they share the channels evenly.
    pub num_heads: usize,
    /// Hidden width of the MLP over `embed_dim`.
    pub mlp_ratio: f64,
    /// Stochastic depth of the last block; it rises linearly from 0.
    pub drop_path_rate: f64,
    /// How the position table is brought to the grid of another image size.
    pub position_resize: TableResize,
    /// Blocks whose tokens become the four levels of the backbone, ascending.
    pub out_indices: Vec<usize>,
    /// Channels of the backbone's levels.
    pub neck_channels: usize,
    /// Whether the backbone normalises the tokens of the last block, as mmsegmentation's configurations with `ln` in their names do.
    pub final_norm: bool,
}

/// The epsilon of every norm.
const EPSILON: f64 = 1e-6;

/// Size of the backbone's levels over the grid of patches, as numerator and denominator.
const SCALES: [[usize; 2]; 4] = [[4, 1], [2, 1], [1, 1], [1, 2]];

impl Default for DeitConfig {
    fn default() -> Self {
        Self::small()
    }
}

impl DeitConfig {
    /// DeiT-Ti, patches of 16 pixels.
    pub fn tiny() -> Self {
        Self::of_width(192, 3)
    }

    /// DeiT-S, patches of 16 pixels.
    pub fn small() -> Self {
        Self::of_width(384, 6)
    }

    /// DeiT-B, patches of 16 pixels.
    pub fn base() -> Self {
        Self::of_width(768, 12)
    }

    fn of_width(embed_dim: usize, num_heads: usize) -> Self {
        Self {
            in_chans: 3,
            patch_bias: true,
            patch_size: 16,
            image_size: 224,
            embed_dim,
            depth: 12,
            num_heads,
            mlp_ratio: 4.0,
            drop_path_rate: 0.1,
            position_resize: TableResize::Bicubic,
            out_indices: vec![2, 5, 8, 11],
            neck_channels: embed_dim,
            final_norm: false,
        }
    }

    /// Checks that the options fit together.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first field that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let divides = |part: usize, whole: usize| part > 0 && whole > 0 && whole.is_multiple_of(part);
        require(self.in_chans > 0, "in_chans", "at least 1", &self.in_chans)?;
        require(self.patch_size > 0, "patch_size", "at least 1", &self.patch_size)?;
        require(divides(self.patch_size, self.image_size), "image_size", "a multiple of patch_size", &self.image_size)?;
        require(self.embed_dim > 0, "embed_dim", "at least 1", &self.embed_dim)?;
        require(self.depth > 0, "depth", "at least 1", &self.depth)?;
        require(divides(self.num_heads, self.embed_dim), "num_heads", "a divisor of embed_dim", &self.num_heads)?;
        let hidden = self.mlp_ratio.is_finite() && self.mlp_hidden() > 0;
        require(hidden, "mlp_ratio", "a number that gives at least one hidden channel", &self.mlp_ratio)?;
        require((0.0..1.0).contains(&self.drop_path_rate), "drop_path_rate", "a rate in [0, 1)", &self.drop_path_rate)
    }

    /// As [`DeitConfig::validate`], with what only the backbone needs.
    fn validate_backbone(&self) -> Result<(), ConfigError> {
        self.validate()?;
        let refuse = |field: &'static str, expected: String, found: String| Err(ConfigError::Field { field, expected, found });
        let indices = &self.out_indices;
        if indices.len() != SCALES.len() || !indices.windows(2).all(|pair| pair[0] < pair[1]) || indices.iter().any(|i| *i >= self.depth) {
            return refuse("out_indices", format!("four ascending block numbers below {}", self.depth), format!("{indices:?}"));
        }
        if self.neck_channels == 0 {
            return refuse("neck_channels", "at least 1".to_owned(), "0".to_owned());
        }
        if !self.patch_size.is_multiple_of(4) {
            return refuse("patch_size", "a multiple of 4 for the backbone".to_owned(), self.patch_size.to_string());
        }
        Ok(())
    }

    /// Checks that an image of `[height, width]` pixels is made of whole patches.
    ///
    /// # Errors
    /// [`ConfigError::Field`] when it is not.
    pub fn check_image(&self, [height, width]: [usize; 2]) -> Result<(), ConfigError> {
        let whole = |size: usize| size > 0 && size.is_multiple_of(self.patch_size);
        if whole(height) && whole(width) {
            return Ok(());
        }
        Err(ConfigError::Field {
            field: "image",
            expected: format!("height and width that {} divides", self.patch_size),
            found: format!("{height} x {width}"),
        })
    }

    /// A backbone with random weights on `device`.
    ///
    /// # Errors
    /// As [`DeitConfig::validate`], and when the options of the backbone make no pyramid.
    pub fn try_init(&self, device: &Device) -> Result<Deit, ConfigError> {
        self.validate_backbone()?;
        Ok(Deit {
            trunk: Trunk::new(self, device),
            norm: self.final_norm.then(|| ChannelNorm::with_epsilon(self.embed_dim, EPSILON, device)),
            neck: MultiLevelNeck::new(self, device),
            config: self.clone(),
        })
    }

    /// A classifier with random weights on `device`. The options of the backbone have no meaning for it.
    ///
    /// # Errors
    /// As [`DeitConfig::validate`].
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<DeitClassifier, ConfigError> {
        self.validate()?;
        Ok(DeitClassifier {
            trunk: Trunk::new(self, device),
            norm: ChannelNorm::with_epsilon(self.embed_dim, EPSILON, device),
            head: Dense::new(self.embed_dim, num_classes, true, device),
            config: self.clone(),
        })
    }

    /// Stride of every level of the backbone.
    pub fn strides(&self) -> Vec<usize> {
        SCALES.iter().map(|[times, over]| self.patch_size * over / times).collect()
    }

    /// Height and width of every level of the backbone for an image of `[height, width]` pixels.
    pub fn level_sizes(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        let grid = self.grid(image);
        SCALES.iter().map(|scale| grid.map(|size| scaled(size, *scale))).collect()
    }

    /// Patches along height and width; a rest that fills no patch is left out.
    fn grid(&self, image: [usize; 2]) -> [usize; 2] {
        image.map(|size| size / self.patch_size)
    }

    /// Patches along a side of the image that the position table is made for.
    fn table_side(&self) -> usize {
        self.image_size / self.patch_size
    }

    fn mlp_hidden(&self) -> usize {
        (self.mlp_ratio * self.embed_dim as f64) as usize
    }

    fn patch_conv(&self) -> ConvConfig {
        ConvConfig { inputs: self.in_chans, outputs: self.embed_dim, kernel: self.patch_size, stride: self.patch_size, padding: 0 }
    }

    /// The convolutions of a level of the neck.
    fn neck_convs(&self) -> [ConvConfig; 2] {
        let (inputs, outputs) = (self.embed_dim, self.neck_channels);
        [
            ConvConfig { inputs, outputs, kernel: 1, stride: 1, padding: 0 },
            ConvConfig { inputs: outputs, outputs, kernel: 3, stride: 1, padding: 1 },
        ]
    }

    /// Cost of the backbone for one image of `[height, width]` pixels.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let grid = self.grid(image);
        let mut cost = self.trunk_complexity(grid);
        if self.final_norm {
            cost.layer_norm(self.embed_dim, [1, grid[0] * grid[1] + 1]);
        }
        for level in self.level_sizes(image) {
            let [lateral, conv] = self.neck_convs();
            cost.conv_layer(&lateral, grid);
            // The reference resizes by a factor of 1, too.
            cost.add(OpKind::UpsampleBilinear, product(&[4, self.neck_channels, level[0], level[1]]));
            cost.conv_layer(&conv, level);
        }
        cost
    }

    /// Cost of the classifier for one image of `[height, width]` pixels.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        let grid = self.grid(image);
        let mut cost = self.trunk_complexity(grid);
        // The official count normalises all tokens, of which the head takes the first.
        cost.layer_norm(self.embed_dim, [1, grid[0] * grid[1] + 1]);
        cost.linear(OpKind::Linear, self.embed_dim, num_classes, true, [1, 1]);
        cost
    }

    fn trunk_complexity(&self, grid: [usize; 2]) -> Complexity {
        let (dim, hidden, tokens) = (self.embed_dim, self.mlp_hidden(), grid[0] * grid[1] + 1);
        let mut cost = Complexity::default();
        let patch = self.patch_conv();
        cost.conv(patch.inputs, patch.outputs, [patch.kernel; 2], grid);
        cost.add_params(usize::from(self.patch_bias) * dim);
        cost.add_params(dim + (self.table_side().pow(2) + 1) * dim);
        for _ in 0..self.depth {
            cost.layer_norm(dim, [1, tokens]);
            cost.linear(OpKind::Linear, dim, 3 * dim, true, [1, tokens]);
            cost.add(OpKind::Matmul, product(&[2, tokens, tokens, dim]));
            cost.linear(OpKind::Linear, dim, dim, true, [1, tokens]);
            cost.layer_norm(dim, [1, tokens]);
            cost.linear(OpKind::Linear, dim, hidden, true, [1, tokens]);
            cost.linear(OpKind::Linear, hidden, dim, true, [1, tokens]);
        }
        cost
    }
}

/// DeiT with the multi-level neck: features of strides 4, 8, 16 and 32.
#[derive(Module, Debug)]
pub struct Deit {
    trunk: Trunk,
    norm: Option<ChannelNorm>,
    neck: MultiLevelNeck,
    #[module(skip)]
    config: DeitConfig,
}

/// DeiT with a linear head on the class token.
#[derive(Module, Debug)]
pub struct DeitClassifier {
    trunk: Trunk,
    norm: ChannelNorm,
    head: Dense,
    #[module(skip)]
    config: DeitConfig,
}

/// What backbone and classifier share. Tokens are `[batch, 1, 1 + patches, embed_dim]`, the class token first.
#[derive(Module, Debug)]
struct Trunk {
    /// `[1, 1, embed_dim]`.
    cls_token: Param<Tensor<3>>,
    /// `[1, 1 + patches, embed_dim]` of the image size it was made for, the class token's first.
    pos_embed: Param<Tensor<3>>,
    patch_embed: PatchEmbed,
    blocks: Vec<Block>,
    #[module(skip)]
    table_side: usize,
    #[module(skip)]
    position_resize: TableResize,
}

#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Conv,
}

#[derive(Module, Debug)]
struct Block {
    norm1: ChannelNorm,
    attn: Attention,
    norm2: ChannelNorm,
    mlp: Mlp,
    drop_path: DropPath,
}

#[derive(Module, Debug)]
struct Attention {
    qkv: Dense,
    proj: Dense,
    #[module(skip)]
    num_heads: usize,
}

/// mmsegmentation's `MultiLevelNeck`: a 1x1 convolution, a bilinear resize and a 3x3 convolution a level.
#[derive(Module, Debug)]
struct MultiLevelNeck {
    lateral_convs: Vec<Conv>,
    convs: Vec<Conv>,
}

impl Deit {
    /// What the patch `query`, row and column, attends to in block `block` (counted from 0) of one image `[1, in_chans, height, width]`.
    ///
    /// # Errors
    /// When block or query do not exist, or there is not one image.
    pub fn attention_row(&self, images: Tensor<4>, block: usize, query: [usize; 2]) -> Result<AttentionRow, AttentionError> {
        attention_row(&self.trunk, &self.config, images, block, query)
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &DeitConfig {
        &self.config
    }
}

impl FeaturePyramid for Deit {
    fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let (mut tokens, [height, width]) = self.trunk.embed(images);
        let [batch, _, count, dim] = tokens.dims();
        let last = self.trunk.blocks.len() - 1;
        let mut levels = Vec::with_capacity(SCALES.len());
        for (index, block) in self.trunk.blocks.iter().enumerate() {
            tokens = block.forward(tokens);
            if let Some(norm) = self.norm.as_ref().filter(|_| index == last) {
                tokens = norm.forward(tokens);
            }
            if self.config.out_indices.contains(&index) {
                levels.push(tokens.clone().narrow(2, 1, count - 1).reshape([batch, height, width, dim]));
            }
        }
        self.neck.forward(levels)
    }

    fn channels(&self) -> Vec<usize> {
        vec![self.config.neck_channels; SCALES.len()]
    }

    fn strides(&self) -> Vec<usize> {
        self.config.strides()
    }
}

impl DeitClassifier {
    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to logits `[batch, num_classes]`, float32. The patch size divides
    /// height and width, see [`DeitConfig::check_image`]; a rest is left out.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.head.forward(self.features(images))
    }

    /// What goes into the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, to `[batch, channels]`, float32.
    pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let (tokens, _) = self.trunk.embed(images);
        let tokens = self.trunk.blocks.iter().fold(tokens, |tokens, block| block.forward(tokens));
        let [batch, _, _, dim] = tokens.dims();
        let class = tokens.narrow(2, 0, 1).reshape([batch, dim]).cast(DType::F32);
        self.norm.forward(class)
    }

    /// The last linear layer.
    pub fn head(&self) -> &Dense {
        &self.head
    }

    /// What the patch `query`, row and column, attends to in block `block` (counted from 0) of one image `[1, in_chans, height, width]`.
    ///
    /// # Errors
    /// When block or query do not exist, or there is not one image.
    pub fn attention_row(&self, images: Tensor<4>, block: usize, query: [usize; 2]) -> Result<AttentionRow, AttentionError> {
        attention_row(&self.trunk, &self.config, images, block, query)
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &DeitConfig {
        &self.config
    }
}

last_map_of_trunk!(Deit, DeitClassifier);

fn attention_row(
    trunk: &Trunk,
    config: &DeitConfig,
    images: Tensor<4>,
    block: usize,
    query: [usize; 2],
) -> Result<AttentionRow, AttentionError> {
    let [batch, _, height, width] = images.dims();
    if batch != 1 {
        return Err(AttentionError::Batch(batch));
    }
    let blocks = trunk.blocks.len();
    if block >= blocks {
        return Err(AttentionError::NoSuchBlock { block, blocks });
    }
    let size = config.grid([height, width]);
    let (weights, size) = trunk.attention_of(images, block, query).ok_or(AttentionError::Query { query, size })?;
    let weights: Vec<f32> = weights.into_data().iter::<f32>().collect();
    Ok(AttentionRow::of_heads(&weights, size, query))
}

impl Trunk {
    /// See [`LastMap`](crate::LastMap).
    fn chain(&self, [height, width]: [usize; 2]) -> Chain<'_> {
        let patch = self.patch_embed.proj.weight.dims()[2];
        let embedded = Chain::of(|images| self.embed(images).0);
        self.blocks.iter().fold(embedded, |chain, block| chain.then(|tokens| block.forward(tokens))).then(move |tokens| {
            let [batch, _, count, dim] = tokens.dims();
            channels_first(tokens.narrow(2, 1, count - 1).reshape([batch, height / patch, width / patch, dim]))
        })
    }

    fn new(config: &DeitConfig, device: &Device) -> Self {
        let (dim, side) = (config.embed_dim, config.table_side());
        let normal = |shape| Param::from_tensor(Tensor::random(shape, Distribution::Normal(0.0, 0.02), device));
        let last = (config.depth - 1).max(1) as f64;
        let block = |index: usize| Block {
            norm1: ChannelNorm::with_epsilon(dim, EPSILON, device),
            attn: Attention {
                qkv: Dense::new(dim, 3 * dim, true, device),
                proj: Dense::new(dim, dim, true, device),
                num_heads: config.num_heads,
            },
            norm2: ChannelNorm::with_epsilon(dim, EPSILON, device),
            mlp: MlpConfig { channels: dim, hidden: config.mlp_hidden(), activation: Activation::Gelu, gated: false, drop_rate: 0.0 }
                .init(device),
            drop_path: DropPath::new(config.drop_path_rate * index as f64 / last),
        };
        let mut proj = config.patch_conv().init(device);
        if !config.patch_bias {
            proj.bias = None;
        }
        Self {
            cls_token: normal([1, 1, dim]),
            pos_embed: normal([1, 1 + side * side, dim]),
            patch_embed: PatchEmbed { proj },
            blocks: (0..config.depth).map(block).collect(),
            table_side: side,
            position_resize: config.position_resize,
        }
    }

    /// `images` `[batch, in_chans, height, width]` to tokens with their positions added, and the patches along height and width.
    fn embed(&self, images: Tensor<4>) -> (Tensor<4>, [usize; 2]) {
        let patches = self.patch_embed.proj.forward(images.permute([0, 2, 3, 1]));
        let ([batch, height, width, dim], dtype) = (patches.dims(), patches.dtype());
        let class = self.cls_token.val().cast(dtype).unsqueeze::<4>().expand([batch, 1, 1, dim]);
        let tokens = Tensor::cat(vec![class, patches.reshape([batch, 1, height * width, dim])], 2);
        (tokens + self.positions([height, width]).cast(dtype).unsqueeze::<4>(), [height, width])
    }

    /// The attention of the patch `query`, row and column, in a block, `[heads, 1 + patches]`, the class token first, and the patches along
    /// height and width. None when block or query do not exist.
    fn attention_of(&self, images: Tensor<4>, block: usize, query: [usize; 2]) -> Option<(Tensor<2>, [usize; 2])> {
        let last = self.blocks.get(block)?;
        let (tokens, [height, width]) = self.embed(images);
        if query[0] >= height || query[1] >= width {
            return None;
        }
        let tokens = self.blocks.iter().take(block).fold(tokens, |tokens, block| block.forward(tokens));
        let [q, k, _] = heads(last.attn.qkv.forward(last.norm1.forward(tokens)), last.attn.num_heads);
        let q = q.narrow(2, 1 + query[0] * width + query[1], 1);
        let weights = attention_weights(q, k, None).narrow(0, 0, 1);
        Some((weights.reshape([last.attn.num_heads, 1 + height * width]), [height, width]))
    }

    /// `[1, 1 + height * width, embed_dim]`. The class token keeps its position.
    fn positions(&self, [height, width]: [usize; 2]) -> Tensor<3> {
        let (table, side) = (self.pos_embed.val(), self.table_side);
        if [height, width] == [side; 2] {
            return table;
        }
        let dim = table.dims()[2];
        let class = table.clone().narrow(1, 0, 1);
        let patches = table.narrow(1, 1, side * side).reshape([side, side, dim]);
        let patches = self.position_resize.apply(patches, [height, width]);
        Tensor::cat(vec![class, patches.reshape([1, height * width, dim])], 1)
    }
}

impl Block {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if !x.device().is_autodiff() {
            let x = self.attn.forward(self.norm1.forward(x.clone()), Some(x));
            return self.mlp.forward(self.norm2.forward(x.clone()), Some(x));
        }
        let x = x.clone() + self.drop_path.forward(self.attn.forward(self.norm1.forward(x), None));
        x.clone() + self.drop_path.forward(self.mlp.forward(self.norm2.forward(x), None))
    }
}

impl Attention {
    /// Softmax attention of all tokens `[batch, 1, tokens, channels]`; `residual` is added to the result where given.
    fn forward(&self, x: Tensor<4>, residual: Option<Tensor<4>>) -> Tensor<4> {
        let [batch, _, tokens, dim] = x.dims();
        let mixed = attend(heads(self.qkv.forward(x), self.num_heads), None).swap_dims(1, 2).reshape([batch, 1, tokens, dim]);
        self.proj.forward_fused(mixed, Fused { residual, ..Fused::default() })
    }
}

impl MultiLevelNeck {
    fn new(config: &DeitConfig, device: &Device) -> Self {
        let [lateral, conv] = config.neck_convs();
        let of_each_level = |conv: ConvConfig| SCALES.iter().map(|_| conv.init(device)).collect();
        Self { lateral_convs: of_each_level(lateral), convs: of_each_level(conv) }
    }

    /// Maps `[batch, height, width, embed_dim]` to levels `[batch, neck_channels, height', width']`.
    fn forward(&self, maps: Vec<Tensor<4>>) -> Vec<Tensor<4>> {
        let layers = self.lateral_convs.iter().zip(&self.convs).zip(SCALES);
        let level = |(map, ((lateral, conv), scale)): (Tensor<4>, ((&Conv, &Conv), _))| {
            conv.forward(resize(lateral.forward(map), scale)).permute([0, 3, 1, 2])
        };
        maps.into_iter().zip(layers).map(level).collect()
    }
}

/// Bilinear resize of `[batch, height, width, channels]` by a factor; the last row or column of an odd size is left out when it is halved.
fn resize(x: Tensor<4>, scale: [usize; 2]) -> Tensor<4> {
    let [times, over] = scale;
    if times == over {
        return x;
    }
    let [_, height, width, _] = x.dims();
    // PyTorch takes the factor as given, so that the windows of an odd size do not stretch over the rest.
    let whole = |size: usize| (size / over * over).max(1);
    let x = x.narrow(1, 0, whole(height)).narrow(2, 0, whole(width));
    let size = [height, width].map(|size| scaled(size, scale));
    vision_ops::resize_bilinear(x.permute([0, 3, 1, 2]), size, false).permute([0, 2, 3, 1])
}

/// A size times a factor, rounded down, at least 1.
fn scaled(size: usize, [times, over]: [usize; 2]) -> usize {
    (size * times / over).max(1)
}

/// The key in timm's `VisionTransformer` (and, for the neck, in mmsegmentation's `MultiLevelNeck`) of the parameter at `path` in a
/// [`Deit`] or [`DeitClassifier`].
///
/// ```
/// use vmamba::baselines::deit;
/// assert_eq!(deit::key("trunk.blocks.3.attn.qkv.weight"), "blocks.3.attn.qkv.weight");
/// assert_eq!(deit::key("neck.convs.0.bias"), "neck.convs.0.conv.bias");
/// ```
pub fn key(path: &str) -> String {
    if let Some(path) = path.strip_prefix("trunk.") {
        return path.to_owned();
    }
    match path.rsplit_once('.') {
        Some((layer, parameter)) if path.starts_with("neck.") => format!("{layer}.conv.{parameter}"),
        _ => path.to_owned(),
    }
}

/// The key of [`key`] for one of torchvision's `VisionTransformer`, or of mmpretrain's or mmsegmentation's, whose prefix `backbone.` is
/// taken off. Others are returned as they are.
///
/// ```
/// use vmamba::baselines::deit;
/// let key = deit::rename("encoder.layers.encoder_layer_3.self_attention.in_proj_weight");
/// assert_eq!(key.as_deref(), Some("blocks.3.attn.qkv.weight"));
/// ```
pub fn rename(key: &str) -> Option<Cow<'_, str>> {
    const OUTSIDE: [(&str, &str); 9] = [
        ("class_token", "cls_token"),
        ("conv_proj.", "patch_embed.proj."),
        ("patch_embed.projection.", "patch_embed.proj."),
        ("encoder.pos_embedding", "pos_embed"),
        ("encoder.ln.", "norm."),
        ("ln1.", "norm."),
        ("heads.head.", "head."),
        ("head.layers.head.", "head."),
        ("head.fc.", "head."),
    ];
    const IN_BLOCK: [(&str, &str); 14] = [
        ("ln_1.", "norm1."),
        ("ln_2.", "norm2."),
        ("ln1.", "norm1."),
        ("ln2.", "norm2."),
        ("self_attention.in_proj_", "attn.qkv."),
        ("self_attention.out_proj.", "attn.proj."),
        ("attn.attn.in_proj_", "attn.qkv."),
        ("attn.attn.out_proj.", "attn.proj."),
        ("mlp.0.", "mlp.fc1."),
        ("mlp.3.", "mlp.fc2."),
        ("mlp.linear_1.", "mlp.fc1."),
        ("mlp.linear_2.", "mlp.fc2."),
        ("ffn.layers.0.0.", "mlp.fc1."),
        ("ffn.layers.1.", "mlp.fc2."),
    ];
    let renamed = |key: &str, table: &[(&str, &str)]| {
        let found = table.iter().find_map(|(theirs, ours)| key.strip_prefix(theirs).map(|rest| format!("{ours}{rest}")));
        found.unwrap_or_else(|| key.to_owned())
    };
    let key = key.strip_prefix("backbone.").unwrap_or(key);
    let block = key.strip_prefix("encoder.layers.encoder_layer_").or_else(|| key.strip_prefix("layers."));
    Some(Cow::Owned(match block.and_then(|rest| rest.split_once('.')) {
        Some((number, parameter)) => format!("blocks.{number}.{}", renamed(parameter, &IN_BLOCK)),
        None => renamed(key, &OUTSIDE),
    }))
}

/// A whole segmentor's state as ours has it: mmsegmentation's neck stands beside the backbone, here it is a part of it. Others stay.
pub fn neck_into_backbone(mut state: StateDict) -> StateDict {
    if state.keys().any(|key| key.starts_with("decode_head.")) {
        let beside: Vec<String> = state.keys().filter(|key| key.starts_with("neck.")).map(str::to_owned).collect();
        for key in beside {
            if let Some(tensor) = state.remove(&key) {
                state.insert(format!("backbone.{key}"), tensor);
            }
        }
    }
    state
}

impl DeitConfig {
    /// A classifier's state with its table of positions resized to the image size of this configuration, as mmsegmentation does it when a
    /// segmentor starts from a classifier. Tables that are no square with a class token stay, and are reported when loaded.
    pub fn fit_positions(&self, mut state: StateDict) -> StateDict {
        let side = self.table_side();
        let key = state.keys().find(|key| rename(key).is_some_and(|key| key == "pos_embed")).map(str::to_owned);
        let Some(table) = key.and_then(|key| state.get_mut(&key)) else { return state };
        let [1, rows, dim] = table.shape[..] else { return state };
        let old = rows.saturating_sub(1).isqrt();
        if old == 0 || old * old + 1 != rows || old == side {
            return state;
        }
        let (class, patches) = table.data.split_at(dim);
        let patches = Tensor::from_data(TensorData::new(patches.to_vec(), [old, old, dim]), &Device::flex());
        let resized = self.position_resize.apply(patches, [side; 2]).into_data();
        table.data = class.iter().copied().chain(resized.iter::<f32>()).collect();
        table.shape = vec![1, side * side + 1, dim];
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::StateTensor;

    #[test]
    fn a_classifiers_positions_are_resized_to_the_image_of_the_segmentor() {
        let config = DeitConfig { image_size: 64, embed_dim: 2, num_heads: 1, ..DeitConfig::tiny() };
        let table = |side: usize, value: &dyn Fn(usize) -> f32| {
            let data = [7.0, 8.0].into_iter().chain((0..2 * side * side).map(value)).collect();
            StateTensor { shape: vec![1, side * side + 1, 2], data }
        };
        let mut state = StateDict::new();
        state.insert("backbone.pos_embed", table(3, &|index| (index % 2) as f32));
        let fitted = config.fit_positions(state);
        // A constant of each channel stays one.
        let expected = table(4, &|index| (index % 2) as f32);
        let found = fitted.get("backbone.pos_embed").unwrap();
        assert_eq!(found.shape, expected.shape);
        assert!(found.data.iter().zip(&expected.data).all(|(a, b)| (a - b).abs() < 1e-6), "{:?}", found.data);
        assert_eq!(found.data[..2], [7.0, 8.0]);

        let mut state = StateDict::new();
        state.insert("pos_embed", StateTensor { shape: vec![1, 9, 2], data: vec![0.5; 18] });
        assert_eq!(config.fit_positions(state.clone()), state, "a table without a class token");
    }

    #[test]
    fn options_that_make_no_model_are_refused_by_name() {
        type Change = fn(&mut DeitConfig);
        let changes: [(&str, Change); 7] = [
            ("num_heads", |c| c.num_heads = 5),
            ("image_size", |c| c.image_size = 230),
            ("depth", |c| c.depth = 0),
            ("mlp_ratio", |c| c.mlp_ratio = f64::NAN),
            ("drop_path_rate", |c| c.drop_path_rate = 1.0),
            ("out_indices", |c| c.out_indices = vec![2, 5, 8, 12]),
            ("out_indices", |c| c.out_indices = vec![11]),
        ];
        for (field, change) in changes {
            let mut config = DeitConfig::small();
            change(&mut config);
            let error = config.try_init(&Device::flex()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}`")), "{field}: {error}");
        }
    }
}
