//! The box head in all its forms.

use std::collections::BTreeSet;

use burn::prelude::*;
use burn::tensor::activation::relu;
use burn::tensor::module::{conv2d, linear};
use burn::tensor::ops::ConvOptions;
use vision_ops::Roi;
use vmamba::checkpoint::{StateDict, state_dict_of};

use super::losses::{slow_decode, slow_giou, slow_smooth_l1};
use super::{Numbers, TOLERANCE, assert_close, central_differences, tensor, values};
use crate::box_coder::BoxCoder;
use crate::box_head::{BoxHeadConfig, BoxHeadLayers, BoxLoss, BoxOutput, ConvNorm};
use crate::postprocess::TestConfig;
use crate::roi_sampling::{RoiBatch, RoiTarget};

const CLASSES: usize = 3;

fn four_convs(norm: ConvNorm) -> BoxHeadConfig {
    BoxHeadConfig { layers: BoxHeadLayers::Shared4Conv1Fc { channels: 5, norm }, channels: 6, roi_size: 3, ..BoxHeadConfig::default() }
}

#[test]
fn parameters_have_the_names_and_shapes_of_mmdetection() {
    let device = Device::flex();
    let keys = |config: &BoxHeadConfig| -> BTreeSet<String> {
        let state = state_dict_of(&config.init(4, CLASSES, &device), &str::to_owned);
        state.iter().map(|(key, tensor)| format!("{key} {:?}", tensor.shape)).collect()
    };
    let expected = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<BTreeSet<_>>();
    let two_fc = BoxHeadConfig { channels: 6, roi_size: 3, ..BoxHeadConfig::default() };
    let predictors = ["fc_cls.weight [4, 6]", "fc_cls.bias [4]", "fc_reg.weight [12, 6]", "fc_reg.bias [12]"];
    let fcs = ["shared_fcs.0.weight [6, 36]", "shared_fcs.0.bias [6]", "shared_fcs.1.weight [6, 6]", "shared_fcs.1.bias [6]"];
    assert_eq!(keys(&two_fc), expected(&[&fcs[..], &predictors[..]].concat()));

    let agnostic = keys(&BoxHeadConfig { reg_class_agnostic: true, ..two_fc });
    assert!(agnostic.contains("fc_reg.weight [4, 6]") && agnostic.contains("fc_cls.weight [4, 6]"));

    let mut with_norm = expected(&[&["shared_fcs.0.weight [6, 45]", "shared_fcs.0.bias [6]"], &predictors[..]].concat());
    let mut without = with_norm.clone();
    for index in 0..4 {
        let inputs = if index == 0 { 4 } else { 5 };
        with_norm.insert(format!("shared_convs.{index}.conv.weight [5, {inputs}, 3, 3]"));
        without.insert(format!("shared_convs.{index}.conv.weight [5, {inputs}, 3, 3]"));
        without.insert(format!("shared_convs.{index}.conv.bias [5]"));
        for name in ["weight", "bias", "running_mean", "running_var"] {
            with_norm.insert(format!("shared_convs.{index}.bn.{name} [5]"));
        }
    }
    assert_eq!(keys(&four_convs(ConvNorm::BatchNorm)), with_norm);
    assert_eq!(keys(&four_convs(ConvNorm::None)), without);
}

