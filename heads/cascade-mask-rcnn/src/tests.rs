//! The cascade against slow references, and what holds for all of them.

use std::collections::BTreeMap;

use burn::prelude::*;
use burn::tensor::{Distribution, TensorData};
use proptest::prelude::*;
use vmamba::checkpoint::{Checkpoint, StateDict, Weights, save_checkpoint, state_dict_of};
use vmamba::zoo::{self, Backbone, BackboneConfig};
use vmamba::{Dims, VmambaConfig};
use vmamba_detection::{
    BoxHeadLayers, BoxOutput, Detector, ImageInfo, ImageTruth, Proposals, RandomChoice, RoiBatch, official_key, rois_of,
};
use vmamba_types::Instance;

use crate::config::{CascadeMaskRcnnConfig, HeadsConfig, MaskHeads};
use crate::load::num_classes;
use crate::model::CascadeMaskRcnn;

/// A small cascade with either kind of box head.
fn config(heads: HeadsConfig, num_classes: usize) -> CascadeMaskRcnnConfig {
    let backbone = VmambaConfig { depths: vec![1; 2], dims: Dims::Doubling(8), out_indices: vec![0, 1], ..VmambaConfig::default() };
    let mut config = CascadeMaskRcnnConfig { backbone: backbone.into(), num_classes, heads };
    config.heads.fpn.channels = 4;
    config.heads.rpn.channels = 4;
    config.heads.rpn.train.max_per_image = 20;
    config.heads.rpn.test.max_per_image = 20;
    for stage in &mut config.heads.stages {
        (stage.box_head.channels, stage.box_head.roi_size) = (8, 2);
        if let BoxHeadLayers::Shared4Conv1Fc { channels, .. } = &mut stage.box_head.layers {
            *channels = 4;
        }
    }
    (config.heads.mask_head.channels, config.heads.mask_head.roi_size, config.heads.mask_head.num_convs) = (4, 2, 1);
    config
}

fn small() -> CascadeMaskRcnnConfig {
    config(HeadsConfig::published(), 3)
}

const SIZE: [usize; 2] = [64, 96];

fn images(device: &Device) -> Tensor<4> {
    device.seed(3);
    Tensor::random([2, 3, SIZE[0], SIZE[1]], Distribution::Normal(0.0, 1.0), device)
}

fn infos() -> [ImageInfo; 2] {
    [ImageInfo::new([32, 48], SIZE), ImageInfo::new([30, 48], [60, 96])]
}

fn truth(objects: usize) -> Vec<ImageTruth> {
    let instance = |index: usize| {
        let shift = 10.0 * index as f32;
        Instance { bbox: [4.0 + shift, 6.0, 34.0 + shift, 50.0], category: index % 3, crowd: false, mask: None }
    };
    infos().iter().map(|info| ImageTruth { size: info.size, instances: (0..objects).map(instance).collect(), crowds: Vec::new() }).collect()
}

fn rows(values: &Tensor<2>) -> Vec<Vec<f32>> {
    let columns = values.dims()[1];
    values.to_data().iter::<f32>().collect::<Vec<_>>().chunks_exact(columns).map(<[f32]>::to_vec).collect()
}

/// The slow reference of a refinement as the most probable class, one RoI at a time.
fn refined(config: &CascadeMaskRcnnConfig, stage: usize, roi: [f32; 4], logits: &[f32], deltas: &[f32], image: [usize; 2]) -> [f32; 4] {
    let head = &config.heads.stages[stage].box_head;
    let classes = config.num_classes;
    let best = (0..classes).fold(0, |best, class| if logits[class] > logits[best] { class } else { best });
    let first = if head.reg_class_agnostic { 0 } else { 4 * best };
    head.coder.decode(roi, std::array::from_fn(|part| deltas[first + part]), Some(image))
}

