//! Parameters and FLOPs, counted as in the published tables.

use vmamba::complexity::Complexity;
use vmamba_detection::{BOX_ROIS, MASK_ROIS};

use crate::config::MaskRcnnConfig;

impl MaskRcnnConfig {
    /// Cost for one image of `[height, width]` pixels: backbone, pyramid and proposals for the whole image, the box head for 1000 RoIs, the
    /// mask head for 100.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        self.complexity_for(image, [BOX_ROIS, MASK_ROIS])
    }

    /// Cost of the forward pass of a training step for one image: the box head on all sampled RoIs, the mask head on the positive ones.
    pub fn training_complexity(&self, image: [usize; 2]) -> Complexity {
        self.complexity_for(image, self.heads.roi.sampler.counts())
    }

    /// Cost for RoIs of the two heads.
    fn complexity_for(&self, image: [usize; 2], [boxes, masks]: [usize; 2]) -> Complexity {
        let mut cost = self.backbone.complexity(image);
        let backbone: Vec<(usize, [usize; 2])> =
            self.backbone.levels(image).into_iter().map(|level| (level.channels, level.size)).collect();
        let heads = &self.heads;
        let channels = heads.fpn.channels;
        let levels = heads.fpn.add_cost(&mut cost, &backbone);
        heads.rpn.add_cost(&mut cost, channels, heads.anchors.per_cell(), &levels);
        heads.box_head.add_cost(&mut cost, channels, self.num_classes, boxes);
        heads.mask_head.add_cost(&mut cost, channels, self.num_classes, masks);
        cost
    }
}
