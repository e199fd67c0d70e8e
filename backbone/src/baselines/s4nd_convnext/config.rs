//! Options of an S4ND-ConvNeXt, its sizes and its cost.

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Head, MLP_RATIO, S4ndConvnext, S4ndConvnextClassifier, Trunk, halving, norm};
use crate::baselines::s4nd::{self, S4ndConfig};
use crate::checkpoint::{StateDict, StateTensor};
use crate::complexity::{Complexity, OpKind, einsum_count, printed_half, product};
use crate::layers::Dense;
use crate::limits::{MAX_CHANNELS, MAX_KERNEL, MAX_SIDE, require_depths, require_dims, require_rate, require_stages, require_whole};
use crate::vmamba::ConfigError;
use crate::vmamba::config::require;

/// Options of an S4ND-ConvNeXt; the default is [`S4ndConvnextConfig::tiny`].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct S4ndConvnextConfig {
    /// Channels of the input image.
    pub in_chans: usize,
    /// Stride of the first stage, in pixels of the image; 4 in the published model.
    pub patch_size: usize,
    /// Channels of the stem's S4ND layer.
    pub stem_channels: usize,
    /// Lengths of the stem's kernels per direction in pixels, vertical and horizontal.
    pub stem_lengths: [usize; 2],
    /// Blocks of every stage.
    pub depths: Vec<usize>,
    /// Channels of every stage.
    pub dims: Vec<usize>,
    /// Height and width of the images whose maps the kernels span. Images may have other sizes, see [`S4ndConvnextConfig::check_image`].
    pub image_size: [usize; 2],
    /// States of every kernel, an even number.
    pub d_state: usize,
    /// Range of the initial step sizes of the state spaces.
    pub dt_range: [f64; 2],
    /// The downsampling between stages.
    pub downsample: S4ndDownsampling,
    /// Initial value of the layer scale in every block (`gamma`).
    pub layer_scale: f64,
    /// Stochastic depth of the last block; it rises linearly from 0 over all blocks.
    pub drop_path_rate: f64,
    /// Stages whose features the backbone returns, ascending.
    pub out_indices: Vec<usize>,
}

/// The downsampling between two stages, after a norm.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum S4ndDownsampling {
    /// ConvNeXt's 2x2 convolution with stride 2: official `patch`, the default of the code, which VMamba's authors measured.
    Convolution,
    /// S4ND, average over 2x2, linear, gate: official `s4nd` with `downsample_glu`, as in the configuration that was trained on ImageNet.
    S4nd,
}

impl Default for S4ndConvnextConfig {
    fn default() -> Self {
        Self::tiny()
    }
}

impl S4ndConvnextConfig {
    /// S4ND-ConvNeXt-T of VMamba's tables: 30 M parameters, 5.2 GFLOPs.
    pub fn tiny() -> Self {
        Self {
            in_chans: 3,
            patch_size: 4,
            stem_channels: 32,
            stem_lengths: [16, 16],
            depths: vec![3, 3, 9, 3],
            dims: vec![96, 192, 384, 768],
            image_size: [224, 224],
            d_state: 64,
            dt_range: [0.1, 1.0],
            downsample: S4ndDownsampling::Convolution,
            layer_scale: 1e-6,
            drop_path_rate: 0.1,
            out_indices: vec![0, 1, 2, 3],
        }
    }

    /// S4ND-ConvNeXt-T of the authors' configuration for ImageNet (`convnext_timm_tiny_s4nd_imagenet.yaml`).
    pub fn tiny_s4nd_downsample() -> Self {
        Self { downsample: S4ndDownsampling::S4nd, ..Self::tiny() }
    }

