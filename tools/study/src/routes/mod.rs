//! The scan routes of SS2D through the patches of an image (VMamba paper, section 4.2), and the patches that each result depends on.
//!
//! A scan carries its state from patch to patch. So the result at a patch, the query, depends exactly on the patches visited up to it.
//! Patches are counted in raster order from the top left.

mod animation;
pub mod figure;

use vision_ops::Route;
use vmamba::vmamba::ScanPattern;

/// Most patches on a side; more are too small in a figure.
pub const MAX_SIDE: usize = 64;

/// A grid or a query that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// A side without patches or with too many.
    #[error("{0} x {1} patches; a side has 1 to {MAX_SIDE}")]
    Grid(usize, usize),
    /// A query outside the grid.
    #[error("row {row}, column {column} is outside the grid; rows are 0 to {last_row}, columns 0 to {last_column}")]
    Query {
        /// Requested row.
        row: i64,
        /// Requested column.
        column: i64,
        /// Last row of the grid.
        last_row: usize,
        /// Last column of the grid.
        last_column: usize,
    },
}

/// One of the four scans of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Through the whole image in one sequence.
    Image(Route),
    /// Through each row separately: the first stage of the cascade.
    EachRow {
        /// From right to left.
        reversed: bool,
    },
    /// Through each column of the first stage's result separately: the second stage of the cascade.
    EachColumn {
        /// From bottom to top.
        reversed: bool,
    },
}

/// The walks of a pattern, in the order of the parameter groups.
pub fn walks(pattern: ScanPattern) -> [Walk; 4] {
    match pattern.routes() {
        Some(routes) => routes.map(Walk::Image),
        None => [
            Walk::EachRow { reversed: false },
            Walk::EachRow { reversed: true },
            Walk::EachColumn { reversed: false },
            Walk::EachColumn { reversed: true },
        ],
    }
}

/// The name of a pattern on the command line and in file names.
pub fn pattern_name(pattern: ScanPattern) -> &'static str {
    match pattern {
        ScanPattern::Cross => "cross",
        ScanPattern::Unidirectional => "unidirectional",
        ScanPattern::Bidirectional => "bidirectional",
        ScanPattern::Cascade => "cascade",
    }
}

impl Walk {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image(Route::Rows) => "rows",
            Self::Image(Route::Columns) => "columns",
            Self::Image(Route::RowsReversed) => "rows, reversed",
            Self::Image(Route::ColumnsReversed) => "columns, reversed",
            Self::EachRow { reversed: false } => "each row",
            Self::EachRow { reversed: true } => "each row, reversed",
            Self::EachColumn { reversed: false } => "each column",
            Self::EachColumn { reversed: true } => "each column, reversed",
        }
    }

    /// Its stage, 0 or 1; the second stage starts when the first has finished.
    pub fn stage(self) -> usize {
        usize::from(matches!(self, Self::EachColumn { .. }))
    }

    /// The sequences of patches on a grid `[height, width]`; each scan starts from a zero state.
    pub fn sequences(self, [height, width]: [usize; 2]) -> Vec<Vec<usize>> {
        let line = |length: usize, reversed: bool, patch: &dyn Fn(usize) -> usize| -> Vec<usize> {
            (0..length).map(|step| patch(if reversed { length - 1 - step } else { step })).collect()
        };
        match self {
            Self::Image(route) => vec![(0..height * width).map(|step| route.pixel(step, height, width)).collect()],
            Self::EachRow { reversed } => (0..height).map(|row| line(width, reversed, &|column| row * width + column)).collect(),
            Self::EachColumn { reversed } => (0..width).map(|column| line(height, reversed, &|row| row * width + column)).collect(),
        }
    }

    /// The patches visited up to the query `[row, column]`, in order.
    ///
    /// The reversed walks of the cascade end at the mirror image of the query, because the official code adds their results without reversing
    /// them again; see `Ss2d`.
    fn visited(self, grid: [usize; 2], [row, column]: [usize; 2]) -> Vec<usize> {
        let query = row * grid[1] + column;
        let mut sequences = self.sequences(grid);
        let (sequence, steps) = match self {
            Self::Image(_) => {
                let sequence = sequences.swap_remove(0);
                let steps = sequence.iter().take_while(|patch| **patch != query).count() + 1;
                (sequence, steps)
            }
            Self::EachRow { .. } => (sequences.swap_remove(row), column + 1),
            Self::EachColumn { .. } => (sequences.swap_remove(column), row + 1),
        };
        sequence.into_iter().take(steps).collect()
    }
}

