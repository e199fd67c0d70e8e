//! Sampled RoIs and the targets of their masks.

use vmamba_types::{Instance, InstanceMask, Rle};

use crate::detector::ImageTruth;
use crate::mask_target::{MaskBatch, mask_target};
use crate::roi_sampling::{RoiBatch, RoiConfig};
use crate::sampler::RandomChoice;

fn truth() -> ImageTruth {
    let instance = |bbox: [f32; 4], category, has_mask: bool| {
        let [x0, y0, x1, y1] = bbox.map(f64::from);
        let mask = has_mask.then(|| InstanceMask::from_rle(Rle::from_box([x0, y0, x1 - x0, y1 - y0], [64, 64]).unwrap()));
        Instance { bbox, category, crowd: false, mask }
    };
    let instances = vec![instance([4.0, 4.0, 24.0, 24.0], 1, true), instance([30.0, 30.0, 60.0, 50.0], 0, false)];
    ImageTruth { size: [64, 64], instances, crowds: Vec::new() }
}

#[test]
fn ground_truth_boxes_are_candidates_and_told_apart_from_proposals() {
    let truth = truth();
    // One proposal near each object, and one on the background.
    let proposals = [[5.0, 5.0, 25.0, 25.0], [30.0, 31.0, 60.0, 51.0], [0.0, 40.0, 10.0, 60.0]];
    let sample = RoiConfig::default().sample(&proposals, &truth, &mut RandomChoice::new(1));
    assert_eq!(sample.rois.len(), 5);
    assert_eq!(sample.objects, [0, 1, 0, 1]);
    let of_truth: Vec<bool> = (0..5).map(|index| sample.is_ground_truth(index)).collect();
    assert_eq!(of_truth, [true, true, false, false, false]);
    assert_eq!(&sample.rois[..2], &truth.boxes());

    let batch = RoiBatch::new(&[sample.clone(), sample], &[truth.clone(), truth]);
    assert_eq!((batch.rois.len(), batch.weight), (10, 1.0));
    let categories: Vec<Option<usize>> = batch.targets.iter().map(|target| target.map(|target| target.category)).collect();
    assert_eq!(categories, [Some(1), Some(0), Some(1), Some(0), None, Some(1), Some(0), Some(1), Some(0), None]);
    assert!(batch.rois[..5].iter().all(|roi| roi.image == 0) && batch.rois[5..].iter().all(|roi| roi.image == 1));
}

#[test]
fn only_objects_with_masks_train_the_mask_head() {
    let truth = truth();
    let sample = RoiConfig::default().sample(&[[5.0, 5.0, 25.0, 25.0]], &truth, &mut RandomChoice::new(1));
    let batch = MaskBatch::new(std::slice::from_ref(&sample), std::slice::from_ref(&truth), [64, 96], 7);
    assert_eq!(batch.classes, [1, 1], "the object and the proposal near it; the other object has no mask");
    assert_eq!(batch.targets.len(), 2 * 7 * 7);
    let mut patch = truth.instances[0].mask.as_ref().unwrap().patch();
    patch.canvas = [64, 96];
    assert_eq!(batch.targets[49..], mask_target(&patch, sample.rois[2], 7));

    let empty = MaskBatch::new(&[], &[], [64, 96], 7);
    assert_eq!((empty.rois.len(), empty.classes, empty.targets.len()), (1, vec![0], 0));
}
