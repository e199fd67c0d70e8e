//! Cascade Mask R-CNN against mmdetection 3.3.0, run by `generate.py` beside this file: every stage of prediction and of a training step,
//! detections, losses, gradients and running statistics.
//!
//! Weights and images follow from their names (`tests::formula`); the fixtures hold results.

use std::path::Path;

use burn::prelude::*;
use burn::tensor::TensorData;
use serde_json::Value;
use tests::{Comparison, FORWARD_TOLERANCE, Fixture, FixtureTensor, GRADIENT_TOLERANCE, check_gradients, formula};
use vision_ops::Roi;
use vmamba::baselines::ResnetConfig;
use vmamba::checkpoint::{LoadOptions, StateDict, StateTensor, load_into, state_dict_of};
use vmamba::zoo::Backbone;
use vmamba_cascade::{CascadeMaskRcnn, CascadeMaskRcnnConfig, HeadsConfig, MaskHeads};
use vmamba_detection::{
    BoxCoder, BoxHeadLayers, BoxLoss, ConvNorm, DeltaLoss, Detector, ImageInfo, ImageTruth, MaxIouAssigner, ProposalConfig, RandomChoice,
    RandomSampler, RoiBatch, official_key, rois_of,
};
use vmamba_types::{BitMask, Instance, InstanceMask, Rle};

/// Share of mask pixels that may fall on the other side of the threshold by the last bit of their probability.
const FLIPPED_PIXELS: f64 = 1e-3;

/// Tolerance of deltas, logits and masks, relative to the largest value: the RoIs of a stage differ from mmdetection's by rounding, which
/// RoIAlign and the next stage amplify. The reference itself moves by 1.2e-5 between float32 and float64.
const STAGE_TOLERANCE: f64 = FORWARD_TOLERANCE;

/// The cases of `generate.py`.
const CASES: [&str; 3] = ["shared_2fc", "conv_fc", "shared_mask"];

struct Case {
    fixture: Fixture,
    config: CascadeMaskRcnnConfig,
}

