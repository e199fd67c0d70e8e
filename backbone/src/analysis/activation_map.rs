//! Activation maps of SS2D: the contribution of every patch to a query patch (section 5.3 of the paper and its appendix; the official
//! `AttnMamba`).
//!
//! Along a route, the recurrence `h_i = exp(delta_i A) h_{i-1} + delta_i B_i u_i`, `y_i = C_i h_i` multiplies `delta u` by a lower triangular
//! matrix per channel d:
//!
//! ```text
//! y_i = sum_{j <= i} T[i, j] delta_j u_j        T[i, j] = sum_n C[i, n] B[j, n] exp(S_n[i] - S_n[j]),   S_n[i] = A[d, n] sum_{k <= i} delta_k
//! ```
//!
//! The paper writes T as `(Q w)(K / w)'` with `Q = C`, `K = B`, `w = exp(S)`. Computed like this, w underflows after a few hundred patches
//! and the quotient is lost. The difference of the exponents is never positive and is safe at every length. A map is the row of the query
//! patch, averaged over the channels, in raster order. Patches that the route visits after the query contribute nothing: they are 0 in every
//! map, and [`RouteMap::visited`] distinguishes them from a contribution of 0.

use std::ops::Range;
use std::str::FromStr;

use rayon::prelude::*;
use thiserror::Error;
use vision_ops::Route;

use super::scan_trace::{RouteTrace, ScanTrace};

/// Channels per block. Channels are summed within a block, and blocks in order, so a map does not depend on the number of threads.
const CHANNELS: usize = 16;

/// The factors in an entry of the matrix, for query step i and key step j. The names are those of the official code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapMode {
    /// `C_i . B_j`: the paper's `Q K'`, without decay.
    Cb,
    /// `C_i . (decay B_j)`: the paper's `(Q w)(K / w)'`.
    #[default]
    CwBw,
    /// The decay alone, summed over the states: the paper's `w w^-1`.
    Ww,
    /// [`MapMode::Cb`] times the step size of j.
    CbDt,
    /// [`MapMode::CwBw`] times the step size of j: the factor of the input at j.
    CwBdtw,
}

impl MapMode {
    /// All modes with their names.
    pub const ALL: [(Self, &'static str); 5] =
        [(Self::Cb, "CB"), (Self::CwBw, "CwBw"), (Self::Ww, "ww"), (Self::CbDt, "CBdt"), (Self::CwBdtw, "CwBdtw")];

    /// The name of the mode in the official code.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cb => "CB",
            Self::CwBw => "CwBw",
            Self::Ww => "ww",
            Self::CbDt => "CBdt",
            Self::CwBdtw => "CwBdtw",
        }
    }

    fn has_content(self) -> bool {
        self != Self::Ww
    }

    /// Whether entries contain the decay between two patches, so that [`Decay`] has an effect.
    pub fn has_decay(self) -> bool {
        matches!(self, Self::CwBw | Self::Ww | Self::CwBdtw)
    }

    fn has_step(self) -> bool {
        matches!(self, Self::CbDt | Self::CwBdtw)
    }
}

impl FromStr for MapMode {
    type Err = MapError;

    fn from_str(name: &str) -> Result<Self, MapError> {
        let found = Self::ALL.iter().find(|(_, known)| *known == name);
        found.map(|(mode, _)| *mode).ok_or_else(|| MapError::Mode(name.to_owned()))
    }
}

/// How the decay between two patches is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decay {
    /// `exp(S[i] - S[j])`, exact at every distance.
    #[default]
    Exact,
    /// `exp(S[i]) / max(exp(S[j]), 1e-20)` in float32, as in the published figures. Contributions after the underflow are lost, and those
    /// near it are too small.
    OfficialClamp,
}

/// The maps whose minimum and maximum normalise [`RouteMap::normalised`] and similar fields. Patches that were not visited do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapRange {
    /// The map of the query.
    #[default]
    Query,
    /// The maps of all queries, as in the official code. Costs one walk per patch. It only scales the maps, except for
    /// [`ActivationMaps::nall`], in which it weights the routes.
    AllQueries,
}

/// Options of activation maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapOptions {
    /// The factors in an entry.
    pub mode: MapMode,
    /// The computation of the decay.
    pub decay: Decay,
    /// The range that normalises the maps.
    pub range: MapRange,
}

/// Why a map cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// The query is outside the grid.
    #[error("the query patch (row {}, column {}) is outside the grid of {} rows and {} columns", query[0], query[1], size[0], size[1])]
    Query {
        /// Row and column.
        query: [usize; 2],
        /// Height and width of the grid.
        size: [usize; 2],
    },
    /// The route or channel does not exist.
    #[error("{what} {index} does not exist; there are {count}, counted from 0")]
    Index {
        /// `route` or `channel`.
        what: &'static str,
        /// The number that was asked for.
        index: usize,
        /// How many exist.
        count: usize,
    },
    /// The mode does not exist.
    #[error("no mode is called `{0}`; there are CB, CwBw, ww, CBdt and CwBdtw")]
    Mode(String),
}

