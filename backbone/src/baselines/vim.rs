//! Vim (Zhu et al., "Vision Mamba"): the patches are a sequence that every block scans forwards and backwards.
//!
//! ```text
//! image ─ patch_embed ─ half of the patches, cls_token, other half ─ + pos_embed ─ layers[0] ─ … ─ layers[23] ─ norm_f ─ middle token ─ head
//!
//! layer:  x ─┬─ norm ─┬─ in_proj ─┬─ conv1d   ─ SiLU ─ scan forwards  ─ + ─ * ─ / 2 ─ out_proj ─ drop path ─ + ─
//!            │        │           └─ conv1d_b ─ SiLU ─ scan backwards ─┘   │                                │
//!            │        └─ in_proj ─ SiLU ───────────────────────────────────┘                                │
//!            └──────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! The backbone, [`Vim`], is that of the official segmentor: it has no class token, rotary positions before every layer (`rope`), and as levels
//! the branches of the layers 5, 11, 17 and 23, resized by transposed convolutions and a pool.
//!
//! The published models have bidirectional Mamba v2, RMSNorm, the class token in the middle, and the mean of both directions. The official code
//! gates each direction and reverses the sequence for the second. Here, the directions are summed before the gate, and the second direction's
//! convolution and scan run backwards, which is equivalent. The residual sum is float32 for activations of every type, as in the official code
//! (`residual_in_fp32`). Keys are those of the official `VisionMamba`.

#![allow(non_snake_case, reason = "`A_log` and `D` are the official parameter names; the derive drops a narrower attribute")]

mod config;
mod family;
mod key_map;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, Distribution, TensorData};
use vision_ops::{Fused, Pointwise, Route};

use crate::feature_pyramid::FeaturePyramid;
use crate::last_map::{Chain, LastMap, channels_first};
use crate::layers::{Conv, DeconvPyramid, Dense, DropPath, TableResize, uniform_fan_in};
use crate::vmamba::init::step_size_bias;

pub use config::VimConfig;
pub use key_map::{key, rename, without_unused_norm};

/// Epsilon of every norm, added to the mean square.
const EPSILON: f64 = 1e-5;

/// Vim as a backbone: features of strides 4, 8, 16 and 32. Tokens are `[batch, 1, patches, embed_dim]`.
#[derive(Module, Debug)]
pub struct Vim {
    /// `[1, patches, embed_dim]` for the image size of the configuration.
    pos_embed: Param<Tensor<3>>,
    patch_embed: PatchEmbed,
    layers: Vec<Layer>,
    pyramid: DeconvPyramid,
    #[module(skip)]
    config: VimConfig,
}

/// Vim with a linear head on the class token. Tokens are `[batch, 1, patches + 1, embed_dim]`, the class token after half of the patches.
#[derive(Module, Debug)]
pub struct VimClassifier {
    /// `[1, 1, embed_dim]`.
    cls_token: Param<Tensor<3>>,
    /// `[1, patches + 1, embed_dim]` for the image size of the configuration, with the class token in the middle.
    pos_embed: Param<Tensor<3>>,
    patch_embed: PatchEmbed,
    layers: Vec<Layer>,
    norm_f: RmsNorm,
    head: Dense,
    #[module(skip)]
    config: VimConfig,
}

#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Conv,
}

/// Official `Block`.
#[derive(Module, Debug)]
struct Layer {
    norm: RmsNorm,
    mixer: BidirectionalMamba,
    drop_path: DropPath,
}

/// Official `Mamba` with `bimamba_type="v2"` and `if_divide_out`. D is the inner width.
#[derive(Module, Debug)]
struct BidirectionalMamba {
    /// Projects to the input of the scan and to the gate: `[2 D, embed_dim]`.
    in_proj: Dense,
    forwards: Direction,
    backwards: Direction,
    out_proj: Dense,
}

