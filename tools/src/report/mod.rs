//! What a person sees of a run: tables, curves, pictures, and event files for TensorBoard.

pub mod curves;
pub mod objects;
pub mod pictures;
pub mod plots;
pub mod tables;
pub mod tensorboard;
