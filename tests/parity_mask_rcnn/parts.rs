//! The parts: anchors, assignment, offsets, losses, masks, RoIAlign, suppression.

use burn::prelude::*;
use tests::{Comparison, FORWARD_TOLERANCE, Fixture, FixtureTensor, GRADIENT_TOLERANCE, present};
use vision_ops::{Roi, RoiSampling, batched_nms, nms, paste_mask, roi_align};
use vmamba_detection::losses::{binary_cross_entropy, cross_entropy, l1, mask_cross_entropy};
use vmamba_detection::{
    Assignment, BoxCoder, MaxIouAssigner, ScoredBox, TestConfig, giou, iof, iou, mask_target, multiclass_nms, roi_level,
};
use vmamba_types::Rle;

use crate::{
    BOX_TOLERANCE, anchor_config, assert_equal, boxes, check_boxes, flat, indices, instance_mask, number, pair, rois, size,
    weights_manifest,
};

#[test]
fn anchors_are_mmdetections() {
    let case = Fixture::read("det_ops", "anchors");
    let config = weights_manifest()["model_config"]["rpn_head"]["anchor_generator"].clone();
    let strides: Vec<usize> = config["strides"].as_array().unwrap().iter().map(size).collect();
    let anchors = anchor_config(&config).init(&strides);
    let sizes: Vec<[usize; 2]> = case.manifest["feat_sizes"].as_array().unwrap().iter().map(pair).collect();
    let padded: Vec<usize> = case.manifest["what"]
        .as_str()
        .and_then(|what| what.split("pad_shape (").nth(1)?.split(')').next())
        .map(|text| text.split(',').filter_map(|side| side.trim().parse().ok()).collect())
        .unwrap();
    let mut comparison = Comparison::new("det_ops/anchors");
    for (level, cells) in sizes.iter().enumerate() {
        check_boxes(&mut comparison, &format!("base{level}"), &anchors.base()[level], case.tensor(&format!("base{level}")));
        let grid = anchors.grid(level, *cells);
        if let Some(expected) = case.get(&format!("level{level}")) {
            check_boxes(&mut comparison, &format!("level{level}"), &grid, expected);
        }
        if let Some(expected) = case.get(&format!("level{level}_head")) {
            check_boxes(&mut comparison, &format!("level{level}_head"), &grid[..expected.shape[0]], expected);
        }
        let valid: Vec<f64> = anchors.valid(level, *cells, [padded[0], padded[1]]).into_iter().map(|v| f64::from(u8::from(v))).collect();
        assert_equal(&format!("valid{level}"), &valid, case.tensor(&format!("valid{level}")));
    }
    comparison.finish();
}

