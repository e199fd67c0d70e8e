//! Vim (Zhu et al., "Vision Mamba"): patches as a sequence that every block scans forwards and backwards.
//!
//! ```text
//! image ─ patch_embed ─ half of the patches, cls_token, other half ─ + pos_embed ─ layers[0] ─ … ─ layers[23] ─ norm_f ─ middle token ─ head
//!
//! layer:  x ─┬─ norm ─┬─ in_proj ─┬─ conv1d   ─ SiLU ─ scan forwards  ─ + ─ * ─ / 2 ─ out_proj ─ drop path ─ + ─
//!            │        │           └─ conv1d_b ─ SiLU ─ scan backwards ─┘   │                                │
//!            │        └─ in_proj ─ SiLU ───────────────────────────────────┘                                │
//!            └──────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! The published models: bidirectional Mamba v2, RMSNorm, the class token in the middle, and the mean of both directions. The official code
//! gates each direction and turns the backward sequence round; here the directions are summed before the gate, and convolution and scan of
//! the second one walk backwards by themselves, which is the same. The sum that runs through the blocks is float32 whatever the type of the
//! activations, as there (`residual_in_fp32`). The reference of the keys is the official `VisionMamba`.

#![allow(non_snake_case, reason = "`A_log` and `D` are the official parameter names; the derive drops a narrower attribute")]

use std::borrow::Cow;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use serde::{Deserialize, Serialize};
use vision_ops::{Fused, Pointwise, Route};

use crate::complexity::{Complexity, OpKind, product};
use crate::last_map::{Chain, LastMap, channels_first};
use crate::layers::{Conv, ConvConfig, Dense, DropPath, TableResize, uniform_fan_in};
use crate::vmamba::ConfigError;
use crate::vmamba::config::require;
use crate::vmamba::init::step_size_bias;

/// Options of a Vim; the default is [`VimConfig::small`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VimConfig {
    /// Channels of the input image.
    pub in_chans: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Pixels from one patch to the next; patches overlap where it is below `patch_size`.
    pub stride: usize,
    /// Side in pixels of the square image that the position table is made for. Images of other sizes get a bicubically resized table.
    pub image_size: usize,
    /// Channels of every token.
    pub embed_dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// State size N of the scan.
    pub d_state: usize,
    /// Tokens that the causal convolution before the scan sees.
    pub d_conv: usize,
    /// Inner width of a block over `embed_dim`.
    pub expand: usize,
    /// Stochastic depth of the last block; it rises linearly from 0.
    pub drop_path_rate: f64,
}

/// Added to the mean square in every norm.
const EPSILON: f64 = 1e-5;

impl Default for VimConfig {
    fn default() -> Self {
        Self::small()
    }
}

impl VimConfig {
    /// Vim-Ti (`vim_tiny_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2`).
    pub fn tiny() -> Self {
        Self::of_width(192, 0.0)
    }

    /// Vim-S (`vim_small_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2`).
    pub fn small() -> Self {
        Self::of_width(384, 0.05)
    }

    /// Vim-B (`vim_base_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_middle_cls_token_div2`).
    pub fn base() -> Self {
        Self::of_width(768, 0.1)
    }

    /// The same with a patch every 8 pixels, as the fine-tuned Vim-Ti+ and Vim-S+ have.
    #[must_use]
    pub fn stride8(self) -> Self {
        Self { stride: 8, drop_path_rate: 0.0, ..self }
    }

    fn of_width(embed_dim: usize, drop_path_rate: f64) -> Self {
        Self {
            in_chans: 3,
            patch_size: 16,
            stride: 16,
            image_size: 224,
            embed_dim,
            depth: 24,
            d_state: 16,
            d_conv: 4,
            expand: 2,
            drop_path_rate,
        }
    }