#[test]
fn prediction_follows_the_definition_one_image_and_stage_at_a_time() {
    for heads in [HeadsConfig::published(), HeadsConfig::shared_2fc()] {
        let config = config(heads, 3);
        let device = Device::flex();
        device.seed(1);
        let model = config.init(&device);
        let levels = model.pyramid(images(&device));
        let proposals = model.test_proposals(&model.rpn_head.forward(&levels), &infos());
        let sizes = infos().map(|info| info.size);
        let (boxes, output) = model.roi_head.cascade(&levels, &proposals, &sizes).unwrap();
        let mut begin = 0;
        for (image, own) in proposals.iter().enumerate() {
            let mut rois = own.boxes.clone();
            let mut sum = vec![vec![0.0_f32; config.num_classes + 1]; rois.len()];
            let mut last = Vec::new();
            for stage in 0..3 {
                let alone: Vec<_> = rois.iter().map(|bbox| vision_ops::Roi { image, bbox: *bbox }).collect();
                let BoxOutput { logits, deltas } = model.roi_head.boxes(stage, &levels, &alone);
                let (logits, deltas) = (rows(&logits), rows(&deltas));
                for (sum, own) in sum.iter_mut().zip(&logits) {
                    sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
                }
                if stage < 2 {
                    let each = rois.iter().zip(logits.iter().zip(&deltas));
                    rois = each.map(|(roi, (logits, deltas))| refined(&config, stage, *roi, logits, deltas, sizes[image])).collect();
                }
                last = deltas;
            }
            assert_eq!(boxes[image].len(), rois.len());
            let range = begin..begin + rois.len();
            begin = range.end;
            let together = output.rows(range);
            let close = |a: f32, b: f32| (a - b).abs() <= 1e-4 * b.abs().max(1.0);
            for (row, (logits, deltas)) in rows(&together.logits).iter().zip(rows(&together.deltas)).enumerate() {
                assert!(boxes[image][row].iter().zip(rois[row]).all(|(a, b)| close(*a, b)), "boxes of image {image}, row {row}");
                assert!(logits.iter().zip(&sum[row]).all(|(a, b)| close(*a, b / 3.0)), "logits of image {image}, row {row}");
                assert!(deltas.iter().zip(&last[row]).all(|(a, b)| close(*a, *b)), "deltas of image {image}, row {row}");
            }
        }
    }
}

#[test]
fn mask_probabilities_are_the_mean_over_the_heads() {
    let config = small();
    let device = Device::flex();
    device.seed(2);
    let model = config.init(&device);
    let levels = model.pyramid(images(&device));
    let rois = rois_of([vec![[2.0, 3.0, 40.0, 50.0]], vec![[10.0, 5.0, 90.0, 60.0]]].into_iter().map(Vec::into_iter));
    let classes = [2, 0];
    let together = model.roi_head.mask_probabilities(&levels, &rois, &classes);
    let mut slow = Tensor::<3>::zeros(together.dims(), &device);
    for head in 0..3 {
        let mut alone = model.clone();
        alone.roi_head.mask_head = vec![model.roi_head.mask_head[head].clone()];
        slow = slow + alone.roi_head.mask_probabilities(&levels, &rois, &classes) / 3.0;
    }
    assert!((together - slow).abs().max().into_scalar::<f32>() < 1e-6);
}

/// Every parameter of `model` without a gradient of `loss`.
fn without_gradient(model: &CascadeMaskRcnn<Backbone>, loss: Tensor<1>) -> Vec<String> {
    struct Visitor<'a>(&'a burn::tensor::Gradients, Vec<String>, Vec<String>);
    impl burn::module::ModuleVisitor for Visitor<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.1.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.1.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
            if param.val().is_require_grad() && param.val().grad(self.0).is_none() {
                self.2.push(self.1.join("."));
            }
        }
    }
    let gradients = loss.backward();
    let mut visitor = Visitor(&gradients, Vec::new(), Vec::new());
    model.visit(&mut visitor);
    visitor.2
}

#[test]
fn every_parameter_has_a_gradient_with_and_without_objects() {
    let device = Device::flex().autodiff();
    for objects in [0, 2] {
        for mask_heads in [MaskHeads::PerStage, MaskHeads::Shared] {
            let mut config = small();
            config.heads.mask_heads = mask_heads;
            device.seed(4);
            let model = config.init(&device);
            let loss = model.loss(images(&device), &truth(objects), &mut RandomChoice::new(1));
            assert!(loss.total.clone().into_scalar::<f32>().is_finite());
            let names: Vec<&str> = loss.parts.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names[..4], ["loss_rpn_cls", "loss_rpn_bbox", "s0.loss_cls", "s0.loss_bbox"]);
            assert_eq!((names.len(), loss.accuracies.len()), (11, 3));
            if objects == 0 {
                for stage in 0..3 {
                    assert_eq!(loss.part(&format!("s{stage}.loss_bbox")).unwrap().clone().into_scalar::<f32>(), 0.0);
                }
            }
            assert_eq!(without_gradient(&model, loss.total), Vec::<String>::new(), "{objects} objects, {mask_heads:?}");
        }
    }
}

