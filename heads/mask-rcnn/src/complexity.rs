//! Parameters and FLOPs, counted as in the published tables.

use vmamba::complexity::Complexity;

use crate::config::MaskRcnnConfig;

impl MaskRcnnConfig {
    /// Cost for one image of `[height, width]` pixels: backbone, pyramid and proposals for the whole image, the box head for 1000 RoIs, the
    /// mask head for 100.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = self.backbone.complexity(image);
        let backbone: Vec<(usize, [usize; 2])> =
            self.backbone.levels(image).into_iter().map(|level| (level.channels, level.size)).collect();
        let heads = &self.heads;
        let channels = heads.fpn.channels;
        let levels = heads.fpn.add_cost(&mut cost, &backbone);
        heads.rpn.add_cost(&mut cost, channels, heads.anchors.per_cell(), &levels);
        heads.box_head.add_cost(&mut cost, channels, self.num_classes);
        heads.mask_head.add_cost(&mut cost, channels, self.num_classes);
        cost
    }
}
