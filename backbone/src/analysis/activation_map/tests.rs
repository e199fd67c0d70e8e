use burn::prelude::*;
use burn::tensor::Distribution;

use super::*;
use crate::analysis::{BlockIndex, TraceError};
use crate::vmamba::{Dims, Vmamba, VmambaConfig};

/// Tolerance: float32 scans sum up to 70 entries here, in another order.
const TOLERANCE: f64 = 1e-4;

fn model(forward_type: &str, state: usize) -> Vmamba {
    let device = Device::flex();
    device.seed(3);
    let config = VmambaConfig {
        depths: vec![1, 2],
        dims: Dims::Doubling(8),
        out_indices: vec![0, 1],
        ssm_d_state: state,
        forward_type: forward_type.parse().unwrap(),
        ..VmambaConfig::default()
    };
    config.try_init(&device).unwrap()
}

/// A trace over 7 x 10 patches.
fn trace(forward_type: &str, state: usize) -> ScanTrace {
    let image = Tensor::random([1, 3, 53, 78], Distribution::Normal(0.0, 1.0), &Device::flex());
    model(forward_type, state).trace_scan(image, BlockIndex { stage: 1, block: 1 }).unwrap()
}

const MODES: MapOptions = MapOptions { mode: MapMode::CwBdtw, decay: Decay::Exact, range: MapRange::Query };

#[test]
fn the_rows_of_every_channel_reproduce_the_scan() {
    for (forward_type, state) in [("v05_noz", 1), ("v05_noz", 3), ("v051d_noz", 2), ("v052d_noz", 1)] {
        let trace = trace(forward_type, state);
        let [height, width] = trace.size;
        assert_eq!([height, width, trace.state], [7, 10, state]);
        let largest = trace.merged.iter().fold(0.0, |most: f64, value| most.max(f64::from(value.abs())));
        for query in [[0, 0], [6, 9], [0, 9], [3, 4], [5, 2]] {
            let pixel = query[0] * width + query[1];
            for channel in 0..trace.channels {
                let input = |pixel: usize| f64::from(trace.u[pixel * trace.channels + channel]);
                let mut output = 0.0;
                for (number, route) in trace.routes.iter().enumerate() {
                    let row = channel_row(&trace, number, channel, query, MODES).unwrap();
                    output += row.iter().enumerate().map(|(pixel, entry)| entry * input(pixel)).sum::<f64>();
                    output += f64::from(route.d[channel]) * input(pixel);
                }
                let expected = f64::from(trace.merged[pixel * trace.channels + channel]);
                assert!((output - expected).abs() < TOLERANCE * largest, "{forward_type} {query:?} {channel}: {output} for {expected}");
            }
        }
    }
}

#[test]
fn the_official_form_is_the_same_where_nothing_underflows() {
    let trace = trace("v05_noz", 2);
    for mode in [MapMode::CwBw, MapMode::Ww, MapMode::CwBdtw] {
        let exact = activation_maps(&trace, [4, 5], MapOptions { mode, ..MapOptions::default() }).unwrap();
        let official = MapOptions { mode, decay: Decay::OfficialClamp, range: MapRange::Query };
        let official = activation_maps(&trace, [4, 5], official).unwrap();
        let largest = exact.sum.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
        for (one, other) in exact.sum.iter().zip(&official.sum) {
            assert!((one - other).abs() < 1e-4 * largest, "{mode:?}: {one} and {other}");
        }
    }
}

/// One channel and state over `length` patches in a row, with B = C = 1 and a decay of e^-step per patch.
fn chain(length: usize, step: f32) -> ScanTrace {
    let ones = vec![1.0; length];
    let route = RouteTrace { route: Route::Rows, delta: vec![step; length], a: vec![-1.0], b: ones.clone(), c: ones.clone(), d: vec![0.0] };
    ScanTrace { size: [1, length], channels: 1, state: 1, u: ones.clone(), routes: vec![route], merged: ones }
}

