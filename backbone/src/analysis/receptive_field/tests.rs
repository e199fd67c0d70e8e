use burn::module::{Module, Param};
use burn::tensor::{Distribution, TensorData};

use super::*;
use crate::LastMap;
use crate::checkpoint::{LoadOptions, load_into, state_dict_of};
use crate::layers::DepthwiseConv;
use crate::zoo::BackboneConfig;

fn random(shape: [usize; 4], device: &Device) -> Tensor<4> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// Reproducible numbers in [-1, 1). Burn's random generator is shared by the whole process, other tests included.
fn fixed(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count + 8).map(|_| next()).skip(8).collect()
}

/// The model with reproducible weights.
fn with_fixed_weights<M: Module>(model: M) -> M {
    let key = |path: &str| path.to_owned();
    let mut state = state_dict_of(&model, &key);
    let keys: Vec<String> = state.keys().map(str::to_owned).collect();
    for (number, key) in keys.iter().enumerate() {
        let tensor = state.get_mut(key).unwrap();
        let inputs = tensor.data.len() / tensor.shape[0];
        let (scale, around) =
            if inputs > 1 { ((3.0 / inputs as f32).sqrt(), 0.0) } else { (0.3, f32::from(u8::from(key.ends_with("weight")))) };
        tensor.data = fixed(tensor.data.len(), number as u64).into_iter().map(|value| around + scale * value).collect();
    }
    load_into(model, &key, &state, &LoadOptions::new()).unwrap().0
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// For a depthwise convolution, the contribution of a channel with a positive middle is its kernel without the negative weights.
#[test]
fn the_field_of_a_depthwise_convolution_is_its_kernels() {
    let device = Device::flex().autodiff();
    let mut conv = DepthwiseConv::new(3, 5, true, &device);
    // Far more than 25 weights of at most 1 / 5 make of the image.
    conv.bias = Some(Param::from_tensor(Tensor::from_floats([90.0, -90.0, 90.0], &device)));
    let conv = conv.freeze();
    let chain = Chain::of(|x: Tensor<4>| conv.forward(x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2]));
    let image = random([1, 3, 12, 10], &device);
    let map = values(chain.forward(image.clone()).inner());
    let weight = values(conv.weight.val().inner());
    let mut expected = vec![0.0; 120];
    for channel in 0..3 {
        assert_eq!(map[channel * 120 + 6 * 10 + 5] > 0.0, channel != 1, "one of them is not active");
        if channel == 1 {
            continue;
        }
        for (place, weight) in weight[channel * 25..][..25].iter().enumerate() {
            expected[(6 + place / 5 - 2) * 10 + 5 + place % 5 - 2] += weight.max(0.0);
        }
    }
    // Sums of three float32 numbers.
    for (found, expected) in values(central_gradient(&chain, image)).iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}

/// Central differences of the scalar, for a network with every part of VMamba.
#[test]
fn the_gradient_of_a_small_vmamba_is_that_of_differences() {
    let device = Device::flex().autodiff();
    let table = serde_json::json!({ "preset": "vmamba_tiny_s1l8", "depths": [1, 1], "dims": [8, 16], "out_indices": [0, 1] });
    let config: BackboneConfig = serde_json::from_value(table).unwrap();
    let model = with_fixed_weights(config.try_init(&device).unwrap()).freeze();
    let image = Tensor::<4>::from_data(TensorData::new(fixed(3 * 24 * 24, 1000), [1, 3, 24, 24]), &Device::flex());
    let scalar = |image: Tensor<4>| -> f64 {
        let map = model.last_map(Tensor::from_inner(image)).inner();
        let [_, channels, rows, columns] = map.dims();
        let middle = map.slice([0..1, 0..channels, rows / 2..rows / 2 + 1, columns / 2..columns / 2 + 1]);
        values(middle).into_iter().map(|value| f64::from(value.max(0.0))).sum()
    };
    let chain = model.chain([24, 24]);
    assert!(chain.parts().len() > 4);
    let found = values(central_gradient(&chain, Tensor::from_inner(image.clone())));
    let largest = found.iter().copied().fold(0.0, f32::max);
    assert!(largest > 0.0);
    for pixel in [0, 100, 12 * 24 + 12, 13 * 24 + 11, 300, 575] {
        let mut expected = 0.0;
        for channel in 0..3 {
            let moved = |by: f32| {
                let mut data = values(image.clone());
                data[channel * 576 + pixel] += by;
                scalar(Tensor::from_data(TensorData::new(data, [1, 3, 24, 24]), &Device::flex()))
            };
            const STEP: f32 = 2e-2;
            expected += ((moved(STEP) - moved(-STEP)) / (2.0 * f64::from(STEP))).max(0.0);
        }
        // The scalar is about 10 with a float32 error of 1e-6; division by the step makes it 1e-4. The curvature adds to that.
        let error = (f64::from(found[pixel]) - expected).abs();
        assert!(error < 0.01 * f64::from(largest), "pixel {pixel}: {} and {expected}, largest {largest}", found[pixel]);
    }
}