/// The layers one by one with Burn's own operations.
fn slow_forward(state: &StateDict, features: Tensor<4>, norm: ConvNorm, device: &Device) -> BoxOutput {
    let vector = |key: &str| tensor::<1>(&state.get(key).unwrap().data, [state.get(key).unwrap().data.len()], device);
    let mut x = features;
    for index in 0..4 {
        let key = |name: &str| format!("shared_convs.{index}.{name}");
        let weight = state.get(&key("conv.weight")).unwrap();
        let weight = tensor::<4>(&weight.data, weight.shape.clone().try_into().unwrap(), device);
        let bias = (norm == ConvNorm::None).then(|| vector(&key("conv.bias")));
        x = conv2d(x, weight, bias, ConvOptions::new([1, 1], [1, 1], [1, 1], 1));
        if norm == ConvNorm::BatchNorm {
            let along = |name: &str| vector(&key(name)).reshape([1, -1, 1, 1]);
            x = (x - along("bn.running_mean")) / (along("bn.running_var") + 1e-5).sqrt() * along("bn.weight") + along("bn.bias");
        }
        x = relu(x);
    }
    let dense = |x: Tensor<2>, name: &str| {
        let weight = state.get(&format!("{name}.weight")).unwrap();
        let weight = tensor::<2>(&weight.data, weight.shape.clone().try_into().unwrap(), device);
        linear(x, weight.transpose(), Some(vector(&format!("{name}.bias"))))
    };
    let x = relu(dense(x.flatten(1, 3), "shared_fcs.0"));
    BoxOutput { logits: dense(x.clone(), "fc_cls"), deltas: dense(x, "fc_reg") }
}

#[test]
fn four_convolutions_and_a_linear_layer_equal_a_slow_forward_pass() {
    let device = Device::flex();
    let mut numbers = Numbers::new(4);
    for norm in [ConvNorm::None, ConvNorm::BatchNorm] {
        let head = four_convs(norm).init(4, CLASSES, &device);
        let mut state = state_dict_of(&head, &str::to_owned);
        for (key, tensor) in state.iter_mut() {
            let low = if key.ends_with("running_var") { 0.5 } else { -0.5 };
            tensor.data = numbers.many(tensor.data.len(), low, low + 1.0);
        }
        let (head, _) = vmamba::checkpoint::load_into(head, &str::to_owned, &state, &Default::default()).unwrap();
        let features = tensor(&numbers.many(7 * 4 * 9, -1.0, 1.0), [7, 4, 3, 3], &device);
        let (own, slow) = (head.forward(features.clone()), slow_forward(&state, features, norm, &device));
        let wide = |tensor: Tensor<2>| values(tensor).into_iter().map(f64::from).collect::<Vec<_>>();
        assert_close("logits", &values(own.logits), &wide(slow.logits), TOLERANCE);
        assert_close("deltas", &values(own.deltas), &wide(slow.deltas), TOLERANCE);
    }
}

#[test]
fn batch_norms_of_the_head_learn_their_statistics() {
    let device = Device::flex().autodiff();
    let head = four_convs(ConvNorm::BatchNorm).init(4, CLASSES, &device);
    let before = state_dict_of(&head, &str::to_owned);
    let features = tensor(&Numbers::new(5).many(7 * 4 * 9, -1.0, 1.0), [7, 4, 3, 3], &device);
    head.forward(features);
    let after = state_dict_of(&head, &str::to_owned);
    for index in 0..4 {
        let key = format!("shared_convs.{index}.bn.running_mean");
        assert_ne!(before.get(&key), after.get(&key), "{key}");
    }
}

/// RoIs of which every third is background.
fn batch(numbers: &mut Numbers, rois: usize) -> RoiBatch {
    let target = |index: usize, numbers: &mut Numbers| {
        (!index.is_multiple_of(3)).then(|| RoiTarget { category: index % CLASSES, bbox: numbers.bbox() })
    };
    RoiBatch {
        rois: (0..rois).map(|index| Roi { image: index % 2, bbox: numbers.bbox() }).collect(),
        targets: (0..rois).map(|index| target(index, numbers)).collect(),
        weight: 1.0,
    }
}

