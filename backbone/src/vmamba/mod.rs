//! VMamba (Liu et al., "VMamba: Visual State Space Model"): stem, stages of VSS blocks, a norm on every output feature.
//!
//! ```text
//! image ─ patch_embed ─ layers[0] ─ layers[1] ─ layers[2] ─ layers[3]      blocks, then downsample to the next stage
//!                           │           │           │           │          (features are taken before the downsample)
//!                        outnorm0    outnorm1    outnorm2    outnorm3      backbone: strides 4, 8, 16, 32
//!                                                               └─ classifier: norm, average over positions, head
//! ```

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::Distribution;

use crate::feature_pyramid::{FeaturePyramid, normalised};
use crate::last_map::{Chain, channels_first, last_map_of_trunk};
use crate::layers::ChannelNorm;

pub(crate) mod block;
pub(crate) mod classifier;
pub(crate) mod config;
pub(crate) mod downsample;
mod family;
pub(crate) mod forward_type;
pub(crate) mod init;
pub(crate) mod key_map;
pub(crate) mod official_config;
pub(crate) mod presets;
pub(crate) mod ss2d;
pub(crate) mod stem;

pub use block::VssBlock;
pub use classifier::{ClassifierHead, VmambaClassifier};
pub use config::{ConfigError, Dims, DownsampleVersion, DtRank, NormLayout, PatchEmbedVersion, SsmInit, VmambaConfig};
pub use downsample::{Downsample, PatchMerging, StridedConv};
pub use forward_type::{ForwardType, Gate, Generation, OutActivation, OutNormKind, ScanPattern};
pub use key_map::official_key;
pub use official_config::OfficialConfig;
pub use presets::Preset;
pub use ss2d::{FixedNorm, NormConv, OutNorm, Ss2d};
pub use stem::PatchEmbed;

/// The backbone (official `Backbone_VSSM`).
#[derive(Module, Debug)]
pub struct Vmamba {
    trunk: Trunk,
    /// One entry a stage; only the stages of `out_indices` have a norm.
    outnorm: Vec<Option<ChannelNorm>>,
    #[module(skip)]
    config: VmambaConfig,
}

/// The stem and stages, which backbone and classifier share.
#[derive(Module, Debug)]
pub struct Trunk {
    patch_embed: PatchEmbed,
    /// `[1, dim, height, width]` for the image size of the configuration.
    pos_embed: Option<Param<Tensor<4>>>,
    layers: Vec<Stage>,
}

/// The blocks of one resolution and the downsampling after them.
#[derive(Module, Debug)]
pub struct Stage {
    blocks: Vec<VssBlock>,
    downsample: Option<Downsample>,
}

impl Vmamba {
    /// Requires a valid configuration.
    pub(crate) fn new(config: &VmambaConfig, device: &Device) -> Self {
        let norm = |stage| config.out_indices.contains(&stage).then(|| ChannelNorm::new(config.dim(stage), device));
        Self { trunk: Trunk::new(config, device), outnorm: (0..config.num_stages()).map(norm).collect(), config: config.clone() }
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &VmambaConfig {
        &self.config
    }

    /// The stem and stages.
    pub(crate) fn trunk(&self) -> &Trunk {
        &self.trunk
    }
}

impl FeaturePyramid for Vmamba {
    fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        normalised(self.trunk.forward(images), &self.outnorm)
    }

    fn channels(&self) -> Vec<usize> {
        self.config.out_indices.iter().map(|stage| self.config.dim(*stage)).collect()
    }

    fn strides(&self) -> Vec<usize> {
        self.config.out_indices.iter().map(|stage| self.config.stride(*stage)).collect()
    }
}

last_map_of_trunk!(Vmamba);

impl Trunk {
    fn new(config: &VmambaConfig, device: &Device) -> Self {
        let patch_embed = PatchEmbed::new(config, device);
        let pos_embed = config.posembed.then(|| {
            let side = config.imgsize / config.patch_size;
            Param::from_tensor(Tensor::random([1, config.dim(0), side, side], Distribution::Normal(0.0, 0.02), device))
        });
        let mut drop_path_rates = config.drop_path_rates().into_iter();
        let layers = config.depths.iter().enumerate().map(|(stage, depth)| Stage {
            blocks: drop_path_rates.by_ref().take(*depth).map(|rate| VssBlock::new(config, config.dim(stage), rate, device)).collect(),
            downsample: Downsample::new(config, stage, device),
        });
        Self { patch_embed, pos_embed, layers: layers.collect() }
    }

    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to the feature `[batch, height', width', dim]` of every stage, in the
    /// type of the images, before its downsampling and without norm.
    fn forward(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let mut x = self.embed(images);
        let mut features = Vec::with_capacity(self.layers.len());
        for stage in &self.layers {
            x = stage.through(x, stage.blocks.len());
            features.push(x.clone());
            x = stage.to_next(x);
        }
        features
    }

    /// Block `block` of stage `stage` and its input in a forward pass of `images`. None when the block does not exist.
    pub(crate) fn run_to(&self, images: Tensor<4>, stage: usize, block: usize) -> Option<(&VssBlock, Tensor<4>)> {
        let last = self.layers.get(stage)?;
        let found = last.blocks.get(block)?;
        let before = self.layers.iter().take(stage);
        let x = before.fold(self.embed(images), |x, stage| stage.to_next(stage.through(x, stage.blocks.len())));
        Some((found, last.through(x, block)))
    }

