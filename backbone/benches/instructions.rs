//! Counts the instructions of the backbone and of every custom operation with valgrind, which detects slowdowns without depending on time.
//!
//! `cargo bench -p vmamba --bench instructions` counts the cases, prints the differences from `instructions.json` in this folder, and fails
//! when a count has grown by more than 5 %. `-- --all` adds the backbone at 224x224, which takes four minutes. `-- --record` counts all cases
//! and rewrites the file, `-- NAME` runs the cases whose names contain NAME.
//!
//! Valgrind does not support AVX-512, so the AVX2 code is counted, on one thread. Counts vary by about one percent between compilers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use burn::module::{ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::Distribution;
use rayon::prelude::*;
use vision_ops::{Fused, Pointwise, Roi, RoiSampling, Route};
use vmamba::{FeaturePyramid, Preset};

/// The growth of a count above which the run fails.
const LIMIT: f64 = 0.05;

/// Name of a case and the function that prepares it. The second call of the returned closure is counted.
type Case = (&'static str, fn() -> Box<dyn FnMut()>);

const BACKBONE_64: &str = "backbone, VMamba-T[s1l8], 64x64";
const BACKBONE_224: &str = "backbone, VMamba-T[s1l8], 224x224";

const CASES: &[Case] = &[
    (BACKBONE_64, || backbone(64)),
    (BACKBONE_224, || backbone(224)),
    ("selective_scan_2d", || scan_2d(false)),
    ("selective_scan_2d, backward", || scan_2d(true)),
    ("selective_scan", || scan_1d(false)),
    ("selective_scan, backward", || scan_1d(true)),
    ("gelu", || pointwise(vision_ops::gelu, false)),
    ("gelu, backward", || pointwise(vision_ops::gelu, true)),
    ("silu", || pointwise(vision_ops::silu, false)),
    ("softplus", || pointwise(vision_ops::softplus, false)),
    ("channel_norm", || norm(false)),
    ("channel_norm, backward", || norm(true)),
    ("batch_norm", || norm_of_batch(false)),
    ("batch_norm, backward", || norm_of_batch(true)),
    ("depthwise_conv2d", || depthwise(false)),
    ("depthwise_conv2d, backward", || depthwise(true)),
    ("linear, 784x192x768", || linear(784, false)),
    ("linear, 49x192x768", || linear(49, false)),
    ("linear, backward", || linear(784, true)),
    ("mlp", mlp),
    ("conv2d, 3x3, stride 2", || conv(2, 64, false)),
    ("conv2d, 3x3, Winograd", || conv(1, 64, false)),
    ("conv2d, 3x3, direct", || conv(1, 16, false)),
    ("conv2d, stride 2, backward", || conv(2, 64, true)),
    ("conv2d, stride 1, backward", || conv(1, 64, true)),
    ("resize_bilinear", || resize(false)),
    ("resize_bilinear, backward", || resize(true)),
    ("resize_bilinear, channels last", resize_channels_last),
    ("argmax_resized", argmax_resized),
    ("softmax_channels", || softmax(false)),
    ("cross_entropy_map", || cross_entropy(false)),
    ("cross_entropy_map, backward", || cross_entropy(true)),
    ("roi_align", || roi_align(false)),
    ("roi_align, backward", || roi_align(true)),
    ("nms", nms),
    ("paste_mask", paste_mask),
];

/// The function to count: valgrind's counter is on while it runs.
#[inline(never)]
fn counted_section(work: &mut dyn FnMut()) {
    work();
    std::hint::black_box(());
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [flag, name] = arguments.as_slice()
        && flag == "--case"
    {
        return run_case(name);
    }
    let record = arguments.iter().any(|argument| argument == "--record");
    let all = record || arguments.iter().any(|argument| argument == "--all");
    let wanted: Vec<&String> = arguments.iter().filter(|argument| *argument != "--record" && *argument != "--all").collect();
    match count_all(record, all, &wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_case(name: &str) -> ExitCode {
    // Run everything on this thread, which valgrind counts.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global();
    let case = CASES.iter().find(|(case, _)| *case == name);
    let (Ok(()), Some((_, prepare))) = (pool, case) else { return ExitCode::FAILURE };
    let mut work = prepare();
    // A first call makes buffers and tables, which should not be counted. For a whole network they are negligible, and its call takes minutes.
    if name != BACKBONE_224 {
        work();
    }
    counted_section(&mut work);
    ExitCode::SUCCESS
}

fn count_all(record: bool, all: bool, wanted: &[&String]) -> Result<bool, String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("the recorded counts are for x86-64".to_owned());
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.json");
    let mut recorded: BTreeMap<String, u64> = match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?,
        Err(_) if record => BTreeMap::new(),
        Err(error) => return Err(format!("{}: {error}; --record writes it", path.display())),
    };
    let chosen = |name: &str| {
        if wanted.is_empty() { all || name != BACKBONE_224 } else { wanted.iter().any(|part| name.contains(part.as_str())) }
    };
    let cases: Vec<&str> = CASES.iter().map(|(name, _)| *name).filter(|name| chosen(name)).collect();
    if cases.is_empty() {
        return Err(format!("no case has {wanted:?} in its name"));
    }
    // Every case runs in its own process, all in parallel: that changes their time but not their count.
    let counts: Vec<(&str, Result<u64, String>)> = cases.into_par_iter().with_max_len(1).map(|name| (name, count(name))).collect();
    let mut good = true;
    println!("{:<38} {:>15} {:>15} {:>8}", "case", "instructions", "recorded", "change");
    for (name, now) in counts {
        let now = now?;
        match recorded.get(name) {
            Some(before) => {
                let change = now as f64 / *before as f64 - 1.0;
                let verdict = if change > LIMIT { "  too many" } else { "" };
                println!("{name:<38} {now:>15} {before:>15} {:>+7.1}%{verdict}", 100.0 * change);
                good &= change <= LIMIT;
            }
            None => {
                println!("{name:<38} {now:>15} {:>15}  not recorded", "");
                good = false;
            }
        }
        recorded.insert(name.to_owned(), now);
    }
    if record {
        recorded.retain(|name, _| CASES.iter().any(|(case, _)| case == name));
        let text = serde_json::to_string_pretty(&recorded).map_err(|error| error.to_string())?;
        std::fs::write(&path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))?;
        return Ok(true);
    }
    Ok(good)
}

