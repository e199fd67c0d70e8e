//! Times the data pipeline in images a second: `cargo bench -p vision-datasets`.
//!
//! A JPEG of 640x480 pixels with its label map goes through the transforms of the ADE20K recipe. The steps are timed one by one, and the
//! loader with 1 and 2 workers.

use std::path::PathBuf;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use image::RgbImage;
use rand::SeedableRng;
use vision_datasets::ade20k::{FolderDataset, FolderOptions};
use vision_datasets::image_io::read_rgb;
use vision_datasets::loader::{LoaderConfig, TrainLoader};
use vision_datasets::sample::SegmentationDataset;
use vision_datasets::scenes::{SceneConfig, SceneDataset, scene_classes, write_ade20k_layout};
use vision_datasets::transforms::{TestPipeline, TrainPipeline, TransformRng, resize_bilinear};

fn main() {
    divan::main();
}

const IMAGES: usize = 8;

/// A folder of scenes whose images are JPEGs.
struct Folder {
    root: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        let world = SceneConfig { count: IMAGES, height: 480, width: 640, ..SceneConfig::default() };
        let scenes = SceneDataset::new(world).expect("the configuration is valid");
        write_ade20k_layout(&scenes, root.path(), "training").expect("the folder is writable");
        let folder = Self { root };
        for index in 0..IMAGES {
            let png = folder.png(index);
            image::open(&png).expect("a scene").save(png.with_extension("jpg")).expect("the folder is writable");
            std::fs::remove_file(png).expect("the folder is writable");
        }
        folder
    }

    fn png(&self, index: usize) -> PathBuf {
        self.root.path().join(format!("images/training/scene_{index:06}.png"))
    }

    fn jpeg(&self) -> PathBuf {
        self.png(0).with_extension("jpg")
    }

    fn data(&self) -> FolderDataset {
        FolderDataset::open(self.root.path(), "training", &FolderOptions { reduce_zero_label: true, ..FolderOptions::new(scene_classes()) })
            .expect("the folder was just written")
    }
}

#[divan::bench]
fn decode_jpeg(bencher: Bencher) {
    let folder = Folder::new();
    let path = folder.jpeg();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| read_rgb(&path).expect("a photo"));
}

fn photo() -> RgbImage {
    read_rgb(&Folder::new().jpeg()).expect("a photo")
}

#[divan::bench]
fn resize_to_the_test_size(bencher: Bencher) {
    let photo = photo();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| resize_bilinear(&photo, [512, 683]));
}

/// The bilinear filter of the image crate on the same image, for comparison.
#[divan::bench]
fn resize_to_the_test_size_of_the_image_crate(bencher: Bencher) {
    let photo = photo();
    let filter = image::imageops::FilterType::Triangle;
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| image::imageops::resize(&photo, 683, 512, filter));
}

#[divan::bench]
fn test_pipeline(bencher: Bencher) {
    let (photo, pipeline) = (photo(), TestPipeline::ade20k());
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| pipeline.apply(&photo));
}

#[divan::bench]
fn train_pipeline(bencher: Bencher) {
    let (folder, pipeline) = (Folder::new(), TrainPipeline::ade20k());
    let sample = folder.data().get(0).expect("a sample");
    let mut rng = TransformRng::seed_from_u64(0);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| pipeline.apply(sample.clone(), &mut rng));
}

/// Reading, transforming and batching with worker threads.
#[divan::bench(args = [1, 2], sample_count = 11)]
fn loader(bencher: Bencher, workers: usize) {
    const BATCH: usize = 4;
    let folder = Folder::new();
    let config = LoaderConfig { batch_size: BATCH, seed: 0, workers, ahead: 2 * workers };
    let data: Arc<dyn SegmentationDataset> = Arc::new(folder.data());
    let mut batches = TrainLoader::new(data, TrainPipeline::ade20k(), config, 0);
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| batches.next());
}
