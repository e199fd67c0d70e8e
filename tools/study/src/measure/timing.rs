//! The timing protocol: warm-up runs, then rounds in which all contenders run in turns.

use std::time::Instant;

use burn::prelude::*;
use serde::{Deserialize, Serialize};
use vmamba_panics::catch;

use super::process::cpu_seconds;

/// Numbers of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocol {
    /// Untimed runs before the first round.
    pub warmup: usize,
    /// Timed runs of a round.
    pub runs: usize,
    /// Rounds; the median counts.
    pub rounds: usize,
}

/// Time limits of a protocol: slow contenders run less often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The warm-up ends after this many seconds, but not before the second run: the first run compiles and tunes kernels.
    pub warmup_seconds: f64,
    /// A round takes as many runs as fit into this many seconds, and at least one.
    pub round_seconds: f64,
}

impl Limits {
    /// Ten seconds of warm-up, and rounds of one second, which hide the resolution of the clock and the launch of kernels.
    pub const SHORT: Self = Self { warmup_seconds: 10.0, round_seconds: 1.0 };

    fn runs(self, runs: usize, seconds_per_run: f64) -> usize {
        ((self.round_seconds / seconds_per_run.max(1e-9)).ceil() as usize).clamp(1, runs)
    }
}

/// Seconds of one run, or of several together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Wall-clock time.
    pub wall: f64,
    /// CPU time of all threads of the process; `None` where the system does not report it.
    pub cpu: Option<f64>,
}

impl Timing {
    /// Times `work`.
    fn of<E>(work: impl FnOnce() -> Result<(), E>) -> Result<Self, E> {
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        work()?;
        Ok(Self { wall: wall.elapsed().as_secs_f64(), cpu: cpu_seconds().zip(cpu).map(|(end, start)| end - start) })
    }

    fn per_run(self, runs: usize) -> Self {
        let runs = runs as f64;
        Self { wall: self.wall / runs, cpu: self.cpu.map(|cpu| cpu / runs) }
    }
}

/// Runs a network the given number of times and returns the time of all runs together, or the reason for a failure.
pub type Contender<'a> = Box<dyn FnMut(usize) -> Result<Timing, String> + 'a>;

/// Seconds of one run in each round; at least one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounds(Vec<Timing>);

impl Rounds {
    /// The rounds in order.
    pub fn timings(&self) -> &[Timing] {
        &self.0
    }

    /// Smallest and median wall-clock time, in seconds.
    pub fn wall(&self) -> [f64; 2] {
        // `in_turns` returns no empty rounds.
        min_and_median(self.0.iter().map(|timing| timing.wall)).unwrap_or([f64::NAN; 2])
    }

    /// Smallest and median CPU time, in seconds; `None` where the system does not report it.
    pub fn cpu(&self) -> Option<[f64; 2]> {
        min_and_median(self.0.iter().map(|timing| timing.cpu).collect::<Option<Vec<f64>>>()?)
    }
}

/// Smallest value and median; the median of an even number of values is the mean of the two in the middle. `None` without values.
pub fn min_and_median(values: impl IntoIterator<Item = f64>) -> Option<[f64; 2]> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (smallest, middle) = (*values.first()?, values.len() / 2);
    let upper = *values.get(middle)?;
    let lower = if values.len().is_multiple_of(2) { *values.get(middle - 1)? } else { upper };
    Some([smallest, f64::midpoint(lower, upper)])
}

/// A contender that runs `work` on `device`. It synchronises with the device before and after the runs.
pub fn on_device<'a>(device: &'a Device, mut work: impl FnMut() + 'a) -> Contender<'a> {
    let wait = |device: &Device| device.sync().map_err(|error| error.to_string());
    Box::new(move |times| {
        catch(|| {
            wait(device)?;
            Timing::of(|| {
                (0..times).for_each(|_| work());
                wait(device)
            })
        })?
    })
}