/// The patches on which one walk makes a query depend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trail {
    /// The walk.
    pub walk: Walk,
    /// Patches visited up to the query, in order.
    pub visited: Vec<usize>,
    /// For each visited patch, the patches of the image it depends on: itself or, in the second stage of a cascade, those of the first stage.
    pub reached: Vec<Vec<usize>>,
}

impl Trail {
    /// Whether each of `patches` patches contributes after `steps` steps.
    pub fn reached_after(&self, steps: usize, patches: usize) -> Vec<bool> {
        let mut reached = vec![false; patches];
        for patch in self.reached.iter().take(steps).flatten() {
            reached[*patch] = true;
        }
        reached
    }
}

/// Validates the patch `[row, column]` of a grid of `[height, width]` patches.
///
/// # Errors
/// When a side of the grid is 0 or above [`MAX_SIDE`], or the patch is outside the grid.
pub fn place(grid: [usize; 2], patch: [i64; 2]) -> Result<[usize; 2], RouteError> {
    let [height, width] = grid;
    if ![height, width].iter().all(|side| (1..=MAX_SIDE).contains(side)) {
        return Err(RouteError::Grid(height, width));
    }
    let [row, column] = patch;
    match patch.map(usize::try_from) {
        [Ok(row), Ok(column)] if row < height && column < width => Ok([row, column]),
        _ => Err(RouteError::Query { row, column, last_row: height - 1, last_column: width - 1 }),
    }
}

/// The trails of the four walks of a pattern to the query `[row, column]` on a grid of `[height, width]` patches.
///
/// ```
/// use vmamba_study::routes::{readers, trails};
/// use vmamba::vmamba::ScanPattern;
///
/// let trails = trails(ScanPattern::Cross, [8, 12], [4, 6])?;
/// for trail in &trails {
///     println!("{}: {} of 96 patches visited", trail.walk.name(), trail.visited.len());
/// }
/// assert!(readers(&trails, 96).iter().all(|readers| *readers >= 2), "at least two scans read each patch");
/// # Ok::<(), vmamba_study::routes::RouteError>(())
/// ```
///
/// # Errors
/// When a side of the grid is 0 or above [`MAX_SIDE`], or the query is outside the grid.
pub fn trails(pattern: ScanPattern, grid: [usize; 2], query: [usize; 2]) -> Result<[Trail; 4], RouteError> {
    let query = place(grid, query.map(|side| i64::try_from(side).unwrap_or(i64::MAX)))?;
    Ok(walks(pattern).map(|walk| {
        let visited = walk.visited(grid, query);
        let reached = visited.iter().map(|patch| if walk.stage() == 0 { vec![*patch] } else { first_stage(grid, *patch) }).collect();
        Trail { walk, visited, reached }
    }))
}

/// The number of trails that contain each of `patches` patches.
pub fn readers(trails: &[Trail], patches: usize) -> Vec<usize> {
    let mut readers = vec![0; patches];
    for trail in trails {
        let reached = trail.reached_after(trail.visited.len(), patches);
        readers.iter_mut().zip(reached).for_each(|(readers, reached)| *readers += usize::from(reached));
    }
    readers
}