fn size(value: &Value) -> usize {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no size")) as usize
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

fn pair(value: &Value) -> [usize; 2] {
    [size(&value[0]), size(&value[1])]
}

fn assigner(config: &Value) -> MaxIouAssigner {
    MaxIouAssigner {
        positive: number(&config["pos_iou_thr"]) as f32,
        negative: number(&config["neg_iou_thr"]) as f32,
        minimum: number(&config["min_pos_iou"]) as f32,
        match_low_quality: config["match_low_quality"].as_bool().unwrap(),
        ignore_crowd: None,
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

/// Translates mmdetection's configuration of a case. It starts from our heads with the box head of the case, asserts that thresholds, coders
/// and losses of the case equal ours, and replaces the sizes of layers and the numbers of boxes.
fn config(manifest: &Value) -> CascadeMaskRcnnConfig {
    let model = &manifest["config"];
    let (roi, rpn, train, test) = (&model["roi_head"], &model["rpn_head"], &model["train_cfg"], &model["test_cfg"]);
    let first = &roi["bbox_head"][0];
    let mut heads = match first["type"].as_str().unwrap() {
        "Shared2FCBBoxHead" => HeadsConfig::shared_2fc(),
        "ConvFCBBoxHead" => HeadsConfig::published(),
        other => panic!("no head for {other}"),
    };
    assert_eq!(heads.rpn.loss, DeltaLoss::SmoothL1 { beta: number(&rpn["loss_bbox"]["beta"]) as f32 });
    assert_eq!(heads.rpn.allowed_border, Some(number(&train["rpn"]["allowed_border"]) as f32));
    heads.fpn.channels = size(&model["neck"]["out_channels"]);
    heads.rpn.channels = size(&rpn["feat_channels"]);
    heads.rpn.sampler = sampler(&train["rpn"]["sampler"]);
    assert_eq!(heads.rpn.assigner, assigner(&train["rpn"]["assigner"]));
    (heads.rpn.train, heads.rpn.test) = (proposals(&train["rpn_proposal"]), proposals(&test["rpn"]));
    assert_eq!(heads.stages.len(), list(&roi["bbox_head"]).len());
    for (index, stage) in heads.stages.iter_mut().enumerate() {
        let (own, training) = (&roi["bbox_head"][index], &train["rcnn"][index]);
        let stds: Vec<f32> = list(&own["bbox_coder"]["target_stds"]).iter().map(|value| number(value) as f32).collect();
        assert_eq!(stage.box_head.coder, BoxCoder::with_stds(stds.try_into().unwrap()));
        assert_eq!(stage.roi.assigner, assigner(&training["assigner"]));
        assert_eq!(stage.loss_weight, number(&roi["stage_loss_weights"][index]));
        assert_eq!(stage.box_head.reg_class_agnostic, own["reg_class_agnostic"].as_bool().unwrap());
        assert_eq!(stage.box_head.loss_weight, number(&own["loss_bbox"]["loss_weight"]));
        let loss = match own["loss_bbox"]["type"].as_str().unwrap() {
            "SmoothL1Loss" => BoxLoss::SmoothL1 { beta: number(&own["loss_bbox"]["beta"]) as f32 },
            "GIoULoss" => BoxLoss::Giou,
            other => panic!("no loss for {other}"),
        };
        assert_eq!(stage.box_head.loss, loss);
        stage.roi.sampler = sampler(&training["sampler"]);
        stage.box_head.channels = size(&own["fc_out_channels"]);
        if let BoxHeadLayers::Shared4Conv1Fc { channels, norm } = &mut stage.box_head.layers {
            *channels = size(&own["conv_out_channels"]);
            assert_eq!(*norm, ConvNorm::BatchNorm);
        }
    }
    heads.mask_head.num_convs = size(&roi["mask_head"]["num_convs"]);
    heads.mask_head.channels = size(&roi["mask_head"]["conv_out_channels"]);
    if manifest["share_mask_head"].as_bool().unwrap() {
        heads.mask_heads = MaskHeads::Shared;
    }
    heads.test.max_per_image = size(&test["rcnn"]["max_per_img"]);
    let width = size(&model["backbone"]["base_channels"]);
    let backbone = ResnetConfig { width, depths: vec![1; 4], ..ResnetConfig::resnet50() };
    CascadeMaskRcnnConfig { backbone: backbone.into(), num_classes: size(&first["num_classes"]), heads }
}

impl Case {
    fn read(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity_cascade/fixtures");
        let fixture = Fixture::read(folder.to_str().unwrap(), name);
        let config = config(&fixture.manifest);
        Self { fixture, config }
    }

    /// The weights of the case under mmdetection's keys.
    fn weights(&self) -> StateDict {
        let mut state = StateDict::new();
        for (key, shape) in self.fixture.manifest["keys"].as_object().unwrap() {
            let shape: Vec<usize> = list(shape).iter().map(size).collect();
            // A shared mask head has the weights of its first key.
            let name = match key.strip_prefix("roi_head.mask_head.").and_then(|rest| rest.split_once('.')) {
                Some((_, rest)) if self.config.heads.mask_heads == MaskHeads::Shared => format!("roi_head.mask_head.0.{rest}"),
                _ => key.clone(),
            };
            let factor = self.fixture.manifest["scales"].get(key).map_or(1.0, number) as f32;
            let data = formula::parameter(&name, &shape).into_iter().map(|value| value * factor).collect();
            state.insert(key, StateTensor { shape, data });
        }
        state
    }

    fn model(&self, device: &Device) -> CascadeMaskRcnn<Backbone> {
        let mut state = self.weights();
        if self.config.heads.mask_heads == MaskHeads::Shared {
            let copies: Vec<String> = ["roi_head.mask_head.1.", "roi_head.mask_head.2."]
                .into_iter()
                .flat_map(|prefix| state.keys().filter(|key| key.starts_with(prefix)).map(str::to_owned).collect::<Vec<_>>())
                .collect();
            for key in copies {
                state.remove(&key);
            }
        }
        let options = LoadOptions::new().rename(self.config.backbone.rename());
        load_into(self.config.init(device), &official_key, &state, &options).unwrap_or_else(|error| panic!("{error}")).0
    }

    /// The batch `[images, 3, height, width]`, padded with zeros.
    fn images(&self, device: &Device) -> Tensor<4> {
        let manifest = &self.fixture.manifest;
        let [height, width] = pair(&manifest["sizes"][0]);
        let padded = list(&manifest["images"]).iter().zip(list(&manifest["sizes"])).map(|(name, size)| {
            let [own_height, own_width] = pair(size);
            let shape = [1, 3, own_height, own_width];
            let values = formula::values(name.as_str().unwrap(), &shape, 1.0, 0.0);
            let image = Tensor::<4>::from_data(TensorData::new(values, shape), device);
            let batch = Tensor::<4>::zeros([1, 3, height, width], device);
            batch.slice_assign([0..1, 0..3, 0..own_height, 0..own_width], image)
        });
        Tensor::cat(padded.collect(), 0)
    }

    fn infos(&self) -> Vec<ImageInfo> {
        let manifest = &self.fixture.manifest;
        let originals = list(&manifest["originals"]).iter().map(pair);
        originals.zip(list(&manifest["sizes"])).map(|(original, size)| ImageInfo::new(original, pair(size))).collect()
    }

    fn truth(&self) -> Vec<ImageTruth> {
        let of_image = |(image, size): (usize, &Value)| {
            let size = pair(size);
            let tensor = |part: &str| self.fixture.tensor(&format!("truth.{part}{image}"));
            let objects = boxes(tensor("boxes")).into_iter().zip(&tensor("labels").values);
            let masks = bits(tensor("bits"), size[0] * size[1]);
            let instances = objects.zip(masks).map(|((bbox, category), bits)| {
                let mask = InstanceMask::from_rle(Rle::from_bits(&BitMask::new(size[0], size[1], bits)));
                Instance { bbox, category: *category as usize, crowd: false, mask: Some(mask) }
            });
            ImageTruth { size, instances: instances.collect(), crowds: Vec::new() }
        };
        list(&self.fixture.manifest["sizes"]).iter().enumerate().map(of_image).collect()
    }

    /// Compares boxes of an image; their number must be equal.
    fn check_boxes(&self, comparison: &mut Comparison, name: &str, actual: &[[f32; 4]]) {
        let values: Vec<f64> = actual.iter().flatten().map(|value| f64::from(*value)).collect();
        comparison.check_values(name, &[actual.len(), 4], &values, self.fixture.tensor(name), FORWARD_TOLERANCE);
    }

    fn check_rois(&self, comparison: &mut Comparison, name: &str, actual: &[Roi]) {
        let row = |roi: &Roi| std::iter::once(roi.image as f64).chain(roi.bbox.map(f64::from)).collect::<Vec<_>>();
        let values: Vec<f64> = actual.iter().flat_map(row).collect();
        comparison.check_values(name, &[actual.len(), 5], &values, self.fixture.tensor(name), FORWARD_TOLERANCE);
    }

    fn check_equal(&self, name: &str, actual: &[usize]) {
        let expected: Vec<usize> = self.fixture.tensor(name).values.iter().map(|value| *value as usize).collect();
        assert_eq!(actual, expected, "{}: {name}", self.fixture.name);
    }
}

fn boxes(tensor: &FixtureTensor) -> Vec<[f32; 4]> {
    tensor.to_f32().as_chunks::<4>().0.to_vec()
}

/// Masks of `pixels` pixels each from bytes with eight pixels, the first in the highest bit.
fn bits(packed: &FixtureTensor, pixels: usize) -> Vec<Vec<bool>> {
    let bytes = packed.to_u8();
    let all: Vec<bool> = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte & (0x80 >> bit) != 0)).collect();
    all.chunks_exact(pixels).map(<[bool]>::to_vec).collect()
}

#[test]
fn every_key_of_mmdetection_is_a_parameter_and_has_its_shape() {
    for name in CASES {
        let case = Case::read(name);
        let own = state_dict_of(&case.model(&tests::device()), &official_key);
        let mut expected = case.weights();
        if case.config.heads.mask_heads == MaskHeads::Shared {
            let keys: Vec<String> = expected.keys().map(str::to_owned).collect();
            for key in keys.iter().filter(|key| key.starts_with("roi_head.mask_head.") && !key.starts_with("roi_head.mask_head.0.")) {
                expected.remove(key);
            }
        }
        assert_eq!(own.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn every_stage_of_prediction_equals_mmdetections() {
    for name in CASES {
        let case = Case::read(name);
        let device = tests::device();
        let model = case.model(&device);
        let infos = case.infos();
        let sizes: Vec<[usize; 2]> = infos.iter().map(|info| info.size).collect();
        let mut comparison = Comparison::new(format!("{name}/prediction"));
        let levels = model.pyramid(case.images(&device));
        let proposals = model.test_proposals(&model.rpn_head.forward(&levels), &infos);
        let mut own: Vec<Vec<[f32; 4]>> = proposals.iter().map(|image| image.boxes.clone()).collect();
        for (image, own) in own.iter().enumerate() {
            case.check_boxes(&mut comparison, &format!("test.proposals{image}"), own);
        }
        for stage in 0..3 {
            let rois = rois_of(own.iter().map(|image| image.iter().copied()));
            case.check_rois(&mut comparison, &format!("test{stage}.rois"), &rois);
            let output = model.roi_head.boxes(stage, &levels, &rois);
            let tensor = |part: &str| case.fixture.tensor(&format!("test{stage}.{part}"));
            comparison.check(&format!("test{stage}.logits"), output.logits.clone(), tensor("logits"), STAGE_TOLERANCE);
            comparison.check(&format!("test{stage}.deltas"), output.deltas.clone(), tensor("deltas"), STAGE_TOLERANCE);
            if stage < 2 {
                own = model.roi_head.refine(stage, &output, &own, &sizes);
            }
        }

        let found = model.detect_boxes(&levels, &proposals, &infos).unwrap();
        let rois = rois_of(found.iter().map(|own| own.iter().map(|found| found.bbox)));
        let classes: Vec<usize> = found.iter().flatten().map(|found| found.category).collect();
        let probabilities = model.roi_head.mask_probabilities(&levels, &rois, &classes);
        let mut begin = 0;
        for (image, own) in found.iter().enumerate() {
            let boxes: Vec<[f32; 4]> = own.iter().map(|found| found.bbox).collect();
            case.check_boxes(&mut comparison, &format!("test.mask_rois{image}"), &boxes);
            let masks = probabilities.clone().narrow(0, begin, own.len());
            let name = format!("test.mask{image}");
            comparison.check(&name, masks, case.fixture.tensor(&name), STAGE_TOLERANCE);
            begin += own.len();
        }

        for (image, own) in model.predict(case.images(&device), &infos).unwrap().iter().enumerate() {
            let tensor = |part: &str| case.fixture.tensor(&format!("test.{part}{image}"));
            let boxes: Vec<[f32; 4]> = own.iter().map(|found| found.bbox).collect();
            case.check_boxes(&mut comparison, &format!("test.boxes{image}"), &boxes);
            let scores: Vec<f64> = own.iter().map(|found| f64::from(found.score)).collect();
            comparison.check_values(&format!("test.scores{image}"), &[own.len()], &scores, tensor("scores"), FORWARD_TOLERANCE);
            case.check_equal(&format!("test.labels{image}"), &own.iter().map(|found| found.category).collect::<Vec<_>>());
            let pixels = infos[image].original.iter().product();
            let flipped: usize = own
                .iter()
                .zip(bits(tensor("bits"), pixels))
                .map(|(found, expected)| {
                    let mask = found.mask.as_ref().unwrap().to_bits();
                    assert_eq!(mask.size(), infos[image].original, "masks have the size of the file");
                    mask.as_slice().iter().zip(&expected).filter(|(own, expected)| own != expected).count()
                })
                .sum();
            println!("{name} image {image}: {flipped} of {} mask pixels differ", own.len() * pixels);
            assert!(flipped as f64 <= FLIPPED_PIXELS * (own.len() * pixels) as f64, "{name}: masks of image {image}");
        }
        comparison.finish();
    }
}

#[test]
fn every_stage_of_a_training_step_samples_and_refines_as_mmdetection_does() {
    for name in CASES {
        let case = Case::read(name);
        let device = tests::device().autodiff();
        let model = case.model(&device);
        let truth = case.truth();
        let mut comparison = Comparison::new(format!("{name}/training stages"));
        let levels = model.pyramid(case.images(&device));
        let proposals = model.train_proposals(&model.rpn_head.forward(&levels), &truth);
        let mut candidates: Vec<Vec<[f32; 4]>> = proposals.iter().map(|image| image.boxes.clone()).collect();
        for (image, own) in candidates.iter().enumerate() {
            case.check_boxes(&mut comparison, &format!("train.proposals{image}"), own);
        }
        // The samplers want more boxes than there are, so that nothing is drawn.
        let mut choose = RandomChoice::new(0);
        for stage in 0..3 {
            let samples = model.roi_head.sample(stage, &candidates, &truth, &mut choose);
            let batch = RoiBatch::new(&samples, &truth);
            case.check_rois(&mut comparison, &format!("train{stage}.rois"), &batch.rois);
            let background = case.config.num_classes;
            let labels: Vec<usize> = batch.targets.iter().map(|target| target.map_or(background, |target| target.category)).collect();
            case.check_equal(&format!("train{stage}.labels"), &labels);
            for (image, sample) in samples.iter().enumerate() {
                case.check_equal(&format!("train{stage}.objects{image}"), &sample.objects);
            }
            let output = model.roi_head.boxes(stage, &levels, &batch.rois);
            let tensor = |part: &str| case.fixture.tensor(&format!("train{stage}.{part}"));
            comparison.check(&format!("train{stage}.logits"), output.logits.clone(), tensor("logits"), STAGE_TOLERANCE);
            comparison.check(&format!("train{stage}.deltas"), output.deltas.clone(), tensor("deltas"), STAGE_TOLERANCE);
            if stage < 2 {
                candidates = model.roi_head.refine_samples(stage, &output, &samples, &truth);
                for (image, own) in candidates.iter().enumerate() {
                    case.check_boxes(&mut comparison, &format!("train{stage}.refined{image}"), own);
                }
            }
        }
        comparison.finish();
    }
}

#[test]
fn a_training_step_has_mmdetections_losses_gradients_and_running_statistics() {
    for name in CASES {
        let case = Case::read(name);
        let device = tests::device().autodiff();
        let model = case.model(&device);
        let loss = model.loss(case.images(&device), &case.truth(), &mut RandomChoice::new(0));
        let scalar = |value: &Tensor<1>| f64::from(value.clone().into_scalar::<f32>());
        let mut comparison = Comparison::new(format!("{name}/training step"));
        let expected = case.fixture.manifest["losses"].as_object().unwrap();
        let mut compared = 0;
        for (part, value) in expected {
            // The losses of the proposals are listed by level.
            let value = value.as_array().map_or_else(|| number(value), |levels| levels.iter().map(number).sum());
            let actual = if part == "loss" {
                scalar(&loss.total)
            } else if let Some(term) = loss.part(part) {
                scalar(term)
            } else {
                loss.accuracies.iter().find(|(own, _)| own == part).unwrap_or_else(|| panic!("{name}: no part {part}")).1
            };
            comparison.check_scalar(part, actual, value, FORWARD_TOLERANCE);
            compared += 1;
        }
        assert_eq!(compared, 1 + loss.parts.len() + loss.accuracies.len(), "{name}: parts of the loss");

        let gradients = loss.total.backward();
        check_gradients(&mut comparison, &model, official_key, &gradients, &case.fixture.with_prefix("g."));
        let state = state_dict_of(&model, &official_key);
        for (key, expected) in case.fixture.with_prefix("after.") {
            let own = state.get(&key).unwrap_or_else(|| panic!("{name}: no {key}"));
            let values: Vec<f64> = own.data.iter().map(|value| f64::from(*value)).collect();
            comparison.check_values(&format!("after.{key}"), &own.shape, &values, &expected, GRADIENT_TOLERANCE);
        }
        comparison.finish();
    }
}
