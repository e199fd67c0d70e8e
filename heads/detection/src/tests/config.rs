//! Configurations in files, and their validation.

use crate::box_coder::BoxCoder;
use crate::box_head::{BoxHeadConfig, BoxHeadLayers, BoxLoss, ConvNorm};
use crate::fpn::FpnConfig;
use crate::losses::DeltaLoss;
use crate::rpn::RpnConfig;

#[test]
fn the_box_head_of_a_cascade_reads_from_a_file() {
    let text = r#"{
        "layers": { "shared_4conv1fc": { "channels": 256, "norm": "batch_norm" } },
        "coder": { "target_stds": [0.05, 0.05, 0.1, 0.1] },
        "loss": "giou",
        "loss_weight": 10.0
    }"#;
    let config: BoxHeadConfig = serde_json::from_str(text).unwrap();
    let expected = BoxHeadConfig {
        layers: BoxHeadLayers::Shared4Conv1Fc { channels: 256, norm: ConvNorm::BatchNorm },
        coder: BoxCoder::with_stds([0.05, 0.05, 0.1, 0.1]),
        loss: BoxLoss::Giou,
        loss_weight: 10.0,
        ..BoxHeadConfig::default()
    };
    assert_eq!(config, expected);
    assert_eq!(serde_json::from_str::<BoxHeadConfig>(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    let smooth: BoxHeadConfig = serde_json::from_str(r#"{"layers": "shared_2fc", "loss": {"smooth_l1": {"beta": 0.5}}}"#).unwrap();
    assert_eq!((smooth.layers, smooth.loss), (BoxHeadLayers::Shared2Fc, BoxLoss::SmoothL1 { beta: 0.5 }));
    for wrong in [r#"{"layers": "shared_3fc"}"#, r#"{"loss": "l2"}"#, r#"{"layers": {"shared_4conv1fc": {"norm": "none", "depth": 4}}}"#] {
        assert!(serde_json::from_str::<BoxHeadConfig>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn invalid_fields_are_named_by_their_path() {
    let mut rpn = RpnConfig::default();
    assert_eq!(rpn.validate(), Ok(()));
    rpn.test.nms_pre = 0;
    let error = rpn.validate().unwrap_err().within("rpn").within("heads");
    assert_eq!(error.to_string(), "heads.rpn.test.nms_pre must be a whole number from 1 to 1000000, got 0");
    rpn = RpnConfig::default();
    rpn.assigner.negative = f32::NAN;
    assert_eq!(rpn.validate().unwrap_err().to_string(), "assigner.negative must be a number above 0 and at most 1, got NaN");
    type Break = fn(&mut RpnConfig);
    let broken: [(&str, Break); 5] = [
        ("allowed_border", |rpn| rpn.allowed_border = Some(-1.0)),
        ("assigner.ignore_crowd", |rpn| rpn.assigner.ignore_crowd = Some(1.5)),
        ("train.min_size", |rpn| rpn.train.min_size = f32::NAN),
        ("coder.target_means", |rpn| rpn.coder.target_means[1] = f32::INFINITY),
        ("loss.smooth_l1.beta", |rpn| rpn.loss = DeltaLoss::SmoothL1 { beta: 0.0 }),
    ];
    for (field, broken) in broken {
        let mut rpn = RpnConfig::default();
        broken(&mut rpn);
        let error = rpn.validate().unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
    let levels = FpnConfig { levels: 3, ..FpnConfig::default() }.validate(4).unwrap_err().to_string();
    assert_eq!(levels, "levels must be a whole number from 4, the levels of the backbone, to 16, got 3");
    let wrong = [
        BoxHeadConfig { loss: BoxLoss::SmoothL1 { beta: 0.0 }, ..BoxHeadConfig::default() },
        BoxHeadConfig { loss_weight: -1.0, ..BoxHeadConfig::default() },
        BoxHeadConfig { coder: BoxCoder::with_stds([0.1, 0.0, 0.2, 0.2]), ..BoxHeadConfig::default() },
        BoxHeadConfig { layers: BoxHeadLayers::Shared4Conv1Fc { channels: 0, norm: ConvNorm::None }, ..BoxHeadConfig::default() },
    ];
    let fields = ["loss.smooth_l1.beta", "loss_weight", "coder.target_stds", "layers.shared_4conv1fc.channels"];
    for (config, field) in wrong.iter().zip(fields) {
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
}