    /// Validates the options.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first invalid field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let stages = self.depths.len();
        require_whole("in_chans", self.in_chans, MAX_CHANNELS)?;
        require_whole("patch_size", self.patch_size, MAX_SIDE)?;
        require_whole("stem_channels", self.stem_channels, MAX_CHANNELS)?;
        let lengths = self.stem_lengths.iter().all(|length| (1..=MAX_KERNEL).contains(length));
        require(lengths, "stem_lengths", &format!("whole numbers from 1 to {MAX_KERNEL}"), &self.stem_lengths)?;
        require_depths(&self.depths)?;
        require_dims(&self.dims, stages)?;
        require_whole("d_state", self.d_state, MAX_KERNEL)?;
        require(self.d_state.is_multiple_of(2), "d_state", "an even number", &self.d_state)?;
        let [low, high] = self.dt_range;
        require(low > 0.0 && high > low && high <= 1e3, "dt_range", "two numbers above 0 in rising order, at most 1000", &self.dt_range)?;
        require(self.layer_scale.abs() <= 1e3, "layer_scale", "a number from -1000 to 1000", &self.layer_scale)?;
        require_rate("drop_path_rate", self.drop_path_rate)?;
        require_stages(&self.out_indices, stages)?;
        let least = self.strides()[stages - 1];
        require(
            self.image_size.iter().all(|size| (least..=MAX_SIDE).contains(size)),
            "image_size",
            &format!("from {least}, so that the last stage has a position, to {MAX_SIDE}"),
            &self.image_size,
        )
    }

    /// Checks that the last stage has at least one position for an image of `[height, width]` pixels.
    ///
    /// # Errors
    /// [`ConfigError::Field`] for the field `image`.
    pub fn check_image(&self, image: [usize; 2]) -> Result<(), ConfigError> {
        let least = self.strides().last().copied().unwrap_or(1);
        require(image.iter().all(|size| *size >= least), "image", &format!("at least {least} pixels along each axis"), &image)
    }

    /// The backbone with random weights.
    ///
    /// # Errors
    /// As [`S4ndConvnextConfig::validate`].
    pub fn try_init(&self, device: &Device) -> Result<S4ndConvnext, ConfigError> {
        self.validate()?;
        Ok(S4ndConvnext { trunk: Trunk::new(self, device), config: self.clone() })
    }

    /// The classifier with random weights.
    ///
    /// # Errors
    /// As [`S4ndConvnextConfig::validate`], and for 0 classes.
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<S4ndConvnextClassifier, ConfigError> {
        self.validate()?;
        require(num_classes > 0, "num_classes", "at least 1", &num_classes)?;
        let width = self.dims[self.dims.len() - 1];
        let head = Head { norm: norm(width, device), fc: Dense::new(width, num_classes, true, device) };
        Ok(S4ndConvnextClassifier { trunk: Trunk::new(self, device), head, config: self.clone() })
    }

    /// Height and width of every stage's map for images of `[height, width]` pixels.
    pub fn stage_sizes(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        let first = image.map(|size| size / self.patch_size);
        (0..self.depths.len()).map(|stage| first.map(|size| size >> stage)).collect()
    }

    /// Stride of every stage, in pixels of the image.
    pub fn strides(&self) -> Vec<usize> {
        (0..self.depths.len()).map(|stage| self.patch_size << stage).collect()
    }

    /// Cost of the backbone for one image of `[height, width]` pixels.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        Counter::trunk(self, image).finish()
    }

    /// Cost of the classifier for one image of `[height, width]` pixels.
    ///
    /// Counted as by VMamba's authors, to the last digit: Fourier transforms by their formula, products of spectra as fvcore counts an einsum,
    /// and little of the kernels. Their counter misses the LayerNorms of the stem and the downsampling, whose maps are not channels last in
    /// memory.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        let mut counter = Counter::trunk(self, image);
        let last = self.dims.len() - 1;
        let (width, [height, columns]) = (self.dims[last], self.stage_sizes(image)[last]);
        counter.cost.add(OpKind::AdaptiveAvgPool, product(&[width, height, columns]));
        counter.cost.layer_norm(width, [1, 1]);
        counter.cost.linear(OpKind::Linear, width, num_classes, true, [1, 1]);
        counter.finish()
    }

    pub(super) fn stem_layer(&self) -> S4ndConfig {
        let outputs = Some(self.stem_channels);
        S4ndConfig { inputs: self.in_chans, outputs, d_state: self.d_state, lengths: self.stem_lengths, dt_range: self.dt_range }
    }

    /// A depthwise layer whose kernels span the maps of stage `stage`.
    pub(super) fn layer(&self, stage: usize) -> S4ndConfig {
        let lengths = self.stage_sizes(self.image_size)[stage];
        S4ndConfig { inputs: self.dims[stage], outputs: None, d_state: self.d_state, lengths, dt_range: self.dt_range }
    }

    /// Adjusts the `C` of all kernels as the first forward pass of the official code does. Until then the official code has 0 in `l_kernel` and
    /// other values in `C`, which would load without an error.
    ///
    /// A kernel whose state space is not an official initialisation of this network loses its `C`, so that loading fails.
    pub fn settle_kernels(&self, mut state: StateDict) -> StateDict {
        let unsettled = |(key, tensor): (&str, &StateTensor)| (key.ends_with(".l_kernel") && tensor.data == [0.0]).then(|| key.to_owned());
        for key in state.iter().filter_map(unsettled).collect::<Vec<_>>() {
            let Some(prefix) = key.strip_suffix("l_kernel") else { continue };
            let Some(length) = self.kernel_length(prefix) else { continue };
            if s4nd::settle(&mut state, prefix, length).is_none() {
                state.remove(&format!("{prefix}C"));
            }
            state.insert(key, StateTensor { shape: Vec::new(), data: vec![length as f32] });
        }
        state
    }

    /// The length of the kernel whose keys begin with `prefix`, such as `stages.1.blocks.0.conv_dw.kernel.0.`.
    fn kernel_length(&self, prefix: &str) -> Option<usize> {
        let (layer, axis) = prefix.trim_end_matches('.').rsplit_once('.')?;
        let axis = axis.parse::<usize>().ok()?;
        let layer = layer.strip_prefix("model.").unwrap_or(layer);
        let lengths = if layer.starts_with("stem.") {
            self.stem_lengths
        } else {
            let (stage, rest) = layer.strip_prefix("stages.")?.split_once('.')?;
            let stage = stage.parse::<usize>().ok()?;
            // A downsampling sees the maps of the stage before.
            let seen = if rest.starts_with("downsample.") { stage.checked_sub(1)? } else { stage };
            *self.stage_sizes(self.image_size).get(seen)?
        };
        lengths.get(axis).copied()
    }
}

