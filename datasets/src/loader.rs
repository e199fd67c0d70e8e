//! Loading ahead with worker threads, in an order that does not depend on them.
//!
//! Item `i` is a pure function of `i`: it is made by worker `i mod workers`, and the consumer takes items in turn. So the same seed gives
//! the same batches whatever the number of workers, and a run can begin at any item without making those before it.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rand::SeedableRng;

use crate::sample::{DataError, SegmentationDataset};
use crate::transforms::{TrainPipeline, TransformRng, between};

/// Items made ahead by worker threads, bounded in number, in order.
#[derive(Debug)]
pub struct Prefetch<T> {
    channels: Vec<Receiver<T>>,
    next: usize,
    workers: Vec<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Makes the items `range`, at most `ahead` of them before they are asked for, with `workers` threads (at least 1).
    pub fn new(range: std::ops::Range<u64>, workers: usize, ahead: usize, make: impl Fn(u64) -> T + Send + Sync + 'static) -> Self {
        let count = workers.max(1);
        let make = Arc::new(make);
        let (mut channels, mut workers) = (Vec::new(), Vec::new());
        for worker in 0..count as u64 {
            // A waiting item is held by the worker itself, besides those in the channel.
            let (sender, receiver) = sync_channel((ahead / count).saturating_sub(1));
            let (make, range) = (Arc::clone(&make), range.clone());
            channels.push(receiver);
            workers.push(std::thread::spawn(move || {
                let mut item = range.start.saturating_add(worker);
                // Sending fails when the consumer is gone.
                while item < range.end && sender.send(make(item)).is_ok() {
                    item = item.saturating_add(count as u64);
                }
            }));
        }
        Self { channels, next: 0, workers }
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let item = self.channels.get(self.next)?.recv().ok()?;
        self.next = (self.next + 1) % self.channels.len();
        Some(item)
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.channels.clear();
        for worker in self.workers.drain(..) {
            // A panic of a worker has been printed already.
            drop(worker.join());
        }
    }
}

/// A batch of training samples of equal size.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[batch, 3, height, width]`
    pub images: Vec<f32>,
    /// `[batch, height, width]`
    pub labels: Vec<u8>,
    /// Number of samples.
    pub len: usize,
    /// `[height, width]`
    pub size: [usize; 2],
    /// Names of the samples.
    pub names: Vec<String>,
}

/// How a training set is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Samples of a batch.
    pub batch_size: usize,
    /// Seed of order and transforms.
    pub seed: u64,
    /// Worker threads.
    pub workers: usize,
    /// Batches made ahead.
    pub ahead: usize,
}

/// Training batches without end: the data set is shuffled anew every epoch, and batches run over the border of epochs
/// (mmengine's `InfiniteSampler`).
#[derive(Debug)]
pub struct TrainLoader(Prefetch<Result<Batch, DataError>>);

impl TrainLoader {
    /// Loads from batch `first` on.
    pub fn new(dataset: Arc<dyn SegmentationDataset>, pipeline: TrainPipeline, config: LoaderConfig, first: u64) -> Self {
        // The order of the newest epochs; several workers may be in different ones.
        let orders: Mutex<Vec<(u64, Arc<Vec<usize>>)>> = Mutex::new(Vec::new());
        let order = move |epoch: u64, len: usize| {
            let mut orders = orders.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some((_, order)) = orders.iter().find(|(known, _)| *known == epoch) {
                return Arc::clone(order);
            }
            let order = Arc::new(shuffled(len, config.seed, epoch));
            orders.push((epoch, Arc::clone(&order)));
            if orders.len() > 8 {
                orders.remove(0);
            }
            order
        };
        let make = move |batch: u64| {
            let len = dataset.len().max(1) as u64;
            let samples = (0..config.batch_size as u64).map(|position| {
                let drawn = batch * config.batch_size as u64 + position;
                let index = order(drawn / len, len as usize)[(drawn % len) as usize];
                let mut rng = TransformRng::seed_from_u64(mix(config.seed, drawn));
                Ok(pipeline.apply(dataset.get(index)?, &mut rng))
            });
            let samples = samples.collect::<Result<Vec<_>, DataError>>()?;
            let size = samples.first().map_or([0, 0], |sample| sample.input.size);
            Ok(Batch {
                images: samples.iter().flat_map(|sample| &sample.input.values).copied().collect(),
                labels: samples.iter().flat_map(|sample| &sample.labels).copied().collect(),
                len: samples.len(),
                size,
                names: samples.into_iter().map(|sample| sample.name).collect(),
            })
        };
        Self(Prefetch::new(first..u64::MAX, config.workers, config.ahead, make))
    }
}

