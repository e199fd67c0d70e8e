//! One measurement, made in a process of its own: peak memory is that process's, and a model that runs out of memory takes nobody with it.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::prelude::*;
use burn::tensor::Distribution;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use vmamba::zoo::BackboneConfig;

use super::allocator;
use crate::gpu_check::device_name;
use vmamba_train::device::DeviceChoice;
use vmamba_train::device_memory::pool_peak;
use vmamba_train::panics::catch;
use vmamba_train::precision::Precision;

/// Classes of ImageNet.
pub const CLASSES: usize = 1000;

/// What a network is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// The forward pass.
    Inference,
    /// Forward pass, cross entropy and backward pass, without the optimiser, as in the paper's table.
    Training,
}

impl Purpose {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Training => "training",
        }
    }
}

/// How a time is taken: `warmup` runs, then `rounds` times `runs` runs with the device waited for before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocol {
    /// Runs that are not timed.
    pub warmup: usize,
    /// Runs of a round.
    pub runs: usize,
    /// Rounds, of which the median counts.
    pub rounds: usize,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Name of the model.
    pub model: String,
    /// Height and width of the images in pixels.
    pub side: usize,
    /// Images at once.
    pub batch: usize,
    /// Device.
    pub device: String,
    /// Numbers to compute with.
    pub precision: Precision,
    /// What the model does.
    pub purpose: Purpose,
}

/// What a process of its own is asked, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What is measured.
    pub work: Work,
    /// The model of it.
    pub config: BackboneConfig,
    /// How.
    pub protocol: Protocol,
}

impl Request {
    /// Answers a request in this process: the measurement as JSON.
    ///
    /// # Errors
    /// When it is none, and as [`measure`].
    pub fn answer(text: &str) -> Result<String> {
        let Self { work, config, protocol } = serde_json::from_str(text).context("--measure")?;
        let choice = work.device.parse::<DeviceChoice>().map_err(anyhow::Error::msg)?;
        let device = choice.open()?;
        let measured = measure(&work, &config, protocol, &device)?;
        Ok(serde_json::to_string(&Measured { machine: machine(choice, &device), ..measured })?)
    }
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Images a second: the median round.
    pub images_per_second: f64,
    /// Seconds of a run in every round.
    pub seconds: Vec<f64>,
    /// Most memory at once, in bytes, weights and images included.
    pub peak_bytes: u64,
    /// Memory before the first run: weights and images.
    pub before_bytes: u64,
    /// Who told the memory.
    pub memory_source: String,
    /// The processor and its cores, or the GPU.
    #[serde(default)]
    pub machine: String,
}

fn machine(choice: DeviceChoice, device: &Device) -> String {
    let name = device_name(choice, device);
    if choice != DeviceChoice::Cpu {
        return name.unwrap_or_else(|| "a GPU".to_owned());
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{}, {cores} cores", name.unwrap_or_else(|| std::env::consts::ARCH.to_owned()))
}

/// Measures in this process.
///
/// # Errors
/// When the model or the device cannot do it, with the reason.
pub fn measure(work: &Work, config: &BackboneConfig, protocol: Protocol, device: &Device) -> Result<Measured> {
    work.precision.adopt(device)?;
    catch(|| run(work, config, protocol, device)).unwrap_or_else(|reason| Err(anyhow!("{reason}")))
}

fn run(work: &Work, config: &BackboneConfig, protocol: Protocol, device: &Device) -> Result<Measured> {
    config.check_image([work.side; 2])?;
    let device = if work.purpose == Purpose::Training { device.clone().autodiff() } else { device.clone() };
    device.seed(0);
    let model = config.try_init_classifier(CLASSES, &device)?;
    let images = Tensor::<4>::random([work.batch, 3, work.side, work.side], Distribution::Normal(0.0, 1.0), &device);
    let images = work.precision.input(images);
    let labels = Tensor::<1, Int>::arange(0..work.batch as i64, &device).remainder_scalar(CLASSES as i64);
    let loss = CrossEntropyLossConfig::new().init(&device);
    let wait = || device.sync().map_err(|error| anyhow!("{error}"));
    let once = || match work.purpose {
        Purpose::Inference => drop(std::hint::black_box(model.forward(images.clone()))),
        Purpose::Training => drop(std::hint::black_box(loss.forward(model.forward(images.clone()), labels.clone()).backward())),
    };

    // Weights are drawn by the first run, and kernels tuned.
    once();
    wait()?;
    let before = allocator::allocated();
    allocator::restart();
    for _ in 1..protocol.warmup {
        once();
    }
    wait()?;
    let mut seconds = Vec::new();
    for _ in 0..protocol.rounds.max(1) {
        let start = Instant::now();
        for _ in 0..protocol.runs.max(1) {
            once();
        }
        wait()?;
        seconds.push(start.elapsed().as_secs_f64() / protocol.runs.max(1) as f64);
    }
    let counted = allocator::peak();
    // Sampling would cost the timed runs, so the memory of a GPU is that of two more.
    let pool = pool_peak(&device, || {
        once();
        once();
        wait()
    })?;
    let logits = model.forward(images.clone());
    if !logits.try_into_data().map_err(|error| anyhow!("{error}"))?.iter::<f32>().all(f32::is_finite) {
        bail!("the result has values that are no numbers");
    }
    let (before_bytes, peak_bytes, source) = match pool {
        Some(pool) => (pool.before, pool.in_use, "the device's allocator, sampled"),
        None if counted > 0 => (before as u64, counted as u64, "the program's allocator"),
        None => bail!("this program does not count its memory"),
    };
    Ok(Measured {
        images_per_second: work.batch as f64 / median(&seconds),
        seconds,
        peak_bytes,
        before_bytes,
        memory_source: source.to_owned(),
        machine: String::new(),
    })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle), middle.checked_sub(1).and_then(|lower| sorted.get(lower))) {
        (1, Some(value), _) => *value,
        (_, Some(upper), Some(lower)) => f64::midpoint(*upper, *lower),
        _ => f64::NAN,
    }
}

