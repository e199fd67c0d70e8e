//! Elementwise functions that overwrite their input where nothing else reads it.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::flex::{tensor, values};
use super::layout::contiguous;

/// Applies `f` to every block of `size` values, in parallel. Writes into the tensor's own memory unless another tensor shares it.
pub(crate) fn map_blocks(x: FlexTensor, size: usize, f: impl Fn(&mut [f32]) + Send + Sync) -> FlexTensor {
    let mut x = contiguous(x);
    let len = values(&x).len();
    // A contiguous view may cover only part of its storage, whose other values must stay.
    if let Some(own) = x.try_storage_mut::<f32>()
        && own.len() == len
    {
        own.par_chunks_mut(size).for_each(f);
        return x;
    }
    let mut y = vec![0.0; len];
    y.par_chunks_mut(size).zip(values(&x).par_chunks(size)).for_each(|(y, x)| {
        y.copy_from_slice(x);
        f(y);
    });
    tensor(y, x.layout().shape().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_overwritten_only_when_no_other_tensor_shares_the_memory() {
        let numbers: Vec<f32> = (0..30).map(|i| i as f32).collect();
        let doubled = |from: usize, to: usize| numbers[from..to].iter().map(|x| 2.0 * x).collect::<Vec<_>>();
        let double = |x: &mut [f32]| x.iter_mut().for_each(|x| *x *= 2.0);
        let own = tensor(numbers.clone(), [3, 10]);
        let memory = values(&own).as_ptr();
        let mapped = map_blocks(own, 7, double);
        assert_eq!((values(&mapped), values(&mapped).as_ptr()), (doubled(0, 30).as_slice(), memory));
        let shared = tensor(numbers.clone(), [3, 10]);
        let mapped = map_blocks(shared.clone(), 7, double);
        assert_eq!((values(&shared), values(&mapped)), (numbers.as_slice(), doubled(0, 30).as_slice()));
        // The only tensor on its memory, but it covers a part of it.
        let part = shared.narrow(0, 1, 1);
        drop(mapped);
        assert_eq!(values(&map_blocks(part, 7, double)), doubled(10, 20));
    }
}
