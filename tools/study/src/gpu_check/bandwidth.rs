//! Bytes per second of the four-route scan, beside a copy of as many bytes in the same rounds: memory bandwidth bounds the scan.

use burn::prelude::*;
use burn::tensor::Distribution;
use vision_ops::{Route, selective_scan_2d};
use vmamba_panics::catch;
use vmamba_report::eprintln;
use vmamba_report::tables::Cell;
use vmamba_train::Precision;

use super::numerics::values;
use super::precision::BF16;
use super::session::{Outcome, Session};
use super::{Facts, Part, Setup};
use crate::error::Result;
use crate::measure::{Contender, Limits, in_turns, on_device};

const COLUMNS: [&str; 11] =
    ["map", "batch", "channels", "rank", "precision", "MB to move", "scan, ms", "scan, GB/s", "copy, ms", "copy, GB/s", "scan / copy"];

/// Size of the state of VMamba.
const STATE: usize = 1;

/// Height and width, channels and dt rank of the stages of VMamba-T at 224x224.
const STAGES: [([usize; 2], usize, usize); 4] = [([56, 56], 96, 6), ([28, 28], 192, 12), ([14, 14], 384, 24), ([7, 7], 768, 48)];
/// The first stage of a detector on one image of 800x1333 pixels.
const DETECTION: ([usize; 2], usize, usize) = ([200, 334], 96, 6);

pub(super) fn run(setup: &Setup, session: &mut Session, facts: &mut Facts) -> Result<()> {
    session.part(Part::Bandwidth, &COLUMNS)?;
    let batch = setup.bandwidth_batch;
    let shapes = STAGES.iter().map(|stage| (*stage, batch)).chain([(DETECTION, 1)]);
    for precision in &setup.precisions {
        if let Err(error) = precision.adopt(&setup.device) {
            session.note(format!("{} not run: {error}", precision.name()))?;
            continue;
        }
        for (index, ((map, channels, rank), batch)) in shapes.clone().enumerate() {
            let scan = Scan { batch, map, channels, rank, precision: *precision };
            if !session.begin(&scan.name())? {
                continue;
            }
            let [height, width] = map;
            let numbers = if *precision == Precision::Bf16 { BF16 } else { precision.name() };
            let title = vec![format!("{height}x{width}").into(), batch.into(), channels.into(), rank.into(), numbers.into()];
            let measured = scan.measure(setup);
            setup.device.memory_cleanup();
            let outcome = match measured {
                Ok((ratio, cells)) => {
                    if index == 0 {
                        facts.scan_over_copy.push((*precision, ratio));
                    }
                    Outcome::Measured(cells, String::new())
                }
                Err(reason) => Outcome::Failed(reason),
            };
            session.row(title, outcome)?;
        }
    }
    Ok(())
}

/// The scan of one stage.
struct Scan {
    batch: usize,
    map: [usize; 2],
    channels: usize,
    rank: usize,
    precision: Precision,
}

impl Scan {
    fn name(&self) -> String {
        let Self { batch, map: [height, width], channels, precision, .. } = self;
        format!("scan of {batch}x{height}x{width}x{channels} in {}", precision.name())
    }

    /// Channels of the projections.
    fn fields(&self) -> usize {
        Route::CROSS.len() * (self.rank + 2 * STATE)
    }

    /// Bytes that must be moved at least: input and projections read once, output written once. The weights are a few kilobytes.
    fn bytes(&self) -> usize {
        self.batch * self.map[0] * self.map[1] * (2 * self.channels + self.fields()) * self.precision.bytes()
    }

    /// The bandwidth of the scan over that of the copy, and the cells of the row.
    fn measure(&self, setup: &Setup) -> Result<(f64, Vec<Cell>), String> {
        let (device, routes) = (&setup.device, Route::CROSS.len());
        let Self { batch, map: [height, width], channels, rank, precision } = *self;
        let normal = |shape: &[usize], mean: f64| -> Tensor<1> {
            Tensor::random([shape.iter().product::<usize>()], Distribution::Normal(mean, 0.5), device)
        };
        let prepare = || {
            let activation = |channels: usize| {
                normal(&[batch, height, width, channels], 0.0).reshape([batch, height, width, channels]).cast(precision.dtype())
            };
            let weights = (
                normal(&[routes, channels, rank], 0.0).reshape([routes, channels, rank]),
                normal(&[routes, channels], -2.0).reshape([routes, channels]),
                normal(&[routes * channels, STATE], 0.0).reshape([routes * channels, STATE]),
                normal(&[routes * channels], 0.0),
            );
            // Half is read and half is written.
            let copied = Tensor::<1>::zeros([self.bytes() / precision.bytes() / 2], device).cast(precision.dtype());
            (activation(channels), activation(self.fields()), weights, copied)
        };
        let (x, projections, (dt_weight, dt_bias, a_logs, d), copied) = catch(prepare)?;
        let scan = || {
            let (x, projections) = (x.clone(), projections.clone());
            selective_scan_2d(x, projections, dt_weight.clone(), dt_bias.clone(), a_logs.clone(), d.clone(), &Route::CROSS)
        };
        // An elementwise operation on a shared tensor cannot work in place: it reads and writes every byte once.
        let copy = || copied.clone() + 1.0;
        let contenders: Vec<Contender<'_>> = vec![on_device(device, || drop(scan())), on_device(device, || drop(copy()))];
        let mut results = in_turns(setup.protocol, Some(Limits::SHORT), contenders).into_iter();
        let mut next = || results.next().unwrap_or_else(|| Err("not run".to_owned()));
        let (scanned, copied) = (next()?.wall()[1], next()?.wall()[1]);
        // A kernel that failed shows only when its result is read.
        let read = catch(|| values(scan().slice([0..1, height - 1..height, width - 1..width, 0..channels])));
        let last = read?.map_err(|error| error.line())?;
        if last.iter().any(|value| !value.is_finite()) {
            return Err("the result has values that are not finite".to_owned());
        }
        let bytes = self.bytes() as f64;
        let ratio = copied / scanned;
        eprintln!("  {:.1} GB/s, {ratio:.2} of a copy", bytes / scanned * 1e-9);
        let cells = vec![
            Cell::Number(bytes * 1e-6, 2),
            Cell::Number(scanned * 1e3, 4),
            Cell::Number(bytes / scanned * 1e-9, 1),
            Cell::Number(copied * 1e3, 4),
            Cell::Number(bytes / copied * 1e-9, 1),
            Cell::Number(ratio, 3),
        ];
        Ok((ratio, cells))
    }
}
