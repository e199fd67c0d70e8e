//! The operations and the shapes they are checked with: small and odd ones, those of a network, one and sixteen states, long sequences.

use burn::prelude::*;
use vision_ops::{
    Pointwise, Roi, RoiSampling, Route, ScanPattern, argmax_channels, argmax_resized, batch_norm, channel_norm, conv2d, cross_entropy_map,
    cross_merge, cross_scan, depthwise_conv2d, gelu, linear, mlp, resize_bilinear, roi_align, selective_scan, selective_scan_2d, silu,
    softmax_channels, softplus,
};

use crate::gpu_check::precision::Product;

/// The names of all operations.
pub const OPERATIONS: [&str; 19] = [
    "selective_scan",
    "selective_scan_2d",
    "cross_scan",
    "cross_merge",
    "gelu",
    "silu",
    "softplus",
    "channel_norm",
    "batch_norm",
    "linear",
    "mlp",
    "conv2d",
    "depthwise_conv2d",
    "resize_bilinear",
    "softmax_channels",
    "cross_entropy_map",
    "roi_align",
    "argmax_channels",
    "argmax_resized",
];

/// An operation with the shapes of its inputs.
pub(super) struct Case {
    pub operation: &'static str,
    pub shape: String,
    pub inputs: Vec<Input>,
    pub run: Run,
    /// Products of float32 numbers in it, which the device may compute in other numbers.
    pub products: Vec<Product>,
}

/// A tensor of normally distributed values.
pub(super) struct Input {
    pub name: &'static str,
    pub shape: Vec<usize>,
    pub mean: f32,
    pub spread: f32,
    /// Whether it is an activation, which may be bf16, or a weight.
    pub activation: bool,
}

/// Something of the flattened inputs.
pub(super) type Function<T> = Box<dyn Fn(&[Tensor<1>]) -> T>;

/// What is computed of the inputs.
pub(super) enum Run {
    /// A tensor, flattened; every input has a gradient.
    Function(Function<Tensor<1>>),
    /// The best class of each pixel.
    Labels { scores: Scores, labels: Function<Vec<u32>> },
}

/// The scores that labels are chosen by.
pub(super) struct Scores {
    pub resized: Function<Tensor<1>>,
    pub batch: usize,
    pub classes: usize,
    pub pixels: usize,
}

fn activation(name: &'static str, shape: &[usize]) -> Input {
    Input { name, shape: shape.to_vec(), mean: 0.0, spread: 1.0, activation: true }
}

fn weight(name: &'static str, shape: &[usize], spread: f32) -> Input {
    Input { name, shape: shape.to_vec(), mean: 0.0, spread, activation: false }
}

fn flat<const D: usize>(t: Tensor<D>) -> Tensor<1> {
    let count = t.shape().num_elements();
    t.reshape([count])
}

fn case(operation: &'static str, shape: String, inputs: Vec<Input>, function: impl Fn(&[Tensor<1>]) -> Tensor<1> + 'static) -> Case {
    Case { operation, shape, inputs, run: Run::Function(Box::new(function)), products: Vec::new() }
}

/// `2x7x5`, and what else there is to know.
fn text(shape: &[usize], more: &str) -> String {
    let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
    if more.is_empty() { shape.join("x") } else { format!("{}, {more}", shape.join("x")) }
}

/// Every case, in the order of [`OPERATIONS`].
pub(super) fn all() -> Vec<Case> {
    let mut cases = scans();
    cases.extend(routes());
    cases.extend(activations_and_norms());
    cases.extend(products());
    cases.extend(maps());
    cases.extend(labels());
    cases
}

