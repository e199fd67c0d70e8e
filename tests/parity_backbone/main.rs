//! The backbone and its operations against numbers of the official implementation.

mod activation_map;
mod backbone;
mod classifier;
mod cross_scan;
mod pth;
mod selective_scan;
mod ss2d;
mod vssblock;
mod weights;