/// The parameters of one direction. R is the rank of the step-size projection, N the state size.
#[derive(Module, Debug)]
struct Direction {
    conv1d: CausalConv,
    /// Projects to the step size, B and C of a token: `[R + 2 N, D]`.
    x_proj: Dense,
    /// Projects the step size from rank R to D channels.
    dt_proj: Dense,
    /// `A = -exp(A_log)`: `[D, N]`.
    A_log: Param<Tensor<2>>,
    /// Skip connection of the scan: `[D]`.
    D: Param<Tensor<1>>,
    #[module(skip)]
    route: Route,
}

/// A causal depthwise convolution: it sees a token and those before it.
#[derive(Module, Debug)]
struct CausalConv {
    /// `[channels, 1, kernel]`, the token itself last.
    weight: Param<Tensor<3>>,
    /// `[channels]`.
    bias: Param<Tensor<1>>,
}

/// `x / sqrt(mean(x^2) + epsilon) * weight` over the last axis.
#[derive(Module, Debug)]
struct RmsNorm {
    weight: Param<Tensor<1>>,
}

impl Vim {
    /// Requires a valid configuration.
    fn new(config: &VimConfig, device: &Device) -> Self {
        let (dim, side) = (config.embed_dim, config.table_side());
        Self {
            pos_embed: positions(side * side, dim, device),
            patch_embed: PatchEmbed { proj: config.patch_conv().init(device) },
            layers: Layer::all(config, device),
            pyramid: DeconvPyramid::new(dim, device),
            config: config.clone(),
        }
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &VimConfig {
        &self.config
    }

    /// The rotary positions for `[height, width]` patches, if the configuration has them.
    fn rotation(&self, patches: [usize; 2], device: &Device) -> Option<Rotation> {
        self.config.rotary_positions.then(|| Rotation::new(patches, self.config.embed_dim, device))
    }

    /// Images to tokens `[batch, 1, height * width, embed_dim]` with position embeddings, and height and width in patches.
    fn embed(&self, images: Tensor<4>) -> (Tensor<4>, [usize; 2]) {
        let patches = self.patch_embed.proj.forward(images.permute([0, 2, 3, 1]));
        let ([batch, height, width, dim], dtype) = (patches.dims(), patches.dtype());
        let tokens: Tensor<4> = patches.reshape([batch, 1, height * width, dim]);
        (tokens + self.positions([height, width]).cast(dtype).unsqueeze::<4>(), [height, width])
    }

    /// `[1, height * width, embed_dim]`.
    fn positions(&self, size: [usize; 2]) -> Tensor<3> {
        let (table, side) = (self.pos_embed.val(), self.config.table_side());
        if size == [side; 2] {
            return table;
        }
        let dim = table.dims()[2];
        TableResize::Bicubic.apply(table.reshape([side, side, dim]), size).reshape([1, size[0] * size[1], dim])
    }
}

impl LastMap for Vim {
    fn chain(&self, [height, width]: [usize; 2]) -> Chain<'_> {
        let conv = self.config.patch_conv();
        let [rows, columns] = [height, width].map(|size| conv.output_size(size));
        let embedded = Chain::of(|images| self.embed(images).0);
        let layers = self.layers.iter().fold(embedded, |chain, layer| {
            chain.then(move |sum| {
                let sum = match self.rotation([rows, columns], &sum.device()) {
                    Some(rotation) => rotation.forward(sum),
                    None => sum,
                };
                layer.forward(sum, DType::F32)
            })
        });
        layers.then(move |sum| {
            let [batch, _, _, dim] = sum.dims();
            channels_first(sum.reshape([batch, rows, columns, dim]))
        })
    }
}

impl FeaturePyramid for Vim {
    fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let dtype = images.dtype();
        let (tokens, [height, width]) = self.embed(images);
        let mut sum = tokens.cast(DType::F32);
        let [batch, _, _, dim] = sum.dims();
        let rotation = self.rotation([height, width], &sum.device());
        let mut levels = Vec::with_capacity(self.config.out_indices.len());
        for (index, layer) in self.layers.iter().enumerate() {
            if let Some(rotation) = &rotation {
                sum = rotation.forward(sum);
            }
            if !self.config.out_indices.contains(&index) {
                sum = layer.forward(sum, dtype);
                continue;
            }
            // The level is the branch of the layer, not the sum.
            let added = layer.branch(sum.clone(), dtype);
            sum = sum + layer.drop_path.forward(added.clone()).cast(DType::F32);
            levels.push(self.pyramid.level(levels.len(), added.reshape([batch, height, width, dim])));
        }
        levels
    }

    fn channels(&self) -> Vec<usize> {
        vec![self.config.embed_dim; self.config.out_indices.len()]
    }

    fn strides(&self) -> Vec<usize> {
        self.config.strides()
    }
}

