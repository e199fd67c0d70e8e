//! Launches of the scan's kernels on GPUs.
//!
//! Two routes along the same axis in opposite directions share a launch, so that a chunk is read from memory once for both. A sequence is
//! one chunk if images and channels alone keep the device busy; otherwise it is split into enough chunks to do so.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;

use super::gradients::{LANES, gradients};
use super::kernels::{self, Directions, Form, Merge, SizesLaunch};
use crate::cube::{Rows, cubes, element, empty, vector_size};
use crate::route::Route;

/// Units for each multiprocessor that keep a device busy: about as many as one can hold.
const UNITS_A_MULTIPROCESSOR: usize = 1024;
/// Number of multiprocessors assumed for a device that does not report it.
const MULTIPROCESSORS: usize = 32;
/// Steps of the shortest chunk: shorter ones cost more than the parallelism gains.
const SHORTEST_CHUNK: usize = 16;
/// Largest number of routes: `kernels::carry` takes their directions as the bits of a `u32`.
const MAX_ROUTES: usize = 32;

/// The inputs of a scan along `routes`, each with `groups` groups of channels.
pub(crate) struct Inputs {
    /// `[batch, height, width, channels]`.
    pub(crate) x: Rows,
    /// The step size of every channel if `rank` is `None`, in the shape of `x`. Otherwise any tensor of the shape and type of `x`; it is
    /// not read.
    pub(crate) given: Rows,
    /// `[batch, height, width, routes * groups * fields]`, with the fields of [`Inputs::fields`].
    pub(crate) projections: Rows,
    /// `[routes, channels, rank]`; not read if `rank` is `None`.
    pub(crate) dt_weight: CubeTensor,
    /// `[routes, channels]`.
    pub(crate) dt_bias: CubeTensor,
    /// `[routes * channels, state]`.
    pub(crate) a: CubeTensor,
    /// `[routes * channels]`.
    pub(crate) d: CubeTensor,
    pub(crate) batch: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    /// Groups of channels of every route. The channels of a group share `B` and `C`.
    pub(crate) groups: usize,
    pub(crate) routes: Vec<Route>,
    /// Rank of the step size's projection; `None` if step sizes are given.
    pub(crate) rank: Option<usize>,
    pub(crate) state: usize,
    /// Whether softplus is applied to the step size.
    pub(crate) softplus: bool,
    /// Whether `a` holds `log(-A)` instead of `A`.
    pub(crate) logarithm: bool,
}

/// One route, or two in opposite directions that share launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    /// Whether the routes run along columns.
    columns: bool,
    /// Indices of the routes; a single route is listed twice.
    routes: [usize; 2],
    directions: Directions,
}

/// Pairs routes that run along the same axis in opposite directions.
fn pairs(routes: &[Route]) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let (columns, reversed) = (route.is_along_columns(), route.is_reversed());
        let open =
            pairs.iter_mut().find(|pair| pair.directions.count == 1 && pair.columns == columns && pair.directions.reversed[0] != reversed);
        match open {
            Some(pair) => {
                pair.routes[1] = index;
                pair.directions = Directions { reversed: [pair.directions.reversed[0], reversed], count: 2 };
            }
            None => pairs.push(Pair { columns, routes: [index; 2], directions: Directions { reversed: [reversed; 2], count: 1 } }),
        }
    }
    pairs
}

impl Pair {
    /// The launch of only one of the two routes.
    fn single(self, which: usize) -> Self {
        Self {
            routes: [self.routes[which]; 2],
            directions: Directions { reversed: [self.directions.reversed[which]; 2], count: 1 },
            ..self
        }
    }
}

/// How maps are read and how sequences are split.
#[derive(Clone, Copy, Debug)]
struct Split {
    /// Channels of a unit: the vector size of maps.
    vector: usize,
    /// Vector size of the projections.
    fields: usize,
    /// Steps of a chunk.
    chunk: usize,
    /// Chunks of a sequence.
    chunks: usize,
}

impl Inputs {
    /// The properties that the kernels are compiled for, with routes along columns or rows.
    fn form(&self, columns: bool) -> Form {
        Form { columns, rank: self.rank, state: self.state, softplus: self.softplus, logarithm: self.logarithm }
    }

