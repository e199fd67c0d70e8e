//! Activation maps with official weights: they reproduce the scan, and equal the whole matrix computed by definition.

use burn::prelude::*;
use tests::{Fixture, cases, folders};
use vision_ops::{ScanPattern, cross_scan};
use vmamba::OfficialConfig;
use vmamba::analysis::{BlockIndex, MapMode, MapOptions, ScanTrace, activation_maps, channel_row};

use crate::weights::load;

/// The scan sums in float32 and in another order.
const SCAN_TOLERANCE: f64 = 1e-4;

/// The maps are float32.
const MAP_TOLERANCE: f64 = 1e-5;

/// The traces of the last block of every stage for every official case, with a name.
fn traces() -> Vec<(String, ScanTrace)> {
    let device = Device::flex();
    let mut traces = Vec::new();
    for folder in folders("backbone_") {
        let weights = Fixture::read(&folder, "weights");
        let config = OfficialConfig::parse(weights.config()).unwrap_or_else(|error| panic!("{folder}: {error}")).config;
        let backbone = load(config.init(&device), &weights.with_prefix(""));
        for name in cases(&folder).into_iter().filter(|name| name != "weights") {
            let images = Fixture::read(&folder, &name).tensor("x").to_tensor::<4>(&device).narrow(0, 0, 1);
            for (stage, depth) in config.depths.iter().enumerate() {
                let trace = backbone.trace_scan(images.clone(), BlockIndex { stage, block: depth - 1 }).unwrap();
                traces.push((format!("{folder}/{name} stage {stage}"), trace));
            }
        }
    }
    assert!(!traces.is_empty());
    traces
}

/// Patches in all corners, in the middle, and off it.
fn queries([height, width]: [usize; 2]) -> [[usize; 2]; 4] {
    [[0, 0], [height - 1, width - 1], [height / 2, width / 2], [height / 3, width - 1]]
}

#[test]
fn rows_of_the_matrix_reproduce_the_official_scan() {
    let mut worst = 0.0_f64;
    for (name, trace) in traces() {
        let options = MapOptions { mode: MapMode::CwBdtw, ..MapOptions::default() };
        let largest = trace.merged.iter().fold(0.0_f64, |most, value| most.max(f64::from(value.abs())));
        for query in queries(trace.size) {
            let pixel = query[0] * trace.size[1] + query[1];
            for channel in 0..trace.channels {
                let input = |pixel: usize| f64::from(trace.u[pixel * trace.channels + channel]);
                let route = |number: usize| {
                    let row = channel_row(&trace, number, channel, query, options).unwrap();
                    let seen: f64 = row.iter().enumerate().map(|(pixel, entry)| entry * input(pixel)).sum();
                    seen + f64::from(trace.routes[number].d[channel]) * input(pixel)
                };
                let output: f64 = (0..trace.routes.len()).map(route).sum();
                let error = (output - f64::from(trace.merged[pixel * trace.channels + channel])).abs() / largest;
                assert!(error < SCAN_TOLERANCE, "{name}, query {query:?}, channel {channel}: {error:e}");
                worst = worst.max(error);
            }
        }
    }
    println!("worst error of the scan from its matrix: {worst:.1e} of the largest value");
}

/// The raster index of the patch at every step of every route, from the copies that the official cross-scan makes.
fn orders([height, width]: [usize; 2]) -> Vec<Vec<usize>> {
    let device = Device::flex();
    let numbers = Tensor::<1, Int>::arange(0..(height * width) as i64, &device).float().reshape([1, 1, height, width]);
    let steps: Vec<usize> = cross_scan(numbers, ScanPattern::Cross).into_data().iter::<f32>().map(|number| number as usize).collect();
    steps.chunks(height * width).map(<[usize]>::to_vec).collect()
}

/// The matrix of a route averaged over channels by definition, in float64, with rows and columns in raster order.
fn dense(trace: &ScanTrace, number: usize, order: &[usize], mode: MapMode) -> Vec<f64> {
    let (route, length, channels, states) = (&trace.routes[number], order.len(), trace.channels, trace.state);
    let mut matrix = vec![0.0; length * length];
    for channel in 0..channels {
        let delta: Vec<f64> = order.iter().map(|pixel| f64::from(route.delta[pixel * channels + channel])).collect();
        let total: Vec<f64> = delta.iter().scan(0.0, |sum, delta| (*sum += delta, Some(*sum)).1).collect();
        for state in 0..states {
            let a = f64::from(route.a[channel * states + state]);
            for i in 0..length {
                for j in 0..=i {
                    let c = f64::from(route.c[order[i] * states + state]);
                    let b = f64::from(route.b[order[j] * states + state]);
                    let decay = (a * (total[i] - total[j])).exp();
                    let entry = match mode {
                        MapMode::Cb => c * b,
                        MapMode::CwBw => c * decay * b,
                        MapMode::Ww => decay,
                        MapMode::CbDt => c * b * delta[j],
                        MapMode::CwBdtw => c * decay * b * delta[j],
                    };
                    matrix[order[i] * length + order[j]] += entry / channels as f64;
                }
            }
        }
    }
    matrix
}

#[test]
fn maps_equal_the_matrix_by_definition() {
    let mut worst = 0.0_f64;
    for (name, trace) in traces() {
        let orders = orders(trace.size);
        let length = trace.size[0] * trace.size[1];
        for (mode, mode_name) in MapMode::ALL {
            for (number, order) in orders.iter().enumerate() {
                let matrix = dense(&trace, number, order, mode);
                for query in queries(trace.size) {
                    let maps = activation_maps(&trace, query, MapOptions { mode, ..MapOptions::default() }).unwrap();
                    let expected = &matrix[(query[0] * trace.size[1] + query[1]) * length..][..length];
                    let largest = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
                    for (value, expected) in maps.routes[number].raw.iter().zip(expected) {
                        let error = (f64::from(*value) - expected).abs() / largest;
                        assert!(error < MAP_TOLERANCE, "{name}, {mode_name}, route {number}, query {query:?}: {error:e}");
                        worst = worst.max(error);
                    }
                }
            }
        }
    }
    println!("worst error of a map: {worst:.1e} of its largest value");
}
