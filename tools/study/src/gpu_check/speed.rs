//! Images per second of classifiers, in inference and in training steps, beside PyTorch's in the same rounds.

use std::cell::RefCell;

use vmamba::Preset;
use vmamba_panics::catch;
use vmamba_report::eprintln;
use vmamba_report::tables::Cell;
use vmamba_train::Precision;

use super::facts::{Model, Speed};
use super::precision::{BF16, Float32, Product};
use super::session::{Outcome, Session};
use super::{Facts, Part, PeerSource, Setup};
use crate::error::Result;
use crate::measure::{Contender, Limits, Network, Peers, Purpose, Rounds, Task, in_turns, on_device};

const COLUMNS: [&str; 8] =
    ["model", "precision", "batch", "side", "images/s", "batch ms, median", "batch ms, shortest", "ours / this, images/s"];

/// Models of torchvision.
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
                        // Peers run beside the first model only.
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

/// Starts the worker; `None` without peers. The error is the reason for a note.
pub(super) fn start(setup: &Setup) -> Result<Option<Worker>, String> {
    let Some(PeerSource { python, official }) = &setup.peers else { return Ok(None) };
    let peers = Peers::start(python, official.as_deref()).map_err(|error| error.line())?;
    if peers.versions().gpu.is_none() && setup.torch_device() != "cpu" {
        return Err(format!("PyTorch of `{python}` sees no GPU"));
    }
    let mut names: Vec<String> = PEERS.map(str::to_owned).to_vec();
    names.extend(official.as_ref().map(|_| Peers::OFFICIAL.to_owned()));
    Ok(Some((peers, names)))
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
        // The type our products really have decides that of the peers; it must be known before they are loaded.
        let numbers = self.numbers(setup);
        let of_peer = numbers.as_ref().map_or(Precision::Float32, |(_, peer)| *peer);
        let (worker, names) = match peers {
            Some((peers, names)) => (Some(RefCell::new(peers)), names.clone()),
            None => (None, Vec::new()),
        };
        let Self { batch, precision, .. } = *self;
        let task = Task { work: self.purpose().work(true), size: [self.side; 2], batch, precision, threads: None };
        let peer_task = Task { precision: of_peer, ..task };
        let torch_device = setup.torch_device();
        let network = catch(|| Network::new(&self.preset.config().into(), &task, &setup.device));
        let network = network.and_then(|network| network.map_err(|error| error.line())).map(RefCell::new);

        let mut contenders: Vec<Contender<'_>> = vec![match &network {
            Ok(network) => on_device(&setup.device, || network.borrow_mut().run()),
            Err(reason) => Box::new(|_| Err(reason.clone())),
        }];
        for name in &names {
            let Some(worker) = &worker else { continue };
            let ready = worker.borrow_mut().set_up(name, &peer_task, &torch_device);
            contenders.push(Box::new(move |times| {
                ready.clone()?;
                worker.borrow_mut().run(name, times)
            }));
        }
        let mut results = in_turns(setup.protocol, Some(Limits::SHORT), contenders).into_iter();

        let checked = match network {
            Ok(network) => catch(|| network.into_inner().check()).and_then(|checked| checked.map_err(|error| error.line())),
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
                Precision::Float32 => "float32",
                Precision::Tf32 => "float32 with TF32 products",
                Precision::Bf16 => "autocast to bf16, float32 weights",
            };
            self.push(session, facts, Model::Peer(name), numbers.to_owned(), rounds, speed)?;
        }
        Ok(())
    }

    fn images_per_second(&self, rounds: &Rounds) -> f64 {
        self.batch as f64 / rounds.wall()[1]
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
                let (images_per_second, [shortest, median]) = (self.images_per_second(&rounds), rounds.wall());
                eprintln!("  {}: {images_per_second:.1} images/s", if let Cell::Text(name) = &title[0] { name } else { "" });
                let cells = vec![
                    Cell::Number(images_per_second, 1),
                    Cell::Number(median * 1e3, 2),
                    Cell::Number(shortest * 1e3, 2),
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

    /// The type that the device really computes in, in words, and the precision of a fair peer.
    fn numbers(&self, setup: &Setup) -> Result<(String, Precision), String> {
        if self.precision == Precision::Bf16 {
            return Ok((BF16.to_owned(), Precision::Bf16));
        }
        let asked = catch(|| Float32::of(&setup.device, &products(self.preset, self.batch, self.side)));
        let float32 = asked.and_then(|float32| float32.map_err(|error| error.line()))?;
        Ok((float32.name(), float32.peer()))
    }
}

/// The first linear layer of the MLP in the first and third stages, and the convolution between the first two stages.
fn products(preset: Preset, batch: usize, side: usize) -> [Product; 3] {
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