    /// Steps of a sequence.
    pub(crate) fn length(&self) -> usize {
        self.height * self.width
    }

    /// Channels of a group.
    fn per_group(&self) -> usize {
        self.channels / self.groups
    }

    fn check(&self) {
        check(self.channels, self.groups, self.routes.len(), self.fields(), self.projections.width());
    }

    /// Fields of a pixel for one route and group: step size (`rank`), `B` and `C` (`state` each).
    pub(crate) fn fields(&self) -> usize {
        self.form(false).fields()
    }

    /// Chooses the vector size and, unless `chunk` is given, the length of chunks. A unit processes as many channels as fit its registers
    /// with their weights, states and `A`.
    fn split(&self, client: &Client, chunk: Option<usize>) -> Split {
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
        self.split_with(vector, chunk)
    }

    /// The split with a given vector size and length of chunks.
    fn split_with(&self, vector: usize, chunk: usize) -> Split {
        let chunk = chunk.clamp(1, self.length());
        let fields = [4, 2].into_iter().find(|size| self.projections.allows(*size) && self.fields().is_multiple_of(*size)).unwrap_or(1);
        Split { vector, fields, chunk, chunks: self.length().div_ceil(chunk) }
    }

    /// The sizes that kernels take as an argument.
    fn sizes(&self, split: Split) -> SizesLaunch {
        SizesLaunch::new(
            self.batch,
            self.height,
            self.width,
            self.channels / split.vector,
            self.per_group() / split.vector,
            self.x.pitch / split.vector,
            self.projections.pitch / split.fields,
            split.chunk,
            split.chunks,
        )
    }

    /// Units of a launch: one for each image, chunk and vector of channels.
    fn units(&self, split: Split) -> usize {
        self.batch * split.chunks * self.channels / split.vector
    }

