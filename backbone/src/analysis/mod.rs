//! The analyses of the paper's figures, as numbers: effective receptive fields, activation maps of SS2D, attention maps of DeiT.

mod activation_map;
mod attention_map;
mod receptive_field;
mod scan_trace;

pub use activation_map::{
    ActivationMaps, Decay, MapError, MapMode, MapOptions, MapRange, MapRanges, RouteMap, activation_maps, activation_maps_between,
    channel_row,
};
pub use attention_map::{AttentionError, AttentionRow};
pub use receptive_field::{CoveringSquare, ReceptiveField, central_gradient, covering_square};
pub use scan_trace::{BlockIndex, RouteTrace, ScanTrace, TraceError};