#[test]
fn the_loss_of_the_boxes_follows_its_definition_in_every_form() {
    const ROIS: usize = 12;
    let device = Device::flex().autodiff();
    let coder = BoxCoder::with_stds([0.05, 0.05, 0.1, 0.1]);
    for (seed, loss) in [(10, BoxLoss::L1), (11, BoxLoss::SmoothL1 { beta: 0.5 }), (12, BoxLoss::Giou)] {
        for reg_class_agnostic in [false, true] {
            let config = BoxHeadConfig { coder, reg_class_agnostic, loss, loss_weight: 10.0, channels: 4, ..BoxHeadConfig::default() };
            let head = config.init(1, CLASSES, &device);
            let mut numbers = Numbers::new(seed);
            let batch = batch(&mut numbers, ROIS);
            let columns = if reg_class_agnostic { 4 } else { 4 * CLASSES };
            let at = numbers.many(ROIS * columns, -2.0, 2.0);
            let slow = |at: &[f64]| -> f64 {
                let of_roi = |(row, (roi, target)): (usize, (&Roi, &Option<RoiTarget>))| {
                    let Some(target) = target else { return 0.0 };
                    let first = row * columns + if reg_class_agnostic { 0 } else { 4 * target.category };
                    let deltas = &at[first..first + 4];
                    let encoded = coder.encode(roi.bbox, target.bbox).map(f64::from);
                    let differences = deltas.iter().zip(encoded).map(|(delta, target)| delta - target);
                    match loss {
                        BoxLoss::L1 => differences.map(f64::abs).sum(),
                        BoxLoss::SmoothL1 { beta } => differences.map(|difference| slow_smooth_l1(difference, f64::from(beta))).sum(),
                        BoxLoss::Giou => 1.0 - slow_giou(&slow_decode(&coder, roi.bbox, deltas), target.bbox),
                    }
                };
                10.0 * batch.rois.iter().zip(&batch.targets).enumerate().map(of_roi).sum::<f64>() / ROIS as f64
            };
            let deltas = tensor(&at, [ROIS, columns], &device).require_grad();
            let logits = tensor(&numbers.many(ROIS * (CLASSES + 1), -1.0, 1.0), [ROIS, CLASSES + 1], &device);
            let found = head.loss(&BoxOutput { logits, deltas: deltas.clone() }, &batch).bbox;
            let name = format!("{loss:?}, agnostic {reg_class_agnostic}");
            assert_close(&name, &values(found.clone()), &[slow(&at.iter().map(|x| f64::from(*x)).collect::<Vec<_>>())], TOLERANCE);
            let gradient = deltas.grad(&found.backward()).unwrap();
            assert_close(&format!("{name}: gradient"), &values(gradient), &central_differences(&at, slow), 1e-3);
        }
    }
}

#[test]
fn the_loss_of_the_classes_is_their_cross_entropy() {
    let device = Device::flex();
    let mut numbers = Numbers::new(6);
    let batch = batch(&mut numbers, 9);
    let head = BoxHeadConfig { channels: 4, ..BoxHeadConfig::default() }.init(1, CLASSES, &device);
    let logits = numbers.many(9 * 4, -2.0, 2.0);
    let output = BoxOutput { logits: tensor(&logits, [9, 4], &device), deltas: Tensor::zeros([9, 12], &device) };
    let loss = head.loss(&output, &batch);
    let (mut expected, mut right) = (0.0, 0);
    for (row, target) in logits.chunks(4).zip(&batch.targets) {
        let label = target.map_or(CLASSES, |target| target.category);
        let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
        expected += (sum.ln() - f64::from(row[label])) / 9.0;
        right += usize::from(row.iter().all(|logit| *logit <= row[label]));
    }
    assert_close("cross entropy", &values(loss.cls), &[expected], TOLERANCE);
    assert_eq!(loss.accuracy, 100.0 * right as f64 / 9.0);
}

#[test]
fn with_nothing_sampled_the_loss_and_its_gradient_are_zero() {
    let device = Device::flex().autodiff();
    let mut config = four_convs(ConvNorm::BatchNorm);
    config.loss = BoxLoss::Giou;
    let head = config.init(4, CLASSES, &device);
    let features = Tensor::<4>::ones([1, 4, 3, 3], &device).require_grad();
    let loss = head.loss(&head.forward(features.clone()), &RoiBatch::new(&[], &[]));
    let total = loss.cls + loss.bbox;
    assert_eq!(values(total.clone()), [0.0]);
    assert!(values(features.grad(&total.backward()).unwrap()).iter().all(|gradient| *gradient == 0.0));
    assert_eq!(loss.accuracy, 0.0);
}

