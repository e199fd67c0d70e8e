//! Options of the programs that measure models of the zoo, each in a child process.

use clap::Args;
use vmamba_study::measure::Protocol;

use crate::arguments::count;
use crate::study_options::MeasureOption;

/// The timing protocol, with defaults that depend on the device.
#[derive(Args, Clone, Debug)]
pub struct MeasuringOptions {
    /// Untimed runs before the first round [default: 1 on the CPU, 50 on a GPU as in the paper].
    #[arg(long, value_name = "N", value_parser = count)]
    warmup: Option<usize>,
    /// Timed runs of a round [default: 1 on the CPU, 30 on a GPU as in the paper].
    #[arg(long, value_name = "N", value_parser = count)]
    runs: Option<usize>,
    /// Rounds; the median counts [default: 3 on the CPU, 1 on a GPU].
    #[arg(long, value_name = "N", value_parser = count)]
    rounds: Option<usize>,
    /// Repeat measurements that failed before.
    #[arg(long)]
    pub retry: bool,
    /// A request to measure one network in this process.
    #[command(flatten)]
    pub measure: MeasureOption,
}

impl MeasuringOptions {
    /// The timing protocol on a device by name.
    pub fn protocol(&self, device: &str) -> Protocol {
        let cpu = device == "cpu";
        let default = if cpu { Protocol { warmup: 1, runs: 1, rounds: 3 } } else { Protocol { warmup: 50, runs: 30, rounds: 1 } };
        Protocol {
            warmup: self.warmup.unwrap_or(default.warmup),
            runs: self.runs.unwrap_or(default.runs),
            rounds: self.rounds.unwrap_or(default.rounds),
        }
    }
}