/// Rotary positions (EVA-02's `VisionRotaryEmbeddingFast`): rotates pairs of neighbouring channels, in the first half of the channels by the
/// row and in the second by the column, at frequencies that fall from 1 to 1/10000.
struct Rotation {
    /// `[1, 1, height * width, channels]`.
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotation {
    /// Positions are scaled to a map of this many rows and columns.
    const TRAINED: f64 = 14.0;
    /// The inverse of the lowest frequency.
    const THETA: f64 = 10_000.0;

    /// For maps of `[height, width]` positions. `channels` must be a multiple of 4.
    fn new([height, width]: [usize; 2], channels: usize, device: &Device) -> Self {
        let half = channels / 2;
        let angle = |place: usize, size: usize, channel: usize| {
            let frequency = Self::THETA.powf(-((channel / 2 * 2) as f64) / half as f64);
            place as f64 / size as f64 * Self::TRAINED * frequency
        };
        let mut angles = Vec::with_capacity(height * width * channels);
        for (row, column) in (0..height).flat_map(|row| (0..width).map(move |column| (row, column))) {
            angles.extend((0..half).map(|channel| angle(row, height, channel)));
            angles.extend((0..half).map(|channel| angle(column, width, channel)));
        }
        let tensor = |of: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|angle| of(*angle) as f32).collect();
            Tensor::from_data(TensorData::new(values, [1, 1, height * width, channels]), device)
        };
        Self { cos: tensor(f64::cos), sin: tensor(f64::sin) }
    }

    /// `[batch, 1, tokens, channels]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, one, tokens, channels] = x.dims();
        let pairs: Tensor<5> = x.clone().reshape([batch, one, tokens, channels / 2, 2]);
        let [first, second] = [0, 1].map(|member| pairs.clone().narrow(4, member, 1));
        let turned: Tensor<4> = Tensor::cat(vec![second.neg(), first], 4).reshape([batch, one, tokens, channels]);
        x * self.cos.clone() + turned * self.sin.clone()
    }
}

/// A random position table.
fn positions(count: usize, dim: usize, device: &Device) -> Param<Tensor<3>> {
    Param::from_tensor(Tensor::random([1, count, dim], Distribution::Normal(0.0, 0.02), device))
}

impl VimClassifier {
    /// Requires a valid configuration.
    fn new(config: &VimConfig, num_classes: usize, device: &Device) -> Self {
        let (dim, side) = (config.embed_dim, config.table_side());
        Self {
            cls_token: positions(1, dim, device),
            pos_embed: positions(side * side + 1, dim, device),
            patch_embed: PatchEmbed { proj: config.patch_conv().init(device) },
            layers: Layer::all(config, device),
            norm_f: RmsNorm::new(dim, device),
            head: Dense::new(dim, num_classes, true, device),
            config: config.clone(),
        }
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &VimConfig {
        &self.config
    }

    /// The last linear layer.
    pub fn head(&self) -> &Dense {
        &self.head
    }

    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to logits `[batch, num_classes]`, float32. For the sizes
    /// see [`VimConfig::check_image`]; surplus pixels at the bottom and the right are cropped.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.head.forward(self.features(images))
    }

