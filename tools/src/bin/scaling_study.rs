//! The input-resolution study: `scaling_study --models vmamba_tiny_s1l8,swin_tiny --out runs/scaling`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Parser;
use vision_datasets::imagenet::ImageFolder;
use vmamba::zoo::BackboneConfig;
use vmamba_cli::arguments::batch;
use vmamba_cli::measuring_options::MeasuringOptions;
use vmamba_cli::options::DeviceOption;
use vmamba_cli::process;
use vmamba_cli::study_options::{self, BatchesOption, CheckpointsOption, ModelsOption, OutOption, PrecisionsOption, SidesOption, one_of};
use vmamba_report::{eprintln, print, println};
use vmamba_study::measure::{Purpose, allocator::CountingAllocator};
use vmamba_study::scaling::{self, AccuracyPlan, Plan, Study};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Measure models at several image sizes: FLOPs, throughput and peak memory of inference and training, beside the published figures.
///
/// Every measurement runs in a child process. The results are kept in study.json in the output folder; the same command continues an
/// interrupted study. Writes study.md, the tables as CSV and as tables.json, and plots as PNG and SVG.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    models: ModelsOption,
    #[command(flatten)]
    sides: SidesOption,
    #[command(flatten)]
    batches: BatchesOption,
    #[command(flatten)]
    precisions: PrecisionsOption,
    /// What to measure.
    #[arg(
        long,
        value_name = "TASK,...",
        value_delimiter = ',',
        value_parser = one_of::<Purpose>(Purpose::ALL.map(Purpose::name)),
        default_value = "inference,training"
    )]
    tasks: Vec<Purpose>,
    /// Folder of validation images with a subfolder for each class: also measures the top-1 accuracy of every --checkpoint at every size.
    #[arg(long, value_name = "DIR", requires = "checkpoint")]
    data: Option<PathBuf>,
    #[command(flatten)]
    checkpoints: CheckpointsOption,
    /// Folder of training images: also measures the accuracy with the last layer tuned at every size, by the protocol of the paper.
    #[arg(long, value_name = "DIR", requires = "data")]
    linear_tuning: Option<PathBuf>,
    /// List of all classes, for data in which some classes have no folder.
    #[arg(long, value_name = "FILE", requires = "data")]
    classes: Option<PathBuf>,
    /// Batch size of the evaluation.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = batch)]
    accuracy_batch: usize,
    #[command(flatten)]
    device: DeviceOption,
    #[command(flatten)]
    measuring: MeasuringOptions,
    #[command(flatten)]
    out: OutOption,
}

/// Defaults of the shared options.
const DEFAULTS: [(&str, &str); 5] = [
    ("models", "vmamba_tiny_s1l8,swin_tiny_scaled,convnext_tiny,deit_small,resnet50,xcit_small_12_p16"),
    ("sides", "224,288,384,512,640,768"),
    ("batches", "1"),
    ("precisions", "float32"),
    ("out", "runs/scaling"),
];

fn main() -> ExitCode {
    let arguments: Arguments = study_options::parse(&DEFAULTS);
    process::run_tool(|| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.measuring.measure.answer()? {
        return Ok(true);
    }
    arguments.out.check([])?;
    let choice = arguments.device.device;
    let plan = Plan {
        models: arguments.models.models.clone(),
        sides: arguments.sides.sides.clone(),
        batches: arguments.batches.batches.clone(),
        precisions: arguments.precisions.precisions.clone(),
        purposes: arguments.tasks.clone(),
        device: choice.to_string(),
        protocol: arguments.measuring.protocol(&choice.to_string()),
    };
    plan.validate()?;
    // A missing device or precision is one error instead of one in every row.
    let device = choice.open()?;
    for precision in &plan.precisions {
        precision.adopt(&device)?;
    }
    let accuracy = accuracy(arguments)?;
    if let Some(accuracy) = &accuracy {
        accuracy.check(&device)?;
    }
    let interrupted = process::interrupted();
    let _lock = arguments.out.create()?;
    let out = &arguments.out.out;
    let mut study = Study::open(out)?;
    if arguments.measuring.retry {
        study.rows.retain(|row| row.failed.is_none());
    }
    let mut complete = scaling::run(&plan.works()?, plan.protocol, &mut study, out, &interrupted)?;
    // An error of the evaluation is reported after the results of the measurements.
    let mut evaluated = Ok(true);
    if let Some(accuracy) = accuracy.filter(|_| complete) {
        evaluated = scaling::accuracy::run(&accuracy, &device, &mut study, out, &interrupted);
    }
    for path in scaling::write(&study, out)? {
        println!("{}", path.display());
    }
    print!("{}", scaling::text(&study));
    complete &= evaluated?;
    if !complete {
        eprintln!("interrupted; the same command continues");
    }
    Ok(complete)
}

/// The request of the evaluation; `None` without data.
fn accuracy(arguments: &Arguments) -> Result<Option<AccuracyPlan>> {
    let Some(data) = &arguments.data else {
        if !arguments.checkpoints.checkpoint.is_empty() {
            bail!("--checkpoint needs --data, the images of the evaluation");
        }
        return Ok(None);
    };
    for (model, _) in &arguments.checkpoints.checkpoint {
        BackboneConfig::named(model).context("--checkpoint")?;
        if !arguments.models.models.contains(model) {
            bail!("--checkpoint: {model} is not among --models");
        }
    }
    if let Some(list) = &arguments.classes
        && !list.is_file()
    {
        bail!("--classes: {} is not a file", list.display());
    }
    let open = |root: &PathBuf, split: &str| ImageFolder::open(root, split, arguments.classes.as_deref()).map(Arc::new);
    Ok(Some(AccuracyPlan {
        data: open(data, "val").context("--data")?,
        train: arguments.linear_tuning.as_ref().map(|root| open(root, "train").context("--linear-tuning")).transpose()?,
        checkpoints: arguments.checkpoints.checkpoint.clone(),
        sides: arguments.sides.sides.clone(),
        batch_size: arguments.accuracy_batch,
        precisions: arguments.precisions.precisions.clone(),
    }))
}