/// The map of one route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMap {
    /// The route.
    pub route: Route,
    /// Whether the route visits a patch before or at the query, `[height, width]`.
    pub visited: Vec<bool>,
    /// Mean over the channels, `[height, width]`; 0 where not visited.
    pub raw: Vec<f32>,
    /// Minimum and maximum, which `normalised` maps to 0 and 1.
    pub range: [f32; 2],
    /// The map scaled to [0, 1]; 0 where not visited.
    pub normalised: Vec<f32>,
}

/// The contributions of all patches to a query patch.
#[derive(Clone, Debug, PartialEq)]
pub struct ActivationMaps {
    /// Height and width of the grid.
    pub size: [usize; 2],
    /// Row and column of the query.
    pub query: [usize; 2],
    /// One map per route.
    pub routes: Vec<RouteMap>,
    /// Whether any route visits a patch, `[height, width]`.
    pub visited: Vec<bool>,
    /// The sum of the maps, `[height, width]`; 0 where no route visits.
    pub sum: Vec<f32>,
    /// Minimum and maximum of `sum`, which `all` maps to 0 and 1.
    pub sum_range: [f32; 2],
    /// The sum scaled to [0, 1], `all` in the official code; 0 where no route visits.
    pub all: Vec<f32>,
    /// The mean of the normalised maps of all routes, `nall` in the official code. A patch that a route does not visit counts as 0.
    pub nall: Vec<f32>,
}

/// The maps of the patch `query` (row and column) in the grid of the trace. A constant map is 0 when normalised.
///
/// ```
/// use burn::prelude::*;
/// use vmamba::VmambaConfig;
/// use vmamba::analysis::{BlockIndex, MapOptions, activation_maps};
///
/// let device = Device::flex();
/// let config = VmambaConfig { depths: vec![1, 1], out_indices: vec![0, 1], ..VmambaConfig::default() };
/// let images = Tensor::zeros([1, 3, 32, 48], &device);
/// let trace = config.try_init(&device)?.trace_scan(images, BlockIndex { stage: 1, block: 0 })?;
/// let maps = activation_maps(&trace, [2, 3], MapOptions::default())?;
/// assert_eq!((maps.size, maps.routes.len()), ([4, 6], 4));
/// for map in &maps.routes {
///     let visited = map.visited.iter().filter(|visited| **visited).count();
///     println!("{:?}: {visited} of 24 patches, {:?}", map.route, map.range);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When the query is outside the grid.
pub fn activation_maps(trace: &ScanTrace, query: [usize; 2], options: MapOptions) -> Result<ActivationMaps, MapError> {
    let maps = QueryRows::new(trace, pixel(trace, query)?, options);
    let ranges = match options.range {
        MapRange::Query => maps.ranges(),
        MapRange::AllQueries => MapRanges::of_all_queries(trace, options, &|| ()),
    };
    Ok(maps.between(trace, query, &ranges))
}

/// As [`activation_maps`], with the precomputed ranges of `trace` and `options`.
///
/// # Errors
/// When the query is outside the grid.
pub fn activation_maps_between(
    trace: &ScanTrace,
    query: [usize; 2],
    options: MapOptions,
    ranges: &MapRanges,
) -> Result<ActivationMaps, MapError> {
    Ok(QueryRows::new(trace, pixel(trace, query)?, options).between(trace, query, ranges))
}

/// The row of the patch `query` (row and column) in the matrix of one channel along route number `route`: `[height, width]`.
///
/// # Errors
/// When the query, route or channel does not exist.
pub fn channel_row(trace: &ScanTrace, route: usize, channel: usize, query: [usize; 2], options: MapOptions) -> Result<Vec<f64>, MapError> {
    let pixel = pixel(trace, query)?;
    let found = trace.routes.get(route).ok_or(MapError::Index { what: "route", index: route, count: trace.routes.len() })?;
    if channel >= trace.channels {
        return Err(MapError::Index { what: "channel", index: channel, count: trace.channels });
    }
    Ok(Walk::new(trace, found, pixel, options).sum_of(channel..channel + 1))
}

/// The raster index of a patch.
fn pixel(trace: &ScanTrace, query: [usize; 2]) -> Result<usize, MapError> {
    let ([row, column], size) = (query, trace.size);
    if row >= size[0] || column >= size[1] {
        return Err(MapError::Query { query, size });
    }
    Ok(row * size[1] + column)
}

