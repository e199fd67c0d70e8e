//! DeiT (Touvron et al., "Training data-efficient image transformers"): a plain vision transformer of one resolution.
//!
//! ```text
//! image ─ patch_embed ─ [cls_token, patches] + pos_embed ─ blocks[0] ─ … ─ blocks[11] ─ norm ─ first token ─ head     DeitClassifier
//!                                                             │ 2, 5, 8, 11: patches only
//!                                                           neck.lateral_convs ─ resize ×4, ×2, ×1, ×½ ─ neck.convs     Deit
//! ```
//!
//! The backbone is the pyramid of mmsegmentation's UperNet DeiT + MLN (multi-level neck). Keys are those of timm's `VisionTransformer`, as in
//! the original repository. The neck has mmsegmentation's keys `neck.*`; there the neck stands beside the backbone, and [`neck_into_backbone`]
//! moves it. The distilled variant with a second token is not supported.

mod config;
mod family;
mod key_map;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use vision_ops::Fused;

use crate::analysis::{AttentionError, AttentionRow};
use crate::feature_pyramid::FeaturePyramid;
use crate::last_map::{Chain, channels_first, last_map_of_trunk};
use crate::layers::{
    Activation, ChannelNorm, Conv, ConvConfig, Dense, DropPath, Mlp, MlpConfig, TableResize, attend, attention_weights, heads,
};

pub use config::DeitConfig;
pub use key_map::{key, neck_into_backbone, rename};

/// Resolution of every level of the backbone relative to the grid of patches, as numerator and denominator.
const SCALES: [[usize; 2]; 4] = [[4, 1], [2, 1], [1, 1], [1, 2]];

/// The epsilon of every norm.
const EPSILON: f64 = 1e-6;

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

/// The transformer, which backbone and classifier share. Tokens are `[batch, 1, 1 + patches, embed_dim]`, the class token first.
#[derive(Module, Debug)]
struct Trunk {
    /// `[1, 1, embed_dim]`.
    cls_token: Param<Tensor<3>>,
    /// `[1, 1 + patches, embed_dim]` for the image size of the configuration, the class token first.
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

/// mmsegmentation's `MultiLevelNeck`: for each level a 1x1 convolution, a bilinear resize and a 3x3 convolution.
#[derive(Module, Debug)]
struct MultiLevelNeck {
    lateral_convs: Vec<Conv>,
    convs: Vec<Conv>,
}

impl Deit {
    /// The attention weights of the patch `query` (row and column) in block `block`, counted from 0, for one image
    /// `[1, in_chans, height, width]`.
    ///
    /// # Errors
    /// When the block or query does not exist, or the batch does not have exactly one image.
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
    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to logits `[batch, num_classes]`, float32. The patch size must
    /// divide height and width, see [`DeitConfig::check_image`]; surplus pixels are cropped.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.head.forward(self.features(images))
    }

    /// The input of the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, to `[batch, channels]`, float32.
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

    /// The attention weights of the patch `query` (row and column) in block `block`, counted from 0, for one image
    /// `[1, in_chans, height, width]`.
    ///
    /// # Errors
    /// When the block or query does not exist, or the batch does not have exactly one image.
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

    /// `images` `[batch, in_chans, height, width]` to tokens with position embeddings, and the number of patches along height and width.
    fn embed(&self, images: Tensor<4>) -> (Tensor<4>, [usize; 2]) {
        let patches = self.patch_embed.proj.forward(images.permute([0, 2, 3, 1]));
        let ([batch, height, width, dim], dtype) = (patches.dims(), patches.dtype());
        let class = self.cls_token.val().cast(dtype).unsqueeze::<4>().expand([batch, 1, 1, dim]);
        let tokens = Tensor::cat(vec![class, patches.reshape([batch, 1, height * width, dim])], 2);
        (tokens + self.positions([height, width]).cast(dtype).unsqueeze::<4>(), [height, width])
    }

    /// The attention weights `[heads, 1 + patches]` of the patch `query` (row and column) in a block, the class token first, and the number of
    /// patches along height and width. None when the block or query does not exist.
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
    /// Softmax attention of all tokens `[batch, 1, tokens, channels]`, plus `residual` where given.
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

/// Bilinear resize of `[batch, height, width, channels]` by a factor. Halving an odd size drops its last row or column.
fn resize(x: Tensor<4>, scale: [usize; 2]) -> Tensor<4> {
    let [times, over] = scale;
    if times == over {
        return x;
    }
    let [_, height, width, _] = x.dims();
    // PyTorch uses the given factor instead of the ratio of the sizes, so the last row or column of an odd size is not sampled.
    let whole = |size: usize| (size / over * over).max(1);
    let x = x.narrow(1, 0, whole(height)).narrow(2, 0, whole(width));
    let size = [height, width].map(|size| scaled(size, scale));
    vision_ops::resize_bilinear(x.permute([0, 3, 1, 2]), size, false).permute([0, 2, 3, 1])
}

/// A size times a factor, rounded down but at least 1.
fn scaled(size: usize, [times, over]: [usize; 2]) -> usize {
    (size * times / over).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{StateDict, StateTensor};

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
        // Constant channels stay constant.
        let expected = table(4, &|index| (index % 2) as f32);
        let found = fitted.get("backbone.pos_embed").unwrap();
        assert_eq!(found.shape, expected.shape);
        assert!(found.data.iter().zip(&expected.data).all(|(a, b)| (a - b).abs() < 1e-6), "{:?}", found.data);
        assert_eq!(found.data[..2], [7.0, 8.0]);

        let mut state = StateDict::new();
        state.insert("pos_embed", StateTensor { shape: vec![1, 9, 2], data: vec![0.5; 18] });
        assert_eq!(config.fit_positions(state.clone()), state, "a table without a class token");

        let mut state = StateDict::new();
        state.insert("pos_embed", StateTensor { shape: vec![1, 10, 0], data: vec![] });
        assert_eq!(config.fit_positions(state.clone()), state, "a table without channels");
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
