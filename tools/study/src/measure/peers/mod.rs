//! The Python worker that runs the peers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use super::request::Usage;
use super::task::{Task, Work};
use super::timing::Timing;
use crate::error::{Result, StudyError};

const SCRIPT: &str = include_str!("worker.py");

/// A Python worker with PyTorch's networks. After it ended, every request returns the reason.
pub struct Peers {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Reads standard error, so that the worker never waits for a reader, and keeps the last line.
    errors: Option<JoinHandle<Option<String>>>,
    ended: Option<String>,
    versions: Versions,
}

/// Versions and models of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Version of PyTorch.
    pub torch: String,
    /// Version of torchvision.
    pub torchvision: String,
    /// The GPU that PyTorch sees.
    pub gpu: Option<String>,
    /// The models it can run, by the name of a [`Work`].
    models: BTreeMap<String, Vec<String>>,
}

impl Versions {
    /// Names of the models that can do `work`.
    pub fn models(&self, work: Work) -> &[String] {
        self.models.get(work.name()).map_or(&[], Vec::as_slice)
    }
}

impl Peers {
    /// The names of the peers.
    pub const NAMES: [&str; 4] = ["swin_t", "convnext_t", "resnet50", "deit_s"];
    /// The name of the official VMamba-T, a peer where its code is given.
    pub const OFFICIAL: &str = "official_vmamba_tiny_s1l8";

    /// Starts `python` with the worker's script. `official` is the folder `classification/models` of the official repository, whose
    /// VMamba-T becomes a peer as well.
    ///
    /// # Errors
    /// [`StudyError::Peers`] when the program cannot be started or has no torch and torchvision.
    pub fn start(python: &str, official: Option<&Path>) -> Result<Self> {
        let mut child = Command::new(python)
            .args(["-c", SCRIPT])
            .args(official)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| StudyError::Peers(format!("cannot start `{python}`: {error}")))?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(StudyError::Peers(format!("`{python}` has no pipes")));
        };
        let errors = std::thread::spawn(move || {
            BufReader::new(errors).split(b'\n').map_while(Result::ok).filter(|line| !line.trim_ascii().is_empty()).last().map(text)
        });
        let versions = Versions { torch: String::new(), torchvision: String::new(), gpu: None, models: BTreeMap::new() };
        let mut peers = Self { child, input, output: BufReader::new(output), errors: Some(errors), ended: None, versions };
        let hello = peers.answer().map_err(|reason| StudyError::Peers(format!("`{python}` cannot run the peers: {reason}")))?;
        let text = |key: &str| hello[key].as_str().unwrap_or("unknown").to_owned();
        let models = serde_json::from_value(hello["models"].clone())
            .map_err(|error| StudyError::Peers(format!("`{python}` answered {hello}: {error}")))?;
        let gpu = hello["gpu"].as_str().map(str::to_owned);
        peers.versions = Versions { torch: text("torch"), torchvision: text("torchvision"), gpu, models };
        Ok(peers)
    }

    /// Versions and models of the worker.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Why the worker ended, if it did.
    pub fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    /// Loads a peer in addition to those already loaded, on `device` by PyTorch's name (`cpu`, `cuda:0`).
    ///
    /// # Errors
    /// The reason of the peer, such as an unsupported image size, or why the worker ended.
    pub fn set_up(&mut self, model: &str, task: &Task, device: &str) -> Result<(), String> {
        let Task { work, size, batch, precision, .. } = task;
        let setup = json!({
            "model": model, "work": work.name(), "size": size, "batch": batch, "threads": task.thread_count(),
            "device": device, "precision": precision.name(), "update": *work == Work::Train { update: true },
        });
        self.ask(&json!({ "setup": setup })).map(|_| ())
    }

    /// Runs a loaded peer `times` times, synchronised with its device before and after. Returns the time of all runs together.
    ///
    /// # Errors
    /// The reason of the peer, or why the worker ended.
    pub fn run(&mut self, model: &str, times: usize) -> Result<Timing, String> {
        let answer = self.ask(&json!({ "run": model, "times": times }))?;
        let wall = answer["wall"].as_f64().ok_or_else(|| format!("the worker of the peers answered {answer}"))?;
        Ok(Timing { wall, cpu: answer["cpu"].as_f64() })
    }

    /// Runs a loaded peer twice and returns its memory: of the process on the CPU, of PyTorch's allocator on a GPU.
    ///
    /// # Errors
    /// The reason of the peer, or why the worker ended.
    pub fn memory(&mut self, model: &str) -> Result<Usage, String> {
        let answer = self.ask(&json!({ "memory": model }))?;
        let figures = answer["before"].as_u64().zip(answer["peak"].as_u64());
        let (before, peak) = figures.ok_or_else(|| format!("the worker of the peers answered {answer}"))?;
        let in_use = answer["allocated"].as_u64();
        let source = if in_use.is_some() { "PyTorch's allocator" } else { Usage::RESIDENT };
        Ok(Usage { before, peak, in_use, source: source.to_owned() })
    }

    /// Memory of a peer in a new worker process; `device` as in [`Peers::set_up`].
    ///
    /// # Errors
    /// The reason of the worker.
    pub fn memory_apart(python: &str, official: Option<&Path>, model: &str, task: &Task, device: &str) -> Result<Usage, String> {
        let mut peers = Self::start(python, official).map_err(|error| error.line())?;
        peers.set_up(model, task, device)?;
        peers.memory(model)
    }

    /// Unloads all peers.
    pub fn clear(&mut self) {
        // A worker that ended has no peers, and reports its end at the next request.
        let _ = self.ask(&json!({ "clear": true }));
    }

    fn ask(&mut self, request: &Value) -> Result<Value, String> {
        if let Some(reason) = &self.ended {
            return Err(reason.clone());
        }
        // A failed write shows in the read below: the worker has ended.
        let _ = writeln!(self.input, "{request}").and_then(|()| self.input.flush());
        let answer = self.answer()?;
        match answer["error"].as_str() {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(answer),
        }
    }

    fn answer(&mut self) -> Result<Value, String> {
        let mut line = Vec::new();
        let reason = match self.output.read_until(b'\n', &mut line) {
            Ok(0) => {
                // Without an output the worker is useless.
                let _ = self.child.kill();
                let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                let last = self.errors.take().and_then(|errors| errors.join().ok()).flatten();
                format!("the worker of the peers ended: {}", last.unwrap_or(status))
            }
            Ok(_) => match serde_json::from_slice(&line) {
                Ok(answer) => return Ok(answer),
                // Later answers would belong to other requests.
                Err(_) => format!("the worker of the peers answered {:?}", text(line)),
            },
            Err(error) => format!("cannot read from the worker of the peers: {error}"),
        };
        self.ended = Some(reason.clone());
        Err(reason)
    }
}

fn text(line: Vec<u8>) -> String {
    String::from_utf8_lossy(&line).trim().to_owned()
}

impl Drop for Peers {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
