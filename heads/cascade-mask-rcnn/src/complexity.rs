//! Parameters and FLOPs, counted as in the published tables.

use vmamba::complexity::Complexity;

use crate::config::CascadeMaskRcnnConfig;

impl CascadeMaskRcnnConfig {
    /// Cost for one image of `[height, width]` pixels: backbone, pyramid and proposals for the whole image; in every stage the box head for
    /// 1000 RoIs and the mask head for 100.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = self.backbone.complexity(image);
        let backbone: Vec<(usize, [usize; 2])> =
            self.backbone.levels(image).into_iter().map(|level| (level.channels, level.size)).collect();
        let heads = &self.heads;
        let channels = heads.fpn.channels;
        let levels = heads.fpn.add_cost(&mut cost, &backbone);
        heads.rpn.add_cost(&mut cost, channels, heads.anchors.per_cell(), &levels);
        for stage in &heads.stages {
            stage.box_head.add_cost(&mut cost, channels, self.num_classes);
        }
        // Prediction runs a shared mask head once, since the stages would average equal probabilities.
        for _ in 0..heads.mask_head_count() {
            heads.mask_head.add_cost(&mut cost, channels, self.num_classes);
        }
        cost
    }
}