#[test]
fn overlaps_and_assignments_are_mmdetections() {
    let case = Fixture::read("det_ops", "assigner");
    let (priors, objects) = (boxes(case.tensor("priors")), boxes(case.tensor("gt_boxes")));
    let mut comparison = Comparison::new("det_ops/assigner");
    for (name, overlap) in [("iou", iou as fn(&[f32; 4], &[f32; 4]) -> f32), ("iof", iof), ("giou", giou)] {
        let values: Vec<f64> = objects.iter().flat_map(|a| priors.iter().map(move |b| f64::from(overlap(a, b)))).collect();
        comparison.check_values(name, &[objects.len(), priors.len()], &values, case.tensor(name), BOX_TOLERANCE);
    }
    let highest: Vec<f64> =
        priors.iter().map(|prior| objects.iter().map(|object| f64::from(iou(object, prior))).fold(0.0, f64::max)).collect();
    let labels = indices(case.tensor("gt_labels"));
    let crowds = boxes(case.tensor("ignore_boxes"));
    let roi = MaxIouAssigner::ROI;
    for (name, assigner, objects) in [
        ("rpn", MaxIouAssigner::RPN, &objects),
        ("rcnn", roi, &objects),
        ("rcnn_nolow", MaxIouAssigner { match_low_quality: false, ..roi }, &objects),
        ("rpn_ignore", MaxIouAssigner { ignore_crowd: Some(0.5), ..MaxIouAssigner::RPN }, &objects),
        ("nogt", MaxIouAssigner::RPN, &Vec::new()),
    ] {
        let assigned = assigner.assign(&priors, objects, &crowds);
        let codes: Vec<f64> = assigned
            .iter()
            .map(|assignment| match assignment {
                Assignment::Ignored => -1.0,
                Assignment::Negative => 0.0,
                Assignment::Object(index) => *index as f64 + 1.0,
            })
            .collect();
        assert_equal(&format!("{name}_gt_inds"), &codes, case.tensor(&format!("{name}_gt_inds")));
        if let Some(expected) = case.get(&format!("{name}_max_overlaps")) {
            comparison.check_values(&format!("{name}_max_overlaps"), &[priors.len()], &highest, expected, BOX_TOLERANCE);
        }
        if let Some(expected) = case.get(&format!("{name}_labels")) {
            let classes: Vec<f64> = assigned
                .iter()
                .map(|assignment| match assignment {
                    Assignment::Object(index) => labels[*index] as f64,
                    _ => -1.0,
                })
                .collect();
            assert_equal(&format!("{name}_labels"), &classes, expected);
        }
    }
    comparison.finish();
}