fn scans() -> Vec<Case> {
    let mut cases = Vec::new();
    for ([batch, groups, channels, state, length], whole) in [
        ([2, 4, 6, 1, 35], true),
        ([2, 2, 3, 16, 67], true),
        ([1, 1, 5, 3, 1], false),
        ([1, 4, 24, 1, 3136], true),
        ([1, 2, 4, 16, 3136], true),
        ([1, 4, 4, 1, 66_800], true),
    ] {
        let rows = groups * channels;
        let mut inputs = vec![
            activation("u", &[batch, rows, length]),
            activation("delta", &[batch, rows, length]),
            weight("a", &[rows, state], 0.5),
            activation("b", &[batch, groups, state, length]),
            activation("c", &[batch, groups, state, length]),
        ];
        if whole {
            inputs.extend([weight("d", &[rows], 1.0), Input { mean: -2.0, ..weight("delta_bias", &[rows], 0.5) }]);
        }
        let more = format!("state {state}, {groups} groups{}", if whole { "" } else { ", no d, no bias, softplus left out" });
        cases.push(case("selective_scan", text(&[batch, rows, length], &more), inputs, move |t| {
            let shared = |t: &Tensor<1>| t.clone().reshape([batch, groups, state, length]);
            let sequence = |t: &Tensor<1>| t.clone().reshape([batch, rows, length]);
            // Without softplus a step size may be negative and the state grow, so it is squared.
            let delta = if whole { sequence(&t[1]) } else { sequence(&t[1]).square() };
            let a = t[2].clone().reshape([rows, state]).exp().neg();
            let (d, bias) = (t.get(5).cloned(), t.get(6).cloned());
            flat(selective_scan(sequence(&t[0]), delta, a, shared(&t[3]), shared(&t[4]), d, bias, whole))
        }));
    }
    for ([batch, height, width, channels, rank, state], routes) in [
        ([2, 5, 7, 24, 2, 1], &Route::CROSS[..]),
        ([1, 9, 8, 10, 1, 16], &Route::CROSS[..]),
        ([1, 7, 7, 13, 3, 2], &Route::CROSS[..1]),
        ([2, 14, 14, 384, 24, 1], &Route::CROSS[..]),
        ([2, 56, 56, 96, 6, 1], &Route::CROSS[..]),
        ([1, 28, 28, 48, 6, 16], &Route::CROSS[..]),
        ([1, 200, 334, 16, 1, 1], &Route::CROSS[..]),
    ] {
        let count = routes.len();
        let fields = count * (rank + 2 * state);
        let inputs = vec![
            activation("x", &[batch, height, width, channels]),
            activation("projections", &[batch, height, width, fields]),
            weight("dt_weight", &[count, channels, rank], 0.5),
            Input { mean: -2.0, ..weight("dt_bias", &[count, channels], 0.5) },
            weight("a_logs", &[count * channels, state], 0.5),
            weight("d", &[count * channels], 1.0),
        ];
        let more = format!("rank {rank}, state {state}, {count} routes");
        cases.push(case("selective_scan_2d", text(&[batch, height, width, channels], &more), inputs, move |t| {
            flat(selective_scan_2d(
                t[0].clone().reshape([batch, height, width, channels]),
                t[1].clone().reshape([batch, height, width, fields]),
                t[2].clone().reshape([count, channels, rank]),
                t[3].clone().reshape([count, channels]),
                t[4].clone().reshape([count * channels, state]),
                t[5].clone(),
                routes,
            ))
        }));
    }
    cases
}

fn routes() -> Vec<Case> {
    let mut cases = Vec::new();
    let shape = [2, 3, 5, 7];
    let patterns = [ScanPattern::Cross, ScanPattern::Unidirectional, ScanPattern::Bidirectional, ScanPattern::Rotated];
    for pattern in patterns {
        cases.push(case("cross_scan", text(&shape, &format!("{pattern:?}")), vec![activation("x", &shape)], move |t| {
            flat(cross_scan(t[0].clone().reshape(shape), pattern))
        }));
    }
    let shape = [2, 4, 3, 5, 7];
    for pattern in patterns {
        cases.push(case("cross_merge", text(&shape, &format!("{pattern:?}")), vec![activation("ys", &shape)], move |t| {
            flat(cross_merge(t[0].clone().reshape(shape), pattern))
        }));
    }
    cases
}

fn activations_and_norms() -> Vec<Case> {
    let mut cases = Vec::new();
    type Activation = fn(Tensor<4>) -> Tensor<4>;
    for (name, function) in [("gelu", gelu as Activation), ("silu", silu as Activation), ("softplus", softplus as Activation)] {
        for shape in [[2, 7, 5, 3], [1, 1, 1, 1], [2, 28, 28, 96]] {
            // Wide enough for the tails, where softplus is linear; but a value there that has no larger beside it has no error to speak of.
            let (mean, spread) = if shape == [1; 4] { (1.0, 0.1) } else { (0.0, 8.0) };
            let inputs = vec![Input { mean, spread, ..activation("x", &shape) }];
            cases.push(case(name, text(&shape, ""), inputs, move |t| flat(function(t[0].clone().reshape(shape)))));
        }
    }
    for (shape, affine) in [([3, 5, 7, 33], true), ([2, 28, 28, 96], true), ([1, 7, 7, 768], true), ([2, 5, 3, 40], false)] {
        let channels = shape[3];
        let mut inputs = vec![Input { mean: 0.5, spread: 2.0, ..activation("x", &shape) }];
        if affine {
            inputs.extend([Input { mean: 1.0, ..weight("weight", &[channels], 0.3) }, weight("bias", &[channels], 0.3)]);
        }
        let more = if affine { "" } else { "no weight, no bias" };
        cases.push(case("channel_norm", text(&shape, more), inputs, move |t| {
            flat(channel_norm(t[0].clone().reshape(shape), t.get(1).cloned(), t.get(2).cloned(), 1e-5))
        }));
    }
    for shape in [[3, 5, 7, 33], [2, 28, 28, 96], [8, 7, 7, 512]] {
        let channels = shape[3];
        let x = Input { mean: 0.5, spread: 2.0, ..activation("x", &shape) };
        let inputs = vec![x, Input { mean: 1.0, ..weight("weight", &[channels], 0.3) }, weight("bias", &[channels], 0.3)];
        cases.push(case("batch_norm", text(&shape, ""), inputs, move |t| {
            flat(batch_norm(t[0].clone().reshape(shape), t[1].clone(), t[2].clone(), 1e-5).output)
        }));
    }
    cases
}

