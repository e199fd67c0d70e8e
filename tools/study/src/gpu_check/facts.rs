//! The figures that the targets judge.

use vmamba::Preset;

use super::Part;
use super::numerics::Worst;
use vmamba_train::Precision;

/// A measured speed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Speed {
    pub part: Part,
    pub model: Model,
    pub precision: Precision,
    pub batch: usize,
    pub side: usize,
    pub images_per_second: f64,
}

/// A model of ours or a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Model {
    Ours(Preset),
    Peer(String),
}

/// The figures so far.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Largest float32 error of an operation (forward and backward) and of a forward pass of a network.
    pub(super) errors: Worst,
    pub(super) speeds: Vec<Speed>,
    /// Bandwidth of the scan over that of the copy at the first stage.
    pub(super) scan_over_copy: Vec<(Precision, f64)>,
    /// Peak memory of a training step over that of the official model.
    pub(super) memory_over_official: Option<f64>,
    /// Parity checks that failed or could not run.
    pub(super) failed: usize,
}

impl Facts {
    /// Whether every parity check passed. Figures of speed and memory do not count.
    pub fn passed(&self) -> bool {
        self.failed == 0
    }

    /// Number of parity checks that failed or could not run.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Images per second of our VMamba-T and of a peer in the same rounds.
    pub(super) fn pair(&self, part: Part, precision: Precision, batch: usize, side: usize, peer: &str) -> Option<[f64; 2]> {
        let ours = self.ours(part, precision, batch, side)?;
        Some([ours, self.speed(part, precision, batch, side, &Model::Peer(peer.to_owned()))?])
    }

    /// Images per second of our VMamba-T.
    pub(super) fn ours(&self, part: Part, precision: Precision, batch: usize, side: usize) -> Option<f64> {
        self.speed(part, precision, batch, side, &Model::Ours(Preset::VmambaTinyS1l8))
    }

    fn speed(&self, part: Part, precision: Precision, batch: usize, side: usize, model: &Model) -> Option<f64> {
        let key = (part, model, precision, batch, side);
        let same = |speed: &&Speed| (speed.part, &speed.model, speed.precision, speed.batch, speed.side) == key;
        self.speeds.iter().find(same).map(|speed| speed.images_per_second)
    }
}
