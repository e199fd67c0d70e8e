//! Our models beside PyTorch's: `bench_peers --out runs/peers`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tools::engine::process;
use tools::peers::{self, Peers, Task};
use vmamba::Preset;

/// Measure our classifiers and, with a Python that has torch and torchvision, PyTorch's ResNet-50, DeiT-S, ConvNeXt-T and Swin-T, in
/// turns on this machine's CPU, float32.
///
/// Writes peers.md, peers.json (every single run), peers.png and peers.svg.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Our models, the first is what ratios are about.
    #[arg(long, value_delimiter = ',', default_value = "vmamba_tiny_s1l8")]
    models: Vec<String>,
    /// Peers: resnet50, deit_s, convnext_t, swin_t.
    #[arg(long, value_delimiter = ',', default_value = "swin_t,convnext_t,resnet50,deit_s")]
    peers: Vec<String>,
    /// Height and width of the images of forward passes, in pixels.
    #[arg(long, value_delimiter = ',', default_value = "224,512")]
    sides: Vec<usize>,
    /// Numbers of threads.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Rounds of one run of each model.
    #[arg(long, default_value_t = 15)]
    runs: usize,
    /// Batch of the training step at the first side; 0 leaves the training step out.
    #[arg(long, default_value_t = 4)]
    train_batch: usize,
    /// Rounds of the training step.
    #[arg(long, default_value_t = 5)]
    train_runs: usize,
    /// Python with torch and torchvision for the peers; `none` measures ours alone.
    #[arg(long, default_value = "python3")]
    python: String,
    /// Folder for the tables and the plot.
    #[arg(long, default_value = "runs/peers")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    let models = arguments.models.iter().map(|name| preset(name)).collect::<Result<Vec<_>>>()?;
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot write to {}", arguments.out.display()))?;
    let mut peers = start(&arguments.python);
    if let Some(peers) = &peers {
        let versions = peers.versions();
        if let Some(unknown) = arguments.peers.iter().find(|name| !versions.models.contains(name)) {
            bail!("--peers: no peer is called `{unknown}`; there are {}", versions.models.join(", "));
        }
        println!("peers: PyTorch {}, torchvision {}", versions.torch, versions.torchvision);
    }
    let mut tasks = Vec::new();
    for threads in &arguments.threads {
        tasks.extend(arguments.sides.iter().map(|side| (Task { side: *side, batch: 1, threads: *threads, train: false }, arguments.runs)));
        if let Some(side) = arguments.sides.first().filter(|_| arguments.train_batch > 0) {
            tasks.push((Task { side: *side, batch: arguments.train_batch, threads: *threads, train: true }, arguments.train_runs));
        }
    }
    let mut comparisons = Vec::new();
    for (index, (task, runs)) in tasks.iter().enumerate() {
        eprintln!("{}/{}: {}", index + 1, tasks.len(), task.name());
        comparisons.push(peers::compare(*task, &models, &mut peers, &arguments.peers, *runs)?);
        // After every task, so that an interrupted run leaves what it has.
        write(arguments, &comparisons, peers.as_ref())?;
    }
    print!("{}", peers::table(&comparisons).text());
    println!("written to {}", arguments.out.display());
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
        return None;
    }
    match Peers::start(python) {
        Ok(peers) => Some(peers),
        Err(error) => {
            println!("peers skipped: {error:#} (name a Python with torch and torchvision by --python)");
            None
        }
    }
}

fn write(arguments: &Arguments, comparisons: &[peers::Comparison], peers: Option<&Peers>) -> Result<()> {
    let file = |name: &str, text: String| {
        let path = arguments.out.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    file("peers.md", peers::table(comparisons).markdown())?;
    file("peers.json", format!("{:#}\n", peers::json(comparisons, peers.map(Peers::versions))))?;
    if comparisons.iter().any(|comparison| !comparison.task.train) {
        peers::plot(comparisons, &arguments.out.join("peers.png"), &arguments.out.join("peers.svg"))?;
    }
    Ok(())
}