/// Counts an S4ND network. The FLOPs of single transforms are fractional, so they are summed apart and rounded at the end.
struct Counter {
    cost: Complexity,
    transforms: f64,
}

impl Counter {
    fn trunk(config: &S4ndConvnextConfig, image: [usize; 2]) -> Self {
        let mut counter = Self { cost: Complexity::default(), transforms: 0.0 };
        let sizes = config.stage_sizes(image);
        counter.s4nd(&config.stem_layer(), image);
        counter.gate(config.stem_channels, config.dims[0], sizes[0]);
        counter.cost.add_params(2 * config.dims[0]);
        for (stage, width) in config.dims.iter().copied().enumerate() {
            if let Some(before) = stage.checked_sub(1) {
                let inputs = config.dims[before];
                counter.cost.add_params(2 * inputs);
                match config.downsample {
                    S4ndDownsampling::Convolution => {
                        counter.cost.conv_layer(&halving(inputs, width), sizes[before]);
                    }
                    S4ndDownsampling::S4nd => {
                        counter.s4nd(&config.layer(before), sizes[before]);
                        counter.gate(inputs, width, sizes[stage]);
                    }
                }
            }
            for _ in 0..config.depths[stage] {
                counter.s4nd(&config.layer(stage), sizes[stage]);
                counter.cost.layer_norm(width, sizes[stage]);
                counter.cost.linear(OpKind::Linear, width, MLP_RATIO * width, true, sizes[stage]);
                counter.cost.linear(OpKind::Linear, MLP_RATIO * width, width, true, sizes[stage]);
                counter.cost.add_params(width);
            }
        }
        counter
    }

    fn finish(mut self) -> Complexity {
        self.cost.add(OpKind::Fft, self.transforms.round() as u64);
        self.cost
    }

