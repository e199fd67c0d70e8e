//! Parameters and FLOPs by the official counting: backbone, pyramid and proposals for the whole image, the box head for 1000 RoIs and the
//! mask head for 100; reading features and suppressing boxes is free.

use vmamba::complexity::{Complexity, OpKind};

use crate::config::MaskRcnnConfig;

/// RoIs that the box head is counted for.
const BOX_ROIS: usize = 1000;
/// RoIs that the mask head is counted for.
const MASK_ROIS: usize = 100;

impl MaskRcnnConfig {
    /// Cost for one image of `[height, width]` pixels.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = self.backbone.complexity(image);
        let backbone = self.backbone.levels(image);
        let heads = &self.heads;
        let (channels, anchors) = (heads.fpn.channels, heads.anchors.per_cell());
        let mut levels: Vec<[usize; 2]> = backbone.iter().map(|level| level.size).collect();
        let conv = |cost: &mut Complexity, inputs: usize, outputs: usize, kernel: usize, [height, width]: [usize; 2], times: usize| {
            cost.conv(inputs, outputs, [kernel; 2], [times * height, width]);
            cost.add_params(outputs);
        };
        for level in &backbone {
            conv(&mut cost, level.channels, channels, 1, level.size, 1);
            conv(&mut cost, channels, channels, 3, level.size, 1);
        }
        // All but the coarsest get the level above them, enlarged.
        for [height, width] in levels.iter().rev().skip(1) {
            cost.add(OpKind::UpsampleNearest, (channels * height * width) as u64);
        }
        while levels.len() < heads.fpn.levels {
            let Some(coarsest) = levels.last() else { break };
            levels.push(coarsest.map(|side| side.div_ceil(2)));
        }
        // The same three convolutions on every level: their parameters count once.
        let before = cost.params;
        let rpn = |cost: &mut Complexity, size: [usize; 2]| {
            conv(cost, channels, heads.rpn.channels, 3, size, 1);
            conv(cost, heads.rpn.channels, anchors, 1, size, 1);
            conv(cost, heads.rpn.channels, 4 * anchors, 1, size, 1);
        };
        levels.iter().for_each(|size| rpn(&mut cost, *size));
        let own = (cost.params - before) / levels.len().max(1) as u64;
        cost.params = before + own;

        let (side, hidden) = (heads.box_head.roi_size, heads.box_head.channels);
        for (inputs, outputs) in
            [(channels * side * side, hidden), (hidden, hidden), (hidden, self.num_classes + 1), (hidden, 4 * self.num_classes)]
        {
            cost.add(OpKind::Linear, (BOX_ROIS * inputs * outputs) as u64);
            cost.add_params((inputs + 1) * outputs);
        }

        let (side, hidden) = (heads.mask_head.roi_size, heads.mask_head.channels);
        let mut inputs = channels;
        for _ in 0..heads.mask_head.num_convs {
            conv(&mut cost, inputs, hidden, 3, [side; 2], MASK_ROIS);
            inputs = hidden;
        }
        // A transposed convolution works from its input's positions; every output pixel is reached by one of them.
        conv(&mut cost, inputs, hidden, 2, [side; 2], MASK_ROIS);
        conv(&mut cost, hidden, self.num_classes, 1, [2 * side; 2], MASK_ROIS);
        cost
    }
}
