//! Learning rate schedules with one value per iteration, as mmengine composes `LinearLR` with `PolyLR` or `MultiStepLR`.

use serde::{Deserialize, Serialize};

use vmamba_types::setting::{self, SettingError};

use crate::config::{Length, MAX_STEPS};
use crate::optimizer::MAX_RATE;

/// Linear warm-up, then decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Iterations of the linear warm-up; 0 for none.
    #[serde(default)]
    pub warmup_iterations: u64,
    /// The factor of the learning rate at the first iteration of the warm-up.
    #[serde(default = "warmup_factor")]
    pub warmup_factor: f64,
    /// The decay after the warm-up.
    #[serde(default)]
    pub decay: Decay,
}

fn warmup_factor() -> f64 {
    1e-6
}

/// How the learning rate falls after the warm-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
pub enum Decay {
    /// Polynomial decay to `min_lr` at the last iteration.
    Poly {
        /// Exponent; 1 is a straight line.
        #[serde(default = "one")]
        power: f64,
        /// Learning rate at the end.
        #[serde(default)]
        min_lr: f64,
    },
    /// Multiplication by a factor after given iterations or epochs.
    Steps {
        /// Iterations or epochs after which the learning rate falls.
        at: Vec<u64>,
        /// Whether `at` counts iterations or epochs.
        #[serde(default)]
        unit: Unit,
        /// The factor.
        #[serde(default = "tenth")]
        factor: f64,
    },
    /// The learning rate does not change.
    Constant,
}

/// The unit of a schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Optimiser steps.
    #[default]
    Iterations,
    /// Passes over the training set.
    Epochs,
}

impl Unit {
    /// Its iterations, in a run whose epochs have `epoch` iterations.
    fn length(self, epoch: u64) -> u64 {
        match self {
            Self::Iterations => 1,
            Self::Epochs => epoch,
        }
    }
}

fn one() -> f64 {
    1.0
}

fn tenth() -> f64 {
    0.1
}

impl Default for Decay {
    fn default() -> Self {
        Self::Poly { power: 1.0, min_lr: 0.0 }
    }
}

impl Decay {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        match self {
            Self::Poly { power, min_lr } => {
                setting::number("power", *power, 0.0..=100.0)?;
                setting::number("min_lr", *min_lr, 0.0..=MAX_RATE)
            }
            Self::Steps { at, factor, .. } => {
                let steps = (1..=1_000).contains(&at.len()) && at.iter().all(|step| (1..=MAX_STEPS).contains(step));
                let ascending = at.is_sorted_by(|earlier, later| earlier < later);
                let allowed = format!("1 to 1000 different whole numbers from 1 to {MAX_STEPS} in ascending order");
                setting::require(steps && ascending, "at", allowed, at)?;
                setting::number("factor", *factor, 0.0..=1e3)
            }
            Self::Constant => Ok(()),
        }
    }
}

impl ScheduleConfig {
    /// A constant learning rate.
    pub fn constant() -> Self {
        Self { warmup_iterations: 0, warmup_factor: warmup_factor(), decay: Decay::Constant }
    }

    /// The learning rate falls to a tenth after each of these epochs.
    pub fn step(epochs: impl Into<Vec<u64>>) -> Self {
        Self { decay: Decay::Steps { at: epochs.into(), unit: Unit::Epochs, factor: tenth() }, ..Self::constant() }
    }

    /// Polynomial decay to 0 at the last iteration; power 1 is a straight line.
    pub fn poly(power: f64) -> Self {
        Self { decay: Decay::Poly { power, min_lr: 0.0 }, ..Self::constant() }
    }

