//! Matrix products on GPUs.
//!
//! The kernels are Burn's. For float32 on NVIDIA GPUs Burn chooses tensor cores on its own, which round the factors to TF32 (10 bits of
//! mantissa). Here float32 products stay exact unless [`crate::set_float32_products`] allows TF32, as in PyTorch.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::conv::ConvStrategy;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul as burn_matmul};
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::Scalar;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::launch_ref;
use cubek::matmul::multi_level::Strategy;
use cubek::matmul::multi_level::routines::TileSizeSelection;
use cubek::matmul::multi_level::routines::batch::double_unit::DoubleUnitSelectionArgs;
use cubek::matmul::multi_level::routines::batch::simple_unit::SimpleUnitSelectionArgs;
use cubek::matmul::routine::BlueprintStrategy;
use cubek::std::InputBinding;

use super::tensor::{element, empty};
use crate::precision::{Float32Products, float32_products};

/// Whether Burn's default strategy could round factors to TF32 although that is not allowed.
fn must_avoid_tf32(client: &Client, dtype: DType) -> bool {
    dtype == DType::F32
        && float32_products() == Float32Products::Exact
        && client.properties().supports_type(cubecl::tf32::elem_type_native())
}

/// The product of batches of matrices, `[.., m, k]` and `[.., k, n]` of the same type, to `[.., m, n]` in the type `dtype`.
///
/// # Panics
/// When the device has no kernel for these sizes.
pub(crate) fn matmul(left: CubeTensor, right: CubeTensor, dtype: DType) -> CubeTensor {
    if must_avoid_tf32(&left.client, left.dtype) {
        return exact_matmul(left, right, dtype);
    }
    match burn_matmul(left, right, None, MatmulStrategy::default(), dtype) {
        Ok(product) => product,
        Err(error) => panic!("matmul: the device has no kernel for these sizes: {error:?}"),
    }
}

/// The product without tensor cores.
fn exact_matmul(left: CubeTensor, right: CubeTensor, dtype: DType) -> CubeTensor {
    let (mut shape, width) = (left.meta.shape().to_vec(), right.meta.shape().last().copied().unwrap_or(1));
    let rows = shape[shape.len() - 2];
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    let y = empty(&left, Shape::from(shape), dtype);
    let client = y.client.clone();
    // Small matrices need small tiles; with large ones too few cubes have work.
    let strategy = if rows >= 512 && width >= 64 {
        let tile_size = TileSizeSelection::MaxTileSize;
        Strategy::DoubleUnit(BlueprintStrategy::Inferred(DoubleUnitSelectionArgs { tile_size }))
    } else {
        let tile_size = TileSizeSelection::MinTileSize;
        Strategy::SimpleUnit(BlueprintStrategy::Inferred(SimpleUnitSelectionArgs { tile_size }))
    };
    let launch = |strategy: Strategy| {
        let (left_type, right_type) = (element(&left), element(&right));
        let mut types = MatmulElems::from_globals(&MatmulGlobalElems { lhs: left_type, rhs: right_type, out: element(&y) });
        let left = InputBinding::new(left.clone().binding(), left_type);
        let right = InputBinding::new(right.clone().binding(), right_type);
        launch_ref(&strategy.into(), &client, left, right, y.clone().binding(), &mut types)
    };
    if launch(strategy).is_err()
        && let Err(error) = launch(Strategy::Naive)
    {
        panic!("matmul: the device has no kernel for these sizes: {error:?}");
    }
    y
}

/// `left^T * right` of `[rows, m]` and `[rows, n]` to `[m, n]` in float32, for many rows and small `m` and `n` (split-K): the rows are
/// split into parts that are multiplied in parallel, and the partial products are summed.
pub(crate) fn matmul_split_k(left: CubeTensor, right: CubeTensor) -> CubeTensor {
    /// Number of cubes that keeps a device busy.
    const CUBES: usize = 256;
    const MAX_PARTS: usize = 64;
    let ([rows, m], [_, n]) = (left.meta.shape().dims::<2>(), right.meta.shape().dims::<2>());
    let wanted = (CUBES / (m.div_ceil(64) * n.div_ceil(64))).clamp(1, MAX_PARTS).min(rows);
    let parts = (1..=wanted).rev().find(|parts| rows.is_multiple_of(*parts)).unwrap_or(1);
    let split = |tensor: CubeTensor, width: usize| CubeBackend::float_reshape(tensor, Shape::from([parts, rows / parts, width]));
    let products = matmul(CubeBackend::float_swap_dims(split(left, m), 1, 2), split(right, n), DType::F32);
    CubeBackend::float_reshape(CubeBackend::float_sum_dim(products, 0), Shape::from([m, n]))
}

/// Burn's strategy for convolutions of a type: without tensor cores where they would round to TF32 although that is not allowed.
pub(crate) fn conv_strategy(client: &Client, dtype: DType) -> ConvStrategy {
    if must_avoid_tf32(client, dtype) { ConvStrategy::Direct } else { ConvStrategy::default() }
}