/// The row of a patch for every route, averaged over the channels.
fn rows(trace: &ScanTrace, pixel: usize, options: MapOptions) -> Vec<Vec<f64>> {
    let mean = |route: &RouteTrace| {
        let walk = Walk::new(trace, route, pixel, options);
        let blocks: Vec<usize> = (0..trace.channels).step_by(CHANNELS).collect();
        let parts: Vec<Vec<f64>> = blocks.into_par_iter().map(|first| walk.sum_of(first..(first + CHANNELS).min(trace.channels))).collect();
        let mut row = sum(&parts);
        row.iter_mut().for_each(|value| *value /= trace.channels as f64);
        row
    };
    trace.routes.iter().map(mean).collect()
}

/// The sum of rows of equal length.
fn sum(rows: &[Vec<f64>]) -> Vec<f64> {
    let mut total = rows.first().cloned().unwrap_or_default();
    for row in rows.iter().skip(1) {
        total.iter_mut().zip(row).for_each(|(total, value)| *total += value);
    }
    total
}

/// The rows of a query in the matrices of all routes.
struct QueryRows {
    /// One row per route, averaged over the channels.
    rows: Vec<Vec<f64>>,
    /// The patches that each route has visited.
    visited: Vec<Vec<bool>>,
    sum: Vec<f64>,
}

impl QueryRows {
    fn new(trace: &ScanTrace, pixel: usize, options: MapOptions) -> Self {
        let rows = rows(trace, pixel, options);
        let visited = trace.routes.iter().map(|route| {
            let mut visited = vec![false; trace.size[0] * trace.size[1]];
            way(route.route, trace.size, pixel).into_iter().for_each(|pixel| visited[pixel] = true);
            visited
        });
        Self { visited: visited.collect(), sum: sum(&rows), rows }
    }

    fn visited_by_any(&self) -> Vec<bool> {
        (0..self.sum.len()).map(|pixel| self.visited.iter().any(|visited| visited[pixel])).collect()
    }

    fn ranges(&self) -> MapRanges {
        let routes = self.rows.iter().zip(&self.visited).map(|(row, visited)| Span::of(row, visited)).collect();
        MapRanges { routes, sum: Span::of(&self.sum, &self.visited_by_any()) }
    }

    fn between(&self, trace: &ScanTrace, query: [usize; 2], ranges: &MapRanges) -> ActivationMaps {
        let narrow = |values: &[f64]| values.iter().map(|value| *value as f32).collect::<Vec<f32>>();
        let mut nall = vec![0.0; self.sum.len()];
        let mut routes = Vec::with_capacity(self.rows.len());
        for (((row, visited), span), route) in self.rows.iter().zip(&self.visited).zip(&ranges.routes).zip(&trace.routes) {
            let normalised = span.normalised(row, visited);
            nall.iter_mut().zip(&normalised).for_each(|(mean, value)| *mean += value / self.rows.len() as f64);
            let (raw, normalised) = (narrow(row), narrow(&normalised));
            routes.push(RouteMap { route: route.route, visited: visited.clone(), raw, range: span.ends(), normalised });
        }
        let visited = self.visited_by_any();
        let all = narrow(&ranges.sum.normalised(&self.sum, &visited));
        let (sum, sum_range) = (narrow(&self.sum), ranges.sum.ends());
        ActivationMaps { size: trace.size, query, routes, visited, sum, sum_range, all, nall: narrow(&nall) }
    }
}

/// Minimum and maximum of each route's map and of their sum, over the visited patches.
#[derive(Clone, Debug)]
pub struct MapRanges {
    routes: Vec<Span>,
    sum: Span,
}

impl MapRanges {
    /// The ranges over the maps of all queries ([`MapRange::AllQueries`]). `each` is called after every query, from several threads.
    pub fn of_all_queries(trace: &ScanTrace, options: MapOptions, each: &(dyn Fn() + Sync)) -> Self {
        let nothing = || Self { routes: vec![Span::NOTHING; trace.routes.len()], sum: Span::NOTHING };
        let of_query = |pixel: usize| {
            let ranges = QueryRows::new(trace, pixel, options).ranges();
            each();
            ranges
        };
        (0..trace.size[0] * trace.size[1]).into_par_iter().map(of_query).reduce(nothing, Self::joined)
    }

    fn joined(self, other: Self) -> Self {
        let routes = self.routes.into_iter().zip(other.routes).map(|(one, other)| one.joined(other)).collect();
        Self { routes, sum: self.sum.joined(other.sum) }
    }
}

/// Minimum and maximum.
#[derive(Clone, Copy, Debug)]
struct Span {
    least: f64,
    greatest: f64,
}

impl Span {
    const NOTHING: Self = Self { least: f64::INFINITY, greatest: f64::NEG_INFINITY };

    fn of(values: &[f64], visited: &[bool]) -> Self {
        let values = values.iter().zip(visited).filter(|(_, visited)| **visited);
        values.fold(Self::NOTHING, |span, (value, _)| span.joined(Self { least: *value, greatest: *value }))
    }