    /// Runs the routes of a pair over every chunk from a zero state; with `grad` also backwards.
    fn chunk_states(&self, pair: Pair, split: Split, boundaries: &Boundaries, grad: Option<&Rows>) {
        let client = &self.x.tensor.client;
        let units = self.units(split);
        let (count, dim) = cubes(client, units);
        let backwards = grad.unwrap_or(&self.x);
        // SAFETY: surplus units return at once, a chunk ends at the end of its sequence, and `boundaries` has room for every route.
        unsafe {
            kernels::chunk_states::launch_unchecked(
                client,
                count,
                dim,
                split.vector,
                split.fields,
                self.x.tensor.clone().into_buffer_arg(),
                self.given.tensor.clone().into_buffer_arg(),
                self.projections.tensor.clone().into_buffer_arg(),
                self.dt_weight.clone().into_buffer_arg(),
                self.dt_bias.clone().into_buffer_arg(),
                self.a.clone().into_buffer_arg(),
                backwards.tensor.clone().into_buffer_arg(),
                boundaries.states.clone().into_buffer_arg(),
                boundaries.sums.clone().into_buffer_arg(),
                boundaries.adjoints.clone().into_buffer_arg(),
                self.sizes(split),
                self.given.pitch / split.vector,
                backwards.pitch / split.vector,
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

    /// Propagates states from chunk to chunk along the routes or, if `against`, adjoints in the opposite direction.
    fn carry(&self, states: &CubeTensor, boundaries: &Boundaries, split: Split, against: bool) {
        let client = &states.client;
        let reversed =
            self.routes.iter().enumerate().fold(0_u32, |bits, (index, route)| bits | u32::from(route.is_reversed() != against) << index);
        let units = self.routes.len() * self.batch * self.state * self.channels / split.vector;
        let (count, dim) = cubes(client, units);
        // SAFETY: surplus units return at once, and a unit accesses only the chunks of its sequence.
        unsafe {
            kernels::carry::launch_unchecked(
                client,
                count,
                dim,
                split.vector,
                states.clone().into_buffer_arg(),
                boundaries.sums.clone().into_buffer_arg(),
                self.a.clone().into_buffer_arg(),
                self.batch,
                self.channels / split.vector,
                split.chunks,
                reversed,
                units,
                self.form(false),
            );
        }
    }

    /// The merged outputs, converted to the input's type unless it is float32.
    pub(crate) fn merged(&self) -> CubeTensor {
        self.forward(None, self.x.tensor.dtype != DType::F32)
    }

    /// The outputs summed over the routes, `[batch, height, width, channels]`: in the type of the input if `converts`, otherwise float32.
    /// `chunk` is the length of chunks, chosen for the device if `None`.
    ///
    /// # Panics
    /// When the sizes contradict each other, see [`check`].
    pub(crate) fn forward(&self, chunk: Option<usize>, converts: bool) -> CubeTensor {
        self.check();
        let x = &self.x.tensor;
        let client = &x.client;
        let split = self.split(client, chunk);
        let pairs = pairs(&self.routes);
        let boundaries = Boundaries::new(self, split, split.chunks > 1, false);
        if split.chunks > 1 {
            for pair in &pairs {
                self.chunk_states(*pair, split, &boundaries, None);
            }
            self.carry(&boundaries.states, &boundaries, split, false);
        }
        let shape = [self.batch, self.height, self.width, self.channels];
        let alone = converts && pairs.len() == 1 && pairs[0].directions.count == 1;
        // A single route writes its outputs to `converted` directly; `merged` is not used.
        let merged = empty(x, if alone { [1; 4] } else { shape }, DType::F32);
        let converted = empty(x, if converts { shape } else { [1; 4] }, x.dtype);
        let units = self.units(split);
        for (index, pair) in pairs.iter().enumerate() {
            let (count, dim) = cubes(client, units);
            let merge = Merge { begun: index > 0, converts: converts && index + 1 == pairs.len(), carries: split.chunks > 1 };
            // SAFETY: surplus units return at once, and a unit writes only the pixels of its chunk, in its channels.
            unsafe {
                kernels::outputs::launch_unchecked(
                    client,
                    count,
                    dim,
                    split.vector,
                    split.fields,
                    x.clone().into_buffer_arg(),
                    self.given.tensor.clone().into_buffer_arg(),
                    self.projections.tensor.clone().into_buffer_arg(),
                    self.dt_weight.clone().into_buffer_arg(),
                    self.dt_bias.clone().into_buffer_arg(),
                    self.a.clone().into_buffer_arg(),
                    self.d.clone().into_buffer_arg(),
                    boundaries.states.clone().into_buffer_arg(),
                    merged.clone().into_buffer_arg(),
                    converted.clone().into_buffer_arg(),
                    self.sizes(split),
                    self.given.pitch / split.vector,
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

    /// The backward pass, route by route, for the gradient `grad` of the merged outputs. Returns the gradient of the input,
    /// `[batch, height, width, channels]`, float32.
    ///
    /// Calls `visit` for every route with its index and three float32 gradients: of the step sizes before softplus
    /// `[batch, length, channels]`, of `B` and `C` `[batch, length, groups, 2 * state]`, and of the parameters `[state + 2, channels]` in
    /// the order `A` (or `log(-A)`), `D`, bias of the step size.
    ///
    /// # Panics
    /// When the sizes contradict each other, see [`check`].
    pub(crate) fn backward(&self, grad: &Rows, mut visit: impl FnMut(usize, CubeTensor, CubeTensor, CubeTensor)) -> CubeTensor {
        self.check();
        let x = &self.x.tensor;
        let client = &x.client;
        // Chunks are short because their states are kept in shared memory.
        let chunk = (64 / self.state).max(4);
        let split = self.split_with(1, chunk);
        let boundaries = Boundaries::new(self, split, true, true);
        let pairs = pairs(&self.routes);
        for pair in &pairs {
            self.chunk_states(*pair, split, &boundaries, Some(grad));
        }
        self.carry(&boundaries.states, &boundaries, split, false);
        self.carry(&boundaries.adjoints, &boundaries, split, true);
        let (length, channels, state) = (self.length(), self.channels, self.state);
        let dx = empty(x, [self.batch, self.height, self.width, channels], DType::F32);
        let in_group = self.per_group().div_ceil(LANES);
        let blocks = in_group * self.groups;
        let mut begun = false;
        for pair in pairs.iter().flat_map(|pair| (0..pair.directions.count).map(|which| pair.single(which))) {
            let draw = empty(x, [self.batch, length, channels], DType::F32);
            let dbc = empty(x, [self.batch, self.groups, in_group, length, 2 * state], DType::F32);
            let dparameters = empty(x, [self.batch * split.chunks, state + 2, channels], DType::F32);
            let cubes = self.batch * split.chunks * blocks;
            let dim = CubeDim::new_1d(LANES as u32);
            let count = cubecl::calculate_cube_count_elemwise(client, cubes * LANES, dim);
            // SAFETY: surplus cubes return at once, and a cube writes only the pixels of its chunk, in the channels of its block.
            unsafe {
                gradients::launch_unchecked(
                    client,
                    count,
                    dim,
                    split.vector,
                    split.fields,
                    grad.tensor.clone().into_buffer_arg(),
                    x.clone().into_buffer_arg(),
                    self.given.tensor.clone().into_buffer_arg(),
                    self.projections.tensor.clone().into_buffer_arg(),
                    self.dt_weight.clone().into_buffer_arg(),
                    self.dt_bias.clone().into_buffer_arg(),
                    self.a.clone().into_buffer_arg(),
                    self.d.clone().into_buffer_arg(),
                    boundaries.states.clone().into_buffer_arg(),
                    boundaries.adjoints.clone().into_buffer_arg(),
                    dx.clone().into_buffer_arg(),
                    draw.clone().into_buffer_arg(),
                    dbc.clone().into_buffer_arg(),
                    dparameters.clone().into_buffer_arg(),
                    self.sizes(split),
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

/// Values at the boundaries of chunks, for every route and image.
struct Boundaries {
    /// States, `[routes * batch, chunks, state, channels]`.
    states: CubeTensor,
    /// Sums of step sizes, `[routes * batch, chunks, 1, channels]`.
    sums: CubeTensor,
    /// Gradients of states, in their shape.
    adjoints: CubeTensor,
}

/// Checks that kernels index inside their buffers.
///
/// # Panics
/// When the channels do not divide into the groups, a pixel of the projections does not have `fields` fields for every route and group, or
/// there are more routes than bits in the mask of `kernels::carry`.
fn check(channels: usize, groups: usize, routes: usize, fields: usize, width: usize) {
    assert!(groups > 0 && channels.is_multiple_of(groups), "selective_scan: {channels} channels do not divide into {groups} groups");
    assert!(
        width == routes * groups * fields,
        "selective_scan: {width} projections a pixel for {routes} routes with {groups} groups of {fields} fields"
    );
    assert!(routes <= MAX_ROUTES, "selective_scan: {routes} routes, GPUs take at most {MAX_ROUTES}");
}

impl Boundaries {
    /// Room for all chunks, or for placeholders if not `needed`; adjoints are needed only with `adjoint`.
    fn new(inputs: &Inputs, split: Split, needed: bool, adjoint: bool) -> Self {
        let like = &inputs.x.tensor;
        let room = |states: usize, needed: bool| {
            let routes = inputs.routes.len();
            let shape = if needed { [routes * inputs.batch, split.chunks, states, inputs.channels] } else { [1, 1, 1, split.vector] };
            empty(like, shape, DType::F32)
        };
        Self { states: room(inputs.state, needed), sums: room(1, needed), adjoints: room(inputs.state, needed && adjoint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_route_and_group_are_accepted() {
        check(12, 3, 4, 5, 4 * 3 * 5);
    }

    #[test]
    #[should_panic(expected = "10 channels do not divide into 4 groups")]
    fn groups_that_do_not_divide_the_channels_are_refused() {
        check(10, 4, 1, 3, 12);
    }

    #[test]
    #[should_panic(expected = "24 projections a pixel for 2 routes with 4 groups of 6 fields")]
    fn projections_of_too_few_groups_are_refused() {
        check(8, 4, 2, 6, 24);
    }

    #[test]
    #[should_panic(expected = "33 routes, GPUs take at most 32")]
    fn more_routes_than_bits_are_refused() {
        check(8, 1, 33, 6, 33 * 6);
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