    /// Checks that the options fit together.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first field that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive = [
            ("in_chans", self.in_chans),
            ("patch_size", self.patch_size),
            ("stride", self.stride),
            ("embed_dim", self.embed_dim),
            ("depth", self.depth),
            ("d_state", self.d_state),
            ("d_conv", self.d_conv),
            ("expand", self.expand),
        ];
        for (field, value) in positive {
            require(value > 0, field, "at least 1", &value)?;
        }
        require(
            self.fits(self.image_size),
            "image_size",
            &format!("{} and a multiple of {} pixels more", self.patch_size, self.stride),
            &self.image_size,
        )?;
        require((0.0..1.0).contains(&self.drop_path_rate), "drop_path_rate", "a rate in [0, 1)", &self.drop_path_rate)
    }

    /// Checks that an image of `[height, width]` pixels divides into patches.
    ///
    /// # Errors
    /// [`ConfigError::Field`] when it does not.
    pub fn check_image(&self, [height, width]: [usize; 2]) -> Result<(), ConfigError> {
        if self.fits(height) && self.fits(width) {
            return Ok(());
        }
        let expected = format!("height and width of {} and a multiple of {} pixels more", self.patch_size, self.stride);
        Err(ConfigError::Field { field: "image", expected, found: format!("{height} x {width}") })
    }

    /// A classifier with random weights on `device`.
    ///
    /// # Errors
    /// As [`VimConfig::validate`].
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<VimClassifier, ConfigError> {
        self.validate()?;
        Ok(VimClassifier::new(self, num_classes, device))
    }

    /// Patches along height and width of an image of `[height, width]` pixels.
    pub fn grid(&self, image: [usize; 2]) -> [usize; 2] {
        image.map(|size| self.patch_conv().output_size(size))
    }

    fn fits(&self, size: usize) -> bool {
        size.checked_sub(self.patch_size).is_some_and(|rest| rest.is_multiple_of(self.stride))
    }

    fn patch_conv(&self) -> ConvConfig {
        ConvConfig { inputs: self.in_chans, outputs: self.embed_dim, kernel: self.patch_size, stride: self.stride, padding: 0 }
    }

    /// Patches along a side of the image that the position table is made for.
    fn table_side(&self) -> usize {
        self.patch_conv().output_size(self.image_size)
    }

    fn d_inner(&self) -> usize {
        self.expand * self.embed_dim
    }

    /// Rank of the step-size projection.
    fn dt_rank(&self) -> usize {
        self.embed_dim.div_ceil(16)
    }

    /// Cost of the classifier for one image of `[height, width]` pixels, as VMamba's authors counted it.
    ///
    /// Their count is for what the scan's kernel does, `9 L D N` a direction and `2 L D` for the skip connection and the gate. It leaves out
    /// what the same fused operation does before the scan: the convolutions and the projections to step sizes, B and C, which are another
    /// 0.61 G for Vim-S at 224. RMSNorm is free there. The parameters are complete.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        let (dim, inner, state, rank) = (self.embed_dim, self.d_inner(), self.d_state, self.dt_rank());
        let tokens = self.grid(image).iter().product::<usize>() + 1;
        let mut cost = Complexity::default();
        cost.conv_layer(&self.patch_conv(), image);
        cost.add_params(dim + (self.table_side().pow(2) + 1) * dim);
        for _ in 0..self.depth {
            cost.add_params(dim);
            cost.add_params(2 * dim * inner);
            // The official code multiplies the weight with the sequence, which is no linear layer to the tool.
            cost.add(OpKind::Matmul, product(&[2, dim, inner, tokens]));
            let projections = inner * (rank + 2 * state) + (rank + 1) * inner;
            cost.add_params(2 * (inner * (self.d_conv + 1) + projections + inner * (state + 1)));
            cost.selective_scan(2 * inner, tokens, state);
            // The gate.
            cost.add(OpKind::SelectiveScan, product(&[2, tokens, inner]));
            cost.early_scan += product(&[2, tokens, inner]);
            cost.linear(OpKind::Linear, inner, dim, false, [1, tokens]);
        }
        cost.add_params(dim);
        cost.linear(OpKind::Linear, dim, num_classes, true, [1, 1]);
        cost
    }
}

/// Vim with a linear head on the class token. Tokens are `[batch, 1, patches + 1, embed_dim]`, the class token behind half of the patches.
#[derive(Module, Debug)]
pub struct VimClassifier {
    /// `[1, 1, embed_dim]`.
    cls_token: Param<Tensor<3>>,
    /// `[1, patches + 1, embed_dim]` of the image size it was made for, the class token's in the middle.
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
    /// To the scanned half and to the gate: `[2 D, embed_dim]`.
    in_proj: Dense,
    forwards: Direction,
    backwards: Direction,
    out_proj: Dense,
}

/// What one direction has of its own. R is the rank of the step-size projection, N the state size.
#[derive(Module, Debug)]
struct Direction {
    conv1d: CausalConv,
    /// To the step size, B and C of a token: `[R + 2 N, D]`.
    x_proj: Dense,
    /// Step size from rank R to D channels.
    dt_proj: Dense,
    /// `A = -exp(A_log)`: `[D, N]`.
    A_log: Param<Tensor<2>>,
    /// Skip connection of the scan: `[D]`.
    D: Param<Tensor<1>>,
    #[module(skip)]
    route: Route,
}

/// A depthwise convolution that sees a token and those before it.
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

