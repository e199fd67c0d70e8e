//! What a person sees of a run: tables, curves, heat maps, pictures, and event files for TensorBoard.

mod colours;
pub mod curves;
mod files;
pub mod heatmap;
pub mod npy;
pub mod objects;
pub mod pictures;
pub mod plots;
mod sheet;
pub mod tables;
pub mod tensorboard;

pub use files::write_whole;
