//! The scans on GPUs: how the kernels of `cube_kernels.rs` are put together.
//!
//! Two routes along the same axis in opposite directions share their launches, so that a chunk is read from memory once for both. A
//! sequence is one chunk where images and channels alone keep the device busy, and as many as it takes otherwise. The one-dimensional
//! scan is the same thing on an image of one row, in channels-last order, with the step sizes given.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;

use super::cube_kernels::{self as kernels, Directions, Form, LANES, Merge, SizesLaunch};
use super::{Route, Scan2dGradOps, Scan2dGrads, Scan2dOps, ScanGradOps, ScanGrads, ScanOps};
use crate::cube::{Rows, cast, cubes, element, empty, float32, vector_size};
use crate::cube_product::{product, product_over_rows};

/// Units a multiprocessor can hold; about as many keep a device busy.
const UNITS_A_MULTIPROCESSOR: usize = 1024;
/// Multiprocessors of a device that does not say.
const MULTIPROCESSORS: usize = 32;
/// Steps below which a chunk is not worth its own start.
const SHORTEST_CHUNK: usize = 16;

/// What a scan reads.
struct Inputs {
    x: Rows,
    /// Step sizes of every channel, for the one-dimensional scan; otherwise the input once more, which is not read.
    given: Rows,
    projections: Rows,
    dt_weight: CubeTensor,
    dt_bias: CubeTensor,
    a: CubeTensor,
    d: CubeTensor,
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    groups: usize,
    routes: Vec<Route>,
    rank: Option<usize>,
    state: usize,
    softplus: bool,
    logarithm: bool,
}

/// One or two routes that share launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    columns: bool,
    routes: [usize; 2],
    directions: Directions,
}

/// Groups routes along the same axis in opposite directions.
fn pairs(routes: &[Route]) -> Vec<Pair> {
    let axis = |route: Route| matches!(route, Route::Columns | Route::ColumnsReversed);
    let reversed = |route: Route| matches!(route, Route::RowsReversed | Route::ColumnsReversed);
    let mut pairs: Vec<Pair> = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let open = pairs
            .iter_mut()
            .find(|pair| pair.directions.count == 1 && pair.columns == axis(*route) && pair.directions.reversed[0] != reversed(*route));
        match open {
            Some(pair) => {
                pair.routes[1] = index;
                pair.directions = Directions { reversed: [pair.directions.reversed[0], reversed(*route)], count: 2 };
            }
            None => pairs.push(Pair {
                columns: axis(*route),
                routes: [index; 2],
                directions: Directions { reversed: [reversed(*route); 2], count: 1 },
            }),
        }
    }
    pairs
}

impl Pair {
    /// Every route by itself.
    fn single(self, which: usize) -> Self {
        Self {
            routes: [self.routes[which]; 2],
            directions: Directions { reversed: [self.directions.reversed[which]; 2], count: 1 },
            ..self
        }
    }
}

/// How maps are read and sequences cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Channels of a unit.
    vector: usize,
    /// Projections read at once.
    fields: usize,
    /// Steps of a chunk.
    chunk: usize,
    chunks: usize,
}

impl Inputs {
    fn form(&self, columns: bool) -> Form {
        Form { columns, rank: self.rank, state: self.state, softplus: self.softplus, logarithm: self.logarithm }
    }

    fn length(&self) -> usize {
        self.height * self.width
    }

    /// Parameters of a route are those of all channels, so that they are counted from `route * channels` and groups from `route`.
    fn per_group(&self) -> usize {
        self.channels / self.groups
    }

    fn fields(&self) -> usize {
        self.form(false).fields()
    }

    /// Channels of a unit: as many as fit its registers, given what else it has to hold for every one of them.
    fn cut(&self, client: &Client, chunk: Option<usize>) -> Cut {
        let held = self.rank.unwrap_or(0) + 3 * self.state;
        let most = if held <= 10 {
            4
        } else if held <= 20 {
            2
        } else {
            1
        };
        let mut vector = vector_size(&[&self.x, &self.given], most);
        while self.per_group() % vector > 0 {
            vector /= 2;
        }
        let chunk = chunk.unwrap_or_else(|| {
            let multiprocessors =
                client.properties().hardware.num_streaming_multiprocessors.map_or(MULTIPROCESSORS, |count| count as usize);
            let units = (self.batch * self.channels / vector).max(1);
            let wanted = (multiprocessors * UNITS_A_MULTIPROCESSOR).div_ceil(units);
            self.length().div_ceil(wanted).max(SHORTEST_CHUNK)
        });
        self.cut_with(vector, chunk)
    }

