//! Selective scans and scan routes: small and odd shapes, shapes of networks, 1 to 16 states, long sequences.

use burn::prelude::*;
use vision_ops::{Operation, Route, ScanPattern, cross_merge, cross_scan, selective_scan, selective_scan_2d};

use super::{Case, Input, activation, case, flat, text, weight};

const PATTERNS: [ScanPattern; 4] = [ScanPattern::Cross, ScanPattern::Unidirectional, ScanPattern::Bidirectional, ScanPattern::Rotated];

pub(super) fn selective_scans() -> Vec<Case> {
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
        let more = format!("state {state}, {groups} groups{}", if whole { "" } else { ", no d, no bias, no softplus" });
        cases.push(case(Operation::SelectiveScan, text(&[batch, rows, length], &more), inputs, move |t| {
            let shared = |t: &Tensor<1>| t.clone().reshape([batch, groups, state, length]);
            let sequence = |t: &Tensor<1>| t.clone().reshape([batch, rows, length]);
            // Without softplus a step size may be negative and the state may grow; so it is squared.
            let delta = if whole { sequence(&t[1]) } else { sequence(&t[1]).square() };
            let a = t[2].clone().reshape([rows, state]).exp().neg();
            let (d, bias) = (t.get(5).cloned(), t.get(6).cloned());
            flat(selective_scan(sequence(&t[0]), delta, a, shared(&t[3]), shared(&t[4]), d, bias, whole))
        }));
    }
    cases
}

pub(super) fn selective_scans_2d() -> Vec<Case> {
    let mut cases = Vec::new();
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
        cases.push(case(Operation::SelectiveScan2d, text(&[batch, height, width, channels], &more), inputs, move |t| {
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

pub(super) fn cross_scans() -> Vec<Case> {
    let mut cases = Vec::new();
    let shape = [2, 3, 5, 7];
    for pattern in PATTERNS {
        cases.push(case(Operation::CrossScan, text(&shape, &format!("{pattern:?}")), vec![activation("x", &shape)], move |t| {
            flat(cross_scan(t[0].clone().reshape(shape), pattern))
        }));
    }
    cases
}

pub(super) fn cross_merges() -> Vec<Case> {
    let mut cases = Vec::new();
    let shape = [2, 4, 3, 5, 7];
    for pattern in PATTERNS {
        cases.push(case(Operation::CrossMerge, text(&shape, &format!("{pattern:?}")), vec![activation("ys", &shape)], move |t| {
            flat(cross_merge(t[0].clone().reshape(shape), pattern))
        }));
    }
    cases
}
