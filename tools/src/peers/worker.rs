//! The Python process that runs the peers.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::{Task, Timing};

const SCRIPT: &str = include_str!("worker.py");

/// A running worker.
pub struct Peers {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    versions: Versions,
}

/// What the peers are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Version of PyTorch.
    pub torch: String,
    /// Version of torchvision.
    pub torchvision: String,
    /// The models it can run.
    pub models: Vec<String>,
}

impl Peers {
    /// Starts `python` with the worker's script.
    ///
    /// # Errors
    /// When the program cannot be started, or has no torch and torchvision; the text says which.
    pub fn start(python: &str) -> Result<Self> {
        let mut child = Command::new(python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{python}`"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("`{python}` has no pipes");
        };
        let mut peers = Self {
            child,
            input,
            output: BufReader::new(output),
            versions: Versions { torch: String::new(), torchvision: String::new(), models: Vec::new() },
        };
        let hello = peers.answer().with_context(|| format!("`{python}` cannot run the peers"))?;
        let text = |key: &str| hello[key].as_str().unwrap_or("unknown").to_owned();
        let models = hello["models"].as_array().map(|models| models.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        peers.versions = Versions { torch: text("torch"), torchvision: text("torchvision"), models: models.unwrap_or_default() };
        Ok(peers)
    }

    /// What the worker said of itself.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Loads a peer. The inner error is the peer's own, such as a size it cannot take.
    ///
    /// # Errors
    /// When the worker died.
    pub fn set_up(&mut self, model: &str, task: Task) -> Result<std::result::Result<(), String>> {
        let Task { side, batch, threads, train } = task;
        self.ask(&json!({ "setup": { "model": model, "side": side, "batch": batch, "threads": threads, "train": train } }))
            .map(|answer| answer.map(|_| ()))
    }

    /// Runs the peer once.
    ///
    /// # Errors
    /// When the worker died or answers nonsense.
    pub fn run(&mut self) -> Result<std::result::Result<Timing, String>> {
        let answer = match self.ask(&json!({ "run": true }))? {
            Ok(answer) => answer,
            Err(reason) => return Ok(Err(reason)),
        };
        match (answer["wall"].as_f64(), answer["cpu"].as_f64()) {
            (Some(wall), Some(cpu)) => Ok(Ok(Timing { wall, cpu })),
            _ => bail!("the worker of the peers answered {answer}"),
        }
    }

    fn ask(&mut self, request: &Value) -> Result<std::result::Result<Value, String>> {
        writeln!(self.input, "{request}").and_then(|()| self.input.flush()).context("the worker of the peers has ended")?;
        let answer = self.answer()?;
        Ok(match answer["error"].as_str() {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(answer),
        })
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.output.read_line(&mut line).context("cannot read from the worker of the peers")? == 0 {
            let mut errors = String::new();
            if let Some(mut stderr) = self.child.stderr.take() {
                std::io::Read::read_to_string(&mut stderr, &mut errors).context("cannot read the worker's errors")?;
            }
            let last = errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned();
            return Err(anyhow!("it ended: {last}"));
        }
        serde_json::from_str(&line).with_context(|| format!("the worker of the peers answered {line:?}"))
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
