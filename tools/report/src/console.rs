//! Progress of a run on a terminal, or line by line where there is none. Only this module prints.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use vmamba_files::printable;
use vmamba_train::{BoxError, Observer, Outcome, RunInfo, StepReport, ValidationReport};

use crate::eprintln;
use crate::terminal::write_escaped;

/// Observer that prints progress: a bar on a terminal, elsewhere a line every `log_interval` steps. Every validation is a line.
///
/// [`Console::default`] prints to standard output and draws the bar on standard error. A run goes on when nobody reads its output any more.
/// Any other failure to print, for instance on a full disk, ends the run after its steps have been saved.
pub struct Console {
    out: Box<dyn Write + Send>,
    /// Whether to draw a bar.
    terminal: bool,
    bar: Option<ProgressBar>,
    /// A failure to print a message, to be reported with the next event.
    failed: Option<io::Error>,
}

impl Default for Console {
    fn default() -> Self {
        Self { out: Box::new(io::stdout()), terminal: io::stderr().is_terminal(), bar: None, failed: None }
    }
}

impl Console {
    /// Writes lines to `out` and draws no bar.
    pub fn to(out: impl Write + Send + 'static) -> Self {
        Self { out: Box::new(out), terminal: false, bar: None, failed: None }
    }

    /// Prints a line without disturbing the bar.
    fn print(&mut self, text: &str) -> Result<(), BoxError> {
        if let Some(reason) = self.failed.take() {
            return Err(format!("cannot print the progress: {reason}").into());
        }
        let out = &mut self.out;
        let mut line = || write_escaped(out, &format!("{text}\n"));
        let printed = match &self.bar {
            Some(bar) => bar.suspend(line),
            None => line(),
        };
        printed.map_err(|reason| format!("cannot print the progress: {reason}").into())
    }
}

impl Observer for Console {
    fn started(&mut self, run: &RunInfo) -> Result<(), BoxError> {
        self.bar = self.terminal.then(|| {
            let bar = progress_bar(run.length.iterations);
            bar.set_position(run.first);
            bar.reset_eta();
            bar
        });
        run.notes.iter().try_for_each(|note| self.print(note))
    }

    fn step(&mut self, step: &StepReport) -> Result<(), BoxError> {
        if let Some(reason) = &step.skipped {
            self.print(&format!("skipped this step: {reason}"))?;
        }
        let [loss, lr, rate] = ["loss", "lr", "images_per_second"].map(|name| step.scalar(name));
        let message = format!("loss {loss:.4}  lr {lr:.2e}  {rate:.1} img/s");
        if let Some(bar) = &self.bar {
            bar.set_position(step.iteration);
            bar.set_message(message);
        } else if step.due {
            self.print(&format!("iteration {}/{}  {message}  {} left", step.iteration, step.iterations, human(step.left)))?;
        }
        Ok(())
    }

    fn validated(&mut self, validation: &ValidationReport) -> Result<(), BoxError> {
        // Published tables are in percent.
        let text: Vec<String> = validation.scalars.iter().map(|(name, share)| format!("{name} {:.2}", share * 100.0)).collect();
        self.print(&format!("iteration {}: validation {}", validation.iteration, text.join("  ")))
    }

    fn message(&mut self, text: &str) {
        if let Err(reason) = self.print(text) {
            self.failed = Some(io::Error::other(reason));
        }
    }

    fn finished(&mut self, outcome: Outcome, iteration: u64) -> Result<(), BoxError> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if outcome == Outcome::Interrupted {
            self.print(&format!("interrupted after iteration {iteration}"))?;
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

/// A progress bar with the elapsed and the remaining time; hidden where standard error is not a terminal.
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

/// Which set of weights of a checkpoint a program has loaded, in one line. Every program that loads weights prints it.
pub fn weights_line(checkpoint: &Path, origin: &impl fmt::Display) -> String {
    format!("{}: {origin}", checkpoint.display())
}

/// Warns of skipped images on standard error: names the first ten and counts the others.
pub fn warn_of_skipped<'a>(reasons: impl ExactSizeIterator<Item = &'a str>, option: &str) {
    const NAMED: usize = 10;
    let count = reasons.len();
    for reason in reasons.take(NAMED) {
        eprintln!("warning: {option}: skipped {}", printable(reason));
    }
    if count > NAMED {
        eprintln!("warning: {option}: skipped {} more images", count - NAMED);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use burn::prelude::Device;
    use vmamba_train::NonFinite;

    use super::*;
    use crate::tiny;

    /// A writer whose bytes the test keeps.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
        }
    }

    /// A pipe without a reader.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_run_prints_a_line_for_due_steps_and_for_validations_in_percent() {
        let page = Page::default();
        tiny::run(Console::to(page.clone()));
        let lines = page.lines();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with("iteration 2: validation closeness "), "{lines:?}");
        assert!(lines[1].starts_with("iteration 4/4  loss ") && lines[1].ends_with(" 0s left"), "{lines:?}");
        let percent: f64 = lines[2].rsplit(' ').next().unwrap().parse().unwrap();
        assert!(percent > 1.0 && percent <= 100.0, "{lines:?}");
    }

    #[test]
    fn a_skipped_step_is_printed_with_its_reason() {
        let page = Page::default();
        let builder = tiny::builder(f32::NAN).iterations(1).non_finite(NonFinite::Skip).observe(Console::to(page.clone()));
        builder.build(&Device::flex()).unwrap().run().unwrap();
        assert!(page.lines()[0].contains("skipped this step: the loss of iteration 1 is not finite, first in slope"), "{:?}", page.lines());
    }

    #[test]
    fn a_closed_pipe_does_not_end_a_run() {
        tiny::run(Console::to(Closed));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_under_the_output_ends_a_run_with_one_error() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = tiny::builder(0.0).log_interval(1).observe(Console::to(full)).build(&Device::flex()).unwrap().run().unwrap_err();
        assert!(error.to_string().contains("cannot print the progress"), "{error}");
    }

    #[test]
    fn an_interrupted_run_prints_its_last_iteration() {
        let page = Page::default();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let builder = tiny::builder(0.0).stop_flag(stop).observe(Console::to(page.clone()));
        builder.build(&Device::flex()).unwrap().run().unwrap();
        assert_eq!(page.lines(), ["interrupted after iteration 1"]);
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let texts = [12, 200, 7500].map(|seconds| human(Duration::from_secs(seconds)));
        assert_eq!(texts, ["12s", "3m20s", "2h05m"]);
    }
}