impl Iterator for TrainLoader {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// A permutation of `0..len` (Fisher and Yates).
fn shuffled(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut rng = TransformRng::seed_from_u64(mix(!seed, epoch));
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        order.swap(last, between(&mut rng, 0, last as i64) as usize);
    }
    order
}

/// A seed for each pair (the finaliser of SplitMix64).
fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;
    use crate::sample::{ClassList, LabelMap, SegmentationSample};
    use crate::transforms::{CropConfig, Normalize};

    struct Numbers {
        classes: ClassList,
        broken: Option<usize>,
    }

    impl SegmentationDataset for Numbers {
        fn len(&self) -> usize {
            7
        }

        fn get(&self, index: usize) -> Result<SegmentationSample, DataError> {
            if self.broken == Some(index) {
                return Err(DataError::layout(std::path::Path::new("broken.png"), "broken"));
            }
            Ok(SegmentationSample {
                image: RgbImage::from_fn(20, 20, |x, y| image::Rgb([index as u8, x as u8, y as u8])),
                labels: LabelMap::new(20, 20, (0..400).map(|i| (i % 2) as u8).collect()),
                name: index.to_string(),
                original_size: [20, 20],
            })
        }

        fn classes(&self) -> &ClassList {
            &self.classes
        }
    }

    fn loader(workers: usize, first: u64, broken: Option<usize>) -> TrainLoader {
        let pipeline = TrainPipeline {
            resize: None,
            crop: CropConfig { size: [8, 8], cat_max_ratio: 1.0 },
            flip: 0.5,
            photometric: None,
            normalize: Normalize::default(),
        };
        let dataset = Arc::new(Numbers { classes: ClassList::numbered(2), broken });
        TrainLoader::new(dataset, pipeline, LoaderConfig { batch_size: 3, seed: 5, workers, ahead: 4 }, first)
    }

    #[test]
    fn batches_do_not_depend_on_the_number_of_workers_or_on_where_a_run_begins() {
        let batches =
            |workers: usize, first: u64, count: usize| loader(workers, first, None).take(count).map(Result::unwrap).collect::<Vec<_>>();
        let expected = batches(1, 0, 12);
        for workers in [0, 2, 3, 16] {
            assert_eq!(batches(workers, 0, 12), expected, "{workers} workers");
        }
        assert_eq!(batches(2, 5, 7), expected[5..]);
    }

    #[test]
    fn every_epoch_has_every_sample_once_in_another_order() {
        let names: Vec<String> = loader(2, 0, None).take(7).flat_map(|batch| batch.unwrap().names).collect();
        let epochs: Vec<&[String]> = names.chunks(7).collect();
        for epoch in &epochs {
            let mut sorted = epoch.to_vec();
            sorted.sort();
            assert_eq!(sorted, ["0", "1", "2", "3", "4", "5", "6"]);
        }
        assert_ne!(epochs[0], epochs[1]);
    }

    #[test]
    fn an_error_reaches_the_consumer_in_its_place() {
        let results: Vec<_> = loader(3, 0, Some(4)).take(3).collect();
        let errors: Vec<String> = results.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
        assert!(!errors.is_empty() && errors.iter().all(|error| error.contains("broken.png")), "{errors:?}");
    }

    #[test]
    fn a_range_ends_and_dropping_early_stops_the_workers() {
        assert_eq!(Prefetch::new(3..8, 2, 4, |i| i * 10).collect::<Vec<_>>(), [30, 40, 50, 60, 70]);
        assert_eq!(Prefetch::new(0..0, 4, 4, |i| i).count(), 0);
        drop(Prefetch::new(0..u64::MAX, 3, 6, |i| i));
    }
}