    fn joined(self, other: Self) -> Self {
        Self { least: self.least.min(other.least), greatest: self.greatest.max(other.greatest) }
    }

    fn ends(self) -> [f32; 2] {
        [self.least as f32, self.greatest as f32]
    }

    fn normalised(self, values: &[f64], visited: &[bool]) -> Vec<f64> {
        let width = self.greatest - self.least;
        let of = |(value, visited): (&f64, &bool)| if *visited && width > 0.0 { (value - self.least) / width } else { 0.0 };
        values.iter().zip(visited).map(of).collect()
    }
}

/// The pixels that a route visits, from the first to the query.
fn way(route: Route, [height, width]: [usize; 2], query: usize) -> Vec<usize> {
    let mut pixels: Vec<usize> = Vec::new();
    for step in 0..height * width {
        pixels.push(route.pixel(step, height, width));
        if pixels.last() == Some(&query) {
            break;
        }
    }
    pixels
}

/// The walk along a route, up to the query.
struct Walk<'a> {
    trace: &'a ScanTrace,
    route: &'a RouteTrace,
    options: MapOptions,
    /// Pixels from the first of the route to the query.
    pixels: Vec<usize>,
    /// `C[i, n] B[j, n]` of every step with [`MapMode::has_content`], else 1: `[steps, N]`.
    content: Vec<f64>,
}

impl<'a> Walk<'a> {
    fn new(trace: &'a ScanTrace, route: &'a RouteTrace, query: usize, options: MapOptions) -> Self {
        let pixels = way(route.route, trace.size, query);
        let n = trace.state;
        let c = &route.c[query * n..(query + 1) * n];
        let content = pixels.iter().flat_map(|pixel| {
            let b = &route.b[pixel * n..(pixel + 1) * n];
            c.iter().zip(b).map(|(c, b)| if options.mode.has_content() { f64::from(*c) * f64::from(*b) } else { 1.0 })
        });
        let content = content.collect();
        Self { trace, route, options, pixels, content }
    }

    /// The entries of the query's row, summed over channels: `[height, width]`.
    fn sum_of(&self, channels: Range<usize>) -> Vec<f64> {
        let [height, width] = self.trace.size;
        let mut sums = vec![0.0; height * width];
        let decays = self.options.mode.has_decay();
        for channel in channels {
            match self.options.decay {
                _ if !decays => self.add(channel, &mut sums, |_, _| 1.0),
                Decay::Exact => self.add_exact(channel, &mut sums),
                Decay::OfficialClamp => self.add_clamped(channel, &mut sums),
            }
        }
        sums
    }

    /// The step size of a channel at a step of the walk.
    fn delta(&self, step: usize, channel: usize) -> f32 {
        self.route.delta[self.pixels[step] * self.trace.channels + channel]
    }

    /// Adds the entries of a channel. `decay` gives the decay of a step and state; it is called from the query backwards.
    fn add(&self, channel: usize, sums: &mut [f64], mut decay: impl FnMut(usize, usize) -> f64) {
        let n = self.trace.state;
        for step in (0..self.pixels.len()).rev() {
            let content = &self.content[step * n..(step + 1) * n];
            let entry: f64 = content.iter().enumerate().map(|(state, content)| content * decay(step, state)).sum();
            let scale = if self.options.mode.has_step() { f64::from(self.delta(step, channel)) } else { 1.0 };
            sums[self.pixels[step]] += entry * scale;
        }
    }

    fn add_exact(&self, channel: usize, sums: &mut [f64]) {
        let a = &self.route.a[channel * self.trace.state..(channel + 1) * self.trace.state];
        // The steps after the key up to the query: the state decays before the key is added.
        let mut time = vec![0.0; self.pixels.len()];
        for step in (1..self.pixels.len()).rev() {
            time[step - 1] = time[step] + f64::from(self.delta(step, channel));
        }
        self.add(channel, sums, |step, state| (f64::from(a[state]) * time[step]).exp());
    }

    fn add_clamped(&self, channel: usize, sums: &mut [f64]) {
        const FLOOR: f32 = 1e-20;
        let n = self.trace.state;
        let a = &self.route.a[channel * n..(channel + 1) * n];
        let mut exponents = vec![0.0_f32; n];
        let mut weights = Vec::with_capacity(self.pixels.len() * n);
        for step in 0..self.pixels.len() {
            let delta = self.delta(step, channel);
            exponents.iter_mut().zip(a).for_each(|(exponent, a)| *exponent += a * delta);
            weights.extend(exponents.iter().map(|exponent| exponent.exp()));
        }
        let query = weights[weights.len() - n..].to_vec();
        self.add(channel, sums, |step, state| f64::from(query[state] / weights[step * n + state].max(FLOOR)));
    }
}

#[cfg(test)]
mod tests;