    fn cut_with(&self, vector: usize, chunk: usize) -> Cut {
        let chunk = chunk.clamp(1, self.length());
        let fields = [4, 2].into_iter().find(|size| self.projections.allows(*size) && self.fields() % size == 0).unwrap_or(1);
        Cut { vector, fields, chunk, chunks: self.length().div_ceil(chunk) }
    }

    fn sizes(&self, cut: Cut) -> SizesLaunch {
        SizesLaunch::new(
            self.batch,
            self.height,
            self.width,
            self.channels / cut.vector,
            self.per_group() / cut.vector,
            self.x.pitch / cut.vector,
            self.projections.pitch / cut.fields,
            cut.chunk,
            cut.chunks,
        )
    }

    /// Number of values in a map.
    fn units(&self, cut: Cut) -> usize {
        self.batch * cut.chunks * self.channels / cut.vector
    }

    /// Runs every route over every chunk from an empty state; with `grad` backwards as well.
    fn chunk_states(&self, pair: Pair, cut: Cut, left: &Left, grad: Option<&Rows>) {
        let client = &self.x.tensor.client;
        let units = self.units(cut);
        let (count, dim) = cubes(client, units);
        let backwards = grad.unwrap_or(&self.x);
        // SAFETY: units beyond `units` do nothing; a chunk ends where its sequence does, and `left` has room for every route.
        unsafe {
            kernels::chunk_states::launch_unchecked(
                client,
                count,
                dim,
                cut.vector,
                cut.fields,
                self.x.tensor.clone().into_buffer_arg(),
                self.given.tensor.clone().into_buffer_arg(),
                self.projections.tensor.clone().into_buffer_arg(),
                self.dt_weight.clone().into_buffer_arg(),
                self.dt_bias.clone().into_buffer_arg(),
                self.a.clone().into_buffer_arg(),
                backwards.tensor.clone().into_buffer_arg(),
                left.states.clone().into_buffer_arg(),
                left.sums.clone().into_buffer_arg(),
                left.adjoints.clone().into_buffer_arg(),
                self.sizes(cut),
                self.given.pitch / cut.vector,
                backwards.pitch / cut.vector,
                pair.routes[0],
                pair.routes[1],
                units,
                self.form(pair.columns),
                pair.directions,
                grad.is_some(),
                element(&self.x.tensor),
            );
        }
    }

    /// Hands states on from chunk to chunk, along the routes or against them.
    fn carry(&self, states: &CubeTensor, left: &Left, cut: Cut, against: bool) {
        let client = &states.client;
        let reversed = self.routes.iter().enumerate().fold(0_u32, |bits, (index, route)| {
            let backwards = matches!(route, Route::RowsReversed | Route::ColumnsReversed);
            bits | u32::from(backwards != against) << index
        });
        let units = self.routes.len() * self.batch * self.state * self.channels / cut.vector;
        let (count, dim) = cubes(client, units);
        // SAFETY: units beyond `units` do nothing, and a unit stays with the chunks of its sequence.
        unsafe {
            kernels::carry::launch_unchecked(
                client,
                count,
                dim,
                cut.vector,
                states.clone().into_buffer_arg(),
                left.sums.clone().into_buffer_arg(),
                self.a.clone().into_buffer_arg(),
                self.batch,
                self.channels / cut.vector,
                cut.chunks,
                reversed,
                units,
                self.form(false),
            );
        }
    }

    /// The merged outputs as the device likes them best.
    fn merged(&self) -> CubeTensor {
        self.forward(None, self.x.tensor.dtype != DType::F32)
    }

