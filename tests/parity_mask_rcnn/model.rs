//! The whole model: stages of prediction, detections, a training step, checkpoints, cost.

use burn::prelude::*;
use mask_rcnn::{HeadsConfig, MaskRcnn, MaskRcnnConfig, official_key};
use serde_json::Value;
use tests::{Comparison, FORWARD_TOLERANCE, Fixture, FixtureTensor, check_gradients, fixtures_root, manifest, present};
use vision_ops::Roi;
use vmamba::checkpoint::{Checkpoint, LoadOptions, StateDict, StateTensor, Weights, load_into, state_dict_of};
use vmamba::zoo::Backbone;
use vmamba::{FeaturePyramid, OfficialConfig, VmambaConfig};
use vmamba_detection::{
    BoxCoder, Choose, Detector, ImageInfo, ImageTruth, MaxIouAssigner, ProposalConfig, RandomSampler, mask_target, roi_level,
};
use vmamba_types::Instance;

use crate::{
    FLIPPED_PIXELS, anchor_config, assert_equal, boxes, check_boxes, flat, indices, instance_mask, number, numbers, pair, rois, size,
    weights_manifest,
};

fn assigner(config: &Value) -> MaxIouAssigner {
    MaxIouAssigner {
        positive: number(&config["pos_iou_thr"]) as f32,
        negative: number(&config["neg_iou_thr"]) as f32,
        minimum: number(&config["min_pos_iou"]) as f32,
        match_low_quality: config["match_low_quality"].as_bool().unwrap(),
        ignore_crowd: Some(number(&config["ignore_iof_thr"]) as f32).filter(|share| *share > 0.0),
    }
}

fn sampler(config: &Value) -> RandomSampler {
    RandomSampler { num: size(&config["num"]), positive_fraction: number(&config["pos_fraction"]) }
}

fn proposals(config: &Value) -> ProposalConfig {
    ProposalConfig {
        nms_pre: size(&config["nms_pre"]),
        max_per_image: size(&config["max_per_img"]),
        nms_threshold: number(&config["nms"]["iou_threshold"]) as f32,
        min_size: number(&config["min_bbox_size"]) as f32,
    }
}

/// The model of the fixture set, without stochastic depth, as all cases were made.
fn config() -> MaskRcnnConfig {
    let document = weights_manifest();
    let model = &document["model_config"];
    // The official configuration carries leftovers of Swin's that its model swallows; ours refuses them, so only what it knows goes in.
    let known = serde_json::to_value(VmambaConfig::official_defaults()).unwrap();
    let mut arguments = model["backbone"].as_object().unwrap().clone();
    arguments.retain(|key, _| key == "forward_type" || known.get(key).is_some());
    let mut backbone = OfficialConfig::parse(&Value::Object(arguments)).unwrap_or_else(|error| panic!("{error}")).config;
    backbone.drop_path_rate = 0.0;

    let (neck, rpn, roi) = (&model["neck"], &model["rpn_head"], &model["roi_head"]);
    let (bbox_head, mask_head) = (&roi["bbox_head"], &roi["mask_head"]);
    let train = manifest("maskrcnn", "train")["train_cfg"].clone();
    let test = manifest("maskrcnn", "detections")["test_cfg"].clone();
    let mut heads = HeadsConfig::default();
    heads.fpn.channels = size(&neck["out_channels"]);
    heads.fpn.levels = size(&neck["num_outs"]);
    heads.anchors = anchor_config(&rpn["anchor_generator"]);
    heads.rpn.channels = size(&rpn["feat_channels"]);
    heads.rpn.assigner = assigner(&train["rpn"]["assigner"]);
    heads.rpn.sampler = sampler(&train["rpn"]["sampler"]);
    heads.rpn.train = proposals(&train["rpn_proposal"]);
    heads.rpn.test = proposals(&test["rpn"]);
    heads.roi.assigner = assigner(&train["rcnn"]["assigner"]);
    heads.roi.sampler = sampler(&train["rcnn"]["sampler"]);
    heads.box_head.channels = size(&bbox_head["fc_out_channels"]);
    heads.box_head.roi_size = size(&bbox_head["roi_feat_size"]);
    heads.mask_head.num_convs = size(&mask_head["num_convs"]);
    heads.mask_head.channels = size(&mask_head["conv_out_channels"]);
    heads.mask_head.roi_size = size(&roi["mask_roi_extractor"]["roi_layer"]["output_size"]);
    heads.test.score_threshold = number(&test["rcnn"]["score_thr"]) as f32;
    heads.test.nms_threshold = number(&test["rcnn"]["nms"]["iou_threshold"]) as f32;
    heads.test.max_per_image = size(&test["rcnn"]["max_per_img"]);
    heads.test.mask_threshold = number(&test["rcnn"]["mask_thr_binary"]) as f32;
    MaskRcnnConfig { backbone: backbone.into(), num_classes: size(&bbox_head["num_classes"]), heads }
}

