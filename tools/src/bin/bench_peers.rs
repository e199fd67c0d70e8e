//! Our models beside PyTorch's: `bench_peers --out runs/peers`.

use std::path::PathBuf;
use std::process::ExitCode;

use anstream::{eprintln, print, println};
use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use vmamba::Preset;
use vmamba_cli::process;
use vmamba_report::files::write_whole;
use vmamba_study::peers::{self, Peers, Task, Work};

/// Measure our networks and, with a Python that has torch and torchvision, PyTorch's, in turns on this machine's CPU, float32.
///
/// Writes peers.md, peers.json (every single run), memory.md and, of forward passes, peers.png and peers.svg.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Our backbones, the first is what ratios are about.
    #[arg(long, value_delimiter = ',', default_value = "vmamba_tiny_s1l8")]
    models: Vec<String>,
    /// Peers: swin_t, convnext_t, resnet50, deit_s. UperNet is there on swin_t, Mask R-CNN on resnet50.
    #[arg(long, value_delimiter = ',', default_value = "swin_t,convnext_t,resnet50,deit_s")]
    peers: Vec<String>,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "forward,train")]
    tasks: Vec<Kind>,
    /// Height and width of the images of classifiers, in pixels; the training step takes the first.
    #[arg(long, value_delimiter = ',', default_value = "224,512")]
    sides: Vec<usize>,
    /// Height and width of UperNet's image.
    #[arg(long, default_value_t = 512)]
    segment_side: usize,
    /// Height and width of Mask R-CNN's image, before it is padded.
    #[arg(long, num_args = 2, value_names = ["HEIGHT", "WIDTH"], default_values_t = [800, 1066])]
    detect_size: Vec<usize>,
    /// Numbers of threads; memory is measured with the last.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Rounds of one run of each model.
    #[arg(long, default_value_t = 15)]
    runs: usize,
    /// Images of the training step.
    #[arg(long, default_value_t = 4)]
    train_batch: usize,
    /// Rounds of the training step, of UperNet and of Mask R-CNN.
    #[arg(long, default_value_t = 5)]
    long_runs: usize,
    /// Python with torch and torchvision for the peers; `none` measures ours alone.
    #[arg(long, default_value = "python3")]
    python: String,
    /// Folder for the tables and the plot.
    #[arg(long, default_value = "runs/peers")]
    out: PathBuf,
    /// Run this model of ours twice and print the memory of the process; how `--tasks memory` calls itself.
    #[arg(long, hide = true, num_args = 3, value_names = ["MODEL", "SIDE", "THREADS"])]
    measure_memory: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A classifier's forward pass at every side.
    Forward,
    /// A classifier's forward and backward pass.
    Train,
    /// UperNet with 150 classes.
    Segment,
    /// Mask R-CNN with 1000 proposals and 100 objects.
    Detect,
    /// Peak memory of a classifier's forward pass at every side, each in a process of its own.
    Memory,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(of) = &arguments.measure_memory {
        return measure_memory(of);
    }
    let models = arguments.models.iter().map(|name| preset(name)).collect::<Result<Vec<_>>>()?;
    if let Some(unknown) = arguments.peers.iter().find(|name| !Peers::NAMES.contains(&name.as_str())) {
        bail!("--peers: no peer is called `{unknown}`; there are {}", Peers::NAMES.join(", "));
    }
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot write to {}", arguments.out.display()))?;
    let mut peers = start(&arguments.python);
    let mut results = Results::default();
    let tasks = tasks(arguments)?;
    for (index, (task, runs)) in tasks.iter().enumerate() {
        eprintln!("{}/{}: {}", index + 1, tasks.len(), task.name());
        let names = names(arguments, task.work, peers.as_ref());
        results.comparisons.push(peers::compare(*task, &models, peers.as_mut(), &names, *runs)?);
        // After every task, so that an interrupted run leaves what it has.
        results.write(arguments, peers.as_ref())?;
    }
    if arguments.tasks.contains(&Kind::Memory) {
        for side in &arguments.sides {
            let threads = arguments.threads.last().copied().unwrap_or(1);
            let task = Task { work: Work::Forward, size: [*side; 2], batch: 1, threads };
            eprintln!("memory: {}", task.name());
            for preset in &models {
                results.memory.push((task, preset.name().to_owned(), peak_of_ours(*preset, *side, threads)));
            }
            for name in names(arguments, task.work, peers.as_ref()) {
                let peak = peers::peak_of_peer(&arguments.python, &name, task);
                results.memory.push((task, name, peak));
            }
            results.write(arguments, peers.as_ref())?;
        }
    }
    results.print();
    println!("written to {}", arguments.out.display());
    match peers.as_ref().and_then(Peers::ended) {
        Some(reason) => bail!("{reason}; the tables say which figures are missing"),
        None => Ok(()),
    }
}