    /// Adds the linear layer before a gate, an einsum in the official code.
    fn gate(&mut self, inputs: usize, outputs: usize, [height, width]: [usize; 2]) {
        self.cost.add_params((inputs + 1) * 2 * outputs);
        self.cost.add(OpKind::Einsum, einsum_count(product(&[inputs, 2 * outputs, height, width])));
        self.cost.layer(product(&[inputs, height, width]), product(&[2 * outputs, height, width]));
    }

    fn s4nd(&mut self, layer: &S4ndConfig, size: [usize; 2]) {
        self.cost.add_params(layer.num_params());
        let maps = layer.inputs * layer.outputs.unwrap_or(1);
        // Kernels are never longer than the map, and both are padded to the sum of their lengths.
        let padded = [0, 1].map(|axis| size[axis] + layer.lengths[axis].min(size[axis]));
        let spectrum = [padded[0], padded[1] / 2 + 1];
        for axis in [0, 1] {
            let kernel = [layer.kernel_channels(), layer.inputs, layer.lengths[axis] / 2 + 1];
            self.transform(&kernel, 1, true);
            self.transform(&[maps, padded[axis]], 1, false);
        }
        self.transform(&[layer.inputs, size[0], size[1]], 2, false);
        self.transform(&[layer.outputs.unwrap_or(layer.inputs), spectrum[0], spectrum[1]], 2, true);
        // The kernels' outer product, its product with the map, and the input's weight.
        let products = printed_half(product(&[maps, spectrum[0], spectrum[1]]));
        self.cost.add(OpKind::Einsum, 2 * products);
        // Complex spectra of the maps and of the kernels.
        self.cost.pointwise(product(&[4, maps, spectrum[0], spectrum[1]]));
        if layer.outputs.is_none() {
            self.cost.add(OpKind::Einsum, printed_half(product(&[layer.inputs, size[0], size[1]])));
        }
    }

    /// Adds a transform of the last `axes` axes by VMamba's formula: the logarithms of the sizes times the number of values, and four times as
    /// much for complex values.
    fn transform(&mut self, shape: &[usize], axes: usize, complex: bool) {
        let values: f64 = shape.iter().map(|size| *size as f64).product();
        let logarithms: f64 = shape[shape.len() - axes..].iter().map(|size| (*size as f64).log2()).product();
        self.transforms += values * logarithms * if complex { 4.0 } else { 1.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_configuration_is_refused_by_its_field() {
        type Change = fn(&mut S4ndConvnextConfig);
        let changes: [(&str, Change); 8] = [
            ("in_chans", |c| c.in_chans = 0),
            ("dims", |c| c.dims = vec![96]),
            ("depths", |c| c.depths[0] = 0),
            ("d_state", |c| c.d_state = 7),
            ("dt_range", |c| c.dt_range = [0.5, 0.1]),
            ("drop_path_rate", |c| c.drop_path_rate = 1.0),
            ("out_indices", |c| c.out_indices = vec![4]),
            ("image_size", |c| c.image_size = [224, 31]),
        ];
        for (field, change) in changes {
            let mut config = S4ndConvnextConfig::tiny();
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{field}`")), "{message}");
        }
        assert!(S4ndConvnextConfig::tiny().check_image([224, 31]).is_err());
        assert!(S4ndConvnextConfig::tiny().check_image([32, 100]).is_ok());
    }

    #[test]
    fn every_kernel_of_a_file_has_the_length_of_the_maps_it_sees() {
        let config = S4ndConvnextConfig::tiny();
        for (prefix, length) in [
            ("stem.stem.kernel.1.", Some(16)),
            ("model.stages.0.blocks.2.conv_dw.kernel.0.", Some(56)),
            ("stages.3.blocks.0.conv_dw.kernel.1.", Some(7)),
            ("stages.3.downsample.s4conv.kernel.0.", Some(14)),
            ("stages.4.blocks.0.conv_dw.kernel.0.", None),
            ("stages.3.blocks.0.conv_dw.kernel.2.", None),
        ] {
            assert_eq!(config.kernel_length(prefix), length, "{prefix}");
        }
    }
}
