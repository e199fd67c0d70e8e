//! Training batches and prefetching.
//!
//! Item `i` is a pure function of `i`. Worker `i mod workers` makes it, and the consumer takes the items in order, so the same seed gives
//! the same batches whatever the number of workers, and a resumed run starts at any batch without making the ones before it.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rand::SeedableRng;
use rayon::prelude::*;
use vmamba_types::Instance;

use crate::error::DataError;
use crate::sample::{DetectionDataset, DetectionSample, SegmentationDataset, SegmentationSample};
use crate::transforms::{DetectionTrainPipeline, TrainPipeline, TransformRng, between, padded_size};

/// An ordered stream of items that worker threads prefetch. When a worker panics, `next` panics with the same message, so that a stream never
/// ends early in silence.
#[derive(Debug)]
pub struct Prefetch<T> {
    channels: Vec<Receiver<T>>,
    next: usize,
    workers: Vec<Option<JoinHandle<()>>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Makes the items of `range` on `workers` threads (at least 1) and prefetches about `ahead` of them.
    pub fn new(range: std::ops::Range<u64>, workers: usize, ahead: usize, make: impl Fn(u64) -> T + Send + Sync + 'static) -> Self {
        let count = workers.max(1);
        let make = Arc::new(make);
        let (mut channels, mut workers) = (Vec::new(), Vec::new());
        for worker in 0..count as u64 {
            // One item waits in the worker itself, the others in the channel.
            let (sender, receiver) = sync_channel((ahead / count).saturating_sub(1));
            let (make, range) = (Arc::clone(&make), range.clone());
            channels.push(receiver);
            workers.push(Some(std::thread::spawn(move || {
                let mut item = range.start.saturating_add(worker);
                // Sending fails when the consumer has been dropped.
                while item < range.end && sender.send(make(item)).is_ok() {
                    item = item.saturating_add(count as u64);
                }
            })));
        }
        Self { channels, next: 0, workers }
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let Ok(item) = self.channels.get(self.next)?.recv() else {
            // This worker has made its last item, unless it panicked.
            if let Some(Err(panic)) = self.workers.get_mut(self.next).and_then(Option::take).map(JoinHandle::join) {
                std::panic::resume_unwind(panic);
            }
            return None;
        };
        self.next = (self.next + 1) % self.channels.len();
        Some(item)
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.channels.clear();
        for worker in self.workers.drain(..).flatten() {
            // The panic of a worker has been printed already.
            drop(worker.join());
        }
    }
}

/// All samples of a detection data set in order, for evaluation. `workers` threads read ahead, and every sample is
/// [validated](DetectionSample::validate).
pub fn detection_samples(dataset: Arc<dyn DetectionDataset>, workers: usize) -> Prefetch<Result<DetectionSample, DataError>> {
    Prefetch::new(0..dataset.len() as u64, workers, 2 * workers, move |index| {
        let sample = dataset.get(index as usize)?;
        sample.validate(dataset.classes().len())?;
        Ok(sample)
    })
}

/// All samples of a segmentation data set in order, for evaluation. `workers` threads read ahead, and every sample is
/// [validated](SegmentationSample::validate).
pub fn segmentation_samples(dataset: Arc<dyn SegmentationDataset>, workers: usize) -> Prefetch<Result<SegmentationSample, DataError>> {
    Prefetch::new(0..dataset.len() as u64, workers, 2 * workers, move |index| {
        let sample = dataset.get(index as usize)?;
        sample.validate(dataset.classes().len())?;
        Ok(sample)
    })
}

/// How a training set is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Samples of a batch; 0 counts as 1.
    pub batch_size: usize,
    /// Seed of the order and of the random transforms.
    pub seed: u64,
    /// Worker threads; 0 counts as 1.
    pub workers: usize,
    /// Batches to prefetch.
    pub ahead: usize,
}

impl LoaderConfig {
    /// Seed 0, two workers, four batches ahead.
    pub fn new(batch_size: usize) -> Self {
        Self { batch_size, seed: 0, workers: 2, ahead: 4 }
    }
}

/// A batch of labelled training images of equal size.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Normalised images, `[batch, 3, height, width]`.
    pub images: Vec<f32>,
    /// Labels, `[batch, height, width]`.
    pub labels: Vec<u8>,
    /// Number of samples.
    pub len: usize,
    /// `[height, width]`.
    pub size: [usize; 2],
    /// Names of the samples.
    pub names: Vec<String>,
}

/// Segmentation batches without end. The data set is shuffled anew every epoch, and a batch may span two epochs (mmengine's
/// `InfiniteSampler`).
///
/// A sample that cannot be read or is [invalid](crate::sample::SegmentationSample::validate) makes its batch an error, and so does a data
/// set without samples.
#[derive(Debug)]
pub struct TrainLoader(Prefetch<Result<Batch, DataError>>);

