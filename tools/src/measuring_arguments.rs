//! Options of the programs that measure speed and memory.

use clap::Args;

use vmamba_study::scaling::Protocol;
use vmamba_train::DeviceChoice;

use crate::arguments::whole_number;

/// How and where a network is measured.
#[derive(Args, Clone, Debug)]
pub struct MeasuringArguments {
    /// Device: `cpu`, `cuda[:n]` or `vulkan[:n]`.
    #[arg(long, default_value = "cpu")]
    pub device: DeviceChoice,
    /// Untimed runs before each round; 50 on a GPU as in the paper, 1 on the CPU.
    #[arg(long, value_parser = whole_number)]
    warmup: Option<usize>,
    /// Timed runs of a round; 30 on a GPU as in the paper, 1 on the CPU.
    #[arg(long, value_parser = whole_number)]
    runs: Option<usize>,
    /// Rounds; the median counts; 1 on a GPU, 3 on the CPU.
    #[arg(long, value_parser = whole_number)]
    rounds: Option<usize>,
    /// Measure again what failed before.
    #[arg(long)]
    pub retry: bool,
    /// A request as JSON, with which the program calls itself to measure one network in a process of its own.
    #[arg(long, hide = true)]
    pub measure: Option<String>,
}

impl MeasuringArguments {
    /// The protocol. Options that are not given have defaults by the device.
    pub fn protocol(&self) -> Protocol {
        let default = if self.device == DeviceChoice::Cpu { [1, 1, 3] } else { [50, 30, 1] };
        let [warmup, runs, rounds] = [self.warmup, self.runs, self.rounds];
        let [of_warmup, of_runs, of_rounds] = default;
        Protocol { warmup: warmup.unwrap_or(of_warmup), runs: runs.unwrap_or(of_runs), rounds: rounds.unwrap_or(of_rounds) }
    }
}