#[test]
fn images_without_proposals_have_no_detections_and_a_finite_loss() {
    let config = small();
    let device = Device::flex().autodiff();
    device.seed(5);
    let model = config.init(&device);
    let levels = model.pyramid(images(&device));
    let sizes = infos().map(|info| info.size);
    let none = vec![Proposals::default(); 2];
    assert!(model.roi_head.cascade(&levels, &none, &sizes).is_none());
    assert_eq!(model.detect_boxes(&levels, &none, &infos()).unwrap(), vec![Vec::new(); 2]);
    assert_eq!(model.detect_masks(&levels, &vec![Vec::new(); 2], &infos()).unwrap(), vec![Vec::new(); 2]);
    let one = vec![Proposals { boxes: vec![[1.0, 2.0, 30.0, 40.0]], scores: vec![0.5] }, Proposals::default()];
    let found = model.detect_boxes(&levels, &one, &infos()).unwrap();
    assert!(found.len() == 2 && found[1].is_empty());
    for loss in model.roi_head.loss(&levels, &none, &truth(0), SIZE, &mut RandomChoice::new(0)) {
        assert_eq!((loss.cls + loss.bbox + loss.mask).into_scalar::<f32>(), 0.0);
    }
}

#[test]
fn ground_truth_boxes_are_not_refined_and_positives_are_refined_as_their_true_class() {
    let config = small();
    let device = Device::flex();
    device.seed(6);
    let model = config.init(&device);
    let truth = truth(1);
    let near = [5.0, 7.0, 35.0, 50.0];
    let far = [60.0, 20.0, 90.0, 50.0];
    let samples = model.roi_head.sample(0, &[vec![near, far], vec![far]], &truth, &mut RandomChoice::new(0));
    let batch = RoiBatch::new(&samples, &truth);
    assert_eq!(samples[0].rois, [truth[0].instances[0].bbox, near, far]);
    let classes = config.num_classes;
    // The logits prefer class 2, the object is of class 0; each class moves boxes by its own number of widths.
    let logits: Vec<f32> = batch.rois.iter().flat_map(|_| [0.0, 0.0, 1.0, 5.0]).collect();
    let deltas: Vec<f32> = batch.rois.iter().flat_map(|_| (0..classes).flat_map(|class| [class as f32 + 1.0, 0.0, 0.0, 0.0])).collect();
    let count = batch.rois.len();
    let output = BoxOutput {
        logits: Tensor::from_data(TensorData::new(logits, [count, classes + 1]), &device),
        deltas: Tensor::from_data(TensorData::new(deltas, [count, 4 * classes]), &device),
    };
    let next = model.roi_head.refine_samples(0, &output, &samples, &truth);
    let coder = config.heads.stages[0].box_head.coder;
    let moved = |bbox, class: f32| coder.decode(bbox, [class + 1.0, 0.0, 0.0, 0.0], Some(SIZE));
    assert_eq!(next[0], [moved(near, 0.0), moved(far, 2.0)]);
    assert_eq!(next[1], [coder.decode(far, [3.0, 0.0, 0.0, 0.0], Some([60, 96]))]);
}

#[test]
fn the_published_heads_on_swin_and_convnext_have_the_published_parameters_and_flops() {
    // Million parameters and GFLOPs at 800x1280 from the tables of both detection repositories, which round them.
    for (backbone, parameters, gflops) in
        [("swin_tiny", 86.0, 745.0), ("swin_base", 145.0, 982.0), ("convnext_tiny", 86.0, 741.0), ("convnext_base", 146.0, 964.0)]
    {
        let cost = CascadeMaskRcnnConfig::on(BackboneConfig::named(backbone).unwrap(), 80).complexity([800, 1280]);
        let (own, own_flops) = (cost.params as f64 / 1e6, cost.flops() as f64 / 1e9);
        println!("{backbone}: {own:.2} M parameters, {own_flops:.2} GFLOPs, by operation {:?}", cost.by_op);
        assert!((own - parameters).abs() < 1.0, "{backbone}: {own} million parameters, published {parameters}");
        assert!((own_flops - gflops).abs() < 0.01 * gflops, "{backbone}: {own_flops} GFLOPs, published {gflops}");
    }
}