/// The instructions of a case, from a run of this program under valgrind.
fn count(name: &str) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    // On some processors large copies use `rep movsb`, which would count one instruction per byte.
    let copies = "glibc.cpu.x86_rep_movsb_threshold=1000000000:glibc.cpu.x86_rep_stosb_threshold=1000000000";
    let output = Command::new("valgrind")
        .env("GLIBC_TUNABLES", copies)
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counted_section*"])
        .arg(program)
        .args(["--case", name])
        .output()
        .map_err(|error| format!("valgrind cannot be started ({error}); it comes with the package `valgrind`"))?;
    let report = String::from_utf8_lossy(&output.stderr);
    let collected = report.lines().find_map(|line| line.split_once("Collected : ")).and_then(|(_, count)| count.trim().parse().ok());
    match collected {
        Some(count) if count > 0 && output.status.success() => Ok(count),
        _ => Err(format!("`{name}` was not counted, valgrind says:\n{report}")),
    }
}

fn device(backward: bool) -> Device {
    let device = if backward { Device::flex().autodiff() } else { Device::flex() };
    device.seed(0);
    device
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let tensor = Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device);
    if device.is_autodiff() { tensor.require_grad() } else { tensor }
}

/// Runs an operation: computes its result, or the gradients of the sum of its result.
fn work<const D: usize>(backward: bool, operation: impl Fn() -> Tensor<D> + 'static) -> Box<dyn FnMut()> {
    Box::new(move || {
        let y = operation();
        if backward {
            std::hint::black_box(y.sum().backward());
        } else {
            std::hint::black_box(y.into_data());
        }
    })
}

/// Sets every parameter to a constant before it is initialised, because drawing 30 million random numbers takes longer than the network.
struct Constant(Device);

impl ModuleMapper for Constant {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        Param::initialized(parameter.id, Tensor::full(parameter.lazy_shape(), 0.01, &self.0))
    }
}

fn backbone(size: usize) -> Box<dyn FnMut()> {
    let device = device(false);
    let backbone = Preset::VmambaTinyS1l8.config().init(&device).map(&mut Constant(device.clone()));
    let image = random([1, 3, size, size], &device);
    Box::new(move || {
        std::hint::black_box(backbone.forward_features(image.clone()).into_iter().map(Tensor::into_data).collect::<Vec<_>>());
    })
}

fn scan_2d(backward: bool) -> Box<dyn FnMut()> {
    let device = device(backward);
    let (channels, rank, state) = (96, 6, 1);
    let x = random([1, 28, 20, channels], &device);
    let projections = random([1, 28, 20, 4 * (rank + 2 * state)], &device);
    let (weight, bias) = (random([4, channels, rank], &device), random([4, channels], &device));
    let (a_logs, d) = (random([4 * channels, state], &device), random([4 * channels], &device));
    work(backward, move || {
        let routes = [Route::Rows, Route::Columns, Route::RowsReversed, Route::ColumnsReversed];
        let (x, projections, weight, bias) = (x.clone(), projections.clone(), weight.clone(), bias.clone());
        vision_ops::selective_scan_2d(x, projections, weight, bias, a_logs.clone(), d.clone(), &routes)
    })
}

fn scan_1d(backward: bool) -> Box<dyn FnMut()> {
    let device = device(backward);
    let (channels, length, groups, state) = (64, 400, 4, 8);
    let (u, delta) = (random([1, channels, length], &device), random([1, channels, length], &device));
    let a = random([channels, state], &device);
    let (b, c) = (random([1, groups, state, length], &device), random([1, groups, state, length], &device));
    work(backward, move || {
        vision_ops::selective_scan(u.clone(), delta.clone(), a.clone().abs().neg(), b.clone(), c.clone(), None, None, true)
    })
}