/// The patches on which the first stage of a cascade makes a patch depend.
fn first_stage(grid: [usize; 2], patch: usize) -> Vec<usize> {
    let place = [patch / grid[1], patch % grid[1]];
    let mut reached: Vec<usize> = [false, true].into_iter().flat_map(|reversed| Walk::EachRow { reversed }.visited(grid, place)).collect();
    reached.sort_unstable();
    reached.dedup();
    reached
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tensor};
    use vmamba::vmamba::Ss2d;
    use vmamba::{SsmInit, VmambaConfig};

    use super::*;

    const GRID: [usize; 2] = [3, 5];
    const PATTERNS: [ScanPattern; 4] = [ScanPattern::Cross, ScanPattern::Unidirectional, ScanPattern::Bidirectional, ScanPattern::Cascade];

    #[test]
    fn walks_through_the_image_are_the_sequences_of_the_cross_scan() {
        let [height, width] = GRID;
        let numbers: Vec<f32> = (0..height * width).map(|patch| patch as f32).collect();
        let image = Tensor::<1>::from_floats(numbers.as_slice(), &Device::flex()).reshape([1, 1, height, width]);
        for (pattern, copied) in [
            (ScanPattern::Cross, vision_ops::ScanPattern::Cross),
            (ScanPattern::Unidirectional, vision_ops::ScanPattern::Unidirectional),
            (ScanPattern::Bidirectional, vision_ops::ScanPattern::Bidirectional),
        ] {
            let expected: Vec<f32> = vision_ops::cross_scan(image.clone(), copied).into_data().try_to_vec().unwrap();
            let ours: Vec<f32> = walks(pattern).iter().flat_map(|walk| walk.sequences(GRID)).flatten().map(|patch| patch as f32).collect();
            assert_eq!(ours, expected, "{pattern:?}");
        }
    }

    /// Without the convolution, only the scan of SS2D mixes patches. So a change of one input patch changes exactly the results that have read
    /// it, and leaves all others equal to the bit. A change may also be too small for float32: after two stages if step sizes are small
    /// ([`SsmInit::V0`]), and over long distances if they are large ([`SsmInit::V2`]). Hence the test uses both, with three draws of the
    /// weights each; every pair of patches shows its change in one of them.
    #[test]
    fn a_query_has_read_exactly_the_patches_that_change_its_result_in_ss2d() {
        let [height, width] = GRID;
        for (pattern, form) in PATTERNS.into_iter().zip(["v05_noz", "v051d_noz", "v052d_noz", "v052dc_noz"]) {
            let seen = [0, 1, 2].map(|seed| [SsmInit::V0, SsmInit::V2].map(|init| changed_results(form, init, seed)));
            for query in 0..height * width {
                let trails = trails(pattern, GRID, [query / width, query % width]).unwrap();
                for (patch, readers) in readers(&trails, height * width).into_iter().enumerate() {
                    let differs = seen.iter().flatten().any(|seen| seen[patch][query]);
                    assert_eq!(differs, readers > 0, "{pattern:?}: patch {patch}, query {query}");
                }
            }
        }
    }

    /// For every input patch, whether a change of it changes the result of every patch.
    fn changed_results(form: &str, ssm_init: SsmInit, seed: u64) -> Vec<Vec<bool>> {
        let device = Device::flex();
        device.seed(seed);
        let ([height, width], dim) = (GRID, 4);
        let config = VmambaConfig { forward_type: form.parse().unwrap(), ssm_conv: None, ssm_init, ..VmambaConfig::default() };
        let ss2d = Ss2d::new(&config, dim, &device);
        let x: Tensor<4> = Tensor::random([1, height, width, dim], Distribution::Normal(0.0, 1.0), &device);
        let results = |x: Tensor<4>| -> Vec<f32> { ss2d.forward(x, None).into_data().try_to_vec().unwrap() };
        let before = results(x.clone());
        let differing = |changed: usize| {
            let mut bump = vec![0.0; height * width * dim];
            // Different in each channel; the norm of the cascade would remove a common change.
            (0..dim).for_each(|channel| bump[changed * dim + channel] = 1.0 + channel as f32);
            let bump = Tensor::<1>::from_floats(bump.as_slice(), &device).reshape([1, height, width, dim]);
            let after = results(x.clone() + bump);
            before.chunks(dim).zip(after.chunks(dim)).map(|(before, after)| before != after).collect()
        };
        (0..height * width).map(differing).collect()
    }

    #[test]
    fn a_trail_ends_at_its_query_and_grows_step_by_step() {
        let [rows, columns, ..] = trails(ScanPattern::Cross, GRID, [1, 2]).unwrap();
        assert_eq!(rows.visited, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(columns.visited, [0, 5, 10, 1, 6, 11, 2, 7]);
        let count = |steps| columns.reached_after(steps, 15).iter().filter(|reached| **reached).count();
        assert_eq!([0, 3, 8, 100].map(count), [0, 3, 8, 8]);
    }

    #[test]
    fn the_reversed_walks_of_the_cascade_end_at_the_mirror_image() {
        let [_, row, _, column] = trails(ScanPattern::Cascade, GRID, [0, 1]).unwrap();
        assert_eq!(row.visited, [4, 3]);
        assert_eq!(column.visited, [11]);
        // The row of patch 11 is read from the left up to column 1 and from the right down to column 3.
        assert_eq!(column.reached, [[10, 11, 13, 14]]);
    }

    #[test]
    fn grids_and_queries_that_do_not_exist_are_refused() {
        assert_eq!(trails(ScanPattern::Cross, [0, 4], [0, 0]), Err(RouteError::Grid(0, 4)));
        assert_eq!(trails(ScanPattern::Cross, [4, MAX_SIDE + 1], [0, 0]), Err(RouteError::Grid(4, 65)));
        let error = trails(ScanPattern::Cross, GRID, [3, 0]).unwrap_err().to_string();
        assert!(error.contains("row 3, column 0") && error.contains("0 to 2") && error.contains("0 to 4"), "{error}");
        assert_eq!(place(GRID, [2, 4]), Ok([2, 4]));
        assert!(place(GRID, [0, -1]).unwrap_err().to_string().contains("row 0, column -1 is outside"));
    }
}
