//! Progress of a run on a terminal, or line by line where there is none.

use std::io::IsTerminal;
use std::time::Duration;

use anstream::{eprintln, println};
use indicatif::{ProgressBar, ProgressStyle};
use vmamba_train::{BoxError, Incident, Observer, Outcome, RunInfo, StepReport, ValidationReport};

/// Prints the progress of a run: a bar on a terminal, a line every `log_interval` steps elsewhere; every validation is a line.
#[derive(Default)]
pub struct Console {
    bar: Option<ProgressBar>,
}

impl Console {
    /// Prints a line without disturbing the bar.
    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }
}

impl Observer for Console {
    fn started(&mut self, run: &RunInfo) -> Result<(), BoxError> {
        self.bar = std::io::stderr().is_terminal().then(|| {
            let bar = progress_bar(run.length.iterations);
            bar.set_position(run.first);
            bar.reset_eta();
            bar
        });
        Ok(())
    }

    fn step(&mut self, step: &StepReport) -> Result<(), BoxError> {
        if let Some(reason) = &step.skipped {
            self.say(&format!("left out: {reason}"));
        }
        let [loss, lr, rate] = ["loss", "lr", "images_per_second"].map(|name| step.scalar(name));
        let message = format!("loss {loss:.4}  lr {lr:.2e}  {rate:.1} img/s");
        match &self.bar {
            Some(bar) => {
                bar.set_position(step.iteration);
                bar.set_message(message);
            }
            None if step.due => println!("iteration {}/{}  {message}  {} left", step.iteration, step.iterations, human(step.left)),
            None => (),
        }
        Ok(())
    }

    fn validated(&mut self, validation: &ValidationReport) -> Result<(), BoxError> {
        // The field's tables are in percent.
        let text: Vec<String> = validation.scalars.iter().map(|(name, share)| format!("{name} {:.2}", share * 100.0)).collect();
        self.say(&format!("iteration {}: validation {}", validation.iteration, text.join("  ")));
        Ok(())
    }

    fn incident(&mut self, _incident: &Incident) -> Result<(), BoxError> {
        // The step's report or the error of the run says it.
        Ok(())
    }

    fn message(&mut self, text: &str) {
        self.say(text);
    }

    fn finished(&mut self, outcome: Outcome, iteration: u64) -> Result<(), BoxError> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if outcome == Outcome::Interrupted {
            println!("interrupted after iteration {iteration}; continue with --resume");
        }
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A bar on the terminal with the time passed and the time left; hidden where there is no terminal.
pub fn progress_bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {elapsed}<{eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// A duration as `2h05m`, `3m20s` or `12s`.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}

/// Warns of images that were left out: the first few by name, the others by their number.
pub fn warn_of_skipped<'a>(reasons: impl ExactSizeIterator<Item = &'a str>, option: &str) {
    const NAMED: usize = 10;
    let count = reasons.len();
    for reason in reasons.take(NAMED) {
        eprintln!("warning: {option}: skipped {reason}");
    }
    if count > NAMED {
        eprintln!("warning: {option}: skipped {} more images", count - NAMED);
    }
}