/// Warms up every contender, then runs one round of each in turns. Returns one result for each contender; a contender that fails drops out
/// and the others go on.
pub fn in_turns(protocol: Protocol, limits: Option<Limits>, mut contenders: Vec<Contender<'_>>) -> Vec<Result<Rounds, String>> {
    let mut plans: Vec<Result<(usize, Vec<Timing>), String>> = contenders
        .iter_mut()
        .map(|contender| {
            let last = warm_up(protocol.warmup, limits, contender)?;
            let runs = protocol.runs.max(1);
            let runs = limits.zip(last).map_or(runs, |(limits, seconds)| limits.runs(runs, seconds));
            Ok((runs, Vec::with_capacity(protocol.rounds)))
        })
        .collect();
    for _ in 0..protocol.rounds.max(1) {
        for (contender, plan) in contenders.iter_mut().zip(&mut plans) {
            let Ok((runs, timings)) = plan else { continue };
            match contender(*runs) {
                Ok(all) => timings.push(all.per_run(*runs)),
                Err(reason) => *plan = Err(reason),
            }
        }
    }
    plans.into_iter().map(|plan| plan.map(|(_, timings)| Rounds(timings))).collect()
}

/// Wall-clock seconds of the last warm-up run; `None` without runs.
fn warm_up(runs: usize, limits: Option<Limits>, contender: &mut Contender<'_>) -> Result<Option<f64>, String> {
    let (start, mut last) = (Instant::now(), None);
    for run in 0..runs {
        let over = |limits: Limits| run > 1 && start.elapsed().as_secs_f64() > limits.warmup_seconds;
        if limits.is_some_and(over) {
            break;
        }
        last = Some(contender(1)?.wall);
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_run_in_turns_and_one_that_fails_stops_alone() {
        let order = std::cell::RefCell::new(Vec::new());
        let contender = |name: char, seconds: f64, fails_at: usize| -> Contender<'_> {
            let order = &order;
            let mut calls = 0;
            Box::new(move |times| {
                calls += 1;
                order.borrow_mut().push(name);
                if calls == fails_at {
                    return Err("out of memory".to_owned());
                }
                Ok(Timing { wall: seconds * times as f64, cpu: None })
            })
        };
        let protocol = Protocol { warmup: 2, runs: 5, rounds: 3 };
        let contenders = vec![contender('a', 0.5, 0), contender('b', 0.25, 4), contender('c', 1.0, 1)];
        let results = in_turns(protocol, Some(Limits::SHORT), contenders);
        assert_eq!(results[0].as_ref().map(Rounds::wall), Ok([0.5; 2]));
        assert_eq!(results[1], Err("out of memory".to_owned()));
        assert_eq!(results[2], Err("out of memory".to_owned()));
        assert_eq!(order.borrow().iter().collect::<String>(), "aabbcababa");
    }

    #[test]
    fn a_round_of_a_limited_protocol_takes_about_a_second_at_most() {
        assert_eq!([1e-6, 0.1, 0.4, 7.0].map(|seconds| Limits::SHORT.runs(30, seconds)), [30, 10, 3, 1]);
    }

    #[test]
    fn the_median_of_an_even_number_of_values_is_the_mean_of_the_middle_two() {
        assert_eq!(min_and_median([4.0, 1.0, 3.0, 2.0]), Some([1.0, 2.5]));
        assert_eq!(min_and_median([3.0, 1.0, 2.0]), Some([1.0, 2.0]));
        assert_eq!(min_and_median([5.0]), Some([5.0, 5.0]));
        assert_eq!(min_and_median([]), None);
    }

    #[test]
    fn the_time_of_a_round_is_divided_by_its_runs() {
        let protocol = Protocol { warmup: 0, runs: 4, rounds: 2 };
        let contender: Contender<'_> = Box::new(|times| Ok(Timing { wall: times as f64, cpu: Some(3.0 * times as f64) }));
        let results = in_turns(protocol, None, vec![contender]);
        assert_eq!(results[0].as_ref().unwrap().timings(), [Timing { wall: 1.0, cpu: Some(3.0) }; 2]);
    }
}