    /// The input of the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, to `[batch, channels]`, float32.
    pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let dtype = images.dtype();
        let (tokens, middle) = self.embed(images);
        let sum = self.layers.iter().fold(tokens.cast(DType::F32), |sum, layer| layer.forward(sum, dtype));
        let [batch, _, _, dim] = sum.dims();
        let class = sum.narrow(2, middle, 1).reshape([batch, dim]);
        self.norm_f.forward(class)
    }

    /// Images to tokens with position embeddings, and the index of the class token.
    fn embed(&self, images: Tensor<4>) -> (Tensor<4>, usize) {
        let patches = self.patch_embed.proj.forward(images.permute([0, 2, 3, 1]));
        let ([batch, height, width, dim], dtype) = (patches.dims(), patches.dtype());
        let count = height * width;
        let class = self.cls_token.val().cast(dtype).unsqueeze::<4>().expand([batch, 1, 1, dim]);
        let patches = patches.reshape([batch, 1, count, dim]);
        let tokens = with_middle(patches, class, 2);
        (tokens + self.positions([height, width]).cast(dtype).unsqueeze::<4>(), count / 2)
    }

    /// `[1, height * width + 1, embed_dim]`. The class token keeps its position.
    fn positions(&self, [height, width]: [usize; 2]) -> Tensor<3> {
        let (table, side) = (self.pos_embed.val(), self.config.table_side());
        if [height, width] == [side; 2] {
            return table;
        }
        let ([_, rows, dim], middle) = (table.dims(), side * side / 2);
        let class = table.clone().narrow(1, middle, 1);
        let before = table.clone().narrow(1, 0, middle);
        let patches = Tensor::cat(vec![before, table.narrow(1, middle + 1, rows - 1 - middle)], 1).reshape([side, side, dim]);
        let patches = TableResize::Bicubic.apply(patches, [height, width]).reshape([1, height * width, dim]);
        with_middle(patches, class, 1)
    }
}

impl LastMap for VimClassifier {
    fn chain(&self, [height, width]: [usize; 2]) -> Chain<'_> {
        let conv = self.config.patch_conv();
        let [rows, columns] = [height, width].map(|size| conv.output_size(size));
        let embedded = Chain::of(|images| self.embed(images).0);
        self.layers.iter().fold(embedded, |chain, layer| chain.then(|sum| layer.forward(sum, DType::F32))).then(move |sum| {
            let ([batch, _, count, dim], middle) = (sum.dims(), rows * columns / 2);
            let before = sum.clone().narrow(2, 0, middle);
            let behind = sum.narrow(2, middle + 1, count - 1 - middle);
            channels_first(Tensor::cat(vec![before, behind], 2).reshape([batch, rows, columns, dim]))
        })
    }
}

/// Inserts `middle` after the first half of `tokens` along `axis`.
fn with_middle<const D: usize>(tokens: Tensor<D>, middle: Tensor<D>, axis: usize) -> Tensor<D> {
    let count = tokens.dims()[axis];
    let half = count / 2;
    let parts = [(0, half), (half, count - half)].map(|(start, length)| (length > 0).then(|| tokens.clone().narrow(axis, start, length)));
    let [before, behind] = parts;
    Tensor::cat(before.into_iter().chain([middle]).chain(behind).collect(), axis)
}

impl Layer {
    /// All layers of a network, with linearly rising stochastic depth.
    fn all(config: &VimConfig, device: &Device) -> Vec<Self> {
        let last = (config.depth - 1).max(1) as f64;
        let layer = |index: usize| Self {
            norm: RmsNorm::new(config.embed_dim, device),
            mixer: BidirectionalMamba::new(config, device),
            drop_path: DropPath::new(config.drop_path_rate * index as f64 / last),
        };
        (0..config.depth).map(layer).collect()
    }

    /// The branch that the layer adds to `sum`, which is float32; computed in `dtype`.
    fn branch(&self, sum: Tensor<4>, dtype: DType) -> Tensor<4> {
        self.mixer.forward(self.norm.forward(sum).cast(dtype), None)
    }

    /// Adds the branch to `sum`, float32; the branch is computed in `dtype`.
    fn forward(&self, sum: Tensor<4>, dtype: DType) -> Tensor<4> {
        if dtype == DType::F32 && !sum.device().is_autodiff() {
            return self.mixer.forward(self.norm.forward(sum.clone()), Some(sum));
        }
        let branch = self.branch(sum.clone(), dtype);
        sum + self.drop_path.forward(branch).cast(DType::F32)
    }
}

