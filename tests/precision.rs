//! Networks with bf16 activations: their results equal those in float32 up to the rounding of 8 bits of mantissa, and every weight has a
//! float32 gradient of nearly the same direction. `docs/precision.md` describes the policy.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::{DType, Distribution, Gradients, TensorData};
use mask_rcnn::{HeadsConfig, MaskRcnn, MaskRcnnConfig};
use upernet::{FcnHeadConfig, Segmentor, UperHeadConfig, UperNet, UperNetConfig};
use vmamba::zoo::Backbone;
use vmamba::{Dims, DownsampleVersion, FeaturePyramid, PatchEmbedVersion, VmambaConfig};
use vmamba_detection::{Detector, ImageInfo, ImageTruth, Proposals, RandomChoice, RpnOutput};
use vmamba_types::{Instance, InstanceMask, Rle};

/// Largest difference over the largest value. A rounding to bf16 is off by at most 2^-9 of a value, 0.2 %; the networks round some forty
/// times on the way, and the errors add up like a random walk.
const TOLERANCE: f32 = 0.03;

/// Smallest cosine between the bf16 and the float32 gradient of a weight, and largest relative difference of their lengths. The cosine of
/// unrelated gradients is 0. Rounding switches ReLUs near 0 on and off and flips the signs of L1 terms near 0, and where a sum over an
/// image cancels out, the rounding exceeds the signal.
const COSINE: f64 = 0.9;
const LENGTH: f64 = 0.2;

/// Smallest cosine between the gradients of all weights, taken as one vector.
const COSINE_OF_ALL: f64 = 0.995;

/// Takes turns with the other tests: a device has one random generator for the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn backbone() -> VmambaConfig {
    VmambaConfig {
        depths: vec![1, 1, 1, 1],
        dims: Dims::Doubling(16),
        ssm_d_state: 1,
        patchembed_version: PatchEmbedVersion::V2,
        downsample_version: DownsampleVersion::V3,
        drop_path_rate: 0.0,
        ..VmambaConfig::default()
    }
}

fn images(device: &Device) -> Tensor<4> {
    random([2, 3, 64, 96], device)
}

fn random(shape: [usize; 4], device: &Device) -> Tensor<4> {
    device.seed(11);
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

/// Largest difference over the largest value of the second.
fn difference<const D: usize>(actual: &Tensor<D>, expected: &Tensor<D>) -> f32 {
    assert_eq!(actual.dims(), expected.dims());
    let (actual, expected) = (values(actual), values(expected));
    let largest = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    assert!(largest > 0.0 && actual.iter().all(|value| value.is_finite()));
    actual.iter().zip(expected).fold(0.0_f32, |most, (a, e)| most.max((a - e).abs())) / largest
}

/// Asserts that two tensors are close but differ; equal tensors would mean that nothing was rounded.
#[track_caller]
fn assert_rounded<const D: usize>(what: &str, narrow: &Tensor<D>, wide: &Tensor<D>) {
    let difference = difference(narrow, wide);
    println!("{what:<40} {difference:.4}");
    assert!(difference > 0.0, "{what}: bf16 changes nothing");
    assert!(difference < TOLERANCE, "{what}: off by {difference} of the largest value");
}

/// The gradient of every trainable parameter by its path, with its type.
struct Collect<'a> {
    gradients: &'a Gradients,
    path: Vec<String>,
    found: BTreeMap<String, (DType, Vec<f64>)>,
}

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        assert_eq!(param.val().dtype(), DType::F32, "{} is no float32 weight", self.path.join("."));
        if param.is_require_grad() {
            let path = self.path.join(".");
            let gradient = param.val().grad(self.gradients).unwrap_or_else(|| panic!("{path} received no gradient"));
            self.found.insert(path, (gradient.dtype(), gradient.to_data().iter::<f64>().collect()));
        }
    }
}

/// The statistics of every batch norm.
#[derive(Default)]
struct Statistics {
    inside: Vec<String>,
    found: Vec<Tensor<1>>,
}

impl ModuleVisitor for Statistics {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.inside.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.inside.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.inside.last().is_some_and(|name| name.starts_with("running_")) {
            self.found.push(param.val().reshape([-1]));
        }
    }
}

/// The result of a step: gradients by path, and the updated running statistics.
type Learnt = (BTreeMap<String, (DType, Vec<f64>)>, Vec<Tensor<1>>);

