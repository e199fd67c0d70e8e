//! Figures of heat maps as PNG and SVG: [`HeatMap`]s in [`Panel`]s, arranged in a [`HeatMapGrid`].

mod draw;
mod grid;
mod layout;
mod map;
mod panel;
#[cfg(test)]
mod tests;

pub use grid::{HeatMapGrid, Sample};
pub use map::HeatMap;
pub use panel::{DARK, Mark, Panel};

pub use crate::colours::ColourMap;