impl BidirectionalMamba {
    fn new(config: &VimConfig, device: &Device) -> Self {
        let (dim, inner) = (config.embed_dim, config.d_inner());
        // Scaled down by the root of the number of branches that are summed.
        let bound = ((inner * config.depth) as f64).sqrt().recip();
        let out_proj = Tensor::random([dim, inner], Distribution::Uniform(-bound, bound), device);
        Self {
            in_proj: Dense { weight: uniform_fan_in([2 * inner, dim], dim, device), bias: None },
            forwards: Direction::new(config, Route::Rows, device),
            backwards: Direction::new(config, Route::RowsReversed, device),
            out_proj: Dense { weight: Param::from_tensor(out_proj), bias: None },
        }
    }

    /// `x: [batch, 1, tokens, embed_dim]` to the same shape, plus `residual` where given.
    fn forward(&self, x: Tensor<4>, residual: Option<Tensor<4>>) -> Tensor<4> {
        let weight = self.in_proj.weight.val();
        let [rows, _] = weight.dims();
        let [scanned, gate] = [0, rows / 2].map(|first| weight.clone().slice(s![first..first + rows / 2]));
        let gate = vision_ops::linear_fused(x.clone(), gate, Fused::default().activation(Pointwise::Silu));
        let x = vision_ops::linear(x, scanned, None);
        let y = (self.forwards.forward(x.clone()) + self.backwards.forward(x)) * gate;
        // The mean of both directions.
        let half = Tensor::full([self.out_proj.weight.dims()[0]], 0.5, &y.device());
        self.out_proj.forward_fused(y, Fused { scale: Some(half), residual, ..Fused::default() })
    }
}

impl Direction {
    fn new(config: &VimConfig, route: Route, device: &Device) -> Self {
        let (inner, state, rank) = (config.d_inner(), config.d_state, config.dt_rank());
        let bound = (rank as f64).sqrt().recip();
        let a_log = Tensor::<1, Int>::arange(1..state as i64 + 1, device).float().log().unsqueeze::<2>().expand([inner, state]);
        let bias = step_size_bias(Tensor::random([1, inner], Distribution::Default, device)).reshape([inner]);
        // A parameter must be a leaf of the autodiff graph; the result of an operation is not.
        let dt_proj = Dense {
            weight: Param::from_tensor(Tensor::random([inner, rank], Distribution::Uniform(-bound, bound), device)),
            bias: Some(Param::from_tensor(bias.detach())),
        };
        Self {
            conv1d: CausalConv {
                weight: uniform_fan_in([inner, 1, config.d_conv], config.d_conv, device),
                bias: uniform_fan_in([inner], config.d_conv, device),
            },
            x_proj: Dense { weight: uniform_fan_in([rank + 2 * state, inner], inner, device), bias: None },
            dt_proj,
            A_log: Param::from_tensor(a_log.detach()),
            D: Param::from_tensor(Tensor::ones([inner], device)),
            route,
        }
    }

    /// `[batch, 1, tokens, D]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.conv1d.forward(x, self.route);
        let projections = self.x_proj.forward(x.clone());
        // The scan has an axis of routes, here of size one.
        let weight = self.dt_proj.weight.val().unsqueeze::<3>();
        let [_, inner, _] = weight.dims();
        let bias = match &self.dt_proj.bias {
            Some(bias) => bias.val().unsqueeze::<2>(),
            None => Tensor::zeros([1, inner], &x.device()),
        };
        vision_ops::selective_scan_2d(x, projections, weight, bias, self.A_log.val(), self.D.val(), &[self.route])
    }
}

