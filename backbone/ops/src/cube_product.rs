//! Matrix products on GPUs, and what follows them in one pass.
//!
//! The products are Burn's. On NVIDIA it makes those of float32 on tensor cores, which round the factors to ten bits of mantissa (TF32),
//! and does not ask. Here they are exact unless [`crate::set_float32_products`] says otherwise, as PyTorch has it.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::conv::ConvStrategy;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::launch_ref;
use cubek::matmul::multi_level::Strategy;
use cubek::matmul::multi_level::routines::TileSizeSelection;
use cubek::matmul::multi_level::routines::batch::double_unit::DoubleUnitSelectionArgs;
use cubek::matmul::multi_level::routines::batch::simple_unit::SimpleUnitSelectionArgs;
use cubek::matmul::routine::BlueprintStrategy;
use cubek::std::InputBinding;

use crate::Pointwise;
use crate::cube::{Rows, cubes, element, empty, float32, vector_size};
use crate::cube_math::{gelu, sigmoid, silu};
use crate::precision::{Float32Products, float32_products};

/// Whether Burn left to itself would round factors that must not be.
fn must_be_exact(client: &Client, dtype: DType) -> bool {
    dtype == DType::F32
        && float32_products() == Float32Products::Exact
        && client.properties().supports_type(cubecl::tf32::elem_type_native())
}

/// `left * right` of batches of matrices of one type, `[.., m, k]` and `[.., k, n]`, in another type.
pub(crate) fn product(left: CubeTensor, right: CubeTensor, dtype: DType) -> CubeTensor {
    if must_be_exact(&left.client, left.dtype) {
        return exact_product(left, right, dtype);
    }
    match matmul(left, right, None, MatmulStrategy::default(), dtype) {
        Ok(product) => product,
        Err(error) => panic!("the device has no matrix product for these sizes: {error:?}"),
    }
}

/// The product by ordinary units.
fn exact_product(left: CubeTensor, right: CubeTensor, dtype: DType) -> CubeTensor {
    let (mut shape, width) = (left.meta.shape().to_vec(), right.meta.shape().last().copied().unwrap_or(1));
    let rows = shape[shape.len() - 2];
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    let y = empty(&left, Shape::from(shape), dtype);
    let client = y.client.clone();
    // Small matrices in small tiles, or too few cubes have work.
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
        panic!("the device has no matrix product for these sizes: {error:?}");
    }
    y
}

/// `left^T * right` of `[rows, m]` and `[rows, n]` in float32, for many rows: cut into pieces that keep the device busy and are summed.
pub(crate) fn product_over_rows(left: CubeTensor, right: CubeTensor) -> CubeTensor {
    /// Cubes that keep a device busy, about, and the most pieces.
    const CUBES: usize = 256;
    const MOST: usize = 64;
    let ([rows, m], [_, n]) = (left.meta.shape().dims::<2>(), right.meta.shape().dims::<2>());
    let wanted = (CUBES / (m.div_ceil(64) * n.div_ceil(64))).clamp(1, MOST).min(rows);
    let pieces = (1..=wanted).rev().find(|pieces| rows.is_multiple_of(*pieces)).unwrap_or(1);
    let cut = |tensor: CubeTensor, width: usize| CubeBackend::float_reshape(tensor, Shape::from([pieces, rows / pieces, width]));
    let products = product(CubeBackend::float_swap_dims(cut(left, m), 1, 2), cut(right, n), DType::F32);
    CubeBackend::float_reshape(CubeBackend::float_sum_dim(products, 0), Shape::from([m, n]))
}

/// How convolutions of a type are made.
pub(crate) fn convolution(client: &Client, dtype: DType) -> ConvStrategy {
    if must_be_exact(client, dtype) { ConvStrategy::Direct } else { ConvStrategy::default() }
}