fn tasks(arguments: &Arguments) -> Result<Vec<(Task, usize)>> {
    let mut tasks = Vec::new();
    for threads in &arguments.threads {
        let mut add = |work, size, batch, runs| tasks.push((Task { work, size, batch, threads: *threads }, runs));
        for kind in &arguments.tasks {
            match kind {
                Kind::Forward => arguments.sides.iter().for_each(|side| add(Work::Forward, [*side; 2], 1, arguments.runs)),
                Kind::Train => {
                    let side = *arguments.sides.first().context("--sides: the training step needs one")?;
                    add(Work::Train, [side; 2], arguments.train_batch, arguments.long_runs);
                }
                Kind::Segment => add(Work::Segment, [arguments.segment_side; 2], 1, arguments.long_runs),
                Kind::Detect => {
                    let size = <[usize; 2]>::try_from(arguments.detect_size.as_slice()).context("--detect-size: height and width")?;
                    add(Work::Detect, size, 1, arguments.long_runs);
                }
                Kind::Memory => {}
            }
        }
    }
    Ok(tasks)
}

/// The peers that were asked for and exist for this work; says which do not.
fn names(arguments: &Arguments, work: Work, peers: Option<&Peers>) -> Vec<String> {
    let Some(peers) = peers else { return Vec::new() };
    let (names, missing): (Vec<String>, Vec<String>) =
        arguments.peers.iter().cloned().partition(|name| peers.versions().models(work).contains(name));
    if !missing.is_empty() {
        eprintln!("  no peer for this: {}", missing.join(", "));
    }
    names
}

fn peak_of_ours(preset: Preset, side: usize, threads: usize) -> Result<peers::Peak, String> {
    let program = std::env::current_exe().map_err(|error| format!("this program cannot call itself: {error}"))?;
    let [side, threads] = [side, threads].map(|number| number.to_string());
    peers::peak_of_ours(&program, &["--measure-memory".to_owned(), preset.name().to_owned(), side, threads])
}

fn measure_memory(of: &[String]) -> Result<()> {
    let [model, side, threads] = of else { bail!("--measure-memory: model, side and threads") };
    let number = |text: &str| text.parse::<usize>().with_context(|| format!("--measure-memory: `{text}` is no number"));
    let task = Task { work: Work::Forward, size: [number(side)?; 2], batch: 1, threads: number(threads)? };
    println!("{}", peers::measure_memory(preset(model)?, task)?);
    Ok(())
}

fn preset(name: &str) -> Result<Preset> {
    let names = || Preset::ALL.map(Preset::name).join(", ");
    Preset::ALL
        .into_iter()
        .find(|preset| preset.name() == name)
        .with_context(|| format!("--models: no model is called `{name}`; there are {}", names()))
}

fn start(python: &str) -> Option<Peers> {
    if python == "none" {
        println!("peers skipped: --python none");
        return None;
    }
    match Peers::start(python) {
        Ok(peers) => {
            let versions = peers.versions();
            println!("peers: PyTorch {}, torchvision {}", versions.torch, versions.torchvision);
            Some(peers)
        }
        Err(error) => {
            println!("peers skipped: {error:#} (name a Python with torch and torchvision by --python)");
            None
        }
    }
}

/// What was measured so far.
#[derive(Default)]
struct Results {
    comparisons: Vec<peers::Comparison>,
    memory: Vec<(Task, String, Result<peers::Peak, String>)>,
}

impl Results {
    fn write(&self, arguments: &Arguments, peers: Option<&Peers>) -> Result<()> {
        let file = |name: &str, text: String| {
            let path = arguments.out.join(name);
            write_whole(&path, text.as_bytes())
        };
        file("peers.json", format!("{:#}\n", peers::json(&self.comparisons, &self.memory, peers.map(Peers::versions))))?;
        if !self.comparisons.is_empty() {
            file("peers.md", peers::table(&self.comparisons).markdown())?;
        }
        if !self.memory.is_empty() {
            file("memory.md", peers::memory_table(&self.memory).markdown())?;
        }
        if self.comparisons.iter().any(|comparison| comparison.task.work == Work::Forward) {
            peers::plot(&self.comparisons, &arguments.out.join("peers.png"), &arguments.out.join("peers.svg"))?;
        }
        Ok(())
    }

    fn print(&self) {
        if !self.comparisons.is_empty() {
            print!("{}", peers::table(&self.comparisons).text());
        }
        if !self.memory.is_empty() {
            print!("{}", peers::memory_table(&self.memory).text());
        }
    }
}
