//! Looks inside networks: what the paper's figures draw, as numbers.

mod activation_map;
mod scan_trace;

pub use activation_map::{ActivationMaps, Decay, MapError, MapMode, MapOptions, MapRange, RouteMap, activation_maps, channel_row};
pub use scan_trace::{BlockIndex, RouteTrace, ScanTrace, TraceError};
