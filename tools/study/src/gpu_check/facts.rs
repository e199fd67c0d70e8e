//! The numbers that targets are about.

use vmamba::Preset;

use super::Part;
use super::numerics::Worst;
use vmamba_train::precision::Precision;

/// A speed that was measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Speed {
    pub part: Part,
    /// Ours by its preset; a peer by its name.
    pub model: Model,
    pub precision: Precision,
    pub batch: usize,
    pub side: usize,
    pub images_per_second: f64,
}

/// Whose speed it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Model {
    Ours(Preset),
    Peer(String),
}

/// What was measured so far.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Worst float32 error of an operation, forward and backward, and of a network's forward pass.
    pub(super) errors: Worst,
    pub(super) speeds: Vec<Speed>,
    /// Bytes a second of the scan over those of the copy at the first stage.
    pub(super) scan_over_copy: Vec<(Precision, f64)>,
    /// Peak of a training step, ours over the official model's.
    pub(super) memory_over_official: Option<f64>,
    /// Checks that were not passed or could not be run.
    pub(super) failed: usize,
}

impl Facts {
    /// Whether every check of parity was passed. A figure of speed or memory passes or fails nothing.
    pub fn passed(&self) -> bool {
        self.failed == 0
    }

    /// Number of checks of parity that were not passed.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Speed of ours and of a peer in the same rounds.
    pub(super) fn pair(&self, part: Part, precision: Precision, batch: usize, side: usize, peer: &str) -> Option<[f64; 2]> {
        let of = |is: &dyn Fn(&Model) -> bool| {
            let same = |speed: &&Speed| (speed.part, speed.precision, speed.batch, speed.side) == (part, precision, batch, side);
            self.speeds.iter().filter(same).find(|speed| is(&speed.model)).map(|speed| speed.images_per_second)
        };
        let ours = of(&|model| *model == Model::Ours(Preset::VmambaTinyS1l8))?;
        Some([ours, of(&|model| *model == Model::Peer(peer.to_owned()))?])
    }

    /// Speed of our VMamba-T.
    pub(super) fn ours(&self, part: Part, precision: Precision, batch: usize, side: usize) -> Option<f64> {
        let is = |speed: &&Speed| {
            speed.model == Model::Ours(Preset::VmambaTinyS1l8)
                && (speed.part, speed.precision, speed.batch, speed.side) == (part, precision, batch, side)
        };
        self.speeds.iter().find(is).map(|speed| speed.images_per_second)
    }
}