/// Spread of weights that keeps the spread of what they are multiplied with.
fn keeping(inputs: usize) -> f32 {
    1.0 / (inputs as f32).sqrt()
}

fn products() -> Vec<Case> {
    let mut cases = Vec::new();
    for ([batch, height, width, inputs, outputs], biased) in
        [([2, 7, 9, 33, 17], true), ([1, 1, 1, 5, 3], true), ([2, 28, 28, 96, 384], true), ([2, 14, 14, 1536, 384], false)]
    {
        let shape = [batch, height, width, inputs];
        let mut tensors = vec![activation("x", &shape), weight("weight", &[outputs, inputs], keeping(inputs))];
        tensors.extend(biased.then(|| weight("bias", &[outputs], 0.5)));
        let product = Product::Linear { rows: batch * height * width, inputs, outputs };
        let checked = case("linear", text(&shape, &format!("to {outputs}")), tensors, move |t| {
            flat(linear(t[0].clone().reshape(shape), t[1].clone().reshape([outputs, inputs]), t.get(2).cloned()))
        });
        cases.push(Case { products: vec![product], ..checked });
    }
    for [batch, height, width, channels, hidden] in [[2, 5, 7, 24, 40], [1, 14, 14, 384, 1536]] {
        let shape = [batch, height, width, channels];
        let tensors = vec![
            activation("x", &shape),
            weight("first weight", &[hidden, channels], keeping(channels)),
            weight("first bias", &[hidden], 0.5),
            weight("second weight", &[channels, hidden], keeping(hidden)),
            weight("second bias", &[channels], 0.5),
        ];
        let rows = batch * height * width;
        let products =
            vec![Product::Linear { rows, inputs: channels, outputs: hidden }, Product::Linear { rows, inputs: hidden, outputs: channels }];
        let checked = case("mlp", text(&shape, &format!("through {hidden}, GELU, residual")), tensors, move |t| {
            let x = t[0].clone().reshape(shape);
            let first = (t[1].clone().reshape([hidden, channels]), Some(t[2].clone()));
            let second = (t[3].clone().reshape([channels, hidden]), Some(t[4].clone()));
            flat(mlp(x.clone(), [first, second], Pointwise::Gelu, Some(x)))
        });
        cases.push(Case { products, ..checked });
    }
    for ([batch, height, width, inputs, outputs, stride], biased) in
        [([1, 15, 13, 3, 16, 2], true), ([2, 9, 10, 24, 32, 1], true), ([2, 56, 56, 96, 192, 2], true), ([1, 25, 33, 64, 64, 1], false)]
    {
        let shape = [batch, height, width, inputs];
        let mut tensors = vec![activation("x", &shape), weight("weight", &[outputs, inputs, 3, 3], keeping(9 * inputs))];
        tensors.extend(biased.then(|| weight("bias", &[outputs], 0.5)));
        let product = Product::Conv { batch, size: [height, width], inputs, outputs, stride };
        let checked = case("conv2d", text(&shape, &format!("to {outputs}, 3x3, stride {stride}")), tensors, move |t| {
            let weight = t[1].clone().reshape([outputs, inputs, 3, 3]);
            flat(conv2d(t[0].clone().reshape(shape), weight, t.get(2).cloned(), [stride; 2], [1, 1]))
        });
        cases.push(Case { products: vec![product], ..checked });
    }
    for ([batch, height, width, channels, kernel], biased) in
        [([2, 11, 7, 24, 3], true), ([1, 5, 4, 9, 5], true), ([2, 28, 28, 96, 3], false), ([2, 28, 28, 192, 3], true)]
    {
        let shape = [batch, height, width, channels];
        let mut tensors = vec![activation("x", &shape), weight("weight", &[channels, 1, kernel, kernel], 1.0 / kernel as f32)];
        tensors.extend(biased.then(|| weight("bias", &[channels], 0.5)));
        cases.push(case("depthwise_conv2d", text(&shape, &format!("{kernel}x{kernel}")), tensors, move |t| {
            let weight = t[1].clone().reshape([channels, 1, kernel, kernel]);
            flat(depthwise_conv2d(t[0].clone().reshape(shape), weight, t.get(2).cloned()))
        }));
    }
    cases
}

