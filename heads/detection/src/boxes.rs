//! Overlaps of boxes `[x0, y0, x1, y1]`.
//!
//! The operations come in the order of mmdetection's `bbox_overlaps`, so that comparisons with a threshold give the same answer.

/// Lower bound of the denominators, mmdetection's `eps`.
pub(crate) const EPSILON: f32 = 1e-6;

fn area(r: &[f32; 4]) -> f32 {
    (r[2] - r[0]) * (r[3] - r[1])
}

fn intersection(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    width * height
}

/// Intersection over union, in `[0, 1]`.
pub fn iou(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let overlap = intersection(a, b);
    overlap / (area(a) + area(b) - overlap).max(EPSILON)
}

/// Intersection over foreground: the share of the area of `a` that lies in `b`, in `[0, 1]`.
pub fn iof(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    intersection(a, b) / area(a).max(EPSILON)
}

/// Generalised IoU (Rezatofighi et al. 2019), in `(-1, 1]`: the IoU minus the share of the enclosing box that the union leaves empty.
pub fn giou(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let overlap = intersection(a, b);
    let union = (area(a) + area(b) - overlap).max(EPSILON);
    let enclosing = [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])];
    let enclosing = ((enclosing[2] - enclosing[0]).max(0.0) * (enclosing[3] - enclosing[1]).max(0.0)).max(EPSILON);
    overlap / union - (enclosing - union) / enclosing
}
