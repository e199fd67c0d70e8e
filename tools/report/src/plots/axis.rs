//! Ranges and tick labels of axes.

/// The range of an axis.
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Axis {
    /// The range of `values`, widened by `margin` times its length on both sides. The range of a constant is widened by a tenth of it.
    pub(super) fn around(values: impl Iterator<Item = f64>, margin: f64) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let length = high - low;
        if length <= high.abs().max(low.abs()) * 1e-12 {
            let room = if high == 0.0 { 1.0 } else { high.abs() * 0.1 };
            return Self { low: low - room, high: high + room };
        }
        Self { low: low - margin * length, high: high + margin * length }
    }

    /// The position of a value: 0 at `low`, 1 at `high`.
    pub(super) fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// A tick label: as many decimals as the step between ticks needs, `120k` for large round numbers, `1e-5` for tiny ones.
    pub(super) fn label(&self, value: f64) -> String {
        let step = (self.high - self.low) / 10.0;
        let largest = self.high.abs().max(self.low.abs());
        if value.abs() < step * 1e-6 {
            return "0".to_owned();
        }
        if largest < 1e-3 {
            return format!("{value:.1e}");
        }
        if largest >= 10_000.0 && step >= 100.0 {
            let thousands = value / 1000.0;
            let decimals = if step >= 1000.0 { 0 } else { 1 };
            return format!("{thousands:.decimals$}k");
        }
        let decimals = (-step.log10()).ceil().max(0.0) as usize;
        format!("{value:.decimals$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_the_digits_that_tell_ticks_apart() {
        let axis = Axis { low: 0.0, high: 160_000.0 };
        assert_eq!(axis.label(40_000.0), "40k");
        assert_eq!(Axis { low: 0.2, high: 0.8 }.label(0.35), "0.35");
        assert_eq!(Axis { low: 0.0, high: 6e-5 }.label(2e-5), "2.0e-5");
        assert_eq!(Axis { low: 0.0, high: 300.0 }.label(100.0), "100");
    }
}
