//! Images a second of classifiers, inference and training steps, beside PyTorch's in the same rounds.

mod network;

use std::cell::RefCell;

use anstream::eprintln;
use anyhow::Result;
use vmamba::Preset;

use super::facts::{Model, Speed};
use super::precision::{BF16, Float32, Product};
use super::session::{Outcome, Session};
use super::timing::{Contender, Rounds, in_turns, on_device};
use super::{Facts, Part, PeerSource, Setup, threads};
use crate::peers::{PeerPrecision, Peers, Setting, Task, Work};
use vmamba_report::tables::Cell;
use vmamba_train::panics::catch;
use vmamba_train::precision::Precision;

pub(super) use network::{Network, Purpose};

const COLUMNS: [&str; 8] =
    ["model", "precision", "batch", "side", "images/s", "batch ms, median", "batch ms, shortest", "ours / this, images/s"];

/// torchvision's.
const PEERS: [&str; 2] = ["swin_t", "convnext_t"];

pub(super) fn run(part: Part, setup: &Setup, session: &mut Session, facts: &mut Facts) -> Result<()> {
    session.part(part, &COLUMNS)?;
    let mut peers = match start(setup) {
        Ok(peers) => peers,
        Err(reason) => {
            session.note(format!("peers left out: {reason}"))?;
            None
        }
    };
    if let Some((peers, _)) = &peers {
        let versions = peers.versions();
        let gpu = versions.gpu.as_deref().unwrap_or("no GPU");
        session.note(format!("peers: PyTorch {}, torchvision {}, {gpu}", versions.torch, versions.torchvision))?;
    }
    for precision in &setup.precisions {
        if let Err(error) = precision.adopt(&setup.device) {
            session.note(format!("{} not run: {error}", precision.name()))?;
            continue;
        }
        for preset in &setup.presets {
            for side in &setup.sides {
                for batch in &setup.batches {
                    let cell = Row { part, preset: *preset, precision: *precision, batch: *batch, side: *side };
                    if session.begin(&cell.name())? {
                        // Ratios are about the first model.
                        let peers = peers.as_mut().filter(|_| setup.presets.first() == Some(preset));
                        cell.measure(setup, peers, session, facts)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// The worker and the names of its models.
type Worker = (Peers, Vec<String>);

/// The worker, none when it is not asked for; or why there is none.
pub(super) fn start(setup: &Setup) -> Result<Option<Worker>, String> {
    let Some(PeerSource { python, official }) = &setup.peers else { return Ok(None) };
    let peers = Peers::start_beside(python, official.as_deref()).map_err(|error| format!("{error:#}"))?;
    if peers.versions().gpu.is_none() && setup.torch_device() != "cpu" {
        return Err(format!("PyTorch of `{python}` sees no GPU"));
    }
    let mut names: Vec<String> = PEERS.map(str::to_owned).to_vec();
    names.extend(official.as_ref().map(|_| Peers::OFFICIAL.to_owned()));
    Ok(Some((peers, names)))
}

/// What a peer is asked for beside a row of ours.
pub(super) fn setting(setup: &Setup, precision: PeerPrecision, update: bool) -> Setting {
    Setting { device: setup.torch_device(), precision, update }
}

/// One model of ours at one size, with the peers beside it.
struct Row {
    part: Part,
    preset: Preset,
    precision: Precision,
    batch: usize,
    side: usize,
}

impl Row {
    fn name(&self) -> String {
        format!("{}, {}, batch {}, {}x{}", self.preset, self.precision.name(), self.batch, self.side, self.side)
    }

    fn purpose(&self) -> Purpose {
        if self.part == Part::Training { Purpose::Training } else { Purpose::Inference }
    }

    fn measure(&self, setup: &Setup, peers: Option<&mut Worker>, session: &mut Session, facts: &mut Facts) -> Result<()> {
        // What it computes in, and what a peer has to: known before the peers are loaded.
        let numbers = self.numbers(setup);
        let of_peer = numbers.as_ref().map_or(PeerPrecision::Float32, |(_, peer)| *peer);
        let (worker, names) = match peers {
            Some((peers, names)) => (Some(RefCell::new(peers)), names.clone()),
            None => (None, Vec::new()),
        };
        let task = Task {
            work: if self.part == Part::Training { Work::Train } else { Work::Forward },
            size: [self.side; 2],
            batch: self.batch,
            threads: threads(),
        };
        let setting = setting(setup, of_peer, self.part == Part::Training);
        let network = catch(|| Network::new(self.preset, self.purpose(), self.precision, self.batch, self.side, &setup.device));
        let network = network.map(RefCell::new);

        let mut contenders: Vec<Contender<'_>> = vec![match &network {
            Ok(network) => on_device(&setup.device, || network.borrow_mut().run()),
            Err(reason) => Box::new(|_| Err(reason.clone())),
        }];
        for name in &names {
            let Some(worker) = &worker else { continue };
            let ready = worker.borrow_mut().set_up_in(name, task, &setting);
            contenders.push(Box::new(move |times| {
                ready.clone()?;
                worker.borrow_mut().run_times(name, times).map(|timing| timing.wall)
            }));
        }
        let mut results = in_turns(setup.protocol, contenders).into_iter();

        // A launch that failed shows only where its result is read.
        let checked = match network {
            Ok(network) => catch(|| network.into_inner().check()).and_then(|checked| checked.map_err(|e| format!("{e:#}"))),
            Err(reason) => Err(reason),
        };
        setup.device.memory_cleanup();
        if let Some(worker) = &worker {
            worker.borrow_mut().clear();
        }
        let ours = results.next().unwrap_or_else(|| Err("not run".to_owned())).and_then(|rounds| checked.map(|()| rounds));
        let numbers = numbers.map_or_else(|reason| format!("{}, {reason}", self.precision.name()), |(name, _)| name);
        let speed = ours.as_ref().ok().map(|rounds| self.images_per_second(rounds));
        self.push(session, facts, Model::Ours(self.preset), numbers, ours, speed)?;
        for (name, rounds) in names.into_iter().zip(results) {
            let numbers = match of_peer {
                PeerPrecision::Float32 => "float32",
                PeerPrecision::Tf32 => "float32 with TF32 products",
                PeerPrecision::Bf16 => "autocast to bf16, float32 weights",
            };
            self.push(session, facts, Model::Peer(name), numbers.to_owned(), rounds, speed)?;
        }
        Ok(())
    }

    fn images_per_second(&self, rounds: &Rounds) -> f64 {
        self.batch as f64 / rounds.median()
    }

    fn push(
        &self,
        session: &mut Session,
        facts: &mut Facts,
        model: Model,
        numbers: String,
        rounds: Result<Rounds, String>,
        ours: Option<f64>,
    ) -> Result<()> {
        let name = match &model {
            Model::Ours(preset) => preset.name().to_owned(),
            Model::Peer(name) => name.clone(),
        };
        let title = vec![name.into(), numbers.into(), self.batch.into(), self.side.into()];
        let outcome = match rounds {
            Ok(rounds) => {
                let images_per_second = self.images_per_second(&rounds);
                eprintln!("  {}: {images_per_second:.1} images/s", if let Cell::Text(name) = &title[0] { name } else { "" });
                let cells = vec![
                    Cell::Number(images_per_second, 1),
                    Cell::Number(rounds.median() * 1e3, 2),
                    Cell::Number(rounds.shortest() * 1e3, 2),
                    ours.map_or(Cell::Missing, |ours| Cell::Number(ours / images_per_second, 2)),
                ];
                let Self { part, precision, batch, side, .. } = *self;
                facts.speeds.push(Speed { part, model, precision, batch, side, images_per_second });
                Outcome::Measured(cells, String::new())
            }
            Err(reason) => Outcome::Failed(reason),
        };
        session.row(title, outcome)
    }

    /// What the device really computes in, and the same for a peer.
    fn numbers(&self, setup: &Setup) -> Result<(String, PeerPrecision), String> {
        if self.precision == Precision::Bf16 {
            return Ok((BF16.to_owned(), PeerPrecision::Bf16));
        }
        let asked = catch(|| Float32::of(&setup.device, &products(self.preset, self.batch, self.side)));
        let float32 = asked.and_then(|float32| float32.map_err(|error| format!("{error:#}")))?;
        Ok((float32.name(), float32.peer()))
    }
}

/// The first product of the MLP in the first and the third stage, and the convolution between the first two stages.
pub(super) fn products(preset: Preset, batch: usize, side: usize) -> [Product; 3] {
    let config = preset.config();
    let linear = |stage: usize| {
        let (width, cells) = (config.dim(stage), side / config.stride(stage));
        // Models without MLP have a product of twice the width instead.
        let outputs = config.mlp_hidden(width).max(2 * width);
        Product::Linear { rows: batch * (cells * cells).max(1), inputs: width, outputs }
    };
    let size = [(side / config.stride(0)).max(1); 2];
    let conv = Product::Conv { batch, size, inputs: config.dim(0), outputs: config.dim(1), stride: 2 };
    [linear(0), linear(2), conv]
}