fn learn<M: Module>(model: &M, loss: Tensor<1>) -> Learnt {
    assert_eq!(loss.dtype(), DType::F32, "a loss is float32");
    let gradients = loss.backward();
    let mut collect = Collect { gradients: &gradients, path: Vec::new(), found: BTreeMap::new() };
    model.visit(&mut collect);
    // Burn updates the running statistics in the copy for evaluation.
    let mut statistics = Statistics::default();
    model.valid().visit(&mut statistics);
    (collect.found, statistics.found)
}

/// Asserts that the gradients from bf16 activations are float32 and have nearly the direction of those from float32. The gradients of
/// `vanishing` are zero up to rounding in either precision.
#[track_caller]
fn assert_same_direction(narrow: &BTreeMap<String, (DType, Vec<f64>)>, wide: &BTreeMap<String, (DType, Vec<f64>)>, vanishing: &[&str]) {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let length = |values: &[f64]| product(values, values).sqrt();
    let (mut worst, mut all) = ((1.0_f64, String::new()), [Vec::new(), Vec::new()]);
    assert!(narrow.len() == wide.len() && !wide.is_empty());
    assert!(vanishing.iter().all(|path| wide.contains_key(*path)));
    for (path, (dtype, actual)) in narrow {
        let expected = &wide[path].1;
        assert_eq!(*dtype, DType::F32, "gradient of {path}");
        all[0].extend_from_slice(actual);
        all[1].extend_from_slice(expected);
        if vanishing.contains(&path.as_str()) {
            continue;
        }
        let lengths = [actual, expected].map(|values| length(values));
        assert!(lengths[1] > 0.0, "{path} has no gradient in float32");
        let cosine = product(actual, expected) / (lengths[0] * lengths[1]);
        if cosine < worst.0 {
            worst = (cosine, path.clone());
        }
        assert!(cosine > COSINE, "{path}: cosine {cosine}");
        assert!((lengths[0] / lengths[1] - 1.0).abs() < LENGTH, "{path}: length {} instead of {}", lengths[0], lengths[1]);
    }
    let [actual, expected] = &all;
    let cosine = product(actual, expected) / (length(actual) * length(expected));
    println!("{} gradients: cosine {cosine:.5}, the smallest {:.5} ({})", narrow.len(), worst.0, worst.1);
    assert!(cosine > COSINE_OF_ALL, "all gradients together: cosine {cosine}");
}

/// Each variant of a layer is in one of the configurations.
#[test]
fn features_of_every_kind_of_layer_are_bf16_and_close() {
    let _turn = alone();
    type Change = fn(&mut VmambaConfig);
    let changes: [(&str, Change); 9] = [
        ("the published form", |_| {}),
        ("vanilla", |c| {
            c.forward_type = "v0".parse().expect("a form");
            (c.patchembed_version, c.downsample_version) = (PatchEmbedVersion::V1, DownsampleVersion::V1);
            (c.ssm_d_state, c.ssm_conv_bias) = (4, true);
        }),
        ("a gate", |c| c.forward_type = "v05".parse().expect("a form")),
        ("a cascade", |c| c.forward_type = "v052dc_noz".parse().expect("a form")),
        ("a convolution as norm", |c| c.forward_type = "v05_oncnorm_noz".parse().expect("a form")),
        ("softmax as norm", |c| c.forward_type = "v05_onsoftmax_noz".parse().expect("a form")),
        ("sigmoid as norm", |c| c.forward_type = "v05_onsigmoid_noz".parse().expect("a form")),
        ("positions and a gated MLP", |c| (c.posembed, c.imgsize, c.gmlp) = (true, 32, true)),
        ("dropout", |c| (c.drop_path_rate, c.mlp_drop_rate, c.ssm_drop_rate) = (0.3, 0.1, 0.1)),
    ];
    for (name, change) in changes {
        let mut config = backbone();
        change(&mut config);
        for device in [Device::flex(), Device::flex().autodiff()] {
            device.seed(3);
            let model = config.init(&device);
            // An odd size, which one kind of downsampling pads.
            let images = images(&device).slice(s![.., .., ..60, ..84]);
            let run = |dtype: DType| {
                device.seed(5);
                model.forward_features(images.clone().cast(dtype))
            };
            let (narrow, wide) = (run(DType::BF16), run(DType::F32));
            for (level, (narrow, wide)) in narrow.iter().zip(&wide).enumerate() {
                assert_eq!((narrow.dtype(), wide.dtype()), (DType::BF16, DType::F32), "{name}");
                // Burn's dropout draws in the type of its input, so it drops other values.
                if name != "dropout" || !device.is_autodiff() {
                    assert_rounded(&format!("{name}, level {level}"), narrow, wide);
                }
            }
            if device.is_autodiff() {
                let loss = narrow.into_iter().map(|level| level.cast(DType::F32).square().mean()).reduce(|a, b| a + b);
                let (gradients, _) = learn(&model, loss.expect("a level"));
                assert!(gradients.values().all(|(dtype, _)| *dtype == DType::F32), "{name}");
            }
        }
    }
}

