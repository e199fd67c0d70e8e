//! The input-resolution scaling study: `scaling_study --models vmamba_tiny_s1l8,swin_tiny --out runs/scaling`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tools::engine::device::DeviceChoice;
use tools::engine::precision::Precision;
use tools::engine::process;
use tools::scaling::{self, Plan, Protocol, Purpose, Request, Study, allocator::CountingAllocator};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Measure models at several image sizes: FLOPs, throughput and peak memory of inference and training, beside the published numbers.
///
/// Every measurement runs in a process of its own. What is measured is kept in `study.json` in the output folder; the same command goes on
/// from there after an interrupt. Writes study.md, study.csv, cost.csv and plots as PNG and SVG.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Models by name; a wrong one lists all.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "vmamba_tiny_s1l8,swin_tiny_scaled,convnext_tiny,deit_small,resnet50,xcit_small_12_p16"
    )]
    models: Vec<String>,
    /// Heights and widths of the images in pixels.
    #[arg(long, value_delimiter = ',', default_value = "224,288,384,512,640,768")]
    sides: Vec<usize>,
    /// Numbers of images at once.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    batches: Vec<usize>,
    /// Numbers to compute with.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "float32")]
    precisions: Vec<Precision>,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "inference,training")]
    tasks: Vec<Purpose>,
    /// Device: `cpu`, `cuda[:n]` or `vulkan[:n]`.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Runs that are not timed; 50 on a GPU as in the paper, 1 on the CPU.
    #[arg(long)]
    warmup: Option<usize>,
    /// Timed runs of a round; 30 on a GPU as in the paper, 1 on the CPU.
    #[arg(long)]
    runs: Option<usize>,
    /// Rounds, of which the median counts; 1 on a GPU, 3 on the CPU.
    #[arg(long)]
    rounds: Option<usize>,
    /// Measure again what failed before.
    #[arg(long)]
    retry: bool,
    /// Folder for the study.
    #[arg(long, default_value = "runs/scaling")]
    out: PathBuf,
    /// A work and its protocol as JSON: how this program calls itself.
    #[arg(long, hide = true)]
    measure: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<bool> {
    if let Some(request) = &arguments.measure {
        println!("{}", Request::answer(request)?);
        return Ok(true);
    }
    let plan = Plan {
        models: arguments.models.clone(),
        sides: arguments.sides.clone(),
        batches: arguments.batches.clone(),
        precisions: arguments.precisions.clone(),
        purposes: arguments.tasks.clone(),
        device: arguments.device.to_string(),
        protocol: Protocol::new(arguments.device, [arguments.warmup, arguments.runs, arguments.rounds]),
    };
    plan.validate()?;
    // A device or precision that is not there is an error now rather than in every row.
    let device = arguments.device.open()?;
    for precision in &plan.precisions {
        precision.adopt(&device)?;
    }
    drop(device);
    let interrupted = process::interrupted();
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot write to {}", arguments.out.display()))?;
    let mut study = Study::open(&arguments.out)?;
    if arguments.retry {
        study.rows.retain(|row| row.failed.is_none());
    }
    let complete = scaling::run(&plan.works()?, plan.protocol, &mut study, &arguments.out, interrupted)?;
    for path in scaling::write(&study, &arguments.out)? {
        println!("{}", path.display());
    }
    print!("{}", scaling::text(&study));
    if !complete {
        eprintln!("interrupted; the same command goes on from here");
    }
    Ok(complete)
}
