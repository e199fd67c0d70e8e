//! The Python process that runs the peers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::{Peak, Task, Timing, Work};

const SCRIPT: &str = include_str!("worker.py");

/// A worker. When it ended, every request is answered by the reason.
pub struct Peers {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Reads the worker's errors, so that it never waits for a reader, and keeps the last line.
    errors: Option<JoinHandle<Option<String>>>,
    ended: Option<String>,
    versions: Versions,
}

/// Where and how exactly a peer runs; by default as [`Peers::set_up`] runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// PyTorch's name of the device, such as `cuda:0`.
    pub device: String,
    /// Numbers the network computes with.
    pub precision: PeerPrecision,
    /// Whether a training step ends with an update by AdamW.
    pub update: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self { device: "cpu".to_owned(), precision: PeerPrecision::Float32, update: false }
    }
}

/// Numbers a peer computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerPrecision {
    /// Float32 throughout.
    Float32,
    /// Float32, with matrix products and convolutions on tensor cores that keep ten bits of their factors.
    Tf32,
    /// PyTorch's autocast to bfloat16; the weights are float32.
    Bf16,
}

impl PeerPrecision {
    fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }
}

/// What the peers are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Version of PyTorch.
    pub torch: String,
    /// Version of torchvision.
    pub torchvision: String,
    /// The GPU that PyTorch sees.
    pub gpu: Option<String>,
    /// The models it can run, for each [`Work`]'s name.
    models: BTreeMap<String, Vec<String>>,
}

impl Versions {
    /// Names of the models that do a kind of work.
    pub fn models(&self, work: Work) -> &[String] {
        self.models.get(work.name()).map_or(&[], Vec::as_slice)
    }
}

impl Peers {
    /// The names a peer can have.
    pub const NAMES: [&str; 4] = ["swin_t", "convnext_t", "resnet50", "deit_s"];
    /// The name of the official VMamba-T, a peer where its code is given.
    pub const OFFICIAL: &str = "official_vmamba_tiny_s1l8";

    /// Starts `python` with the worker's script.
    ///
    /// # Errors
    /// When the program cannot be started, or has no torch and torchvision; the text says which.
    pub fn start(python: &str) -> Result<Self> {
        Self::start_beside(python, None)
    }

    /// As [`Peers::start`], with the official VMamba as a peer as well when `official` is its folder `classification/models`.
    ///
    /// # Errors
    /// As [`Peers::start`].
    pub fn start_beside(python: &str, official: Option<&Path>) -> Result<Self> {
        let mut child = Command::new(python)
            .args(["-c", SCRIPT])
            .args(official)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{python}`"))?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            bail!("`{python}` has no pipes");
        };
        let errors = std::thread::spawn(move || {
            BufReader::new(errors).split(b'\n').map_while(Result::ok).filter(|line| !line.trim_ascii().is_empty()).last().map(text)
        });
        let versions = Versions { torch: String::new(), torchvision: String::new(), gpu: None, models: BTreeMap::new() };
        let mut peers = Self { child, input, output: BufReader::new(output), errors: Some(errors), ended: None, versions };
        let hello = peers.answer().map_err(|reason| anyhow!("`{python}` cannot run the peers: {reason}"))?;
        let text = |key: &str| hello[key].as_str().unwrap_or("unknown").to_owned();
        let models = serde_json::from_value(hello["models"].clone()).with_context(|| format!("`{python}` answered {hello}"))?;
        let gpu = hello["gpu"].as_str().map(str::to_owned);
        peers.versions = Versions { torch: text("torch"), torchvision: text("torchvision"), gpu, models };
        Ok(peers)
    }

    /// What the worker said of itself.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Why the worker ended, if it did.
    pub fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    /// Loads a peer beside those that are loaded.
    ///
    /// # Errors
    /// The peer's own, such as a size it cannot take, and the reason why the worker ended.
    pub fn set_up(&mut self, model: &str, task: Task) -> Result<(), String> {
        self.set_up_in(model, task, &Setting::default())
    }

    /// As [`Peers::set_up`], on any device and in any precision.
    ///
    /// # Errors
    /// As [`Peers::set_up`].
    pub fn set_up_in(&mut self, model: &str, task: Task, setting: &Setting) -> Result<(), String> {
        let Task { work, size, batch, threads } = task;
        let Setting { device, precision, update } = setting;
        let setup = json!({
            "model": model, "work": work.name(), "size": size, "batch": batch, "threads": threads,
            "device": device, "precision": precision.name(), "update": update,
        });
        self.ask(&json!({ "setup": setup })).map(|_| ())
    }

    /// Runs a loaded peer once.
    ///
    /// # Errors
    /// The peer's own and the reason why the worker ended.
    pub fn run(&mut self, model: &str) -> Result<Timing, String> {
        self.run_times(model, 1)
    }

    /// Runs a loaded peer some times, and waits for its device before and after; the time of all runs together.
    ///
    /// # Errors
    /// As [`Peers::run`].
    pub fn run_times(&mut self, model: &str, times: usize) -> Result<Timing, String> {
        let answer = self.ask(&json!({ "run": model, "times": times }))?;
        let wall = answer["wall"].as_f64().ok_or_else(|| format!("the worker of the peers answered {answer}"))?;
        Ok(Timing { wall, cpu: answer["cpu"].as_f64() })
    }

    /// Runs a loaded peer twice and tells the memory of its process.
    ///
    /// # Errors
    /// The peer's own and the reason why the worker ended.
    pub fn memory(&mut self, model: &str) -> Result<Peak, String> {
        let answer = self.ask(&json!({ "memory": model }))?;
        Peak::from_json(&answer).ok_or_else(|| format!("the worker of the peers answered {answer}"))
    }

    /// Forgets all loaded peers.
    pub fn clear(&mut self) {
        // A worker that ended has forgotten them as well, and says so when it is asked for the next.
        let _ = self.ask(&json!({ "clear": true }));
    }

    fn ask(&mut self, request: &Value) -> Result<Value, String> {
        if let Some(reason) = &self.ended {
            return Err(reason.clone());
        }
        // An error in writing shows in reading: the worker has ended.
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
                // It closed its output; what it does else is of no use any more.
                let _ = self.child.kill();
                let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                let last = self.errors.take().and_then(|errors| errors.join().ok()).flatten();
                format!("the worker of the peers ended: {}", last.unwrap_or(status))
            }
            Ok(_) => match serde_json::from_slice(&line) {
                Ok(answer) => return Ok(answer),
                // Whatever comes next would answer another question.
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
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
