//! What pycocotools gives for a ground truth with an annotation of id 0.
//!
//! pycocotools' `evaluateImg` stores the id of the matched annotation, `dtm[tind,dind] = gt[m]['id']`, and `accumulate` takes 0 as "not
//! matched", `tps = np.logical_and(dtm, np.logical_not(dtIg))`. So every detection of that annotation counts as a false positive. Exports that
//! number annotations from 0 are common, and the difference is up to one object of the whole set.

use hotcoco::{AccumulatedEval, COCOeval, EvalImg};

use super::config::EvalConfig;

/// Recomputes the precision of `category` over all areas as pycocotools does when the id of annotation `zero`, as the engine numbers it, is 0.
/// `limits` are the limits of detections, sorted.
pub(super) fn count_as_unmatched(
    engine: &COCOeval,
    arrays: &mut AccumulatedEval,
    (zero, category): (u64, u64),
    config: &EvalConfig,
    limits: &[usize],
) {
    const ALL: usize = 0;
    let Some(k) = arrays.cat_ids.iter().position(|id| *id == category) else { return };
    let own = |cell: &&EvalImg| cell.category_id == category && cell.area_rng == config.areas[ALL];
    let mut cells: Vec<&EvalImg> = engine.eval_imgs().iter().flatten().filter(own).collect();
    cells.sort_by_key(|cell| cell.image_id);
    let objects: usize = cells.iter().map(|cell| cell.num_gt_in_denominator()).sum();
    if objects == 0 {
        return;
    }
    for t in 0..config.iou_thresholds.len() {
        for (m, limit) in limits.iter().enumerate() {
            let mut detections: Vec<(f64, bool)> = Vec::new();
            for cell in &cells {
                for d in 0..cell.dt_ids.len().min(*limit) {
                    if !cell.dt_ignore[(t, d)] {
                        let hit = cell.dt_matched[(t, d)] && cell.dt_matches[(t, d)] != zero;
                        detections.push((cell.dt_scores[d], hit));
                    }
                }
            }
            for (r, precision) in precisions(detections, objects, &config.recall_thresholds).into_iter().enumerate() {
                let place = arrays.shape.precision_idx(t, r, k, ALL, m);
                arrays.precision[place] = precision;
            }
        }
    }
}

/// The interpolated precision at each recall (pycocotools' `accumulate`); `detections` are scores, and whether they hit an object.
fn precisions(mut detections: Vec<(f64, bool)>, objects: usize, recalls: &[f64]) -> Vec<f64> {
    // Stable, as numpy's mergesort.
    detections.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut hits = 0_usize;
    let mut curve: Vec<(f64, f64)> = Vec::with_capacity(detections.len());
    for (index, (_, hit)) in detections.iter().enumerate() {
        hits += usize::from(*hit);
        curve.push((hits as f64 / objects as f64, hits as f64 / ((index + 1) as f64 + f64::EPSILON)));
    }
    for index in (1..curve.len()).rev() {
        curve[index - 1].1 = curve[index - 1].1.max(curve[index].1);
    }
    let at = |recall: &f64| curve.get(curve.partition_point(|point| point.0 < *recall)).map_or(0.0, |point| point.1);
    recalls.iter().map(at).collect()
}
