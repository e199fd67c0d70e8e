//! Checks of arguments that several operations share.

use burn::prelude::*;

/// # Panics
/// When the vector `name` of an operation is given and does not have one value for each of the `channels` channels.
#[track_caller]
pub(crate) fn assert_vector(operation: &str, name: &str, vector: Option<&Tensor<1>>, channels: usize) {
    if let Some(vector) = vector {
        let [length] = vector.dims();
        assert_eq!(length, channels, "{operation}: the {name} has {length} values for {channels} channels");
    }
}
