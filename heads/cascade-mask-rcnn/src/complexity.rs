//! Parameters and FLOPs, counted as in the published tables.

use vmamba::complexity::Complexity;
use vmamba_detection::{BOX_ROIS, MASK_ROIS};

use crate::config::CascadeMaskRcnnConfig;

impl CascadeMaskRcnnConfig {
    /// Cost for one image of `[height, width]` pixels: backbone, pyramid and proposals for the whole image; in every stage the box head for
    /// 1000 RoIs and the mask head for 100.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = self.shared_complexity(image);
        let channels = self.heads.fpn.channels;
        for stage in &self.heads.stages {
            stage.box_head.add_cost(&mut cost, channels, self.num_classes, BOX_ROIS);
        }
        // Prediction runs a shared mask head once, since the stages would average equal probabilities.
        for _ in 0..self.heads.mask_head_count() {
            self.heads.mask_head.add_cost(&mut cost, channels, self.num_classes, MASK_ROIS);
        }
        cost
    }

    /// Cost of the forward pass of a training step for one image: in every stage the box head on all sampled RoIs and the mask head on the
    /// positive ones. A shared mask head counts its parameters once.
    pub fn training_complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = self.shared_complexity(image);
        let channels = self.heads.fpn.channels;
        for (index, stage) in self.heads.stages.iter().enumerate() {
            let [boxes, masks] = stage.roi.sampler.counts();
            stage.box_head.add_cost(&mut cost, channels, self.num_classes, boxes);
            let before = cost.params;
            self.heads.mask_head.add_cost(&mut cost, channels, self.num_classes, masks);
            if index >= self.heads.mask_head_count() {
                cost.params = before;
            }
        }
        cost
    }

    /// Cost of backbone, pyramid and proposals.
    fn shared_complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = self.backbone.complexity(image);
        let backbone: Vec<(usize, [usize; 2])> =
            self.backbone.levels(image).into_iter().map(|level| (level.channels, level.size)).collect();
        let heads = &self.heads;
        let levels = heads.fpn.add_cost(&mut cost, &backbone);
        heads.rpn.add_cost(&mut cost, heads.fpn.channels, heads.anchors.per_cell(), &levels);
        cost
    }
}