#[test]
fn box_offsets_are_mmdetections() {
    let case = Fixture::read("det_ops", "bbox_coder");
    let text = case.manifest["what"].as_str().unwrap();
    let side = |name: &str| -> usize {
        let rest = text.split(&format!("{name}=")).nth(1).unwrap();
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let image = Some([side("H"), side("W")]);
    let mut comparison = Comparison::new("det_ops/bbox_coder");
    for (name, coder) in [("rpn", BoxCoder::RPN), ("rcnn", BoxCoder::BOX_HEAD)] {
        let tensor = |part: &str| boxes(case.tensor(&format!("{name}_{part}")));
        let (priors, targets, deltas) = (tensor("priors"), tensor("gt"), tensor("deltas"));
        let encoded: Vec<[f32; 4]> = priors.iter().zip(&targets).map(|(prior, target)| coder.encode(*prior, *target)).collect();
        check_boxes(&mut comparison, &format!("{name}_encoded"), &encoded, case.tensor(&format!("{name}_encoded")));
        for (part, clip) in [("decoded_clip", image), ("decoded_noclip", None)] {
            let decoded: Vec<[f32; 4]> = priors.iter().zip(&deltas).map(|(prior, delta)| coder.decode(*prior, *delta, clip)).collect();
            check_boxes(&mut comparison, &format!("{name}_{part}"), &decoded, case.tensor(&format!("{name}_{part}")));
        }
    }
    // One prior, a box for each class.
    let (priors, deltas, expected) =
        (boxes(case.tensor("rcnn_priors")), case.tensor("rcnn_multi_deltas"), case.tensor("rcnn_multi_decoded"));
    let classes = deltas.shape[1] / 4;
    let decoded: Vec<[f32; 4]> =
        boxes(deltas).into_iter().enumerate().map(|(row, delta)| BoxCoder::BOX_HEAD.decode(priors[row / classes], delta, image)).collect();
    comparison.check_values("rcnn_multi_decoded", &expected.shape, &flat(&decoded), expected, BOX_TOLERANCE);
    comparison.finish();
}

#[test]
fn loss_terms_are_mmdetections() {
    if !present("det_ops/losses.safetensors") {
        return;
    }
    let case = Fixture::read("det_ops", "losses");
    let device = tests::device();
    let scalar = |t: Tensor<1>| f64::from(t.into_scalar::<f32>());
    let weighed = |name: &str| -> Vec<usize> {
        let weights = &case.tensor(name).values;
        assert!(weights.iter().all(|w| *w == 0.0 || *w == 1.0), "{name}: sampling weights are 0 or 1");
        (0..weights.len()).filter(|i| weights[*i] == 1.0).collect()
    };
    let select = |values: &[f32], kept: &[usize]| -> Vec<f32> { kept.iter().map(|i| values[*i]).collect() };
    let vector = |values: Vec<f32>| Tensor::<1>::from_floats(values.as_slice(), &device);
    // The factor an average is taken over stands in the description: "avg_factor 37".
    let text = case.manifest["what"].as_str().unwrap().to_owned();
    let factor = |before: &str| -> f64 {
        let rest = text.split(before).nth(1).and_then(|rest| rest.split("avg_factor ").nth(1)).unwrap();
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };

    let mut comparison = Comparison::new("det_ops/losses");
    let expected = |name: &str| number(&case.manifest[name]);
    let kept = weighed("label_weights");
    let (scores, labels) = (case.tensor("cls_score"), indices(case.tensor("labels")));
    let logits: Tensor<2> = scores.to_tensor(&device);
    let rows = Tensor::<1, Int>::from_ints(kept.iter().map(|i| *i as i64).collect::<Vec<_>>().as_slice(), &device);
    let (loss, _) = cross_entropy(logits.clone().select(0, rows), &kept.iter().map(|i| labels[*i]).collect::<Vec<_>>());
    comparison.check_scalar("softmax", scalar(loss), expected("softmax"), FORWARD_TOLERANCE);
    comparison.check_scalar("acc", cross_entropy(logits, &labels).1, expected("acc"), FORWARD_TOLERANCE);

    let (masks, classes) = (case.tensor("mask_pred"), indices(case.tensor("mask_labels")));
    let [count, channels, height, width] = masks.shape[..] else { panic!("mask_pred") };
    let own: Vec<f32> = classes
        .iter()
        .enumerate()
        .flat_map(|(mask, class)| masks.to_f32()[(mask * channels + class) * height * width..][..height * width].to_vec())
        .collect();
    let own = Tensor::<3>::from_data(TensorData::new(own, [count, height, width]), &device);
    comparison.check_scalar(
        "mask",
        scalar(mask_cross_entropy(own, case.tensor("mask_target").to_f32())),
        expected("mask"),
        FORWARD_TOLERANCE,
    );

    let kept = weighed("rpn_weights");
    // There 0 is the object and 1 the background.
    let targets: Vec<f32> = kept.iter().map(|i| 1.0 - case.tensor("rpn_labels").to_f32()[*i]).collect();
    let loss = binary_cross_entropy(vector(select(&case.tensor("rpn_score").to_f32(), &kept)), &targets) / factor("use_sigmoid");
    comparison.check_scalar("sigmoid", scalar(loss), expected("sigmoid"), FORWARD_TOLERANCE);

    let kept = weighed("box_weight");
    let targets = select(&case.tensor("box_target").to_f32(), &kept);
    let loss = l1(vector(select(&case.tensor("box_pred").to_f32(), &kept)), &targets) / factor("L1Loss");
    comparison.check_scalar("l1", scalar(loss), expected("l1"), FORWARD_TOLERANCE);
    comparison.finish();
}

#[test]
fn mask_targets_are_mmdetections() {
    if !present("det_ops/masks.safetensors") {
        return;
    }
    let case = Fixture::read("det_ops", "masks");
    let bitmaps = case.tensor("bitmaps");
    let [_, height, width] = bitmaps.shape[..] else { panic!("bitmaps") };
    let all = bitmaps.to_u8();
    let expected = case.tensor("target_bitmap");
    let side = expected.shape[1];
    let targets: Vec<f64> = boxes(case.tensor("boxes"))
        .into_iter()
        .zip(indices(case.tensor("inds")))
        .flat_map(|(bbox, object)| {
            let mask = instance_mask(&all[object * height * width..][..height * width], [height, width]);
            mask_target(&mask.patch(), bbox, side)
        })
        .map(f64::from)
        .collect();
    assert_equal("target_bitmap", &targets, expected);
    println!("det_ops/masks: {} targets, all equal", expected.shape[0]);

    // Before the threshold a target is RoIAlign of the bitmap.
    let soft = case.tensor("target_bitmap_soft");
    let device = tests::device();
    let maps = FixtureTensor { shape: vec![bitmaps.shape[0], 1, height, width], values: bitmaps.values.clone() }.to_tensor::<4>(&device);
    let rois: Vec<Roi> =
        boxes(case.tensor("boxes")).into_iter().zip(indices(case.tensor("inds"))).map(|(bbox, image)| Roi { image, bbox }).collect();
    let sampling = RoiSampling { spatial_scale: 1.0, output: [side; 2], sampling_ratio: 0, aligned: true };
    let read = roi_align(maps, &rois, sampling).reshape([rois.len(), side, side]);
    let mut comparison = Comparison::new("det_ops/masks (soft)");
    comparison.check("target_bitmap_soft", read, soft, FORWARD_TOLERANCE);
    comparison.finish();
}

#[test]
fn roi_levels_are_mmdetections() {
    let case = Fixture::read("det_ops", "roi_levels");
    let levels: Vec<f64> = rois(case.tensor("rois")).iter().map(|roi| roi_level(roi.bbox, 4) as f64).collect();
    assert_equal("levels", &levels, case.tensor("levels"));
}

#[test]
fn detections_of_several_classes_are_mmdetections() {
    let case = Fixture::read("det_ops", "nms");
    let (all, scores, expected) = (case.tensor("mc_boxes"), case.tensor("mc_scores"), case.tensor("mc_dets"));
    // The last score of a row is the background's.
    let (classes, columns) = (all.shape[1] / 4, scores.shape[1]);
    let config = TestConfig { max_per_image: expected.shape[0], ..TestConfig::default() };
    let (mut candidates, mut places) = (Vec::new(), Vec::new());
    for (place, bbox) in boxes(all).into_iter().enumerate() {
        let (row, category) = (place / classes, place % classes);
        let score = scores.to_f32()[row * columns + category];
        if score > config.score_threshold {
            candidates.push(ScoredBox { bbox, score, category });
            places.push(place as f64);
        }
    }
    let kept = multiclass_nms(&candidates, &config);
    let rows: Vec<f64> =
        kept.iter().flat_map(|index| candidates[*index].bbox.into_iter().chain([candidates[*index].score])).map(f64::from).collect();
    assert_equal("mc_dets", &rows, expected);
    let labels: Vec<f64> = kept.iter().map(|index| candidates[*index].category as f64).collect();
    assert_equal("mc_labels", &labels, case.tensor("mc_labels"));
    assert_equal("mc_inds", &kept.iter().map(|index| places[*index]).collect::<Vec<_>>(), case.tensor("mc_inds"));
    println!("det_ops/nms: {} detections of several classes, all equal", kept.len());
}

#[test]
fn suppression_is_mmcvs() {
    let case = Fixture::read("det_ops", "nms");
    let (boxes, scores, groups) = (boxes(case.tensor("boxes")), case.tensor("scores").to_f32(), indices(case.tensor("idxs")));
    for (name, threshold) in [("05", 0.5), ("07", 0.7)] {
        let kept: Vec<f64> = nms(&boxes, &scores, threshold).into_iter().map(|index| index as f64).collect();
        assert_equal(&format!("keep_{name}"), &kept, case.tensor(&format!("keep_{name}")));
    }
    let kept = batched_nms(&boxes, &scores, &groups, 0.5);
    assert_equal("batched_keep_05", &kept.iter().map(|index| *index as f64).collect::<Vec<_>>(), case.tensor("batched_keep_05"));
    let rows: Vec<f64> = kept.iter().flat_map(|index| boxes[*index].into_iter().chain([scores[*index]])).map(f64::from).collect();
    assert_equal("batched_dets", &rows, case.tensor("batched_dets"));
}

#[test]
fn roi_align_and_its_gradient_are_mmcvs() {
    if !present("det_ops/roi_align.safetensors") {
        return;
    }
    let case = Fixture::read("det_ops", "roi_align");
    let text = case.manifest["what"].as_str().unwrap();
    let scale: f32 = text.split("spatial_scale ").nth(1).and_then(|rest| rest.split([',', ' ']).next()?.parse().ok()).unwrap();
    let rois = rois(case.tensor("rois"));
    let device = tests::device().autodiff();
    let mut comparison = Comparison::new("det_ops/roi_align");
    // The side of the output, and how it was sampled, stand in the names: out7, out5_sr2, out5_unaligned.
    for name in case.keys().into_iter().filter(|name| name.starts_with("out")) {
        let expected = case.tensor(name);
        let ratio = name.split("_sr").nth(1).map_or(0, |ratio| ratio.parse().unwrap());
        let output = [expected.shape[2], expected.shape[3]];
        let sampling = RoiSampling { spatial_scale: scale, output, sampling_ratio: ratio, aligned: !name.contains("unaligned") };
        let features = case.tensor("feat").to_tensor::<4>(&device).require_grad();
        let read = roi_align(features.clone(), &rois, sampling);
        comparison.check(name, read.clone(), expected, FORWARD_TOLERANCE);
        if let Some(weights) = case.get(&name.replace("out", "grad_out")) {
            let gradients = (read * weights.to_tensor(&device)).sum().backward();
            let gradient = features.grad(&gradients).expect("the features have a gradient");
            comparison.check(&name.replace("out", "dfeat"), gradient, case.tensor(&name.replace("out", "dfeat")), GRADIENT_TOLERANCE);
        }
    }
    comparison.finish();
}

#[test]
fn pasted_masks_are_mmdetections() {
    if !present("det_ops/masks.safetensors") {
        return;
    }
    let case = Fixture::read("det_ops", "masks");
    let (masks, expected) = (case.tensor("paste_masks"), case.tensor("paste_bin"));
    let side = masks.shape[masks.shape.len() - 1];
    let size = pair(&case.manifest["paste_hw"]);
    let threshold = 0.5;
    let values = masks.to_f32();
    let pasted: Vec<f64> = boxes(case.tensor("paste_boxes"))
        .into_iter()
        .zip(values.chunks_exact(side * side))
        .flat_map(|(bbox, mask)| Rle { size, counts: paste_mask(mask, side, bbox, size, threshold) }.to_bits().as_slice().to_vec())
        .map(|bit| f64::from(u8::from(bit)))
        .collect();
    let soft = &case.tensor("paste_skip").values;
    // On the whole photo the reference computes the same but for the pixels beyond the box's margin, where nothing is left of the mask. (A
    // box without extent it takes for all of the photo there.)
    let full = &case.tensor("paste_full").values;
    let plane = size[0] * size[1];
    for (index, [x0, y0, x1, y1]) in boxes(case.tensor("paste_boxes")).into_iter().enumerate() {
        let on = |values: &[f64]| values[index * plane..][..plane].iter().map(|v| *v >= f64::from(threshold)).collect::<Vec<_>>();
        assert!(x1 <= x0 || y1 <= y0 || on(full) == on(soft), "box {index}");
    }
    for (index, ((actual, expected), soft)) in pasted.iter().zip(&expected.values).zip(soft).enumerate() {
        // On the threshold the last bit of a sum decides.
        assert!(actual == expected || (soft - f64::from(threshold)).abs() < 1e-6, "pixel {index}: {actual}, reference {expected} ({soft})");
    }
    let flipped = pasted.iter().zip(&expected.values).filter(|(a, e)| a != e).count();
    println!("det_ops/masks: {} pasted masks, {flipped} pixels differ", expected.shape[0]);
}