    /// The merged outputs, `[batch, height, width, channels]` in the type of the input, which are converted from the sums unless that is
    /// float32.
    fn forward(&self, chunk: Option<usize>, converts: bool) -> CubeTensor {
        let x = &self.x.tensor;
        let client = &x.client;
        let cut = self.cut(client, chunk);
        let pairs = pairs(&self.routes);
        let left = Left::new(self, cut, cut.chunks > 1, false);
        if cut.chunks > 1 {
            for pair in &pairs {
                self.chunk_states(*pair, cut, &left, None);
            }
            self.carry(&left.states, &left, cut, false);
        }
        let shape = [self.batch, self.height, self.width, self.channels];
        let alone = converts && pairs.len() == 1 && pairs[0].directions.count == 1;
        // A single route writes its output at once; its sums have no reader.
        let merged = empty(x, if alone { [1; 4] } else { shape }, DType::F32);
        let converted = empty(x, if converts { shape } else { [1; 4] }, x.dtype);
        let units = self.units(cut);
        for (index, pair) in pairs.iter().enumerate() {
            let (count, dim) = cubes(client, units);
            let merge = Merge { begun: index > 0, converts: converts && index + 1 == pairs.len(), carries: cut.chunks > 1 };
            // SAFETY: units beyond `units` do nothing, and every unit writes the pixels of its own chunk.
            unsafe {
                kernels::outputs::launch_unchecked(
                    client,
                    count,
                    dim,
                    cut.vector,
                    cut.fields,
                    x.clone().into_buffer_arg(),
                    self.given.tensor.clone().into_buffer_arg(),
                    self.projections.tensor.clone().into_buffer_arg(),
                    self.dt_weight.clone().into_buffer_arg(),
                    self.dt_bias.clone().into_buffer_arg(),
                    self.a.clone().into_buffer_arg(),
                    self.d.clone().into_buffer_arg(),
                    left.states.clone().into_buffer_arg(),
                    merged.clone().into_buffer_arg(),
                    converted.clone().into_buffer_arg(),
                    self.sizes(cut),
                    self.given.pitch / cut.vector,
                    pair.routes[0],
                    pair.routes[1],
                    units,
                    self.form(pair.columns),
                    pair.directions,
                    merge,
                    element(x),
                );
            }
        }
        if converts { converted } else { merged }
    }

    /// The gradients of everything, `route` after `route`: `visit` gets, for each, the gradients of the step sizes before softplus
    /// `[batch, length, channels]`, of `B` and `C` `[batch, length, groups, 2 * state]`, and of the parameters
    /// `[state + 2, channels]`, all float32. Returns the gradient of the input, float32.
    fn backward(&self, grad: &Rows, mut visit: impl FnMut(usize, CubeTensor, CubeTensor, CubeTensor)) -> CubeTensor {
        let x = &self.x.tensor;
        let client = &x.client;
        // The states of a chunk are kept in shared memory.
        let cut = self.cut_with(1, (64 / self.state).max(4));
        let chunk = (64 / self.state).max(4);
        let left = Left::new(self, cut, true, true);
        let pairs = pairs(&self.routes);
        for pair in &pairs {
            self.chunk_states(*pair, cut, &left, Some(grad));
        }
        self.carry(&left.states, &left, cut, false);
        self.carry(&left.adjoints, &left, cut, true);
        let (length, channels, state) = (self.length(), self.channels, self.state);
        let dx = empty(x, [self.batch, self.height, self.width, channels], DType::F32);
        let in_group = self.per_group().div_ceil(LANES);
        let blocks = in_group * self.groups;
        let mut begun = false;
        for pair in pairs.iter().flat_map(|pair| (0..pair.directions.count).map(|which| pair.single(which))) {
            let draw = empty(x, [self.batch, length, channels], DType::F32);
            let dbc = empty(x, [self.batch, self.groups, in_group, length, 2 * state], DType::F32);
            let dparameters = empty(x, [self.batch * cut.chunks, state + 2, channels], DType::F32);
            let cubes = self.batch * cut.chunks * blocks;
            let dim = CubeDim::new_1d(LANES as u32);
            let count = cubecl::calculate_cube_count_elemwise(client, cubes * LANES, dim);
            // SAFETY: a cube writes the pixels of its chunk and the channels of its block.
            unsafe {
                kernels::gradients::launch_unchecked(
                    client,
                    count,
                    dim,
                    cut.vector,
                    cut.fields,
                    grad.tensor.clone().into_buffer_arg(),
                    x.clone().into_buffer_arg(),
                    self.given.tensor.clone().into_buffer_arg(),
                    self.projections.tensor.clone().into_buffer_arg(),
                    self.dt_weight.clone().into_buffer_arg(),
                    self.dt_bias.clone().into_buffer_arg(),
                    self.a.clone().into_buffer_arg(),
                    self.d.clone().into_buffer_arg(),
                    left.states.clone().into_buffer_arg(),
                    left.adjoints.clone().into_buffer_arg(),
                    dx.clone().into_buffer_arg(),
                    draw.clone().into_buffer_arg(),
                    dbc.clone().into_buffer_arg(),
                    dparameters.clone().into_buffer_arg(),
                    self.sizes(cut),
                    self.given.pitch,
                    grad.pitch,
                    blocks,
                    cubes,
                    pair.routes[0],
                    chunk,
                    self.form(pair.columns),
                    pair.directions.reversed[0],
                    begun,
                    element(x),
                );
            }
            begun = true;
            let dbc = CubeBackend::float_sum_dim(dbc, 2);
            let dbc = CubeBackend::float_reshape(dbc, Shape::from([self.batch, self.groups, length, 2 * state]));
            let dbc = CubeBackend::float_permute(dbc, &[0, 2, 1, 3]);
            let dparameters = CubeBackend::float_sum_dim(dparameters, 0);
            visit(pair.routes[0], draw, dbc, CubeBackend::float_reshape(dparameters, Shape::from([state + 2, channels])));
        }
        dx
    }
}

