//! The targets of the project beside the measured figures.

use vmamba_report::tables::{Cell, Table};
use vmamba_train::Precision;

use super::{Facts, Part, Setup};
use crate::measure::Peers;

/// The direction of a target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

/// The table `target | must | aim | measured | met`.
pub(super) fn table(facts: &Facts, setup: &Setup) -> Table {
    let mut table = Table::new(["target", "must", "aim", "measured", "met"]);
    let mut push = |target: String, better: Better, must: f64, aim: Option<f64>, measured: Result<f64, String>| {
        let number = |number: f64| if number < 1e-2 { Cell::Scientific(number) } else { Cell::Number(number, 2) };
        let reached = |limit: f64, value: f64| if better == Better::More { value >= limit } else { value <= limit };
        let met = match (&measured, aim) {
            (Err(_), _) => "-",
            (Ok(value), Some(aim)) if reached(aim, *value) => "aim",
            (Ok(value), None) if reached(must, *value) => "yes",
            (Ok(value), Some(_)) if reached(must, *value) => "must, not aim",
            (Ok(_), _) => "no",
        };
        let measured = measured.map_or_else(|reason| Cell::from(format!("not measured: {reason}")), number);
        table.push([target.into(), number(must), aim.map_or(Cell::Missing, number), measured, met.into()]);
    };

    let error = facts.errors.error().ok_or("no part parity-ops or parity-models".to_owned());
    let place = facts.errors.name().map_or_else(String::new, |place| format!(" ({place})"));
    push(format!("float32: worst error over the largest value{place}"), Better::Less, 1e-4, None, error);

    for precision in &setup.precisions {
        let scan = facts.scan_over_copy.iter().find(|(of, _)| of == precision).map(|(_, ratio)| *ratio);
        let name = format!("scan of the first stage over a copy, bytes a second, {}", precision.name());
        push(name, Better::More, 0.5, Some(0.8), scan.ok_or("no row of the first stage in part bandwidth".to_owned()));
    }
    for precision in &setup.precisions {
        let pair = facts.pair(Part::Throughput, *precision, 128, 224, "swin_t");
        let name = format!("VMamba-T over Swin-T, inference, 224, batch 128, {}", precision.name());
        push(name, Better::More, 1.0, Some(1.36), ratio(pair).ok_or_else(|| missing("throughput", "both at 224 and batch 128")));
    }
    // The largest batch that ran on both.
    let largest = setup
        .batches
        .iter()
        .copied()
        .max_by_key(|batch| (facts.pair(Part::Training, Precision::Bf16, *batch, 224, "swin_t").is_some(), *batch));
    let pair = largest.and_then(|batch| facts.pair(Part::Training, Precision::Bf16, batch, 224, "swin_t"));
    let name = "VMamba-T over Swin-T, training step, 224, bf16".to_owned();
    push(name, Better::More, 0.6, Some(1.0), ratio(pair).ok_or_else(|| missing("training", "both at 224 in bf16")));
    for precision in &setup.precisions {
        let pixels = |side: usize| {
            facts.ours(Part::Throughput, *precision, 32, side).map(|images_per_second| images_per_second * (side * side) as f64)
        };
        let pair = pixels(768).zip(pixels(224)).map(<[f64; 2]>::from);
        let name = format!("pixels a second, 768 over 224, batch 32, {}", precision.name());
        push(name, Better::More, 1.0, Some(1.2), ratio(pair).ok_or_else(|| missing("throughput", "768 and 224 at batch 32")));
    }
    let official = facts.memory_over_official.ok_or_else(|| {
        if setup.peers.as_ref().is_some_and(|peers| peers.official.is_some()) {
            format!("no row of {} in part memory", Peers::OFFICIAL)
        } else {
            "no official model (--peers)".to_owned()
        }
    });
    let [batch, side] = setup.memory_size;
    let name = format!("peak memory of a training step over the official model's, {side}, batch {batch}");
    push(name, Better::Less, 1.0, Some(0.7), official);
    table
}

fn ratio(pair: Option<[f64; 2]>) -> Option<f64> {
    pair.map(|[ours, theirs]| ours / theirs)
}

fn missing(part: &str, what: &str) -> String {
    format!("part {part} has not {what}")
}