fn load(state: &StateDict, device: &Device) -> MaskRcnn<Backbone> {
    load_into(config().init(device), &official_key, state, &LoadOptions::new()).unwrap_or_else(|error| panic!("{error}")).0
}

/// The official weights: the tensors, or, where they are left out, the checkpoint that holds the same.
fn model(device: &Device) -> MaskRcnn<Backbone> {
    if !fixtures_root().join("maskrcnn/weights.safetensors").exists() {
        return load(&checkpoint(), device);
    }
    let mut state = StateDict::new();
    for (key, tensor) in Fixture::read("maskrcnn", "weights").with_prefix("") {
        state.insert(key, StateTensor { shape: tensor.shape.clone(), data: tensor.to_f32() });
    }
    load(&state, device)
}

fn checkpoint() -> StateDict {
    Checkpoint::read(fixtures_root().join("pth/maskrcnn_mmdet.pth")).and_then(|file| file.state_dict(Weights::Validated)).unwrap()
}

fn infos(model: &MaskRcnn<Backbone>, document: &Value) -> Vec<ImageInfo> {
    let sizes = document["sizes"].as_array().unwrap().iter().map(pair);
    let originals = document["ori_shapes"].as_array().unwrap().iter().map(pair);
    sizes
        .zip(originals)
        .zip(document["metas"].as_array().unwrap())
        .map(|((size, original), meta)| {
            let scale = numbers(&meta["scale_factor"]);
            assert_eq!(pair(&meta["pad_shape"]), size.map(|side: usize| side.next_multiple_of(model.size_divisor())));
            ImageInfo { size, original, scale: [scale[0], scale[1]] }
        })
        .collect()
}