/// What chunks leave behind.
struct Left {
    states: CubeTensor,
    sums: CubeTensor,
    adjoints: CubeTensor,
}

impl Left {
    fn new(inputs: &Inputs, cut: Cut, needed: bool, adjoint: bool) -> Self {
        let like = &inputs.x.tensor;
        let room = |states: usize, needed: bool| {
            let routes = inputs.routes.len();
            let shape = if needed { [routes * inputs.batch, cut.chunks, states, inputs.channels] } else { [1, 1, 1, cut.vector] };
            empty(like, shape, DType::F32)
        };
        Self { states: room(inputs.state, needed), sums: room(1, needed), adjoints: room(inputs.state, needed && adjoint) }
    }
}

fn inputs_2d(
    x: CubeTensor,
    projections: CubeTensor,
    dt_weight: CubeTensor,
    dt_bias: CubeTensor,
    a_logs: CubeTensor,
    d: CubeTensor,
    routes: Vec<Route>,
) -> Inputs {
    let [batch, height, width, channels] = x.meta.shape().dims::<4>();
    let rank = dt_weight.meta.shape()[2];
    let state = a_logs.meta.shape()[1];
    // One type for both maps.
    let projections = cast(projections, x.dtype);
    let [dt_weight, dt_bias, a, d] = [dt_weight, dt_bias, a_logs, d].map(float32);
    Inputs {
        x: Rows::new(x.clone()),
        given: Rows::new(x),
        projections: Rows::new(projections),
        dt_weight,
        dt_bias,
        a,
        d,
        batch,
        height,
        width,
        channels,
        groups: 1,
        routes,
        rank: Some(rank),
        state,
        softplus: true,
        logarithm: true,
    }
}

impl Scan2dOps for CubeBackend {
    fn scan_2d(
        x: FloatTensor<Self>,
        projections: FloatTensor<Self>,
        dt_weight: FloatTensor<Self>,
        dt_bias: FloatTensor<Self>,
        a_logs: FloatTensor<Self>,
        d: FloatTensor<Self>,
        routes: Vec<Route>,
    ) -> FloatTensor<Self> {
        inputs_2d(x, projections, dt_weight, dt_bias, a_logs, d, routes).merged()
    }
}

