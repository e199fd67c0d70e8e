//! The sizes and slices of a convolution on the CPU.

use super::super::window::Window;
use crate::cpu::gemm::threads_for;
use crate::epilogue::Epilogue;

/// A convolution whose slices have the lengths that its shapes require.
#[derive(Clone, Copy)]
pub(super) struct Convolution<'a> {
    pub(super) x: &'a [f32],
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    /// `[outputs, channels, kernel height, kernel width]`
    pub(super) weight: &'a [f32],
    pub(super) outputs: usize,
    pub(super) window: Window,
    pub(super) epilogue: Epilogue<&'a [f32]>,
}

impl<'a> Convolution<'a> {
    /// # Panics
    /// When a slice does not have the length of its shape.
    pub(super) fn new(
        x: &'a [f32],
        [batch, height, width, channels]: [usize; 4],
        weight: &'a [f32],
        [outputs, inputs, ..]: [usize; 4],
        window: Window,
        epilogue: Epilogue<&'a [f32]>,
    ) -> Self {
        let convolution = Self { x, batch, height, width, channels, weight, outputs, window, epilogue };
        let [rows, columns] = window.count([height, width]);
        assert!(
            x.len() == batch * height * width * channels && inputs == channels,
            "conv2d: the input does not have the length of its shape"
        );
        assert!(
            weight.len() == outputs * inputs * window.kernel[0] * window.kernel[1],
            "conv2d: the weight does not have the length of its shape"
        );
        epilogue.check(batch * rows * columns, outputs);
        convolution
    }

    /// Shape of the result, `[batch, rows, columns, outputs]`.
    pub(super) fn shape(&self) -> [usize; 4] {
        let [rows, columns] = self.window.count([self.height, self.width]);
        [self.batch, rows, columns, self.outputs]
    }

    /// The number of threads to use for this convolution.
    pub(super) fn threads(&self) -> usize {
        threads_for(self.shape().iter().product::<usize>() * self.channels * self.window.kernel[0] * self.window.kernel[1])
    }
}
