//! Progress of a study: what runs, and the remaining time.

use std::time::Instant;
use vmamba_report::eprintln;

/// Steps of known relative length.
pub(super) struct Progress {
    weights: Vec<f64>,
    index: usize,
    start: Instant,
}

impl Progress {
    /// Steps with their relative lengths.
    pub(super) fn new(weights: Vec<f64>) -> Self {
        Self { weights, index: 0, start: Instant::now() }
    }

    /// Prints the next step with its number and the remaining time.
    pub(super) fn begin(&self, step: &str) {
        let (done, left) = self.weights.split_at(self.index.min(self.weights.len()));
        let [done, left]: [f64; 2] = [done, left].map(|weights| weights.iter().sum());
        let per_weight = self.start.elapsed().as_secs_f64() / done;
        let left = if done > 0.0 { format!(", about {} left", duration(per_weight * left)) } else { String::new() };
        eprintln!("{}/{}: {step}{left}", self.index + 1, self.weights.len());
    }

    /// Ends the step.
    pub(super) fn done(&mut self) {
        self.index += 1;
    }
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_or_two_units() {
        assert_eq!([12.4, 61.0, 7260.0].map(duration), ["12 s", "2 min", "2 h 1 min"]);
    }
}