#[test]
fn refinement_moves_a_box_by_the_deltas_of_its_class() {
    const ROIS: usize = 10;
    let device = Device::flex();
    for reg_class_agnostic in [false, true] {
        let mut numbers = Numbers::new(7);
        let config = BoxHeadConfig { reg_class_agnostic, channels: 4, ..BoxHeadConfig::default() };
        let head = config.init(1, CLASSES, &device);
        let columns = if reg_class_agnostic { 4 } else { 4 * CLASSES };
        let (mut logits, deltas) = (numbers.many(ROIS * (CLASSES + 1), -2.0, 2.0), numbers.many(ROIS * columns, -2.0, 2.0));
        // The background is the most probable of all, and still no box is moved as background.
        logits.chunks_mut(CLASSES + 1).for_each(|row| row[CLASSES] = 9.0);
        let rois: Vec<[f32; 4]> = (0..ROIS).map(|_| numbers.bbox()).collect();
        let known: Vec<Option<usize>> = (0..ROIS).map(|row| (row % 2 == 0).then_some(row % CLASSES)).collect();
        let output = BoxOutput { logits: tensor(&logits, [ROIS, CLASSES + 1], &device), deltas: tensor(&deltas, [ROIS, columns], &device) };
        let refined = head.refine(&output, &rois, &known, [150, 160]);
        for row in 0..ROIS {
            let scores = &logits[row * (CLASSES + 1)..][..CLASSES];
            let best = (0..CLASSES).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
            let class = known[row].unwrap_or(best);
            let first = row * columns + if reg_class_agnostic { 0 } else { 4 * class };
            let own: [f32; 4] = deltas[first..first + 4].try_into().unwrap();
            assert_eq!(refined[row], BoxCoder::BOX_HEAD.decode(rois[row], own, Some([150, 160])), "RoI {row}");
        }
    }
}

#[test]
fn detection_decodes_the_boxes_of_each_class_or_the_one_box() {
    let device = Device::flex();
    let config = TestConfig { score_threshold: 0.2, nms_threshold: 1.0, max_per_image: 10, ..TestConfig::default() };
    let rois = [[10.0, 10.0, 50.0, 40.0]];
    for reg_class_agnostic in [false, true] {
        let head = BoxHeadConfig { reg_class_agnostic, channels: 4, ..BoxHeadConfig::default() }.init(1, CLASSES, &device);
        let columns = if reg_class_agnostic { 4 } else { 4 * CLASSES };
        let deltas: Vec<f32> = (0..columns).map(|column| column as f32 * 0.1).collect();
        // Classes 0 and 2 and the background have about a third each.
        let logits = tensor(&[1.0, -9.0, 1.1, 1.0], [1, CLASSES + 1], &device);
        let found = head.detect(&BoxOutput { logits, deltas: tensor(&deltas, [1, columns], &device) }, &rois, [100, 100], &config);
        assert_eq!(found.iter().map(|found| found.category).collect::<Vec<_>>(), [2, 0]);
        for found in found {
            let first = if reg_class_agnostic { 0 } else { 4 * found.category };
            let own: [f32; 4] = deltas[first..first + 4].try_into().unwrap();
            assert_eq!(found.bbox, BoxCoder::BOX_HEAD.decode(rois[0], own, Some([100, 100])));
        }
    }
}

#[test]
fn the_scores_of_a_cascade_are_averaged_logits_with_the_boxes_of_the_last_stage() {
    let device = Device::flex();
    let stage = |value: f32| BoxOutput { logits: Tensor::full([2, 3], value, &device), deltas: Tensor::full([2, 4], value, &device) };
    let mean = BoxOutput::average_scores(&[stage(1.0), stage(2.0), stage(6.0)]).unwrap();
    assert_eq!(values(mean.logits), [3.0; 6]);
    assert_eq!(values(mean.deltas), [6.0; 8]);
    assert!(BoxOutput::average_scores(&[]).is_none());
}