#[test]
fn a_classifier_gives_float32_logits() {
    let _turn = alone();
    let device = Device::flex();
    device.seed(3);
    let model = backbone().init_classifier(10, &device);
    let run = |dtype: DType| model.forward(images(&device).cast(dtype));
    let (narrow, wide) = (run(DType::BF16), run(DType::F32));
    assert_eq!(narrow.dtype(), DType::F32);
    assert_rounded("classifier", &narrow, &wide);
}

fn segmentor(device: &Device) -> UperNet<Backbone> {
    device.seed(4);
    let head = UperHeadConfig { channels: 16, dropout: 0.0, ..UperHeadConfig::default() };
    let auxiliary = FcnHeadConfig { channels: 8, dropout: 0.0, ..FcnHeadConfig::default() };
    UperNetConfig { backbone: backbone().into(), num_classes: 5, head, auxiliary: Some(auxiliary) }.init(device)
}

#[test]
fn a_segmentor_in_bf16_is_close_to_float32() {
    let _turn = alone();
    let device = Device::flex();
    let model = segmentor(&device);
    let run = |dtype: DType| model.forward(images(&device).cast(dtype));
    let (narrow, wide) = (run(DType::BF16), run(DType::F32));
    assert_eq!(narrow.dtype(), DType::F32, "logits");
    assert_rounded("UperNet, logits", &narrow, &wide);
}

#[test]
fn bf16_activations_give_a_segmentor_nearly_the_float32_gradients() {
    let _turn = alone();
    let device = Device::flex().autodiff();
    // More than two images: a batch norm over two values outputs only their signs, and its gradient is zero.
    let shape = [6, 64, 64];
    let labels: Vec<i64> = (0..6 * 64 * 64).map(|at| at / 700 % 5).collect();
    let labels = Tensor::<3, Int>::from_data(TensorData::new(labels, shape), &device);
    let run = |dtype: DType| {
        let model = segmentor(&device);
        let loss = model.loss(random([6, 3, 64, 64], &device).cast(dtype), labels.clone());
        let value = loss.total.clone().into_scalar::<f32>();
        (value, learn(&model, loss.total))
    };
    let ((narrow_loss, (narrow, narrow_statistics)), (wide_loss, (wide, wide_statistics))) = (run(DType::BF16), run(DType::F32));
    assert!((narrow_loss / wide_loss - 1.0).abs() < 0.01, "loss {narrow_loss} instead of {wide_loss}");
    assert!(!wide_statistics.is_empty());
    for (narrow, wide) in narrow_statistics.iter().zip(&wide_statistics) {
        assert_eq!(narrow.dtype(), DType::F32, "running statistics");
        assert_rounded("running statistics", narrow, wide);
    }
    // A 1x1 convolution passes these shifts on to a batch norm, which subtracts them.
    assert_same_direction(&narrow, &wide, &["backbone.Vmamba.outnorm.0.bias", "backbone.Vmamba.outnorm.1.bias"]);
}

fn detector(device: &Device) -> MaskRcnn<Backbone> {
    device.seed(6);
    let mut heads = HeadsConfig::default();
    heads.fpn.channels = 16;
    heads.anchors.scales = vec![3.0];
    heads.rpn.channels = 16;
    (heads.box_head.channels, heads.box_head.roi_size) = (32, 3);
    (heads.mask_head.channels, heads.mask_head.num_convs, heads.mask_head.roi_size) = (16, 2, 4);
    heads.test.score_threshold = 0.01;
    MaskRcnnConfig { backbone: backbone().into(), num_classes: 3, heads }.init(device)
}

fn truth() -> Vec<ImageTruth> {
    let instance = |bbox: [f32; 4], category| {
        let mask = Rle::from_box(bbox.map(f64::from), [64, 96]).expect("a box of the image");
        Instance { bbox, category, crowd: false, mask: Some(InstanceMask::from_rle(mask)) }
    };
    let image = |instances| ImageTruth { size: [64, 96], instances, crowds: Vec::new() };
    vec![
        image(vec![instance([8.0, 10.0, 40.0, 42.0], 0), instance([50.0, 5.0, 90.0, 60.0], 2)]),
        image(vec![instance([20.0, 8.0, 60.0, 50.0], 1)]),
    ]
}