#[test]
fn the_exact_form_survives_what_the_official_one_loses() {
    let (trace, query) = (chain(400, 0.5), [0, 399]);
    let exact = activation_maps(&trace, query, MapOptions::default()).unwrap();
    for (pixel, value) in exact.sum.iter().enumerate() {
        let expected = (-0.5 * (399 - pixel) as f64).exp() as f32;
        assert!((value - expected).abs() <= 1e-6 * expected, "{pixel}: {value} for {expected}");
    }
    let clamped = MapOptions { decay: Decay::OfficialClamp, ..MapOptions::default() };
    let official = activation_maps(&trace, query, clamped).unwrap();
    assert!(official.sum.iter().all(|value| *value == 0.0), "exp(-200) is 0 in float32, for the query as well");
}

#[test]
fn merged_maps_are_the_normalised_sum_and_the_mean_of_the_normalised() {
    let trace = trace("v05_noz", 1);
    let maps = activation_maps(&trace, [2, 7], MapOptions::default()).unwrap();
    let extremes = |values: &[f32]| values.iter().fold([1.0_f32, 0.0], |[l, g], value| [l.min(*value), g.max(*value)]);
    for (name, values) in maps.routes.iter().map(|map| (format!("{:?}", map.route), &map.normalised)).chain([("all".into(), &maps.all)]) {
        assert_eq!(extremes(values), [0.0, 1.0], "{name}");
    }
    for pixel in 0..70 {
        let sum: f32 = maps.routes.iter().map(|map| map.raw[pixel]).sum();
        let mean: f32 = maps.routes.iter().map(|map| map.normalised[pixel]).sum::<f32>() / 4.0;
        assert!((sum - maps.sum[pixel]).abs() < 1e-6 && (mean - maps.nall[pixel]).abs() < 1e-6);
    }
    // The range over the maps of all queries.
    let everywhere: Vec<_> = (0..70).map(|q| activation_maps(&trace, [q / 10, q % 10], MapOptions::default()).unwrap()).collect();
    let whole = activation_maps(&trace, [2, 7], MapOptions { range: MapRange::AllQueries, ..MapOptions::default() }).unwrap();
    let queries = std::sync::atomic::AtomicUsize::new(0);
    let counted = || {
        queries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    };
    let ranges = MapRanges::of_all_queries(&trace, MapOptions::default(), &counted);
    assert_eq!(activation_maps_between(&trace, [2, 7], MapOptions::default(), &ranges).unwrap(), whole);
    assert_eq!(queries.into_inner(), 70);
    for (number, map) in whole.routes.iter().enumerate() {
        let seen = everywhere.iter().map(|maps| &maps.routes[number]).flat_map(|map| map.raw.iter().zip(&map.visited));
        let seen = seen.filter(|(_, visited)| **visited).map(|(value, _)| *value);
        let [least, greatest] = seen.fold([f32::MAX, f32::MIN], |[l, g], value| [l.min(value), g.max(value)]);
        assert_eq!(map.range, [least, greatest]);
        for ((raw, normalised), visited) in map.raw.iter().zip(&map.normalised).zip(&map.visited) {
            let expected = if *visited { (raw - least) / (greatest - least) } else { 0.0 };
            assert!((normalised - expected).abs() < 1e-5);
        }
    }
}

