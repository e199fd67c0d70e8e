//! How times are taken: warm-up, then rounds in which all contenders run in turns, the device waited for before and after.

use std::time::Instant;

use burn::prelude::*;

use vmamba_train::panics::catch;

/// A round need not be longer for the clock and the launch of kernels to disappear in it.
const ROUND_SECONDS: f64 = 1.0;
/// Nor does a warm-up that has run at least twice: the first run tunes and compiles kernels.
const WARMUP_SECONDS: f64 = 10.0;

/// Numbers of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Runs before the first round.
    pub warmup: usize,
    /// The most runs of a round; fewer when they take more than a second.
    pub iterations: usize,
    /// Rounds; the median counts.
    pub rounds: usize,
}

/// Runs something a number of times and tells the seconds of all together, or why it could not.
pub(super) type Contender<'a> = Box<dyn FnMut(usize) -> Result<f64, String> + 'a>;

/// Seconds of one run, in each round.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rounds(Vec<f64>);

impl Rounds {
    /// The middle; of an even number the mean of the two in the middle.
    pub(super) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
    }

    /// The shortest.
    pub(super) fn shortest(&self) -> f64 {
        self.sorted()[0]
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// Work on a device as a contender.
pub(super) fn on_device<'a>(device: &'a Device, mut work: impl FnMut() + 'a) -> Contender<'a> {
    let wait = |device: &Device| device.sync().map_err(|error| error.to_string());
    Box::new(move |times| {
        catch(|| {
            wait(device)?;
            let start = Instant::now();
            for _ in 0..times {
                work();
            }
            wait(device)?;
            Ok(start.elapsed().as_secs_f64())
        })?
    })
}

/// Warms every contender up and runs those that can in turns. One result each.
pub(super) fn in_turns(protocol: Protocol, mut contenders: Vec<Contender<'_>>) -> Vec<Result<Rounds, String>> {
    let mut plans: Vec<Result<(usize, Vec<f64>), String>> = contenders
        .iter_mut()
        .map(|contender| Ok((iterations(protocol, warm_up(protocol.warmup, contender)?), Vec::with_capacity(protocol.rounds))))
        .collect();
    for _ in 0..protocol.rounds {
        for (contender, plan) in contenders.iter_mut().zip(&mut plans) {
            let Ok((iterations, seconds)) = plan else { continue };
            match contender(*iterations) {
                Ok(all) => seconds.push(all / *iterations as f64),
                Err(reason) => *plan = Err(reason),
            }
        }
    }
    let rounds = |plan: Result<(usize, Vec<f64>), String>| match plan {
        Ok((_, seconds)) if seconds.is_empty() => Err("no round was run".to_owned()),
        Ok((_, seconds)) => Ok(Rounds(seconds)),
        Err(reason) => Err(reason),
    };
    plans.into_iter().map(rounds).collect()
}

/// Seconds of the last run.
fn warm_up(runs: usize, contender: &mut Contender<'_>) -> Result<f64, String> {
    let start = Instant::now();
    let mut last = contender(1)?;
    for run in 1..runs {
        if run > 1 && start.elapsed().as_secs_f64() > WARMUP_SECONDS {
            break;
        }
        last = contender(1)?;
    }
    Ok(last)
}

fn iterations(protocol: Protocol, seconds: f64) -> usize {
    ((ROUND_SECONDS / seconds.max(1e-9)).ceil() as usize).clamp(1, protocol.iterations.max(1))
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
                if calls == fails_at { Err("out of memory".to_owned()) } else { Ok(seconds * times as f64) }
            })
        };
        let protocol = Protocol { warmup: 2, iterations: 5, rounds: 3 };
        let results = in_turns(protocol, vec![contender('a', 0.5, 0), contender('b', 0.25, 4), contender('c', 1.0, 1)]);
        assert_eq!(results[0].as_ref().map(Rounds::median), Ok(0.5));
        assert_eq!(results[1], Err("out of memory".to_owned()));
        assert_eq!(results[2], Err("out of memory".to_owned()));
        assert_eq!(order.borrow().iter().collect::<String>(), "aabbcababa");
    }

    #[test]
    fn a_round_takes_about_a_second_at_most() {
        let protocol = Protocol { warmup: 1, iterations: 30, rounds: 1 };
        assert_eq!([1e-6, 0.1, 0.4, 7.0].map(|seconds| iterations(protocol, seconds)), [30, 10, 3, 1]);
    }

    #[test]
    fn the_middle_of_an_even_number_is_their_mean() {
        assert_eq!(Rounds(vec![4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!((Rounds(vec![3.0, 1.0, 2.0]).median(), Rounds(vec![3.0, 1.0]).shortest()), (2.0, 1.0));
    }
}
