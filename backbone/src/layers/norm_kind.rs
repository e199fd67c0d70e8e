//! Finds the normalisation layers among the modules of a model.

use burn::module::{Flag, Module, ModuleVisitor, Param};

/// A kind of normalisation layer, as a walk over a module finds it.
///
/// Burn's `ModuleVisitor::enter_module` reports the type of every module; its parameters follow. To freeze all norms of a model, freeze the
/// parameters whose innermost module has a kind. To keep the statistics of batch norms (mmdetection's `norm_eval`), freeze the flag in every
/// [`NormKind::Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// [`ChannelNorm`](super::ChannelNorm): LayerNorm over channels.
    Layer,
    /// [`BatchNorm2d`](super::BatchNorm2d).
    Batch,
    /// RMSNorm over channels.
    RootMeanSquare,
}

impl NormKind {
    /// The kind of the module that a visitor calls `container_type`, e.g. `Struct:BatchNorm2d`; none when it is not a norm.
    pub fn of(container_type: &str) -> Option<Self> {
        match container_type.rsplit(':').next() {
            Some("ChannelNorm") => Some(Self::Layer),
            Some("BatchNorm2d") => Some(Self::Batch),
            Some("RmsNorm") => Some(Self::RootMeanSquare),
            _ => None,
        }
    }
}

/// Whether a batch norm among the modules of a model trains: it normalises by the batch's statistics on a device with gradients.
pub fn trains_batch_norm(module: &impl Module) -> bool {
    let mut search = TrainingNorm::default();
    module.visit(&mut search);
    search.found
}

/// Looks for a batch norm whose flag is set.
#[derive(Default)]
struct TrainingNorm {
    containers: Vec<Option<NormKind>>,
    found: bool,
}

impl ModuleVisitor for TrainingNorm {
    fn enter_module(&mut self, _name: &str, container_type: &str) {
        self.containers.push(NormKind::of(container_type));
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.containers.pop();
    }

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.found |= self.containers.last() == Some(&Some(NormKind::Batch)) && flag.is_enabled();
    }
}

#[cfg(test)]
mod tests {
    use burn::prelude::*;

    use super::*;
    use crate::layers::{BatchNorm2d, ChannelNorm};
    use crate::zoo::BackboneConfig;

    /// Counts parameters and batch norm flags by the kind of their module.
    #[derive(Default)]
    struct Count {
        path: Vec<String>,
        layer: usize,
        batch: usize,
        root_mean_square: usize,
        flags: usize,
    }

    impl Count {
        fn kind(&self) -> Option<NormKind> {
            NormKind::of(self.path.last()?)
        }
    }

    impl ModuleVisitor for Count {
        fn enter_module(&mut self, _name: &str, container_type: &str) {
            self.path.push(container_type.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            match self.kind().filter(|_| param.is_require_grad()) {
                Some(NormKind::Layer) => self.layer += 1,
                Some(NormKind::Batch) => self.batch += 1,
                Some(NormKind::RootMeanSquare) => self.root_mean_square += 1,
                None => (),
            }
        }

        fn visit_flag(&mut self, _flag: &Param<Flag>) {
            // Stochastic depth has such a flag as well.
            self.flags += usize::from(self.kind() == Some(NormKind::Batch));
        }
    }

    #[test]
    fn a_frozen_batch_norm_does_not_train() {
        let device = Device::flex();
        let layer = BatchNorm2d::new(3, &device);
        assert!(trains_batch_norm(&layer) && layer.trains());
        assert!(!trains_batch_norm(&layer.clone().freeze()));
        assert!(!trains_batch_norm(&ChannelNorm::new(3, &device)));
    }

    #[test]
    fn the_norms_of_a_model_are_found_by_their_types() {
        let device = Device::flex().autodiff();
        let count = |name: &str| {
            let mut count = Count::default();
            BackboneConfig::named(name).unwrap().try_init(&device).unwrap().visit(&mut count);
            [count.layer, count.batch, count.root_mean_square, count.flags]
        };
        // A weight and a bias each. ResNet-50: the stem, three in each of 16 blocks, four shortcuts.
        assert_eq!(count("resnet50"), [0, 2 * 53, 0, 53]);
        // ConvNeXt-T: the stem, 18 blocks, three downsamplings, four levels.
        assert_eq!(count("convnext_tiny"), [2 * 26, 0, 0, 0]);
        // Vim-Ti: a weight in each of 24 layers, and the batch norm between the two transposed convolutions of the finest level.
        assert_eq!(count("vim_tiny"), [0, 2, 24, 1]);
    }
}