impl VimClassifier {
    /// The configuration must be valid.
    fn new(config: &VimConfig, num_classes: usize, device: &Device) -> Self {
        let (dim, side) = (config.embed_dim, config.table_side());
        let normal = |shape| Param::from_tensor(Tensor::random(shape, Distribution::Normal(0.0, 0.02), device));
        let last = (config.depth - 1).max(1) as f64;
        let layer = |index: usize| Layer {
            norm: RmsNorm::new(dim, device),
            mixer: BidirectionalMamba::new(config, device),
            drop_path: DropPath::new(config.drop_path_rate * index as f64 / last),
        };
        Self {
            cls_token: normal([1, 1, dim]),
            pos_embed: normal([1, side * side + 1, dim]),
            patch_embed: PatchEmbed { proj: config.patch_conv().init(device) },
            layers: (0..config.depth).map(layer).collect(),
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

    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to logits `[batch, num_classes]`, float32. Sizes as
    /// [`VimConfig::check_image`] says; what is left of an image of another size at the bottom and the right is not looked at.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.head.forward(self.features(images))
    }

    /// What goes into the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, to `[batch, channels]`, float32.
    pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let dtype = images.dtype();
        let (tokens, middle) = self.embed(images);
        let sum = self.layers.iter().fold(tokens.cast(DType::F32), |sum, layer| layer.forward(sum, dtype));
        let [batch, _, _, dim] = sum.dims();
        let class = sum.narrow(2, middle, 1).reshape([batch, dim]);
        self.norm_f.forward(class)
    }

    /// Images to tokens with their positions added, and the place of the class token.
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

/// `middle` put behind the first half of `tokens` along `axis`.
fn with_middle<const D: usize>(tokens: Tensor<D>, middle: Tensor<D>, axis: usize) -> Tensor<D> {
    let count = tokens.dims()[axis];
    let half = count / 2;
    let parts = [(0, half), (half, count - half)].map(|(start, length)| (length > 0).then(|| tokens.clone().narrow(axis, start, length)));
    let [before, behind] = parts;
    Tensor::cat(before.into_iter().chain([middle]).chain(behind).collect(), axis)
}

impl Layer {
    /// Adds the branch to `sum`, float32; the branch is computed in `dtype`.
    fn forward(&self, sum: Tensor<4>, dtype: DType) -> Tensor<4> {
        let x = self.norm.forward(sum.clone()).cast(dtype);
        if dtype == DType::F32 && !x.device().is_autodiff() {
            return self.mixer.forward(x, Some(sum));
        }
        sum + self.drop_path.forward(self.mixer.forward(x, None)).cast(DType::F32)
    }
}

impl BidirectionalMamba {
    fn new(config: &VimConfig, device: &Device) -> Self {
        let (dim, inner) = (config.embed_dim, config.d_inner());
        // Smaller by the root of the number of branches that are added up.
        let bound = ((inner * config.depth) as f64).sqrt().recip();
        let out_proj = Tensor::random([dim, inner], Distribution::Uniform(-bound, bound), device);
        Self {
            in_proj: Dense { weight: uniform_fan_in([2 * inner, dim], dim, device), bias: None },
            forwards: Direction::new(config, Route::Rows, device),
            backwards: Direction::new(config, Route::RowsReversed, device),
            out_proj: Dense { weight: Param::from_tensor(out_proj), bias: None },
        }
    }

    /// `x: [batch, 1, tokens, embed_dim]` to the same shape; `residual` is added to the result where given.
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
        // A parameter must be a leaf, which a result on an autodiff device is not.
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
        // The scan has an axis of routes, here of one.
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
    /// `x: [batch, 1, tokens, channels]` to the same shape, with SiLU. Backwards, a token sees those behind it.
    fn forward(&self, x: Tensor<4>, route: Route) -> Tensor<4> {
        let (weight, device) = (self.weight.val(), x.device());
        let [channels, _, kernel] = weight.dims();
        // A square kernel whose middle row holds the taps on one side of the token: the map has one row.
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

/// The key in the official `VisionMamba` of the parameter at `path` in a [`VimClassifier`].
///
/// ```
/// use vmamba::baselines::vim;
/// assert_eq!(vim::key("layers.3.mixer.forwards.conv1d.weight"), "layers.3.mixer.conv1d.weight");
/// assert_eq!(vim::key("layers.3.mixer.backwards.conv1d.weight"), "layers.3.mixer.conv1d_b.weight");
/// assert_eq!(vim::key("layers.3.mixer.backwards.A_log"), "layers.3.mixer.A_b_log");
/// ```
pub fn key(path: &str) -> String {
    if let Some((before, rest)) = path.split_once(".backwards.") {
        let parameter = match rest.split_once('.') {
            Some((layer, parameter)) => format!("{layer}_b.{parameter}"),
            None if rest == "A_log" => "A_b_log".to_owned(),
            None => format!("{rest}_b"),
        };
        return format!("{before}.{parameter}");
    }
    path.replace(".forwards.", ".")
}

/// The key of [`key`] for one of a detector or segmentor, whose prefix `backbone.` is taken off; others are returned as they are. There is
/// no other spelling. `None` for the tables of rotary positions (`rope.*`), which no published network of this family uses.
///
/// ```
/// use vmamba::baselines::vim;
/// assert_eq!(vim::rename("backbone.norm_f.weight").as_deref(), Some("norm_f.weight"));
/// ```
pub fn rename(key: &str) -> Option<Cow<'_, str>> {
    let key = key.strip_prefix("backbone.").unwrap_or(key);
    (!key.starts_with("rope.")).then_some(Cow::Borrowed(key))
}

#[cfg(test)]
mod tests {
    use super::*;

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