#[test]
fn the_parameters_of_the_model_are_those_of_its_cost() {
    for mask_heads in [MaskHeads::PerStage, MaskHeads::Shared] {
        for heads in [HeadsConfig::published(), HeadsConfig::shared_2fc()] {
            let mut config = config(heads, 3);
            config.heads.mask_heads = mask_heads;
            let state = state_dict_of(&config.init(&Device::flex()), &official_key);
            // Running statistics are in a checkpoint, but they are not parameters.
            let parameters: usize = state.iter().filter(|(key, _)| !key.contains(".running_")).map(|(_, tensor)| tensor.data.len()).sum();
            assert_eq!(config.complexity(SIZE).params, parameters as u64);
        }
    }
}

#[test]
fn invalid_fields_are_named_with_their_path() {
    type Break = fn(&mut CascadeMaskRcnnConfig);
    let broken: [(&str, Break); 6] = [
        ("num_classes", |config| config.num_classes = 0),
        ("heads.stages", |config| config.heads.stages.clear()),
        ("heads.stages.1.roi.assigner.positive", |config| config.heads.stages[1].roi.assigner.positive = 1.5),
        ("heads.stages.2.box_head.coder.target_stds", |config| config.heads.stages[2].box_head.coder.target_stds[3] = 0.0),
        ("heads.stages.0.loss_weight", |config| config.heads.stages[0].loss_weight = f64::NAN),
        ("heads.mask_head.channels", |config| config.heads.mask_head.channels = 0),
    ];
    for (field, broken) in broken {
        let mut config = small();
        broken(&mut config);
        let error = config.try_init(&Device::flex()).unwrap_err().to_string();
        assert!(error.starts_with(field), "{field}: {error}");
    }
}

#[test]
fn a_configuration_written_to_toml_reads_back() {
    for heads in [HeadsConfig::published(), HeadsConfig::shared_2fc()] {
        let text = toml::to_string(&heads).unwrap();
        assert_eq!(toml::from_str::<HeadsConfig>(&text).unwrap(), heads, "{text}");
    }
    assert_eq!(toml::from_str::<HeadsConfig>("").unwrap(), HeadsConfig::published());
    assert!(toml::from_str::<HeadsConfig>("stage = []").unwrap_err().to_string().contains("stage"));
}

#[test]
fn the_base_of_the_published_configurations_holds_the_published_heads() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/_base_/cascade_mask_rcnn.toml");
    let document: toml::Table = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let heads: HeadsConfig = document["model"]["heads"].clone().try_into().unwrap();
    assert_eq!(heads, HeadsConfig::published());
}

/// Saves a state to a file; the folder lives as long as the first value.
fn file(state: &StateDict) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    save_checkpoint(&path, state, None, &BTreeMap::new(), &BTreeMap::new()).unwrap();
    (folder, path)
}

#[test]
fn a_cascade_for_other_classes_gives_everything_but_the_last_layers() {
    let device = Device::flex();
    let other = config(HeadsConfig::published(), 5);
    let state = state_dict_of(&other.init(&device), &official_key);
    let (_folder, path) = file(&state);
    assert_eq!(num_classes(&Checkpoint::read(&path).unwrap(), Weights::Validated).unwrap(), Some(5));
    let (model, report) = small().init_from(&path, &device).unwrap();
    assert_eq!(report.allowed_shape.len(), 18, "weight and bias of three layers in three stages: {report}");
    let own = state_dict_of(&model, &official_key);
    for key in ["rpn_head.rpn_cls.bias", "roi_head.bbox_head.2.shared_convs.3.bn.running_var", "roi_head.mask_head.1.convs.0.conv.weight"] {
        assert_eq!(own.get(key), state.get(key), "{key}");
        assert!(own.get(key).is_some(), "{key}");
    }
    let error = small().load(&path, &device).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("roi_head.bbox_head.1.fc_cls"), "{error}");
    assert_eq!(state_dict_of(&other.load(&path, &device).unwrap().0, &official_key), state);
}

