//! Matrix product of float32 on the CPU, for the shapes of a backbone and its heads: a tall left matrix of pixels, a weight on the right
//! that differs from layer to layer, and an [`Epilogue`](crate::epilogue::Epilogue) on every sum before it is stored.
//!
//! A general BLAS packs both matrices on every call and stores bare sums. Here only the right matrix is packed, into [`Panels`] a few
//! vectors wide. Rows of the left matrix are read in place, so a convolution can use pixels of an image as rows
//! ([`crate::conv2d()`]). The epilogue is applied while a tile is in the first-level cache.
//!
//! Every element of the result is one sum over the depth in a fixed order, whatever the number of threads.
//!
//! * `matrix.rs`: matrices in memory and the sizes of a product.
//! * `tasks.rs`: how work is split over threads.
//! * `unit.rs`: the register tile in AVX-512, in AVX2 and in plain Rust for other processors.
//! * `strip.rs`: rows of the left matrix times one panel. `panels.rs`: packed right matrices.
//! * `product.rs`: the product, and two products in sequence.

mod matrix;
mod panels;
mod product;
mod strip;
mod tasks;
#[cfg(test)]
mod tests;
mod unit;

pub(crate) use matrix::{Matrix, Sizes};
pub(crate) use panels::{Panels, depth_blocks, panel_columns, panel_count, panel_width};
pub(crate) use product::{gemm, gemm_chain};
pub(crate) use strip::{Prefetch, Strip};
pub(crate) use tasks::{for_each_task, threads_for};
#[cfg(test)]
pub(crate) use unit::run_on_every_unit;
pub(crate) use unit::{Routine, Unit, run_on_best_unit};
