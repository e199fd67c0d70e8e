//! Greedy suppression, box by box.

/// Whether each box is kept; boxes come by descending score.
pub(super) fn kept(boxes: &[[f32; 4]], iou_threshold: f32) -> Vec<bool> {
    let area = |b: &[f32; 4]| (b[2] - b[0]) * (b[3] - b[1]);
    let iou = |a: &[f32; 4], b: &[f32; 4]| {
        let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
        let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
        width * height / (area(a) + area(b) - width * height)
    };
    let mut kept: Vec<bool> = Vec::new();
    for (index, bbox) in boxes.iter().enumerate() {
        let suppressed = (0..index).any(|other| kept[other] && iou(&boxes[other], bbox) > iou_threshold);
        kept.push(!suppressed);
    }
    kept
}
