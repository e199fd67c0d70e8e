//! Looks inside networks: what the paper's figures draw, as numbers.

mod receptive_field;

pub use receptive_field::{CoveringSquare, ReceptiveField, central_gradient, covering_square};