/// Three patches in a row with negative contributions: the 0 of patches that were not visited must not become the maximum.
#[test]
fn patches_that_were_not_visited_are_no_contribution_and_no_end_of_the_range() {
    let mut trace = chain(3, 0.5);
    trace.routes[0].b = vec![-1.0; 3];
    let maps = activation_maps(&trace, [0, 1], MapOptions::default()).unwrap();
    let route = &maps.routes[0];
    assert_eq!(route.visited, [true, true, false]);
    assert_eq!((route.raw[2], route.range), (0.0, [-1.0, -(-0.5_f64).exp() as f32]));
    assert_eq!(route.normalised, [1.0, 0.0, 0.0]);
    assert_eq!((&maps.visited, maps.sum_range, &maps.all, &maps.nall), (&route.visited, route.range, &route.normalised, &maps.all));
    // Over all queries, the minimum is the query itself and the maximum the first patch seen from the last.
    let whole = activation_maps(&trace, [0, 1], MapOptions { range: MapRange::AllQueries, ..MapOptions::default() }).unwrap();
    assert_eq!(whole.routes[0].range, [-1.0, -(-1.0_f64).exp() as f32]);
    assert_eq!(whole.routes[0].normalised[2], 0.0);
    // The first patch sees only itself.
    let first = activation_maps(&trace, [0, 0], MapOptions::default()).unwrap();
    assert_eq!((first.routes[0].range, &first.routes[0].normalised), ([-1.0; 2], &vec![0.0; 3]));
}

#[test]
fn what_comes_later_on_a_route_contributes_nothing() {
    let trace = trace("v05_noz", 1);
    let maps = activation_maps(&trace, [3, 4], MapOptions { mode: MapMode::Ww, ..MapOptions::default() }).unwrap();
    let nonzero = |number: usize, row: usize, column: usize| maps.routes[number].raw[row * 10 + column] != 0.0;
    for (row, column) in (0..7).flat_map(|row| (0..10).map(move |column| (row, column))) {
        let rows = (row, column) <= (3, 4);
        let columns = (column, row) <= (4, 3);
        let here = (row, column) == (3, 4);
        let seen = [0, 1, 2, 3].map(|number| nonzero(number, row, column));
        assert_eq!(seen, [rows, columns, !rows || here, !columns || here], "{row} {column}");
        assert_eq!(seen, [0, 1, 2, 3].map(|number| maps.routes[number].visited[row * 10 + column]), "{row} {column}");
    }
}

#[test]
fn wrong_places_are_refused_by_name() {
    let trace = trace("v05_noz", 1);
    let options = MapOptions::default();
    let text = activation_maps(&trace, [7, 0], options).unwrap_err().to_string();
    assert!(text.contains("row 7") && text.contains("7 rows and 10 columns"), "{text}");
    assert!(channel_row(&trace, 4, 0, [0, 0], options).unwrap_err().to_string().contains("route 4"));
    assert!(channel_row(&trace, 0, 999, [0, 0], options).unwrap_err().to_string().contains("channel 999"));
    assert!("QK".parse::<MapMode>().unwrap_err().to_string().contains("CwBw"));
    for (mode, name) in MapMode::ALL {
        assert_eq!((name.parse::<MapMode>().unwrap(), mode.name()), (mode, name));
    }

    let image = || Tensor::zeros([1, 3, 32, 32], &Device::flex());
    let of = |forward_type: &str, stage, block| model(forward_type, 1).trace_scan(image(), BlockIndex { stage, block }).unwrap_err();
    assert_eq!(of("v05_noz", 1, 2).to_string(), "layer 1.2 does not exist; stages and blocks count from 0: 0.0, 1.0 to 1.1");
    assert!(matches!(of("v05_noz", 2, 0), TraceError::NoSuchLayer { .. }));
    assert_eq!(of("v052dc_noz", 0, 0), TraceError::Cascade);
    let two = model("v05_noz", 1).trace_scan(Tensor::zeros([2, 3, 32, 32], &Device::flex()), BlockIndex { stage: 0, block: 0 });
    assert_eq!(two.unwrap_err(), TraceError::Batch(2));
    let config = VmambaConfig { ssm_ratio: 0.0, ..model("v05_noz", 1).config().clone() };
    let without = config.try_init(&Device::flex()).unwrap().trace_scan(image(), BlockIndex { stage: 0, block: 0 });
    assert_eq!(without.unwrap_err(), TraceError::NoScan);
}