/// Gradients step by step equal those of the whole network, in every family.
#[test]
fn every_family_has_a_chain_whose_parts_give_the_gradient_of_the_whole() {
    let device = Device::flex().autodiff();
    let tables = [
        serde_json::json!({ "preset": "vmamba_tiny_s1l8", "depths": [1, 1], "dims": [8, 16], "out_indices": [0, 1] }),
        serde_json::json!({ "family": "resnet", "depths": [1, 1, 1, 1], "width": 8 }),
        serde_json::json!({ "preset": "swin_tiny", "depths": [2, 2], "num_heads": [2, 4], "embed_dim": 16, "out_indices": [0, 1] }),
        serde_json::json!({ "preset": "convnext_tiny", "depths": [1, 1], "dims": [8, 16], "out_indices": [0, 1] }),
        serde_json::json!({ "preset": "deit_tiny", "depth": 2, "embed_dim": 24, "num_heads": 2 }),
        serde_json::json!({ "preset": "xcit_small_12_p16", "depth": 2, "embed_dim": 32, "num_heads": 2 }),
        serde_json::json!({ "preset": "s4nd_convnext_tiny", "depths": [1, 1], "dims": [8, 16], "out_indices": [0, 1] }),
        serde_json::json!({ "preset": "vim_tiny", "depth": 2, "embed_dim": 24 }),
        serde_json::json!({ "preset": "hivit_tiny", "depths": [1, 1, 2], "embed_dim": 64, "num_heads": 2 }),
    ];
    let mut families = std::collections::BTreeSet::new();
    let read =
        |table: &serde_json::Value| -> BackboneConfig { serde_json::from_value(table.clone()).unwrap_or_else(|error| panic!("{error}")) };
    for mut table in tables {
        let config = read(&table);
        let name = config.family();
        families.insert(name);
        device.seed(11);
        let model = config.try_init_classifier(2, &device).unwrap().freeze();
        let image = random([1, 3, 64, 64], &device);
        let chain = model.chain([64, 64]);
        let map = chain.forward(image.clone());
        assert!(map.dims()[2] == map.dims()[3] && map.dims()[2] < 64, "{name}: {:?}", map.dims());
        let parts = values(central_gradient(&chain, image.clone()));
        let whole = values(central_gradient(&Chain::of(|x| model.last_map(x)), image.clone()));
        let largest = whole.iter().copied().fold(0.0, f32::max);
        assert!(largest > 0.0, "{name}");
        for (part, whole) in parts.iter().zip(&whole) {
            // The operations are equal, but sums may be in another order.
            assert!((part - whole).abs() <= 1e-5 * largest, "{name}: {part} {whole}");
        }
        assert_eq!(parts, values(central_gradient(&chain, image.clone())), "{name}: again the same");
        // The pyramid of a network without stages takes its levels after four blocks.
        if table.get("depth").is_some() {
            table["depth"] = serde_json::json!(4);
            table["out_indices"] = serde_json::json!([0, 1, 2, 3]);
        }
        let backbone = read(&table).try_init(&device).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(backbone.freeze().last_map(image).dims(), map.dims(), "{name}");
    }
    assert_eq!(families.len(), 9, "{families:?}");
}

/// The classifier continues from the last map.
#[test]
fn the_last_map_is_what_classifiers_average() {
    let device = Device::flex();
    device.seed(2);
    let resnet = BackboneConfig::named("resnet50").unwrap().try_init_classifier(2, &device).unwrap();
    let image = random([1, 3, 64, 96], &device);
    let averaged = resnet.last_map(image.clone()).mean_dim(2).mean_dim(3);
    let difference: f32 = (averaged.reshape([1, -1]) - resnet.features(image)).abs().max().into_scalar();
    assert!(difference < 1e-5, "{difference}");
}

#[test]
fn images_without_numbers_are_left_out_of_the_mean() {
    let mut field = ReceptiveField::new([1, 2]);
    assert_eq!(field.mean(), None);
    assert!(field.add(&[1.0, 4.0]) && !field.add(&[f32::NAN, 1.0]) && !field.add(&[1.0, f32::INFINITY]) && field.add(&[2.0, 0.0]));
    assert_eq!((field.mean(), field.images(), field.skipped()), (Some(vec![1.5, 2.0]), 2, 2));
    // A network of NaN makes a map of NaN, not of zeros.
    let device = Device::flex().autodiff();
    let chain = Chain::of(|x: Tensor<4>| x.log());
    assert!(values(central_gradient(&chain, Tensor::full([1, 1, 4, 4], -1.0, &device))).iter().any(|value| value.is_nan()));
}

/// By definition: sums every square by itself.
#[test]
fn covering_squares_are_the_smallest_that_hold_enough() {
    let device = Device::flex();
    device.seed(1);
    for size in [[9, 9], [10, 10], [7, 12], [1, 1], [2, 2]] {
        let [height, width] = size;
        let map: Vec<f32> = values(random([1, 1, height, width], &device)).into_iter().map(|value| value * value).collect();
        let total: f64 = map.iter().map(|value| f64::from(*value)).sum();
        for share in [0.0, 0.2, 0.3, 0.5, 0.9, 0.99, 0.9999] {
            let found = covering_square(&map, size, share).unwrap();
            let slow = (0..).find_map(|half: usize| {
                let rows = (height / 2).saturating_sub(half)..(height / 2 + half + 1).min(height);
                let columns = (width / 2).saturating_sub(half)..(width / 2 + half + 1).min(width);
                let inside: f64 =
                    rows.clone().flat_map(|y| columns.clone().map(move |x| (y, x))).map(|(y, x)| f64::from(map[y * width + x])).sum();
                let area = (rows.len() * columns.len()) as f64 / (height * width) as f64;
                // Sums in another order differ in their last digits.
                (inside > share * total * (1.0 - 1e-12)).then_some((2 * half + 1, area))
            });
            assert_eq!(Some((found.side, found.area)), slow, "{size:?} {share}");
        }
        assert_eq!(covering_square(&map, size, 1.0), None);
    }
    assert_eq!(covering_square(&[0.0; 4], [2, 2], 0.5), None);
    // The whole sum is in the corner, which the published script never reaches.
    assert_eq!(covering_square(&[1.0, 0.0, 0.0, 0.0], [2, 2], 0.5), Some(CoveringSquare { side: 3, area: 1.0 }));
}