impl TrainLoader {
    /// Loads from batch `first` on.
    pub fn new(dataset: Arc<dyn SegmentationDataset>, pipeline: TrainPipeline, config: LoaderConfig, first: u64) -> Self {
        let (len, batch_size) = (dataset.len(), config.batch_size.max(1) as u64);
        let orders = Epochs::default();
        let make = move |batch: u64| {
            if len == 0 {
                return Err(DataError::Empty);
            }
            let samples = (0..batch_size).map(|position| {
                let drawn = batch * batch_size + position;
                let epoch = drawn / len as u64;
                let order = orders.of(epoch, || shuffled(len, config.seed, epoch));
                let sample = dataset.get(order[(drawn % len as u64) as usize])?;
                sample.validate(dataset.classes().len())?;
                Ok(pipeline.apply(sample, &mut TransformRng::seed_from_u64(mix(config.seed, drawn))))
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

/// A batch of training images with objects.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectionBatch {
    /// Normalised images, `[batch, 3, height, width]`, padded with zeros at the bottom and on the right.
    pub images: Vec<f32>,
    /// `[height, width]` of the padded images.
    pub size: [usize; 2],
    /// `[height, width]` of each image without its padding.
    pub image_sizes: Vec<[usize; 2]>,
    /// Objects and crowd regions of each image, in pixels of the network's input.
    pub instances: Vec<Vec<Instance>>,
    /// Names of the samples.
    pub names: Vec<String>,
}

/// Detection batches without end. Portrait and landscape images are kept apart, except in the batches that take the rest of an epoch
/// (mmdetection's `AspectRatioBatchSampler`). The last batch of an epoch may be smaller.
///
/// A sample that cannot be read or is [invalid](crate::sample::DetectionSample::validate) makes its batch an error, and so does a data set
/// without samples.
#[derive(Debug)]
pub struct DetectionLoader(Prefetch<Result<DetectionBatch, DataError>>);

impl DetectionLoader {
    /// Loads from batch `first` on.
    pub fn new(dataset: Arc<dyn DetectionDataset>, pipeline: DetectionTrainPipeline, config: LoaderConfig, first: u64) -> Self {
        let (len, batch_size) = (dataset.len(), config.batch_size.max(1));
        let per_epoch = len.div_ceil(batch_size).max(1) as u64;
        let (shapes, epochs) = (Shapes::default(), Epochs::default());
        let make = move |batch: u64| {
            if len == 0 {
                return Err(DataError::Empty);
            }
            let portrait = shapes.get(dataset.as_ref())?;
            let (epoch, position) = (batch / per_epoch, (batch % per_epoch) as usize);
            let batches = epochs.of(epoch, || by_shape(&shuffled(len, config.seed, epoch), &portrait, batch_size));
            let members = batches.get(position).map_or(&[][..], Vec::as_slice);
            let samples = members.iter().zip(0_u64..).map(|(index, place)| {
                let sample = dataset.get(*index)?;
                sample.validate(dataset.classes().len())?;
                let mut rng = TransformRng::seed_from_u64(mix(config.seed, batch * batch_size as u64 + place));
                Ok(pipeline.apply(sample, &mut rng))
            });
            let samples = samples.collect::<Result<Vec<_>, DataError>>()?;
            let image_sizes: Vec<[usize; 2]> = samples.iter().map(|s| [s.image.height() as usize, s.image.width() as usize]).collect();
            let largest = image_sizes.iter().fold([0, 0], |a, b| [a[0].max(b[0]), a[1].max(b[1])]);
            let size = padded_size(largest);
            Ok(DetectionBatch {
                images: samples.iter().flat_map(|sample| sample.normalized(&pipeline.normalize, size).values).collect(),
                size,
                image_sizes,
                names: samples.iter().map(|sample| sample.name.clone()).collect(),
                instances: samples.into_iter().map(|sample| sample.instances).collect(),
            })
        };
        Self(Prefetch::new(first..u64::MAX, config.workers, config.ahead, make))
    }
}

impl Iterator for DetectionLoader {
    type Item = Result<DetectionBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// A cache of the values of the newest epochs, because the workers may be in different epochs.
#[derive(Debug)]
struct Epochs<T>(Mutex<Vec<(u64, Arc<T>)>>);

impl<T> Default for Epochs<T> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<T> Epochs<T> {
    /// The value of an epoch.
    fn of(&self, epoch: u64, make: impl FnOnce() -> T) -> Arc<T> {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = newest.iter().find(|(known, _)| *known == epoch) {
            return Arc::clone(known);
        }
        let made = Arc::new(make());
        newest.push((epoch, Arc::clone(&made)));
        if newest.len() > 8 {
            newest.remove(0);
        }
        made
    }
}

/// Whether each image of a data set is portrait; read with the first batch.
#[derive(Debug, Default)]
struct Shapes(Mutex<Option<Arc<Vec<bool>>>>);

impl Shapes {
    /// Reads the sizes once; after an error the next batch tries again.
    fn get(&self, dataset: &dyn DetectionDataset) -> Result<Arc<Vec<bool>>, DataError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref() {
            return Ok(Arc::clone(known));
        }
        // In parallel, because the default of `size` decodes the image.
        let portrait = |index| dataset.size(index).map(|[height, width]| width < height);
        let read = Arc::new((0..dataset.len()).into_par_iter().map(portrait).collect::<Result<Vec<bool>, _>>()?);
        *known = Some(Arc::clone(&read));
        Ok(read)
    }
}

/// The batches of an epoch. Portrait and landscape images fill batches of their own; the rest of both is mixed.
fn by_shape(order: &[usize], portrait: &[bool], batch_size: usize) -> Vec<Vec<usize>> {
    let mut batches = Vec::new();
    let mut waiting = [Vec::new(), Vec::new()];
    for &index in order {
        let bucket = &mut waiting[usize::from(!portrait[index])];
        bucket.push(index);
        if bucket.len() == batch_size {
            batches.push(std::mem::take(bucket));
        }
    }
    let rest: Vec<usize> = waiting.into_iter().flatten().collect();
    batches.extend(rest.chunks(batch_size.max(1)).map(<[usize]>::to_vec));
    batches
}

/// A permutation of `0..len` for an epoch (Fisher and Yates).
pub fn shuffled(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut rng = TransformRng::seed_from_u64(mix(!seed, epoch));
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        order.swap(last, between(&mut rng, 0, last as i64) as usize);
    }
    order
}

/// Mixes a seed and an index into a new seed (the finaliser of SplitMix64).
fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use image::RgbImage;
    use vmamba_types::{ClassList, LabelMap};

    use super::*;
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
            let image = RgbImage::from_fn(20, 20, |x, y| image::Rgb([index as u8, x as u8, y as u8]));
            Ok(SegmentationSample::new(image, LabelMap::new(20, 20, (0..400).map(|i| (i % 2) as u8).collect()), index.to_string()))
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
    fn every_epoch_has_every_sample_once_in_its_own_order() {
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
    fn an_error_takes_the_place_of_its_batch() {
        let results: Vec<_> = loader(3, 0, Some(4)).take(3).collect();
        let errors: Vec<String> = results.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
        assert!(!errors.is_empty() && errors.iter().all(|error| error.contains("broken.png")), "{errors:?}");
    }

    #[test]
    fn detection_batches_do_not_depend_on_the_number_of_workers() {
        use crate::scenes::{SceneConfig, SceneObjects};
        let scenes = SceneObjects::new(SceneConfig { count: 7, height: 40, width: 56, ..SceneConfig::default() }).unwrap();
        let dataset: Arc<dyn DetectionDataset> = Arc::new(scenes);
        let pipeline = DetectionTrainPipeline {
            scales: vec![[100, 50], [100, 60]],
            scale_range: false,
            crop: None,
            flip: 0.5,
            photometric: None,
            normalize: Normalize::default(),
        };
        let batches = |workers: usize, first: u64, count: usize| {
            let config = LoaderConfig { batch_size: 3, seed: 5, workers, ahead: 4 };
            DetectionLoader::new(Arc::clone(&dataset), pipeline.clone(), config, first).take(count).map(Result::unwrap).collect::<Vec<_>>()
        };
        let expected = batches(1, 0, 7);
        assert_eq!(expected.iter().map(|batch| batch.names.len()).collect::<Vec<_>>(), [3, 3, 1, 3, 3, 1, 3]);
        for workers in [0, 2, 5] {
            assert_eq!(batches(workers, 0, 7), expected, "{workers} workers");
        }
        assert_eq!(batches(2, 4, 3), expected[4..]);
        for batch in &expected {
            assert_eq!(batch.images.len(), batch.names.len() * 3 * batch.size[0] * batch.size[1]);
            assert!(batch.size.iter().all(|side| side % 32 == 0));
        }
    }

    #[test]
    fn portrait_and_landscape_meet_in_the_rest_of_an_epoch_only() {
        let portrait: Vec<bool> = (0..23).map(|i| i % 3 == 0).collect();
        let order = shuffled(23, 1, 0);
        let batches = by_shape(&order, &portrait, 4);
        assert_eq!(batches.len(), 23_usize.div_ceil(4));
        let mut all: Vec<usize> = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..23).collect::<Vec<_>>());
        let mixed = batches.iter().filter(|batch| batch.iter().any(|i| portrait[*i]) && batch.iter().any(|i| !portrait[*i])).count();
        assert!(mixed <= 1, "{batches:?}");
    }

    #[test]
    fn prefetch_ends_with_its_range_and_stops_when_it_is_dropped() {
        assert_eq!(Prefetch::new(3..8, 2, 4, |i| i * 10).collect::<Vec<_>>(), [30, 40, 50, 60, 70]);
        assert_eq!(Prefetch::new(0..0, 4, 4, |i| i).count(), 0);
        drop(Prefetch::new(0..u64::MAX, 3, 6, |i| i));
    }

    #[test]
    #[should_panic(expected = "item 5 is broken")]
    fn a_panic_of_a_worker_reaches_the_consumer() {
        let items = Prefetch::new(0..8, 2, 4, |i| {
            assert!(i != 5, "item {i} is broken");
            i
        });
        assert_eq!(items.count(), 8);
    }
}