#[test]
fn every_stage_of_prediction_equals_the_official_one() {
    if !present("maskrcnn/stages.safetensors") {
        return;
    }
    let case = Fixture::read("maskrcnn", "stages");
    let device = tests::device();
    let model = model(&device);
    let infos = infos(&model, &case.manifest);
    let mut comparison = Comparison::new("maskrcnn/stages");
    let images: Tensor<4> = case.tensor("batch_input").to_tensor(&device);
    let features = model.backbone.forward_features(images);
    for (level, feature) in features.iter().enumerate() {
        comparison.check(&format!("feat{level}"), feature.clone(), case.tensor(&format!("feat{level}")), FORWARD_TOLERANCE);
    }
    let levels = model.neck.forward(features);
    let rpn = model.rpn_head.forward(&levels);
    for (level, map) in levels.iter().enumerate() {
        comparison.check(&format!("fpn{level}"), map.clone(), case.tensor(&format!("fpn{level}")), FORWARD_TOLERANCE);
        let (scores, deltas) = (rpn.objectness[level].clone(), rpn.deltas[level].clone());
        let grid = model.anchors().grid(level, rpn.sizes()[level]);
        comparison.check(&format!("rpn_cls{level}"), scores, case.tensor(&format!("rpn_cls{level}")), FORWARD_TOLERANCE);
        comparison.check(&format!("rpn_bbox{level}"), deltas, case.tensor(&format!("rpn_bbox{level}")), FORWARD_TOLERANCE);
        check_boxes(&mut comparison, &format!("anchors{level}"), &grid, case.tensor(&format!("anchors{level}")));
    }
    let proposals = model.test_proposals(&rpn, &infos);
    for (image, own) in proposals.iter().enumerate() {
        let expected = case.tensor(&format!("proposals{image}"));
        comparison.check_values(&format!("proposals{image}"), &[own.boxes.len(), 4], &flat(&own.boxes), expected, FORWARD_TOLERANCE);
        let scores: Vec<f64> = own.scores.iter().map(|s| f64::from(*s)).collect();
        let name = format!("proposal_scores{image}");
        comparison.check_values(&name, &[scores.len()], &scores, case.tensor(&name), FORWARD_TOLERANCE);
    }

    // From here on with the reference's boxes, so that what is compared is one stage at a time.
    let all = rois(case.tensor("rois"));
    let level_of = |rois: &[Roi]| rois.iter().map(|roi| roi_level(roi.bbox, 4) as f64).collect::<Vec<_>>();
    assert_equal("roi_levels", &level_of(&all), case.tensor("roi_levels"));
    let output = model.roi_head.boxes(&levels, &all);
    comparison.check("bbox_cls_score", output.logits, case.tensor("bbox_cls_score"), FORWARD_TOLERANCE);
    comparison.check("bbox_pred", output.deltas, case.tensor("bbox_pred"), FORWARD_TOLERANCE);
    let selected: Vec<Roi> = indices(case.tensor("sel_rois_index")).into_iter().map(|index| all[index]).collect();
    comparison.check("bbox_feats_sel", model.roi_head.box_features(&levels, &selected), case.tensor("bbox_feats_sel"), FORWARD_TOLERANCE);
    let expected = case.tensor("mask_feats_sel");
    let features = model.roi_head.mask_features(&levels, &selected[..expected.shape[0]]);
    comparison.check("mask_feats_sel", features.clone(), expected, FORWARD_TOLERANCE);
    comparison.check("mask_logits_sel", model.roi_head.mask_head.forward(features), case.tensor("mask_logits_sel"), FORWARD_TOLERANCE);

    // Boxes that reach every level.
    let fixed = rois(case.tensor("fixed_rois"));
    assert_equal("fixed_levels", &level_of(&fixed), case.tensor("fixed_levels"));
    let features = model.roi_head.box_features(&levels, &fixed);
    comparison.check("fixed_bbox_feats", features.clone(), case.tensor("fixed_bbox_feats"), FORWARD_TOLERANCE);
    let output = model.roi_head.bbox_head.forward(features);
    comparison.check("fixed_cls_score", output.logits, case.tensor("fixed_cls_score"), FORWARD_TOLERANCE);
    comparison.check("fixed_bbox_pred", output.deltas, case.tensor("fixed_bbox_pred"), FORWARD_TOLERANCE);
    let features = model.roi_head.mask_features(&levels, &fixed);
    comparison.check("fixed_mask_feats", features.clone(), case.tensor("fixed_mask_feats"), FORWARD_TOLERANCE);
    let logits = model.roi_head.mask_head.forward(features.clone());
    comparison.check("fixed_mask_logits", logits.clone(), case.tensor("fixed_mask_logits"), FORWARD_TOLERANCE);

    // The shortcut for one class a RoI says the same as all classes.
    let [count, classes, height, width] = logits.dims();
    let chosen: Vec<usize> = (0..count).map(|roi| (roi * 3 + 1) % classes).collect();
    let all: Vec<f64> = logits.into_data().iter::<f64>().collect();
    let plane = height * width;
    let own = chosen.iter().enumerate().flat_map(|(roi, class)| all[(roi * classes + class) * plane..][..plane].to_vec()).collect();
    let own = FixtureTensor { shape: vec![count, height, width], values: own };
    comparison.check("forward_of_class", model.roi_head.mask_head.forward_of_class(features, &chosen), &own, FORWARD_TOLERANCE);
    comparison.finish();
}