/// What follows a product: see [`crate::Fused`].
#[derive(Default)]
pub(crate) struct Epilogue {
    /// `[channels]`
    pub(crate) scale: Option<CubeTensor>,
    /// `[channels]`
    pub(crate) bias: Option<CubeTensor>,
    /// Of the shape and type of the result.
    pub(crate) residual: Option<CubeTensor>,
    pub(crate) activation: Pointwise,
}

/// Which parts an epilogue has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Parts {
    scale: bool,
    bias: bool,
    residual: bool,
    activation: Pointwise,
}

impl Epilogue {
    /// The three tensors of an operation, of which `parts` says which are meant.
    pub(crate) fn of(parts: [bool; 3], [scale, bias, residual]: [CubeTensor; 3], activation: Pointwise) -> Self {
        let [has_scale, has_bias, has_residual] = parts;
        Self { scale: has_scale.then_some(scale), bias: has_bias.then_some(bias), residual: has_residual.then_some(residual), activation }
    }

    /// `activation(scale * y + bias + residual)`, in the memory of `y`, `[.., channels]`, which nobody else may read.
    pub(crate) fn apply(self, y: CubeTensor) -> CubeTensor {
        let parts = Parts {
            scale: self.scale.is_some(),
            bias: self.bias.is_some(),
            residual: self.residual.is_some(),
            activation: self.activation,
        };
        if parts == (Parts { scale: false, bias: false, residual: false, activation: Pointwise::Identity }) {
            return y;
        }
        let y = Rows::new(y);
        let vector = |values: Option<CubeTensor>| values.map_or_else(|| empty(&y.tensor, [4], DType::F32), float32);
        let (scale, bias) = (vector(self.scale), vector(self.bias));
        let residual = self.residual.map(Rows::new);
        let mut read = vec![&y];
        read.extend(&residual);
        let size = vector_size(&read, 4);
        let (width, pitch) = (y.width() / size, y.pitch / size);
        let units = y.count() * width;
        let client = y.tensor.client.clone();
        let (count, dim) = cubes(&client, units);
        let residual = residual.unwrap_or_else(|| Rows::new(empty(&y.tensor, [4], y.tensor.dtype)));
        let residual_pitch = residual.pitch / size;
        let dtype = element(&y.tensor);
        // SAFETY: units beyond `units` do nothing; what is not there is not read.
        unsafe {
            epilogue::launch_unchecked(
                &client,
                count,
                dim,
                size,
                y.tensor.clone().into_buffer_arg(),
                scale.into_buffer_arg(),
                bias.into_buffer_arg(),
                residual.tensor.into_buffer_arg(),
                width,
                pitch,
                residual_pitch,
                units,
                parts,
                dtype,
            );
        }
        y.tensor
    }
}

#[cube(launch_unchecked)]
fn epilogue<F: Float, V: Size>(
    y: &mut [Vector<F, V>],
    scale: &[Vector<f32, V>],
    bias: &[Vector<f32, V>],
    residual: &[Vector<F, V>],
    width: usize,
    pitch: usize,
    residual_pitch: usize,
    units: usize,
    #[comptime] parts: Parts,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (row, column) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    let at = row * pitch + column;
    let mut value = Vector::<f32, V>::cast_from(y[at]);
    if comptime!(parts.scale) {
        value *= scale[column];
    }
    if comptime!(parts.bias) {
        value += bias[column];
    }
    if comptime!(parts.residual) {
        value += Vector::cast_from(residual[row * residual_pitch + column]);
    }
    y[at] = Vector::cast_from(pointwise::<V>(value, parts.activation));
}

/// An activation in a kernel.
#[cube]
pub(crate) fn pointwise<V: Size>(x: Vector<f32, V>, #[comptime] activation: Pointwise) -> Vector<f32, V> {
    match activation {
        Pointwise::Identity => x,
        // NaN stays NaN.
        Pointwise::Relu => select_many(x.less_than(&Vector::new(0.0_f32)), Vector::new(0.0_f32), x),
        Pointwise::Gelu => gelu::<V>(x),
        Pointwise::Silu => silu::<V>(x),
        Pointwise::Sigmoid => sigmoid::<V>(x),
    }
}