impl Scan2dGradOps for CubeBackend {
    fn scan_2d_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        projections: FloatTensor<Self>,
        dt_weight: FloatTensor<Self>,
        dt_bias: FloatTensor<Self>,
        a_logs: FloatTensor<Self>,
        d: FloatTensor<Self>,
        routes: Vec<Route>,
    ) -> Scan2dGrads<Self> {
        let dtypes = [&x, &projections, &dt_weight, &dt_bias, &a_logs, &d].map(|tensor| tensor.dtype);
        let grad = Rows::new(cast(grad, x.dtype));
        let inputs = inputs_2d(x, projections, dt_weight, dt_bias, a_logs, d, routes);
        let Inputs { batch, height, width, channels, state, .. } = inputs;
        let (count, rank, length) = (inputs.routes.len(), inputs.rank.unwrap_or(0), inputs.length());
        let fields = inputs.fields();
        let mut dprojections: Vec<Option<CubeTensor>> = vec![None; count];
        let mut dweights: Vec<Option<CubeTensor>> = vec![None; count];
        let mut dparameters: Vec<Option<CubeTensor>> = vec![None; count];
        // In a type that products are made in.
        let rows = batch * length;
        let projections = Self::float_reshape(float32(inputs.projections.tensor.clone()), Shape::from([rows, count * fields]));
        let dx = inputs.backward(&grad, |route, draw, dbc, parameters| {
            let own = [(route..route + 1).into(), (0..channels).into(), (0..rank).into()];
            let weight = Self::float_reshape(Self::float_slice(inputs.dt_weight.clone(), &own), Shape::from([channels, rank]));
            let own = [(0..rows).into(), (route * fields..route * fields + rank).into()];
            let steps = Self::float_slice(projections.clone(), &own);
            let draw = Self::float_reshape(draw, Shape::from([rows, channels]));
            let dsteps = product(draw.clone(), weight, DType::F32);
            let dbc = Self::float_reshape(dbc, Shape::from([rows, 2 * state]));
            dprojections[route] = Some(Self::float_cat(vec![dsteps, dbc], 1));
            let dweight = product_over_rows(draw, steps);
            dweights[route] = Some(Self::float_reshape(dweight, Shape::from([1, channels, rank])));
            dparameters[route] = Some(parameters);
        });
        let all = |parts: Vec<Option<CubeTensor>>, dim: usize| Self::float_cat(parts.into_iter().flatten().collect(), dim);
        // [routes, state + 2, channels] to [routes, channels, state + 2].
        let dparameters = all(dparameters, 0);
        let dparameters = Self::float_swap_dims(Self::float_reshape(dparameters, Shape::from([count, state + 2, channels])), 1, 2);
        let part = |from: usize, to: usize, shape: Shape, dtype: DType| {
            let part = Self::float_slice(dparameters.clone(), &[(0..count).into(), (0..channels).into(), (from..to).into()]);
            cast(Self::float_reshape(part, shape), dtype)
        };
        let dprojections = Self::float_reshape(all(dprojections, 1), Shape::from([batch, height, width, count * fields]));
        Scan2dGrads {
            x: cast(dx, dtypes[0]),
            projections: cast(dprojections, dtypes[1]),
            dt_weight: cast(all(dweights, 0), dtypes[2]),
            dt_bias: part(state + 1, state + 2, Shape::from([count, channels]), dtypes[3]),
            a_logs: part(0, state, Shape::from([count * channels, state]), dtypes[4]),
            d: part(state, state + 1, Shape::from([count * channels]), dtypes[5]),
        }
    }
}

/// The inputs of the one-dimensional scan in channels-last order.
fn inputs_1d(
    u: CubeTensor,
    delta: CubeTensor,
    a: CubeTensor,
    b: CubeTensor,
    c: CubeTensor,
    d: CubeTensor,
    delta_bias: CubeTensor,
    delta_softplus: bool,
) -> Inputs {
    let [batch, channels, length] = u.meta.shape().dims::<3>();
    let [_, groups, state, _] = b.meta.shape().dims::<4>();
    let dtype = u.dtype;
    let last = |tensor: CubeTensor| Rows::new(CubeBackend::float_swap_dims(cast(tensor, dtype), 1, 2));
    let projections = CubeBackend::float_cat([b, c].map(|tensor| cast(tensor, dtype)).into(), 2);
    let projections = CubeBackend::float_permute(projections, &[0, 3, 1, 2]);
    let projections = CubeBackend::float_reshape(projections, Shape::from([batch, length, groups * 2 * state]));
    let [a, d, dt_bias] = [a, d, delta_bias].map(float32);
    Inputs {
        x: last(u),
        given: last(delta),
        projections: Rows::new(projections),
        // Nothing is read from it.
        dt_weight: dt_bias.clone(),
        dt_bias,
        a,
        d,
        batch,
        height: 1,
        width: length,
        channels,
        groups,
        routes: vec![Route::Rows],
        rank: None,
        state,
        softplus: delta_softplus,
        logarithm: false,
    }
}