#[test]
fn detections_equal_the_official_ones() {
    // The batch of the training case is that of the stages.
    let batch = Fixture::read("maskrcnn", "train");
    let case = Fixture::read("maskrcnn", "detections");
    let device = tests::device();
    let model = model(&device);
    let infos = infos(&model, &manifest("maskrcnn", "stages"));
    let levels = model.pyramid(batch.tensor("batch_input").to_tensor(&device));
    let rpn = model.rpn_head.forward(&levels);
    let found = model.detect_boxes(&levels, &model.test_proposals(&rpn, &infos), &infos).unwrap();
    let mut comparison = Comparison::new("maskrcnn/detections");

    // RoIs of the masks are in pixels of the network's input.
    let mask_rois: Vec<Roi> =
        found.iter().enumerate().flat_map(|(image, own)| own.iter().map(move |found| Roi { image, bbox: found.bbox })).collect();
    let rows: Vec<f64> = mask_rois.iter().flat_map(|roi| std::iter::once(roi.image as f64).chain(roi.bbox.map(f64::from))).collect();
    comparison.check_values("mask_rois", &[mask_rois.len(), 5], &rows, case.tensor("mask_rois"), FORWARD_TOLERANCE);
    let classes: Vec<usize> = found.iter().flatten().map(|found| found.category).collect();
    let logits = model.roi_head.masks(&levels, &mask_rois, &classes);
    let expected: Vec<FixtureTensor> = (0..infos.len()).map(|image| case.tensor(&format!("det_mask_logits{image}")).clone()).collect();
    let joined = FixtureTensor {
        shape: [&[mask_rois.len()], &expected[0].shape[1..]].concat(),
        values: expected.iter().flat_map(|own| own.values.clone()).collect(),
    };
    comparison.check("det_mask_logits", logits, &joined, FORWARD_TOLERANCE);

    for (image, own) in model.predict(batch.tensor("batch_input").to_tensor(&device), &infos).unwrap().into_iter().enumerate() {
        let tensor = |name: &str| case.tensor(&format!("{name}{image}"));
        let boxes: Vec<[f32; 4]> = own.iter().map(|found| found.bbox).collect();
        comparison.check_values(&format!("det_boxes{image}"), &[boxes.len(), 4], &flat(&boxes), tensor("det_boxes"), FORWARD_TOLERANCE);
        let scores: Vec<f64> = own.iter().map(|found| f64::from(found.score)).collect();
        comparison.check_values(&format!("det_scores{image}"), &[scores.len()], &scores, tensor("det_scores"), FORWARD_TOLERANCE);
        let labels: Vec<f64> = own.iter().map(|found| found.category as f64).collect();
        assert_equal(&format!("det_labels{image}"), &labels, tensor("det_labels"));
        let pasted: Vec<f64> = own
            .iter()
            .flat_map(|found| found.mask.as_ref().expect("every detection has a mask").to_bits().as_slice().to_vec())
            .map(|bit| f64::from(u8::from(bit)))
            .collect();
        let expected = tensor("det_masks");
        assert_eq!(expected.shape[1..], infos[image].original, "masks have the size of the file");
        let flipped = pasted.iter().zip(&expected.values).filter(|(a, e)| a != e).count();
        println!("maskrcnn/detections image {image}: {flipped} of {} mask pixels differ", pasted.len());
        assert!(pasted.len() == expected.values.len() && flipped as f64 <= FLIPPED_PIXELS * pasted.len() as f64, "det_masks{image}");
    }
    comparison.finish();
}

/// The sampler of the manifest: evenly strided over the candidates.
struct Strided;

impl Choose for Strided {
    fn choose(&mut self, candidates: &[usize], count: usize) -> Vec<usize> {
        (0..count).map(|i| candidates[i * candidates.len() / count]).collect()
    }
}

fn truths(case: &Fixture) -> Vec<ImageTruth> {
    (0..)
        .map_while(|image| {
            let objects = boxes(case.get(&format!("gt_boxes{image}"))?);
            let bitmaps = case.tensor(&format!("gt_bitmaps{image}"));
            let [_, height, width] = bitmaps.shape[..] else { panic!("gt_bitmaps{image}") };
            let bits = bitmaps.to_u8();
            let labels = indices(case.tensor(&format!("gt_labels{image}")));
            let instances = objects.into_iter().zip(labels).zip(bits.chunks_exact(height * width)).map(|((bbox, category), bits)| {
                Instance { bbox, category, crowd: false, mask: Some(instance_mask(bits, [height, width])) }
            });
            Some(ImageTruth { size: [height, width], instances: instances.collect(), crowds: Vec::new() })
        })
        .collect()
}

