//! How work is split over threads.

use std::ops::Range;

use rayon::prelude::*;

/// Smaller products, in multiply-adds, run on one thread: waking the others costs more than it saves.
const PARALLEL_FROM: usize = 1 << 18;

/// The number of threads for a product of so many multiply-adds.
pub(crate) fn threads_for(multiply_adds: usize) -> usize {
    if multiply_adds < PARALLEL_FROM { 1 } else { rayon::current_num_threads() }
}

/// Runs tasks `0..count` in parallel, or in order if `threads` is 1.
pub(crate) fn for_each_task(threads: usize, count: usize, task: impl Fn(usize) + Send + Sync) {
    if threads == 1 {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Splits `rows` rows into ranges of at most `limit` rows, equally many for every thread, and calls `work` on each.
pub(super) fn for_each_rows(threads: usize, rows: usize, limit: usize, work: impl Fn(Range<usize>) + Send + Sync) {
    let tasks = rows.div_ceil(limit).next_multiple_of(threads);
    let size = rows.div_ceil(tasks).next_multiple_of(8);
    for_each_task(threads, rows.div_ceil(size), |task| work(task * size..rows.min((task + 1) * size)));
}
