//! Our networks beside PyTorch's, run in turns on this machine's CPU: speed and memory.

mod report;

use std::cell::RefCell;

use vmamba::Preset;

use crate::error::{Result, invalid};
use crate::measure::{Begin, Contender, Network, Peers, Protocol, Rounds, Subject, Task, in_turns, memory_apart, on_device, pool_of};

pub use report::{Memory, Results};

/// The device of ours and of the peers.
const DEVICE: &str = "cpu";

/// The rounds of one model.
#[derive(Clone, Debug)]
pub struct Contestant {
    /// Name of the model.
    pub name: String,
    /// Whether it is one of ours.
    pub ours: bool,
    /// One run in each round, without the warm-up; the reason when the model could not run.
    pub rounds: Result<Rounds, String>,
}

/// All models on one task.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The task.
    pub task: Task,
    /// The models, ours first.
    pub models: Vec<Contestant>,
}

/// Runs our models `ours` and the peers `names` in turns: one warm-up run each, then `rounds` rounds of one run of every model.
///
/// A peer that refuses the task, and every peer of a worker that ended, has the reason in place of its rounds.
///
/// # Errors
/// [`StudyError::Invalid`](crate::StudyError::Invalid) for a task without threads, images or pixels, or without rounds.
pub fn compare(task: Task, ours: &[Preset], peers: Option<&mut Peers>, names: &[String], rounds: usize) -> Result<Comparison> {
    task.check()?;
    if rounds == 0 {
        return Err(invalid!("{}: at least one round", task.name()));
    }
    let (pool, device) = (pool_of(task.thread_count())?, burn::prelude::Device::flex());
    let mut networks = Vec::new();
    for preset in ours {
        networks.push(pool.install(|| Network::new(&preset.config().into(), &task, &device))?);
    }
    let pool = &pool;
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    for network in &mut networks {
        contenders.push(on_device(&device, move || pool.install(|| network.run())));
    }
    let peers = peers.map(RefCell::new);
    if let Some(peers) = &peers {
        for name in names {
            let (mut ready, task) = (None, &task);
            contenders.push(Box::new(move |times| {
                ready.get_or_insert_with(|| peers.borrow_mut().set_up(name, task, DEVICE)).clone()?;
                peers.borrow_mut().run(name, times)
            }));
        }
    }
    let results = in_turns(Protocol { warmup: 1, runs: 1, rounds }, None, contenders);
    if let Some(peers) = peers {
        peers.into_inner().clear();
    }
    let ours = ours.iter().map(|preset| (preset.name().to_owned(), true));
    let all = ours.chain(names.iter().map(|name| (name.clone(), false)));
    let mut models: Vec<Contestant> = all.zip(results).map(|((name, ours), rounds)| Contestant { name, ours, rounds }).collect();
    for (model, network) in models.iter_mut().zip(networks) {
        if let (Ok(_), Err(error)) = (&model.rounds, network.check()) {
            model.rounds = Err(error.line());
        }
    }
    Ok(Comparison { task, models })
}

/// Peak memory of our models `ours` in child processes, and of the peers `names` in a worker each, on one task.
pub fn memory(task: &Task, ours: &[Preset], python: Option<&str>, names: &[String]) -> Vec<Memory> {
    let ours = ours.iter().map(|preset| {
        let subject = Subject { config: preset.config().into(), task: *task, device: DEVICE.to_owned() };
        Memory { task: *task, name: preset.name().to_owned(), usage: memory_apart(subject, Begin::Corner, None) }
    });
    let peers = python.into_iter().flat_map(|python| names.iter().map(move |name| (python, name)));
    let peers = peers.map(|(python, name)| Memory {
        task: *task,
        name: name.clone(),
        usage: Peers::memory_apart(python, None, name, task, DEVICE),
    });
    ours.chain(peers).collect()
}