    /// The number of blocks of every stage.
    pub(crate) fn depths(&self) -> Vec<usize> {
        self.layers.iter().map(|stage| stage.blocks.len()).collect()
    }

    /// `images` `[batch, in_chans, height, width]` to the input of the first block.
    fn embed(&self, images: Tensor<4>) -> Tensor<4> {
        self.add_positions(self.patch_embed.forward(images.permute([0, 2, 3, 1])))
    }

    /// See [`LastMap`](crate::LastMap).
    fn chain(&self, _image: [usize; 2]) -> Chain<'_> {
        let mut chain = Chain::of(|images| self.embed(images));
        for stage in &self.layers {
            chain = stage.blocks.iter().fold(chain, |chain, block| chain.then(|x| block.forward(x)));
            if let Some(downsample) = &stage.downsample {
                chain = chain.then(|x| downsample.forward(x));
            }
        }
        chain.then(channels_first)
    }

    /// Adds the position table, resized for images of another size than that of the configuration. (The official classifier fails on another
    /// size, and the official backbone has the table but never adds it.)
    fn add_positions(&self, x: Tensor<4>) -> Tensor<4> {
        let Some(table) = &self.pos_embed else {
            return x;
        };
        let [_, height, width, _] = x.dims();
        let table = table.val();
        let [.., rows, columns] = table.dims();
        let table = if [rows, columns] == [height, width] { table } else { vision_ops::resize_bilinear(table, [height, width], false) };
        let table = table.permute([0, 2, 3, 1]).cast(x.dtype());
        x + table
    }
}

impl Stage {
    /// Applies the first `count` blocks.
    fn through(&self, x: Tensor<4>, count: usize) -> Tensor<4> {
        self.blocks.iter().take(count).fold(x, |x, block| block.forward(x))
    }

    /// From the output of the last block to the input of the next stage.
    fn to_next(&self, x: Tensor<4>) -> Tensor<4> {
        match &self.downsample {
            Some(downsample) => downsample.forward(x),
            None => x,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::Activation;

    fn small() -> VmambaConfig {
        VmambaConfig { depths: vec![1, 1], dims: Dims::Doubling(8), out_indices: vec![0, 1], ..VmambaConfig::default() }
    }

    /// For options without an official fixture: the model runs, and its features have the sizes and channels of the configuration.
    #[test]
    fn every_option_gives_the_promised_shapes() {
        type Change = fn(&mut VmambaConfig);
        let changes: [Change; 9] = [
            |_| {},
            |c| (c.posembed, c.imgsize) = (true, 32),
            |c| (c.dims, c.downsample_version) = (Dims::PerStage(vec![8, 8]), DownsampleVersion::None),
            |c| (c.dims, c.downsample_version) = (Dims::PerStage(vec![8, 12]), DownsampleVersion::V1),
            |c| (c.patch_norm, c.patch_size) = (false, 2),
            |c| (c.ssm_act_layer, c.mlp_act_layer) = (Activation::Relu, Activation::Sigmoid),
            |c| c.ssm_conv = Some(5),
            |c| (c.in_chans, c.ssm_init) = (1, SsmInit::V2),
            |c| c.out_indices = vec![1],
        ];
        let device = Device::flex();
        for (number, change) in changes.iter().enumerate() {
            let mut config = small();
            change(&mut config);
            let backbone = config.init(&device);
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

    #[test]
    fn the_position_table_is_added_and_fits_every_size() {
        let device = Device::flex();
        let mut config = small();
        (config.posembed, config.imgsize) = (true, 32);
        let trunk = Trunk::new(&config, &device);
        let table: Vec<f32> = trunk.pos_embed.as_ref().unwrap().val().permute([0, 2, 3, 1]).into_data().iter::<f32>().collect();
        let added = trunk.add_positions(Tensor::zeros([1, 8, 8, 8], &device)).into_data().iter::<f32>().collect::<Vec<_>>();
        assert_eq!(added, table);
        assert_eq!(trunk.add_positions(Tensor::zeros([1, 3, 5, 8], &device)).dims(), [1, 3, 5, 8]);
    }

    #[test]
    fn running_to_a_block_stops_in_front_of_it() {
        let device = Device::flex();
        let trunk = Trunk::new(&VmambaConfig { depths: vec![2, 3], ..small() }, &device);
        let images = Tensor::random([1, 3, 45, 34], Distribution::Normal(0.0, 1.0), &device);
        let features = trunk.forward(images.clone());
        for (stage, block) in [(0, 0), (0, 1), (1, 0), (1, 2)] {
            let (_, x) = trunk.run_to(images.clone(), stage, block).unwrap();
            let rest = &trunk.layers[stage].blocks[block..];
            let feature = rest.iter().fold(x, |x, block| block.forward(x));
            assert_eq!(feature.into_data(), features[stage].clone().into_data(), "{stage}.{block}");
        }
        assert!(trunk.run_to(images.clone(), 1, 3).is_none() && trunk.run_to(images, 2, 0).is_none());
    }
}
