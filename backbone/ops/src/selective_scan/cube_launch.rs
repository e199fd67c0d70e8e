//! How the kernels of the scan are put together on GPUs.
//!
//! Two routes along the same axis in opposite directions share their launches, so that a chunk is read from memory once for both. A
//! sequence is one chunk where images and channels alone keep the device busy, and as many as it takes otherwise.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;

use super::Route;
use super::cube_gradients::{LANES, gradients};
use super::cube_kernels::{self as kernels, Directions, Form, Merge, SizesLaunch};
use crate::cube::{Rows, cubes, element, empty, vector_size};

/// Units a multiprocessor can hold; about as many keep a device busy.
const UNITS_A_MULTIPROCESSOR: usize = 1024;
/// Multiprocessors of a device that does not say.
const MULTIPROCESSORS: usize = 32;
/// Steps below which a chunk is not worth its own start.
const SHORTEST_CHUNK: usize = 16;

/// What a scan reads.
pub(super) struct Inputs {
    pub(super) x: Rows,
    /// Step sizes of every channel, for the one-dimensional scan; otherwise the input once more, which is not read.
    pub(super) given: Rows,
    pub(super) projections: Rows,
    pub(super) dt_weight: CubeTensor,
    pub(super) dt_bias: CubeTensor,
    pub(super) a: CubeTensor,
    pub(super) d: CubeTensor,
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) groups: usize,
    pub(super) routes: Vec<Route>,
    pub(super) rank: Option<usize>,
    pub(super) state: usize,
    pub(super) softplus: bool,
    pub(super) logarithm: bool,
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

    pub(super) fn length(&self) -> usize {
        self.height * self.width
    }

    /// Parameters of a route are those of all channels, so that they are counted from `route * channels` and groups from `route`.
    fn per_group(&self) -> usize {
        self.channels / self.groups
    }

    pub(super) fn fields(&self) -> usize {
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
        while !self.per_group().is_multiple_of(vector) {
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
        let fields = [4, 2].into_iter().find(|size| self.projections.allows(*size) && self.fields().is_multiple_of(*size)).unwrap_or(1);
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
    pub(super) fn merged(&self) -> CubeTensor {
        self.forward(None, self.x.tensor.dtype != DType::F32)
    }

    /// The merged outputs, `[batch, height, width, channels]` in the type of the input, which are converted from the sums unless that is
    /// float32.
    pub(super) fn forward(&self, chunk: Option<usize>, converts: bool) -> CubeTensor {
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
    pub(super) fn backward(&self, grad: &Rows, mut visit: impl FnMut(usize, CubeTensor, CubeTensor, CubeTensor)) -> CubeTensor {
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
                gradients::launch_unchecked(
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

#[cfg(test)]
mod tests {
    use super::*;

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
