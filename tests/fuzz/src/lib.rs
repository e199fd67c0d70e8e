//! Bodies of the fuzz targets. The targets in `fuzz_targets` call them with inputs that libFuzzer makes, and `tests/fuzz_replay.rs` with the
//! files of `corpus`.

pub mod bodies;
