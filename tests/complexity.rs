//! Parameters and FLOPs against the official tool's, for every VMamba it was run on.

use burn::module::Module;
use burn::prelude::*;
use serde_json::Value;
use tests::fixtures_root;
use vmamba::Preset;

/// Classes of ImageNet, which all rows were counted with.
const CLASSES: usize = 1000;

#[test]
fn params_and_flops_equal_the_official_counts_of_every_vmamba() {
    let path = fixtures_root().join("complexity.json");
    let file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut compared = 0;
    for (name, row) in file["classification"].as_object().unwrap() {
        let preset: Preset = name.parse().unwrap();
        let config = preset.config();
        for (key, flops) in row.as_object().unwrap() {
            let Some(size) = key.strip_prefix("flops_") else {
                continue;
            };
            let side: usize = size.parse().unwrap();
            let cost = config.classifier_complexity(CLASSES, [side, side]);
            assert_eq!(cost.params, row["params"].as_u64().unwrap(), "{name}: params");
            assert_eq!(cost.flops(), flops.as_u64().unwrap(), "{name}: {key}");
            let by_op = row[&format!("by_op_gflops_{size}")].as_object().unwrap();
            assert_eq!(by_op.len(), cost.by_op.len(), "{name}: {:?}", cost.by_op);
            for (op, counted) in &cost.by_op {
                let official = by_op[op.official_name()].as_f64().unwrap() * 1e9;
                assert_eq!(official.round() as u64, *counted, "{name}: {} at {size}", op.official_name());
            }
            compared += 1;
        }
        println!("{name:<24} {} params", row["params"]);
    }
    assert!(compared >= Preset::ALL.len(), "only {compared} counts in {}", path.display());
}

#[test]
fn counted_params_are_those_of_the_modules() {
    let device = Device::flex();
    for preset in [Preset::VmambaTinyS1l8, Preset::VmambaTinyS2l5, Preset::VanillaVmambaTiny] {
        let mut config = preset.config();
        let classifier = config.init_classifier(CLASSES, &device);
        assert_eq!(config.classifier_complexity(CLASSES, [224, 224]).params, classifier.num_params() as u64, "{preset}");
        config.out_indices = vec![1, 3];
        config.posembed = true;
        assert_eq!(config.complexity([512, 512]).params, config.init(&device).num_params() as u64, "{preset}");
    }
    for forward_type in ["v05_oncnorm_nozact", "v05_ondwconv3_noz", "v05_onnone", "v052dc_noz_oact", "v04_onsoftmax"] {
        let mut config = Preset::VmambaTinyS1l8.config();
        config.depths = vec![1, 1];
        config.forward_type = forward_type.parse().unwrap();
        config.gmlp = true;
        config.ssm_conv = None;
        config.patch_norm = false;
        config.out_indices = vec![0, 1];
        assert_eq!(config.complexity([64, 64]).params, config.init(&device).num_params() as u64, "{forward_type}");
    }
}