    /// Starts with a linear warm-up over `iterations` from `factor` times the learning rate.
    #[must_use]
    pub fn warmup(self, iterations: u64, factor: f64) -> Self {
        Self { warmup_iterations: iterations, warmup_factor: factor, ..self }
    }

    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::whole("warmup_iterations", self.warmup_iterations, 0..=MAX_STEPS)?;
        setting::share("warmup_factor", self.warmup_factor)?;
        self.decay.validate().map_err(|error| error.within("decay"))
    }

    /// The parts of the schedule that a run of this length does not reach, one sentence each. They are notes, because a short trial of a long
    /// configuration is common.
    pub fn notes(&self, length: Length) -> Vec<String> {
        let (warmup, total) = (self.warmup_iterations, length.iterations);
        let mut notes = Vec::new();
        if warmup > total {
            notes.push(format!(
                "train.schedule.warmup_iterations is {warmup}, but the run has {total} iterations: the learning rate does not reach \
                 train.optimizer.lr"
            ));
        }
        if let Decay::Steps { at, unit, .. } = &self.decay
            && at.first().is_some_and(|first| first.saturating_mul(unit.length(length.epoch)) >= total)
        {
            notes.push(format!(
                "no step of train.schedule.decay.at is inside the run of {total} iterations: the learning rate does not fall"
            ));
        }
        notes
    }

    /// The learning rate of an iteration, counted from 0, of a run of `total` iterations, `epoch` of them a pass over the training set,
    /// with the base learning rate `base`.
    pub fn learning_rate(&self, base: f64, iteration: u64, total: u64, epoch: u64) -> f64 {
        base * self.factor_of_steps(iteration, epoch) * self.relative(base, iteration, total)
    }

    /// The factor of [`Decay::Steps`]. It applies during the warm-up too, because mmengine multiplies its schedulers.
    fn factor_of_steps(&self, iteration: u64, epoch: u64) -> f64 {
        let Decay::Steps { at, unit, factor } = &self.decay else { return 1.0 };
        let length = unit.length(epoch);
        factor.powi(at.iter().filter(|step| iteration >= step.saturating_mul(length)).count() as i32)
    }

    /// Warm-up and polynomial decay, as a share of the base.
    fn relative(&self, base: f64, iteration: u64, total: u64) -> f64 {
        if iteration < self.warmup_iterations {
            // LinearLR reaches factor 1 at its last iteration.
            let last = self.warmup_iterations.saturating_sub(1).max(1);
            let progress = iteration.min(last) as f64 / last as f64;
            return self.warmup_factor + (1.0 - self.warmup_factor) * progress;
        }
        match &self.decay {
            Decay::Poly { power, min_lr } => {
                // PolyLR runs from the end of the warm-up to the end of the run.
                let begin = self.warmup_iterations;
                let last = (total.saturating_sub(begin)).saturating_sub(1).max(1);
                let progress = (iteration - begin).min(last) as f64 / last as f64;
                ((base - min_lr) * (1.0 - progress).powf(*power) + min_lr) / base
            }
            Decay::Steps { .. } | Decay::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mmengine's recursive definition: every scheduler changes the learning rate of the previous iteration.
    fn mmengine(base: f64, total: u64, warmup: u64, factor: f64, power: f64, min_lr: f64) -> Vec<f64> {
        let mut lr = base;
        let mut rates = Vec::new();
        for i in 0..total {
            if i == 0 {
                lr = base * factor;
            } else if i < warmup {
                let (n, i) = (warmup as f64 - 1.0, i as f64);
                // LinearLR: lr * (1 + (end - start) / (total_iters * start + (i - 1) (end - start)))
                lr *= 1.0 + (1.0 - factor) / (n * factor + (i - 1.0) * (1.0 - factor));
            } else if i > warmup {
                let (n, i) = (total as f64 - warmup as f64 - 1.0, (i - warmup) as f64);
                // PolyLR: (lr - min) * (1 - 1 / (total_iters - i + 1)) ^ power + min
                lr = (lr - min_lr) * (1.0 - 1.0 / (n - i + 1.0)).powf(power) + min_lr;
            }
            rates.push(lr);
        }
        rates
    }

    #[test]
    fn warm_up_and_poly_equal_mmengines_recursion() {
        for (total, warmup, factor, power, min_lr) in [(160, 15, 1e-6, 1.0, 0.0), (50, 10, 1e-3, 0.9, 1e-5)] {
            let schedule = ScheduleConfig { warmup_iterations: warmup, warmup_factor: factor, decay: Decay::Poly { power, min_lr } };
            for (i, expected) in mmengine(6e-5, total, warmup, factor, power, min_lr).into_iter().enumerate() {
                let actual = schedule.learning_rate(6e-5, i as u64, total, 1);
                assert!((actual - expected).abs() <= 1e-9 * 6e-5 + 1e-6 * expected, "iteration {i}: {actual} against {expected}");
            }
        }
    }

    #[test]
    fn steps_multiply_and_constant_keeps_the_learning_rate() {
        for (unit, epoch) in [(Unit::Iterations, 99), (Unit::Epochs, 5)] {
            let decay = Decay::Steps { at: vec![8, 11], unit, factor: 0.1 };
            let steps = ScheduleConfig { warmup_iterations: 0, warmup_factor: 0.1, decay };
            let length = if unit == Unit::Epochs { epoch } else { 1 };
            let at = [0, 8 * length - 1, 8 * length, 11 * length];
            let rates: Vec<f64> = at.map(|i| steps.learning_rate(1.0, i, 12 * length, epoch)).to_vec();
            assert!(rates.iter().zip([1.0, 1.0, 0.1, 0.01]).all(|(a, b)| (a - b).abs() < 1e-12), "{rates:?}");
        }
        // A drop inside the warm-up multiplies it.
        let decay = Decay::Steps { at: vec![1], unit: Unit::Iterations, factor: 0.1 };
        let both = ScheduleConfig { warmup_iterations: 3, warmup_factor: 0.5, decay };
        assert!((both.learning_rate(1.0, 1, 9, 1) - 0.075).abs() < 1e-12);
        let constant = ScheduleConfig { warmup_iterations: 0, warmup_factor: 0.1, decay: Decay::Constant };
        assert_eq!(constant.learning_rate(0.5, 99, 100, 1), 0.5);
    }

    #[test]
    fn a_run_that_is_too_short_for_its_schedule_says_so() {
        let length = |iterations| Length { iterations, epoch: 10, val_interval: 10, checkpoint_interval: 10 };
        let schedule = ScheduleConfig::step([8, 11]).warmup(50, 1e-3);
        assert_eq!(schedule.notes(length(120)), Vec::<String>::new());
        let [short] = &schedule.notes(length(80))[..] else { panic!("one note") };
        assert!(short.contains("decay.at") && short.contains("80 iterations"), "{short}");
        assert_eq!(schedule.notes(length(49)).len(), 2);
        assert!(ScheduleConfig::poly(1.0).warmup(5, 0.1).notes(length(3))[0].contains("warmup_iterations is 5"));
    }

    #[test]
    fn settings_that_give_no_learning_rate_are_named() {
        let wrong = |schedule: ScheduleConfig| schedule.validate().unwrap_err().to_string();
        let decay = |decay| ScheduleConfig { decay, ..ScheduleConfig::constant() };
        assert!(wrong(ScheduleConfig::constant().warmup(5, f64::NAN)).starts_with("warmup_factor"));
        assert!(wrong(ScheduleConfig::poly(-1.0)).starts_with("decay.power"));
        assert!(wrong(decay(Decay::Poly { power: 1.0, min_lr: f64::INFINITY })).starts_with("decay.min_lr"));
        assert!(wrong(decay(Decay::Steps { at: vec![1], unit: Unit::Epochs, factor: -0.1 })).starts_with("decay.factor"));
        for at in [vec![], vec![5, 2], vec![5, 5]] {
            assert!(wrong(decay(Decay::Steps { at, unit: Unit::Epochs, factor: 0.1 })).starts_with("decay.at must be 1 to 1000 different"));
        }
        for valid in [ScheduleConfig::constant(), ScheduleConfig::step([8, 11]).warmup(500, 1e-3), ScheduleConfig::poly(0.9)] {
            valid.validate().unwrap();
        }
    }
}