#[test]
fn what_a_training_step_samples_is_what_mmdetection_samples() {
    let case = Fixture::read("maskrcnn", "train");
    let device = tests::device();
    let model = model(&device);
    let truth = truths(&case);
    let levels = model.pyramid(case.tensor("batch_input").to_tensor(&device));
    let rpn = model.rpn_head.forward(&levels);
    let mut comparison = Comparison::new("maskrcnn/train (sampling)");

    let targets = model.rpn_targets(&rpn, &truth, &mut Strided);
    let sampled: usize = targets.iter().map(Vec::len).sum();
    assert_eq!(sampled as f64, number(&case.manifest["rpn_avg_factor"]), "sampled anchors");
    for (level, [height, width]) in rpn.sizes().into_iter().enumerate() {
        let count = height * width * model.anchors().per_cell();
        let tensor = |part: &str| case.tensor(&format!("rpn_{part}{level}"));
        let (mut labels, mut weights) = (vec![1.0; truth.len() * count], vec![0.0; truth.len() * count]);
        let (mut offsets, mut offset_weights) = (vec![0.0; truth.len() * count * 4], vec![0.0; truth.len() * count * 4]);
        for (image, anchors) in targets.iter().enumerate() {
            for anchor in anchors.iter().filter(|anchor| anchor.level == level) {
                let at = image * count + anchor.index;
                weights[at] = 1.0;
                if let Some(target) = anchor.target {
                    labels[at] = 0.0;
                    for part in 0..4 {
                        offsets[at * 4 + part] = f64::from(target[part]);
                        offset_weights[at * 4 + part] = 1.0;
                    }
                }
            }
        }
        assert_equal(&format!("rpn_labels{level}"), &labels, tensor("labels"));
        assert_equal(&format!("rpn_label_weights{level}"), &weights, tensor("label_weights"));
        assert_equal(&format!("rpn_bbox_weights{level}"), &offset_weights, tensor("bbox_weights"));
        let expected = tensor("bbox_targets");
        comparison.check_values(&format!("rpn_bbox_targets{level}"), &expected.shape, &offsets, expected, FORWARD_TOLERANCE);
    }

    let proposals = model.train_proposals(&rpn, &truth);
    let samples = model.sample_rois(&proposals, &truth, &mut Strided);
    let (mut rois, mut labels, mut offsets, mut offset_weights, mut masks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let background = model.roi_head.bbox_head.num_classes() as f64;
    let canvas = [case.tensor("batch_input").shape[2], case.tensor("batch_input").shape[3]];
    let side = case.tensor("mask_targets").shape[1];
    for (image, (sample, truth)) in samples.iter().zip(&truth).enumerate() {
        let own = &proposals[image];
        let name = format!("train_proposals{image}");
        comparison.check_values(&name, &[own.boxes.len(), 4], &flat(&own.boxes), case.tensor(&name), FORWARD_TOLERANCE);
        let scores: Vec<f64> = own.scores.iter().map(|s| f64::from(*s)).collect();
        let name = format!("train_proposal_scores{image}");
        comparison.check_values(&name, &[scores.len()], &scores, case.tensor(&name), FORWARD_TOLERANCE);
        let same = |name: &str, values: &[usize]| {
            let values: Vec<f64> = values.iter().map(|v| *v as f64).collect();
            assert_equal(&format!("{name}{image}"), &values, case.tensor(&format!("{name}{image}")));
        };
        same("roi_pos_inds", &sample.sampled.positives);
        same("roi_neg_inds", &sample.sampled.negatives);
        same("roi_pos_gt", &sample.objects);
        let name = format!("roi_priors{image}");
        comparison.check_values(&name, &[sample.rois.len(), 4], &flat(&sample.rois), case.tensor(&name), FORWARD_TOLERANCE);
        for (index, bbox) in sample.rois.iter().enumerate() {
            rois.push(Roi { image, bbox: *bbox });
            match sample.objects.get(index).map(|object| &truth.instances[*object]) {
                Some(instance) => {
                    labels.push(instance.category as f64);
                    offsets.extend(BoxCoder::BOX_HEAD.encode(*bbox, instance.bbox).map(f64::from));
                    offset_weights.extend([1.0; 4]);
                    let mut patch = instance.mask.as_ref().unwrap().patch();
                    patch.canvas = canvas;
                    masks.extend(mask_target(&patch, *bbox, side).into_iter().map(f64::from));
                }
                None => {
                    labels.push(background);
                    offsets.extend([0.0; 4]);
                    offset_weights.extend([0.0; 4]);
                }
            }
        }
    }
    assert_equal("roi_labels", &labels, case.tensor("roi_labels"));
    assert_equal("roi_label_weights", &vec![1.0; labels.len()], case.tensor("roi_label_weights"));
    assert_equal("roi_bbox_weights", &offset_weights, case.tensor("roi_bbox_weights"));
    let expected = case.tensor("roi_bbox_targets");
    comparison.check_values("roi_bbox_targets", &expected.shape, &offsets, expected, FORWARD_TOLERANCE);
    let expected = case.tensor("mask_targets");
    let flipped = masks.iter().zip(&expected.values).filter(|(a, e)| a != e).count();
    println!("maskrcnn/train: {flipped} of {} pixels of the mask targets differ", expected.values.len());
    assert!(masks.len() == expected.values.len() && flipped as f64 <= FLIPPED_PIXELS * masks.len() as f64, "mask_targets");
    let output = model.roi_head.boxes(&levels, &rois);
    comparison.check("train_cls_score", output.logits, case.tensor("train_cls_score"), FORWARD_TOLERANCE);
    comparison.check("train_bbox_pred", output.deltas, case.tensor("train_bbox_pred"), FORWARD_TOLERANCE);
    comparison.finish();
}

#[test]
fn a_training_step_has_the_official_losses_and_gradients() {
    let case = Fixture::read("maskrcnn", "train");
    let device = tests::device().autodiff();
    let model = model(&device);
    let (images, truth) = (case.tensor("batch_input").to_tensor(&device), truths(&case));
    let rpn = model.rpn_head.forward(&model.pyramid(images.clone()));
    let of_levels = model.rpn_head.loss(&rpn, &model.rpn_targets(&rpn, &truth, &mut Strided));
    let loss = model.loss(images, &truth, &mut Strided);
    let scalar = |t: &Tensor<1>| f64::from(t.clone().into_scalar::<f32>());
    let mut comparison = Comparison::new("maskrcnn/train");
    let (expected, levels) = (&case.manifest["losses"], &case.manifest["losses_per_level"]);
    for (name, terms) in [("loss_rpn_cls", &of_levels.objectness), ("loss_rpn_bbox", &of_levels.boxes)] {
        let expected = levels[name].as_array().unwrap();
        assert_eq!(terms.len(), expected.len(), "{name}: levels");
        for (level, (term, expected)) in terms.iter().zip(expected).enumerate() {
            comparison.check_scalar(&format!("{name} of level {level}"), scalar(term), number(expected), FORWARD_TOLERANCE);
        }
    }
    comparison.check_scalar("loss", scalar(&loss.total), number(&expected["loss"]), FORWARD_TOLERANCE);
    let names: Vec<&str> = loss.parts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"]);
    for (name, part) in &loss.parts {
        comparison.check_scalar(name, scalar(part), number(&expected[name]), FORWARD_TOLERANCE);
    }
    let [(name, accuracy)] = &loss.accuracies[..] else { panic!("one accuracy") };
    comparison.check_scalar(name, *accuracy, number(&expected["acc"]), FORWARD_TOLERANCE);
    let gradients = loss.total.backward();
    let expected = case.with_prefix("g.");
    check_gradients(&mut comparison, &model, official_key, &gradients, &expected);
    comparison.finish();
}

#[test]
fn an_mmdetection_checkpoint_loads_strictly() {
    let device = tests::device();
    assert_eq!(state_dict_of(&load(&checkpoint(), &device), &official_key), state_dict_of(&model(&device), &official_key));
}

#[test]
fn complexity_equals_the_official_count_for_every_published_model() {
    let path = fixtures_root().join("complexity.json");
    let document: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut compared = 0;
    for (name, expected) in document["detection_1280x800"].as_object().unwrap() {
        let preset = match (name.split('/').next(), name.rsplit('_').next()) {
            (Some("vssm1"), Some("tiny")) => "vmamba_tiny_s1l8",
            (Some("vssm1"), Some("tiny1")) => "vmamba_tiny_s2l5",
            (Some("vssm1"), Some("small")) => "vmamba_small_s2l15",
            (Some("vssm1"), Some("base")) => "vmamba_base_s2l15",
            (Some("vssm"), Some("tiny")) => "vanilla_vmamba_tiny",
            (Some("vssm"), Some("small")) => "vanilla_vmamba_small",
            (Some("vssm"), Some("base")) => "vanilla_vmamba_base",
            // Other backbones.
            _ => continue,
        };
        let cost = MaskRcnnConfig::on(VmambaConfig::preset(preset.parse().unwrap()), 80).complexity([800, 1280]);
        assert_eq!(cost.params, expected["params"].as_u64().unwrap(), "{name}: parameters");
        assert_eq!(cost.flops(), expected["flops"].as_u64().unwrap(), "{name}: FLOPs, by operation {:?}", cost.by_op);
        compared += 1;
    }
    assert!(compared >= 7, "only {compared} models were compared");
}
