//! Parameters and FLOPs, counted as in mmsegmentation's published table: the auxiliary head counts in the parameters only, and the final
//! upsampling to the image is not counted.

use vmamba::complexity::{Complexity, OpKind};

use crate::config::UperNetConfig;

impl UperNetConfig {
    /// Cost for one image of `[height, width]` pixels.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = self.backbone.complexity(image);
        let levels: Vec<(usize, [usize; 2])> = self.backbone.levels(image).into_iter().map(|level| (level.channels, level.size)).collect();
        let channels = self.head.channels;
        let resize = |cost: &mut Complexity, [height, width]: [usize; 2]| {
            cost.add(OpKind::UpsampleBilinear, (4 * channels * height * width) as u64);
            cost.pointwise((channels * height * width) as u64);
        };
        let Some((&(inputs, coarse), finer)) = levels.split_last() else { return cost };
        let finest = levels.first().map_or(coarse, |level| level.1);

        for scale in &self.head.pool_scales {
            cost.add(OpKind::AdaptiveAvgPool, (inputs * coarse[0] * coarse[1]) as u64);
            conv_module(&mut cost, inputs, channels, 1, [*scale; 2]);
            resize(&mut cost, coarse);
        }
        conv_module(&mut cost, inputs + self.head.pool_scales.len() * channels, channels, 3, coarse);
        for (inputs, size) in finer {
            conv_module(&mut cost, *inputs, channels, 1, *size);
            // The next coarser level is resized to this one.
            resize(&mut cost, *size);
            conv_module(&mut cost, channels, channels, 3, *size);
        }
        for _ in 1..levels.len() {
            resize(&mut cost, finest);
        }
        conv_module(&mut cost, levels.len() * channels, channels, 3, finest);
        cost.conv(channels, self.num_classes, [1, 1], finest);
        cost.add_params(self.num_classes);

        if let Some((auxiliary, (inputs, _))) = self.auxiliary.as_ref().and_then(|head| Some((head, levels.get(head.in_index)?))) {
            let mut own = Complexity::default();
            for index in 0..auxiliary.num_convs {
                conv_module(&mut own, if index == 0 { *inputs } else { auxiliary.channels }, auxiliary.channels, 3, [0, 0]);
            }
            own.conv(auxiliary.channels, self.num_classes, [1, 1], [0, 0]);
            own.add_params(self.num_classes);
            cost.params += own.params;
        }
        cost
    }
}

impl UperNetConfig {
    /// Cost of the forward pass of a training step for one image: with the auxiliary head, and with the logits of both heads at the size of
    /// the image, where the loss compares them with the labels.
    pub fn training_complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = self.complexity(image);
        let logits = (self.num_classes * image[0]).saturating_mul(image[1]) as u64;
        // The resized logits, their logarithms of the softmax.
        cost.pointwise(logits);
        cost.pointwise(logits);
        let levels = self.backbone.levels(image);
        if let Some((auxiliary, level)) = self.auxiliary.as_ref().and_then(|head| Some((head, levels.get(head.in_index)?))) {
            // The published count has the parameters of this head already.
            let params = cost.params;
            for index in 0..auxiliary.num_convs {
                conv_module(&mut cost, if index == 0 { level.channels } else { auxiliary.channels }, auxiliary.channels, 3, level.size);
            }
            cost.conv(auxiliary.channels, self.num_classes, [1, 1], level.size);
            cost.pointwise(logits);
            cost.pointwise(logits);
            cost.params = params;
        }
        cost
    }
}

fn conv_module(cost: &mut Complexity, inputs: usize, outputs: usize, kernel: usize, [height, width]: [usize; 2]) {
    cost.conv(inputs, outputs, [kernel; 2], [height, width]);
    cost.add_params(2 * outputs);
    cost.add(OpKind::BatchNorm, (2 * outputs * height * width) as u64);
    cost.pointwise((outputs * height * width) as u64);
}