fn maps() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, size, align_corners) in [
        ([2, 3, 7, 9], [13, 20], false),
        ([2, 3, 7, 9], [13, 20], true),
        ([1, 19, 8, 11], [4, 5], false),
        ([1, 150, 16, 16], [64, 64], false),
    ] {
        let more = format!("to {}x{}{}", size[0], size[1], if align_corners { ", corners aligned" } else { "" });
        cases.push(case("resize_bilinear", text(&shape, &more), vec![activation("x", &shape)], move |t| {
            flat(resize_bilinear(t[0].clone().reshape(shape), size, align_corners))
        }));
    }
    for shape in [[2, 19, 7, 5], [1, 150, 32, 32]] {
        let inputs = vec![Input { spread: 3.0, ..activation("x", &shape) }];
        cases.push(case("softmax_channels", text(&shape, ""), inputs, move |t| flat(softmax_channels(t[0].clone().reshape(shape)))));
    }
    for shape in [[2, 19, 7, 5], [1, 150, 32, 32]] {
        let [batch, classes, height, width] = shape;
        let inputs = vec![Input { spread: 3.0, ..activation("logits", &shape) }];
        cases.push(case("cross_entropy_map", text(&shape, "one label in seven ignored"), inputs, move |t| {
            let label = |pixel: usize| if pixel % 7 == 3 { 255 } else { (pixel * 31 % classes) as i64 };
            let labels: Vec<i64> = (0..batch * height * width).map(label).collect();
            let labels = Tensor::<1, Int>::from_data(labels.as_slice(), &t[0].device()).reshape([batch, height, width]);
            flat(cross_entropy_map(t[0].clone().reshape(shape), labels, 255))
        }));
    }
    for (shape, output, sampling_ratio, count) in [
        ([2, 5, 13, 17], [7, 7], 0, 12),
        ([2, 3, 13, 17], [3, 5], 2, 9),
        ([2, 64, 50, 67], [7, 7], 0, 100),
        ([1, 16, 25, 33], [14, 14], 0, 30),
    ] {
        let more = format!("{count} RoIs to {}x{}, {sampling_ratio} samples", output[0], output[1]);
        cases.push(case("roi_align", text(&shape, &more), vec![activation("features", &shape)], move |t| {
            let sampling = RoiSampling { spatial_scale: 0.25, output, sampling_ratio, aligned: true };
            flat(roi_align(t[0].clone().reshape(shape), &rois(shape, count), sampling))
        }));
    }
    cases
}

/// Boxes over the whole map and its borders, of all sizes; the first is a point.
fn rois([batch, _, height, width]: [usize; 4], count: usize) -> Vec<Roi> {
    // The map is a quarter of its image.
    let along = |index: usize, step: usize, cells: usize| (index * step % (4 * cells + 16)) as f32 - 8.0;
    let roi = |index: usize| {
        let [x, y] = [along(index, 37, width), along(index, 53, height)];
        Roi { image: index % batch, bbox: [x, y, x + (index * 11 % 97) as f32 * 0.7, y + (index * 13 % 89) as f32 * 0.9] }
    };
    (0..count).map(roi).collect()
}

fn labels() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [[2, 19, 7, 5], [1, 150, 32, 33]] {
        let [batch, classes, height, width] = shape;
        let scores = Scores { resized: Box::new(|t| t[0].clone()), batch, classes, pixels: height * width };
        let run = Run::Labels { scores, labels: Box::new(move |t| argmax_channels(t[0].clone().reshape(shape))) };
        let inputs = vec![activation("scores", &shape)];
        cases.push(Case { operation: "argmax_channels", shape: text(&shape, ""), inputs, run, products: Vec::new() });
    }
    for (shape, size) in [([1, 7, 5, 9], [11, 13]), ([1, 150, 16, 16], [67, 64])] {
        let resized = move |t: &[Tensor<1>]| flat(resize_bilinear(t[0].clone().reshape(shape), size, false));
        let scores = Scores { resized: Box::new(resized), batch: 1, classes: shape[1], pixels: size[0] * size[1] };
        let run = Run::Labels { scores, labels: Box::new(move |t| argmax_resized(t[0].clone().reshape(shape), size)) };
        let inputs = vec![activation("scores", &shape)];
        let shape = text(&shape, &format!("to {}x{}", size[0], size[1]));
        cases.push(Case { operation: "argmax_resized", shape, inputs, run, products: Vec::new() });
    }
    cases
}