/// Measures in a process of its own: this program, called with `--measure` and a [`Request`].
///
/// # Errors
/// With the last words of that process, or how it ended.
pub fn measure_apart(work: &Work, config: &BackboneConfig, protocol: Protocol) -> Result<Measured, String> {
    let run = || -> Result<Measured> {
        let program = std::env::current_exe().context("this program cannot call itself")?;
        let request = serde_json::to_string(&Request { work: work.clone(), config: config.clone(), protocol })?;
        let output =
            Command::new(program).args(["--measure", &request]).stdin(Stdio::null()).output().context("this program cannot call itself")?;
        if !output.status.success() {
            bail!("{}", explain(output.status, &String::from_utf8_lossy(&output.stderr)));
        }
        serde_json::from_slice(&output.stdout).context("the process that measures answered no JSON")
    };
    run().map_err(|error| format!("{error:#}"))
}

/// What became of a process that failed, by what it wrote. A process that the system ends for want of memory has no last words.
fn explain(status: std::process::ExitStatus, errors: &str) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        // Behind it Rust says how to get a backtrace, or gives one.
        let refused = errors.lines().find(|line| line.starts_with("memory allocation of"));
        return match (signal, refused) {
            (libc::SIGKILL, _) => "ended by SIGKILL, as the system does when memory is out".to_owned(),
            (libc::SIGABRT, Some(refused)) => format!("out of memory: {refused}"),
            (other, _) => format!("ended by signal {other}"),
        };
    }
    let said = errors.lines().find_map(|line| line.strip_prefix("error: "));
    let last = said.or_else(|| errors.lines().rfind(|line| !line.trim().is_empty()));
    last.map_or_else(|| status.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_end_of_a_process_is_told_by_what_it_wrote() {
        use std::os::unix::process::ExitStatusExt;
        use std::process::ExitStatus;
        let aborted = ExitStatus::from_raw(libc::SIGABRT);
        let words = "\nthread 'main' (1) panicked\nmemory allocation of 1099511627776 bytes failed\nnote: run with `RUST_BACKTRACE=1`\n   0: main\n";
        assert_eq!(explain(aborted, words), "out of memory: memory allocation of 1099511627776 bytes failed");
        assert_eq!(explain(aborted, "assertion\n"), "ended by signal 6");
        assert!(explain(ExitStatus::from_raw(libc::SIGKILL), "").contains("memory is out"));
        assert_eq!(explain(ExitStatus::from_raw(1 << 8), "warning: x\nerror: no such device\nin a line more\n"), "no such device");
    }

    #[cfg(unix)]
    #[test]
    fn an_allocation_that_fails_leaves_the_words_that_are_looked_for() {
        // The test itself, in a process of its own that asks for more than there can be.
        const ASKED: &str = "VMAMBA_TEST_ALLOCATE";
        if std::env::var_os(ASKED).is_some() {
            let layout = std::alloc::Layout::from_size_align(1 << 46, 8).expect("a layout");
            std::alloc::handle_alloc_error(layout);
        }
        let program = std::env::current_exe().expect("this program");
        let name = "scaling::measure::tests::an_allocation_that_fails_leaves_the_words_that_are_looked_for";
        let output = Command::new(program).args(["--exact", name, "--nocapture"]).env(ASKED, "1").output().expect("a process");
        let reason = explain(output.status, &String::from_utf8_lossy(&output.stderr));
        assert_eq!(reason, "out of memory: memory allocation of 70368744177664 bytes failed");
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