#[test]
fn a_detector_in_bf16_is_close_to_float32() {
    let _turn = alone();
    let device = Device::flex();
    let model = detector(&device);
    let run = |dtype: DType| {
        let levels = model.pyramid(images(&device).cast(dtype));
        assert!(levels.iter().all(|level| level.dtype() == dtype), "levels");
        let rpn = model.rpn_head.forward(&levels);
        (levels, rpn)
    };
    let ((narrow, narrow_rpn), (wide, wide_rpn)) = (run(DType::BF16), run(DType::F32));
    for (level, (narrow, wide)) in narrow.iter().zip(&wide).enumerate() {
        assert_rounded(&format!("pyramid, level {level}"), narrow, wide);
    }
    let maps = |rpn: &RpnOutput| rpn.objectness.iter().chain(&rpn.deltas).cloned().collect::<Vec<_>>();
    for (narrow, wide) in maps(&narrow_rpn).iter().zip(&maps(&wide_rpn)) {
        assert_eq!(narrow.dtype(), DType::F32, "boxes are computed in float32");
        assert_rounded("region proposals", narrow, wide);
    }
    // Both get the same boxes, because rounding may change which boxes are proposed.
    let infos = [ImageInfo::new([64, 96], [64, 96]); 2];
    let proposals = model.test_proposals(&wide_rpn, &infos);
    let rois: Vec<vision_ops::Roi> = proposals
        .iter()
        .enumerate()
        .flat_map(|(image, own)| own.boxes.iter().take(20).map(move |bbox| vision_ops::Roi { image, bbox: *bbox }))
        .collect();
    let classes: Vec<usize> = (0..rois.len()).map(|roi| roi % 3).collect();
    let boxes = [&narrow, &wide].map(|levels| model.roi_head.boxes(levels, &rois));
    let masks = [&narrow, &wide].map(|levels| model.roi_head.masks(levels, &rois, &classes));
    assert!(boxes.iter().all(|output| output.logits.dtype() == DType::F32 && output.deltas.dtype() == DType::F32));
    assert_rounded("classes", &boxes[0].logits, &boxes[1].logits);
    assert_rounded("boxes", &boxes[0].deltas, &boxes[1].deltas);
    assert_eq!(masks[0].dtype(), DType::F32);
    assert_rounded("masks", &masks[0], &masks[1]);
    let found = model.predict(images(&device).cast(DType::BF16), &infos).unwrap();
    assert!(found.iter().flatten().all(|detection| detection.bbox.iter().chain([&detection.score]).all(|value| value.is_finite())));
}

#[test]
fn bf16_activations_give_a_detector_nearly_the_float32_gradients() {
    let _turn = alone();
    let device = Device::flex().autodiff();
    let truth = truth();
    let run = |dtype: DType| {
        let model = detector(&device);
        let choose = &mut RandomChoice::new(1);
        let levels = model.pyramid(images(&device).cast(dtype));
        let rpn = model.rpn_head.forward(&levels);
        let rpn_loss = model.rpn_head.loss(&rpn, &model.rpn_targets(&rpn, &truth, choose));
        // These boxes do not depend on the region proposals, so both precisions train on the same boxes.
        let near = |truth: &ImageTruth| {
            let moved = |by: f32| truth.instances.iter().map(move |instance| instance.bbox.map(|side| side + by));
            let boxes: Vec<[f32; 4]> = moved(2.0).chain(moved(-3.0)).chain([[0.0, 0.0, 30.0, 20.0], [60.0, 40.0, 90.0, 60.0]]).collect();
            Proposals { scores: vec![0.5; boxes.len()], boxes }
        };
        let proposals: Vec<Proposals> = truth.iter().map(near).collect();
        let samples = model.sample_rois(&proposals, &truth, choose);
        let roi_loss = model.roi_head.loss(&levels, &samples, &truth, [64, 96]);
        let parts = rpn_loss.objectness.into_iter().chain(rpn_loss.boxes).chain([roi_loss.cls, roi_loss.bbox, roi_loss.mask]);
        let total = parts.reduce(|a, b| a + b).expect("losses");
        (total.clone().into_scalar::<f32>(), learn(&model, total).0)
    };
    let ((narrow_loss, narrow), (wide_loss, wide)) = (run(DType::BF16), run(DType::F32));
    assert!((narrow_loss / wide_loss - 1.0).abs() < 0.01, "loss {narrow_loss} instead of {wide_loss}");
    assert_same_direction(&narrow, &wide, &[]);
    // The whole loss, with the network's own proposals.
    let loss = detector(&device).loss(images(&device).cast(DType::BF16), &truth, &mut RandomChoice::new(1));
    assert!(loss.total.dtype() == DType::F32 && loss.total.into_scalar::<f32>().is_finite());
}
