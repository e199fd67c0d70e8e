//! Parameters and FLOPs of every model, compared with the official tool's counts of the public implementations, with the published figures,
//! and with the modules.

use std::collections::BTreeSet;

use burn::module::Module;
use serde_json::{Map, Value};
use tests::fixtures_root;
use upernet::UperNetConfig;
use vmamba::baselines::{
    ConvnextConfig, DeitConfig, HivitConfig, ResnetConfig, S4ndConvnextConfig, S4ndDownsampling, SwinConfig, VimConfig, XcitConfig,
};
use vmamba::checkpoint::state_dict_of;
use vmamba::complexity::{Complexity, OpKind};
use vmamba::zoo::{self, BackboneConfig};
use vmamba::{Preset, VmambaConfig};

/// The classes of ImageNet; all rows were counted with a head for them.
const CLASSES: usize = 1000;

fn named(name: &str) -> BackboneConfig {
    BackboneConfig::named(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The cost of the classifier `name` for square images.
fn cost(name: &str, side: usize) -> Complexity {
    named(name).classifier_complexity(CLASSES, [side; 2])
}

fn manifest() -> Value {
    let path = fixtures_root().join("complexity.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// The sides of the images for which the manifest has the counts of a row.
fn sides(row: &Map<String, Value>) -> Vec<usize> {
    row.keys().filter_map(|key| key.strip_prefix("flops_")?.parse().ok()).collect()
}

/// Compares with the counts of one row at one size, kind by kind.
fn check(name: &str, cost: &Complexity, params: &Value, row: &Map<String, Value>, side: usize) {
    assert_eq!(Some(cost.params), params.as_u64(), "{name} at {side}: parameters");
    assert_eq!(Some(cost.flops()), row[&format!("flops_{side}")].as_u64(), "{name} at {side}: FLOPs");
    let expected = row[&format!("by_op_gflops_{side}")].as_object().unwrap();
    assert_eq!(cost.by_op.len(), expected.len(), "{name} at {side}: kinds {:?}", cost.by_op);
    for (op, flops) in &cost.by_op {
        let official = expected[op.official_name()].as_f64().unwrap() * 1e9;
        assert_eq!(*flops, official.round() as u64, "{name} at {side}: {}", op.official_name());
    }
}

#[test]
fn params_and_flops_equal_the_official_counts_of_every_vmamba_at_every_size() {
    let manifest = manifest();
    let rows = manifest["classification"].as_object().unwrap();
    assert_eq!(rows.keys().map(String::as_str).collect::<BTreeSet<_>>(), Preset::ALL.map(Preset::name).into_iter().collect());
    for (name, row) in rows {
        let row = row.as_object().unwrap();
        assert!(!sides(row).is_empty(), "{name}: no size");
        for side in sides(row) {
            check(name, &cost(name, side), &row["params"], row, side);
        }
    }
}

/// Rows of the manifest of public implementations, and our names of the models.
const PUBLIC: [(&str, &str); 7] = [
    ("swin_t (torchvision)", "swin_tiny"),
    ("swin_tiny_patch4_window7_224 (timm 0.9.16)", "swin_tiny"),
    ("convnext_tiny (torchvision)", "convnext_tiny"),
    ("convnext_tiny (timm 0.9.16)", "convnext_tiny"),
    ("resnet50 (torchvision)", "resnet50"),
    ("deit_small_patch16_224 (timm 0.9.16)", "deit_small"),
    ("xcit_small_12_p16_224 (timm 0.9.16)", "xcit_small_12_p16"),
];

#[test]
fn params_and_flops_equal_the_official_counts_of_every_public_implementation_at_every_size() {
    let manifest = manifest();
    let rows = manifest["others"].as_object().unwrap();
    assert_eq!(rows.keys().map(String::as_str).collect::<BTreeSet<_>>(), PUBLIC.map(|(row, _)| row).into_iter().collect());
    for (row_name, name) in PUBLIC {
        let row = rows[row_name].as_object().unwrap();
        assert_eq!(sides(row).len(), 5, "{row_name}");
        for side in sides(row) {
            let mut cost = match named(name) {
                // Counted with a position table for that size.
                BackboneConfig::Deit(config) => DeitConfig { image_size: side, ..config }.classifier_complexity(CLASSES, [side; 2]),
                config => config.classifier_complexity(CLASSES, [side; 2]),
            };
            if row_name.starts_with("swin_tiny_patch4") {
                // The tool does not count timm's average pooling.
                cost.by_op.remove(&OpKind::AdaptiveAvgPool);
            }
            check(row_name, &cost, &row[&format!("params_{side}")], row, side);
        }
    }
}

/// The counts of VMamba's `analyze_for_vim.py`, to the last digit.
#[test]
fn the_other_state_space_models_cost_what_vmambas_authors_counted() {
    let vim = cost("vim_small", 224);
    assert_eq!((vim.params, vim.flops()), (25_796_584, 5_301_500_928));
    assert_eq!(vim.by_op.keys().copied().collect::<Vec<_>>(), [OpKind::Conv, OpKind::Linear, OpKind::Matmul, OpKind::SelectiveScan]);

    let s4nd = cost("s4nd_convnext_tiny", 224);
    // The authors' count is 5162112298.177406.
    assert_eq!((s4nd.params, s4nd.flops()), (30_007_057, 5_162_112_298));
    // fvcore's counts of the official code by kind of operation. They include the stem's norm, which the authors' count lacks.
    let stem_norm = |height: u64, width: u64| 5 * 96 * height * width;
    for (op, flops) in [
        (OpKind::Fft, 787_756_931),
        (OpKind::Einsum, 27_614_375),
        (OpKind::LayerNorm, 12_234_240 - stem_norm(56, 56)),
        (OpKind::Linear, 4_162_566_144),
        (OpKind::Conv, 173_408_256),
        (OpKind::AdaptiveAvgPool, 37_632),
    ] {
        assert_eq!(s4nd.by_op[&op], flops, "{}", op.official_name());
    }
    // The authors' counter, run on the official code for an oblong image and for the other downsampling.
    let oblong = named("s4nd_convnext_tiny").classifier_complexity(CLASSES, [256, 160]);
    assert_eq!(oblong.flops(), 4_156_918_376 - stem_norm(64, 40));
    let other = S4ndConvnextConfig::tiny_s4nd_downsample().classifier_complexity(CLASSES, [224, 224]);
    assert_eq!((other.params, other.flops()), (29_409_457, 5_238_542_647 - stem_norm(56, 56)));
}

/// Millions of parameters and GFLOPs at 224 pixels, with the published digits; `-` where nothing was published. Sources: for VMamba table
/// 1 of its paper; for HiViT mmpretrain, and the paper for HiViT-B; for the others their papers and repositories, with which VMamba's
/// table agrees.
const PUBLISHED: [(&str, &str, &str); 33] = [
    ("vanilla_vmamba_tiny", "23", "5.6"),
    ("vanilla_vmamba_small", "44", "11.2"),
    ("vanilla_vmamba_base", "76", "18.0"),
    ("vmamba_tiny_s2l5", "31", "4.9"),
    ("vmamba_small_s2l15", "50", "8.7"),
    ("vmamba_base_s2l15", "89", "15.4"),
    ("vmamba_tiny_s1l8", "30", "4.9"),
    ("vmamba_small_s1l20", "49", "8.6"),
    ("vmamba_base_s1l20", "87", "15.2"),
    ("resnet50", "25.6", "-"),
    ("resnet101", "44.5", "-"),
    ("swin_tiny", "28", "4.5"),
    ("swin_small", "50", "8.7"),
    ("swin_base", "88", "15.4"),
    ("swin_tiny_scaled", "28", "4.51"),
    ("swin_small_scaled", "50", "8.7"),
    ("swin_base_scaled", "88", "15.4"),
    ("convnext_tiny", "28.6", "4.47"),
    ("convnext_small", "50.2", "8.7"),
    ("convnext_base", "88.6", "15.4"),
    ("deit_tiny", "5.7", "1.3"),
    ("deit_small", "22", "4.61"),
    ("deit_base", "86.6", "17.6"),
    ("xcit_small_12_p16", "26", "4.9"),
    ("xcit_small_24_p16", "48", "9.2"),
    ("xcit_medium_24_p16", "84", "16.2"),
    ("hivit_tiny", "19.18", "4.60"),
    ("hivit_small", "37.53", "9.07"),
    ("hivit_base", "66", "15.8"),
    ("vim_tiny", "7", "-"),
    ("vim_small", "26", "5.3"),
    ("vim_base", "98", "-"),
    ("s4nd_convnext_tiny", "30", "5.2"),
];

/// Asserts that `number / scale`, rounded or truncated, has the digits of `published`.
fn agrees(what: &str, number: u64, scale: f64, published: &str) {
    if published == "-" {
        return;
    }
    let decimals = published.split_once('.').map_or(0, |(_, digits)| digits.len());
    let (own, digits) = (number as f64 / scale, 10_f64.powi(decimals as i32));
    let [rounded, cut] = [own, (own * digits).floor() / digits].map(|value| format!("{value:.decimals$}"));
    assert!(rounded == published || cut == published, "{what}: {own}, published {published}");
}

/// FLOPs that XCiT's official class attention wastes: it computes the queries of all patches and uses only that of the class token.
fn unused_queries(config: &BackboneConfig, side: usize) -> u64 {
    match config {
        BackboneConfig::Xcit(config) => (config.cls_attn_layers * (side / 16).pow(2) * config.embed_dim.pow(2)) as u64,
        _ => 0,
    }
}

#[test]
fn every_model_costs_what_was_published() {
    assert_eq!(PUBLISHED.map(|(name, ..)| name).into_iter().collect::<BTreeSet<_>>(), BackboneConfig::names().into_iter().collect());
    for (name, params, gflops) in PUBLISHED {
        let cost = cost(name, 224);
        agrees(&format!("{name}: million parameters"), cost.params, 1e6, params);
        agrees(&format!("{name}: GFLOPs"), cost.flops() + unused_queries(&named(name), 224), 1e9, gflops);
    }
    // torchvision counts only convolutions and linear layers.
    let resnet = cost("resnet101", 224);
    agrees("resnet101: GFLOPs of products", resnet.by_op[&OpKind::Conv] + resnet.by_op[&OpKind::Linear], 1e9, "7.801");
    let large = SwinConfig::base_384().classifier_complexity(CLASSES, [384, 384]);
    agrees("Swin-B with windows of 12: million parameters", large.params, 1e6, "87.9");
}

/// GFLOPs of VMamba's resolution study (its paper's table 9) at these sides.
const STUDY_SIDES: [usize; 6] = [224, 288, 384, 512, 640, 768];
const STUDY: [(&str, [f64; 6]); 8] = [
    ("vmamba_tiny_s1l8", [4.91, 8.11, 14.41, 25.63, 40.04, 57.66]),
    ("vmamba_tiny_s2l5", [4.86, 8.03, 14.27, 25.38, 39.65, 57.09]),
    ("vanilla_vmamba_tiny", [5.63, 9.3, 16.53, 29.39, 45.93, 66.14]),
    ("swin_tiny_scaled", [4.51, 7.6, 14.05, 26.65, 45.0, 70.72]),
    ("xcit_small_12_p16", [4.87, 8.05, 14.31, 25.44, 39.75, 57.24]),
    ("hivit_tiny", [4.6, 7.93, 15.21, 30.56, 54.83, 91.41]),
    ("deit_small", [4.61, 7.99, 15.52, 31.8, 58.17, 98.7]),
    ("convnext_tiny", [4.47, 7.38, 13.12, 23.33, 36.45, 52.49]),
];

/// FLOPs that the study did not count: those of the norms before the stages of mmpretrain's ConvNeXt.
fn uncounted_norms(name: &str, side: usize) -> usize {
    if name != "convnext_tiny" {
        return 0;
    }
    let map = side / 4;
    // The norms of the stem and of the three downsamplings, 5 operations a value.
    [(96, map), (96, map), (192, map / 2), (384, map / 4)].iter().map(|(channels, size)| 5 * channels * size * size).sum()
}

#[test]
fn flops_grow_with_the_image_as_the_resolution_study_published() {
    for (name, published) in STUDY {
        for (side, gflops) in STUDY_SIDES.into_iter().zip(published) {
            let own = (cost(name, side).flops() + unused_queries(&named(name), side)) as f64 / 1e9;
            let own = own - uncounted_norms(name, side) as f64 / 1e9;
            assert!((own - gflops).abs() < 0.0051, "{name} at {side}: {own} GFLOPs, published {gflops}");
        }
    }
}

/// The authors' counts of UperNet with 150 classes on an image of 512 x 2048, for backbones without a configuration in this repository.
#[test]
fn upernet_on_xcit_costs_what_vmambas_authors_counted() {
    for (config, params, flops) in [
        (XcitConfig::small_12(), 54_199_100, 968_270_727_168),
        (XcitConfig::small_24(), 75_617_180, 1_057_716_357_120),
        (XcitConfig::medium_24(), 112_177_196, 1_220_294_526_976),
    ] {
        let cost = UperNetConfig::on(config, 150).complexity([512, 2048]);
        assert_eq!((cost.params, cost.flops()), (params, flops));
    }
}

/// Number of parameters of a module. Burn's own count includes the running statistics of batch norms; this one does not.
fn parameters<M: Module>(module: &M) -> u64 {
    let state = state_dict_of(module, &zoo::key);
    state.iter().filter(|(key, _)| !key.contains(".running_")).map(|(_, tensor)| tensor.data.len() as u64).sum()
}

/// Published models, and small models with other options.
fn variants() -> Vec<(String, BackboneConfig)> {
    let tiny: [&str; 10] = [
        "vmamba_tiny_s1l8",
        "vmamba_tiny_s2l5",
        "vanilla_vmamba_tiny",
        "resnet50",
        "swin_tiny",
        "convnext_tiny",
        "deit_small",
        "xcit_small_12_p16",
        "hivit_tiny",
        "vim_small",
    ];
    let mut all: Vec<(String, BackboneConfig)> = tiny.into_iter().map(|name| (name.to_owned(), named(name))).collect();
    let mut add = |what: &str, config: BackboneConfig| all.push((what.to_owned(), config));
    let mut vmamba = Preset::VmambaTinyS1l8.config();
    (vmamba.out_indices, vmamba.posembed) = (vec![1, 3], true);
    add("vmamba with positions and two levels", vmamba.into());
    for forward_type in ["v05_oncnorm_nozact", "v05_ondwconv3_noz", "v05_onnone", "v052dc_noz_oact", "v04_onsoftmax"] {
        let config = VmambaConfig {
            depths: vec![1, 1],
            forward_type: forward_type.parse().unwrap(),
            gmlp: true,
            ssm_conv: None,
            patch_norm: false,
            out_indices: vec![0, 1],
            ..Preset::VmambaTinyS1l8.config()
        };
        add(forward_type, config.into());
    }
    let resnet = ResnetConfig { in_chans: 1, width: 4, depths: vec![1, 2, 1], out_indices: vec![2], ..ResnetConfig::resnet50() };
    add("resnet with a deep stem", ResnetConfig { deep_stem: true, ..resnet.clone() }.into());
    add("resnet of one channel", resnet.into());
    add("swin_base_384", SwinConfig::base_384().into());
    for layer_scale_init_value in [0.0, 1e-6] {
        let (depths, dims) = (vec![1, 2], vec![8, 12]);
        let config = ConvnextConfig { in_chans: 1, depths, dims, layer_scale_init_value, out_indices: vec![1], ..ConvnextConfig::tiny() };
        add(&format!("convnext with layer scale {layer_scale_init_value}"), config.into());
    }
    add(
        "deit without the bias of the patches",
        DeitConfig { patch_bias: false, image_size: 512, final_norm: true, ..DeitConfig::tiny() }.into(),
    );
    add("deit with a narrow neck", DeitConfig { neck_channels: 48, ..DeitConfig::tiny() }.into());
    let plain = HivitConfig { relative_positions: false, final_norm: false, patch_norm: false, level_norms: false, ..HivitConfig::tiny() };
    add("hivit without its options", plain.into());
    add("vim with overlapping patches", VimConfig::tiny().stride8().into());
    for downsample in [S4ndDownsampling::Convolution, S4ndDownsampling::S4nd] {
        let small = S4ndConvnextConfig {
            depths: vec![1, 2, 1, 1],
            dims: vec![8, 12, 16, 24],
            d_state: 16,
            image_size: [64, 96],
            downsample,
            ..S4ndConvnextConfig::tiny()
        };
        add(&format!("s4nd_convnext, downsampling {downsample:?}"), small.into());
    }
    all
}

#[test]
fn counted_parameters_are_those_of_the_modules() {
    let device = tests::device();
    for (what, config) in variants() {
        let (backbone, classifier) = (config.try_init(&device).unwrap(), config.try_init_classifier(7, &device).unwrap());
        assert_eq!(config.complexity([64, 96]).params, parameters(&backbone), "{what}: backbone");
        assert_eq!(config.classifier_complexity(7, [64, 96]).params, parameters(&classifier), "{what}: classifier");
    }
}