fn pointwise(function: fn(Tensor<2>) -> Tensor<2>, backward: bool) -> Box<dyn FnMut()> {
    let x = random([784, 96], &device(backward));
    work(backward, move || function(x.clone()))
}

fn norm(backward: bool) -> Box<dyn FnMut()> {
    let device = device(backward);
    let (x, weight, bias) = (random([784, 96], &device), random([96], &device), random([96], &device));
    work(backward, move || vision_ops::channel_norm(x.clone(), Some(weight.clone()), Some(bias.clone()), 1e-5))
}

fn norm_of_batch(backward: bool) -> Box<dyn FnMut()> {
    let device = device(backward);
    let (x, weight, bias) = (random([784, 96], &device), random([96], &device), random([96], &device));
    work(backward, move || vision_ops::batch_norm(x.clone(), weight.clone(), bias.clone(), 1e-5).output)
}

fn depthwise(backward: bool) -> Box<dyn FnMut()> {
    let device = device(backward);
    let (x, weight, bias) = (random([1, 28, 28, 96], &device), random([96, 1, 3, 3], &device), random([96], &device));
    work(backward, move || vision_ops::depthwise_conv2d(x.clone(), weight.clone(), Some(bias.clone())))
}

fn linear(rows: usize, backward: bool) -> Box<dyn FnMut()> {
    let device = device(backward);
    let (x, weight, bias) = (random([rows, 192], &device), random([768, 192], &device), random([768], &device));
    work(backward, move || vision_ops::linear(x.clone(), weight.clone(), Some(bias.clone())))
}

fn mlp() -> Box<dyn FnMut()> {
    let device = device(false);
    let x = random([784, 96], &device);
    let (first, second) = (random([384, 96], &device), random([96, 384], &device));
    work(false, move || vision_ops::mlp(x.clone(), [(first.clone(), None), (second.clone(), None)], Pointwise::Gelu, Some(x.clone())))
}

fn conv(stride: usize, channels: usize, backward: bool) -> Box<dyn FnMut()> {
    let device = device(backward);
    let (x, weight) = (random([1, 28, 28, channels], &device), random([64, channels, 3, 3], &device));
    work(backward, move || {
        vision_ops::conv2d_fused(x.clone(), weight.clone(), Fused::default().activation(Pointwise::Relu), [stride; 2], [1, 1])
    })
}

fn resize(backward: bool) -> Box<dyn FnMut()> {
    let x = random([1, 19, 32, 32], &device(backward));
    work(backward, move || vision_ops::resize_bilinear(x.clone(), [128, 128], false))
}

fn resize_channels_last() -> Box<dyn FnMut()> {
    let x = random([1, 32, 32, 64], &device(false));
    work(false, move || vision_ops::resize_bilinear(x.clone().permute([0, 3, 1, 2]), [64, 64], false).permute([0, 2, 3, 1]))
}

fn argmax_resized() -> Box<dyn FnMut()> {
    let x = random([1, 19, 32, 32], &device(false));
    Box::new(move || {
        std::hint::black_box(vision_ops::argmax_resized(x.clone(), [128, 128]));
    })
}

fn softmax(backward: bool) -> Box<dyn FnMut()> {
    let x = random([1, 19, 64, 64], &device(backward));
    work(backward, move || vision_ops::softmax_channels(x.clone()))
}

fn cross_entropy(backward: bool) -> Box<dyn FnMut()> {
    let device = device(backward);
    let logits = random([1, 19, 64, 64], &device);
    let labels = Tensor::<1, Int>::arange(0..64 * 64, &device).remainder_scalar(19).reshape([1, 64, 64]);
    work(backward, move || vision_ops::cross_entropy_map(logits.clone(), labels.clone(), 255))
}

fn roi_align(backward: bool) -> Box<dyn FnMut()> {
    let features = random([1, 64, 50, 50], &device(backward));
    let rois: Vec<Roi> = (0..50).map(|i| Roi { image: 0, bbox: [i as f32, 3.0, 60.0 + 2.0 * i as f32, 90.0] }).collect();
    let sampling = RoiSampling { spatial_scale: 0.25, output: [7, 7], sampling_ratio: 0, aligned: true };
    work(backward, move || vision_ops::roi_align(features.clone(), &rois, sampling))
}

fn nms() -> Box<dyn FnMut()> {
    let boxes: Vec<[f32; 4]> =
        (0..1000).map(|i| (((i * 37) % 500) as f32, ((i * 91) % 400) as f32)).map(|(x, y)| [x, y, x + 40.0, y + 30.0]).collect();
    let scores: Vec<f32> = (0..1000).map(|i| ((i * 53) % 997) as f32 / 997.0).collect();
    Box::new(move || {
        std::hint::black_box(vision_ops::nms(&boxes, &scores, 0.5));
    })
}

fn paste_mask() -> Box<dyn FnMut()> {
    let mask: Vec<f32> = (0..28 * 28).map(|i| ((i * 53) % 997) as f32 / 997.0).collect();
    Box::new(move || {
        std::hint::black_box(vision_ops::paste_mask(&mask, 28, [20.0, 30.0, 180.0, 150.0], [240, 320], 0.5));
    })
}