#[test]
fn classifiers_and_other_detectors_give_the_backbone() {
    let device = Device::flex();
    let config = small();
    let classifier = state_dict_of(&config.backbone.try_init_classifier(7, &device).unwrap(), &zoo::key);
    let (_folder, path) = file(&classifier);
    let (model, _) = config.init_from(&path, &device).unwrap();
    let key = "layers.0.blocks.0.op.in_proj.weight";
    assert_eq!(state_dict_of(&model, &official_key).get(&format!("backbone.{key}")), classifier.get(key));

    let mut detector = StateDict::new();
    for (key, tensor) in state_dict_of(&config.init(&device), &official_key).iter() {
        // A Mask R-CNN's keys have no stage.
        detector.insert(key.replace("_head.0.", "_head."), tensor.clone());
    }
    let (_folder, path) = file(&detector);
    let (model, report) = config.init_from(&path, &device).unwrap();
    let key = format!("backbone.{key}");
    assert_eq!(state_dict_of(&model, &official_key).get(&key), detector.get(&key));
    assert!(report.ignored.iter().any(|key| key == "roi_head.bbox_head.fc_cls.weight"), "{report}");
    assert!(config.load(&path, &device).is_err());
}

#[test]
fn a_shared_mask_head_reads_equal_copies_and_refuses_others() {
    let device = Device::flex();
    let mut config = small();
    config.heads.mask_heads = MaskHeads::Shared;
    let own = state_dict_of(&config.init(&device), &official_key);
    assert!(own.keys().all(|key| !key.starts_with("roi_head.mask_head.1.")));
    let mut listed = own.clone();
    for (key, tensor) in own.iter() {
        if let Some(rest) = key.strip_prefix("roi_head.mask_head.0.") {
            listed.insert(format!("roi_head.mask_head.1.{rest}"), tensor.clone());
            listed.insert(format!("roi_head.mask_head.2.{rest}"), tensor.clone());
        }
    }
    let (_folder, path) = file(&listed);
    assert_eq!(state_dict_of(&config.load(&path, &device).unwrap().0, &official_key), own);
    listed.get_mut("roi_head.mask_head.2.conv_logits.bias").unwrap().data[0] += 1.0;
    let (_folder, path) = file(&listed);
    let error = config.load(&path, &device).unwrap_err().to_string();
    assert!(error.contains("roi_head.mask_head.2.conv_logits.bias"), "{error}");
}

#[test]
fn observation_names_every_module_in_the_order_of_the_forward_pass() {
    let device = Device::flex();
    let model = small().init(&device);
    let mut names = Vec::new();
    model.observe(images(&device), &mut |name, index, output| names.push((name.to_owned(), index, output.dims()[0])));
    names.dedup_by(|a, b| a.0 == b.0);
    assert_eq!(
        names.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(),
        ["backbone", "neck", "rpn_head.rpn_cls", "rpn_head.rpn_reg"]
    );
    assert!(names.iter().all(|(_, _, batch)| *batch == 2));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn refined_boxes_lie_inside_the_image(seed in any::<u64>(), scale in 0.1_f32..20.0) {
        let config = small();
        let device = Device::flex();
        let model = config.init(&device);
        device.seed(seed);
        let boxes = vec![vec![[3.0, 4.0, 30.0, 40.0], [0.0, 0.0, 96.0, 64.0]], Vec::new()];
        let random = |columns: usize| Tensor::<2>::random([2, columns], Distribution::Normal(0.0, 1.0), &device) * scale;
        let output = BoxOutput { logits: random(4), deltas: random(12) };
        let refined = model.roi_head.refine(1, &output, &boxes, &[SIZE; 2]);
        prop_assert_eq!(refined[1].len(), 0);
        for [x0, y0, x1, y1] in &refined[0] {
            prop_assert!(0.0 <= *x0 && x0 <= x1 && *x1 <= 96.0 && 0.0 <= *y0 && y0 <= y1 && *y1 <= 64.0);
        }
    }
}