impl ScanOps for CubeBackend {
    fn scan(
        u: FloatTensor<Self>,
        delta: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        delta_bias: FloatTensor<Self>,
        delta_softplus: bool,
    ) -> FloatTensor<Self> {
        let inputs = inputs_1d(u, delta, a, b, c, d, delta_bias, delta_softplus);
        let shape = Shape::from([inputs.batch, inputs.width, inputs.channels]);
        Self::float_swap_dims(Self::float_reshape(inputs.merged(), shape), 1, 2)
    }
}

impl ScanGradOps for CubeBackend {
    fn scan_backward(
        grad: FloatTensor<Self>,
        u: FloatTensor<Self>,
        delta: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        delta_bias: FloatTensor<Self>,
        delta_softplus: bool,
    ) -> ScanGrads<Self> {
        let dtypes = [&u, &delta, &a, &b, &c, &d, &delta_bias].map(|tensor| tensor.dtype);
        let grad = Rows::new(Self::float_swap_dims(cast(grad, u.dtype), 1, 2));
        let inputs = inputs_1d(u, delta, a, b, c, d, delta_bias, delta_softplus);
        let Inputs { batch, width: length, channels, groups, state, .. } = inputs;
        let mut results = None;
        let dx = inputs.backward(&grad, |_, draw, dbc, parameters| results = Some((draw, dbc, parameters)));
        let Some((draw, dbc, parameters)) = results else { unreachable!("there is one route") };
        let first = |tensor: CubeTensor, dtype: DType| {
            cast(Self::float_swap_dims(Self::float_reshape(tensor, Shape::from([batch, length, channels])), 1, 2), dtype)
        };
        // [batch, length, groups, 2 * state] to [batch, groups, 2 * state, length].
        let dbc = Self::float_permute(dbc, &[0, 2, 3, 1]);
        let half = |from: usize, dtype: DType| {
            let ranges = [(0..batch).into(), (0..groups).into(), (from..from + state).into(), (0..length).into()];
            cast(Self::float_slice(dbc.clone(), &ranges), dtype)
        };
        let parameters = Self::float_swap_dims(parameters, 0, 1);
        let part = |from: usize, to: usize, shape: Shape, dtype: DType| {
            let part = Self::float_slice(parameters.clone(), &[(0..channels).into(), (from..to).into()]);
            cast(Self::float_reshape(part, shape), dtype)
        };
        ScanGrads {
            u: first(dx, dtypes[0]),
            delta: first(draw, dtypes[1]),
            a: part(0, state, Shape::from([channels, state]), dtypes[2]),
            b: half(0, dtypes[3]),
            c: half(state, dtypes[4]),
            d: part(state, state + 1, Shape::from([channels]), dtypes[5]),
            delta_bias: part(state + 1, state + 2, Shape::from([channels]), dtypes[6]),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Dispatch;
    use burn::prelude::{Device, Tensor};

    use super::super::reference;
    use super::*;
    use crate::testing::{assert_close_values, cpu, gpu, random, values};

    /// The scan with sequences cut as the test likes.
    #[burn::backend::backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
    pub trait CutScanOps: burn::backend::Backend {
        #[fusion(dtype = x, shape = { let _ = (projections, dt_weight, dt_bias, a_logs, d, routes, chunk, converts); x.clone() })]
        #[allow(clippy::too_many_arguments)]
        fn cut_scan(
            x: FloatTensor<Self>,
            projections: FloatTensor<Self>,
            dt_weight: FloatTensor<Self>,
            dt_bias: FloatTensor<Self>,
            a_logs: FloatTensor<Self>,
            d: FloatTensor<Self>,
            routes: Vec<Route>,
            chunk: usize,
            converts: bool,
        ) -> FloatTensor<Self>;
    }

    impl CutScanOps for CubeBackend {
        fn cut_scan(
            x: FloatTensor<Self>,
            projections: FloatTensor<Self>,
            dt_weight: FloatTensor<Self>,
            dt_bias: FloatTensor<Self>,
            a_logs: FloatTensor<Self>,
            d: FloatTensor<Self>,
            routes: Vec<Route>,
            chunk: usize,
            converts: bool,
        ) -> FloatTensor<Self> {
            inputs_2d(x, projections, dt_weight, dt_bias, a_logs, d, routes).forward(Some(chunk), converts)
        }
    }

    #[test]
    fn outputs_do_not_depend_on_how_sequences_are_cut() {
        let Some(device) = gpu() else { return };
        let [batch, height, width] = [2, 6, 7];
        // Units of four, two and one channels; chunks of one step, that end with a row or not, and of the whole sequence.
        for (channels, rank, state) in [(8, 2, 1), (6, 3, 2), (5, 2, 4)] {
            for routes in [&Route::CROSS[..], &[Route::Rows], &[Route::ColumnsReversed, Route::Rows, Route::Columns], &[Route::Rows; 3]] {
                let count = routes.len();
                let fields = count * (rank + 2 * state);
                let inputs = |device: &Device| {
                    let t = |len: usize, seed: u64| Tensor::<1>::from_floats(random(len, seed).as_slice(), device);
                    let x: Tensor<4> = t(batch * height * width * channels, 1).reshape([batch, height, width, channels]);
                    let projections: Tensor<4> = t(batch * height * width * fields, 2).reshape([batch, height, width, fields]);
                    let dt_weight: Tensor<3> = t(count * channels * rank, 3).reshape([count, channels, rank]);
                    let dt_bias: Tensor<2> = t(count * channels, 4).reshape([count, channels]);
                    let a_logs: Tensor<2> = t(count * channels * state, 5).reshape([count * channels, state]);
                    (x, projections, dt_weight, dt_bias, a_logs, t(count * channels, 6))
                };
                let (x, projections, dt_weight, dt_bias, a_logs, d) = inputs(&cpu());
                let expected = values(reference::selective_scan_2d(x, projections, dt_weight, dt_bias, a_logs, d, routes));
                for chunk in [1, 5, 7, 16, 41, 1000] {
                    for converts in [false, true] {
                        let (x, projections, dt_weight, dt_bias, a_logs, d) = inputs(&device);
                        let y = <Dispatch as CutScanOps>::cut_scan(
                            x.into_dispatch(),
                            projections.into_dispatch(),
                            dt_weight.into_dispatch(),
                            dt_bias.into_dispatch(),
                            a_logs.into_dispatch(),
                            d.into_dispatch(),
                            routes.to_vec(),
                            chunk,
                            converts,
                        );
                        let what = format!("{channels} channels, state {state}, {routes:?}, chunks of {chunk}, converts {converts}");
                        // Float32 rounding of two orders of evaluation over 42 steps.
                        assert_close_values(&what, &values(Tensor::<4>::from_dispatch(y)), &expected, 3e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn opposite_routes_share_a_launch() {
        let both =
            |columns: bool, routes: [usize; 2]| Pair { columns, routes, directions: Directions { reversed: [false, true], count: 2 } };
        assert_eq!(pairs(&Route::CROSS), [both(false, [0, 2]), both(true, [1, 3])]);
        let counts = |routes: &[Route]| pairs(routes).iter().map(|pair| pair.directions.count).collect::<Vec<_>>();
        assert_eq!(counts(&[Route::Rows; 4]), [1; 4]);
        assert_eq!(counts(&[Route::Rows, Route::Rows, Route::RowsReversed, Route::RowsReversed]), [2, 2]);
        assert_eq!(counts(&[Route::ColumnsReversed, Route::Rows]), [1, 1]);
    }
}