impl CausalConv {
    /// `x: [batch, 1, tokens, channels]` to the same shape, with SiLU. Backwards, a token sees those after it.
    fn forward(&self, x: Tensor<4>, route: Route) -> Tensor<4> {
        let (weight, device) = (self.weight.val(), x.device());
        let [channels, _, kernel] = weight.dims();
        // The map has one row, so use a square kernel whose middle row has the taps on one side of the token.
        let side = 2 * kernel - 1;
        let zeros = |rows, columns| Tensor::<4>::zeros([channels, 1, rows, columns], &device);
        let taps = if route == Route::RowsReversed { weight.flip([2]) } else { weight }.unsqueeze_dim::<4>(2);
        let row = match (kernel, route) {
            (1, _) => taps,
            (_, Route::RowsReversed) => Tensor::cat(vec![zeros(1, kernel - 1), taps], 3),
            _ => Tensor::cat(vec![taps, zeros(1, kernel - 1)], 3),
        };
        let square = if kernel == 1 { row } else { Tensor::cat(vec![zeros(kernel - 1, side), row, zeros(kernel - 1, side)], 2) };
        vision_ops::depthwise_conv2d_fused(x, square, Some(self.bias.val()), Pointwise::Silu)
    }
}

impl RmsNorm {
    fn new(channels: usize, device: &Device) -> Self {
        Self { weight: Param::from_tensor(Tensor::ones([channels], device)) }
    }

    /// `[.., channels]`, float32, to the same shape.
    fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let scale = (x.clone().square().mean_dim(D - 1) + EPSILON).sqrt().recip();
        x * scale * self.weight.val().unsqueeze::<D>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{StateDict, StateTensor};

    #[test]
    fn a_classifiers_positions_lose_the_middle_one_and_are_resized() {
        let config = VimConfig { image_size: 32, embed_dim: 4, ..VimConfig::tiny() };
        let mut state = StateDict::new();
        // The table has 3 x 3 patches; the class token is the fifth of ten rows.
        let data = (0..10).flat_map(|row| [if row == 4 { 9.0 } else { 0.25 }; 4]).collect();
        state.insert("pos_embed", StateTensor { shape: vec![1, 10, 4], data });
        let fitted = config.fit_positions(state);
        let table = fitted.get("pos_embed").unwrap();
        assert_eq!(table.shape, [1, 4, 4]);
        assert!(table.data.iter().all(|value| (value - 0.25).abs() < 1e-6), "{:?}", table.data);
    }

    #[test]
    fn the_chain_adds_what_the_levels_are_made_of() {
        let device = Device::flex();
        device.seed(4);
        let config = VimConfig { image_size: 32, embed_dim: 24, depth: 4, out_indices: vec![0, 1, 2, 3], ..VimConfig::tiny() };
        let backbone = config.try_init(&device).unwrap();
        let images = Tensor::random([1, 3, 48, 32], Distribution::Normal(0.0, 1.0), &device);
        let chain = backbone.chain([48, 32]);
        // The steps: images to tokens, one per layer, tokens to map.
        let [before, behind] = [3, 4].map(|parts| chain.parts()[..parts].iter().fold(images.clone(), |x, part| part(x)));
        let turned = backbone.rotation([3, 2], &device).unwrap().forward(before);
        // The third level is the branch of the third layer, not resized.
        let added = channels_first((behind - turned).reshape([1, 3, 2, 24]));
        let level = backbone.forward_features(images.clone()).swap_remove(2);
        let difference: f32 = (added - level).abs().max().into_scalar();
        assert!(difference < 1e-5, "{difference}");
        assert_eq!(backbone.last_map(images).dims(), [1, 24, 3, 2]);
    }

    #[test]
    fn options_that_make_no_model_are_refused_by_name() {
        type Change = fn(&mut VimConfig);
        let changes: [(&str, Change); 6] = [
            ("in_chans", |c| c.in_chans = 0),
            ("stride", |c| c.stride = 0),
            ("depth", |c| c.depth = 0),
            ("image_size", |c| c.image_size = 230),
            ("image_size", |c| c.image_size = 8),
            ("drop_path_rate", |c| c.drop_path_rate = 1.0),
        ];
        for (field, change) in changes {
            let mut config = VimConfig::small();
            change(&mut config);
            let error = config.try_init_classifier(10, &Device::flex()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}`")), "{field}: {error}");
        }
    }
}
