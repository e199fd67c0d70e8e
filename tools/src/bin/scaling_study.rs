//! The input-resolution scaling study: `scaling_study --models vmamba_tiny_s1l8,swin_tiny --out runs/scaling`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anstream::{eprintln, print, println};
use anyhow::{Context, Result, bail};
use clap::Parser;
use vision_datasets::imagenet::ImageFolder;
use vmamba::zoo::BackboneConfig;
use vmamba_cli::arguments::{model_and_file, whole_number};
use vmamba_cli::measuring_arguments::MeasuringArguments;
use vmamba_cli::process;
use vmamba_study::scaling::{self, AccuracyPlan, Plan, Purpose, Request, Study, allocator::CountingAllocator};
use vmamba_train::Precision;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Measure models at several image sizes: FLOPs, throughput and peak memory of inference and training, beside the published numbers.
///
/// Every measurement runs in a process of its own. What is measured is kept in `study.json` in the output folder; the same command goes on
/// from there after an interrupt. Writes study.md, the tables as CSV and as tables.json, and plots as PNG and SVG.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Models by name, any of `docs/baselines.md` and VMamba's; a wrong one lists all.
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
    /// Folder with a folder of images a class: the top-1 accuracy of every --checkpoint at every size.
    #[arg(long, requires = "checkpoint")]
    data: Option<PathBuf>,
    /// Weights of a model, as `swin_tiny=FILE`; may be given several times.
    #[arg(long, value_parser = model_and_file, requires = "data")]
    checkpoint: Vec<(String, PathBuf)>,
    /// Folder with training images: the accuracy with the last layer tuned for every size as well, by the paper's protocol.
    #[arg(long, requires = "data")]
    linear_tuning: Option<PathBuf>,
    /// List of all classes, for data in which some have no folder.
    #[arg(long, requires = "data")]
    classes: Option<PathBuf>,
    /// Images at once where accuracy is judged.
    #[arg(long, default_value_t = 32, value_parser = whole_number)]
    accuracy_batch: usize,
    #[command(flatten)]
    measuring: MeasuringArguments,
    /// Folder for the study.
    #[arg(long, default_value = "runs/scaling")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<bool> {
    if let Some(request) = &arguments.measuring.measure {
        println!("{}", Request::answer(request)?);
        return Ok(true);
    }
    let plan = Plan {
        models: arguments.models.clone(),
        sides: arguments.sides.clone(),
        batches: arguments.batches.clone(),
        precisions: arguments.precisions.clone(),
        purposes: arguments.tasks.clone(),
        device: arguments.measuring.device.to_string(),
        protocol: arguments.measuring.protocol(),
    };
    plan.validate()?;
    // A device or precision that is not there is an error now rather than in every row.
    let device = arguments.measuring.device.open()?;
    for precision in &plan.precisions {
        precision.adopt(&device)?;
    }
    let accuracy = accuracy(arguments)?;
    if let Some(accuracy) = &accuracy {
        accuracy.check(&device)?;
    }
    let interrupted = process::interrupted();
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot write to {}", arguments.out.display()))?;
    let mut study = Study::open(&arguments.out)?;
    if arguments.measuring.retry {
        study.rows.retain(|row| row.failed.is_none());
    }
    let mut complete = scaling::run(&plan.works()?, plan.protocol, &mut study, &arguments.out, &interrupted)?;
    // An error here does not cost the report of what was measured.
    let mut judged = Ok(true);
    if let Some(accuracy) = accuracy.filter(|_| complete) {
        judged = scaling::accuracy::run(&accuracy, &device, &mut study, &arguments.out, &interrupted);
    }
    for path in scaling::write(&study, &arguments.out)? {
        println!("{}", path.display());
    }
    print!("{}", scaling::text(&study));
    complete &= judged?;
    if !complete {
        eprintln!("interrupted; the same command goes on from here");
    }
    Ok(complete)
}

/// What is to be judged by which images.
fn accuracy(arguments: &Arguments) -> Result<Option<AccuracyPlan>> {
    let Some(data) = &arguments.data else { return Ok(None) };
    for (model, _) in &arguments.checkpoint {
        BackboneConfig::named(model).context("--checkpoint")?;
        if !arguments.models.contains(model) {
            bail!("--checkpoint: {model} is not among --models");
        }
    }
    if let Some(list) = &arguments.classes
        && !list.is_file()
    {
        bail!("--classes: {} is no file", list.display());
    }
    let open = |root: &PathBuf, split: &str| ImageFolder::open(root, split, arguments.classes.as_deref()).map(Arc::new);
    Ok(Some(AccuracyPlan {
        data: open(data, "val").context("--data")?,
        train: arguments.linear_tuning.as_ref().map(|root| open(root, "train").context("--linear-tuning")).transpose()?,
        checkpoints: arguments.checkpoint.clone(),
        sides: arguments.sides.clone(),
        batch_size: arguments.accuracy_batch,
        precisions: arguments.precisions.clone(),
    }))
}
